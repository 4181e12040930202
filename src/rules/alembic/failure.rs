//! What went wrong in a migration, and in which line of which script, from what it printed.
//!
//! Comes in: standard output and error of the command. Goes out: the message of the exception or
//! of Alembic, and the place in a revision script that a traceback leads to.

/// What a failed command says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The last line of the exception with PostgreSQL's detail and hint behind it, or what Alembic
    /// says after `FAILED:`.
    pub message: String,
    /// Where in a revision script; `None` if it failed elsewhere.
    pub place: Option<Place>,
}

/// A line of a revision script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As Python names it, mostly absolute.
    pub file: String,
    /// From 1.
    pub line: u32,
}

const TRACEBACK: &str = "Traceback (most recent call last):";
const FAILED: &str = "FAILED: ";
/// The folder that revision scripts lie in.
const VERSIONS: &str = "versions";
/// How the lines begin that PostgreSQL adds to an error, as drivers print it.
const ADDED: &[&str] = &["LINE ", "DETAIL:", "HINT:", "CONTEXT:", "QUERY:"];

/// Finds the failure in an output: of the last traceback through a revision script, else what
/// Alembic refused, else the last traceback at all.
pub fn failing_place(output: &str) -> Option<Failure> {
    let plain = without_colors(output);
    let lines: Vec<&str> = plain.lines().collect();
    let starts = lines.iter().enumerate().filter(|(_, line)| line.trim_end().ends_with(TRACEBACK));
    let tracebacks = starts.filter_map(|(at, _)| lines.get(at + 1..)).map(traceback);
    let (through_script, others): (Vec<_>, Vec<_>) = tracebacks.partition(|failure| failure.place.is_some());
    let last = |mut failures: Vec<Failure>| failures.pop();
    last(through_script).or_else(|| refusal(&lines)).or_else(|| last(others))
}

/// Reads a traceback from its first frame on.
fn traceback(lines: &[&str]) -> Failure {
    let length = lines.iter().take_while(|line| line.starts_with([' ', '\t']) || line.is_empty()).count();
    let (frames, rest) = lines.split_at(length);
    let place = frames.iter().rev().find_map(|line| frame(line));
    let added = |line: &&&str| ADDED.iter().any(|beginning| line.starts_with(beginning)) || is_caret(line);
    let first = rest.first().map(|line| line.trim_end()).unwrap_or_default();
    let more = rest.iter().skip(1).take_while(added).filter(|line| !is_caret(line));
    let message = more.fold(first.to_owned(), |message, line| message + "\n" + line.trim_end());
    Failure { message, place }
}

fn is_caret(line: &str) -> bool {
    line.trim() == "^"
}

/// Reads `File "…/versions/….py", line N, in …`.
fn frame(line: &str) -> Option<Place> {
    let (file, rest) = line.trim_start().strip_prefix("File \"")?.split_once("\", line ")?;
    let is_script = file.rsplit('/').skip(1).any(|folder| folder == VERSIONS);
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let line = rest.get(..digits)?.parse().ok()?;
    is_script.then(|| Place { file: file.into(), line })
}

/// What Alembic says on refusing a command; it wraps that to the width of a terminal.
fn refusal(lines: &[&str]) -> Option<Failure> {
    let start = lines.iter().rposition(|line| line.trim_start().starts_with(FAILED))?;
    let rest = lines.get(start..)?;
    let first = rest.first()?;
    let indent = first.len() - first.trim_start().len();
    let continues = |line: &&&str| indent > 0 && line.len() - line.trim_start().len() == indent;
    let more = rest.iter().skip(1).take_while(continues).map(|line| line.trim());
    let message = first.trim().strip_prefix(FAILED).unwrap_or_default().to_owned();
    let message = more.fold(message, |message, line| message + " " + line);
    Some(Failure { message, place: None })
}

/// Takes out the sequences that colour a terminal; Python's tracebacks have them from 3.13 on.
fn without_colors(output: &str) -> String {
    let mut plain = String::with_capacity(output.len());
    let mut rest = output;
    while let Some((before, escape)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        let end = escape.find(|c: char| ('@'..='~').contains(&c)).map_or(escape.len(), |end| end + 1);
        rest = escape.get(end..).unwrap_or_default();
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQLALCHEMY: &str = r#"INFO  [alembic.runtime.migration] Running upgrade a1 -> b2, second
Traceback (most recent call last):
  File "/srv/venv/lib/python3.12/site-packages/sqlalchemy/engine/base.py", line 1967, in _exec_single_context
    self.dialect.do_execute(
psycopg2.errors.UniqueViolation: could not create unique index "u"
DETAIL:  Key (name)=(x) is duplicated.


The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/srv/venv/bin/alembic", line 8, in <module>
    sys.exit(main())
             ^^^^^^
  File "/srv/app/migrations/versions/b2_second.py", line 21, in upgrade
    index()
  File "/srv/app/migrations/versions/b2_second.py", line 34, in index
    op.create_index("u", "t", ["name"], unique=True)
  File "/srv/venv/lib/python3.12/site-packages/sqlalchemy/engine/default.py", line 941, in do_execute
    cursor.execute(statement, parameters)
sqlalchemy.exc.IntegrityError: (psycopg2.errors.UniqueViolation) could not create unique index "u"
DETAIL:  Key (name)=(x) is duplicated.

[SQL: CREATE UNIQUE INDEX u ON t (name)]
(Background on this error at: https://sqlalche.me/e/20/gkpj)
"#;

    fn place(file: &str, line: u32) -> Option<Place> {
        Some(Place { file: file.into(), line })
    }

    #[test]
    fn the_last_frame_in_a_revision_script_is_the_place() {
        let failure = failing_place(SQLALCHEMY).unwrap();
        assert_eq!(failure.place, place("/srv/app/migrations/versions/b2_second.py", 34));
        assert_eq!(
            failure.message,
            "sqlalchemy.exc.IntegrityError: (psycopg2.errors.UniqueViolation) \
             could not create unique index \"u\"\nDETAIL:  Key (name)=(x) is duplicated."
        );
    }

    #[test]
    fn the_statement_that_postgresql_quotes_is_kept_without_its_caret() {
        let output = "Traceback (most recent call last):\n  File \"versions/2026/a.py\", line 3, in upgrade\n\
                      sqlalchemy.exc.ProgrammingError: (psycopg2.errors.UndefinedTable) no such table\n\
                      LINE 1: SELECT 1 FROM x\n                      ^\nHINT:  Look.\nunrelated\n";
        let failure = failing_place(output).unwrap();
        assert_eq!(failure.place, place("versions/2026/a.py", 3));
        assert!(failure.message.ends_with("no such table\nLINE 1: SELECT 1 FROM x\nHINT:  Look."));
    }

    #[test]
    fn a_script_that_is_no_python_is_a_place() {
        let output = "Traceback (most recent call last):\n  File \"/x/util.py\", line 9, in load\n    exec()\n  \
                      File \"/app/versions/c.py\", line 20\n    def upgrade(:\n                ^\n\
                      SyntaxError: invalid syntax\n";
        let failure = failing_place(output).unwrap();
        assert_eq!(
            (failure.message.as_str(), failure.place),
            ("SyntaxError: invalid syntax", place("/app/versions/c.py", 20))
        );
    }

    #[test]
    fn colours_are_no_part_of_a_traceback() {
        let output = "Traceback (most recent call last):\n  File \u{1b}[35m\"/app/versions/c.py\"\u{1b}[0m, line \
                      \u{1b}[35m20\u{1b}[0m, in \u{1b}[35mupgrade\u{1b}[0m\n\
                      \u{1b}[1;35mKeyError\u{1b}[0m: \u{1b}[35m'a'\u{1b}[0m\n";
        let failure = failing_place(output).unwrap();
        assert_eq!(
            (failure.message.as_str(), failure.place),
            ("KeyError: 'a'", place("/app/versions/c.py", 20))
        );
    }

    #[test]
    fn what_alembic_refuses_has_no_place() {
        let said = |output| failing_place(output).map(|failure| (failure.message, failure.place));
        let once = "Can't locate revision identified by 'zz'".to_owned();
        assert_eq!(said("FAILED: Can't locate revision identified by 'zz'\n"), Some((once.clone(), None)));
        let wrapped =
            "ERROR [alembic.util.messaging] x\n  FAILED: Can't locate revision identified\n  by 'zz'\nbye\n";
        assert_eq!(said(wrapped), Some((once, None)));
    }

    #[test]
    fn a_traceback_elsewhere_gives_its_message_alone() {
        let output = "Traceback (most recent call last):\n  File \"/app/migrations/env.py\", line 7, in <module>\n\
                      sqlalchemy.exc.OperationalError: connection refused\n";
        let failure = failing_place(output).unwrap();
        assert_eq!(
            failure,
            Failure { message: "sqlalchemy.exc.OperationalError: connection refused".into(), place: None }
        );
        assert_eq!(failing_place("INFO  [alembic.runtime.migration] Running upgrade  -> a1\n"), None);
    }
}
