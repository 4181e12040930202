//! What the bytes of a segment say of themselves: of which cluster they are, where they lie in the log,
//! and when the last transaction in them ended.
//!
//! Comes in: the bytes, in pieces of any length. Goes out: [`Header`], and [`Ends::latest`]. It reads no
//! more than that, in the forms of [`super::page`] and of `access/xact.h`.
//!
//! A server that recovers to a time stops before the first transaction that ended later. So every time
//! before that of the latest end in the log is reached there as it would be with all of the log, however
//! much of it is missing behind.

use chrono::{DateTime, TimeDelta, Utc};

use super::Lsn;
use super::page::{IS_LONG, LONG_HEADER_BYTES, PageHeader, data_at};
use super::records::Records;

/// `RM_XACT_ID`, and of its records those that end a transaction.
const TRANSACTIONS: u8 = 1;
const ENDS: [u8; 4] = [0x00, 0x20, 0x30, 0x40];
/// 1 January 2000, in seconds since 1970.
const EPOCH_SECONDS: i64 = 946_684_800;

/// What the first page of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The timeline on which the first page was written: of a segment with a fork the parent's.
    pub timeline: u32,
    /// Where the segment begins.
    pub start: Lsn,
    /// PostgreSQL's own number of the cluster.
    pub system_identifier: u64,
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Bytes of a page.
    pub(super) page_bytes: u32,
}

impl Header {
    /// Reads it; `None` for what is no beginning of a segment.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < LONG_HEADER_BYTES {
            return None;
        }
        let PageHeader { mark, flags, timeline, address, system_identifier, segment_bytes, page_bytes } =
            PageHeader::of(bytes);
        let header = Self { timeline, start: Lsn(address), system_identifier, segment_bytes, page_bytes };
        // The upper byte of a page's mark is the same in every version.
        let is_page = mark >> 8 == 0xD1 && flags & IS_LONG != 0;
        let is_segment = (1 << 20..=1 << 30).contains(&header.segment_bytes)
            && header.segment_bytes.is_power_of_two()
            && header.start.0.is_multiple_of(u64::from(header.segment_bytes));
        let has_pages =
            header.page_bytes.is_power_of_two() && (1 << 10..=1 << 16).contains(&header.page_bytes);
        (is_page && is_segment && has_pages).then_some(header)
    }
}

/// Reads when transactions ended, as the bytes of a segment pass from its beginning.
#[derive(Debug, Default)]
pub struct Ends {
    records: Records,
    latest: Option<DateTime<Utc>>,
}

impl Ends {
    /// The latest time at which a transaction in it ended.
    pub fn latest(&self) -> Option<DateTime<Utc>> {
        self.latest
    }

    /// Until when everything that was committed is reached with it.
    pub fn complete_until(&self) -> Option<DateTime<Utc>> {
        self.latest.map(|latest| latest - TimeDelta::microseconds(1))
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let latest = &mut self.latest;
        self.records.update(bytes, |record, _| *latest = (*latest).max(end_in(record)));
    }
}

/// When the transaction ended whose end this record is.
fn end_in(record: &[u8]) -> Option<DateTime<Utc>> {
    let (info, manager) = (*record.get(16)?, *record.get(17)?);
    if manager != TRANSACTIONS || !ENDS.contains(&(info & 0x70)) {
        return None;
    }
    let data = data_at(record)?;
    let micros = i64::from_ne_bytes(record.get(data..data + 8)?.try_into().ok()?);
    DateTime::from_timestamp(EPOCH_SECONDS, 0)?.checked_add_signed(TimeDelta::microseconds(micros))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::page::RECORD_BYTES;
    use super::super::records::Names;
    use super::*;

    const SEGMENT: u64 = 1 << 20;
    const PAGE: usize = 8192;

    /// A segment of records, whose first continues one of `before` bytes of the segment before.
    fn segment(before: usize, records: &[Vec<u8>]) -> Vec<u8> {
        let mut pending: Vec<u8> = vec![7; before];
        pending.resize(before.next_multiple_of(8), 0);
        let mut begins_at = vec![before];
        for record in records {
            pending.extend_from_slice(record);
            pending.resize(pending.len().next_multiple_of(8), 0);
            begins_at.push(pending.len());
        }
        let (mut bytes, mut done) = (Vec::new(), 0);
        while done < pending.len() || bytes.is_empty() {
            let is_first = bytes.is_empty();
            let rest =
                if is_first { before } else { begins_at.iter().find(|end| **end >= done).unwrap() - done };
            let flags = u16::from(rest > 0) | if is_first { IS_LONG } else { 0 };
            let start = bytes.len();
            bytes.extend_from_slice(&0xD110u16.to_le_bytes());
            bytes.extend_from_slice(&flags.to_le_bytes());
            bytes.extend_from_slice(&1u32.to_le_bytes());
            bytes.extend_from_slice(&(5 * SEGMENT + start as u64).to_le_bytes());
            bytes.extend_from_slice(&(u32::try_from(rest).unwrap()).to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            if is_first {
                bytes.extend_from_slice(&77u64.to_le_bytes());
                bytes.extend_from_slice(&(u32::try_from(SEGMENT).unwrap()).to_le_bytes());
                bytes.extend_from_slice(&(u32::try_from(PAGE).unwrap()).to_le_bytes());
            }
            let room = (start + PAGE - bytes.len()).min(pending.len() - done);
            bytes.extend_from_slice(&pending[done..done + room]);
            done += room;
            bytes.resize(start + PAGE, 0);
        }
        bytes.resize(usize::try_from(SEGMENT).unwrap(), 0);
        bytes
    }

    fn record(manager: u8, info: u8, data: &[u8]) -> Vec<u8> {
        let mut record = vec![0; RECORD_BYTES];
        record[16] = info;
        record[17] = manager;
        record.push(254);
        record.extend_from_slice(&(u32::try_from(data.len()).unwrap()).to_le_bytes());
        record.extend_from_slice(data);
        let length = u32::try_from(record.len()).unwrap();
        record[..4].copy_from_slice(&length.to_le_bytes());
        record
    }

    fn commit(second: i64) -> Vec<u8> {
        record(TRANSACTIONS, 0x80, &(second * 1_000_000).to_le_bytes())
    }

    fn latest(bytes: &[u8], pieces: usize) -> Option<i64> {
        let mut ends = Ends::default();
        bytes.chunks(pieces.max(1)).for_each(|piece| ends.update(piece));
        ends.latest().map(|at| at.timestamp() - EPOCH_SECONDS)
    }

    fn point(name: &str) -> Vec<u8> {
        let mut data = [0; 72];
        data[8..8 + name.len()].copy_from_slice(name.as_bytes());
        record(0, 0x70, &data)
    }

    #[test]
    fn the_names_of_restore_points_are_read_with_where_they_end() {
        let first = vec![point("before"), commit(3), record(10, 0, &[9; 8000]), point("over the page's end")];
        let names = |segments: &[Vec<u8>], piece: usize| {
            let mut names = Names::default();
            for segment in segments {
                names.begin_segment();
                segment.chunks(piece).for_each(|bytes| names.update(bytes));
            }
            names.finish()
        };
        let segments = [segment(100, &first), segment(0, &[point("in the next")])];
        let found = names(&segments, 1000);
        assert_eq!(names(&segments, 1 << 20), found);
        let told: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(told, ["before", "over the page's end", "in the next"]);
        let start = Lsn(5 * SEGMENT);
        assert!(found[0].1 > start && found[1].1.0 > start.0 + 8000, "{found:?}");
        assert_eq!(names(&[vec![0; 100]], 7), []);
    }

    #[test]
    fn a_segment_says_where_it_is_from() {
        let header = Header::of(&segment(0, &[])).unwrap();
        assert_eq!(header.system_identifier, 77);
        assert_eq!((header.start, header.timeline), (Lsn(5 * SEGMENT), 1));
        assert_eq!(u64::from(header.segment_bytes), SEGMENT);
        assert_eq!(Header::of(&[0; LONG_HEADER_BYTES]), None);
        assert_eq!(Header::of(b"short"), None);
    }

    #[test]
    fn the_latest_end_counts_and_no_other_record() {
        let long = record(10, 0, &[9; 3 * PAGE]);
        let prepared = record(TRANSACTIONS, 0x10, &90i64.to_le_bytes());
        let records = [commit(5), long.clone(), commit(8), prepared, commit(7), long];
        assert_eq!(latest(&segment(0, &records), 1000), Some(8));
        assert_eq!(latest(&segment(PAGE + 33, &records), 1000), Some(8));
        assert_eq!(latest(&segment(100, &[]), 1000), None);
    }

    #[test]
    fn an_end_that_goes_on_in_the_next_segment_does_not_count() {
        let mut bytes = segment(0, &[commit(5), record(10, 0, &[9; PAGE]), commit(8)]);
        bytes.truncate(PAGE);
        assert_eq!(latest(&bytes, 1000), Some(5));
    }

    proptest! {
        #[test]
        fn the_pieces_it_passes_in_make_no_difference(
            lengths in proptest::collection::vec(0usize..20_000, 0..12), before in 0usize..20_000, piece in 1usize..10_000,
        ) {
            let records: Vec<Vec<u8>> = lengths.iter().enumerate()
                .flat_map(|(at, length)| [record(10, 0, &vec![9; *length]), commit(i64::try_from(at).unwrap())])
                .collect();
            let bytes = segment(before, &records);
            let expected = lengths.len().checked_sub(1).map(|last| i64::try_from(last).unwrap());
            prop_assert_eq!(latest(&bytes, piece), expected);
        }

        #[test]
        fn no_bytes_are_too_strange(mut bytes in proptest::collection::vec(any::<u8>(), 0..40_000), keeps_head: bool) {
            let good = segment(0, &[]);
            let head = bytes.len().min(LONG_HEADER_BYTES);
            if keeps_head {
                bytes[..head].copy_from_slice(&good[..head]);
            }
            let _ = latest(&bytes, 777);
        }
    }
}
