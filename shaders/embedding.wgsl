// Tokens `at ..` of every item become rows of a table, of which rows `first ..` are bound: tokens of others are left as they
// are. Without INDEX all are row 0. With POSITION, rows of another table are added. One invocation computes one vec4.
//
// Template: INDEX, POSITION, WORKGROUP.

struct Params {
  batch: u32,
  tokens: u32,
  dim4: u32,
  at: u32,
  rows: u32,
  count: u32,
  first: u32,
  unused: u32,
  position: vec4u,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<vec4f>;
//#if INDEX == 1
@group(0) @binding(2) var<storage, read_write> index: array<u32>;
//#end
//#if POSITION == 1
@group(0) @binding(3) var<storage, read> position: array<vec4f>;
//#include "lib/position.wgsl"
//#end
@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.dim4) {
    return;
  }
  let i = id.y % params.count;
//#if INDEX == 0
  let row = 0u;
//#end
//#if INDEX == 1
  // Below `first` it wraps around.
  let row = index[id.y] - params.first;
//#end
  if (row >= params.rows) {
    return;
  }
  var value = table[row * params.dim4 + id.x];
//#if POSITION == 1
  value = value + position[position_row(params.position, i) * params.dim4 + id.x];
//#end
  out[(id.y / params.count * params.tokens + params.at + i) * params.dim4 + id.x] = value;
}
