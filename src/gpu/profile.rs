//! Where a forward's time goes: every kernel timed by the GPU's own clock, beside what the adapter's arithmetic reaches at
//! most.

use super::backend::{Dispatch, Pipeline, Usage};
use super::kernels::{PEAK_INVOCATIONS, peaks};
use super::{Device, Session};
use crate::json::{self, Value, Write};
use crate::{Error, Result};
use std::rc::Rc;

/// Measurements of a kernel in a profile; the median counts.
const ROUNDS: usize = 5;
/// And while tuning, where time is short.
const TUNING_ROUNDS: usize = 3;
/// A time must span so many ticks of a coarse clock: 5%.
const TICKS: f64 = 20.0;
/// A submission's own time where only the host's clock is there.
const SUBMISSION_NS: f64 = 100e3;

/// One kernel of a Program.
#[derive(Clone, Debug)]
pub struct KernelTime {
    /// Its file's name.
    pub kernel: &'static str,
    /// Its sizes.
    pub shape: String,
    /// Of matrix products and convolutions.
    pub multiply_adds: u64,
    /// Of all that it binds; an embedding's whole table among them, of which it reads a row an item.
    pub bytes: u64,
    /// One launch.
    pub nanoseconds: f64,
}

/// A Program's kernels and their times.
#[derive(Clone, Debug)]
pub struct Profile {
    /// "gpu", or "host" without timestamp queries.
    pub clock: &'static str,
    /// Multiply-adds a second of the register loop, all cores of the adapter together.
    pub peak: f64,
    /// In order.
    pub kernels: Vec<KernelTime>,
}

impl Write for KernelTime {
    fn write(&self) -> Value {
        json::object([
            ("kernel", self.kernel.into()),
            ("shape", self.shape.as_str().into()),
            ("multiplyAdds", self.multiply_adds.into()),
            ("bytes", self.bytes.into()),
            ("nanoseconds", self.nanoseconds.into()),
        ])
    }
}

impl Write for Profile {
    fn write(&self) -> Value {
        json::object([("clock", self.clock.into()), ("peak", self.peak.into()), ("kernels", self.kernels.write())])
    }
}

/// Kernels of one kind and size together.
#[derive(Clone, Debug)]
pub struct Row {
    /// Their file's name.
    pub kernel: &'static str,
    /// Their sizes.
    pub shape: String,
    /// How many.
    pub launches: usize,
    /// All together.
    pub nanoseconds: f64,
    /// All together.
    pub multiply_adds: u64,
    /// All together.
    pub bytes: u64,
}

impl Profile {
    /// The most expensive kind first.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for k in &self.kernels {
            let found = rows.iter().position(|row| row.kernel == k.kernel && row.shape == k.shape);
            let at = found.unwrap_or_else(|| {
                let (kernel, shape) = (k.kernel, k.shape.clone());
                rows.push(Row { kernel, shape, launches: 0, nanoseconds: 0.0, multiply_adds: 0, bytes: 0 });
                rows.len() - 1
            });
            rows[at].launches += 1;
            rows[at].nanoseconds += k.nanoseconds;
            rows[at].multiply_adds += k.multiply_adds;
            rows[at].bytes += k.bytes;
        }
        rows.sort_by(|a, b| b.nanoseconds.total_cmp(&a.nanoseconds));
        rows
    }
}

/// Nanoseconds of a Program's kernels, by place and shader: tunings often differ in what some kernels do not look at.
#[derive(Default)]
pub struct KnownTimes(Vec<(usize, Rc<Pipeline>, f64)>);

impl KnownTimes {
    fn of(&self, kernel: usize, pipeline: &Rc<Pipeline>) -> Option<f64> {
        self.0.iter().find(|(at, known, _)| *at == kernel && Rc::ptr_eq(known, pipeline)).map(|&(.., time)| time)
    }
}

impl Session {
    /// Times every kernel of the Program, on whatever its buffers hold; outputs are overwritten.
    ///
    /// # Errors
    /// `DEVICE_LOST`, `SHADER_FAILED`, `OUT_OF_MEMORY`.
    pub async fn profile(&self) -> Result<Profile> {
        let device = self.device();
        let peak = device.peak().await?;
        let launches: Vec<&Dispatch> = self.launches().iter().collect();
        let times = device.times(&launches, ROUNDS).await?;
        let mut kernels = Vec::with_capacity(times.len());
        for (kernel, nanoseconds) in self.program().kernels.iter().zip(times) {
            kernels.push(KernelTime {
                kernel: kernel.name(),
                shape: kernel.sizes(),
                multiply_adds: kernel.cost().multiply_adds,
                bytes: self.bound_bytes(kernel)?,
                nanoseconds,
            });
        }
        let clock = if device.backend().has_timestamps() { "gpu" } else { "host" };
        Ok(Profile { clock, peak, kernels })
    }

    /// Nanoseconds of each of the Program's kernels, measured for the tuner: with fewer rounds than a profile, and only those
    /// that other Sessions over this Program have not measured before.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn kernel_times(&self, known: &mut KnownTimes) -> Result<Vec<f64>> {
        let mut new = Vec::new();
        for (i, pipeline) in self.pipelines().iter().enumerate() {
            if known.of(i, pipeline).is_none() {
                new.push(&self.launches()[i]);
            }
        }
        let mut measured = self.device().times(&new, TUNING_ROUNDS).await?.into_iter();
        let mut times = Vec::new();
        for (i, pipeline) in self.pipelines().iter().enumerate() {
            if known.of(i, pipeline).is_none() {
                known.0.push((i, pipeline.clone(), measured.next().unwrap_or_default()));
            }
            times.extend(known.of(i, pipeline));
        }
        Ok(times)
    }
}

impl Device {
    /// Nanoseconds of one launch each, medians; launches that are too short for the clock are repeated.
    async fn times(&self, launches: &[&Dispatch], rounds: usize) -> Result<Vec<f64>> {
        let backend = self.backend();
        let once: Vec<(&Dispatch, u32)> = launches.iter().map(|&dispatch| (dispatch, 1)).collect();
        // The first run compiles.
        backend.time(&once).await?;
        let first = backend.time(&once).await?;
        let tick = if backend.has_timestamps() { tick(&first) } else { SUBMISSION_NS };
        let repeated: Vec<(&Dispatch, u32)> = launches
            .iter()
            .zip(&first)
            .map(|(&dispatch, &time)| (dispatch, (TICKS * tick / time.max(tick)).ceil().clamp(1.0, 100.0) as u32))
            .collect();
        // The first round counts if it was long enough.
        let mut measured = if repeated.iter().all(|(_, count)| *count == 1) { vec![first] } else { Vec::new() };
        while measured.len() < rounds {
            measured.push(backend.time(&repeated).await?);
        }
        Ok((0..launches.len())
            .map(|i| {
                let mut times: Vec<f64> = measured.iter().map(|round| round[i] / f64::from(repeated[i].1)).collect();
                times.sort_by(f64::total_cmp);
                times[rounds / 2]
            })
            .collect())
    }

    /// Multiply-adds a second that the adapter reaches in registers, in the better of two loops.
    async fn peak(&self) -> Result<f64> {
        /// Long enough for any clock, short enough for any watchdog.
        const NANOSECONDS: f64 = 20e6;
        let out = self.backend.buffer("peak", 4 * PEAK_INVOCATIONS, Usage::Storage).await?;
        let params = self.backend.buffer("peak's parameters", 16, Usage::Uniform).await?;
        let mut best = 0f64;
        for shape in 0..peaks(1).count() {
            let mut turns = 16;
            loop {
                let peak = peaks(turns).nth(shape).ok_or_else(|| Error::internal("a peak is missing"))?;
                self.compile([&peak.variant]).await?;
                self.backend.write(&params, 0, &peak.params);
                let bindings = [(0, params.whole()), (1, out.whole())];
                let dispatch = self.backend.dispatch(&*self.pipeline(&peak.variant)?, &bindings, peak.workgroups);
                let time = self.times(&[&dispatch], ROUNDS).await?[0];
                if time >= NANOSECONDS || turns >= 1 << 20 {
                    best = best.max(peak.multiply_adds as f64 / time * 1e9);
                    break;
                }
                turns *= 4;
            }
        }
        Ok(best)
    }
}

/// The clock's tick: the greatest length that all times are multiples of, within a nanosecond.
fn tick(times: &[f64]) -> f64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    times.iter().fold(0, |tick, &time| gcd(tick, time.round() as u64)).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::tick;

    #[test]
    fn a_quantised_clock_is_recognised() {
        assert_eq!(tick(&[65536.0, 3.0 * 65536.0, 0.0, 10.0 * 65536.0]), 65536.0);
        assert_eq!(tick(&[69459.0, 102054.0, 3001.0]), 1.0);
    }
}
