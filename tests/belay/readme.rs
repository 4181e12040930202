//! README is the runbook: what it tells people to write and to type is what Belay takes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;

use belay::cli::Cli;
use belay::settings::{Environment, Settings};
use clap::Parser as _;

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The fenced blocks of a language, without their fences.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}");
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while lines.any(|line| line == opening) {
        blocks
            .push(lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect());
    }
    blocks
}

/// The command lines that begin with `belay`: the lines of shell blocks, and code within sentences.
fn command_lines(text: &str) -> Vec<String> {
    let in_blocks = blocks(text, "sh").concat().replace("\\\n", " ");
    let prose: String = text.split("```").step_by(2).collect();
    let in_prose = prose.split('`').skip(1).step_by(2);
    let all = in_blocks.lines().chain(in_prose).map(|line| line.split(" #").next().unwrap().trim());
    all.filter(|line| line.starts_with("belay ")).map(str::to_owned).collect()
}

#[test]
fn settings_of_the_readme_are_accepted_as_they_stand() {
    let blocks = blocks(&readme(), "toml");
    let smallest = blocks[0].lines().filter(|line| !line.starts_with('[')).count();
    assert_eq!(smallest, 7, "{}", blocks[0]);
    // What is shown later goes below it.
    let settings = blocks.concat();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("belay.toml");
    fs::write(&file, &settings).unwrap();
    let no_variables: Environment = [("", ""); 0].into_iter().collect();

    let settings = Settings::load_with(&file, &no_variables).unwrap();

    assert_eq!(settings.databases["app"].connection.database, "app");
}

#[test]
fn every_command_of_the_readme_parses() {
    let lines = command_lines(&readme());
    // Names of verbs within sentences, which want arguments.
    let sentence_parts = [
        "belay restore",
        "belay show",
        "belay pin",
        "belay unpin",
        "belay migrate",
        "belay runs",
        "belay runs resolve",
    ];
    let whole: Vec<_> = lines.iter().filter(|line| !sentence_parts.contains(&line.as_str())).collect();
    assert!(whole.len() >= 8, "README shows too few commands to be a runbook: {lines:?}");

    for line in whole {
        assert!(
            !line.contains(['\'', '"', '\\', '$', '|']),
            "{line}: the words of this line are not split as a shell does"
        );
        if let Err(error) = Cli::try_parse_from(line.split_whitespace()) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn verbs_that_the_readme_names_exist() {
    use clap::CommandFactory as _;
    let verbs: Vec<String> =
        Cli::command().get_subcommands().map(|verb| verb.get_name().to_owned()).collect();

    for line in command_lines(&readme()) {
        let verb = line.split_whitespace().nth(1).unwrap_or_default();
        assert!(verbs.iter().any(|known| known == verb), "`{line}`: there is no verb {verb}");
    }
}

#[test]
fn files_that_the_readme_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in readme()
        .split('`')
        .filter(|text| ["src/", "config/", "scripts/"].iter().any(|room| text.starts_with(room)))
    {
        assert!(root.join(path).exists(), "{path}");
    }
}
