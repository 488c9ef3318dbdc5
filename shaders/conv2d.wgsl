// 3x3 convolution of images, or of every frame of clips, padding 1. One invocation computes four neighbouring values of a row. weight [out, in, 3, 3].
//
// Template: WORKGROUP.

struct Params {
  in_channels: u32,
  out_channels: u32,
  height: u32,
  width: u32,
  frames: u32,
  unused_0: u32,
  unused_1: u32,
  unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let columns4 = (params.width + 3u) / 4u;
  let row = id.x / columns4;
  let column = id.x % columns4 * 4u;
  if (row >= params.height) {
    return;
  }
  let pixels = params.height * params.width;
  let frame = id.z % params.frames;
  let item = id.z / params.frames;
  let last = params.width - 1u;
  // The rows of the window that lie in the image: first .. end of the 3.
  let first = select(0u, 1u, row == 0u);
  let end = min(3u, params.height + 1u - row);
  let at = min(vec4u(column) + vec4u(0u, 1u, 2u, 3u), vec4u(last));
  let outside = vec4u(column) + vec4u(0u, 1u, 2u, 3u) > vec4u(last);
  var sum = vec4f(bias[id.y]);
  for (var c = 0u; c < params.in_channels; c = c + 1u) {
    let plane = ((item * params.in_channels + c) * params.frames + frame) * pixels;
    let w_at = (id.y * params.in_channels + c) * 9u;
    for (var dy = first; dy < end; dy = dy + 1u) {
      let line = plane + (row + dy - 1u) * params.width;
      // Beyond the edges lie zeros.
      let left = select(x[line + max(column, 1u) - 1u], 0.0, column == 0u);
      let middle = select(vec4f(x[line + at.x], x[line + at.y], x[line + at.z], x[line + at.w]), vec4f(), outside);
      let right = select(x[line + min(column + 4u, last)], 0.0, column + 4u > last);
      let w = w_at + 3u * dy;
      sum = sum + weight[w] * vec4f(left, middle.xyz) + weight[w + 1u] * middle + weight[w + 2u] * vec4f(middle.yzw, right);
    }
  }
  let to = ((item * params.out_channels + id.y) * params.frames + frame) * pixels + row * params.width + column;
  for (var i = 0u; i < min(4u, params.width - column); i = i + 1u) {
    out[to + i] = sum[i];
  }
}
