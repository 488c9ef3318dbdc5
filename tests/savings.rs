//! What generations may leave out: each saving leaves out what it says and nothing else, on the CPU and on a GPU.
#![cfg(not(target_arch = "wasm32"))]

#[cfg(feature = "gpu")]
mod devices;

use uvit_web::Code;
use uvit_web::package::{Manifest, read_manifest};
use uvit_web::pipeline::sampling::Control;
use uvit_web::pipeline::{
    ComputeChoice, DeviceChoice, Generated, LabelChoice, LoadOptions, Loader, Pipeline, Preset, Request,
};
use uvit_web::plan::Compute;
#[cfg(feature = "gpu")]
use uvit_web::runtime::Tune;
use uvit_web::sampler::SamplerKind;

/// The emoji model with a changed manifest, in the same arithmetic and by the same kernels whenever it is loaded: what is
/// measured may differ.
fn load(device: DeviceChoice, change: impl Fn(&mut Manifest)) -> uvit_web::Result<Pipeline> {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/web/models/emoji"));
    let (mut manifest, folder) = read_manifest(folder)?;
    change(&mut manifest);
    let compute = match device {
        DeviceChoice::Cpu => ComputeChoice::Fixed(Compute::Quality),
        _ => ComputeChoice::Auto,
    };
    let options = LoadOptions {
        device,
        compute,
        #[cfg(feature = "gpu")]
        tune: Tune::Off,
        ..LoadOptions::default()
    };
    let mut loader = pollster::block_on(Loader::new(manifest, options))?;
    for index in 0..loader.files().len() {
        let bytes = std::fs::read(folder.join(&loader.files()[index].stored.file)).unwrap();
        pollster::block_on(loader.add_file(index, &bytes))?;
    }
    pollster::block_on(loader.finish())
}

fn draw(pipeline: &mut Pipeline, request: &Request) -> uvit_web::Result<Generated> {
    let mut control = Control { on_step: &mut |_| {}, stopped: &|| false };
    pollster::block_on(pipeline.generate(request, &mut control))
}

/// Two guided pictures in six steps.
fn plain() -> Request {
    Request {
        label: Some(LabelChoice::Index(3)),
        steps: Some(6),
        guidance_scale: Some(2.0),
        seed: 5,
        count: Some(2),
        ..Request::default()
    }
}

fn psnr(a: &Generated, b: &Generated) -> f64 {
    let pairs = a.values.iter().zip(&b.values);
    let mse = pairs.map(|(a, b)| f64::from(a.clamp(-1.0, 1.0) - b.clamp(-1.0, 1.0)).powi(2)).sum::<f64>();
    10.0 * (4.0 * a.values.len() as f64 / mse.max(1e-20)).log10()
}

fn guidance_is_left_out_outside_its_interval(pipeline: &mut Pipeline) {
    let whole = draw(pipeline, &plain()).unwrap();
    let with = |interval| Request { guidance_interval: Some(interval), ..plain() };
    let always = draw(pipeline, &with([0.0, 1.0])).unwrap();
    assert_eq!((&always.values, always.multiply_adds), (&whole.values, whole.multiply_adds));
    // No step lies at t = 0: all run the conditional items alone, the first half of a batch that was made for both.
    let never = draw(pipeline, &with([0.0, 0.0])).unwrap();
    let unguided = draw(pipeline, &Request { guidance_scale: Some(1.0), ..plain() }).unwrap();
    assert_eq!((&never.values, never.multiply_adds), (&unguided.values, unguided.multiply_adds));
    assert_eq!(2 * never.multiply_adds, whole.multiply_adds);
    let some = draw(pipeline, &with([0.0, 0.5])).unwrap();
    assert!(some.values != whole.values && some.values != unguided.values);
    assert!((unguided.multiply_adds + 1..whole.multiply_adds).contains(&some.multiply_adds));
    for interval in [[0.5, 0.2], [-0.1, 1.0], [0.0, f64::NAN]] {
        assert_eq!(draw(pipeline, &with(interval)).unwrap_err().code, Code::InvalidArgument);
    }
}

fn a_cache_that_is_always_refreshed_changes_nothing(device: DeviceChoice, whole: &Generated) {
    let always = |manifest: &mut Manifest| {
        let cache = manifest.sampling.cache.as_mut().unwrap();
        (cache.steps, cache.refresh) = (6, (0..6).collect());
    };
    let cached = draw(&mut load(device, always).unwrap(), &Request { cache: true, ..plain() }).unwrap();
    assert_eq!((&cached.values, cached.multiply_adds), (&whole.values, whole.multiply_adds));
}

fn a_cache_saves_a_third_and_keeps_the_picture(pipeline: &mut Pipeline) {
    // Guidance that comes late finds nothing of its own in the cache.
    let early = Request { steps: None, guidance_scale: None, count: None, seed: 1, ..plain() };
    let late = Request { guidance_interval: Some([0.0, 0.5]), ..early.clone() };
    for request in [early, late] {
        let whole = draw(pipeline, &request).unwrap();
        let cached = draw(pipeline, &Request { cache: true, ..request.clone() }).unwrap();
        let share = cached.multiply_adds as f64 / whole.multiply_adds as f64;
        assert!((0.5..0.72).contains(&share), "{share}");
        assert!(psnr(&cached, &whole) > 25.0, "{}", psnr(&cached, &whole));
        // A call without it runs everything again.
        assert_eq!(draw(pipeline, &request).unwrap().values, whole.values);
    }
}

fn every_saving(device: DeviceChoice, mut pipeline: Pipeline) {
    guidance_is_left_out_outside_its_interval(&mut pipeline);
    let whole = draw(&mut pipeline, &plain()).unwrap();
    a_cache_that_is_always_refreshed_changes_nothing(device, &whole);
    a_cache_saves_a_third_and_keeps_the_picture(&mut pipeline);
}

#[test]
fn savings_on_the_cpu() {
    every_saving(DeviceChoice::Cpu, load(DeviceChoice::Cpu, |_| {}).unwrap());
}

#[cfg(feature = "gpu")]
#[test]
fn savings_on_the_gpu() {
    let Some(pipeline) = devices::found(load(DeviceChoice::WebGpu, |_| {})) else { return };
    every_saving(DeviceChoice::WebGpu, pipeline);
}

#[test]
fn presets_set_what_is_not_given() {
    let pipeline = load(DeviceChoice::Cpu, |_| {}).unwrap();
    let steps = |request: &Request| {
        let settings = pipeline.settings(request);
        (settings.sampler, settings.steps)
    };
    let fast = Request { preset: Some(Preset::Fast), ..Request::default() };
    assert_eq!(steps(&fast), (SamplerKind::DpmppTwoM, 12));
    assert_eq!(steps(&Request { preset: Some(Preset::Draft), ..Request::default() }), (SamplerKind::DpmppTwoM, 6));
    let own = Request { steps: Some(9), sampler: Some(SamplerKind::Ddim), ..fast };
    assert_eq!(steps(&own), (SamplerKind::Ddim, 9));
}

#[test]
fn a_cache_needs_a_calibrated_schedule() {
    let cached = Request { cache: true, ..plain() };
    let mut without = load(DeviceChoice::Cpu, |manifest| manifest.sampling.cache = None).unwrap();
    assert_eq!(draw(&mut without, &cached).unwrap_err().code, Code::InvalidArgument);
    let mut deep = load(DeviceChoice::Cpu, |manifest| manifest.sampling.cache.as_mut().unwrap().outer = 5).unwrap();
    let error = draw(&mut deep, &cached).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.cause.contains("5"), "{error}");
}
