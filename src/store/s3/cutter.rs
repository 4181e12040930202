//! Cuts what a writer sends into parts of the sizes that an upload asks for.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::store::{NextPart, Parts};

/// What comes next of an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// As many bytes as were asked for, and there are more.
    Full(Bytes),
    /// What remains, at most as many bytes as were asked for.
    Last(Bytes),
    /// The writer went away.
    Abandoned,
}

/// A writer's bytes, kept until there are enough of them.
#[derive(Debug)]
pub(super) struct Cutter {
    parts: Parts,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    is_at_end: bool,
}

impl Cutter {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts, waiting: VecDeque::new(), waiting_bytes: 0, is_at_end: false }
    }

    /// Waits for the next `bytes`, and for one more, which tells whether they are the last.
    pub(super) async fn next(&mut self, bytes: usize) -> Piece {
        while self.waiting_bytes <= bytes {
            if self.is_at_end {
                return Piece::Last(self.take(self.waiting_bytes));
            }
            match self.parts.next().await {
                NextPart::Data(part) => {
                    self.waiting_bytes += part.len();
                    self.waiting.push_back(part);
                }
                NextPart::End => self.is_at_end = true,
                NextPart::Abandoned => return Piece::Abandoned,
            }
        }
        Piece::Full(self.take(bytes))
    }

    /// In a memory of its own, so that a part keeps no more than itself alive.
    fn take(&mut self, bytes: usize) -> Bytes {
        self.waiting_bytes -= bytes;
        if self.waiting.front().is_some_and(|front| front.len() == bytes) {
            return self.waiting.pop_front().unwrap_or_default();
        }
        let mut taken = BytesMut::with_capacity(bytes);
        while taken.len() < bytes {
            let Some(mut front) = self.waiting.pop_front() else { break };
            let rest = front.split_off(front.len().min(bytes - taken.len()));
            taken.extend_from_slice(&front);
            if !rest.is_empty() {
                self.waiting.push_front(rest);
            }
        }
        taken.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pieces(sent: &[&'static [u8]], bytes: usize) -> Vec<Piece> {
        let (sender, parts) = Parts::stream();
        let sent = sent.to_vec();
        let sending = tokio::task::spawn_blocking(move || {
            sent.into_iter().for_each(|part| sender.blocking_send(Bytes::from_static(part)).unwrap());
            sender.blocking_finish().unwrap();
        });
        let mut cutter = Cutter::new(parts);
        let mut pieces = Vec::new();
        loop {
            pieces.push(cutter.next(bytes).await);
            if !matches!(pieces.last(), Some(Piece::Full(_))) {
                sending.await.unwrap();
                return pieces;
            }
        }
    }

    fn full(bytes: &'static [u8]) -> Piece {
        Piece::Full(Bytes::from_static(bytes))
    }

    fn last(bytes: &'static [u8]) -> Piece {
        Piece::Last(Bytes::from_static(bytes))
    }

    #[tokio::test]
    async fn an_object_of_exactly_one_part_is_its_last() {
        assert_eq!(pieces(&[b"ab", b"cd"], 4).await, [last(b"abcd")]);
        assert_eq!(pieces(&[b"abcd"], 4).await, [last(b"abcd")]);
        assert_eq!(pieces(&[], 4).await, [last(b"")]);
    }

    #[tokio::test]
    async fn parts_are_cut_across_what_was_sent() {
        assert_eq!(
            pieces(&[b"abcde", b"", b"f", b"ghi"], 4).await,
            [full(b"abcd"), full(b"efgh"), last(b"i")]
        );
        assert_eq!(pieces(&[b"abcdefgh"], 4).await, [full(b"abcd"), last(b"efgh")]);
    }

    #[tokio::test]
    async fn a_writer_that_goes_away_is_told() {
        let (sender, parts) = Parts::stream();
        drop(sender);
        assert_eq!(Cutter::new(parts).next(4).await, Piece::Abandoned);
    }
}
