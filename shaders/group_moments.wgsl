// Moments for GroupNorm: every channel's mean and sum of squared differences from it, over a slice of an item's tokens, in
// two passes. One invocation computes four channels of a slice.
//
// Template: WORKGROUP.

struct Params {
  dim4: u32,    // vec4s of a token
  tokens: u32,  // of an item
  slice: u32,   // tokens of a slice
  first: u32,   // slice of out
  slices: u32,  // of an item of out
  unused_0: u32,
  unused_1: u32,
  unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.dim4) {
    return;
  }
  let begin = id.y * params.slice;
  let count = min(params.slice, params.tokens - begin);
  let at = (id.z * params.tokens + begin) * params.dim4 + id.x;
  var sum = vec4f();
  for (var i = 0u; i < count; i = i + 1u) {
    sum = sum + x[at + i * params.dim4];
  }
  let mean = sum / f32(count);
  var squares = vec4f();
  for (var i = 0u; i < count; i = i + 1u) {
    let off = x[at + i * params.dim4] - mean;
    squares = squares + off * off;
  }
  let row = (id.z * params.slices + params.first + id.y) * 2u;
  out[row * params.dim4 + id.x] = mean;
  out[(row + 1u) * params.dim4 + id.x] = squares;
}
