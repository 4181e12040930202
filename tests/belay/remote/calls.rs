//! `belay gate`: the same, call by call.

use serde_json::Value;

use super::site::Remote;
use crate::gate::site::Site;
use crate::http::client::{Answer, ask, bearer, request};
use crate::world::finish;

fn open(remote: &Remote) -> Value {
    let mut command = remote.runner();
    command.args(["--json", "--quiet", "gate", "open", "--db", "app", "--token-file"]).arg(remote.token());
    let opened = finish(command.args(["--", "make", "migrate"]));
    assert_eq!(opened.code, 0, "{}", opened.stderr);
    serde_json::from_str(&opened.stdout).unwrap()
}

#[test]
fn a_gate_is_opened_kept_and_closed_call_by_call() {
    let remote = Remote::of(Site::with_gate("")).start();
    let opened = open(&remote);
    assert_eq!(remote.site.is_fenced(), Some(true));
    let (run, holder) = (opened["run"].as_str().unwrap(), opened["holder"].as_str().unwrap());
    let name = opened["environment"]["PGAPPNAME"].as_str().unwrap();
    assert_eq!(name, format!("belay-{run}"));
    let call = |verb: &str| {
        let mut command = remote.runner();
        command.env("BELAY_GATE_RUN", run).env("BELAY_GATE_HOLDER", holder);
        command.args(["--json", "gate", verb, "--token-file"]).arg(remote.token());
        command
    };
    let beat = finish(&mut call("beat"));
    assert_eq!(beat.code, 0, "{}", beat.stderr);
    let standing: Value = serde_json::from_str(&beat.stdout).unwrap();
    assert_eq!(standing["phase"], "migrating");
    let mut keeping = call("beat").arg("--until-closed").spawn().unwrap();
    let mut psql = remote.site.cluster.client("psql");
    psql.env("PGAPPNAME", name).env("PGOPTIONS", opened["environment"]["PGOPTIONS"].as_str().unwrap());
    assert!(psql.args(["-Xqd", "app", "-c", "DROP TABLE orders CASCADE"]).status().unwrap().success());
    let log = remote.site.cluster.room("log").join("log");
    std::fs::write(&log, "dropped\n").unwrap();
    let closed = finish(call("close").args(["--exit", "1", "--output-file"]).arg(&log));
    assert_eq!(closed.code, 21, "{}", closed.stderr);
    let report: Value = serde_json::from_str(&closed.stdout).unwrap();
    assert_eq!(report["outcome"], "restored");
    remote.site.assert_as_before();
    assert!(keeping.wait().unwrap().success());
    let shown = remote.site.belay.json(["runs", "show"]);
    assert_eq!(shown["output"], "dropped\n");
    let again = finish(call("close").args(["--exit", "1"]));
    assert_eq!(again.code, 21, "told again it is taken again: {}", again.stderr);
    let another = finish(call("close").args(["--exit", "0"]));
    assert!(another.stderr.contains("written down already"), "{}", another.stderr);
}

#[test]
fn a_gate_that_nobody_keeps_is_closed_by_the_daemon() {
    let remote = Remote::of(Site::with_gate("")).start();
    open(&remote);
    crate::gate::wait_until("the run is over", || remote.site.newest_run()["phase"] == "done");
    assert_eq!(remote.site.newest_run()["outcome"], "failed_unchanged");
    remote.site.assert_as_before();
}

#[test]
fn a_shell_evaluates_what_a_gate_prints() {
    let remote = Remote::of(Site::with_gate("")).start();
    let script = "eval \"$(\"$BELAY\" gate open --db app --format env)\" && psql -Xqc 'CREATE TABLE extra ()' \
        && \"$BELAY\" gate close --exit 0";
    let token = std::fs::read_to_string(remote.token()).unwrap();
    let runner = remote.runner();
    let mut shell = std::process::Command::new("sh");
    shell.env_clear().envs(runner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.args(["-ec", script]).env("BELAY", env!("CARGO_BIN_EXE_belay")).env("BELAY_TOKEN", token.trim());
    let ran = finish(&mut shell);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("migrated and checked"), "{}", ran.stdout);
}

/// Asks as a client that is not ours.
fn post(remote: &Remote, path: &str, body: &str) -> Answer {
    let token = std::fs::read_to_string(remote.token()).unwrap();
    let fields = format!("{}Content-Type: application/json\r\n", bearer(token.trim()));
    ask(remote.line.connect(), &request("POST", path, &fields, body))
}

#[test]
fn what_another_client_sends_is_masked_and_commands_no_terminal() {
    let remote = Remote::of(Site::with_gate("")).start();
    let words = serde_json::json!([
        "tool",
        "postgresql://u:s3cretpw@/app?x=y&password=qsecret9",
        "--password",
        "hunter2",
        "\u{1b}[2J\n  forged"
    ]);
    let opening = serde_json::json!({ "key": "0123456789", "databases": ["app"], "command": words });
    let opened = post(&remote, "/v1/gates", &opening.to_string());
    assert_eq!(opened.status, 201, "{opened:?}");
    let gate = format!("/v1/gates/{}", opened.json()["run"].as_str().unwrap());
    let claim = || post(&remote, &format!("{gate}/claim"), "{\"holder\": \"0123456789\"}").status;
    crate::gate::wait_until("the go is given", || claim() == 200);
    let mut offset = 0;
    for (piece, stored) in [
        ("see postgresql://u:hun", "see postgresql://u:***"),
        ("ter22@db/x and hunter2\n\u{1b}[2J\rnew", "see postgresql://u:***@db/x and ***\n\u{1b}[2J\rnew"),
        (" http://localhost:80", "see postgresql://u:***@db/x and ***\n\u{1b}[2J\rnew http://localhost:***"),
    ] {
        let told = post(&remote, &format!("{gate}/output?holder=0123456789&offset={offset}"), piece);
        assert_eq!(told.status, 200, "{told:?}");
        offset += piece.len();
        assert_eq!(remote.site.belay.json(["runs", "show"])["output"], stored);
    }
    let exit = "{\"exit\": {\"holder\": \"0123456789\", \"exit\": {\"status\": 1}}}";
    assert_eq!(post(&remote, &format!("{gate}/close"), exit).status, 200);
    crate::gate::wait_until("the run is over", || remote.site.newest_run()["phase"] == "done");
    let shown = remote.site.belay.run(["runs", "show"]).stdout;
    assert!(shown.contains("new http://localhost:80\n"), "what is no login is there in the end: {shown}");
    assert!(
        shown.contains("tool postgresql://u:***@/app?x=y&password=*** --password *** \u{fffd}[2J\u{fffd}")
    );
    assert!(!shown.contains(['\u{1b}', '\r']) && !shown.contains("\n  forged"), "{shown}");
    let json = remote.site.belay.run(["--json", "runs", "show"]).stdout;
    for secret in ["s3cretpw", "qsecret9", "hunter2", "ter22"] {
        assert!(!json.contains(secret) && !remote.log().contains(secret), "{secret}: {json}");
    }
}

#[test]
fn the_password_of_a_url_in_a_file_of_output_does_not_come_up() {
    let remote = Remote::of(Site::with_gate("")).start();
    let opened = open(&remote);
    let log = remote.site.cluster.room("log").join("log");
    std::fs::write(&log, "at postgresql://u:filepw1@db/app\n").unwrap();
    let mut command = remote.runner();
    for (name, key) in [("BELAY_GATE_RUN", "run"), ("BELAY_GATE_HOLDER", "holder")] {
        command.env(name, opened[key].as_str().unwrap());
    }
    command.args(["gate", "close", "--exit", "0", "--token-file"]).arg(remote.token());
    let closed = finish(command.arg("--output-file").arg(&log));
    assert_eq!(closed.code, 0, "{}", closed.stderr);
    assert_eq!(remote.site.belay.json(["runs", "show"])["output"], "at postgresql://u:***@db/app\n");
}
