//! What a restore that an operator asks for would take from others.

use super::JobError;
use super::facts::Loss;
use super::member::Member;
use super::run::Run;
use super::window::Committed;
use crate::rules::wal::attribution::{self, Attributed};
use crate::rules::wal::summary;

impl Member<'_> {
    /// Why an operator's restore does not begin: what would be lost, unless that is accepted.
    pub(super) async fn unaccepted_loss(&self, run: &mut Run<'_>) -> Result<Option<String>, JobError> {
        let Some(loss) = self.loss(run).await? else { return Ok(None) };
        if run.facts.loss == Loss::Refused {
            return Ok(Some(format!(
                "{loss}; it would be lost, but kept aside (--accept-loss restores nevertheless)"
            )));
        }
        let note = self.says(format!("{loss}; it is in the database that is kept aside alone"));
        run.facts.notes.push(note);
        Ok(None)
    }

    /// What was committed since the snapshot, and not by the run, in words; `None` for nothing.
    async fn loss(&self, run: &mut Run<'_>) -> Result<Option<String>, JobError> {
        let now = run.lsn().await?;
        let (commits, straddlers) = match self.committed_since_snapshot(run, now).await? {
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
