//! What is proven of base backups and of the log behind them: the record of a verification, the moment
//! that a drill recovers, and how long a recovery will take.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::layout::SnapshotId;
use super::schedule::Schedule;
use super::wal::Lsn;

/// Kind of signed document: [`BaseVerification`].
pub const BASE_VERIFICATION_KIND: &str = "base-verification";

/// How deep base backups and log are verified; the deeper one includes the shallower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhysicalDepth {
    /// Everything is decrypted and has the digests of its record, the log is whole, and each of its pages
    /// is in its place.
    Readable,
    /// A cluster was recovered to a moment, and looked through.
    Recovered,
}

impl PhysicalDepth {
    /// The name in settings, file names and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Readable => "readable",
            Self::Recovered => "recovered",
        }
    }
}

/// `verified-<depth>-<time>.json`: what was proven of a base backup and of the log behind it.
///
/// It lies in the open and names objects, not what is in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseVerification {
    /// [`FORMAT`](super::manifest::FORMAT)
    pub format: u32,
    /// The base backup.
    pub id: SnapshotId,
    /// The repository it belongs to.
    pub repository: String,
    /// Name of the cluster in the settings.
    pub cluster: String,
    /// How deep it went.
    pub depth: PhysicalDepth,
    /// When it ended.
    pub at: DateTime<Utc>,
    /// Whether no problem was found.
    pub is_ok: bool,
    /// Each problem as a sentence.
    pub problems: Vec<String>,
    /// The timeline whose log was read.
    pub timeline: u32,
    /// How far.
    pub until_lsn: Lsn,
    /// Plain bytes that were read of the base backup.
    pub base_bytes: u64,
    /// Plain bytes that were read of the log.
    pub log_bytes: u64,
    /// The recovery, at depth `recovered`.
    pub drill: Option<Drill>,
    /// How long all of it took.
    pub elapsed_ms: u64,
}

/// A recovery that was made to see whether it can be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// What the moment was drawn with; `None` when it was told.
    pub seed: Option<u32>,
    /// The moment.
    pub moment: DateTime<Utc>,
    /// Whether the log ended before a commit behind the moment.
    pub reached_end: bool,
    /// From the first byte until the cluster took connections.
    pub recovery_ms: u64,
    /// Plain bytes of the base backup.
    pub base_bytes: u64,
    /// Bytes of the log that were replayed.
    pub log_bytes: u64,
    /// Databases whose indexes were looked through.
    pub databases_checked: u64,
    /// The newest heartbeat in the recovered cluster.
    pub heartbeat: Option<DateTime<Utc>>,
}

impl Drill {
    /// How long the recovery of so many bytes would take, if it took as long for each.
    pub fn estimate_ms(&self, base_bytes: u64, log_bytes: u64) -> u64 {
        let measured = u128::from(self.base_bytes) + u128::from(self.log_bytes);
        let wanted = u128::from(base_bytes) + u128::from(log_bytes);
        let scaled = u128::from(self.recovery_ms) * wanted / measured.max(1);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }
}

/// What the records of all base backups come to.
#[derive(Debug, Default)]
pub struct Standing<'a> {
    /// The last verification that found no problem.
    pub verified: Option<&'a BaseVerification>,
    /// The failure that stands for a base backup, and whether a newer one is verified.
    pub failed: Vec<(&'a BaseVerification, bool)>,
    /// The last good recovery: what an estimate rests on.
    pub measured: Option<(&'a BaseVerification, &'a Drill)>,
}

/// Sums up `records`, which are in the order of time for each base backup.
pub fn standing(records: &BTreeMap<SnapshotId, Vec<BaseVerification>>) -> Standing<'_> {
    let good = || records.values().flatten().filter(|record| record.is_ok);
    let is_verified = |records: &&Vec<BaseVerification>| checked(records) == Checked::Sound;
    let newest_good = records.values().filter(is_verified).filter_map(|records| records.last()).next_back();
    let is_overcome = |record: &BaseVerification| newest_good.is_some_and(|good| good.id > record.id);
    let failures = records.values().filter_map(|records| failure(records));
    Standing {
        verified: good().max_by_key(|record| (record.at, record.depth)),
        failed: failures.map(|record| (record, is_overcome(record))).collect(),
        measured: good()
            .filter_map(|record| Some((record, record.drill.as_ref()?)))
            .max_by_key(|(record, _)| record.at),
    }
}

/// What the verifications of one base backup come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checked {
    /// There is none.
    #[default]
    Never,
    /// No failure stands.
    Sound,
    /// A failure stands: no later verification that went as deep found nothing.
    Failed,
}

/// What `records`, of one base backup and in the order of time, come to.
pub fn checked(records: &[BaseVerification]) -> Checked {
    match failure(records) {
        Some(_) => Checked::Failed,
        None if records.iter().any(|record| record.is_ok) => Checked::Sound,
        None => Checked::Never,
    }
}

/// The last failure, unless a later verification of the same depth, or a deeper one, found nothing.
fn failure(records: &[BaseVerification]) -> Option<&BaseVerification> {
    let stands = |(place, record): &(usize, &BaseVerification)| {
        let is_better = |later: &BaseVerification| later.is_ok && later.depth >= record.depth;
        !record.is_ok && !records.iter().skip(*place).any(is_better)
    };
    records.iter().enumerate().rev().find(stands).map(|(_, record)| record)
}

/// Moments that one base backup is recovered for, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub from: DateTime<Utc>,
    /// The last.
    pub until: DateTime<Utc>,
}

/// Leaves of each span what no later one begins with: a moment is recovered from the newest base backup
/// before it. `spans` are in the order of their beginnings.
#[must_use]
pub fn apart(spans: &[Span]) -> Vec<Span> {
    let nexts = spans.iter().skip(1).map(|next| Some(next.from)).chain([None]);
    let cut = |(span, next): (&Span, Option<DateTime<Utc>>)| Span {
        until: next.map_or(span.until, |next| span.until.min(next)),
        ..*span
    };
    spans.iter().zip(nexts).map(cut).filter(|span| span.from <= span.until).collect()
}

/// Draws one of the moments of `spans`, all alike; the same for the same seed and spans.
///
/// It has microseconds, as PostgreSQL's own times.
pub fn moment(spans: &[Span], seed: u32) -> Option<DateTime<Utc>> {
    let in_micros: Vec<(i64, i64)> = spans.iter().filter_map(micros).collect();
    let moments = |(from, until): &(i64, i64)| (until - from).unsigned_abs() + 1;
    let whole: u128 = in_micros.iter().map(|span| u128::from(moments(span))).sum();
    let digest = blake3::hash(&seed.to_le_bytes());
    let drawn = digest.as_bytes().iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let mut left = (u128::from(drawn) * whole) >> 64;
    for span in &in_micros {
        let own = u128::from(moments(span));
        if left < own {
            return DateTime::from_timestamp_micros(span.0 + i64::try_from(left).ok()?);
        }
        left -= own;
    }
    None
}

/// The whole microseconds within a span.
fn micros(span: &Span) -> Option<(i64, i64)> {
    let is_whole = span.from.timestamp_subsec_nanos().is_multiple_of(1000);
    let from = span.from.timestamp_micros() + i64::from(!is_whole);
    let until = span.until.timestamp_micros();
    (from <= until).then_some((from, until))
}

/// Whether the last verification is older than it should be: two moments of the schedule have passed since
/// it, and since there was something to verify.
pub fn is_overdue(
    schedule: &Schedule,
    verified_at: Option<DateTime<Utc>>,
    base_since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> bool {
    let before = |at: DateTime<Utc>| schedule.last_until(at - TimeDelta::seconds(1));
    let Some(limit) = schedule.last_until(now).and_then(before) else { return false };
    verified_at.unwrap_or(base_since) < limit
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000 + second, 0).unwrap()
    }

    fn span(from: i64, until: i64) -> Span {
        Span { from: at(from), until: at(until) }
    }

    fn drill(recovery_ms: u64, base_bytes: u64, log_bytes: u64) -> Drill {
        let (moment, heartbeat) = (at(0), None);
        Drill {
            seed: None,
            moment,
            reached_end: false,
            recovery_ms,
            base_bytes,
            log_bytes,
            databases_checked: 0,
            heartbeat,
        }
    }

    #[test]
    fn an_estimate_grows_with_what_is_read() {
        assert_eq!(drill(1000, 600, 400).estimate_ms(1200, 800), 2000);
        assert_eq!(drill(1000, 600, 400).estimate_ms(0, 0), 0);
        assert_eq!(drill(1000, 0, 0).estimate_ms(2, 0), 2000);
        assert_eq!(drill(u64::MAX, 1, 0).estimate_ms(u64::MAX, 0), u64::MAX);
    }

    #[test]
    fn a_failure_is_overcome_by_a_newer_base_backup_that_is_verified() {
        let id = |second| SnapshotId::new(at(second), 0);
        let record = |base: i64, when: i64, is_ok, drill| BaseVerification {
            format: 1,
            id: id(base),
            repository: "r".into(),
            cluster: "prod".into(),
            depth: PhysicalDepth::Readable,
            at: at(when),
            is_ok,
            problems: Vec::new(),
            timeline: 1,
            until_lsn: Lsn(0),
            base_bytes: 0,
            log_bytes: 0,
            drill,
            elapsed_ms: 0,
        };
        let measured = drill(7, 1, 1);
        let mut records = BTreeMap::from([
            (id(1), vec![record(1, 10, true, Some(measured.clone())), record(1, 20, false, None)]),
            (id(2), vec![record(2, 15, true, None)]),
        ]);
        let found = standing(&records);
        assert_eq!(found.verified.map(|record| record.at), Some(at(15)));
        assert_eq!(found.measured.map(|(_, drill)| drill), Some(&measured));
        assert_eq!(
            found.failed.iter().map(|(record, is_over)| (record.at, *is_over)).collect::<Vec<_>>(),
            [(at(20), true)]
        );
        records.get_mut(&id(2)).unwrap().push(record(2, 30, false, None));
        assert_eq!(
            standing(&records).failed.iter().map(|(_, is_over)| *is_over).collect::<Vec<_>>(),
            [false, false]
        );
        records.get_mut(&id(2)).unwrap().push(record(2, 40, true, None));
        assert_eq!(standing(&records).failed.len(), 1, "one that is as deep finds nothing");
        assert_eq!(checked(&records[&id(1)]), Checked::Failed);
        assert_eq!(checked(&records[&id(2)]), Checked::Sound);
        let deep = BaseVerification { depth: PhysicalDepth::Recovered, ..record(2, 50, false, None) };
        records.get_mut(&id(2)).unwrap().extend([deep, record(2, 60, true, None)]);
        assert_eq!(standing(&records).failed.len(), 2, "one that is shallower says nothing of it");
        assert_eq!((checked(&records[&id(2)]), checked(&[])), (Checked::Failed, Checked::Never));
        assert!(standing(&BTreeMap::new()).verified.is_none());
    }

    #[test]
    fn a_moment_belongs_to_the_newest_base_backup_before_it() {
        let all = [span(0, 100), span(40, 100), span(200, 300)];
        assert_eq!(apart(&all), [span(0, 40), span(40, 100), span(200, 300)]);
        assert_eq!(apart(&[span(10, 5)]), [], "nothing is reached");
        assert_eq!(apart(&[]), []);
    }

    #[test]
    fn no_moment_is_drawn_of_nothing() {
        assert_eq!(moment(&[], 1), None);
        assert_eq!(moment(&[span(5, 5)], 1), Some(at(5)));
        let between = at(5) + TimeDelta::nanoseconds(300);
        assert_eq!(moment(&[Span { from: between, until: between }], 1), None, "no microsecond lies in it");
    }

    #[test]
    fn a_verification_is_overdue_after_two_moments_without_one() {
        let daily = Schedule::new("0 5 * * *", chrono_tz::UTC).unwrap();
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let now = time("2026-11-20T12:00:00Z");
        let long_ago = time("2026-01-01T00:00:00Z");
        assert!(is_overdue(&daily, None, long_ago, now));
        assert!(!is_overdue(&daily, None, time("2026-11-19T06:00:00Z"), now), "the base backup is new");
        assert!(!is_overdue(&daily, Some(time("2026-11-19T05:00:30Z")), long_ago, now));
        assert!(is_overdue(&daily, Some(time("2026-11-18T05:00:30Z")), long_ago, now));
    }

    proptest! {
        /// What is drawn can be reached, and the seed alone decides.
        #[test]
        fn a_drawn_moment_lies_in_a_span(
            seed in any::<u32>(),
            bounds in proptest::collection::vec((0i64..1_000_000, 0i64..100_000), 1..6),
        ) {
            let odd = |(from, length): &(i64, i64)| Span {
                from: at(0) + TimeDelta::nanoseconds(from * 1001),
                until: at(0) + TimeDelta::nanoseconds(from * 1001 + length * 999 + 1000),
            };
            let spans: Vec<Span> = bounds.iter().map(odd).collect();
            let drawn = moment(&spans, seed).unwrap();
            prop_assert!(spans.iter().any(|span| span.from <= drawn && drawn <= span.until));
            prop_assert_eq!(moment(&spans, seed), Some(drawn));
        }
    }

    #[test]
    fn every_part_of_the_spans_is_drawn_from() {
        let spans = [span(0, 1000), span(5000, 6000)];
        let drawn: Vec<_> = (0..200).filter_map(|seed| moment(&spans, seed)).collect();
        let in_first = drawn.iter().filter(|at| **at <= spans[0].until).count();
        assert!((60..140).contains(&in_first), "{in_first} of {}", drawn.len());
        assert!(
            drawn.iter().any(|moment| *moment < at(250)) && drawn.iter().any(|moment| *moment > at(5750))
        );
    }
}
