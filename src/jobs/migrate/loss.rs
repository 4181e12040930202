//! What a restore that an operator asks for would take from others.

use super::JobError;
use super::facts::{Loss, Origin};
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

    /// What was committed since what is put back, and not by the run, in words; `None` for nothing.
    async fn loss(&self, run: &mut Run<'_>) -> Result<Option<String>, JobError> {
        let now = run.lsn().await?;
        let (origin, committed) = match run.facts.origin {
            Origin::Snapshot => ("snapshot", self.committed_since_snapshot(run, now).await?),
            Origin::RestorePoint => {
                let committed = run.committed_while_running(&[self], now).await?.pop();
                let none = || Committed::Unknown("the log was not read".into());
                ("restore point", committed.unwrap_or_else(none))
            }
        };
        let (commits, straddlers) = match committed {
            Committed::Known { commits, straddlers } => (commits, straddlers),
            Committed::Unknown(why) => {
                return Ok(Some(format!("what was committed since the {origin} is not known: {why}")));
            }
        };
        let has_own_mark = self.facts.armed.as_ref().is_some_and(|armed| armed.has_own_mark);
        Ok(match attribution::divide(commits, has_own_mark) {
            Attributed::Told { foreign, .. } => Committed::Known { commits: foreign, straddlers }
                .in_words()
                .map(|what| format!("{what} were committed by others since the {origin}")),
            Attributed::Untold(commits) => {
                let what = summary::in_words(&commits);
                Some(format!("{what} were committed since the {origin}, by the run or by others"))
            }
        })
    }
}
