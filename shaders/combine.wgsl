// out = sum of coefficient * source, clipped or not; with a mask: mask * out + (1 - mask) * sum; with a variance: out + exp(a + b variance) * sum.
// All that samplers ask of a device. Sources, out, mask and variance are ranges of one buffer and out may be among the sources, so the buffer
// is bound once and each range is a first element. Terms are added in order. One invocation computes one value.
//
// Template: WORKGROUP.

const CLIP = 1u;
const BLEND = 2u;
const SPREAD = 3u;

struct Params {
  elements: u32,
  out: u32,
  terms: u32,
  // What the sum is for: 0, or one of the above.
  mix: u32,
  // CLIP: the bounds. SPREAD: a and b.
  numbers: vec2f,
  // The mask or the variance.
  beside: u32,
  unused: u32,
  sources: array<vec4u, 2>,
  coefficients: array<vec4f, 2>,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> memory: array<f32>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) count: vec3u) {
  let at = id.x + id.y * count.x * {WORKGROUP}u;
  if (at >= params.elements) {
    return;
  }
  var sum = 0.0;
  for (var t = 0u; t < params.terms; t = t + 1u) {
    sum = sum + params.coefficients[t / 4u][t % 4u] * memory[params.sources[t / 4u][t % 4u] + at];
  }
  // A NaN must not be clipped to a number: it is how a broken forward is noticed.
  let is_nan = (bitcast<u32>(sum) & 0x7fffffffu) > 0x7f800000u;
  if (params.mix == CLIP && !is_nan) {
    sum = clamp(sum, params.numbers.x, params.numbers.y);
  }
  if (params.mix >= BLEND) {
    let before = memory[params.out + at];
    let beside = memory[params.beside + at];
    if (params.mix == BLEND) {
      sum = beside * before + (1.0 - beside) * sum;
    } else {
      sum = before + exp(params.numbers.x + params.numbers.y * beside) * sum;
    }
  }
  memory[params.out + at] = sum;
}
