//! Signed documents of a repository, read and forged.

use std::path::Path;

use belay::rules::signature;
use ed25519_dalek::SigningKey;
use serde_json::Value;

use super::belay::Belay;

/// Reads a document as it lies in the store, with its signature.
pub fn document(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("read a document")).expect("it is JSON")
}

/// `document` as signed with the key of `belay`.
pub fn signed(kind: &'static str, document: &Value, belay: &Belay) -> String {
    let line = std::fs::read_to_string(belay.state().join("keys/signing.key")).expect("read the signing key");
    let digits = line.trim().as_bytes();
    let byte =
        |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits");
    let seed: Vec<u8> = digits.chunks(2).map(byte).collect();
    let key = SigningKey::from_bytes(&seed.try_into().expect("a seed has 32 bytes"));
    String::from_utf8(signature::sign(kind, document, &key).expect("sign a document")).expect("JSON is text")
}

/// Changes what a manifest says, and signs it again with the key of `belay`.
pub fn change_manifest(path: &Path, belay: &Belay, change: impl FnOnce(&mut Value)) {
    let mut manifest = document(path)["signed"].clone();
    change(&mut manifest);
    std::fs::write(path, signed("manifest", &manifest, belay)).expect("write the manifest");
}
