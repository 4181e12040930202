//! `belay gate`: the calls of a gate one by one, for pipelines that cannot run `belay` around their
//! command.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::ServerArgs;
use super::output::{Output, mask_of};
use super::session::{LostLease, Ready, Session, Wanted, stopped};
use crate::checkout::Checkout;
use crate::cli::Global;
use crate::cli::report::{ExitCode, Failure, Report};
use crate::jobs::migrate::Stop;
use crate::rules::classify::Exit;
use crate::rules::gate::Verdict;
use crate::rules::plain;
use crate::settings::{self, Environment};

/// The calls of a gate.
#[derive(Debug, Subcommand)]
pub enum GateVerb {
    /// Open a gate, wait until the command may begin, and take the go for it
    Open(OpenArgs),
    /// Say that the command still runs: once, or until the gate is closed
    Beat(BeatArgs),
    /// Tell how the command ended, and wait for the verdict
    Close(CloseArgs),
}

/// Options of `belay gate open`.
#[derive(Debug, Args)]
pub struct OpenArgs {
    /// Which daemon.
    #[command(flatten)]
    pub server: ServerArgs,
    /// The database, by the name of its section; may be given several times
    #[arg(long = "db", value_name = "DB")]
    pub databases: Vec<String>,
    /// Let revisions through whose docstring says BREAKING CHANGE:
    #[arg(long)]
    pub allow_breaking: bool,
    /// How what the command needs is printed; env is for `eval` in a shell
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// The command and its arguments, for the record and for what is pending, after --
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// How what a command needs is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// As lines that a shell evaluates.
    Env,
}

/// Which gate.
#[derive(Debug, Args)]
pub struct OfGate {
    /// Which daemon.
    #[command(flatten)]
    pub server: ServerArgs,
    /// The run
    #[arg(value_name = "RUN", env = "BELAY_GATE_RUN")]
    pub run: String,
    /// Who has the go, as `gate open` printed it
    #[arg(long, value_name = "NAME", env = "BELAY_GATE_HOLDER")]
    pub holder: String,
}

/// Options of `belay gate beat`.
#[derive(Debug, Args)]
pub struct BeatArgs {
    /// Which gate.
    #[command(flatten)]
    pub gate: OfGate,
    /// Go on until the gate is closed
    #[arg(long)]
    pub until_closed: bool,
}

/// Options of `belay gate close`.
#[derive(Debug, Args)]
pub struct CloseArgs {
    /// Which gate.
    #[command(flatten)]
    pub gate: OfGate,
    /// The exit status of the command
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=255))]
    pub exit: i32,
    /// A file with what the command wrote
    #[arg(long, value_name = "FILE")]
    pub output_file: Option<PathBuf>,
}

/// Carries out one of them.
///
/// # Errors
/// [`Failure`]; how a run ended is a report with its exit code.
pub async fn run(global: &Global, verb: GateVerb, stop: Stop) -> Result<Report, Failure> {
    match verb {
        GateVerb::Open(args) => open(global, args, stop).await,
        GateVerb::Beat(args) => until_stopped(beat(args), stop).await,
        GateVerb::Close(args) => until_stopped(close(global, args), stop).await,
    }
}

async fn until_stopped(
    work: impl Future<Output = Result<Report, Failure>>,
    mut stop: Stop,
) -> Result<Report, Failure> {
    tokio::select! {
        done = work => done,
        verdict = stopped(&mut stop) => {
            let code =
                if verdict == Verdict::Terminated { ExitCode::Terminated } else { ExitCode::Interrupted };
            Err(Failure::new("gate", code, "stopped; the gate is as it was"))
        }
    }
}

async fn open(global: &Global, args: OpenArgs, stop: Stop) -> Result<Report, Failure> {
    let server = args.server.connect()?;
    let mask = mask_of(&Environment::of_process(), &args.command);
    let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let config = settings::variable("ALEMBIC_CONFIG");
    let scripts = Checkout::for_gate(&directory, &args.command, config.as_deref());
    let command = mask.apply_words(&args.command);
    let command = if command.is_empty() { vec!["unknown".into()] } else { command };
    let allow_breaking = args.allow_breaking;
    let wanted = Wanted { databases: args.databases, command, allow_breaking, scripts };
    let mut session = Session::open(server, wanted, global.quiet, stop.clone()).await?;
    let go = match session.wait_for_go(stop).await? {
        Ready::Go(go) => go,
        Ready::Over => return Ok(session.verdict().await?.report("gate")),
    };
    let mut variables: BTreeMap<String, String> = go.environment.clone();
    if let (Some(options), Some(own)) = (variables.get_mut("PGOPTIONS"), settings::variable("PGOPTIONS")) {
        options.push_str(&format!(" {own}"));
    }
    variables.insert("BELAY_GATE_RUN".into(), session.run.clone());
    variables.insert("BELAY_GATE_HOLDER".into(), session.holder.clone());
    let text = match args.format {
        Format::Env => {
            variables.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect()
        }
        Format::Text => {
            let lines = variables
                .iter()
                .map(|(name, value)| format!("  {}\n", plain::line(&format!("{name}={value}"))));
            format!(
                "run {} may begin its command, and wants to hear of it every {} seconds\n{}",
                plain::line(&session.run),
                go.lease_seconds / 3,
                lines.collect::<String>()
            )
        }
    };
    let body = json!({
        "run": session.run, "holder": session.holder, "environment": variables,
        "lease_seconds": go.lease_seconds, "timeout_seconds": go.timeout_seconds,
    });
    Ok(Report::new("gate-open", text, &body))
}

async fn beat(args: BeatArgs) -> Result<Report, Failure> {
    let OfGate { server, run, holder } = args.gate;
    let server = server.connect()?;
    let standing = server.beat(&run, Some(&holder)).await.map_err(Failure::of("gate beat"))?;
    if args.until_closed {
        let mut session = Session::known(server, run.clone(), holder, true);
        session.lease = std::time::Duration::from_secs(standing.lease_seconds);
        let nothing = Output::new(mask_of(&Environment::of_process(), &[]));
        if session.keep(&nothing).await == LostLease::Unheard {
            let text = "the server was not reached for the length of the lease";
            return Err(Failure::new("gate beat", ExitCode::Unknown, text));
        }
        return Ok(Report::new("gate-beat", "", &json!({ "run": run, "closed": true })));
    }
    let text = format!("run {run} is {}\n", standing.phase);
    Ok(Report::new("gate-beat", text, &standing))
}

async fn close(global: &Global, args: CloseArgs) -> Result<Report, Failure> {
    let OfGate { server, run, holder } = args.gate;
    let output = Output::of_file(mask_of(&Environment::of_process(), &[]));
    if let Some(path) = &args.output_file {
        let failed = |error: std::io::Error| {
            Failure::new("gate close", ExitCode::Usage, format!("{}: {error}", path.display()))
        };
        output.take(&std::fs::read(path).map_err(failed)?);
    }
    let mut session = Session::known(server.connect()?, run, holder, global.quiet);
    session.close(&output, Exit::Status(args.exit)).await?;
    Ok(session.verdict().await?.report("gate"))
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_value_is_one_word_of_a_shell() {
        assert_eq!(quoted("-c a=b -c c='d'"), r"'-c a=b -c c='\''d'\'''");
    }
}
