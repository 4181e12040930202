use std::os::unix::fs::PermissionsExt as _;

use chrono::TimeDelta;
use tempfile::TempDir;

use super::*;
use crate::rules::gate::{Phase, Position, Verdict};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_795_000_000_123).unwrap() + TimeDelta::seconds(seconds)
}

fn a_place() -> (TempDir, PathBuf) {
    let state = TempDir::new().unwrap();
    let path = state.path().join("ledger.sqlite");
    (state, path)
}

async fn a_ledger() -> (TempDir, Ledger) {
    let (state, path) = a_place();
    let ledger = Ledger::open(&path).await.unwrap();
    (state, ledger)
}

async fn run(ledger: &Ledger, sql: &'static str) {
    sqlx::raw_sql(sql).execute(&ledger.pool).await.unwrap();
}

fn a_replacement(marker: &str) -> Replacement {
    Replacement {
        marker: marker.into(),
        system_identifier: "7400000000000000001".into(),
        oid: u32::MAX,
        kept_name: "app_kept_20261118".into(),
        original_name: "a \"p\" p\n".into(),
        replaced_at: at(0),
        expires_at: at(86_400),
    }
}

fn a_loading(marker: &str) -> Loading {
    Loading {
        marker: marker.into(),
        system_identifier: "7400000000000000001".into(),
        oid: None,
        temp_name: "app_loading".into(),
        started_at: at(0),
    }
}

#[tokio::test]
async fn ledger_files_are_private_and_writes_are_durable() {
    let (state, ledger) = a_ledger().await;
    ledger.begin_job(JobKind::Snapshot, Some("app"), at(0)).await.unwrap();
    for entry in std::fs::read_dir(state.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
    for (pragma, value) in [("PRAGMA synchronous", 2), ("PRAGMA foreign_keys", 1), ("PRAGMA user_version", 5)]
    {
        let found: i64 = sqlx::query_scalar(pragma).fetch_one(&ledger.pool).await.unwrap();
        assert_eq!(found, value, "{pragma}");
    }
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&ledger.pool).await.unwrap();
    assert_eq!(journal, "wal");
}

#[tokio::test]
async fn jobs_read_back_after_reopening() {
    let (_state, path) = a_place();
    let ledger = Ledger::open(&path).await.unwrap();
    let done = ledger.begin_job(JobKind::Snapshot, Some("app"), at(0)).await.unwrap();
    ledger.end_job(done, &JobOutcome::Done, Some("20261118T110640Z-aaaaaa"), at(5)).await.unwrap();
    let failed = ledger.begin_job(JobKind::Verify, Some("app"), at(10)).await.unwrap();
    let broken = JobOutcome::Failed { error: "read chunk: gone".into() };
    ledger.end_job(failed, &broken, None, at(11)).await.unwrap();
    let running = ledger.begin_job(JobKind::Retain, None, at(20)).await.unwrap();
    ledger.close().await;

    let ledger = Ledger::open(&path).await.unwrap();
    let jobs = ledger.recent_jobs(None, 10).await.unwrap();
    assert_eq!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [running, failed, done]);
    assert_eq!((jobs[0].kind, &jobs[0].database, &jobs[0].end), (JobKind::Retain, &None, &None));
    assert_eq!(jobs[1].end, Some(JobEnd { outcome: broken, subject: None, at: at(11) }));
    let subject = Some("20261118T110640Z-aaaaaa".to_owned());
    assert_eq!(jobs[2].end, Some(JobEnd { outcome: JobOutcome::Done, subject, at: at(5) }));
    assert_eq!((jobs[2].started_at, jobs[2].database.as_deref()), (at(0), Some("app")));
    assert_eq!(jobs[2].process, ProcessMark::current().unwrap());
}

#[tokio::test]
async fn recent_jobs_are_of_the_database_and_at_most_so_many() {
    let (_state, ledger) = a_ledger().await;
    for (second, database) in ["app", "crm", "app", "app"].into_iter().enumerate() {
        ledger.begin_job(JobKind::Snapshot, Some(database), at(second as i64)).await.unwrap();
    }
    let jobs = ledger.recent_jobs(Some("app"), 2).await.unwrap();
    assert_eq!(jobs.iter().map(|job| job.started_at).collect::<Vec<_>>(), [at(3), at(2)]);
    assert_eq!(ledger.recent_jobs(Some("App"), 9).await.unwrap(), []);
}

#[tokio::test]
async fn last_job_is_of_its_kind_database_and_outcome() {
    let (_state, ledger) = a_ledger().await;
    let failed = JobOutcome::Failed { error: "x".into() };
    let mut ids = Vec::new();
    for (kind, database, outcome) in [
        (JobKind::Snapshot, Some("app"), Some(JobOutcome::Done)),
        (JobKind::Snapshot, Some("app"), Some(failed)),
        (JobKind::Verify, Some("app"), Some(JobOutcome::Done)),
        (JobKind::Snapshot, Some("crm"), Some(JobOutcome::Interrupted)),
        (JobKind::Retain, None, Some(JobOutcome::Done)),
        (JobKind::Snapshot, Some("app"), None),
    ] {
        let id = ledger.begin_job(kind, database, at(0)).await.unwrap();
        if let Some(outcome) = outcome {
            ledger.end_job(id, &outcome, None, at(1)).await.unwrap();
        }
        ids.push(id);
    }
    for (kind, database, ended_as, expected) in [
        (JobKind::Snapshot, Some("app"), Some(EndedAs::Done), Some(ids[0])),
        (JobKind::Snapshot, Some("app"), Some(EndedAs::Failed), Some(ids[1])),
        (JobKind::Snapshot, Some("crm"), Some(EndedAs::Interrupted), Some(ids[3])),
        (JobKind::Snapshot, Some("app"), None, Some(ids[5])),
        (JobKind::Retain, None, Some(EndedAs::Done), Some(ids[4])),
        (JobKind::Snapshot, None, None, None),
        (JobKind::Restore, Some("app"), None, None),
    ] {
        let found = ledger.last_job(kind, database, ended_as).await.unwrap();
        assert_eq!(found.map(|job| job.id), expected, "{kind:?} {database:?} {ended_as:?}");
    }
}

#[tokio::test]
async fn a_job_ends_once() {
    let (_state, ledger) = a_ledger().await;
    let id = ledger.begin_job(JobKind::Restore, Some("app"), at(0)).await.unwrap();
    ledger.end_job(id, &JobOutcome::Done, None, at(1)).await.unwrap();
    let error = ledger.end_job(id, &JobOutcome::Interrupted, None, at(2)).await.unwrap_err();
    assert!(matches!(error, LedgerError::NotRunning { id: named, .. } if named == id), "{error}");
    let job = ledger.last_job(JobKind::Restore, Some("app"), None).await.unwrap().unwrap();
    assert_eq!(job.end.unwrap().outcome, JobOutcome::Done);
}

#[tokio::test]
async fn jobs_of_dead_processes_are_closed_and_those_of_the_living_are_not() {
    let (_state, ledger) = a_ledger().await;
    let dead = ledger.begin_job(JobKind::Snapshot, Some("dead"), at(0)).await.unwrap();
    run(&ledger, "UPDATE job_runs SET process = 'an earlier boot/1'").await;
    let alive = ledger.begin_job(JobKind::Snapshot, Some("alive"), at(1)).await.unwrap();
    assert_eq!(ledger.close_abandoned(at(60)).await.unwrap(), 1);
    assert_eq!(ledger.close_abandoned(at(61)).await.unwrap(), 0);
    let jobs = ledger.recent_jobs(None, 10).await.unwrap();
    assert_eq!((jobs[0].id, &jobs[0].end), (alive, &None));
    let end = JobEnd { outcome: JobOutcome::Interrupted, subject: None, at: at(60) };
    assert_eq!((jobs[1].id, &jobs[1].end), (dead, &Some(end)));
}

#[tokio::test]
async fn a_swap_is_planned_before_and_confirmed_after() {
    let (_state, path) = a_place();
    let ledger = Ledger::open(&path).await.unwrap();
    ledger.record_replaced(&a_replacement("m-1")).await.unwrap();
    ledger.close().await;
    let ledger = Ledger::open(&path).await.unwrap();
    let planned = ReplacedDatabase { replacement: a_replacement("m-1"), state: ReplacementState::Planned };
    assert_eq!(ledger.replaced().await.unwrap(), [planned]);
    ledger.confirm_replaced("m-1").await.unwrap();
    ledger.confirm_replaced("m-1").await.unwrap();
    assert_eq!(ledger.replaced().await.unwrap()[0].state, ReplacementState::Confirmed);
    ledger.forget_replaced("m-1").await.unwrap();
    ledger.forget_replaced("m-1").await.unwrap();
    assert_eq!(ledger.replaced().await.unwrap(), []);
}

#[tokio::test]
async fn a_marker_is_recorded_once_and_must_be_known() {
    let (_state, ledger) = a_ledger().await;
    ledger.record_replaced(&a_replacement("m-1")).await.unwrap();
    assert!(matches!(ledger.record_replaced(&a_replacement("m-1")).await, Err(LedgerError::Query { .. })));
    ledger.record_loading(&a_loading("m-1")).await.unwrap();
    assert!(matches!(ledger.record_loading(&a_loading("m-1")).await, Err(LedgerError::Query { .. })));
    let unknown = ledger.confirm_replaced("m-2").await.unwrap_err();
    assert!(unknown.to_string().contains("confirm replaced database m-2 in ledger"), "{unknown}");
    assert!(matches!(ledger.note_loading_oid("m-2", 1).await, Err(LedgerError::NoSuchMarker { .. })));
}

#[tokio::test]
async fn a_loading_database_is_known_with_its_process_until_forgotten() {
    let (_state, ledger) = a_ledger().await;
    ledger.record_loading(&a_loading("m-1")).await.unwrap();
    let process = ProcessMark::current().unwrap();
    let before = LoadingDatabase { loading: a_loading("m-1"), process: process.clone() };
    assert_eq!(ledger.loading().await.unwrap(), [before]);
    ledger.note_loading_oid("m-1", 16_400).await.unwrap();
    let loading = Loading { oid: Some(16_400), ..a_loading("m-1") };
    assert_eq!(ledger.loading().await.unwrap(), [LoadingDatabase { loading, process }]);
    ledger.forget_loading("m-1").await.unwrap();
    assert_eq!(ledger.loading().await.unwrap(), []);
}

#[tokio::test]
async fn a_newer_ledger_is_refused_and_not_touched() {
    let (_state, path) = a_place();
    let ledger = Ledger::open(&path).await.unwrap();
    run(&ledger, "PRAGMA user_version = 99").await;
    ledger.close().await;
    let before = std::fs::read(&path).unwrap();
    let error = Ledger::open(&path).await.unwrap_err();
    assert!(matches!(error, LedgerError::Newer { found: 99, known: 5, .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_file_that_is_no_ledger_is_refused_and_not_touched() {
    let (_state, path) = a_place();
    let text = "this is not a database\n".repeat(400);
    std::fs::write(&path, &text).unwrap();
    let error = Ledger::open(&path).await.unwrap_err();
    assert!(matches!(error, LedgerError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("ledger.sqlite"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_damaged_ledger_is_refused_and_not_removed() {
    let (_state, path) = a_place();
    let ledger = Ledger::open(&path).await.unwrap();
    for second in 0..500 {
        ledger.begin_job(JobKind::Snapshot, Some("app"), at(second)).await.unwrap();
    }
    ledger.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    let error = Ledger::open(&path).await.unwrap_err();
    assert!(matches!(error, LedgerError::Corrupt { .. }), "{error:?}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn a_ledger_without_its_directory_is_an_error_that_names_it() {
    let (_state, path) = a_place();
    let error = Ledger::open(&path.join("ledger.sqlite")).await.unwrap_err();
    assert!(matches!(error, LedgerError::Open { .. }), "{error:?}");
}

#[tokio::test]
async fn a_value_that_no_release_writes_is_named() {
    let (_state, ledger) = a_ledger().await;
    ledger.begin_job(JobKind::Snapshot, Some("app"), at(0)).await.unwrap();
    run(&ledger, "UPDATE job_runs SET started_at = 'yesterday'").await;
    let error = ledger.recent_jobs(None, 1).await.unwrap_err();
    assert!(error.to_string().contains("column started_at holds \"yesterday\""), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_openers_create_one_ledger_and_all_write() {
    let (_state, path) = a_place();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let path = path.clone();
            tokio::spawn(async move {
                let ledger = Ledger::open(&path).await.unwrap();
                for second in 0..25 {
                    let name = format!("db{writer}");
                    let id = ledger.begin_job(JobKind::Verify, Some(&name), at(second)).await.unwrap();
                    ledger.end_job(id, &JobOutcome::Done, None, at(second)).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let jobs = Ledger::open(&path).await.unwrap().recent_jobs(None, 1_000).await.unwrap();
    assert_eq!(jobs.len(), 100);
    assert!(jobs.iter().all(|job| job.end.is_some()));
}

async fn a_run(ledger: &Ledger, id: &str) {
    let command = ["alembic".to_owned(), "upgrade".into(), "head".into()];
    let databases = ["app".to_owned(), "billing".into()];
    let run = NewRun { id, databases: &databases, command: &command, started_at: at(0) };
    ledger.begin_run(&run).await.unwrap();
}

fn standing(phase: Phase, verdict: Option<Verdict>) -> Position {
    Position { phase, verdict }
}

#[tokio::test]
async fn a_run_is_open_until_a_terminal_phase() {
    let (_state, ledger) = a_ledger().await;
    a_run(&ledger, "r-1").await;
    ledger.enter_phase("r-1", standing(Phase::Migrating, None), r#"{"a":1}"#, at(1)).await.unwrap();
    let open = ledger.open_runs().await.unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].position.phase, open[0].facts.as_str()), (Phase::Migrating, r#"{"a":1}"#));
    assert_eq!(open[0].command, ["alembic", "upgrade", "head"]);
    assert!(open[0].process.is_alive());

    let held = standing(Phase::Held, Some(Verdict::RestoreRefused));
    ledger.enter_phase("r-1", held, "{}", at(2)).await.unwrap();
    assert_eq!(ledger.open_runs().await.unwrap(), []);
    let run = ledger.run("r-1").await.unwrap().unwrap();
    assert_eq!((run.position, run.ended_at), (held, Some(at(2))));

    // An operator decides: it is walked again.
    ledger.enter_phase("r-1", standing(Phase::Releasing, None), "{}", at(3)).await.unwrap();
    assert_eq!(ledger.open_runs().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_run_is_of_each_of_its_databases() {
    let (_state, ledger) = a_ledger().await;
    a_run(&ledger, "r-1").await;
    let held = standing(Phase::Held, Some(Verdict::Unknown));
    ledger.enter_phase("r-1", held, "{}", at(1)).await.unwrap();
    for (database, runs) in [("app", 1), ("billing", 1), ("bill", 0)] {
        assert_eq!(ledger.held_runs(database).await.unwrap().len(), runs, "{database}");
        assert_eq!(ledger.recent_runs(Some(database), 5).await.unwrap().len(), runs, "{database}");
    }
    let run = ledger.run("r-1").await.unwrap().unwrap();
    assert_eq!(run.databases, ["app", "billing"]);
}

#[tokio::test]
async fn the_journal_tells_which_phase_a_death_cut_short() {
    let (_state, ledger) = a_ledger().await;
    a_run(&ledger, "r-1").await;
    ledger.enter_phase("r-1", standing(Phase::Preflight, None), "{}", at(1)).await.unwrap();
    ledger.leave_phase("r-1", "passed", at(2)).await.unwrap();
    ledger.enter_phase("r-1", standing(Phase::Fencing, None), "{}", at(3)).await.unwrap();
    let journal = ledger.journal("r-1").await.unwrap();
    let told: Vec<_> =
        journal.iter().map(|entry| (entry.phase, entry.ended_at, entry.outcome.as_deref())).collect();
    assert_eq!(told, [(Phase::Preflight, Some(at(2)), Some("passed")), (Phase::Fencing, None, None)]);
}

#[tokio::test]
async fn fences_stand_until_they_are_released_the_last_first() {
    let (_state, ledger) = a_ledger().await;
    a_run(&ledger, "r-1").await;
    for undo in ["one", "two", "three"] {
        ledger.record_fence("r-1", undo).await.unwrap();
    }
    let standing = ledger.standing_fences("r-1").await.unwrap();
    assert_eq!(standing.iter().map(|fence| fence.undo.as_str()).collect::<Vec<_>>(), ["three", "two", "one"]);
    ledger.fence_released("r-1", standing[1].ordinal, at(1)).await.unwrap();
    let standing = ledger.standing_fences("r-1").await.unwrap();
    assert_eq!(standing.iter().map(|fence| fence.undo.as_str()).collect::<Vec<_>>(), ["three", "one"]);
    assert_eq!(ledger.standing_fences("r-2").await.unwrap(), []);
}

#[tokio::test]
async fn a_ledger_of_the_first_version_learns_of_runs() {
    let (_state, path) = a_place();
    let ledger = Ledger::open(&path).await.unwrap();
    ledger.begin_job(JobKind::Snapshot, Some("app"), at(0)).await.unwrap();
    run(
        &ledger,
        "DROP TABLE gate_leases; DROP TABLE tokens; DROP TABLE audit; DROP TABLE gate_fences; DROP TABLE gate_phases; DROP TABLE gate_runs; PRAGMA user_version = 1",
    )
    .await;
    ledger.close().await;
    let ledger = Ledger::open(&path).await.unwrap();
    a_run(&ledger, "r-1").await;
    assert_eq!(ledger.recent_runs(Some("app"), 5).await.unwrap().len(), 1);
    assert_eq!(ledger.recent_jobs(Some("app"), 5).await.unwrap().len(), 1);
}
