//! Loads the tables that lie in chunks with several sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use sqlx::Connection as _;

use super::post_data::PostData;
use super::{Source, Target, heartbeat, statistics};
use crate::jobs::JobError;
use crate::postgres::PostgresError;
use crate::postgres::copy::CopyIn;
use crate::postgres::describe::copy_target;
use crate::postgres::session;
use crate::rules::manifest::{ChunkPart, Inventory, TableRecord};
use crate::rules::sql::{literal, qualified};

/// The tables that lie in chunks, with those.
pub(super) fn chunked(inventory: &Inventory) -> impl Iterator<Item = (&TableRecord, &Vec<ChunkPart>)> {
    inventory.tables.iter().filter_map(|table| Some((table, table.chunks.as_ref()?)))
}

/// A part of a table that one worker loads.
struct Load<'a> {
    table: &'a TableRecord,
    parts: &'a [ChunkPart],
    method: Method,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    /// One worker owns the table: rows may be written frozen, and need no second pass.
    Frozen,
    /// Several workers load one table, or one tree of partitions.
    Shared,
}

/// What was loaded from chunks.
#[derive(Default)]
pub(super) struct FromChunks {
    /// Rows that the server took, by table.
    pub(super) rows: BTreeMap<(String, String), u64>,
    /// Errors of pg_restore that were accepted.
    pub(super) accepted: Vec<String>,
    /// Tables whose columns' statistics were gathered.
    pub(super) analyzed: BTreeSet<(String, String)>,
}

/// Loads the large tables with several sessions, and builds their keys; one that is most of the
/// whole is shared.
pub(super) async fn load(
    source: &Source<'_>,
    inventory: &Inventory,
    target: &Target<'_>,
    post_data: &PostData<'_>,
) -> Result<FromChunks, JobError> {
    let loads = Mutex::new(divide(inventory, target.jobs));
    let encoding = literal(&inventory.copy_encoding);
    let done = Mutex::new(FromChunks::default());
    let left = AtomicUsize::new(loads.lock().unwrap_or_else(PoisonError::into_inner).len());
    let workers = (0..target.jobs).map(|_| async {
        let mut session = session::connect(target.connection).await?;
        loop {
            let next = loads.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(load) = next else { break };
            let taken = load_part(source, target, &mut session, &load, &encoding).await?;
            let TableRecord { schema, name, .. } = load.table;
            let is_last = left.fetch_sub(1, Ordering::Relaxed) == 1;
            let others_load = target.jobs > 1 && !is_last;
            let accepted = match load.method {
                Method::Frozen => post_data.build_keys(target, schema, name, others_load).await?,
                Method::Shared => Vec::new(),
            };
            // The statistics of the last one need not be waited for here: it can be compared meanwhile.
            let is_analyzed = load.method == Method::Frozen
                && !is_last
                && heartbeat(target.progress, statistics::gather_of(load.table, &mut session))
                    .await?
                    .is_none();
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            let name = (schema.clone(), name.clone());
            if is_analyzed {
                done.analyzed.insert(name.clone());
            }
            *done.rows.entry(name).or_default() += taken;
            done.accepted.extend(accepted);
        }
        session.close().await.map_err(|error| PostgresError::of_query("load a table", error))?;
        Ok::<_, JobError>(())
    });
    futures::future::try_join_all(workers).await?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Divides the work, the largest last (it is taken first).
fn divide(inventory: &Inventory, jobs: usize) -> Vec<Load<'_>> {
    let bytes_of = |parts: &[ChunkPart]| parts.iter().map(|part| part.plain_bytes).sum::<u64>();
    let total: u64 = chunked(inventory).map(|(_, parts)| bytes_of(parts)).sum();
    let mut loads = Vec::new();
    for (table, parts) in chunked(inventory) {
        let is_most = jobs > 1 && parts.len() >= jobs && bytes_of(parts) * jobs as u64 * 2 > total * 3;
        if is_most {
            let slice = parts.len().div_ceil(jobs);
            loads.extend(parts.chunks(slice).map(|parts| Load { table, parts, method: Method::Shared }));
        } else if table.loaded_through.is_some() {
            loads.push(Load { table, parts, method: Method::Shared });
        } else {
            loads.push(Load { table, parts, method: Method::Frozen });
        }
    }
    loads.sort_by_key(|load| bytes_of(load.parts));
    loads
}

async fn load_part(
    source: &Source<'_>,
    target: &Target<'_>,
    session: &mut sqlx::PgConnection,
    load: &Load<'_>,
    encoding: &str,
) -> Result<u64, JobError> {
    let table = load.table;
    let name = qualified(&table.schema, &table.name);
    let action = format!("load table {name}");
    let columns = match &table.loaded_through {
        Some(root) => copy_target(&root.schema, &root.name, &table.columns),
        None => copy_target(&table.schema, &table.name, &table.columns),
    };
    // FREEZE is allowed only in the transaction that truncated the table.
    let (begin, options) = match load.method {
        Method::Frozen => (format!("BEGIN; TRUNCATE ONLY {name}"), "FREEZE, "),
        Method::Shared => ("BEGIN".into(), ""),
    };
    session::run(session, &action, begin).await?;
    let statement = format!("COPY {columns} FROM STDIN WITH ({options}ENCODING {encoding})");
    let mut copy = CopyIn::start(session, &statement, &action).await?;
    let mut parts = load.parts.iter();
    let mut sending = match parts.next() {
        Some(part) => Some(source.chunk_text(part, Vec::new()).await?),
        None => None,
    };
    // One chunk is sent while the next is fetched and opened; two buffers are all that a worker has.
    let mut spare = Vec::new();
    while let Some(text) = sending {
        let fetching = async {
            match parts.next() {
                Some(part) => source.chunk_text(part, spare).await.map(Some),
                None => Ok(None),
            }
        };
        let send = async { Ok(copy.send(&text, |bytes| target.progress.advance(bytes)).await?) };
        let ((), fetched) = futures::try_join!(send, fetching)?;
        (spare, sending) = (text, fetched);
    }
    let rows = heartbeat(target.progress, copy.finish()).await?;
    session::run(session, &action, "COMMIT".into()).await?;
    Ok(rows)
}
