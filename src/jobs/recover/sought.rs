//! Looks for a restore point in the log that is stored, before a server is started to replay it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::segment::Source;
use super::{Means, Stock, disk};
use crate::jobs::{JobError, WorkDirectory, blocking};
use crate::rules::physical::BaseManifest;
use crate::rules::recovery::{Plan, Window};
use crate::rules::wal::Lsn;
use crate::rules::wal::records::Names;

/// How many restore points are named where one is not found.
const POINTS_TOLD: usize = 10;
/// So much of a segment is read at a time.
const SLICE_BYTES: usize = 1 << 20;

/// Where the restore point `name`, which the repository does not know, lies behind the base backups of `plan`: the
/// first of that name behind the newest base backup that has one behind it, as a server would find it.
///
/// # Errors
/// [`JobError::Refused`] with the names that there are, when it is in none of the log; what store and opener say.
pub(super) async fn place_of(
    means: &Means<'_>,
    stock: &Stock,
    plan: &Plan,
    base: &BaseManifest,
    name: &str,
) -> Result<Lsn, JobError> {
    means.progress.enter("looking for the restore point in the log");
    let mut windows: Vec<&Window> = std::iter::once(&plan.window).chain(&plan.older).collect();
    windows.sort_by_key(|window| std::cmp::Reverse(window.base.start));
    let bytes: u64 = windows.iter().map(|window| own_bytes(window, &windows)).sum();
    means.progress.expect(bytes);
    let mut all: Vec<(String, Lsn)> = Vec::new();
    for window in &windows {
        let names = names_in(means, stock, base, window, until(window, &windows)).await?;
        if let Some((_, lsn)) = names.iter().find(|(found, lsn)| found == name && *lsn >= window.base.stop) {
            return Ok(*lsn);
        }
        all.extend(names);
    }
    let from = windows.iter().map(|window| window.base.start).min().unwrap_or_default();
    let until = windows.iter().map(|window| window.end).max().unwrap_or_default();
    Err(JobError::Refused {
        action: format!("recover name:{name}"),
        reasons: vec![format!(
            "the log from {from} to {until} has no restore point of that name; {}",
            told(all)
        )],
    })
}

/// Up to where the log of a window is its own: from there on it is that of a newer one too.
fn until(window: &Window, all: &[&Window]) -> Lsn {
    let newer = all.iter().map(|other| other.base.start).filter(|start| *start > window.base.start).min();
    newer.map_or(window.end, |newer| newer.min(window.end))
}

fn own_bytes(window: &Window, all: &[&Window]) -> u64 {
    until(window, all).0.saturating_sub(window.base.start.0)
}

/// The restore points of a window's log, up to the segment in which `until` lies.
async fn names_in(
    means: &Means<'_>,
    stock: &Stock,
    base: &BaseManifest,
    window: &Window,
    until: Lsn,
) -> Result<Vec<(String, Lsn)>, JobError> {
    let system_identifier = Some(base.system_identifier.as_str());
    let source = Source { catalog: means.catalog, opener: means.opener, system_identifier };
    let room = WorkDirectory::create(means.scratch_directory)?;
    let path = room.path().join("segment");
    let mut names = Names::default();
    let bytes = stock.log.segment_bytes();
    for number in window.base.start.0 / bytes..until.0.div_ceil(bytes) {
        let Some(assembly) = stock.log.assembly(window.timeline, number) else { break };
        source.put_segment(&assembly, bytes, &path).await?;
        names.begin_segment();
        let read = path.clone();
        names =
            blocking(move || read_names(names, &read).map_err(|source| disk("read", &read, source))).await?;
        means.progress.advance(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    Ok(names.finish())
}

fn read_names(mut names: Names, path: &Path) -> io::Result<Names> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; SLICE_BYTES];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(names),
            read => names.update(bytes.get(..read).unwrap_or_default()),
        }
    }
}

/// The newest names, in words; of each one its last place.
fn told(found: Vec<(String, Lsn)>) -> String {
    let places: BTreeMap<String, Lsn> = found.into_iter().collect();
    let mut places: Vec<(Lsn, String)> = places.into_iter().map(|(name, lsn)| (lsn, name)).collect();
    places.sort();
    let newest: Vec<String> =
        places.iter().rev().take(POINTS_TOLD).map(|(lsn, name)| format!("{name} at {lsn}")).collect();
    match newest.as_slice() {
        [] => "it has none at all".to_owned(),
        [only] => format!("the only one that it has is {only}"),
        newest => format!("the newest that it has are {}", newest.join(", ")),
    }
}
