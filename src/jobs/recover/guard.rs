//! Keeps a recovering server away from the tablespaces of the live one.
//!
//! A tablespace that was made after the base backup is made again by the log, at the directory that it had:
//! on the host of the live server the replayed writes would go into the live tablespace. So each segment is
//! looked through before the server gets it, and such a record is changed where that directory is not to be
//! written to: the tablespace then lies within the data directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::jobs::{JobError, disk};
use crate::rules::physical::Segment;
use crate::rules::tablespaces::Place;
use crate::rules::wal::page::LONG_HEADER_BYTES;
use crate::rules::wal::tablespaces::{self, Made, Scan, Scanner};

/// Bytes that are read at a time.
const READ_BYTES: usize = 256 << 10;

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

    /// Changes the segment in the file at `path` to what the server may have.
    pub(super) fn pass(&self, segment: Segment, path: &Path) -> Result<(), JobError> {
        let failed = |source| disk("look through", path, source);
        let file = File::options().read(true).write(true).open(path).map_err(failed)?;
        let found = scan(&file).map_err(failed)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for made in &found.made {
            if !self.allows(&mut seen, made) {
                for (at, byte) in made.put_in_place() {
                    file.write_all_at(&[byte], at as u64).map_err(failed)?;
                }
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
        Ok(())
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

fn scan(file: &File) -> io::Result<Scan> {
    let mut head = [0; LONG_HEADER_BYTES];
    file.read_exact_at(&mut head, 0)?;
    let mut scanner = Scanner::default();
    if let Some(page_bytes) = tablespaces::page_bytes(&head) {
        let mut pages = BufReader::with_capacity(READ_BYTES, file);
        let mut page = vec![0; page_bytes];
        // Every segment is a whole number of pages.
        while pages.read_exact(&mut page).is_ok() && scanner.page(&page) {}
    }
    Ok(scanner.finish())
}

/// Whether the directory is there and empty, or could be made.
fn is_made_empty(directory: &Path) -> bool {
    use std::os::unix::fs::DirBuilderExt as _;
    let is_made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).is_ok();
    is_made && std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}
