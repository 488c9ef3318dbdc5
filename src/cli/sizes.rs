//! What a model's components weigh on the wire and in memory, dtype by dtype, read off Plans: nothing is loaded.

use super::output::say;
use std::collections::BTreeMap;
use uvit_web::model::{Batch, Network, caption_decoder};
use uvit_web::package::{DENOISER, Manifest, Storing, TEXT_ENCODER, TEXT_ENCODER_2, Task};
use uvit_web::pipeline::{fitting, rows_of};
use uvit_web::plan::{Capabilities, Plan, WeightUse, lower};
use uvit_web::weights::{Dtype, Entry};
use uvit_web::{Code, Result};

/// A model's components in the order in which they run.
pub struct Sizes {
    pub parts: Vec<Part>,
    /// What it is or may be stored in.
    pub dtypes: Vec<Dtype>,
}

/// One component.
pub struct Part {
    name: &'static str,
    /// Of its activations, on a GPU, in f32.
    activations: u64,
    /// The binding that they take, where WebGPU's default limits do not allow it.
    binding: Option<u64>,
    /// In [`Sizes::dtypes`]' order.
    stored: Vec<Stored>,
}

/// One stored form of a component.
struct Stored {
    dtype: Dtype,
    /// Bytes to download.
    bytes: u64,
    /// Bytes of its weights on a GPU: matrices as they are stored, whatever is read as floats in f32.
    weights: u64,
    /// A matrix that no binding of the default size holds.
    too_large: Option<String>,
}

/// What a GPU makes of something: one with WebGPU's default limits, or with bindings no larger than it takes.
///
/// # Errors
/// `LIMIT_TOO_SMALL` if no binding of 2 GiB is enough; its own.
pub fn least<T>(make: impl Fn(&Capabilities) -> Result<T>) -> Result<T> {
    let mut capabilities = Capabilities::WEBGPU;
    loop {
        match make(&capabilities) {
            Err(error) if error.code == Code::LimitTooSmall && capabilities.max_binding < 2 << 30 => {
                capabilities.max_binding *= 2;
            }
            made => return made,
        }
    }
}

impl Part {
    /// Of its stage: weights and activations.
    fn memory(&self, dtype: usize) -> u64 {
        self.stored[dtype].weights + self.activations
    }
}

/// Sizes of a model: in what it is stored in, or, of one that is not stored yet, in every dtype.
///
/// # Errors
/// Those of recording its networks.
pub fn of(manifest: &Manifest, images: usize) -> Result<Sizes> {
    let names = manifest.runs();
    let mut dtypes = Vec::new();
    for variant in names.iter().filter_map(|name| manifest.components.get(name)).flat_map(|part| &part.variants) {
        if !dtypes.contains(&variant.dtype) {
            dtypes.push(variant.dtype);
        }
    }
    if dtypes.is_empty() {
        dtypes = Dtype::ALL.to_vec();
    }
    dtypes.sort_by_key(|dtype| Dtype::ALL.iter().position(|other| other == dtype));
    let parts = names.into_iter().map(|name| part(manifest, name, &dtypes, images)).collect::<Result<_>>()?;
    Ok(Sizes { parts, dtypes })
}

fn part(manifest: &Manifest, name: &'static str, dtypes: &[Dtype], images: usize) -> Result<Part> {
    let network = manifest.network(name)?;
    let plan = network.record(Batch::plain(1))?.plan;
    let stored = dtypes.iter().map(|&dtype| stored(manifest, name, &plan, dtype)).collect::<Result<_>>()?;
    let [activations, largest] = activations(manifest, name, &network, images)?;
    let binding = Some(largest).filter(|&largest| largest > Capabilities::WEBGPU.max_binding as u64);
    Ok(Part { name, activations, binding, stored })
}

/// Bytes of a component's activations in one request for so many guided pictures of the model's size, and the largest binding of them.
fn activations(manifest: &Manifest, name: &str, network: &Network, images: usize) -> Result<[u64; 2]> {
    let guided = network.classes() > 0 || network.text_port().is_some();
    let copies = match name {
        DENOISER if guided => 2,
        // The prompt, and the empty text; a UniDiffuser needs none.
        TEXT_ENCODER | TEXT_ENCODER_2 if manifest.task == Task::Text => 2,
        _ => 1,
    };
    let batch = Batch { images, copies, ..manifest.one(name)? };
    least(|capabilities| match network {
        Network::CaptionDecoder(config) => Ok([captions(config, images)?, 0]),
        _ => fitting(network, batch, capabilities).map(|(_, program)| {
            let largest = program.slab_bytes.iter().max().copied().unwrap_or(0);
            [program.activation_bytes(), largest as u64]
        }),
    })
}

/// Of captions in the published number of beams: keys and values, and the larger of the two forwards.
fn captions(config: &caption_decoder::Config, captions: usize) -> Result<u64> {
    let rows = captions * rows_of(config, config.beam_size);
    let mut most = 0;
    for recording in [config.prefill(captions, rows)?, config.decode(captions * config.beam_size, rows)?] {
        most = most.max(lower(&recording.plan, &Capabilities::WEBGPU, &[])?.activation_bytes());
    }
    let cached = config.caches(rows).into_iter().map(|(_, shape)| 4 * shape.iter().product::<usize>() as u64);
    Ok(most + cached.sum::<u64>())
}

fn stored(manifest: &Manifest, name: &str, plan: &Plan, dtype: Dtype) -> Result<Stored> {
    let variant =
        manifest.component(name)?.variants.first().map(|_| manifest.variant(name, Some(dtype))).transpose()?;
    let storing = Storing::plain(dtype);
    let entry = |weight: usize| {
        let there: Option<&Entry> = variant.and_then(|variant| variant.tensors.get(&plan.weights[weight].name));
        there.cloned().unwrap_or_else(|| storing.form(&plan.weights[weight]))
    };
    let (mut weights, mut too_large) = (0, None);
    for (i, weight) in plan.weights.iter().enumerate() {
        let elements = weight.shape.iter().product::<usize>() as u64;
        let bytes = if weight.usage == WeightUse::Matrix { entry(i).bytes() } else { 4 * elements };
        if weight.usage == WeightUse::Matrix && bytes > Capabilities::WEBGPU.max_binding as u64 {
            too_large = Some(weight.name.clone());
        }
        weights += bytes;
    }
    let published = || plan.published().map(|weight| storing.form(weight).bytes()).sum();
    let bytes = variant.map_or_else(published, |variant| variant.bytes);
    Ok(Stored { dtype: variant.map_or(dtype, |variant| variant.dtype), bytes, weights, too_large })
}

impl Sizes {
    /// Bytes of all components.
    fn download(&self, dtype: usize) -> u64 {
        self.parts.iter().map(|part| part.stored[dtype].bytes).sum()
    }

    /// With all of them loaded: scratch memory is that of the largest.
    fn together(&self, dtype: usize) -> u64 {
        let weights: u64 = self.parts.iter().map(|part| part.stored[dtype].weights).sum();
        weights + self.parts.iter().map(|part| part.activations).max().unwrap_or(0)
    }

    /// With each loaded for its stage.
    fn peak(&self, dtype: usize) -> u64 {
        self.parts.iter().map(|part| part.memory(dtype)).max().unwrap_or(0)
    }

    /// For `--json`.
    pub fn in_json(&self) -> serde_json::Value {
        let of_dtype = |(i, dtype): (usize, &Dtype)| {
            let part = |part: &Part| {
                let stored = &part.stored[i];
                let described = serde_json::json!({
                    "dtype": stored.dtype.as_str(), "downloadBytes": stored.bytes, "weightBytes": stored.weights,
                    "activationBytes": part.activations, "memoryBytes": part.memory(i), "bindingBytes": part.binding,
                    "tooLargeForDefaultLimits": stored.too_large,
                });
                (part.name.to_owned(), described)
            };
            let parts: serde_json::Map<_, _> = self.parts.iter().map(part).collect();
            let described = serde_json::json!({
                "components": parts, "downloadBytes": self.download(i), "memoryBytes": self.together(i),
                "memoryBytesByStages": self.peak(i),
            });
            (dtype.as_str().to_owned(), described)
        };
        self.dtypes.iter().enumerate().map(of_dtype).collect::<serde_json::Map<_, _>>().into()
    }

    /// A table of downloads, and one of memory.
    ///
    /// # Errors
    /// Those of writing.
    pub fn print(&self, images: usize) -> Result<()> {
        let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        let row = |name: &str, cells: &dyn Fn(usize) -> String| {
            let cells = (0..self.dtypes.len()).map(|i| format!("{:>10}", cells(i))).collect::<String>();
            say!("  {name:16}{cells}")
        };
        row("download, MB", &|i| self.dtypes[i].as_str().into())?;
        for part in &self.parts {
            // One that is not stored so is loaded as what it is stored as.
            let other = |i: usize| if part.stored[i].dtype == self.dtypes[i] { "" } else { "*" };
            row(part.name, &|i| format!("{}{}", megabytes(part.stored[i].bytes), other(i)))?;
        }
        if self.parts.len() > 1 {
            row("all", &|i| megabytes(self.download(i)))?;
        }
        let pictures = if images == 1 { "one picture".to_owned() } else { format!("{images} pictures") };
        say!("memory of a GPU, MB: weights and activations in f32, {pictures}, guided where the model can be")?;
        row("", &|i| self.dtypes[i].as_str().into())?;
        for part in &self.parts {
            row(part.name, &|i| megabytes(part.memory(i)))?;
        }
        if self.parts.len() > 1 {
            row("all loaded", &|i| megabytes(self.together(i)))?;
            row("stage by stage", &|i| megabytes(self.peak(i)))?;
        }
        let mut limits: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for part in &self.parts {
            if let Some(bytes) = part.binding {
                let what = format!("{}: its activations take one of {} MB", part.name, megabytes(bytes));
                limits.entry(what).or_default().extend(["every dtype"]);
            }
            for (stored, dtype) in part.stored.iter().zip(&self.dtypes) {
                if let Some(weight) = &stored.too_large {
                    limits.entry(format!("{}: {weight}", part.name)).or_default().push(dtype.as_str());
                }
            }
        }
        for (what, dtypes) in &limits {
            say!("  no binding of the default 128 MiB holds {what} ({})", dtypes.join(", "))?;
        }
        if limits.is_empty() {
            say!("  a WebGPU device with default limits (bindings of 128 MiB) can run all of it")?;
        }
        Ok(())
    }
}
