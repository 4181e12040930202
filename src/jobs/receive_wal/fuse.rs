//! Lets the server have its disk back when it has to keep too much log for us.

use std::path::Path;

use sqlx::postgres::PgConnection;

use super::Means;
use crate::jobs::JobError;
use crate::postgres::replication::{self, ClusterFacts, Mark};

/// Of the server's disk, one part in this many stays free before log is kept.
const FREE_PART: u64 = 10;

/// Drops the slot when what it keeps is more than allowed, or more than what is left of a disk that is
/// nearly full.
///
/// # Errors
/// [`JobError::Refused`] when it was dropped: the log from there on is not had again. What PostgreSQL says.
pub(super) async fn check(
    session: &mut PgConnection,
    means: &Means<'_>,
    facts: &ClusterFacts,
    mark: &Mark,
) -> Result<(), JobError> {
    let disk = facts.data_directory.as_deref().and_then(|data| Disk::of(&Path::new(data).join("pg_wal")));
    let Some(reason) = why(mark.kept_bytes, means.keep_bytes, disk) else { return Ok(()) };
    replication::drop_slot(session, means.slot).await?;
    Err(JobError::Refused {
        action: format!("have the server keep its write-ahead log by slot {}", means.slot),
        reasons: vec![reason],
    })
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Disk {
    bytes: u64,
    free_bytes: u64,
}

impl Disk {
    /// That of `path`, where it is on this host.
    fn of(path: &Path) -> Option<Self> {
        let space = nix::sys::statvfs::statvfs(path).ok()?;
        let blocks = |count: u64| space.fragment_size().saturating_mul(count);
        Some(Self { bytes: blocks(space.blocks()), free_bytes: blocks(space.blocks_available()) })
    }
}

/// Why so much must not be kept, if that is so.
fn why(kept_bytes: u64, keep_bytes: u64, disk: Option<Disk>) -> Option<String> {
    if kept_bytes > keep_bytes {
        return Some(format!(
            "it would have to keep {kept_bytes} bytes, and keep in [wal] allows {keep_bytes}; the slot was dropped"
        ));
    }
    let disk =
        disk.filter(|disk| disk.free_bytes < disk.bytes / FREE_PART && kept_bytes > disk.free_bytes)?;
    Some(format!(
        "it keeps {kept_bytes} bytes, and its disk has {} left of {}; the slot was dropped",
        disk.free_bytes, disk.bytes
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_goes_when_it_keeps_too_much_or_the_disk_is_nearly_full() {
        let disk = |free_bytes| Some(Disk { bytes: 1000, free_bytes });
        assert_eq!(why(100, 100, None), None);
        assert!(why(101, 100, None).is_some());
        assert_eq!(why(90, 100, disk(500)), None);
        assert_eq!(why(50, 100, disk(80)), None, "dropping it would not help");
        assert!(why(90, 100, disk(80)).is_some());
    }
}
