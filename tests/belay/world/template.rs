//! Data directories to copy: `initdb` runs once for each build and locale, not once for each test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Uid;

use super::owner;
use super::server::Server;

/// What a cluster compares text by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locale {
    /// A locale of the C library.
    Libc(String),
    /// A locale of ICU; servers from 15 on.
    Icu(String),
}

/// Copies a fresh data directory of `server` to `data`, which must not exist; a segment of its log has
/// `segment_mib` MiB.
pub fn copy_to(data: &Path, server: &Server, locale: &Locale, encoding: &str, segment_mib: u32) {
    let template = made(server, locale, encoding, segment_mib);
    let copied = Command::new("cp").args(["--archive", "--reflink=auto"]).arg(template).arg(data).status();
    assert!(copied.expect("run cp").success(), "copy the template of a data directory");
}

/// Returns the template, made first if no test did so before.
///
/// Tests run in processes of their own, so a lock on a file lets one make it while the others wait.
fn made(server: &Server, locale: &Locale, encoding: &str, segment_mib: u32) -> PathBuf {
    let mut key = format!("{} {locale:?} {encoding} {}", server.build(), Uid::effective());
    if segment_mib != 1 {
        key.push_str(&format!(" {segment_mib}"));
    }
    let key: String =
        key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("templates");
    std::fs::create_dir_all(&shared).expect("make the directory of templates");
    let lock = File::create(shared.join(format!("{key}.lock"))).expect("open the lock of a template");
    lock.lock().expect("lock a template");
    let template = shared.join(&key);
    if !template.exists() {
        let unfinished = shared.join(format!("{key}.unfinished"));
        let _ = std::fs::remove_dir_all(&unfinished);
        make(server, locale, encoding, segment_mib, &unfinished);
        std::fs::rename(&unfinished, &template).expect("name a template");
    }
    template
}

/// Runs `initdb` in a directory that the owner can enter, which `target` need not be, and moves the outcome.
fn make(server: &Server, locale: &Locale, encoding: &str, segment_mib: u32, to: &Path) {
    let temporary = owner::temporary_directory();
    let data = temporary.path().join("data");
    let mut initdb = owner::command(&server.program("initdb"));
    initdb.args([
        "--auth=trust",
        "--username=postgres",
        "--no-sync",
        &format!("--wal-segsize={segment_mib}"),
        "--encoding",
        encoding,
    ]);
    match locale {
        Locale::Libc(name) => initdb.arg(format!("--locale={name}")),
        Locale::Icu(name) => {
            initdb.args(["--locale-provider=icu", "--locale=C.UTF-8"]).arg(format!("--icu-locale={name}"))
        }
    };
    let output = initdb.arg("-D").arg(&data).current_dir("/").output().expect("run initdb");
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    let conf = data.join("postgresql.conf");
    let mut settings = std::fs::read_to_string(&conf).expect("read postgresql.conf");
    settings.push_str(SETTINGS);
    std::fs::write(&conf, settings).expect("write postgresql.conf");
    let copied = Command::new("cp").arg("--archive").arg(&data).arg(to).status();
    assert!(copied.expect("run cp").success(), "keep the template of a data directory");
}

/// Durability is off, and nothing is reachable from outside unless a test asks for it.
const SETTINGS: &str = "
listen_addresses = ''
fsync = off
full_page_writes = off
synchronous_commit = off
shared_buffers = 32MB
timezone = 'UTC'
log_timezone = 'UTC'
";
