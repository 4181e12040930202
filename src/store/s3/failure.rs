//! What a store's refusal means: its status, its code and the chain of causes as one error.

use std::error::Error;
use std::io;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::rules::causes;
use crate::store::{AccessFault, StoreError};

/// What was being done, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Act<'a> {
    pub action: &'static str,
    pub key: &'a str,
    pub store: &'a str,
}

impl Act<'_> {
    pub(super) fn io(self, source: io::Error) -> StoreError {
        StoreError::Io { action: self.action, key: self.key.into(), store: self.store.into(), source }
    }

    pub(super) fn other(self, text: impl Into<String>) -> StoreError {
        self.io(io::Error::other(text.into()))
    }

    pub(super) fn missing(self) -> StoreError {
        StoreError::Missing { key: self.key.into(), store: self.store.into() }
    }

    pub(super) fn exists(self) -> StoreError {
        StoreError::Exists { key: self.key.into(), store: self.store.into() }
    }

    pub(super) fn abandoned(self) -> StoreError {
        StoreError::Abandoned { key: self.key.into(), store: self.store.into() }
    }

    fn unreached(self, fault: AccessFault) -> StoreError {
        StoreError::Unreached { action: self.action, key: self.key.into(), store: self.store.into(), fault }
    }

    /// The error that `error` is.
    pub(super) fn failed<E>(self, error: SdkError<E>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        match error.raw_response() {
            Some(answer) => self.refused(answer, &error),
            None => self.unanswered(&error),
        }
    }

    fn refused<E>(self, answer: &HttpResponse, error: &SdkError<E>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let status = answer.status().as_u16();
        let body = answer.body().bytes().unwrap_or_default();
        let code = error.code().map(str::to_owned).or_else(|| element(body, "Code")).unwrap_or_default();
        match (status, code.as_str()) {
            (_, "NoSuchBucket") => self.unreached(AccessFault::NoBucket),
            (_, "NoSuchKey") => self.missing(),
            (_, "InvalidAccessKeyId" | "NotSignedUp") => self.unreached(AccessFault::UnknownKey),
            (_, "SignatureDoesNotMatch") => self.unreached(AccessFault::WrongSecret),
            (_, "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken") => {
                self.unreached(AccessFault::Expired)
            }
            (_, "RequestTimeTooSkewed") => self.unreached(AccessFault::Clock),
            (301 | 307, _)
            | (
                _,
                "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException",
            ) => self.unreached(AccessFault::Region { named: region(answer) }),
            (400, _) if region_header(answer).is_some() => {
                self.unreached(AccessFault::Region { named: region(answer) })
            }
            (507, _) | (_, "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage") => {
                StoreError::Full { key: self.key.into(), store: self.store.into() }
            }
            (412, _) | (_, "PreconditionFailed") if self.action == "write" => self.exists(),
            (401 | 403, _) => {
                StoreError::Denied { action: self.action, key: self.key.into(), store: self.store.into() }
            }
            (404, _) if self.action == "read" => self.missing(),
            _ => self.other(answered(status, &code, error)),
        }
    }

    fn unanswered<E>(self, error: &SdkError<E>) -> StoreError
    where
        E: Error + Send + Sync + 'static,
    {
        let text = causes::each_said_once(error);
        if is_about_tls(error) {
            return self.unreached(AccessFault::Tls(text));
        }
        if text.contains("credential") {
            return self.unreached(AccessFault::NoCredentials(text));
        }
        let is_connecting = ["dns error", "tcp connect error", "connect error", "error trying to connect"];
        if is_connecting.iter().any(|word| text.contains(word)) {
            return self.unreached(AccessFault::Network(text));
        }
        let kind = if matches!(error, SdkError::TimeoutError(_)) {
            io::ErrorKind::TimedOut
        } else {
            io::ErrorKind::Other
        };
        self.io(io::Error::new(kind, text))
    }
}

/// Whether the store says that it knows no such thing.
pub(super) fn is_not_implemented<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    status == Some(501) || error.code() == Some("NotImplemented")
}

fn answered<E>(status: u16, code: &str, error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    match (code, error.message()) {
        ("", _) => format!("the store answered {status}: {}", causes::each_said_once(error)),
        (code, None) => format!("the store answered {status} {code}"),
        (code, Some(message)) => format!("the store answered {status} {code}: {message}"),
    }
}

fn region_header(answer: &HttpResponse) -> Option<&str> {
    answer.headers().get("x-amz-bucket-region")
}

fn region(answer: &HttpResponse) -> Option<String> {
    let body = answer.body().bytes().unwrap_or_default();
    region_header(answer).map(str::to_owned).or_else(|| element(body, "Region"))
}

/// The text of the first element `name` of a small XML answer.
pub(super) fn element(body: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inside, _) = rest.split_once(&format!("</{name}>"))?;
    Some(inside.trim().to_owned()).filter(|inside| !inside.is_empty())
}

fn is_about_tls(error: &(dyn Error + 'static)) -> bool {
    let mut current = Some(error);
    while let Some(error) = current {
        if error.is::<rustls::Error>() {
            return true;
        }
        // An I/O error passes over the error in it when it is asked for its source.
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if within.is_some_and(|within| is_about_tls(within)) {
            return true;
        }
        current = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_found_in_an_answer() {
        let body = b"<?xml version=\"1.0\"?><Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-1</Region><Message/></Error>";
        assert_eq!(element(body, "Region").as_deref(), Some("eu-1"));
        assert_eq!(element(body, "Message"), None);
        assert_eq!(element(b"\xff", "Region"), None);
    }
}
