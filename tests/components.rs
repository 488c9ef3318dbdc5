//! Several networks on one device, and what `forward` refuses. `tests/wasm.rs` does the former in a browser.
#![cfg(not(target_arch = "wasm32"))]

#[cfg(feature = "gpu")]
mod devices;
mod networks;

use networks::{class_network, clip_config, inputs, load};
use uvit_web::Code;
use uvit_web::model::{Batch, Network, clip_text, uvit, uvit_video};
use uvit_web::pipeline::{NamedTensor, Values};
use uvit_web::plan::{Capabilities, Compute, lower};
use uvit_web::runtime::{Device, Session};
use uvit_web::simd::Threads;

fn all(device: &Device, computes: &[Compute]) {
    pollster::block_on(async {
        for &compute in computes {
            networks::come_and_go(device, compute).await;
            networks::rounds(device, compute).await;
        }
        networks::no_run_goes_on_after_anothers(device).await;
    });
}

#[test]
fn networks_come_and_go_on_the_cpu() {
    all(&Device::cpu(Threads::all()), &[Compute::F32, Compute::Quality, Compute::Fast]);
    all(&Device::reference(), &[Compute::F32]);
}

#[cfg(feature = "gpu")]
#[test]
fn networks_come_and_go_on_a_gpu() {
    let Some(gpu) = devices::found(pollster::block_on(Device::gpu())) else { return };
    all(&gpu, &[Compute::F32, Compute::W8A8]);
}

/// The results of a network with random weights for random inputs.
fn results(device: &Device, compute: Compute, network: Network) -> Vec<f32> {
    let mut component = pollster::block_on(load(device, compute, network)).unwrap();
    let given = inputs(component.network(), 2);
    let results = pollster::block_on(component.forward(&given, &|| false)).unwrap();
    let Values::Floats(values) = &results[0].values else { panic!("floats come out") };
    values.clone()
}

/// Every device that is here.
fn devices() -> Vec<Device> {
    #[cfg(feature = "gpu")]
    let gpu = devices::found(pollster::block_on(Device::gpu()));
    #[cfg(not(feature = "gpu"))]
    let gpu = None;
    [Some(Device::reference()), Some(Device::cpu(Threads::all())), gpu].into_iter().flatten().collect()
}

#[test]
fn a_clip_of_one_frame_is_a_picture() {
    let clips = clip_config(1, 1);
    for device in devices() {
        let picture = results(&device, Compute::F32, Network::Uvit(clips.uvit.clone()));
        let clip = results(&device, Compute::F32, Network::UvitVideo(clips.clone()));
        assert!(picture == clip, "{}", device.name());
    }
}

/// Patches of several frames and none whose values fill whole vectors; more clips than labels; no classes, no convolution.
#[test]
fn odd_clips_are_the_same_on_every_device() {
    let odd = |change: fn(&mut uvit::Config), num_frames, t_patch_size| {
        let mut config = uvit_video::Config { num_frames, t_patch_size, ..clip_config(1, 1) };
        change(&mut config.uvit);
        config
    };
    for config in [
        odd(|_| {}, 6, 3),
        odd(|c| (c.in_chans, c.num_classes) = (5, -1), 9, 1),
        odd(|c| (c.img_size, c.patch_size, c.conv) = (5, 1, false), 2, 2),
        odd(|c| (c.img_size, c.patch_size, c.in_chans, c.skip) = (21, 7, 2, false), 15, 5),
        odd(|c| (c.embed_dim, c.num_heads, c.depth) = (20, 5, 1), 7, 7),
    ] {
        let all: Vec<(&str, Vec<f32>)> = devices()
            .iter()
            .map(|device| (device.name(), results(device, Compute::F32, Network::UvitVideo(config.clone()))))
            .collect();
        let want = &all[0].1;
        let largest = want.iter().fold(0f32, |most, v| most.max(v.abs()));
        for (name, got) in &all[1..] {
            let off = got.iter().zip(want).fold(0f32, |off, (a, b)| off.max((a - b).abs())) / largest;
            assert!(off <= 2e-5 && got.len() == want.len(), "{name}: {config:?} is off by {off:e}");
        }
    }
}

/// In bands an autoencoder computes what it does as a whole, and takes less memory for it.
#[test]
fn a_tiled_autoencoder_has_no_seams() {
    #[cfg(feature = "gpu")]
    let gpu = devices::found(pollster::block_on(Device::gpu()));
    #[cfg(not(feature = "gpu"))]
    let gpu = None;
    let cpu = Device::cpu(Threads::all());
    let on = [(cpu.clone(), Compute::F32, 1e-5), (cpu.clone(), Compute::Quality, 2e-3), (cpu, Compute::Fast, 2e-3)];
    for (device, compute, tolerance) in on.into_iter().chain(gpu.map(|gpu| (gpu, Compute::F32, 1e-5))) {
        for network in networks::autoencoders() {
            let given = inputs(&network, 2);
            let mut whole = Vec::new();
            let mut memory = Vec::new();
            for tiled in [None, Some(16_000), Some(1)] {
                let mut component = pollster::block_on(load(&device, compute, network.clone())).unwrap().tiled(tiled);
                let results = pollster::block_on(component.forward(&given, &|| false)).unwrap();
                let Values::Floats(values) = &results[0].values else { panic!("floats come out") };
                let batch = Batch { tiled, ..Batch::plain(2) };
                memory.push(pollster::block_on(component.prepare(batch)).unwrap().1.activation_bytes());
                if whole.is_empty() {
                    whole = values.clone();
                }
                let most = whole.iter().fold(0f32, |most, v| most.max(v.abs()));
                let off = values.iter().zip(&whole).fold(0f32, |off, (a, b)| off.max((a - b).abs())) / most;
                assert!(off <= tolerance, "{} in {}: {off:e} in bands of {tiled:?}", device.name(), compute.as_str());
            }
            assert!(memory[1] < memory[0] * 3 / 4 && memory[2] <= memory[1], "{memory:?} bytes");
        }
    }
}

/// CLIP's table of words is larger than a binding may be.
#[test]
fn a_table_beyond_a_binding_is_read_in_parts() {
    let network = Network::ClipText(clip_text::Config { vocab_size: 1000, ..networks::words_config() });
    let ids: Vec<u32> = (0..22).map(|i| i * 47 % 1000).collect();
    #[cfg(feature = "gpu")]
    let gpu = devices::found(pollster::block_on(Device::gpu()));
    #[cfg(not(feature = "gpu"))]
    let gpu = None;
    for device in [Some(Device::reference()), Some(Device::cpu(Threads::all())), gpu].into_iter().flatten() {
        let component = pollster::block_on(load(&device, Compute::F32, network.clone())).unwrap();
        let recording = network.record(Batch::plain(2)).unwrap();
        let usual = component.weights().capabilities();
        // 256 of 1000 rows of 256 bytes.
        let scarce = Capabilities { max_binding: 100_000, offset_align: 256, ..usual };
        let results = [usual, scarce].map(|capabilities| {
            let program = lower(&recording.plan, &capabilities, &[]).unwrap();
            let launches = program.kernels.iter().filter(|kernel| kernel.name() == "embedding").count();
            let mut session = pollster::block_on(Session::new(component.weights(), program, None)).unwrap();
            session.write_indices(recording.port("input_ids").unwrap().tensor, &ids).unwrap();
            pollster::block_on(session.forward(&|| false)).unwrap();
            let out = recording.port("last_hidden_state").unwrap().tensor;
            (launches, pollster::block_on(session.read(out)).unwrap())
        });
        assert_eq!((results[0].0, results[1].0), (1, 4));
        assert!(results[0].1 == results[1].1, "{}", device.name());
    }
}

/// The system's memory, but for large pieces while this thread goes without.
struct Scarce;

thread_local! {
    static LARGEST: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) };
}

// SAFETY: all is the system's allocator's; null says that there is no memory.
unsafe impl std::alloc::GlobalAlloc for Scarce {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        if layout.size() > LARGEST.get() {
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller promises.
        unsafe { std::alloc::System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: as the caller promises; it came from there.
        unsafe { std::alloc::System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Scarce = Scarce;

#[test]
fn memory_that_runs_out_for_a_second_network_leaves_the_first() {
    struct Enough;
    impl Drop for Enough {
        fn drop(&mut self) {
            LARGEST.set(usize::MAX);
        }
    }
    for compute in [Compute::F32, Compute::Quality, Compute::Fast] {
        pollster::block_on(networks::memory_runs_out(&Device::cpu(Threads::all()), compute, || {
            LARGEST.set(networks::LARGE);
            Enough
        }));
    }
}

/// What `forward` says of tensors.
fn refusal(change: impl FnOnce(&mut Vec<NamedTensor>)) -> String {
    let device = Device::cpu(Threads::all());
    let mut component = pollster::block_on(load(&device, Compute::F32, class_network())).unwrap();
    let mut given = inputs(component.network(), 2);
    change(&mut given);
    let error = pollster::block_on(component.forward(&given, &|| false)).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument, "{error}");
    assert_eq!(pollster::block_on(component.forward(&inputs(component.network(), 2), &|| false)).unwrap().len(), 1);
    error.to_string()
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let floats = |n: usize| Values::Floats(vec![0.5; n]);
    for (change, what) in [
        (
            Box::new(|given: &mut Vec<NamedTensor>| given.push(NamedTensor::new("context", floats(4))))
                as Box<dyn FnOnce(&mut Vec<NamedTensor>)>,
            "no tensor \"context\"",
        ),
        (Box::new(|given: &mut Vec<NamedTensor>| given.push(NamedTensor::new("out", floats(4)))), "no tensor \"out\""),
        (Box::new(|given: &mut Vec<NamedTensor>| drop(given.remove(1))), "no tensor \"timesteps\" is given"),
        (Box::new(|given: &mut Vec<NamedTensor>| given[0].values = floats(7)), "\"x\" has 7 values"),
        (Box::new(|given: &mut Vec<NamedTensor>| given[0].shape = Some(vec![2, 3, 16, 15])), "\"x\""),
        (
            Box::new(|given: &mut Vec<NamedTensor>| given[1].values = Values::Times(vec![1.0])),
            "\"timesteps\" has 1 values",
        ),
        (Box::new(|given: &mut Vec<NamedTensor>| given[1].values = floats(2)), "wrong type"),
        (
            Box::new(|given: &mut Vec<NamedTensor>| given[1].values = Values::Times(vec![1.0, f64::NAN])),
            "\"timesteps\" holds",
        ),
        (Box::new(|given: &mut Vec<NamedTensor>| given[2].values = Values::Indices(vec![0, 5])), "y 5 is out of range"),
        (Box::new(|given: &mut Vec<NamedTensor>| given.push(given[2].clone())), "\"y\" is given twice"),
        (Box::new(|given: &mut Vec<NamedTensor>| given.clear()), "no tensor \"x\" is given"),
    ] {
        let said = refusal(change);
        assert!(said.contains(what), "{said}: {what} is missing");
    }
}
