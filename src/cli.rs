//! The command line: verbs, their options, and who carries them out.

pub mod advice;
pub mod audit;
pub mod base_backup;
pub mod check;
pub mod clock;
pub mod gate;
pub mod host;
pub mod init;
pub mod key;
pub mod list;
pub mod manual;
pub mod migrate;
pub mod pin;
pub mod privileges;
pub mod progress;
pub mod recover;
pub mod remote;
pub mod report;
pub mod repository;
pub mod restore;
pub mod retain;
pub mod runs;
pub mod selector;
pub mod show;
pub mod snapshot;
pub mod standalone;
pub mod status;
pub mod table;
pub mod takeover;
pub mod token;
pub mod verify;
pub mod wal;
pub mod windows;

use std::future::Future;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tracing::Instrument as _;

use self::report::{Failure, Report};
use crate::jobs::migrate::Stop;
use crate::keys::read_identity_bytes;
use crate::ledger::{JobKind, JobOutcome, Ledger};
use crate::seal::Opener;

/// Keeps PostgreSQL databases restorable: verified, encrypted snapshots, and restores that prove themselves.
#[derive(Debug, Parser)]
#[command(name = "belay", version, max_term_width = 100, arg_required_else_help = true, after_help = report::exit_codes_text())]
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
    /// Try for real everything that a run would need
    Check(check::CheckArgs),
    /// Say what is fresh, verified and failing, on one screen
    Status(status::StatusArgs),
    /// Take a snapshot of one, several or all databases
    Snapshot(snapshot::SnapshotArgs),
    /// List snapshots, what is proven of them, and how long they stay
    List(list::ListArgs),
    /// Show everything that is known of one snapshot
    Show(show::ShowArgs),
    /// Read a snapshot again and compare it: stored, readable, or restored into a scratch cluster;
    /// or base backups and log
    Verify(verify::VerifyArgs),
    /// Restore a snapshot beside what is there, or in place of it
    Restore(restore::RestoreArgs),
    /// Make a base backup of the cluster, from which any later moment is reached with the log
    BaseBackup(base_backup::BaseBackupArgs),
    /// Receive the write-ahead log of the cluster into the repository, or hand it over file by file
    #[command(subcommand)]
    Wal(wal::WalVerb),
    /// Recover the whole cluster as it was at a moment, into an empty directory
    Recover(recover::RecoverArgs),
    /// Remove what the policy does not keep: old snapshots, unneeded chunks, leftovers
    Retain(retain::RetainArgs),
    /// Run a migration behind a verified snapshot; put the database back if it fails
    Migrate(migrate::MigrateArgs),
    /// List and show migrations, and decide about one that is held
    #[command(subcommand)]
    Runs(runs::RunsVerb),
    /// Open, keep and close a gate of a daemon elsewhere, call by call
    #[command(subcommand)]
    Gate(remote::gate::GateVerb),
    /// Run as a service: snapshots, verifications and retention on schedule
    Serve(ServeArgs),
    /// Keep a snapshot from retention
    Pin(pin::PinArgs),
    /// Let retention have a snapshot again
    Unpin(pin::UnpinArgs),
    /// List keys, and prove that they open what they should
    #[command(subcommand)]
    Key(key::KeyVerb),
    /// Show, verify and export the log of what happened and at whose hand
    #[command(subcommand)]
    Audit(audit::AuditVerb),
    /// Give, list and revoke tokens for the HTTP interface of the service
    #[command(subcommand)]
    Token(token::TokenVerb),
    /// Print the completions of a shell
    Completions(manual::CompletionsArgs),
    /// Print the manual, or write its pages into a directory
    Man(manual::ManArgs),
}

/// Options of `belay serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {}

impl Verb {
    /// Whether the verb needs neither settings nor the cluster's user.
    pub fn needs_no_host(&self) -> bool {
        match self {
            Self::Completions(_) | Self::Man(_) | Self::Gate(_) => true,
            Self::Migrate(args) => args.server.server.is_some(),
            _ => false,
        }
    }

    /// Whether the verb itself comes to an end when it is told to stop; the others are dropped.
    pub fn stops_by_itself(&self) -> bool {
        let receives = matches!(self, Self::Wal(wal::WalVerb::Receive(_)));
        receives || matches!(self, Self::Migrate(_) | Self::Gate(_) | Self::Serve(_))
    }

    /// The code for whatever goes wrong, where the caller would take another for an answer.
    pub fn failure_code(&self) -> Option<report::ExitCode> {
        let fetches = matches!(self, Self::Wal(wal::WalVerb::Fetch(_)));
        fetches.then_some(report::ExitCode::StopRecovery)
    }

    /// The file given with `--identity`, if the verb has such an option.
    pub fn identity_file(&self) -> Option<&std::path::Path> {
        match self {
            Self::Restore(args) => args.identity.as_deref(),
            Self::Verify(args) => args.identity.as_deref(),
            Self::Recover(args) => args.identity.as_deref(),
            Self::Key(key::KeyVerb::Drill(args)) => args.identity.as_deref(),
            _ => None,
        }
    }

    /// Whether the verb is to do without a settings file.
    pub fn is_standalone(&self) -> bool {
        match self {
            Self::Restore(args) => args.standalone.standalone,
            Self::Recover(args) => args.standalone.standalone,
            _ => false,
        }
    }
}

/// Carries out a verb and returns what it has to say; `stop` is for those that end by themselves,
/// and `serve` is the daemon, which itself does what these verbs do.
///
/// # Errors
/// [`Failure`], with the exit code and the hint that go with it.
pub async fn run<D>(
    cli: Cli,
    inputs: privileges::Inputs,
    stop: Stop,
    serve: impl FnOnce(Global, Stop) -> D,
) -> Result<Report, Failure>
where
    D: Future<Output = Result<Report, Failure>>,
{
    let global = &cli.global;
    // Each verb's future lies on the heap: together they are too much for a stack.
    match cli.verb {
        Verb::Init(args) => Box::pin(init::run(global, args, inputs)).await,
        Verb::Check(args) => Box::pin(check::run(global, args)).await,
        Verb::Status(args) => Box::pin(status::run(global, args)).await,
        Verb::Snapshot(args) => Box::pin(snapshot::run(global, args)).await,
        Verb::List(args) => Box::pin(list::run(global, args)).await,
        Verb::Show(args) => Box::pin(show::run(global, args)).await,
        Verb::Verify(args) => Box::pin(verify::run(global, args, inputs)).await,
        Verb::Restore(args) => Box::pin(restore::run(global, args, inputs)).await,
        Verb::BaseBackup(args) => Box::pin(base_backup::run(global, args)).await,
        Verb::Wal(verb) => Box::pin(wal::run(global, verb, inputs, stop)).await,
        Verb::Recover(args) => Box::pin(recover::run(global, args, inputs)).await,
        Verb::Retain(args) => Box::pin(retain::run(global, args)).await,
        Verb::Migrate(args) => Box::pin(migrate::run(global, args, inputs, stop)).await,
        Verb::Gate(verb) => Box::pin(remote::gate::run(global, verb, stop)).await,
        Verb::Runs(verb) => Box::pin(runs::run(global, verb)).await,
        Verb::Serve(ServeArgs {}) => Box::pin(serve(cli.global, stop)).await,
        Verb::Pin(args) => Box::pin(pin::pin(global, args)).await,
        Verb::Unpin(args) => Box::pin(pin::unpin(global, args)).await,
        Verb::Key(verb) => Box::pin(key::run(global, verb, inputs)).await,
        Verb::Audit(verb) => Box::pin(audit::run(global, verb)).await,
        Verb::Token(verb) => Box::pin(token::run(global, verb, inputs)).await,
        Verb::Completions(args) => manual::completions(&args),
        Verb::Man(args) => manual::man(&args),
    }
}

/// Opens with what was given by `--identity`.
fn opener_of(inputs: &privileges::Inputs) -> Result<Option<Opener>, Failure> {
    let Some((name, bytes)) = &inputs.identity else { return Ok(None) };
    let identities = read_identity_bytes(name, bytes).map_err(Failure::of("read the identity"))?;
    Ok(Some(Opener::new(identities)))
}

/// Carries out `work` with a beginning and an end in the ledger and in the log.
async fn recorded<T>(
    ledger: &Ledger,
    kind: JobKind,
    database: Option<&str>,
    title: &str,
    subject: impl FnOnce(&T) -> String,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    ledger.close_abandoned(clock::now()).await.map_err(Failure::of(title))?;
    let id = ledger.begin_job(kind, database, clock::now()).await.map_err(Failure::of(title))?;
    let watch = std::time::Instant::now();
    let span = tracing::info_span!("job", job = kind.as_str(), database, backup_id = tracing::field::Empty);
    let done = async {
        tracing::info!("job begins");
        let done = work.await;
        let elapsed_ms = u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &done {
            Ok(_) => tracing::info!(elapsed_ms, "job ends"),
            Err(failure) => tracing::info!(elapsed_ms, error = failure.chain(), "job fails"),
        }
        done
    }
    .instrument(span.clone())
    .await;
    let (outcome, subject) = match &done {
        Ok(value) => (JobOutcome::Done, Some(subject(value))),
        Err(failure) => (JobOutcome::Failed { error: failure.chain() }, None),
    };
    span.record("backup_id", subject.as_deref());
    ledger.end_job(id, &outcome, subject.as_deref(), clock::now()).await.map_err(Failure::of(title))?;
    let ended = match &outcome {
        JobOutcome::Failed { error } => error.as_str(),
        JobOutcome::Done | JobOutcome::Interrupted => "done",
    };
    audit::note(ledger, kind.as_str(), (database, subject.as_deref()), ended).await?;
    done
}
