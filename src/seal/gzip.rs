//! One gzip member per call: ISA-L where it was built in, libdeflate elsewhere.

use std::io;

/// How much time is spent on making bytes fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Smaller than gzip's own level 6 on COPY text, at several times its speed.
    Small,
    /// Up to five times as fast again with ISA-L, and at most a few percent larger.
    Fast,
}

/// Compresses members one after the other.
#[cfg(feature = "isal")]
pub struct Compressor {
    effort: Effort,
    out: Vec<u8>,
}

#[cfg(feature = "isal")]
impl Compressor {
    pub fn new(effort: Effort) -> Self {
        Self { effort, out: Vec::new() }
    }

    /// `plain` as one gzip member.
    ///
    /// Only the stateless call is used: the crate's streaming ones cut their output short
    /// without an error.
    pub fn member(&mut self, plain: &[u8]) -> io::Result<&[u8]> {
        let level = match self.effort {
            Effort::Small => isal::CompressionLevel::Three,
            Effort::Fast => isal::CompressionLevel::One,
        };
        // Stored blocks, header and trailer.
        let bound = plain.len() + plain.len() / 64 + 1024;
        self.out.resize(bound.max(self.out.len()), 0);
        let written = isal::compress_into(plain, &mut self.out, level, isal::Codec::Gzip)
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
        Ok(self.out.get(..written).unwrap_or_default())
    }
}

/// Compresses members one after the other; both efforts are the same here.
#[cfg(not(feature = "isal"))]
pub struct Compressor {
    compressor: libdeflater::Compressor,
    out: Vec<u8>,
}

#[cfg(not(feature = "isal"))]
impl Compressor {
    pub fn new(_: Effort) -> Self {
        let level = libdeflater::CompressionLvl::new(1).expect("1 is a level of libdeflate");
        Self { compressor: libdeflater::Compressor::new(level), out: Vec::new() }
    }

    /// `plain` as one gzip member.
    pub fn member(&mut self, plain: &[u8]) -> io::Result<&[u8]> {
        let bound = self.compressor.gzip_compress_bound(plain.len());
        self.out.resize(bound.max(self.out.len()), 0);
        let written = self
            .compressor
            .gzip_compress(plain, &mut self.out)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(self.out.get(..written).unwrap_or_default())
    }
}
