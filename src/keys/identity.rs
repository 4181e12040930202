//! age identities and recipients as text, in the file format of `age-keygen`.

use std::path::Path;

use age::x25519::{Identity, Recipient};
use chrono::{DateTime, SecondsFormat, Utc};
use secrecy::ExposeSecret as _;
use secrecy::zeroize::Zeroizing;

use super::KeyError;
use super::files::{KeyFile, read_secret, write_new};

/// A fresh identity with the text of its file.
pub(super) struct NewIdentity {
    pub(super) recipient: Recipient,
    pub(super) file_text: Zeroizing<String>,
}

impl NewIdentity {
    pub(super) fn generate(now: DateTime<Utc>) -> Self {
        let identity = Identity::generate();
        let recipient = identity.to_public();
        let secret = identity.to_string();
        let created = now.to_rfc3339_opts(SecondsFormat::Secs, true);
        let public = recipient.to_string();
        // Sized beforehand: a string that grows leaves a copy of the secret behind.
        let mut file_text = Zeroizing::new(String::with_capacity(256));
        for piece in
            ["# created: ", &created, "\n# public key: ", &public, "\n", secret.expose_secret(), "\n"]
        {
            file_text.push_str(piece);
        }
        Self { recipient, file_text }
    }
}

/// Writes a new identity to `path`, to be carried away from the host, and returns its recipient.
///
/// The file has the format of `age-keygen`, mode 0600, and is never overwritten; its directory
/// must be there.
///
/// # Errors
/// [`KeyError::Exists`], [`KeyError::Io`].
pub fn write_offline_identity(path: &Path, now: DateTime<Utc>) -> Result<Recipient, KeyError> {
    let identity = NewIdentity::generate(now);
    write_new(path, &identity.file_text)?;
    Ok(identity.recipient)
}

/// Reads the identities of a file in the format of `age-keygen`: one on a line, `#` for comments.
///
/// # Errors
/// [`KeyError::Missing`], [`KeyError::Exposed`] when others than the owner may read it,
/// [`KeyError::NotAnIdentity`], [`KeyError::NoIdentity`], [`KeyError::TooLong`], [`KeyError::Io`].
pub fn read_identity_file(path: &Path) -> Result<Vec<Identity>, KeyError> {
    let bytes = read_secret(&KeyFile::Required(path.to_path_buf()))?
        .ok_or_else(|| KeyError::Missing { path: path.to_path_buf() })?;
    read_identity_bytes(&path.display().to_string(), &bytes)
}

/// Reads identities as [`read_identity_file`] does; `name` stands for the bytes in errors.
///
/// # Errors
/// [`KeyError::NotAnIdentity`], [`KeyError::NoIdentity`].
pub fn read_identity_bytes(name: &str, bytes: &[u8]) -> Result<Vec<Identity>, KeyError> {
    let mut identities = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let refuse = |found| KeyError::NotAnIdentity { name: name.to_owned(), line: index + 1, found };
        let text = std::str::from_utf8(line).map_err(|_| refuse("not text"))?;
        // Windows editors put a byte order mark before the first line.
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        identities.push(text.parse().map_err(|_| refuse(kind_of_non_identity(text)))?);
    }
    if identities.is_empty() { Err(KeyError::NoIdentity { name: name.to_owned() }) } else { Ok(identities) }
}

fn kind_of_non_identity(line: &str) -> &'static str {
    let upper = line.to_ascii_uppercase();
    let is_pem = upper.starts_with("-----BEGIN ");
    if upper.starts_with("AGE-ENCRYPTION.ORG/") || upper.starts_with("-----BEGIN AGE ENCRYPTED FILE") {
        "the start of an encrypted file, to be decrypted first"
    } else if is_pem && upper.contains("PRIVATE KEY") {
        "an SSH or PEM private key"
    } else if upper.starts_with("AGE-PLUGIN-") {
        "a plugin identity"
    } else if upper.starts_with("AGE-SECRET-KEY-PQ-") {
        "a post-quantum identity"
    } else if upper.starts_with("AGE-SECRET-KEY-") {
        "a damaged age identity"
    } else if upper.starts_with("AGE1") || upper.starts_with("SSH-") {
        "a public key"
    } else {
        "no age identity"
    }
}

/// Reads an age X25519 recipient, `age1…`, with or without space around it.
///
/// # Errors
/// [`KeyError::PrivateKeyAsRecipient`], [`KeyError::NotARecipient`]; neither repeats the text.
pub fn parse_recipient(text: &str) -> Result<Recipient, KeyError> {
    let text = text.trim();
    let upper = text.to_ascii_uppercase();
    if ["AGE-SECRET-KEY-", "AGE-PLUGIN-", "PRIVATE KEY-----"].iter().any(|mark| upper.contains(mark)) {
        return Err(KeyError::PrivateKeyAsRecipient);
    }
    text.parse().map_err(|_| KeyError::NotARecipient { found: kind_of_non_recipient(&upper) })
}

fn kind_of_non_recipient(upper: &str) -> &'static str {
    if upper.is_empty() {
        "it is empty"
    } else if upper.starts_with("SSH-") {
        "it is an SSH key"
    } else if upper.starts_with("AGE1PQ1") {
        "it is a post-quantum recipient"
    } else if upper.strip_prefix("AGE1").is_some_and(|rest| rest.contains('1')) {
        // The data part of Bech32 has no `1`: what stands before the last one is a plugin's name.
        "it is a plugin's recipient"
    } else if upper.starts_with("AGE1") {
        "it is a damaged age recipient"
    } else {
        "it is no age recipient"
    }
}
