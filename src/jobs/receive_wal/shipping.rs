//! Moves what lies in the spool into the store.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::spool::{self, Origin, PAGE_BYTES, Spooled, remove};
use super::{Means, Shipped};
use crate::jobs::keep_wal::{Keeper, Plain, Until};
use crate::jobs::{JobError, blocking, disk};
use crate::postgres::replication::Mark;
use crate::rules::physical::{PieceName, Segment};
use crate::rules::wal::Lsn;

/// The spool, and how far it is stored.
pub(super) struct Shipping<'a> {
    means: &'a Means<'a>,
    origin: &'a Origin,
    keeper: Keeper<'a>,
    /// Parts of segments that are not stored whole yet.
    parts: BTreeSet<PieceName>,
    until: Option<(u32, Lsn)>,
    complete_until: Option<DateTime<Utc>>,
    /// Moments of the server, oldest first; of those that are stored only the last.
    marks: VecDeque<Mark>,
}

impl<'a> Shipping<'a> {
    /// Looks at what is stored.
    ///
    /// # Errors
    /// [`JobError::OtherCluster`], before anything is changed; what store and disk say.
    pub(super) async fn open(
        means: &'a Means<'a>,
        origin: &'a Origin,
        clock: fn() -> DateTime<Utc>,
    ) -> Result<Self, JobError> {
        let keeper = Keeper {
            catalog: means.catalog,
            sealer: means.sealer,
            signing: means.signing,
            state: means.state,
            system_identifier: &origin.system_identifier,
            clock,
        };
        let pieces = means.catalog.pieces().await?;
        keeper.check_cluster(&pieces).await?;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(means.spool);
        made.map_err(|source| disk("make", means.spool, source))?;
        let parts = pieces.into_iter().filter(|piece| matches!(piece, PieceName::Part { .. })).collect();
        Ok(Self { means, origin, keeper, parts, until: None, complete_until: None, marks: VecDeque::new() })
    }

    /// Takes over how far the log was stored before.
    pub(super) fn go_on_from(&mut self, shipped: Shipped) {
        self.until = Some((shipped.timeline, shipped.until));
        self.complete_until = Some(shipped.complete_until);
    }

    /// Stores what the spool has of other timelines than the server writes, and removes it: the receiver
    /// would go on from there.
    pub(super) async fn settle_other_timelines(&mut self) -> Result<(), JobError> {
        let is_other = |spooled: &Spooled| {
            spooled.segment().is_some_and(|segment| segment.timeline != self.origin.timeline)
        };
        let others: Vec<Spooled> = self.spooled()?.into_iter().filter(is_other).collect();
        for spooled in others {
            match &spooled {
                Spooled::Open(segment) => self.ship_open(*segment).await?,
                _ => self.ship_whole(&spooled).await?,
            }
            remove(&self.path_of(&spooled))?;
        }
        Ok(())
    }

    /// Has the receiver begin with `first`, unless the spool goes on from there.
    ///
    /// An empty file of a segment that is not whole tells the receiver where to begin. What lies in the
    /// spool behind a hole is received again: the server has it still.
    pub(super) fn begin_at(&mut self, first: Segment) -> Result<(), JobError> {
        self.until = Some((first.timeline, first.start()));
        let spooled = self.spooled()?;
        let numbers: BTreeSet<u64> = spooled.iter().filter_map(Spooled::segment).map(|s| s.number).collect();
        let newest = numbers.last().copied().unwrap_or(0);
        if newest >= first.number && (first.number..=newest).all(|number| numbers.contains(&number)) {
            return Ok(());
        }
        // Whole segments from before are still to be stored, though something is missing behind them.
        let is_in_the_way = |spooled: &&Spooled| match spooled {
            Spooled::Open(_) => true,
            Spooled::Whole(segment) => segment.number >= first.number,
            Spooled::History(_) => false,
        };
        for old in spooled.iter().filter(is_in_the_way) {
            remove(&self.path_of(old))?;
        }
        self.make_open(first)
    }

    /// Has a receiver that is about to start go on where what is stored ends: with an empty spool it would
    /// begin where the server is by now. Its last one may have ended between two segments.
    pub(super) fn lead_receiver(&self) -> Result<(), JobError> {
        let is_led = self.spooled()?.iter().any(|spooled| spooled.segment().is_some());
        match self.until.filter(|_| !is_led) {
            Some((timeline, until)) => {
                self.make_open(Segment::at(timeline, until, self.origin.segment_bytes))
            }
            None => Ok(()),
        }
    }

    fn make_open(&self, segment: Segment) -> Result<(), JobError> {
        let path = self.path_of(&Spooled::Open(segment));
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.map(drop).map_err(|source| disk("make", &path, source))
    }

    /// Refuses a segment behind a hole: the slot must not pass what is not stored. Whoever begins again has
    /// the log from there on received anew.
    fn check_follows(&self, segment: &Segment) -> Result<(), JobError> {
        let until = self.until.filter(|(timeline, _)| *timeline == segment.timeline);
        match until.filter(|(_, until)| segment.start() > *until) {
            Some((_, until)) => Err(JobError::Refused {
                action: format!("store {segment} of the write-ahead log"),
                reasons: vec![format!("what was received lacks the log from {until} on")],
            }),
            None => Ok(()),
        }
    }

    /// Notes a moment of the server.
    pub(super) fn note(&mut self, mark: Mark) {
        self.marks.push_back(mark);
    }

    /// Stores the oldest whole segment or history file, which leaves the spool then; says whether there was one.
    pub(super) async fn ship_next_segment(&mut self) -> Result<bool, JobError> {
        let is_open = |spooled: &Spooled| matches!(spooled, Spooled::Open(_));
        let Some(next) = self.spooled()?.into_iter().find(|spooled| !is_open(spooled)) else {
            return Ok(false);
        };
        self.ship_whole(&next).await?;
        Ok(true)
    }

    /// Stores everything that the spool has.
    pub(super) async fn ship_all(&mut self) -> Result<(), JobError> {
        while self.ship_next_segment().await? {}
        self.ship_open_segment().await
    }

    async fn ship_whole(&mut self, spooled: &Spooled) -> Result<(), JobError> {
        let path = self.path_of(spooled);
        let name = match spooled {
            Spooled::Whole(segment) => PieceName::Segment(segment.to_string()),
            Spooled::History(timeline) => PieceName::History(*timeline),
            Spooled::Open(_) => return Ok(()),
        };
        let bytes = std::fs::metadata(&path).map_err(|source| disk("read", &path, source))?.len();
        if let Spooled::Whole(segment) = spooled {
            self.check_follows(segment)?;
            self.check_whole(segment, &path, bytes)?;
        }
        let end = spooled.segment().map(|segment| (segment.timeline, segment.end()));
        let told = end.and_then(|(timeline, end)| self.complete(timeline, end));
        let until = told.map_or(Until::Within, |told| Until::Told(Some(told)));
        self.keeper.store(name, Plain { path: path.clone(), from: 0, bytes }, until).await?;
        if let Some((timeline, end)) = end {
            self.reached(timeline, end);
        }
        if let Spooled::Whole(segment) = spooled {
            self.remove_parts_of(*segment).await?;
        }
        remove(&path)
    }

    /// Refuses a file that is no segment of the cluster, and sets it aside: it is received again, since the
    /// server has it still.
    fn check_whole(&self, segment: &Segment, path: &Path, bytes: u64) -> Result<(), JobError> {
        let reason = if bytes == segment.bytes {
            let Some(reason) = self.foreign(segment, path)? else { return Ok(()) };
            reason
        } else {
            format!("it has {bytes} bytes, and a segment {}", segment.bytes)
        };
        let aside = path.with_extension("damaged");
        std::fs::rename(path, &aside).map_err(|source| disk("set aside", path, source))?;
        Err(disk("set aside a received segment", &aside, io::Error::other(reason)))
    }

    /// Why a file of the spool is not of the cluster, if that is so.
    fn foreign(&self, segment: &Segment, path: &Path) -> Result<Option<String>, JobError> {
        let read = spool::header_of(path).map_err(|source| disk("read", path, source))?;
        let Some(header) = read else {
            return Ok(Some("it does not begin as a segment does".into()));
        };
        let found = header.system_identifier.to_string();
        Ok(if found != self.origin.system_identifier {
            Some(format!("it is of cluster {found}, the server is {}", self.origin.system_identifier))
        } else if header.start != segment.start() {
            Some(format!("it begins at {}, and the segment of its name at {}", header.start, segment.start()))
        } else {
            None
        })
    }

    /// Stores what is new of the segment that is being written.
    pub(super) async fn ship_open_segment(&mut self) -> Result<(), JobError> {
        let open = self.spooled()?.into_iter().rev().find_map(|spooled| match spooled {
            Spooled::Open(segment) => Some(segment),
            _ => None,
        });
        let Some(segment) = open else { return Ok(()) };
        match self.ship_open(segment).await {
            // It was completed since it was listed.
            Err(JobError::Disk { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    async fn ship_open(&mut self, segment: Segment) -> Result<(), JobError> {
        let path = self.path_of(&Spooled::Open(segment));
        let stored = self.stored_of(segment);
        // What was written of the last page may have been written over since.
        let from = stored - stored % PAGE_BYTES;
        let read = path.clone();
        let written =
            blocking(move || spool::written_until(&read, from).map_err(|source| disk("read", &read, source)))
                .await?;
        // Zeros at the end of the log belong to it, where they are known to have been received.
        let to = written.max(self.received_of(segment));
        if to > stored {
            self.check_follows(&segment)?;
            if let Some(reason) = self.foreign(&segment, &path)? {
                remove(&path)?;
                return Err(disk("removed a received segment", &path, io::Error::other(reason)));
            }
            let offset = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
            let name = PieceName::Part { segment: segment.to_string(), from: offset(from), to: offset(to) };
            let end = Lsn(segment.start().0 + to);
            let complete_until = match self.complete(segment.timeline, end) {
                None => spool::ended_before(path.clone(), to).await?,
                told => told,
            };
            let until = Until::Told(complete_until);
            self.keeper.store(name.clone(), Plain { path, from, bytes: to - from }, until).await?;
            self.parts.insert(name);
            self.reached(segment.timeline, end);
        } else {
            self.reached(segment.timeline, Lsn(segment.start().0 + stored));
        }
        Ok(())
    }

    /// Bytes of an open segment that the receiver said it had written down before it was looked at.
    fn received_of(&self, segment: Segment) -> u64 {
        let received = self.marks.back().and_then(|mark| mark.received);
        let into_segment = received.and_then(|lsn| lsn.0.checked_sub(segment.start().0));
        into_segment.filter(|bytes| *bytes < segment.bytes).unwrap_or(0)
    }

    /// How far everything is stored.
    pub(super) fn shipped(&self) -> Option<Shipped> {
        let (timeline, until) = self.until?;
        let complete_until = self.complete_until?;
        let kept_bytes = self.marks.back().map_or(0, |mark| mark.kept_bytes);
        Some(Shipped { timeline, until, complete_until, kept_bytes, unbroken_since: complete_until })
    }

    fn reached(&mut self, timeline: u32, end: Lsn) {
        if self.until.is_none_or(|(known, until)| (known, until) < (timeline, end)) {
            self.until = Some((timeline, end));
        }
        self.complete_until = self.complete_until.max(self.complete(timeline, end));
        while timeline == self.origin.timeline && self.marks.get(1).is_some_and(|next| next.flushed <= end) {
            self.marks.pop_front();
        }
    }

    /// Until when everything that was committed lies before `end`; of timelines that the server does not
    /// write it says nothing.
    fn complete(&self, timeline: u32, end: Lsn) -> Option<DateTime<Utc>> {
        let marks = self.marks.iter().filter(|_| timeline == self.origin.timeline);
        marks.rev().find(|mark| mark.flushed <= end).map(|mark| mark.at)
    }

    fn stored_of(&self, segment: Segment) -> u64 {
        let name_of = segment.to_string();
        let ends = self.parts.iter().filter_map(|part| match part {
            PieceName::Part { segment, to, .. } if *segment == name_of => Some(u64::from(*to)),
            _ => None,
        });
        ends.max().unwrap_or(0)
    }

    async fn remove_parts_of(&mut self, segment: Segment) -> Result<(), JobError> {
        let name_of = segment.to_string();
        let of_segment =
            |part: &&PieceName| matches!(part, PieceName::Part { segment, .. } if *segment == name_of);
        let parts: Vec<PieceName> = self.parts.iter().filter(of_segment).cloned().collect();
        let (store, cluster) = (self.means.catalog.store(), self.means.catalog.cluster());
        for part in parts {
            store.delete(&part.record_key(cluster)).await?;
            store.delete(&part.sealed_key(cluster)).await?;
            self.parts.remove(&part);
        }
        Ok(())
    }

    /// What the spool has, in the order of the log.
    fn spooled(&self) -> Result<Vec<Spooled>, JobError> {
        spool::spooled(self.means.spool, self.origin.segment_bytes)
    }

    fn path_of(&self, spooled: &Spooled) -> PathBuf {
        spooled.path_in(self.means.spool)
    }
}
