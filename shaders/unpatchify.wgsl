// Tokens to images or clips, the channel fastest inside a patch; out has the channels from first_channel on of those of x. One
// invocation computes one value.
//
// Template: WORKGROUP.

struct Params {
  channels: u32,
  frames: u32,
  height: u32,
  width: u32,
  patch_size: u32,
  patch_depth: u32,
  channel_stride: u32,  // elements from a channel to the next
  frame_stride: u32,
  tokens: u32,
  skip_tokens: u32,
  stride: u32,  // elements of a token, padding included
  token_channels: u32,
  first_channel: u32,
  unused_0: u32,
  unused_1: u32,
  unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let pixels = params.height * params.width;
  if (id.x >= params.frames * pixels) {
    return;
  }
  let size = params.patch_size;
  let depth = params.patch_depth;
  let frame = id.x / pixels;
  let row = id.x % pixels / params.width;
  let column = id.x % params.width;
  let patches = vec2u(params.height, params.width) / size;
  let token = params.skip_tokens + ((frame / depth) * patches.x + row / size) * patches.y + column / size;
  let pixel = ((frame % depth) * size + row % size) * size + column % size;
  let value = x[(id.z * params.tokens + token) * params.stride + pixel * params.token_channels + params.first_channel + id.y];
  let image_at = id.z * params.channels * params.frames * pixels;
  out[image_at + id.y * params.channel_stride + frame * params.frame_stride + id.x % pixels] = value;
}
