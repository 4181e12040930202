//! `belay migrate --server`: the daemon holds the gate, the command runs here.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::output::{Output, mask_of};
use super::session::{LostLease, Ready, Session, Wanted, stopped};
use crate::checkout::Checkout;
use crate::cli::Global;
use crate::cli::migrate::MigrateArgs;
use crate::cli::migrate::report::RunReport;
use crate::cli::report::{ExitCode, Failure, print_notice};
use crate::command::CommandLine;
use crate::jobs::migrate::Stop;
use crate::rules::api::Go;
use crate::rules::classify::Exit;
use crate::settings::{self, Environment};

const TITLE: &str = "migrate";
/// What a shell says of a program that it cannot start.
const NOT_STARTED: i32 = 127;

/// Runs the command behind a gate of the daemon, and returns what became of it.
///
/// # Errors
/// [`Failure`] when the gate does not open, or the verdict cannot be had.
pub async fn run(global: &Global, args: &MigrateArgs, stop: Stop) -> Result<RunReport, Failure> {
    refuse_rehearsal(args)?;
    let server = args.server.connect()?;
    let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let path = settings::search_path();
    let line = CommandLine {
        words: &args.command,
        directory: &directory,
        environment: &[],
        mark: "",
        path: &path,
        timeout: Duration::MAX,
    };
    // Before anybody is kept out for it.
    let refused = |text: String| Failure::new(TITLE, ExitCode::Refused, text);
    if let Some(why) = line.why_not_there() {
        return Err(refused(why));
    }
    line.program().map_err(|error| refused(error.to_string()))?;
    let mask = mask_of(&Environment::of_process(), &args.command);
    let config = settings::variable("ALEMBIC_CONFIG");
    let wanted = Wanted {
        databases: args.databases.clone(),
        command: mask.apply_words(&args.command),
        allow_breaking: args.allow_breaking,
        scripts: Checkout::for_gate(&directory, &args.command, config.as_deref()),
    };
    let mut session = Session::open(server, wanted, global.quiet, stop.clone()).await?;
    if let Ready::Go(go) = session.wait_for_go(stop.clone()).await? {
        let output = Output::new(mask);
        let exit = run_command(&session, &line, &go, &output, stop).await;
        if let Err(failure) = session.close(&output, exit).await {
            if failure.code == ExitCode::Unknown && !is_answer(&failure) {
                return Err(failure);
            }
            // The daemon has judged without us; its verdict is what counts.
            print_notice(&format!("{}: {}", failure.action, failure.chain()));
        }
    }
    session.verdict().await
}

/// Whether the daemon answered, and only did not take what was said.
fn is_answer(failure: &Failure) -> bool {
    let error = failure.error.downcast_ref::<crate::remote::RemoteError>();
    error.is_some_and(|error| error.status().is_some() && !error.is_passing())
}

/// Runs the command while the lease is kept, and ends it when that is lost.
async fn run_command(
    session: &Session,
    line: &CommandLine<'_>,
    go: &Go,
    output: &Output,
    mut stop: Stop,
) -> Exit {
    let environment = environment(go);
    let timeout = Duration::from_secs(go.timeout_seconds);
    let line = CommandLine { environment: &environment, mark: &session.run, timeout, ..*line };
    let take = |bytes: &[u8]| output.take(bytes);
    let end = async {
        tokio::select! {
            _ = stopped(&mut stop) => {}
            lost = session.keep(output) => print_notice(&format!("{}: {}", session.title, why_ended(lost))),
        }
    };
    line.run(&take, end).await.unwrap_or_else(|error| {
        print_notice(&format!("{}: {error}", session.title));
        Exit::Status(NOT_STARTED)
    })
}

fn why_ended(lost: LostLease) -> &'static str {
    match lost {
        LostLease::Unheard => {
            "the server was not reached for the length of the lease: the command is ended, as the server expects"
        }
        LostLease::GivenUp => "the server does not wait for this command any more: it is ended",
    }
}

/// What the daemon says that the command's sessions are known by, before what the caller has.
fn environment(go: &Go) -> Vec<(String, SecretString)> {
    let with_own = |name: &str, value: &str| match settings::variable(name) {
        Some(own) if name == "PGOPTIONS" => format!("{value} {own}"),
        _ => value.to_owned(),
    };
    let variables = go.environment.iter();
    variables.map(|(name, value)| (name.clone(), SecretString::from(with_own(name, value)))).collect()
}

fn refuse_rehearsal(args: &MigrateArgs) -> Result<(), Failure> {
    if !args.rehearse && !args.rehearse_only {
        return Ok(());
    }
    let text = "a rehearsal needs the command on the database host, where the scratch copy is";
    let hint = "leave out --rehearse, or run `belay migrate --rehearse-only` on the host";
    Err(Failure::new(TITLE, ExitCode::Refused, text).with_hint(hint))
}
