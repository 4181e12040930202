//! The status as metrics for Prometheus: one family for each thing that somebody may want to be woken by.
//!
//! Comes in: a [`Status`] and when it was looked at. Goes out: families, and the text of them. What is not
//! known is absent, and never zero; what an alert is to count from, such as the snapshots of a database,
//! is there for each.

mod exposition;

use chrono::{DateTime, TimeDelta, Utc};

pub use self::exposition::Format;
use self::exposition::{Families, Family, Labels, figure};
use super::recovery::RecoveryStatus;
use super::scheduled::Scheduled;
use super::wal::WalStatus;
use super::{DatabaseStatus, Newest, Status};
use crate::rules::gate::Phase;

/// The text of everything that `status` tells and that is a number.
pub(super) fn text(status: &Status, now: DateTime<Utc>, format: Format) -> String {
    let mut families = of_databases(&status.databases, now);
    families.extend(of_jobs(&status.scheduled, now));
    families.extend(status.wal.iter().flat_map(of_wal));
    families.extend(status.recovery.iter().flat_map(|recovery| of_recovery(recovery, now)));
    families.extend(of_the_rest(status));
    Families(families).text(format)
}

fn of_databases(all: &[DatabaseStatus], now: DateTime<Utc>) -> Vec<Family> {
    let each = |family: Family, value: fn(&DatabaseStatus, DateTime<Utc>) -> Option<f64>| {
        let labels = |of: &DatabaseStatus| Labels::from([("database", of.database.clone())]);
        family.of_each(all, labels, |of| value(of, now))
    };
    vec![
        each(Family::number("snapshots", "Snapshots of the database that are believed."), |of, _| {
            Some(figure(of.snapshots))
        }),
        each(
            Family::number("snapshots_failed", "Snapshots found damaged, with no newer one verified since."),
            |of, _| Some(figure(of.failed_snapshots.iter().filter(|failed| !failed.overcome).count())),
        ),
        each(Family::seconds("snapshot_age", "Age of the newest snapshot, verified or not."), |of, now| {
            age(of.newest.as_ref(), now)
        }),
        each(Family::seconds("snapshot_verified_age", "Age of the newest verified snapshot."), |of, now| {
            age(of.newest_verified.as_ref(), now)
        }),
        each(
            Family::bytes("snapshot_plain", "Bytes of the newest snapshot before it is sealed."),
            |of, _| of.newest.as_ref().map(|newest| newest.plain_bytes as f64),
        ),
        each(
            Family::bytes("snapshot_stored", "Bytes that the newest snapshot needs in the repository."),
            |of, _| of.newest.as_ref().map(|newest| newest.stored_bytes as f64),
        ),
        each(Family::seconds("snapshot_duration", "How long the newest snapshot took."), |of, _| {
            of.newest.as_ref().map(|newest| seconds(newest.took))
        }),
        each(
            Family::seconds("restore_estimate", "How long a restore took when a snapshot was verified last."),
            |of, _| of.restore_estimate_ms.map(seconds_of_ms),
        ),
    ]
}

fn age(snapshot: Option<&Newest>, now: DateTime<Utc>) -> Option<f64> {
    snapshot.map(|snapshot| seconds_since(snapshot.taken_at, now))
}

fn of_jobs(all: &[Scheduled], now: DateTime<Utc>) -> Vec<Family> {
    let each = |family: Family, value: fn(&Scheduled, DateTime<Utc>) -> Option<f64>| {
        let labels = |of: &Scheduled| {
            let database = of.database.clone().map(|name| ("database", name));
            std::iter::once(("job", of.job.to_owned())).chain(database).collect()
        };
        family.of_each(all, labels, |of| value(of, now))
    };
    vec![
        each(
            Family::seconds("job_last_success_age", "How long ago the job last began that succeeded."),
            |of, now| of.last.map(|last| seconds_since(last, now)),
        ),
        each(Family::number("job_failures", "Tries in a row that failed since the job was due."), |of, _| {
            Some(f64::from(of.failures))
        }),
        each(
            Family::number("job_due", "Whether a moment of the schedule has passed without success since."),
            |of, _| Some(flag(of.state != "done")),
        ),
        each(
            Family::number("job_given_up", "Whether the job is not tried again before its next moment."),
            |of, _| Some(flag(of.state == "given_up")),
        ),
        each(
            Family::seconds("job_next_timestamp", "When the job is to begin, in Unix time; past when due."),
            |of, _| of.next.map(|next| seconds(next - DateTime::UNIX_EPOCH)),
        ),
    ]
}

fn of_wal(wal: &WalStatus) -> Vec<Family> {
    let stored = wal.stored.as_ref();
    vec![
        Family::seconds("wal_behind", "Age of the last stored byte of log: what a loss of the host costs.")
            .of_one(stored.map(|stored| stored.behind_seconds as f64)),
        Family::number("wal_received", "Whether a process of this host receives the log.")
            .of_one(wal.is_received.map(flag)),
        Family::bytes("wal_kept", "Log that the server keeps until it is stored.")
            .of_one(stored.and_then(|stored| stored.kept_bytes).map(|bytes| bytes as f64)),
        Family::number("wal_failing", "Whether the log could not be stored when that was tried last.")
            .of_one(flag(wal.last_error.is_some())),
    ]
}

fn of_recovery(recovery: &RecoveryStatus, now: DateTime<Utc>) -> Vec<Family> {
    let unreachable = &recovery.unreachable;
    let lost: f64 = unreachable.iter().map(|gap| seconds(gap.until.unwrap_or(now) - gap.from)).sum();
    let standing = recovery.failed.iter().filter(|failed| !failed.overcome).count();
    vec![
        Family::seconds("base_backup_age", "Age of the newest base backup.")
            .of_one(recovery.newest_base.as_ref().map(|base| seconds_since(base.ended_at, now))),
        Family::seconds(
            "recovery_verified_age",
            "Age of the last verification that found base backups and log good.",
        )
        .of_one(recovery.verified.as_ref().map(|verified| seconds_since(verified.at, now))),
        Family::number(
            "recovery_verification_overdue",
            "Whether two moments of its schedule passed without one.",
        )
        .of_one(flag(recovery.is_overdue)),
        Family::number(
            "recovery_verifications_failed",
            "Base backups found damaged, with no newer one verified since.",
        )
        .of_one(figure(standing)),
        Family::seconds("recovery_measured", "How long the recovery took that was measured last.")
            .of_one(recovery.measured.as_ref().map(|measured| seconds_of_ms(measured.recovery_ms))),
        Family::seconds(
            "recovery_estimate",
            "How long a recovery of the newest moment would take, by estimate.",
        )
        .of_one(recovery.estimate_ms.map(seconds_of_ms)),
        Family::seconds("recovery_unreachable", "Time between moments that can be had that cannot.")
            .of_one(lost),
        Family::number(
            "recovery_unreachable_intervals",
            "Intervals between moments that can be had that cannot.",
        )
        .of_one(figure(unreachable.len())),
    ]
}

/// What is about the host is absent where it is told of one database alone.
fn of_the_rest(status: &Status) -> Vec<Family> {
    let held = status.unfinished_runs.iter().filter(|run| run.phase == Phase::Held.as_str()).count();
    let is_reached = status.repository_error.is_none();
    let not_believed = status.repository.as_ref().filter(|_| is_reached);
    vec![
        Family::number(
            "repository_reached",
            "Whether the repository answers; when not, what is in it is not told.",
        )
        .of_one(flag(is_reached)),
        Family::number("runs_held", "Gated migrations that wait for an operator.").of_one(figure(held)),
        Family::number("runs_unfinished", "Gated migrations that are not over, and are not held.")
            .of_one(figure(status.unfinished_runs.len() - held)),
        Family::number("databases_kept", "Databases that a swap set aside and that are still there.")
            .of_one(figure(status.databases_kept.len())),
        Family::number("snapshots_not_believed", "Snapshots whose manifest is not believed.")
            .of_one(not_believed.map(|_| figure(status.not_believed))),
        Family::bytes("repository_free", "Room that is left where the repository lies.")
            .of_one(status.repository_free_bytes.map(|bytes| bytes as f64)),
    ]
}

fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

fn seconds_of_ms(ms: u64) -> f64 {
    ms as f64 / 1e3
}

fn seconds(span: TimeDelta) -> f64 {
    span.num_milliseconds() as f64 / 1e3
}

/// Never negative, though clocks may be.
fn seconds_since(at: DateTime<Utc>, now: DateTime<Utc>) -> f64 {
    seconds(now - at).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::super::UnfinishedRun;
    use super::*;

    fn a_run(phase: Phase) -> UnfinishedRun {
        UnfinishedRun {
            run: "r".into(),
            database: "app".into(),
            databases: vec!["app".into()],
            phase: phase.as_str(),
            began_at: DateTime::UNIX_EPOCH,
            process_alive: false,
        }
    }

    fn a_status(repository: Option<&str>) -> Status {
        Status {
            databases: Vec::new(),
            repository: repository.map(str::to_owned),
            repository_error: None,
            repository_free_bytes: None,
            identity_on_host: true,
            not_believed: 2,
            wal: None,
            recovery: None,
            databases_kept: Vec::new(),
            running: Vec::new(),
            unfinished_runs: [Phase::Held, Phase::Migrating, Phase::Held].map(a_run).into(),
            scheduled: Vec::new(),
            daemon_running: true,
        }
    }

    fn told(status: &Status) -> Vec<String> {
        let text = text(status, DateTime::UNIX_EPOCH, Format::Plain);
        let figures = text.lines().filter(|line| !line.starts_with('#') && !line.contains("build_info"));
        figures.map(str::to_owned).collect()
    }

    #[test]
    fn held_runs_are_counted_apart_and_the_host_is_told_of_where_it_is_seen() {
        let runs = [
            "belay_repository_reached 1.0",
            "belay_runs_held 2.0",
            "belay_runs_unfinished 1.0",
            "belay_databases_kept 0.0",
        ];
        assert_eq!(told(&a_status(None)), runs);
        let not_believed = "belay_snapshots_not_believed 2.0";
        assert_eq!(told(&a_status(Some("file:///r"))), [&runs[..], &[not_believed]].concat());
    }

    #[test]
    fn of_a_repository_that_is_not_reached_nothing_is_told_but_that() {
        let status = Status { repository_error: Some("away".into()), ..a_status(Some("file:///r")) };
        let told = told(&status);
        assert_eq!(told[0], "belay_repository_reached 0.0");
        assert!(!told.iter().any(|line| line.contains("not_believed")), "{told:?}");
    }

    #[test]
    fn no_age_is_negative() {
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(seconds_since(now + TimeDelta::seconds(5), now), 0.0);
        assert_eq!(seconds_since(now - TimeDelta::milliseconds(1500), now), 1.5);
    }
}
