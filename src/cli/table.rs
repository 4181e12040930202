//! Rows of text under each other, each column as wide as its widest cell.

use crate::rules::plain;

/// A column's place for its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Quantities.
    Right,
}

/// Lays out `rows` under `head`, two spaces between columns, without trailing spaces.
pub fn table<const N: usize>(head: [(&str, Align); N], rows: &[[String; N]]) -> String {
    let titles = head.map(|(title, _)| title.to_owned());
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| plain::line(cell))).collect();
    let mut widths = [0; N];
    for row in std::iter::once(&titles).chain(&rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(&rows) {
        let cells = row.iter().zip(widths).zip(head).map(|((cell, width), (_, align))| match align {
            Align::Left => format!("{cell:<width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["app".into(), "12 MiB".into()], ["数据 base".into(), "1 B".into()]];
        let text = table([("database", Align::Left), ("size", Align::Right)], &rows);
        assert_eq!(text, "database    size\napp       12 MiB\n数据 base      1 B\n");
    }

    #[test]
    fn a_name_does_not_break_its_line() {
        let text = table([("table", Align::Left)], &[["a\nb\u{1b}[2J".into()]]);
        assert_eq!(text, "table\na\u{fffd}b\u{fffd}[2J\n");
    }

    #[test]
    fn no_line_ends_in_spaces() {
        let text = table([("id", Align::Left), ("note", Align::Left)], &[["a".into(), String::new()]]);
        assert_eq!(text, "id  note\na\n");
    }
}
