//! What a command writes on its way up: shown here, masked, and kept until the daemon has it.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use crate::rules::api::MOST_OUTPUT_BYTES;
use crate::rules::mask::{Mask, MaskedLines, secrets_in};
use crate::settings::Environment;

/// How much is kept while the daemon cannot be reached.
const MOST_BYTES: usize = 8 << 20;
/// Names of variables that hold secrets end so.
const SECRET_ENDINGS: [&str; 6] = ["PASSWORD", "PASSWD", "PASS", "SECRET", "TOKEN", "KEY"];

/// Output that the daemon may not have yet.
pub struct Output {
    inner: Mutex<Inner>,
    is_shown: bool,
}

struct Inner {
    lines: MaskedLines,
    pending: VecDeque<u8>,
    /// Where in the output the first pending byte is.
    offset: u64,
    left_out_bytes: u64,
}

impl Output {
    /// Nothing was written yet; `mask` hides secrets.
    pub fn new(mask: Mask) -> Self {
        let (lines, pending) = (MaskedLines::new(mask), VecDeque::new());
        Self { inner: Mutex::new(Inner { lines, pending, offset: 0, left_out_bytes: 0 }), is_shown: true }
    }

    /// As [`Self::new`], for what was shown before.
    pub fn of_file(mask: Mask) -> Self {
        Self { is_shown: false, ..Self::new(mask) }
    }

    /// Takes what the command writes, and shows it.
    pub fn take(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        let masked = inner.lines.push(bytes);
        self.show(&masked);
        inner.keep(&masked);
    }

    /// Takes what is still held back for its mask: the command has ended.
    pub fn finish(&self) {
        let mut inner = self.lock();
        let lines = std::mem::replace(&mut inner.lines, MaskedLines::new(Mask::new([])));
        let masked = lines.finish();
        self.show(&masked);
        inner.keep(&masked);
    }

    fn show(&self, masked: &[u8]) {
        if self.is_shown {
            let _ = std::io::stderr().lock().write_all(masked);
        }
    }

    /// The next piece for the daemon, and where in the output it begins; none when it has all.
    pub fn next_piece(&self) -> Option<(u64, Vec<u8>)> {
        let inner = self.lock();
        let piece: Vec<u8> = inner.pending.iter().take(MOST_OUTPUT_BYTES).copied().collect();
        (!piece.is_empty()).then_some((inner.offset, piece))
    }

    /// The daemon has the first `bytes` of the output.
    pub fn note_known(&self, bytes: u64) {
        let mut inner = self.lock();
        let known = usize::try_from(bytes.saturating_sub(inner.offset)).unwrap_or(usize::MAX);
        let known = known.min(inner.pending.len());
        inner.pending.drain(..known);
        inner.offset += u64::try_from(known).unwrap_or_default();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn keep(&mut self, masked: &[u8]) {
        if self.pending.len() + masked.len() > MOST_BYTES {
            self.left_out_bytes += u64::try_from(masked.len()).unwrap_or_default();
            return;
        }
        if self.left_out_bytes > 0 {
            let gap = format!("\n[{} bytes are left out here]\n", std::mem::take(&mut self.left_out_bytes));
            self.pending.extend(gap.as_bytes());
        }
        self.pending.extend(masked);
    }
}

/// The secrets that an environment holds: what variables called so have, and passwords in URLs; and
/// those in the words of a command.
pub fn mask_of(environment: &Environment, words: &[String]) -> Mask {
    let is_secret = |name: &str| SECRET_ENDINGS.iter().any(|ending| name.to_uppercase().ends_with(ending));
    let secrets = environment.iter().filter_map(|(name, value)| {
        if is_secret(name) { Some(value.to_owned()) } else { password_of(value) }
    });
    Mask::new(secrets.chain(secrets_in(words)))
}

/// The password of a URL, as it is written there and as it is meant.
fn password_of(value: &str) -> Option<String> {
    let (_, rest) = value.split_once("://")?;
    let (login, _) = rest.split_once('/').map_or((rest, ""), |parts| parts).0.rsplit_once('@')?;
    let (_, password) = login.split_once(':')?;
    Some(percent_encoding::percent_decode_str(password).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_kept_until_the_daemon_has_it() {
        let output = Output::new(Mask::new([]));
        output.take(b"one\n");
        output.take(b"two\n");
        assert_eq!(output.next_piece(), Some((0, b"one\ntwo\n".to_vec())));
        output.note_known(6);
        assert_eq!(output.next_piece(), Some((6, b"o\n".to_vec())));
        output.note_known(2);
        assert_eq!(output.next_piece(), Some((6, b"o\n".to_vec())), "an old answer takes nothing back");
        output.note_known(8);
        assert_eq!(output.next_piece(), None);
    }

    #[test]
    fn a_gap_is_told_and_memory_is_bounded() {
        let output = Output::new(Mask::new([]));
        for _ in 0..10 {
            output.take(&vec![b'\n'; 1 << 20]);
        }
        let mut bytes = 0;
        while let Some((offset, piece)) = output.next_piece() {
            bytes += piece.len();
            output.note_known(offset + piece.len() as u64);
        }
        assert!(bytes <= MOST_BYTES, "{bytes}");
        output.take(b"end\n");
        let (_, last) = output.next_piece().unwrap();
        assert_eq!(String::from_utf8(last).unwrap(), "\n[2097152 bytes are left out here]\nend\n");
    }

    #[test]
    fn the_password_of_a_url_is_found() {
        for (url, password) in [
            ("postgresql://app:hunter22@db/app", Some("hunter22")),
            ("postgresql+psycopg://app:p%40ss@db:5432/app?sslmode=require", Some("p@ss")),
            ("postgresql://app@db/app", None),
            ("https://example.org/a@b:c", None),
            ("/usr/bin", None),
        ] {
            assert_eq!(password_of(url).as_deref(), password, "{url}");
        }
    }
}
