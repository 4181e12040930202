//! State directory, keys, repository: what lies on or is reached from this host.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Findings, bucket, physical};
use crate::catalog::{Catalog, CatalogError, Listing};
use crate::cli::advice::UNREADABLE_HINT;
use crate::cli::host::{free_bytes, open_catalog};
use crate::cli::report::{ExitCode, Failure, bytes_text};
use crate::cli::repository::open_store;
use crate::keys::{HostKeys, parse_recipient};
use crate::rules::layout::{ObjectKey, tail};
use crate::settings::{RepositoryUrl, Settings};
use crate::store::{Parts, Store, StoreError, read_small};

pub(super) fn check_state(directory: &Path, findings: &mut Findings) {
    let subject = "state directory";
    let shown = directory.display();
    let metadata = match std::fs::metadata(directory) {
        Ok(metadata) => metadata,
        Err(error) => return findings.problem(subject, format!("{shown}: {error}"), "`belay init` makes it"),
    };
    if let Err(error) = tempfile::tempfile_in(directory) {
        let hint = "it must belong to the user that belay runs as";
        return findings.problem(subject, format!("{shown} is not writable: {error}"), hint);
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let hint = format!("chmod 0700 {shown}");
        return findings.problem(
            subject,
            format!("{shown} has mode {mode:04o}, others may look into it"),
            &hint,
        );
    }
    findings.ok(subject, format!("{shown} is private and writable"));
}

pub(super) fn check_keys(keys: &HostKeys, findings: &mut Findings) {
    match keys.signing {
        Some(_) => findings.ok("keys", "they are there, and private"),
        None => findings.problem(
            "keys",
            "there is no signing key: this host can only read",
            "set signing_key_file in [keys]",
        ),
    }
    if keys.identities.is_empty() {
        let hint = "set identity_file in [keys], or give --identity when it is needed";
        let text = "there is none on this host: snapshots and verification to depth stored work, \
            deeper verification, restores and the key drill do not";
        findings.warning("identity", text, hint);
    } else {
        findings.ok("identity", "this host can open what is sealed to it");
    }
}

/// Opens the repository, tries to write to it, and looks at what it is sealed to; returns what was opened and
/// listed of it.
pub(super) async fn check_repository(
    settings: &Settings,
    keys: &HostKeys,
    findings: &mut Findings,
) -> Option<(Catalog, Option<Listing>)> {
    let subject = "repository";
    let state = &settings.state.directory;
    let opened = open_store(&settings.repository, Some(state)).await;
    let store = findings.take(subject, opened)?;
    let opened = open_catalog(store, &settings.cluster.name, keys.trusted_signers.clone()).await;
    let catalog = findings.take(subject, opened)?;
    let writer = keys.signing.as_ref().map_or(Ok(()), |signing| catalog.check_writer(signing));
    if findings.take(subject, writer.map_err(Failure::of("write"))).is_some() {
        findings.ok(subject, format!("{} is opened, and this host's to write", settings.repository.url));
    }
    match probe(catalog.store().as_ref(), catalog.cluster()).await {
        Ok(()) => findings.ok("store", "an object was written once, read, compared and removed"),
        Err(failure) => findings.failure("store", failure),
    }
    bucket::check_bucket(settings, findings).await;
    check_recipients(settings, keys, &catalog, findings);
    let listing = catalog.list().await.map_err(Failure::of("list the snapshots"));
    let listing = findings.take("snapshots", listing);
    if let Some(listing) = &listing {
        check_listing(listing, findings);
        check_room(&settings.repository.url, listing, findings);
    }
    physical::check_verified(settings, &catalog, findings).await;
    Some((catalog, listing))
}

/// A key that nothing has.
pub(super) fn probe_key(cluster: &str) -> ObjectKey {
    let key = ObjectKey::new(format!("{cluster}/probe/{}{}", tail(rand::random()), tail(rand::random())));
    key.expect("a cluster's name and base32 make a key")
}

/// Writes an object, sees that it cannot be written again, reads it, removes it.
async fn probe(store: &dyn Store, cluster: &str) -> Result<(), Failure> {
    let failed = |text: &str| Failure::new("try the store", ExitCode::Failed, text);
    let content: [u8; 32] = rand::random();
    let key = probe_key(cluster);
    store.put(&key, Parts::whole(content.to_vec())).await.map_err(Failure::of("try the store"))?;
    let again = store.put(&key, Parts::whole(b"again".to_vec())).await;
    let read = read_small(store, &key, content.len()).await;
    store.delete(&key).await.map_err(Failure::of("try the store"))?;
    if !matches!(again, Err(StoreError::Exists { .. })) {
        return Err(failed("it let an object be written twice"));
    }
    if read.map_err(Failure::of("try the store"))? != content {
        return Err(failed("it returned other bytes than were written"));
    }
    match store.head(&key).await.map_err(Failure::of("try the store"))? {
        None => Ok(()),
        Some(_) => Err(failed("an object that was removed is still there")),
    }
}

fn check_recipients(settings: &Settings, keys: &HostKeys, catalog: &Catalog, findings: &mut Findings) {
    let subject = "recipients";
    let configured = &settings.keys.recipients;
    let recipients = if configured.is_empty() { &catalog.record().recipients } else { configured };
    for recipient in recipients {
        if let Err(error) = parse_recipient(recipient) {
            return findings.failure(subject, Failure::of("read the recipients")(error));
        }
    }
    let own: Vec<String> = keys.recipients().iter().map(ToString::to_string).collect();
    if !own.is_empty() && !own.iter().any(|recipient| recipients.contains(recipient)) {
        let hint = "add the host's public key (`belay key list`) to recipients in [keys]";
        findings.warning(
            subject,
            "snapshots are not sealed to this host: its identity will not open new ones",
            hint,
        );
    }
    match recipients.len() {
        0 => findings.problem(subject, "there is none", "set recipients in [keys]"),
        1 => findings.warning(
            subject,
            "there is only one: whoever loses its identity loses every snapshot",
            "add the public key of an identity that is kept elsewhere to recipients in [keys]",
        ),
        count => findings.ok(subject, format!("each snapshot is sealed to {count}")),
    }
}

fn check_listing(listing: &Listing, findings: &mut Findings) {
    for rejected in &listing.rejected {
        let home = &rejected.home;
        let hint = match *rejected.error {
            CatalogError::Format { .. } => "it was written by a newer belay: use that version or a newer one",
            CatalogError::Store(_) => UNREADABLE_HINT,
            _ => "nothing uses it; no chunk is swept while it is there",
        };
        findings.warning(
            "snapshots",
            format!("{} of {} is not believed: {}", home.id, home.database, rejected.reason()),
            hint,
        );
    }
    // One that failed is no matter once a newer one is verified: it waits for its age.
    for entry in listing.entries.iter().filter(|entry| !listing.has_newer_verified(entry)) {
        if let Some(failure) = entry.failure() {
            let text = format!(
                "{} of {} failed its verification: {}",
                entry.manifest.id,
                entry.manifest.database,
                failure.problems.join("; ")
            );
            findings.warning("snapshots", text, "take another with `belay snapshot` and verify it");
        }
    }
    findings.ok("snapshots", format!("listed: {}", listing.entries.len()));
}

fn check_room(url: &RepositoryUrl, listing: &Listing, findings: &mut Findings) {
    let RepositoryUrl::Local(root) = url else { return };
    let Some(free) = free_bytes(root) else { return };
    let newest: std::collections::BTreeMap<_, _> =
        listing.entries.iter().map(|entry| (&entry.manifest.database, entry.manifest.stored_bytes)).collect();
    let needed: u64 = newest.values().sum();
    let text = format!("{} free; the newest snapshots have {}", bytes_text(free), bytes_text(needed));
    if free < needed {
        findings.warning("disk", text, "make room: a round of snapshots that shares nothing would not fit");
    } else {
        findings.ok("disk", text);
    }
}
