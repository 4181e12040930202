//! Verifies base backups and the write-ahead log behind them to a depth: readable, recovered.
//!
//! Comes in: what the repository has. Goes out: a signed record beside each base backup that was read,
//! whether something was found or not. What is wrong with what is stored is a finding; what is wrong with
//! the machine (no room, no server programs) is an error, and nothing is recorded.
//!
//! What is stored later is not waited for: a base backup whose log is still to come is left for the next
//! time.

mod drill;
mod log;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use ed25519_dalek::SigningKey;

use self::log::LogRead;
use super::opening::open_through;
use super::receive_wal::Shipped;
use super::recover::{self, Stock};
use super::verify::Recording;
use super::{JobError, Stopwatch, until_stalled};
use crate::catalog::CatalogError;
use crate::rules::causes::in_a_sentence;
use crate::rules::chain::Broken;
use crate::rules::drill::{self as rules, BaseVerification, Drill, PhysicalDepth, Span};
use crate::rules::layout::{self, SnapshotId};
use crate::rules::manifest;
use crate::rules::physical::BaseManifest;
use crate::rules::recovery::{Plan, Target, Window};
use crate::seal::SealError;
use crate::settings::Connection;
use crate::store::StoreError;

/// What a verification is made with.
pub struct Means<'a> {
    /// What a recovery is made with.
    pub recovery: recover::Means<'a>,
    /// Who signs the records; without, nothing is recorded.
    pub signing: Option<&'a SigningKey>,
    /// Objects read, or indexes looked through, at once.
    pub jobs: usize,
    /// How long nothing may be read.
    pub stall_timeout: Duration,
    /// The live cluster, which is asked for its heartbeats.
    pub live: Option<&'a Connection>,
}

/// The moment that is recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Drawn with this seed from all that can be reached.
    Drawn(u32),
    /// This one.
    At(DateTime<Utc>),
}

/// What is verified.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// This base backup and the log behind it, rather than all.
    pub base: Option<&'a SnapshotId>,
    /// How deep.
    pub depth: PhysicalDepth,
    /// For depth [`PhysicalDepth::Recovered`].
    pub moment: Wish,
}

/// What was found.
#[derive(Debug)]
pub struct Verified {
    /// A record for each base backup that was read, as signed, the oldest first.
    pub records: Vec<BaseVerification>,
    /// Base backups whose manifest is not believed, and why.
    pub not_believed: Vec<String>,
    /// What is wrong in the recovered cluster, by name; the records, which lie in the open, have only the
    /// number.
    pub differences: Vec<String>,
    /// What could not be proven, and why.
    pub notes: Vec<String>,
    /// Whether the records were written.
    pub recording: Recording,
}

impl Verified {
    /// Whether no problem was found.
    pub fn is_ok(&self) -> bool {
        self.not_believed.is_empty() && self.records.iter().all(|record| record.is_ok)
    }

    /// The recovery, if one was made, and the base backup that it began with.
    pub fn drill(&self) -> Option<(&SnapshotId, &Drill)> {
        self.records.iter().find_map(|record| Some((&record.id, record.drill.as_ref()?)))
    }
}

/// A base backup with its log, and what was found of it so far.
struct Looked<'a> {
    base: &'a BaseManifest,
    window: Window,
    problems: Vec<String>,
    base_bytes: u64,
    log_bytes: u64,
    depth: PhysicalDepth,
    drill: Option<Drill>,
}

/// Verifies what `wanted` names, and records what it found; `shipped` is what whoever receives the log had
/// noted before, on this host.
///
/// # Errors
/// [`JobError::Refused`] when there is nothing to verify, or the moment cannot be reached; what keeps the
/// verification itself from being made. What is damaged is no error, see [`Verified::is_ok`].
pub async fn verify(
    means: &Means<'_>,
    shipped: Option<Shipped>,
    wanted: &Wanted<'_>,
    clock: fn() -> DateTime<Utc>,
) -> Result<Verified, JobError> {
    let watch = Stopwatch::start();
    means.recovery.progress.enter("listing base backups and log");
    let mut stock = stock_of(means, shipped).await?;
    if stock.windows(None).1.iter().any(|window| hole(&stock, window).is_some()) {
        // A segment that was completed while it was listed may be in the list neither in parts nor whole.
        stock = stock_of(means, shipped).await?;
    }
    let stock = &stock;
    let mut notes = Vec::new();
    let mut looked = choose(stock, wanted.base, &mut notes)?;
    let reading = Box::pin(read_all(means, stock, &mut looked));
    until_stalled(means.recovery.progress, means.stall_timeout, "read base backups and log", reading).await?;
    let mut differences = Vec::new();
    if wanted.depth == PhysicalDepth::Recovered {
        let found = Box::pin(recover_one(means, stock, wanted, &mut looked)).await?;
        differences = found.differences;
        notes.extend(found.notes);
    }
    let is_wanted = |(id, _): &&(SnapshotId, String)| wanted.base.is_none_or(|base| base == id);
    let not_believed = stock.rejected.iter().filter(is_wanted);
    let not_believed = not_believed.map(|(id, why)| format!("base backup {id} is not believed: {why}"));
    let records = looked.into_iter().map(|looked| {
        let catalog = means.recovery.catalog;
        record_of(looked, &catalog.record().repository, clock(), watch.elapsed_ms())
    });
    let mut verified = Verified {
        records: records.collect(),
        not_believed: not_believed.collect(),
        differences,
        notes,
        recording: Recording::Done,
    };
    verified.recording = recorded(means, &verified.records).await;
    Ok(verified)
}

async fn stock_of(means: &Means<'_>, shipped: Option<Shipped>) -> Result<Stock, JobError> {
    Stock::read(means.recovery.catalog, Some(means.recovery.opener), shipped).await
}

fn record_of(looked: Looked<'_>, repository: &str, at: DateTime<Utc>, elapsed_ms: u64) -> BaseVerification {
    BaseVerification {
        format: manifest::FORMAT,
        id: looked.base.id.clone(),
        repository: repository.into(),
        cluster: looked.base.cluster.clone(),
        depth: looked.depth,
        at,
        is_ok: looked.problems.is_empty(),
        problems: looked.problems,
        timeline: looked.window.timeline,
        until_lsn: looked.window.end,
        base_bytes: looked.base_bytes,
        log_bytes: looked.log_bytes,
        drill: looked.drill,
        elapsed_ms,
    }
}

async fn recorded(means: &Means<'_>, records: &[BaseVerification]) -> Recording {
    let Some(key) = means.signing else { return Recording::NoKey };
    for record in records {
        if let Err(error) = means.recovery.catalog.record_base_verification(record, key).await {
            return Recording::Failed(error);
        }
    }
    Recording::Done
}

/// Every base backup that there is something to say of, with the log on the newest timeline, or on its
/// own if that does not lead from it.
fn choose<'a>(
    stock: &'a Stock,
    only: Option<&SnapshotId>,
    notes: &mut Vec<String>,
) -> Result<Vec<Looked<'a>>, JobError> {
    let (newest, on_newest) = stock.windows(None);
    let newest_base = stock.bases.last().map(|base| &base.id);
    let mut looked = Vec::new();
    for base in stock.bases.iter().filter(|base| only.is_none_or(|only| *only == base.id)) {
        let own = if base.timeline == newest { Vec::new() } else { stock.windows(Some(base.timeline)).1 };
        let window = on_newest.iter().chain(&own).find(|window| window.base.id == base.id);
        let Some(window) = window.cloned() else { continue };
        let problem = hole(stock, &window);
        if problem.is_none() && !window.is_usable() && newest_base == Some(&base.id) {
            notes.push(format!(
                "base backup {} is of no use yet: its log is stored to {}, and it needs {}",
                base.id, window.end, window.base.stop
            ));
            continue;
        }
        let (base_bytes, log_bytes, drill) = (0, 0, None);
        let problems = problem.into_iter().collect();
        let depth = PhysicalDepth::Readable;
        looked.push(Looked { base, window, problems, base_bytes, log_bytes, depth, drill });
    }
    if let (Some(only), true) = (only, looked.is_empty() && notes.is_empty()) {
        return Err(CatalogError::NotFound { wanted: format!("there is no base backup {only}") }.into());
    }
    if looked.is_empty() && stock.rejected.is_empty() {
        let none = || vec!["there is no base backup".to_owned()];
        let reasons = if notes.is_empty() { none() } else { std::mem::take(notes) };
        return Err(JobError::Refused { action: "verify base backups and log".into(), reasons });
    }
    Ok(looked)
}

/// What is missing at the end of a window, if that is not where the log ends for now.
fn hole(stock: &Stock, window: &Window) -> Option<String> {
    if let Some(missing) = &window.missing {
        return Some(Broken { id: window.base.id.clone(), missing: missing.clone() }.to_string());
    }
    let end = window.end;
    let last = stock.log.ends_in(window);
    if let Some(resumes) = stock.goes_on(window) {
        return Some(format!("log is missing from {end} to {resumes}: segment {last} is not whole"));
    }
    if let Some(until) = stock.was_stored_to(window) {
        return Some(format!(
            "log is missing from {end} to {until}, which was stored: segment {last} is not whole"
        ));
    }
    let (start, stop) = (window.base.start, window.base.stop);
    let is_newest = stock.bases.last().is_some_and(|base| base.id == window.base.id);
    (!window.is_usable() && !is_newest)
        .then(|| format!("its log is not stored: from {start} on it reaches {end}, and {stop} is needed"))
}

/// Reads log and base backups from their first bytes to their last.
async fn read_all(means: &Means<'_>, stock: &Stock, looked: &mut [Looked<'_>]) -> Result<(), JobError> {
    let progress = means.recovery.progress;
    progress.enter("reading the write-ahead log");
    let log = LogRead::of(means, stock, looked.iter().map(|one| (one.base, &one.window))).await?;
    for one in &mut *looked {
        let (problems, bytes) = log.of_window(stock, &one.window);
        one.problems.extend(problems);
        one.log_bytes = bytes;
    }
    progress.enter("reading base backups");
    progress.expect(looked.iter().map(|one| one.base.plain_bytes).sum());
    for one in looked {
        let cluster = means.recovery.catalog.cluster();
        if one.base.objects.is_empty() {
            one.problems.push("its manifest names no object".into());
        }
        for (name, object) in &one.base.objects {
            let key = layout::base_key(cluster, &one.base.id, name);
            let (store, progress) = (means.recovery.catalog.store(), Arc::clone(means.recovery.progress));
            let on_bytes = move |bytes| progress.advance(bytes);
            let opener = means.recovery.opener;
            let read = open_through(store.as_ref(), opener, &key, object, on_bytes, (|_| Ok(()), None)).await;
            one.base_bytes += object.plain_bytes;
            if let Err(error) = read {
                one.problems.push(as_problem(error)?);
            }
        }
    }
    Ok(())
}

/// Recovers one moment, and adds what was found to the base backup that it began with.
async fn recover_one(
    means: &Means<'_>,
    stock: &Stock,
    wanted: &Wanted<'_>,
    looked: &mut [Looked<'_>],
) -> Result<drill::Found, JobError> {
    let newest = stock.windows(None).0;
    let mut reached: Vec<(usize, Span)> = Vec::new();
    for (index, one) in looked.iter().enumerate() {
        if !one.window.is_usable() || (wanted.base.is_none() && one.window.timeline != newest) {
            continue;
        }
        let until = stock.complete_until(means.recovery.catalog, &one.window).await;
        // A record that is not believed is among the problems by now.
        let until = until.or_else(|error| as_problem(error).map(|_| None))?;
        let from = one.base.ended_at;
        reached.push((index, Span { from, until: until.unwrap_or(from).max(from) }));
    }
    let spans: Vec<Span> = reached.iter().map(|(_, span)| *span).collect();
    let (moment, seed) = match wanted.moment {
        Wish::At(moment) => (Some(moment), None),
        Wish::Drawn(seed) => (rules::moment(&rules::apart(&spans), seed), Some(seed)),
    };
    let is_in =
        |(_, span): &&(usize, Span)| moment.is_some_and(|moment| span.from <= moment && moment <= span.until);
    let chosen = reached.iter().rev().find(is_in).map(|(index, _)| *index);
    let Some((moment, one)) = moment.zip(chosen.and_then(|index| looked.get_mut(index))) else {
        return nothing_reached(wanted, moment, &spans, looked);
    };
    if !one.problems.is_empty() {
        let note = format!("{} was not recovered: what it takes is damaged", in_full(moment));
        return Ok(drill::Found { notes: vec![note], ..drill::Found::default() });
    }
    one.depth = PhysicalDepth::Recovered;
    let plan = Plan::of(&one.window, Some(Target::Time(moment)));
    let mut found = drill::drill(means, stock, &plan, one.base, seed, moment).await?;
    one.problems.append(&mut found.problems);
    one.drill = found.drill.take();
    Ok(found)
}

/// A moment that was asked for is refused; that none can be drawn of what is damaged is no news.
fn nothing_reached(
    wanted: &Wanted<'_>,
    moment: Option<DateTime<Utc>>,
    spans: &[Span],
    looked: &[Looked<'_>],
) -> Result<drill::Found, JobError> {
    let action = match wanted.moment {
        Wish::At(moment) => format!("recover {}", in_full(moment)),
        Wish::Drawn(_) => "recover a moment".to_owned(),
    };
    if moment.is_none() && looked.iter().any(|one| !one.problems.is_empty()) {
        let note = "no moment was recovered: none can be reached".into();
        return Ok(drill::Found { notes: vec![note], ..drill::Found::default() });
    }
    let told = |span: &Span| format!("from {} to {}", in_full(span.from), in_full(span.until));
    let all: Vec<String> = rules::apart(spans).iter().map(told).collect();
    let reason = match all.as_slice() {
        [] => "no moment can be reached".to_owned(),
        all => format!("what can be reached is {}", all.join(", and ")),
    };
    Err(JobError::Refused { action, reasons: vec![reason] })
}

/// The problem that a damaged, missing or untrusted object is, as a sentence; any other error is handed
/// back. The wrong key says nothing of what is stored.
fn as_problem(error: JobError) -> Result<String, JobError> {
    match &error {
        JobError::Object { source: SealError::WrongIdentity, .. } => Err(error),
        JobError::DamagedBase { .. } => Ok(in_a_sentence(&error)),
        JobError::Store(StoreError::Missing { key, .. }) => Ok(format!("{key}: it is missing")),
        JobError::Object { .. }
        | JobError::Catalog(
            CatalogError::Untrusted { .. } | CatalogError::Format { .. } | CatalogError::Misplaced { .. },
        ) => Ok(in_a_sentence(&error)),
        _ => Err(error),
    }
}

fn in_full(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
