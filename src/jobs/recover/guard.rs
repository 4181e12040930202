//! Keeps a recovering server away from the tablespaces of the live one.
//!
//! A tablespace that was made after the base backup is made again by the log, at the directory that it had:
//! on the host of the live server the replayed writes would go into the live tablespace. So each segment is
//! looked through before the server gets it, and such a record is changed where that directory is not to be
//! written to: the tablespace then lies within the data directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::jobs::JobError;
use crate::rules::physical::Segment;
use crate::rules::tablespaces::Place;
use crate::rules::wal::tablespaces::{self, Made};

/// What the server may write to besides its data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Only the directories that the tablespaces of the base backup were given.
    Given,
    /// Directories where nothing is, too.
    Empty,
}

/// What is known of the log so far.
pub(super) struct Guard<'a> {
    reach: Reach,
    places: &'a [Place],
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Directories that were empty or missing, and are used from then on.
    taken: BTreeSet<(u32, String)>,
    /// The end and the beginning of each segment, as far as records go on there.
    edges: BTreeMap<Segment, (Vec<u8>, Vec<u8>)>,
}

impl<'a> Guard<'a> {
    pub(super) fn new(reach: Reach, places: &'a [Place]) -> Self {
        Self { reach, places, seen: Mutex::default() }
    }

    /// The bytes of a segment as the server may have them, where those are others than `plain`.
    pub(super) fn pass(&self, segment: Segment, mut plain: Vec<u8>) -> Result<Option<Vec<u8>>, JobError> {
        let mut is_changed = false;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = tablespaces::scan(&plain);
        for made in &found.made {
            if !self.allows(&mut seen, made) {
                made.put_in_place(&mut plain);
                is_changed = true;
            }
        }
        // A server takes two segments from us before it replays a record that lies in both.
        let last = |unfinished: &[u8], continued: &[u8]| tablespaces::across(unfinished, continued);
        let before = segment.number.checked_sub(1).map(|number| Segment { number, ..segment });
        let joined = [
            before.and_then(|before| last(&seen.edges.get(&before)?.0, &found.continued)),
            seen.edges.get(&segment.next()).and_then(|after| last(&found.unfinished, &after.1)),
        ];
        seen.edges.insert(segment, (found.unfinished, found.continued));
        for made in joined.into_iter().flatten() {
            if !self.allows(&mut seen, &made) {
                return Err(JobError::Refused {
                    action: format!("replay segment {segment} of the log"),
                    reasons: vec![format!(
                        "it makes a tablespace at {}, which is in use, and the record lies in two segments; a base backup that was made later does not need it",
                        made.location
                    )],
                });
            }
        }
        Ok(is_changed.then_some(plain))
    }

    /// Whether the server may make the tablespace where the log says.
    fn allows(&self, seen: &mut Seen, made: &Made) -> bool {
        if made.location.is_empty() {
            return true;
        }
        // Made before the base backup ended, and replayed again.
        if let Some(place) = self.places.iter().find(|place| place.tablespace.oid == made.oid) {
            return place.is_original() && place.tablespace.location == made.location;
        }
        let key = (made.oid, made.location.clone());
        let is_free = || self.reach == Reach::Empty && is_made_empty(Path::new(&made.location));
        if seen.taken.contains(&key) {
            return true;
        }
        let allows = is_free();
        if allows {
            seen.taken.insert(key);
        }
        allows
    }
}

/// Whether the directory is there and empty, or could be made.
fn is_made_empty(directory: &Path) -> bool {
    use std::os::unix::fs::DirBuilderExt as _;
    let is_made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).is_ok();
    is_made && std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}
