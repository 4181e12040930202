//! A bare machine needs the repository, an identity and the recovery kit; nothing of the host.

use std::process::Command;

use crate::world::{Belay, Cluster, a_cluster};

/// A snapshot of a small database, and the signing public key of its recovery kit.
fn a_snapshot() -> (Cluster, Belay, String) {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql("app", "CREATE TABLE t AS SELECT generate_series(1, 100) AS n");
    let belay = Belay::new(&cluster, "app");
    for args in [["init", "--single-recipient"], ["snapshot", "app"]] {
        let done = belay.run(args);
        assert_eq!(done.code, 0, "{}", done.stderr);
    }
    let kit = std::fs::read_to_string(belay.state().join("recovery-kit.txt")).expect("read the recovery kit");
    let signer =
        kit.lines().find_map(|line| line.strip_prefix("signing public key")).expect("the kit names it");
    let signer = signer.trim().to_owned();
    (cluster, belay, signer)
}

/// `belay restore --standalone` with what the kit tells but the signer; its settings are not there.
fn standalone(cluster: &Cluster, belay: &Belay, more: &[&str]) -> Command {
    let identity = belay.home().join("carried-away.txt");
    std::fs::copy(belay.state().join("keys/identity.txt"), &identity).expect("copy the identity");
    let mut command = belay.command(["restore", "app", "--standalone", "--repository"]);
    command
        .arg(format!("file://{}", belay.repository().display()))
        .arg("--identity")
        .arg(identity)
        .args(more);
    command
        .env("BELAY_CONFIG", "/nonexistent")
        .env("PGHOST", cluster.host())
        .env("PGPORT", cluster.port().to_string());
    command.env("PGUSER", "postgres").env("TMPDIR", cluster.host());
    command
}

fn ended(command: &mut Command) -> (i32, String) {
    let output = command.output().expect("run belay");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or_default(), text)
}

/// Databases, and temporary directories that are left.
fn traces(cluster: &Cluster) -> (String, usize) {
    let databases =
        cluster.psql("postgres", "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1");
    let left = cluster.host().read_dir().expect("read the world").flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("belay-standalone-"));
    (databases, left.count())
}

#[test]
fn a_bare_machine_restores_with_the_recovery_kit() {
    let (cluster, belay, signer) = a_snapshot();
    std::fs::remove_file(belay.settings()).unwrap();
    let (code, text) =
        ended(&mut standalone(&cluster, &belay, &["--trust-signer", &signer, "--into", "copy"]));
    assert_eq!(code, 0, "{text}");
    assert_eq!(cluster.psql("copy", "SELECT sum(n) FROM t"), "5050");
    assert_eq!(traces(&cluster), ("app\ncopy\npostgres".into(), 0));
}

#[test]
fn a_bare_machine_restores_from_manifests_alone_where_the_record_is_lost() {
    let (cluster, belay, signer) = a_snapshot();
    std::fs::remove_file(belay.repository().join("belay.json")).unwrap();
    let trusting = ["--trust-signer", &signer, "--into", "copy"];
    let (code, text) = ended(&mut standalone(&cluster, &belay, &[&trusting[..], &["--plan"]].concat()));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("warning: belay.json is missing"), "{text}");
    let (code, text) = ended(&mut standalone(&cluster, &belay, &trusting));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("note: belay.json is missing"), "{text}");
    assert_eq!(cluster.psql("copy", "SELECT sum(n) FROM t"), "5050");

    // The public key of RFC 8032's first test: somebody, but not this host.
    let somebody = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let (code, text) =
        ended(&mut standalone(&cluster, &belay, &["--trust-signer", somebody, "--into", "other"]));
    assert_eq!(code, 4, "{text}");
    assert_eq!(traces(&cluster), ("app\ncopy\npostgres".into(), 0));
}

#[test]
fn a_bare_machine_swaps_and_keeps_the_previous_database() {
    let (cluster, belay, signer) = a_snapshot();
    cluster.psql("app", "DROP TABLE t");
    let (code, text) = ended(&mut standalone(&cluster, &belay, &["--trust-signer", &signer, "--swap"]));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("nothing will remove app_kept_"), "{text}");
    assert_eq!(cluster.psql("app", "SELECT sum(n) FROM t"), "5050");
}

#[test]
fn without_a_signer_to_trust_nothing_is_restored() {
    let (cluster, belay, _) = a_snapshot();
    let (code, text) = ended(&mut standalone(&cluster, &belay, &["--into", "copy"]));
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("recovery kit"), "{text}");
    assert_eq!(traces(&cluster), ("app\npostgres".into(), 0));
}

#[test]
fn what_a_stranger_signed_is_named_and_not_restored() {
    let (cluster, belay, signer) = a_snapshot();
    // The public key of RFC 8032's first test: somebody, but not this host.
    let somebody = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let (code, text) =
        ended(&mut standalone(&cluster, &belay, &["--trust-signer", somebody, "--into", "copy"]));
    assert_eq!(code, 4, "{text}");
    assert!(text.contains(&signer), "{text}");
    assert_eq!(traces(&cluster), ("app\npostgres".into(), 0));
}

#[test]
fn of_several_clusters_one_must_be_named() {
    let (cluster, belay, signer) = a_snapshot();
    let prod = belay.repository().join("prod");
    let copied =
        Command::new("cp").arg("-a").arg(&prod).arg(belay.repository().join("stage")).status().unwrap();
    assert!(copied.success());
    let trusting = ["--trust-signer", &signer, "--into", "copy"];
    let (code, text) = ended(&mut standalone(&cluster, &belay, &trusting));
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("prod, stage"), "{text}");
    let stage = [&trusting[..], &["--cluster", "stage"]].concat();
    let (code, text) = ended(&mut standalone(&cluster, &belay, &stage));
    assert_eq!(code, 4, "a manifest copied to another cluster is not believed: {text}");
    let (code, text) =
        ended(&mut standalone(&cluster, &belay, &[&trusting[..], &["--cluster", "pord"]].concat()));
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("nothing of cluster pord; it holds prod, stage"), "{text}");
    let prod = [&trusting[..], &["--cluster", "prod"]].concat();
    assert_eq!(ended(&mut standalone(&cluster, &belay, &prod)).0, 0);
}
