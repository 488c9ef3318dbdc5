//! What a Program promises about memory, checked from the outside: lifetimes are worked out here again from what its
//! kernels read and write.

#[cfg(feature = "gpu")]
mod devices;

use proptest::prelude::*;
use uvit_web::model::{Batch, Network, uvit};
use uvit_web::package::{preset, presets};
use uvit_web::pipeline::LoadOptions;
use uvit_web::plan::{Capabilities, Compute, Place, Program, TensorId, lower};

fn guided(images: usize) -> Batch {
    Batch::copied(images, 2)
}

fn program(network: &Network, batch: Batch, capabilities: &Capabilities) -> Program {
    lower(&network.record(batch).unwrap().plan, capabilities, &[]).unwrap()
}

/// A scratch tensor's life and place.
struct Live {
    first: usize,
    last: usize,
    slab: usize,
    start: usize,
    end: usize,
}

/// Every tensor in the arena: from the first kernel that touches it to the last, and the bytes that it covers.
fn lives(program: &Program) -> Vec<Live> {
    let mut touched: Vec<(TensorId, usize)> = Vec::new();
    for (at, kernel) in program.kernels.iter().enumerate() {
        touched.push((kernel.writes(), at));
        touched.extend(kernel.reads().into_iter().map(|id| (id, at)));
    }
    let mut ids: Vec<TensorId> = touched.iter().map(|&(id, _)| id).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut lives = Vec::new();
    for id in ids {
        let view = program.view(id);
        if let Place::Arena { slab, offset } = view.place {
            let uses = || touched.iter().filter(|&&(other, _)| other == id).map(|&(_, at)| at);
            let (first, last) = (uses().min().unwrap(), uses().max().unwrap());
            lives.push(Live { first, last, slab, start: offset, end: offset + view.bytes() });
        }
    }
    lives
}

/// Checks one Program; returns the arena's bytes over the largest sum of bytes alive at once.
fn check(program: &Program) -> Result<f64, String> {
    let lives = lives(program);
    for (i, a) in lives.iter().enumerate() {
        if a.end > program.slab_bytes[a.slab] {
            return Err(format!("tensor {i} ends beyond its slab"));
        }
        for (j, b) in lives[..i].iter().enumerate() {
            let together = a.first <= b.last && b.first <= a.last;
            if together && a.slab == b.slab && a.start < b.end && b.start < a.end {
                return Err(format!("tensors {i} and {j} are alive together and share bytes"));
            }
        }
    }
    let alive = |at: usize| -> u64 {
        let live = lives.iter().filter(|l| l.first <= at && at <= l.last);
        live.map(|l| (l.end - l.start).next_multiple_of(256) as u64).sum()
    };
    let peak = (0..program.kernels.len()).map(alive).max().unwrap_or(0);
    if peak != program.peak_live_bytes {
        return Err(format!("{peak} bytes are alive at most, the Program says {}", program.peak_live_bytes));
    }
    Ok(program.slab_bytes.iter().sum::<usize>() as f64 / peak as f64)
}

#[test]
fn the_arena_of_every_published_model_is_at_most_a_tenth_above_what_is_alive() {
    for preset in presets().unwrap() {
        let network = preset.network().unwrap();
        for batch in [Batch::plain(1), guided(1), guided(4)] {
            // The hidden layers of many large pictures are more than a default binding; those of one are not.
            let plan = network.record(batch).unwrap().plan;
            let fits = |doublings: u32| {
                let max_binding = Capabilities::WEBGPU.max_binding << doublings;
                lower(&plan, &Capabilities { max_binding, ..Capabilities::WEBGPU }, &[]).ok()
            };
            let most = if batch.items() == 1 { 0 } else { 4 };
            let program = (0..=most).find_map(fits).unwrap_or_else(|| panic!("{} {batch:?} does not fit", preset.name));
            let ratio = check(&program).unwrap();
            // Of tensors larger than half a binding each has a slab of its own, and what is left of those cannot be joined.
            let largest =
                program.views.iter().filter(|v| matches!(v.place, Place::Arena { .. })).map(|v| v.bytes()).max();
            let binding = program.slab_bytes.iter().max().copied().unwrap_or(0).max(Capabilities::WEBGPU.max_binding);
            let most = if largest > Some(binding / 2) { 1.15 } else { 1.1 };
            assert!(ratio <= most, "{} {batch:?}: {ratio}", preset.name);
        }
    }
}

#[test]
fn guided_h2_stays_below_64_mb_of_activations() {
    let network = preset("imagenet256_uvit_huge").unwrap().network().unwrap();
    let bytes = program(&network, guided(1), &Capabilities::WEBGPU).activation_bytes();
    assert!(bytes < 64_000_000, "{bytes}");
}

fn configs() -> impl Strategy<Value = uvit::Config> {
    let sizes = (1usize..6, 1usize..5, 1usize..5, 1usize..4, 1usize..9, 0usize..7);
    (sizes, any::<[bool; 4]>(), -1i64..5).prop_map(
        |((side, patch, channels, heads, head_dim4, depth), flags, classes)| uvit::Config {
            img_size: side * patch,
            patch_size: patch,
            in_chans: channels,
            embed_dim: heads * 4 * head_dim4,
            depth: depth + 1,
            num_heads: heads,
            mlp_ratio: 4.0,
            qkv_bias: flags[0],
            mlp_time_embed: flags[1],
            num_classes: classes,
            conv: flags[2],
            skip: flags[3],
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_two_live_tensors_share_a_byte_in_any_network(config in configs(), images in 1usize..4, copies in 1usize..3) {
        let small = Capabilities { max_binding: 1 << 18, ..Capabilities::WEBGPU };
        let quantised = Capabilities { compute: Compute::W8A8, ..Capabilities::WEBGPU };
        for capabilities in [Capabilities::WEBGPU, small, quantised] {
            let program = program(&Network::Uvit(config.clone()), Batch::copied(images, copies), &capabilities);
            let ratio = check(&program).map_err(TestCaseError::fail)?;
            // Slabs that are full leave gaps; without a limit little may be wasted. Quantised tensors come in more sizes.
            let most = if capabilities.compute == Compute::W8A8 { 1.25 } else { 1.1 };
            prop_assert!(ratio <= most || capabilities.max_binding < 1 << 20, "{ratio}");
        }
    }
}

#[cfg(feature = "gpu")]
#[test]
fn the_gpu_allocates_what_the_program_says_and_nothing_in_the_step_loop() {
    use uvit_web::package::{DENOISER, read_manifest};
    use uvit_web::pipeline::sampling::Control;
    use uvit_web::pipeline::{DeviceChoice, Loader, Request};

    let (manifest, folder) =
        read_manifest(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/web/models/emoji"))).unwrap();
    let opened = pollster::block_on(Loader::new(
        manifest,
        LoadOptions { device: DeviceChoice::WebGpu, ..LoadOptions::default() },
    ));
    let Some(mut loader) = devices::found(opened) else { return };
    for index in 0..loader.files().len() {
        let bytes = std::fs::read(folder.join(&loader.files()[index].stored.file)).unwrap();
        pollster::block_on(loader.add_file(index, &bytes)).unwrap();
    }
    let mut pipeline = pollster::block_on(loader.finish()).unwrap();
    let device = pipeline.device().clone();
    // Buffers made by a call of so many steps.
    let mut made = |steps: usize| {
        let before = device.memory().made;
        let request = Request { steps: Some(steps), ..Request::default() };
        let mut control = Control { on_step: &mut |_| {}, stopped: &|| false };
        pollster::block_on(pipeline.generate(&request, &mut control)).unwrap();
        let session = pipeline.denoiser().unwrap().session();
        let program = session.program();
        assert_eq!(session.activation_bytes() as u64, program.activation_bytes().max(32));
        assert_eq!(program.activation_bytes(), (program.io_bytes + program.slab_bytes.iter().sum::<usize>()) as u64);
        device.memory().made - before
    };
    let preparing = made(2);
    assert!(preparing > 1, "the first call makes the arena");
    // One: the readback of the finished picture.
    assert_eq!((made(2), made(5)), (1, 1));
    // What else a device holds now and then (the tuner's sample, readbacks, parameters) is little.
    let weights: usize = pipeline.manifest().variant(DENOISER, None).unwrap().bytes as usize;
    let denoiser = pipeline.denoiser().unwrap();
    let program = denoiser.session().program();
    let needed = weights + denoiser.state_bytes() + program.io_bytes + program.peak_live_bytes as usize;
    let memory = device.memory();
    println!("{} bytes at most, {needed} needed: {}", memory.peak_bytes, memory.peak_bytes as f64 / needed as f64);
    assert!(memory.peak_bytes as f64 <= 1.25 * needed as f64, "{memory:?}, {needed}");
}
