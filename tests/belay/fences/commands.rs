//! Programs of an operator's own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use belay::fence::{FenceError, look, raise, release};
use belay::settings::{FenceKind, FenceSettings};
use tempfile::TempDir;

use super::{Post, chain, fence, journalled, wait_until};

/// Programs `on` and `off` in a directory of their own, which write down what they were told.
struct Programs(TempDir);

impl Programs {
    fn with(on: &str, off: &str) -> Programs {
        let programs = Programs(tempfile::tempdir().unwrap());
        for (name, script) in [("on", on), ("off", off)] {
            let path = programs.path(name);
            fs::write(&path, format!("#!/bin/sh\ncd \"$(dirname \"$0\")\"\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        programs
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn fence(&self) -> FenceSettings {
        let command = |name: &str| vec![self.path(name).display().to_string(), "a 'b' $c".to_owned()];
        fence(FenceKind::Command { raise: command("on"), release: command("off") })
    }
}

#[tokio::test]
async fn programs_are_told_the_database_and_their_words_as_they_are() {
    let programs =
        Programs::with("echo \"on $BELAY_DATABASE $1\" >>told", "echo \"off $BELAY_DATABASE $1\" >>told");
    let post = Post::without_a_server().await;
    let fence = programs.fence();
    let undo = look(&fence, &post.context()).await.unwrap();
    assert!(!programs.path("told").exists(), "a look runs nothing");
    raise(&fence, &undo, &post.context()).await.unwrap();
    release(&journalled(&undo), &post.context()).await.unwrap();
    let told = fs::read_to_string(programs.path("told")).unwrap();
    assert_eq!(told, "on app a 'b' $c\noff app a 'b' $c\n");
}

#[tokio::test]
async fn a_program_that_fails_is_quoted() {
    let programs = Programs::with("echo 'no way' >&2; exit 3", "exit 0");
    let post = Post::without_a_server().await;
    let fence = programs.fence();
    let undo = look(&fence, &post.context()).await.unwrap();
    let failed = raise(&fence, &undo, &post.context()).await.unwrap_err();
    let expected = format!("run {}: on exited with status 3: no way", programs.path("on").display());
    assert_eq!(chain(&failed), expected);
}

#[tokio::test]
async fn nothing_is_raised_that_no_program_could_release() {
    let programs = Programs::with("touch raised", "exit 0");
    fs::remove_file(programs.path("off")).unwrap();
    let post = Post::without_a_server().await;
    let refused = look(&programs.fence(), &post.context()).await.unwrap_err();
    assert!(
        matches!(&refused, FenceError::ProgramMissing { program } if program.ends_with("/off")),
        "{refused}"
    );
}

#[tokio::test]
async fn a_program_that_hangs_is_ended_with_its_children() {
    let programs = Programs::with("sleep 1000 & echo $! >child; wait", "exit 0");
    let post = Post::without_a_server().await;
    let fence = programs.fence();
    let undo = look(&fence, &post.context()).await.unwrap();
    let short = post.within(Duration::from_secs(1));
    let failed = raise(&fence, &undo, &short.context()).await.unwrap_err();
    assert!(matches!(failed, FenceError::TimedOut { .. }), "{failed}");
    let child = fs::read_to_string(programs.path("child")).unwrap();
    let stat = PathBuf::from(format!("/proc/{}/stat", child.trim()));
    // Where nobody reaps orphans, an ended process stays as a zombie.
    let has_ended = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    wait_until("the child has ended", has_ended);
}
