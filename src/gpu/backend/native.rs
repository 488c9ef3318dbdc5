//! On wgpu: Vulkan, Metal, DX12.

use super::{
    Adapter, Events, Limits, Slice, Usage, lost, no_adapter, no_device, out_of_memory, shader_failed, unreadable,
};
use crate::meter::{Meter, Metered};
use crate::{Error, Result};
use futures_channel::oneshot;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use web_time::Instant;

/// What compiles the shaders; the driver is the adapter's to name.
pub fn platform() -> String {
    format!("{} {}", std::env::consts::OS, env!("CARGO_PKG_VERSION"))
}

/// Device memory.
#[derive(Clone, Debug)]
pub struct Buffer {
    buffer: wgpu::Buffer,
    _metered: Arc<Metered>,
}

impl Buffer {
    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.buffer.size() as usize
    }
}

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct Pipeline(wgpu::ComputePipeline);

/// A kernel that is being compiled.
pub struct Compiling(Pin<Box<dyn Future<Output = Result<Pipeline>>>>);

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

/// A submission that may still be running.
#[derive(Debug)]
pub struct Ticket {
    index: wgpu::SubmissionIndex,
    ended: Arc<OnceLock<Instant>>,
}

/// Collects what goes wrong with objects that are created meanwhile.
struct Scopes([wgpu::ErrorScopeGuard; 3]);

impl Scopes {
    fn open(device: &wgpu::Device) -> Scopes {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        Scopes([Internal, Validation, OutOfMemory].map(|filter| device.push_error_scope(filter)))
    }

    /// The first error: whether memory ran out, and the message.
    fn close(self) -> impl Future<Output = std::result::Result<(), (bool, String)>> + use<> {
        let [internal, validation, memory] = self.0;
        let (memory, validation, internal) = (memory.pop(), validation.pop(), internal.pop());
        async move {
            match (memory.await, validation.await, internal.await) {
                (Some(error), ..) => Err((true, error.to_string())),
                (None, Some(error), _) | (None, None, Some(error)) => Err((false, error.to_string())),
                (None, None, None) => Ok(()),
            }
        }
    }
}

/// An open device.
pub struct Backend {
    device: wgpu::Device,
    queue: wgpu::Queue,
    adapter: Adapter,
    limits: Limits,
    events: Arc<Mutex<Events>>,
    meter: Meter,
    has_timestamps: bool,
}

impl Backend {
    /// Opens the best adapter, with all the limits that it offers.
    ///
    /// # Errors
    /// `NO_WEBGPU` if there is none, `LIMIT_TOO_SMALL` if it stays below WebGPU's default limits.
    pub async fn open() -> Result<Backend> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        let adapter = instance.request_adapter(&options).await.map_err(|e| no_adapter(&format!(" ({e})")))?;
        let found = adapter.limits();
        let limits = Limits {
            storage_buffers: found.max_storage_buffers_per_shader_stage.into(),
            binding_size: found.max_storage_buffer_binding_size,
            buffer_size: found.max_buffer_size,
            invocations: found.max_compute_invocations_per_workgroup.into(),
            workgroups: found.max_compute_workgroups_per_dimension.into(),
        };
        limits.check()?;
        let wanted = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16;
        let features = adapter.features() & wanted;
        let descriptor =
            wgpu::DeviceDescriptor { required_limits: found, required_features: features, ..Default::default() };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(|e| no_device(&e.to_string()))?;
        let events = Arc::new(Mutex::new(Events::default()));
        let (on_lost, on_error) = (events.clone(), events.clone());
        device.set_device_lost_callback(move |reason, message| {
            if let Ok(mut events) = on_lost.lock() {
                events.lost = Some(format!("{reason:?}: {message}"));
            }
        });
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            if let Ok(mut events) = on_error.lock() {
                events.note(matches!(error, wgpu::Error::OutOfMemory { .. }), error.to_string());
            }
        }));
        let info = adapter.get_info();
        let adapter = Adapter {
            vendor: info.name,
            architecture: info.driver,
            description: info.driver_info,
            is_fallback_adapter: info.device_type == wgpu::DeviceType::Cpu,
            subgroup_size: if features.contains(wgpu::Features::SUBGROUP) { info.subgroup_min_size } else { 1 },
            shader_f16: features.contains(wgpu::Features::SHADER_F16),
        };
        Ok(Backend {
            device,
            queue,
            adapter,
            limits,
            events,
            meter: Meter::default(),
            has_timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        })
    }

    /// Who the adapter is.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Device memory, zeroed.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub async fn buffer(&self, label: &str, bytes: usize, usage: Usage) -> Result<Buffer> {
        let usage = match usage {
            Usage::Storage => wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            Usage::Uniform => wgpu::BufferUsages::UNIFORM,
        } | wgpu::BufferUsages::COPY_DST;
        let scopes = Scopes::open(&self.device);
        let buffer = self.create(label, bytes.max(16), usage);
        scopes.close().await.map_err(|(_, error)| out_of_memory(&format!("{label} of {bytes} bytes"), &error))?;
        Ok(buffer)
    }

    fn create(&self, label: &str, bytes: usize, usage: wgpu::BufferUsages) -> Buffer {
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes as u64,
            usage,
            mapped_at_creation: false,
        });
        Buffer { buffer, _metered: Arc::new(self.meter.count(bytes)) }
    }

    /// Overwrites part of a buffer before all later submissions.
    pub fn write(&self, buffer: &Buffer, offset: usize, contents: &[u8]) {
        self.queue.write_buffer(&buffer.buffer, offset as u64, contents);
    }

    /// Begins to compile a kernel.
    pub fn compile(&self, label: &str, wgsl: &str) -> Compiling {
        let scopes = Scopes::open(&self.device);
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(label),
            // wgpu's compiler knows subgroups without such a line, and refuses it.
            source: wgpu::ShaderSource::Wgsl(format!("{}{wgsl}", self.adapter.enable(false)).into()),
        });
        let pipeline = Pipeline(self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        }));
        let closed = scopes.close();
        let label = label.to_string();
        Compiling(Box::pin(async move {
            match closed.await {
                Ok(()) => Ok(pipeline),
                Err((true, error)) => Err(out_of_memory(&label, &error)),
                Err((false, error)) => Err(shader_failed(&label, &error)),
            }
        }))
    }

    /// The compiled kernel.
    ///
    /// # Errors
    /// `SHADER_FAILED` with the compiler's message and the line.
    pub async fn compiled(&self, compiling: Compiling) -> Result<Pipeline> {
        compiling.0.await
    }

    /// Binds ranges to a kernel.
    pub fn dispatch(&self, pipeline: &Pipeline, bindings: &[(u32, Slice<'_>)], workgroups: [u32; 3]) -> Dispatch {
        let entries: Vec<wgpu::BindGroupEntry<'_>> = bindings
            .iter()
            .map(|(binding, slice)| wgpu::BindGroupEntry {
                binding: *binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &slice.buffer.buffer,
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
        let index = self.queue.submit([encoder.finish()]);
        let ended = Arc::new(OnceLock::new());
        let note = ended.clone();
        self.queue.on_submitted_work_done(move || {
            note.get_or_init(Instant::now);
        });
        Ticket { index, ended }
    }

    /// Submits launches, each `repeats` times in a pass of its own; gives the clock's ticks before and after each.
    pub(super) fn submit_timed(&self, work: &[(&Dispatch, u32)]) -> Buffer {
        let count = 2 * work.len() as u32;
        let queries = self.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let ticks = self.create("timestamps", 8 * count as usize, usage);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for (i, &(dispatch, repeats)) in work.iter().enumerate() {
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
        encoder.resolve_query_set(&queries, 0..count, &ticks.buffer, 0);
        self.queue.submit([encoder.finish()]);
        ticks
    }

    /// Whether there are timestamp queries.
    pub fn has_timestamps(&self) -> bool {
        self.has_timestamps
    }

    /// Nanoseconds of a timestamp's tick.
    pub(super) fn timestamp_period(&self) -> f64 {
        self.queue.get_timestamp_period().into()
    }

    /// Waits until a submission is done.
    ///
    /// # Errors
    /// `DEVICE_LOST`, or `INTERNAL` for a validation error of anything submitted.
    pub async fn wait(&self, ticket: &Ticket) -> Result<()> {
        let wait = wgpu::PollType::Wait { submission_index: Some(ticket.index.clone()), timeout: None };
        let answered = self.device.poll(wait).is_ok();
        self.check()?;
        if !answered {
            return Err(lost("the device dropped its work"));
        }
        ticket.ended.get_or_init(Instant::now);
        Ok(())
    }

    /// When a submission ended, if it has.
    pub fn ended(&self, ticket: &Ticket) -> Option<Instant> {
        let _ = self.device.poll(wgpu::PollType::Poll);
        ticket.ended.get().copied()
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// `DEVICE_LOST`, or `INTERNAL` for a validation error of anything submitted.
    pub async fn finished(&self) -> Result<()> {
        let answered = self.device.poll(wgpu::PollType::wait_indefinitely()).is_ok();
        self.check()?;
        if answered { Ok(()) } else { Err(lost("the device dropped its work")) }
    }

    /// Reads part of a buffer (offset and length multiples of 4).
    ///
    /// # Errors
    /// `DEVICE_LOST`, `OUT_OF_MEMORY`.
    pub async fn read(&self, slice: Slice<'_>) -> Result<Vec<u8>> {
        let scopes = Scopes::open(&self.device);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let Buffer { buffer: staging, _metered } = self.create("readback", slice.bytes, usage);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&slice.buffer.buffer, slice.offset as u64, &staging, 0, slice.bytes as u64);
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = sender.send(result);
        });
        let verdict = scopes.close();
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
        let mapped = receiver.await;
        self.check()?;
        verdict.await.map_err(|(memory, error)| unreadable(memory, slice.bytes, &error))?;
        match mapped {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(unreadable(false, slice.bytes, &error.to_string())),
            Err(_) => return Err(lost("a readback was dropped")),
        }
        let view = staging.get_mapped_range(..).map_err(|e| unreadable(false, slice.bytes, &e.to_string()))?;
        let bytes = view.to_vec();
        drop(view);
        staging.unmap();
        Ok(bytes)
    }

    /// Whether the device still works.
    ///
    /// # Errors
    /// `DEVICE_LOST`; once, `OUT_OF_MEMORY` or `INTERNAL` for an error that nobody waited for.
    pub fn check(&self) -> Result<()> {
        let mut events = self.events.lock().map_err(|_| Error::internal("the event log is poisoned"))?;
        events.check()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.device.destroy();
    }
}
