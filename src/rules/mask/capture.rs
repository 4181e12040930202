//! Keeps the beginning and the end of an output, for a report.

use std::collections::VecDeque;

/// How much of the beginning is kept.
const FIRST_BYTES: usize = 256 * 1024;
/// How much of the end is kept.
const LAST_BYTES: usize = 1024 * 1024;
/// How far a whole line is looked for where something is left out.
const LINE_BYTES: usize = 4 * 1024;

/// The output of a command: its first 256 KiB and its last 1 MiB.
#[derive(Debug, Clone, Default)]
pub struct CapturedOutput {
    first: Vec<u8>,
    last: VecDeque<u8>,
    left_out_bytes: u64,
}

impl CapturedOutput {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = FIRST_BYTES.saturating_sub(self.first.len());
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.first.extend_from_slice(first);
        let skipped = rest.len().saturating_sub(LAST_BYTES);
        let rest = rest.get(skipped..).unwrap_or_default();
        let dropped = (self.last.len() + rest.len()).saturating_sub(LAST_BYTES);
        self.last.drain(..dropped);
        self.last.extend(rest);
        self.left_out_bytes += u64::try_from(skipped + dropped).unwrap_or(u64::MAX);
    }

    /// The output, not masked. Where the middle is left out, a line says how much.
    ///
    /// What is left out ends at lines, so that no half of a secret stays that a mask would not
    /// find; of a line that goes on for longer than that, 4 KiB are left out on either side, and then
    /// up to white space.
    pub fn text(&self) -> String {
        let (front, back) = self.last.as_slices();
        let last = [front, back].concat();
        if self.left_out_bytes == 0 {
            return String::from_utf8_lossy(&[self.first.as_slice(), &last].concat()).into_owned();
        }
        let (first, first_cut) = without_last_line(&self.first);
        let (last, last_cut) = without_first_line(&last);
        let cut = u64::try_from(first_cut + last_cut).unwrap_or(u64::MAX);
        let left_out = self.left_out_bytes.saturating_add(cut);
        let (first, last) = (String::from_utf8_lossy(first), String::from_utf8_lossy(last));
        let gap = if first.is_empty() || first.ends_with(['\n', '\r']) { "" } else { "\n" };
        format!("{first}{gap}[{left_out} bytes are left out here]\n{last}")
    }
}

/// What is before the last line, and how many bytes that leaves out.
fn without_last_line(bytes: &[u8]) -> (&[u8], usize) {
    let near = bytes.len().saturating_sub(LINE_BYTES);
    let line_end = memchr::memrchr2(b'\n', b'\r', bytes.get(near..).unwrap_or_default());
    let kept = line_end.map_or_else(|| after_last_space(bytes, near), |at| near + at + 1);
    (bytes.get(..kept).unwrap_or_default(), bytes.len() - kept)
}

/// What is behind the first line, and how many bytes that leaves out.
fn without_first_line(bytes: &[u8]) -> (&[u8], usize) {
    let near = bytes.len().min(LINE_BYTES);
    let line_end = memchr::memchr2(b'\n', b'\r', bytes.get(..near).unwrap_or_default());
    let start = line_end.map_or_else(|| first_space(bytes, near), |at| at + 1);
    (bytes.get(start..).unwrap_or_default(), start)
}

/// Behind the last white space before `end`, if that is near.
fn after_last_space(bytes: &[u8], end: usize) -> usize {
    let near = end.saturating_sub(LINE_BYTES);
    let space = bytes.get(near..end).and_then(|before| before.iter().rposition(u8::is_ascii_whitespace));
    space.map_or(end, |at| near + at + 1)
}

/// The first white space from `start` on, if that is near.
fn first_space(bytes: &[u8], start: usize) -> usize {
    let behind = bytes.get(start..).unwrap_or_default().iter().take(LINE_BYTES);
    behind.copied().position(|byte| byte.is_ascii_whitespace()).map_or(start, |at| start + at)
}

#[cfg(test)]
mod tests {
    use super::super::Mask;
    use super::*;

    fn captured(pieces: &[&[u8]]) -> CapturedOutput {
        let mut output = CapturedOutput::default();
        pieces.iter().for_each(|piece| output.push(piece));
        output
    }

    #[test]
    fn an_output_within_bounds_is_kept_whole() {
        let text = "line é\n".repeat((FIRST_BYTES + LAST_BYTES) / 8);
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(1021).collect();
        assert!(captured(&pieces).text() == text);
        assert_eq!(captured(&[]).text(), "");
    }

    #[test]
    fn a_secret_across_two_pieces_is_masked() {
        let text = captured(&[b"password hun", b"ter22\n"]).text();
        assert_eq!(Mask::new(["hunter22".to_owned()]).apply(&text), "password ***\n");
    }

    #[test]
    fn the_middle_is_left_out_by_whole_lines_and_counted() {
        let lines: String = (0..200_000).map(|number| format!("line {number:07}\n")).collect();
        let text = captured(&lines.as_bytes().chunks(65_536).collect::<Vec<_>>()).text();
        assert!(text.starts_with("line 0000000\n") && text.ends_with("line 0199999\n"));
        let (first, rest) = text.split_once('[').unwrap();
        let (count, last) = rest.split_once(" bytes are left out here]\n").unwrap();
        assert!(first.ends_with('\n') && last.starts_with("line "));
        assert_eq!(first.len() + last.len() + count.parse::<usize>().unwrap(), lines.len());
        assert!(first.len() > FIRST_BYTES - 13 && last.len() > LAST_BYTES - 13);
    }

    #[test]
    fn half_a_secret_at_the_edge_of_what_is_left_out_does_not_stay() {
        for offset in 0..12 {
            let mut output = CapturedOutput::default();
            output.push(&vec![b'x'; FIRST_BYTES - offset]);
            output.push(b"hunter22");
            output.push(&vec![b'y'; LAST_BYTES + 64]);
            output.push(b"hunter22");
            output.push(&vec![b'z'; LAST_BYTES - offset]);
            let masked = Mask::new(["hunter22".to_owned()]).apply(&output.text());
            assert!(!masked.contains("hu") && !masked.contains("22"), "{offset}");
        }
    }

    #[test]
    fn half_a_url_at_the_edge_of_what_is_left_out_does_not_stay() {
        let words = " postgresql://u:hunter22@db/app".repeat(3 * (FIRST_BYTES + LAST_BYTES) / 31);
        let masked = Mask::new([]).apply(&captured(&[words.as_bytes()]).text());
        for word in masked.split([' ', '\n']).filter(|word| word.contains(['@', '/', 'h'])) {
            assert!(word == "postgresql://u:***@db/app" || word == "here]", "{word}");
        }
    }

    #[test]
    fn memory_is_bounded_whatever_is_pushed() {
        let mut output = CapturedOutput::default();
        for _ in 0..8 {
            output.push(&vec![b'x'; 3 * LAST_BYTES]);
        }
        assert_eq!((output.first.len(), output.last.len()), (FIRST_BYTES, LAST_BYTES));
        assert!(output.text().len() < FIRST_BYTES + LAST_BYTES);
    }
}
