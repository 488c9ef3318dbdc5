// Tokens at .. at + count of every item become x + position. One invocation computes one vec4.
//
// Template: WORKGROUP.

struct Params {
  count: u32,
  tokens: u32,
  dim4: u32,
  at: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> position: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.dim4) {
    return;
  }
  let token = params.at + id.y;
  out[(id.z * params.tokens + token) * params.dim4 + id.x] =
    x[(id.z * params.count + id.y) * params.dim4 + id.x] + position[token * params.dim4 + id.x];
}
