//! Walks a sampler's [`Recipe`] on the goldens' toy network. The walk and the network are f64 on the host; the linear
//! combinations go through a [`Backend`], so that an executor in f32 can be judged by the same vectors.

use super::{Checks, Report, Run, Stop, Tensor, devices};
use uvit_web::runtime::{State, Term};
use uvit_web::sampler::{Adaptive, Recipe, Slot, Step};

/// What computes the linear combinations of a recipe.
pub trait Backend {
    /// Named in the report.
    fn name(&self) -> &'static str;

    /// The tolerance to judge this backend by, given the golden's for f64.
    fn tolerance(&self, f64_tolerance: f64) -> f64;

    /// clip(sum of coefficient * values), value by value; all terms are of one length.
    fn combine(&mut self, terms: &[(f64, &[f64])], clip: Option<(f64, f64)>) -> Result<Vec<f64>, Stop>;
}

/// Every device that recipes are judged on.
pub fn backends() -> Vec<Box<dyn Backend>> {
    let mut all: Vec<Box<dyn Backend>> = vec![Box::new(HostF64)];
    all.extend(devices::NAMES.map(|name| Box::new(Device { name }) as Box<dyn Backend>));
    all
}

/// A device: the linear combinations are its own, in f32.
pub struct Device {
    name: &'static str,
}

impl Backend for Device {
    fn name(&self) -> &'static str {
        self.name
    }

    fn tolerance(&self, _: f64) -> f64 {
        1e-4
    }

    fn combine(&mut self, terms: &[(f64, &[f64])], clip: Option<(f64, f64)>) -> Result<Vec<f64>, Stop> {
        devices::with(self.name, |device| {
            let n = terms.first().map_or(0, |(_, values)| values.len());
            let names: Vec<String> = (0..terms.len()).map(|i| i.to_string()).chain(["out".to_string()]).collect();
            let tensors: Vec<_> = names.iter().map(|name| (name.clone(), vec![1, 1, 1, n])).collect();
            let state = pollster::block_on(State::new(device, &tensors))?;
            let mut sum = Vec::with_capacity(terms.len());
            for (name, (coefficient, values)) in names.iter().zip(terms) {
                let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
                state.write(name, &values)?;
                sum.push(Term { tensor: name, from: 0, coefficient: *coefficient as f32 });
            }
            state.combine("out", n, &sum, clip.map(|(low, high)| (low as f32, high as f32)))?;
            Ok(pollster::block_on(state.read("out"))?.into_iter().map(f64::from).collect())
        })
    }
}

/// The reference: f64 on the host.
pub struct HostF64;

impl Backend for HostF64 {
    fn name(&self) -> &'static str {
        "host f64"
    }

    fn tolerance(&self, f64_tolerance: f64) -> f64 {
        f64_tolerance
    }

    fn combine(&mut self, terms: &[(f64, &[f64])], clip: Option<(f64, f64)>) -> Result<Vec<f64>, Stop> {
        let n = terms.first().map_or(0, |(_, values)| values.len());
        let sum = |i: usize| terms.iter().map(|(coefficient, values)| coefficient * values[i]).sum::<f64>();
        let (low, high) = clip.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
        Ok((0..n).map(|i| sum(i).clamp(low, high)).collect())
    }
}

/// What happened on the way.
#[derive(Default)]
pub struct Trace {
    /// The start, then the latents at the end of every step (an evaluation with what follows it).
    pub states: Vec<Vec<f64>>,
    /// The time handed to the network, by step.
    pub model_t: Vec<f64>,
    /// The x_0 estimate as previews show it, not clipped, by step.
    pub x0: Vec<Vec<f64>>,
    /// How many noise tensors were drawn.
    pub draws: usize,
}

/// Executes a recipe from standard normal `start`. `noise` holds the draws in order; running out of them is an error.
pub fn walk(
    recipe: &Recipe,
    start: &[f64],
    noise: &[&[f64]],
    network: impl Fn(&[f64], f64) -> Vec<f64>,
    backend: &mut dyn Backend,
) -> Result<Trace, Stop> {
    let mut walk = Walk {
        trace: Trace::default(),
        latents: start.iter().map(|x| x * recipe.init_noise_sigma).collect(),
        model: None,
        scratch: vec![None; recipe.scratch_slots],
        noise,
    };
    walk.along(&recipe.steps, &network, backend)?;
    if let Some(adaptive) = &recipe.adaptive {
        let mut adaptive = adaptive.clone();
        while let Some(steps) = adaptive.attempt() {
            walk.along(&steps, &network, backend)?;
            let read = |slot| walk.read(slot).cloned();
            let [low, before] = Adaptive::compared();
            let error = adaptive.error(2, &walk.latents, &read(low)?, &read(before)?);
            walk.along(&adaptive.settle(error), &network, backend)?;
        }
    } else if walk.trace.model_t.len() != recipe.evaluations {
        let ran = walk.trace.model_t.len();
        return Err(Stop::Fail(format!("evaluations is {}, the network ran {ran} times", recipe.evaluations)));
    }
    walk.trace.states.push(walk.latents);
    Ok(walk.trace)
}

struct Walk<'a> {
    trace: Trace,
    latents: Vec<f64>,
    model: Option<Vec<f64>>,
    scratch: Vec<Option<Vec<f64>>>,
    noise: &'a [&'a [f64]],
}

impl Walk<'_> {
    fn read(&self, slot: Slot) -> Result<&Vec<f64>, Stop> {
        let values = match slot {
            Slot::Latents => Some(&self.latents),
            Slot::Model => self.model.as_ref(),
            Slot::Scratch(i) => self.scratch.get(i as usize).and_then(Option::as_ref),
        };
        values.ok_or_else(|| format!("{slot:?} is read before it is written").into())
    }

    fn along(
        &mut self,
        steps: &[Step],
        network: &impl Fn(&[f64], f64) -> Vec<f64>,
        backend: &mut dyn Backend,
    ) -> Result<(), Stop> {
        for step in steps {
            let (out, result) = match step {
                Step::Eval { network_time, x0 } => {
                    self.trace.states.push(self.latents.clone());
                    let output = network(&self.latents, *network_time);
                    self.trace.model_t.push(*network_time);
                    let estimate = self.latents.iter().zip(&output).map(|(x, o)| x0[0] * x + x0[1] * o);
                    self.trace.x0.push(estimate.collect());
                    self.model = Some(output);
                    continue;
                }
                Step::Combine { out, terms, clip } => {
                    let mut read: Vec<(f64, &[f64])> = Vec::with_capacity(terms.len());
                    for term in terms {
                        read.push((term.coefficient, self.read(term.slot)?));
                    }
                    (*out, backend.combine(&read, *clip)?)
                }
                Step::Arrive { .. } => continue,
                // The toy network has learned no variance.
                Step::Spread { out, noise, log_std } => {
                    let terms = [(1.0, &**self.read(*out)?), ((log_std[0] - log_std[1]).exp(), &**self.read(*noise)?)];
                    (*out, backend.combine(&terms, None)?)
                }
                Step::Noise { out } => {
                    let drawn = self.noise.get(self.trace.draws);
                    let values = drawn.ok_or_else(|| "more noise is drawn than the reference drew".to_owned())?;
                    self.trace.draws += 1;
                    (*out, values.to_vec())
                }
            };
            match out {
                Slot::Latents => self.latents = result,
                Slot::Model => return Err("the network's output is written to".to_owned().into()),
                Slot::Scratch(i) => {
                    let slot = self.scratch.get_mut(i as usize);
                    *slot.ok_or_else(|| "scratch_slots is too small".to_owned())? = Some(result);
                }
            }
        }
        Ok(())
    }
}

/// a x + 0.5 tanh(x W^T + b + c sin(3 tm / 1000)) on rows of a batch.
pub struct ToyNetwork<'a> {
    a: f64,
    w: &'a Tensor,
    b: &'a Tensor,
    c: &'a Tensor,
}

impl<'a> ToyNetwork<'a> {
    /// With the case's weights and the run's a.
    pub fn new(run: &Run<'a>, a: f64) -> Result<ToyNetwork<'a>, String> {
        let case = run.case;
        Ok(ToyNetwork { a, w: case.tensor("W")?, b: case.tensor("b")?, c: case.tensor("c")? })
    }

    /// The output at network time `tm`.
    pub fn call(&self, x: &[f64], tm: f64) -> Vec<f64> {
        let width = self.b.values.len();
        let wave = (3.0 * tm / 1000.0).sin();
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks(width) {
            for j in 0..width {
                let weights = &self.w.values[j * width..(j + 1) * width];
                let dot: f64 = weights.iter().zip(row).map(|(w, x)| w * x).sum();
                out.push(self.a * row[j] + 0.5 * (dot + self.b.values[j] + self.c.values[j] * wave).tanh());
            }
        }
        out
    }
}

/// Adaptive steps are as long as an error estimate says, which is f32 on devices.
fn times_within(compiled: &Compiled, backend: &str) -> f64 {
    match compiled.updates {
        Updates::Adaptive { .. } if backend != HostF64.name() => 1e-3,
        _ => compiled.times,
    }
}

/// Of more states than points there are two for every point but the first and the last: what Heun predicts, and corrects.
fn scale(states: &mut [Vec<f64>], scales: &[f64]) {
    let twice = states.len() > scales.len();
    for (i, state) in states.iter_mut().enumerate() {
        let point = if twice { i.div_ceil(2) } else { i };
        state.iter_mut().for_each(|value| *value *= scales[point]);
    }
}

/// Where updates of so many evaluations begin, and the end.
pub fn ends(updates: &[usize]) -> impl Iterator<Item = usize> {
    (0..=updates.len()).map(|n| updates[..n].iter().sum())
}

/// After how many evaluations the reference kept a state.
pub enum Updates {
    /// After each.
    One,
    /// After updates of so many.
    Of(Vec<usize>),
    /// The first and the last, after so many in all.
    Adaptive {
        /// Of the network.
        calls: usize,
    },
}

/// A run's recipe, and what is particular in judging it.
pub struct Compiled {
    /// Of the network.
    pub a: f64,
    /// What is walked.
    pub recipe: Recipe,
    /// By what the reference's states are larger than ours, point by point of the grid, and what each is after.
    pub scales: Option<Vec<f64>>,
    /// Which states the reference kept.
    pub updates: Updates,
    /// Which of the case's tolerances holds for states.
    pub tolerance: &'static str,
    /// The tolerance for the network's times.
    pub times: f64,
}

/// Judges a run's recipe by the usual rules.
pub fn judge_recipe(
    run: &Run,
    report: &mut Report,
    compile: impl FnOnce() -> Result<(f64, Recipe), Stop>,
    and_also: impl Fn(&Trace, &ToyNetwork, f64, &mut Checks) -> Result<(), Stop>,
) {
    let compile = || {
        let (a, recipe) = compile()?;
        Ok(Compiled { a, recipe, updates: Updates::One, scales: None, tolerance: "states", times: 1e-12 })
    };
    judge_compiled(run, report, compile, and_also);
}

/// Judges a run's recipe on every backend by the tensors stored for it; `and_also` looks at what else its kind stores,
/// given the tolerance.
pub fn judge_compiled(
    run: &Run,
    report: &mut Report,
    compile: impl FnOnce() -> Result<Compiled, Stop>,
    and_also: impl Fn(&Trace, &ToyNetwork, f64, &mut Checks) -> Result<(), Stop>,
) {
    let label = format!("run {}", run.id);
    let compiled = match compile() {
        Ok(compiled) => compiled,
        Err(stop) => return report.run(&label, "recipe", |_| Err(stop)),
    };
    for mut backend in backends() {
        report.run(&label, backend.name(), |checks| {
            let tolerance = backend.tolerance(run.case.tolerance(compiled.tolerance)?);
            let network = ToyNetwork::new(run, compiled.a)?;
            let noise = run.tensor("noise").map_or(Vec::new(), Tensor::rows);
            let start = &run.case.tensor("x")?.values;
            let mut trace = walk(&compiled.recipe, start, &noise, |x, tm| network.call(x, tm), backend.as_mut())?;
            match &compiled.updates {
                Updates::One => {}
                Updates::Of(updates) => trace.states = ends(updates).map(|at| trace.states[at].clone()).collect(),
                Updates::Adaptive { calls } => {
                    checks
                        .that(trace.model_t.len() == *calls, || format!("{} calls, not {calls}", trace.model_t.len()));
                    trace.states = vec![trace.states[0].clone(), trace.states[trace.states.len() - 1].clone()];
                }
            }

            if let Some(scales) = &compiled.scales {
                scale(&mut trace.states, scales);
            }
            checks.close("states", &trace.states.concat(), run.tensor("states")?, tolerance);
            for name in ["model_t", "timesteps"] {
                if let Ok(times) = run.tensor(name) {
                    checks.close(name, &trace.model_t, times, times_within(&compiled, backend.name()));
                }
            }
            checks.that(trace.draws == noise.len(), || {
                format!("{} noise tensors drawn, expected {}", trace.draws, noise.len())
            });
            and_also(&trace, &network, tolerance, checks)
        });
    }
}
