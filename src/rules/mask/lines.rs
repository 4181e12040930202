//! Masks an output while it is written, for a terminal.

use super::Mask;

/// How much is held back of a line that does not end.
const MAX_HELD_BYTES: usize = 64 * 1024;

/// An output whose lines are masked as soon as they are whole.
#[derive(Debug)]
pub struct MaskedLines {
    mask: Mask,
    held: Vec<u8>,
}

impl MaskedLines {
    /// Starts with nothing held back.
    pub fn new(mask: Mask) -> Self {
        Self { mask, held: Vec::new() }
    }

    /// Takes the next bytes and returns what can be shown: whole lines, ended by `\n` or, as a
    /// progress bar does it, by `\r`. Of a line beyond 64 KiB only its end is held back.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let end = match memchr::memrchr2(b'\n', b'\r', &self.held) {
            Some(at) => at + 1,
            None if self.held.len() > MAX_HELD_BYTES => self.mask.settled_bytes(&self.held),
            None => return Vec::new(),
        };
        let rest = self.held.split_off(end);
        let whole = std::mem::replace(&mut self.held, rest);
        self.mask.apply_bytes(&whole)
    }

    /// Returns what was held back; the output has ended.
    pub fn finish(mut self) -> Vec<u8> {
        let rest = std::mem::take(&mut self.held);
        self.mask.apply_bytes(&rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(secret: &str, pieces: &[&[u8]]) -> Vec<u8> {
        let mut lines = MaskedLines::new(Mask::new([secret.to_owned()]));
        let mut shown: Vec<u8> = pieces.iter().flat_map(|piece| lines.push(piece)).collect();
        shown.extend(lines.finish());
        shown
    }

    #[test]
    fn a_line_is_shown_when_it_is_whole() {
        let mut lines = MaskedLines::new(Mask::new(["hunter22".to_owned()]));
        assert_eq!(lines.push(b"a\npassword hun"), b"a\n");
        assert_eq!(lines.push(b"ter22"), b"");
        assert_eq!(lines.push(b".\r50 %"), b"password ***.\r");
        assert_eq!(lines.finish(), b"50 %");
    }

    #[test]
    fn a_line_without_an_end_is_not_held_for_ever() {
        let mut lines = MaskedLines::new(Mask::new(["hunter22".to_owned()]));
        let long = [vec![b'x'; MAX_HELD_BYTES], b"hunter22hunt".to_vec()].concat();
        let first = lines.push(&long);
        assert!(first.len() >= MAX_HELD_BYTES && !first.ends_with(b"h"), "{}", first.len());
        let rest = [first, lines.push(b"er22\n")].concat();
        assert_eq!(rest.get(MAX_HELD_BYTES..), Some(b"******\n".as_slice()));
    }

    #[test]
    fn a_url_is_not_cut_in_a_line_without_an_end() {
        for at in (0..40).step_by(7) {
            let line =
                [&vec![b'x'; MAX_HELD_BYTES - at], " postgresql://u:hunter2é@db/app".as_bytes()].concat();
            for cut in MAX_HELD_BYTES - at..line.len() {
                let (first, second) = line.split_at(cut);
                let all = String::from_utf8(shown("other", &[first, b"", second])).unwrap();
                assert!(all.ends_with("x postgresql://u:***@db/app"), "{at} {cut}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_pass_through() {
        assert_eq!(shown("hunter22", &[b"\xff\xfe hunter", b"22 \x80\n"]), b"\xff\xfe *** \x80\n");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_an_output_is_cut(text in "[ab \n\r]{0,40}", at in 0_usize..40) {
            let (first, second) = text.as_bytes().split_at(at.min(text.len()));
            let whole = Mask::new(["abba".to_owned()]).apply(&text);
            prop_assert_eq!(shown("abba", &[first, second]), whole.into_bytes());
        }
    }
}
