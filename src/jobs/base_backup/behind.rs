//! Waits until the log behind a base backup is stored as far as makes it of use.

use std::time::Duration;

use super::Made;
use crate::catalog::Catalog;
use crate::jobs::Progress;
use crate::jobs::receive_wal::waiting::{KeptLog, NotStored, until_handed_over, until_received};
use crate::postgres::{session, wal};
use crate::rules::causes::in_a_sentence;
use crate::rules::physical::{PieceName, Segment};
use crate::rules::wal::Lsn;
use crate::settings::Connection;

/// How long the log may take to be stored.
const LONGEST: Duration = Duration::from_secs(30);
/// How long a segment may take that the server hands over by itself.
const UNASKED: Duration = Duration::from_secs(2);

/// Waits until `made` can be used, and notes in it why it cannot yet, if that is so.
pub async fn wait_until_usable(
    catalog: &Catalog,
    progress: &Progress,
    to: &Connection,
    log: KeptLog<'_>,
    made: &mut Made,
) {
    progress.enter("waiting until the log behind it is stored");
    progress.expect(0);
    let (timeline, stop) = (made.manifest.timeline, made.manifest.stop_lsn);
    let why = match log.is_received {
        true => until_received(log.state, timeline, stop, LONGEST).await.err().map(|error| in_words(&error)),
        false => why_not_handed_over(catalog, to, made).await,
    };
    made.unusable = why.map(|why| format!("it cannot be used before the log up to {stop} is stored; {why}"));
}

fn in_words(error: &NotStored) -> String {
    match error {
        NotStored::NobodyReceives => "nobody receives it: start `belay serve`, or `belay wal receive`".into(),
        NotStored::TooSlow { waited } => {
            format!("whoever receives it has not stored it within {} seconds", waited.as_secs())
        }
        NotStored::Unknown(why) => why.clone(),
    }
}

async fn why_not_handed_over(catalog: &Catalog, to: &Connection, made: &Made) -> Option<String> {
    let manifest = &made.manifest;
    // The log that is needed ends before that place.
    let last = Lsn(manifest.stop_lsn.0.saturating_sub(1));
    let segment = Segment::at(manifest.timeline, last, manifest.segment_bytes);
    let piece = PieceName::Segment(segment.to_string());
    let mut is_there = until_handed_over(catalog, &piece, UNASKED).await;
    if let Ok(false) = is_there {
        // A server where nothing is written would not end its segment for long; a role that may not ask for
        // that has to wait.
        if let Ok(mut session) = session::connect(&to.with_database(session::MAINTENANCE_DATABASE)).await {
            let _ = wal::end_segment(&mut session, manifest.stop_lsn).await;
        }
        is_there = until_handed_over(catalog, &piece, LONGEST).await;
    }
    match is_there {
        Ok(true) => None,
        Ok(false) => Some(format!(
            "the server did not hand over {piece} within {} seconds: its archive_command has to be `belay wal push %p`",
            LONGEST.as_secs()
        )),
        Err(error) => Some(in_a_sentence(&error)),
    }
}
