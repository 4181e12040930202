//! What a bucket does of all that Belay asks of S3; what was seen is remembered for later runs.

use chrono::TimeDelta;

use super::Findings;
use super::host::probe_key;
use crate::cli::clock;
use crate::cli::report::{ExitCode, Failure};
use crate::cli::repository::{open_bucket, remember};
use crate::settings::Settings;
use crate::store::s3::{ConditionalPut, Profile, S3Store};

const SUBJECT: &str = "bucket";
/// S3 refuses requests whose time is wrong by a quarter of an hour.
const CLOCK_WARNING: TimeDelta = TimeDelta::minutes(5);

/// Tries the bucket, where the repository lies in one.
pub(super) async fn check_bucket(settings: &Settings, findings: &mut Findings) {
    let opened = open_bucket(&settings.repository, None).await;
    let Some(Some(bucket)) = findings.take(SUBJECT, opened) else { return };
    check_clock(&bucket, findings).await;
    let probed = Box::pin(bucket.probe(&probe_key(&settings.cluster.name))).await;
    let Some(profile) = findings.take(SUBJECT, probed.map_err(Failure::of("try the bucket"))) else { return };
    tell(&profile, findings);
    let remembered = remember(&settings.repository, &profile, &settings.state.directory);
    findings.take(
        SUBJECT,
        remembered
            .map_err(|error| Failure::new("remember what it does", ExitCode::Failed, error.to_string())),
    );
}

async fn check_clock(bucket: &S3Store, findings: &mut Findings) {
    let Some(Some(theirs)) =
        findings.take(SUBJECT, bucket.time().await.map_err(Failure::of("ask the bucket")))
    else {
        return;
    };
    let difference = (clock::now() - theirs).abs();
    if difference > CLOCK_WARNING {
        let text = format!("its clock and this host's are {} minutes apart", difference.num_minutes());
        findings.warning(
            SUBJECT,
            text,
            "set this host's clock (NTP): beyond 15 minutes requests are refused",
        );
    }
}

fn tell(profile: &Profile, findings: &mut Findings) {
    let conditional = match profile.conditional_put {
        ConditionalPut::Honoured => "a second write of an object is refused there",
        ConditionalPut::Ignored => "If-None-Match is passed over there, so every write asks first",
        ConditionalPut::Refused => "If-None-Match is not known there, so every write asks first",
    };
    findings.ok(SUBJECT, format!("objects in one and in several parts are kept; {conditional}"));
    if !profile.lists_at_once {
        let hint = "Belay needs listings that show what is stored: take another store, or ask its maker";
        findings.problem(SUBJECT, "an object that was stored is not listed", hint);
    }
    if !profile.lists_unfinished {
        let hint = "set a lifecycle rule there that aborts incomplete multipart uploads after a few days";
        findings.warning(
            SUBJECT,
            "it lists no unfinished uploads, so `belay retain` cannot sweep them",
            hint,
        );
    }
    match profile.locks {
        Some(true) => findings.ok(SUBJECT, "objects are locked"),
        Some(false) => findings.problem(
            SUBJECT,
            "object_lock is set, and an object was stored without a lock",
            "a bucket must be made with object lock, and some stores know none: remove object_lock, or change the bucket",
        ),
        None => {}
    }
}
