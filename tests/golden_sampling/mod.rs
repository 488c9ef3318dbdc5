//! A small golden network (`tests/goldens/uvit_p8_hd16`) sampled in four guided steps: the same run on every device,
//! natively and in the browser, against what the native CPU recorded.

use half::bf16;
use safetensors::SafeTensors;
use uvit_web::json;
use uvit_web::model::{Batch, Network, uvit};
use uvit_web::pipeline::sampling::{Control, Inputs, Readback, noise_for, sample};
use uvit_web::pipeline::{Component, Denoiser, Guidance, NamedTensor, Shape, Values};
use uvit_web::plan::Compute;
use uvit_web::runtime::{Device, Loading};
use uvit_web::sampler::{Prediction, SamplerKind, SamplerSettings, Schedule, recipe};
use uvit_web::weights::Dtype;
use uvit_web::weights::{Data, Tensor};

const CONFIG: &str = include_str!("../goldens/uvit_p8_hd16/config.json");
const WEIGHTS: &[u8] = include_bytes!("../goldens/uvit_p8_hd16/weights.safetensors");

/// Two pictures `[2, 3, 32, 32]`, labels 1 and 4, guidance 1.5 with the null class 5, seeds 11 and 12.
pub async fn draw(device: &Device) -> Vec<f32> {
    draw_by(device, SamplerKind::DpmppTwoM, None).await
}

/// With another sampler, or from given latents.
pub async fn draw_by(device: &Device, sampler: SamplerKind, start: Option<&[f32]>) -> Vec<f32> {
    let config = json::parse(CONFIG).unwrap();
    let params: uvit::Config = json::Read::read(&config["params"]).unwrap();
    let network = Network::Uvit(params);
    let stored = SafeTensors::deserialize(WEIGHTS).unwrap();
    let plan = network.record(Batch::plain(1)).unwrap().plan;
    let mut loading = Loading::new(device, Compute::F32).unwrap();
    for (id, weight, form) in plan.loads(Compute::F32) {
        let view = stored.tensor(&weight.name).unwrap();
        let values = view.data().as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect();
        let tensor = Tensor { name: weight.name.clone(), shape: weight.shape.clone(), data: Data::F32(values) };
        loading.load(id, weight, form, &tensor).await.unwrap();
    }
    let settings = SamplerSettings {
        sampler,
        grid: None,
        steps: 4,
        schedule: Schedule::VpLinear { beta_min: 0.1, beta_max: 20.0 },
        prediction: Prediction::X0,
        time_scale: 999.0,
        clip_x0: true,
        lower_order_final: true,
        t_min: 0.001,
        t_max: 1.0,
        eta: 0.0,
        churn: 0.0,
        time_offset: 0.0,
        skip: 0,
    };
    let labels = |labels: [u32; 2]| vec![NamedTensor::new("y", Values::Indices(labels.to_vec()))];
    let guidance = Guidance::classifier_free(labels([1, 4]), labels([5, 5]), 1.5);
    let recipe = recipe(&settings).unwrap();
    let shape = Shape::plain(guidance.batch(2), recipe.scratch_slots);
    let inputs = Inputs {
        guidance,
        start,
        picture: None,
        noise: &mut noise_for(11, 1, 2).unwrap(),
        readback: Readback::None,
        passes: Vec::new(),
    };
    let forms = vec![(Dtype::F32, 0); plan.weights.len()];
    let mut component = Component::new(network, loading.finish().await.unwrap(), forms, Vec::new());
    let mut denoiser = Denoiser::new(&mut component, shape).await.unwrap();
    let mut control = Control { on_step: &mut |_| {}, stopped: &|| false };
    sample(&mut denoiser, &recipe, inputs, &mut control, None).await.unwrap()
}

/// What the native CPU recorded: little-endian f32.
pub const RECORDED: &[u8] = include_bytes!("../recorded/uvit_p8_hd16_4_steps.f32");

/// The largest difference from the record, in pixel values of 0 to 255.
pub fn worst(got: &[f32]) -> f32 {
    let recorded: Vec<f32> = RECORDED.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(got.len(), recorded.len());
    assert!(recorded.iter().any(|v| *v > 0.5) && recorded.iter().any(|v| *v < -0.5), "a flat picture proves nothing");
    let off = |(a, b): (&f32, &f32)| if a.is_finite() { 127.5 * (a - b).abs() } else { f32::INFINITY };
    got.iter().zip(&recorded).map(off).fold(0.0, f32::max)
}
