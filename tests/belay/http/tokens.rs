//! Tokens: without one nothing is shown, and each allows what its role does.

use super::client::{ask, bearer, connect, connect_from, request};
use super::site::Site;
use crate::world::Belay;

fn count(site: &Site, action: &str) -> usize {
    site.events().iter().filter(|event| event["action"] == action).count()
}

#[test]
fn who_has_no_token_that_counts_is_told_nothing() {
    let site = Site::start("");
    let good = site.operator();
    let brief = site.token(&["brief", "--role", "operator", "--expires", "1s"]);
    let (start, end) = good.split_at(good.len() - 4);
    let wrong = format!("{start}{}", if end == "AAAA" { "BBBB" } else { "AAAA" });
    let nobody = format!("belay_0000000000000000_{}", good.rsplit_once('_').unwrap().1);
    let plain = |fields: &str| ask(connect(site.address), &request("GET", "/v1/status", fields, ""));
    let basic = format!("Authorization: Basic {good}\r\n");
    for fields in ["", &bearer(&wrong), &bearer(&nobody), &bearer("belay"), &basic, &bearer("")] {
        let answer = plain(fields);
        assert_eq!(answer.status, 401, "{fields}");
        assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
        assert_eq!(answer.error(), "a valid token is needed");
    }
    site.service.wait_until("it expires", || site.get("/v1/runs", &brief).status == 401);
    assert_eq!(site.get("/v1/status", &good).status, 200);
    assert_eq!(site.belay.run(["token", "revoke", "op"]).code, 0);
    assert_eq!(site.get("/v1/status", &good).status, 401, "it is refused at once");
    assert_eq!(site.belay.run(["token", "revoke", "op"]).code, 3);
    assert_eq!(count(&site, "token_revoke"), 1);
}

#[test]
fn who_fails_too_often_waits_and_nobody_with_a_token_does() {
    let site = Site::start("");
    let good = site.operator();
    let wrong = "belay_0000000000000000_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let mut answers = (0..12).map(|_| site.get("/v1/status", wrong));
    let refused = answers.find(|answer| answer.status != 401).expect("it is not told 401 for ever");
    assert_eq!(refused.status, 429);
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);
    assert_eq!(site.get("/v1/status", &good).status, 200, "many runners may be behind one address");
    let elsewhere = connect_from([127, 0, 0, 2].into(), site.address);
    assert_eq!(ask(elsewhere, &request("GET", "/v1/status", &bearer(&good), "")).status, 200);
    assert!(site.is_well());
    site.service.wait_until("its time is over", || site.get("/v1/status", wrong).status == 401);
}

#[test]
fn a_ci_token_does_nothing_but_what_is_its_own() {
    let site = Site::start("");
    assert_eq!(site.belay.run(["snapshot"]).code, 0);
    let ci = site.token(&["runner", "--role", "ci", "--db", "app"]);
    let (objects, jobs) = (site.objects(), site.belay.json(["status"])["databases"].clone());
    let newest = site.snapshots()[0]["id"].as_str().unwrap().to_owned();
    for (path, body) in [
        ("/v1/snapshots", "{\"database\":\"app\"}"),
        ("/v1/snapshots", "{\"database\":\"crm\"}"),
        ("/v1/verifications", "{\"database\":\"app\",\"depth\":\"stored\"}"),
        ("/v1/verifications", "{\"database\":\"no such\"}"),
    ] {
        let answer = site.post(path, &ci, body);
        assert_eq!(answer.status, 403, "{path} {body}: {answer:?}");
    }
    for path in [
        "/v1/snapshots",
        &format!("/v1/snapshots/{newest}"),
        "/v1/status?database=crm",
        "/v1/runs?database=crm",
    ] {
        assert_eq!(site.get(path, &ci).status, 403, "{path}");
    }
    assert_eq!(site.post("/v1/restores", &ci, "{}").status, 404, "nobody restores over HTTP");
    assert_eq!((site.objects(), site.belay.json(["status"])["databases"].clone()), (objects, jobs));
    let refused = |event: &serde_json::Value| {
        event["actor"]["token"] == "runner" && event["outcome"].as_str().unwrap().starts_with("refused: ")
    };
    assert_eq!(site.events().iter().filter(|event| refused(event)).count(), 8);
    let log = site.belay.run(["audit", "list"]).stdout;
    assert!(log.contains("token runner") && log.contains("ask_snapshot"), "{log}");
}

#[test]
fn a_ci_token_sees_its_own_database_and_nothing_of_the_host() {
    let site = Site::start("");
    for database in ["crm", "app"] {
        site.belay.run(["migrate", "--db", database, "--", "true"]);
    }
    let ci = site.token(&["runner", "--role", "ci", "--db", "app"]);
    let status = site.get("/v1/status", &ci);
    assert_eq!(status.status, 200);
    let told = status.json();
    assert_eq!(told["databases"].as_array().unwrap().len(), 1);
    assert_eq!(told["databases"][0]["database"], "app");
    assert!(!status.body.contains(site.belay.home().to_str().unwrap()), "{}", status.body);
    let runs = site.get("/v1/runs", &ci).json()["runs"].as_array().unwrap().clone();
    assert_eq!(runs.len(), 1, "{runs:?}");
    let all = site.belay.json(["runs", "list"])["runs"].as_array().unwrap().clone();
    assert_eq!(all.len(), 2);
    for run in &all {
        let (id, own) = (run["run"].as_str().unwrap(), run["run"] == runs[0]["run"]);
        assert_eq!(site.get(&format!("/v1/runs/{id}"), &ci).status, if own { 200 } else { 403 });
    }
}

#[test]
fn reports_are_those_of_the_command_line() {
    let site = Site::start("");
    assert_eq!(site.belay.run(["snapshot"]).code, 0);
    let viewer = site.token(&["screen", "--role", "viewer"]);
    assert_eq!(site.get("/v1/snapshots", &viewer).json(), site.belay.json(["list"]));
    let of_app = site.get("/v1/snapshots?database=app", &viewer).json();
    assert_eq!(of_app, site.belay.json(["list", "app"]));
    assert_eq!(site.get("/v1/runs", &viewer).json(), site.belay.json(["runs", "list"]));
    let (told, mut printed) = (site.get("/v1/status", &viewer).json(), site.belay.json(["status"]));
    printed["repository_free_bytes"] = told["repository_free_bytes"].clone();
    assert_eq!(told, printed);
    let id = of_app["snapshots"][0]["id"].as_str().unwrap();
    let shown = site.get(&format!("/v1/snapshots/{id}"), &viewer).json();
    assert_eq!((&shown["id"], &shown["schema"]), (&of_app["snapshots"][0]["id"], &"belay.show.v1".into()));
    assert!(shown.get("table_list").is_none(), "the snapshot is not opened");
    assert_eq!(site.get("/v1/snapshots/20200101T000000Z-aaaaaa", &viewer).status, 404);
    assert_eq!(site.post("/v1/snapshots", &viewer, "{\"database\":\"app\"}").status, 403);
}

#[test]
fn a_token_is_shown_once_and_stored_nowhere() {
    let site = Site::start_logging("", "trace");
    let token = site.operator();
    let secret = token.rsplit_once('_').unwrap().1;
    assert_eq!(site.get("/v1/status", &token).status, 200);
    assert_eq!(site.get(&format!("/v1/runs/{token}"), &token).status, 404);
    assert_eq!(site.get(&format!("/v1/status?token={token}"), &token).status, 400);
    let mut wrong = token.clone();
    wrong.push('A');
    assert_eq!(site.get("/v1/status", &wrong).status, 401);
    let file = site.belay.home().join("token");
    let made =
        site.belay.run(["token", "add", "deploy", "--role", "viewer", "--out", file.to_str().unwrap()]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(!made.stdout.contains(written.trim()) && site.get("/v1/status", written.trim()).status == 200);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let again =
        site.belay.run(["token", "add", "other", "--role", "viewer", "--out", file.to_str().unwrap()]);
    assert_eq!(again.code, 2, "{}", again.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written, "no file is overwritten");
    let listed = site.belay.run(["--json", "token", "list"]).stdout;
    assert!(listed.contains("\"deploy\"") && !listed.contains(secret), "{listed}");
    let state = site.belay.state();
    let ledger: Vec<u8> = ["ledger.sqlite", "ledger.sqlite-wal"]
        .iter()
        .flat_map(|name| std::fs::read(state.join(name)).unwrap())
        .collect();
    let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds(&ledger, "token_add") && !holds(&ledger, secret));
    let ended = site.service.stop();
    assert!(ended.log.contains("DEBUG"), "all is logged");
    assert!(!ended.log.contains(secret), "the log has the token");
}

#[test]
fn a_token_of_ci_needs_a_database_that_is_known() {
    let (_cluster, belay) = Belay::with_an_app("");
    let code = |args: &[&str]| belay.run(["token", "add", "runner"].iter().chain(args)).code;
    assert_eq!(code(&["--role", "ci"]), 2);
    assert_eq!(code(&["--role", "ci", "--db", "crm"]), 3);
    assert_eq!(code(&["--role", "root"]), 2);
    assert_eq!(code(&["--role", "ci", "--db", "app", "--expires", "soon"]), 2);
    assert_eq!(code(&["--role", "ci", "--db", "app"]), 0);
    assert_eq!(code(&["--role", "viewer"]), 10, "the name is taken");
    assert_eq!(belay.run(["token", "revoke", "runner"]).code, 0);
    assert_eq!(code(&["--role", "viewer"]), 0, "it is free again");
    assert_eq!(belay.run(["audit", "verify"]).code, 0);
}
