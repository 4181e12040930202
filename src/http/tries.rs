//! Tries with tokens that are none, by where they come from: whoever fails too often gets no answer for a
//! while, not even whether a token is one. Who has a token is not kept waiting by those who have none.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use super::caller::Peer;

/// So many tries may fail at once,
const BURST: NonZeroU32 = NonZeroU32::new(10).expect("ten is not zero");
/// and one more after each of these.
const REFILL: Duration = Duration::from_secs(6);
/// Sources that are remembered before those that are good again are forgotten.
const SOURCES: usize = 4096;

/// Where tries come from. One customer has a whole /64 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    User(u32),
    V4(u32),
    V6(u64),
}

impl From<Peer> for Source {
    fn from(peer: Peer) -> Self {
        match peer {
            Peer::User(uid) => Self::User(uid),
            Peer::Address(IpAddr::V4(address)) => Self::V4(address.to_bits()),
            Peer::Address(IpAddr::V6(address)) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// Counts failed tries.
pub struct Tries {
    failed: RateLimiter<Source, HashMapStateStore<Source>, DefaultClock>,
    shut_out: Mutex<HashMap<Source, Instant>>,
}

impl Tries {
    /// Nobody has failed yet.
    pub fn new() -> Self {
        let quota = Quota::with_period(REFILL).expect("the period is not zero").allow_burst(BURST);
        Self { failed: RateLimiter::hashmap(quota), shut_out: Mutex::default() }
    }

    /// How long `peer` has to wait before it is told again that a token is none.
    pub fn wait_of(&self, peer: Peer) -> Option<Duration> {
        let source = Source::from(peer);
        let mut shut_out = self.shut_out.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = shut_out.get(&source)?.checked_duration_since(Instant::now());
        if wait.is_none() {
            shut_out.remove(&source);
        }
        wait
    }

    /// Counts a failed try of `peer`.
    pub fn note_failure(&self, peer: Peer) {
        let source = Source::from(peer);
        if self.failed.len() > SOURCES {
            self.failed.retain_recent();
        }
        let Err(too_many) = self.failed.check_key(&source) else { return };
        let wait = too_many.wait_time_from(DefaultClock::default().now());
        let mut shut_out = self.shut_out.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if shut_out.len() > SOURCES {
            shut_out.retain(|_, until| *until > now);
        }
        shut_out.insert(source, now + wait);
        tracing::warn!(%peer, "too many failed tries: it is told to wait");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Peer {
        Peer::Address(text.parse().unwrap())
    }

    #[test]
    fn who_fails_too_often_waits_and_nobody_else_does() {
        let tries = Tries::new();
        let (bad, good) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..BURST.get() {
            assert_eq!(tries.wait_of(bad), None);
            tries.note_failure(bad);
        }
        tries.note_failure(bad);
        assert!(tries.wait_of(bad).is_some_and(|wait| wait <= REFILL));
        assert_eq!(tries.wait_of(good), None);
        assert_eq!(tries.wait_of(Peer::User(0)), None);
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let tries = Tries::new();
        for host in 0..=BURST.get() {
            tries.note_failure(address(&format!("2001:db8::{host:x}")));
        }
        assert!(tries.wait_of(address("2001:db8::ffff")).is_some());
        assert_eq!(tries.wait_of(address("2001:db8:0:1::1")), None);
    }
}
