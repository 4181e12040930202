//! Looks after server and spool, also while the store is waited for, which may take minutes.

use std::pin::pin;

use sqlx::postgres::PgConnection;
use tokio::time::Instant;

use super::{LOOK_PAUSE, Means, fuse, spool};
use crate::jobs::JobError;
use crate::postgres::replication::{self, ClusterFacts, Mark};
use crate::postgres::tools::RunningTool;
use crate::postgres::{PostgresError, session};

/// The server, and the receiver that fills the spool.
pub(super) struct Watch<'a> {
    /// A session on the server.
    pub(super) session: PgConnection,
    /// What the log is received with.
    pub(super) means: &'a Means<'a>,
    /// What the server is.
    pub(super) facts: &'a ClusterFacts,
    /// The name that the server knows the receiver by.
    pub(super) name: &'a str,
    /// The receiver, while it runs.
    pub(super) receiver: Option<RunningTool>,
}

impl Watch<'_> {
    /// Has `work` done, and looks meanwhile.
    ///
    /// # Errors
    /// Those of `work`; as [`Self::look`], and then `work` is given up.
    pub(super) async fn over<T>(
        &mut self,
        work: impl Future<Output = Result<T, JobError>>,
    ) -> Result<T, JobError> {
        let (mut work, since) = (pin!(work), Instant::now());
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(LOOK_PAUSE) => {
                    self.look().await?;
                    (self.means.on_wait)(since.elapsed());
                }
            }
        }
    }

    /// Looks how far the server is, lets it have its disk back when it keeps too much, and ends the receiver
    /// when the spool is full.
    ///
    /// # Errors
    /// [`JobError::Refused`] when the slot was dropped; what PostgreSQL and the spool's disk say.
    pub(super) async fn look(&mut self) -> Result<Mark, JobError> {
        let mark = replication::mark(&mut self.session, self.means.slot, self.name).await?;
        fuse::check(&mut self.session, self.means, self.facts, &mark).await?;
        if self.receiver.is_some() && !self.has_room()? {
            tracing::warn!("the spool is full: the server keeps its log meanwhile");
            self.receiver = None;
        }
        Ok(mark)
    }

    fn has_room(&self) -> Result<bool, JobError> {
        let waiting_bytes = spool::waiting_bytes(self.means.spool, self.facts.segment_bytes)?;
        Ok(waiting_bytes < self.means.spool_bytes)
    }

    /// Keeps the receiver running while there is room.
    ///
    /// # Errors
    /// [`PostgresError::Incomplete`] when it has ended by itself; why it does not start.
    pub(super) async fn supervise(
        &mut self,
        start: impl FnOnce() -> Result<RunningTool, PostgresError>,
    ) -> Result<(), JobError> {
        if self.receiver.as_mut().is_some_and(RunningTool::has_ended)
            && let Some(ended) = self.receiver.take()
        {
            let messages = ended.reap().await?;
            return Err(PostgresError::Incomplete { tool: "pg_receivewal", messages }.into());
        }
        if self.receiver.is_none() && self.has_room()? {
            self.receiver = Some(start()?);
        }
        Ok(())
    }

    /// Ends the receiver and the session.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub(super) async fn end(self) -> Result<(), JobError> {
        drop(self.receiver);
        Ok(session::close(self.session).await?)
    }
}
