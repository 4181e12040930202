//! Copies the rows of every table in the keeper's snapshot: large ones in chunks, small ones only
//! to be digested (their rows are in `data.dump`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::try_join_all;
use sqlx::postgres::PgConnection;
use tokio::task::JoinHandle;

use super::chunks::ChunkShelf;
use super::{Facts, Means};
use crate::jobs::{JobError, Progress};
use crate::postgres::copy::{CopyOut, CopyState};
use crate::postgres::describe::{Table, TableLayout};
use crate::postgres::session;
use crate::rules::digest::RowTally;
use crate::rules::manifest::{ChunkPart, TableRecord};
use crate::settings::DatabaseSettings;

/// PostgreSQL's page, unless it was built with another.
const PAGE_BYTES: u64 = 8192;
/// TID range scans exist from here on; before, a range of pages would read the whole table.
const TID_RANGES_SINCE: u32 = 140_000;

/// A table whose rows were read.
pub struct CopiedTable {
    table: Table,
    tally: RowTally,
    chunks: Option<Vec<ChunkPart>>,
}

impl CopiedTable {
    /// The table as the inventory has it.
    pub fn into_record(self) -> TableRecord {
        TableRecord {
            schema: self.table.schema,
            name: self.table.name,
            columns: self.table.columns,
            types: self.table.types,
            condition: self.table.condition,
            loaded_through: self.table.loaded_through,
            tally: self.tally,
            chunks: self.chunks,
        }
    }
}

/// Everything that was read.
pub struct Copied {
    pub tables: Vec<CopiedTable>,
    pub large_objects: Option<RowTally>,
}

/// One COPY of a worker.
enum Task {
    Range { table: usize, ordinal: u64, select: String },
    Digest { table: usize, select: String },
    LargeObjects { select: String },
}

/// Where a chunk stands in its table: ordinal of the range, ordinal within the range.
type Place = (u64, u64);

#[derive(Default)]
struct Results {
    parts: Vec<(usize, Place, ChunkPart)>,
    digests: Vec<(usize, RowTally)>,
    large_objects: Option<RowTally>,
}

/// Reads all tables with the database's number of jobs, each in a session of its own.
pub async fn copy_all(
    means: &Means<'_>,
    database: &DatabaseSettings,
    snapshot: &str,
    facts: &Facts,
    large: &[Table],
    small: &[Table],
    shelf: &Arc<ChunkShelf>,
) -> Result<Copied, JobError> {
    let tasks = Mutex::new(plan(database, facts, large, small));
    let results = Mutex::new(Results::default());
    let workers = (0..database.jobs).map(|_| async {
        let mut session =
            session::join_snapshot(&database.connection, snapshot, database.lock_timeout).await?;
        let mut copier = Copier {
            shelf,
            progress: means.progress,
            encoding: &facts.properties.encoding,
            large,
            small,
            results: &results,
            chunk_bytes: database.chunk_bytes,
            spare: Vec::new(),
            sealing: None,
        };
        loop {
            let next = tasks.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(task) = next else { return copier.finish_sealing().await };
            copier.carry_out(&mut session, task).await?;
        }
    });
    try_join_all(workers).await?;
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(collect(large, small, results))
}

fn plan(database: &DatabaseSettings, facts: &Facts, large: &[Table], small: &[Table]) -> VecDeque<Task> {
    let mut tasks = VecDeque::new();
    for (index, table) in large.iter().enumerate() {
        for (ordinal, select) in
            range_selects(table, facts.version_num, database.chunk_bytes).into_iter().enumerate()
        {
            tasks.push_back(Task::Range { table: index, ordinal: ordinal as u64, select });
        }
    }
    tasks.extend(small.iter().enumerate().map(|(table, t)| Task::Digest { table, select: t.select() }));
    tasks.extend(facts.large_objects.iter().map(|select| Task::LargeObjects { select: select.clone() }));
    tasks
}

/// The SELECTs that together read every row of `table` once.
///
/// Ranges are of a power of two of pages and start at multiples of it, so that they are the same
/// in the next snapshot while the table grows at its end.
fn range_selects(table: &Table, version_num: u32, chunk_bytes: usize) -> Vec<String> {
    let whole = table.select();
    if version_num < TID_RANGES_SINCE || table.heap_pages == 0 || table.layout == TableLayout::Whole {
        return vec![whole];
    }
    let bytes_per_page = (table.disk_bytes / table.heap_pages).max(PAGE_BYTES);
    let pages = (chunk_bytes as u64 / bytes_per_page).max(1);
    // The nearest power of two, so that a little TOAST more or less does not halve the ranges.
    let step = 1u64 << (pages + pages / 2).ilog2();
    let starts: Vec<u64> =
        (0..table.heap_pages).step_by(usize::try_from(step).unwrap_or(usize::MAX)).collect();
    let last = starts.last().copied().unwrap_or_default();
    let select = |start: &u64| match *start {
        // The table may grow while we read: the last range is open at its end.
        start if start == last => format!("{whole} WHERE ctid >= '({start},0)'"),
        start => format!("{whole} WHERE ctid >= '({start},0)' AND ctid < '({},0)'", start + step),
    };
    starts.iter().map(select).collect()
}

struct Copier<'a> {
    shelf: &'a Arc<ChunkShelf>,
    progress: &'a Arc<Progress>,
    encoding: &'a str,
    large: &'a [Table],
    small: &'a [Table],
    results: &'a Mutex<Results>,
    chunk_bytes: usize,
    spare: Vec<u8>,
    sealing: Option<Sealing>,
}

/// What is being done, as errors name it.
fn copying(table: Option<&Table>) -> String {
    format!("copy table {}", table.map(Table::qualified).unwrap_or_default())
}

/// The chunk that is being sealed while the next one fills.
struct Sealing {
    table: usize,
    place: Place,
    task: JoinHandle<Result<(ChunkPart, Vec<u8>), JobError>>,
}

impl Copier<'_> {
    async fn carry_out(&mut self, session: &mut PgConnection, task: Task) -> Result<(), JobError> {
        match task {
            Task::Range { table, ordinal, select } => {
                self.store_rows(session, table, ordinal, &select).await?
            }
            Task::Digest { table, select } => {
                let tally = self.digest_rows(session, &select, &copying(self.small.get(table))).await?;
                self.results().digests.push((table, tally));
            }
            Task::LargeObjects { select } => {
                let tally = self.digest_rows(session, &select, "read large objects").await?;
                self.results().large_objects = Some(tally);
            }
        }
        Ok(())
    }

    fn results(&self) -> MutexGuard<'_, Results> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn store_rows(
        &mut self,
        session: &mut PgConnection,
        table: usize,
        ordinal: u64,
        select: &str,
    ) -> Result<(), JobError> {
        let action = copying(self.large.get(table));
        let mut copy = CopyOut::start(session, select, self.encoding, &action).await?;
        for piece in 0.. {
            let mut text = std::mem::take(&mut self.spare);
            text.reserve(self.chunk_bytes);
            let state = copy.fill(&mut text, self.chunk_bytes, |bytes| self.progress.advance(bytes)).await?;
            self.finish_sealing().await?;
            if text.is_empty() {
                self.spare = text;
            } else {
                let shelf = Arc::clone(self.shelf);
                let task = tokio::spawn(async move { shelf.place(text).await });
                self.sealing = Some(Sealing { table, place: (ordinal, piece), task });
            }
            if state == CopyState::End {
                break;
            }
        }
        Ok(())
    }

    async fn finish_sealing(&mut self) -> Result<(), JobError> {
        if let Some(sealing) = self.sealing.take() {
            let (part, buffer) = sealing.task.await.map_err(JobError::Panicked)??;
            self.spare = buffer;
            self.progress.beat();
            self.results().parts.push((sealing.table, sealing.place, part));
        }
        Ok(())
    }

    async fn digest_rows(
        &self,
        session: &mut PgConnection,
        select: &str,
        action: &str,
    ) -> Result<RowTally, JobError> {
        let copy = CopyOut::start(session, select, self.encoding, action).await?;
        Ok(copy.tally(|bytes| self.progress.advance(bytes)).await?)
    }
}

fn collect(large: &[Table], small: &[Table], mut results: Results) -> Copied {
    results.parts.sort_by_key(|(table, place, _)| (*table, *place));
    let chunked = large.iter().enumerate().map(|(index, table)| {
        let parts: Vec<ChunkPart> =
            results.parts.iter().filter(|(of, _, _)| *of == index).map(|(_, _, part)| part.clone()).collect();
        let mut tally = RowTally::default();
        parts.iter().for_each(|part| tally.add(part.tally));
        CopiedTable { table: table.clone(), tally, chunks: Some(parts) }
    });
    let mut tables: Vec<CopiedTable> = chunked.collect();
    tables.extend(results.digests.iter().filter_map(|(index, tally)| {
        Some(CopiedTable { table: small.get(*index)?.clone(), tally: *tally, chunks: None })
    }));
    Copied { tables, large_objects: results.large_objects }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table_of(heap_pages: u64, disk_bytes: u64) -> Table {
        let (schema, name, columns) = ("s".into(), "t".into(), vec!["a".into()]);
        Table {
            schema,
            name,
            pattern: Vec::new(),
            columns,
            types: Vec::new(),
            heap_pages,
            disk_bytes,
            condition: None,
            loaded_through: None,
            layout: TableLayout::Heap,
        }
    }

    #[test]
    fn ranges_meet_and_stay_when_the_table_grows() {
        let few = range_selects(&table_of(5_000, 5_000 * 8192), 150_000, 16 << 20);
        let more = range_selects(&table_of(9_000, 9_000 * 8192), 150_000, 16 << 20);
        assert_eq!(few.len(), 3);
        assert_eq!(few[0], r#"SELECT "a" FROM ONLY "s"."t"  WHERE ctid >= '(0,0)' AND ctid < '(2048,0)'"#);
        assert_eq!(few[2], r#"SELECT "a" FROM ONLY "s"."t"  WHERE ctid >= '(4096,0)'"#);
        assert_eq!(few[..2], more[..2]);
    }

    #[test]
    fn a_little_toast_changes_no_range() {
        let none = range_selects(&table_of(5_000, 5_000 * 8192), 150_000, 16 << 20);
        let some = range_selects(&table_of(5_000, 5_000 * 8900), 150_000, 16 << 20);
        assert_eq!(none, some);
    }

    #[test]
    fn toasted_tables_have_shorter_ranges_and_old_servers_none() {
        assert_eq!(range_selects(&table_of(1_000, 1_000 * 65_536), 150_000, 16 << 20).len(), 4);
        assert_eq!(range_selects(&table_of(5_000, 5_000 * 8192), 130_000, 16 << 20).len(), 1);
        assert_eq!(range_selects(&table_of(0, 8192), 150_000, 16 << 20).len(), 1);
    }
}
