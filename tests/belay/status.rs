//! `belay status` shows what runs, what failed, and what is kept, as it is by now.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::world::Belay;

fn status(belay: &Belay) -> String {
    let output = belay.run(["status"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    output.stdout
}

fn line_of(text: &str, beginning: &str) -> Option<String> {
    text.lines().find(|line| line.starts_with(beginning)).map(str::to_owned)
}

#[test]
fn a_verification_that_found_damage_is_a_failure() {
    let (_cluster, belay) = Belay::with_an_app("");
    let id = belay.json(["snapshot", "app"])["id"].as_str().unwrap().to_owned();
    let data = belay.repository().join("prod/snapshots/app").join(&id).join("data.dump.gz.age");
    std::fs::write(data, "not what it was").unwrap();
    assert_eq!(belay.run(["verify", &id, "--depth", "stored"]).code, 4);

    let failed = line_of(&status(&belay), "failed ").expect("it is a failure");
    assert!(failed.contains(&format!("verify {id} of app, stored")), "{failed}");
    assert!(failed.contains("data.dump.gz.age"), "{failed}");

    belay.json(["snapshot", "app"]);
    assert_eq!(belay.run(["verify", "latest", "--depth", "stored"]).code, 0);
    let failed = line_of(&status(&belay), "failed ").expect("it is a failure still");
    assert!(failed.contains("ago, a newer one is verified: "), "{failed}");
}

#[test]
fn a_running_job_is_shown_and_a_dead_one_has_failed() {
    let (cluster, belay) = Belay::with_an_app("lock_timeout = \"1h\"\n");
    let mut holder = cluster.client("psql");
    let mut holder =
        holder.args(["-XAtq", "-d", "app"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut orders = holder.stdin.take().unwrap();
    orders.write_all(b"BEGIN; LOCK TABLE t; SELECT 'held';\n").unwrap();
    let mut said = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let mut snapshot = belay.command(["snapshot", "app"]).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let running = loop {
        if let Some(line) = line_of(&status(&belay), "running ") {
            break line;
        }
        assert!(Instant::now() < deadline, "it is never shown");
    };
    assert!(running.contains("snapshot app, since ") && running.contains(" s, process "), "{running}");

    snapshot.kill().unwrap();
    snapshot.wait().unwrap();
    let text = status(&belay);
    assert_eq!(line_of(&text, "running "), None, "{text}");
    let failed = line_of(&text, "last failure").expect("it is a failure");
    assert!(failed.contains("snapshot app") && failed.contains("its process died"), "{failed}");
    drop(orders);
    holder.wait().unwrap();
}

#[test]
fn a_database_set_aside_is_shown_as_it_is_by_now() {
    let (cluster, belay) = Belay::with_an_app("[retention]\nkeep_replaced = \"0s\"\n");
    belay.json(["snapshot", "app"]);
    let swap = || belay.json(["restore", "app", "--swap"])["previous_kept_as"].as_str().unwrap().to_owned();
    let (renamed, dropped) = (swap(), swap());
    assert!(status(&belay).contains(&format!("database {dropped}, once app, until ")));
    cluster.psql("postgres", &format!("ALTER DATABASE {renamed} RENAME TO mine"));
    cluster.psql("postgres", &format!("DROP DATABASE {dropped}"));

    let text = status(&belay);
    assert!(
        text.contains(&format!("database {renamed}, once app, is called mine now: `belay retain` leaves it")),
        "{text}"
    );
    assert!(!text.contains(&dropped), "{text}");

    let first = belay.json(["retain"]);
    assert!(
        first["left"][0].as_str().unwrap().contains("is called mine now: it is left for good"),
        "{first}"
    );
    let second = belay.json(["retain"]);
    assert_eq!(second["left"], serde_json::json!([]), "it is said once");
    assert_eq!(line_of(&status(&belay), "kept "), None);
    assert_eq!(cluster.psql("mine", "SELECT count(*) FROM t"), "100");
}
