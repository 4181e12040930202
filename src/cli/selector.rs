//! How an operator names a base backup, and a snapshot: an id, `latest`, `latest-verified`, `before:REV`.

use crate::catalog::Selector;
use crate::rules::layout::SnapshotId;
use crate::rules::manifest::Depth;

/// Reads the id of a base backup; a clap value parser.
///
/// # Errors
/// What is accepted instead.
pub fn base(text: &str) -> Result<SnapshotId, String> {
    let expected = "expected a base backup's id (such as 20261123T140312Z-k7q2mx), which `belay list` shows";
    text.parse().map_err(|_| expected.into())
}

/// Reads the text of a selector; a clap value parser.
///
/// # Errors
/// What is accepted instead.
pub fn parse(text: &str) -> Result<Selector, String> {
    match text {
        "latest" => Ok(Selector::Latest),
        "latest-verified" => Ok(Selector::LatestVerified(Depth::Stored)),
        _ => match text.strip_prefix("before:") {
            Some("") => Err("a revision must follow before:".into()),
            Some(revision) => Ok(Selector::BeforeRevision(revision.into())),
            None => text.parse().map(Selector::Id).map_err(|_| {
                "expected a snapshot's id (such as 20261123T140312Z-k7q2mx), latest, latest-verified or before:REVISION".into()
            }),
        },
    }
}
