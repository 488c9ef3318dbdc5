//! The tuner: which of a kernel's variants an adapter runs fastest, measured on one block of the model's own sizes, before
//! any weight has come. What computes wrong numbers or does not compile is out, however fast.

use super::Executor;
use super::self_test::{load_random, self_test};
use crate::gpu::kernels::Tuning;
use crate::gpu::{self, Adapter, Weights};
use crate::model::{Batch, Network, uvit};
use crate::plan::{Compute, Plan, lower};
use crate::sampler::TorchGenerator;
use crate::weights::Dtype;
use crate::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use web_time::Instant;

/// Whether to measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
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
            _ => Err(Error::new(
                Code::InvalidArgument,
                format!("there is no tune {name:?}"),
                "Give \"auto\", \"off\" or \"again\"",
            )),
        }
    }
}

/// One candidate's measurement.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// The candidate.
    pub tuning: Tuning,
    /// Of one block's matmuls; none if it was not measured.
    pub matmul_ms: Option<f64>,
    /// Of one block's attention.
    pub attention_ms: Option<f64>,
    /// Why it is out.
    pub error: Option<String>,
}

/// What was chosen.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<String>,
}

/// What part of the default's time a better choice takes at most.
const CLEARLY: f64 = 0.95;

/// The most choices that are remembered.
const RECORDS: usize = 64;

/// What earlier loads have measured, by [`key`].
#[derive(Default, Serialize, Deserialize)]
struct Records {
    version: u32,
    tunings: Map<String, Value>,
}

impl Records {
    const VERSION: u32 = 1;

    /// Records that cannot be read are none: everything is measured again.
    fn parse(text: Option<&str>) -> Records {
        let read =
            text.and_then(|text| serde_json::from_str::<Value>(text).and_then(serde_json::from_value::<Records>).ok());
        read.filter(|records| records.version == Records::VERSION)
            .unwrap_or(Records { version: Records::VERSION, tunings: Map::new() })
    }

    fn get(&self, key: &str) -> Option<Tuning> {
        self.tunings.get(key).and_then(|tuning| serde_json::from_value(tuning.clone()).ok())
    }

    /// With one more.
    fn with(mut self, key: String, tuning: Tuning) -> String {
        while self.tunings.len() >= RECORDS {
            let Some(first) = self.tunings.keys().next().cloned() else { break };
            self.tunings.remove(&first);
        }
        self.tunings.insert(key, json!(tuning));
        json!(self).to_string()
    }
}

/// What a measurement holds for: this adapter, this browser or driver, these shaders, this network.
fn key(adapter: &Adapter, network: &Network, kinds: &[(Dtype, usize)], compute: Compute) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{adapter:?} {network:?} {kinds:?} {compute:?} {}", gpu::platform()));
    hash.update(gpu::kernels::sources());
    hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
}

/// Milliseconds that measuring may take.
fn budget(adapter: &Adapter) -> f64 {
    if adapter.is_fallback_adapter { 10e3 } else { 1.5e3 }
}

/// Chooses the executor's variants; what is chosen has passed the self-test.
///
/// # Errors
/// `WRONG_RESULT` or `SHADER_FAILED` if no variant passes, `DEVICE_LOST`, `OUT_OF_MEMORY`.
pub async fn choose(
    executor: &mut Executor,
    network: &Network,
    kinds: &[(Dtype, usize)],
    tune: Tune,
    records: Option<&str>,
) -> Result<Tuned> {
    let began = Instant::now();
    let adapter = gpu_of(executor)?.backend().adapter().clone();
    let candidates = Tuning::candidates(&adapter);
    let records = Records::parse(records);
    let key = key(&adapter, network, kinds, executor.compute());
    let ms = || began.elapsed().as_secs_f64() * 1e3;
    let known = records.get(&key).filter(|tuning| tuning.is_of(&candidates));
    if let Some(tuning) = known.filter(|_| tune != Tune::Again) {
        gpu_of(executor)?.set_tuning(tuning);
        match self_test(executor, network, kinds).await {
            Ok(()) => return Ok(Tuned { tuning, remembered: true, trials: Vec::new(), ms: ms(), records: None }),
            Err(error) if is_refusal(&error) => {}
            Err(error) => return Err(error),
        }
    }

    let mut block = Block::of(network, gpu_of(executor)?)?;
    let mut trials: Vec<Trial> = Vec::new();
    let mut refusal = None;
    let mut longest = 0f64;
    for tuning in candidates {
        let start = ms();
        if trials.iter().any(|trial| trial.error.is_none()) && (tune == Tune::Off || start + longest > budget(&adapter))
        {
            break;
        }
        gpu_of(executor)?.set_tuning(tuning);
        let mut trial = Trial { tuning, matmul_ms: None, attention_ms: None, error: None };
        match self_test(executor, network, kinds).await {
            Ok(()) if tune == Tune::Off => {}
            Ok(()) => {
                let [matmul, attention] = block.times(executor, kinds).await?;
                (trial.matmul_ms, trial.attention_ms) = (Some(matmul), Some(attention));
            }
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
    let tuning = Tuning { matmul: fastest(|t| t.matmul_ms).matmul, attention: fastest(|t| t.attention_ms).attention };
    gpu_of(executor)?.set_tuning(tuning);
    if trials.last().is_none_or(|last| last.tuning != tuning) {
        self_test(executor, network, kinds).await?;
    }
    let records = (tune != Tune::Off).then(|| records.with(key, tuning));
    Ok(Tuned { tuning, remembered: false, ms: ms(), trials, records })
}

fn is_refusal(error: &Error) -> bool {
    matches!(error.code, Code::WrongResult | Code::ShaderFailed)
}

fn gpu_of(executor: &mut Executor) -> Result<&mut gpu::Executor> {
    match executor {
        Executor::Gpu(gpu) => Ok(gpu),
        _ => Err(Error::internal("only GPUs are tuned")),
    }
}

/// One block of the network at its own size, with random weights: as many items as one guided picture needs, one where time is
/// short.
struct Block {
    plan: Plan,
    items: usize,
    weights: Weights,
}

impl Block {
    fn of(network: &Network, executor: &gpu::Executor) -> Result<Block> {
        let one = match network {
            Network::Uvit(config) => Network::Uvit(uvit::Config { depth: 1, ..config.clone() }),
        };
        let is_slow = executor.backend().adapter().is_fallback_adapter;
        let copies = if network.classes() > 0 && !is_slow { 2 } else { 1 };
        let plan = one.record(Batch { images: 1, copies })?.plan;
        Ok(Block { plan, items: copies, weights: Weights::default() })
    }

    /// Milliseconds of its matmuls and of its attention.
    async fn times(&mut self, executor: &mut Executor, kinds: &[(Dtype, usize)]) -> Result<[f64; 2]> {
        let is_first = self.weights.is_empty();
        let miniature = gpu_of(executor)?.exchange_weights(std::mem::take(&mut self.weights));
        if is_first {
            load_random(executor, &self.plan, kinds, &mut TorchGenerator::new(0)).await?;
        }
        let program = lower(&self.plan, &executor.capabilities(), &[])?;
        executor.prepare(program).await?;
        executor.write_times(&vec![500.0; self.items])?;
        let times = gpu_of(executor)?.kernel_times().await?;
        self.weights = gpu_of(executor)?.exchange_weights(miniature);
        let of = |kernel: &str| times.iter().filter(|(name, _)| name.ends_with(kernel)).map(|(_, ns)| ns * 1e-6).sum();
        Ok([of("matmul"), of("attention")])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::kernels::{AttentionTile, MatmulTile};

    #[test]
    fn records_that_are_broken_or_old_are_none_and_new_ones_come_back() {
        let tuning = Tuning::SOFTWARE;
        let broken =
            ["", "{", "[]", r#"{"version":0,"tunings":{"key":{}}}"#, r#"{"version":1,"tunings":{"key":{"matmul":1}}}"#];
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
