//! Which process wrote a row, and whether it still lives.

use std::io::ErrorKind;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// A process of this machine: its pid, and what tells it from a later process of the same pid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessMark {
    /// The process id.
    pub pid: u32,
    /// The boot of the machine and the start time within it, in clock ticks (proc(5), `stat`).
    pub(super) started: String,
}

impl ProcessMark {
    /// The mark of this very process.
    pub fn current() -> std::io::Result<Self> {
        let pid = std::process::id();
        Ok(Self { pid, started: started(pid)? })
    }

    /// The mark of a process of another machine, of which nothing is known here.
    pub fn elsewhere() -> Self {
        Self { pid: 0, started: String::new() }
    }

    /// Tells whether the process still runs.
    ///
    /// A process that cannot be looked into but exists counts as alive: to take a living job for
    /// dead would be the worse mistake.
    pub fn is_alive(&self) -> bool {
        match started(self.pid) {
            Ok(started) => started == self.started,
            Err(_) => exists_unseen(self.pid),
        }
    }
}

/// /proc may hide the processes of other users (`hidepid`); a signal 0 still finds them.
fn exists_unseen(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| pid > 0 && kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH))
}

fn started(pid: u32) -> std::io::Result<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let ticks = start_ticks(&stat)
        .ok_or_else(|| std::io::Error::new(ErrorKind::InvalidData, "no start time in /proc/PID/stat"))?;
    Ok(format!("{}/{ticks}", boot.trim()))
}

/// Field 22; the name of the program, field 2, may hold spaces and parentheses.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive() {
        assert!(ProcessMark::current().unwrap().is_alive());
    }

    #[test]
    fn a_later_process_of_the_same_pid_is_another() {
        let mark = ProcessMark { started: "an earlier boot/1".into(), ..ProcessMark::current().unwrap() };
        assert!(!mark.is_alive());
    }

    #[test]
    fn an_ended_process_is_dead() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mark = ProcessMark { pid: child.id(), started: started(child.id()).unwrap() };
        assert!(mark.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!mark.is_alive());
    }

    #[test]
    fn start_time_is_found_behind_any_program_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 8812 1 1";
        assert_eq!(start_ticks(stat), Some(8812));
    }
}
