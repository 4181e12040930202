//! The upload limit: how fast all uploads together may be, on average over parts.
//!
//! A part is sent as fast as the line allows; what waits is the next one.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A limit that all uploads of a store share.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    /// When everything that was let through would have passed at the limit.
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// Without a number there is no limit.
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(None) }
    }

    /// Waits until so many bytes may be sent.
    pub(super) async fn wait_for(&self, bytes: usize) {
        if let Some(start) = self.bytes_per_second.map(|rate| self.reserve(bytes, rate)) {
            sleep_until(start).await;
        }
    }

    fn reserve(&self, bytes: usize, rate: u64) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let start = free_at.map_or(now, |free_at| free_at.max(now));
        *free_at = Some(start + takes);
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_starts_when_those_before_it_have_passed() {
        let pace = Pace::new(Some(1_000));
        let first = pace.reserve(2_000, 1_000);
        assert_eq!(pace.reserve(500, 1_000) - first, Duration::from_secs(2));
        assert_eq!(pace.reserve(1, 1_000) - first, Duration::from_millis(2_500));
    }
}
