//! What GitHub Actions reads: commands in the log, `$GITHUB_OUTPUT`, `$GITHUB_STEP_SUMMARY`.
//!
//! The escapes of commands are those of `@actions/core`; the manual has them in "Workflow commands
//! for GitHub Actions".

use std::time::Duration;

/// How bad what an annotation says is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnotationKind {
    /// `::error`
    Error,
    /// `::warning`
    Warning,
    /// `::notice`
    Notice,
}

/// A remark beside a line of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Annotation<'a> {
    /// How bad it is.
    pub kind: AnnotationKind,
    /// Relative to the checkout; without it the remark stands by the job.
    pub file: Option<&'a str>,
    /// From 1.
    pub line: Option<u32>,
    /// What stands over it.
    pub title: &'a str,
    /// What it says; may have several lines.
    pub message: &'a str,
}

/// Writes a remark as a line of the log.
pub fn github_annotation(annotation: &Annotation<'_>) -> String {
    let kind = match annotation.kind {
        AnnotationKind::Error => "error",
        AnnotationKind::Warning => "warning",
        AnnotationKind::Notice => "notice",
    };
    let file = annotation.file.map(|file| format!("file={}", property(file)));
    let line = annotation.line.map(|line| format!("line={line}"));
    let title = format!("title={}", property(annotation.title));
    let properties: Vec<String> = file.into_iter().chain(line).chain([title]).collect();
    format!("::{kind} {}::{}\n", properties.join(","), data(annotation.message))
}

fn data(text: &str) -> String {
    let is_shape = |c: char| c.is_control() && !matches!(c, '\r' | '\n' | '\t');
    text.replace(is_shape, "\u{fffd}").replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// Writes outputs of a step, to be appended to `$GITHUB_OUTPUT`. Names are identifiers.
pub fn github_output<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    pairs.into_iter().map(|(name, value)| output(name, value)).collect()
}

fn output(name: &str, value: &str) -> String {
    if !value.contains(['\n', '\r']) {
        return format!("{name}={value}\n");
    }
    let mut delimiter = "END".to_owned();
    while value.contains(&delimiter) {
        delimiter.push('_');
    }
    format!("{name}<<{delimiter}\n{value}\n{delimiter}\n")
}

/// What the page of a workflow's run tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepSummary<'a> {
    /// The heading.
    pub title: &'a str,
    /// How it ended, in a sentence.
    pub outcome: &'a str,
    /// Each phase and how long it took, in milliseconds.
    pub phases: &'a [(String, u64)],
    /// Each thing worth knowing and its value.
    pub facts: &'a [(String, String)],
}

/// Writes a summary in Markdown, to be appended to `$GITHUB_STEP_SUMMARY`.
pub fn step_summary(summary: &StepSummary<'_>) -> String {
    let mut text = format!("## {}\n\n{}\n", plain(summary.title), plain(summary.outcome));
    let elapsed = |ms: u64| humantime::format_duration(Duration::from_millis(ms)).to_string();
    let phases: Vec<_> = summary.phases.iter().map(|(phase, ms)| (phase.clone(), elapsed(*ms))).collect();
    for (heads, rows) in [(["Phase", "Elapsed"], phases.as_slice()), (["", ""], summary.facts)] {
        if !rows.is_empty() {
            text += &table(heads, rows);
        }
    }
    text
}

fn table([first, second]: [&str; 2], rows: &[(String, String)]) -> String {
    let rows = rows.iter().map(|(name, value)| format!("| {} | {} |\n", plain(name), plain(value)));
    format!("\n| {first} | {second} |\n|---|---|\n{}", rows.collect::<String>())
}

/// Text in a line of Markdown that is none of it.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.trim().replace("\r\n", "\n").chars() {
        match character {
            '\n' | '\r' => plain.push_str("<br>"),
            '&' => plain.push_str("&amp;"),
            '<' => plain.push_str("&lt;"),
            '>' => plain.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '$' => plain.extend(['\\', character]),
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_is_one_line_whatever_it_says() {
        let annotation = Annotation {
            kind: AnnotationKind::Error,
            file: Some("a:b,c%.py"),
            line: Some(7),
            title: "migration, failed: app",
            message: "100% wrong: a, b\r\n::error::x",
        };
        assert_eq!(
            github_annotation(&annotation),
            "::error file=a%3Ab%2Cc%25.py,line=7,title=migration%2C failed%3A app::\
             100%25 wrong: a, b%0D%0A::error::x\n"
        );
    }

    #[test]
    fn an_annotation_without_a_file_stands_by_the_job() {
        let [warning, notice] = [AnnotationKind::Warning, AnnotationKind::Notice].map(|kind| {
            github_annotation(&Annotation { kind, file: None, line: None, title: "t", message: "m" })
        });
        assert_eq!((warning.as_str(), notice.as_str()), ("::warning title=t::m\n", "::notice title=t::m\n"));
    }

    #[test]
    fn an_output_of_several_lines_ends_where_it_should() {
        assert_eq!(github_output([("run", "x=1"), ("class", "")]), "run=x=1\nclass=\n");
        assert_eq!(github_output([("text", "a\nb")]), "text<<END\na\nb\nEND\n");
        assert_eq!(
            github_output([("text", "a\nEND\nEND_\nname=x")]),
            "text<<END__\na\nEND\nEND_\nname=x\nEND__\n"
        );
        assert_eq!(github_output([("text", "a\rname=x")]), "text<<END\na\rname=x\nEND\n");
    }

    #[test]
    fn a_summary_has_a_table_of_phases_and_one_of_facts() {
        let phases = [("snapshotting".to_owned(), 61_250), ("migrating".to_owned(), 30)];
        let facts =
            [("revision".to_owned(), "a1 | b1".to_owned()), ("error".to_owned(), "<b>\nno `x`".to_owned())];
        let summary = StepSummary {
            title: "Migration of my_app",
            outcome: "It failed; nothing was lost.",
            phases: &phases,
            facts: &facts,
        };
        insta::assert_snapshot!(step_summary(&summary), @r"
        ## Migration of my\_app

        It failed; nothing was lost.

        | Phase | Elapsed |
        |---|---|
        | snapshotting | 1m 1s 250ms |
        | migrating | 30ms |

        |  |  |
        |---|---|
        | revision | a1 \| b1 |
        | error | &lt;b&gt;<br>no \`x\` |
        ");
    }

    #[test]
    fn a_summary_without_rows_has_no_tables() {
        let summary = StepSummary { title: "t", outcome: "o", phases: &[], facts: &[] };
        assert_eq!(step_summary(&summary), "## t\n\no\n");
    }
}
