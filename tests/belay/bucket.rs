//! A repository in a bucket: from `init` to a restored database, also over a network that fails.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use crate::world::bucket::{ACCESS_KEY, BUCKET, SECRET_KEY};
use crate::world::{Belay, Bucket, Cluster, Fault, Proxy, a_cluster, seed};

/// A database with a table that goes in chunks, and small ones.
fn a_database() -> Cluster {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE TABLE large AS SELECT n, md5(n::text) || md5((n * 7)::text) AS noise FROM generate_series(1, 120000) AS n;
         CREATE TABLE small AS SELECT generate_series(1, 100) AS n",
    );
    cluster
}

/// An installation whose repository is in the bucket, spoken to at `endpoint`.
pub fn an_installation(cluster: &Cluster, endpoint: &str) -> Belay {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let belay = Belay::with_settings(cluster, "app", "large_table = \"64KiB\"\nchunk = \"4MiB\"\n");
    let keys = belay.home().join("s3-keys");
    let pair = format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    std::fs::write(&keys, pair).unwrap();
    let owner = std::fs::metadata(belay.home()).unwrap();
    std::os::unix::fs::chown(&keys, Some(owner.uid()), Some(owner.gid())).unwrap();
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o600)).unwrap();
    let local = format!("url = \"file://{}/repository\"\n", belay.home().display());
    let bucket = format!(
        "url = \"s3://{BUCKET}/belay\"\nendpoint = \"{endpoint}\"\ncredentials_file = \"{}\"\n\
         part_size = \"5MiB\"\nattempts = 6\n",
        keys.display()
    );
    let settings = std::fs::read_to_string(belay.settings()).unwrap();
    assert!(settings.contains(&local), "{settings}");
    belay.write_settings(&settings.replace(&local, &bucket));
    belay
}

/// Has the bucket spoken to at another `endpoint`.
pub fn set_endpoint(belay: &Belay, endpoint: &str, attempts: u32) {
    let settings = std::fs::read_to_string(belay.settings()).unwrap();
    let changed = settings.lines().map(|line| match line.split_once(" = ") {
        Some(("endpoint", _)) => format!("endpoint = \"{endpoint}\"\n"),
        Some(("attempts", _)) => format!("attempts = {attempts}\n"),
        _ => format!("{line}\n"),
    });
    belay.write_settings(&changed.collect::<String>());
}

pub fn done<const N: usize>(belay: &Belay, args: [&str; N]) -> String {
    let output = belay.run(args);
    assert_eq!(output.code, 0, "{args:?}: {}{}", output.stdout, output.stderr);
    output.stdout
}

#[test]
fn a_snapshot_in_a_bucket_is_verified_and_restored() {
    let (cluster, bucket) = (a_database(), Bucket::start());
    let belay = an_installation(&cluster, &bucket.endpoint());
    let kit = done(&belay, ["init", "--single-recipient"]);
    assert!(kit.contains("aws s3 cp --recursive s3://backups/belay/prod prod"), "{kit}");
    let again = belay.run(["init", "--single-recipient"]);
    assert_eq!(again.code, 10, "{}", again.stderr);
    let checked = done(&belay, ["check"]);
    assert!(
        checked.contains("bucket: objects in one and in several parts are kept; a second write"),
        "{checked}"
    );
    assert!(checked.contains("it lists no unfinished uploads"), "{checked}");
    let remembered = std::fs::read_to_string(belay.state().join("bucket.json")).unwrap();
    assert!(remembered.contains("\"honours_conditions\":true"), "{remembered}");

    done(&belay, ["snapshot", "app"]);
    done(&belay, ["verify", "latest", "--depth", "restored"]);
    done(&belay, ["restore", "app", "--from", "latest", "--into", "copy"]);
    assert_eq!(cluster.psql("copy", "SELECT count(*), sum(n) FROM large"), "120000|7200060000");
    done(&belay, ["retain"]);
    assert_eq!(bucket.uploads(), 0);

    // A bare machine: nothing but the address, the keys and the kit.
    let signer = kit.lines().find_map(|line| line.strip_prefix("signing public key")).unwrap().trim();
    let identity = belay.home().join("carried-away.txt");
    std::fs::copy(belay.state().join("keys/identity.txt"), &identity).unwrap();
    let mut command = belay.command(["restore", "app", "--standalone", "--repository", "s3://backups/belay"]);
    command.arg("--identity").arg(identity).args(["--trust-signer", signer, "--into", "bare"]);
    command.env("BELAY_CONFIG", "/nonexistent").env("PGHOST", cluster.host());
    command.env("PGPORT", cluster.port().to_string()).env("PGUSER", "postgres").env("TMPDIR", cluster.host());
    command.env("AWS_ENDPOINT_URL", bucket.endpoint());
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    let restored = crate::world::finish(&mut command);
    assert_eq!(restored.code, 0, "{}{}", restored.stdout, restored.stderr);
    assert_eq!(cluster.psql("bare", "SELECT count(*) FROM small"), "100");
}

#[test]
fn a_snapshot_over_a_network_that_cuts_lists_only_what_verifies() {
    let seed = seed();
    let (cluster, bucket) = (a_database(), Bucket::start());
    let belay = an_installation(&cluster, &bucket.endpoint());
    done(&belay, ["init", "--single-recipient"]);
    // Every second round is so bad that it fails; the others get through by trying again.
    for round in 0..4u64 {
        let is_bad = round % 2 == 1;
        let share = if is_bad { 0.98 } else { 0.2 };
        let proxy = Proxy::start(bucket.address(), move |number, line| {
            let mut random = Xoshiro256PlusPlus::seed_from_u64(seed ^ (round << 32) ^ number as u64);
            let is_spared = is_bad && !line.starts_with("PUT");
            match (random.random_bool(share) && !is_spared, is_bad || random.random_bool(0.5)) {
                (false, _) => Fault::None,
                (true, true) => Fault::CutRequest(random.random_range(0..1_000)),
                (true, false) => Fault::CutAnswer(random.random_range(0..100)),
            }
        });
        let before = listed(&belay, &bucket);
        set_endpoint(&belay, &proxy.endpoint(), if is_bad { 2 } else { 6 });
        let taken = belay.run(["snapshot", "app"]);
        eprintln!("round {round}: {} after {} requests", taken.code, proxy.asked().len());
        assert_eq!(taken.code, if is_bad { 5 } else { 0 }, "{}", taken.stderr);
        let after = listed(&belay, &bucket);
        assert!(after >= before + usize::from(taken.code == 0), "{}", taken.stderr);
    }
    for id in ids(&belay) {
        done(&belay, ["verify", &id, "--depth", "readable"]);
    }
    assert!(ids(&belay).len() >= 2, "the better rounds got through");
    assert_eq!(bucket.uploads(), 0);
}

/// How many snapshots are listed, asked for without a fault between.
fn listed(belay: &Belay, bucket: &Bucket) -> usize {
    set_endpoint(belay, &bucket.endpoint(), 6);
    ids(belay).len()
}

pub fn ids(belay: &Belay) -> Vec<String> {
    let listing = belay.json(["list"]);
    let snapshots = listing["snapshots"].as_array().unwrap();
    snapshots.iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
}
