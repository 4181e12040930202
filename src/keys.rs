//! The keys of a host: its age identity, its signing key, and the key that names chunks.
//!
//! Comes in: paths of key files. Goes out: keys in memory, wiped when dropped. No error, `Debug`
//! or log line ever holds a secret, and no file is ever overwritten.

mod files;
mod identity;
pub mod kit;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ed25519_dalek::SigningKey;
use rand::TryRng as _;
use rand::rngs::SysRng;
use secrecy::zeroize::Zeroizing;

use crate::rules::digest::Digest256;
use crate::rules::signature::SignerKey;

pub use files::KeyFile;
pub use identity::{parse_recipient, read_identity_bytes, read_identity_file, write_offline_identity};

/// Why a key cannot be read or made. Never holds what a key file says.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key file to be made is there already; keys are never overwritten.
    #[error("create key file {path}: it exists already")]
    Exists {
        /// The file in the way.
        path: PathBuf,
    },
    /// A key file that is needed is not there.
    #[error("read key file {path}: no such file")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Others than the owner may read or write a key file.
    #[error("read key file {path}: its mode {mode:04o} lets others than its owner use it")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file system refuses.
    #[error("{action} {path}")]
    Io {
        /// The verb and what kind of file it is.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The operating system gives no random bytes.
    #[error("make a key from the system's random bytes")]
    NoRandomness(#[source] rand::rngs::SysError),
    /// A key file is far longer than any key.
    #[error("read key file {path}: longer than the {max_bytes} bytes that such a file may have")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        max_bytes: usize,
    },
    /// The signing key or the chunk key does not have its form.
    #[error("read {kind} {path}: not 64 hexadecimal digits")]
    Malformed {
        /// `signing key` or `chunk key`.
        kind: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A line of the file of trusted signers is no public key.
    #[error("read trusted signers {path}: line {line} is not a public key of 64 hexadecimal digits")]
    NotASigner {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// An identity file holds something else than age X25519 identities.
    #[error(
        "read identity {name}: line {line} is {found}; only age X25519 identities (AGE-SECRET-KEY-1…) are accepted"
    )]
    NotAnIdentity {
        /// The file, or what the caller calls the bytes.
        name: String,
        /// Counted from 1.
        line: usize,
        /// The kind of thing found instead.
        found: &'static str,
    },
    /// An identity file holds no identity at all.
    #[error("read identity {name}: it holds no identity (AGE-SECRET-KEY-1…)")]
    NoIdentity {
        /// The file, or what the caller calls the bytes.
        name: String,
    },
    /// A private key stands where a recipient belongs. The key is not repeated.
    #[error("read recipient: this is a private key, a recipient is its public key (age1…)")]
    PrivateKeyAsRecipient,
    /// A text is not an age X25519 recipient. The text is not repeated: it may be a secret.
    #[error("read recipient: {found}; only age X25519 recipients (age1…) are accepted")]
    NotARecipient {
        /// The kind of thing found instead.
        found: &'static str,
    },
}

/// Where the keys of a host are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPaths {
    /// The age identity; a host without it takes snapshots but opens none.
    pub identity: KeyFile,
    /// The Ed25519 seed that signs manifests.
    pub signing: KeyFile,
    /// The key that names chunks.
    pub chunk: KeyFile,
    /// Public keys whose manifests are believed besides our own; may be absent.
    pub trusted_signers: PathBuf,
}

impl KeyPaths {
    /// The files as [`HostKeys::create`] lays them into `directory`; identity and signing key may
    /// be absent.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            identity: KeyFile::Optional(directory.join("identity.txt")),
            signing: KeyFile::Optional(directory.join("signing.key")),
            chunk: KeyFile::Required(directory.join("chunk.key")),
            trusted_signers: directory.join("trusted-signers.txt"),
        }
    }
}

/// The keys of a host, in memory.
pub struct HostKeys {
    /// What opens snapshots, in the order of the file; empty on a host that only takes them.
    pub identities: Vec<age::x25519::Identity>,
    /// What signs manifests; absent on a host that only reads them.
    pub signing: Option<SigningKey>,
    /// What names chunks.
    pub chunk_key: ChunkKey,
    /// The signers whose manifests are believed: our own first, then those of the file.
    pub trusted_signers: Vec<SignerKey>,
}

impl HostKeys {
    /// Makes identity, signing key and chunk key in `directory`, which is created if need be and
    /// made private (0700).
    ///
    /// After an error, none of the files it made is left.
    ///
    /// # Errors
    /// [`KeyError::Exists`] when one of the files is there, [`KeyError::Io`],
    /// [`KeyError::NoRandomness`].
    pub fn create(directory: &Path, now: DateTime<Utc>) -> Result<Self, KeyError> {
        let identity = identity::NewIdentity::generate(now);
        Self::create_files(directory, Some(&identity.file_text))
    }

    /// As [`HostKeys::create`], but makes no identity: the host takes snapshots and opens none, or
    /// its identity lies elsewhere.
    ///
    /// # Errors
    /// As [`HostKeys::create`].
    pub fn create_without_identity(directory: &Path) -> Result<Self, KeyError> {
        Self::create_files(directory, None)
    }

    fn create_files(directory: &Path, identity: Option<&str>) -> Result<Self, KeyError> {
        let paths = KeyPaths::in_directory(directory);
        let signing = new_seed_line()?;
        let chunk = new_seed_line()?;
        let mut wanted: Vec<(&Path, &str)> =
            vec![(paths.signing.path(), &signing), (paths.chunk.path(), &chunk)];
        wanted.extend(identity.map(|text| (paths.identity.path(), text)));
        files::make_private_directory(directory)?;
        files::write_all_new(&wanted)?;
        Self::load(&paths)
    }

    /// Reads the keys at `paths`.
    ///
    /// # Errors
    /// [`KeyError::Missing`] for a required file, [`KeyError::Exposed`], and what is wrong with
    /// the text of a file.
    pub fn load(paths: &KeyPaths) -> Result<Self, KeyError> {
        let identities = match files::read_secret(&paths.identity)? {
            None => Vec::new(),
            Some(bytes) => read_identity_bytes(&paths.identity.path().display().to_string(), &bytes)?,
        };
        let signing = match files::read_secret(&paths.signing)? {
            None => None,
            Some(bytes) => {
                let seed = parse_seed("signing key", paths.signing.path(), &bytes)?;
                Some(SigningKey::from_bytes(&seed))
            }
        };
        let chunk_path = paths.chunk.path();
        let chunk = files::read_secret(&paths.chunk)?
            .ok_or_else(|| KeyError::Missing { path: chunk_path.to_path_buf() })?;
        let chunk_key = ChunkKey(parse_seed("chunk key", chunk_path, &chunk)?);
        let mut trusted_signers: Vec<SignerKey> = signing.iter().map(SignerKey::of).collect();
        for signer in read_trusted_signers(&paths.trusted_signers)? {
            if !trusted_signers.contains(&signer) {
                trusted_signers.push(signer);
            }
        }
        Ok(Self { identities, signing, chunk_key, trusted_signers })
    }

    /// The public halves of the identities, in their order.
    pub fn recipients(&self) -> Vec<age::x25519::Recipient> {
        self.identities.iter().map(age::x25519::Identity::to_public).collect()
    }

    /// The public half of the signing key.
    pub fn signer(&self) -> Option<SignerKey> {
        self.signing.as_ref().map(SignerKey::of)
    }
}

impl fmt::Debug for HostKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostKeys")
            .field("recipients", &self.recipients())
            .field("signer", &self.signer())
            .field("chunk_key", &self.chunk_key)
            .field("trusted_signers", &self.trusted_signers)
            .finish()
    }
}

/// The secret that names chunks, so that a chunk's name tells a stranger nothing of its content.
#[derive(Clone)]
pub struct ChunkKey(Zeroizing<[u8; 32]>);

impl ChunkKey {
    /// The id of the chunk whose plain bytes have the digest `plain`: 32 hexadecimal digits, the
    /// first half of the keyed BLAKE3 of the digest.
    pub fn chunk_id(&self, plain: &Digest256) -> String {
        let hash = blake3::keyed_hash(&self.0, plain.as_bytes());
        HEXLOWER.encode(hash.as_bytes().first_chunk::<16>().expect("a BLAKE3 hash has 32 bytes"))
    }
}

impl fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkKey(..)")
    }
}

fn new_seed_line() -> Result<Zeroizing<String>, KeyError> {
    let mut seed = Zeroizing::new([0_u8; 32]);
    SysRng.try_fill_bytes(seed.as_mut_slice()).map_err(KeyError::NoRandomness)?;
    // Sized beforehand: a string that grows leaves a copy of the secret behind.
    let mut line = Zeroizing::new(String::with_capacity(65));
    HEXLOWER.encode_append(seed.as_slice(), &mut line);
    line.push('\n');
    Ok(line)
}

fn parse_seed(kind: &'static str, path: &Path, bytes: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let malformed = || KeyError::Malformed { kind, path: path.to_path_buf() };
    let text = bytes.trim_ascii();
    let mut seed = Zeroizing::new([0_u8; 32]);
    if text.len() != 64 {
        return Err(malformed());
    }
    HEXLOWER_PERMISSIVE.decode_mut(text, seed.as_mut_slice()).map_err(|_| malformed())?;
    Ok(seed)
}

fn read_trusted_signers(path: &Path) -> Result<Vec<SignerKey>, KeyError> {
    let Some(bytes) = files::read_trusted(path)? else { return Ok(Vec::new()) };
    let text = String::from_utf8_lossy(&bytes);
    let mut signers = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        let not_a_signer = || KeyError::NotASigner { path: path.to_path_buf(), line: index + 1 };
        signers.push(SignerKey::parse(entry).ok_or_else(not_a_signer)?);
    }
    Ok(signers)
}
