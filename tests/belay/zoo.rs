//! The zoo itself is sound: what PostgreSQL's own programs dump and restore of it is all of it.

use std::process::Command;

use rstest::rstest;

use crate::world::{Plan, a_cluster, a_cluster_of, with_partitions_gathered, without_run};

/// Fills a zoo, and restores it by stock programs as a database of the same name.
fn survives_stock_dump_and_restore(plan: Plan) {
    let cluster = plan.with_menagerie().start();
    cluster.fill_zoo("zoo");
    let before = cluster.dump("zoo");
    let properties = cluster.properties("zoo");
    let archive = cluster.room("archive").join("zoo.dump");
    cluster.run(cluster.client("pg_dump").args(["-Fc", "-Z0", "-d", "zoo", "-f"]).arg(&archive));
    cluster.psql("postgres", "ALTER DATABASE zoo RENAME TO zoo_before");
    // What newer clients write of a database as such, servers before 15 do not understand.
    let creates = cluster.major() >= 15;
    let mut restore = cluster.client("pg_restore");
    if creates {
        restore.args(["--create", "-d", "postgres"]);
    } else {
        cluster.create_database("zoo");
        restore.args(["-d", "zoo"]);
    }
    cluster.run(restore.arg("--exit-on-error").arg(&archive));
    assert_eq!(first_difference(&before, &cluster.dump("zoo")), None);
    if creates {
        assert_eq!(cluster.properties("zoo"), properties);
    }
}

/// Returns where the first line that differs begins to do so, which is easier to read than two dumps.
fn first_difference(one: &str, other: &str) -> Option<String> {
    let (one, other) = (with_partitions_gathered(one), with_partitions_gathered(other));
    let (mut these, mut those) = (one.lines(), other.lines());
    (1..)
        .find_map(|number| match (these.next(), those.next()) {
            (None, None) => Some(None),
            (this, that) if this == that => None,
            (this, that) => Some(Some((number, this.unwrap_or("the end"), that.unwrap_or("the end")))),
        })?
        .map(|(number, this, that): (usize, &str, &str)| {
            let same = this.chars().zip(that.chars()).take_while(|(a, b)| a == b).count();
            let part = |line: &str| line.chars().skip(same.saturating_sub(60)).take(200).collect::<String>();
            format!("line {number}, character {same}:\n{}\n{}", part(this), part(that))
        })
}

#[test]
fn zoo_survives_stock_dump_and_restore() {
    survives_stock_dump_and_restore(a_cluster());
}

#[rstest]
#[ignore = "needs the servers of scripts/test --all-versions"]
fn zoo_survives_stock_dump_and_restore_on(#[values(12, 13, 14, 15, 16, 17, 18)] major: u32) {
    survives_stock_dump_and_restore(a_cluster_of(major));
}

#[test]
fn zoo_is_the_same_each_time_it_is_filled() {
    let cluster = a_cluster().with_menagerie().start();
    cluster.fill_zoo("one");
    cluster.fill_zoo("other");
    assert_eq!(first_difference(&cluster.dump("one"), &cluster.dump("other")), None);
}

#[rstest]
#[ignore = "needs the servers of scripts/test --all-versions"]
fn zoo_of_each_major_restores_into_the_next(#[values(12, 13, 14, 15, 16, 17)] major: u32) {
    let (old, new) =
        (a_cluster_of(major).with_menagerie().start(), a_cluster_of(major + 1).with_menagerie().start());
    old.fill_zoo("zoo");
    if !new
        .psql("postgres", "SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'")
        .contains("lz4")
    {
        old.psql("zoo", "SET zoo.allow_ddl = 'yes'; DROP TABLE IF EXISTS zoo.compressed");
    }
    let room = new.room("archive");
    let at_old = |program: &str| {
        let mut client = new.client(program);
        client.env("PGHOST", old.host()).env("PGPORT", old.port().to_string());
        client
    };
    new.run(at_old("pg_dumpall").arg("--roles-only").arg("-f").arg(room.join("roles.sql")));
    new.run(new.client("psql").args(["-Xq", "-d", "postgres", "-f"]).arg(room.join("roles.sql")));
    new.run(at_old("pg_dump").args(["-Fc", "-Z0", "-d", "zoo", "-f"]).arg(room.join("zoo.dump")));
    new.create_database("zoo");
    new.run(new.client("pg_restore").args(["--exit-on-error", "-d", "zoo"]).arg(room.join("zoo.dump")));
    let data = |mut client: Command| without_run(&new.run(client.args(["--data-only", "-d", "zoo"])));
    assert_eq!(first_difference(&data(at_old("pg_dump")), &data(new.client("pg_dump"))), None);
}
