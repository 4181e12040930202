//! An error and its causes in one line, for records, reports and logs.

use std::error::Error;

/// The error and every cause, each after a colon.
pub fn in_a_sentence(error: &dyn Error) -> String {
    joined(error, |_, _| true)
}

/// The same, but a cause that the words before it end with already is left out.
pub fn each_said_once(error: &dyn Error) -> String {
    joined(error, |text, said| !text.ends_with(said))
}

fn joined(error: &dyn Error, is_told: impl Fn(&str, &str) -> bool) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if is_told(&text, &said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
