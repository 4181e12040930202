//! The moments that can be had again, as `list` and `status` tell them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use super::host::Host;
use super::report::{Failure, print_notice, time_text};
use super::wal;
use crate::jobs::recover::Stock;
use crate::rules::recovery::Window;

/// What each base backup reaches, on every timeline: as text, where several timelines are named, and as
/// JSON, the oldest timeline first; nothing where there is no base backup.
///
/// # Errors
/// [`Failure`] when the repository cannot be read.
pub async fn windows(host: &Host) -> Result<(String, Vec<Value>), Failure> {
    let windows = read(host).await?;
    let has_several = have_several_timelines(windows.iter().map(|(window, _)| window.timeline));
    let (mut text, mut told) = (String::new(), Vec::new());
    for (window, until) in &windows {
        let base = &window.base;
        let reach = match until {
            Some(until) => format!("any moment from {} to {}", time_text(base.ended_at), time_text(*until)),
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

/// Moments in a row that can be had again.
#[derive(Debug, Serialize)]
pub struct Moments {
    timeline: u32,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl Moments {
    /// A line for each, with the timeline where there are several.
    pub fn lines(all: &[Self]) -> String {
        let has_several = have_several_timelines(all.iter().map(|moments| moments.timeline));
        let line = |moments: &Self| {
            let on = if has_several { format!("timeline {}: ", moments.timeline) } else { String::new() };
            let (from, until) = (time_text(moments.from), time_text(moments.until));
            format!("moments       {on}any moment from {from} to {until}\n")
        };
        all.iter().map(line).collect()
    }
}

/// Which moments can be had again, on every timeline, the oldest first.
///
/// # Errors
/// [`Failure`] when the repository cannot be read.
pub async fn moments(host: &Host) -> Result<Vec<Moments>, Failure> {
    let mut all: Vec<Moments> = Vec::new();
    for (window, until) in read(host).await? {
        let Some(until) = until else { continue };
        let (timeline, from) = (window.timeline, window.base.ended_at);
        match all.last_mut().filter(|last| last.timeline == timeline && last.until >= from) {
            Some(last) => last.until = last.until.max(until),
            None => all.push(Moments { timeline, from, until }),
        }
    }
    Ok(all)
}

async fn read(host: &Host) -> Result<Vec<(Window, Option<DateTime<Utc>>)>, Failure> {
    let failed = || Failure::of("read the base backups");
    let mut stock = Stock::read(&host.catalog, host.opener().as_ref()).await.map_err(failed())?;
    stock.shipped = wal::shipped(&host.settings.state.directory);
    for (id, reason) in &stock.rejected {
        print_notice(&format!("base backup {id} is not listed: {reason}"));
    }
    let mut windows = Vec::new();
    for window in stock.windows_of_all() {
        let until = stock.complete_until(&host.catalog, &window).await.map_err(failed())?;
        windows.push((window, until));
    }
    Ok(windows)
}

fn have_several_timelines(timelines: impl Iterator<Item = u32>) -> bool {
    timelines.collect::<std::collections::BTreeSet<u32>>().len() > 1
}
