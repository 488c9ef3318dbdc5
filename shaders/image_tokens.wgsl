// An image's pixels as tokens. One invocation computes one vec4 of a token.
//
// Template: WORKGROUP.

struct Params {
  count: u32,     // vec4s
  channels: u32,
  pixels: u32,
  dim4: u32,      // vec4s of a token
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> image: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) count: vec3u) {
  let at = id.x + id.y * count.x * {WORKGROUP}u;
  if (at >= params.count) {
    return;
  }
  let token = at / params.dim4;
  let channel = at % params.dim4 * 4u;
  let begin = token / params.pixels * params.channels * params.pixels + token % params.pixels;
  var value = vec4f();
  for (var i = 0u; i < min(4u, params.channels - channel); i = i + 1u) {
    value[i] = image[begin + (channel + i) * params.pixels];
  }
  out[at] = value;
}
