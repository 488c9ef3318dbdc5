// out = gate activation(cat(x, x2) W^T + bias) + residual; with WINDOW a 3x3 convolution: x are the pixels of images, row by row,
// and a row of the input is what the window of a pixel of out sees, one of its 9 places after the other. With SPAN rows are
// some tokens of every item of x, and become some of out's.
//
// One invocation computes ROWS rows x COLUMNS vec4 columns in registers. Rows come in GROUPS of LANES, the last may be smaller:
// with SHARED each of LANES neighbours loads one row of a group for all, so LANES is at most the smallest subgroup. Without
// TILE there are no barriers and no workgroup memory, and a workgroup is a row of WORKGROUP invocations; with it, it is a
// square of TILE x TILE, which load what they all need into workgroup memory, 4 vec4s of every row at a time, weights as
// floats. Rows of x, x2, residual and out are padded to whole vec4s with zeros.
//
// W lies in 4 x 4 blocks, [n / 4][k / 4]; column j of a block holds the four outputs for input 4 k4 + j. Stored as
//   f32  mat4x4f;  f16  8 words;  q8  vec4u, word j = column j as four int8;
//   q4   vec2u, byte i of word 0 = row i, columns 0 (low nibble) and 1 (high), word 1 columns 2 and 3, each q + 8.
// Scales: q8 one vec4 a block row (times 127), or with GROUPED (always for q4) one a block row and group.
//
// With HALF, operands and the sums of four products are f16 (FLOAT4, MATRIX), all other sums f32.
//
// Template: WEIGHTS f32 | f16 | q8 | q4, GROUPED 0 | 1, SOURCES 1 | 2, WINDOW 0 | 1 (with SOURCES 1), BIAS 0 | 1, ACTIVATION (lib/activation.wgsl),
// RESIDUAL 0 | 1, GATE 0 | 1 (with RESIDUAL), SPAN 0 | 1 (with SOURCES 1), ITEMS 1 if either is, ROWS, GROUPS, LANES, LANES_g (of group g), SHARED 0 | 1, TILED 0 | 1, TILE (if TILED, with LANES 1),
// HALF 0 | 1, FLOAT4 vec4f | vec4<f16>, MATRIX mat4x4f | mat4x4<f16>, COLUMNS, WORKGROUP.
//#include "lib/activation.wgsl"

struct Params {
  rows: u32,
  n4: u32,         // vec4 columns of out
  k4: u32,         // vec4 columns of x
  k4_second: u32,  // vec4 columns of x2, 0 without one
  group4: u32,     // vec4 columns a scale
  groups: u32,     // scales a row
  skip: u32,       // with WINDOW: rows of the image above the first window and its padding
  first: u32,      // row of x and out
//#if WINDOW == 1
  height: u32,     // of an image
  width: u32,
  out_width: u32,
  pixels: u32,     // of an image's result
  stride: u32,     // from window to window
  padding: u32,    // rows and columns before the image
  doubled: u32,    // 1: every row and column of the image counts twice
  unused: u32,
//#end
//#if ITEMS == 1
  tokens: u32,      // rows of an item
  gate_at: u32,     // vec4 column of the first gate
  gates4: u32,      // vec4 columns of an item's vector of gates
  x_at: u32,        // with SPAN: the first token of an item of x, of how many
  x_tokens: u32,
  out_at: u32,      // and of out
  out_tokens: u32,
  unused: u32,
//#end
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x_0: array<vec4f>;
//#if WEIGHTS == f32
@group(0) @binding(2) var<storage, read> weights: array<mat4x4f>;
//#end
//#if WEIGHTS == f16
@group(0) @binding(2) var<storage, read> weights: array<vec4u>;
//#end
//#if WEIGHTS == q8
@group(0) @binding(2) var<storage, read> weights: array<vec4u>;
@group(0) @binding(3) var<storage, read> scales: array<vec4f>;
//#end
//#if WEIGHTS == q4
@group(0) @binding(2) var<storage, read> weights: array<vec2u>;
@group(0) @binding(3) var<storage, read> scales: array<vec4f>;
//#end
//#if BIAS == 1
@group(0) @binding(4) var<storage, read> bias: array<vec4f>;
//#end
//#if RESIDUAL == 1
@group(0) @binding(5) var<storage, read_write> residual: array<vec4f>;
//#end
@group(0) @binding(6) var<storage, read_write> out: array<vec4f>;
//#if SOURCES == 2
@group(0) @binding(7) var<storage, read_write> x_1: array<vec4f>;
//#end
//#if GATE == 1
@group(0) @binding(8) var<storage, read_write> gates: array<vec4f>;
//#end

//#if TILED == 1
var<workgroup> x_tile: array<{FLOAT4}, {TILE} * {ROWS} * 4>;
// Neighbours' columns side by side, so that they read from different banks.
var<workgroup> w_tile: array<{FLOAT4}, {TILE} * {COLUMNS} * 16>;
//#end

//#if SPAN == 1
fn row_of_x(row: u32) -> u32 {
  return row / params.tokens * params.x_tokens + params.x_at + row % params.tokens;
}

fn row_of_out(row: u32) -> u32 {
  return row / params.tokens * params.out_tokens + params.out_at + row % params.tokens;
}
//#end

//#if WINDOW == 1
// The corner of a row's window, and the image's first pixel.
fn corner_of(row: u32) -> vec3u {
  let pixel = row % params.pixels;
  return vec3u(
    pixel % params.out_width * params.stride, pixel / params.out_width * params.stride + params.skip,
    row / params.pixels * params.height * params.width);
}

// The vec4 of x at a place of a window: its first value, and whether it lies in the image.
fn seen(corner: vec3u, tap: u32) -> vec2u {
  // Above and to the left of the image the numbers wrap, and are too large.
  let column = corner.x + tap % 3u - params.padding;
  let row = corner.y + tap / 3u - params.padding;
  let inside = row < params.height << params.doubled && column < params.width << params.doubled;
  let pixel = corner.z + (row >> params.doubled) * params.width + (column >> params.doubled);
  return select(vec2u(), vec2u(pixel * params.k4, 1u), inside);
}
//#end

//#if TILED == 0
@compute @workgroup_size({WORKGROUP}, 1, 1)
//#end
//#if TILED == 1
@compute @workgroup_size({TILE}, {TILE}, 1)
//#end
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_index) local: u32,
//#if SHARED == 1
  @builtin(subgroup_invocation_id) invocation: u32,
//#end
) {
//#if TILED == 1
  let first_column = workgroup.x * {TILE}u * {COLUMNS}u;
  let first_row = workgroup.y * {TILE}u * {ROWS}u;
  let column = first_column + local % {TILE}u * {COLUMNS}u;
  let row = first_row + local / {TILE}u * {ROWS}u;
//#end
//#if TILED == 0
  let column = (workgroup.x * {WORKGROUP}u + local) * {COLUMNS}u;
  let row = workgroup.y * {ROWS}u;
//#if SHARED == 0
  let lane = 0u;
  if (column >= params.n4) {
    return;
  }
//#end
//#end
//#if SHARED == 1
  let lane = invocation % {LANES}u;
//#end
//#if WINDOW == 0
  let blocks = params.k4 + params.k4_second;
//#end
//#if WINDOW == 1
  let blocks = 9u * params.k4;
//#if TILED == 0
//#for g in 0..GROUPS
  let corner_{g} = corner_of(params.first + min(row + {g}u * {LANES}u + lane, params.rows - 1u));
//#end
//#end
//#end
//#for c in 0..COLUMNS
  let column_{c} = min(column + {c}u, params.n4 - 1u);
//#end
//#for g in 0..GROUPS
//#for l in 0..LANES_{g}
//#for c in 0..COLUMNS
  var sum_{g}_{l}_{c} = vec4f();
//#end
//#end
//#end

//#for s in 0..SOURCES
//#if WINDOW == 1
  for (var tap = 0u; tap < 9u; tap = tap + 1u) {
    let first = tap * params.k4;
    let k4 = params.k4;
//#end
//#if WINDOW == 0
  {
//#if s == 0
    let first = 0u;
    let k4 = params.k4;
//#end
//#if s == 1
    let first = params.k4;
    let k4 = params.k4_second;
//#end
//#end
//#if TILED == 1
    for (var start = 0u; start < k4; start = start + 4u) {
      workgroupBarrier();
      for (var i = local; i < {TILE}u * {ROWS}u * 4u; i = i + {TILE}u * {TILE}u) {
        let k = start + i % 4u;
        let of_row = min(first_row + i / 4u, params.rows - 1u);
//#if WINDOW == 0
//#if SPAN == 0
        let x_from = (params.first + of_row) * k4 + min(k, k4 - 1u);
//#end
//#if SPAN == 1
        let x_from = row_of_x(params.first + of_row) * k4 + min(k, k4 - 1u);
//#end
        x_tile[i] = {FLOAT4}(select(vec4f(), x_{s}[x_from], k < k4));
//#end
//#if WINDOW == 1
        let place = seen(corner_of(params.first + of_row), tap);
        let x_from = place.x + min(k, k4 - 1u);
        x_tile[i] = {FLOAT4}(select(vec4f(), x_{s}[x_from], k < k4 && place.y == 1u));
//#end
      }
      for (var i = local; i < {TILE}u * {COLUMNS}u * 4u; i = i + {TILE}u * {TILE}u) {
        let own = i / 4u;
        let block_column = min(first_column + own, params.n4 - 1u);
        let k = first + min(start + i % 4u, k4 - 1u);
        let at = block_column * blocks + k;
//#if GROUPED == 1
        let scale = scales[block_column * params.groups + k / params.group4];
//#end
//#if WEIGHTS == f32
        let b = weights[at];
//#end
//#if WEIGHTS == f16
        let w = weights[2u * at];
        let v = weights[2u * at + 1u];
        let b = mat4x4f(
          vec4f(unpack2x16float(w.x), unpack2x16float(w.y)), vec4f(unpack2x16float(w.z), unpack2x16float(w.w)),
          vec4f(unpack2x16float(v.x), unpack2x16float(v.y)), vec4f(unpack2x16float(v.z), unpack2x16float(v.w)));
//#end
//#if WEIGHTS == q8
        let w = weights[at];
//#if GROUPED == 0
        let b = mat4x4f(unpack4x8snorm(w.x), unpack4x8snorm(w.y), unpack4x8snorm(w.z), unpack4x8snorm(w.w));
//#end
//#if GROUPED == 1
        let b = mat4x4f(
          unpack4x8snorm(w.x) * scale, unpack4x8snorm(w.y) * scale,
          unpack4x8snorm(w.z) * scale, unpack4x8snorm(w.w) * scale);
//#end
//#end
//#if WEIGHTS == q4
        let w = weights[at];
        let s = scale * (255.0 / 16.0);
        let z = scale * 8.0;
        let b = mat4x4f(
          unpack4x8unorm((w.x & 0x0f0f0f0fu) << 4u) * s - z, unpack4x8unorm(w.x & 0xf0f0f0f0u) * s - z,
          unpack4x8unorm((w.y & 0x0f0f0f0fu) << 4u) * s - z, unpack4x8unorm(w.y & 0xf0f0f0f0u) * s - z);
//#end
        let to = i % 4u * {TILE}u * {COLUMNS}u * 4u + own % {COLUMNS}u * {TILE}u + own / {COLUMNS}u;
//#for j in 0..4
        w_tile[to + {j}u * {TILE}u * {COLUMNS}u] = {FLOAT4}(b[{j}]);
//#end
      }
      workgroupBarrier();
      let x_at = local / {TILE}u * {ROWS}u * 4u;
      let own = local % {TILE}u;
      for (var k = 0u; k < 4u; k = k + 1u) {
//#for c in 0..COLUMNS
        let w_at_{c} = k * {TILE}u * {COLUMNS}u * 4u + {c}u * {TILE}u + own;
        let b_{c} = {MATRIX}(
          w_tile[w_at_{c}], w_tile[w_at_{c} + {TILE}u * {COLUMNS}u],
          w_tile[w_at_{c} + 2u * {TILE}u * {COLUMNS}u], w_tile[w_at_{c} + 3u * {TILE}u * {COLUMNS}u]);
//#end
//#for g in 0..GROUPS
        {
          let a = x_tile[x_at + {g}u * 4u + k];
//#for c in 0..COLUMNS
          sum_{g}_0_{c} = sum_{g}_0_{c} + vec4f(b_{c} * a);
//#end
        }
//#end
      }
    }
//#end
//#if TILED == 0
//#for g in 0..GROUPS
//#if WINDOW == 0
//#if SPAN == 0
    let x_at_{g} = (params.first + min(row + {g}u * {LANES}u + lane, params.rows - 1u)) * k4;
//#end
//#if SPAN == 1
    let x_at_{g} = row_of_x(params.first + min(row + {g}u * {LANES}u + lane, params.rows - 1u)) * k4;
//#end
//#end
//#if WINDOW == 1
    let place_{g} = seen(corner_{g}, tap);
    let x_at_{g} = place_{g}.x;
//#end
//#end
//#for c in 0..COLUMNS
    let w_at_{c} = column_{c} * blocks + first;
//#end
    var k = 0u;
//#if GROUPED == 1
    loop {
      if (k >= k4) {
        break;
      }
      let group = (first + k) / params.group4;
      let end = min((group + 1u) * params.group4 - first, k4);
//#for c in 0..COLUMNS
      let scale_{c} = scales[column_{c} * params.groups + group];
//#end
//#end
//#if GROUPED == 0
      let end = k4;
//#end
      for (; k < end; k = k + 1u) {
//#for c in 0..COLUMNS
//#if WEIGHTS == f32
        let b_{c} = weights[w_at_{c} + k];
//#end
//#if WEIGHTS == f16
        let w_{c} = weights[2u * (w_at_{c} + k)];
        let v_{c} = weights[2u * (w_at_{c} + k) + 1u];
        let b_{c} = mat4x4f(
          vec4f(unpack2x16float(w_{c}.x), unpack2x16float(w_{c}.y)),
          vec4f(unpack2x16float(w_{c}.z), unpack2x16float(w_{c}.w)),
          vec4f(unpack2x16float(v_{c}.x), unpack2x16float(v_{c}.y)),
          vec4f(unpack2x16float(v_{c}.z), unpack2x16float(v_{c}.w)));
//#end
//#if WEIGHTS == q8
        let w_{c} = weights[w_at_{c} + k];
//#if GROUPED == 0
        let b_{c} = mat4x4f(
          unpack4x8snorm(w_{c}.x), unpack4x8snorm(w_{c}.y), unpack4x8snorm(w_{c}.z), unpack4x8snorm(w_{c}.w));
//#end
//#if GROUPED == 1
        let b_{c} = mat4x4f(
          unpack4x8snorm(w_{c}.x) * scale_{c}, unpack4x8snorm(w_{c}.y) * scale_{c},
          unpack4x8snorm(w_{c}.z) * scale_{c}, unpack4x8snorm(w_{c}.w) * scale_{c});
//#end
//#end
//#if WEIGHTS == q4
        let w_{c} = weights[w_at_{c} + k];
        let s_{c} = scale_{c} * (255.0 / 16.0);
        let z_{c} = scale_{c} * 8.0;
        let b_{c} = mat4x4f(
          unpack4x8unorm((w_{c}.x & 0x0f0f0f0fu) << 4u) * s_{c} - z_{c},
          unpack4x8unorm(w_{c}.x & 0xf0f0f0f0u) * s_{c} - z_{c},
          unpack4x8unorm((w_{c}.y & 0x0f0f0f0fu) << 4u) * s_{c} - z_{c},
          unpack4x8unorm(w_{c}.y & 0xf0f0f0f0u) * s_{c} - z_{c});
//#end
//#end
//#if HALF == 1
//#for c in 0..COLUMNS
        let h_{c} = {MATRIX}({FLOAT4}(b_{c}[0]), {FLOAT4}(b_{c}[1]), {FLOAT4}(b_{c}[2]), {FLOAT4}(b_{c}[3]));
//#end
//#end
//#for g in 0..GROUPS
        {
//#if WINDOW == 0
          let loaded = x_{s}[x_at_{g} + k];
//#end
//#if WINDOW == 1
          let loaded = select(vec4f(), x_{s}[x_at_{g} + k], place_{g}.y == 1u);
//#end
//#for l in 0..LANES_{g}
          {
//#if SHARED == 0
            let a = loaded;
//#end
//#if SHARED == 1
            let a = subgroupBroadcast(loaded, {l}u);
//#end
//#for c in 0..COLUMNS
//#if HALF == 0
            sum_{g}_{l}_{c} = sum_{g}_{l}_{c} + b_{c} * a;
//#end
//#if HALF == 1
            sum_{g}_{l}_{c} = sum_{g}_{l}_{c} + vec4f(h_{c} * {FLOAT4}(a));
//#end
//#end
          }
//#end
        }
//#end
      }
//#if GROUPED == 1
    }
//#end
//#end
  }
//#end

//#for c in 0..COLUMNS
  if (column + {c}u < params.n4) {
//#if WEIGHTS == q8
//#if GROUPED == 0
    let scale = scales[column_{c}];
//#end
//#end
//#if BIAS == 1
    let offset = bias[column_{c}];
//#end
//#for g in 0..GROUPS
//#for l in 0..LANES_{g}
    if (row + {g}u * {LANES}u + {l}u < params.rows) {
//#if SPAN == 0
      let at = (params.first + row + {g}u * {LANES}u + {l}u) * params.n4 + column_{c};
//#end
//#if SPAN == 1
      let at = row_of_out(params.first + row + {g}u * {LANES}u + {l}u) * params.n4 + column_{c};
//#end
      let value = activate(
        sum_{g}_{l}_{c}
//#if WEIGHTS == q8
//#if GROUPED == 0
        * scale
//#end
//#end
//#if BIAS == 1
        + offset
//#end
      );
//#if GATE == 1
      let item = (params.first + row + {g}u * {LANES}u + {l}u) / params.tokens;
//#end
      out[at] = value
//#if GATE == 1
        * gates[item * params.gates4 + params.gate_at + column_{c}]
//#end
//#if RESIDUAL == 1
        + residual[at]
//#end
      ;
    }
//#end
//#end
  }
//#end
}
