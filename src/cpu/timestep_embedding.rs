//! The sinusoidal embedding of time. Computed here, on the host and in f64, for every device: WGSL promises sin and
//! cos only to 2^-11, and only in [-pi, pi].

/// `[cos(t f_0) .. cos(t f_{h-1}), sin(t f_0) ..]`, `f_i = 10000^(-i/h)`, h = dim / 2; one 0 appended if `dim` is odd.
pub fn timestep_embedding(time: f64, dim: usize) -> Vec<f32> {
    let half = dim / 2;
    let angle = |i: usize| time * (-(10000f64.ln()) * i as f64 / half as f64).exp();
    let mut out: Vec<f32> = (0..half).map(|i| angle(i).cos() as f32).collect();
    out.extend((0..half).map(|i| angle(i).sin() as f32));
    out.resize(dim, 0.0);
    out
}
