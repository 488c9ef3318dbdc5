//! A golden network sampled natively: the CPU executor gives what it recorded, and a GPU gives the same. `tests/wasm.rs`
//! runs the same in the browser. `UVIT_RECORD=1` records anew: only with a core whose goldens pass.
#![cfg(not(target_arch = "wasm32"))]

#[cfg(feature = "gpu")]
mod devices;
mod golden_sampling;

use uvit_web::runtime::Device;
use uvit_web::sampler::{SamplerKind, TorchGenerator};
use uvit_web::simd::Threads;

#[test]
fn four_steps_on_the_cpu_give_what_was_recorded() {
    let picture = pollster::block_on(golden_sampling::draw(&Device::cpu(Threads::all())));
    if std::env::var("UVIT_RECORD").is_ok_and(|v| v == "1") {
        let bytes: Vec<u8> = picture.iter().flat_map(|v| v.to_le_bytes()).collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorded/uvit_p8_hd16_4_steps.f32");
        return std::fs::write(path, bytes).unwrap();
    }
    // Other processors' `exp` may round otherwise.
    let worst = golden_sampling::worst(&picture);
    assert!(worst <= 0.01, "off by {worst} of 255");
}

/// The start that a seed draws, given as start latents, is no other picture: what later steps draw comes after it.
#[test]
fn given_start_latents_leave_the_noise_of_later_steps_as_it_is() {
    let device = Device::cpu(Threads::all());
    let start: Vec<f32> = [11, 12].iter().flat_map(|&seed| TorchGenerator::new(seed).randn_f32(3 * 32 * 32)).collect();
    for sampler in [SamplerKind::EulerMaruyamaSde, SamplerKind::DpmppTwoM] {
        let draw = |start| pollster::block_on(golden_sampling::draw_by(&device, sampler, start));
        let drawn = draw(None);
        assert!(draw(Some(&start)) == drawn, "{sampler:?}");
        assert!(draw(Some(&start.iter().rev().copied().collect::<Vec<f32>>())) != drawn, "{sampler:?}");
    }
}

#[cfg(feature = "gpu")]
#[test]
fn four_steps_on_the_gpu_give_what_was_recorded() {
    let Some(gpu) = devices::found(pollster::block_on(Device::gpu())) else { return };
    let worst = golden_sampling::worst(&pollster::block_on(golden_sampling::draw(&gpu)));
    assert!(worst <= 2.0, "off by {worst} of 255");
}
