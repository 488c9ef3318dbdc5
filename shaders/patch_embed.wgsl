// Patches of images or clips to tokens: a convolution with kernel = stride = patch, plus, with BIAS, a bias and, with POSITION, rows of
// a table. One invocation computes four channels of PATCHES neighbouring patches. weight is [channels depth size size][dim / 4];
// item b reads image b mod images.
//
// Template: BIAS, POSITION, PATCHES, WORKGROUP.

struct Params {
  images: u32,
  channels: u32,
  height: u32,
  width: u32,
  patch_size: u32,
  tokens: u32,
  at: u32,
  dim4: u32,
  position: vec4u,
  frames: u32,
  patch_depth: u32,
  channel_stride: u32,  // elements from a channel to the next
  frame_stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> image: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;
//#if BIAS == 1
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
//#end
//#if POSITION == 1
@group(0) @binding(4) var<storage, read> position: array<vec4f>;
//#include "lib/position.wgsl"
//#end
@group(0) @binding(5) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let size = params.patch_size;
  let columns = params.width / size;
  let area = columns * (params.height / size);
  let patches = area * (params.frames / params.patch_depth);
  let first = id.y * {PATCHES}u;
  if (id.x >= params.dim4 || first >= patches) {
    return;
  }
  let image_at = (id.z % params.images) * params.channels * params.frames * params.height * params.width;
//#for p in 0..PATCHES
  let token_{p} = min(first + {p}u, patches - 1u);
  let corner_{p} = image_at + (token_{p} / area) * params.patch_depth * params.frame_stride
    + (token_{p} % area / columns) * size * params.width + (token_{p} % columns) * size;
//#if BIAS == 1
  var sum_{p} = bias[id.x];
//#end
//#if BIAS == 0
  var sum_{p} = vec4f();
//#end
//#end
  var w_at = id.x;
  for (var c = 0u; c < params.channels; c = c + 1u) {
    for (var t = 0u; t < params.patch_depth; t = t + 1u) {
      for (var y = 0u; y < size; y = y + 1u) {
        let line = c * params.channel_stride + t * params.frame_stride + y * params.width;
        for (var x = 0u; x < size; x = x + 1u) {
          let w = weight[w_at];
          w_at = w_at + params.dim4;
//#for p in 0..PATCHES
          sum_{p} = sum_{p} + w * image[line + corner_{p} + x];
//#end
        }
      }
    }
  }
//#for p in 0..PATCHES
  if (first + {p}u < patches) {
//#if POSITION == 1
    sum_{p} = sum_{p} + position[position_row(params.position, token_{p}) * params.dim4 + id.x];
//#end
    out[(id.z * params.tokens + params.at + token_{p}) * params.dim4 + id.x] = sum_{p};
  }
//#end
}
