//! A model on its way to a device.

use super::component::{Component, stored_forms};
use super::device::{DeviceInfo, LoadOptions, Opened, open};
use super::{Info, Pipeline};
use crate::Result;
use crate::model::{Batch, Network};
use crate::package::{self, DENOISER, Manifest};
use crate::plan::{Compute, Plan};
use crate::runtime::{self, Loading};
use crate::weights::{Dtype, ShardReader, StoredFile, Tensor};
use web_time::Instant;

/// A model on its way to a device.
pub struct Loader {
    manifest: Manifest,
    network: Network,
    plan: Plan,
    reader: ShardReader,
    model_hash: String,
    stored: Vec<(Dtype, usize)>,
    loading: Loading,
    compute: Compute,
    device: runtime::Device,
    info: DeviceInfo,
    /// Kinds of kernels that were tested.
    tested: Plan,
    began: Instant,
}

impl Loader {
    /// Checks the manifest against its network and opens a device, which is tested before it is trusted.
    ///
    /// # Errors
    /// Those of [`Manifest::check_task`], [`package::reader`] and of opening the device.
    pub async fn new(manifest: Manifest, options: LoadOptions) -> Result<Loader> {
        let began = Instant::now();
        manifest.check_task()?;
        let network = manifest.network(DENOISER)?;
        let reader = package::reader(&manifest, DENOISER, options.dtype)?;
        let model_hash = manifest.model_hash(options.dtype)?;
        let plan = network.record(Batch::plain(1))?.plan;
        let stored = stored_forms(&network, reader.variant())?;
        let Opened { device, compute, info, program } = open(&options, &network, &stored).await?;
        let tested = runtime::kinds(&program, &|id| stored[id.index()]).plan;
        let loading = Loading::new(&device, compute)?;
        Ok(Loader {
            manifest,
            network,
            plan,
            reader,
            model_hash,
            stored,
            loading,
            compute,
            device,
            info,
            tested,
            began,
        })
    }

    /// The device that was chosen.
    pub fn device(&self) -> &DeviceInfo {
        &self.info
    }

    /// The files to bring, in order.
    pub fn shards(&self) -> &[StoredFile] {
        self.reader.shards()
    }

    /// Verifies a shard and moves its tensors to the device.
    ///
    /// # Errors
    /// Those of [`ShardReader::open`] and [`ShardReader::next_tensor`], `OUT_OF_MEMORY`.
    pub async fn add_shard(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        let mut open = self.reader.open(index, bytes)?;
        while let Some(tensor) = self.reader.next_tensor(&mut open)? {
            self.add_tensor(&tensor).await?;
        }
        Ok(())
    }

    async fn add_tensor(&mut self, tensor: &Tensor) -> Result<()> {
        // One name may be read in several ways.
        for (id, weight, form) in self.plan.loads(self.compute) {
            if weight.name == tensor.name {
                self.loading.load(id, weight, form, tensor).await?;
            }
        }
        Ok(())
    }

    /// The model, once all shards were brought.
    ///
    /// # Errors
    /// `TENSOR_MISSING`, `OUT_OF_MEMORY`.
    pub async fn finish(self) -> Result<Pipeline> {
        self.reader.finish()?;
        let weights = self.loading.finish().await?;
        let variant = self.reader.variant();
        let info = Info {
            name: self.manifest.name.clone(),
            dtype: variant.dtype,
            compute: weights.compute(),
            threads: self.device.threads(),
            bytes: variant.bytes,
            parameters: variant.tensors.values().map(|e| e.shape.iter().product::<usize>() as u64).sum(),
            model_hash: self.model_hash,
            load_ms: self.began.elapsed().as_secs_f64() * 1e3,
            device: self.info,
        };
        let component = Component::new(self.network, weights, self.stored, vec![self.tested]);
        Ok(Pipeline::new(self.manifest, component, info))
    }
}
