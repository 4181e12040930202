//! Where a recovered cluster goes: its data directory, and a directory for each tablespace.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::disk;
use crate::jobs::JobError;
use crate::rules::physical::{BaseManifest, Tablespace};
use crate::rules::tablespaces::{self, MAP_FILE, Mapping, Place};

/// Decides where the tablespaces of `base` go: where `mappings` say, else where they were.
///
/// # Errors
/// [`JobError::Refused`] where something is in a directory already, and for a mapping that fits none.
pub fn places(base: &BaseManifest, mappings: &[Mapping], data: &Path) -> Result<Vec<Place>, JobError> {
    let refused = |reasons| JobError::Refused { action: format!("recover into {}", data.display()), reasons };
    let placed = tablespaces::place(&base.tablespaces, mappings, &absolute(data)?);
    let placed = placed.map_err(|error| refused(vec![error.to_string()]))?;
    let occupied = |place: &Place| {
        let entry = std::fs::read_dir(&place.directory).ok()?.next();
        let (name, directory) = (&place.tablespace.name, place.directory.display());
        entry.map(|_| format!("tablespace {name} goes to {directory}, which is not empty"))
    };
    let reasons: Vec<String> = placed.iter().filter_map(occupied).collect();
    if reasons.is_empty() { Ok(placed) } else { Err(refused(reasons)) }
}

/// Puts them beside the data directory of a scratch cluster, never where they were.
pub(super) fn beside(found: &[Tablespace], data: &Path) -> Result<Vec<Place>, JobError> {
    let data = absolute(data)?;
    Ok(tablespaces::place_under(found, &parent_of(&data), &data))
}

/// The directory of the tablespaces beside a scratch cluster.
pub(super) fn parent_of(data: &Path) -> PathBuf {
    let mut name = data.file_name().unwrap_or_default().to_owned();
    name.push(".tablespaces");
    data.with_file_name(name)
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf, JobError> {
    std::path::absolute(path).map_err(|source| disk("find", path, source))
}

/// Makes `directory`, 0700, or refuses it when something is in it; whether it was not there.
pub(super) fn make_empty(directory: &Path) -> Result<bool, JobError> {
    let is_new = !directory.exists();
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| disk("make", directory, source))?;
    let mut entries = std::fs::read_dir(directory).map_err(|source| disk("list", directory, source))?;
    if entries.next().is_some() {
        return Err(JobError::Refused {
            action: format!("recover into {}", directory.display()),
            reasons: vec!["it is not empty".into()],
        });
    }
    let private = std::fs::Permissions::from_mode(0o700);
    let made = std::fs::set_permissions(directory, private);
    made.map(|()| is_new).map_err(|source| disk("make private", directory, source))
}

/// Makes `directory` and those of tablespaces that are not within it, or refuses them all; returns those that were
/// not there.
pub(super) fn make_all(directory: &Path, places: &[Place]) -> Result<Vec<PathBuf>, JobError> {
    let linked = places.iter().filter(|place| !place.tablespace.is_in_place());
    let mut made = Vec::new();
    for directory in std::iter::once(directory).chain(linked.map(|place| place.directory.as_path())) {
        match make_empty(directory) {
            Ok(true) => made.push(directory.to_owned()),
            Ok(false) => {}
            Err(error) => {
                remove_empty(&made);
                return Err(error);
            }
        }
    }
    Ok(made)
}

/// Removes directories, unless something is in them.
pub(super) fn remove_empty(directories: &[PathBuf]) {
    directories.iter().for_each(|directory| drop(std::fs::remove_dir(directory)));
}

/// Makes the links of a data directory that was unpacked.
pub(super) fn link(places: &[Place], data: &Path) -> Result<(), JobError> {
    for place in places.iter().filter(|place| !place.tablespace.is_in_place()) {
        let link = tablespaces::link(data, place.tablespace.oid);
        let linked = std::os::unix::fs::symlink(&place.directory, &link);
        linked.map_err(|source| disk("make a link at", &link, source))?;
    }
    Ok(())
}

/// Has the server make its links as they are: it reads them from a file of the base backup.
pub(super) fn write_map(places: &[Place], data: &Path) -> Result<(), JobError> {
    if places.iter().all(Place::is_original) {
        return Ok(());
    }
    let path = data.join(MAP_FILE);
    std::fs::write(&path, tablespaces::map_text(places)).map_err(|source| disk("write", &path, source))
}

/// Tablespaces that the log made within the data directory, because their own was in use.
pub(super) fn moved_in(places: &[Place], data: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(data.join(tablespaces::LINKS));
    let directories = entries.into_iter().flatten().flatten().filter(|entry| {
        let is_known = |place: &Place| *place.tablespace.oid.to_string() == *entry.file_name();
        entry.file_type().is_ok_and(|kind| kind.is_dir()) && !places.iter().any(is_known)
    });
    let note = |entry: std::fs::DirEntry| {
        format!(
            "a tablespace was made after the base backup, and its directory is in use: it lies in {}",
            entry.path().display()
        )
    };
    directories.map(note).collect()
}

/// Refuses file systems that cannot hold what goes there; what the log adds is not known.
pub(super) fn check_room(needs: &[(&Path, u64)]) -> Result<(), JobError> {
    let mut by_device: BTreeMap<u64, (&Path, u64)> = BTreeMap::new();
    for (directory, bytes) in needs {
        let Ok(metadata) = std::fs::metadata(directory) else { continue };
        let need = by_device.entry(metadata.dev()).or_insert((directory, 0));
        need.1 = need.1.saturating_add(*bytes);
    }
    for (directory, needed_bytes) in by_device.into_values() {
        let Ok(space) = nix::sys::statvfs::statvfs(directory) else { continue };
        let free_bytes = space.fragment_size().saturating_mul(space.blocks_available());
        if free_bytes < needed_bytes {
            return Err(JobError::Refused {
                action: format!("recover into {}", directory.display()),
                reasons: vec![format!("{needed_bytes} bytes are needed there, and {free_bytes} are free")],
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_to_one_file_system_is_counted_together() {
        let directory = tempfile::TempDir::new().unwrap();
        let other = directory.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let half = u64::MAX / 2;
        assert!(check_room(&[(directory.path(), 1), (&other, 1)]).is_ok());
        let space = nix::sys::statvfs::statvfs(directory.path()).unwrap();
        let most = space.fragment_size() * space.blocks_available() / 4 * 3;
        for needs in [(half, 0), (0, half), (most, most)] {
            let refused = check_room(&[(directory.path(), needs.0), (&other, needs.1)]).unwrap_err();
            assert!(refused.to_string().contains("are free"), "{refused}");
        }
    }

    #[test]
    fn where_one_directory_has_something_in_it_all_are_refused_and_none_is_made() {
        let room = tempfile::TempDir::new().unwrap();
        let (data, used) = (room.path().join("data"), room.path().join("used"));
        let location = used.to_string_lossy().into_owned();
        let tablespace = Tablespace { oid: 16_384, name: "fast".into(), location };
        let place = Place { tablespace, directory: used.clone() };
        assert_eq!(make_all(&data, std::slice::from_ref(&place)).unwrap(), [data.clone(), used.clone()]);
        assert!(make_all(&data, std::slice::from_ref(&place)).unwrap().is_empty(), "they were there");
        std::fs::remove_dir(&data).unwrap();
        std::fs::write(used.join("rows"), "1").unwrap();
        let refused = make_all(&data, &[place]).unwrap_err();
        assert!(refused.to_string().contains("it is not empty"), "{refused}");
        assert!(used.join("rows").exists() && !data.exists());
    }
}
