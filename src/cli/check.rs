//! `belay check`: tries for real everything that a run would need, before the run does.

mod bucket;
mod database;
mod gate;
mod host;
mod physical;
mod points;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::Global;
use super::host::{key_paths, ledger_of, load_settings};
use super::report::{ExitCode, Failure, Report};
use crate::keys::HostKeys;
use crate::settings::DatabaseScope;

/// Options of `belay check`.
#[derive(Debug, Args)]
pub struct CheckArgs {}

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Problem,
}

/// What was found out about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    subject: String,
    verdict: Verdict,
    message: String,
    hint: Option<String>,
}

/// Everything found so far, in the order in which it was tried.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, subject: &str, message: impl Into<String>) {
        self.add(subject, Verdict::Ok, message.into(), None);
    }

    fn warning(&mut self, subject: &str, message: impl Into<String>, hint: &str) {
        self.add(subject, Verdict::Warning, message.into(), Some(hint.into()));
    }

    fn problem(&mut self, subject: &str, message: impl Into<String>, hint: &str) {
        self.add(subject, Verdict::Problem, message.into(), Some(hint.into()));
    }

    fn failure(&mut self, subject: &str, failure: Failure) {
        self.add(subject, Verdict::Problem, failure.chain(), failure.hint);
    }

    /// The value, or a problem of `subject`.
    fn take<T>(&mut self, subject: &str, result: Result<T, Failure>) -> Option<T> {
        result.map_err(|failure| self.failure(subject, failure)).ok()
    }

    fn add(&mut self, subject: &str, verdict: Verdict, message: String, hint: Option<String>) {
        self.0.push(Finding { subject: subject.into(), verdict, message, hint });
    }
}

/// Tries everything; one thing that fails does not keep the next from being tried.
///
/// # Errors
/// [`Failure`] when the settings cannot be read; everything else is a report, with
/// [`ExitCode::Problem`] when a run would fail.
pub async fn run(global: &Global, _args: CheckArgs) -> Result<Report, Failure> {
    let settings = load_settings(&global.config)?;
    let mut findings = Findings::default();
    findings.ok("settings", format!("{} is read", global.config.display()));
    host::check_state(&settings.state.directory, &mut findings);
    let keys = HostKeys::load(&key_paths(&settings)).map_err(Failure::of("open the keys"));
    let keys = findings.take("keys", keys);
    let mut repository = None;
    if let Some(keys) = &keys {
        host::check_keys(keys, &mut findings);
        repository = host::check_repository(&settings, keys, &mut findings).await;
    }
    let is_asked = settings.cluster.databases == DatabaseScope::All;
    let ledger = if is_asked { findings.take("ledger", ledger_of(&settings).await) } else { None };
    let listing = repository.as_ref().and_then(|(_, listing)| listing.as_ref());
    database::check_all(&settings, (ledger.as_ref(), listing), &mut findings).await;
    gate::check_fences(&settings.gate, &mut findings);
    if settings.cluster.point_in_time {
        points::check(&settings, repository.as_ref().map(|(catalog, _)| catalog), &mut findings).await;
    }
    Ok(report(&findings.0))
}

fn report(findings: &[Finding]) -> Report {
    let mut text = String::new();
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Problem => "problem",
        };
        text.push_str(&format!("{verdict:<9}{}: {}\n", finding.subject, finding.message));
        text.extend(finding.hint.iter().map(|hint| format!("         hint: {hint}\n")));
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (problems, warnings) = (count(Verdict::Problem), count(Verdict::Warning));
    text.push_str(&match problems {
        0 => format!("a run has what it needs; warnings: {warnings}\n"),
        _ => format!("problems: {problems}, warnings: {warnings}\n"),
    });
    let report = Report::new("check", text, &json!({ "ok": problems == 0, "findings": findings }));
    if problems == 0 { report } else { report.ending(ExitCode::Problem) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_no_failure_and_a_problem_is() {
        let mut findings = Findings::default();
        findings.ok("settings", "read");
        findings.warning("keys", "one recipient", "add another");
        assert_eq!(report(&findings.0).code, ExitCode::Done);
        findings.problem("disk", "full", "make room");
        let report = report(&findings.0);
        assert_eq!(report.code, ExitCode::Problem);
        assert!(
            report
                .text
                .ends_with("problem  disk: full\n         hint: make room\nproblems: 1, warnings: 1\n")
        );
    }
}
