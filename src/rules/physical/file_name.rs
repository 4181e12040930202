//! The files that PostgreSQL archives and asks for, by their names.

use super::{PieceName, Segment};

/// What a file of a server's `pg_wal` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalFile {
    /// What is kept: a whole segment, or where a timeline left the one before.
    Kept(PieceName),
    /// The beginning of a segment of a timeline that was left; the new timeline's first segment begins with
    /// it too.
    Partial,
    /// What a base backup needed, which its manifest says.
    BackupHistory,
}

impl WalFile {
    /// What a file of this name is; `None` for what is no file of the log.
    pub fn of_name(name: &str) -> Option<Self> {
        // Any size of segment does to see that it is a name.
        let is_segment = |text: &str| Segment::of_name(text, 1 << 20).is_some();
        if let Some(segment) = name.strip_suffix(".partial") {
            return is_segment(segment).then_some(Self::Partial);
        }
        if let Some((segment, offset)) = name.strip_suffix(".backup").and_then(|text| text.split_once('.')) {
            let is_offset = offset.len() == 8 && offset.bytes().all(|byte| byte.is_ascii_hexdigit());
            return (is_segment(segment) && is_offset).then_some(Self::BackupHistory);
        }
        match name.parse() {
            Ok(PieceName::Part { .. }) | Err(_) => None,
            Ok(piece) => Some(Self::Kept(piece)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_log_are_told_from_others() {
        let segment = "00000001000000020000002A";
        let of = WalFile::of_name;
        assert_eq!(of(segment), Some(WalFile::Kept(PieceName::Segment(segment.into()))));
        assert_eq!(of("00000003.history"), Some(WalFile::Kept(PieceName::History(3))));
        assert_eq!(of("00000001000000020000002A.partial"), Some(WalFile::Partial));
        assert_eq!(of("00000001000000020000002A.00000028.backup"), Some(WalFile::BackupHistory));
        for name in [
            "",
            "RECOVERYXLOG",
            "archive_status",
            "00000001000000020000002A.backup",
            "00000001000000020000002A.gz",
            "00000001000000020000002A.00000000-00012000",
            "../00000001000000020000002A",
        ] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
