//! The moments that can be had again, as `list` and `status` tell them.

use serde_json::{Value, json};

use super::host::Host;
use super::report::{Failure, print_notice, time_text};
use super::wal;
use crate::jobs::recover::Stock;
use crate::rules::physical;

/// What each base backup reaches, on the newest timeline: as text and as JSON; nothing where there is
/// no base backup.
///
/// # Errors
/// [`Failure`] when the repository cannot be read.
pub async fn windows(host: &Host) -> Result<(String, Vec<Value>), Failure> {
    let failed = || Failure::of("read the base backups");
    let mut stock = Stock::read(&host.catalog, host.opener().as_ref()).await.map_err(failed())?;
    stock.shipped = wal::shipped(&host.settings.state.directory);
    for (id, reason) in &stock.rejected {
        print_notice(&format!("base backup {id} is not listed: {reason}"));
    }
    let (timeline, windows) = stock.windows(None);
    let (mut text, mut told) = (String::new(), Vec::new());
    for window in &windows {
        let until = stock.complete_until(&host.catalog, window).await.map_err(failed())?;
        let until = until.filter(|_| window.is_usable());
        let base = &window.base;
        let kind = physical::kind(base.parent.as_ref());
        let reach = match (until, &window.missing) {
            (_, Some(missing)) => {
                format!("no moment: base backup {missing}, which it builds on, is missing or not believed")
            }
            (Some(until), None) => {
                format!("any moment from {} to {}", time_text(base.ended_at), time_text(until))
            }
            (None, None) => "no moment: its log is not stored".into(),
        };
        let gap = window.resumes.map(|lsn| format!("; log is missing from {} to {lsn}", window.end));
        text.push_str(&format!("base backup {} ({kind}): {reach}{}\n", base.id, gap.unwrap_or_default()));
        told.push(json!({
            "base": base.id, "timeline": timeline, "from": base.ended_at, "until": until,
            "from_lsn": base.stop, "until_lsn": window.end, "resumes_lsn": window.resumes,
            "kind": kind, "parent": base.parent, "missing": window.missing,
        }));
    }
    Ok((text, told))
}
