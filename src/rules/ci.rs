//! Reports in the forms that pipelines read: JUnit's XML and GitHub's workflow files and commands.
//!
//! Comes in: what a run did, in plain values. Goes out: text to be written or printed. Whatever a
//! name or a message holds stays data, so that an output of a migration commands no pipeline.

mod github;
mod junit;

pub use github::{Annotation, AnnotationKind, StepSummary, github_annotation, github_output, step_summary};
pub use junit::{JUnitCase, JUnitResult, junit};
