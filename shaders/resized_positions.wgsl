// Positions of a grid of another size than the table's, bilinear (align_corners false), added to tokens at .. of every item.
// One invocation computes one vec4 of a token for all items.
//
// Template: WORKGROUP.

struct Params {
  from_rows: u32,
  from_columns: u32,
  rows: u32,
  columns: u32,
  tokens: u32,
  at: u32,
  dim4: u32,
  batch: u32,
  position: vec4u,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
//#include "lib/position.wgsl"

fn source(at: u32, size: u32, from_size: u32) -> f32 {
  return max((f32(at) + 0.5) * (f32(from_size) / f32(size)) - 0.5, 0.0);
}

fn row_of(y: u32, x: u32, column: u32) -> vec4f {
  return table[position_row(params.position, y * params.from_columns + x) * params.dim4 + column];
}

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.dim4) {
    return;
  }
  let y = source(id.y / params.columns, params.rows, params.from_rows);
  let x = source(id.y % params.columns, params.columns, params.from_columns);
  let y0 = u32(y);
  let x0 = u32(x);
  let y1 = min(y0 + 1u, params.from_rows - 1u);
  let x1 = min(x0 + 1u, params.from_columns - 1u);
  let fy = y - f32(y0);
  let fx = x - f32(x0);
  let upper = (1.0 - fx) * row_of(y0, x0, id.x) + fx * row_of(y0, x1, id.x);
  let lower = (1.0 - fx) * row_of(y1, x0, id.x) + fx * row_of(y1, x1, id.x);
  let position = (1.0 - fy) * upper + fy * lower;
  for (var item = 0u; item < params.batch; item = item + 1u) {
    let place = (item * params.tokens + params.at + id.y) * params.dim4 + id.x;
    out[place] = out[place] + position;
  }
}
