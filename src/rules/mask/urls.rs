//! Finds passwords in URLs by their place: `scheme://user:PASSWORD@host`, and `?password=` behind it.
//!
//! Comes in: bytes. Goes out: where in them passwords are. A URL ends at white space, a control
//! character, or one of `"<>` and the backtick.

use std::ops::Range;

use memchr::memmem;

use super::words::is_secret;

const SCHEME_END: &[u8] = b"://";
/// How far a login is looked for whose password has a `/`, `?` or `#` that ought to be encoded.
const LONGEST_LOGIN: usize = 256;
/// How far back the beginning of a URL is looked for where an output is cut.
const LONGEST_URL: usize = 4 * 1024;

/// Where passwords of URLs are, in any text.
pub(super) fn passwords(text: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for at in memmem::find_iter(text, SCHEME_END) {
        found.extend(in_login(text, at + SCHEME_END.len(), ends_url));
    }
    let mut next = 0;
    while let Some(at) = text.get(next..).and_then(|rest| memmem::find(rest, SCHEME_END)) {
        let start = next + at + SCHEME_END.len();
        next = end_of_url(text, start);
        in_query(text, start..next, &mut found);
    }
    found
}

/// The same in a word of a command, which as a whole may be a URL, whatever is in it.
pub(super) fn passwords_of_word(word: &[u8]) -> Vec<Range<usize>> {
    let is_of_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let mut found = passwords(word);
    if let Some(at) = memmem::find(word, SCHEME_END)
        && word.get(..at).is_some_and(|scheme| scheme.iter().all(is_of_scheme))
    {
        found.extend(in_login(word, at + SCHEME_END.len(), |_| false));
    }
    found
}

/// Where a login is that the end of `text` cuts off.
pub(super) fn open_password(text: &[u8]) -> Option<Range<usize>> {
    let near = text.len().saturating_sub(LONGEST_URL);
    let start = near + memmem::rfind(text.get(near..)?, SCHEME_END)? + SCHEME_END.len();
    let login = text.get(start..)?;
    let is_open = !login.iter().any(|byte| ends_url(*byte) || ends_authority(*byte));
    let password = start + memchr::memchr(b':', login)? + 1;
    (is_open && password < text.len()).then_some(password..text.len())
}

/// Where before `end` a text may be cut so that no URL is.
pub(super) fn cut_before(text: &[u8], end: usize) -> usize {
    let near = end.saturating_sub(LONGEST_URL);
    let before = text.get(near..end).unwrap_or_default();
    if let Some(at) = before.iter().rposition(|byte| ends_url(*byte)) {
        return near + at + 1;
    }
    // The cut may go through the colon and the slashes.
    let across = text.get(near..text.len().min(end + SCHEME_END.len() - 1)).unwrap_or_default();
    memmem::rfind(across, SCHEME_END).map_or(end, |at| near + at)
}

fn ends_url(byte: u8) -> bool {
    byte <= b' ' || matches!(byte, b'"' | b'<' | b'>' | b'`' | 0x7f)
}

fn ends_authority(byte: u8) -> bool {
    matches!(byte, b'/' | b'?' | b'#')
}

fn end_of_url(text: &[u8], start: usize) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    rest.iter().position(|byte| ends_url(*byte)).map_or(text.len(), |at| start + at)
}

/// The password of the login at `start`, in a URL that goes on until a byte `ends` it.
fn in_login(text: &[u8], start: usize, ends: impl Fn(u8) -> bool) -> Option<Range<usize>> {
    let url = text.get(start..)?;
    let is_end = |byte: &u8| ends_authority(*byte) || ends(*byte);
    let authority_bytes = url.iter().position(is_end).unwrap_or(url.len());
    let (authority, rest) = url.split_at_checked(authority_bytes)?;
    let colon = memchr::memchr(b':', authority)?;
    let password = start + colon + 1;
    if let Some(at) = memchr::memrchr(b'@', authority) {
        return (colon + 1 < at).then_some(password..start + at);
    }
    // Behind a colon there is a port, or a password that is not encoded.
    let behind = authority.get(colon + 1..)?;
    if behind.iter().all(u8::is_ascii_digit) || authority.starts_with(b"[") {
        return None;
    }
    let near = rest.get(..rest.len().min(LONGEST_LOGIN))?;
    let near = near.split(|byte| ends(*byte)).next()?;
    let at = memchr::memchr(b'@', near)?;
    let is_one = !near.get(..at)?.windows(SCHEME_END.len()).any(|it| it == SCHEME_END);
    is_one.then_some(password..start + authority_bytes + at)
}

/// Adds the values of secret parameters of `url`.
fn in_query(text: &[u8], url: Range<usize>, found: &mut Vec<Range<usize>>) {
    let bytes = text.get(url.clone()).unwrap_or_default();
    let mut at = url.start;
    for (number, part) in bytes.split(|byte| matches!(byte, b'?' | b'&' | b'#' | b';')).enumerate() {
        if let Some(equals) = memchr::memchr(b'=', part)
            && number > 0
            && part.get(..equals).and_then(|name| std::str::from_utf8(name).ok()).is_some_and(is_secret)
            && equals + 1 < part.len()
        {
            found.push(at + equals + 1..at + part.len());
        }
        at += part.len() + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mask;
    use super::*;

    fn masked(text: &str) -> String {
        Mask::new([]).apply(text)
    }

    #[test]
    fn the_password_of_a_url_is_masked_wherever_it_stands() {
        for (text, expected) in [
            ("postgresql://u:s3cretpw@/app", "postgresql://u:***@/app"),
            ("(postgresql://u:p@h1:1,h2:2/app)", "(postgresql://u:***@h1:1,h2:2/app)"),
            ("redis://:pw@h and amqp://a:b@c", "redis://:***@h and amqp://a:***@c"),
            ("\"postgresql+psycopg://u:p%40ss@h/x\"", "\"postgresql+psycopg://u:***@h/x\""),
            ("postgresql://u:p@ss@h/app", "postgresql://u:***@h/app"),
            ("postgresql://u:pa/s?s#@h/app", "postgresql://u:***@h/app"),
            (
                "jdbc:postgresql://h/a?user=u&password=qsecret9&x=y",
                "jdbc:postgresql://h/a?user=u&password=***&x=y",
            ),
            ("postgresql://u:***@h/a?sslpassword=***", "postgresql://u:***@h/a?sslpassword=***"),
        ] {
            assert_eq!(masked(text), expected);
        }
    }

    #[test]
    fn a_url_without_a_password_stays() {
        for text in [
            "postgresql://app@db:5432/app?sslmode=require",
            "postgresql://u:@db/app",
            "http://localhost:8000/@vite/client",
            "http://[::1]:8000/a@b:c",
            "git+ssh://git@github.com:org/repo@v1",
            "https://example.org/a@b:c?password=",
            "see http://db:x mail me@example.org",
            "a://b",
            "password://",
        ] {
            assert_eq!(masked(text), text);
        }
    }

    #[test]
    fn many_urls_are_looked_through_in_time() {
        let text = "://a:b".repeat(200_000);
        assert!(passwords(text.as_bytes()).is_empty());
    }
}
