//! Who may open which gate, and who may touch one.

use std::process::Command;

use super::site::Remote;
use crate::gate::shell;
use crate::gate::site::{Ran, Site};
use crate::world::finish;

fn migrate_with(remote: &Remote, token: &std::path::Path, database: &str) -> Ran {
    let mut command = remote.runner();
    command.args(["--json", "migrate", "--db", database, "--token-file"]).arg(token);
    Ran::of(&finish(command.args(["--", "true"])))
}

fn call(remote: &Remote, verb: &str, run: &str, holder: &str, token: &std::path::Path) -> Command {
    let mut command = remote.runner();
    command.args(["gate", verb, run, "--holder", holder, "--token-file"]).arg(token);
    command
}

#[test]
fn a_token_opens_gates_of_its_own_database_only() {
    let remote = Remote::of(Site::with_gate("")).start();
    remote.site.cluster.create_database("billing");
    let room = remote.site.cluster.room("tokens");
    let (viewer, other) = (room.join("viewer"), room.join("other"));
    remote.add_token("viewer", &["--role", "viewer"], &viewer);
    remote.add_token("other", &["--role", "ci", "--db", "app"], &other);
    for database in ["billing", "nosuch"] {
        let ran = migrate_with(&remote, remote.token(), database);
        ran.assert_refused(10, &["403", "another database", "this token is for the database app"]);
    }
    migrate_with(&remote, &viewer, "app").assert_refused(10, &["403", "viewer"]);
    let revoked = remote.site.belay.run(["token", "revoke", "other"]);
    assert_eq!(revoked.code, 0, "{}", revoked.stderr);
    let ran = migrate_with(&remote, &other, "app");
    ran.assert_refused(2, &["401", "BELAY_TOKEN", "--token-file"]);
    assert!(!ran.told.contains("Bearer"), "{}", ran.told);
    assert!(remote.site.newest_run().is_null());
    let events = remote.audit();
    let refused = |event: &&serde_json::Value| event["outcome"].as_str().unwrap().starts_with("refused");
    assert_eq!(events.iter().filter(refused).count(), 3, "{events:?}");
}

#[test]
fn a_server_that_cannot_be_spoken_to_is_told_at_once() {
    let remote = Remote::of(Site::with_gate("")).start();
    let secure = remote.line.url().replace("http://", "https://");
    for (server, code, hint) in [
        ("unix:/nonexistent/belay.sock", 5, "there is no such socket"),
        (secure.as_str(), 5, "nothing there speaks TLS"),
    ] {
        let begun = std::time::Instant::now();
        let mut command = remote.runner();
        command.args(["migrate", "--db", "app", "--token-file"]).arg(remote.token());
        let ran = finish(command.args(["--", "true"]).env("BELAY_SERVER", server));
        assert_eq!(ran.code, code, "{}", ran.stderr);
        assert!(ran.stderr.contains(hint), "{}", ran.stderr);
        assert!(begun.elapsed().as_secs() < 30, "{server}");
    }
    assert!(remote.site.newest_run().is_null());
}

#[test]
fn a_runner_that_waits_for_its_server_can_be_stopped() {
    let remote = Remote::of(Site::with_gate(""));
    let mut command = remote.command(&[], &shell("true"));
    let mut child =
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(child.try_wait().unwrap().is_none(), "a daemon that is not there may be started anew");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_gate_is_touched_by_whoever_opened_it_and_the_go_has_one_holder() {
    let remote = Remote::of(Site::with_gate("")).start();
    let other = remote.site.cluster.room("tokens").join("other");
    remote.add_token("other", &["--role", "ci", "--db", "app"], &other);
    remote.site.pauses.stop_at("command");
    let mut running = remote.begin(&shell(&remote.site.pauses.shell("command")));
    running.wait_at(&remote.site.pauses, "command");
    let run = remote.site.newest_run()["run"].as_str().unwrap().to_owned();
    let beat = finish(&mut call(&remote, "beat", &run, "somebody-else", &other));
    assert!(beat.code == 3 && beat.stderr.contains("404"), "{}", beat.stderr);
    let beat = finish(&mut call(&remote, "beat", &run, "somebody-else", remote.token()));
    assert!(beat.stderr.contains("another runner has the go"), "{}", beat.stderr);
    let close = finish(call(&remote, "close", &run, "somebody-else", remote.token()).args(["--exit", "0"]));
    assert!(close.stderr.contains("another runner has the go"), "{}", close.stderr);
    remote.site.pauses.go_on();
    running.ran().assert_ended(0, "nothing_pending");
}

#[test]
fn a_token_does_not_cross_a_network_in_the_open() {
    let remote = Remote::of(Site::with_gate(""));
    let mut command = remote.command(&[], &shell("true"));
    command.env("BELAY_SERVER", "http://db.example.org:7432");
    let ran = Ran::of(&finish(&mut command));
    ran.assert_refused(2, &["plain HTTP to another machine"]);
}

#[test]
fn a_token_that_is_none_is_not_sent() {
    let remote = Remote::of(Site::with_gate(""));
    let empty = remote.site.cluster.room("tokens").join("empty");
    std::fs::write(&empty, " \n").unwrap();
    // Nobody listens there: asking would be another failure.
    migrate_with(&remote, &empty, "app").assert_refused(2, &["holds no token", "BELAY_TOKEN"]);
    for token in ["", " ", "two words", "a\u{1b}b"] {
        let mut command = remote.runner();
        command.env("BELAY_TOKEN", token).args(["--json", "migrate", "--db", "app", "--", "true"]);
        Ran::of(&finish(&mut command)).assert_refused(2, &["no token", "--token-file"]);
    }
}

#[test]
fn the_token_may_come_from_the_environment_and_is_never_shown() {
    let remote = Remote::of(Site::with_gate("")).start();
    let token = std::fs::read_to_string(remote.token()).unwrap().trim().to_owned();
    let mut command = remote.runner();
    command
        .args(["migrate", "--db", "app", "--", "sh", "-c", "echo $BELAY_TOKEN"])
        .env("BELAY_TOKEN", &token);
    let ran = finish(&mut command);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!format!("{}{}{}", ran.stdout, ran.stderr, remote.log()).contains(&token));
    assert!(ran.stderr.contains("***"), "{}", ran.stderr);
}
