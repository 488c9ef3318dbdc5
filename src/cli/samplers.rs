//! `uvit samplers`: how near samplers come to the exact solution with few steps: PSNR against DDIM in 1000 steps from the same noise.

use super::load::load;
use super::output::{self, say};
use super::refusal;
use std::fmt::Write as _;
use std::path::PathBuf;
use uvit_web::Result;
use uvit_web::pipeline::sampling::Control;
use uvit_web::pipeline::{ComputeChoice, DeviceChoice, LabelChoice, LoadOptions, Pipeline, Request};
use uvit_web::plan::Compute;
use uvit_web::sampler::{SamplerKind, Spacing};

#[derive(clap::Args)]
pub struct Arguments {
    /// The model: a manifest.json or its folder
    #[arg(default_value = "web/models/emoji")]
    model: PathBuf,
    /// Pictures, seeds 0 .., labels spread evenly
    #[arg(long, default_value_t = 4, value_parser = refusal::some)]
    pictures: usize,
    /// Calls of the network
    #[arg(long, default_values_t = [10, 25, 50], value_parser = refusal::some)]
    calls: Vec<usize>,
    /// Also draw the table as an SVG
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// What samplers are measured against.
const EXACT_STEPS: usize = 1000;

/// Deterministic samplers with the grids that are worth a look; the others draw other pictures.
const ROWS: [(SamplerKind, Option<Spacing>); 14] = [
    (SamplerKind::DpmppTwoM, None),
    (SamplerKind::DpmppTwoM, Some(Spacing::LogSnr)),
    (SamplerKind::DpmppTwoM, Some(Spacing::Karras)),
    (SamplerKind::DpmppThreeM, None),
    (SamplerKind::UniPc, None),
    (SamplerKind::UniPc, Some(Spacing::LogSnr)),
    (SamplerKind::Deis, None),
    (SamplerKind::DpmppThreeS, None),
    (SamplerKind::DpmSolver, None),
    (SamplerKind::Euler, None),
    (SamplerKind::Euler, Some(Spacing::Karras)),
    (SamplerKind::Heun, None),
    (SamplerKind::Plms, None),
    (SamplerKind::EulerMaruyamaOde, None),
];

pub fn run(a: &Arguments) -> Result<()> {
    a.plot.as_deref().map(output::check).transpose()?;
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        compute: ComputeChoice::Fixed(Compute::F32),
        ..LoadOptions::default()
    };
    let mut pipeline = load(&a.model, options)?;
    let exact = draw(&mut pipeline, a.pictures, SamplerKind::Ddim, None, EXACT_STEPS)?;
    let head: String = a.calls.iter().fold(String::new(), |head, calls| head + &format!(" {calls} |"));
    say!("| sampler | grid |{head}")?;
    say!("|---|---|{}", "---|".repeat(a.calls.len()))?;
    let mut lines: Vec<(String, Vec<f64>)> = Vec::new();
    for (sampler, grid) in ROWS {
        let mut values = Vec::with_capacity(a.calls.len());
        for &calls in &a.calls {
            // As many steps as need no more calls than that.
            let steps = (1..=calls).rev().find(|steps| sampler.calls(*steps) <= calls).unwrap_or(1);
            values.push(psnr(&draw(&mut pipeline, a.pictures, sampler, grid, steps)?, &exact));
        }
        let named = grid.or(sampler.grid()).map_or("its own", Spacing::as_str);
        let cells = values.iter().fold(String::new(), |cells, value| cells + &format!(" {value:.1} |"));
        say!("| `{}` | `{named}` |{cells}", sampler.as_str())?;
        lines.push((format!("{}, {named}", sampler.as_str()), values));
    }
    if let Some(path) = &a.plot {
        output::write(path, plot(&a.calls, &lines).as_bytes())?;
        say!("wrote {}", path.display())?;
    }
    Ok(())
}

/// The pictures of the first seeds.
fn draw(
    pipeline: &mut Pipeline,
    pictures: usize,
    sampler: SamplerKind,
    grid: Option<Spacing>,
    steps: usize,
) -> Result<Vec<Vec<f32>>> {
    let labels = pipeline.manifest().labels.len();
    (0..pictures)
        .map(|k| {
            let label = (labels > 0).then(|| LabelChoice::Index((k * labels / pictures) as u32));
            let (sampler, steps) = (Some(sampler), Some(steps));
            let request = Request { label, seed: k as u32, sampler, grid, steps, ..Request::default() };
            let mut control = Control { on_step: &mut |_| {}, stopped: &|| false };
            Ok(pollster::block_on(pipeline.generate(&request, &mut control))?.values)
        })
        .collect()
}

/// The mean of the pictures' PSNR, over [-1, 1], in dB.
fn psnr(drawn: &[Vec<f32>], exact: &[Vec<f32>]) -> f64 {
    let of = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        let square = |(a, b): (&f32, &f32)| f64::from(a.clamp(-1.0, 1.0) - b.clamp(-1.0, 1.0)).powi(2);
        let mse = a.iter().zip(b).map(square).sum::<f64>() / a.len() as f64;
        10.0 * (4.0 / mse.max(1e-20)).log10()
    };
    drawn.iter().zip(exact).map(of).sum::<f64>() / drawn.len() as f64
}

/// A line a sampler over the calls of the network, the best on top of the legend.
fn plot(calls: &[usize], lines: &[(String, Vec<f64>)]) -> String {
    const COLOURS: [&str; 7] = ["#2a78d6", "#d03b3b", "#1baf7a", "#eda100", "#4a3aa7", "#008300", "#e87ba4"];
    let (left, top, width, height) = (56.0, 16.0, 420.0, 300.0);
    let all = || lines.iter().flat_map(|(_, values)| values.iter().copied());
    let low = (all().fold(f64::INFINITY, f64::min) / 10.0).floor() * 10.0;
    let high = (all().fold(f64::NEG_INFINITY, f64::max) / 10.0).ceil() * 10.0;
    let last = calls.len().max(2) - 1;
    let x = |i: usize| left + width * i as f64 / last as f64;
    let y = |value: f64| top + height * (high - value) / (high - low);
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 360\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>PSNR against DDIM in 1000 steps, by calls of the network</title>\n\
         <rect width=\"760\" height=\"360\" fill=\"#fff\"/>\n",
    );
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing into a String cannot fail.
        let _ = writeln!(svg, "{text}");
    };
    let ticks = ((high - low) / 10.0).round() as usize;
    for tick in 0..=ticks {
        let value = low + 10.0 * tick as f64;
        let at = y(value);
        line(format_args!("<path d=\"M{left} {at:.1}h{width}\" stroke=\"#ddd\"/>"));
        line(format_args!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{value:.0} dB</text>",
            left - 6.0,
            at + 4.0
        ));
    }
    for (i, calls) in calls.iter().enumerate() {
        line(format_args!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{calls}</text>",
            x(i),
            top + height + 18.0
        ));
    }
    line(format_args!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">calls of the network</text>",
        left + width / 2.0,
        top + height + 36.0
    ));
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by(|a, b| lines[*b].1[calls.len() - 1].total_cmp(&lines[*a].1[calls.len() - 1]));
    for (row, &i) in order.iter().enumerate() {
        let (name, values) = &lines[i];
        let points: Vec<String> = values.iter().enumerate().map(|(i, v)| format!("{:.1},{:.1}", x(i), y(*v))).collect();
        let dash = if row >= COLOURS.len() { " stroke-dasharray=\"5 3\"" } else { "" };
        let style = format!("stroke=\"{}\" stroke-width=\"2\" fill=\"none\"{dash}", COLOURS[row % COLOURS.len()]);
        line(format_args!("<polyline points=\"{}\" {style}/>", points.join(" ")));
        let at = top + 10.0 + 20.0 * row as f64;
        line(format_args!("<path d=\"M500 {at}h24\" {style}/>"));
        line(format_args!("<text x=\"532\" y=\"{}\" fill=\"#222\">{name}</text>", at + 4.0));
    }
    svg.push_str("</svg>\n");
    svg
}
