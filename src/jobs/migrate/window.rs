//! What was committed to the database in the windows of a run: since the snapshot, while the
//! command ran, and since it was settled.

use std::collections::{BTreeMap, BTreeSet};

use super::JobError;
use super::member::Member;
use super::run::Run;
use crate::postgres::session;
use crate::postgres::wal::{self, Evidence};
use crate::rules::wal::summary::{self, CommitSummary};
use crate::rules::wal::{Lsn, VisibleTransactions, Window};

/// Relations by relfilenode.
pub(super) type Relations = BTreeMap<u32, summary::Relation>;

/// What was committed in a window.
pub(super) enum Committed {
    /// This, and so many transactions whose writes lie before it.
    Known { commits: Vec<CommitSummary>, straddlers: usize },
    /// It cannot be known, and why.
    Unknown(String),
}

impl Committed {
    /// What was committed, in words; `None` for nothing.
    pub(super) fn in_words(&self) -> Option<String> {
        let Self::Known { commits, straddlers } = self else { return None };
        let straddling = match straddlers {
            0 => None,
            1 => Some("1 transaction that had begun before".to_owned()),
            several => Some(format!("{several} transactions that had begun before")),
        };
        let commits = (!commits.is_empty()).then(|| summary::in_words(commits));
        let facts: Vec<String> = commits.into_iter().chain(straddling).collect();
        (!facts.is_empty()).then(|| facts.join(", and "))
    }
}

impl Run<'_> {
    /// What was committed to each of `members` from `from` to `to`, in one reading of the log; else
    /// why that cannot be known.
    pub(super) async fn windows(
        &mut self,
        members: &[&Member<'_>],
        from: Lsn,
        to: Lsn,
    ) -> Result<Result<Vec<Window>, String>, JobError> {
        let server = self.server().await?;
        let oids: Option<Vec<u32>> =
            members.iter().map(|member| Some(member.facts.identity.as_ref()?.oid)).collect();
        let Some(oids) = oids else { return Ok(Err("the database was never looked at".into())) };
        let mut session = self.maintenance_session().await?;
        Ok(match wal::commits_of_each(&server.wal, &mut session, &oids, from, to).await? {
            Evidence::Read(windows) => Ok(windows),
            Evidence::Gone => Err("the write-ahead log of that time is gone".into()),
            Evidence::Unreadable { why } => Err(why),
        })
    }

    /// What was committed to each of `members` from the moment before the command until `to`, by
    /// whomever.
    pub(super) async fn committed_while_running(
        &mut self,
        members: &[&Member<'_>],
        to: Lsn,
    ) -> Result<Vec<Committed>, JobError> {
        // All were armed at one moment.
        let armed = members.iter().find_map(|member| member.facts.armed.as_ref());
        let windows = match armed.map(|armed| armed.read_from) {
            Some(from) => self.windows(members, from, to).await?,
            None => Err("the state before the command was not written down".into()),
        };
        let mut all = Vec::new();
        match windows {
            Err(why) => all.extend(members.iter().map(|_| Committed::Unknown(why.clone()))),
            Ok(windows) => {
                for (member, window) in members.iter().zip(windows) {
                    all.push(member.committed_in(&window).await?);
                }
            }
        }
        Ok(all)
    }
}

impl Member<'_> {
    /// What `window`, which begins before the moment before the command, says of this database since.
    ///
    /// A transaction that had written before shows only its end; it counts unless it was seen to be
    /// of another database.
    async fn committed_in(&self, window: &Window) -> Result<Committed, JobError> {
        let Some(armed) = &self.facts.armed else {
            return Ok(Committed::Unknown("the state before the command was not written down".into()));
        };
        let window = &window.since(armed.lsn);
        let commits = self.named(window).await?;
        let is_older = |xid: u32| xid != 0 && (armed.next_transaction as u32).wrapping_sub(xid) as i32 > 0;
        let bare = window.bare_commits.iter().map(|commit| commit.xid);
        let straddling = bare.filter(|xid| is_older(*xid) && !armed.elsewhere.contains(xid));
        Ok(Committed::Known { commits, straddlers: straddling.count() })
    }

    /// What was committed between two positions, by whomever.
    pub(super) async fn committed_between(
        &self,
        run: &mut Run<'_>,
        from: Lsn,
        to: Lsn,
    ) -> Result<Committed, JobError> {
        Ok(match run.windows(&[self], from, to).await? {
            Ok(windows) => {
                let window = windows.into_iter().next().unwrap_or_default();
                Committed::Known { commits: self.named(&window).await?, straddlers: 0 }
            }
            Err(why) => Committed::Unknown(why),
        })
    }

    /// What was committed until `to` that the snapshot does not hold.
    ///
    /// A transaction that was open when the snapshot was taken shows only its end afterwards.
    /// Those that were seen to be of other databases do not count, and where writers were kept
    /// out before, none can be of this one.
    pub(super) async fn committed_since_snapshot(
        &self,
        run: &mut Run<'_>,
        to: Lsn,
    ) -> Result<Committed, JobError> {
        let (Some(entry), Some(snapshot)) = (&self.entry, self.facts.snapshot.clone()) else {
            return Ok(Committed::Unknown("there is no snapshot".into()));
        };
        let Ok(visible) = entry.manifest.visible_transactions.parse::<VisibleTransactions>() else {
            return Ok(Committed::Unknown("the manifest does not say what the snapshot sees".into()));
        };
        let window = match run.windows(&[self], snapshot.window_start.lsn, to).await? {
            Ok(windows) => windows.into_iter().next().unwrap_or_default(),
            Err(why) => return Ok(Committed::Unknown(why)),
        };
        let mut commits = self.named(&window).await?;
        commits.retain(|commit| !visible.sees(commit.xid));
        if snapshot.is_fenced {
            return Ok(Committed::Known { commits, straddlers: 0 });
        }
        let mut session = run.maintenance_session().await?;
        let since = wal::committed_since(&mut session, &visible).await?;
        let bare =
            window.straddlers(&visible, snapshot.window_start.next_transaction).map(|commit| commit.xid);
        // Without its epoch, as the log has it.
        let mut straddling: BTreeSet<u32> = bare.chain(since.into_iter().map(|xid| xid as u32)).collect();
        straddling.retain(|xid| {
            !snapshot.elsewhere.contains(xid) && commits.iter().all(|commit| commit.xid != *xid)
        });
        Ok(Committed::Known { commits, straddlers: straddling.len() })
    }

    async fn named(&self, window: &Window) -> Result<Vec<CommitSummary>, JobError> {
        if window.commits.is_empty() {
            return Ok(Vec::new());
        }
        Ok(match &self.relations {
            Some(relations) => summary::summarize(window, relations),
            None => summary::summarize(window, &self.read_relations().await?),
        })
    }

    /// What each relfilenode of the database belongs to.
    pub(super) async fn read_relations(&self) -> Result<Relations, JobError> {
        let mut session = session::connect(&self.settings.connection).await?;
        Ok(wal::relations(&mut session).await?)
    }
}
