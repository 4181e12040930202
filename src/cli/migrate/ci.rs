//! Tells a run to the systems that run pipelines: a JUnit file, and GitHub's annotations, step
//! summary and outputs.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::report::{RunReport, code_of};
use crate::cli::report::{ExitCode, print_notice};
use crate::rules::alembic::failing_place;
use crate::rules::ci::{
    Annotation, AnnotationKind, JUnitCase, JUnitResult, StepSummary, github_annotation, github_output, junit,
    step_summary,
};
use crate::rules::classify::Class;
use crate::rules::gate::{Phase, Verdict};
use crate::settings;

/// Writes the run as a JUnit suite: a case for each phase, one for each check, and one for each
/// database where there are several. A file that cannot
/// be written is a notice: the run is over, and its exit code is not to be lost.
pub fn write_junit(path: &Path, told: &RunReport) {
    let last = told.phases().len().saturating_sub(1);
    let is_bad = told.code() != ExitCode::Done;
    let phases = told.phases().into_iter().enumerate().map(|(at, (phase, elapsed_ms))| JUnitCase {
        name: phase.to_string(),
        elapsed_ms,
        result: if is_bad && at == last {
            JUnitResult::Failed { message: told.sentence(), text: told.text() }
        } else {
            JUnitResult::Passed
        },
    });
    let checks = told.facts.run.checks.iter().map(|check| JUnitCase {
        name: check
            .database
            .iter()
            .fold(format!("check {}", check.name), |name, of| format!("{name} of {of}")),
        elapsed_ms: 0,
        result: if check.is_ok {
            JUnitResult::Passed
        } else {
            JUnitResult::Failed {
                message: format!("{} was expected", check.expected),
                text: check.after.clone(),
            }
        },
    });
    let databases = told.of_each().into_iter().map(|of| JUnitCase {
        name: format!("database {}", of.section),
        elapsed_ms: 0,
        result: if of.is_well {
            JUnitResult::Passed
        } else {
            JUnitResult::Failed { message: of.line, text: told.sentence() }
        },
    });
    let cases: Vec<JUnitCase> = phases.chain(checks).chain(databases).collect();
    let written =
        std::fs::write(path, junit(&format!("belay migrate {}", told.run.named_databases()), &cases));
    if let Err(error) = written {
        print_notice(&format!("the JUnit report {} is not written: {error}", path.display()));
    }
}

/// Tells the run to GitHub Actions, when it is they who run us. What cannot be told is a notice: the
/// run is over, and its exit code is not to be lost.
pub fn tell_github(told: &RunReport) {
    if settings::variable("GITHUB_ACTIONS").as_deref() != Some("true") {
        return;
    }
    annotate(told);
    let files = [("GITHUB_STEP_SUMMARY", summary(told)), ("GITHUB_OUTPUT", outputs(told))];
    for (variable, text) in files {
        let Some(path) = settings::variable(variable).map(PathBuf::from) else { continue };
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(&path);
        if let Err(error) = opened.and_then(|mut file| file.write_all(text.as_bytes())) {
            print_notice(&format!("{variable} {} is not written: {error}", path.display()));
        }
    }
}

fn annotate(told: &RunReport) {
    let Some(verdict) = told.verdict().filter(|verdict| code_of(*verdict) != ExitCode::Done) else { return };
    let failure = failing_place(&told.run.output);
    let place = failure.as_ref().and_then(|failure| failure.place.as_ref());
    let kind =
        if verdict == Verdict::AppliedWithError { AnnotationKind::Warning } else { AnnotationKind::Error };
    let message = match &failure {
        Some(failure) => format!("{}: {}", told.sentence(), failure.message),
        None => told.sentence(),
    };
    let annotation = Annotation {
        kind,
        file: place.map(|place| place.file.as_str()),
        line: place.map(|place| place.line),
        title: "belay migrate",
        message: &message,
    };
    let _ = writeln!(std::io::stderr().lock(), "{}", github_annotation(&annotation));
}

fn summary(told: &RunReport) -> String {
    let phases: Vec<(String, u64)> =
        told.phases().into_iter().map(|(phase, elapsed_ms)| (phase.to_string(), elapsed_ms)).collect();
    let reasons = told.facts.run.reasons.iter().map(|reason| ("why".to_owned(), reason.clone()));
    let databases = told.of_each().into_iter().map(|of| (format!("database {}", of.section), of.line));
    let facts: Vec<(String, String)> = databases.chain(reasons).collect();
    step_summary(&StepSummary {
        title: &format!("belay migrate {}", told.run.named_databases()),
        outcome: &told.sentence(),
        phases: &phases,
        facts: &facts,
    })
}

fn outputs(told: &RunReport) -> String {
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    let pairs = [
        ("run", told.run.id.clone()),
        ("outcome", text(told.verdict().map(Verdict::as_str))),
        ("class", text(told.facts.run.class.map(Class::as_str))),
        ("snapshot", text(told.first().snapshot.as_ref().map(|snapshot| snapshot.id.as_str()))),
        ("restored", told.is_restored().to_string()),
        ("held", (told.run.position.phase == Phase::Held).to_string()),
    ];
    github_output(pairs.iter().map(|(name, value)| (*name, value.as_str())))
}
