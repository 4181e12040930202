//! Unpacks the objects of a base backup into directories, checked against its manifest as they pass.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::{Means, disk};
use crate::jobs::JobError;
use crate::jobs::opening::{open_into, open_through};
use crate::postgres::replication::LIST_OF_FILES;
use crate::rules::layout::{self, ObjectKey};
use crate::rules::physical::BaseManifest;
use crate::seal::SealError;

/// Unpacks the archive `object` of `base` into `directory`.
pub(super) async fn archive(
    means: &Means<'_>,
    base: &BaseManifest,
    object: &str,
    directory: &Path,
) -> Result<(), JobError> {
    let key = layout::base_key(means.catalog.cluster(), &base.id, object);
    let record = base.objects.get(object).ok_or_else(|| unnamed(&key))?;
    let to = directory.to_owned();
    let unpack = move |plain: &mut dyn Read| {
        let mut archive = tar::Archive::new(plain);
        archive.set_preserve_permissions(true);
        archive.set_preserve_mtime(false);
        archive.unpack(to)
    };
    let progress = Arc::clone(means.progress);
    let on_bytes = move |bytes| progress.advance(bytes);
    open_through(
        means.catalog.store().as_ref(),
        means.opener,
        &key,
        record,
        on_bytes,
        (unpack, Some(directory)),
    )
    .await
}

fn unnamed(key: &ObjectKey) -> JobError {
    let source = SealError::Damaged(io::Error::other("the manifest does not name it"));
    JobError::Object { key: key.to_string(), source }
}

/// Removes what is in `directory`.
pub(super) fn empty(directory: &Path) -> Result<(), JobError> {
    let failed = |source| disk("empty", directory, source);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_directory = entry.file_type().map_err(failed)?.is_dir();
        let path = entry.path();
        let removed = if is_directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(|source| disk("remove", &path, source))?;
    }
    Ok(())
}

/// Puts the list of files of `base` into `directory`, where it is an object of its own.
pub(super) async fn list_of_files(
    means: &Means<'_>,
    base: &BaseManifest,
    directory: &Path,
) -> Result<(), JobError> {
    let Some(record) = base.objects.get(layout::BACKUP_MANIFEST) else { return Ok(()) };
    let key = layout::base_key(means.catalog.cluster(), &base.id, layout::BACKUP_MANIFEST);
    let plain =
        open_into(means.catalog.store().as_ref(), means.opener, &key, record, (Vec::new(), None)).await?;
    let path = directory.join(LIST_OF_FILES);
    std::fs::write(&path, plain).map_err(|source| disk("write", &path, source))
}
