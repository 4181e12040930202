//! Keeps a text from commanding the terminal that it is shown on.
//!
//! Comes in: what somebody else wrote. Goes out: the same without control characters, each of which
//! is U+FFFD.

/// What stands in the place of a control character.
const REPLACEMENT: &str = "\u{fffd}";

/// The text as one line.
pub fn line(text: &str) -> String {
    text.replace(char::is_control, REPLACEMENT)
}

/// The text with its own lines and tabs.
pub fn lines(text: &str) -> String {
    text.replace(|c: char| c.is_control() && !matches!(c, '\n' | '\t'), REPLACEMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_writes_no_line_of_its_own_and_moves_no_cursor() {
        let text = "a\u{1b}[2J\r\n\tb\u{9b}é";
        assert_eq!(line(text), "a\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}b\u{fffd}é");
        assert_eq!(lines(text), "a\u{fffd}[2J\u{fffd}\n\tb\u{fffd}é");
    }
}
