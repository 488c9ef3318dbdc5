//! Which device runs a model, and why.

use super::Executor;
#[cfg(feature = "gpu")]
use super::self_test::self_test;
#[cfg(feature = "gpu")]
use crate::Code;
#[cfg(feature = "gpu")]
use crate::gpu::Adapter;
use crate::model::Network;
use crate::weights::manifest::Variant;
use crate::{Error, Result};

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
                crate::Code::InvalidArgument,
                format!("there is no device {name:?}"),
                "Give \"auto\", \"webgpu\" or \"cpu\"",
            )),
        }
    }
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
}

fn cpu(reason: impl Into<String>) -> (Executor, Device) {
    let device = Device {
        device: "cpu",
        device_reason: reason.into(),
        #[cfg(feature = "gpu")]
        adapter: None,
    };
    (Executor::cpu(), device)
}

/// Opens a device for a model; a GPU must first pass the self-test.
///
/// # Errors
/// With [`DeviceChoice::WebGpu`]: `NO_WEBGPU`, `INSECURE_CONTEXT`, `LIMIT_TOO_SMALL`, `SHADER_FAILED`, `WRONG_RESULT`.
#[cfg(feature = "gpu")]
pub async fn open(choice: DeviceChoice, network: &Network, variant: &Variant) -> Result<(Executor, Device)> {
    if choice == DeviceChoice::Cpu {
        return Ok(cpu("the CPU was asked for"));
    }
    let auto = choice == DeviceChoice::Auto;
    let reason = match crate::gpu::Executor::open().await {
        Ok(executor) => {
            let adapter = executor.backend().adapter().clone();
            if auto && adapter.is_fallback_adapter {
                "the only GPU adapter is a software one, which is slower than the CPU".to_owned()
            } else {
                let mut executor = Executor::Gpu(Box::new(executor));
                match self_test(&mut executor, network, variant).await {
                    Ok(()) => {
                        let device_reason = match auto {
                            true => "a GPU was found and computes correctly",
                            false => "WebGPU was asked for, and computes correctly",
                        };
                        let device =
                            Device { device: "webgpu", device_reason: device_reason.into(), adapter: Some(adapter) };
                        return Ok((executor, device));
                    }
                    Err(error) if auto => format!("the GPU failed its test ({})", error.cause),
                    Err(error) => return Err(error),
                }
            }
        }
        Err(error) if auto && error.code == Code::InsecureContext => {
            "this page is no secure context (https or localhost), so the browser hides WebGPU".to_owned()
        }
        Err(error) if auto => error.cause,
        Err(error) => return Err(error),
    };
    Ok(cpu(reason))
}

/// Opens a device for a model.
///
/// # Errors
/// `NO_WEBGPU` unless the CPU may be used: this build has no GPU executor.
#[cfg(not(feature = "gpu"))]
pub async fn open(choice: DeviceChoice, _: &Network, _: &Variant) -> Result<(Executor, Device)> {
    match choice {
        DeviceChoice::WebGpu => {
            Err(Error::new(crate::Code::NoWebGpu, "this build has no GPU executor", "Build with the feature \"gpu\""))
        }
        _ => Ok(cpu("this build has no GPU executor")),
    }
}
