//! How programs write a text: in URLs, and in literals of Python, JSON, SQL and shells.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// RFC 3986's unreserved characters, which most encoders leave as they are.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Python's `quote` leaves the slash too.
const BUT_SLASH: &AsciiSet = &RESERVED.remove(b'/');

/// Marks that a backslash is put before, besides the backslash: of Python without and with quotes,
/// of JSON as most and as PHP write it.
const QUOTED: [&str; 5] = ["", "'", "\"", "'\"", "\"/"];
/// Marks that are coded, so that a literal is safe within HTML.
const CODED: [&str; 4] = ["", "<>&", "<>&'", "<>&'\""];

/// How characters outside of ASCII, and those without a shape, are coded.
#[derive(Clone, Copy)]
enum Coding {
    /// `é`, `\u0001`
    AsIs,
    /// `\u00e9`, `\ud83d\ude00`
    Utf16,
    /// `\xe9`, `\u20ac`, `\U0001f600`
    Python,
    /// `é`, `\x01`
    PythonAsIs,
    /// `\xc3\xa9`
    Bytes,
}

const CODINGS: [Coding; 5] = [Coding::AsIs, Coding::Utf16, Coding::Python, Coding::PythonAsIs, Coding::Bytes];

/// A secret, and every way in which it may be written.
pub(super) fn of(secret: &str) -> Vec<String> {
    let mut forms = in_urls(secret);
    forms.extend(in_literals(secret));
    // As ConfigParser, which reads alembic.ini, has a percent sign written.
    let doubled: Vec<String> = forms.iter().map(|form| form.replace('%', "%%")).collect();
    forms.extend(doubled);
    forms.extend(["''", r"'\''", r#"'"'"'"#].map(|quote| secret.replace('\'', quote)));
    forms.sort();
    forms.dedup();
    // A message that holds one literal is often shown within another.
    let outer = ["'", "\""].into_iter();
    let within = outer.flat_map(|marks| forms.iter().map(move |form| literal(form, marks, "", Coding::AsIs)));
    let within: Vec<String> = within.collect();
    forms.extend(within);
    forms
}

fn in_literals(secret: &str) -> Vec<String> {
    let mut forms = Vec::new();
    for coding in CODINGS {
        for (quoted, coded) in QUOTED.iter().flat_map(|quoted| CODED.map(|coded| (quoted, coded))) {
            let form = literal(secret, quoted, coded, coding);
            forms.push(with_upper_digits(&form));
            forms.push(form);
        }
    }
    forms
}

fn literal(text: &str, quoted: &str, coded: &str, coding: Coding) -> String {
    let mut form = String::new();
    for character in text.chars() {
        match character {
            '\n' => form.push_str("\\n"),
            '\r' => form.push_str("\\r"),
            '\t' => form.push_str("\\t"),
            // Python has no short form of these two, and JSON has.
            '\u{8}' if matches!(coding, Coding::AsIs | Coding::Utf16) => form.push_str("\\b"),
            '\u{c}' if matches!(coding, Coding::AsIs | Coding::Utf16) => form.push_str("\\f"),
            _ if coded.contains(character) => push_code(&mut form, character, Coding::Utf16),
            _ if character == '\\' || quoted.contains(character) => form.extend(['\\', character]),
            _ if character.is_ascii_control() => push_code(&mut form, character, coding),
            _ if character.is_ascii() || matches!(coding, Coding::AsIs | Coding::PythonAsIs) => {
                form.push(character);
            }
            _ => push_code(&mut form, character, coding),
        }
    }
    form
}

fn push_code(form: &mut String, character: char, coding: Coding) {
    let code = u32::from(character);
    let written = match coding {
        Coding::AsIs | Coding::Utf16 => {
            character.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(form, "\\u{unit:04x}"))
        }
        Coding::Bytes => {
            character.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(form, "\\x{byte:02x}"))
        }
        Coding::Python | Coding::PythonAsIs if code < 0x100 => write!(form, "\\x{code:02x}"),
        Coding::Python | Coding::PythonAsIs if code < 0x1_0000 => write!(form, "\\u{code:04x}"),
        Coding::Python | Coding::PythonAsIs => write!(form, "\\U{code:08x}"),
    };
    written.expect("writing to a string does not fail");
}

/// The same with the digits of `\u00e9` in upper case.
fn with_upper_digits(form: &str) -> String {
    let upper = |(number, piece): (usize, &str)| match piece.split_at_checked(4) {
        Some((digits, rest)) if number > 0 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            format!("\\u{}{rest}", digits.to_uppercase())
        }
        _ if number > 0 => format!("\\u{piece}"),
        _ => piece.to_owned(),
    };
    form.split("\\u").enumerate().map(upper).collect()
}

/// A secret and how encoders of URLs write it.
fn in_urls(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned()];
    for set in [NON_ALPHANUMERIC, RESERVED, BUT_SLASH] {
        let encoded = utf8_percent_encode(secret, set).to_string();
        let lower: String = encoded.split('%').enumerate().map(with_lower_digits).collect();
        for form in [encoded, lower] {
            forms.push(form.replace("%20", "+"));
            forms.push(form);
        }
    }
    forms
}

/// A piece of an encoded text from a `%` on, its two digits in lower case.
fn with_lower_digits((number, piece): (usize, &str)) -> String {
    match piece.split_at_checked(2) {
        Some((digits, rest)) if number > 0 => format!("%{}{rest}", digits.to_lowercase()),
        _ => piece.to_owned(),
    }
}
