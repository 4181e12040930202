use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rstest::rstest;

use super::site::{Site, a_site, a_site_on, flipped, text_of};
use crate::death::programs::Programs;
use crate::death::wait_until;
use crate::world::{a_cluster, a_cluster_of};

/// Every file below a directory, with what would tell that it was written.
fn files(directory: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let about = entry.metadata().unwrap();
            if about.is_dir() {
                directories.push(entry.path());
            }
            found.insert(entry.path(), (about.ino(), about.modified().unwrap()));
        }
    }
    found
}

fn stored(site: &Site) {
    site.wait_until_stored(&site.lsn());
}

fn mapping(old: &Path, new: &Path) -> String {
    format!("--tablespace-mapping={}={}", old.display(), new.display())
}

#[test]
fn a_cluster_comes_back_with_its_tablespaces_where_they_are_mapped() {
    let site = a_site();
    let (fast, slow) = (site.make_tablespace("fast", 50_000), site.make_tablespace("slow", 10));
    let receiver = site.receive();
    let base = site.base();
    let names: Vec<_> = base["tablespaces"].as_array().unwrap().iter().map(|t| t["name"].clone()).collect();
    assert_eq!(names, ["fast", "slow"]);
    site.cluster.psql("app", "INSERT INTO fast_rows SELECT generate_series(50001, 60000); CHECKPOINT");
    stored(&site);
    receiver.end();
    let live = [files(&fast), files(&slow)];
    let world = site.cluster.room("recovered");
    let (data, here, there) = (world.join("data"), world.join("fa=st"), world.join("slow"));
    let escaped = PathBuf::from(here.to_string_lossy().replace('=', "\\="));
    let into = data.to_string_lossy().into_owned();
    let to = [mapping(&fast, &escaped), mapping(&slow, &there)];
    let recovered = site.belay.run(["recover", "--into", &into, &to[0], &to[1]]);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    assert!(!recovered.stdout.contains("not compared"), "{}", recovered.stdout);
    assert_eq!([files(&fast), files(&slow)], live, "the live tablespaces are as they were");
    for directory in [&data, &here, &there] {
        assert_eq!(std::fs::metadata(directory).unwrap().permissions().mode() & 0o777, 0o700);
    }
    let again = a_cluster().start_on(&world);
    assert_eq!(again.psql("app", "SELECT count(*) FROM fast_rows"), "60000");
    assert_eq!(again.psql("app", "SELECT count(*) FROM slow_rows"), "10");
    let locations =
        "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname IN ('fast', 'slow') ORDER BY 1";
    let expected = format!("{}\n{}", here.display(), there.display());
    assert_eq!(again.psql("app", locations), expected);
    again.psql("app", "INSERT INTO slow_rows VALUES (11); CHECKPOINT");
    assert_eq!([files(&fast), files(&slow)], live);
}

#[test]
fn a_database_of_a_moment_comes_from_tablespaces_without_touching_the_live_ones() {
    let site = a_site();
    let fast = site.make_tablespace("fast", 1_000);
    let receiver = site.receive();
    site.base();
    let moment = site.now();
    site.cluster.psql("app", "DELETE FROM fast_rows; CHECKPOINT");
    stored(&site);
    receiver.end();
    let live = files(&fast);
    let then = site.belay.run(["restore", "app", "--at", &text_of(moment), "--into", "back"]);
    assert_eq!(then.code, 0, "{}", then.stderr);
    assert_eq!(site.cluster.psql("back", "SELECT count(*) FROM fast_rows"), "1000");
    site.cluster.psql("postgres", "DROP DATABASE back; CHECKPOINT");
    let after = files(&fast);
    let changed = live.iter().filter(|(path, about)| after.get(*path).is_some_and(|found| found != *about));
    let changed: Vec<_> = changed.filter(|(path, _)| path.is_file()).collect();
    assert!(changed.is_empty(), "{changed:?}");
    assert_eq!(site.listed().1, 0);
}

#[rstest]
#[case::tablespaces_before(true)]
#[case::none_before(false)]
fn a_tablespace_made_after_the_base_backup_is_made_within_the_scratch_cluster(#[case] has_one: bool) {
    let site = a_site();
    if has_one {
        site.make_tablespace("early", 10);
    }
    let receiver = site.receive();
    site.base();
    let late = site.make_tablespace("late", 5_000);
    site.cluster.psql("app", "CHECKPOINT");
    stored(&site);
    // What is written now is in none of the log that is replayed.
    receiver.end();
    site.cluster.psql("app", "UPDATE late_rows SET n = -n; VACUUM late_rows; CHECKPOINT");
    let live = files(&late);
    let restored = site.restore("latest");
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    assert_eq!(site.cluster.psql("back", "SELECT count(*), min(n) FROM late_rows"), "5000|1");
    site.cluster.psql("postgres", "DROP DATABASE back");
    let after = files(&late);
    let files_before = live.iter().filter(|(path, _)| path.is_file());
    for (path, about) in files_before {
        assert_eq!(after.get(path), Some(about), "{}", path.display());
    }
    assert_eq!(site.cluster.psql("app", "SELECT count(*), max(n) FROM late_rows"), "5000|-1");
}

#[test]
fn a_whole_cluster_with_a_later_tablespace_keeps_off_a_directory_in_use() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    let late = site.make_tablespace("late", 500);
    site.cluster.psql("app", "CHECKPOINT");
    stored(&site);
    receiver.end();
    let live = files(&late);
    let world = site.cluster.room("recovered");
    let into = world.join("data").to_string_lossy().into_owned();
    let recovered = site.belay.run(["recover", "--into", &into]);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    assert!(recovered.stdout.contains("its directory is in use"), "{}", recovered.stdout);
    assert_eq!(files(&late), live);
    assert_eq!(a_cluster().start_on(&world).psql("app", "SELECT count(*) FROM late_rows"), "500");
    assert_eq!(files(&late), live);

    // On a bare host, where nothing is.
    site.cluster.psql("app", "DROP TABLE late_rows");
    site.cluster.psql("app", "DROP TABLESPACE late");
    let bare = site.cluster.room("bare");
    let into = bare.join("data").to_string_lossy().into_owned();
    let recovered = site.belay.run(["recover", "--into", &into]);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    assert!(!recovered.stdout.contains("its directory is in use"), "{}", recovered.stdout);
    let again = a_cluster().start_on(&bare);
    assert_eq!(again.psql("app", "SELECT count(*) FROM late_rows"), "500");
    let location = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'late'";
    assert_eq!(again.psql("app", location), late.display().to_string());
}

#[test]
fn tablespaces_go_where_they_were_if_nothing_is_there() {
    let site = a_site();
    let fast = site.make_tablespace("fast", 100);
    let receiver = site.receive();
    site.base();
    stored(&site);
    receiver.end();
    let world = site.cluster.room("recovered");
    let into = world.join("data").to_string_lossy().into_owned();
    let live = files(&fast);
    let refused = site.belay.run(["recover", "--into", &into]);
    assert_eq!(refused.code, 10, "{}", refused.stderr);
    let sentence = format!("tablespace fast goes to {}, which is not empty", fast.display());
    assert!(refused.stderr.contains(&sentence), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: --tablespace-mapping OLD=NEW"), "{}", refused.stderr);
    let elsewhere = mapping(Path::new("/nowhere"), &world.join("x"));
    let unknown = site.belay.run(["recover", "--into", &into, &elsewhere]);
    assert_eq!(unknown.code, 10, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("no tablespace of the base backup is at /nowhere"), "{}", unknown.stderr);
    for same in [world.join("data"), world.join("data/fast")] {
        let into_itself = site.belay.run(["recover", "--into", &into, &mapping(&fast, &same)]);
        assert_eq!(into_itself.code, 10, "{}", into_itself.stderr);
        assert!(into_itself.stderr.contains("would be one directory"), "{}", into_itself.stderr);
    }
    let nonsense = site.belay.run(["recover", "--into", &into, "--tablespace-mapping", "fast"]);
    assert_eq!(nonsense.code, 2, "{}", nonsense.stderr);
    assert_eq!(files(&fast), live);
    assert!(!world.join("data").exists());

    site.cluster.psql("app", "DROP TABLE fast_rows");
    site.cluster.psql("app", "DROP TABLESPACE fast");
    let recovered = site.belay.run(["recover", "--into", &into]);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    assert_eq!(a_cluster().start_on(&world).psql("app", "SELECT count(*) FROM fast_rows"), "100");
}

#[test]
fn a_tablespace_that_is_damaged_in_the_store_is_named() {
    let site = a_site();
    site.make_tablespace("fast", 50_000);
    let receiver = site.receive();
    let base = site.base();
    stored(&site);
    receiver.end();
    let oid = base["tablespaces"][0]["oid"].to_string();
    for object in [format!("{oid}.tar.gz.age"), "backup_manifest.gz.age".into()] {
        let path = site.object(&base, &object);
        let good = flipped(&path);
        let restored = site.restore("latest");
        assert!([4, 5].contains(&restored.code), "{object}: {} {}", restored.code, restored.stderr);
        assert!(restored.stderr.contains(&object), "{object}: {}", restored.stderr);
        std::fs::remove_file(&path).unwrap();
        let restored = site.restore("latest");
        assert_eq!(restored.code, 4, "{object}: {}", restored.stderr);
        assert!(restored.stderr.contains(&object), "{object}: {}", restored.stderr);
        std::fs::write(&path, &good).unwrap();
    }
    assert_eq!(site.restore("latest").code, 0);
    assert_eq!(site.listed().1, 0);
}

#[test]
fn a_base_backup_that_is_killed_within_a_tablespace_is_not_listed() {
    let site = a_site();
    site.make_tablespace("fast", 200_000);
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    let programs = Programs::of(&site.cluster);
    let belay = programs.given_to(site.belay);
    let site = Site { cluster: site.cluster, belay };
    // 7 MB at 256 kB a second.
    site.belay.write_settings(&format!("{settings}[base_backup]\nmax_rate = \"256KiB\"\n"));
    let pid = site.cluster.room("pids").join("pid");
    programs.fake("pg_basebackup", &format!("echo $$ >'{}'\nexec \"$real\" \"$@\"", pid.display()));
    let partial = || {
        let folders = std::fs::read_dir(site.belay.repository().join("prod/base"));
        folders.into_iter().flatten().flatten().count()
    };
    for signal in [nix::sys::signal::Signal::SIGKILL, nix::sys::signal::Signal::SIGTERM] {
        let _ = std::fs::remove_file(&pid);
        let mut command = site.belay.command(["base-backup"]);
        let run = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let run = run.spawn().unwrap();
        let flows = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE backup_streamed > 500000";
        wait_until("a tablespace is copied", || site.cluster.psql("postgres", flows) == "1");
        let number: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(number), signal).unwrap();
        let ended = run.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(5), "{said}");
        assert!(said.contains("pg_basebackup was ended by signal") || said.contains("exited with"), "{said}");
        assert_eq!(site.listed(), (Vec::new(), 0));
    }
    let littered = partial();

    // Belay itself.
    let _ = std::fs::remove_file(&pid);
    let mut run = site.belay.command(["base-backup"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let flows = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE backup_streamed > 500000";
    wait_until("a tablespace is copied", || site.cluster.psql("postgres", flows) == "1");
    run.kill().unwrap();
    run.wait().unwrap();
    wait_until("its program ends too", || {
        site.cluster.psql("postgres", "SELECT count(*) FROM pg_stat_progress_basebackup") == "0"
    });
    assert_eq!(site.listed(), (Vec::new(), 0), "the next command empties the scratch directory");
    assert!(partial() >= littered);
    let _ = site.belay.json(["retain"]);
    site.belay.write_settings(&settings);
    programs.restore("pg_basebackup");
    site.base();
    assert_eq!(site.listed().0.len(), 1);
}

#[test]
fn a_tablespace_that_comes_or_goes_as_a_base_backup_begins_is_had_or_left_out() {
    let site = a_site();
    site.make_tablespace("old", 10);
    let programs = Programs::of(&site.cluster);
    let site = Site { belay: programs.given_to(site.belay), cluster: site.cluster };
    let once = site.cluster.room("once").join("done");
    let host = site.cluster.host().display().to_string();
    let psql = |sql: &str| {
        format!(
            "[ -e '{0}' ] || {{ : >'{0}'; '{1}/psql' -Xq -h '{host}' -p {2} -U postgres -d app {sql}; }}\nexec \"$real\" \"$@\"",
            once.display(),
            site.cluster.programs().display(),
            site.cluster.port(),
        )
    };
    let new = site.cluster.room("new");
    programs
        .fake("pg_basebackup", &psql(&format!("-c \"CREATE TABLESPACE new LOCATION '{}'\"", new.display())));
    let names = |base: &serde_json::Value| -> Vec<String> {
        let all = base["tablespaces"].as_array().unwrap().iter();
        all.map(|tablespace| tablespace["name"].as_str().unwrap().into()).collect()
    };
    let base = site.base();
    assert_eq!(names(&base), ["old", "new"].map(String::from), "{base}");
    std::fs::remove_file(&once).unwrap();
    programs.fake("pg_basebackup", &psql("-c 'DROP TABLESPACE new'"));
    let base = site.base();
    assert_eq!(names(&base), ["old"]);
    let oids = base["tablespaces"].as_array().unwrap();
    assert!(site.object(&base, &format!("{}.tar.gz.age", oids[0]["oid"])).exists());

    // One that changes all the time.
    let each = format!(
        "n=$(cat '{0}' 2>/dev/null || echo 0); n=$((n + 1)); echo $n >'{0}'\nmkdir -m 700 '{1}'/t$n\n'{2}/psql' -Xq -h '{host}' -p {3} -U postgres -d app -c \"CREATE TABLESPACE t$n LOCATION '{1}/t$n'\"\nexec \"$real\" \"$@\"",
        site.cluster.room("count").join("n").display(),
        site.cluster.room("many").display(),
        site.cluster.programs().display(),
        site.cluster.port(),
    );
    programs.fake("pg_basebackup", &each);
    let before = site.listed();
    let failed = site.belay.run(["base-backup"]);
    assert_eq!(failed.code, 5, "{}", failed.stderr);
    assert!(failed.stderr.contains("hint: tablespaces were made or dropped each time"), "{}", failed.stderr);
    assert_eq!(site.listed(), before);
}

#[test]
fn a_program_that_leaves_a_tablespace_out_and_calls_it_success_is_not_believed() {
    let site = a_site();
    site.make_tablespace("fast", 10);
    let programs = Programs::of(&site.cluster);
    let site = Site { belay: programs.given_to(site.belay), cluster: site.cluster };
    let lie = "for word; do case $word in --pgdata=*) out=${word#--pgdata=} ;; esac; done\n";
    let look = "ls \"$out\" >/dev/null; sleep 1\n";
    programs.fake("pg_basebackup", &format!("{lie}{look}printf x >\"$out/base.tar\"\nexit 0"));
    let failed = site.belay.run(["base-backup"]);
    assert_eq!(failed.code, 5, "{}", failed.stderr);
    assert!(failed.stderr.contains("did not come"), "{}", failed.stderr);
    assert_eq!(site.listed(), (Vec::new(), 0));
}

#[rstest]
#[ignore = "needs the servers of scripts/test --all-versions"]
fn tablespaces_come_back_on(#[values(12, 13, 14, 15, 16, 17, 18)] major: u32) {
    let site = a_site_on(a_cluster_of(major));
    let fast = site.make_tablespace("fast", 5_000);
    let receiver = site.receive();
    site.base();
    let late = site.make_tablespace("late", 700);
    site.cluster.psql("app", "CHECKPOINT");
    stored(&site);
    receiver.end();
    let live = [files(&fast), files(&late)];
    let world = site.cluster.room("recovered");
    let into = world.join("data").to_string_lossy().into_owned();
    let recovered = site.belay.run(["recover", "--into", &into, &mapping(&fast, &world.join("fast"))]);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    let again = a_cluster_of(major).start_on(&world);
    assert_eq!(again.psql("app", "SELECT count(*) FROM fast_rows"), "5000");
    assert_eq!(again.psql("app", "SELECT count(*) FROM late_rows"), "700");
    assert_eq!([files(&fast), files(&late)], live);
}
