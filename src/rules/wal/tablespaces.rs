//! Finds the records by which a tablespace is made in the bytes of the log, and changes where.
//!
//! A server that replays such a record makes a link to the directory in it, and writes there from then on:
//! on the host of the live server that is the live tablespace. A directory without a name means within the
//! data directory (`allow_in_place_tablespaces`; servers from 12.12, 13.8, 14.5 and 15 on know it when
//! they replay, older ones give up).

use super::page::{
    IS_CONTINUED, LONG_HEADER_BYTES, PageHeader, RECORD_BYTES, data_at, header_bytes, u16_at, u32_at,
};

/// Resource manager of tablespaces, and its kind of record for a new one.
const TABLESPACE_MANAGER: u8 = 5;
const CREATE: u8 = 0x00;
/// The bits of a record's kind that are its manager's.
const KIND_MASK: u8 = 0xF0;
const CHECKSUM_AT: usize = 20;
/// No such record is longer: a path has 1024 bytes at most.
const LONGEST: usize = 2048;

/// What a segment says of tablespaces that are made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scan {
    /// The records, in their order.
    pub made: Vec<Made>,
    /// The beginning of a record that goes on in the next segment.
    pub unfinished: Vec<u8>,
    /// The end of a record that began in the segment before.
    pub continued: Vec<u8>,
}

/// A tablespace that is made by a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// PostgreSQL's number of it.
    pub oid: u32,
    /// Its directory.
    pub location: String,
    record: Vec<u8>,
    /// Where in the record the directory stands.
    location_at: usize,
    /// Where in the segment each byte of the record lies.
    places: Vec<usize>,
}

/// Scans a segment, page by page.
#[derive(Default)]
pub struct Scanner {
    /// Where the next page begins.
    next: usize,
    open: Open,
    found: Scan,
    is_over: bool,
}

impl Scanner {
    /// Takes the next page; returns whether the log goes on behind it.
    pub fn page(&mut self, page: &[u8]) -> bool {
        if self.is_over || u16_at(page, 0).is_none_or(|magic| magic == 0) {
            self.is_over = true;
            return false;
        }
        let flags = u16_at(page, 2).unwrap_or_default();
        let mut at = header_bytes(flags);
        if flags & IS_CONTINUED != 0 {
            let left = u32_at(page, 16).unwrap_or_default() as usize;
            let until = (at + left).min(page.len());
            if self.next == 0 && left <= LONGEST {
                self.found.continued = page.get(at..until).unwrap_or_default().to_vec();
            }
            self.take(page, at, until);
            at = aligned(at.saturating_add(left));
        } else {
            self.open = Open::default();
        }
        while let Some(length) = u32_at(page, at).filter(|_| at + 8 <= page.len()) {
            let length = length as usize;
            if length < RECORD_BYTES {
                break;
            }
            self.open = Open { length, ..Open::default() };
            self.take(page, at, (at + length).min(page.len()));
            at = aligned(at + length);
        }
        self.next += page.len();
        true
    }

    /// What was found, once every page was taken.
    pub fn finish(mut self) -> Scan {
        self.found.unfinished = self.open.bytes;
        self.found
    }

    fn take(&mut self, page: &[u8], from: usize, until: usize) {
        self.open.take(page, self.next, from, until);
        self.found.made.extend(self.open.close());
    }
}

/// Bytes of a page of the segment that begins with `head`; `None` when it is none.
pub fn page_bytes(head: &[u8]) -> Option<usize> {
    let bytes = PageHeader::of(head).page_bytes as usize;
    (bytes.is_power_of_two() && bytes >= LONG_HEADER_BYTES).then_some(bytes)
}

/// The record of which one segment has the beginning and the next one the end, if it makes a tablespace.
pub fn across(unfinished: &[u8], continued: &[u8]) -> Option<Made> {
    let record = [unfinished, continued].concat();
    (u32_at(&record, 0)? as usize == record.len()).then(|| read(record, Vec::new()))?
}

impl Made {
    /// Has the tablespace made within the data directory: the bytes that have to be changed in the segment,
    /// and where they lie in it.
    pub fn put_in_place(&self) -> Vec<(usize, u8)> {
        let mut record = self.record.clone();
        if let Some(location) = record.get_mut(self.location_at..) {
            location.fill(0);
        }
        let checksum = checksum(&record).to_ne_bytes();
        if let Some(place) = record.get_mut(CHECKSUM_AT..RECORD_BYTES) {
            place.copy_from_slice(&checksum);
        }
        self.places.iter().copied().zip(record).collect()
    }
}

/// A record that may go on behind a page.
#[derive(Default)]
struct Open {
    length: usize,
    bytes: Vec<u8>,
    places: Vec<usize>,
}

impl Open {
    fn take(&mut self, page: &[u8], begins_at: usize, from: usize, until: usize) {
        if self.length <= LONGEST && self.bytes.len() < self.length {
            self.bytes.extend_from_slice(page.get(from..until).unwrap_or_default());
            self.places.extend(begins_at + from..begins_at + until);
        }
    }

    /// What it says, once it is whole.
    fn close(&mut self) -> Option<Made> {
        if self.length == 0 || self.bytes.len() != self.length {
            return None;
        }
        let whole = std::mem::take(self);
        read(whole.bytes, whole.places)
    }
}

/// Reads a record; one whose checksum does not fit is none.
fn read(record: Vec<u8>, places: Vec<usize>) -> Option<Made> {
    let (kind, manager) = (*record.get(16)?, *record.get(17)?);
    if manager != TABLESPACE_MANAGER || kind & KIND_MASK != CREATE {
        return None;
    }
    if checksum(&record) != u32_at(&record, CHECKSUM_AT)? {
        return None;
    }
    let data_at = data_at(&record)?;
    let (oid, location_at) = (u32_at(&record, data_at)?, data_at + 4);
    let location = record.get(location_at..)?.split(|byte| *byte == 0).next()?;
    let location = String::from_utf8_lossy(location).into_owned();
    Some(Made { oid, location, record, location_at, places })
}

/// CRC-32C over what follows the header, and the header up to the checksum.
fn checksum(record: &[u8]) -> u32 {
    let (head, body) = (record.get(..CHECKSUM_AT), record.get(RECORD_BYTES..));
    let bytes = body.unwrap_or_default().iter().chain(head.unwrap_or_default());
    !bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(
            sum ^ u32::from(*byte),
            |sum, _| {
                if sum & 1 == 1 { sum >> 1 ^ 0x82F6_3B78 } else { sum >> 1 }
            },
        )
    })
}

fn aligned(at: usize) -> usize {
    at.next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::wal::page::HEADER_BYTES;

    const PAGE: usize = 8192;

    fn scan(segment: &[u8]) -> Scan {
        let mut scanner = Scanner::default();
        let _ = segment.chunks(PAGE).all(|page| scanner.page(page));
        scanner.finish()
    }

    fn record(manager: u8, location: &str) -> Vec<u8> {
        let data = [&16_384u32.to_ne_bytes(), location.as_bytes(), &[0]].concat();
        let length = RECORD_BYTES + 2 + data.len();
        let mut record = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
        record.resize(RECORD_BYTES, 0);
        record[17] = manager;
        record.extend([255, u8::try_from(data.len()).unwrap()]);
        record.extend(data);
        let sum = checksum(&record);
        record[CHECKSUM_AT..RECORD_BYTES].copy_from_slice(&sum.to_ne_bytes());
        record
    }

    /// A log of `segments`, 4 pages each, with records one behind the other, the first one filled up to
    /// `filler` bytes.
    fn log(filler: usize, records: &[Vec<u8>], segments: usize) -> Vec<Vec<u8>> {
        let mut first = u32::try_from(filler).unwrap().to_ne_bytes().to_vec();
        first.resize(filler, 7);
        let mut stream = Vec::new();
        let mut starts = Vec::new();
        for record in std::iter::once(&first).chain(records) {
            starts.push((stream.len(), record.len()));
            stream.extend(record);
            stream.resize(aligned(stream.len()), 0);
        }
        let mut at = 0;
        let mut made = Vec::new();
        for _ in 0..segments {
            let mut segment = Vec::new();
            for page in 0..4 {
                let header = if page == 0 { LONG_HEADER_BYTES } else { HEADER_BYTES };
                let mut bytes = vec![0; PAGE];
                let left = starts
                    .iter()
                    .find(|(start, length)| *start < at && at < start + length)
                    .map(|(start, length)| start + length - at);
                bytes[0] = 1;
                bytes[2] = u8::from(left.is_some()) | if page == 0 { 2 } else { 0 };
                bytes[16..20].copy_from_slice(&u32::try_from(left.unwrap_or(0)).unwrap().to_ne_bytes());
                if page == 0 {
                    bytes[36..40].copy_from_slice(&u32::try_from(PAGE).unwrap().to_ne_bytes());
                }
                let until = (at + PAGE - header).min(stream.len());
                bytes[header..header + until - at].copy_from_slice(&stream[at..until]);
                at = until;
                segment.extend(bytes);
            }
            made.push(segment);
        }
        made
    }

    #[test]
    fn a_record_is_found_and_changed_wherever_it_lies() {
        let wanted = [record(5, "/mnt/fast"), record(2, "/mnt/other"), record(5, "/mnt/slow")];
        for filler in (24..4 * PAGE - 500).step_by(8) {
            let mut segment = log(filler, &wanted, 1).remove(0);
            let found = scan(&segment);
            let locations: Vec<_> = found.made.iter().map(|made| made.location.as_str()).collect();
            assert_eq!(locations, ["/mnt/fast", "/mnt/slow"], "behind {filler} bytes");
            for (at, byte) in found.made[0].put_in_place() {
                segment[at] = byte;
            }
            let after = scan(&segment);
            let locations: Vec<_> = after.made.iter().map(|made| made.location.as_str()).collect();
            assert_eq!(locations, ["", "/mnt/slow"], "behind {filler} bytes");
            assert_eq!(after.made[0].oid, 16_384);
        }
    }

    #[test]
    fn a_record_across_two_segments_is_found() {
        let room = 4 * PAGE - LONG_HEADER_BYTES - 3 * HEADER_BYTES;
        let wanted = record(5, "/mnt/fast");
        let mut across_two = 0;
        for filler in (room - 80..room).step_by(8) {
            let segments = log(filler, std::slice::from_ref(&wanted), 2);
            let (first, second) = (scan(&segments[0]), scan(&segments[1]));
            let joined = across(&first.unfinished, &second.continued);
            let all = first.made.iter().chain(&joined).chain(&second.made).count();
            assert_eq!(all, 1, "behind {filler} bytes");
            across_two += usize::from(joined.is_some());
        }
        assert!(across_two > 3, "{across_two}");
    }

    #[test]
    fn a_record_with_another_checksum_is_none() {
        let mut segment = log(24, &[record(5, "/mnt/fast")], 1).remove(0);
        let place = scan(&segment).made[0].places[35];
        segment[place] ^= 1;
        assert!(scan(&segment).made.is_empty());
        assert_eq!(scan(&[0; 100]), Scan::default());
        assert_eq!(page_bytes(&segment), Some(PAGE));
        assert_eq!(page_bytes(&[0; 100]), None);
    }
}
