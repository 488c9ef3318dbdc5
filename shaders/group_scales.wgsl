// Joins moments to every channel's mean over its group and scale, weight / sqrt(var + eps). One invocation computes one
// channel; rows are padded to whole vec4s with zeros.
//
// Template: WORKGROUP.

struct Params {
  dim: u32,
  stride: u32,    // of a row
  tokens: u32,    // of an item
  slice: u32,     // tokens of a slice
  slices: u32,    // of an item
  of_group: u32,  // channels
  eps: f32,
  unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> moments: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride) {
    return;
  }
  let to = id.y * 2u * params.stride + id.x;
  if (id.x >= params.dim) {
    out[to] = 0.0;
    out[to + params.stride] = 0.0;
    return;
  }
  let first = id.x / params.of_group * params.of_group;
  var count = 0.0;
  var mean = 0.0;
  var squares = 0.0;
  for (var s = 0u; s < params.slices; s = s + 1u) {
    let more = f32(min(params.slice, params.tokens - s * params.slice));
    let row = (id.y * params.slices + s) * 2u * params.stride;
    for (var c = first; c < first + params.of_group; c = c + 1u) {
      let share = more / (count + more);
      let off = moments[row + c] - mean;
      mean = mean + off * share;
      squares = squares + moments[row + params.stride + c] + off * off * (count * share);
      count = count + more;
    }
  }
  out[to] = mean;
  out[to + params.stride] = weight[id.x] / sqrt(squares / count + params.eps);
}
