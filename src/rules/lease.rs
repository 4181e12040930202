//! Decides about the runner of a gated migration whose command runs on another machine: whether it
//! is still there, and what it may say.
//!
//! Comes in: what is known of the lease, what the runner says, how long it was silent. Goes out:
//! whether that is taken, and what is known then. Three laws hold. The go is given to one holder
//! only, so that no command starts twice. What was taken once may be said again, since an answer
//! may get lost on its way. And nothing counts that is said after the end was written down.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::classify::Exit;

/// How long the command of a lost runner may live on: asked to end, then killed.
///
/// A runner that cannot reach the server for the length of its lease ends its command by itself.
/// The server, which counts from the same beat or a later one, sees sessions of the run off for so
/// long before it judges.
pub const END_PATIENCE: Duration = Duration::from_secs(15);

/// How many characters the name of a holder, or the key of an opening, may have.
const NAME_CHARACTERS: std::ops::RangeInclusive<usize> = 8..=64;

/// Whether the runner is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is; not before this time is over can it be lost.
    Alive(Duration),
    /// Nothing was heard of it for the length of the lease.
    Lost,
}

/// Says whether a runner that was silent for so long is still there; exactly the length of the
/// lease is too long.
pub fn standing(length: Duration, silent_for: Duration) -> Standing {
    match length.checked_sub(silent_for) {
        Some(left) if !left.is_zero() => Standing::Alive(left),
        _ => Standing::Lost,
    }
}

/// How often a runner says that it is there: twice may be lost.
pub fn beat_pause(length: Duration) -> Duration {
    length / 3
}

/// Whether a process that is not the daemon may settle a run whose runner was last heard of at
/// `heard_at`, no daemon being there; a time that lies ahead is none to rely on.
pub fn is_over(length: Duration, heard_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    let silent_for = (now - heard_at).abs().to_std().unwrap_or(Duration::MAX);
    standing(length, silent_for) == Standing::Lost
}

/// What is known of a lease; written down with every change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who has the go, by a name that it made up itself.
    pub holder: Option<String>,
    /// When it got the go.
    pub claimed_at: Option<DateTime<Utc>>,
    /// How much of the command's output is known, in bytes.
    pub output_bytes: u64,
    /// How the command ended; nothing is taken any more.
    pub exit: Option<Exit>,
}

/// Why what a runner says is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A name that cannot be told from another by accident, or is no name.
    #[error("a holder's name has 8 to 64 letters, digits, - and _")]
    BadName,
    /// Another process has the go.
    #[error("another runner has the go for this run")]
    Taken,
    /// The go was not given to anybody yet.
    #[error("nobody has claimed the go for this run")]
    Unclaimed,
    /// The end of the command was written down, and is another one.
    #[error("the end of the command is written down already: {0}")]
    Over(Exit),
    /// Output between what is known and what comes is missing.
    #[error("output from byte {0} on is missing")]
    Gap(u64),
    /// An end that only the server may tell.
    #[error("that is no end of a command that a runner has seen")]
    BadExit,
}

impl Lease {
    /// Gives the go to `holder`, unless another one has it.
    ///
    /// # Errors
    /// [`Refusal::BadName`], [`Refusal::Taken`], [`Refusal::Over`].
    pub fn claim(&mut self, holder: &str, now: DateTime<Utc>) -> Result<(), Refusal> {
        if !is_name(holder) {
            return Err(Refusal::BadName);
        }
        match (&self.exit, &self.holder) {
            (Some(exit), _) => Err(Refusal::Over(exit.clone())),
            (None, Some(known)) if known != holder => Err(Refusal::Taken),
            (None, Some(_)) => Ok(()),
            (None, None) => {
                (self.holder, self.claimed_at) = (Some(holder.to_owned()), Some(now));
                Ok(())
            }
        }
    }

    /// Whether `holder` may say something now.
    ///
    /// # Errors
    /// [`Refusal::Unclaimed`], [`Refusal::Taken`], [`Refusal::Over`].
    pub fn hear(&self, holder: &str) -> Result<(), Refusal> {
        match (&self.holder, &self.exit) {
            (None, _) => Err(Refusal::Unclaimed),
            (Some(known), _) if known != holder => Err(Refusal::Taken),
            (Some(_), Some(exit)) => Err(Refusal::Over(exit.clone())),
            (Some(_), None) => Ok(()),
        }
    }

    /// Takes `length` bytes of output that begin at byte `offset`; returns how many of them are
    /// known already.
    ///
    /// # Errors
    /// As [`Self::hear`]; [`Refusal::Gap`].
    pub fn take_output(&mut self, holder: &str, offset: u64, length: u64) -> Result<u64, Refusal> {
        self.hear(holder)?;
        let known = self.output_bytes.checked_sub(offset).ok_or(Refusal::Gap(self.output_bytes))?;
        let known = known.min(length);
        self.output_bytes += length - known;
        Ok(known)
    }

    /// Takes the end of the command from its holder; the same one twice is fine.
    ///
    /// # Errors
    /// As [`Self::hear`]; [`Refusal::BadExit`].
    pub fn close(&mut self, holder: &str, exit: &Exit) -> Result<(), Refusal> {
        if matches!(exit, Exit::Unseen | Exit::Lost | Exit::Unclaimed) {
            return Err(Refusal::BadExit);
        }
        match self.hear(holder) {
            Err(Refusal::Over(known)) if known == *exit => Ok(()),
            Err(refusal) => Err(refusal),
            Ok(()) => {
                self.exit = Some(exit.clone());
                Ok(())
            }
        }
    }

    /// How a command ended whose runner is not there any more.
    pub fn exit_of_lost(&self) -> Exit {
        if self.holder.is_some() { Exit::Lost } else { Exit::Unclaimed }
    }
}

/// Whether a text may name a holder, or an opening.
pub fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    NAME_CHARACTERS.contains(&text.len()) && text.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "holder-one";
    const OTHER: &str = "holder-other";
    const LENGTH: Duration = Duration::from_secs(60);

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn claimed() -> Lease {
        let mut lease = Lease::default();
        lease.claim(ONE, now()).unwrap();
        lease
    }

    #[test]
    fn a_runner_is_lost_after_the_length_of_its_lease() {
        assert_eq!(standing(LENGTH, Duration::ZERO), Standing::Alive(LENGTH));
        assert_eq!(standing(LENGTH, Duration::from_secs(59)), Standing::Alive(Duration::from_secs(1)));
        assert_eq!(standing(LENGTH, LENGTH), Standing::Lost);
        assert_eq!(standing(LENGTH, Duration::MAX), Standing::Lost);
    }

    #[test]
    fn two_beats_may_be_lost() {
        assert!(beat_pause(LENGTH) * 3 <= LENGTH);
    }

    #[test]
    fn others_settle_a_run_only_after_its_lease() {
        assert!(!is_over(LENGTH, now(), now() + TimeDelta::seconds(59)));
        assert!(is_over(LENGTH, now(), now() + TimeDelta::seconds(60)));
        assert!(is_over(LENGTH, now() + TimeDelta::hours(1), now()), "the clock was set back");
    }

    #[test]
    fn the_go_is_for_one_holder_and_may_be_asked_for_again() {
        let mut lease = claimed();
        assert_eq!(lease.claim(OTHER, now()), Err(Refusal::Taken));
        let later = now() + TimeDelta::seconds(5);
        assert_eq!(lease.claim(ONE, later), Ok(()));
        assert_eq!(lease.claimed_at, Some(now()));
        assert_eq!(lease.hear(OTHER), Err(Refusal::Taken));
        assert_eq!(Lease::default().hear(ONE), Err(Refusal::Unclaimed));
        for name in ["", "short", "a b c d e f", &"x".repeat(65)] {
            assert_eq!(Lease::default().claim(name, now()), Err(Refusal::BadName), "{name}");
        }
    }

    #[test]
    fn an_end_is_taken_once_and_may_be_told_again() {
        let mut lease = claimed();
        assert_eq!(lease.close(OTHER, &Exit::Status(0)), Err(Refusal::Taken));
        assert_eq!(lease.close(ONE, &Exit::Status(1)), Ok(()));
        assert_eq!(lease.close(ONE, &Exit::Status(1)), Ok(()));
        assert_eq!(lease.close(ONE, &Exit::Status(0)), Err(Refusal::Over(Exit::Status(1))));
        assert_eq!(lease.claim(ONE, now()), Err(Refusal::Over(Exit::Status(1))));
        assert_eq!(lease.take_output(ONE, 0, 1), Err(Refusal::Over(Exit::Status(1))));
        assert_eq!(lease.exit, Some(Exit::Status(1)));
    }

    #[test]
    fn a_runner_cannot_tell_that_it_is_lost() {
        for exit in [Exit::Unseen, Exit::Lost, Exit::Unclaimed] {
            assert_eq!(claimed().close(ONE, &exit), Err(Refusal::BadExit));
        }
    }

    #[test]
    fn a_lost_runner_may_have_started_the_command_only_if_it_had_the_go() {
        assert_eq!(claimed().exit_of_lost(), Exit::Lost);
        assert_eq!(Lease::default().exit_of_lost(), Exit::Unclaimed);
    }

    #[test]
    fn output_with_a_gap_is_not_taken() {
        let mut lease = claimed();
        assert_eq!(lease.take_output(ONE, 0, 10), Ok(0));
        assert_eq!(lease.take_output(ONE, 11, 1), Err(Refusal::Gap(10)));
        assert_eq!(lease.output_bytes, 10);
    }

    proptest! {
        #[test]
        fn output_told_in_any_pieces_and_again_is_known_once(
            pieces in prop::collection::vec((0..200_u64, 0..50_u64), 1..40)
        ) {
            let text: Vec<u8> = (0..250).map(|n| u8::try_from(n).unwrap_or(0)).collect();
            let (mut lease, mut known) = (claimed(), Vec::new());
            for (offset, length) in pieces {
                let piece = &text[usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap()];
                match lease.take_output(ONE, offset, length) {
                    Ok(skip) => known.extend_from_slice(&piece[usize::try_from(skip).unwrap()..]),
                    Err(refusal) => prop_assert_eq!(refusal, Refusal::Gap(known.len() as u64)),
                }
                prop_assert_eq!(&known[..], &text[..known.len()]);
                prop_assert_eq!(lease.output_bytes, known.len() as u64);
            }
        }
    }
}
