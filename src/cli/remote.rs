//! What the verbs share that speak with a daemon on another machine: which one, with which token,
//! and a gate there, seen through from its opening to its verdict.

pub mod gate;
pub mod migrate;
mod output;
mod session;

use std::path::PathBuf;

use clap::Args;
use secrecy::SecretString;

use super::advice::TOKEN;
use super::report::{ExitCode, Failure};
use crate::remote::{Address, Server};
use crate::settings;

/// The variable that has the token, where no file has it.
const TOKEN_VARIABLE: &str = "BELAY_TOKEN";

/// Which daemon is asked.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// The daemon on the database host: https://HOST:PORT, or unix:/PATH of its socket
    #[arg(long, value_name = "URL", env = "BELAY_SERVER")]
    pub server: Option<String>,
    /// A file with the token; without, the variable BELAY_TOKEN has it
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificates (PEM) to trust beside those of the system
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

impl ServerArgs {
    /// The daemon.
    ///
    /// # Errors
    /// [`Failure`] with [`ExitCode::Usage`] for what is missing or cannot be read.
    pub fn connect(&self) -> Result<Server, Failure> {
        const ACTION: &str = "find the server";
        let none =
            || Failure::new(ACTION, ExitCode::Usage, "there is no --server").with_hint("or set BELAY_SERVER");
        let text = self.server.as_deref().ok_or_else(none)?;
        let address: Address = text.parse().map_err(Failure::of(ACTION))?;
        let token = self.token()?;
        // The socket knows its users by themselves.
        if token.is_none() && matches!(address, Address::Url(_)) {
            let text = format!("there is no token for {address}");
            return Err(Failure::new(ACTION, ExitCode::Usage, text).with_hint(TOKEN));
        }
        Server::new(address, token, self.ca_file.as_deref()).map_err(Failure::of(ACTION))
    }

    fn token(&self) -> Result<Option<SecretString>, Failure> {
        let path = self.token_file.as_deref();
        let from = path.map_or_else(|| TOKEN_VARIABLE.to_owned(), |path| path.display().to_string());
        let failed = |text: &str| {
            Failure::new("read the token", ExitCode::Usage, format!("{from}: {text}")).with_hint(TOKEN)
        };
        let text = match path {
            Some(path) => std::fs::read_to_string(path).map_err(|error| failed(&error.to_string()))?,
            None => match settings::variable(TOKEN_VARIABLE) {
                Some(text) => text,
                None => return Ok(None),
            },
        };
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(failed("it holds no token, which is one word"));
        }
        Ok(Some(SecretString::from(token.to_owned())))
    }
}
