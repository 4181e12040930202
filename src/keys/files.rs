//! Key files on the disk: private, written whole or not at all, never overwritten.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use secrecy::zeroize::Zeroizing;

use super::KeyError;

const MAX_BYTES: usize = 64 * 1024;
const BY_GROUP_OR_OTHERS: u32 = 0o077;
// systemd grants a credential to the service's user by an ACL, whose mask shows as the group's
// read bit; the directory around it is private to the service.
const BY_OTHERS_OR_WRITE: u32 = 0o037;
const WRITE_BY_GROUP_OR_OTHERS: u32 = 0o022;

/// Where a secret lies, and what it means when it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFile {
    /// Its usual place; the host may do without it.
    Optional(PathBuf),
    /// A place that somebody named, or a key that no host does without.
    Required(PathBuf),
    /// A file in systemd's `$CREDENTIALS_DIRECTORY`, required; its group's read bit is no fault.
    Credential(PathBuf),
}

impl KeyFile {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Optional(path) | Self::Required(path) | Self::Credential(path) => path,
        }
    }
}

/// Reads a secret that only its owner may read; `None` when an optional one is absent.
pub(super) fn read_secret(file: &KeyFile) -> Result<Option<Zeroizing<Vec<u8>>>, KeyError> {
    let exposed_by = match file {
        KeyFile::Credential(_) => BY_OTHERS_OR_WRITE,
        KeyFile::Optional(_) | KeyFile::Required(_) => BY_GROUP_OR_OTHERS,
    };
    match (read_with_mode(file.path(), exposed_by)?, file) {
        (None, KeyFile::Required(path) | KeyFile::Credential(path)) => {
            Err(KeyError::Missing { path: path.clone() })
        }
        (read, _) => Ok(read),
    }
}

/// Reads a public file that decides whom to trust, so nobody but its owner may write it.
pub(super) fn read_trusted(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, KeyError> {
    read_with_mode(path, WRITE_BY_GROUP_OR_OTHERS)
}

fn read_with_mode(path: &Path, exposed_by: u32) -> Result<Option<Zeroizing<Vec<u8>>>, KeyError> {
    let read_error = |source| KeyError::Io { action: "read key file", path: path.to_path_buf(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(read_error(e)),
    };
    let metadata = file.metadata().map_err(read_error)?;
    let mode = metadata.permissions().mode() & 0o7777;
    // A pipe of the shell has no owner's mode to speak of.
    if metadata.is_file() && mode & exposed_by != 0 {
        return Err(KeyError::Exposed { path: path.to_path_buf(), mode });
    }
    // Sized beforehand: a vector that grows leaves a copy of the secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(read_error)?;
    if bytes.len() > MAX_BYTES {
        return Err(KeyError::TooLong { path: path.to_path_buf(), max_bytes: MAX_BYTES });
    }
    Ok(Some(bytes))
}

/// Creates `directory` and what is above it, and takes the rights of others away.
pub(super) fn make_private_directory(directory: &Path) -> Result<(), KeyError> {
    let error =
        |source| KeyError::Io { action: "create key directory", path: directory.to_path_buf(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(error)?;
    fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(error)
}

/// Writes every file, or none: what was written before an error is removed again, as nobody can
/// have used it yet.
pub(super) fn write_all_new(wanted: &[(&Path, &str)]) -> Result<(), KeyError> {
    // Looked at beforehand, so that the usual mistake changes nothing at all.
    for (path, _) in wanted {
        refuse_existing(path)?;
    }
    let mut written: Vec<&Path> = Vec::new();
    for (path, text) in wanted {
        if let Err(error) = write_new(path, text) {
            for path in written {
                // The first error is the one to tell; the next `create` names what is left.
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
        written.push(path);
    }
    Ok(())
}

/// Writes a file that only its owner may read; it is durable, and was never there in part.
pub(super) fn write_new(path: &Path, text: &str) -> Result<(), KeyError> {
    let error = |source| KeyError::Io { action: "write key file", path: path.to_path_buf(), source };
    refuse_existing(path)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".new-key-").permissions(Permissions::from_mode(0o600));
    let mut file = builder.tempfile_in(directory).map_err(error)?;
    file.write_all(text.as_bytes()).map_err(error)?;
    file.as_file().sync_all().map_err(error)?;
    file.persist_noclobber(path).map_err(|e| match e.error.kind() {
        ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_path_buf() },
        _ => error(e.error),
    })?;
    if let Err(source) = File::open(directory).and_then(|directory| directory.sync_all()) {
        // Not durable is not written: the caller is told that there is no key.
        let _ = fs::remove_file(path);
        return Err(error(source));
    }
    Ok(())
}

fn refuse_existing(path: &Path) -> Result<(), KeyError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(KeyError::Exists { path: path.to_path_buf() }),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(KeyError::Io { action: "write key file", path: path.to_path_buf(), source }),
    }
}
