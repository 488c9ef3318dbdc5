//! `uvit bench --convolutions`: 3x3 convolutions beside Linears of as many inputs and outputs. On the same device, a convolution
//! should lose little to gathering its windows.

use super::output::say;
use std::time::Instant;
use uvit_web::Result;
use uvit_web::model::{Batch, Network};
use uvit_web::pipeline::{LoadOptions, Opened, Wanted, open_device};
use uvit_web::plan::{Compute, Plan, Precision, Role, TensorId, WeightUse, Window, lower};
use uvit_web::runtime::{Device, Loading, Session};
use uvit_web::sampler::TorchGenerator;
use uvit_web::weights::{Dtype, random};

/// Height and width, and channels in and out: those of Stable Diffusion's decoder at 256 x 256.
const SHAPES: [(usize, usize); 4] = [(32, 512), (64, 512), (128, 256), (256, 128)];
/// A Linear of so many rows is as fast as of more, and its inputs, nine times a convolution's, fit a buffer.
const MOST_ROWS: usize = 4096;

/// Prints a row a shape.
pub fn run(options: &LoadOptions, dtype: Dtype, repeats: usize) -> Result<()> {
    // The device is tested, and tuned, with a network of such convolutions.
    let params =
        serde_json::json!({ "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "sample_size": 64 });
    let network = Network::of("autoencoder_kl_decoder", &params)?;
    let recorded = network.record(Batch::plain(1))?.plan;
    let stored: Vec<_> = recorded.weights.iter().map(|weight| (stored(dtype, weight.usage), 0)).collect();
    let wanted = [Wanted { network: &network, stored: &stored, batch: Batch::plain(1) }];
    let Opened { device, compute, .. } = pollster::block_on(open_device(options, &wanted))?;
    say!("{}, {}, {}, {} threads", device.name(), dtype.as_str(), compute.as_str(), device.threads())?;
    say!("| height, width | channels | convolution, GFLOP/s | Linear, GFLOP/s | ratio |\n|---|---|---|---|---|")?;
    for (side, channels) in SHAPES {
        let rows = (side * side).min(MOST_ROWS);
        let mut convolution = Measured::new(&device, compute, dtype, [side * side, channels], &|plan, x| {
            plan.convolution("matrix", x, Window::plain([side, side]), channels, true)
        })?;
        let mut linear = Measured::new(&device, compute, dtype, [rows, 9 * channels], &|plan, x| {
            plan.linear("matrix", x, None, channels, true)
        })?;
        // In turn: what slows the machine down slows both. The first ones compile.
        let mut rates = Vec::new();
        for _ in 0..=repeats {
            rates.push([convolution.rate()?, linear.rate()?]);
        }
        let median = |which: &dyn Fn(&[f64; 2]) -> f64| {
            let mut all: Vec<f64> = rates[1..].iter().map(which).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        say!(
            "| {side} | {channels} | {:.1} | {:.1} | {:.2} |",
            median(&|pair| pair[0]),
            median(&|pair| pair[1]),
            median(&|pair| pair[0] / pair[1]),
        )?;
    }
    Ok(())
}

fn stored(dtype: Dtype, usage: WeightUse) -> Dtype {
    if usage == WeightUse::Matrix { dtype } else { Dtype::F32 }
}

/// One operation on a device.
struct Measured {
    device: Device,
    session: Session,
}

impl Measured {
    /// Of x `[1, rows, inputs]`, random.
    fn new(
        device: &Device,
        compute: Compute,
        dtype: Dtype,
        [rows, inputs]: [usize; 2],
        record: &dyn Fn(&mut Plan, TensorId) -> TensorId,
    ) -> Result<Measured> {
        let mut plan = Plan::default();
        let x = plan.tensor("x", &[1, rows, inputs], Role::Input);
        let out = record(&mut plan, x);
        plan.tensors[out.index()].role = Role::Output;
        // As an autoencoder's are.
        plan.allow("matrix", Precision::Wide);
        let mut generator = TorchGenerator::new(0);
        pollster::block_on(async {
            let mut loading = Loading::new(device, compute)?;
            for (id, weight, form) in plan.loads(compute) {
                let kind = (weight.usage == WeightUse::Matrix).then_some((dtype, 0));
                let tensor = random::tensor(&weight.name, &weight.shape, kind, &mut generator);
                loading.load(id, weight, form, &tensor).await?;
            }
            let weights = loading.finish().await?;
            let program = lower(&plan, &weights.capabilities(), &[])?;
            let mut session = Session::new(&weights, program, None).await?;
            session.write(x, &generator.randn_f32(rows * inputs))?;
            Ok(Measured { device: device.clone(), session })
        })
    }

    /// GFLOP/s of a run.
    fn rate(&mut self) -> Result<f64> {
        pollster::block_on(async {
            let began = Instant::now();
            self.session.forward(&|| false).await?;
            self.device.finished().await?;
            Ok(2e-9 * self.session.program().cost().multiply_adds as f64 / began.elapsed().as_secs_f64())
        })
    }
}
