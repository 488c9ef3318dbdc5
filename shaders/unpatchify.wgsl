// Tokens to an image, the channel fastest inside a patch. One invocation computes one value.
//
// Template: WORKGROUP.

struct Params {
  channels: u32,
  height: u32,
  width: u32,
  patch_size: u32,
  tokens: u32,
  skip_tokens: u32,
  stride: u32,  // elements of a token, padding included
  unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let pixels = params.height * params.width;
  if (id.x >= pixels) {
    return;
  }
  let size = params.patch_size;
  let row = id.x / params.width;
  let column = id.x % params.width;
  let token = params.skip_tokens + (row / size) * (params.width / size) + column / size;
  let within = ((row % size) * size + column % size) * params.channels + id.y;
  out[(id.z * params.channels + id.y) * pixels + id.x] = x[(id.z * params.tokens + token) * params.stride + within];
}
