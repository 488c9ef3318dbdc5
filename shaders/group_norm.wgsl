// out = activation((x - mean) scale + bias): the last step of GroupNorm. One invocation computes one vec4.
//
// Template: ACTIVATION (lib/activation.wgsl), WORKGROUP.
//#include "lib/activation.wgsl"

struct Params {
  count: u32,    // vec4s
  dim4: u32,     // vec4s of a token
  item4: u32,    // vec4s of an item
  unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> scales: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) count: vec3u) {
  let at = id.x + id.y * count.x * {WORKGROUP}u;
  if (at >= params.count) {
    return;
  }
  let channel = at % params.dim4;
  let row = at / params.item4 * 2u * params.dim4 + channel;
  out[at] = activate((x[at] - scales[row]) * scales[row + params.dim4] + bias[channel]);
}
