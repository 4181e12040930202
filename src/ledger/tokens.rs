//! Tokens for the daemon's HTTP interface: who has one, and what it may do.

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;

use super::{Ledger, LedgerError, time_text};
use crate::rules::access::{Rights, Role};
use crate::rules::digest::Digest256;

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The part of its text that is no secret.
    pub id: String,
    /// Who has it, as an operator called it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The one database it may do that to, by its name in PostgreSQL.
    pub database: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// From when on it is refused; `None` for never.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was last used, to the minute or so.
    pub last_used_at: Option<DateTime<Utc>>,
}

impl Token {
    /// What it may do.
    pub fn rights(&self) -> Rights<'_> {
        Rights { role: self.role, database: self.database.as_deref() }
    }

    /// Whether it counts at `now`: neither revoked nor expired.
    pub fn is_valid(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}

impl Ledger {
    /// Records a token, of whose secret `secret` is the digest.
    ///
    /// # Errors
    /// [`LedgerError::NameTaken`], [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn add_token(&self, token: &Token, secret: &Digest256) -> Result<(), LedgerError> {
        let insert = "INSERT INTO tokens (id, name, role, database, secret, created_at, expires_at) \
                      VALUES (?, ?, ?, ?, ?, ?, ?)";
        let done = sqlx::query(insert)
            .bind(&token.id)
            .bind(&token.name)
            .bind(token.role.as_str())
            .bind(&token.database)
            .bind(secret.to_string())
            .bind(time_text(token.created_at))
            .bind(token.expires_at.map(time_text))
            .execute(&self.pool)
            .await;
        match done {
            Err(error) if error.as_database_error().is_some_and(|error| error.is_unique_violation()) => {
                Err(LedgerError::NameTaken { name: token.name.clone(), path: self.path.clone() })
            }
            other => other.map(drop).map_err(self.failed("add a token")),
        }
    }

    /// The token of this ID and the digest of its secret, whether it still counts or not.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn token(&self, id: &str) -> Result<Option<(Token, Digest256)>, LedgerError> {
        let row = sqlx::query("SELECT * FROM tokens WHERE id = ?")
            .bind(id)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("find a token"))?;
        let Some(row) = row else { return Ok(None) };
        let secret: String = self.column(&row, "secret")?;
        let digest = secret.parse().map_err(|_| self.bad_value("secret", "what is no digest"))?;
        Ok(Some((self.token_of(&row)?, digest)))
    }

    /// Every token that there ever was, the oldest first.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn tokens(&self) -> Result<Vec<Token>, LedgerError> {
        let rows = sqlx::query("SELECT * FROM tokens ORDER BY created_at, rowid")
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list tokens"))?;
        rows.iter().map(|row| self.token_of(row)).collect()
    }

    /// Revokes the token of this name, from now on and for good; returns it, if there was one.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn revoke_token(&self, name: &str, at: DateTime<Utc>) -> Result<Option<Token>, LedgerError> {
        let update = "UPDATE tokens SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL RETURNING *";
        let row = sqlx::query(update)
            .bind(time_text(at))
            .bind(name)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("revoke a token"))?;
        row.map(|row| self.token_of(&row)).transpose()
    }

    /// Records that a token was used.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn note_token_use(&self, id: &str, at: DateTime<Utc>) -> Result<(), LedgerError> {
        let update = sqlx::query("UPDATE tokens SET last_used_at = ? WHERE id = ?");
        let done = update.bind(time_text(at)).bind(id).execute(&self.pool).await;
        done.map(drop).map_err(self.failed("note the use of a token"))
    }

    fn token_of(&self, row: &SqliteRow) -> Result<Token, LedgerError> {
        let role: String = self.column(row, "role")?;
        let time = |column| {
            let is_given: Option<String> = self.column(row, column)?;
            is_given.map(|_| self.time(row, column)).transpose()
        };
        Ok(Token {
            id: self.column(row, "id")?,
            name: self.column(row, "name")?,
            role: role.parse().map_err(|_| self.bad_value("role", &role))?,
            database: self.column(row, "database")?,
            created_at: self.time(row, "created_at")?,
            expires_at: time("expires_at")?,
            revoked_at: time("revoked_at")?,
            last_used_at: time("last_used_at")?,
        })
    }
}
