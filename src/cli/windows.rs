//! The moments that can be had again, as `list` and `status` tell them.

use serde_json::{Value, json};

use super::host::Host;
use super::report::{Failure, print_notice, time_text};
use super::wal;
use crate::jobs::recover::Stock;

/// What each base backup reaches, on every timeline: as text, where several timelines are named, and as
/// JSON, the oldest timeline first; nothing where there is no base backup.
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
    let windows = stock.windows_of_all();
    let has_several = windows.iter().any(|window| Some(window.timeline) != windows.first().map(|w| w.timeline));
    let (mut text, mut told) = (String::new(), Vec::new());
    for window in &windows {
        let until = stock.complete_until(&host.catalog, window).await.map_err(failed())?;
        let base = &window.base;
        let reach = match until {
            Some(until) => format!("any moment from {} to {}", time_text(base.ended_at), time_text(until)),
            None => "no moment: its log is not stored".into(),
        };
        let gap = window.resumes.map(|lsn| format!("; log is missing from {} to {lsn}", window.end));
        let on = if has_several { format!("timeline {}, ", window.timeline) } else { String::new() };
        text.push_str(&format!("{on}base backup {}: {reach}{}\n", base.id, gap.unwrap_or_default()));
        told.push(json!({
            "base": base.id, "timeline": window.timeline, "from": base.ended_at, "until": until,
            "from_lsn": base.stop, "until_lsn": window.end, "resumes_lsn": window.resumes,
        }));
    }
    Ok((text, told))
}
