//! Runs a program to its end within a deadline; it never outlives us or the deadline.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;

use super::{Context, Deadline, FenceError};
use crate::postgres::PostgresError;
use crate::postgres::tools::{RunningTool, Streams};

/// More than any answer that we ask for.
const ANSWER_BYTES: u64 = 4 << 20;

/// A command that runs `program`: a path, or a name on the context's path.
pub(super) fn command(program: &str, context: &Context<'_>) -> Result<Command, FenceError> {
    let mut command = Command::new(find(program, context.search_path)?);
    command.env("PATH", context.search_path);
    Ok(command)
}

fn find(program: &str, search_path: &str) -> Result<PathBuf, FenceError> {
    let is_program = |path: &Path| {
        path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    let mut places: Vec<PathBuf> =
        std::env::split_paths(search_path).map(|place| place.join(program)).collect();
    if program.contains('/') {
        places = vec![program.into()];
    }
    let found = places.into_iter().find(|path| is_program(path));
    found.ok_or_else(|| FenceError::ProgramMissing { program: program.into() })
}

/// Runs `command` and returns what it wrote.
pub(super) async fn answer(command: Command, action: &str, deadline: Deadline) -> Result<String, FenceError> {
    let answer = async {
        let mut tool = RunningTool::start(command, Streams::Out)?;
        let stdout = tool.stdout()?;
        let mut bytes = Vec::new();
        // Not on a thread that blocks: a grandchild that keeps the pipe open would hold it for ever.
        let read = match Receiver::from_owned_fd(stdout.into()) {
            Ok(pipe) => pipe.take(ANSWER_BYTES).read_to_end(&mut bytes).await,
            Err(error) => Err(error),
        };
        read.map_err(|source| tool.pump_error(source))?;
        tool.reap().await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    within(answer, action, deadline).await
}

/// Runs `command`, whatever it writes.
pub(super) async fn run(command: Command, action: &str, deadline: Deadline) -> Result<(), FenceError> {
    let run = async {
        RunningTool::start(command, Streams::None)?.reap().await?;
        Ok(())
    };
    within(run, action, deadline).await
}

async fn within<T>(
    work: impl Future<Output = Result<T, PostgresError>>,
    action: &str,
    deadline: Deadline,
) -> Result<T, FenceError> {
    match tokio::time::timeout_at(deadline.at, work).await {
        Ok(done) => done.map_err(|source| FenceError::Program { action: action.into(), source }),
        Err(_) => Err(deadline.timed_out(action)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_found_on_the_given_path_only() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, mode: u32| {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let program = put("kubectl", 0o755);
        put("notes", 0o644);
        let path = format!("/no/such:{}", folder.path().display());
        assert_eq!(find("kubectl", &path).unwrap(), program);
        assert_eq!(find(program.to_str().unwrap(), "").unwrap(), program);
        for absent in ["notes", "sh", "/no/such/kubectl"] {
            let error = find(absent, &path).unwrap_err().to_string();
            assert_eq!(error, format!("find {absent}: there is no such program on the path"));
        }
    }
}
