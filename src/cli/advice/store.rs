//! What can be done about what a store says.

use super::{Advice, physical, said};
use crate::cli::report::ExitCode;
use crate::store::{AccessFault, StoreError};

/// On what a store says.
pub(super) fn on_store(error: &StoreError) -> Advice {
    match error {
        StoreError::Unreached { fault, .. } => on_access(fault),
        StoreError::Denied { action: "read" | "list", store, .. } if is_bucket(store) => said(
            ExitCode::Failed,
            "the credentials must be allowed s3:GetObject, s3:ListBucket and s3:ListBucketMultipartUploads there",
        ),
        StoreError::Denied { store, .. } if is_bucket(store) => said(
            ExitCode::Failed,
            "the credentials must be allowed s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload there (with object_lock also s3:PutObjectRetention)",
        ),
        StoreError::Io { store, .. } if is_bucket(store) => said(
            ExitCode::Failed,
            "it was tried several times (attempts and timeout in [repository]); look at the network and at the store, then run it again",
        ),
        StoreError::Full { .. } => said(
            ExitCode::Failed,
            "make room in the repository: `belay retain` removes what is old; nothing of this run is listed",
        ),
        StoreError::Denied { action: "read" | "list", .. } => said(
            ExitCode::Failed,
            "everything in the repository must be readable by the user that belay runs as: look at owner and mode",
        ),
        StoreError::Denied { .. } => {
            said(ExitCode::Failed, "the repository must be writable by the user that belay runs as")
        }
        StoreError::Io { action: "read" | "list", .. } => said(
            ExitCode::Failed,
            "look at the disk or the mount that the repository is on; copy away what can still be read",
        ),
        StoreError::Missing { key, .. } => physical::on_object(key).or_else(|| {
            said(
                ExitCode::Problem,
                "an object of the snapshot is missing; `belay verify` names everything that is",
            )
        }),
        _ => None,
    }
}

fn is_bucket(address: &str) -> bool {
    address.starts_with("s3://")
}

fn on_access(fault: &AccessFault) -> Advice {
    let usage = |hint: &str| said(ExitCode::Usage, hint);
    match fault {
        AccessFault::NoBucket => usage("make the bucket, or look at url and endpoint in [repository]"),
        AccessFault::Region { named: Some(region) } => {
            usage(&format!("set region = {region:?} in [repository]"))
        }
        AccessFault::Region { named: None } => usage("set region in [repository] to where the bucket is"),
        AccessFault::NoCredentials(_) => usage(
            "set credentials_file or profile in [repository], or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
        ),
        AccessFault::UnknownKey | AccessFault::WrongSecret | AccessFault::Expired => usage(
            "look at credentials_file and profile in [repository], or at the AWS_ variables; is the endpoint the right one?",
        ),
        AccessFault::Clock => said(ExitCode::Failed, "set this host's clock (NTP)"),
        AccessFault::Tls(_) => usage(
            "set ca_file in [repository] to the certificate of the authority that signed the server's; is it https:// there?",
        ),
        AccessFault::Network(_) => said(
            ExitCode::Failed,
            "look at endpoint in [repository], at name resolution, firewall and HTTPS_PROXY",
        ),
    }
}
