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
mod lanes;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::sync::Arc;

use age::x25519::{Identity, Recipient};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use self::gzip::{Compressor, Effort};
use self::lanes::Lanes;
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
    NotAge(#[source] io::Error),
    /// Decryption or decompression stopped midway.
    #[error("open: damaged or cut")]
    Damaged(#[source] io::Error),
}

/// Seals to a fixed set of recipients.
#[derive(Clone)]
pub struct Sealer {
    recipients: Arc<[Recipient]>,
    effort: Effort,
    /// Threads that compress; 0 for the one that writes.
    threads: usize,
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
        Ok(Self { recipients: recipients.into(), effort: Effort::Small, threads: 0 })
    }

    /// The same for what has to be stored fast rather than small; with more than one of `threads`, these
    /// compress, each its own members, while another writes.
    #[must_use]
    pub fn fast(&self, threads: usize) -> Self {
        let threads = if threads > 1 { threads } else { 0 };
        Self { recipients: Arc::clone(&self.recipients), effort: Effort::Fast, threads }
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
            .map_err(|_| SealError::Seal(io::Error::other("age does not take the recipients")))?;
        let counted = Counted { out, stored_bytes: 0, sha256: Sha256::new() };
        let gzip = match self.threads {
            0 => Gzip::Here(Compressor::new(self.effort)),
            threads => Gzip::There(Lanes::start(threads, self.effort).map_err(SealError::Seal)?),
        };
        Ok(SealWriter {
            pending: Vec::new(),
            gzip,
            plain: Plain { bytes: 0, digest: blake3::Hasher::new() },
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

/// What passed before it was compressed.
struct Plain {
    bytes: u64,
    digest: blake3::Hasher,
}

impl Plain {
    fn count(&mut self, plain: &[u8]) {
        self.bytes += plain.len() as u64;
        self.digest.update(plain);
    }
}

/// Where members are compressed.
enum Gzip {
    Here(Compressor),
    There(Lanes),
}

/// Seals what is written to it. Dropped without [`finish`](Self::finish), what it wrote does not
/// open.
pub struct SealWriter<W: Write> {
    pending: Vec<u8>,
    gzip: Gzip,
    plain: Plain,
    age: age::stream::StreamWriter<Counted<W>>,
}

impl<W: Write> SealWriter<W> {
    /// Writes what is left and the end marks; returns the writer below and what passed.
    ///
    /// # Errors
    /// [`SealError::Seal`]
    pub fn finish(mut self) -> Result<(W, ObjectRecord), SealError> {
        if !self.pending.is_empty() || self.plain.bytes == 0 {
            self.end_member().map_err(SealError::Seal)?;
        }
        if let Gzip::There(lanes) = self.gzip {
            lanes.finish(|member| self.age.write_all(member)).map_err(SealError::Seal)?;
        }
        let counted = self.age.finish().map_err(SealError::Seal)?;
        let record = ObjectRecord {
            plain_bytes: self.plain.bytes,
            plain_blake3: self.plain.digest.finalize().into(),
            stored_bytes: counted.stored_bytes,
            stored_sha256: counted.sha256.into(),
        };
        Ok((counted.out, record))
    }

    fn end_member(&mut self) -> io::Result<()> {
        self.plain.count(&self.pending);
        match &mut self.gzip {
            Gzip::Here(compressor) => self.age.write_all(compressor.member(&self.pending)?)?,
            Gzip::There(lanes) => lanes.push(&mut self.pending, |member| self.age.write_all(member))?,
        }
        self.pending.clear();
        Ok(())
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let at_once = if self.pending.is_empty() { bytes.get(..MEMBER_BYTES) } else { None };
        if let (Some(member), Gzip::Here(compressor)) = (at_once, &mut self.gzip) {
            self.plain.count(member);
            self.age.write_all(compressor.member(member)?)?;
            return Ok(member.len());
        }
        let room = MEMBER_BYTES - self.pending.len();
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.pending.extend_from_slice(taken);
        if self.pending.len() == MEMBER_BYTES {
            self.end_member()?;
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
            other => SealError::NotAge(in_our_words(other)),
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

/// What age says, without its translations: a development build reads those from where it was compiled.
fn in_our_words(error: age::DecryptError) -> io::Error {
    let text = match error {
        age::DecryptError::Io(error) => return error,
        age::DecryptError::InvalidMac => "its header was changed",
        age::DecryptError::InvalidHeader | age::DecryptError::UnknownFormat => "it has no header of age",
        age::DecryptError::KeyDecryptionFailed | age::DecryptError::DecryptionFailed => "it does not decrypt",
        _ => "it is not sealed to a key",
    };
    io::Error::new(io::ErrorKind::InvalidData, text)
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
