//! What of the log is stored, and along which timeline it is whole.
//!
//! A timeline begins where it left another, its *fork*. The server copies what the parent wrote of the
//! segment with the fork into the timeline's own, so that this one does for both. Where it is not
//! stored, the parent's counts, up to the fork: what follows there was written on another timeline.

use std::collections::{BTreeMap, BTreeSet};

use super::{Base, Window};
use crate::rules::physical::{PieceName, Segment, Switch};
use crate::rules::wal::Lsn;

/// What of the log is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    segment_bytes: u64,
    stored: BTreeMap<(u32, u64), Stored>,
    histories: BTreeMap<u32, Vec<Switch>>,
}

/// What is stored of one segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Stored {
    is_whole: bool,
    /// From where to where.
    parts: BTreeSet<(u32, u32)>,
}

impl Stored {
    /// Bytes from its beginning.
    fn reach(&self, segment_bytes: u64) -> u64 {
        if self.is_whole {
            return segment_bytes;
        }
        let follow = |reached: u64, (from, to): &(u32, u32)| {
            if u64::from(*from) <= reached { reached.max(u64::from(*to)) } else { reached }
        };
        self.parts.iter().fold(0, follow)
    }

    /// The pieces that make up its first `reach` bytes, in their order.
    fn pieces(&self, segment: Segment, reach: u64) -> Vec<PieceName> {
        let name = segment.to_string();
        if self.is_whole {
            return vec![PieceName::Segment(name)];
        }
        let counts = |(from, _): &&(u32, u32)| u64::from(*from) < reach;
        let part = |(from, to): &(u32, u32)| PieceName::Part { segment: name.clone(), from: *from, to: *to };
        self.parts.iter().filter(counts).map(part).collect()
    }
}

/// From what a segment is put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembly {
    /// The pieces, in their order; each begins where those before it reach, or earlier.
    pub pieces: Vec<PieceName>,
    /// Bytes from its beginning that are stored and count; behind them are zeros.
    pub until: u64,
    /// Bytes from its beginning that would count if more of it were stored.
    pub counts: u64,
}

impl Log {
    /// Sorts `pieces`; `histories` has what the history files say, and nothing of a timeline whose file is
    /// not stored.
    pub fn new<'a>(
        segment_bytes: u64,
        pieces: impl IntoIterator<Item = &'a PieceName>,
        histories: BTreeMap<u32, Vec<Switch>>,
    ) -> Self {
        let mut stored: BTreeMap<(u32, u64), Stored> = BTreeMap::new();
        for piece in pieces {
            let (PieceName::Segment(name) | PieceName::Part { segment: name, .. }) = piece else { continue };
            let Some(segment) = Segment::of_name(name, segment_bytes) else { continue };
            let of_segment = stored.entry((segment.timeline, segment.number)).or_default();
            match piece {
                PieceName::Part { from, to, .. } => {
                    of_segment.parts.insert((*from, *to));
                }
                _ => of_segment.is_whole = true,
            }
        }
        Self { segment_bytes: segment_bytes.max(1), stored, histories }
    }

    /// Bytes of a segment.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Every timeline that something is known of, oldest first.
    pub fn timelines(&self) -> BTreeSet<u32> {
        let of_log = self.stored.keys().map(|(timeline, _)| *timeline);
        of_log.chain(self.histories.keys().copied()).collect()
    }

    /// The newest timeline that something is known of.
    pub fn newest_timeline(&self) -> Option<u32> {
        self.timelines().last().copied()
    }

    /// Where `timeline` left its ancestors, oldest first.
    fn ancestors(&self, timeline: u32) -> &[Switch] {
        self.histories.get(&timeline).map_or(&[], Vec::as_slice)
    }

    /// Where `timeline` ends its use of `of`; `None` when it never left it, or never was on it.
    pub(super) fn left(&self, timeline: u32, of: u32) -> Option<Lsn> {
        self.ancestors(timeline).iter().find(|switch| switch.parent == of).map(|switch| switch.at)
    }

    /// Whether a server can be told to follow `timeline`: but for the first it asks for the history.
    pub fn is_known(&self, timeline: u32) -> bool {
        timeline == 1 || self.histories.contains_key(&timeline)
    }

    /// Whether `timeline` goes on from what `base` holds.
    pub fn descends(&self, timeline: u32, base: &Base) -> bool {
        base.timeline == timeline || self.left(timeline, base.timeline).is_some_and(|at| at >= base.stop)
    }

    /// The segment of this number, along `timeline`: with a fork in it, the one of the newest timeline.
    pub fn segment(&self, timeline: u32, number: u64) -> Segment {
        let is_parents = |switch: &&Switch| number < switch.at.0 / self.segment_bytes;
        let parent = self.ancestors(timeline).iter().find(is_parents).map(|switch| switch.parent);
        Segment { timeline: parent.unwrap_or(timeline), number, bytes: self.segment_bytes }
    }

    /// Every timeline of which the segment of this number counts along `timeline`, the newest first, and
    /// how many bytes of it do.
    pub fn counting(&self, timeline: u32, number: u64) -> Vec<(u32, u64)> {
        let own = self.segment(timeline, number);
        let forks = self.ancestors(timeline).iter().rev();
        let in_it = forks.filter(|switch| {
            switch.parent != own.timeline && switch.at > own.start() && switch.at < own.end()
        });
        let parents = in_it.map(|switch| (switch.parent, switch.at.0 - own.start().0));
        std::iter::once((own.timeline, self.segment_bytes)).chain(parents).collect()
    }

    /// From what the segment of this number is put together along `timeline`; `None` when nothing of it is
    /// stored.
    pub fn assembly(&self, timeline: u32, number: u64) -> Option<Assembly> {
        let mut best: Option<Assembly> = None;
        for (of, counts) in self.counting(timeline, number) {
            let Some(stored) = self.stored.get(&(of, number)) else { continue };
            let until = stored.reach(self.segment_bytes).min(counts);
            if until > best.as_ref().map_or(0, |best| best.until) {
                let segment = Segment { timeline: of, number, bytes: self.segment_bytes };
                best = Some(Assembly { pieces: stored.pieces(segment, until), until, counts });
            }
        }
        best
    }

    /// How far the log is whole from where `base` starts, along `timeline`.
    pub fn reach(&self, timeline: u32, base: &Base) -> Lsn {
        for number in base.start.0 / self.segment_bytes.. {
            let stored = self.assembly(timeline, number).map_or(0, |assembly| assembly.until);
            if stored < self.segment_bytes {
                return Lsn(number * self.segment_bytes + stored);
            }
        }
        Lsn(u64::MAX)
    }

    /// Where, behind `end`, the log along `timeline` goes on: then something is missing between.
    pub(super) fn resumes_after(&self, timeline: u32, end: Lsn) -> Option<Lsn> {
        let next = end.0 / self.segment_bytes + 1;
        let on_path = self.ancestors(timeline).iter().map(|switch| switch.parent).chain([timeline]);
        let first_of = |of: u32| {
            let mut stored = self.stored.range((of, next)..=(of, u64::MAX)).map(|((_, number), _)| *number);
            stored.find(|number| self.segment(timeline, *number).timeline == of)
        };
        on_path.filter_map(first_of).min().map(|number| Lsn(number * self.segment_bytes))
    }

    /// The segments that a window is put together from, in order, each with where its timeline left the one
    /// before, if it did.
    pub fn segments<'a>(&'a self, window: &'a Window) -> impl Iterator<Item = (Segment, Option<Lsn>)> + 'a {
        let first = window.base.start.0 / self.segment_bytes;
        let behind = window.end.0.div_ceil(self.segment_bytes);
        (first..behind).filter_map(|number| {
            let piece = self.assembly(window.timeline, number)?.pieces.into_iter().next()?;
            let segment = Segment { timeline: piece.timeline(), number, bytes: self.segment_bytes };
            Some((segment, self.began(window.timeline, segment.timeline)))
        })
    }

    /// The segment in which a window ends, or that is the first to be missing behind it.
    pub fn ends_in(&self, window: &Window) -> Segment {
        self.segment(window.timeline, window.end.0 / self.segment_bytes)
    }

    /// What of a segment is stored, the parts in their order.
    pub fn pieces_of(&self, segment: Segment) -> Vec<PieceName> {
        let stored = self.stored.get(&(segment.timeline, segment.number));
        stored.map_or_else(Vec::new, |stored| stored.pieces(segment, self.segment_bytes))
    }

    /// Where `of`, which is `timeline` or an ancestor of it, left the one before.
    fn began(&self, timeline: u32, of: u32) -> Option<Lsn> {
        let ancestors = self.ancestors(timeline);
        let before = ancestors.iter().rev().skip_while(|switch| switch.parent >= of);
        before.map(|switch| switch.at).next()
    }

    /// The pieces whose log lies before `end` along `timeline`, from the last one back to where `base`
    /// starts.
    pub fn before(&self, timeline: u32, base: &Base, end: Lsn) -> impl Iterator<Item = PieceName> + '_ {
        let first = base.start.0 / self.segment_bytes;
        let last = end.0.saturating_sub(1) / self.segment_bytes;
        (first..=last).rev().flat_map(move |number| {
            let into = end.0 - number * self.segment_bytes;
            let ends = |piece: &PieceName| match piece {
                PieceName::Part { to, .. } => u64::from(*to),
                _ => self.segment_bytes,
            };
            let mut found: Vec<PieceName> = Vec::new();
            for (of, counts) in self.counting(timeline, number) {
                let segment = Segment { timeline: of, number, bytes: self.segment_bytes };
                let stored = self.stored.get(&(of, number));
                let pieces = stored.map(|stored| stored.pieces(segment, stored.reach(self.segment_bytes)));
                found.extend(pieces.into_iter().flatten().filter(|piece| ends(piece) <= counts.min(into)));
            }
            found.sort_by_key(|piece| std::cmp::Reverse(ends(piece)));
            found
        })
    }
}
