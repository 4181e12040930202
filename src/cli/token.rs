//! `belay token`: who may ask the daemon over HTTP, and for what.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand, ValueEnum};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::host::{ledger_of, load_settings};
use super::privileges::Inputs;
use super::report::{ExitCode, Failure, Report, print_notice, time_text};
use super::table::{Align, table};
use super::{Global, audit, clock};
use crate::ledger::{Ledger, Token};
use crate::rules::access::Role;
use crate::rules::token::BearerToken;
use crate::settings::{DatabaseScope, Settings};

/// The longest name of a token.
const NAME_CHARACTERS: usize = 64;

/// Verbs about tokens.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token, and print it this once
    Add(AddArgs),
    /// List tokens, those that are revoked or expired too
    List(ListArgs),
    /// Revoke a token, from now on and for good
    Revoke(RevokeArgs),
}

/// Options of `belay token add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Who gets it; the audit log says this name
    #[arg(value_name = "NAME", value_parser = name)]
    pub name: String,
    /// What it may do
    #[arg(long, value_enum)]
    pub role: RoleArg,
    /// The one database that it may do that to; a role of ci needs one
    #[arg(long, value_name = "DB", required_if_eq("role", "ci"))]
    pub db: Option<String>,
    /// How long it counts, such as 90d; without, until it is revoked
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    pub expires: Option<TimeDelta>,
    /// Write it to this new file, mode 0600, instead of printing it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Options of `belay token list`.
#[derive(Debug, Args)]
pub struct ListArgs {}

/// Options of `belay token revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The token's name
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// A role on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    /// Looks at everything, changes nothing
    Viewer,
    /// Opens gates of one database, and sees how that database and its runs are
    Ci,
    /// Does everything that is offered over HTTP
    Operator,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Ci => Self::Ci,
            RoleArg::Operator => Self::Operator,
        }
    }
}

fn name(text: &str) -> Result<String, String> {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@' | '/');
    if (1..=NAME_CHARACTERS).contains(&text.len()) && text.chars().all(is_inner) {
        Ok(text.into())
    } else {
        Err(format!("a name is 1 to {NAME_CHARACTERS} of letters, digits and _ - . @ /"))
    }
}

fn lifetime(text: &str) -> Result<TimeDelta, String> {
    let given = humantime::parse_duration(text).ok().and_then(|given| TimeDelta::from_std(given).ok());
    let within = given.filter(|given| (TimeDelta::seconds(1)..=TimeDelta::days(3650)).contains(given));
    within.ok_or_else(|| "a time is such as 90d or 12h, from 1s to 3650d".into())
}

/// Makes the file that a token is written to, with the rights of whoever called.
///
/// # Errors
/// [`Failure`]; a file that is there already is never overwritten.
pub fn create_file(path: &Path) -> Result<File, Failure> {
    let made = File::options().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| {
        Failure::new("make the token's file", ExitCode::Usage, format!("{}: {error}", path.display()))
    })
}

/// Carries out a verb about tokens.
///
/// # Errors
/// [`Failure`]
pub async fn run(global: &Global, verb: TokenVerb, inputs: Inputs) -> Result<Report, Failure> {
    let settings = load_settings(&global.config)?;
    let ledger = ledger_of(&settings).await?;
    match verb {
        TokenVerb::Add(args) => add(&settings, &ledger, args, inputs.token_file).await,
        TokenVerb::List(ListArgs {}) => list(&ledger).await,
        TokenVerb::Revoke(args) => revoke(&ledger, &args.name).await,
    }
}

async fn add(
    settings: &Settings,
    ledger: &Ledger,
    args: AddArgs,
    file: Option<(PathBuf, File)>,
) -> Result<Report, Failure> {
    let made = make(settings, ledger, &args).await;
    let (token, bearer) = match (made, &file) {
        (Ok(made), _) => made,
        (Err(failure), file) => {
            // An empty file is no token; one of a directory that is not ours any more stays.
            let _ = file.as_ref().map(|(path, _)| std::fs::remove_file(path));
            return Err(failure);
        }
    };
    let text = bearer.text();
    let mut body = json_of(&token);
    let line = match file {
        Some((path, mut file)) => {
            let written = writeln!(file, "{}", text.expose_secret()).and_then(|()| file.sync_all());
            if let Err(error) = written {
                ledger.revoke_token(&token.name, clock::now()).await.map_err(Failure::of("token add"))?;
                let text = format!("{}: {error}; the token is revoked again", path.display());
                return Err(Failure::new("write the token", ExitCode::Failed, text));
            }
            format!("the token {} is in {}\n", token.name, path.display())
        }
        None => {
            print_notice("the token is shown this once");
            if let Some(object) = body.as_object_mut() {
                object.insert("token".into(), text.expose_secret().into());
            }
            format!("{}\n", text.expose_secret())
        }
    };
    Ok(Report::new("token-add", line, &body))
}

async fn make(settings: &Settings, ledger: &Ledger, args: &AddArgs) -> Result<(Token, BearerToken), Failure> {
    let (bearer, now) = (BearerToken::new(rand::random(), rand::random()), clock::now());
    let token = Token {
        id: bearer.id.clone(),
        name: args.name.clone(),
        role: args.role.into(),
        database: args.db.as_deref().map(|name| database(settings, name)).transpose()?,
        created_at: now,
        expires_at: args.expires.map(|lifetime| now + lifetime),
        revoked_at: None,
        last_used_at: None,
    };
    ledger.add_token(&token, &bearer.digest()).await.map_err(Failure::of("token add"))?;
    let outcome = format!("added: {}", token.role);
    audit::note(ledger, "token_add", (token.database.as_deref(), Some(&token.name)), &outcome).await?;
    Ok((token, bearer))
}

/// The name in PostgreSQL of a database that the settings know.
fn database(settings: &Settings, name: &str) -> Result<String, Failure> {
    let sections = &settings.databases;
    let by_name = || sections.values().find(|section| section.connection.database == name);
    match sections.get(name).or_else(by_name) {
        Some(section) => Ok(section.connection.database.clone()),
        None if settings.cluster.databases == DatabaseScope::All => Ok(name.to_owned()),
        None => {
            let text = format!("there is no [database.{name}] in the settings");
            Err(Failure::new("find the database", ExitCode::NotFound, text))
        }
    }
}

async fn list(ledger: &Ledger) -> Result<Report, Failure> {
    let tokens = ledger.tokens().await.map_err(Failure::of("token list"))?;
    let now = clock::now();
    let rows: Vec<_> = tokens.iter().map(|token| row(token, now)).collect();
    let left = Align::Left;
    let head = [
        ("name", left),
        ("role", left),
        ("database", left),
        ("made", left),
        ("expires", left),
        ("last used", left),
        ("state", left),
    ];
    let text = if rows.is_empty() { "there are no tokens\n".into() } else { table(head, &rows) };
    let objects: Vec<Value> = tokens.iter().map(json_of).collect();
    Ok(Report::new("token-list", text, &json!({ "tokens": objects })))
}

fn row(token: &Token, now: DateTime<Utc>) -> [String; 7] {
    let time = |time: Option<DateTime<Utc>>| time.map_or_else(|| "never".into(), time_text);
    let state = match (token.revoked_at, token.is_valid(now)) {
        (Some(at), _) => format!("revoked {}", time_text(at)),
        (None, false) => "expired".into(),
        (None, true) => "counts".into(),
    };
    [
        token.name.clone(),
        token.role.to_string(),
        token.database.clone().unwrap_or_else(|| "-".into()),
        time_text(token.created_at),
        time(token.expires_at),
        time(token.last_used_at),
        state,
    ]
}

fn json_of(token: &Token) -> Value {
    json!({
        "id": token.id, "name": token.name, "role": token.role, "database": token.database,
        "created_at": token.created_at, "expires_at": token.expires_at,
        "revoked_at": token.revoked_at, "last_used_at": token.last_used_at,
    })
}

async fn revoke(ledger: &Ledger, name: &str) -> Result<Report, Failure> {
    let revoked = ledger.revoke_token(name, clock::now()).await.map_err(Failure::of("token revoke"))?;
    let Some(token) = revoked else {
        let failure = Failure::new("token revoke", ExitCode::NotFound, format!("no token {name} counts"));
        return Err(failure.with_hint("`belay token list` shows what there is"));
    };
    audit::note(ledger, "token_revoke", (token.database.as_deref(), Some(name)), "revoked").await?;
    Ok(Report::new("token-revoke", format!("{name} is revoked\n"), &json_of(&token)))
}
