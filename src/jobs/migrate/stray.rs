//! Whether a rehearsal went to the database itself instead of its copy: a command may take its
//! address from elsewhere than its environment.

use super::JobError;
use super::fingerprint::Shape;
use super::member::Member;
use super::run::Run;
use super::window::Committed;
use crate::rules::wal::Lsn;
use crate::rules::wal::summary;

/// The database before a rehearsal.
pub(super) struct Production {
    lsn: Lsn,
    shape: Shape,
    has_own_mark: bool,
}

/// Whether a rehearsal changed the database itself.
pub(super) enum Strayed {
    /// Nothing says so.
    No,
    /// What changed may as well be somebody else's doing.
    Perhaps(String),
    /// It did, as the sentence says.
    Surely(String),
}

impl Member<'_> {
    /// Looks at the database, where it stays open during the rehearsal.
    pub(super) async fn production_before(&self, run: &mut Run<'_>) -> Result<Option<Production>, JobError> {
        if run.is_fenced() {
            return Ok(None);
        }
        let server = run.server().await?;
        let shape = self.look(run, &server.tools).shape().await?;
        let has_own_mark = run.has_own_mark().await?;
        Ok(Some(Production { lsn: run.lsn().await?, shape, has_own_mark }))
    }

    /// Looks again, and says what the rehearsal may have done.
    pub(super) async fn strayed(
        &self,
        run: &mut Run<'_>,
        before: Option<&Production>,
    ) -> Result<Strayed, JobError> {
        const WHY: &str = "the command takes its address from elsewhere than its environment";
        let Some(before) = before else { return Ok(Strayed::No) };
        let to = run.lsn().await?;
        if let Committed::Known { mut commits, .. } = self.committed_between(run, before.lsn, to).await? {
            commits.retain(|commit| commit.is_marked && before.has_own_mark);
            if !commits.is_empty() {
                let what = summary::in_words(&commits);
                return Ok(Strayed::Surely(format!("it committed {what} to the database itself: {WHY}")));
            }
        }
        let server = run.server().await?;
        let now = self.look(run, &server.tools).shape().await?;
        if now.revisions != before.shape.revisions {
            return Ok(Strayed::Surely(format!(
                "the revision of the database itself was {} and is {}: {WHY}, or somebody else migrated",
                before.shape.revisions.join(", "),
                now.revisions.join(", ")
            )));
        }
        if now.schema != before.shape.schema {
            return Ok(Strayed::Perhaps(format!(
                "the schema of the database itself changed meanwhile: {WHY}, or somebody else changed it"
            )));
        }
        Ok(Strayed::No)
    }
}
