use chrono::{NaiveDate, TimeZone as _};
use chrono_tz::{America::New_York, Australia::Lord_Howe, Europe::Zurich, UTC};
use proptest::prelude::*;
use rstest::rstest;

use super::*;

const RETRY: Retry =
    Retry { first_pause: TimeDelta::minutes(1), longest_pause: TimeDelta::hours(1), tries: 5 };

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn daily(zone: Tz) -> Schedule {
    Schedule::new("0 3 * * *", zone).unwrap()
}

fn failed(began: &str, ended: &str) -> Failure {
    Failure { began_at: utc(began), ended_at: utc(ended) }
}

/// The days of the year 2026, in local time, on which work began that is asked every half
/// hour and always succeeds.
fn days_of_a_year(schedule: &Schedule) -> Vec<NaiveDate> {
    let local = |at: DateTime<Utc>| at.with_timezone(&schedule.zone).date_naive();
    let mut now = utc("2025-12-31T00:00:00Z");
    let mut successes = Vec::new();
    while now < utc("2027-01-02T00:00:00Z") {
        if let Due::Now { .. } = due(schedule, &successes, &[], &RETRY, now) {
            successes.push(now);
        }
        now += TimeDelta::minutes(30);
    }
    successes.into_iter().map(local).filter(|day| day.to_string().starts_with("2026-")).collect()
}

#[rstest]
fn every_day_of_the_year_has_its_run_once(
    #[values(Zurich, New_York, Lord_Howe, UTC)] zone: Tz,
    #[values("0 3 * * *", "30 2 * * *", "15 1 * * *", "59 23 * * *")] pattern: &str,
) {
    let days = days_of_a_year(&Schedule::new(pattern, zone).unwrap());
    let first = NaiveDate::from_ymd_opt(2026, 1, 1).unwrap();
    let every_day: Vec<_> = first.iter_days().take(365).collect();
    assert_eq!(days, every_day);
}

#[rstest]
#[case::put_forward(Zurich, "2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z")]
#[case::put_back(Zurich, "2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z")]
#[case::put_forward_by_half_an_hour(Lord_Howe, "2026-10-03T15:00:00Z", "2026-10-03T15:30:00Z")]
#[case::ordinary(New_York, "2026-07-01T00:00:00Z", "2026-07-01T06:30:00Z")]
fn half_past_two_is_had_on_days_that_lack_it_or_have_it_twice(
    #[case] zone: Tz,
    #[case] after: &str,
    #[case] expected: &str,
) {
    let schedule = Schedule::new("30 2 * * *", zone).unwrap();
    assert_eq!(schedule.next_after(utc(after)), Some(utc(expected)));
}

#[test]
fn a_database_without_a_snapshot_does_not_wait_for_its_first() {
    let decided = due(&daily(UTC), &[], &[], &RETRY, utc("2026-11-24T14:00:00Z"));
    assert_eq!(decided, Due::Now { since: utc("2026-11-24T03:00:00Z"), failures: 0 });
}

#[test]
fn a_missed_moment_is_made_up_for_once() {
    let schedule = daily(Zurich);
    let slept_through = [utc("2026-11-20T02:00:05Z")];
    let now = utc("2026-11-24T14:00:00Z");
    let decided = due(&schedule, &slept_through, &[], &RETRY, now);
    assert_eq!(decided, Due::Now { since: utc("2026-11-24T02:00:00Z"), failures: 0 });
    let made_up = [slept_through[0], now];
    let next = Some(utc("2026-11-25T02:00:00Z"));
    assert_eq!(due(&schedule, &made_up, &[], &RETRY, now), Due::Done { next });
}

#[test]
fn one_taken_by_hand_before_the_moment_does_not_stand_for_it() {
    let by_hand = [utc("2026-11-24T02:59:00Z")];
    let decided = due(&daily(UTC), &by_hand, &[], &RETRY, utc("2026-11-24T03:00:00Z"));
    assert_eq!(decided, Due::Now { since: utc("2026-11-24T03:00:00Z"), failures: 0 });
}

#[test]
fn a_success_dated_ahead_silences_nothing() {
    let by_a_wrong_clock = [utc("2031-01-01T00:00:00Z")];
    let decided = due(&daily(UTC), &by_a_wrong_clock, &[], &RETRY, utc("2026-11-24T04:00:00Z"));
    assert_eq!(decided, Due::Now { since: utc("2026-11-24T03:00:00Z"), failures: 0 });
}

#[test]
fn a_clock_that_is_set_back_a_little_repeats_nothing() {
    let (taken, now) = ([utc("2026-11-24T03:00:01Z")], utc("2026-11-24T03:00:00Z"));
    assert!(matches!(due(&daily(UTC), &taken, &[], &RETRY, now), Due::Done { .. }));
}

#[test]
fn pauses_grow_from_failure_to_failure() {
    let first = failed("2026-11-24T03:00:00Z", "2026-11-24T03:00:30Z");
    let second = failed("2026-11-24T03:02:00Z", "2026-11-24T03:10:00Z");
    let decide = |failures: &[Failure], now| due(&daily(UTC), &[], failures, &RETRY, utc(now));
    assert_eq!(
        decide(&[first], "2026-11-24T03:01:00Z"),
        Due::Again { at: utc("2026-11-24T03:01:30Z"), failures: 1 }
    );
    assert_eq!(
        decide(&[first], "2026-11-24T03:01:30Z"),
        Due::Now { since: utc("2026-11-24T03:00:00Z"), failures: 1 }
    );
    assert_eq!(
        decide(&[second, first], "2026-11-24T03:11:00Z"),
        Due::Again { at: utc("2026-11-24T03:12:00Z"), failures: 2 }
    );
}

#[test]
fn work_that_failed_often_enough_waits_for_its_next_moment() {
    let failures = [failed("2026-11-24T03:00:00Z", "2026-11-24T03:00:30Z"); 5];
    let decided = due(&daily(UTC), &[], &failures, &RETRY, utc("2026-11-24T23:00:00Z"));
    assert_eq!(decided, Due::GivenUp { next: Some(utc("2026-11-25T03:00:00Z")), failures: 5 });
    let decided = due(&daily(UTC), &[], &failures, &RETRY, utc("2026-11-25T03:00:00Z"));
    assert_eq!(decided, Due::Now { since: utc("2026-11-25T03:00:00Z"), failures: 0 });
}

#[test]
fn a_failure_that_ended_ahead_of_the_clock_delays_by_one_pause_at_most() {
    let ahead = failed("2026-11-24T03:00:00Z", "2026-11-29T03:00:00Z");
    let decided = due(&daily(UTC), &[], &[ahead], &RETRY, utc("2026-11-24T03:05:00Z"));
    assert_eq!(decided, Due::Again { at: utc("2026-11-24T03:06:00Z"), failures: 1 });
}

#[rstest]
#[case("")]
#[case("0 3 * *")]
#[case("61 3 * * *")]
#[case("0 0 30 2 *")]
#[case("every day")]
fn what_is_no_pattern_or_never_matches_is_refused(#[case] pattern: &str) {
    assert!(Schedule::new(pattern, UTC).is_err());
}

#[test]
fn no_pause_is_longer_than_the_longest() {
    let pauses = [1, 2, 3, 6, 7, 8, 31, 32, 33, u32::MAX].map(|n| RETRY.pause_after(n).num_minutes());
    assert_eq!(pauses, [1, 2, 4, 32, 60, 60, 60, 60, 60, 60]);
}

proptest! {
    #[test]
    fn whatever_happened_work_begins_now_or_at_a_named_time_ahead(
        seconds in 0i64..400_000_000,
        successes in proptest::collection::vec(0i64..400_000_000, 0..4),
        failures in proptest::collection::vec((0i64..400_000_000, 0i64..5_000), 0..8),
        zone in proptest::sample::select(vec![Zurich, New_York, Lord_Howe]),
        pattern in proptest::sample::select(vec!["0 3 * * *", "*/7 * * * *", "30 1 * * 0", "@monthly"]),
    ) {
        let at = |seconds| Utc.timestamp_opt(1_600_000_000 + seconds, 0).unwrap();
        let schedule = Schedule::new(pattern, zone).unwrap();
        let successes: Vec<_> = successes.into_iter().map(at).collect();
        let failures: Vec<_> = failures
            .into_iter()
            .map(|(began, took)| Failure { began_at: at(began), ended_at: at(began + took) })
            .collect();
        let now = at(seconds);
        match due(&schedule, &successes, &failures, &RETRY, now) {
            Due::Now { since, failures } => prop_assert!(since <= now && failures < RETRY.tries),
            Due::Again { at, failures } => prop_assert!(now < at && at <= now + RETRY.longest_pause && failures > 0),
            Due::GivenUp { next, .. } | Due::Done { next } => prop_assert!(next.is_some_and(|next| next > now)),
        }
    }
}
