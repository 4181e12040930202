//! Refuses an import that goes up a level, so that the plan in `src/lib.rs` stays true.
//!
//! A room is a file of `src/` with the folder of its name. A room may name rooms of a lower level
//! and itself. `rules` decides and never does, so it may not even name what could do.

#![allow(clippy::indexing_slicing, reason = "a wrong index fails the test, as it should")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const LEVELS: &[(&str, u32)] = &[
    ("main", 9),
    ("daemon", 8),
    ("http", 7),
    ("cli", 6),
    ("jobs", 5),
    ("catalog", 4),
    ("fence", 4),
    ("seal", 3),
    ("keys", 3),
    ("store", 3),
    ("postgres", 3),
    ("ledger", 3),
    ("command", 3),
    ("checkout", 3),
    ("remote", 3),
    ("settings", 2),
    ("tether", 2),
    ("rules", 0),
];

/// What `rules` may not name, as the path is written in code.
const DEEDS: &[&str] = &[
    "tokio",
    "tracing",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "Instant::now",
    "Local::now",
    "SystemTime::now",
    "Utc::now",
];

#[test]
fn no_file_names_a_room_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    assert!(files.len() > 3, "{} holds the program", root.display());
    let faults: Vec<_> = files
        .iter()
        .flat_map(|path| {
            let source = fs::read_to_string(path).expect("source files are readable text");
            faults(path.strip_prefix(&root).expect("every file is below src"), &source)
        })
        .collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("source folders are readable") {
        let path = entry.expect("source folders are readable").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn level(room: &str) -> Option<u32> {
    LEVELS.iter().find(|(name, _)| *name == room).map(|(_, level)| *level)
}

/// Says what is wrong in the file at `path` below `src`.
fn faults(path: &Path, source: &str) -> Vec<String> {
    let module = module_of(path);
    let names = Names::of(source, &module);
    let shown = path.display();
    // The root declares the rooms and has no level of its own.
    let Some(room) = module.first() else {
        let unknown = names.modules.iter().filter(|name| level(name).is_none());
        return unknown.map(|name| format!("{shown}: room `{name}` is not in the table of levels")).collect();
    };
    let Some(own) = level(room) else {
        return vec![format!("{shown}: room `{room}` is not in the table of levels")];
    };
    let mut faults: Vec<_> = names
        .rooms()
        .into_iter()
        .filter(|other| other != room)
        .filter_map(|other| match level(&other) {
            None => Some(format!("{shown}: `crate::{other}` is no room of the table of levels")),
            Some(theirs) if theirs >= own => {
                Some(format!("{shown}: `{room}` (level {own}) names `{other}` (level {theirs})"))
            }
            Some(_) => None,
        })
        .collect();
    if room == "rules" {
        let named = DEEDS.iter().filter(|deed| names.mention(deed));
        faults.extend(named.map(|deed| format!("{shown}: `rules` names `{deed}`, but it only decides")));
    }
    faults
}

/// The module that the file at `path` below `src` is; empty for the root.
fn module_of(path: &Path) -> Vec<String> {
    let parts: Vec<_> =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    match parts.as_slice() {
        [root] if root == "lib" => Vec::new(),
        [parents @ .., last] if last == "mod" => parents.to_vec(),
        _ => parts,
    }
}

/// Every path that a file names, with groups of `use` written out.
struct Names {
    paths: Vec<Vec<String>>,
    /// Modules that the file declares without a body.
    modules: Vec<String>,
}

impl Names {
    fn of(source: &str, file_module: &[String]) -> Self {
        let tokens = tokens(source);
        let mut names = Self { paths: Vec::new(), modules: Vec::new() };
        let mut module = file_module.to_vec();
        // For each open brace, whether it opened an inline module.
        let mut braces = Vec::new();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let next = |ahead: usize| tokens.get(at + ahead).map(String::as_str);
            match (token.as_str(), next(1), next(2)) {
                ("mod", Some(name), Some("{")) => {
                    module.push(name.into());
                    braces.push(true);
                    at += 3;
                }
                ("mod", Some(name), Some(";")) => {
                    names.modules.push(name.into());
                    at += 3;
                }
                ("{", ..) => {
                    braces.push(false);
                    at += 1;
                }
                ("}", ..) => {
                    if braces.pop() == Some(true) {
                        module.pop();
                    }
                    at += 1;
                }
                (word, ..) if is_word(word) => {
                    let mut found = Vec::new();
                    at = read_path(&tokens, at, Vec::new(), &mut found);
                    names.paths.extend(found.into_iter().map(|path| resolve(path, &module)));
                }
                _ => at += 1,
            }
        }
        names
    }

    fn rooms(&self) -> BTreeSet<String> {
        let own = |path: &&Vec<String>| path.len() > 1 && ["crate", "belay"].contains(&path[0].as_str());
        self.paths.iter().filter(own).map(|path| path[1].clone()).filter(|name| name != "self").collect()
    }

    fn mention(&self, written: &str) -> bool {
        let wanted: Vec<_> = written.split("::").collect();
        self.paths.iter().any(|path| path.windows(wanted.len()).any(|part| part == wanted.as_slice()))
    }
}

/// Turns leading `super`s into a path from `crate`.
fn resolve(path: Vec<String>, module: &[String]) -> Vec<String> {
    let start = usize::from(path[0] == "self");
    let ups = path[start..].iter().take_while(|part| *part == "super").count();
    if ups == 0 {
        return path;
    }
    let parent = &module[..module.len().saturating_sub(ups)];
    ["crate".to_owned()].iter().chain(parent).chain(&path[start + ups..]).cloned().collect()
}

/// Reads the path that begins at `at`, each branch of a group by itself; returns where it ends.
fn read_path(tokens: &[String], at: usize, mut path: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    path.push(tokens[at].clone());
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token == text);
    if !is(at + 1, "::") {
        found.push(path);
        return at + 1;
    }
    if !is(at + 2, "{") {
        if tokens.get(at + 2).is_some_and(|token| is_word(token) || token == "*") {
            return read_path(tokens, at + 2, path, found);
        }
        found.push(path);
        return at + 2;
    }
    let mut at = at + 3;
    while at < tokens.len() && !is(at, "}") {
        if is(at, "as") {
            at += 2;
        } else if is_word(&tokens[at]) || is(at, "*") {
            at = read_path(tokens, at, path.clone(), found);
        } else {
            at += 1;
        }
    }
    at + 1
}

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphanumeric() || first == '_')
}

/// Cuts `source` into words and marks, without comments and without what literals hold.
fn tokens(source: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = if let Some(length) = ignored(rest) {
            length
        } else if is_word(rest) {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            // `r#type` is the word `type`.
            let is_raw = &rest[..length] == "r" && rest[length..].starts_with('#');
            if !is_raw {
                tokens.push(rest[..length].to_owned());
            }
            length
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            tokens.push(rest[..length].to_owned());
            length
        };
        rest = &rest[length..];
        if tokens.last().is_some_and(|token| token == "#") && is_word(rest) {
            tokens.pop();
        }
    }
    tokens
}

/// The length of the white space, comment or literal that `text` begins with.
fn ignored(text: &str) -> Option<usize> {
    let after = |end: Option<usize>, length: usize| Some(end.map_or(text.len(), |end| end + length));
    if text.starts_with(char::is_whitespace) {
        return Some(text.len() - text.trim_start().len());
    }
    if text.starts_with("//") {
        return after(text.find('\n'), 1);
    }
    if text.starts_with("/*") {
        return Some(block_comment(text));
    }
    let literal = text.trim_start_matches(['b', 'c']);
    let prefix = text.len() - literal.len();
    if prefix <= 1 && literal.starts_with('"') {
        return Some(prefix + quoted(literal, '"'));
    }
    if prefix <= 1 && literal.starts_with('r') {
        let hashes = literal[1..].len() - literal[1..].trim_start_matches('#').len();
        if literal[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = prefix + hashes + 2;
            return after(text[start..].find(&end).map(|at| at + start), end.len());
        }
    }
    // `'a` is a lifetime, `'a'` and `'\n'` are characters.
    let mut inside = literal.strip_prefix('\'')?.chars();
    let is_character = inside.next() == Some('\\') || inside.next() == Some('\'');
    if is_character { Some(prefix + quoted(literal, '\'')) } else { Some(prefix + 1) }
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let here = &text.as_bytes()[at..];
        match here {
            [b'/', b'*', ..] => depth += 1,
            [b'*', b'/', ..] => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of a literal that begins and ends with `mark`.
fn quoted(text: &str, mark: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if !is_escaped && c == mark {
            return at + 1;
        }
        is_escaped = !is_escaped && c == '\\';
    }
    text.len()
}

fn faults_of(path: &str, source: &str) -> Vec<String> {
    faults(Path::new(path), source)
}

#[test]
fn an_upward_import_is_refused() {
    let faults = faults_of("store/local.rs", "use crate::rules::layout;\nuse crate::jobs::verify;\n");
    assert_eq!(faults, ["store/local.rs: `store` (level 3) names `jobs` (level 5)"]);
}

#[test]
fn downward_imports_and_the_own_room_are_allowed() {
    let source = "use crate::store::Store; use crate::{settings, rules::{layout, digest}}; use super::Other;";
    assert_eq!(faults_of("store/local.rs", source), Vec::<String>::new());
}

#[test]
fn another_room_of_the_same_level_is_refused() {
    let faults = faults_of("store.rs", "fn f() { crate::seal::open() }");
    assert_eq!(faults, ["store.rs: `store` (level 3) names `seal` (level 3)"]);
}

#[test]
fn a_room_in_a_group_is_found() {
    for source in [
        "use crate::{rules::{layout, digest}, cli};",
        "use crate::{\n    rules::*,\n    cli::{self, report},\n};",
        "use crate::{cli as edge, rules};",
        "use crate :: cli;",
        "pub(in crate::cli) fn f() {}",
        "macro_rules! m { () => { $crate::cli::f() } }",
        "fn f<'a>(c: char, d: &'a str) { if c == '\"' { crate::cli::f() } }",
        "const A: &str = r#\"a\"b\"#; use crate::r#cli;",
        "const B: &[u8] = b\"\\\"\"; const C: char = '\\''; use crate::cli;",
    ] {
        assert_eq!(faults_of("jobs/verify.rs", source).len(), 1, "{source}");
    }
}

#[test]
fn a_room_reached_by_super_is_found() {
    let upward = |path, source| faults_of(path, source).len();
    assert_eq!(upward("rules.rs", "use super::jobs;"), 1);
    assert_eq!(upward("rules/layout.rs", "use super::super::{jobs, rules};"), 1);
    assert_eq!(upward("rules/layout.rs", "use self::super::super::jobs;"), 1);
    assert_eq!(upward("rules.rs", "mod tests { fn f() {} use super::super::jobs; }"), 1);
    assert_eq!(upward("rules.rs", "mod tests { use super::jobs; } fn f() {}"), 0);
}

#[test]
fn words_in_comments_and_literals_do_not_count() {
    let source = r##"
        //! See [`crate::cli`].
        /* crate::cli /* crate::jobs */ crate::cli */
        const A: &str = "crate::cli \" crate::cli";
        const B: &str = r#"crate::cli"#;
    "##;
    assert_eq!(faults_of("rules/layout.rs", source), Vec::<String>::new());
}

#[test]
fn a_room_that_is_not_in_the_table_is_refused() {
    assert_eq!(faults_of("lib.rs", "pub mod rules; pub mod misc;").len(), 1);
    assert_eq!(faults_of("misc/mod.rs", "").len(), 1);
    assert_eq!(faults_of("cli.rs", "use crate::misc::f;").len(), 1);
    assert_eq!(faults_of("cli.rs", "use crate::*;").len(), 1);
    assert_eq!(faults_of("main.rs", "fn main() { belay::misc::f(); belay::cli::f() }").len(), 1);
}

#[test]
fn rules_that_could_act_are_refused() {
    for source in [
        "use tokio::fs;",
        "use std::{fmt, fs};",
        "use std::{collections::BTreeMap, env::var};",
        "fn f() { let _ = chrono::Utc::now(); }",
        "fn f() { tracing::info!(\"x\"); }",
        "use std::net::IpAddr;",
        "fn f() { std::time::SystemTime::now(); }",
    ] {
        assert_eq!(faults_of("rules/layout.rs", source).len(), 1, "{source}");
        assert_eq!(faults_of("settings.rs", source), Vec::<String>::new(), "{source}");
    }
    assert_eq!(faults_of("rules.rs", "use std::fmt; fn now() {} // Utc::now"), Vec::<String>::new());
}
