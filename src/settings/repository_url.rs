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
}

/// A text that is not the address of a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRepositoryUrl {
    /// A scheme without a store for it.
    #[error("must begin with file://, the scheme {0} is not supported")]
    Scheme(String),
    /// Not of the form `file:///absolute/path`.
    #[error("must be file:///absolute/path, not {0:?}")]
    Form(String),
}

impl FromStr for RepositoryUrl {
    type Err = InvalidRepositoryUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRepositoryUrl> {
        let form = || InvalidRepositoryUrl::Form(text.into());
        let (scheme, rest) = text.split_once("://").ok_or_else(form)?;
        if scheme != "file" {
            return Err(InvalidRepositoryUrl::Scheme(scheme.into()));
        }
        let bytes: Vec<u8> = percent_decode_str(rest.trim_end_matches('/')).collect();
        let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
        let climbs = path.components().any(|part| matches!(part, std::path::Component::ParentDir));
        if !path.is_absolute() || climbs || rest.contains(['?', '#', '\0']) {
            return Err(form());
        }
        Ok(Self::Local(path))
    }
}

const IN_PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?');

fn encoded(path: &Path) -> percent_encoding::PercentEncode<'_> {
    percent_encode(path.as_os_str().as_bytes(), IN_PATH)
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "file://{}", encoded(path)),
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
    fn other_addresses_are_refused() {
        assert_eq!(
            "s3://bucket/prefix".parse::<RepositoryUrl>().unwrap_err().to_string(),
            "must begin with file://, the scheme s3 is not supported"
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
        ] {
            assert!(text.parse::<RepositoryUrl>().is_err(), "{text:?}");
        }
    }
}
