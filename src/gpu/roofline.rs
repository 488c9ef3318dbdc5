//! A Profile as a picture: the roofline (Williams, Waterman and Patterson, "Roofline: an insightful visual performance model
//! for multicore architectures", 2009), with the register loop as the roof and the best rate of bytes that any kernel reached
//! as the slope.

use super::profile::{Profile, Row};
use std::fmt::Write;

const WIDTH: f64 = 940.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
/// The list of kernels lies there.
const RIGHT: f64 = 340.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 48.0;
/// Kernels that fit into the list; the others have tooltips only.
const LISTED: usize = 12;

/// A logarithmic axis over whole decades.
struct Axis {
    low: i32,
    high: i32,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Axis {
        let low = values.clone().fold(f64::MAX, f64::min).log10().floor() as i32;
        let high = values.fold(f64::MIN_POSITIVE, f64::max).log10().ceil() as i32;
        Axis { low, high: high.max(low + 1), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.low..=self.high).map(|decade| 10f64.powi(decade))
    }
}

/// Draws kernels that multiply; x is floating-point operations a byte, y how many of them a second.
pub fn svg(profile: &Profile) -> String {
    let rows: Vec<Row> = profile.rows().into_iter().filter(|row| row.multiply_adds > 0 && row.bytes > 0).collect();
    let intensity = |row: &Row| 2.0 * row.multiply_adds as f64 / row.bytes as f64;
    let rate = |row: &Row| 2.0 * row.multiply_adds as f64 / row.nanoseconds;
    let peak = 2e-9 * profile.peak;
    let bandwidth =
        profile.rows().iter().fold(f64::MIN_POSITIVE, |best, row| best.max(row.bytes as f64 / row.nanoseconds));
    let x = Axis::over(rows.iter().map(intensity).chain([peak / bandwidth]), LEFT, WIDTH - RIGHT);
    let y = Axis::over(rows.iter().map(rate).chain([peak]), HEIGHT - BOTTOM, TOP);

    let mut out = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='Roofline: {} \
         kernels under a peak of {peak:.1} GFLOP/s' font-family='system-ui, sans-serif' font-size='12' \
         fill='currentColor' color='#445'>",
        rows.len()
    );
    // Writing to a String cannot fail.
    for tick in x.ticks() {
        let _ = write!(
            out,
            "<path d='M{0:.1} {TOP}V{1}' stroke='currentColor' opacity='.15'/><text x='{0:.1}' y='{2}' \
             text-anchor='middle'>{tick}</text>",
            x.at(tick),
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 16.0
        );
    }
    for tick in y.ticks() {
        let _ = write!(
            out,
            "<path d='M{LEFT} {0:.1}H{1}' stroke='currentColor' opacity='.15'/><text x='{2}' y='{3:.1}' \
             text-anchor='end'>{tick}</text>",
            y.at(tick),
            WIDTH - RIGHT,
            LEFT - 6.0,
            y.at(tick) + 4.0
        );
    }
    let ridge = peak / bandwidth;
    let start = 10f64.powi(x.low);
    let _ = write!(
        out,
        "<path d='M{:.1} {:.1}L{:.1} {:.1}H{}' fill='none' stroke='currentColor' stroke-width='2'/>\
         <text x='{}' y='{:.1}' text-anchor='end'>{peak:.1} GFLOP/s in registers</text>\
         <text x='{}' y='{}' text-anchor='middle'>FLOP a byte</text>\
         <text x='{}' y='18'>GFLOP/s; the slope is {bandwidth:.1} GB/s, the best rate of any kernel</text>",
        x.at(start.max(10f64.powi(y.low) / bandwidth)),
        y.at((start * bandwidth).max(10f64.powi(y.low))),
        x.at(ridge),
        y.at(peak),
        WIDTH - RIGHT,
        WIDTH - RIGHT,
        y.at(peak) - 6.0,
        0.5 * (LEFT + WIDTH - RIGHT),
        HEIGHT - 10.0,
        LEFT - 40.0
    );
    let total: f64 = profile.rows().iter().map(|row| row.nanoseconds).sum();
    for (i, row) in rows.iter().enumerate() {
        let share = row.nanoseconds / total;
        let (cx, cy, r) = (x.at(intensity(row)), y.at(rate(row)), 3.0 + 22.0 * share.sqrt());
        let colour = if row.kernel == "attention" { "#c2410c" } else { "#4f46e5" };
        let _ = write!(
            out,
            "<circle cx='{cx:.1}' cy='{cy:.1}' r='{r:.1}' fill='{colour}' fill-opacity='.45'><title>{} {}: {:.1} GFLOP/s, \
             {:.1}% of the time</title></circle>",
            row.kernel,
            row.shape,
            rate(row),
            100.0 * share
        );
        if i < LISTED {
            let line = TOP + 24.0 * (i + 1) as f64;
            let (number, text_y, list_x, end_x) = (i + 1, cy + 3.5, WIDTH - RIGHT + 24.0, WIDTH - 10.0);
            let _ = write!(
                out,
                "<text x='{cx:.1}' y='{text_y:.1}' text-anchor='middle' font-size='10'>{number}</text>\
                 <text x='{list_x}' y='{line}'>{number}  {} {}</text>\
                 <text x='{end_x}' y='{line}' text-anchor='end'>{:.1}</text>",
                row.kernel,
                row.shape,
                rate(row)
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::KernelTime;

    #[test]
    fn every_kernel_that_multiplies_lies_inside_the_picture_and_under_its_name() {
        let kernel = |kernel, multiply_adds, bytes, nanoseconds| KernelTime {
            kernel,
            shape: "66 x 256".into(),
            multiply_adds,
            bytes,
            nanoseconds,
        };
        let kernels = vec![
            kernel("matmul", 50_000_000, 900_000, 4e6),
            kernel("attention", 2_000_000, 200_000, 1e6),
            kernel("layer_norm", 0, 100_000, 1e5),
        ];
        let text = svg(&Profile { clock: "gpu", peak: 20e9, kernels });
        assert_eq!(text.matches("<circle").count(), 2);
        assert!(text.contains("attention 66 x 256: 4.0 GFLOP/s"), "{text}");
        let numbers = |name: &str| -> Vec<f64> {
            let attribute = format!("{name}='");
            let parts = text.split(&attribute).skip(1);
            parts.map(|part| part.split('\'').next().unwrap().parse().unwrap()).collect()
        };
        assert!(numbers(" cx").iter().all(|&x| (LEFT..=WIDTH - RIGHT).contains(&x)));
        assert!(numbers(" cy").iter().all(|&y| (TOP..=HEIGHT - BOTTOM).contains(&y)));
        // Higher is faster.
        let heights = numbers(" cy");
        assert!(heights[0] < heights[1]);
    }
}
