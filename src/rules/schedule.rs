//! Decides when scheduled work is due: from its pattern, its last success, and its failures since.
//!
//! Comes in: a cron pattern in a time zone, what happened so far, and the time. Goes out: begin
//! now, or when to look again. Work is due when its last success began before the last moment of
//! its pattern, so a moment that was slept through is made up for, once.

use std::fmt;
use std::str::FromStr as _;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;

/// A success dated so far ahead still counts: a clock is set back by as much without anybody's doing.
const CLOCK_STEP: TimeDelta = TimeDelta::minutes(1);

/// Moments in the life of a host: a cron pattern, read in a time zone.
///
/// Where clocks are put forward, a moment that the day lacks is had right after the gap; where they
/// are put back, a moment that the day has twice is had once.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    zone: Tz,
    text: String,
}

impl Schedule {
    /// Reads five fields (minute, hour, day of month, month, day of week), six with seconds in
    /// front, or a name such as `@daily`.
    ///
    /// # Errors
    /// What is wrong with the pattern, also when it never matches.
    pub fn new(pattern: &str, zone: Tz) -> Result<Self, String> {
        let complaint = |why: &dyn fmt::Display| {
            format!("must be a cron pattern such as \"0 3 * * *\", not {pattern:?}: {why}")
        };
        let cron = Cron::from_str(pattern).map_err(|error| complaint(&error))?;
        let schedule = Self { cron, zone, text: pattern.into() };
        match schedule.next_after(DateTime::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(complaint(&"it matches no moment")),
        }
    }

    /// The same pattern in another zone.
    #[must_use]
    pub fn in_zone(self, zone: Tz) -> Self {
        Self { zone, ..self }
    }

    /// The last moment of the pattern up to `now`.
    pub fn last_until(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let found = self.cron.find_previous_occurrence(&now.with_timezone(&self.zone), true);
        found.ok().map(|moment| moment.with_timezone(&Utc))
    }

    /// The first moment of the pattern after `now`.
    pub fn next_after(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let found = self.cron.find_next_occurrence(&now.with_timezone(&self.zone), false);
        found.ok().map(|moment| moment.with_timezone(&Utc))
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.zone)
    }
}

/// One try that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// When it began.
    pub began_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: DateTime<Utc>,
}

/// How often failed work is tried again before its next moment, and after which pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The pause after the first failure; each one doubles it.
    pub first_pause: TimeDelta,
    /// No pause is longer.
    pub longest_pause: TimeDelta,
    /// Tries between two moments of the pattern; at least 1.
    pub tries: u32,
}

impl Retry {
    fn pause_after(&self, failures: u32) -> TimeDelta {
        let doubled = 1i32.checked_shl(failures.saturating_sub(1)).filter(|factor| *factor > 0);
        let pause = doubled.and_then(|factor| self.first_pause.checked_mul(factor));
        pause.unwrap_or(self.longest_pause).min(self.longest_pause)
    }
}

/// Whether work is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Now.
    Now {
        /// The moment that it is due for.
        since: DateTime<Utc>,
        /// Failed tries for that moment.
        failures: u32,
    },
    /// It failed, and is tried again then.
    Again {
        /// When.
        at: DateTime<Utc>,
        /// Failed tries so far.
        failures: u32,
    },
    /// It failed as often as it is tried; only the next moment brings it back.
    GivenUp {
        /// That moment; `None` when the pattern has no other.
        next: Option<DateTime<Utc>>,
        /// Failed tries.
        failures: u32,
    },
    /// It is done for its last moment.
    Done {
        /// The next one; `None` when the pattern has no other.
        next: Option<DateTime<Utc>>,
    },
}

/// Decides whether work is due; `successes` are when its successful tries began, in any order.
///
/// Work that never succeeded is due for the last moment of its pattern: a database without any
/// snapshot does not wait a day for its first. Successes and failures dated ahead of `now` were
/// dated by a clock that was wrong, and do not count.
pub fn due(
    schedule: &Schedule,
    successes: &[DateTime<Utc>],
    failures: &[Failure],
    retry: &Retry,
    now: DateTime<Utc>,
) -> Due {
    let next = schedule.next_after(now);
    let Some(moment) = schedule.last_until(now) else { return Due::Done { next } };
    let is_of_moment = |at: DateTime<Utc>| moment <= at && at <= now + CLOCK_STEP;
    if successes.iter().any(|at| is_of_moment(*at)) {
        return Due::Done { next };
    }
    let of_moment = || failures.iter().filter(|failure| is_of_moment(failure.began_at));
    let count = u32::try_from(of_moment().count()).unwrap_or(u32::MAX);
    let Some(last_end) = of_moment().map(|failure| failure.ended_at.min(now)).max() else {
        return Due::Now { since: moment, failures: 0 };
    };
    if count >= retry.tries {
        return Due::GivenUp { next, failures: count };
    }
    let at = last_end + retry.pause_after(count);
    if at <= now { Due::Now { since: moment, failures: count } } else { Due::Again { at, failures: count } }
}

#[cfg(test)]
mod tests;
