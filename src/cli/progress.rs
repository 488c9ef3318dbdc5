//! How far long work is: a bar on a terminal, and elsewhere a line now and then, so that a log shows life.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two lines, at least.
const PAUSE: Duration = Duration::from_secs(10);

pub struct Progress {
    what: String,
    all: u64,
    done: u64,
    bar: Option<ProgressBar>,
    started: Instant,
    said: Instant,
}

impl Progress {
    /// Work of so many like parts.
    pub fn new(what: impl Into<String>, all: u64) -> Progress {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}% {elapsed}, {eta} left");
            let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what.clone())
        });
        let now = Instant::now();
        Progress { what, all, done: 0, bar, started: now, said: now }
    }

    /// One part more is done.
    pub fn step(&mut self) {
        self.done += 1;
        match &self.bar {
            Some(bar) => bar.inc(1),
            None => {
                if let Some(line) = self.line(Instant::now()) {
                    let _ = writeln!(std::io::stderr(), "{line}");
                }
            }
        }
    }

    /// What to say now, if anything.
    fn line(&mut self, now: Instant) -> Option<String> {
        if now.duration_since(self.said) < PAUSE {
            return None;
        }
        self.said = now;
        let percent = (100 * self.done / self.all.max(1)).min(100);
        Some(format!("{}: {percent} %, {} s", self.what, now.duration_since(self.started).as_secs()))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_every_ten_seconds_at_most() {
        let mut progress = Progress::new("writing q8", 400);
        let begin = progress.started;
        let mut said = Vec::new();
        for second in 1..=25 {
            progress.done += 10;
            said.extend(progress.line(begin + Duration::from_secs(second)));
        }
        assert_eq!(said, ["writing q8: 25 %, 10 s", "writing q8: 50 %, 20 s"]);
    }
}
