//! Where one may not be put back, none is, and an operator decides about all.

use super::{HALF_OF_APP, HALF_OF_BILLING, Ran, TwoSite, assert_same, in_app, in_billing, of, state};

/// A run that changed both, and somebody else's commit in `billing` beside it.
fn a_held_site() -> (TwoSite, Ran) {
    let both = TwoSite::with_gate("");
    both.site.pauses.stop_at("command");
    let pause = both.site.pauses.shell("command");
    let mut running =
        both.begin(&format!("{}{}{pause}exit 1", in_app(HALF_OF_APP), in_billing(HALF_OF_BILLING)));
    running.wait_at(&both.site.pauses, "command");
    both.site.cluster.psql("billing", "INSERT INTO invoices VALUES (1000, 1), (1001, 2)");
    both.site.pauses.go_on();
    let ran = running.ran();
    (both, ran)
}

fn halves(both: &TwoSite) -> [String; 2] {
    [
        both.site.cluster.psql("app", "SELECT count(*) FROM users WHERE name = 'half'"),
        both.site.cluster.psql("billing", "SELECT count(*) FROM invoices WHERE total = 0"),
    ]
}

#[test]
fn a_foreign_commit_in_one_keeps_both_as_they_are() {
    let (both, ran) = a_held_site();
    ran.assert_ended(22, "restore_refused");
    assert_eq!(both.failed_databases(), Vec::<String>::new());
    assert_eq!(halves(&both), ["5", "7"]);
    let reasons = ran.reasons();
    let refused: Vec<_> = reasons.lines().filter(|reason| reason.starts_with("not put back")).collect();
    assert_eq!(
        refused,
        [
            "not put back: billing: 1 transaction (2 rows in public.invoices) were committed by others while the migration ran"
        ]
    );
    assert_eq!(of(&ran.report, "app")["foreign"], serde_json::Value::Null);
    assert_eq!(both.site.is_fenced(), Some(true));
    // It is held for either of them.
    for database in ["app", "billing"] {
        let next = both.site.belay.run(["migrate", "--db", database, "--", "true"]);
        assert_eq!(next.code, 10, "{}", next.stderr);
        assert!(next.stdout.contains("is held"), "{}", next.stdout);
    }
}

#[test]
fn an_operator_has_both_put_back() {
    let (both, ran) = a_held_site();
    let run = ran.report["run"].as_str().unwrap();
    // What others committed to one of them is lost by it.
    let refused = both.site.belay.run(["runs", "resolve", run, "--restore"]);
    assert_eq!(refused.code, 22, "{}", refused.stderr);
    assert!(
        refused.stdout.contains("billing: 1 transaction (2 rows in public.invoices)"),
        "{}",
        refused.stdout
    );
    assert_eq!(halves(&both), ["5", "7"]);
    let resolved = both.site.belay.run(["runs", "resolve", run, "--restore", "--accept-loss"]);
    assert_eq!(resolved.code, 0, "{}{}", resolved.stdout, resolved.stderr);
    both.assert_as_before();
    assert_eq!(both.failed_databases().len(), 2);
    let pinned = both.site.belay.json(["list"]);
    let pinned = pinned["snapshots"].as_array().unwrap().iter().filter(|it| it["pinned"] == true).count();
    assert_eq!(pinned, 0);
}

#[test]
fn an_operator_lets_both_be() {
    let (both, ran) = a_held_site();
    let pinned = both.site.belay.json(["list"]);
    let pinned = pinned["snapshots"].as_array().unwrap().iter().filter(|it| it["pinned"] == true).count();
    assert_eq!(pinned, 2);
    let billing = state(&both.site.cluster, "billing");
    let run = ran.report["run"].as_str().unwrap();
    let resolved = both.site.belay.run(["runs", "resolve", run, "--keep"]);
    assert_eq!(resolved.code, 0, "{}", resolved.stderr);
    assert_same(&state(&both.site.cluster, "billing"), &billing);
    assert_eq!(halves(&both), ["5", "7"]);
    assert_eq!(both.site.is_fenced(), Some(false));
}

#[test]
fn what_cannot_be_told_of_one_holds_both() {
    let both = TwoSite::with_gate("");
    // Without the mark of the run, a commit is anybody's.
    let unmarked = format!("PGOPTIONS= {}", in_billing(HALF_OF_BILLING));
    let ran = both.migrate(&format!("{}{unmarked}exit 1", in_app(HALF_OF_APP)));
    ran.assert_ended(30, "unknown");
    assert_eq!(of(&ran.report, "app")["class"], "partial");
    assert_eq!(of(&ran.report, "billing")["class"], "unknown");
    assert_eq!(both.failed_databases(), Vec::<String>::new());
    assert_eq!(halves(&both), ["5", "7"]);
}
