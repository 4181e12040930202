//! How an operator names a table, and which table of an inventory is meant.
//!
//! `schema.table` is split at the first dot; a part that begins with a double quote ends at the
//! next single one, and may hold dots. Nothing is folded to lower case. A bare name means the table
//! in `public`, and where that has none, the only table of that name.

use std::fmt;
use std::str::FromStr;

use super::manifest::TableRecord;

/// How alike a name must be to be offered instead (Jaro-Winkler, 0 to 1).
const LIKENESS: f64 = 0.8;
/// How many names are offered.
const OFFERED: usize = 5;

/// A table as an operator writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// Its schema, when it was given.
    pub schema: Option<String>,
    /// Its name.
    pub name: String,
}

/// A text that names no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not TABLE or SCHEMA.TABLE, with double quotes around a part that has a dot")]
pub struct InvalidTableName(String);

/// Why a name means none of a snapshot's tables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableNotFound {
    /// There is none of that name.
    #[error(
        "find table {wanted}: the snapshot has no rows of such a table{}",
        listed("; the nearest names are", nearest)
    )]
    Missing {
        /// As it was asked for.
        wanted: TableName,
        /// Tables that are called like it, the most alike first.
        nearest: Vec<String>,
    },
    /// Several schemas have one.
    #[error("find table {wanted}: there are several{}", listed(", in full", candidates))]
    Ambiguous {
        /// As it was asked for.
        wanted: TableName,
        /// All of them, with their schemas.
        candidates: Vec<String>,
    },
}

fn listed(before: &str, names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("{before} {}", names.join(", ")) }
}

impl FromStr for TableName {
    type Err = InvalidTableName;

    fn from_str(text: &str) -> Result<Self, InvalidTableName> {
        let invalid = || InvalidTableName(text.into());
        let (first, rest) = first_part(text).ok_or_else(invalid)?;
        let Some(rest) = rest else { return Ok(Self { schema: None, name: first }) };
        let name = match rest.starts_with('"') {
            true => match first_part(rest).ok_or_else(invalid)? {
                (name, None) => name,
                (_, Some(_)) => return Err(invalid()),
            },
            false if rest.is_empty() => return Err(invalid()),
            false => rest.to_owned(),
        };
        Ok(Self { schema: Some(first), name })
    }
}

/// The part before the first dot that is not quoted, and what follows that dot.
fn first_part(text: &str) -> Option<(String, Option<&str>)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (part, rest) = text.split_once('.').map_or((text, None), |(part, rest)| (part, Some(rest)));
        return (!part.is_empty()).then(|| (part.to_owned(), rest));
    };
    let mut part = String::new();
    let mut rest = quoted;
    loop {
        let (piece, tail) = rest.split_once('"')?;
        part.push_str(piece);
        match tail.strip_prefix('"') {
            Some(tail) => {
                part.push('"');
                rest = tail;
            }
            None if part.is_empty() => return None,
            None if tail.is_empty() => return Some((part, None)),
            None => return tail.strip_prefix('.').map(|rest| (part, Some(rest))),
        }
    }
}

/// Writes a table so that it reads back as the same [`TableName`].
pub fn shown(schema: &str, name: &str) -> String {
    format!("{}.{}", shown_part(schema), shown_part(name))
}

fn shown_part(part: &str) -> String {
    let is_plain = !part.is_empty() && !part.contains(|c: char| matches!(c, '.' | '"') || c.is_control());
    if is_plain { part.to_owned() } else { super::sql::quoted(part) }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => f.write_str(&shown(schema, &self.name)),
            None => f.write_str(&shown_part(&self.name)),
        }
    }
}

/// Finds the table of an inventory that `wanted` means.
///
/// # Errors
/// [`TableNotFound`], with the names that were perhaps meant.
pub fn find<'a>(wanted: &TableName, tables: &'a [TableRecord]) -> Result<&'a TableRecord, TableNotFound> {
    let is_meant = |table: &&TableRecord| {
        table.name == wanted.name && wanted.schema.as_ref().is_none_or(|schema| *schema == table.schema)
    };
    let found: Vec<&TableRecord> = tables.iter().filter(is_meant).collect();
    let in_public = found.iter().find(|table| wanted.schema.is_none() && table.schema == "public");
    if let Some(table) = in_public {
        return Ok(table);
    }
    match found.as_slice() {
        [table] => Ok(table),

        [] => Err(TableNotFound::Missing { wanted: wanted.clone(), nearest: nearest(wanted, tables) }),
        several => {
            let candidates = several.iter().map(|table| shown(&table.schema, &table.name)).collect();
            Err(TableNotFound::Ambiguous { wanted: wanted.clone(), candidates })
        }
    }
}

/// Partitions are usually called like their parent, with something behind: those come first.
fn nearest(wanted: &TableName, tables: &[TableRecord]) -> Vec<String> {
    let likeness = |table: &TableRecord| {
        let begins_so = table.name.starts_with(wanted.name.as_str());
        let of_schema = wanted.schema.as_ref().is_none_or(|schema| *schema == table.schema);
        let (wanted, name) = (wanted.name.to_lowercase(), table.name.to_lowercase());
        let name_likeness = strsim::jaro_winkler(&wanted, &name);
        name_likeness + if begins_so { 1.0 } else { 0.0 } + if of_schema { 0.01 } else { 0.0 }
    };
    let mut alike: Vec<(f64, &TableRecord)> = tables.iter().map(|table| (likeness(table), table)).collect();
    alike.retain(|(likeness, _)| *likeness >= LIKENESS);
    alike.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    alike.iter().take(OFFERED).map(|(_, table)| shown(&table.schema, &table.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::digest::RowTally;
    use proptest::prelude::*;

    fn name(schema: Option<&str>, name: &str) -> TableName {
        TableName { schema: schema.map(Into::into), name: name.into() }
    }

    fn table(schema: &str, name: &str) -> TableRecord {
        TableRecord {
            schema: schema.into(),
            name: name.into(),
            columns: Vec::new(),
            types: Vec::new(),
            condition: None,
            loaded_through: None,
            tally: RowTally::default(),
            chunks: None,
        }
    }

    #[test]
    fn names_split_at_the_first_dot_outside_quotes() {
        assert_eq!("orders".parse(), Ok(name(None, "orders")));
        assert_eq!("sales.orders".parse(), Ok(name(Some("sales"), "orders")));
        assert_eq!("sales.a.b".parse(), Ok(name(Some("sales"), "a.b")));
        assert_eq!(r#""Odd.Schema"."T""#.parse(), Ok(name(Some("Odd.Schema"), "T")));
        assert_eq!(r#""a""b".c"#.parse(), Ok(name(Some("a\"b"), "c")));
        assert_eq!(r#""a.b""#.parse(), Ok(name(None, "a.b")));
    }

    #[test]
    fn texts_that_name_no_table_are_refused() {
        for text in ["", ".", ".t", "s.", "\"\"", "\"open", "\"a\"b", "s.\"t\".u", "s.\"t"] {
            assert!(text.parse::<TableName>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_as_shown_reads_back(schema in "[a.\" \n]{1,4}", table in "[b.\" \n]{1,4}") {
            prop_assert_eq!(shown(&schema, &table).parse(), Ok(name(Some(&schema), &table)));
        }
    }

    #[test]
    fn a_bare_name_means_public_or_the_only_table_of_that_name() {
        let tables = [
            table("public", "a"),
            table("sales", "orders"),
            table("public", "b"),
            table("sales", "b"),
            table("x", "orders"),
        ];
        assert_eq!(find(&name(None, "b"), &tables).unwrap().schema, "public");
        assert_eq!(find(&name(Some("sales"), "b"), &tables).unwrap().schema, "sales");
        assert_eq!(
            find(&name(None, "orders"), &tables).unwrap_err().to_string(),
            "find table orders: there are several, in full sales.orders, x.orders"
        );
    }

    #[test]
    fn a_partitioned_table_is_answered_with_its_partitions() {
        let tables = [table("public", "evens"), table("public", "events_2026_01"), table("public", "zebra")];
        assert_eq!(
            find(&name(Some("public"), "events"), &tables).unwrap_err().to_string(),
            "find table public.events: the snapshot has no rows of such a table; \
             the nearest names are public.events_2026_01, public.evens"
        );
    }
}
