//! What can be wrong with settings; no text here ever holds a secret.

use std::path::PathBuf;

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A settings file, or the folder of them, cannot be read.
    #[error("read settings {path}")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A settings file is not TOML.
    #[error("parse settings {path}: {complaint}")]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong there; never the line itself, which may hold a secret.
        complaint: String,
    },
    /// A key that means nothing.
    #[error("read settings {origin}: unknown key {key}{}", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// The file, or the environment variable.
        origin: String,
        /// The key with its section.
        key: String,
        /// The known key most like it, if any is.
        nearest: Option<String>,
    },
    /// A value of the wrong type or out of range, or keys that contradict each other.
    #[error("read settings {origin}: {key} {complaint}")]
    Invalid {
        /// The file, or the environment variable.
        origin: String,
        /// The key with its section.
        key: String,
        /// What it must be.
        complaint: String,
    },
    /// A key without a default is not given.
    #[error("read settings {origin}: {key} is missing")]
    Missing {
        /// The file where it belongs.
        origin: String,
        /// The key with its section.
        key: String,
    },
    /// A variable that an `env_prefix` promises is not set.
    #[error("read settings {origin}: {key} needs environment variable {variable}, which is not set")]
    MissingVariable {
        /// The file with the `env_prefix`.
        origin: String,
        /// The key with its section.
        key: String,
        /// The variable.
        variable: String,
    },
    /// A file that a setting names cannot be read.
    #[error("read {path} for {key}")]
    UnreadableReference {
        /// The file.
        path: PathBuf,
        /// The setting or variable that names it.
        key: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file with a password can be read or written by every user of this host.
    #[error("read password from {path} for {key}: the file is open to every user of this host")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// The setting or variable that names it.
        key: String,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|known| format!(" (did you mean {known}?)")).unwrap_or_default()
}
