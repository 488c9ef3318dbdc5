//! Several networks on one device, and what `forward` refuses. `tests/wasm.rs` does the former in a browser.
#![cfg(not(target_arch = "wasm32"))]

#[cfg(feature = "gpu")]
mod devices;
mod networks;

use networks::{class_network, clip_config, inputs, load};
use uvit_web::Code;
use uvit_web::model::{Batch, Network, PortKind, clip_text, dit, latte, uvit, uvit_video};
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
        same_everywhere(Network::UvitVideo(config));
    }
}

/// Every device has about the twins' numbers.
#[track_caller]
fn same_everywhere(network: Network) {
    let mut want = Vec::new();
    for device in devices() {
        let got = results(&device, Compute::F32, network.clone());
        if want.is_empty() {
            want = got.clone();
        }
        let largest = want.iter().fold(0f32, |most, v| most.max(v.abs()));
        let off = got.iter().zip(&want).fold(0f32, |off, (a, b)| off.max((a - b).abs())) / largest;
        assert!(off <= 2e-5 && got.len() == want.len(), "{}: {network:?} is off by {off:e}", device.name());
    }
}

/// No variance, one patch, one frame, frames and places that fill no tile, heads of 4 and of 128 channels, times alone.
#[test]
fn odd_vectors_and_their_clips_are_the_same_on_every_device() {
    let odd = |change: fn(&mut dit::Config)| {
        let mut config = networks::vector_config();
        change(&mut config);
        config
    };
    let all = [
        odd(|_| {}),
        odd(|c| (c.input_size, c.patch_size, c.in_channels, c.learn_sigma) = (7, 7, 1, false)),
        odd(|c| (c.hidden_size, c.num_heads, c.mlp_ratio, c.depth) = (20, 5, 1.3, 4)),
        odd(|c| (c.hidden_size, c.num_heads, c.input_size, c.patch_size) = (128, 1, 15, 1)),
    ];
    for config in &all {
        same_everywhere(Network::Dit(config.clone()));
    }
    for (dit, num_frames, extras) in
        [(&all[0], 1, 1), (&all[1], 19, 2), (&all[2], 17, 1), (&all[3], 3, 2)].map(|(dit, f, e)| (dit.clone(), f, e))
    {
        same_everywhere(Network::Latte(latte::Config { dit, num_frames, extras }));
    }
}

/// Where only the first items of a batch run, they have the numbers that they have among all.
#[test]
fn the_first_items_may_run_alone() {
    for network in [networks::vector_network(), networks::frames_network()] {
        for device in devices() {
            let component = pollster::block_on(load(&device, Compute::F32, network.clone())).unwrap();
            let recording = network.record(Batch::plain(3)).unwrap();
            let program = lower(&recording.plan, &component.weights().capabilities(), &[]).unwrap();
            let end = program.kernels.len();
            let mut session = pollster::block_on(Session::new(component.weights(), program, None)).unwrap();
            for (port, given) in recording.ports.iter().zip(inputs(&network, 3)) {
                match given.values {
                    Values::Floats(values) => session.write(port.tensor, &values).unwrap(),
                    Values::Times(times) => session.write_times(port.tensor, &times).unwrap(),
                    Values::Indices(indices) => session.write_indices(port.tensor, &indices).unwrap(),
                }
            }
            for port in recording.ports.iter().filter(|port| port.kind == PortKind::Output) {
                session.run(0..end, Some(2), u64::MAX).unwrap();
                let some = pollster::block_on(session.read(port.tensor)).unwrap();
                session.run(0..end, None, u64::MAX).unwrap();
                let all = pollster::block_on(session.read(port.tensor)).unwrap();
                let two = all.len() / 3 * 2;
                assert!(some[..two] == all[..two], "{} of {network:?} on {}", port.name, device.name());
            }
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

/// Of any size that there are positions for, pictures that are not square too; and an item stands for itself.
#[test]
fn two_streams_take_pictures_of_any_size() {
    #[cfg(feature = "gpu")]
    let gpu = devices::found(pollster::block_on(Device::gpu()));
    #[cfg(not(feature = "gpu"))]
    let gpu = None;
    let devices = [Some(Device::reference()), Some(Device::cpu(Threads::new(3))), gpu];
    let named = |tensors: &[NamedTensor], name: &str, shape: &[usize], items: std::ops::Range<usize>| {
        let found = tensors.iter().find(|tensor| tensor.name == name).unwrap();
        let of_item = |len: usize| items.start * len / 3..items.end * len / 3;
        let values = match &found.values {
            Values::Floats(values) => Values::Floats(values[of_item(values.len())].to_vec()),
            Values::Times(times) => Values::Times(times[of_item(times.len())].to_vec()),
            Values::Indices(_) => panic!("no indices"),
        };
        NamedTensor { name: name.into(), shape: Some([&[items.len()], shape].concat()), values }
    };
    for (qk_norm, [height, width]) in
        [("", [2, 2]), ("rms_norm", [6, 16]), ("", [10, 4]), ("rms_norm", [14, 10]), ("rms_norm", [2, 16])]
    {
        let network = networks::streams_network(qk_norm);
        let batch = Batch { size: Some([height, width]), ..Batch::plain(3) };
        let all = networks::inputs_of(&network, batch);
        let given = |items: std::ops::Range<usize>| {
            [("x", vec![4, height, width]), ("timesteps", vec![]), ("context_in", vec![7, 20]), ("pooled", vec![28])]
                .map(|(name, shape)| named(&all, name, &shape, items.clone()))
        };
        let mut want: Vec<f32> = Vec::new();
        for device in devices.iter().flatten() {
            let mut component = pollster::block_on(load(device, Compute::F32, network.clone())).unwrap();
            let mut run = |given: &[NamedTensor]| {
                let results = pollster::block_on(component.forward(given, &|| false)).unwrap();
                let Values::Floats(values) = &results[0].values else { panic!("floats come out") };
                values.clone()
            };
            let got = run(&given(0..3));
            for item in 0..3 {
                let alone = run(&given(item..item + 1));
                assert!(got[item * alone.len()..][..alone.len()] == alone, "item {item} on {}", device.name());
            }
            if want.is_empty() {
                want = got.clone();
            }
            let most = want.iter().fold(0f32, |most, v| most.max(v.abs()));
            let off = got.iter().zip(&want).fold(0f32, |off, (a, b)| off.max((a - b).abs())) / most;
            assert!(off < 2e-5, "{height} x {width}, \"{qk_norm}\" on {}: {off:e}", device.name());
        }
    }
    // Eight rows and columns of positions, for patches of two.
    for size in [[18, 2], [4, 3], [0, 4]] {
        let batch = Batch { size: Some(size), ..Batch::plain(1) };
        let error = networks::streams_network("").record(batch).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(error.remedy.contains("multiples of 2 up to 16"), "{error}");
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
