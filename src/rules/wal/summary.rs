//! Says in names and in words what a window's commits wrote.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Commit, Lsn, Window};

/// What a relfilenode belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// `schema.name`, quoted where SQL would need it.
    pub name: String,
    /// What writing to it means.
    pub kind: RelationKind,
}

/// What writing to a relation means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationKind {
    /// Rows of users: tables, partitions, materialized views, large objects.
    Table,
    /// A sequence.
    Sequence,
    /// The schema.
    Catalog,
    /// What ANALYZE finds out: writing it changes nothing.
    Statistics,
    /// Long values of rows that are counted at their table.
    Toast,
}

/// The name of a relation that the database does not have any more.
pub const GONE: &str = "a relation that is gone";
/// How many tables a sentence names.
const NAMED_TABLES: usize = 5;

/// What one transaction wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommitSummary {
    /// The transaction, without its epoch.
    pub xid: u32,
    /// Where its commit record begins.
    pub lsn: Lsn,
    /// When, by the server's clock.
    pub committed_at: Option<DateTime<Utc>>,
    /// It was committed by a session of the run; see [`Commit::is_marked`].
    pub is_marked: bool,
    /// Rows inserted, updated and deleted, by table; [`GONE`] gathers what has no name any more.
    pub rows: BTreeMap<String, u64>,
    /// It changed the schema, rights, or other entries of the catalogs. Temporary tables do too.
    pub has_catalog_writes: bool,
    /// Sequences that it advanced or set.
    pub sequences: BTreeSet<String>,
}

/// Names what each commit wrote; commits that wrote statistics alone are left out.
///
/// `relations` is by relfilenode. A relation that was rewritten since has another one, so what was
/// written to it before counts as written to [`GONE`].
pub fn summarize(window: &Window, relations: &BTreeMap<u32, Relation>) -> Vec<CommitSummary> {
    window.commits.iter().filter_map(|commit| summary_of(commit, relations)).collect()
}

fn summary_of(commit: &Commit, relations: &BTreeMap<u32, Relation>) -> Option<CommitSummary> {
    let name = |relation: Option<&Relation>| relation.map_or_else(|| GONE.into(), |known| known.name.clone());
    let mut summary = CommitSummary {
        xid: commit.xid,
        lsn: commit.lsn,
        committed_at: commit.committed_at,
        is_marked: commit.is_marked,
        rows: BTreeMap::new(),
        has_catalog_writes: false,
        sequences: commit.sequences.iter().map(|node| name(relations.get(node))).collect(),
    };
    let mut is_write = !commit.sequences.is_empty();
    for (relfilenode, rows) in &commit.rows {
        let relation = relations.get(relfilenode);
        let kind = relation.map_or(RelationKind::Table, |known| known.kind);
        is_write |= kind != RelationKind::Statistics;
        match kind {
            RelationKind::Table => *summary.rows.entry(name(relation)).or_default() += rows,
            RelationKind::Catalog => summary.has_catalog_writes = true,
            RelationKind::Sequence => {
                summary.sequences.insert(name(relation));
            }
            RelationKind::Statistics | RelationKind::Toast => {}
        }
    }
    is_write.then_some(summary)
}

/// `3 transactions (412 rows in public.orders, 1 in public.users)`; tables with most rows first.
pub fn in_words(commits: &[CommitSummary]) -> String {
    let mut facts = rows_in_words(commits);
    if commits.iter().any(|commit| commit.has_catalog_writes) {
        facts.push("changes of the schema".into());
    }
    let sequences: BTreeSet<&String> = commits.iter().flat_map(|commit| &commit.sequences).collect();
    match (sequences.first(), sequences.len()) {
        (_, 0) => {}
        (Some(only), 1) if *only != GONE => facts.push(format!("sequence {only} moved")),
        (_, 1) => facts.push("1 sequence moved".into()),
        (_, several) => facts.push(format!("{several} sequences moved")),
    }
    let transactions = match commits.len() {
        0 => return "no transactions".into(),
        1 => "1 transaction".to_owned(),
        several => format!("{several} transactions"),
    };
    if facts.is_empty() { transactions } else { format!("{transactions} ({})", facts.join(", ")) }
}

fn rows_in_words(commits: &[CommitSummary]) -> Vec<String> {
    let mut by_table: BTreeMap<&String, u64> = BTreeMap::new();
    for (table, rows) in commits.iter().flat_map(|commit| &commit.rows) {
        *by_table.entry(table).or_default() += rows;
    }
    let mut tables: Vec<_> = by_table.into_iter().collect();
    tables.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
    let others = tables.split_off(tables.len().min(NAMED_TABLES));
    let mut words: Vec<String> = tables
        .iter()
        .enumerate()
        .map(|(at, (table, rows))| match (at, rows) {
            (0, 1) => format!("1 row in {table}"),
            (0, rows) => format!("{rows} rows in {table}"),
            (_, rows) => format!("{rows} in {table}"),
        })
        .collect();
    if !others.is_empty() {
        let rows: u64 = others.iter().map(|(_, rows)| rows).sum();
        words.push(format!("{rows} in {} other tables", others.len()));
    }
    words
}
