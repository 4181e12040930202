//! The time, where a verb begins; below it is a parameter.

use chrono::{DateTime, Utc};

/// The time now.
#[expect(clippy::disallowed_methods, reason = "the place where the time enters")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
