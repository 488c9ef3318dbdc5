//! How much work a device is given at once: enough that it is never idle, and no more than an abort may wait for. It is told
//! when runs are known to have ended, which some browsers say late: Firefox looks every 100 ms. So what is in flight is limited
//! by the time that it is predicted to take, not by a number of answers that are missing.

use std::time::Duration;
use web_time::Instant;

/// How long a run should take: far from any driver's watchdog. An abort waits for the one that runs and the next.
const RUN: Duration = Duration::from_millis(40);
/// Work ([`crate::plan::Cost::work`]) a second before anything is known: right for software adapters, and GPUs soon show more.
const FIRST_RATE: f64 = 6.25e9;
/// Answers that come in so short a time, or a tenth of what the browser takes to look, come for one reason: it looked.
const TOGETHER: Duration = Duration::from_millis(2);
/// After so many seconds of work at once, what was seen before counts half.
const HALF_LIFE: f64 = 0.3;
/// The most that one observation may change the rate.
const GROWTH: f64 = 4.0;
/// Of a device that says when it is done so late that it could be anything.
const MOST_LATENCY: Duration = Duration::from_millis(250);

/// The pace of one device.
pub struct Pace {
    latency: Duration,
    seen: Seen,
    /// The latest answers, which count as one.
    news: Option<News>,
}

/// Work that was done in some time; the older, the less it counts.
#[derive(Clone, Copy)]
struct Seen {
    work: f64,
    seconds: f64,
}

/// Runs that are known to have ended at about one moment.
#[derive(Clone, Copy)]
struct News {
    work: f64,
    /// When the device began with them, as far as is known.
    began: Instant,
    /// How many seconds earlier that may have been: the end of those before was told so much later than expected.
    slack: f64,
    first: Instant,
    last: Instant,
    /// Whether the device had nothing more to do then.
    idle: bool,
}

impl Pace {
    /// Of a device that takes `latency` to say that it has nothing to do.
    pub fn new(latency: Duration) -> Pace {
        // Weighs so little that the first run decides.
        let seen = Seen { work: FIRST_RATE * 0.01, seconds: 0.01 };
        Pace { latency: latency.min(MOST_LATENCY), seen, news: None }
    }

    /// Work of a run that takes about [`RUN`].
    pub fn budget(&self) -> u64 {
        (self.rate() * RUN.as_secs_f64()).clamp(1e6, 1e13) as u64
    }

    /// Whether the next run may be submitted while so much work is not known to be done: those that the device
    /// works on, and those that it may have done since it last told.
    pub fn allows(&self, in_flight: u64) -> bool {
        in_flight as f64 <= self.rate() * (RUN + self.latency).as_secs_f64()
    }

    /// Takes note that a run has ended, in the order of their submission; `idle` says that it was the last one.
    pub fn completed(&mut self, work: u64, submitted: Instant, completed: Instant, idle: bool) {
        let work = work as f64;
        let (mut began, mut slack) = (submitted, 0.0);
        if let Some(news) = &mut self.news {
            let together = TOGETHER.max(self.latency / 10);
            if submitted <= news.last && completed.saturating_duration_since(news.first) < together {
                news.work += work;
                news.last = news.last.max(completed);
                news.idle = idle;
                return;
            }
            // Those of one device follow each other without a pause.
            began = news.last.max(submitted);
            slack = self.seen.lateness(*news).clamp(0.0, (began - submitted).as_secs_f64());
            self.seen = self.seen.with(*news, self.latency);
        }
        self.news = Some(News { work, began, slack, first: completed, last: completed.max(began), idle });
    }

    /// Work ([`crate::plan::Cost::work`]) a second.
    fn rate(&self) -> f64 {
        self.news.map_or(self.seen, |news| self.seen.with(news, self.latency)).rate()
    }
}

impl Seen {
    fn rate(&self) -> f64 {
        self.work / self.seconds
    }

    /// How many seconds later than expected news came.
    fn lateness(&self, news: News) -> f64 {
        (news.last - news.began).as_secs_f64() - news.work / self.rate()
    }

    /// With the news of a device that takes `latency` to tell.
    fn with(self, news: News, latency: Duration) -> Seen {
        let (rate, work) = (self.rate(), news.work);
        let mut took = (news.last - news.began).as_secs_f64();
        if news.idle {
            // It was done at some moment of the time that it takes to tell: when we expected it, if that is possible.
            took = (work / rate).clamp((took - latency.as_secs_f64()).max(0.0), took);
        } else {
            took = (work / rate).clamp(took, took + news.slack);
        }
        let took = took.max(work / (GROWTH * rate));
        let found = work / took;
        if found > 2.0 * rate || (news.idle && found > rate) {
            // Another device than we thought, or one that has even had a rest.
            return Seen { work, seconds: took };
        }
        // A power would be 3 kB more to load.
        let kept = HALF_LIFE / (HALF_LIFE + took);
        Seen { work: kept * self.work + work, seconds: kept * self.seconds + took }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const MS: Duration = Duration::from_millis(1);

    /// A device with a clock of its own: it does `rate` work a second, and tells what is done every `tick`.
    struct Device {
        start: Instant,
        now: Duration,
        rate: f64,
        tick: Duration,
        free: Duration,
    }

    /// What a job was like.
    #[derive(Debug)]
    struct Outcome {
        took: Duration,
        longest_run: Duration,
        /// The most work that the device had before it at any moment.
        most_ahead: Duration,
    }

    impl Device {
        fn new(rate: f64, tick: Duration) -> Device {
            Device { start: Instant::now(), now: 13 * MS, rate, tick, free: Duration::ZERO }
        }

        fn pace(&self) -> Pace {
            Pace::new(self.tick.max(MS / 5))
        }

        /// When the end of a run is told.
        fn told(&self, ended: Duration) -> Duration {
            match self.tick.as_nanos() {
                0 => ended + MS / 5,
                tick => Duration::from_nanos((ended.as_nanos().div_ceil(tick) * tick) as u64),
            }
        }

        /// Does so many multiply-adds, in kernels of `kernel` each, as a session would.
        fn work(&mut self, pace: &mut Pace, total: f64, kernel: f64) -> Outcome {
            let began = self.now;
            let mut running: VecDeque<(u64, Duration, Duration)> = VecDeque::new();
            let mut outcome = Outcome { took: Duration::ZERO, longest_run: Duration::ZERO, most_ahead: Duration::ZERO };
            let mut left = total;
            while left > 0.0 {
                let run = ((pace.budget() as f64 / kernel).ceil() * kernel).min(left);
                left -= run;
                self.now += MS / 10;
                let length = Duration::from_secs_f64(run / self.rate);
                self.free = self.free.max(self.now) + length;
                running.push_back((run as u64, self.now, self.told(self.free)));
                outcome.longest_run = outcome.longest_run.max(length);
                outcome.most_ahead = outcome.most_ahead.max(self.free - self.now);
                while let Some(&(run, submitted, told)) = running.front() {
                    let in_flight = running.iter().map(|&(run, ..)| run).sum();
                    if told > self.now && (running.len() == 1 || pace.allows(in_flight)) {
                        break;
                    }
                    self.now = self.now.max(told);
                    running.pop_front();
                    pace.completed(run, self.start + submitted, self.start + told, running.is_empty());
                }
            }
            self.now = self.now.max(self.told(self.free));
            while let Some((run, submitted, told)) = running.pop_front() {
                pace.completed(run, self.start + submitted, self.start + told, running.is_empty());
            }
            outcome.took = self.now - began;
            outcome
        }
    }

    #[test]
    fn an_honest_device_is_never_idle_and_never_has_much_before_it() {
        for rate in [1e9, 6e9, 2e11, 5e12] {
            let mut device = Device::new(rate, Duration::ZERO);
            let mut pace = device.pace();
            device.work(&mut pace, 2.0 * rate, rate / 1e3);
            let outcome = device.work(&mut pace, 2.0 * rate, rate / 1e3);
            assert!(outcome.took < 2060 * MS, "{rate}: {outcome:?}");
            assert!(outcome.longest_run < 48 * MS, "{rate}: {outcome:?}");
            assert!(outcome.most_ahead < 100 * MS, "{rate}: {outcome:?}");
        }
    }

    #[test]
    fn a_device_that_tells_late_is_never_idle_either() {
        for rate in [1e9, 6e9, 2e11, 5e12] {
            let mut device = Device::new(rate, 100 * MS);
            let mut pace = device.pace();
            device.work(&mut pace, 2.0 * rate, rate / 1e3);
            let outcome = device.work(&mut pace, 2.0 * rate, rate / 1e3);
            // The end of it is told up to 100 ms late.
            assert!(outcome.took < 2200 * MS, "{rate}: {outcome:?}");
            assert!(outcome.longest_run < 60 * MS, "{rate}: {outcome:?}");
            assert!(outcome.most_ahead < 250 * MS, "{rate}: {outcome:?}");
        }
    }

    #[test]
    fn the_first_picture_of_a_fast_gpu_takes_few_of_its_ticks() {
        let mut device = Device::new(5e12, 100 * MS);
        let mut pace = device.pace();
        let outcome = device.work(&mut pace, 25e9, 1e7);
        assert!(outcome.took <= 600 * MS, "{outcome:?}");
        assert!(outcome.longest_run < 40 * MS, "{outcome:?}");
    }

    #[test]
    fn a_device_that_slows_down_is_given_less() {
        for tick in [Duration::ZERO, 100 * MS] {
            let mut device = Device::new(6e10, tick);
            let mut pace = device.pace();
            device.work(&mut pace, 1.2e11, 1e7);
            device.rate = 6e9;
            device.work(&mut pace, 6e9, 1e7);
            let outcome = device.work(&mut pace, 6e9, 1e7);
            assert!(outcome.longest_run < 70 * MS, "{outcome:?}");
            assert!(outcome.took < 1200 * MS, "{outcome:?}");
        }
    }

    #[test]
    fn one_hiccup_is_not_taken_for_the_device() {
        let mut device = Device::new(6e9, Duration::ZERO);
        let mut pace = device.pace();
        device.work(&mut pace, 6e9, 1e6);
        let usual = pace.budget();
        let submitted = device.start + device.now;
        pace.completed(usual, submitted, submitted + 240 * MS, false);
        assert!(pace.budget() > usual / 3, "{} after {usual}", pace.budget());
    }

    #[test]
    fn an_answer_that_comes_late_makes_no_fast_run_of_the_next() {
        let mut device = Device::new(6e9, Duration::ZERO);
        let mut pace = device.pace();
        device.work(&mut pace, 6e9, 1e6);
        let usual = pace.budget();
        let submitted = device.start + device.now;
        // Each takes 40 ms; nobody listened when the first ended.
        for told in [76, 80, 120, 160] {
            pace.completed(usual, submitted, submitted + told * MS, false);
            assert!((usual / 2..usual * 3 / 2).contains(&pace.budget()), "{} after {usual}", pace.budget());
        }
    }

    #[test]
    fn times_that_a_coarse_clock_calls_none_are_no_infinite_speed() {
        let mut pace = Pace::new(Duration::ZERO);
        let now = Instant::now();
        let before = pace.budget();
        pace.completed(before, now, now, true);
        assert!(pace.budget() <= 4 * before + 4);
        for _ in 0..100 {
            pace.completed(pace.budget(), now + MS, now + MS, false);
            pace.completed(pace.budget(), now + 2 * MS, now + 9 * MS, true);
        }
        assert!((1_000_000..=10_000_000_000_000).contains(&pace.budget()));
    }
}
