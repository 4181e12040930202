//! The command line: verbs, their options, and who carries them out.

pub mod advice;
pub mod host;
pub mod init;
pub mod privileges;
pub mod progress;
pub mod report;
pub mod restore;
pub mod selector;
pub mod snapshot;
pub mod standalone;
pub mod takeover;
pub mod verify;

use std::future::Future;
use std::path::PathBuf;

use chrono::Utc;
use clap::{Args, Parser, Subcommand};

use self::report::{Failure, Report};
use crate::keys::read_identity_bytes;
use crate::ledger::{JobKind, JobOutcome, Ledger};
use crate::seal::Opener;

/// Keeps PostgreSQL databases restorable: verified, encrypted snapshots, and restores that prove themselves.
#[derive(Debug, Parser)]
#[command(name = "belay", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The settings file; `conf.d/*.toml` beside it are read too
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        env = "BELAY_CONFIG",
        default_value = "/etc/belay/belay.toml"
    )]
    pub config: PathBuf,
    /// One JSON object on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress on standard error
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// No colour, even on a terminal
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create the repository, the keys of this host, and the recovery kit
    Init(init::InitArgs),
    /// Take a snapshot of one, several or all databases
    Snapshot(snapshot::SnapshotArgs),
    /// Read a snapshot again and compare it: stored, readable, or restored into a scratch cluster
    Verify(verify::VerifyArgs),
    /// Restore a snapshot beside what is there, or in place of it
    Restore(restore::RestoreArgs),
}

impl Verb {
    /// The file given with `--identity`, if the verb has such an option.
    pub fn identity_file(&self) -> Option<&std::path::Path> {
        match self {
            Self::Restore(args) => args.identity.as_deref(),
            Self::Verify(args) => args.identity.as_deref(),
            _ => None,
        }
    }

    /// Whether the verb is to do without a settings file.
    pub fn is_standalone(&self) -> bool {
        match self {
            Self::Restore(args) => args.standalone.standalone,
            _ => false,
        }
    }
}

/// Carries out a verb and returns what it has to say.
///
/// # Errors
/// [`Failure`], with the exit code and the hint that go with it.
pub async fn run(cli: Cli, inputs: privileges::Inputs) -> Result<Report, Failure> {
    let global = &cli.global;
    match cli.verb {
        Verb::Init(args) => init::run(global, args, inputs).await,
        Verb::Snapshot(args) => snapshot::run(global, args).await,
        Verb::Verify(args) => verify::run(global, args, inputs).await,
        Verb::Restore(args) => restore::run(global, args, inputs).await,
    }
}

/// Opens with what was given by `--identity`.
fn opener_of(inputs: &privileges::Inputs) -> Result<Option<Opener>, Failure> {
    let Some((name, bytes)) = &inputs.identity else { return Ok(None) };
    let identities = read_identity_bytes(name, bytes).map_err(Failure::of("read the identity"))?;
    Ok(Some(Opener::new(identities)))
}

/// Carries out `work` with a beginning and an end in the ledger.
async fn recorded<T>(
    ledger: &Ledger,
    kind: JobKind,
    database: Option<&str>,
    title: &str,
    subject: impl FnOnce(&T) -> String,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    ledger.close_abandoned(Utc::now()).await.map_err(Failure::of(title))?;
    let id = ledger.begin_job(kind, database, Utc::now()).await.map_err(Failure::of(title))?;
    let done = work.await;
    let (outcome, subject) = match &done {
        Ok(value) => (JobOutcome::Done, Some(subject(value))),
        Err(failure) => (JobOutcome::Failed { error: failure.chain() }, None),
    };
    ledger.end_job(id, &outcome, subject.as_deref(), Utc::now()).await.map_err(Failure::of(title))?;
    done
}
