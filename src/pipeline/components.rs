//! A model's components on one device: loaded for good, or each for as long as its stage takes.

use super::component::{Component, stored_forms};
use super::device::{LoadOptions, Wanted};
use super::fitting::TILED;
use super::helpers::Answer;
use crate::model::{Batch, Network};
use crate::package::{self, DENOISER, Manifest};
use crate::plan::{Compute, Kind, Plan};
use crate::runtime::{Device, Loading, Weights, turn};
use crate::weights::{Dtype, ShardReader, Variant};
use crate::{Code, Error, Result};
use std::rc::Rc;

pub use crate::weights::StoredFile;

/// Brings a model's files when a stage needs them: from a folder, or over the network.
pub trait Source {
    /// A file's bytes; whether they are the right ones is checked by whoever asked.
    fn bring(&self, file: &StoredFile) -> Answer<Vec<u8>>;
}

/// What it takes to load a component: its network, and how its weights are stored.
pub(super) struct Blueprint {
    pub name: &'static str,
    pub network: Network,
    /// What a device is tested and tuned with: one picture, guided if the network can be.
    pub batch: Batch,
    pub variant: Variant,
    /// Dtype and columns a scale, by weight.
    pub stored: Vec<(Dtype, usize)>,
    /// Kinds of kernels that were tested on the device.
    pub tested: Vec<Kind>,
    /// Whether only some requests need it.
    pub on_demand: bool,
}

impl Blueprint {
    /// Of a component, in the stored form that [`Manifest::variant`] takes.
    pub fn new(manifest: &Manifest, name: &'static str, options: &LoadOptions) -> Result<Blueprint> {
        let network = manifest.network(name)?;
        let variant = package::reader(manifest, name, options.dtype)?.variant().clone();
        let stored = stored_forms(&network, &variant)?;
        let guided = name == DENOISER && (network.classes() > 0 || network.text_port().is_some());
        let (copies, tiled) = (if guided { 2 } else { 1 }, (options.tiling && network.tiles()).then_some(TILED));
        let batch = Batch { copies, tiled, ..manifest.one(name)? };
        Ok(Blueprint { name, network, batch, variant, stored, tested: Vec::new(), on_demand: false })
    }

    /// What a device is to be good for.
    pub fn wanted(&self) -> Wanted<'_> {
        Wanted { network: &self.network, stored: &self.stored, batch: self.batch }
    }
}

/// A component's weights on their way to the device.
pub(super) struct Arriving {
    plan: Plan,
    reader: ShardReader,
    loading: Loading,
    compute: Compute,
}

impl Arriving {
    pub fn new(blueprint: &Blueprint, device: &Device, compute: Compute) -> Result<Arriving> {
        let plan = blueprint.network.record(Batch::plain(1))?.plan;
        let reader = ShardReader::new(blueprint.variant.clone(), plan.published())?;
        Ok(Arriving { plan, reader, loading: Loading::new(device, compute)?, compute })
    }

    /// Verifies a shard and moves its tensors to the device.
    pub async fn add(&mut self, shard: usize, bytes: &[u8]) -> Result<()> {
        let mut open = self.reader.open(shard, bytes)?;
        while let Some(tensor) = self.reader.next_tensor(&mut open)? {
            // One name may be read in several ways.
            for (id, weight, form) in self.plan.loads(self.compute) {
                if weight.name == tensor.name {
                    self.loading.load(id, weight, form, &tensor).await?;
                }
            }
        }
        Ok(())
    }

    /// All of them, on the device.
    pub async fn finish(self) -> Result<Weights> {
        self.reader.finish()?;
        self.loading.finish().await
    }
}

/// A model's components, those that are loaded at the moment.
pub(super) struct Components {
    device: Device,
    compute: Compute,
    /// Whether they stay once they are loaded.
    kept: bool,
    all: Vec<(Blueprint, Option<Component>)>,
    source: Option<Rc<dyn Source>>,
}

impl Components {
    /// None of them loaded.
    pub fn new(device: Device, compute: Compute, kept: bool, all: Vec<Blueprint>) -> Components {
        let all = all.into_iter().map(|blueprint| (blueprint, None)).collect();
        Components { device, compute, kept, all, source: None }
    }

    pub fn bring_from(&mut self, source: Rc<dyn Source>) {
        self.source = Some(source);
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The network of a component, if the model has it.
    pub fn network(&self, name: &str) -> Option<&Network> {
        self.all.iter().find(|(blueprint, _)| blueprint.name == name).map(|(blueprint, _)| &blueprint.network)
    }

    /// What each is stored as that every generation runs.
    pub fn variants(&self) -> impl Iterator<Item = &Variant> {
        let needed = self.all.iter().filter(|(blueprint, _)| !blueprint.on_demand);
        needed.map(|(blueprint, _)| &blueprint.variant)
    }

    fn find(&mut self, name: &str) -> Result<&mut (Blueprint, Option<Component>)> {
        let found = self.all.iter_mut().find(|(blueprint, _)| blueprint.name == name);
        found.ok_or_else(|| Error::internal(format!("the model has no component {name}")))
    }

    /// Takes a component whose weights have arrived.
    pub fn arrived(&mut self, name: &str, weights: Weights) -> Result<()> {
        let (blueprint, component) = self.find(name)?;
        *component = Some(component_of(blueprint, weights));
        Ok(())
    }

    /// A component that is loaded.
    pub fn loaded(&mut self, name: &str) -> Result<&mut Component> {
        let (_, component) = self.find(name)?;
        component.as_mut().ok_or_else(|| Error::internal(format!("component {name} is not loaded")))
    }

    /// The same, given away.
    pub fn take(&mut self, name: &str) -> Result<Component> {
        let (_, component) = self.find(name)?;
        component.take().ok_or_else(|| Error::internal(format!("component {name} is not loaded")))
    }

    /// A component, which is loaded now if it is not yet.
    pub async fn get(&mut self, name: &str, stopped: &dyn Fn() -> bool) -> Result<&mut Component> {
        if self.find(name)?.1.is_none() {
            let component = self.load(name, self.compute, stopped).await?;
            self.find(name)?.1 = Some(component);
        }
        self.loaded(name)
    }

    /// Loads a component a second time, in another arithmetic.
    pub async fn load(&mut self, name: &str, compute: Compute, stopped: &dyn Fn() -> bool) -> Result<Component> {
        let (device, source) = (self.device.clone(), self.source.clone());
        let (blueprint, _) = self.find(name)?;
        let source = source.ok_or_else(|| {
            let cause = format!("component {name} is needed now, and nobody brings its files");
            Error::new(Code::InvalidArgument, cause, "Call Pipeline::bring_from once the model is loaded")
        })?;
        let mut arriving = Arriving::new(blueprint, &device, compute)?;
        for (shard, file) in blueprint.variant.shards.iter().enumerate() {
            arriving.add(shard, &source.bring(file).await?).await?;
            turn().await;
            if stopped() {
                return Err(Error::new(Code::Aborted, "the generation was stopped", "Call generate again"));
            }
        }
        Ok(component_of(blueprint, arriving.finish().await?))
    }

    /// Whether components stay loaded.
    pub fn stay(&self) -> bool {
        self.kept
    }

    /// All of them go.
    pub fn clear(&mut self) {
        self.all.iter_mut().for_each(|(_, component)| *component = None);
    }

    /// Whether components can be brought again.
    pub fn can_load(&self) -> bool {
        self.source.is_some()
    }

    /// The end of a component's stage: it goes, unless all stay.
    pub fn done(&mut self, name: &str) {
        if !self.kept
            && let Ok((_, component)) = self.find(name)
        {
            *component = None;
        }
    }
}

fn component_of(blueprint: &Blueprint, weights: Weights) -> Component {
    let Blueprint { network, stored, tested, batch, .. } = blueprint;
    Component::new(network.clone(), weights, stored.clone(), vec![tested.clone()]).tiled(batch.tiled)
}
