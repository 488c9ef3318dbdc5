//! The tuner: which of a kernel's variants an adapter runs fastest, measured on the Program's own matmuls and attentions, each
//! kind once, before any weight has come. What computes wrong numbers or does not compile is out, however fast.

use super::self_test::{Stored, load_random, self_test};
use super::{Device, Session, Weights};
use crate::generator::TorchGenerator;
use crate::gpu::kernels::Tuning;
use crate::gpu::{self, Adapter, KnownTimes};
use crate::json::{self, Map, Read, Value, Write};
use crate::plan::{Compute, Isolated, Kernel, Program, SizeClass, isolate, lower};
use crate::{Code, Error, Result};
use sha2::{Digest, Sha256};
use web_time::Instant;

/// Whether to measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tune {
    /// Where nothing is remembered.
    #[default]
    Auto,
    /// Never: what is remembered, else the adapter's default.
    Off,
    /// Even if something is remembered.
    Again,
}

impl std::str::FromStr for Tune {
    type Err = Error;

    fn from_str(name: &str) -> Result<Tune> {
        match name {
            "auto" => Ok(Tune::Auto),
            "off" => Ok(Tune::Off),
            "again" => Ok(Tune::Again),
            _ => Err(Error::unknown("tune", name, "Give \"auto\", \"off\" or \"again\"")),
        }
    }
}

/// One candidate's measurement.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// The candidate.
    pub tuning: Tuning,
    /// Of the matmuls of many rows, each kind once; none if it was not measured.
    pub matmul_ms: Option<f64>,
    /// Of those of few rows.
    pub matmul_few_ms: Option<f64>,
    /// Of those of one row.
    pub matmul_one_ms: Option<f64>,
    /// Of the attentions, each kind once.
    pub attention_ms: Option<f64>,
    /// Why it is out.
    pub error: Option<String>,
}

impl Write for Trial {
    fn write(&self) -> Value {
        json::object([
            ("tuning", self.tuning.write()),
            ("matmulMs", self.matmul_ms.into()),
            ("matmulFewMs", self.matmul_few_ms.into()),
            ("matmulOneMs", self.matmul_one_ms.into()),
            ("attentionMs", self.attention_ms.into()),
            ("error", self.error.as_deref().into()),
        ])
    }
}

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The choice.
    pub tuning: Tuning,
    /// Whether an earlier load had measured it.
    pub remembered: bool,
    /// The candidates that were tried now.
    pub trials: Vec<Trial>,
    /// All that took.
    pub ms: f64,
    /// What to remember for later loads, if it is new.
    pub records: Option<String>,
}

impl Write for Tuned {
    fn write(&self) -> Value {
        let tuned = json::object([
            ("tuning", self.tuning.write()),
            ("remembered", self.remembered.into()),
            ("trials", self.trials.write()),
            ("ms", self.ms.into()),
        ]);
        match &self.records {
            Some(records) => json::with(tuned, json::object([("records", records.as_str().into())])),
            None => tuned,
        }
    }
}

/// What part of the default's time a better choice takes at most.
const CLEARLY: f64 = 0.95;

/// The most choices that are remembered.
const RECORDS: usize = 64;

/// What earlier loads have measured, by [`key`].
#[derive(Default)]
struct Records(Map);

impl Records {
    const VERSION: u32 = 1;

    /// Records that cannot be read are none: everything is measured again.
    fn parse(text: Option<&str>) -> Records {
        let read = text.and_then(|text| json::parse(text).ok());
        let known = read.filter(|records| records["version"] == Records::VERSION);
        let tunings = known.as_ref().and_then(|records| records["tunings"].as_object());
        Records(tunings.cloned().unwrap_or_default())
    }

    fn get(&self, key: &str) -> Option<Tuning> {
        self.0.get(key).and_then(|tuning| Tuning::read(tuning).ok())
    }

    /// With one more.
    fn with(mut self, key: String, tuning: Tuning) -> String {
        while self.0.len() >= RECORDS {
            let Some(first) = self.0.keys().next().cloned() else { break };
            self.0.remove(&first);
        }
        self.0.insert(key, tuning.write());
        json::object([("version", Records::VERSION.into()), ("tunings", self.0.into())]).to_string()
    }
}

/// What a measurement holds for: this adapter, this browser or driver, these shaders, these kernels.
fn key(adapter: &Adapter, compute: Compute, program: &Program, stored: Stored<'_>) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{} {} {}", adapter.write(), compute.as_str(), gpu::platform()));
    for kernel in program.kernels.iter().filter(|kernel| is_tuned(kernel)) {
        let form = kernel.matrix().map(stored).map(|(dtype, group)| format!("{} {group}", dtype.as_str()));
        hash.update(format!("{} {} {}", kernel.name(), kernel.sizes(), form.unwrap_or_default()));
    }
    hash.update(gpu::kernels::sources());
    hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
}

/// Milliseconds that measuring may take.
fn budget(adapter: &Adapter) -> f64 {
    if adapter.is_fallback_adapter { 10e3 } else { 1.5e3 }
}

fn is_tuned(kernel: &Kernel) -> bool {
    matches!(kernel, Kernel::Matmul(_) | Kernel::Attention(_))
}

/// Chooses the variants that a device runs a Program with; what is chosen has passed the self-test.
///
/// # Errors
/// `WRONG_RESULT` or `SHADER_FAILED` if no variant passes, `DEVICE_LOST`, `OUT_OF_MEMORY`.
pub async fn choose(
    device: &Device,
    compute: Compute,
    program: &Program,
    stored: Stored<'_>,
    tune: Tune,
    records: Option<&str>,
) -> Result<Tuned> {
    let began = Instant::now();
    let gpu = device.as_gpu().ok_or_else(|| Error::internal("only GPUs are tuned"))?;
    let adapter = gpu.backend().adapter().clone();
    let candidates = Tuning::candidates(&adapter);
    let records = Records::parse(records);
    let key = key(&adapter, compute, program, stored);
    let ms = || began.elapsed().as_secs_f64() * 1e3;
    let known = records.get(&key).filter(|tuning| tuning.is_of(&candidates));
    if let Some(tuning) = known.filter(|_| tune != Tune::Again) {
        gpu.set_tuning(tuning);
        match self_test(device, compute, program, stored).await {
            Ok(()) => return Ok(Tuned { tuning, remembered: true, trials: Vec::new(), ms: ms(), records: None }),
            Err(error) if is_refusal(&error) => {}
            Err(error) => return Err(error),
        }
    }

    let mut sample: Option<Sample> = None;
    let mut trials: Vec<Trial> = Vec::new();
    let mut refusal = None;
    let mut longest = 0f64;
    for tuning in candidates {
        let start = ms();
        if trials.iter().any(|trial| trial.error.is_none()) && (tune == Tune::Off || start + longest > budget(&adapter))
        {
            break;
        }
        gpu.set_tuning(tuning);
        let mut trial = Trial { tuning, ..Trial::default() };
        let measured = async {
            self_test(device, compute, program, stored).await?;
            if tune == Tune::Off {
                return Ok([None; 4]);
            }
            if sample.is_none() {
                sample = Some(Sample::new(device, compute, program, stored).await?);
            }
            match &mut sample {
                Some(sample) => sample.times().await.map(|times| times.map(Some)),
                None => Ok([None; 4]),
            }
        };
        match measured.await {
            Ok(times) => {
                [trial.matmul_one_ms, trial.matmul_few_ms, trial.matmul_ms, trial.attention_ms] = times;
            }
            // Too much for the adapter, or wrong on it: another may do.
            Err(error) if is_refusal(&error) => {
                trial.error = Some(error.cause.clone());
                refusal = Some(error);
            }
            Err(error) => return Err(error),
        }
        trials.push(trial);
        longest = longest.max(ms() - start);
    }
    let passed = || trials.iter().filter(|trial| trial.error.is_none());
    let Some(first) = passed().next() else {
        return Err(refusal.unwrap_or_else(|| Error::internal("there is no tuning to try")));
    };
    // The default stands unless another is clearly faster: times are noisy.
    let fastest = |time: fn(&Trial) -> Option<f64>| {
        let limit = time(first).map_or(0.0, |ms| CLEARLY * ms);
        let measured = passed().filter_map(|trial| Some((time(trial)?, trial.tuning))).filter(|(ms, _)| *ms < limit);
        measured.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(first.tuning, |(_, tuning)| tuning)
    };
    let tuning = Tuning {
        matmul: fastest(|t| t.matmul_ms).matmul,
        matmul_few: fastest(|t| t.matmul_few_ms).matmul_few,
        matmul_one: fastest(|t| t.matmul_one_ms).matmul_one,
        attention: fastest(|t| t.attention_ms).attention,
    };
    gpu.set_tuning(tuning);
    if trials.last().is_none_or(|last| last.tuning != tuning) {
        self_test(device, compute, program, stored).await?;
    }
    drop(sample);
    gpu.forget_unused();
    let records = (tune != Tune::Off).then(|| records.with(key, tuning));
    Ok(Tuned { tuning, remembered: false, ms: ms(), trials, records })
}

/// Whether only the candidate is out, and not the device.
fn is_refusal(error: &Error) -> bool {
    matches!(error.code, Code::WrongResult | Code::ShaderFailed | Code::LimitTooSmall | Code::OutOfMemory)
}

/// The Program's matmuls and attentions at their own sizes, each kind once, with random weights.
struct Sample {
    weights: Weights,
    cases: Isolated,
    compute: Compute,
    known: KnownTimes,
}

impl Sample {
    async fn new(device: &Device, compute: Compute, program: &Program, stored: Stored<'_>) -> Result<Sample> {
        let mut cases = isolate(program, None, &is_tuned, &|a, b| stored(a) == stored(b));
        // Nobody reads them, so they share memory.
        cases.scratch_outputs();
        let weights = load_random(device, compute, &cases, stored, &mut TorchGenerator::new(0)).await?;
        Ok(Sample { weights, cases, compute, known: KnownTimes::default() })
    }

    /// Milliseconds of its matmuls of one, few and many rows, and of its attentions; each as often as the Program has it.
    async fn times(&mut self) -> Result<[f64; 4]> {
        let program = lower(&self.cases.plan, &self.weights.device().capabilities(self.compute), &[])?;
        let session = Session::new(&self.weights, program, None).await?;
        let gpu = session.as_gpu().ok_or_else(|| Error::internal("only GPUs are tuned"))?;
        let mut sums = [0f64; 4];
        for (kernel, nanoseconds) in gpu.program().kernels.iter().zip(gpu.kernel_times(&mut self.known).await?) {
            let kind = match kernel {
                Kernel::Matmul(m) => match m.size {
                    SizeClass::One => 0,
                    SizeClass::Few => 1,
                    SizeClass::Many => 2,
                },
                Kernel::Attention(_) => 3,
                _ => continue,
            };
            let count = self.cases.outputs.iter().find(|&&(out, ..)| out == kernel.writes()).map_or(1, |&(.., n)| n);
            sums[kind] += nanoseconds * count as f64 * 1e-6;
        }
        Ok(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::kernels::{AttentionTile, MatmulTile};

    #[test]
    fn records_that_are_broken_or_old_are_none_and_new_ones_come_back() {
        let tuning = Tuning::SOFTWARE;
        let broken = [
            "",
            "{",
            "[]",
            r#"{"version":1}"#,
            r#"{"version":0,"tunings":{"key":{}}}"#,
            r#"{"version":1,"tunings":{"key":{"matmul":1}}}"#,
        ];
        for text in broken {
            assert_eq!(Records::parse(Some(text)).get("key"), None, "{text}");
        }
        let text = Records::parse(None).with("key".into(), tuning);
        assert_eq!(Records::parse(Some(&text)).get("key"), Some(tuning));
    }

    #[test]
    fn a_remembered_tuning_must_be_one_that_would_be_tried() {
        let adapter = Adapter { is_fallback_adapter: true, subgroup_size: 1, ..Adapter::default() };
        let candidates = Tuning::candidates(&adapter);
        assert!(candidates[0].is_of(&candidates));
        let huge = Tuning { matmul: MatmulTile::alone(1000, 4), ..candidates[0] };
        assert!(!huge.is_of(&candidates));
        let odd = Tuning { attention: AttentionTile { queries: 99, ..candidates[0].attention }, ..candidates[0] };
        assert!(!odd.is_of(&candidates));
    }
}
