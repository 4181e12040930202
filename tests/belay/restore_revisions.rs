//! `before:REVISION` is the last snapshot from before a revision, or none at all.

use crate::world::{Belay, Cluster, a_cluster};

const REVISIONS: [&str; 4] = ["1a2b3c4d5e6f", "1a9f8e7d6c5b", "2c3d4e5f6a7b", "3e4f5a6b7c8d"];

/// A snapshot at each revision, the oldest first; their ids.
fn snapshots_at_revisions() -> (Cluster, Belay, Vec<String>) {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('')",
    );
    let belay = Belay::new(&cluster, "app");
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    let taken = REVISIONS.map(|revision| {
        cluster.psql("app", &format!("UPDATE alembic_version SET version_num = '{revision}'"));
        belay.json(["snapshot", "app"])["id"].as_str().unwrap().to_owned()
    });
    (cluster, belay, taken.to_vec())
}

#[test]
fn before_a_revision_is_found_by_its_beginning_and_says_where_it_stands() {
    let (_cluster, belay, ids) = snapshots_at_revisions();
    for wanted in [REVISIONS[2], "2c3d", "2"] {
        let shown = belay.json(["show", &format!("before:{wanted}")]);
        assert_eq!(shown["id"], ids[1].as_str(), "{wanted}");
    }
    let restore = ["restore", "app", "--from", "before:3e4f", "--into", "back"];
    let planned = belay.run(restore.iter().chain(&["--plan"]));
    assert!(planned.stdout.contains(&format!("  at revision {}\n", REVISIONS[2])), "{}", planned.stdout);
    let restored = belay.json(restore);
    assert_eq!(
        (&restored["from"], &restored["revision"][0]),
        (&ids[2].as_str().into(), &REVISIONS[2].into())
    );
}

#[test]
fn before_a_revision_that_is_unknown_ambiguous_or_the_first_is_not_found() {
    let (_cluster, belay, _) = snapshots_at_revisions();
    let newest_first: Vec<_> = REVISIONS.into_iter().rev().collect();
    for (wanted, said) in [
        (
            "3e4f5a6b7c8e",
            format!("none has revision 3e4f5a6b7c8e; the newest that they have: {}", newest_first.join(", ")),
        ),
        ("1a", format!("several revisions begin with 1a: {}, {}", REVISIONS[1], REVISIONS[0])),
        (REVISIONS[0], format!("there is none of database app from before revision {}", REVISIONS[0])),
    ] {
        let refused = belay.run(["restore", "app", "--from", &format!("before:{wanted}"), "--into", "back"]);
        assert_eq!(refused.code, 3, "{}", refused.stderr);
        assert!(refused.stderr.contains(&said), "{said:?} is not in {}", refused.stderr);
    }
}
