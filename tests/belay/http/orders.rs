//! Orders: the daemon does what an operator asks for, once, and under its locks.

use serde_json::Value;

use super::site::Site;
use crate::world::Client;

const APP: &str = "{\"database\":\"app\"}";

/// Somebody holds the one table, so that a snapshot waits for it.
fn a_locked_table(site: &Site) -> Client {
    let hold = "BEGIN; LOCK TABLE t; SELECT pg_sleep(600)";
    let client = Client::start(site.cluster.client("psql").args(["-XAtqd", "app", "-c", hold]));
    site.service.wait_until("the table is locked", || {
        site.cluster.psql("app", "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND granted")
            == "1"
    });
    client
}

fn release(site: &Site, holder: Client) {
    drop(holder);
    site.cluster.psql("app", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()");
}

fn running(site: &Site) -> usize {
    site.belay.json(["status"])["running"].as_array().unwrap().len()
}

fn by(events: &[Value], token: &str) -> Vec<String> {
    let of_token = events.iter().filter(|event| event["actor"]["token"] == token);
    of_token.map(|event| event["action"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_operator_has_a_snapshot_taken_and_verified() {
    let site = Site::start("");
    let operator = site.operator();
    let taken = site.post("/v1/snapshots", &operator, APP);
    assert_eq!(taken.status, 202, "{taken:?}");
    let told = taken.json();
    assert_eq!(
        (&told["job"], &told["state"], &told["database"]),
        (&"snapshot".into(), &"begun".into(), &"app".into())
    );
    site.service.wait_until("the snapshot is there", || site.snapshots().len() == 1);
    let id = site.snapshots()[0]["id"].as_str().unwrap().to_owned();
    site.service.wait_until("nothing runs", || running(&site) == 0);
    let body = format!("{{\"database\":\"app\",\"snapshot\":\"{id}\",\"depth\":\"stored\"}}");
    let verified = site.post("/v1/verifications", &operator, &body);
    assert_eq!((verified.status, &verified.json()["snapshot"]), (202, &id.as_str().into()), "{verified:?}");
    site.service.wait_until("it is verified", || site.snapshots()[0]["verified"]["depth"] == "stored");
    site.service.wait_until("it is noted", || by(&site.events(), "op").len() == 5);
    let noted = by(&site.events(), "op");
    for action in ["token_use", "ask_snapshot", "snapshot", "ask_verify", "verify"] {
        assert!(noted.iter().any(|noted| noted == action), "{action}: {noted:?}");
    }
    let missing = site.post("/v1/verifications", &operator, "{\"database\":\"crm\"}");
    assert_eq!(missing.status, 404, "{missing:?}");
    assert_eq!(site.post("/v1/snapshots", &operator, "{\"database\":\"nowhere\"}").status, 404);
    let ended = site.service.stop();
    assert!(!ended.log.contains("ERROR"), "{}", ended.log);
}

#[test]
fn what_runs_already_is_not_begun_again() {
    let site = Site::start("");
    let operator = site.operator();
    assert_eq!(site.belay.run(["snapshot", "app"]).code, 0);
    let holder = a_locked_table(&site);
    assert_eq!(site.post("/v1/snapshots", &operator, APP).json()["state"], "begun");
    site.service.wait_until("it waits for the table", || running(&site) == 1);
    let again = site.post("/v1/snapshots", &operator, APP);
    assert_eq!((again.status, &again.json()["state"]), (202, &"running".into()), "{again:?}");
    let beside = site.post("/v1/verifications", &operator, APP);
    assert_eq!(beside.status, 409, "{beside:?}");
    assert!(beside.head.contains("retry-after: "), "{beside:?}");
    let other = site.post("/v1/snapshots", &operator, "{\"database\":\"crm\"}");
    assert_eq!((other.status, &other.json()["state"]), (202, &"begun".into()), "{other:?}");
    release(&site, holder);
    site.service.wait_until("all are there", || site.snapshots().len() == 3);
}

#[test]
fn an_order_waits_for_nobody_else() {
    let site = Site::start("");
    let operator = site.operator();
    let holder = a_locked_table(&site);
    let mut command = site.belay.command(["snapshot", "app"]);
    let mut by_hand =
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    site.service.wait_until("the command line takes one", || running(&site) == 1);
    let refused = site.post("/v1/snapshots", &operator, APP);
    assert_eq!(refused.status, 409, "{refused:?}");
    release(&site, holder);
    assert!(by_hand.wait().unwrap().success());
    assert_eq!(site.snapshots().len(), 1);
}

#[test]
fn a_daemon_that_stops_takes_no_orders() {
    let site = Site::start("");
    let operator = site.operator();
    let holder = a_locked_table(&site);
    assert_eq!(site.post("/v1/snapshots", &operator, APP).status, 202);
    site.service.wait_until("it waits for the table", || running(&site) == 1);
    site.service.terminate();
    site.service.wait_for("STOPPING=1");
    let refused = site.post("/v1/snapshots", &operator, "{\"database\":\"crm\"}");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(site.get("/v1/status", &operator).status, 200, "it still tells how it is");
    release(&site, holder);
    let Site { service, belay, cluster: _cluster, .. } = site;
    assert_eq!(service.ended().code, 0);
    assert_eq!(belay.json(["list"])["snapshots"].as_array().unwrap().len(), 1);
}
