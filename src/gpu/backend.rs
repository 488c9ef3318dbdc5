//! The thin backend under the kernels: buffers, pipelines, submissions, readback, and nothing of the networks. Kernels
//! and the executor never see wgpu's types, so that a second implementation can take this file's place.

use crate::{Code, Error, Result};
use futures_channel::oneshot;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

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

/// Device memory.
#[derive(Clone, Debug)]
pub struct Buffer(wgpu::Buffer);

impl Buffer {
    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.0.size() as usize
    }

    /// All of it.
    pub fn whole(&self) -> Slice<'_> {
        Slice { buffer: self, offset: 0, bytes: self.bytes() }
    }
}

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct Pipeline(wgpu::ComputePipeline);

/// One kernel launch, ready to be recorded.
#[derive(Clone, Debug)]
pub struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    workgroups: [u32; 3],
}

impl Dispatch {
    /// Changes how many workgroups run.
    pub fn set_workgroups(&mut self, workgroups: [u32; 3]) {
        self.workgroups = workgroups;
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.workgroups;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Launches that one set of timestamps holds: half of WebGPU's `maxQueryCount`.
const TIMED_AT_ONCE: usize = 2048;

/// A submission that may still be running.
#[derive(Debug)]
pub struct Ticket {
    #[cfg(not(target_arch = "wasm32"))]
    submission: wgpu::SubmissionIndex,
    #[cfg(target_arch = "wasm32")]
    done: oneshot::Receiver<()>,
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
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Adapter {
    /// The vendor, or the adapter's name natively.
    pub vendor: String,
    /// The architecture, or the driver natively.
    pub architecture: String,
    /// Anything else it says of itself.
    pub description: String,
    /// Whether it is a software adapter.
    pub is_fallback_adapter: bool,
}

/// What happened to the device behind our back.
#[derive(Default)]
struct Events {
    lost: Option<String>,
    uncaptured: Option<String>,
}

/// An open device.
pub struct Backend {
    device: wgpu::Device,
    queue: wgpu::Queue,
    adapter: Adapter,
    limits: wgpu::Limits,
    events: Arc<Mutex<Events>>,
    buffers_made: AtomicUsize,
    has_timestamps: bool,
}

impl Backend {
    /// Opens the best adapter, with all the limits that it offers.
    ///
    /// # Errors
    /// `NO_WEBGPU` if there is none, `LIMIT_TOO_SMALL` if it stays below WebGPU's default limits.
    pub async fn open() -> Result<Backend> {
        #[cfg(target_arch = "wasm32")]
        super::browser::check_webgpu()?;
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        let adapter = instance.request_adapter(&options).await.map_err(|e| {
            // In a browser wgpu only adds which other interfaces were not compiled in.
            let detail = if cfg!(target_arch = "wasm32") { String::new() } else { format!(" ({e})") };
            Error::new(
                Code::NoWebGpu,
                format!("there is no GPU adapter{detail}"),
                "Use a browser with WebGPU and a GPU driver that it supports, or device \"cpu\"",
            )
        })?;
        let limits = adapter.limits();
        check_limits(&limits)?;
        let timestamps = adapter.features() & wgpu::Features::TIMESTAMP_QUERY;
        let descriptor = wgpu::DeviceDescriptor {
            required_limits: limits.clone(),
            required_features: timestamps,
            ..Default::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(|e| {
            Error::new(Code::NoWebGpu, format!("the adapter opens no device ({e})"), "Use device \"cpu\"")
        })?;
        let info = adapter.get_info();
        let events = Arc::new(Mutex::new(Events::default()));
        let (on_lost, on_error) = (events.clone(), events.clone());
        device.set_device_lost_callback(move |reason, message| {
            if let Ok(mut events) = on_lost.lock() {
                events.lost = Some(format!("{reason:?}: {message}"));
            }
        });
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            if let Ok(mut events) = on_error.lock() {
                events.uncaptured.get_or_insert_with(|| error.to_string());
            }
        }));
        let is_fallback_adapter = info.device_type == wgpu::DeviceType::Cpu;
        #[cfg(target_arch = "wasm32")]
        let adapter = super::browser::adapter(&device, is_fallback_adapter);
        #[cfg(not(target_arch = "wasm32"))]
        let adapter = Adapter {
            vendor: info.name,
            architecture: info.driver,
            description: info.driver_info,
            is_fallback_adapter,
        };
        Ok(Backend {
            device,
            queue,
            adapter,
            limits,
            events,
            buffers_made: AtomicUsize::new(0),
            has_timestamps: !timestamps.is_empty(),
        })
    }

    /// Who the adapter is.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// How many buffers were made so far, those of readbacks included.
    pub fn buffers_made(&self) -> usize {
        self.buffers_made.load(Ordering::Relaxed)
    }

    /// The largest range one binding may have, in bytes.
    pub fn max_binding(&self) -> usize {
        (self.limits.max_storage_buffer_binding_size).min(self.limits.max_buffer_size) as usize
    }

    /// How many workgroups a dispatch may have in each dimension.
    pub fn max_workgroups(&self) -> u32 {
        self.limits.max_compute_workgroups_per_dimension
    }

    /// Runs `work`, which creates objects on the device, and reports what went wrong with it.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`, or `code` for a validation error.
    async fn guarded<T>(&self, what: &str, code: Code, work: impl FnOnce() -> T) -> Result<T> {
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let result = work();
        if let Some(error) = memory.pop().await {
            return Err(Error::new(
                Code::OutOfMemory,
                format!("{what}: {error}"),
                "Close other pages that use the GPU, generate fewer images at once, or use device \"cpu\"",
            ));
        }
        for scope in [validation, internal] {
            if let Some(error) = scope.pop().await {
                return Err(Error::new(
                    code,
                    format!("{what}: {error}"),
                    "Use device \"cpu\", and report this adapter",
                ));
            }
        }
        Ok(result)
    }

    /// Device memory, zeroed.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub async fn buffer(&self, label: &str, bytes: usize, usage: Usage) -> Result<Buffer> {
        let what = format!("{label} of {bytes} bytes");
        self.guarded(&what, Code::OutOfMemory, || self.create(label, bytes, usage)).await
    }

    fn create(&self, label: &str, bytes: usize, usage: Usage) -> Buffer {
        let usage = match usage {
            Usage::Storage => wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            Usage::Uniform => wgpu::BufferUsages::UNIFORM,
        } | wgpu::BufferUsages::COPY_DST;
        self.buffers_made.fetch_add(1, Ordering::Relaxed);
        Buffer(self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes.max(16) as u64,
            usage,
            mapped_at_creation: false,
        }))
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

    /// Overwrites part of a buffer before all later submissions.
    pub fn write(&self, buffer: &Buffer, offset: usize, contents: &[u8]) {
        self.queue.write_buffer(&buffer.0, offset as u64, contents);
    }

    /// Compiles a kernel.
    ///
    /// # Errors
    /// `SHADER_FAILED` with the compiler's message.
    pub async fn pipeline(&self, label: &str, wgsl: &str) -> Result<Pipeline> {
        self.guarded(&format!("shader {label}"), Code::ShaderFailed, || {
            let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(label),
                source: wgpu::ShaderSource::Wgsl(wgsl.into()),
            });
            Pipeline(self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(label),
                layout: None,
                module: &module,
                entry_point: Some("main"),
                compilation_options: Default::default(),
                cache: None,
            }))
        })
        .await
    }

    /// Binds ranges to a kernel.
    pub fn dispatch(&self, pipeline: &Pipeline, bindings: &[(u32, Slice<'_>)], workgroups: [u32; 3]) -> Dispatch {
        let entries: Vec<wgpu::BindGroupEntry<'_>> = bindings
            .iter()
            .map(|(binding, slice)| wgpu::BindGroupEntry {
                binding: *binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &slice.buffer.0,
                    offset: slice.offset as u64,
                    size: std::num::NonZeroU64::new(slice.bytes as u64),
                }),
            })
            .collect();
        let bindings = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.0.get_bind_group_layout(0),
            entries: &entries,
        });
        Dispatch { pipeline: pipeline.0.clone(), bindings, workgroups }
    }

    /// Submits launches in order, in one compute pass.
    pub fn submit<'a>(&self, dispatches: impl IntoIterator<Item = &'a Dispatch>) -> Ticket {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            dispatches.into_iter().for_each(|dispatch| dispatch.record(&mut pass));
        }
        #[cfg(not(target_arch = "wasm32"))]
        return Ticket { submission: self.queue.submit([encoder.finish()]) };
        #[cfg(target_arch = "wasm32")]
        {
            self.queue.submit([encoder.finish()]);
            Ticket { done: self.done() }
        }
    }

    /// Waits until a submission is done.
    ///
    /// # Errors
    /// `DEVICE_LOST`, or `INTERNAL` for a validation error of anything submitted.
    pub async fn wait(&self, ticket: Ticket) -> Result<()> {
        #[cfg(not(target_arch = "wasm32"))]
        let answered = {
            let wait = wgpu::PollType::Wait { submission_index: Some(ticket.submission), timeout: None };
            self.device.poll(wait).is_ok()
        };
        #[cfg(target_arch = "wasm32")]
        let answered = ticket.done.await.is_ok();
        self.check()?;
        if answered { Ok(()) } else { Err(lost("the device dropped its work")) }
    }

    /// Answers once all that was submitted is done.
    fn done(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            let _ = sender.send(());
        });
        receiver
    }

    /// Whether [`Backend::time`] asks the GPU's own clock.
    pub fn has_timestamps(&self) -> bool {
        self.has_timestamps
    }

    /// Runs launches in order, each `repeats` times, and gives the nanoseconds that each took all repeats together: by the
    /// GPU's clock where it has one, else by ours, one submission a launch.
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn time(&self, work: &[(&Dispatch, u32)]) -> Result<Vec<f64>> {
        if !self.has_timestamps {
            let mut times = Vec::with_capacity(work.len());
            for &(dispatch, repeats) in work {
                let began = web_time::Instant::now();
                self.submit(std::iter::repeat_n(dispatch, repeats as usize));
                self.finished().await?;
                times.push(began.elapsed().as_secs_f64() * 1e9);
            }
            return Ok(times);
        }
        let mut times = Vec::with_capacity(work.len());
        for part in work.chunks(TIMED_AT_ONCE) {
            let queries = self.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: 2 * part.len() as u32,
            });
            let resolved = Buffer(self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: 16 * part.len() as u64,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }));
            let mut encoder = self.device.create_command_encoder(&Default::default());
            for (i, &(dispatch, repeats)) in part.iter().enumerate() {
                let first = 2 * i as u32;
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(first),
                        end_of_pass_write_index: Some(first + 1),
                    }),
                });
                for _ in 0..repeats {
                    dispatch.record(&mut pass);
                }
            }
            encoder.resolve_query_set(&queries, 0..2 * part.len() as u32, &resolved.0, 0);
            self.queue.submit([encoder.finish()]);
            let bytes = self.read(resolved.whole()).await?;
            let ticks: &[u64] = bytemuck::cast_slice(&bytes);
            let period = f64::from(self.queue.get_timestamp_period());
            times.extend(ticks.chunks(2).map(|t| t[1].saturating_sub(t[0]) as f64 * period));
        }
        Ok(times)
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// `DEVICE_LOST`, or `INTERNAL` for a validation error of anything submitted.
    pub async fn finished(&self) -> Result<()> {
        let done = self.done();
        self.poll();
        let answered = done.await.is_ok();
        self.check()?;
        if answered { Ok(()) } else { Err(lost("the device dropped its work")) }
    }

    /// Reads part of a buffer (offset and length multiples of 4).
    ///
    /// # Errors
    /// `DEVICE_LOST`.
    pub async fn read(&self, slice: Slice<'_>) -> Result<Vec<u8>> {
        self.buffers_made.fetch_add(1, Ordering::Relaxed);
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: slice.bytes as u64,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&slice.buffer.0, slice.offset as u64, &staging, 0, slice.bytes as u64);
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = sender.send(result);
        });
        self.poll();
        let mapped = receiver.await;
        self.check()?;
        match mapped {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(lost(&format!("a readback failed ({error})"))),
            Err(_) => return Err(lost("a readback was dropped")),
        }
        let view = staging.get_mapped_range(..).map_err(|e| lost(&format!("a readback failed ({e})")))?;
        let bytes = view.to_vec();
        drop(view);
        staging.unmap();
        Ok(bytes)
    }

    /// Natively somebody must drive the device; in browsers the event loop does.
    fn poll(&self) {
        #[cfg(not(target_arch = "wasm32"))]
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
    }

    /// Whether the device still works.
    ///
    /// # Errors
    /// `DEVICE_LOST`, or `INTERNAL` for an error that nobody waited for.
    pub fn check(&self) -> Result<()> {
        let events = self.events.lock().map_err(|_| Error::internal("the event log is poisoned"))?;
        if let Some(reason) = &events.lost {
            return Err(lost(reason));
        }
        match &events.uncaptured {
            Some(error) => Err(Error::internal(format!("the GPU reported: {error}"))),
            None => Ok(()),
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.device.destroy();
    }
}

fn lost(reason: &str) -> Error {
    Error::new(
        Code::DeviceLost,
        format!("the GPU device was lost ({reason})"),
        "Load the model again; if it happens again, use device \"cpu\"",
    )
}

/// What the kernels need: WebGPU's default limits.
fn check_limits(found: &wgpu::Limits) -> Result<()> {
    let needed = wgpu::Limits::default();
    for (name, needed, found) in [
        (
            "maxStorageBuffersPerShaderStage",
            needed.max_storage_buffers_per_shader_stage as u64,
            found.max_storage_buffers_per_shader_stage as u64,
        ),
        ("maxStorageBufferBindingSize", needed.max_storage_buffer_binding_size, found.max_storage_buffer_binding_size),
        ("maxBufferSize", needed.max_buffer_size, found.max_buffer_size),
        (
            "maxComputeInvocationsPerWorkgroup",
            needed.max_compute_invocations_per_workgroup as u64,
            found.max_compute_invocations_per_workgroup as u64,
        ),
        (
            "maxComputeWorkgroupsPerDimension",
            needed.max_compute_workgroups_per_dimension as u64,
            found.max_compute_workgroups_per_dimension as u64,
        ),
    ] {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_too_small_is_named_with_what_is_needed_and_found() {
        check_limits(&wgpu::Limits::default()).unwrap();
        let small = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..wgpu::Limits::default() };
        let error = check_limits(&small).unwrap_err();
        assert_eq!(error.code, Code::LimitTooSmall);
        assert_eq!(error.cause, "the adapter's maxStorageBuffersPerShaderStage is 4, 8 is needed");
    }
}
