//! A model on its way to a device.

use super::captions::Captions;
use super::components::{Arriving, Blueprint, Components};
use super::device::{DeviceInfo, LoadOptions, Opened, Wanted, open};
use super::words::Words;
use super::{Info, Pipeline};
use crate::package::{CAPTION_DECODER, CAPTION_TOKENIZER, DENOISER, Manifest, TEXT_ENCODER, TOKENIZER};
use crate::text::Spelling;
use crate::weights::{Dtype, StoredFile};
use crate::{Error, Result};
use web_time::Instant;

/// A file to bring: of a component, or an asset.
#[derive(Clone, Debug, PartialEq)]
pub struct Needed {
    /// The component's name, or the asset's.
    pub of: &'static str,
    /// Where it lies, and what it must be.
    pub stored: StoredFile,
    /// Of the component's files; none: it is an asset.
    shard: Option<usize>,
}

/// The components that are loaded at once, in the order of their stages.
fn stages(manifest: &Manifest, options: &LoadOptions) -> Vec<&'static str> {
    if options.only_denoiser { vec![DENOISER] } else { manifest.stages() }
}

/// The merges of a caption decoder whose ids are not the text encoder's.
fn own_captions(manifest: &Manifest) -> Option<&StoredFile> {
    manifest.assets.get(CAPTION_TOKENIZER).filter(|_| manifest.has(CAPTION_DECODER))
}

/// The files to bring, in order: known before a device is. Where components do not stay loaded, these are the assets alone.
///
/// # Errors
/// Those of [`Manifest::variant`].
pub fn files(manifest: &Manifest, options: &LoadOptions) -> Result<Vec<Needed>> {
    let names = stages(manifest, options);
    let mut files = Vec::new();
    if names.contains(&TEXT_ENCODER) {
        files.push(Needed { of: TOKENIZER, stored: manifest.asset(TOKENIZER)?.clone(), shard: None });
        if let Some(asset) = own_captions(manifest) {
            files.push(Needed { of: CAPTION_TOKENIZER, stored: asset.clone(), shard: None });
        }
    }
    for of in names {
        let shards = &manifest.variant(of, options.dtype)?.shards;
        if options.keep_loaded {
            let needed = |(shard, file): (usize, &StoredFile)| Needed { of, stored: file.clone(), shard: Some(shard) };
            files.extend(shards.iter().enumerate().map(needed));
        }
    }
    Ok(files)
}

/// A model on its way to a device.
pub struct Loader {
    manifest: Manifest,
    dtype: Option<Dtype>,
    model_hash: String,
    files: Vec<Needed>,
    components: Components,
    arriving: Vec<(&'static str, Arriving)>,
    words: Option<Words>,
    captions: Option<Captions>,
    info: DeviceInfo,
    began: Instant,
}

impl Loader {
    /// Checks the manifest against its networks and opens a device, which is tested before it is trusted.
    ///
    /// # Errors
    /// Those of [`Manifest::check_task`], [`crate::package::reader`] and of opening the device.
    pub async fn new(manifest: Manifest, options: LoadOptions) -> Result<Loader> {
        let began = Instant::now();
        manifest.check_task()?;
        let files = files(&manifest, &options)?;
        let model_hash = manifest.model_hash(options.dtype)?;
        let names = stages(&manifest, &options);
        let mut blueprints = Vec::with_capacity(names.len());
        for name in names {
            blueprints.push(Blueprint::new(&manifest, name, &options)?);
        }
        // The denoiser runs the most.
        let mut wanted: Vec<Wanted<'_>> = Vec::with_capacity(blueprints.len());
        for blueprint in &blueprints {
            let at = if blueprint.name == DENOISER { 0 } else { wanted.len() };
            wanted.insert(at, blueprint.wanted());
        }
        let Opened { device, compute, info } = open(&options, &wanted).await?;
        for blueprint in &mut blueprints {
            blueprint.tested = blueprint.wanted().kinds(&device, compute)?;
        }
        let mut arriving = Vec::new();
        for blueprint in blueprints.iter().filter(|_| options.keep_loaded) {
            arriving.push((blueprint.name, Arriving::new(blueprint, &device, compute)?));
        }
        if !options.only_denoiser {
            // They come with the first request that needs them, and are tested then.
            for name in manifest.on_demand() {
                blueprints.push(Blueprint { on_demand: true, ..Blueprint::new(&manifest, name, &options)? });
            }
        }
        let components = Components::new(device, compute, options.keep_loaded, blueprints);
        let dtype = options.dtype;
        let (words, captions) = (None, None);
        Ok(Loader { manifest, dtype, model_hash, files, components, arriving, words, captions, info, began })
    }

    /// The device that was chosen.
    pub fn device(&self) -> &DeviceInfo {
        &self.info
    }

    /// The files to bring, in order.
    pub fn files(&self) -> &[Needed] {
        &self.files
    }

    /// Verifies a file and moves its tensors to the device.
    ///
    /// # Errors
    /// Those of [`crate::weights::ShardReader`], `SHARD_CORRUPT` and `BAD_MANIFEST` for assets, `OUT_OF_MEMORY`.
    pub async fn add_file(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        let needed = self.files.get(index).ok_or_else(|| Error::internal(format!("there is no file {index}")))?;
        let named = |e: Error| e.of(needed.of);
        match needed.shard {
            None => {
                needed.stored.verify(bytes).map_err(named)?;
                let spelling = if needed.of == TOKENIZER { Spelling::Clip } else { Spelling::Gpt2 };
                if spelling == Spelling::Clip {
                    self.words = Some(Words::new(bytes, &self.components)?);
                }
                if self.manifest.has(CAPTION_DECODER)
                    && own_captions(&self.manifest).is_some() == (spelling == Spelling::Gpt2)
                {
                    self.captions = Some(Captions::new(bytes, spelling, &self.components).map_err(named)?);
                }
                Ok(())
            }
            Some(shard) => {
                let arriving = self.arriving.iter_mut().find(|(name, _)| *name == needed.of);
                let (_, arriving) = arriving.ok_or_else(|| Error::internal("a component does not arrive"))?;
                arriving.add(shard, bytes).await
            }
        }
    }

    /// The model, once all files were brought.
    ///
    /// # Errors
    /// `TENSOR_MISSING`, `OUT_OF_MEMORY`.
    pub async fn finish(mut self) -> Result<Pipeline> {
        for (name, arriving) in self.arriving {
            self.components.arrived(name, arriving.finish().await?)?;
        }
        let (mut bytes, mut parameters) = (0, 0);
        for variant in self.components.variants() {
            bytes += variant.bytes;
            parameters += variant.tensors.values().map(|e| e.shape.iter().product::<usize>() as u64).sum::<u64>();
        }
        let info = Info {
            name: self.manifest.name.clone(),
            dtype: self.manifest.variant(DENOISER, self.dtype)?.dtype,
            compute: self.components.compute(),
            threads: self.components.device().threads(),
            bytes,
            parameters,
            model_hash: self.model_hash,
            load_ms: self.began.elapsed().as_secs_f64() * 1e3,
            device: self.info,
        };
        Pipeline::new(self.manifest, self.components, self.words, self.captions, info)
    }
}
