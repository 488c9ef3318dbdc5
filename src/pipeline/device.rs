//! Which device runs a model, and why.

use super::Executor;
use super::self_test::self_test;
#[cfg(feature = "gpu")]
use super::tuning::{self, Tune, Tuned};
#[cfg(feature = "gpu")]
use crate::gpu::Adapter;
use crate::model::Network;
use crate::plan::Compute;
use crate::simd::Threads;
use crate::weights::Dtype;
use crate::{Code, Error, Result};

/// What the caller asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// A GPU where a real one exists and computes correctly, else the CPU.
    #[default]
    Auto,
    /// A GPU or an error; software adapters count.
    #[serde(alias = "gpu")]
    WebGpu,
    /// The CPU.
    Cpu,
}

impl std::str::FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<DeviceChoice> {
        match name {
            "auto" => Ok(DeviceChoice::Auto),
            "webgpu" | "gpu" => Ok(DeviceChoice::WebGpu),
            "cpu" => Ok(DeviceChoice::Cpu),
            _ => Err(Error::new(
                Code::InvalidArgument,
                format!("there is no device {name:?}"),
                "Give \"auto\", \"webgpu\" or \"cpu\"",
            )),
        }
    }
}

/// How a model is to be loaded.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct LoadOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// Which stored variant; none: the manifest's first.
    pub dtype: Option<Dtype>,
    /// Of Linears; none: [`Compute::Quality`] on the CPU, f32 on a GPU. With [`DeviceChoice::Auto`], what the device that was
    /// found does not have becomes what it has.
    pub compute: Option<Compute>,
    /// Threads a kernel on the CPU; none: all cores natively, one in the browser.
    pub threads: Option<usize>,
    /// Whether to measure which variants of the kernels are fastest on a GPU.
    #[cfg(feature = "gpu")]
    pub tune: Tune,
    /// The last [`Tuned::records`].
    #[cfg(feature = "gpu")]
    pub records: Option<String>,
    /// Why [`DeviceChoice::Cpu`], where the caller did not ask for it but found no better device.
    pub reason: Option<String>,
}

/// The device that was chosen.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// "webgpu" or "cpu".
    pub device: &'static str,
    /// Why it was chosen, a sentence.
    pub device_reason: String,
    /// The adapter, on a GPU.
    #[cfg(feature = "gpu")]
    pub adapter: Option<Adapter>,
    /// The variants that it runs, on a GPU.
    #[cfg(feature = "gpu")]
    pub tuned: Option<Tuned>,
}

/// Opens a device for a model whose matrices are stored in these forms (dtype, columns a scale); it is tested before it is
/// trusted.
///
/// # Errors
/// With [`DeviceChoice::WebGpu`]: `NO_WEBGPU`, `INSECURE_CONTEXT`, `LIMIT_TOO_SMALL`, `SHADER_FAILED`, `WRONG_RESULT`;
/// `INVALID_ARGUMENT` for arithmetic that the device does not have. Else `WRONG_RESULT` where the CPU's kernels are wrong.
pub async fn open(options: &LoadOptions, network: &Network, kinds: &[(Dtype, usize)]) -> Result<(Executor, Device)> {
    let reason = match options.device {
        DeviceChoice::Cpu => options.reason.clone().unwrap_or_else(|| "the CPU was asked for".into()),
        DeviceChoice::WebGpu => {
            if let Some(compute) = options.compute.filter(|c| !GPU_COMPUTES.contains(c)) {
                return Err(Error::new(
                    Code::InvalidArgument,
                    format!("compute is {:?}, and WebGPU computes in f32, f16 or w8a8", compute.as_str()),
                    "Leave compute out, or use device \"cpu\"",
                ));
            }
            let why = "WebGPU was asked for, and computes correctly";
            return open_gpu(false, why, network, kinds, options).await.map_err(|refusal| refusal.0);
        }
        DeviceChoice::Auto => match open_gpu(true, REAL_GPU, network, kinds, options).await {
            Ok(opened) => return Ok(opened),
            Err(refusal) => refusal.reason(),
        },
    };
    let compute = match options.compute {
        Some(compute @ (Compute::F16 | Compute::W8A8)) if options.device == DeviceChoice::Cpu => {
            return Err(Error::new(
                Code::InvalidArgument,
                format!("compute is {:?}, which only GPUs have", compute.as_str()),
                "Use \"quality\" or \"fast\", the CPU's own",
            ));
        }
        Some(Compute::F16) => Compute::Quality,
        Some(Compute::W8A8) => Compute::Fast,
        compute => compute.unwrap_or(Compute::Quality),
    };
    let threads = options.threads.map_or_else(Threads::all, Threads::new);
    let mut executor = Executor::cpu(compute, threads);
    self_test(&mut executor, network, kinds).await?;
    let device = Device {
        device: "cpu",
        device_reason: reason,
        #[cfg(feature = "gpu")]
        adapter: None,
        #[cfg(feature = "gpu")]
        tuned: None,
    };
    Ok((executor, device))
}

/// What GPUs compute in.
const GPU_COMPUTES: [Compute; 3] = [Compute::F32, Compute::F16, Compute::W8A8];

const REAL_GPU: &str = "a GPU was found and computes correctly";

/// What [`DeviceChoice::Auto`] would choose before any model is known, and why: "webgpu" or "cpu".
#[cfg(feature = "gpu")]
pub fn automatic(found: std::result::Result<&Adapter, &Error>) -> (&'static str, String) {
    match found {
        Ok(adapter) if adapter.is_fallback_adapter => ("cpu", SOFTWARE_ADAPTER.into()),
        Ok(_) => ("webgpu", "a GPU was found; a model tests it before it runs there".into()),
        Err(error) => ("cpu", Refusal(error.clone()).reason()),
    }
}

#[cfg(feature = "gpu")]
const SOFTWARE_ADAPTER: &str = "the only GPU adapter is a software one, which is slower than the CPU itself";

/// Why a GPU is not used.
struct Refusal(Error);

impl Refusal {
    /// As a sentence for people.
    fn reason(&self) -> String {
        match self.0.code {
            Code::InsecureContext => {
                "this page is no secure context (https or localhost), so the browser hides WebGPU".into()
            }
            Code::WrongResult | Code::ShaderFailed => format!("the GPU failed its test ({})", self.0.cause),
            _ => self.0.cause.clone(),
        }
    }
}

/// The best GPU, once it has passed the self-test; a software adapter only if `real` does not ask for more.
#[cfg(feature = "gpu")]
async fn open_gpu(
    real: bool,
    why: &str,
    network: &Network,
    kinds: &[(Dtype, usize)],
    options: &LoadOptions,
) -> std::result::Result<(Executor, Device), Refusal> {
    let compute = options.compute.filter(|c| GPU_COMPUTES.contains(c)).unwrap_or_default();
    let executor = match crate::gpu::Executor::open(compute).await {
        Err(error) if real && error.code == Code::InvalidArgument => crate::gpu::Executor::open(Compute::F32).await,
        opened => opened,
    };
    let executor = executor.map_err(Refusal)?;
    let compute = executor.capabilities().compute;
    let adapter = executor.backend().adapter().clone();
    if real && adapter.is_fallback_adapter {
        let remedy = "Use device \"webgpu\" to run on it all the same";
        return Err(Refusal(Error::new(Code::NoWebGpu, SOFTWARE_ADAPTER, remedy)));
    }
    let mut executor = Executor::Gpu(Box::new(executor));
    let records = options.records.as_deref();
    let tuned = match tuning::choose(&mut executor, network, kinds, options.tune, records).await {
        Err(lost) if lost.code == Code::DeviceLost && options.tune != Tune::Off => {
            // A candidate was too much for it, perhaps; the default need not be.
            executor = Executor::gpu(compute).await.map_err(Refusal)?;
            tuning::choose(&mut executor, network, kinds, Tune::Off, None).await
        }
        chosen => chosen,
    };
    let tuned = Some(tuned.map_err(Refusal)?);
    Ok((executor, Device { device: "webgpu", device_reason: why.into(), adapter: Some(adapter), tuned }))
}

/// This build has no GPU executor.
#[cfg(not(feature = "gpu"))]
async fn open_gpu(
    _: bool,
    _: &str,
    _: &Network,
    _: &[(Dtype, usize)],
    _: &LoadOptions,
) -> std::result::Result<(Executor, Device), Refusal> {
    let remedy = "Build with the feature \"gpu\"";
    Err(Refusal(Error::new(Code::NoWebGpu, "this build has no GPU executor", remedy)))
}
