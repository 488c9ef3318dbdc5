// Keys and values of tokens into the rows of a cache: row places[t] becomes the second and third part of qkv [tokens, 3, dim4].
// No two tokens have one place. One invocation moves one vec4.
//
// Template: WORKGROUP.

struct Params {
  dim4: u32,
  unused_0: u32,
  unused_1: u32,
  unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> qkv: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> places: array<u32>;
@group(0) @binding(3) var<storage, read_write> cache: array<vec4f>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let dim4 = params.dim4;
  if (id.x >= 2u * dim4) {
    return;
  }
  cache[places[id.y] * 2u * dim4 + id.x] = qkv[(id.y * 3u + 1u) * dim4 + id.x];
}
