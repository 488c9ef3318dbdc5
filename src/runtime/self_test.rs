//! Wrong numbers are worse than slow ones: before a device is trusted with a Program, every kind of its kernels runs on it and
//! on the twins, in the variant that the Program has (dtypes, epilogue, arithmetic, row class) on little data; and so does one
//! of the samplers' linear combinations.

use super::{Device, Loading, Session, State, Term};
use crate::decimal::exponential;
use crate::generator::TorchGenerator;
use crate::plan::{Arithmetic, Compute, Isolated, Kernel, Program, WeightId, WeightUse, isolate, lower};
use crate::weights::Dtype;
use crate::weights::random;
use crate::{Code, Error, Result};

/// How the Program's weights are stored: dtype and columns a scale.
pub type Stored<'a> = &'a dyn Fn(WeightId) -> (Dtype, usize);

/// Rows of the shrunken kernels are as wide as this, or as two groups that share a scale.
const WIDEST: usize = 128;

/// Largest error over largest value. Kernels that are right stay below 1e-5 in floats, and near 2^-11 in f16. In integers, an
/// activation or a weight of a softmax that differs in its last bit may be rounded to the next.
fn tolerance(compute: Compute, kernel: &Kernel) -> f32 {
    let arithmetic = match kernel {
        Kernel::Matmul(m) => m.arithmetic,
        Kernel::Attention(k) => k.arithmetic,
        _ => Arithmetic::F32,
    };
    match (compute, arithmetic) {
        // What is quantised is read by a matmul in 8 bits.
        (Compute::W8A8, _) | (_, Arithmetic::W8A8 | Arithmetic::Int { .. }) => 2e-2,
        (_, Arithmetic::F16) => 5e-3,
        (_, Arithmetic::F32) => 1e-4,
    }
}

/// Every kind of the Program's kernels, once and on little data. Programs of one network for other batches have the same.
pub fn kinds(program: &Program, stored: Stored<'_>) -> Isolated {
    let group = |id: usize| match program.weights[id].usage {
        WeightUse::Matrix => stored(WeightId(id)).1,
        _ => 0,
    };
    let widest = (0..program.weights.len()).map(|id| 2 * group(id)).fold(WIDEST, usize::max).next_multiple_of(16);
    isolate(program, Some(widest), &|_| true, &|a, b| stored(a) == stored(b))
}

/// Runs every kind of the Program's kernels on the device and on the reference.
///
/// # Errors
/// `WRONG_RESULT` naming the kernel and the error found, `SHADER_FAILED`, `DEVICE_LOST`.
pub async fn self_test(device: &Device, compute: Compute, program: &Program, stored: Stored<'_>) -> Result<()> {
    let cases = kinds(program, stored);
    let got = run(device, compute, &cases, stored).await?;
    let want = run(&Device::reference(), compute, &cases, stored).await?;
    for ((&(_, kernel, _), got), want) in cases.outputs.iter().zip(&got).zip(&want) {
        let kernel = &program.kernels[kernel];
        compare(kernel.name(), got, want, tolerance(compute, kernel))?;
    }
    compare("combine", &combine(device).await?, &combine(&Device::reference()).await?, 1e-4)
}

fn compare(kernel: &str, got: &[f32], want: &[f32], tolerance: f32) -> Result<()> {
    let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    let off = |(a, b): (&f32, &f32)| if a.is_finite() { (a - b).abs() } else { f32::MAX };
    let worst = got.iter().zip(want).map(off).fold(0f32, f32::max);
    if got.len() == want.len() && worst <= tolerance * largest {
        return Ok(());
    }
    Err(Error::new(
        Code::WrongResult,
        format!(
            "the device computes wrong numbers: {kernel} is off by {} of the largest value",
            exponential((worst / largest).into())
        ),
        "Update the browser and the GPU driver, or use the other device",
    ))
}

/// Loads random weights in the stored of the Program's.
pub(super) async fn load_random(
    device: &Device,
    compute: Compute,
    cases: &Isolated,
    stored: Stored<'_>,
    generator: &mut TorchGenerator,
) -> Result<super::Weights> {
    let mut loading = Loading::new(device, compute)?;
    for ((id, weight, form), &original) in cases.plan.loads(compute).zip(&cases.originals) {
        let kind = (weight.usage == WeightUse::Matrix).then(|| stored(original));
        loading.load(id, weight, form, &random::tensor(&weight.name, &weight.shape, kind, generator)).await?;
    }
    loading.finish().await
}

async fn run(device: &Device, compute: Compute, cases: &Isolated, stored: Stored<'_>) -> Result<Vec<Vec<f32>>> {
    let mut generator = TorchGenerator::new(0);
    let weights = load_random(device, compute, cases, stored, &mut generator).await?;
    let program = lower(&cases.plan, &weights.capabilities(), &[])?;
    let mut session = Session::new(&weights, program, None).await?;
    for &input in &cases.inputs {
        let elements = session.program().view(input).elements();
        session.write(input, &generator.randn_f32(elements))?;
    }
    for &(indices, below) in &cases.indices {
        let elements = session.program().view(indices).elements() as u32;
        let last = below as u32 - 1;
        session.write_indices(indices, &(0..elements).map(|i| last.saturating_sub(i)).collect::<Vec<u32>>())?;
    }
    session.forward(&|| false).await?;
    let mut results = Vec::with_capacity(cases.outputs.len());
    for &(out, ..) in &cases.outputs {
        results.push(session.read(out).await?);
    }
    Ok(results)
}

/// Two tensors, one of them from its second half on, mixed and clipped, then mixed by a mask, and added as strongly as another says.
async fn combine(device: &Device) -> Result<Vec<f32>> {
    let elements = 67;
    let tensors = [("a", elements), ("b", 2 * elements)].map(|(name, n)| (name.to_string(), vec![1, 1, 1, n]));
    let state = State::new(device, &tensors).await?;
    let mut generator = TorchGenerator::new(1);
    state.write("a", &generator.randn_f32(elements))?;
    state.write("b", &generator.randn_f32(2 * elements))?;
    let terms =
        [("a", 0, 0.75), ("b", elements, -1.25)].map(|(tensor, from, coefficient)| Term { tensor, from, coefficient });
    state.combine("a", elements, &terms, Some((-1.0, 1.0)))?;
    state.blend("a", "b", elements, &terms)?;
    state.spread("a", "b", elements, &terms[1..], [-0.5, 0.75])?;
    state.read("a").await
}
