//! SIGINT and SIGTERM stop a run at once, and leave no process, no file and nothing half-done.

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rstest::rstest;

use super::programs::{DATA, POST_DATA, Programs};
use super::{
    a_filled_cluster, assert_failed, assert_nothing_left, contents, half_loaded, installed, listed, succeed,
    wait_until,
};
use crate::world::{Belay, Output};

/// Runs `belay` until `program` hangs, then signals it.
fn stopped_while(
    programs: &Programs,
    program: &str,
    unless: &str,
    signal: Signal,
    belay: &Belay,
    args: &[&str],
) -> Output {
    use std::os::unix::process::ExitStatusExt as _;
    let (script, pid) = programs.hanging(unless);
    programs.fake(program, &script);
    let running = belay.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the program hangs", || pid.exists());
    kill(Pid::from_raw(i32::try_from(running.id()).unwrap()), signal).unwrap();
    let output = running.wait_with_output().unwrap();
    programs.restore(program);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().or(output.status.signal().map(|signal| 1000 + signal));
    Output { code: code.unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[rstest]
#[case::interrupted(Signal::SIGINT, 130)]
#[case::ended(Signal::SIGTERM, 143)]
fn a_signal_stops_every_verb_at_a_safe_place(#[case] signal: Signal, #[case] code: i32) {
    let cluster = a_filled_cluster(20_000);
    let programs = Programs::of(&cluster);
    let belay = programs.given_to(installed(&cluster, ""));

    let output = stopped_while(&programs, "pg_dump", DATA, signal, &belay, &["snapshot", "app"]);
    assert_failed(&output, code, "nothing half-done is listed");
    assert_eq!(listed(&belay), Vec::<String>::new());
    assert_nothing_left(&belay);

    succeed(&belay, &["snapshot", "app"]);
    let restored = ["verify", "latest", "--depth", "restored"];
    let output = stopped_while(&programs, "pg_restore", POST_DATA, signal, &belay, &restored);
    assert_failed(&output, code, "run the same command again");
    assert_nothing_left(&belay);

    cluster.psql("app", "UPDATE mark SET n = 1");
    let live = contents(&cluster, "app");
    for args in [&["restore", "app", "--into", "back"][..], &["restore", "app", "--swap"]] {
        let output = stopped_while(&programs, "pg_restore", POST_DATA, signal, &belay, args);
        assert_failed(&output, code, "the next run clears what is left");
        assert_eq!(contents(&cluster, "app"), live);
        assert_nothing_left(&belay);
        // As the message says.
        succeed(&belay, &["snapshot", "app"]);
        assert_eq!(half_loaded(&cluster), Vec::<String>::new());
    }
}
