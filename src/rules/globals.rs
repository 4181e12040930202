//! Takes the SQL of `pg_dumpall --globals-only` apart, so that a restore runs only what is missing.
//!
//! The text is never given to psql: a name with a newline and a backslash would be a command to
//! it. It is split into statements here, and those that are known are run one by one.

use std::collections::BTreeSet;

/// One statement of a globals dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalStatement {
    /// What it is about.
    pub subject: Subject,
    /// Its text, without the semicolon.
    pub sql: String,
}

/// What a statement of a globals dump is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// `CREATE ROLE`
    NewRole(String),
    /// Attributes, settings, comment or label of a role.
    Role(String),
    /// `GRANT role TO member`
    Membership {
        /// The role that is granted.
        role: String,
        /// Who becomes its member.
        member: String,
    },
    /// Tablespaces, session settings, and whatever else.
    Other,
}

/// Splits the text of a globals dump into its statements.
pub fn statements(text: &str) -> Vec<GlobalStatement> {
    split(text).into_iter().map(|sql| GlobalStatement { subject: subject(&sql), sql }).collect()
}

/// The statements that make the roles in `missing`, with memberships among `missing` and
/// `present` that involve a missing one. In the order of the dump.
pub fn statements_for_missing<'a>(
    all: &'a [GlobalStatement],
    missing: &BTreeSet<String>,
    present: &BTreeSet<String>,
) -> Vec<&'a GlobalStatement> {
    let exists = |name: &String| missing.contains(name) || present.contains(name);
    let is_wanted = |statement: &&GlobalStatement| match &statement.subject {
        Subject::NewRole(name) | Subject::Role(name) => missing.contains(name),
        Subject::Membership { role, member } => {
            (missing.contains(role) || missing.contains(member)) && exists(role) && exists(member)
        }
        Subject::Other => false,
    };
    all.iter().filter(is_wanted).collect()
}

fn split(text: &str) -> Vec<String> {
    let (mut found, mut current) = (Vec::new(), String::new());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let at_line_start = current.trim().is_empty();
        let length = match character {
            '-' if rest.starts_with("--") => line_length(rest),
            '\\' if at_line_start => line_length(rest),
            '\'' | '"' => {
                let is_escaping = character == '\'' && current.ends_with(['E', 'e']);
                quoted_length(rest, character, is_escaping)
            }
            other => other.len_utf8(),
        };
        let (token, tail) = rest.split_at(length.min(rest.len()));
        rest = tail;
        if token == ";" {
            let statement = std::mem::take(&mut current).trim().to_owned();
            found.push(statement);
        } else if !(token.starts_with("--") || at_line_start && token.starts_with('\\')) {
            current.push_str(token);
        }
    }
    found.retain(|statement| !statement.is_empty());
    found
}

fn line_length(text: &str) -> usize {
    text.find('\n').map_or(text.len(), |end| end + 1)
}

/// The length of the quoted token that `text` starts with, both quotes included.
fn quoted_length(text: &str, quote: char, is_escaping: bool) -> usize {
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if is_escaping && character == '\\' {
            characters.next();
        } else if character == quote {
            match characters.peek() {
                Some((_, next)) if *next == quote => {
                    characters.next();
                }
                _ => return at + 1,
            }
        }
    }
    text.len()
}

fn subject(sql: &str) -> Subject {
    let words = words(sql);
    let word = |index: usize| words.get(index).map(String::as_str).unwrap_or_default();
    let name = |index: usize| unquoted(word(index));
    match (word(0), word(1), word(2)) {
        ("CREATE", "ROLE", _) => Subject::NewRole(name(2)),
        ("ALTER", "ROLE", _) => Subject::Role(name(2)),
        ("COMMENT", "ON", "ROLE") => Subject::Role(name(3)),
        ("SECURITY", "LABEL", "FOR") if word(4) == "ON" && word(5) == "ROLE" => Subject::Role(name(6)),
        ("GRANT", _, "TO") => Subject::Membership { role: name(1), member: name(3) },
        _ => Subject::Other,
    }
}

/// The first words of a statement; a quoted name is one word.
fn words(sql: &str) -> Vec<String> {
    let (mut found, mut rest) = (Vec::new(), sql.trim_start());
    while !rest.is_empty() && found.len() < 8 {
        let length = if rest.starts_with('"') {
            quoted_length(rest, '"', false)
        } else {
            rest.find(char::is_whitespace).unwrap_or(rest.len())
        };
        let (word, tail) = rest.split_at(length);
        found.push(word.to_owned());
        rest = tail.trim_start();
    }
    found
}

fn unquoted(word: &str) -> String {
    match word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = r#"
\restrict abc
SET client_encoding = 'UTF8';
-- Roles; with a semicolon
CREATE ROLE app;
ALTER ROLE app WITH NOSUPERUSER PASSWORD 'SCRAM-SHA-256$4096:a;b''c';
CREATE ROLE "Odd;
\! touch /tmp/x
 ""name""";
COMMENT ON ROLE app IS E'back\\slash '' ; quote';
ALTER ROLE app SET search_path TO 'a', 'b';
GRANT app TO "Odd;
\! touch /tmp/x
 ""name""" WITH ADMIN OPTION GRANTED BY postgres;
CREATE TABLESPACE fast OWNER app LOCATION '/fast';
"#;

    #[test]
    fn statements_end_at_semicolons_outside_quotes() {
        let odd = "Odd;\n\\! touch /tmp/x\n \"name\"".to_owned();
        let subjects: Vec<_> = statements(DUMP).into_iter().map(|statement| statement.subject).collect();
        let app = || "app".to_owned();
        assert_eq!(
            subjects,
            [
                Subject::Other,
                Subject::NewRole(app()),
                Subject::Role(app()),
                Subject::NewRole(odd.clone()),
                Subject::Role(app()),
                Subject::Role(app()),
                Subject::Membership { role: app(), member: odd },
                Subject::Other,
            ]
        );
    }

    #[test]
    fn only_what_is_missing_is_made() {
        let all = statements(DUMP);
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let wanted = statements_for_missing(&all, &set(&["app"]), &set(&["postgres"]));
        assert_eq!(wanted.len(), 4, "the membership needs a role that does not exist");
        assert!(statements_for_missing(&all, &set(&[]), &set(&["app"])).is_empty());
    }
}
