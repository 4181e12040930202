//! The address of a repository as settings and command line write it.

use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};

/// Where sealed objects are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepositoryUrl {
    /// `file:///absolute/path`
    Local(PathBuf),
    /// `s3://bucket/prefix`
    S3 {
        /// The bucket's name.
        bucket: String,
        /// What every key begins with, without slashes at its ends; empty for the whole bucket.
        prefix: String,
    },
}

/// A text that is not the address of a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRepositoryUrl {
    /// A scheme without a store for it.
    #[error("must begin with file:// or s3://, the scheme {0} is not supported")]
    Scheme(String),
    /// Not of the form `file:///absolute/path`.
    #[error("must be file:///absolute/path or s3://bucket/prefix, not {0:?}")]
    Form(String),
}

impl FromStr for RepositoryUrl {
    type Err = InvalidRepositoryUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRepositoryUrl> {
        let form = || InvalidRepositoryUrl::Form(text.into());
        let (scheme, rest) = text.split_once("://").ok_or_else(form)?;
        match scheme {
            "file" => local(rest).ok_or_else(form),
            "s3" => s3(rest).ok_or_else(form),
            _ => Err(InvalidRepositoryUrl::Scheme(scheme.into())),
        }
    }
}

fn local(rest: &str) -> Option<RepositoryUrl> {
    let bytes: Vec<u8> = percent_decode_str(rest.trim_end_matches('/')).collect();
    let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    let climbs = path.components().any(|part| matches!(part, std::path::Component::ParentDir));
    let is_path = path.is_absolute() && !climbs && !rest.contains(['?', '#', '\0']);
    is_path.then_some(RepositoryUrl::Local(path))
}

/// A prefix is plain, so that every S3 client reads the address alike.
fn s3(rest: &str) -> Option<RepositoryUrl> {
    let (bucket, prefix) =
        rest.trim_end_matches('/').split_once('/').unwrap_or((rest.trim_end_matches('/'), ""));
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    // Older buckets have capitals and underscores.
    let is_bucket = (3..=255).contains(&bucket.len()) && bucket.bytes().all(is_plain);
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain);
    let is_prefix = prefix.is_empty() || prefix.split('/').all(is_segment);
    (is_bucket && is_prefix).then(|| RepositoryUrl::S3 { bucket: bucket.into(), prefix: prefix.into() })
}

const IN_PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?');

fn encoded(path: &Path) -> percent_encoding::PercentEncode<'_> {
    percent_encode(path.as_os_str().as_bytes(), IN_PATH)
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "file://{}", encoded(path)),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_url_reads_back_as_it_is_shown() {
        for path in ["/var/lib/belay/repository", "/srv/Sicherung täglich/100%?#"] {
            let url = RepositoryUrl::Local(path.into());
            assert_eq!(url.to_string().parse(), Ok(url));
        }
        assert_eq!("file:///srv/b/".parse(), Ok(RepositoryUrl::Local("/srv/b".into())));
    }

    #[test]
    fn s3_url_reads_back_as_it_is_shown() {
        for text in ["s3://backups", "s3://backups/belay", "s3://back-ups.example/a_b/c.d"] {
            assert_eq!(text.parse::<RepositoryUrl>().unwrap().to_string(), text);
        }
        let url = RepositoryUrl::S3 { bucket: "backups".into(), prefix: "a/b".into() };
        assert_eq!("s3://backups/a/b/".parse(), Ok(url));
    }

    #[test]
    fn other_addresses_are_refused() {
        assert_eq!(
            "gs://bucket/prefix".parse::<RepositoryUrl>().unwrap_err().to_string(),
            "must begin with file:// or s3://, the scheme gs is not supported"
        );
        for text in [
            "",
            "/srv",
            "srv",
            "file:/srv",
            "file://srv",
            "file://",
            "file:///",
            "file:///a/../b",
            "file:///a?b",
            "s3://",
            "s3:///prefix",
            "s3://ab",
            "s3://key:secret@backups/a",
            "s3://backups/a//b",
            "s3://backups/../b",
            "s3://backups/a b",
            "s3://backups/a?region=x",
        ] {
            assert!(text.parse::<RepositoryUrl>().is_err(), "{text:?}");
        }
    }
}
