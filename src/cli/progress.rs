//! Shows how far a job is: a bar on a terminal, a line every few seconds elsewhere, on standard
//! error.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Global;
use super::report::bytes_text;
use crate::jobs::Progress;
use crate::rules::plain;

const BAR_PAUSE: Duration = Duration::from_millis(100);
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// Runs `work`, showing `progress` meanwhile.
pub async fn shown<T>(
    global: &Global,
    title: &str,
    progress: &Arc<Progress>,
    work: impl Future<Output = T>,
) -> T {
    if global.quiet || !std::io::stderr().is_terminal() {
        return shown_in_lines(global, title, progress, work).await;
    }
    tokio::pin!(work);
    let bar = bar(global);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            () = tokio::time::sleep(BAR_PAUSE) => draw(&bar, title, progress),
        }
    };
    bar.finish_and_clear();
    done
}

/// Runs `work`, with a line every few seconds while `progress` moves: for work that has others
/// write to the terminal.
pub async fn shown_in_lines<T>(
    global: &Global,
    title: &str,
    progress: &Arc<Progress>,
    work: impl Future<Output = T>,
) -> T {
    if global.quiet {
        return work.await;
    }
    tokio::pin!(work);
    let mut beats = progress.beats();
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(LINE_PAUSE) => {
                let before = std::mem::replace(&mut beats, progress.beats());
                if before != beats {
                    print_line(title, progress);
                }
            }
        }
    }
}

fn bar(global: &Global) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let template = if global.no_color {
        "{prefix}: {msg} [{wide_bar}] {bytes}/{total_bytes} {binary_bytes_per_sec} eta {eta}"
    } else {
        "{prefix:.bold}: {msg} [{wide_bar:.cyan}] {bytes}/{total_bytes} {binary_bytes_per_sec} eta {eta}"
    };
    bar.set_style(
        ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> "),
    );
    bar
}

fn draw(bar: &ProgressBar, title: &str, progress: &Progress) {
    let (done, expected) = progress.bytes();
    bar.set_prefix(title.to_owned());
    bar.set_message(progress.phase());
    bar.set_length(expected.max(done));
    bar.set_position(done);
}

fn print_line(title: &str, progress: &Progress) {
    print_progress(title, progress.phase(), progress.bytes());
}

/// Prints how far something is: what it does now, bytes done, and bytes expected, zero when that is
/// not known.
pub fn print_progress(title: &str, doing: &str, (done, expected): (u64, u64)) {
    let amount = match (done, expected) {
        (0, _) => String::new(),
        (done, 0) => format!(", {}", bytes_text(done)),
        (done, expected) => format!(", {} of about {}", bytes_text(done), bytes_text(expected.max(done))),
    };
    let _ =
        writeln!(std::io::stderr().lock(), "belay: {}: {}{amount}", plain::line(title), plain::line(doing));
}
