//! `torch_randn`: the generator's raw outputs, uniforms and normals. f32 is judged bit for bit, f64 uniforms too, f64
//! normals by one unit in the last place.

use crate::goldens_harness::{Case, Checks, Report, Stop, Tensor};
use uvit_web::sampler::TorchGenerator;

/// One run a fresh generator (a tensor `seed_S/...`), one a sequence of calls on one generator.
pub fn judge(case: &Case, report: &mut Report) {
    for name in case.tensor_names().filter(|name| name.starts_with("seed_")) {
        report.run(name, "host", |checks| one_draw(case, name, checks));
    }
    for sequence in case.config["sequences"].as_array().into_iter().flatten() {
        let id = format!("sequence_{}", sequence["id"]);
        report.run(&id, "host", |checks| {
            let mut generator = TorchGenerator::new(sequence["seed"].as_u64().ok_or("no seed".to_owned())?);
            for (j, call) in sequence["calls"].as_array().into_iter().flatten().enumerate() {
                let name = format!("{id}/{j}");
                let want = case.tensor(&name)?;
                draw(&mut generator, "randn", call["dtype"].as_str().unwrap_or("none"), &name, want, checks)?;
            }
            Ok(())
        });
    }
}

/// `seed_S/u32_first16`, `u32_616_to_639`, `rand_f32_20`, `randn_f64_7` and the like.
fn one_draw(case: &Case, name: &str, checks: &mut Checks) -> Result<(), Stop> {
    let want = case.tensor(name)?;
    let unknown = || Stop::Skip(format!("a tensor of this name ({name}) is not known"));
    let (seed, what) = name.strip_prefix("seed_").and_then(|rest| rest.split_once('/')).ok_or_else(unknown)?;
    let mut generator = TorchGenerator::new(seed.parse().map_err(|_| unknown())?);
    let parts: Vec<&str> = what.split('_').collect();
    match parts[..] {
        ["u32", ref range @ ..] => {
            let first: usize = match range {
                [from, "to", _] => from.parse().map_err(|_| unknown())?,
                _ => 0,
            };
            for _ in 0..first {
                generator.next_u32();
            }
            let got: Vec<f64> = want.values.iter().map(|_| generator.next_u32().into()).collect();
            checks.that(got == want.values, || format!("{what} differs"));
            Ok(())
        }
        [distribution, dtype, _] => draw(&mut generator, distribution, dtype, what, want, checks),
        _ => Err(unknown()),
    }
}

fn draw(
    generator: &mut TorchGenerator,
    distribution: &str,
    dtype: &str,
    name: &str,
    want: &Tensor,
    checks: &mut Checks,
) -> Result<(), Stop> {
    let n = want.values.len();
    let widen = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<f64>>();
    let (got, ulps) = match (distribution, dtype) {
        ("rand", "f32") => (widen(generator.rand_f32(n)), 0.0),
        ("rand", "f64") => (generator.rand_f64(n), 0.0),
        ("randn", "f32") => (widen(generator.randn_f32(n)), 0.0),
        ("randn", "f64") => (generator.randn_f64(n), 1.0),
        _ => return Err(Stop::Skip(format!("{distribution} in {dtype} is not built"))),
    };
    for (i, (got, want)) in got.iter().zip(&want.values).enumerate() {
        // Equal values compare equal in every bit but the sign of zero.
        let same = got == want && got.is_sign_negative() == want.is_sign_negative();
        let off = if same { 0.0 } else { ((got - want) / (want.next_up() - want)).abs().max(f64::MIN_POSITIVE) };
        checks.that(off <= ulps, || format!("{name}[{i}] is {got:e}, expected {want:e}, tolerance {ulps} ulp"));
    }
    Ok(())
}
