//! PostgreSQL's programs die at some byte, hang, complain, or lie.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use rstest::rstest;

use super::{
    a_filled_cluster, assert_failed, assert_nothing_left, contents, databases, installed, listed, succeed,
    wait_until,
};
use crate::world::{Belay, Cluster};

/// A directory of PostgreSQL's programs, some of them scripts of the tests.
pub struct Programs {
    directory: PathBuf,
    real: PathBuf,
}

impl Programs {
    /// All of them real.
    pub fn of(cluster: &Cluster) -> Programs {
        let programs = Programs { directory: cluster.room("programs"), real: cluster.programs().to_owned() };
        for entry in programs.real.read_dir().unwrap() {
            programs.link(&entry.unwrap().file_name().to_string_lossy());
        }
        programs
    }

    fn link(&self, name: &str) {
        symlink(self.real.join(name), self.directory.join(name)).unwrap();
    }

    /// Has `belay` use these.
    pub fn given_to(&self, belay: Belay) -> Belay {
        belay.with_programs(&self.directory)
    }

    /// Replaces one by a script, in which `$real` is the real one.
    pub fn fake(&self, name: &str, script: &str) {
        let real = self.real.join(name);
        let passing = "case \"$*\" in --version|--help) exec \"$real\" \"$@\" ;; esac";
        let text = format!("#!/bin/sh\nreal='{}'\n{passing}\n{script}\n", real.display());
        let unfinished = self.directory.join("unfinished");
        std::fs::write(&unfinished, text).unwrap();
        std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(unfinished, self.directory.join(name)).unwrap();
    }

    /// Leaves one out, which may be missing anyway.
    pub fn leave_out(&self, name: &str) {
        let program = self.directory.join(name);
        let _ = std::fs::remove_file(&program);
        assert!(!program.exists());
    }

    /// Makes the real one of it again.
    pub fn restore(&self, name: &str) {
        std::fs::remove_file(self.directory.join(name)).unwrap();
        self.link(name);
    }

    /// A script that says its pid in a file and then does nothing for ever; and that file.
    pub fn hanging(&self, unless: &str) -> (String, PathBuf) {
        let pid = self.directory.join("pid");
        let _ = std::fs::remove_file(&pid);
        (format!("{unless}\necho $$ >'{}'\nexec sleep 600", pid.display()), pid)
    }
}

/// Only the schema archive, and only the data archive, go on in the script.
pub const SCHEMA: &str = r#"case "$*" in *--section=pre-data*) ;; *) exec "$real" "$@" ;; esac"#;
pub const DATA: &str = r#"case "$*" in *--section=data*) ;; *) exec "$real" "$@" ;; esac"#;
const ALWAYS: &str = "";
/// What pg_restore is asked while a snapshot is loaded, in its order.
const LOADING: [&str; 3] = [
    r#"case "$*" in *--dbname*--section=pre-data*) ;; *) exec "$real" "$@" ;; esac"#,
    r#"case "$*" in *--section=*|*--file=*|*--list*) exec "$real" "$@" ;; esac"#,
    r#"case "$*" in *--dbname*--section=post-data*) ;; *) exec "$real" "$@" ;; esac"#,
];
/// The last step of loading.
pub const POST_DATA: &str = LOADING[2];

/// Writes only the first bytes of what the real program writes.
fn first_bytes(unless: &str, bytes: &str, end: &str) -> String {
    format!(
        "{unless}\nfile=$(mktemp)\n\"$real\" \"$@\" >\"$file\" || exit 99\nn=$(wc -c <\"$file\")\n\
         head -c {bytes} \"$file\"\nrm -f \"$file\"\n{end}"
    )
}

#[rstest]
#[case::schema("pg_dump", SCHEMA)]
#[case::data("pg_dump", DATA)]
#[case::globals("pg_dumpall", ALWAYS)]
fn a_dump_that_dies_at_any_byte_is_not_listed(#[case] program: &str, #[case] unless: &str) {
    let cluster = a_filled_cluster(5_000);
    let programs = Programs::of(&cluster);
    let belay = programs.given_to(installed(&cluster, ""));
    let whole = ("$n", "exit 1", "exited with status 1");
    let deaths = [("exit 1", "exited with status 1"), ("kill -KILL $$", "was ended by signal 9")];
    let cuts = ["0", "1", "$((n / 2))", "$((n - 1))"]
        .into_iter()
        .flat_map(|cut| deaths.map(|(end, said)| (cut, end, said)));
    for (cut, end, said) in cuts.chain([whole]) {
        programs.fake(program, &first_bytes(unless, cut, end));
        assert_failed(&belay.run(["snapshot", "app"]), 5, &format!("{program} {said}"));
        assert_eq!(listed(&belay), Vec::<String>::new(), "{cut} bytes, then {end}");
    }
    assert_nothing_left(&belay);
    programs.restore(program);
    succeed(&belay, &["snapshot", "app"]);
    succeed(&belay, &["verify", "latest", "--depth", "readable"]);
}

#[rstest]
#[case::schema("pg_dump", SCHEMA, &["0", "1", "$((n / 2))", "$((n - 1))"])]
#[case::data("pg_dump", DATA, &["0", "1", "$((n / 2))", "$((n - 1))"])]
#[case::globals("pg_dumpall", ALWAYS, &["0", "1", "$((n / 2))"])]
fn a_dump_that_stops_early_and_calls_it_success_is_not_listed(
    #[case] program: &str,
    #[case] unless: &str,
    #[case] cuts: &[&str],
) {
    let cluster = a_filled_cluster(5_000);
    let programs = Programs::of(&cluster);
    let belay = programs.given_to(installed(&cluster, ""));
    for cut in cuts {
        programs.fake(program, &first_bytes(unless, cut, "exit 0"));
        let output = belay.run(["snapshot", "app"]);
        assert_failed(&output, 5, &format!("{program} exited with status 0, but what it wrote is not whole"));
        assert_eq!(listed(&belay), Vec::<String>::new(), "{cut} bytes");
    }
    assert_nothing_left(&belay);
}

#[test]
fn a_program_that_hangs_is_ended_when_nothing_moves() {
    let cluster = a_filled_cluster(5_000);
    let programs = Programs::of(&cluster);
    let belay = programs.given_to(installed(&cluster, "stall_timeout = \"2s\"\n"));
    for (program, unless) in
        [("pg_dump", SCHEMA), ("pg_dump", DATA), ("pg_dumpall", ALWAYS), ("pg_restore", ALWAYS)]
    {
        let (script, pid) = programs.hanging(unless);
        programs.fake(program, &script);
        assert_failed(&belay.run(["snapshot", "app"]), 5, "nothing moved for 2s");
        assert!(pid.exists(), "{program} was not asked");
        assert_eq!(listed(&belay), Vec::<String>::new());
        assert_nothing_left(&belay);
        programs.restore(program);
    }
}

#[test]
fn a_program_may_complain_at_length() {
    let cluster = a_filled_cluster(5_000);
    let programs = Programs::of(&cluster);
    let belay = programs.given_to(installed(&cluster, ""));
    let complaint = "yes 'pg_dump: warning: this is not well' | head -c 20000000 >&2";
    for program in ["pg_dump", "pg_dumpall"] {
        programs.fake(program, &format!("{complaint}\nexec \"$real\" \"$@\""));
    }
    succeed(&belay, &["snapshot", "app"]);
    programs.fake("pg_dumpall", &format!("{complaint}\necho 'pg_dump: error: the last word' >&2\nexit 1"));
    assert_failed(&belay.run(["snapshot", "app"]), 5, "the last word");
    assert_eq!(listed(&belay).len(), 1);
}

#[rstest]
#[case::with_an_error("exit 1", 5, "pg_restore exited with status 1")]
#[case::killed("kill -KILL $$", 5, "pg_restore was ended by signal 9")]
fn a_restore_whose_program_dies_changes_nothing(#[case] end: &str, #[case] code: i32, #[case] said: &str) {
    let cluster = a_filled_cluster(5_000);
    let programs = Programs::of(&cluster);
    let belay = programs.given_to(installed(&cluster, ""));
    succeed(&belay, &["snapshot", "app"]);
    cluster.psql("app", "UPDATE mark SET n = 1");
    let (there, live) = (databases(&cluster), contents(&cluster, "app"));
    for unless in LOADING {
        programs.fake("pg_restore", &format!("{unless}\nhead -c 1000 >/dev/null\n{end}"));
        assert_failed(&belay.run(["restore", "app", "--swap"]), code, said);
        assert_eq!(
            (databases(&cluster), contents(&cluster, "app")),
            (there.clone(), live.clone()),
            "{unless}"
        );
        assert_nothing_left(&belay);
    }
    programs.restore("pg_restore");
    succeed(&belay, &["restore", "app", "--swap"]);
    assert_ne!(contents(&cluster, "app"), live);
}

#[test]
fn a_restore_whose_program_loads_nothing_and_calls_it_success_changes_nothing() {
    let cluster = a_filled_cluster(5_000);
    let programs = Programs::of(&cluster);
    let belay = programs.given_to(installed(&cluster, ""));
    succeed(&belay, &["snapshot", "app"]);
    let (there, live) = (databases(&cluster), contents(&cluster, "app"));
    for unless in &LOADING[1..] {
        programs.fake("pg_restore", &format!("{unless}\ncat >/dev/null\nexit 0"));
        let output = belay.run(["restore", "app", "--swap"]);
        assert_failed(&output, 4, "nothing was replaced");
        assert_eq!(
            (databases(&cluster), contents(&cluster, "app")),
            (there.clone(), live.clone()),
            "{unless}"
        );
    }
}

#[test]
fn a_restore_whose_program_hangs_is_given_up_by_request_only() {
    let cluster = a_filled_cluster(5_000);
    let programs = Programs::of(&cluster);
    let belay = programs.given_to(installed(&cluster, "stall_timeout = \"2s\"\n"));
    succeed(&belay, &["snapshot", "app"]);
    let (script, pid) = programs.hanging(POST_DATA);
    programs.fake("pg_restore", &script);
    let mut running = belay.command(["restore", "app", "--into", "back"]).spawn().unwrap();
    wait_until("indexes are being built", || pid.exists());
    // An index takes its hours: that its program lives counts as movement.
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert!(running.try_wait().unwrap().is_none());
    running.kill().unwrap();
    running.wait().unwrap();
    super::wait_for_the_end_of_children(&belay);
}
