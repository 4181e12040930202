//! When work is done unasked: `schedule` and `timezone` of a section, and `[daemon]`.

use std::time::Duration;

use chrono::TimeDelta;
use chrono_tz::Tz;

use super::table::Table;
use super::{DaemonSettings, SettingsError, units};
use crate::rules::schedule::{Retry, Schedule};

/// What stands for a pattern where nothing is scheduled.
const NEVER: &str = "never";

/// A schedule as a section says it, or takes it over from the one before.
#[derive(Debug, Clone)]
pub(super) struct When {
    pub(super) schedule: Option<Schedule>,
    pub(super) zone: Tz,
}

impl When {
    /// A default of ours, in `zone`.
    pub(super) fn of(pattern: &'static str, zone: Tz) -> Self {
        let schedule = Schedule::new(pattern, zone).expect("the patterns of the defaults are right");
        Self { schedule: Some(schedule), zone }
    }

    /// What `table` says, over this.
    pub(super) fn read(self, table: &mut Table) -> Result<Self, SettingsError> {
        let zone = table.parsed("timezone", zone_named)?.unwrap_or(self.zone);
        Self { schedule: self.schedule.map(|schedule| schedule.in_zone(zone)), zone }
            .read_key("schedule", table)
    }

    /// What the key `name` of `table` says, over this, in the same zone.
    pub(super) fn read_key(self, name: &'static str, table: &mut Table) -> Result<Self, SettingsError> {
        let told = table.parsed(name, |text| match text {
            NEVER => Ok(None),
            pattern => Schedule::new(pattern, self.zone).map(Some),
        })?;
        Ok(Self { schedule: told.unwrap_or(self.schedule), zone: self.zone })
    }
}

fn zone_named(text: &str) -> Result<Tz, String> {
    text.parse()
        .map_err(|_| format!("must be a time zone such as \"Europe/Zurich\" or \"UTC\", not {text:?}"))
}

impl DaemonSettings {
    pub(super) fn read(mut table: Table) -> Result<Self, SettingsError> {
        let pause = |text: &str| units::timeout_within(text, "1s", "1d");
        let first_pause = table.parsed("retry_pause", pause)?.unwrap_or(Duration::from_secs(60));
        let longest_pause = table.parsed("retry_pause_longest", pause)?.unwrap_or(Duration::from_secs(3600));
        let tries = table.integer("tries", 1..=100)?.unwrap_or(5);
        let stop_grace = table.parsed("stop_grace", |text| units::timeout_within(text, "0s", "1d"))?;
        let settings = Self {
            jobs: table.integer("jobs", 1..=64)?.unwrap_or(2),
            retry: Retry {
                first_pause: delta(first_pause),
                longest_pause: delta(longest_pause),
                tries: u32::try_from(tries).expect("at most 100, which every u32 holds"),
            },
            stop_grace: stop_grace.unwrap_or(Duration::from_secs(60)),
        };
        table.finish()?;
        Ok(settings)
    }
}

fn delta(pause: Duration) -> TimeDelta {
    TimeDelta::from_std(pause).expect("at most a day, which every delta holds")
}
