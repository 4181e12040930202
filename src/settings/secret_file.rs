//! Files that hold a password: read whole, refused when every user of the host can open them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use secrecy::SecretString;

use super::SettingsError;
use super::table::Given;

/// Reads the password that is all of `path`, without its last line end.
pub(super) fn password(path: &Path, given: &Given<()>) -> Result<SecretString, SettingsError> {
    let text = text(path, &given.key)?;
    refuse_exposed(path, &given.key)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.contains(['\n', '\0']) {
        return Err(
            given.invalid(format!("must name a file of one line; {} has none or more", path.display()))
        );
    }
    Ok(SecretString::from(line))
}

/// Reads a file that `key` names.
pub(super) fn text(path: &Path, key: &str) -> Result<String, SettingsError> {
    fs::read_to_string(path).map_err(|source| unreadable(path, key, source))
}

/// Refuses a file with a password that users outside its owner and group can read or write.
pub(super) fn refuse_exposed(path: &Path, key: &str) -> Result<(), SettingsError> {
    let metadata = fs::metadata(path).map_err(|source| unreadable(path, key, source))?;
    if metadata.mode() & 0o006 == 0 {
        Ok(())
    } else {
        Err(SettingsError::Exposed { path: path.into(), key: key.into() })
    }
}

fn unreadable(path: &Path, key: &str, source: std::io::Error) -> SettingsError {
    SettingsError::UnreadableReference { path: path.into(), key: key.into(), source }
}
