//! Runs somebody else's program: found, watched, its output passed on as it comes, and ended with
//! all that it started.
//!
//! Comes in: words, a directory, an environment. Goes out: how it ended. Every process of a run
//! has the run's name in its environment ([`MARK`]), so that a later process of ours finds what an
//! earlier one left. What the program does is no business of this file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::FusedFuture as _;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Child;
use tokio::time::Instant;

use crate::rules::classify::Exit;
use crate::tether;

/// The variable that names a run to every process of it.
pub const MARK: &str = "BELAY_RUN";

/// Variables of libpq that win over those that say where to connect.
const ELSEWHERE: [&str; 3] = ["PGSERVICE", "PGSERVICEFILE", "PGHOSTADDR"];

/// The first argument of a guard, before the name of its run.
const GUARD: &str = "--guard";
/// What a guard is told when nothing is left to end.
const DISMISSAL: &[u8] = b"done";

/// How long a program that was asked to end may take before it is killed.
const END_GRACE: Duration = Duration::from_secs(10);
/// How long the output of an ended program is read on: what it left running may hold it open.
const OUTPUT_GRACE: Duration = Duration::from_secs(2);
const LOOK_PAUSE: Duration = Duration::from_millis(50);
const PIECE_BYTES: usize = 64 << 10;

/// Why a command does not run.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such program.
    #[error("find program {program}: it is not on the path")]
    NotFound {
        /// The command's first word.
        program: String,
    },
    /// The system does not start it.
    #[error("start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system does not say how it ended.
    #[error("wait for {}", program.display())]
    Wait {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A command, and what it runs in.
pub struct CommandLine<'a> {
    /// The program, and its arguments.
    pub words: &'a [String],
    /// Where it runs.
    pub directory: &'a Path,
    /// What is added to the environment that we have ourselves.
    pub environment: &'a [(String, SecretString)],
    /// The name of the run that it belongs to.
    pub mark: &'a str,
    /// Where programs are looked for.
    pub path: &'a str,
    /// How long it may run.
    pub timeout: Duration,
}

impl CommandLine<'_> {
    /// The program's file.
    ///
    /// # Errors
    /// [`CommandError::NotFound`]
    pub fn program(&self) -> Result<PathBuf, CommandError> {
        let word = self.words.first().map(String::as_str).unwrap_or_default();
        let not_found = || CommandError::NotFound { program: word.into() };
        let candidates: Vec<PathBuf> = if word.contains('/') {
            vec![self.directory.join(word)]
        } else {
            std::env::split_paths(self.path).map(|place| self.directory.join(place).join(word)).collect()
        };
        candidates.into_iter().find(|file| is_executable(file)).ok_or_else(not_found)
    }

    /// Why nothing could run in the command's directory, if that is so.
    pub fn why_not_there(&self) -> Option<String> {
        let refused = nix::unistd::access(self.directory, nix::unistd::AccessFlags::X_OK).err()?;
        Some(format!(
            "directory {} cannot be entered by the user that belay runs as: {refused}",
            self.directory.display()
        ))
    }

    /// Runs the command to its end, or until `stop` comes or its time is over; `on_output` gets
    /// what it writes to either stream.
    ///
    /// # Errors
    /// [`CommandError`]; an exit status other than 0 is no error.
    pub async fn run(
        &self,
        on_output: &(dyn Fn(&[u8]) + Sync),
        stop: impl Future<Output = ()>,
    ) -> Result<Exit, CommandError> {
        let program = self.program()?;
        let failed = |source| CommandError::Start { program: program.clone(), source };
        let guard = self.spawn_guard().map_err(failed)?;
        let mut child = self.spawn(&program).map_err(failed)?;
        let leader = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let reading = async { tokio::join!(pass_on(stdout, on_output), pass_on(stderr, on_output)) }.fuse();
        tokio::pin!(reading);
        let ended = tokio::select! {
            ended = self.watch(&mut child, leader, stop) => ended,
            // Output that is closed early does not end a program.
            ended = async { (&mut reading).await; std::future::pending().await } => ended,
        };
        if !reading.is_terminated() {
            let _ = tokio::time::timeout(OUTPUT_GRACE, reading).await;
        }
        if let Some(group) = leader {
            // What the program left running belongs to the run as well.
            let _ = killpg(group, Signal::SIGKILL);
        }
        if let Some(guard) = guard {
            guard.dismiss().await;
        }
        ended.map_err(|source| CommandError::Wait { program, source })
    }

    /// Starts who ends what is left of the run when we die without a word.
    fn spawn_guard(&self) -> io::Result<Option<Guard>> {
        if self.mark.is_empty() || !tether::is_followed() {
            return Ok(None);
        }
        let mut command = tokio::process::Command::new(tether::OURSELVES);
        // What ends the group of a terminal, or everything with the run's name, must not end it.
        command.args([GUARD, self.mark]).env_clear().process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        Ok(child.stdin.take().map(|line| Guard { line, _child: child }))
    }

    fn spawn(&self, program: &Path) -> io::Result<Child> {
        let mut command = tokio::process::Command::new(program);
        command.args(self.words.iter().skip(1)).env(MARK, self.mark);
        // Each would lead elsewhere than the variables that are set.
        if self.environment.iter().any(|(name, _)| name == "PGHOST") {
            for variable in ELSEWHERE {
                command.env_remove(variable);
            }
        }
        for (name, value) in self.environment {
            command.env(name, value.expose_secret());
        }
        let mut command = tether::tethered(&command, Signal::SIGTERM);
        command.current_dir(self.directory).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn()
    }

    async fn watch(
        &self,
        child: &mut Child,
        leader: Option<Pid>,
        stop: impl Future<Output = ()>,
    ) -> io::Result<Exit> {
        let why = tokio::select! {
            status = child.wait() => return status.map(exit_of),
            () = stop => Exit::Stopped,
            () = tokio::time::sleep(self.timeout) => Exit::TimedOut,
        };
        for (signal, patience) in [(Signal::SIGTERM, END_GRACE), (Signal::SIGKILL, END_GRACE)] {
            if let Some(group) = leader {
                let _ = killpg(group, signal);
            }
            if tokio::time::timeout(patience, child.wait()).await.is_ok() {
                break;
            }
        }
        Ok(why)
    }
}

/// A process of ours that outlives us, and ends every process of a run unless it is dismissed.
///
/// A child of a command does not end with us by itself, only the command does: it would go on writing
/// into a database that was put back.
struct Guard {
    line: tokio::process::ChildStdin,
    _child: Child,
}

impl Guard {
    async fn dismiss(mut self) {
        use tokio::io::AsyncWriteExt as _;
        // One that is gone has nothing to end any more.
        let _ = self.line.write_all(DISMISSAL).await;
    }
}

/// Stands guard if `arguments` (those of the process) say so; returns whether it did.
///
/// To be called while there is one thread.
pub fn stood_guard(arguments: impl IntoIterator<Item = OsString>) -> bool {
    let mut arguments = arguments.into_iter().skip(1);
    let (Some(first), Some(mark)) = (arguments.next(), arguments.next()) else { return false };
    if first != GUARD {
        return false;
    }
    let mut said = Vec::new();
    // The line is closed by our parent's end, however it ends.
    let _ = io::Read::read_to_end(&mut io::stdin(), &mut said);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    if let (false, Some(mark), Ok(runtime)) = (said == DISMISSAL, mark.to_str(), runtime) {
        runtime.block_on(end_processes(mark, END_GRACE));
    }
    true
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok()
}

fn exit_of(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Status(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}

async fn pass_on(stream: Option<impl AsyncRead + Unpin>, on_output: &(dyn Fn(&[u8]) + Sync)) {
    let Some(mut stream) = stream else { return };
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    while let Ok(read) = stream.read_buf(&mut piece).await {
        if read == 0 {
            return;
        }
        on_output(&piece);
        piece.clear();
    }
}

/// Ends every process of the run called `mark`, wherever it stands by now; returns how many live
/// on after `patience`.
pub async fn end_processes(mark: &str, patience: Duration) -> usize {
    let deadline = Instant::now() + patience;
    let mut asked = BTreeSet::new();
    loop {
        let living = processes_of(mark);
        if living.is_empty() || Instant::now() >= deadline {
            return living.len();
        }
        for pid in living {
            // Asked once; who is still there at the second look is killed.
            let signal = if asked.insert(pid) { Signal::SIGTERM } else { Signal::SIGKILL };
            let _ = kill(pid, signal);
        }
        tokio::time::sleep(LOOK_PAUSE.max(patience / 20)).await;
    }
}

/// Processes other than ours that have the run's name in their environment.
fn processes_of(mark: &str) -> Vec<Pid> {
    let wanted = OsString::from(format!("{MARK}={mark}"));
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_of_run = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    pids.filter(|pid| *pid != own)
        .filter(is_of_run)
        .filter_map(|pid| i32::try_from(pid).ok().map(Pid::from_raw))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(|word| (*word).to_owned()).collect()
    }

    async fn run(words: &[String], mark: &str, timeout: Duration) -> (Result<Exit, CommandError>, String) {
        let said = Mutex::new(Vec::new());
        let line = CommandLine {
            words,
            directory: Path::new("/tmp"),
            environment: &[("GREETING".into(), SecretString::from("hello"))],
            mark,
            path: "/usr/bin:/bin",
            timeout,
        };
        let keep = |bytes: &[u8]| said.lock().unwrap().extend_from_slice(bytes);
        let ended = line.run(&keep, std::future::pending()).await;
        let said = String::from_utf8(said.lock().unwrap().clone()).unwrap();
        (ended, said)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn status_and_both_streams_of_a_command_are_known() {
        let (ended, said) =
            run(&words(&["sh", "-c", "echo $GREETING; echo $BELAY_RUN >&2; exit 3"]), "r1", LONG).await;
        assert_eq!(ended.unwrap(), Exit::Status(3));
        assert!(said.contains("hello\n") && said.contains("r1\n"), "{said}");
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_ended() {
        let (ended, _) = run(&words(&["sleep", "60"]), "r2", Duration::from_millis(200)).await;
        assert_eq!(ended.unwrap(), Exit::TimedOut);
    }

    #[tokio::test]
    async fn what_a_command_leaves_behind_is_ended_by_its_mark() {
        // It leaves its group, so that only its environment tells whose it is.
        let (ended, said) =
            run(&words(&["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"]), "r3", LONG).await;
        assert_eq!(ended.unwrap(), Exit::Status(0));
        assert!(!said.is_empty());
        assert_eq!(end_processes("r3", Duration::from_secs(10)).await, 0);
        assert_eq!(processes_of("r3"), Vec::new());
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let (ended, _) = run(&words(&["no-such-program"]), "r4", LONG).await;
        assert_eq!(ended.unwrap_err().to_string(), "find program no-such-program: it is not on the path");
    }
}
