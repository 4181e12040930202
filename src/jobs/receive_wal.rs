//! Receives the write-ahead log and stores it, for as long as it is let.
//!
//! Comes in: a connection, keys, a spool directory. Goes out: pieces of the log in the store. A
//! `pg_receivewal` writes the log into the spool; each whole segment is stored and leaves the spool, and
//! of the one that is being written what is new is stored again and again.
//!
//! The server keeps its log by a slot that nobody streams from. It is moved over what is *stored*, not
//! over what was received: a host that is lost with its spool loses nothing that is not received again.
//!
//! A server that was recovered writes another timeline. Its slot is made anew, and what the spool has of
//! the timeline before is stored first. A server of another cluster is refused before anything is stored.
//!
//! The server comes before its backup: when it has to keep too much, the slot goes (`fuse`). Then log is
//! missing, which everybody can see from what is stored, and a new base backup is due.

mod alone;
mod fuse;
pub mod noted;
mod shipping;
mod spool;
pub mod waiting;
mod watch;

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::shipping::Shipping;
use self::spool::Origin;
use self::watch::Watch;
use super::JobError;
use crate::catalog::Catalog;
use crate::postgres::replication::{self, ClusterFacts};
use crate::postgres::tools::{RunningTool, Streams, Tools};
use crate::postgres::{PostgresError, session};
use crate::rules::causes::in_a_sentence;
use crate::rules::layout;
use crate::rules::physical::Segment;
use crate::rules::wal::Lsn;
use crate::seal::Sealer;
use crate::settings::Connection;

/// How often the spool is looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

const NOT_ALL: &str = "not all that was received is stored";

/// What the log is received with.
pub struct Means<'a> {
    /// Where it goes.
    pub catalog: &'a Catalog,
    /// To whom it is sealed.
    pub sealer: &'a Sealer,
    /// Who signs it.
    pub signing: &'a SigningKey,
    /// Where PostgreSQL's programs are looked for first.
    pub bin_directory: Option<&'a Path>,
    /// The search path for programs.
    pub path: &'a str,
    /// Where the locks of this host lie.
    pub state: &'a Path,
    /// Where it is received: a directory of this alone, made if it is missing.
    pub spool: &'a Path,
    /// Name of the slot.
    pub slot: &'a str,
    /// How old the newest stored byte may become while there is log to store.
    pub ship_every: Duration,
    /// Up to where somebody wants it stored at once.
    pub wanted: &'a (dyn Fn() -> Option<Lsn> + Sync),
    /// Bytes of received segments that may wait for the store before no more are received.
    pub spool_bytes: u64,
    /// Bytes of log that the server may have to keep for us.
    pub keep_bytes: u64,
    /// Hears how long the store has been waited for, again and again while it is.
    pub on_wait: &'a (dyn Fn(Duration) + Sync),
    /// How far the log is stored, as it was noted last.
    pub noted: Option<Shipped>,
}

/// How far the log is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipped {
    /// The timeline.
    pub timeline: u32,
    /// Everything before this is stored.
    pub until: Lsn,
    /// Everything that was committed until then is stored, by the server's clock.
    pub complete_until: DateTime<Utc>,
    /// Bytes of log that the server keeps for us.
    pub kept_bytes: u64,
    /// Since then nothing of the log is missing: a base backup from before is of no use for what came later.
    pub unbroken_since: DateTime<Utc>,
}

/// Receives and stores until `stop` comes, then stores what is in the spool and ends.
///
/// `on_shipped` hears of every step, and of `None` when what it heard before counts no more. What was received and not stored stays in the spool for the next
/// time, and the server has it still.
///
/// # Errors
/// What PostgreSQL, its programs, the store or the spool's disk say. Nothing is lost by beginning again.
pub async fn receive(
    means: &Means<'_>,
    to: &Connection,
    stop: &CancellationToken,
    clock: fn() -> DateTime<Utc>,
    on_shipped: impl Fn(Option<Shipped>),
) -> Result<(), JobError> {
    means.catalog.check_writer(means.signing)?;
    let mut session = match session::connect(&to.with_database(session::MAINTENANCE_DATABASE)).await {
        Ok(session) => session,
        Err(error) => {
            match alone::ship(means, clock).await {
                Ok(shipped) => shipped.into_iter().for_each(|shipped| on_shipped(Some(shipped))),
                Err(error) => tracing::warn!(error = in_a_sentence(&error), "{NOT_ALL}"),
            }
            return Err(error.into());
        }
    };
    let facts = identified(&mut session).await?;
    let origin = Origin {
        system_identifier: facts.system_identifier.clone(),
        segment_bytes: facts.segment_bytes,
        timeline: facts.timeline,
    };
    let tools = Tools::find(means.bin_directory, means.path, facts.version_num / 10_000).await?;
    // Of this run alone: a receiver of another may have written into another spool.
    let name = format!("belay_wal_{}", layout::tail(rand::random()));
    let mut watch = Watch { session, means, facts: &facts, name: &name, receiver: None };
    // Before the store is asked for anything: it may be away, and the server full.
    watch.look().await?;
    let mut shipping = watch.over(Shipping::open(means, &origin, clock)).await?;
    let (begin, is_broken) = begin(&mut watch.session, means, &on_shipped).await?;
    let mark = watch.look().await?;
    watch.over(shipping.settle_other_timelines()).await?;
    shipping.begin_at(Segment::at(facts.timeline, begin, facts.segment_bytes))?;
    let unbroken_since = means.noted.filter(|_| !is_broken).map_or(mark.at, |noted| noted.unbroken_since);
    let on_shipped = |shipped: Shipped| on_shipped(Some(Shipped { unbroken_since, ..shipped }));
    let start = || {
        let command = replication::receive_wal(&tools, to, means.spool, &name);
        RunningTool::start(command, Streams::None)
    };
    let done = keep_on(&mut watch, &mut shipping, stop, start, &on_shipped).await;
    if let Err(JobError::Postgres(_)) = &done {
        // What came before the server was gone must not wait until it is back: it may never be.
        drop(watch.receiver.take());
        if let Err(error) = shipping.ship_all().await {
            tracing::warn!(error = in_a_sentence(&error), "{NOT_ALL}");
        }
        shipping.shipped().into_iter().for_each(&on_shipped);
    }
    done?;
    watch.end().await
}

/// Stores what comes until `stop` does, and then the rest.
async fn keep_on(
    watch: &mut Watch<'_>,
    shipping: &mut Shipping<'_>,
    stop: &CancellationToken,
    start: impl Fn() -> Result<RunningTool, PostgresError>,
    on_shipped: &impl Fn(Shipped),
) -> Result<(), JobError> {
    let means = watch.means;
    let mut shipped_at: Option<Instant> = None;
    let mut told = None;
    loop {
        let is_last = stop.is_cancelled();
        let stored = shipping.shipped().map(|shipped| shipped.until);
        let is_wanted = (means.wanted)().is_some_and(|wanted| stored.is_none_or(|stored| stored < wanted));
        let is_time = is_last || is_wanted || shipped_at.is_none_or(|at| at.elapsed() >= means.ship_every);
        shipping.note(watch.look().await?);
        while watch.over(shipping.ship_next_segment()).await? {
            tell(watch, shipping, &mut told, on_shipped).await?;
        }
        if is_time {
            watch.over(shipping.ship_open_segment()).await?;
            shipped_at = Some(Instant::now());
            // Of a server where nothing is written more is known by now.
            told = None;
        }
        tell(watch, shipping, &mut told, on_shipped).await?;
        if is_last {
            return Ok(());
        }
        if watch.receiver.is_none() {
            shipping.lead_receiver()?;
        }
        watch.supervise(&start).await?;
        tokio::select! {
            () = tokio::time::sleep(LOOK_PAUSE) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Says how far the log is stored, unless it was told so, and lets the server have what is.
async fn tell(
    watch: &mut Watch<'_>,
    shipping: &Shipping<'_>,
    told: &mut Option<Lsn>,
    on_shipped: &impl Fn(Shipped),
) -> Result<(), JobError> {
    let Some(shipped) = shipping.shipped().filter(|shipped| *told != Some(shipped.until)) else {
        return Ok(());
    };
    *told = Some(shipped.until);
    on_shipped(shipped);
    Ok(replication::advance_slot(&mut watch.session, watch.means.slot, shipped.until).await?)
}

/// Looks at the cluster, and refuses one that cannot be told from others.
async fn identified(session: &mut PgConnection) -> Result<ClusterFacts, JobError> {
    let facts = replication::facts(session).await?;
    if facts.system_identifier.is_empty() {
        return Err(JobError::Refused {
            action: "receive the write-ahead log".into(),
            reasons: vec!["the role may not execute pg_control_system()".into()],
        });
    }
    Ok(facts)
}

/// Where the log goes on from what is stored, and whether that is behind something that is missing.
async fn begin(
    session: &mut PgConnection,
    means: &Means<'_>,
    on_shipped: &impl Fn(Option<Shipped>),
) -> Result<(Lsn, bool), JobError> {
    if let Some(lsn) = replication::kept_from(session, means.slot).await? {
        return Ok((lsn, false));
    }
    // Whatever happens from here on, nobody goes on as if nothing were missing.
    on_shipped(None);
    tracing::warn!(slot = means.slot, "the server keeps its log from here on, and nothing from before");
    replication::drop_slot(session, means.slot).await?;
    Ok((replication::make_slot(session, means.slot).await?, true))
}
