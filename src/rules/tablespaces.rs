//! Where tablespaces go when a cluster is recovered.
//!
//! Comes in: the tablespaces of a base backup, and what the operator maps. Goes out: a directory for
//! each, and the text of `tablespace_map`, by which the server makes its links. Reads nothing.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::physical::Tablespace;

/// The file in a base backup by which the server makes its links again.
pub const MAP_FILE: &str = "tablespace_map";
/// Where the links lie in a data directory.
pub const LINKS: &str = "pg_tblspc";

/// Another directory for a tablespace than it had: `OLD=NEW`, as pg_basebackup has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Where it was.
    pub old: PathBuf,
    /// Where it goes.
    pub new: PathBuf,
}

/// A text that maps no tablespace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be OLD=NEW, two absolute directories (`\\=` for an equals sign in one), not {0:?}")]
pub struct InvalidMapping(String);

impl FromStr for Mapping {
    type Err = InvalidMapping;

    fn from_str(text: &str) -> Result<Self, InvalidMapping> {
        let mut sides = vec![String::new()];
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            match (character, sides.last_mut()) {
                ('\\', Some(side)) if characters.peek() == Some(&'=') => side.extend(characters.next()),
                ('=', _) => sides.push(String::new()),
                (other, Some(side)) => side.push(other),
                (_, None) => {}
            }
        }
        // The server reads its map line by line.
        let is_right = |side: &String| side.starts_with('/') && !side.contains(['\n', '\r', '\\']);
        match sides.as_slice() {
            [old, new] if old.starts_with('/') && is_right(new) => {
                Ok(Self { old: trimmed(old), new: trimmed(new) })
            }
            _ => Err(InvalidMapping(text.into())),
        }
    }
}

/// Without slashes at the end and doubled ones; PostgreSQL keeps locations so.
fn trimmed(path: &str) -> PathBuf {
    Path::new(path).components().collect()
}

/// Where a tablespace goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The tablespace.
    pub tablespace: Tablespace,
    /// Its directory from now on.
    pub directory: PathBuf,
}

impl Place {
    /// Whether it is where it was.
    pub fn is_original(&self) -> bool {
        self.directory == Path::new(&self.tablespace.location)
    }
}

/// Mappings that fit no tablespace, or two that go to one directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// A mapping names a directory that no tablespace has.
    #[error("no tablespace of the base backup is at {}; there are: {there}", old.display())]
    Unknown {
        /// The directory.
        old: PathBuf,
        /// Those that there are.
        there: String,
    },
    /// Two directories of the recovered cluster are the same, or one lies in the other.
    #[error("{} and {} would be one directory, or one in the other", first.display(), second.display())]
    Twice {
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
}

/// Places `tablespaces` as `mappings` say, the others where they were; those within the data directory stay
/// in `data`.
///
/// # Errors
/// [`Misplaced`]
pub fn place(tablespaces: &[Tablespace], mappings: &[Mapping], data: &Path) -> Result<Vec<Place>, Misplaced> {
    let is_at = |tablespace: &Tablespace, old: &Path| trimmed(&tablespace.location) == old;
    for Mapping { old, .. } in mappings {
        if !tablespaces.iter().any(|tablespace| is_at(tablespace, old)) {
            let there: Vec<&str> =
                tablespaces.iter().map(|tablespace| tablespace.location.as_str()).collect();
            let there = if there.is_empty() { "none".into() } else { there.join(", ") };
            return Err(Misplaced::Unknown { old: old.clone(), there });
        }
    }
    let directory = |tablespace: &Tablespace| {
        // The last one counts, as with pg_basebackup.
        let mapped = mappings.iter().rev().find(|mapping| is_at(tablespace, &mapping.old));
        match mapped {
            Some(mapping) => mapping.new.clone(),
            None if tablespace.is_in_place() => link(data, tablespace.oid),
            None => tablespace.location.clone().into(),
        }
    };
    let places: Vec<Place> = tablespaces
        .iter()
        .map(|tablespace| Place { tablespace: tablespace.clone(), directory: directory(tablespace) })
        .collect();
    check_apart(&places, data)?;
    Ok(places)
}

/// Places them in directories of their own under `parent`, wherever they were: nothing outside of it is
/// written to.
pub fn place_under(tablespaces: &[Tablespace], parent: &Path, data: &Path) -> Vec<Place> {
    let directory = |tablespace: &Tablespace| match tablespace.is_in_place() {
        true => link(data, tablespace.oid),
        false => parent.join(tablespace.oid.to_string()),
    };
    let place =
        |tablespace: &Tablespace| Place { tablespace: tablespace.clone(), directory: directory(tablespace) };
    tablespaces.iter().map(place).collect()
}

/// Where the link of a tablespace lies.
pub fn link(data: &Path, oid: u32) -> PathBuf {
    data.join(LINKS).join(oid.to_string())
}

fn check_apart(places: &[Place], data: &Path) -> Result<(), Misplaced> {
    let linked = places.iter().filter(|place| !place.tablespace.is_in_place());
    // Where one lay in another, they did so on the live server too.
    let mut directories: Vec<(&Path, bool)> =
        linked.map(|place| (place.directory.as_path(), place.is_original())).collect();
    directories.push((data, false));
    directories.sort();
    let clash = directories.iter().enumerate().find_map(|(index, (first, is_original))| {
        let within = directories.iter().skip(index + 1).find(|(second, second_is_original)| {
            second.starts_with(first) && !(*is_original && *second_is_original)
        });
        within.map(|(second, _)| (first.to_path_buf(), second.to_path_buf()))
    });
    clash.map_or(Ok(()), |(first, second)| Err(Misplaced::Twice { first, second }))
}

/// The OIDs and directories in the text of a `tablespace_map`.
pub fn read_map(text: &str) -> Vec<(u32, String)> {
    let entry = |line: String| {
        let (oid, location) = line.split_once(' ')?;
        Some((oid.parse().ok()?, location.to_owned()))
    };
    lines(text).filter_map(entry).collect()
}

/// The lines without their escapes: a backslash before a line's end, or before one of its own.
fn lines(text: &str) -> impl Iterator<Item = String> {
    let mut lines = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, lines.last_mut()) {
            ('\\', Some(line)) => line.extend(characters.next()),
            ('\n' | '\r', _) => lines.push(String::new()),
            (other, Some(line)) => line.push(other),
            (_, None) => {}
        }
    }
    lines.into_iter().filter(|line| !line.is_empty())
}

/// The text of a `tablespace_map` that leads to `places`.
pub fn map_text(places: &[Place]) -> String {
    let linked = places.iter().filter(|place| !place.tablespace.is_in_place());
    let line = |place: &Place| {
        let mut escaped = String::new();
        for character in place.directory.to_string_lossy().chars() {
            if matches!(character, '\n' | '\r' | '\\') {
                escaped.push('\\');
            }
            escaped.push(character);
        }
        format!("{} {escaped}\n", place.tablespace.oid)
    };
    linked.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(oid: u32, location: &str) -> Tablespace {
        Tablespace { oid, name: format!("t{oid}"), location: location.into() }
    }

    #[test]
    fn mappings_are_written_as_for_pg_basebackup() {
        let mapping: Mapping = r"/a\=b/=/new//dir/".parse().unwrap();
        assert_eq!(mapping, Mapping { old: "/a=b".into(), new: "/new/dir".into() });
        for text in ["", "/a", "/a=", "=/b", "a=/b", "/a=b", "/a=/b=/c", "/a=/b\n1 /etc"] {
            assert!(text.parse::<Mapping>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_mapping_moves_its_tablespace_and_no_other() {
        let both = [at(1, "/fast"), at(2, "/slow")];
        let mapped = place(&both, &["/fast=/new".parse().unwrap()], Path::new("/data")).unwrap();
        assert_eq!(mapped[0].directory, Path::new("/new"));
        assert!(mapped[1].is_original());
        let unknown = place(&both, &["/fats=/new".parse().unwrap()], Path::new("/data")).unwrap_err();
        assert!(unknown.to_string().ends_with("there are: /fast, /slow"), "{unknown}");
    }

    #[test]
    fn no_two_directories_of_a_cluster_are_one() {
        let both = [at(1, "/fast"), at(2, "/slow")];
        for mapping in ["/fast=/slow", "/fast=/slow/x", "/slow=/data", "/slow=/data/x", "/slow=/"] {
            let placed = place(&both, &[mapping.parse().unwrap()], Path::new("/data"));
            assert!(matches!(placed, Err(Misplaced::Twice { .. })), "{mapping}: {placed:?}");
        }
        assert!(place(&[at(1, "pg_tblspc/1")], &[], Path::new("/data")).is_ok());
    }

    #[test]
    fn beside_a_scratch_cluster_none_is_where_it_was() {
        let placed =
            place_under(&[at(1, "/fast"), at(2, "pg_tblspc/2")], Path::new("/s/t"), Path::new("/s/data"));
        assert_eq!(placed[0].directory, Path::new("/s/t/1"));
        assert_eq!(placed[1].directory, Path::new("/s/data/pg_tblspc/2"));
    }

    #[test]
    fn a_map_reads_back() {
        let places = place(&[at(16_384, "/a b"), at(7, "/x\ny\\z")], &[], Path::new("/data")).unwrap();
        let text = map_text(&places);
        assert_eq!(text, "16384 /a b\n7 /x\\\ny\\\\z\n");
        assert_eq!(read_map(&text), [(16_384, "/a b".into()), (7, "/x\ny\\z".into())]);
    }
}
