//! How a run over two databases ends.

use super::{HALF_OF_APP, HALF_OF_BILLING, TwoSite, in_app, in_billing, of};

#[test]
fn both_are_migrated() {
    let both = TwoSite::with_gate("");
    let script = format!(
        "{}{}",
        in_app("ALTER TABLE users ADD age int"),
        in_billing("ALTER TABLE invoices ADD paid boolean")
    );
    let ran = both.migrate(&script);
    ran.assert_ended(0, "migrated");
    assert_eq!(ran.report["database"], "app");
    assert_eq!(ran.report["class"], "success");
    for (database, change) in
        [("app", "\"users\" has new column age"), ("billing", "\"invoices\" has new column paid")]
    {
        let told = of(&ran.report, database);
        assert_eq!(told["class"], "success", "{}", ran.told);
        assert!(told["changes"][0].as_str().unwrap().contains(change), "{told}");
        let listed = both.site.belay.json(["runs", "list", database]);
        assert_eq!(listed["runs"][0]["run"], ran.report["run"]);
    }
    let snapshots = both.site.belay.json(["list"]);
    assert_eq!(snapshots["snapshots"].as_array().unwrap().len(), 2);
}

#[test]
fn a_database_that_was_not_changed_is_left_alone() {
    let both = TwoSite::with_gate("");
    let (app, billing) = (both.oid("app"), both.oid("billing"));
    let ran = both.migrate(&format!("{}exit 1", in_billing(HALF_OF_BILLING)));
    ran.assert_ended(21, "restored");
    both.assert_as_before();
    assert_eq!(both.oid("app"), app);
    assert_ne!(both.oid("billing"), billing);
    assert_eq!(of(&ran.report, "app")["class"], "unchanged");
    assert_eq!(of(&ran.report, "app")["restored"], false);
    assert_eq!(of(&ran.report, "billing")["class"], "partial");
    assert_eq!(of(&ran.report, "billing")["kept_as"], both.failed_databases()[0].as_str());
    assert_eq!(both.failed_databases().len(), 1);
    assert_eq!(ran.report["restored"], true);
    assert_eq!(ran.report["class"], "partial");
}

#[test]
fn both_are_put_back_when_both_were_changed() {
    let both = TwoSite::with_gate("");
    let ran = both.migrate(&format!("{}{}exit 1", in_app(HALF_OF_APP), in_billing(HALF_OF_BILLING)));
    ran.assert_ended(21, "restored");
    both.assert_as_before();
    let [app, billing] = both.failed_databases().try_into().unwrap();
    assert_eq!(both.site.cluster.psql(&app, "SELECT count(*) FROM users WHERE name = 'half'"), "5");
    assert_eq!(both.site.cluster.psql(&billing, "SELECT count(*) FROM invoices WHERE total = 0"), "7");
    // Each has an expiry of its own.
    let status = both.site.belay.json(["status"]);
    assert_eq!(status["databases_kept"].as_array().unwrap().len(), 2, "{status}");
}

#[test]
fn a_failure_that_changed_nothing_leaves_both() {
    let both = TwoSite::with_gate("");
    let script = in_billing("BEGIN; UPDATE invoices SET total = 0; SELECT 1 / 0");
    both.migrate(&script).assert_ended(20, "failed_unchanged");
    both.assert_as_before();
    assert_eq!(both.failed_databases(), Vec::<String>::new());
}

#[test]
fn a_check_that_one_database_fails_puts_both_back() {
    let checks = "[[gate.check]]\nname = \"total\"\ndatabase = \"billing\"\n\
        sql = \"SELECT sum(total) FROM invoices\"\nexpect = \"unchanged\"\n\
        [[gate.check]]\nname = \"revisions\"\nsql = \"SELECT count(*) FROM alembic_version\"\nexpect = \"= 1\"\n";
    let both = TwoSite::with_gate(checks);
    let add = in_app("ALTER TABLE users ADD age int");
    let ran = both.migrate(&format!("{add}{}", in_billing(HALF_OF_BILLING)));
    ran.assert_ended(25, "checks_failed");
    both.assert_as_before();
    assert_eq!(both.failed_databases().len(), 2);
    let asked: Vec<_> = ran.report["checks"].as_array().unwrap().iter().collect();
    let told = |check: &serde_json::Value| {
        format!(
            "{} {} {}",
            check["name"].as_str().unwrap(),
            check["database"].as_str().unwrap(),
            check["is_ok"]
        )
    };
    let told: Vec<_> = asked.into_iter().map(told).collect();
    assert_eq!(told, ["total billing false", "revisions app true", "revisions billing true"]);
}

#[test]
fn a_check_that_names_another_database_is_not_asked() {
    let checks = "[[gate.check]]\nname = \"total\"\ndatabase = \"billing\"\nsql = \"SELECT sum(total) FROM invoices\"\nexpect = \"unchanged\"\n";
    let both = TwoSite::with_gate(checks);
    let ran = both.site.migrate(&super::shell(&in_app("ALTER TABLE users ADD age int")));
    ran.assert_ended(0, "migrated");
    assert_eq!(ran.report["checks"], serde_json::json!([]));
    assert_eq!(ran.report["databases"].as_array().unwrap().len(), 1);
}

#[test]
fn both_are_put_back_from_copies_that_the_server_made() {
    let both = TwoSite::with_gate("local_copy = \"template\"\n");
    let ran = both.migrate(&format!("{}{}exit 1", in_app(HALF_OF_APP), in_billing(HALF_OF_BILLING)));
    ran.assert_ended(21, "restored");
    both.assert_as_before();
    // The copy of the one that needs none is dropped.
    let ran = both.migrate(&format!("{}exit 1", in_billing(HALF_OF_BILLING)));
    ran.assert_ended(21, "restored");
    both.assert_as_before();
    let left = "SELECT count(*) FROM pg_database WHERE datname LIKE 'belay\\_%'";
    assert_eq!(both.site.cluster.psql("postgres", left), "0");
}

#[test]
fn snapshots_taken_before_the_fence_are_taken_again_when_one_misses_something() {
    let both = TwoSite::with_gate("consistency = \"checked\"\n");
    both.site.pauses.stop_at("raising");
    let mut running = both.begin(&format!("{}{}exit 1", in_app(HALF_OF_APP), in_billing(HALF_OF_BILLING)));
    running.wait_at(&both.site.pauses, "raising");
    both.site.cluster.psql("billing", "INSERT INTO invoices VALUES (1000, 1)");
    both.site.pauses.go_on();
    let ran = running.ran();
    ran.assert_ended(21, "restored");
    let snapshots = ran.phases().iter().filter(|phase| *phase == "snapshotting").count();
    assert_eq!(snapshots, 2, "{}", ran.told);
    assert_eq!(both.site.cluster.psql("billing", "SELECT count(*) FROM invoices WHERE id = 1000"), "1");
    assert_eq!(both.site.cluster.psql("billing", "SELECT count(*) FROM invoices WHERE total = 0"), "0");
    both.site.assert_as_before();
}

#[test]
fn the_command_has_the_address_of_each() {
    let settings = "[gate.environment]\nTARGET = \"{name}\"\nOTHER = \"{billing.name} {billing.user}\"\n";
    let both = TwoSite::with_gate(settings);
    let (host, port) = (both.site.cluster.host().display().to_string(), both.site.cluster.port().to_string());
    let of_keys = format!("host = \"{host}\"\nport = {port}\nname = \"billing\"\nuser = \"postgres\"\n");
    let text = std::fs::read_to_string(both.site.belay.settings()).unwrap();
    assert!(text.contains(&of_keys), "{text}");
    both.site.belay.write_settings(&text.replace(&of_keys, "env_prefix = \"BILLING_DB\"\n"));
    let seen = both.site.pauses.directory().join("seen");
    let script = format!(
        "ask() {{ psql -XAtq \"$@\" -c 'SELECT current_database()'; }}\n\
         {{ ask; ask -d \"$DATABASE_URL\"; ask -d \"$BELAY_DATABASE_URL_APP\"; ask -d \"$BELAY_DATABASE_URL_BILLING\"\n\
         export PGPASSWORD=\"$BILLING_DB_PASSWORD\"; ask -h \"$BILLING_DB_HOST\" -p \"$BILLING_DB_PORT\" -U \"$BILLING_DB_USER\" \"$BILLING_DB_NAME\"\n\
         echo \"$TARGET\"; echo \"$OTHER\"; echo \"$BILLING_DB_HOST\"; }} >>'{}'\n",
        seen.display()
    );
    let mut command = both.site.command(&["--db", "billing", "--rehearse"], &super::shell(&script));
    let variables = [("HOST", host.as_str()), ("PORT", &port), ("NAME", "billing"), ("USER", "postgres")];
    command.envs(variables.map(|(name, value)| (format!("BILLING_DB_{name}"), value)));
    let ran = crate::world::finish(&mut command);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let told = std::fs::read_to_string(&seen).unwrap();
    let told: Vec<_> = told.lines().collect();
    let expected = ["app", "app", "app", "billing", "billing", "app", "billing postgres"];
    assert_eq!([&told[..7], &told[8..15]], [&expected, &expected]);
    // A rehearsal has another one, where the copy is.
    assert_ne!(told[7], host);
    assert_eq!(told[15], host);
}

#[test]
fn a_rehearsal_is_over_both_and_touches_neither() {
    let both = TwoSite::with_gate("");
    let counter = both.site.pauses.directory().join("begun");
    let script = format!(
        "echo begun >>'{counter}'\n{}{}",
        in_app("ALTER TABLE users ADD age int"),
        in_billing("ALTER TABLE invoices ADD paid boolean"),
        counter = counter.display()
    );
    let only = both.site.migrate_with(&["--db", "billing", "--rehearse-only"], &super::shell(&script));
    only.assert_ended(0, "rehearsed");
    both.assert_as_before();
    let ran = both.site.migrate_with(&["--db", "billing", "--rehearse"], &super::shell(&script));
    ran.assert_ended(0, "migrated");
    assert_eq!(std::fs::read_to_string(&counter).unwrap().lines().count(), 3);
    let paid = "SELECT count(*) FROM pg_attribute WHERE attname = 'paid'";
    assert_eq!(both.site.cluster.psql("billing", paid), "1");
}

#[test]
fn a_database_that_goes_another_way_than_on_its_copy_is_put_back_with_the_other() {
    let both = TwoSite::with_gate("");
    let script = format!(
        "{}case \"$BELAY_DATABASE_URL_BILLING\" in *{}*) {};; *) {};; esac\n",
        in_app("ALTER TABLE users ADD age int"),
        both.site.cluster.port(),
        in_billing("ALTER TABLE invoices ADD other int").trim(),
        in_billing("ALTER TABLE invoices ADD paid boolean").trim(),
    );
    let ran = both.site.migrate_with(&["--db", "billing", "--rehearse"], &super::shell(&script));
    ran.assert_ended(21, "restored");
    assert!(
        ran.reasons().contains("billing: the schema is not the one that the rehearsal reached"),
        "{}",
        ran.told
    );
    both.assert_as_before();
    assert_eq!(both.failed_databases().len(), 2);
}

#[test]
fn the_screen_tells_of_each() {
    let both = TwoSite::with_gate("");
    both.migrate(&format!("{}{}exit 1", in_app(HALF_OF_APP), in_billing(HALF_OF_BILLING)))
        .assert_ended(21, "restored");
    let shown = both.site.belay.run(["runs", "show", "latest"]);
    for said in ["  app, billing: ", "database   app\n", "database   billing\n", "kept as    billing_failed_"]
    {
        assert!(shown.stdout.contains(said), "{said:?} is not in: {}", shown.stdout);
    }
}

#[test]
fn a_report_for_pipelines_tells_of_each() {
    let both = TwoSite::with_gate("");
    let (junit, summary) =
        (both.site.pauses.directory().join("report.xml"), both.site.pauses.directory().join("summary.md"));
    let options = ["--db", "billing", "--junit", junit.to_str().unwrap()];
    let script = format!("{}exit 1", in_billing(HALF_OF_BILLING));
    let mut command = both.site.command(&options, &super::shell(&script));
    command.env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", &summary);
    assert_eq!(crate::world::finish(&mut command).code, 21);
    let told = std::fs::read_to_string(&junit).unwrap();
    assert!(told.contains("name=\"database app\"") && told.contains("name=\"database billing\""), "{told}");
    assert!(told.contains("belay migrate app, billing") && told.contains("billing_failed_"), "{told}");
    let summary = std::fs::read_to_string(&summary).unwrap();
    assert!(summary.contains("database billing") && summary.contains("partial"), "{summary}");
}
