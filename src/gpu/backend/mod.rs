//! The thin backend under the kernels: buffers, pipelines, submissions, readback, and nothing of the networks. Kernels
//! and sessions never see what is below: wgpu natively, the browser's own objects in the browser, which wgpu would
//! keep asynchronous compilation and subgroups from.

#[cfg(target_arch = "wasm32")]
mod browser;
#[cfg(not(target_arch = "wasm32"))]
mod native;
#[cfg(target_arch = "wasm32")]
mod webgpu;

#[cfg(target_arch = "wasm32")]
use browser as system;
#[cfg(not(target_arch = "wasm32"))]
use native as system;

pub use system::{Backend, Buffer, Dispatch, Pipeline, Ticket, platform};

use crate::json::{self, Value, Write};
use crate::meter::Memory;
use crate::{Code, Error, Result};
use std::time::Duration;
use web_time::Instant;

/// A range of device memory that a kernel binds.
#[derive(Clone, Copy)]
pub struct Slice<'a> {
    /// The buffer.
    pub buffer: &'a Buffer,
    /// First byte, a multiple of 256.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
}

impl Buffer {
    /// All of it.
    pub fn whole(&self) -> Slice<'_> {
        Slice { buffer: self, offset: 0, bytes: self.bytes() }
    }
}

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Read and written by kernels, written and read by the host.
    Storage,
    /// Parameters of kernels.
    Uniform,
}

/// Who the adapter is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adapter {
    /// The vendor, or the adapter's name natively.
    pub vendor: String,
    /// The architecture, or the driver natively.
    pub architecture: String,
    /// Anything else it says of itself.
    pub description: String,
    /// Whether it is a software adapter.
    pub is_fallback_adapter: bool,
    /// Invocations of the smallest subgroup, 1 where kernels cannot use them.
    pub subgroup_size: u32,
    /// Whether kernels can compute in f16.
    pub shader_f16: bool,
}

impl Write for Adapter {
    fn write(&self) -> Value {
        json::object([
            ("vendor", self.vendor.as_str().into()),
            ("architecture", self.architecture.as_str().into()),
            ("description", self.description.as_str().into()),
            ("isFallbackAdapter", self.is_fallback_adapter.into()),
            ("subgroupSize", self.subgroup_size.into()),
            ("shaderF16", self.shader_f16.into()),
        ])
    }
}

impl Adapter {
    /// What a shader's first line begins with; `subgroups` where the compiler wants to be told of them.
    fn enable(&self, subgroups: bool) -> &'static str {
        match (self.shader_f16, subgroups && self.subgroup_size > 1) {
            (true, true) => "enable f16, subgroups; ",
            (true, false) => "enable f16; ",
            (false, true) => "enable subgroups; ",
            (false, false) => "",
        }
    }
}

/// What an adapter allows.
#[derive(Clone, Debug, PartialEq)]
struct Limits {
    storage_buffers: u64,
    binding_size: u64,
    buffer_size: u64,
    invocations: u64,
    workgroups: u64,
}

impl Limits {
    /// What the kernels need: WebGPU's defaults.
    const NEEDED: Limits = Limits {
        storage_buffers: 8,
        binding_size: 128 << 20,
        buffer_size: 256 << 20,
        invocations: 256,
        workgroups: 65535,
    };

    /// By WebGPU's names.
    fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("maxStorageBuffersPerShaderStage", self.storage_buffers),
            ("maxStorageBufferBindingSize", self.binding_size),
            ("maxBufferSize", self.buffer_size),
            ("maxComputeInvocationsPerWorkgroup", self.invocations),
            ("maxComputeWorkgroupsPerDimension", self.workgroups),
        ]
    }

    /// Whether they suffice.
    fn check(&self) -> Result<()> {
        for ((name, found), (_, needed)) in self.named().into_iter().zip(Limits::NEEDED.named()) {
            if found < needed {
                return Err(Error::new(
                    Code::LimitTooSmall,
                    format!("the adapter's {name} is {found}, {needed} is needed"),
                    "Use another adapter, or device \"cpu\"",
                ));
            }
        }
        Ok(())
    }
}

/// What happened to the device behind our back.
#[derive(Default)]
struct Events {
    lost: Option<String>,
    /// The first error that nobody waited for, and has not been told: whether memory ran out, and the message.
    uncaptured: Option<(bool, String)>,
}

impl Events {
    /// Takes note of an error that nobody waited for.
    fn note(&mut self, memory: bool, error: String) {
        self.uncaptured.get_or_insert((memory, error));
    }

    /// Tells of such an error once: what was computed meanwhile is wrong, and what comes later need not be.
    fn check(&mut self) -> Result<()> {
        if let Some(reason) = &self.lost {
            return Err(lost(reason));
        }
        match self.uncaptured.take() {
            Some((true, error)) => Err(out_of_memory("the GPU's work", &error)),
            Some((false, error)) => Err(Error::internal(format!("the GPU reported: {error}"))),
            None => Ok(()),
        }
    }
}

/// A browser that takes so long to say that nothing is left to do does not tell at once, but looks now and then.
#[cfg(target_arch = "wasm32")]
const RARELY: Duration = Duration::from_millis(20);

/// Launches that one set of timestamps holds: half of WebGPU's `maxQueryCount`.
const TIMED_AT_ONCE: usize = 2048;

impl Backend {
    /// What its buffers take.
    pub fn memory(&self) -> Memory {
        self.meter().memory()
    }

    /// The largest range one binding may have, in bytes.
    pub fn max_binding(&self) -> usize {
        self.limits().binding_size.min(self.limits().buffer_size) as usize
    }

    /// How many workgroups a dispatch may have in each dimension.
    pub fn max_workgroups(&self) -> u32 {
        self.limits().workgroups as u32
    }

    /// Device memory with contents; a multiple of 4 bytes.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub async fn upload(&self, label: &str, contents: &[u8]) -> Result<Buffer> {
        let buffer = self.buffer(label, contents.len(), Usage::Storage).await?;
        self.write(&buffer, 0, contents);
        Ok(buffer)
    }

    /// Compiles a kernel.
    ///
    /// # Errors
    /// As [`Backend::compiled`].
    pub async fn pipeline(&self, label: &str, wgsl: &str) -> Result<Pipeline> {
        self.compiled(self.compile(label, wgsl)).await
    }

    /// How long an idle device takes to say that it has done what it was given.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn latency(&self) -> Result<Duration> {
        let mut least = Duration::MAX;
        for nth in 0..3 {
            let asked = Instant::now();
            self.wait(&self.submit([])).await?;
            // Where the browser looks now and then, the first question comes at any moment between.
            if nth > 0 {
                least = least.min(asked.elapsed());
            }
            #[cfg(target_arch = "wasm32")]
            if nth > 0 && least > RARELY {
                self.looks_rarely();
            }
        }
        Ok(least)
    }

    /// Runs launches in order, each `repeats` times, and gives the nanoseconds that each took all repeats together: by the
    /// GPU's clock where it has one, else by ours, one submission a launch.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn time(&self, work: &[(&Dispatch, u32)]) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(work.len());
        if self.has_timestamps() {
            for part in work.chunks(TIMED_AT_ONCE) {
                let bytes = self.read(self.submit_timed(part).whole()).await?;
                let ticks: &[u64] = bytemuck::cast_slice(&bytes);
                let period = self.timestamp_period();
                times.extend(ticks.chunks(2).map(|t| t[1].saturating_sub(t[0]) as f64 * period));
            }
            return Ok(times);
        }
        for &(dispatch, repeats) in work {
            let began = Instant::now();
            self.submit(std::iter::repeat_n(dispatch, repeats as usize));
            self.finished().await?;
            times.push(began.elapsed().as_secs_f64() * 1e9);
        }
        Ok(times)
    }
}

fn lost(reason: &str) -> Error {
    Error::new(
        Code::DeviceLost,
        format!("the GPU device was lost ({reason})"),
        "Load the model again; if it happens again, use device \"cpu\"",
    )
}

fn out_of_memory(what: &str, error: &str) -> Error {
    Error::new(
        Code::OutOfMemory,
        format!("{what}: {error}"),
        "Close other pages that use the GPU, generate fewer images at once, or use device \"cpu\"",
    )
}

fn unreadable(memory: bool, bytes: usize, error: &str) -> Error {
    let what = format!("a readback of {bytes} bytes");
    if memory { out_of_memory(&what, error) } else { lost(&format!("{what} failed ({error})")) }
}

fn shader_failed(label: &str, error: &str) -> Error {
    Error::new(Code::ShaderFailed, format!("shader {label}: {error}"), "Use device \"cpu\", and report this adapter")
}

fn no_adapter(detail: &str) -> Error {
    Error::new(
        Code::NoWebGpu,
        format!("there is no GPU adapter{detail}"),
        "Use a browser with WebGPU and a GPU driver that it supports, or device \"cpu\"",
    )
}

fn no_device(error: &str) -> Error {
    Error::new(Code::NoWebGpu, format!("the adapter opens no device ({error})"), "Use device \"cpu\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waited_for_is_told_once_and_a_loss_for_ever() {
        let mut events = Events::default();
        events.check().unwrap();
        events.note(true, "no room".into());
        events.note(false, "a buffer is invalid".into());
        assert_eq!(events.check().unwrap_err().code, Code::OutOfMemory);
        events.check().unwrap();
        events.note(false, "a buffer is invalid".into());
        assert_eq!(events.check().unwrap_err().code, Code::Internal);
        events.check().unwrap();
        events.lost = Some("gone".into());
        for _ in 0..2 {
            assert_eq!(events.check().unwrap_err().code, Code::DeviceLost);
        }
    }

    #[test]
    fn a_limit_that_is_too_small_is_named_with_what_is_needed_and_found() {
        Limits::NEEDED.check().unwrap();
        let error = Limits { storage_buffers: 4, ..Limits::NEEDED }.check().unwrap_err();
        assert_eq!(error.code, Code::LimitTooSmall);
        assert_eq!(error.cause, "the adapter's maxStorageBuffersPerShaderStage is 4, 8 is needed");
    }
}
