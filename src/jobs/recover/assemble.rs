//! Makes a data directory, and the directories of tablespaces, from a base backup and what it builds on.
//!
//! An incremental base backup and all before it are unpacked in a directory within the new one, and put
//! together by `pg_combinebackup`.

use std::ffi::OsString;
use std::path::Path;

use tokio::process::Command;

use super::{Means, disk, places, unpack};
use crate::jobs::JobError;
use crate::postgres::tools;
use crate::rules::chain;
use crate::rules::layout;
use crate::rules::physical::BaseManifest;
use crate::rules::tablespaces::Place;

/// Where what is put together lies meanwhile.
const PARTS: &str = ".belay-parts";
const COMBINED: &str = "combined";
const PROGRAM: &str = "pg_combinebackup";

/// Makes them of `base`, which is one of `bases`, with the tablespaces at `placed`. Directories are made or are
/// empty.
pub(super) async fn assemble(
    means: &Means<'_>,
    bases: &[BaseManifest],
    base: &BaseManifest,
    programs: &Path,
    directory: &Path,
    placed: &[Place],
    is_durable: bool,
) -> Result<(), JobError> {
    let refused = |reason: String| JobError::Refused {
        action: format!("recover from base backup {}", base.id),
        reasons: vec![reason],
    };
    let chain = chain::chain(bases, base).map_err(|broken| refused(broken.to_string()))?;
    let program = programs.join(PROGRAM);
    if chain.len() > 1 && !program.exists() {
        return Err(refused(format!("it is incremental, and there is no {}", program.display())));
    }
    places::make_all(directory, placed)?;
    places::check_room(&needs(&chain, directory, placed))?;
    if let [whole] = chain.as_slice() {
        return unpack_all(means, whole, directory, placed).await;
    }
    let parts = directory.join(PARTS);
    let mut combine = Command::new(program);
    combine.env("LC_ALL", "C").arg("--output").arg(parts.join(COMBINED));
    if !is_durable {
        combine.arg("--no-sync");
    }
    for member in &chain {
        let part = parts.join(member.id.as_str());
        let beside = places::beside(&member.tablespaces, &part)?;
        places::make_all(&part, &beside)?;
        unpack_all(means, member, &part, &beside).await?;
        if member.id == base.id {
            map(&mut combine, &beside, placed);
        }
    }
    for member in &chain {
        combine.arg(parts.join(member.id.as_str()));
    }
    means.progress.enter("putting the base backups together");
    tools::run(combine).await?;
    move_up(&parts, directory)
}

/// What goes where: besides the result, of which the full base backup tells the size, all parts lie in the
/// data directory for a while.
pub(super) fn needs<'a>(
    chain: &[&BaseManifest],
    directory: &'a Path,
    placed: &'a [Place],
) -> Vec<(&'a Path, u64)> {
    let largest = |object: &str| {
        let records = chain.iter().filter_map(|member| member.objects.get(object));
        records.map(|record| record.plain_bytes).max().unwrap_or_default()
    };
    let parts = if chain.len() > 1 { chain.iter().map(|member| member.plain_bytes).sum() } else { 0 };
    let mut needs = vec![(directory, parts + largest(layout::BASE))];
    needs.extend(placed.iter().map(|place| {
        let within = if place.tablespace.is_in_place() { directory } else { place.directory.as_path() };
        (within, largest(&place.tablespace.object()))
    }));
    needs
}

/// Unpacks every object of one base backup.
async fn unpack_all(
    means: &Means<'_>,
    base: &BaseManifest,
    directory: &Path,
    placed: &[Place],
) -> Result<(), JobError> {
    unpack::archive(means, base, layout::BASE, directory).await?;
    places::link(placed, directory)?;
    for place in placed {
        unpack::archive(means, base, &place.tablespace.object(), &place.directory).await?;
    }
    unpack::list_of_files(means, base, directory).await
}

fn map(combine: &mut Command, from: &[Place], to: &[Place]) {
    let escaped = |path: &Path| path.to_string_lossy().replace('=', "\\=");
    for (old, new) in from.iter().zip(to).filter(|(old, _)| !old.tablespace.is_in_place()) {
        let mapping = format!("{}={}", escaped(&old.directory), escaped(&new.directory));
        combine.arg("--tablespace-mapping").arg(mapping);
    }
}

/// Puts what was put together in its place, and removes the parts.
fn move_up(parts: &Path, directory: &Path) -> Result<(), JobError> {
    let combined = parts.join(COMBINED);
    let entries = std::fs::read_dir(&combined).map_err(|source| disk("list", &combined, source))?;
    let names: Vec<OsString> = entries.flatten().map(|entry| entry.file_name()).collect();
    for name in names {
        let to = directory.join(&name);
        std::fs::rename(combined.join(&name), &to).map_err(|source| disk("write", &to, source))?;
    }
    std::fs::remove_dir_all(parts).map_err(|source| disk("remove", parts, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tablespaces;

    #[test]
    fn what_is_put_together_takes_the_place_of_its_parts() {
        let directory = tempfile::TempDir::new().unwrap();
        let parts = directory.path().join(PARTS);
        std::fs::create_dir_all(parts.join(COMBINED).join(tablespaces::LINKS).join("1")).unwrap();
        std::fs::create_dir_all(parts.join("full")).unwrap();
        move_up(&parts, directory.path()).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, [tablespaces::LINKS]);
    }
}
