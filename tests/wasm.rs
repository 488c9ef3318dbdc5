//! In headless Chromium: every kernel against its twin on the browser's WebGPU, and a golden network sampled on both of
//! the browser's devices.
#![cfg(all(target_arch = "wasm32", feature = "gpu"))]

mod golden_sampling;
mod integers;
mod networks;
mod twins;

use js_sys::wasm_bindgen::JsCast;
use serde_json::Value;
use std::io::Read;
use uvit_web::gpu::kernels::{Tuning, variants};
use uvit_web::plan::Compute;
use uvit_web::runtime::Device;
use uvit_web::simd::Threads;
use uvit_web::text::Tokenizer;
use wasm_bindgen_test::{wasm_bindgen_test, wasm_bindgen_test_configure};

wasm_bindgen_test_configure!(run_in_browser);

#[wasm_bindgen_test]
async fn every_variant_compiles() {
    let backend = uvit_web::gpu::Backend::open().await.unwrap();
    let tunings: Vec<Tuning> = Tuning::ALL.into_iter().filter(|tuning| tuning.suits(backend.adapter())).collect();
    // A matmul takes the browser a second: some of them, in which every variable takes every value. All are validated
    // natively.
    let all = variants(&tunings, backend.adapter().shader_f16).into_iter().enumerate();
    let some: Vec<_> = all.filter(|(i, v)| !v.kernel.ends_with("matmul") || i % 23 == 0).map(|(_, v)| v).collect();
    // Several at once, as the browser can.
    for some in some.chunks(16) {
        let begun: Vec<_> = some.iter().map(|v| backend.compile(&v.label(), &v.wgsl().unwrap())).collect();
        for compiling in begun {
            backend.compiled(compiling).await.unwrap();
        }
    }
}

#[wasm_bindgen_test]
async fn every_kernel_equals_its_twin() {
    let gpu = Device::gpu().await.unwrap();
    judge(&gpu, Compute::F32).await;
    assert_eq!(twins::judge_combine(&gpu).await, Ok(8));
}

#[wasm_bindgen_test]
async fn every_kernel_of_8_bits_equals_its_twin() {
    judge(&Device::gpu().await.unwrap(), Compute::W8A8).await;
}

async fn judge(device: &Device, compute: Compute) {
    let gpu = device.as_gpu().unwrap();
    for tuning in Tuning::ALL.into_iter().filter(|tuning| tuning.suits(gpu.backend().adapter())) {
        gpu.set_tuning(tuning);
        let mut failures = Vec::new();
        for case in &twins::cases(compute) {
            failures.extend(case.judge(device, compute).await.err());
        }
        assert!(failures.is_empty(), "{tuning:?}: {}", failures.join("\n"));
    }
}

#[wasm_bindgen_test]
async fn every_fast_cpu_kernel_equals_its_twin() {
    for compute in [Compute::F32, Compute::Quality, Compute::Fast] {
        let cpu = Device::cpu(Threads::default());
        let mut failures = Vec::new();
        for case in twins::cases(compute) {
            failures.extend(case.judge(&cpu, compute).await.err());
        }
        assert!(failures.is_empty(), "{compute:?}: {}", failures.join("\n"));
    }
}

#[wasm_bindgen_test]
fn integer_matmuls_have_the_bits_of_the_twin_and_so_of_every_other_build() {
    integers::same_bits_as_the_twin();
    integers::convolutions_have_the_bits_of_the_twin();
}

#[wasm_bindgen_test]
async fn networks_come_and_go() {
    for device in [Device::gpu().await.unwrap(), Device::cpu(Threads::default())] {
        networks::come_and_go(&device, Compute::F32).await;
        networks::rounds(&device, Compute::F32).await;
        networks::no_run_goes_on_after_anothers(&device).await;
    }
}

/// Searches over a cache, on both of the browser's devices.
#[wasm_bindgen_test]
async fn captions_are_the_same_on_every_device() {
    let latents = uvit_web::sampler::TorchGenerator::new(7).randn_f32(2 * 84);
    let mut told = Vec::new();
    for device in [Device::reference(), Device::cpu(Threads::default()), Device::gpu().await.unwrap()] {
        let mut component = networks::load(&device, Compute::F32, networks::captions_network()).await.unwrap();
        for beams in [1, 5] {
            let found = uvit_web::pipeline::search(&mut component, &latents, beams, &mut |_, _| {}, &|| false).await;
            let ranked = found.unwrap().into_iter().flat_map(|search| search.ranked());
            told.push(ranked.map(|beam| beam.tokens).collect::<Vec<_>>());
        }
    }
    assert!(told[0][0].len() > 1 && told[..2] == told[2..4] && told[..2] == told[4..], "{told:?}");
}

/// Takes this instance's memory, up to the last large piece; what is left are holes.
fn take_all_memory() -> Vec<Vec<u8>> {
    let take = |bytes| {
        let mut piece = Vec::<u8>::new();
        piece.try_reserve_exact(bytes).ok().map(|()| piece)
    };
    // Of one size, or those between would find a place elsewhere and the holes were one.
    const HOLE: usize = networks::LARGE - 4096;
    let (holes, mut taken): (Vec<_>, Vec<_>) = (0..32).map(|_| (take(HOLE).unwrap(), take(HOLE).unwrap())).unzip();
    let mut bytes = 1 << 30;
    while bytes >= 4096 {
        match take(bytes) {
            Some(piece) => taken.push(piece),
            None => bytes /= 2,
        }
    }
    drop(holes);
    taken
}

/// The browser has no memory for weights while this lives: told as the specification says, to the scope.
struct NoDeviceMemory(js_sys::Function);

impl NoDeviceMemory {
    fn new() -> NoDeviceMemory {
        let restore = js_sys::eval(
            "(() => {
               const { createBuffer, pushErrorScope, popErrorScope } = GPUDevice.prototype;
               const scopes = [];
               Object.assign(GPUDevice.prototype, {
                 pushErrorScope(filter) {
                   scopes.push({ filter });
                   pushErrorScope.call(this, filter);
                 },
                 async popErrorScope() {
                   const { error } = scopes.pop();
                   return (await popErrorScope.call(this)) ?? error ?? null;
                 },
                 createBuffer(descriptor) {
                   const buffer = createBuffer.call(this, descriptor);
                   if (descriptor.label !== 'weights') return buffer;
                   scopes.findLast(({ filter }) => filter === 'out-of-memory').error =
                     new GPUOutOfMemoryError('no memory, on purpose');
                   buffer.destroy();
                   return buffer;
                 },
               });
               return () => Object.assign(GPUDevice.prototype, { createBuffer, pushErrorScope, popErrorScope });
             })()",
        );
        NoDeviceMemory(restore.unwrap().unchecked_into())
    }
}

impl Drop for NoDeviceMemory {
    fn drop(&mut self) {
        self.0.call0(&js_sys::global()).unwrap();
    }
}

#[wasm_bindgen_test]
async fn memory_that_runs_out_for_a_second_network_leaves_the_first() {
    networks::memory_runs_out(&Device::gpu().await.unwrap(), Compute::F32, NoDeviceMemory::new).await;
    for compute in [Compute::F32, Compute::Quality] {
        networks::memory_runs_out(&Device::cpu(Threads::default()), compute, take_all_memory).await;
    }
}

#[wasm_bindgen_test]
async fn four_steps_give_what_the_native_cpu_gives() {
    for device in [Device::gpu().await.unwrap(), Device::cpu(Threads::default())] {
        let worst = golden_sampling::worst(&golden_sampling::draw(&device).await);
        assert!(worst <= 2.0, "off by {worst} of 255");
    }
}

/// The browser's regular expressions and normal forms against what the reference implementation made of the same texts.
#[wasm_bindgen_test]
fn words_become_the_reference_implementations_ids() {
    let mut merges = String::new();
    let packed = &include_bytes!("goldens/clip_tokenizer/bpe_simple_vocab_16e6.txt.gz")[..];
    flate2::read::GzDecoder::new(packed).read_to_string(&mut merges).unwrap();
    let merges: String = merges.split_inclusive('\n').take(49408 - 512 - 2 + 1).collect();
    let tokenizer = Tokenizer::new(&merges).unwrap();
    let cases: Value = serde_json::from_str(include_str!("goldens/clip_tokenizer/cases.json")).unwrap();
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 40);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let want: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let ids = tokenizer.encode(text, 77, &tokenizer.end().into()).ids;
        assert_eq!(ids[..want.len()], want, "{text:?}");
        assert!(ids[want.len()..].iter().all(|&id| id == tokenizer.end()), "{text:?}");
    }
}

/// The library's own values, read by the browser, as serde_json writes what it reads.
#[wasm_bindgen_test]
fn json_is_read_as_serde_json_reads_it() {
    let texts = [
        include_str!("fixtures/emoji/config.json"),
        r#" { "b": [ 1, -0.5, 1e-7, null, true ], "a": "\u00e4\ud834\udd1e\n\u0001\"", "a": "last", "": {}, "c": [[]] } "#,
        "7",
    ];
    for text in texts {
        let crates: Value = serde_json::from_str(text).unwrap();
        let own = uvit_web::json::parse(text).unwrap().to_string();
        // Written once more by the browser: numbers have several forms.
        let again = |text: &str| js_sys::JSON::stringify(&js_sys::JSON::parse(text).unwrap()).unwrap();
        assert_eq!(again(&own), again(&crates.to_string()));
    }
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(uvit_web::json::parse(&nested(127)).is_ok());
    for text in ["", "{", "[1,]", "1e999", "nul", &nested(128), &nested(100_000)] {
        assert!(uvit_web::json::parse(text).is_err(), "{text:.9}");
        assert!(serde_json::from_str::<Value>(text).is_err(), "{text:.9}");
    }
}
