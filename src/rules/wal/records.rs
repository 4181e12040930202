//! Goes through the records of the log, as its bytes pass; and what restore points they make.
//!
//! Comes in: the bytes of a segment, or of several in a row, from the first on. Goes out: the beginning of each
//! record whose own beginning is there, and where it ends.

use super::Lsn;
use super::page::{self, IS_CONTINUED, LONG_HEADER_BYTES, RECORD_BYTES, data_at, u16_at, u32_at, u64_at};
use super::segment::Header;

/// So much of each record is looked at: the end of a transaction has its time within, and a restore point its
/// name.
const LOOKED_AT_BYTES: usize = 128;
/// `RM_XLOG_ID`, and of its records the one that makes a restore point.
const LOG: u8 = 0;
const RESTORE_POINT: u8 = 0x70;
/// Behind the time: the name, ended by a zero (`MAXFNAMELEN`).
const NAME_AT: usize = 8;
const NAME_BYTES: usize = 64;

/// Where the reader of records is.
#[derive(Debug, Default)]
pub(super) struct Records {
    page: Vec<u8>,
    page_bytes: usize,
    /// Where the page lies in the log.
    at: u64,
    /// Of the record that is read: its first bytes, and how many more there are of it.
    head: Vec<u8>,
    rest: usize,
    is_over: bool,
}

impl Records {
    /// Takes the next bytes; `on_record` gets the first bytes of each record that ends in them, and where.
    pub(super) fn update(&mut self, bytes: &[u8], mut on_record: impl FnMut(&[u8], Lsn)) {
        let mut bytes = bytes;
        while !bytes.is_empty() && !self.is_over {
            let wanted =
                if self.page_bytes == 0 { LONG_HEADER_BYTES } else { self.page_bytes } - self.page.len();
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            self.page.extend_from_slice(now);
            bytes = later;
            if self.page_bytes == 0 && self.page.len() == LONG_HEADER_BYTES {
                match Header::of(&self.page) {
                    Some(header) => {
                        (self.at, self.page_bytes) = (header.start.0, header.page_bytes as usize);
                    }
                    None => self.is_over = true,
                }
            } else if self.page.len() == self.page_bytes {
                let page = std::mem::take(&mut self.page);
                self.is_over = self.read_page(&page, &mut on_record).is_none();
                self.at += page.len() as u64;
                self.page = page;
                self.page.clear();
            }
        }
    }

    /// Reads the records of a page; `None` where the log ends.
    fn read_page(&mut self, page: &[u8], on_record: &mut impl FnMut(&[u8], Lsn)) -> Option<()> {
        let flags = u16_at(page, 2)?;
        if u64_at(page, 8)? != self.at {
            return None;
        }
        let mut at = page::header_bytes(flags);
        if flags & IS_CONTINUED == 0 {
            // What began before was given up by a server that crashed.
            (self.rest, self.head) = (0, Vec::new());
        } else if self.rest == 0 {
            // It began in the segment before: its head is not here.
            self.rest = u32_at(page, 16)? as usize;
        }
        loop {
            let piece = page.get(at..page.len().min(at + self.rest))?;
            let kept = piece.len().min(LOOKED_AT_BYTES.saturating_sub(self.head.len()));
            if !self.head.is_empty() {
                self.head.extend_from_slice(piece.get(..kept)?);
            }
            self.rest -= piece.len();
            at = (at + piece.len()).next_multiple_of(8);
            if self.rest > 0 {
                return Some(());
            }
            on_record(&std::mem::take(&mut self.head), Lsn(self.at + at as u64));
            if at >= page.len() {
                return Some(());
            }
            let length = u32_at(page, at)? as usize;
            if length < RECORD_BYTES {
                return None;
            }
            self.head = page.get(at..at + 4)?.to_vec();
            (self.rest, at) = (length - 4, at + 4);
        }
    }
}

/// Reads the names of restore points in segments that follow one another.
#[derive(Debug, Default)]
pub struct Names {
    records: Records,
    found: Vec<(String, Lsn)>,
}

impl Names {
    /// Says that a segment begins with what comes next.
    pub fn begin_segment(&mut self) {
        if self.records.is_over {
            // The one before was filled up with zeros.
            self.records = Records::default();
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let found = &mut self.found;
        self.records.update(bytes, |record, end| found.extend(name_in(record).map(|name| (name, end))));
    }

    /// The names in their order, each with where its record ends.
    pub fn finish(self) -> Vec<(String, Lsn)> {
        self.found
    }
}

/// The name of the restore point that this record makes.
fn name_in(record: &[u8]) -> Option<String> {
    let (info, manager) = (*record.get(16)?, *record.get(17)?);
    if manager != LOG || info & 0xF0 != RESTORE_POINT {
        return None;
    }
    let name = record.get(data_at(record)? + NAME_AT..)?;
    let name: Vec<u8> = name.iter().copied().take(NAME_BYTES).take_while(|byte| *byte != 0).collect();
    Some(String::from_utf8_lossy(&name).into_owned())
}
