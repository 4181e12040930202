//! How pages and records of the write-ahead log are laid out.
//!
//! The forms are those of PostgreSQL 12 to 18 (`access/xlog_internal.h`, `access/xlogrecord.h`), in the byte
//! order of the machine, as in all files of a cluster.

/// Bytes of the header of a page.
pub const HEADER_BYTES: usize = 24;
/// Bytes of that of a segment's first page.
pub const LONG_HEADER_BYTES: usize = 40;
/// In the flags of a page: it begins within a record (`XLP_FIRST_IS_CONTRECORD`).
pub const IS_CONTINUED: u16 = 1;
/// In the flags of a page: it has the long header (`XLP_LONG_HEADER`).
pub const IS_LONG: u16 = 2;
/// Bytes of a record before its first header of a block or of data.
pub const RECORD_BYTES: usize = 24;

/// What a page says of itself; the last three are on a segment's first page alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// What it is, by the server's version (`XLOG_PAGE_MAGIC`).
    pub mark: u16,
    /// See [`IS_CONTINUED`] and [`IS_LONG`].
    pub flags: u16,
    /// The timeline on which it was written.
    pub timeline: u32,
    /// Where it lies in the log.
    pub address: u64,
    /// PostgreSQL's own number of the cluster.
    pub system_identifier: u64,
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Bytes of a page.
    pub page_bytes: u32,
}

impl PageHeader {
    /// Reads it; what is cut off counts as zeros.
    pub fn of(page: &[u8]) -> Self {
        let mut header = [0; LONG_HEADER_BYTES];
        for (to, from) in header.iter_mut().zip(page) {
            *to = *from;
        }
        let u16_at = |at| u16_at(&header, at).unwrap_or_default();
        let u32_at = |at| u32_at(&header, at).unwrap_or_default();
        let u64_at = |at| u64_at(&header, at).unwrap_or_default();
        Self {
            mark: u16_at(0),
            flags: u16_at(2),
            timeline: u32_at(4),
            address: u64_at(8),
            system_identifier: u64_at(24),
            segment_bytes: u32_at(32),
            page_bytes: u32_at(36),
        }
    }
}

/// Bytes of the header of a page with these flags.
pub fn header_bytes(flags: u16) -> usize {
    if flags & IS_LONG != 0 { LONG_HEADER_BYTES } else { HEADER_BYTES }
}

/// Where the data of a record begins that has no blocks; behind its header an origin and the transaction above
/// may be named (`XLR_BLOCK_ID_*`).
pub fn data_at(record: &[u8]) -> Option<usize> {
    let mut at = RECORD_BYTES;
    loop {
        match record.get(at)? {
            255 => return Some(at + 2),
            254 => return Some(at + 5),
            253 => at += 3,
            252 => at += 5,
            _ => return None,
        }
    }
}

/// Two bytes as a number.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Four bytes as a number.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Eight bytes as a number.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
