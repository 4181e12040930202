//! Where a daemon is: `https://HOST[:PORT]`, `http://` on loopback, or `unix:/PATH`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use reqwest::Url;

/// Where a daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Socket(PathBuf),
    /// Over TCP; without a path, a user, or a query.
    Url(Url),
}

/// A text that is no address of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// It has another form.
    #[error("{0:?} is no address of a server: it is https://HOST[:PORT], or unix:/PATH")]
    Malformed(String),
    /// Tokens do not cross a network in the open.
    #[error("{0} is plain HTTP to another machine: a token must not cross a network in the open, use https")]
    InTheOpen(String),
}

impl Address {
    /// What paths of requests go behind.
    pub(super) fn base(&self) -> String {
        match self {
            Self::Socket(_) => "http://localhost".into(),
            Self::Url(url) => url.as_str().trim_end_matches('/').to_owned(),
        }
    }

    /// Whether it is this very machine.
    pub(super) fn is_loopback(&self) -> bool {
        let Self::Url(url) = self else { return true };
        let host = url.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let malformed = || BadAddress::Malformed(without_login(text));
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Socket(path.into())) } else { Err(malformed()) };
        }
        let url: Url = text.parse().map_err(|_| malformed())?;
        let is_plain = matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
            && url.has_host();
        let is_http = url.scheme() == "http";
        if !is_plain || !(is_http || url.scheme() == "https") {
            return Err(malformed());
        }
        let address = Self::Url(url);
        if is_http && !address.is_loopback() {
            return Err(BadAddress::InTheOpen(address.to_string()));
        }
        Ok(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Url(_) => f.write_str(&self.base()),
        }
    }
}

/// A login has no place in an address, and less so in an error.
fn without_login(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("https://db.example.org", "https://db.example.org")]
    #[case("https://db.example.org:7432/", "https://db.example.org:7432")]
    #[case("http://127.0.0.1:7432", "http://127.0.0.1:7432")]
    #[case("http://[::1]:7432", "http://[::1]:7432")]
    #[case("http://localhost:7432", "http://localhost:7432")]
    #[case("unix:/run/belay/belay.sock", "unix:/run/belay/belay.sock")]
    fn an_address_is_read_and_shown(#[case] text: &str, #[case] shown: &str) {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
    }

    #[rstest]
    #[case("db.example.org")]
    #[case("ftp://db.example.org")]
    #[case("https://db.example.org/belay")]
    #[case("https://db.example.org?token=x")]
    #[case("unix:belay.sock")]
    #[case("")]
    fn what_is_no_address_is_refused(#[case] text: &str) {
        assert_eq!(text.parse::<Address>(), Err(BadAddress::Malformed(text.to_owned())));
    }

    #[rstest]
    #[case("http://db.example.org:7432")]
    #[case("http://192.0.2.1")]
    #[case("http://localhost.example.org")]
    fn plain_http_goes_to_this_machine_only(#[case] text: &str) {
        assert!(matches!(text.parse::<Address>(), Err(BadAddress::InTheOpen(_))));
    }

    #[test]
    fn a_login_is_not_shown() {
        let refused = "https://user:hunter22@db.example.org".parse::<Address>().unwrap_err();
        assert!(!refused.to_string().contains("hunter22"), "{refused}");
    }
}
