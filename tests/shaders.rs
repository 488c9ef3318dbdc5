//! Every WGSL variant is valid, its uniform block is the host's, and every kernel equals its twin on the native adapter
//! (`VK_ICD_FILENAMES` chooses another one).
#![cfg(feature = "gpu")]

mod devices;
mod twins;

use naga::valid::{Capabilities, ValidationFlags, Validator};
use uvit_web::gpu::kernels::{MatmulTile, Tuning, variants};
use uvit_web::plan::Compute;
use uvit_web::runtime::Device;

#[test]
fn every_variant_is_valid_wgsl() {
    let mut tunings = Tuning::every();
    assert!(tunings.iter().all(|tuning| tuning.matmul.is_unrolled()));
    // The largest tile that the template can write out.
    tunings.push(Tuning { matmul: MatmulTile::alone(16, 2), ..Tuning::GPU });
    assert!(!MatmulTile::alone(17, 2).is_unrolled());
    let all = variants(&tunings, true);
    assert!(all.len() > 40);
    for variant in all {
        // As the backend does where the adapter has f16.
        let text = format!("enable f16; {}", variant.wgsl().unwrap());
        let module = naga::front::wgsl::parse_str(&text)
            .unwrap_or_else(|e| panic!("{}: {}", variant.label(), e.emit_to_string(&text)));
        Validator::new(
            ValidationFlags::all(),
            Capabilities::SHADER_FLOAT16 | Capabilities::SHADER_FLOAT16_IN_FLOAT32 | Capabilities::SUBGROUP,
        )
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}: {}", variant.label(), e.emit_to_string(&text)));
    }
}

#[test]
fn every_kernel_equals_its_twin() {
    let Some(gpu) = devices::found(pollster::block_on(Device::gpu())) else { return };
    judge(&gpu, Compute::F32);
    assert_eq!(pollster::block_on(twins::judge_combine(&gpu)), Ok(8));
}

#[test]
fn every_kernel_of_8_bits_equals_its_twin() {
    let Some(gpu) = devices::found(pollster::block_on(Device::gpu())) else { return };
    judge(&gpu, Compute::W8A8);
}

#[test]
fn every_matmul_in_f16_is_near_its_twin() {
    let Some(gpu) = devices::found(pollster::block_on(Device::gpu())) else { return };
    match gpu.supports(Compute::F16) {
        Err(error) => devices::skip(&error.to_string()),
        Ok(()) => judge(&gpu, Compute::F16),
    }
}

fn judge(device: &Device, compute: Compute) {
    let gpu = device.as_gpu().expect("a GPU was opened");
    let cases = twins::cases(compute);
    for tuning in Tuning::ALL.into_iter().filter(|tuning| tuning.suits(gpu.backend().adapter())) {
        gpu.set_tuning(tuning);
        let failures: Vec<String> =
            cases.iter().filter_map(|case| pollster::block_on(case.judge(device, compute)).err()).collect();
        assert!(failures.is_empty(), "{tuning:?}: {} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
    }
}
