// 3x3 convolution, padding 1. One invocation computes one value. weight [out, in, 3, 3].
//
// Template: WORKGROUP.

struct Params {
  in_channels: u32,
  out_channels: u32,
  height: u32,
  width: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let pixels = params.height * params.width;
  if (id.x >= pixels) {
    return;
  }
  let row = id.x / params.width;
  let column = id.x % params.width;
  // The window, cut at the image's edges: rows first_y .. end_y, columns first_x .. end_x of the 3 x 3.
  let first_y = select(0u, 1u, row == 0u);
  let end_y = min(3u, params.height + 1u - row);
  let first_x = select(0u, 1u, column == 0u);
  let end_x = min(3u, params.width + 1u - column);
  var sum = bias[id.y];
  for (var c = 0u; c < params.in_channels; c = c + 1u) {
    let plane = (id.z * params.in_channels + c) * pixels;
    let w_at = (id.y * params.in_channels + c) * 9u;
    for (var dy = first_y; dy < end_y; dy = dy + 1u) {
      let line = plane + (row + dy - 1u) * params.width + column - 1u;
      for (var dx = first_x; dx < end_x; dx = dx + 1u) {
        sum = sum + x[line + dx] * weight[w_at + dy * 3u + dx];
      }
    }
  }
  out[(id.z * params.out_channels + id.y) * pixels + id.x] = sum;
}
