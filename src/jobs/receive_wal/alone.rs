//! Stores what the spool has of a server that is not there, and may never be again.

use chrono::{DateTime, Utc};

use super::shipping::Shipping;
use super::spool::{self, Origin};
use super::{Means, Shipped};
use crate::jobs::JobError;

/// Stores it, unless it is stored; returns how far the log is stored then, if that is further than was noted.
///
/// # Errors
/// What store and disk say; then it is still in the spool.
pub(super) async fn ship(
    means: &Means<'_>,
    clock: fn() -> DateTime<Utc>,
) -> Result<Option<Shipped>, JobError> {
    let Some(origin) = Origin::of_spool(means.spool)? else { return Ok(None) };
    let noted = means.noted;
    if let Some(noted) = noted
        && !spool::is_behind(means.spool, origin.segment_bytes, noted)?
    {
        return Ok(None);
    }
    let mut shipping = Shipping::open(means, &origin, clock).await?;
    noted.into_iter().for_each(|noted| shipping.go_on_from(noted));
    shipping.settle_other_timelines().await?;
    shipping.ship_all().await?;
    Ok(noted.zip(shipping.shipped()).map(|(noted, now)| Shipped {
        kept_bytes: noted.kept_bytes,
        unbroken_since: noted.unbroken_since,
        ..now
    }))
}
