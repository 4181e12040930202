//! Seals plain bytes (gzip, then age) and opens sealed ones, with sizes and digests of both sides.
//!
//! Comes in: plain bytes and recipients, or sealed bytes and identities. Goes out: the other
//! side. Stock `age -d | gunzip` reads everything that is sealed here: the gzip stream is a row
//! of independent members of at most [`MEMBER_BYTES`], and the age file has one stanza per
//! recipient. Nothing here touches a disk or a network.
//!
//! # Threat model
//!
//! A reader of the store learns sizes, times and names of databases; the contents are encrypted
//! to the recipients. A writer to the store can delete, hide or damage, but not forge: digests
//! of every object lie in a manifest that is signed with a key of the host, and nothing is run
//! or loaded before its digest was checked. age encrypts *to* a public key and so proves nothing
//! about the sender; the signature does. Whoever takes over the database host has the live
//! database anyway, its identity, and its signing key.
//!
//! Not promised: that a writer to the store cannot bring back an *old* signed snapshot, that
//! sizes hide what changed, or protection from a malicious superuser of the database itself.

mod gunzip;
mod gzip;

use std::io::{self, Read, Write};
use std::sync::Arc;

use age::x25519::{Identity, Recipient};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::rules::digest::Digest256;
use crate::rules::manifest::ObjectRecord;

/// Plain bytes in one gzip member, at most.
pub const MEMBER_BYTES: usize = 1 << 20;

/// Why bytes could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// No recipient was given.
    #[error("seal: no recipient to encrypt to")]
    NoRecipient,
    /// age or gzip did not take the bytes, or the writer below failed.
    #[error("seal")]
    Seal(#[source] io::Error),
    /// None of the identities opens the object.
    #[error("open: none of the identities given is a recipient")]
    WrongIdentity,
    /// The bytes are no age file, or were changed.
    #[error("open: not an age file, or damaged")]
    NotAge(#[source] age::DecryptError),
    /// Decryption or decompression stopped midway.
    #[error("open: damaged or cut")]
    Damaged(#[source] io::Error),
}

/// Seals to a fixed set of recipients.
#[derive(Clone)]
pub struct Sealer {
    recipients: Arc<[Recipient]>,
}

impl Sealer {
    /// Seals to all of `recipients`.
    ///
    /// # Errors
    /// [`SealError::NoRecipient`]
    pub fn new(recipients: Vec<Recipient>) -> Result<Self, SealError> {
        if recipients.is_empty() {
            return Err(SealError::NoRecipient);
        }
        Ok(Self { recipients: recipients.into() })
    }

    /// The recipients as `age1…`, in order.
    pub fn recipients(&self) -> Vec<String> {
        self.recipients.iter().map(ToString::to_string).collect()
    }

    /// Seals bytes that are whole in memory. Works for a while; call it where blocking is allowed.
    ///
    /// # Errors
    /// [`SealError::Seal`]
    pub fn seal(&self, plain: &[u8]) -> Result<(Bytes, ObjectRecord), SealError> {
        let guess = plain.len() / 3 + 4096;
        let mut writer = self.seal_into(Vec::with_capacity(guess))?;
        writer.write_all(plain).map_err(SealError::Seal)?;
        let (stored, record) = writer.finish()?;
        Ok((stored.into(), record))
    }

    /// Returns a writer that seals what is written to it into `out`; see [`SealWriter::finish`].
    ///
    /// # Errors
    /// [`SealError::Seal`]
    pub fn seal_into<W: Write>(&self, out: W) -> Result<SealWriter<W>, SealError> {
        let recipients = self.recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients)
            .map_err(|error| SealError::Seal(io::Error::other(error.to_string())))?;
        let counted = Counted { out, stored_bytes: 0, sha256: Sha256::new() };
        Ok(SealWriter {
            pending: Vec::new(),
            compressor: gzip::Compressor::new(),
            member: Vec::new(),
            plain_bytes: 0,
            plain: blake3::Hasher::new(),
            age: encryptor.wrap_output(counted).map_err(SealError::Seal)?,
        })
    }
}

struct Counted<W> {
    out: W,
    stored_bytes: u64,
    sha256: Sha256,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.stored_bytes += bytes.len() as u64;
        self.sha256.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Seals what is written to it. Dropped without [`finish`](Self::finish), what it wrote does not
/// open.
pub struct SealWriter<W: Write> {
    pending: Vec<u8>,
    compressor: gzip::Compressor,
    member: Vec<u8>,
    plain_bytes: u64,
    plain: blake3::Hasher,
    age: age::stream::StreamWriter<Counted<W>>,
}

impl<W: Write> SealWriter<W> {
    /// Writes what is left and the end marks; returns the writer below and what passed.
    ///
    /// # Errors
    /// [`SealError::Seal`]
    pub fn finish(mut self) -> Result<(W, ObjectRecord), SealError> {
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() || self.plain_bytes == 0 {
            self.write_member(&pending).map_err(SealError::Seal)?;
        }
        let counted = self.age.finish().map_err(SealError::Seal)?;
        let record = ObjectRecord {
            plain_bytes: self.plain_bytes,
            plain_blake3: self.plain.finalize().into(),
            stored_bytes: counted.stored_bytes,
            stored_sha256: counted.sha256.into(),
        };
        Ok((counted.out, record))
    }

    fn write_member(&mut self, plain: &[u8]) -> io::Result<()> {
        self.plain_bytes += plain.len() as u64;
        self.plain.update(plain);
        self.compressor.member(plain, &mut self.member)?;
        self.age.write_all(&self.member)
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pending.is_empty() && bytes.len() >= MEMBER_BYTES {
            let member = bytes.get(..MEMBER_BYTES).unwrap_or(bytes);
            self.write_member(member)?;
            return Ok(member.len());
        }
        let room = MEMBER_BYTES - self.pending.len();
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.pending.extend_from_slice(taken);
        if self.pending.len() == MEMBER_BYTES {
            let pending = std::mem::take(&mut self.pending);
            self.write_member(&pending)?;
            self.pending = pending;
            self.pending.clear();
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens what was sealed to one of a set of identities.
#[derive(Clone)]
pub struct Opener {
    identities: Arc<[Identity]>,
}

impl Opener {
    /// Opens with any of `identities`.
    pub fn new(identities: Vec<Identity>) -> Self {
        Self { identities: identities.into() }
    }

    /// Returns a reader of the plain bytes behind `sealed`.
    ///
    /// # Errors
    /// [`SealError::WrongIdentity`], [`SealError::NotAge`]; damage further on is an error of the
    /// reader.
    pub fn open<R: Read>(&self, sealed: R) -> Result<OpenReader<R>, SealError> {
        Ok(MultiGzDecoder::new(self.decrypt(sealed)?))
    }

    fn decrypt<R: Read>(&self, sealed: R) -> Result<AgeReader<R>, SealError> {
        let refuse = |error| match error {
            age::DecryptError::NoMatchingKeys => SealError::WrongIdentity,
            other => SealError::NotAge(other),
        };
        let decryptor = age::Decryptor::new_buffered(io::BufReader::new(sealed)).map_err(refuse)?;
        let identities = self.identities.iter().map(|identity| identity as &dyn age::Identity);
        decryptor.decrypt(identities).map_err(refuse)
    }

    /// Opens an object that is whole in memory and checks it against `record`, stored bytes
    /// first. Works for a while; call it where blocking is allowed.
    ///
    /// # Errors
    /// [`SealError::Damaged`] when a size or digest differs, and as [`Self::open`].
    pub fn open_checked(&self, sealed: &[u8], record: &ObjectRecord) -> Result<Vec<u8>, SealError> {
        check_stored(sealed, record.stored_bytes, record.stored_sha256).map_err(SealError::Damaged)?;
        self.open_plain(sealed, record.plain_bytes, record.plain_blake3, Vec::new())
    }

    /// Opens an object that is whole in memory and checks what it holds; `buffer` is used again
    /// for the result.
    ///
    /// # Errors
    /// [`SealError::Damaged`] when size or digest differs, and as [`Self::open`].
    pub fn open_plain(
        &self,
        sealed: &[u8],
        plain_bytes: u64,
        plain_blake3: Digest256,
        buffer: Vec<u8>,
    ) -> Result<Vec<u8>, SealError> {
        let mut plain = buffer;
        plain.clear();
        plain.reserve(usize::try_from(plain_bytes).unwrap_or(0).min(1 << 30));
        let age = self.decrypt(sealed)?;
        // One byte more than expected is enough to see that there is too much.
        gunzip::all(age, &mut plain, plain_bytes + 1).map_err(SealError::Damaged)?;
        let same = plain.len() as u64 == plain_bytes && Digest256::blake3(&plain) == plain_blake3;
        if same {
            Ok(plain)
        } else {
            Err(SealError::Damaged(io::Error::other("its contents are not those of the manifest")))
        }
    }
}

type AgeReader<R> = age::stream::StreamReader<io::BufReader<R>>;

/// A reader of plain bytes; see [`Opener::open`].
pub type OpenReader<R> = MultiGzDecoder<AgeReader<R>>;

/// Checks the bytes of an object as stored.
///
/// # Errors
/// An [`io::Error`] that says what differs.
pub fn check_stored(stored: &[u8], stored_bytes: u64, stored_sha256: Digest256) -> io::Result<()> {
    if stored.len() as u64 != stored_bytes {
        let text = format!("it has {} bytes, the manifest says {stored_bytes}", stored.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    if Digest256::sha256(stored) != stored_sha256 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its SHA-256 is not that of the manifest"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealer_and_opener() -> (Sealer, Opener) {
        let identity = Identity::generate();
        (Sealer::new(vec![identity.to_public()]).unwrap(), Opener::new(vec![identity]))
    }

    /// Text that compresses, bytes that do not, and both in one.
    fn plain_of(bytes: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut plain = Vec::with_capacity(bytes + 64);
        while plain.len() < bytes {
            if noise() % 3 == 0 {
                plain.extend_from_slice(&noise().to_le_bytes());
            } else {
                plain
                    .extend_from_slice(format!("{}\tcustomer\t{}\n", noise() % 1000, noise() % 7).as_bytes());
            }
        }
        plain.truncate(bytes);
        plain
    }

    #[test]
    fn sealed_bytes_open_again_at_every_length() {
        let (sealer, opener) = sealer_and_opener();
        let lengths =
            [0, 1, 2, 1000, MEMBER_BYTES - 1, MEMBER_BYTES, MEMBER_BYTES + 1, 3 * MEMBER_BYTES + 77];
        for (seed, bytes) in lengths.into_iter().enumerate() {
            let plain = plain_of(bytes, seed as u64);
            let (sealed, record) = sealer.seal(&plain).unwrap();
            assert_eq!(record.plain_bytes, bytes as u64);
            assert_eq!(record.stored_bytes, sealed.len() as u64);
            assert_eq!(opener.open_checked(&sealed, &record).unwrap(), plain, "{bytes} bytes");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_gzip_member_decodes_to_what_went_in(bytes in 0usize..300_000, seed: u64) {
            let plain = plain_of(bytes, seed);
            let mut member = Vec::new();
            gzip::Compressor::new().member(&plain, &mut member).unwrap();
            let mut back = Vec::new();
            MultiGzDecoder::new(member.as_slice()).read_to_end(&mut back).unwrap();
            prop_assert_eq!(back, plain);
        }

        #[test]
        fn writes_of_any_size_seal_the_same_bytes(cuts in proptest::collection::vec(1usize..700_000, 1..6)) {
            let (sealer, opener) = sealer_and_opener();
            let plain = plain_of(cuts.iter().sum(), 5);
            let mut writer = sealer.seal_into(Vec::new()).unwrap();
            let mut rest = plain.as_slice();
            for cut in cuts {
                let (now, later) = rest.split_at(cut);
                writer.write_all(now).unwrap();
                rest = later;
            }
            let (sealed, record) = writer.finish().unwrap();
            prop_assert_eq!(opener.open_checked(&sealed, &record).unwrap(), plain);
        }
    }

    #[test]
    fn members_of_another_maker_open_too() {
        let plain = plain_of(3_000_000, 11);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        gzip.write_all(&plain).unwrap();
        let mut back = Vec::new();
        gunzip::all(gzip.finish().unwrap().as_slice(), &mut back, u64::MAX).unwrap();
        assert_eq!(back, plain);
    }

    #[test]
    fn headers_inside_a_member_do_not_end_it() {
        // Stored blocks hold their bytes as they are: the header's bytes occur in the middle.
        let mut member = Vec::new();
        let mut compressor = gzip::Compressor::new();
        compressor.member(b"x", &mut member).unwrap();
        let header = member[..10].to_vec();
        let mut plain: Vec<u8> =
            (0..200_000u32).flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..2].to_vec()).collect();
        plain.extend_from_slice(&header);
        plain.extend_from_slice(&plain.clone());
        let (sealer, opener) = sealer_and_opener();
        let (sealed, record) = sealer.seal(&plain).unwrap();
        assert_eq!(opener.open_checked(&sealed, &record).unwrap(), plain);
    }

    #[test]
    fn noise_seals_to_hardly_more_than_itself() {
        let (sealer, _) = sealer_and_opener();
        let noise: Vec<u8> =
            (0..4_000_000u32).flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..1].to_vec()).collect();
        let (sealed, _) = sealer.seal(&noise).unwrap();
        assert!(sealed.len() < noise.len() + noise.len() / 100);
    }

    #[test]
    fn flipped_cut_and_swapped_bytes_never_open() {
        let (sealer, opener) = sealer_and_opener();
        let (sealed, record) = sealer.seal(&plain_of(100_000, 3)).unwrap();
        for at in (0..sealed.len()).step_by(sealed.len() / 50) {
            let mut flipped = sealed.to_vec();
            flipped[at] ^= 1;
            assert!(opener.open_checked(&flipped, &record).is_err(), "flip at {at}");
            assert!(
                opener.open_plain(&flipped, record.plain_bytes, record.plain_blake3, Vec::new()).is_err(),
                "flip at {at}"
            );
            assert!(
                opener
                    .open_plain(&sealed[..at], record.plain_bytes, record.plain_blake3, Vec::new())
                    .is_err(),
                "cut at {at}"
            );
        }
        let (other, _) = sealer.seal(&plain_of(100_000, 4)).unwrap();
        assert!(matches!(opener.open_checked(&other, &record), Err(SealError::Damaged(_))));
    }

    #[test]
    fn a_stranger_opens_nothing() {
        let (sealer, _) = sealer_and_opener();
        let (_, stranger) = sealer_and_opener();
        let (sealed, record) = sealer.seal(b"secret").unwrap();
        assert!(matches!(stranger.open_checked(&sealed, &record), Err(SealError::WrongIdentity)));
    }

    #[test]
    fn unfinished_writing_does_not_open() {
        let (sealer, opener) = sealer_and_opener();
        let mut kept = Vec::new();
        {
            let mut writer = sealer.seal_into(&mut kept).unwrap();
            writer.write_all(&plain_of(2_000_000, 9)).unwrap();
        }
        let mut back = Vec::new();
        assert!(
            opener.open(kept.as_slice()).is_err_and(|_| true)
                || opener.open(kept.as_slice()).unwrap().read_to_end(&mut back).is_err()
        );
    }
}
