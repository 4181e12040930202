//! What a restore that an operator asks for would take from others.

use super::JobError;
use super::facts::Loss;
use super::walk::Walk;
use super::window::Committed;
use crate::rules::wal::attribution::{self, Attributed};
use crate::rules::wal::summary;

impl Walk<'_> {
    /// Why an operator's restore does not begin: what would be lost, unless that is accepted.
    pub(super) async fn unaccepted_loss(&mut self) -> Result<Option<String>, JobError> {
        let Some(loss) = self.loss().await? else { return Ok(None) };
        if self.facts.loss == Loss::Refused {
            return Ok(Some(format!(
                "{loss}; it would be lost, but kept aside (--accept-loss restores nevertheless)"
            )));
        }
        self.facts.notes.push(format!("{loss}; it is in the database that is kept aside alone"));
        Ok(None)
    }

    /// What was committed since the snapshot, and not by the run, in words; `None` for nothing.
    async fn loss(&mut self) -> Result<Option<String>, JobError> {
        let now = self.lsn().await?;
        let (commits, straddlers) = match self.committed_since_snapshot(now).await? {
            Committed::Known { commits, straddlers } => (commits, straddlers),
            Committed::Unknown(why) => {
                return Ok(Some(format!("what was committed since the snapshot is not known: {why}")));
            }
        };
        let has_own_mark = self.facts.armed.as_ref().is_some_and(|armed| armed.has_own_mark);
        Ok(match attribution::divide(commits, has_own_mark) {
            Attributed::Told { foreign, .. } => Committed::Known { commits: foreign, straddlers }
                .in_words()
                .map(|what| format!("{what} were committed by others since the snapshot")),
            Attributed::Untold(commits) => {
                let what = summary::in_words(&commits);
                Some(format!("{what} were committed since the snapshot, by the run or by others"))
            }
        })
    }
}
