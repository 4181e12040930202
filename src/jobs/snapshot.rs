//! Takes one snapshot of one database.
//!
//! Comes in: a database, keys, an opened catalog. Goes out: a published manifest. Until the
//! manifest is written, the last of all, nothing of this exists for anybody; what an interrupted
//! run leaves is litter, which retention sweeps.

mod archives;
mod chunks;
mod restore_text;
mod tables;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use ed25519_dalek::SigningKey;
use sqlx::Connection as _;

use self::archives::Archives;
use self::chunks::ChunkShelf;
use self::tables::CopiedTable;
use super::{JobError, Progress, Stopwatch, until_stalled};
use crate::catalog::Catalog;
use crate::keys::ChunkKey;
use crate::postgres::PostgresError;
use crate::postgres::describe::{self, Sequence, Table};
use crate::postgres::rights;
use crate::postgres::session::{self, Keeper};
use crate::postgres::tools::Tools;
use crate::postgres::wal;
use crate::rules::layout::{self, SnapshotHome, SnapshotId};
use crate::rules::manifest::{self, Inventory, Manifest, ObjectRecord, Objects, SequenceRecord, TableRecord};
use crate::rules::wal::WindowStart;
use crate::seal::Sealer;
use crate::settings::{Connection, DatabaseSettings};
use crate::store::Parts;

/// What a snapshot is taken with.
pub struct Means<'a> {
    /// Where it goes.
    pub catalog: &'a Catalog,
    /// To whom it is sealed.
    pub sealer: &'a Sealer,
    /// Who signs it.
    pub signing: &'a SigningKey,
    /// Names its chunks.
    pub chunk_key: &'a ChunkKey,
    /// Where PostgreSQL's programs are looked for first.
    pub bin_directory: Option<&'a std::path::Path>,
    /// The search path for programs.
    pub path: &'a str,
    /// Told as bytes pass.
    pub progress: &'a Arc<Progress>,
}

/// A snapshot that was taken.
#[derive(Debug)]
pub struct Taken {
    /// Its manifest, as published.
    pub manifest: Manifest,
    /// Chunks that were stored by this run.
    pub chunks_new: u64,
    /// Chunks that were there already.
    pub chunks_reused: u64,
    /// Bytes that this run stored.
    pub new_stored_bytes: u64,
    /// What the role could not read and pg_dump left out without an error.
    pub notes: Vec<String>,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// Takes a snapshot of `database` and publishes it; `noise` makes its id unique.
///
/// # Errors
/// Everything that PostgreSQL, its programs, and the store can say; then nothing is listed.
pub async fn take(
    means: &Means<'_>,
    database: &DatabaseSettings,
    noise: u32,
    clock: fn() -> DateTime<Utc>,
) -> Result<Taken, JobError> {
    until_stalled(
        means.progress,
        database.stall_timeout,
        "take the snapshot",
        Box::pin(take_steadily(means, database, noise, clock)),
    )
    .await
}

async fn take_steadily(
    means: &Means<'_>,
    database: &DatabaseSettings,
    noise: u32,
    clock: fn() -> DateTime<Utc>,
) -> Result<Taken, JobError> {
    let watch = Stopwatch::start();
    means.catalog.check_writer(means.signing)?;
    means.progress.enter("opening the snapshot");
    let window_start = begin_window(&database.connection).await?;
    let mut keeper = Keeper::open(&database.connection, database.lock_timeout).await?;
    let taken_at = clock();
    let home = SnapshotHome {
        cluster: means.catalog.cluster().into(),
        database: database.connection.database.clone(),
        id: SnapshotId::new(taken_at, noise),
    };
    let facts = Facts::read(&mut keeper, means, taken_at, window_start).await;
    let facts = facts.map_err(|error| error.of_catalogs(&database.connection.database))?;
    let (large, small): (Vec<Table>, Vec<Table>) =
        facts.tables.iter().cloned().partition(|table| table.is_chunked(database.large_table_bytes));

    means.progress.enter("copying tables");
    means.progress.expect(facts.tables.iter().map(|table| table.disk_bytes).sum());
    let shelf = Arc::new(ChunkShelf::survey(means).await?);
    let (copied, archives) = futures::try_join!(
        tables::copy_all(means, database, &keeper.snapshot, &facts, &large, &small, &shelf),
        archives::dump_all(means, database, &keeper.snapshot, &facts, &home, &large),
    )?;

    means.progress.enter("finishing");
    let sequences = describe::sequences(&mut keeper.session).await?;
    let notes = rights::left_out(&mut keeper.session).await?.sentences();
    // A lost keeper would mean that workers read under different snapshots.
    keeper.close().await?;
    let inventory = facts.inventory(&home, copied, sequences, &archives);
    let sealed_inventory = store_inventory(means, &home, &inventory).await?;
    let mut manifest = facts.manifest(means, &home, &inventory, archives, sealed_inventory, &shelf, clock());
    let text = restore_text::restore_text(&manifest, &inventory);
    manifest.objects.restore_text = Some(ObjectRecord::of_unsealed(text.as_bytes()));
    means.catalog.store().put(&home.key(layout::RESTORE_TEXT), Parts::whole(text)).await?;
    means.catalog.publish(&manifest, means.signing).await?;

    let (chunks_new, chunks_reused, chunk_bytes) = shelf.counts();
    let own_bytes = [
        &manifest.objects.schema,
        &manifest.objects.data,
        &manifest.objects.globals,
        &manifest.objects.inventory,
    ];
    Ok(Taken {
        chunks_new,
        chunks_reused,
        new_stored_bytes: chunk_bytes + own_bytes.iter().map(|object| object.stored_bytes).sum::<u64>(),
        notes,
        elapsed_ms: watch.elapsed_ms(),
        manifest,
    })
}

/// Begins, before the snapshot, the window in which everything lies that it does not hold.
///
/// A standby numbers no transaction; a snapshot of one is none to migrate behind.
async fn begin_window(to: &Connection) -> Result<Option<WindowStart>, PostgresError> {
    let mut session = session::connect(to).await?;
    let begun = match session::is_standby(&mut session).await? {
        true => None,
        false => Some(wal::begin_window(&mut session).await?),
    };
    session.close().await.map_err(|error| PostgresError::of_query("begin the snapshot", error))?;
    Ok(begun)
}

/// What the keeper's session saw, before any data was read.
struct Facts {
    tools: Tools,
    version_num: u32,
    database_oid: u32,
    system_identifier: Option<String>,
    taken_at: DateTime<Utc>,
    window_start: Option<WindowStart>,
    lsn: String,
    visible_transactions: String,
    revisions: Vec<String>,
    properties: manifest::DatabaseProperties,
    extensions: Vec<manifest::Extension>,
    roles: Vec<String>,
    bootstrap_superuser: String,
    tablespaces: Vec<String>,
    tables: Vec<Table>,
    sequences: Vec<Sequence>,
    structures: Vec<String>,
    large_objects: Option<String>,
}

impl Facts {
    async fn read(
        keeper: &mut Keeper,
        means: &Means<'_>,
        taken_at: DateTime<Utc>,
        window_start: Option<WindowStart>,
    ) -> Result<Self, PostgresError> {
        let session = &mut keeper.session;
        let version_num = session::server_version_num(session).await?;
        let tools = Tools::find(means.bin_directory, means.path, version_num / 10_000).await?;
        let (database_oid, system_identifier) = describe::identity(session).await?;
        Ok(Self {
            tools,
            version_num,
            database_oid,
            system_identifier,
            taken_at,
            window_start,
            lsn: keeper.lsn.clone(),
            visible_transactions: keeper.visible_transactions.clone(),
            revisions: describe::revisions(session).await?,
            properties: describe::properties(session, version_num).await?,
            extensions: describe::extensions(session).await?,
            roles: describe::roles(session).await?,
            bootstrap_superuser: describe::bootstrap_superuser(session).await?,
            tablespaces: describe::tablespaces(session).await?,
            tables: describe::tables(session).await?,
            sequences: describe::sequences(session).await?,
            structures: describe::structures(session).await?,
            large_objects: describe::select_large_objects(session).await?,
        })
    }

    fn inventory(
        &self,
        home: &SnapshotHome,
        copied: tables::Copied,
        after: Vec<Sequence>,
        archives: &Archives,
    ) -> Inventory {
        let mut tables: Vec<TableRecord> = copied.tables.into_iter().map(CopiedTable::into_record).collect();
        tables.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
        let state_after = |before: &Sequence| {
            after
                .iter()
                .find(|s| s.schema == before.schema && s.name == before.name)
                .map_or(before.state, |s| s.state)
        };
        let sequences = self.sequences.iter().map(|before| SequenceRecord {
            schema: before.schema.clone(),
            name: before.name.clone(),
            before: before.state,
            after: state_after(before),
        });
        Inventory {
            format: manifest::FORMAT,
            id: home.id.clone(),
            properties: self.properties.clone(),
            sql: restore_text::database_sql(&self.properties, self.version_num),
            extensions: self.extensions.clone(),
            roles: self.roles.clone(),
            bootstrap_superuser: self.bootstrap_superuser.clone(),
            tablespaces: self.tablespaces.clone(),
            sequences: sequences.collect(),
            large_objects: copied.large_objects,
            structures: self.structures.clone(),
            schema_digest: archives.schema_digest,
            copy_encoding: self.properties.encoding.clone(),
            tables,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the manifest is where everything comes together")]
    fn manifest(
        &self,
        means: &Means<'_>,
        home: &SnapshotHome,
        inventory: &Inventory,
        archives: Archives,
        sealed_inventory: ObjectRecord,
        shelf: &ChunkShelf,
        finished_at: DateTime<Utc>,
    ) -> Manifest {
        let objects = Objects {
            schema: archives.schema,
            data: archives.data,
            globals: archives.globals,
            inventory: sealed_inventory,
            restore_text: None,
        };
        let chunks = shelf.used();
        let own = [&objects.schema, &objects.data, &objects.globals, &objects.inventory];
        let parts = || inventory.tables.iter().filter_map(|table| table.chunks.as_ref()).flatten();
        Manifest {
            format: manifest::FORMAT,
            id: home.id.clone(),
            repository: means.catalog.record().repository.clone(),
            cluster: home.cluster.clone(),
            system_identifier: self.system_identifier.clone(),
            database: home.database.clone(),
            database_oid: self.database_oid,
            taken_at: self.taken_at,
            finished_at,
            lsn: self.lsn.clone(),
            visible_transactions: self.visible_transactions.clone(),
            window_start: self.window_start,
            revisions: self.revisions.clone(),
            server_version_num: self.version_num,
            pg_dump_version: self.tools.version.clone(),
            belay_version: env!("CARGO_PKG_VERSION").into(),
            tables: inventory.tables.len() as u64,
            rows: inventory.tables.iter().map(|table| table.tally.rows).sum(),
            plain_bytes: own.iter().map(|o| o.plain_bytes).sum::<u64>()
                + parts().map(|p| p.plain_bytes).sum::<u64>(),
            stored_bytes: own.iter().map(|o| o.stored_bytes).sum::<u64>()
                + chunks.iter().map(|c| c.stored_bytes).sum::<u64>(),
            recipients: means.sealer.recipients(),
            objects,
            chunks,
        }
    }
}

async fn store_inventory(
    means: &Means<'_>,
    home: &SnapshotHome,
    inventory: &Inventory,
) -> Result<ObjectRecord, JobError> {
    let key = home.key(layout::INVENTORY);
    let json = serde_json::to_vec(inventory)
        .map_err(|source| crate::catalog::CatalogError::Write { key: key.to_string(), source })?;
    let sealer = means.sealer.clone();
    let (sealed, record) = super::blocking(move || sealer.seal(&json)).await?;
    means.catalog.store().put(&key, Parts::whole(sealed)).await?;
    Ok(record)
}
