//! The repository's disk is full, or may not be written.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::{TINY, a_filled_cluster, assert_failed, files_below, installed, listed, succeed};
use crate::world::{Belay, Output};

/// Snapshots into a file system of 4 MiB that is full, and again when it is not; then lists what
/// has a manifest after each.
const FULL: &str = r#"
mount -t tmpfs -o size=4m,mode=755 tmpfs "$repository"
"$@" init --single-recipient >/dev/null
cat /dev/zero >"$repository/filler" 2>/dev/null || truncate -s -96K "$repository/filler"
"$@" snapshot app >"$home/first.out" 2>"$home/first.err" && code=0 || code=$?
echo "$code" >"$home/first.code"
find "$repository" -name manifest.json >"$home/first.listed"
rm "$repository/filler"
"$@" snapshot app >"$home/second.out" 2>"$home/second.err" && code=0 || code=$?
echo "$code" >"$home/second.code"
find "$repository" -name manifest.json >"$home/second.listed"
"$@" verify latest --depth readable
"#;

#[test]
fn a_full_repository_lists_nothing_and_takes_the_next_snapshot_when_there_is_room() {
    let cluster = a_filled_cluster(40_000);
    let belay = Belay::with_settings(&cluster, "app", TINY);
    std::fs::create_dir(belay.repository()).unwrap();
    let namespace = if nix::unistd::geteuid().is_root() { "-m" } else { "-rm" };
    let command = belay.command::<&str>([]);
    let mut unshare = Command::new("unshare");
    unshare.args([namespace, "sh", "-ec", FULL, "sh"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        unshare.env(name, value.unwrap());
    }
    let output = unshare.env("repository", belay.repository()).env("home", belay.home()).output();
    let output = output.expect("unshare, of util-linux, is needed to mount a small file system");
    assert!(
        output.status.success(),
        "needs the right to mount a tmpfs: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let read = |name: &str| std::fs::read_to_string(belay.home().join(name)).unwrap();
    let first = Output {
        code: read("first.code").trim().parse().unwrap(),
        stdout: read("first.out"),
        stderr: read("first.err"),
    };
    assert_failed(&first, 5, "no space left");
    assert!(first.stderr.contains("hint: make room in the repository"), "{}", first.stderr);
    assert_eq!(read("first.listed"), "");
    assert_eq!(read("second.code").trim(), "0", "{}", read("second.err"));
    assert_eq!(read("second.listed").lines().count(), 1);
}

#[test]
fn a_repository_that_may_not_be_written_is_named() {
    let cluster = a_filled_cluster(5_000);
    let belay = installed(&cluster, "");
    succeed(&belay, &["snapshot", "app"]);
    let set_modes = |mode| {
        let mut directories: Vec<_> = files_below(&belay.repository())
            .iter()
            .flat_map(|path| path.ancestors().skip(1).map(ToOwned::to_owned).collect::<Vec<_>>())
            .collect();
        directories.retain(|path| path.starts_with(belay.repository()));
        directories.push(belay.repository().join(".unfinished"));
        for directory in directories {
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    set_modes(0o500);
    let output = belay.run(["snapshot", "app"]);
    assert_failed(&output, 5, "hint: the repository must be writable by the user that belay runs as");
    assert_eq!(listed(&belay).len(), 1);
    set_modes(0o700);
    succeed(&belay, &["snapshot", "app"]);
}
