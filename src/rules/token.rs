//! The text of a bearer token: `belay_ID_SECRET`. The ID finds its row, the secret proves it.
//!
//! Only a digest of the secret is ever stored. It has 256 bits of noise, so that one round of
//! SHA-256 is enough to store it by: there is nothing to guess.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

use super::digest::Digest256;

const PREFIX: &str = "belay_";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// A token in two parts.
#[derive(Debug, Clone)]
pub struct BearerToken {
    /// Names it in the ledger; no secret.
    pub id: String,
    secret: SecretString,
}

impl BearerToken {
    /// Makes the token of this noise.
    pub fn new(id: [u8; ID_BYTES], secret: [u8; SECRET_BYTES]) -> Self {
        Self { id: HEXLOWER.encode(&id), secret: BASE64URL_NOPAD.encode(&secret).into() }
    }

    /// Reads a token's text; `None` for what is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_id = HEXLOWER.decode(id.as_bytes()).is_ok_and(|bytes| bytes.len() == ID_BYTES);
        let is_secret =
            BASE64URL_NOPAD.decode(secret.as_bytes()).is_ok_and(|bytes| bytes.len() == SECRET_BYTES);
        (is_id && is_secret).then(|| Self { id: id.into(), secret: secret.into() })
    }

    /// The text that its holder is given.
    pub fn text(&self) -> SecretString {
        format!("{PREFIX}{}_{}", self.id, self.secret.expose_secret()).into()
    }

    /// What is stored of the secret.
    pub fn digest(&self) -> Digest256 {
        Digest256::sha256(self.secret.expose_secret().as_bytes())
    }

    /// Whether `stored` is of this secret; takes the same time whatever the answer.
    pub fn has_digest(&self, stored: &Digest256) -> bool {
        self.digest().as_bytes().ct_eq(stored.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_only_its_own_secret_fits() {
        let token = BearerToken::new([7; 8], [255; 32]);
        let text = token.text().expose_secret().to_owned();
        assert!(text.starts_with("belay_0707070707070707_"), "{text}");
        let read = BearerToken::parse(&text).unwrap();
        assert_eq!(read.id, token.id);
        assert!(read.has_digest(&token.digest()));
        assert!(!BearerToken::new([7; 8], [254; 32]).has_digest(&token.digest()));
    }

    #[test]
    fn what_is_no_token_is_not_read() {
        let good = BearerToken::new([1; 8], [2; 32]).text().expose_secret().to_owned();
        assert!(BearerToken::parse(&good).is_some());
        let (short, long) = (&good[..good.len() - 1], format!("{good}A"));
        for text in ["", "belay_", "belay__", short, &long, &good.to_uppercase(), &format!(" {good}")] {
            assert!(BearerToken::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_token_does_not_show_its_secret() {
        let token = BearerToken::new([1; 8], [2; 32]);
        let secret = token.text().expose_secret().rsplit('_').next().unwrap().to_owned();
        assert!(!format!("{token:?}").contains(&secret));
    }
}
