// count tokens of every item, from token x_at of x to token out_at of out; with POSITION, rows of a table are added. One invocation computes one vec4.
//
// Template: POSITION, WORKGROUP.

struct Params {
  x_tokens: u32,
  x_at: u32,
  out_tokens: u32,
  out_at: u32,
  dim4: u32,
  unused_0: u32,
  unused_1: u32,
  unused_2: u32,
  position: vec4u,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
//#if POSITION == 1
@group(0) @binding(3) var<storage, read> position: array<vec4f>;
//#include "lib/position.wgsl"
//#end

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.dim4) {
    return;
  }
  var value = x[(id.z * params.x_tokens + params.x_at + id.y) * params.dim4 + id.x];
//#if POSITION == 1
  value = value + position[position_row(params.position, id.y) * params.dim4 + id.x];
//#end
  out[(id.z * params.out_tokens + params.out_at + id.y) * params.dim4 + id.x] = value;
}
