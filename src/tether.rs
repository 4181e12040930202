//! Ends our children when we die, however we die.
//!
//! The kernel can signal a process when its parent ends (prctl(2), `PR_SET_PDEATHSIG`), but the
//! process must ask for it itself. So a child is started as this very program, asks, and becomes
//! the program that is wanted.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use tokio::process::Command;

/// The first argument of a child that is yet to become another program.
const TETHER: &str = "--tether";
/// This program, even after its file was replaced by a newer one.
pub const OURSELVES: &str = "/proc/self/exe";
/// Whether this program begins with [`follow`]; a test's does not.
static IS_FOLLOWED: AtomicBool = AtomicBool::new(false);

/// Becomes the program that `arguments` (those of the process) name if they begin with a tether,
/// and returns only if that cannot be; otherwise allows [`tethered`] to start such children.
///
/// To be called first of all, while there is one thread.
pub fn follow(arguments: impl IntoIterator<Item = OsString>) -> Option<io::Error> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next().is_none_or(|first| first != TETHER) {
        IS_FOLLOWED.store(true, Ordering::Relaxed);
        return None;
    }
    Some(become_child(arguments).err().unwrap_or_else(|| io::Error::other("nothing to become is named")))
}

/// Whether children that begin with this program's own arguments can be started.
pub fn is_followed() -> bool {
    IS_FOLLOWED.load(Ordering::Relaxed)
}

fn become_child(mut arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let mut number = || arguments.next().and_then(|text| text.to_str()?.parse::<i32>().ok());
    let (Some(parent), Some(signal)) = (number(), number()) else { return Ok(()) };
    nix::sys::prctl::set_pdeathsig(Signal::try_from(signal)?)?;
    // It may have died before the kernel was asked.
    if nix::unistd::getppid().as_raw() != parent {
        return Err(io::Error::other("the process that wanted it is gone"));
    }
    let Some(program) = arguments.next() else { return Ok(()) };
    let error = std::process::Command::new(&program).args(arguments).exec();
    Err(io::Error::new(error.kind(), format!("start {}: {error}", Path::new(&program).display())))
}

/// The same command, whose process gets `signal` when ours ends.
///
/// It is to be spawned from a thread that lives as long as its child: that thread's end counts as
/// ours.
pub fn tethered(command: &Command, signal: Signal) -> Command {
    let command = command.as_std();
    if !IS_FOLLOWED.load(Ordering::Relaxed) {
        return rebuilt(Command::new(command.get_program()), command);
    }
    let mut tethered = Command::new(PathBuf::from(OURSELVES));
    tethered.args([TETHER, &std::process::id().to_string(), &(signal as i32).to_string()].map(OsStr::new));
    tethered.arg(command.get_program());
    rebuilt(tethered, command)
}

fn rebuilt(mut to: Command, from: &std::process::Command) -> Command {
    to.args(from.get_args());
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
    to
}
