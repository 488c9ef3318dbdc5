// out = clip(sum of coefficient * source): all that samplers ask of a device. Sources and out are ranges of one buffer
// and out may be among the sources, so the buffer is bound once and each range is a first element. Terms are added in
// order. One invocation computes one value.
//
// Template: WORKGROUP.

struct Params {
  elements: u32,
  out: u32,
  terms: u32,
  clip: u32,
  low: f32,
  high: f32,
  unused_0: u32,
  unused_1: u32,
  sources: array<vec4u, 2>,
  coefficients: array<vec4f, 2>,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> memory: array<f32>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.elements) {
    return;
  }
  var sum = 0.0;
  for (var t = 0u; t < params.terms; t = t + 1u) {
    sum = sum + params.coefficients[t / 4u][t % 4u] * memory[params.sources[t / 4u][t % 4u] + id.x];
  }
  if (params.clip != 0u) {
    sum = clamp(sum, params.low, params.high);
  }
  memory[params.out + id.x] = sum;
}
