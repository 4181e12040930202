//! `/metrics`: the numbers of the status as Prometheus reads them.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;

use super::client::{Answer, ask, bearer, connect, request};
use super::site::Site;

/// The figures of an answer, by name and labels as they are written; every line is looked at.
pub struct Metrics {
    pub types: BTreeMap<String, String>,
    pub figures: BTreeMap<String, f64>,
}

impl Metrics {
    /// Those of an answer in the text format 0.0.4.
    pub fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{answer:?}");
        let (mut types, mut figures) = (BTreeMap::new(), BTreeMap::new());
        let mut helped = String::new();
        for line in answer.body.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').unwrap();
                assert!(name.starts_with("belay_") && text.ends_with('.'), "{line}");
                helped = name.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, helped, "a type follows its help");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}: told twice");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                assert_eq!(name, helped, "a figure follows its help");
                assert!(labels.ends_with('}'), "{line}");
                let value: f64 = value.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
                assert!(value.is_finite(), "{line}");
                assert!(figures.insert(series.to_owned(), value).is_none(), "{line}: told twice");
            }
        }
        for name in types.keys() {
            let is_told =
                figures.keys().any(|series| series.split('{').next().is_some_and(|told| told == name));
            assert!(is_told, "{name} has no figure");
        }
        Self { types, figures }
    }

    pub fn get(&self, series: &str) -> Option<f64> {
        self.figures.get(series).copied()
    }

    /// The labels of every figure of this name.
    fn labels_of(&self, name: &str) -> Vec<&str> {
        self.figures.keys().filter_map(|series| series.strip_prefix(name)?.strip_prefix('{')).collect()
    }
}

fn metrics(site: &Site, token: &str) -> Metrics {
    Metrics::of(&site.get("/metrics", token))
}

#[test]
fn a_viewer_scrapes_what_is_known_and_ages_move() {
    let site = Site::start("");
    let viewer = site.token(&["prometheus", "--role", "viewer"]);
    let before = metrics(&site, &viewer);
    assert!(before.types.values().all(|kind| kind == "gauge"), "{:?}", before.types);
    let version = format!("belay_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    for (series, value) in [
        (version.as_str(), Some(1.0)),
        ("belay_snapshots{database=\"app\"}", Some(0.0)),
        ("belay_snapshots{database=\"crm\"}", Some(0.0)),
        ("belay_snapshot_age_seconds{database=\"app\"}", None),
        ("belay_snapshot_verified_age_seconds{database=\"app\"}", None),
        ("belay_runs_held", Some(0.0)),
        ("belay_runs_unfinished", Some(0.0)),
        ("belay_databases_kept", Some(0.0)),
        ("belay_snapshots_not_believed", Some(0.0)),
        ("belay_wal_behind_seconds", None),
        ("belay_recovery_unreachable_seconds", None),
    ] {
        assert_eq!(before.get(series), value, "{series}");
    }

    assert_eq!(site.belay.run(["snapshot", "app"]).code, 0);
    let taken = metrics(&site, &viewer);
    let of_app = |metrics: &Metrics, name: &str| metrics.get(&format!("{name}{{database=\"app\"}}"));
    let age = of_app(&taken, "belay_snapshot_age_seconds").unwrap();
    assert!(age < 60.0, "{age}");
    assert_eq!(of_app(&taken, "belay_snapshots"), Some(1.0));
    assert_eq!(of_app(&taken, "belay_snapshot_verified_age_seconds"), None, "nobody verified it");
    let manifest = site.belay.json(["show", "latest"]);
    for (name, field) in
        [("belay_snapshot_plain_bytes", "plain_bytes"), ("belay_snapshot_stored_bytes", "stored_bytes")]
    {
        assert_eq!(of_app(&taken, name), manifest[field].as_f64(), "{name}: {manifest}");
    }
    assert!(of_app(&taken, "belay_snapshot_duration_seconds").is_some_and(|took| took < 60.0));
    assert_eq!(taken.get("belay_snapshots{database=\"crm\"}"), Some(0.0));

    assert_eq!(site.belay.run(["verify", "latest", "--depth", "stored"]).code, 0);
    site.service.wait_until("it grows older", || {
        of_app(&metrics(&site, &viewer), "belay_snapshot_age_seconds").is_some_and(|later| later > age)
    });
    let verified = metrics(&site, &viewer);
    let ages = ["belay_snapshot_age_seconds", "belay_snapshot_verified_age_seconds"];
    assert_eq!(of_app(&verified, ages[0]), of_app(&verified, ages[1]), "they are of one snapshot");
    assert!(verified.get("belay_repository_free_bytes").is_some_and(|free| free > 0.0));
}

#[test]
fn a_snapshot_found_damaged_counts_until_a_newer_one_is_verified() {
    let site = Site::start("");
    let viewer = site.token(&["prometheus", "--role", "viewer"]);
    let failed = || metrics(&site, &viewer).get("belay_snapshots_failed{database=\"app\"}");
    let id = site.belay.json(["snapshot", "app"])["id"].as_str().unwrap().to_owned();
    assert_eq!(failed(), Some(0.0));
    let folder = site.belay.repository().join("prod/snapshots/app").join(&id);
    std::fs::write(folder.join("data.dump.gz.age"), "not what it was").unwrap();
    assert_eq!(site.belay.run(["verify", &id, "--depth", "stored"]).code, 4);
    assert_eq!(failed(), Some(1.0));
    assert_eq!(site.belay.run(["snapshot", "app"]).code, 0);
    assert_eq!(site.belay.run(["verify", "latest", "--depth", "stored"]).code, 0);
    assert_eq!(failed(), Some(0.0));
}

#[test]
fn who_may_see_the_status_may_see_its_metrics() {
    let site = Site::start("");
    assert_eq!(ask(connect(site.address), &request("GET", "/metrics", "", "")).status, 401);
    let wrong = bearer("belay_0000000000000000_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    assert_eq!(ask(connect(site.address), &request("GET", "/metrics", &wrong, "")).status, 401);
    let local = ask(UnixStream::connect(&site.socket).unwrap(), &request("GET", "/metrics", "", ""));
    assert_eq!(Metrics::of(&local).labels_of("belay_snapshots").len(), 2);

    let ci = site.token(&["runner", "--role", "ci", "--db", "app"]);
    let own = metrics(&site, &ci);
    assert_eq!(own.labels_of("belay_snapshots"), ["database=\"app\"}"]);
    for of_host in ["belay_repository_free_bytes", "belay_snapshots_not_believed"] {
        assert_eq!(own.get(of_host), None, "{of_host}");
    }
    assert_eq!(site.get("/metrics?database=crm", &ci).status, 403);
    let viewer = site.token(&["prometheus", "--role", "viewer"]);
    let of_crm = Metrics::of(&site.get("/metrics?database=crm", &viewer));
    assert_eq!(of_crm.labels_of("belay_snapshots"), ["database=\"crm\"}"]);
    assert_eq!(site.post("/metrics", &viewer, "{}").status, 405);
}

#[test]
fn who_accepts_open_metrics_gets_it() {
    let site = Site::start("");
    let fields = format!(
        "{}Accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4\r\n",
        bearer(&site.token(&["prometheus", "--role", "viewer"]))
    );
    let answer = ask(connect(site.address), &request("GET", "/metrics", &fields, ""));
    assert_eq!(answer.status, 200, "{answer:?}");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(answer.head.contains(kind), "{}", answer.head);
    assert!(answer.body.contains("# TYPE belay_build info\nbelay_build_info{"), "{}", answer.body);
    assert!(answer.body.ends_with("\n# EOF\n"), "{}", answer.body);
}

/// Writes the settings anew and has the daemon read them.
fn change_settings(site: &Site, change: impl Fn(String) -> String) {
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    site.belay.write_settings(&change(settings));
    site.service.hang_up();
    let is_read = || site.service.log().contains("the settings are read again");
    site.service.wait_until("the settings are read", is_read);
}

#[test]
fn names_of_databases_are_escaped() {
    let site = Site::start("");
    let name = "a \"quoted\\\n name";
    let odd = format!(
        "[database.odd]\nhost = \"{}\"\nport = {}\nuser = \"postgres\"\nname = {}\nschedule = \"never\"\n",
        site.cluster.host().display(),
        site.cluster.port(),
        serde_json::to_string(name).unwrap()
    );
    site.cluster.create_database(name);
    change_settings(&site, |settings| format!("{settings}{odd}"));
    let viewer = site.token(&["prometheus", "--role", "viewer"]);
    assert_eq!(site.belay.run(["snapshot", "odd"]).code, 0);
    let metrics = metrics(&site, &viewer);
    let escaped = "{database=\"a \\\"quoted\\\\\\n name\"}";
    assert_eq!(metrics.get(&format!("belay_snapshots{escaped}")), Some(1.0), "{:?}", metrics.figures);
    assert!(metrics.get(&format!("belay_snapshot_age_seconds{escaped}")).is_some());
}

#[test]
fn scheduled_jobs_tell_when_they_are_due_and_how_often_they_failed() {
    let site = Site::start("");
    let viewer = site.token(&["prometheus", "--role", "viewer"]);
    assert_eq!(metrics(&site, &viewer).labels_of("belay_job_due"), [""; 0], "nothing is scheduled");
    site.cluster.psql("postgres", "DROP DATABASE crm");
    change_settings(&site, |settings| {
        let (before, crm) = settings.split_once("[database.crm]").unwrap();
        let crm = crm.replacen("schedule = \"never\"", "schedule = \"*/1 * * * * *\"", 1);
        let before = before.replacen("schedule = \"never\"", "schedule = \"0 0 1 1 *\"", 1);
        format!("{before}[database.crm]{crm}[daemon]\nretry_pause = \"1h\"\n")
    });
    let failed = |metrics: &Metrics| metrics.get("belay_job_failures{job=\"snapshot\",database=\"crm\"}");
    site.service.wait_until("a snapshot of what is not there fails", || {
        failed(&metrics(&site, &viewer)).is_some_and(|failures| failures >= 1.0)
    });
    let seen = metrics(&site, &viewer);
    let of_crm = |name: &str| seen.get(&format!("{name}{{job=\"snapshot\",database=\"crm\"}}"));
    assert_eq!(of_crm("belay_job_due"), Some(1.0));
    assert_eq!(of_crm("belay_job_given_up"), Some(0.0));
    assert_eq!(of_crm("belay_job_last_success_age_seconds"), None);
    let of_app = "{job=\"snapshot\",database=\"app\"}";
    site.service.wait_until("what is due is done", || {
        metrics(&site, &viewer).get(&format!("belay_job_due{of_app}")) == Some(0.0)
    });
    let seen = metrics(&site, &viewer);
    assert_eq!(seen.get(&format!("belay_job_failures{of_app}")), Some(0.0));
    assert!(seen.get(&format!("belay_job_last_success_age_seconds{of_app}")).is_some_and(|age| age < 120.0));
    let next = seen.get(&format!("belay_job_next_timestamp_seconds{of_app}")).unwrap();
    let scheduled = site.belay.json(["status"])["scheduled"].clone();
    let told = scheduled.as_array().unwrap().iter().find(|job| job["database"] == "app").unwrap();
    let told = chrono::DateTime::parse_from_rfc3339(told["next"].as_str().unwrap()).unwrap();
    assert_eq!(next, told.timestamp() as f64, "{scheduled}");
}
