//! A snapshot outlives Belay: `RESTORE.txt` brings it back with stock programs alone.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::world::{Belay, Cluster, a_cluster, with_rows_sorted};

const TINY: &str = "large_table = \"8KiB\"\nchunk = \"4MiB\"\n";
/// What `RESTORE.txt` says that it needs, and what every Unix has.
const STOCK: [&str; 13] = [
    "age",
    "gunzip",
    "gzip",
    "jq",
    "sha256sum",
    "sh",
    "mktemp",
    "rm",
    "cat",
    "sed",
    "echo",
    "printf",
    "true",
];

/// The snapshots of a repository, copied away from it, and a path without `belay`.
struct Elsewhere {
    room: PathBuf,
    path: String,
}

impl Elsewhere {
    fn of(cluster: &Cluster, belay: &Belay) -> Elsewhere {
        let room = cluster.room("elsewhere");
        let bin = room.join("bin");
        std::fs::create_dir(&bin).expect("make the directory of programs");
        for program in STOCK {
            symlink(found(program), bin.join(program)).expect("link a stock program");
        }
        for program in ["psql", "pg_restore"] {
            symlink(cluster.programs().join(program), bin.join(program)).expect("link a client");
        }
        let copied = Command::new("cp").arg("-r").arg(belay.repository()).arg(room.join("copy")).status();
        assert!(copied.expect("run cp").success());
        std::fs::remove_dir_all(belay.repository()).expect("lose the repository");
        let path = bin.to_str().expect("the path is text").to_owned();
        Elsewhere { room, path }
    }

    fn folder(&self) -> PathBuf {
        let databases = self.room.join("copy/prod/snapshots");
        only_entry(&only_entry(&databases))
    }

    fn restore(&self, cluster: &Cluster, identity: &Path, target: &str) -> Output {
        let mut shell = Command::new("/bin/sh");
        shell.arg("RESTORE.txt").current_dir(self.folder()).env_clear().env("PATH", &self.path);
        shell.env("IDENTITY", identity).env("TARGET", target).env("LC_ALL", "C.UTF-8");
        shell
            .env("PGHOST", cluster.host())
            .env("PGPORT", cluster.port().to_string())
            .env("PGUSER", "postgres");
        shell.output().expect("run RESTORE.txt")
    }
}

fn found(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).map(|directory| directory.join(program));
    all.into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{program} is missing: scripts/test installs it"))
}

fn only_entry(directory: &Path) -> PathBuf {
    let mut entries = directory.read_dir().expect("list a directory of the repository");
    let entry = entries.next().expect("there is an entry").expect("list a directory of the repository");
    assert!(entries.next().is_none(), "{} has one entry", directory.display());
    entry.path()
}

fn databases(cluster: &Cluster) -> String {
    cluster.psql("postgres", "SELECT datname FROM pg_database ORDER BY 1")
}

#[test]
fn zoo_comes_back_by_the_commands_of_restore_txt() {
    let cluster = a_cluster().with_menagerie().start();
    cluster.fill_zoo("zoo");
    let belay = Belay::with_settings(&cluster, "zoo", TINY);
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    let taken = belay.json(["snapshot", "app"]);
    assert!(taken["chunks_new"].as_u64() > Some(5), "{taken}");
    let elsewhere = Elsewhere::of(&cluster, &belay);

    let target = "it's = a \"zoo\" \\ $HOME 🦁";
    let restored = elsewhere.restore(&cluster, &belay.state().join("keys/identity.txt"), target);
    let (stdout, stderr) =
        (String::from_utf8_lossy(&restored.stdout), String::from_utf8_lossy(&restored.stderr));
    assert!(restored.status.success(), "{stderr}");
    assert!(stdout.contains("\tzoo.animal\n"), "{stdout}");
    let (before, after) = (with_rows_sorted(&cluster.dump("zoo")), with_rows_sorted(&cluster.dump(target)));
    let differing: Vec<_> = before.lines().zip(after.lines()).filter(|(a, b)| a != b).take(5).collect();
    assert!(differing.is_empty(), "{differing:#?}");
    assert_eq!(before.len(), after.len());
    assert_eq!(cluster.properties("zoo"), cluster.properties(target));
    assert!(!databases(&cluster).contains("restoring_"));
}

#[test]
fn bytes_of_no_encoding_come_back_by_restore_txt() {
    let cluster = a_cluster().start();
    cluster.psql(
        "postgres",
        "CREATE DATABASE app TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    cluster.psql(
        "app",
        "CREATE TABLE \"Käfig\" AS SELECT i, convert_from('\\xe9ff', 'SQL_ASCII') AS t FROM generate_series(1, 3000) i",
    );
    let belay = Belay::with_settings(&cluster, "app", TINY);
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    assert!(belay.json(["snapshot", "app"])["chunks_new"].as_u64() > Some(0));
    let elsewhere = Elsewhere::of(&cluster, &belay);
    let restored = elsewhere.restore(&cluster, &belay.state().join("keys/identity.txt"), "back");
    assert!(restored.status.success(), "{restored:?}");
    let count = "SELECT count(*) FROM \"Käfig\" WHERE t::bytea = '\\xe9ff'";
    assert_eq!(cluster.psql("back", count), "3000");
}

#[test]
fn restore_txt_writes_as_a_role_that_only_reads_by_default() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE TABLE t AS SELECT generate_series(1, 3000) AS n;
         ALTER ROLE postgres SET default_transaction_read_only = on",
    );
    let belay = Belay::with_settings(&cluster, "app", TINY);
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    assert_eq!(belay.run(["snapshot", "app"]).code, 0);
    let elsewhere = Elsewhere::of(&cluster, &belay);
    let restored = elsewhere.restore(&cluster, &belay.state().join("keys/identity.txt"), "back");
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(cluster.psql("back", "SELECT sum(n) FROM t"), "4501500");
}

#[test]
fn restore_txt_fails_before_a_database_is_named() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster
        .psql("app", "CREATE TABLE big AS SELECT i, repeat('x', 100) AS t FROM generate_series(1, 5000) i");
    let belay = Belay::with_settings(&cluster, "app", TINY);
    let stranger = Belay::new(&cluster, "app");
    for installation in [&belay, &stranger] {
        assert_eq!(installation.run(["init", "--single-recipient"]).code, 0);
    }
    belay.json(["snapshot", "app"]);
    let elsewhere = Elsewhere::of(&cluster, &belay);
    let before = databases(&cluster);
    let own = belay.state().join("keys/identity.txt");

    let wrong = elsewhere.restore(&cluster, &stranger.state().join("keys/identity.txt"), "back");
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("no identity matched"), "{wrong:?}");
    let missing = elsewhere.restore(&cluster, Path::new("/nonexistent"), "back");
    assert!(!missing.status.success());
    let chunk = only_entry(&only_entry(&elsewhere.room.join("copy/prod/chunks")));
    let bytes = std::fs::read(&chunk).expect("read the chunk");
    std::fs::write(&chunk, &bytes[..bytes.len() - 1]).expect("cut the chunk");
    let cut = elsewhere.restore(&cluster, &own, "back");
    assert!(!cut.status.success());
    let name = chunk.file_name().expect("a chunk has a name").to_string_lossy();
    assert!(String::from_utf8_lossy(&[cut.stdout, cut.stderr].concat()).contains(&*name));
    assert_eq!(databases(&cluster), before);

    std::fs::write(&chunk, &bytes).expect("mend the chunk");
    let mended = elsewhere.restore(&cluster, &own, "back");
    assert!(mended.status.success(), "{mended:?}");
    assert_eq!(cluster.psql("back", "SELECT count(*), sum(i) FROM big"), "5000|12502500");
    let twice = elsewhere.restore(&cluster, &own, "back");
    assert!(!twice.status.success());
    assert_eq!(cluster.psql("back", "SELECT count(*) FROM big"), "5000");
}
