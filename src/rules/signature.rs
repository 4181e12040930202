//! Signed documents: JSON that carries an Ed25519 signature over its exact bytes.
//!
//! ```json
//! {"signed": {…}, "signer": "<64 hex>", "signature": "<128 hex>"}
//! ```
//!
//! The signature covers `belay <kind> 1\n` followed by the bytes of the value of `signed` as they
//! stand in the file, so that no canonical form is needed and one kind cannot pass for another.

use data_encoding::HEXLOWER;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Why a signed document is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The document is not JSON of the expected form.
    #[error("read {kind}: not a signed document of format 1")]
    Malformed {
        /// The kind of document expected.
        kind: &'static str,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// There is no signature.
    #[error("read {kind}: not signed")]
    Unsigned {
        /// The kind of document expected.
        kind: &'static str,
    },
    /// The signature does not fit the bytes.
    #[error("read {kind}: the signature does not fit, it was changed after signing")]
    Changed {
        /// The kind of document expected.
        kind: &'static str,
    },
    /// The signature fits, but its key is not trusted.
    #[error("read {kind}: signed by a stranger, {signer}")]
    Stranger {
        /// The kind of document expected.
        kind: &'static str,
        /// The public key that signed, in hexadecimal.
        signer: String,
    },
}

/// A public key that signs manifests, as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignerKey(String);

impl SignerKey {
    /// The public half of `key`.
    pub fn of(key: &SigningKey) -> Self {
        Self(HEXLOWER.encode(key.verifying_key().as_bytes()))
    }

    /// Accepts 64 hexadecimal digits; `None` for anything that is no Ed25519 public key.
    pub fn parse(text: &str) -> Option<Self> {
        let key = Self(text.trim().to_lowercase());
        key.verifying_key().map(|_| key)
    }

    /// The key as 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn verifying_key(&self) -> Option<VerifyingKey> {
        let bytes = HEXLOWER.decode(self.0.as_bytes()).ok()?;
        VerifyingKey::from_bytes(&bytes.try_into().ok()?).ok()
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    signed: &'a RawValue,
    #[serde(default)]
    signer: Option<SignerKey>,
    #[serde(default)]
    signature: Option<String>,
}

fn message(kind: &str, signed: &str) -> Vec<u8> {
    format!("belay {kind} 1\n{signed}").into_bytes()
}

/// Writes `document` as a signed document of `kind`.
///
/// # Errors
/// What serde_json says of a value that is no JSON.
pub fn sign<T: Serialize>(
    kind: &'static str,
    document: &T,
    key: &SigningKey,
) -> Result<Vec<u8>, serde_json::Error> {
    let signed = serde_json::value::to_raw_value(document)?;
    let signature = key.sign(&message(kind, signed.get()));
    let envelope = Envelope {
        signed: &signed,
        signer: Some(SignerKey::of(key)),
        signature: Some(HEXLOWER.encode(&signature.to_bytes())),
    };
    serde_json::to_vec(&envelope)
}

/// Reads a signed document of `kind` that one of `trusted` signed.
///
/// # Errors
/// Every variant of [`SignatureError`].
pub fn open<T: DeserializeOwned>(
    kind: &'static str,
    bytes: &[u8],
    trusted: &[SignerKey],
) -> Result<T, SignatureError> {
    let malformed = |source| SignatureError::Malformed { kind, source };
    let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(malformed)?;
    let (Some(signer), Some(signature)) = (&envelope.signer, &envelope.signature) else {
        return Err(SignatureError::Unsigned { kind });
    };
    let changed = || SignatureError::Changed { kind };
    let key = signer.verifying_key().ok_or_else(changed)?;
    let raw = HEXLOWER.decode(signature.as_bytes()).map_err(|_| changed())?;
    let signature = Signature::from_slice(&raw).map_err(|_| changed())?;
    key.verify_strict(&message(kind, envelope.signed.get()), &signature).map_err(|_| changed())?;
    if !trusted.contains(signer) {
        return Err(SignatureError::Stranger { kind, signer: signer.as_str().into() });
    }
    serde_json::from_str(envelope.signed.get()).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    #[test]
    fn signed_document_reads_back() {
        let bytes = sign("manifest", &vec![1, 2], &key(1)).unwrap();
        let back: Vec<u32> = open("manifest", &bytes, &[SignerKey::of(&key(1))]).unwrap();
        assert_eq!(back, [1, 2]);
    }

    #[test]
    fn strangers_edits_and_other_kinds_are_refused() {
        let bytes = sign("manifest", &vec![1, 2], &key(1)).unwrap();
        let trusted = [SignerKey::of(&key(1))];
        let text = String::from_utf8(bytes.clone()).unwrap();
        let read = |kind, text: &str, trusted: &[SignerKey]| open::<Vec<u32>>(kind, text.as_bytes(), trusted);
        assert!(matches!(
            read("manifest", &text, &[SignerKey::of(&key(2))]),
            Err(SignatureError::Stranger { .. })
        ));
        assert!(matches!(
            read("manifest", &text.replace("[1,2]", "[1,3]"), &trusted),
            Err(SignatureError::Changed { .. })
        ));
        assert!(matches!(read("verification", &text, &trusted), Err(SignatureError::Changed { .. })));
        assert!(matches!(
            read("manifest", r#"{"signed":[1]}"#, &trusted),
            Err(SignatureError::Unsigned { .. })
        ));
        assert!(matches!(read("manifest", "[]", &trusted), Err(SignatureError::Malformed { .. })));
    }
}
