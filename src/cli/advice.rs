//! What an operator can do about an error: its exit code and its hint.

mod physical;
mod store;

use std::error::Error;
use std::io::ErrorKind;

use super::report::ExitCode;
use crate::catalog::CatalogError;
use crate::command::CommandError;
use crate::fence::FenceError;
use crate::jobs::JobError;
use crate::keys::KeyError;
use crate::ledger::LedgerError;
use crate::ledger::lock::LockError;
use crate::postgres::PostgresError;
use crate::remote::{BadAddress, Fault, RemoteError};
use crate::rules::signature::SignatureError;
use crate::rules::table_name::TableNotFound;
use crate::seal::SealError;
use crate::settings::SettingsError;
use crate::store::StoreError;
use crate::store::s3::S3StoreError;

type Advice = Option<(ExitCode, Option<String>)>;

/// Finds the error that someone can do something about, in the chain of causes.
pub fn advice(error: &(dyn Error + 'static)) -> (ExitCode, Option<String>) {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(found) = advice_on(error) {
            return found;
        }
        current = inner(error).or_else(|| error.source());
    }
    (ExitCode::Failed, None)
}

/// The error inside a transparent variant, which `source` passes over, or inside a shared one, whose
/// type it hides.
fn inner<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    if let Some(job) = error.downcast_ref::<JobError>() {
        return match job {
            JobError::Postgres(inner) => Some(inner),
            JobError::Store(inner) => Some(inner),
            JobError::Catalog(inner) => Some(inner),
            JobError::Seal(inner) => Some(inner),
            JobError::Ledger(inner) => Some(inner),
            JobError::Lock(inner) => Some(inner),
            JobError::Fence(inner) => Some(inner),
            JobError::Command(inner) => Some(inner),
            _ => None,
        };
    }
    match error.downcast_ref::<FenceError>() {
        Some(FenceError::Settings(inner)) => return Some(inner),
        Some(FenceError::Postgres(inner)) => return Some(inner),
        _ => {}
    }
    match error.downcast_ref::<CatalogError>() {
        Some(CatalogError::Store(inner)) => Some(inner),
        Some(CatalogError::NotBelieved { source, .. }) => Some(source.as_ref()),
        _ => None,
    }
}

fn on_fault(fault: Fault) -> &'static str {
    match fault {
        Fault::Certificate => {
            "the server's certificate is not trusted: give the certificate of who issued it with --ca-file, and call the server by a name that the certificate has"
        }
        Fault::NoTls => {
            "nothing there speaks TLS 1.2 or 1.3: look at the port, and at tls_cert on the database host"
        }
        Fault::NoHttp => {
            "what answers there speaks no HTTP: if it wants TLS, begin the address with https://"
        }
        Fault::NoSocket => "there is no such socket: is `belay serve` running, and socket set in [http]?",
    }
}

/// Where a runner has its token from.
pub const TOKEN: &str = "BELAY_TOKEN, or the file of --token-file, has the token; `belay token add` on the database host makes one";

fn on_remote(error: &RemoteError) -> Advice {
    let RemoteError::Refused { status, hint, exit_code, .. } = error else {
        let code = match error {
            RemoteError::Unreachable { .. } => ExitCode::Failed,
            _ => ExitCode::Usage,
        };
        return Some((code, error.fault().map(|fault| on_fault(fault).to_owned())));
    };
    let known = exit_code.and_then(|code| ExitCode::ALL.into_iter().find(|known| *known as u8 == code));
    let by_status = || match status {
        401 | 413 | 422 => ExitCode::Usage,
        403 => ExitCode::Refused,
        404 => ExitCode::NotFound,
        _ => ExitCode::Failed,
    };
    // The daemon speaks of the header, which nobody here writes.
    let hint = if *status == 401 { Some(TOKEN.to_owned()) } else { hint.clone() };
    Some((known.unwrap_or_else(by_status), hint))
}

fn said(code: ExitCode, hint: &str) -> Advice {
    Some((code, Some(hint.to_owned())))
}

fn advice_on(error: &(dyn Error + 'static)) -> Advice {
    if error.is::<SettingsError>() {
        return Some((ExitCode::Usage, None));
    }
    if let Some(error) = error.downcast_ref::<RemoteError>() {
        return on_remote(error);
    }
    if error.is::<BadAddress>() {
        return Some((ExitCode::Usage, None));
    }
    if error.is::<KeyError>() {
        return said(
            ExitCode::Usage,
            "`belay init` makes the keys of a host; [keys] in the settings says where they are",
        );
    }
    if let Some(LedgerError::NameTaken { .. }) = error.downcast_ref() {
        return said(ExitCode::Refused, "choose another name, or free this one with `belay token revoke`");
    }
    if error.is::<LedgerError>() {
        return said(
            ExitCode::Failed,
            "the ledger lies in the state directory; it holds no snapshot, only the record of runs",
        );
    }
    if let Some(LockError::Busy { .. }) = error.downcast_ref() {
        return said(ExitCode::Busy, "wait for the other run, or look at it with `belay status`");
    }
    if let Some(error) = error.downcast_ref::<PostgresError>() {
        return on_postgres(error);
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return store::on_store(error);
    }
    if error.is::<S3StoreError>() {
        return said(ExitCode::Usage, "ca_file in [repository] names a file of certificates in PEM");
    }
    if let Some(error) = error.downcast_ref::<CatalogError>() {
        return on_catalog(error);
    }
    if let Some(error) = error.downcast_ref::<SealError>() {
        return on_seal(error);
    }
    if error.is::<FenceError>() {
        return said(
            ExitCode::FenceFailed,
            "look at [[gate.fence]] in the settings; sessions = \"end\" in [gate] ends sessions that are left",
        );
    }
    if let Some(CommandError::NotFound { .. }) = error.downcast_ref() {
        return said(ExitCode::Refused, "name the program by its whole path, or see to PATH");
    }
    if let Some(error) = error.downcast_ref::<SignatureError>() {
        return on_signature(error);
    }
    on_job(error.downcast_ref::<JobError>()?)
}

fn on_seal(error: &SealError) -> Advice {
    match error {
        SealError::WrongIdentity => {
            said(ExitCode::Usage, "give the identity of one of the recipients; the recovery kit names them")
        }
        SealError::NoRecipient => said(ExitCode::Usage, "set recipients in [keys], or run `belay init`"),
        SealError::NotAge(_) | SealError::Damaged(_) => said(
            ExitCode::Problem,
            "choose another snapshot (`belay list`); `belay verify` names everything that is damaged",
        ),
        SealError::Seal(_) => None,
    }
}

fn on_signature(error: &SignatureError) -> Advice {
    match error {
        SignatureError::Stranger { .. } => said(
            ExitCode::Problem,
            "compare the key with the one in your recovery kit; if you trust it, name it with --trust-signer",
        ),
        _ => said(ExitCode::Problem, "somebody or something changed it in the store; do not use it"),
    }
}

fn on_job(error: &JobError) -> Advice {
    match error {
        JobError::Object { source: SealError::WrongIdentity, .. } => None,
        JobError::Object { key, .. } => physical::on_object(key),
        JobError::DamagedBase { instead, .. } => physical::on_damaged(instead.as_ref()),
        JobError::NotFromBase { instead, .. } => physical::on_choice(instead.as_ref()),
        JobError::NoBase { .. } => said(ExitCode::Refused, physical::NO_BASE),
        JobError::Disk { source, .. } => on_disk(source.kind()),
        JobError::Refused { .. } => Some((ExitCode::Refused, None)),
        JobError::NoTable(TableNotFound::Missing { .. }) => said(
            ExitCode::NotFound,
            "a partitioned table keeps its rows in its partitions: name those; a table without rows of its own is not listed",
        ),
        JobError::NoTable(TableNotFound::Ambiguous { .. }) => {
            said(ExitCode::NotFound, "name its schema too: SCHEMA.TABLE")
        }
        JobError::NotProven { .. } => {
            said(ExitCode::Problem, "nothing was replaced; verify the snapshot, or choose another")
        }
        JobError::OtherCluster { .. } => said(
            ExitCode::Refused,
            "give this cluster a name of its own in [cluster]; is host and port in the settings the right server?",
        ),
        JobError::NoIdentity { .. } => {
            said(ExitCode::Usage, "set identity_file in [keys], or give --identity with the offline identity")
        }
        _ => None,
    }
}

fn on_disk(kind: ErrorKind) -> Advice {
    let hint = match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room on the disk that this is on",
        ErrorKind::FileTooLarge => {
            "a limit on the size of files keeps belay from writing it: look at `ulimit -f`, or LimitFSIZE of the service"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "the user that belay runs as must be able to write there"
        }
        _ => return None,
    };
    said(ExitCode::Failed, hint)
}

/// What lets a role write heartbeats.
pub const HEARTBEAT: &str = "GRANT CREATE ON DATABASE postgres TO the role; or make the table yourself, as CREATE SCHEMA belay; \
    CREATE TABLE belay.heartbeat (at timestamptz PRIMARY KEY), and give both to the role";

const TABLESPACES: &str = "tablespaces were made or dropped each time that the base backup began, or the machine is too busy; make it again later";

const LOCKED: &str = "something holds or waits for an exclusive lock, such as a migration; run again later, or raise lock_timeout";

/// What lets a role read large objects; pg_read_all_data does not.
pub const LARGE_OBJECTS: &str = "GRANT SELECT ON LARGE OBJECT ... TO the role, or ALTER LARGE OBJECT ... OWNER TO it, for each; \
    or ALTER ROLE ... SET lo_compat_privileges = on for it; or use the cluster's superuser";

fn on_postgres(error: &PostgresError) -> Advice {
    let failed = |hint: &str| said(ExitCode::Failed, hint);
    let rights = "grant pg_read_all_data to the role in [database.NAME], or use the cluster's superuser";
    match error {
        PostgresError::NoDatabase { .. } => {
            said(ExitCode::NotFound, "name it in [database.NAME], or look with `psql -l`")
        }
        PostgresError::Connect { .. } => {
            failed("check host, port, user and password_file in [database.NAME]; is the server running?")
        }
        PostgresError::Denied { message, .. } if message.contains("large object") => failed(LARGE_OBJECTS),
        PostgresError::ToolFailed { messages, .. }
            if messages.contains("permission denied for large object") =>
        {
            failed(LARGE_OBJECTS)
        }
        PostgresError::Denied { message, .. } if on_replication(message).is_some() => {
            on_replication(message).and_then(failed)
        }
        PostgresError::Denied { action, .. } if action.contains("heartbeat") => failed(HEARTBEAT),
        PostgresError::Denied { .. } => failed(rights),
        PostgresError::LockTimeout { .. } => failed(LOCKED),
        // pg_dump limits its wait for a lock by statement_timeout.
        PostgresError::ToolFailed { messages, .. }
            if messages.contains("LOCK TABLE") && messages.contains("timeout") =>
        {
            failed(LOCKED)
        }
        PostgresError::NotUtf8 { .. } => failed(
            "rename them in psql with client_encoding set to the server's (ALTER TABLE ... RENAME and the like); rows may hold any bytes",
        ),
        PostgresError::NoSpace { .. } => failed("make room on the server's disk; nothing was replaced"),
        PostgresError::ToolMissing { wanted, .. } => failed(&format!(
            "install postgresql-client-{wanted} (or newer), or set bin_directory in [cluster]"
        )),
        PostgresError::ServerMissing { major, .. } => failed(&format!(
            "install postgresql-{major} on this machine (no cluster of it needs to run), or set bin_directory in [cluster]"
        )),
        PostgresError::ToolFailed { messages, .. } if on_replication(messages).is_some() => {
            on_replication(messages).and_then(failed)
        }
        PostgresError::ToolFailed { tool, messages, .. }
            if tool == "pg_basebackup" && messages.contains("could not create file") =>
        {
            failed(TABLESPACES)
        }
        PostgresError::Incomplete { tool: "pg_basebackup", .. } => failed(TABLESPACES),
        PostgresError::ToolFailed { messages, .. } if messages.contains("permission denied") => {
            failed(rights)
        }
        PostgresError::ToolFailed { messages, .. } if messages.contains("server version mismatch") => {
            failed("install the client programs of the server's version, or set bin_directory in [cluster]")
        }
        PostgresError::ToolFailed { messages, .. } if messages.contains("No space left") => {
            failed("make room on the disk that is full")
        }
        PostgresError::Stalled { .. } => {
            failed("look for locks and for a hanging disk or network; stall_timeout says how long is waited")
        }
        _ => None,
    }
}

/// What keeps a role or a server from replication, by what the server said.
fn on_replication(said: &str) -> Option<&'static str> {
    const HINTS: [(&str, &str); 5] = [
        (
            "pg_hba.conf",
            "allow it in pg_hba.conf, by a line such as `local replication ROLE peer`, and reload the server",
        ),
        ("replication role", "give the role REPLICATION: ALTER ROLE ... REPLICATION"),
        ("permission denied to start WAL sender", "give the role REPLICATION: ALTER ROLE ... REPLICATION"),
        (
            "permission denied to use replication slots",
            "give the role REPLICATION: ALTER ROLE ... REPLICATION",
        ),
        ("wal_level", "set wal_level = replica on the server, which is its default, and restart it"),
    ];
    let is_of_replication = said.contains("replication") || said.contains("WAL sender");
    let found = HINTS.iter().find(|(words, _)| said.contains(words));
    found.filter(|_| is_of_replication || said.contains("wal_level")).map(|(_, hint)| *hint)
}

/// What to do about a snapshot of which an object cannot be read.
pub const UNREADABLE_HINT: &str = "nothing uses it, and no chunk is swept while it is there; see to owner, mode and disk of that file; \
    a verified-*.json may be removed, and the snapshot be verified again";
const NO_REPOSITORY_HINT: &str =
    "check url in [repository], and that what it lies on is mounted; on a new host, `belay init` creates one";

fn on_catalog(error: &CatalogError) -> Advice {
    match error {
        CatalogError::NotFound { .. } => said(ExitCode::NotFound, "`belay list` shows what there is"),
        CatalogError::Unreadable { .. } => said(ExitCode::Failed, UNREADABLE_HINT),
        CatalogError::NoRepository { .. } => said(ExitCode::NotFound, NO_REPOSITORY_HINT),
        CatalogError::RecordLost { .. } => said(
            ExitCode::Problem,
            "put belay.json back from a copy of the repository, or write it again from the signed manifests: `belay init --takeover`, \
            with the recipients that the recovery kit names; `belay restore --standalone --trust-signer KEY` does without it",
        ),
        CatalogError::ForeignWriter { .. } => said(
            ExitCode::Refused,
            "if this host replaces the other, `belay init --takeover` makes it the writer",
        ),
        CatalogError::Format { .. } => {
            said(ExitCode::Problem, "it was written by a newer belay: use that version or a newer one")
        }
        CatalogError::Misplaced { .. } => {
            said(ExitCode::Problem, "somebody moved or copied it in the store; do not use it")
        }
        _ => None,
    }
}
