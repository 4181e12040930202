//! The user that PostgreSQL's programs run as: they refuse root, so root becomes `postgres`.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Uid, User};
use tempfile::TempDir;

/// Returns a command that runs `program` as the owner of throwaway clusters.
pub fn command(program: &Path) -> Command {
    if !Uid::effective().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]).arg(program);
    command
}

/// Free memory from which on it is taken for the files of a world.
const AMPLE_BYTES: u64 = 4 << 30;

/// Makes a temporary directory that the owner of throwaway clusters can fill: in memory where there is
/// ample of it that programs may be run from, since making a thousand small files is slow on some disks.
pub fn temporary_directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let ample = statvfs(memory).is_ok_and(|about| {
        about.blocks_available() * about.fragment_size() >= AMPLE_BYTES
            && !about.flags().contains(FsFlags::ST_NOEXEC)
    });
    let parent = if ample { memory.to_owned() } else { std::env::temp_dir() };
    let directory = tempfile::Builder::new().prefix("belay-").tempdir_in(parent);
    let directory = directory.expect("make a temporary directory");
    hand_over(directory.path());
    directory
}

/// Makes an empty directory that the owner of throwaway clusters can fill and everybody can enter.
pub fn make_directory(path: &Path) {
    std::fs::create_dir(path).expect("create a directory of the world");
    hand_over(path);
}

/// Gives `path` to the owner of throwaway clusters and lets everybody enter it.
pub fn hand_over(path: &Path) {
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("set the mode of a world path");
    if Uid::effective().is_root() {
        let user = User::from_name("postgres").expect("read the user database");
        let user = user.expect("the user postgres exists: PostgreSQL's programs refuse to run as root");
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown a world path");
    }
}
