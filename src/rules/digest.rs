//! Digests: of bytes (plain and stored) and of rows without regard to their order.
//!
//! Plain bytes are digested with BLAKE3 (there are many of them), stored bytes with SHA-256 (so
//! that `sha256sum` on the bare object says the same). Rows are digested with XXH3-128 and
//! summed: two tables hold the same rows, each as often, exactly when count and sum agree, but
//! for accidents of one in 2^128. The sum guards against loss, not against an adversary; the
//! signature in the manifest does that.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A 256-bit digest, written in lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest256([u8; 32]);

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a 256-bit digest")]
pub struct InvalidDigest(String);

impl Digest256 {
    /// The BLAKE3 digest of `bytes`.
    pub fn blake3(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The SHA-256 digest of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Zeros, which stand where there is nothing to digest.
    pub fn zero() -> Self {
        Self([0; 32])
    }

    /// The digest's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Digest256 {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl From<blake3::Hash> for Digest256 {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl From<Sha256> for Digest256 {
    fn from(state: Sha256) -> Self {
        Self(state.finalize().into())
    }
}

impl fmt::Display for Digest256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest256 {
    type Err = InvalidDigest;
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let invalid = || InvalidDigest(text.into());
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| invalid())?;
        bytes.try_into().map(Self).map_err(|_| invalid())
    }
}

impl TryFrom<String> for Digest256 {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Digest256> for String {
    fn from(digest: Digest256) -> Self {
        digest.to_string()
    }
}

/// How many rows there are and the order-independent sum of their hashes.
///
/// A row is one line of COPY text without its newline. Tallies of parts of a table add up to the
/// tally of the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowTally {
    /// Rows counted.
    pub rows: u64,
    sum: u128,
}

impl RowTally {
    /// Adds every line of `text`; `text` ends with a newline or is empty.
    ///
    /// COPY text writes a newline inside a value as `\n`, so a raw newline always ends a row.
    pub fn add_lines(&mut self, text: &[u8]) {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', text) {
            self.add_row(text.get(start..end).unwrap_or_default());
            start = end + 1;
        }
        if start < text.len() {
            self.add_row(text.get(start..).unwrap_or_default());
        }
    }

    fn add_row(&mut self, row: &[u8]) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(xxhash_rust::xxh3::xxh3_128(row));
    }

    /// Adds the rows of another part.
    pub fn add(&mut self, other: RowTally) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

#[derive(Serialize, Deserialize)]
struct TallyText {
    rows: u64,
    rows_digest: String,
}

impl Serialize for RowTally {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        TallyText { rows: self.rows, rows_digest: format!("{:032x}", self.sum) }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RowTally {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = TallyText::deserialize(deserializer)?;
        let sum = u128::from_str_radix(&text.rows_digest, 16).map_err(serde::de::Error::custom)?;
        Ok(Self { rows: text.rows, sum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tally_ignores_order_and_cuts(rows in proptest::collection::vec("[a-z\t]{0,40}", 0..50), cut in 0usize..50) {
            let text = |rows: &[String]| rows.iter().map(|r| format!("{r}\n")).collect::<String>();
            let mut whole = RowTally::default();
            whole.add_lines(text(&rows).as_bytes());
            let mut shuffled = rows.clone();
            shuffled.reverse();
            let (left, right) = shuffled.split_at(cut.min(rows.len()));
            let mut parts = RowTally::default();
            parts.add_lines(text(left).as_bytes());
            let mut tail = RowTally::default();
            tail.add_lines(text(right).as_bytes());
            parts.add(tail);
            prop_assert_eq!(whole, parts);
            prop_assert_eq!(whole.rows, rows.len() as u64);
        }
    }

    #[test]
    fn a_row_twice_is_not_two_rows() {
        let tally = |text: &str| {
            let mut t = RowTally::default();
            t.add_lines(text.as_bytes());
            t
        };
        assert_ne!(tally("a\na\n"), tally("b\nb\n"));
        assert_ne!(tally("a\nb\n"), tally("a\na\n"));
        assert_ne!(tally("\n"), tally(""));
    }

    #[test]
    fn digests_read_back() {
        let digest = Digest256::sha256(b"abc");
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse::<Digest256>().unwrap(), digest);
        assert!("zz".parse::<Digest256>().is_err());
    }
}
