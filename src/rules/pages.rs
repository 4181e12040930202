//! Checks that bytes are those of their place in the write-ahead log, by the headers of its pages.
//!
//! Comes in: the bytes of a segment, whole or from its beginning on, and which segment it is to be. Goes
//! out: the first [`Fault`]. Each page says where it belongs: its address, its timeline, and on the first
//! page of a segment the cluster and the size of a segment (`XLogPageHeaderData` and
//! `XLogLongPageHeaderData` of PostgreSQL). A piece that was taken for another is found so, though each
//! decrypts and has the digests of a record.
//!
//! Numbers are in the byte order of the machine, as in all files of a cluster.

use super::physical::Segment;
use super::wal::Lsn;
use super::wal::page::{HEADER_BYTES, IS_LONG, PageHeader};

/// Bytes of a page, as PostgreSQL is built unless told otherwise.
pub const PAGE_BYTES: usize = 8 << 10;

/// Which bytes are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The segment.
    pub segment: Segment,
    /// Where its timeline left the one before, if that is known: what lies before was copied from there.
    pub began_at: Option<Lsn>,
    /// PostgreSQL's own number of the cluster.
    pub system_identifier: u64,
}

/// What a page says that it must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the page at {at} {what}")]
pub struct Fault {
    /// Where the page is to be.
    pub at: Lsn,
    /// What is wrong with it.
    pub what: What,
}

/// What is wrong with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// It belongs elsewhere.
    #[error("says that it is the one at {0}")]
    Address(Lsn),
    /// It is of another timeline.
    #[error("is of timeline {0}")]
    Timeline(u32),
    /// It is of another version of PostgreSQL than the first, or no page at all.
    #[error("has the mark {0:04X}, which is not that of the others")]
    Mark(u16),
    /// It says of the whole segment what only the first page does, or does not say it.
    #[error("has not the header of its place in the segment")]
    Header,
    /// It is of another cluster.
    #[error("is of cluster {0}")]
    System(u64),
    /// It is of a cluster with segments of another size.
    #[error("is of a segment of {0} bytes")]
    SegmentBytes(u32),
    /// It is of a server with pages of another size.
    #[error("says that pages have {0} bytes")]
    PageBytes(u32),
    /// Nothing is in it, and something behind it.
    #[error("is empty, and the log goes on behind it")]
    Empty,
}

/// Looks at every page of `bytes`, and returns the mark that all of them have, which is that of the
/// server's major version.
///
/// A last page that is cut short counts as if zeros followed, and one that is cut within its header says
/// nothing. Empty pages at the end are right: a server
/// that switches to the next segment leaves them.
///
/// # Errors
/// The first [`Fault`].
pub fn check(bytes: &[u8], place: &Place) -> Result<u16, Fault> {
    let start = place.segment.start();
    let mut mark = None;
    let mut empty = None;
    for (number, page) in bytes.chunks(PAGE_BYTES).enumerate() {
        let at = Lsn(start.0 + (number * PAGE_BYTES) as u64);
        if page.iter().all(|byte| *byte == 0) {
            empty = empty.or(Some(at));
            continue;
        }
        if let Some(at) = empty {
            return Err(Fault { at, what: What::Empty });
        }
        if page.len() < HEADER_BYTES && mark.is_some() {
            continue;
        }
        let header = PageHeader::of(page);
        check_header(&header, at, place, *mark.get_or_insert(header.mark))
            .map_err(|what| Fault { at, what })?;
    }
    mark.ok_or(Fault { at: start, what: What::Mark(0) })
}

fn check_header(header: &PageHeader, at: Lsn, place: &Place, mark: u16) -> Result<(), What> {
    let is_first = at == place.segment.start();
    if header.mark == 0 || header.mark != mark {
        return Err(What::Mark(header.mark));
    }
    if header.address != at.0 {
        return Err(What::Address(Lsn(header.address)));
    }
    if !has_timeline(header.timeline, at, place) {
        return Err(What::Timeline(header.timeline));
    }
    if (header.flags & IS_LONG != 0) != is_first {
        return Err(What::Header);
    }
    if !is_first {
        return Ok(());
    }
    if header.system_identifier != place.system_identifier {
        return Err(What::System(header.system_identifier));
    }
    if u64::from(header.segment_bytes) != place.segment.bytes {
        return Err(What::SegmentBytes(header.segment_bytes));
    }
    if header.page_bytes as usize != PAGE_BYTES {
        return Err(What::PageBytes(header.page_bytes));
    }
    Ok(())
}

/// Whether a page at `at` may be of `timeline`: what a timeline took over keeps the number of the one
/// that wrote it.
fn has_timeline(timeline: u32, at: Lsn, place: &Place) -> bool {
    let own = place.segment.timeline;
    let is_taken_over = own > 1 && place.began_at.is_none_or(|began_at| at < began_at);
    if is_taken_over { (1..=own).contains(&timeline) } else { timeline == own }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::wal::page::LONG_HEADER_BYTES;

    const SEGMENT_BYTES: u64 = 1 << 20;
    const SYSTEM: u64 = 7_000_000_000_000_000_001;
    const MARK: u16 = 0xD110;

    fn place(timeline: u32, number: u64) -> Place {
        let segment = Segment { timeline, number, bytes: SEGMENT_BYTES };
        Place { segment, began_at: None, system_identifier: SYSTEM }
    }

    fn page(timeline: u32, at: u64) -> Vec<u8> {
        let is_first = at.is_multiple_of(SEGMENT_BYTES);
        let mut page = Vec::with_capacity(PAGE_BYTES);
        page.extend(MARK.to_ne_bytes());
        page.extend(if is_first { IS_LONG } else { 0 }.to_ne_bytes());
        page.extend(timeline.to_ne_bytes());
        page.extend(at.to_ne_bytes());
        page.extend([0; 8]);
        if is_first {
            page.extend(SYSTEM.to_ne_bytes());
            page.extend((SEGMENT_BYTES as u32).to_ne_bytes());
            page.extend((PAGE_BYTES as u32).to_ne_bytes());
        }
        page.resize(PAGE_BYTES, 0xAB);
        page
    }

    fn segment(timeline: u32, number: u64) -> Vec<u8> {
        let start = number * SEGMENT_BYTES;
        (0..SEGMENT_BYTES / PAGE_BYTES as u64)
            .flat_map(|index| page(timeline, start + index * PAGE_BYTES as u64))
            .collect()
    }

    fn fault(bytes: &[u8], place: &Place) -> What {
        check(bytes, place).unwrap_err().what
    }

    #[test]
    fn a_segment_fits_its_own_place_and_no_other() {
        let bytes = segment(1, 5);
        assert_eq!(check(&bytes, &place(1, 5)), Ok(MARK));
        assert_eq!(fault(&bytes, &place(1, 6)), What::Address(Lsn(5 * SEGMENT_BYTES)));
        assert_eq!(fault(&segment(2, 5), &place(1, 5)), What::Timeline(2));
        let other = Place { system_identifier: 1, ..place(1, 5) };
        assert_eq!(fault(&bytes, &other), What::System(SYSTEM));
        let larger = Segment { bytes: 2 * SEGMENT_BYTES, ..place(1, 5).segment };
        let half = segment(1, 10);
        let larger = Place { segment: larger, ..place(1, 5) };
        assert_eq!(fault(&half, &larger), What::SegmentBytes(1 << 20));
    }

    #[test]
    fn what_a_timeline_took_over_keeps_the_number_of_who_wrote_it() {
        let switch = 5 * SEGMENT_BYTES + 3 * PAGE_BYTES as u64 + 100;
        let mut bytes = segment(2, 5);
        for index in 0..=3u64 {
            let at = index as usize * PAGE_BYTES;
            bytes[at..at + PAGE_BYTES]
                .copy_from_slice(&page(1, 5 * SEGMENT_BYTES + index * PAGE_BYTES as u64));
        }
        let of_two = Place { began_at: Some(Lsn(switch)), ..place(2, 5) };
        assert_eq!(check(&bytes, &of_two), Ok(MARK));
        assert_eq!(fault(&segment(1, 5), &of_two), What::Timeline(1), "the old timeline's own segment");
        assert_eq!(fault(&bytes, &place(1, 5)), What::Timeline(2));
    }

    #[test]
    fn a_switch_leaves_empty_pages_and_a_hole_does_not_pass_for_one() {
        let mut bytes = segment(1, 5);
        bytes[40 * PAGE_BYTES..].fill(0);
        assert_eq!(check(&bytes, &place(1, 5)), Ok(MARK));
        bytes[20 * PAGE_BYTES..21 * PAGE_BYTES].fill(0);
        let at = Lsn(5 * SEGMENT_BYTES + 20 * PAGE_BYTES as u64);
        assert_eq!(check(&bytes, &place(1, 5)), Err(Fault { at, what: What::Empty }));
        assert_eq!(fault(&vec![0; SEGMENT_BYTES as usize], &place(1, 5)), What::Mark(0));
        assert_eq!(fault(&[], &place(1, 5)), What::Mark(0));
    }

    #[test]
    fn the_long_header_is_on_the_first_page_alone() {
        let mut bytes = segment(1, 5);
        bytes[2..4].fill(0);
        assert_eq!(fault(&bytes, &place(1, 5)), What::Header);
        let mut bytes = segment(1, 5);
        bytes[PAGE_BYTES + 2..PAGE_BYTES + 4].copy_from_slice(&IS_LONG.to_ne_bytes());
        assert_eq!(fault(&bytes, &place(1, 5)), What::Header);
    }

    proptest! {
        /// The open segment is stored as far as it was written, to any byte.
        #[test]
        fn a_segment_may_end_anywhere_in_its_log(cut in LONG_HEADER_BYTES..SEGMENT_BYTES as usize) {
            let mut bytes = segment(1, 5);
            bytes.truncate(cut);
            // As it is stored: without the zeros at its end.
            let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            bytes.truncate(written);
            prop_assert_eq!(check(&bytes, &place(1, 5)), Ok(MARK));
        }

        /// Two pages in each other's place are found, wherever they are.
        #[test]
        fn pages_that_changed_places_are_found(a in 0usize..128, b in 0usize..128) {
            prop_assume!(a != b);
            let mut bytes = segment(1, 5);
            let (first, second) = (a.min(b) * PAGE_BYTES, a.max(b) * PAGE_BYTES);
            let (left, right) = bytes.split_at_mut(second);
            left[first..first + PAGE_BYTES].swap_with_slice(&mut right[..PAGE_BYTES]);
            let fault = check(&bytes, &place(1, 5)).unwrap_err();
            prop_assert_eq!(fault.at, Lsn(5 * SEGMENT_BYTES + first as u64));
        }

        /// No bytes whatever make it panic.
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..20_000)) {
            prop_assert!(check(&bytes, &place(1, 5)).is_err());
        }
    }
}
