//! Builds the client that speaks S3: credentials, certificates, retries, time limits.
//!
//! Credentials come from the settings' file, or from where the AWS tools look for them:
//! environment, profile, web identity, container, machine.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::{BeforeDeserializationInterceptorContextRef, InterceptorContext};
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction, RetryConfig};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, ConfigBag, Credentials, Intercept, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, RuntimeComponents, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use chrono::{DateTime, Utc};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::ExposeSecret as _;

use super::S3StoreError;
use crate::settings::{Addressing, Checksum, S3Credentials, S3Settings};

/// No wait between two attempts is longer.
pub(super) const LONGEST_BACKOFF: Duration = Duration::from_secs(20);
/// What a request sends is allowed this pace beside `timeout`, or it is tried again.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 * 1024;
/// Answers that say "try again later" and that the SDK does not take for it by itself.
const TRIED_AGAIN: [u16; 6] = [408, 425, 429, 520, 522, 524];
/// Codes of what was damaged on its way, or came at the same time as another.
const CODES_TRIED_AGAIN: [&str; 8] = [
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
];

/// Builds a client, and the clock that its answers set.
pub(super) async fn client(settings: &S3Settings) -> Result<(Client, ServerClock), S3StoreError> {
    let http = http_client(settings)?;
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http);
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profile) = &settings.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(given) = &settings.credentials {
        loader = loader.credentials_provider(credentials(given));
    }
    let shared = Box::pin(loader.load()).await;
    let clock = ServerClock::default();
    let (sums, checks) = match settings.checksum {
        Checksum::Crc32 => {
            (RequestChecksumCalculation::WhenSupported, ResponseChecksumValidation::WhenSupported)
        }
        Checksum::WhenRequired => {
            (RequestChecksumCalculation::WhenRequired, ResponseChecksumValidation::WhenRequired)
        }
    };
    let mut config = Builder::from(&shared)
        .force_path_style(settings.addressing == Addressing::Path)
        .request_checksum_calculation(sums)
        .response_checksum_validation(checks)
        .retry_config(retries(settings))
        .retry_classifier(TryAgain)
        .timeout_config(time_limits(settings, 0))
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().grace_period(settings.timeout).build(),
        )
        .interceptor(clock.clone());
    if let Some(endpoint) = &settings.endpoint {
        config = config.endpoint_url(endpoint);
    }
    if shared.region().is_none() {
        // Where the bucket is elsewhere, the answer names its region.
        config = config.region(Region::new("us-east-1"));
    }
    Ok((Client::from_conf(config.build()), clock))
}

fn credentials(given: &S3Credentials) -> Credentials {
    let token = given.session_token.as_ref().map(|token| token.expose_secret().to_owned());
    let secret = given.secret_key.expose_secret();
    Credentials::new(&given.access_key, secret, token, None, "credentials_file")
}

fn retries(settings: &S3Settings) -> RetryConfig {
    RetryConfig::standard()
        .with_max_attempts(settings.attempts)
        .with_initial_backoff(settings.first_retry_after)
        .with_max_backoff(LONGEST_BACKOFF)
}

/// The limits of a request that sends so many bytes.
pub(super) fn time_limits(settings: &S3Settings, sent_bytes: usize) -> TimeoutConfig {
    let attempt = settings.timeout + Duration::from_secs(sent_bytes as u64 / SLOWEST_BYTES_PER_SECOND);
    TimeoutConfig::builder()
        .connect_timeout(settings.timeout.min(Duration::from_secs(10)))
        .operation_attempt_timeout(attempt)
        .operation_timeout((attempt + LONGEST_BACKOFF) * settings.attempts)
        .build()
}

fn http_client(settings: &S3Settings) -> Result<SharedHttpClient, S3StoreError> {
    use aws_smithy_http_client::{Builder, Connector, proxy::ProxyConfig};
    let is_plain = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    if is_plain {
        return Ok(Builder::new().build_http());
    }
    let mut trusted = TrustStore::default();
    if let Some(path) = &settings.ca_file {
        let failed = |source| S3StoreError::Certificates { path: path.clone(), source };
        let pem = std::fs::read(path).map_err(failed)?;
        refuse_invalid(&pem).map_err(|error| failed(std::io::Error::other(error)))?;
        trusted = trusted.with_pem_certificate(pem);
    }
    let context = TlsContext::builder().with_trust_store(trusted).build();
    let context = context.map_err(|error| S3StoreError::Tls { source: Box::new(error) })?;
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder();
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector
            .proxy_config(ProxyConfig::from_env())
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(context.clone())
            .build()
    }))
}

/// The client takes certificates unseen, and panics at one that is none.
fn refuse_invalid(pem: &[u8]) -> Result<(), String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("it holds no certificate".into()) } else { Ok(()) }
}

/// Tries again what the SDK would not by itself.
#[derive(Debug)]
struct TryAgain;

impl ClassifyRetry for TryAgain {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let Some(response) = context.response() else { return RetryAction::NoActionIndicated };
        let status = response.status().as_u16();
        // Done, and yet it cannot be read: it was damaged on its way.
        if response.status().is_success() && matches!(context.output_or_error(), Some(Err(_))) {
            return RetryAction::transient_error();
        }
        let body = response.body().bytes().unwrap_or_default();
        let is_told = |code: String| CODES_TRIED_AGAIN.contains(&code.as_str());
        let is_temporary = status >= 400 && super::failure::element(body, "Code").is_some_and(is_told);
        if is_temporary || TRIED_AGAIN.contains(&status) {
            RetryAction::transient_error()
        } else {
            RetryAction::NoActionIndicated
        }
    }

    fn name(&self) -> &'static str {
        "what Belay tries again"
    }
}

/// The store's clock, as its last answer showed it.
#[derive(Debug, Clone, Default)]
pub(super) struct ServerClock(Arc<Mutex<Option<DateTime<Utc>>>>);

impl ServerClock {
    pub(super) fn time(&self) -> Option<DateTime<Utc>> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for ServerClock {
    fn name(&self) -> &'static str {
        "the store's clock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        if let Some(date) = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok()) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(date.to_utc());
        }
        Ok(())
    }
}
