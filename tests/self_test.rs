//! The self-test runs every shader that the model will, for every network, batch, dtype, arithmetic and tuning: what it did
//! not look at could be wrong unnoticed.
#![cfg(all(feature = "gpu", not(target_arch = "wasm32")))]

mod devices;
#[allow(dead_code)] // only the networks themselves are needed here
mod networks;

use networks::{
    captions_network, class_network, clip_network, frames_network, joint_network, prefix_network, seeing_network,
    streams_network, text_network, vector_network, words_network,
};
use std::collections::BTreeSet;
use uvit_web::gpu::Storage;
use uvit_web::gpu::kernels::{Tuning, Variant, WeightLayouts, launch, variants};
use uvit_web::model::Batch;
use uvit_web::plan::{Capabilities, Compute, Kernel, Program, SizeClass, WeightId, WeightUse, lower};
use uvit_web::runtime::{Device, Stored, Tune, choose, kinds};
use uvit_web::weights::Dtype;

/// Weights as `gpu/pack.rs` lays them out.
struct Layouts<'a> {
    program: &'a Program,
    compute: Compute,
    stored: Stored<'a>,
}

impl WeightLayouts for Layouts<'_> {
    fn layout(&self, id: WeightId) -> (Storage, usize, usize) {
        let (dtype, group) = (self.stored)(id);
        let columns = self.program.weights[id.index()].shape[1..].iter().product::<usize>();
        let storage = match (self.compute, dtype) {
            (Compute::W8A8, Dtype::Q4) => Storage::Q4Dot,
            (Compute::W8A8, _) => Storage::Q8Dot,
            (_, Dtype::F32) => Storage::F32,
            (_, Dtype::F16) => Storage::F16,
            (_, Dtype::Q8) => Storage::Q8,
            (_, Dtype::Q4) => Storage::Q4,
        };
        let (group4, groups) = if group == 0 { (columns / 4, 1) } else { (group / 4, columns.div_ceil(group)) };
        (storage, group4, groups)
    }
}

impl Layouts<'_> {
    fn variants(&self, tuning: &Tuning) -> BTreeSet<Variant> {
        self.program.kernels.iter().map(|kernel| launch(kernel, self.program, self, tuning).variant).collect()
    }
}

#[test]
fn every_shader_of_a_program_is_among_those_that_are_tested() {
    let preset = |name| uvit_web::package::preset(name).unwrap().network().unwrap();
    let networks = [
        class_network(),
        clip_network(),
        vector_network(),
        frames_network(),
        joint_network(),
        text_network(),
        words_network(),
        prefix_network(),
        seeing_network(),
        captions_network(),
        streams_network(""),
        streams_network("rms_norm"),
        preset("cifar10_uvit_small"),
        preset("imagenet256_uvit_huge"),
    ];
    let mut tunings = Tuning::every();
    tunings.extend([Tuning::GPU, Tuning::SOFTWARE, Tuning::SOFTWARE_SUBGROUPS]);
    let mut seen = BTreeSet::new();
    for network in &networks {
        for (images, copies) in [(1, 1), (1, 2), (3, 2)] {
            let plan = network.record(Batch::copied(images, copies)).unwrap().plan;
            for compute in [Compute::F32, Compute::F16, Compute::W8A8] {
                let capabilities = Capabilities { compute, ..Capabilities::WEBGPU };
                let program = lower(&plan, &capabilities, &[]).unwrap();
                for kind in [(Dtype::F32, 0), (Dtype::F16, 0), (Dtype::Q8, 0), (Dtype::Q4, 32)] {
                    let stored = |id: WeightId| match program.weights[id.index()].usage {
                        WeightUse::Matrix => kind,
                        _ => (Dtype::F32, 0),
                    };
                    let cases = kinds(&program, &stored);
                    let small = lower(&cases.plan, &capabilities, &[]).unwrap();
                    let small_stored = |id: WeightId| stored(cases.originals[id.index()]);
                    for tuning in &tunings {
                        let wanted = Layouts { program: &program, compute, stored: &stored }.variants(tuning);
                        let tested = Layouts { program: &small, compute, stored: &small_stored }.variants(tuning);
                        let missing: Vec<String> = wanted.difference(&tested).map(Variant::label).collect();
                        let what = network.architecture();
                        assert!(missing.is_empty(), "{what}, {images} x {copies}, {compute:?}, {kind:?}: {missing:#?}");
                        seen.extend(wanted);
                    }
                }
            }
        }
    }
    assert!(seen.len() > 100, "{} variants", seen.len());
    // What naga validates knows them all.
    let validated: BTreeSet<&str> = variants(&tunings, true).iter().map(|variant| variant.kernel).collect();
    let unknown: Vec<&str> =
        seen.iter().map(|variant| variant.kernel).filter(|name| !validated.contains(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// Matmuls of f32 weights are launched alike by most tunings: a second measurement would give another number.
#[test]
fn what_tunings_have_in_common_is_timed_once() {
    let Some(gpu) = devices::found(pollster::block_on(Device::gpu())) else { return };
    let plan = class_network().record(Batch::copied(2, 2)).unwrap().plan;
    let program = lower(&plan, &gpu.capabilities(Compute::F32), &[]).unwrap();
    let stored = |_| (Dtype::F32, 0);
    let tuned = pollster::block_on(choose(&gpu, Compute::F32, &program, &stored, Tune::Again, None)).unwrap();
    let layouts = Layouts { program: &program, compute: Compute::F32, stored: &stored };
    let matmuls = |tuning: &Tuning| {
        let all =
            program.kernels.iter().filter(|kernel| matches!(kernel, Kernel::Matmul(m) if m.size == SizeClass::Many));
        all.map(|kernel| launch(kernel, &program, &layouts, tuning).variant).collect::<Vec<_>>()
    };
    let mut alike = 0;
    for (i, a) in tuned.trials.iter().enumerate() {
        for b in tuned.trials[..i].iter().filter(|b| matmuls(&a.tuning) == matmuls(&b.tuning)) {
            assert!(a.matmul_ms.is_some_and(|ms| ms > 0.0) && a.matmul_ms == b.matmul_ms, "{a:?} {b:?}");
            alike += 1;
        }
    }
    assert!(alike > 0, "{:?}", tuned.trials);
}
