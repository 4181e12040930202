//! COPY text out of and into tables, cut at row ends.

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use sqlx::postgres::{PgConnection, PgCopyIn};

use super::PostgresError;
use crate::rules::digest::RowTally;
use crate::rules::sql::literal;

/// Bytes of COPY text per message to the server; messages need not end at row ends.
const MESSAGE_BYTES: usize = 64 << 10;
/// Bytes of COPY text held at a time while rows are only counted and digested.
const TALLY_BYTES: usize = 1 << 20;

/// A running COPY TO, read in pieces that end at row ends.
pub struct CopyOut<'c> {
    stream: BoxStream<'c, sqlx::Result<Bytes>>,
    carried: Option<Bytes>,
    action: String,
}

/// Whether a COPY has more to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyState {
    /// There are more rows.
    More,
    /// That was the last row.
    End,
}

impl<'c> CopyOut<'c> {
    /// Starts `COPY (select) TO STDOUT`, its text in `encoding`; `action` is for errors.
    ///
    /// In the database's own encoding bytes come as they lie there, valid or not.
    ///
    /// # Errors
    /// As [`PostgresError::of_query`] sorts them.
    pub async fn start(
        session: &'c mut PgConnection,
        select: &str,
        encoding: &str,
        action: &str,
    ) -> Result<Self, PostgresError> {
        let statement = format!("COPY ({select}) TO STDOUT WITH (ENCODING {})", literal(encoding));
        let stream = session
            .copy_out_raw(&statement)
            .await
            .map_err(|source| PostgresError::of_query(action, source))?;
        Ok(Self { stream, carried: None, action: action.into() })
    }

    /// Appends rows to `out` until the next one would take it over `limit_bytes`; one row that is
    /// larger than the limit is taken whole. `on_bytes` hears of each row's length.
    ///
    /// # Errors
    /// As [`PostgresError::of_query`] sorts them. The session is of no more use then.
    pub async fn fill(
        &mut self,
        out: &mut Vec<u8>,
        limit_bytes: usize,
        on_bytes: impl Fn(usize),
    ) -> Result<CopyState, PostgresError> {
        loop {
            let row = match self.carried.take() {
                Some(row) => Some(row),
                // The server sends one row per message (protocol 3, section COPY Operations).
                None => self
                    .stream
                    .try_next()
                    .await
                    .map_err(|source| PostgresError::of_query(self.action.as_str(), source))?,
            };
            let Some(row) = row else { return Ok(CopyState::End) };
            if !out.is_empty() && out.len() + row.len() > limit_bytes {
                self.carried = Some(row);
                return Ok(CopyState::More);
            }
            on_bytes(row.len());
            out.extend_from_slice(&row);
        }
    }

    /// Reads every row that is left and counts and digests it, in bounded memory.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub async fn tally(mut self, on_bytes: impl Fn(usize)) -> Result<RowTally, PostgresError> {
        let (mut tally, mut text) = (RowTally::default(), Vec::new());
        loop {
            let state = self.fill(&mut text, TALLY_BYTES, &on_bytes).await?;
            tally.add_lines(&text);
            text.clear();
            if state == CopyState::End {
                return Ok(tally);
            }
        }
    }
}

/// A running COPY FROM.
pub struct CopyIn<'c> {
    sink: PgCopyIn<&'c mut PgConnection>,
    action: String,
}

impl<'c> CopyIn<'c> {
    /// Starts `COPY target FROM STDIN`, `target` with its columns and options; `action` is for
    /// errors.
    ///
    /// # Errors
    /// As [`PostgresError::of_query`] sorts them.
    pub async fn start(
        session: &'c mut PgConnection,
        statement: &str,
        action: &str,
    ) -> Result<Self, PostgresError> {
        let sink =
            session.copy_in_raw(statement).await.map_err(|source| PostgresError::of_query(action, source))?;
        Ok(Self { sink, action: action.into() })
    }

    /// Sends COPY text; `on_bytes` hears of what was sent.
    ///
    /// # Errors
    /// As [`PostgresError::of_query`] sorts them. The session is of no more use then.
    pub async fn send(&mut self, text: &[u8], on_bytes: impl Fn(usize)) -> Result<(), PostgresError> {
        for message in text.chunks(MESSAGE_BYTES) {
            self.sink
                .send(message)
                .await
                .map_err(|source| PostgresError::of_query(self.action.as_str(), source))?;
            on_bytes(message.len());
        }
        Ok(())
    }

    /// Ends the COPY and returns how many rows the server took.
    ///
    /// # Errors
    /// As [`PostgresError::of_query`] sorts them.
    pub async fn finish(self) -> Result<u64, PostgresError> {
        let action = self.action;
        self.sink.finish().await.map_err(|source| PostgresError::of_query(action, source))
    }
}
