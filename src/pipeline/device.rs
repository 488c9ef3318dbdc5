//! Which device runs a model, and why.

use super::fitting::fitting;
#[cfg(feature = "gpu")]
use crate::gpu::{Adapter, Backend};
use crate::json::{self, Fields, Read, Value, Write};
use crate::model::{Batch, Network};
use crate::plan::{Compute, Kind, Program, WeightId};
use crate::runtime;
#[cfg(feature = "gpu")]
use crate::runtime::{Tune, Tuned, choose};
#[cfg(feature = "fast-cpu")]
use crate::simd::Threads;
use crate::weights::Dtype;
use crate::{Code, Error, Result};

/// What the caller asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU where a real one exists and computes correctly, else the CPU.
    #[default]
    Auto,
    /// A GPU or an error; software adapters count.
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
            _ => Err(Error::unknown("device", name, "Give \"auto\", \"webgpu\" or \"cpu\"")),
        }
    }
}

/// In which arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ComputeChoice {
    /// f32 on a GPU; on the CPU the faster of [`Compute::Quality`] and f32, which look the same: measured while the model loads.
    #[default]
    Auto,
    /// This one.
    Fixed(Compute),
}

impl std::str::FromStr for ComputeChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<ComputeChoice> {
        match name {
            "auto" => Ok(ComputeChoice::Auto),
            name => name.parse().map(ComputeChoice::Fixed),
        }
    }
}

/// How a model is to be loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// Which stored variant; none: the manifest's first.
    pub dtype: Option<Dtype>,
    /// Of Linears. With [`DeviceChoice::Auto`], what the device that was found does not have becomes what it has.
    pub compute: ComputeChoice,
    /// Threads a kernel on the CPU; none: all cores natively, one in the browser.
    pub threads: Option<usize>,
    /// Whether to measure which variants of the kernels are fastest on a GPU.
    #[cfg(feature = "gpu")]
    pub tune: Tune,
    /// The last [`Tuned::records`].
    #[cfg(feature = "gpu")]
    pub records: Option<String>,
    /// Why the CPU, where the caller has looked for a GPU before, and found none that will do.
    pub reason: Option<String>,
    /// Whether components stay loaded (the default), or each is brought when its stage begins and goes with it: slower, in the
    /// memory of the largest stage.
    pub keep_loaded: bool,
    /// Whether autoencoders compute large pictures in bands wherever that saves memory, instead of only where a device's limits ask
    /// for it: the same pictures, in up to twice the time.
    pub tiling: bool,
    /// The denoiser alone: for [`super::Pipeline::forward`], which knows no other.
    pub only_denoiser: bool,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions {
            device: DeviceChoice::default(),
            dtype: None,
            compute: ComputeChoice::default(),
            threads: None,
            #[cfg(feature = "gpu")]
            tune: Tune::default(),
            #[cfg(feature = "gpu")]
            records: None,
            reason: None,
            keep_loaded: true,
            tiling: false,
            only_denoiser: false,
        }
    }
}

impl Read for LoadOptions {
    fn read(value: &Value) -> json::Result<LoadOptions> {
        let fields = Fields::of(value)?;
        Ok(LoadOptions {
            device: fields.named("device")?.unwrap_or_default(),
            dtype: fields.named("dtype")?,
            compute: fields.named("compute")?.unwrap_or_default(),
            threads: fields.optional("threads")?,
            #[cfg(feature = "gpu")]
            tune: fields.named("tune")?.unwrap_or_default(),
            #[cfg(feature = "gpu")]
            records: fields.optional("records")?,
            reason: fields.optional("reason")?,
            keep_loaded: fields.or("keepLoaded", true)?,
            tiling: fields.or("tiling", false)?,
            only_denoiser: fields.or("onlyDenoiser", false)?,
        })
    }
}

/// The device that was chosen, for people.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
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

impl Write for DeviceInfo {
    fn write(&self) -> Value {
        json::object([
            ("device", self.device.into()),
            ("deviceReason", self.device_reason.as_str().into()),
            #[cfg(feature = "gpu")]
            ("adapter", self.adapter.write()),
            #[cfg(not(feature = "gpu"))]
            ("adapter", Value::Null),
            #[cfg(feature = "gpu")]
            ("tuned", self.tuned.write()),
        ])
    }
}

/// A network that a device is opened for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The network.
    pub network: &'a Network,
    /// How its weights are stored: dtype and columns a scale, by weight.
    pub stored: &'a [(Dtype, usize)],
    /// What it is tested and tuned with.
    pub batch: Batch,
}

impl Wanted<'_> {
    fn program(&self, device: &runtime::Device, compute: Compute) -> Result<Program> {
        Ok(fitting(self.network, self.batch, &device.capabilities(compute))?.1)
    }

    /// Every kind of its kernels, tested.
    async fn test(&self, device: &runtime::Device, compute: Compute) -> Result<()> {
        let stored = |id: WeightId| self.stored[id.index()];
        runtime::self_test(device, compute, &self.program(device, compute)?, &stored).await
    }

    /// Every kind of its kernels, as [`super::Component`] remembers them.
    pub(super) fn kinds(&self, device: &runtime::Device, compute: Compute) -> Result<Vec<Kind>> {
        Ok(runtime::kinds(&self.program(device, compute)?, &|id: WeightId| self.stored[id.index()]).kinds)
    }
}

/// A device that was tested with the networks' kernels.
pub struct Opened {
    /// The device.
    pub device: runtime::Device,
    /// The arithmetic that was chosen.
    pub compute: Compute,
    /// Why it was chosen, for people.
    pub info: DeviceInfo,
}

/// Opens a device for networks, the first of which runs the most: by that one, arithmetic and kernels are chosen. It is tested
/// with all of them before it is trusted.
///
/// # Errors
/// With [`DeviceChoice::WebGpu`]: `NO_WEBGPU`, `INSECURE_CONTEXT`, `LIMIT_TOO_SMALL`, `SHADER_FAILED`, `WRONG_RESULT`;
/// `INVALID_ARGUMENT` for arithmetic that the device does not have. Else `WRONG_RESULT` where the CPU's kernels are wrong; in builds
/// without the CPU device, `INVALID_ARGUMENT` with [`DeviceChoice::Cpu`], and what is wrong with the GPU with [`DeviceChoice::Auto`].
pub async fn open(options: &LoadOptions, wanted: &[Wanted<'_>]) -> Result<Opened> {
    let refusal = match options.device {
        DeviceChoice::Cpu => None,
        DeviceChoice::WebGpu => {
            let why = "WebGPU was asked for, and computes correctly";
            return open_gpu(false, why, wanted, options).await.map_err(|refusal| refusal.0);
        }
        DeviceChoice::Auto => match open_gpu(true, REAL_GPU, wanted, options).await {
            Ok(opened) => return Ok(opened),
            Err(refusal) => Some(refusal),
        },
    };
    open_cpu(refusal, wanted, options).await
}

/// The CPU, where no GPU was asked for, or it was refused.
#[cfg(feature = "fast-cpu")]
async fn open_cpu(refusal: Option<Refusal>, wanted: &[Wanted<'_>], options: &LoadOptions) -> Result<Opened> {
    let reason = match (&options.reason, refusal) {
        (Some(reason), _) => reason.clone(),
        (None, Some(refusal)) => refusal.reason(),
        (None, None) => "the CPU was asked for".into(),
    };
    let threads = options.threads.map_or_else(Threads::all, Threads::new);
    let device = runtime::Device::cpu(threads);
    let compute = match options.compute {
        ComputeChoice::Auto => measured(&device, first(wanted)?).await?,
        // With a choice of its own, "auto" takes what the CPU has in their place.
        ComputeChoice::Fixed(Compute::F16) if options.device == DeviceChoice::Auto => Compute::Quality,
        ComputeChoice::Fixed(Compute::W8A8) if options.device == DeviceChoice::Auto => Compute::Fast,
        ComputeChoice::Fixed(compute) => compute,
    };
    device.supports(compute)?;
    for network in wanted {
        network.test(&device, compute).await?;
    }
    let info = DeviceInfo {
        device: "cpu",
        device_reason: reason,
        #[cfg(feature = "gpu")]
        adapter: None,
        #[cfg(feature = "gpu")]
        tuned: None,
    };
    Ok(Opened { device, compute, info })
}

/// This build has the twins alone. Whoever goes on with another one tells its reader why: the cause is a sentence for people.
#[cfg(not(feature = "fast-cpu"))]
async fn open_cpu(refusal: Option<Refusal>, _: &[Wanted<'_>], _: &LoadOptions) -> Result<Opened> {
    Err(match refusal {
        Some(refusal) => Error::new(refusal.0.code, refusal.reason(), refusal.0.remedy.clone()),
        None => {
            Error::new(Code::InvalidArgument, "this build has no CPU device", "Build with the feature \"fast-cpu\"")
        }
    })
}

fn first<'a, 'b>(wanted: &'a [Wanted<'b>]) -> Result<&'a Wanted<'b>> {
    wanted.first().ok_or_else(|| Error::internal("a device is opened for no network"))
}

/// Weights in f32 may take so much before integers are taken whatever their speed.
#[cfg(feature = "fast-cpu")]
const MOST_F32_BYTES: usize = 1 << 30;

/// The faster of the arithmetics that keep a picture's quality.
#[cfg(feature = "fast-cpu")]
async fn measured(device: &runtime::Device, wanted: &Wanted<'_>) -> Result<Compute> {
    let quality = wanted.program(device, Compute::Quality)?;
    let parameters: usize = quality.weights.iter().map(|w| w.shape.iter().product::<usize>()).sum();
    if parameters > MOST_F32_BYTES / 4 {
        return Ok(Compute::Quality);
    }
    let floats = wanted.program(device, Compute::F32)?;
    let stored = |id: WeightId| wanted.stored[id.index()];
    runtime::fastest(device, &[(Compute::Quality, &quality), (Compute::F32, &floats)], &stored).await
}

/// Why a GPU.
const REAL_GPU: &str = "a GPU was found and computes correctly";

/// What this machine can do, and what [`DeviceChoice::Auto`] would choose before any model is known, as `Capabilities` of
/// `web/src/types.ts`.
#[cfg(feature = "gpu")]
pub async fn capabilities() -> Value {
    let (webgpu, (device, reason)) = match Backend::open().await {
        Ok(backend) => {
            let adapter = backend.adapter();
            let choice = match adapter.is_fallback_adapter {
                true => ("cpu", SOFTWARE_ADAPTER.into()),
                false => ("webgpu", "a GPU was found; a model tests it before it runs there".into()),
            };
            let fields = [
                ("available", true.into()),
                ("adapter", adapter.write()),
                ("limits", json::object([("maxStorageBufferBindingSize", backend.max_binding().into())])),
            ];
            (json::object(fields), choice)
        }
        Err(error) => {
            let fields = [
                ("available", false.into()),
                ("code", error.code.as_str().into()),
                ("reason", error.cause.as_str().into()),
                ("remedy", error.remedy.as_str().into()),
            ];
            (json::object(fields), ("cpu", Refusal(error).reason()))
        }
    };
    json::object([
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("auto", json::object([("device", device.into()), ("reason", reason.into())])),
        ("webgpu", webgpu),
    ])
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
    networks: &[Wanted<'_>],
    options: &LoadOptions,
) -> std::result::Result<Opened, Refusal> {
    let wanted = match options.compute {
        ComputeChoice::Auto => Compute::F32,
        ComputeChoice::Fixed(compute) => compute,
    };
    let mut device = runtime::Device::gpu().await.map_err(Refusal)?;
    let compute = match device.supports(wanted) {
        Ok(()) => wanted,
        // With a choice of its own, "auto" takes what the GPU has in its place.
        Err(_) if real => Compute::F32,
        Err(error) => return Err(Refusal(error)),
    };
    let adapter = device.as_gpu().map(|gpu| gpu.backend().adapter().clone()).unwrap_or_default();
    if real && adapter.is_fallback_adapter {
        let remedy = "Use device \"webgpu\" to run on it all the same";
        return Err(Refusal(Error::new(Code::NoWebGpu, SOFTWARE_ADAPTER, remedy)));
    }
    let sampled = first(networks).map_err(Refusal)?;
    let stored = |id: WeightId| sampled.stored[id.index()];
    let program = sampled.program(&device, compute).map_err(Refusal)?;
    let records = options.records.as_deref();
    let tuned = match choose(&device, compute, &program, &stored, options.tune, records).await {
        Err(lost) if lost.code == Code::DeviceLost && options.tune != Tune::Off => {
            // A candidate was too much for it, perhaps; the default need not be.
            device = runtime::Device::gpu().await.map_err(Refusal)?;
            choose(&device, compute, &program, &stored, Tune::Off, None).await
        }
        chosen => chosen,
    };
    let tuned = Some(tuned.map_err(Refusal)?);
    for network in &networks[1..] {
        network.test(&device, compute).await.map_err(Refusal)?;
    }
    let info = DeviceInfo { device: "webgpu", device_reason: why.into(), adapter: Some(adapter), tuned };
    Ok(Opened { device, compute, info })
}

/// This build has no GPUs.
#[cfg(not(feature = "gpu"))]
async fn open_gpu(_: bool, _: &str, _: &[Wanted<'_>], _: &LoadOptions) -> std::result::Result<Opened, Refusal> {
    let remedy = "Build with the feature \"gpu\"";
    Err(Refusal(Error::new(Code::NoWebGpu, "this build has no GPU device", remedy)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::json;

    #[test]
    fn options_are_read_and_what_is_wrong_is_named() {
        let read = |value| LoadOptions::read(&value);
        let all = json!({
            "device": "gpu", "dtype": "q8", "compute": "w8a8", "threads": 3, "reason": "none", "wasm": "auto",
        });
        let options = read(all).unwrap();
        assert_eq!((options.device, options.dtype), (DeviceChoice::WebGpu, Some(Dtype::Q8)));
        assert_eq!((options.compute, options.threads), (ComputeChoice::Fixed(Compute::W8A8), Some(3)));
        assert_eq!(options.reason.as_deref(), Some("none"));
        let nothing = read(json!({ "device": null, "compute": null })).unwrap();
        assert_eq!(format!("{nothing:?}"), format!("{:?}", LoadOptions::default()));
        for (wrong, what) in [
            (json!({ "device": "tpu" }), "device: there is no device \"tpu\""),
            (json!({ "dtype": "q3" }), "dtype: there is no dtype \"q3\""),
            (json!({ "compute": 8 }), "compute: 8 is no text"),
            (json!({ "threads": -1 }), "threads: -1 is no whole number that fits"),
            (json!([]), "[] is no object"),
        ] {
            let said = read(wrong).unwrap_err();
            assert!(said.starts_with(what), "{said}");
        }
    }
}
