//! Keeps secrets out of a command's words and of what it printed, and that in bounds.
//!
//! Comes in: secrets, the words of a command, and bytes as it writes them. Goes out: the same with
//! `***` in the place of each secret that is known, and of each password that stands where passwords
//! do. Two ways for what is written: [`MaskedLines`] for a terminal, line by line as they come, and
//! [`CapturedOutput`] for a report, masked when it is taken.

mod capture;
mod forms;
mod lines;
mod urls;
mod words;

pub use capture::CapturedOutput;
pub use lines::MaskedLines;
pub use words::secrets_in;

use std::fmt;
use std::ops::Range;

use memchr::memmem;
use secrecy::{ExposeSecret as _, SecretString};

/// What stands in the place of a secret.
const STARS: &[u8] = b"***";
/// A shorter secret would be found everywhere; its place would tell it.
const MIN_CHARACTERS: usize = 4;

/// The secrets of a run, as they may be written.
#[derive(Clone)]
pub struct Mask {
    written: Vec<SecretString>,
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mask").field("written", &self.written.len()).finish()
    }
}

impl Mask {
    /// Takes secrets of four characters or more, each line of one by itself, and what becomes of
    /// them in a URL, and in a literal of Python, JSON, SQL or a shell.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut written: Vec<String> = Vec::new();
        for secret in secrets {
            let lines = secret.lines().filter(|line| *line != secret);
            written.extend(lines.chain([secret.as_str()]).flat_map(forms::of));
        }
        written.retain(|form| form.chars().count() >= MIN_CHARACTERS);
        written.sort();
        written.dedup();
        Self { written: written.into_iter().map(SecretString::from).collect() }
    }

    /// Replaces every secret by `***`, and the passwords of URLs; those that overlap by one.
    pub fn apply(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.apply_bytes(text.as_bytes())).into_owned()
    }

    /// Like [`apply`](Self::apply), for bytes that need not be UTF-8.
    pub fn apply_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        starred(bytes, merged(self.find(bytes)))
    }

    /// Like [`apply`](Self::apply), for a text that goes on: a URL that its end cuts within the login
    /// counts as one with a password.
    pub fn apply_unfinished(&self, text: &str) -> String {
        let mut found = self.find(text.as_bytes());
        found.extend(urls::open_password(text.as_bytes()));
        String::from_utf8_lossy(&starred(text.as_bytes(), merged(found))).into_owned()
    }

    /// Like [`apply`](Self::apply), for the words of a command: also what stands behind `--password`,
    /// in `PGPASSWORD=`, in a conninfo and the like.
    pub fn apply_words(&self, words: &[String]) -> Vec<String> {
        let mask = |(word, mut found): (&String, Vec<Range<usize>>)| {
            found.extend(self.find(word.as_bytes()));
            String::from_utf8_lossy(&starred(word.as_bytes(), merged(found))).into_owned()
        };
        words.iter().zip(words::passwords(words)).map(mask).collect()
    }

    /// Where secrets are, those that are known and passwords of URLs.
    fn find(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let mut found = urls::passwords(bytes);
        for form in &self.written {
            let form = form.expose_secret().as_bytes();
            let finder = memmem::Finder::new(form);
            let mut start = 0;
            while let Some(at) = bytes.get(start..).and_then(|rest| finder.find(rest)) {
                found.push(start + at..start + at + form.len());
                // A secret may overlap itself, as `abcab` does in `abcabcab`.
                start += at + 1;
            }
        }
        found
    }

    /// How much of the beginning of `bytes` can be masked and passed on: what lies behind may be the
    /// beginning of a secret or of a URL, or belongs to one that is there.
    fn settled_bytes(&self, bytes: &[u8]) -> usize {
        let longest = self.written.iter().map(|form| form.expose_secret().len()).max().unwrap_or(1);
        let end = urls::cut_before(bytes, bytes.len().saturating_sub(longest - 1));
        let found = merged(self.find(bytes));
        let across = found.into_iter().find(|range| range.start < end && end < range.end);
        across.map_or(end, |range| range.start)
    }
}

/// Ranges in order, those that overlap as one.
fn merged(mut found: Vec<Range<usize>>) -> Vec<Range<usize>> {
    found.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in found {
        match merged.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// `bytes` with stars in the place of each of `ranges`, which are in order and apart.
fn starred(bytes: &[u8], ranges: Vec<Range<usize>>) -> Vec<u8> {
    let mut masked = Vec::with_capacity(bytes.len());
    let mut end = 0;
    for range in ranges {
        masked.extend_from_slice(bytes.get(end..range.start).unwrap_or_default());
        masked.extend_from_slice(STARS);
        end = range.end;
    }
    masked.extend_from_slice(bytes.get(end..).unwrap_or_default());
    masked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mask(secrets: &[&str]) -> Mask {
        Mask::new(secrets.iter().map(|secret| (*secret).to_owned()))
    }

    #[test]
    fn a_secret_is_replaced_wherever_it_stands() {
        let mask = mask(&["hunter22"]);
        assert_eq!(mask.apply("hunter22, password=hunter22hunter22."), "***, password=******.");
        assert_eq!(mask.apply("nothing here: hunter2"), "nothing here: hunter2");
    }

    #[test]
    fn a_secret_in_a_url_is_replaced_however_it_is_encoded() {
        let mask = mask(&["p@ss/w rd-é"]);
        for written in [
            "p@ss/w rd-é",
            "p%40ss%2Fw%20rd%2D%C3%A9",
            "p%40ss%2Fw%20rd-%C3%A9",
            "p%40ss%2fw%20rd-%c3%a9",
            "p%40ss%2Fw+rd-%C3%A9",
            "p%40ss/w%20rd-%C3%A9",
        ] {
            let url = format!("postgresql://app:{written}@db/app");
            assert_eq!(mask.apply(&url), "postgresql://app:***@db/app", "{written}");
        }
    }

    #[test]
    fn a_secret_is_replaced_however_a_program_quotes_it() {
        for (secret, written) in [
            ("pa'ss", r"'pa\'ss'"),
            ("pa\"ss", r#"{"key": "pa\"ss"}"#),
            ("pa&ss", r"pa\u0026ss"),
            ("pa<'>ss", r"pa\u003C\u0027\u003Ess"),
            ("pa/ss", r"pa\/ss"),
            ("pa%ss", "pa%%ss"),
            ("pa@s%s", "pa%%40s%%25s"),
            (r"pa\ss", r"'pa\\ss'"),
            ("pa\tss", r"'pa\tss'"),
            ("pa\u{1}ss", r"'pa\x01ss'"),
            ("pa\u{1}ss", r"pa\u0001ss"),
            ("passé", r"pass\xe9"),
            ("passé", r"pass\u00e9"),
            ("passé", r"pass\u00E9"),
            ("passé", r"b'pass\xc3\xa9'"),
            ("pass😀", r"pass\ud83d\ude00"),
            ("pass😀", r"pass\U0001f600"),
            ("pa'ss", "'pa''ss'"),
            ("pa'ss", r"'pa'\''ss'"),
            ("pa'ss", r#"'pa'"'"'ss'"#),
            // What Python shows of an exception, in a log of JSON lines.
            ("pa'ss", r"'pa\\'ss'"),
            (r#"p'a"s\s"#, r#"'p\\'a\"s\\\\s'"#),
        ] {
            let masked = mask(&[secret]).apply(written);
            assert!(masked.contains("***") && !masked.contains("ss"), "{written}: {masked}");
            assert!(!masked.contains("pa"), "{written}: {masked}");
        }
    }

    #[test]
    fn a_secret_of_less_than_four_characters_is_left() {
        assert_eq!(mask(&["abc", "", "éàü"]).apply("abc éàü"), "abc éàü");
        assert_eq!(mask(&["éàüö"]).apply("x éàüö"), "x ***");
    }

    #[test]
    fn secrets_that_overlap_leave_nothing_of_either() {
        assert_eq!(mask(&["abcdef", "defghi"]).apply("abcdefghi"), "***");
        assert_eq!(mask(&["abcab"]).apply("abcabcab"), "***");
        assert_eq!(mask(&["abcd", "abcdef"]).apply("abcdefg"), "***g");
    }

    #[test]
    fn the_lines_of_a_secret_are_secrets() {
        let mask = mask(&["-----BEGIN-----\nc2VjcmV0\n-----END-----\n"]);
        assert_eq!(mask.apply("key: c2VjcmV0"), "key: ***");
    }

    #[test]
    fn a_login_that_is_cut_off_is_a_password_until_more_comes() {
        let mask = mask(&[]);
        for (text, masked) in [
            ("postgresql://u:hun", "postgresql://u:***"),
            ("postgresql://u:p@ss", "postgresql://u:***"),
            ("http://localhost:80", "http://localhost:***"),
            ("http://localhost:80/", "http://localhost:80/"),
            ("postgresql://u:pw@db/a\n", "postgresql://u:***@db/a\n"),
            ("postgresql://u", "postgresql://u"),
        ] {
            assert_eq!(mask.apply_unfinished(text), masked);
        }
        assert_eq!(mask.apply("http://localhost:80"), "http://localhost:80");
        assert_eq!(mask.apply("postgresql://u:***ter2@db"), "postgresql://u:***@db", "what follows is found");
    }

    #[test]
    fn a_mask_does_not_show_its_secrets() {
        assert!(!format!("{:?}", mask(&["hunter22"])).contains("hunter"));
    }

    proptest! {
        #[test]
        fn no_secret_is_left_in_json(secret in "[ab'\"&/\\\\é😀<\u{1}]{4,8}") {
            let written = serde_json::to_string(&secret).unwrap();
            // A quotation mark of JSON's own may look like the beginning of the secret, or its end.
            let masked = Mask::new([secret]).apply(&written);
            prop_assert_eq!(masked.trim_matches('"'), "***");
        }

        #[test]
        fn no_secret_is_left_in_what_was_masked(
            secrets in prop::collection::vec("[ab/% ]{4,6}", 0..4), text in "[ab/% ]{0,60}",
        ) {
            let masked = Mask::new(secrets.clone()).apply(&text);
            prop_assert!(secrets.iter().all(|secret| !masked.contains(secret.as_str())), "{}", masked);
        }
    }
}
