//! Who asks: the peer of a connection, and the holder of a token.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use nix::unistd::Uid;

use super::office::Office;
use super::problem::Problem;
use crate::ledger::{OnBehalf, Token};
use crate::rules::access::{Rights, Role};
use crate::rules::token::BearerToken;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, by its user ID, over the socket.
    User(u32),
    /// An address, over TCP.
    Address(IpAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "user {uid}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Who asks, and what they may do. A handler that takes one is for those alone who prove who they are.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Where the request comes from.
    pub peer: Peer,
    /// Who, for the audit log.
    pub who: OnBehalf,
    /// The role.
    pub role: Role,
    /// The one database that the role is bound to, by its name in PostgreSQL.
    pub database: Option<String>,
}

impl Caller {
    /// What they may do.
    pub fn rights(&self) -> Rights<'_> {
        Rights { role: self.role, database: self.database.as_deref() }
    }

    fn with_token(peer: Peer, token: Token) -> Self {
        Self { peer, who: OnBehalf::Token(token.name), role: token.role, database: token.database }
    }

    /// Root and the daemon's own user may everything; who else may connect may look.
    fn with_uid(peer: Peer, uid: u32) -> Self {
        let is_operator = uid == 0 || Uid::effective().as_raw() == uid;
        let role = if is_operator { Role::Operator } else { Role::Viewer };
        Self { peer, who: OnBehalf::Peer(uid), role, database: None }
    }
}

impl FromRequestParts<Arc<Office>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, office: &Arc<Office>) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<Peer>().copied().ok_or_else(Problem::unauthorized)?;
        if !parts.headers.contains_key(AUTHORIZATION) {
            return match peer {
                Peer::User(uid) => Ok(Self::with_uid(peer, uid)),
                Peer::Address(_) => Err(Problem::unauthorized()),
            };
        }
        let presented = bearer(parts);
        let found = match &presented {
            Some(token) => office.holder_of(token, peer).await?,
            None => None,
        };
        // Who has a token is heard, whatever others behind the same address do: many runners share one.
        found.map(|token| Self::with_token(peer, token)).ok_or_else(|| {
            if let Some(wait) = office.tries.wait_of(peer) {
                return Problem::too_many_tries(wait);
            }
            office.tries.note_failure(peer);
            tracing::debug!(%peer, "a token is refused");
            Problem::unauthorized()
        })
    }
}

/// The token of a request that has one field of that name, and in it one token.
fn bearer(parts: &Parts) -> Option<BearerToken> {
    let mut fields = parts.headers.get_all(AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    let (scheme, token) = field.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| BearerToken::parse(token.trim_matches(' ')))?
}
