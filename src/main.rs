//! `belay`: argv, settings, privileges, logs, then the verb; the only `exit`.

use std::io::IsTerminal as _;

use belay::cli::report::{ExitCode, Failure, Report, print_failure, print_notice, print_report};
use belay::cli::{self, Cli, Verb, host, privileges};
use belay::rules::gate::Verdict;
use belay::{command, daemon, tether};
use clap::Parser as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> std::process::ExitCode {
    if let Some(error) = tether::follow(std::env::args_os()) {
        print_notice(&error.to_string());
        return std::process::ExitCode::from(EXEC_FAILED);
    }
    if command::stood_guard(std::env::args_os()) {
        return std::process::ExitCode::SUCCESS;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // A server that asks for its log would take any other code for the end of it.
        Err(error) if error.use_stderr() && asks_for_log(std::env::args_os()) => {
            let _ = error.print();
            return std::process::ExitCode::from(ExitCode::StopRecovery as u8);
        }
        Err(error) => error.exit(),
    };
    let (as_json, failure_code) = (cli.global.json, cli.verb.failure_code());
    start_logging(matches!(cli.verb, Verb::Serve(_)));
    let done = std::panic::catch_unwind(|| carry_out(cli));
    let code = match done {
        Ok(Ok(report)) => print_report(&report, as_json),
        Ok(Err(failure)) => {
            print_failure(&failure, as_json);
            let is_told_to_end = matches!(failure.code, ExitCode::Interrupted | ExitCode::Terminated);
            failure_code.filter(|_| !is_told_to_end).unwrap_or(failure.code)
        }
        Err(panicked) => match failure_code {
            Some(code) => code,
            None => std::panic::resume_unwind(panicked),
        },
    };
    std::process::ExitCode::from(code as u8)
}

fn asks_for_log(arguments: impl Iterator<Item = std::ffi::OsString>) -> bool {
    let words: Vec<_> = arguments.collect();
    words.windows(2).any(|pair| pair == ["wal", "fetch"])
}

/// What a shell says of a program that it cannot start.
const EXEC_FAILED: u8 = 127;

/// Logs go to standard error, or, from a daemon that systemd started, to the journal with fields.
fn start_logging(is_daemon: bool) {
    let default = if is_daemon { "info,sqlx=warn" } else { "warn,sqlx::postgres::notice=error" };
    let filter = EnvFilter::try_from_env("BELAY_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let journal = (is_daemon && belay::settings::variable("JOURNAL_STREAM").is_some())
        .then(tracing_journald::layer)
        .and_then(Result::ok)
        .map(|layer| layer.with_field_prefix(Some("BELAY".into())));
    let written = journal.is_none().then(|| {
        let is_terminal = std::io::stderr().is_terminal();
        tracing_subscriber::fmt::layer().with_ansi(is_terminal).with_writer(std::io::stderr)
    });
    tracing_subscriber::registry().with(filter).with(journal).with(written).init();
}

/// Privileges are given up while there is one thread: they belong to threads.
#[expect(clippy::disallowed_methods, reason = "the one place where the time enters")]
fn carry_out(cli: Cli) -> Result<Report, Failure> {
    let mut cli = cli;
    if let Ok(config) = std::path::absolute(&cli.global.config) {
        cli.global.config = config;
    }
    let inputs = if cli.verb.needs_no_host() {
        privileges::Inputs::default()
    } else {
        let settings =
            if cli.verb.is_standalone() { None } else { Some(host::load_settings(&cli.global.config)?) };
        privileges::settle(&cli, settings.as_ref(), chrono::Utc::now())?
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("start", ExitCode::Failed, error.to_string()))?;
    let (tell, stop) = watch::channel(None);
    let stops_by_itself = cli.verb.stops_by_itself();
    let work = cli::run(cli, inputs, stop, daemon::serve);
    let done = runtime.block_on(async {
        if stops_by_itself { told_of_signals(work, tell).await } else { until_signal(work).await }
    });
    // A thread that still compresses for a cancelled job must not keep us.
    runtime.shutdown_background();
    done
}

/// Runs `work`; a signal drops it, which ends its children and sessions and publishes nothing.
async fn until_signal(work: impl Future<Output = Result<Report, Failure>>) -> Result<Report, Failure> {
    let (mut interrupted, mut terminated) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        done = work => done,
        _ = interrupted.recv() => Err(stopped(ExitCode::Interrupted, "interrupted")),
        _ = terminated.recv() => Err(stopped(ExitCode::Terminated, "ended")),
    }
}

/// Runs `work` to its own end, telling it of the first signal; what it does then is its business.
async fn told_of_signals(
    work: impl Future<Output = Result<Report, Failure>>,
    tell: watch::Sender<Option<Verdict>>,
) -> Result<Report, Failure> {
    let (mut interrupted, mut terminated) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let telling = async {
        loop {
            let verdict = tokio::select! {
                _ = interrupted.recv() => Verdict::Interrupted,
                _ = terminated.recv() => Verdict::Terminated,
            };
            tell.send_replace(Some(verdict));
        }
    };
    tokio::select! {
        done = work => done,
        () = telling => unreachable!("signals are listened to for as long as there is work"),
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::new("start", ExitCode::Failed, error.to_string()))
}

fn stopped(code: ExitCode, word: &str) -> Failure {
    Failure::new(word, code, "stopped at a safe place, nothing half-done is listed")
        .with_hint("run the same command again; the next run clears what is left")
}
