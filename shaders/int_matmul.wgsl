// out = gate activation(x W^T + bias) + residual in integers of 8 bits, with sums in f32: every 16 inputs are one dot product of
// four words each. x lies as lib/pack.wgsl stores it, and so does out if PACKED.
//
// One invocation computes ROWS rows x COLUMNS vec4 columns in registers: no workgroup memory, no barriers. W lies in 4 x 4
// blocks, [n / 4][k / 4], stored as
//   q8  vec4u, word i = output i, its four inputs as int8;
//   q4  vec2u, word 0 outputs 0 (low nibbles) and 1, word 1 outputs 2 and 3, two's complement.
// Scales (of q4 divided by 16): one vec4 a block row, or with GROUPED one a block row and group.
//
// With SPAN rows are some tokens of every item of x, and become some of out's.
//
// Template: WEIGHTS q8 | q4, GROUPED 0 | 1, BIAS 0 | 1, ACTIVATION (lib/activation.wgsl), RESIDUAL 0 | 1,
// GATE 0 | 1 (with RESIDUAL), SPAN 0 | 1, PACKED 0 | 1 (then COLUMNS is 4 and RESIDUAL 0), ROWS, COLUMNS, WORKGROUP.
//#include "lib/activation.wgsl"

struct Params {
  rows: u32,
  n4: u32,       // vec4 columns of out
  k16: u32,      // groups of 16 columns of x
  group16: u32,  // of those, how many a scale of W holds for
  groups: u32,   // scales a row of W
  tokens: u32,      // rows of an item
  gate_at: u32,     // vec4 column of the first gate
  gates4: u32,      // vec4 columns of an item's vector of gates
  x_at: u32,        // with SPAN: the first token of an item of x, of how many
  x_tokens: u32,
  out_at: u32,      // and of out
  out_tokens: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4u>;
//#if WEIGHTS == q8
@group(0) @binding(2) var<storage, read> weights: array<vec4u>;
//#end
//#if WEIGHTS == q4
@group(0) @binding(2) var<storage, read> weights: array<vec2u>;
//#end
@group(0) @binding(3) var<storage, read> scales: array<vec4f>;
//#if BIAS == 1
@group(0) @binding(4) var<storage, read> bias: array<vec4f>;
//#end
//#if RESIDUAL == 1
@group(0) @binding(5) var<storage, read_write> residual: array<vec4f>;
//#end
//#if GATE == 1
@group(0) @binding(8) var<storage, read_write> gates: array<vec4f>;
//#end
//#if PACKED == 0
@group(0) @binding(6) var<storage, read_write> out: array<vec4f>;
//#end
//#if PACKED == 1
@group(0) @binding(6) var<storage, read_write> out: array<u32>;
//#include "lib/pack.wgsl"
//#end

//#if SPAN == 1
fn row_of_x(row: u32) -> u32 {
  return row / params.tokens * params.x_tokens + params.x_at + row % params.tokens;
}

fn row_of_out(row: u32) -> u32 {
  return row / params.tokens * params.out_tokens + params.out_at + row % params.tokens;
}
//#end
//#if SPAN == 0
fn row_of_x(row: u32) -> u32 {
  return row;
}

fn row_of_out(row: u32) -> u32 {
  return row;
}
//#end

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) local: u32) {
  let column = (workgroup.x * {WORKGROUP}u + local) * {COLUMNS}u;
  let row = workgroup.y * {ROWS}u;
  if (column >= params.n4) {
    return;
  }
  let stride = params.k16 + (params.k16 + 3u) / 4u;
//#for c in 0..COLUMNS
  let column_{c} = min(column + {c}u, params.n4 - 1u);
  let w_at_{c} = column_{c} * 4u * params.k16;
//#end
//#for r in 0..ROWS
  let x_at_{r} = row_of_x(min(row + {r}u, params.rows - 1u)) * stride;
//#for c in 0..COLUMNS
  var sum_{r}_{c} = vec4f();
//#end
//#end
  for (var k = 0u; k < params.k16; k = k + 1u) {
//#for c in 0..COLUMNS
//#if GROUPED == 1
    let scale_{c} = scales[column_{c} * params.groups + k / params.group16];
//#end
//#for j in 0..4
//#if WEIGHTS == q8
    let w_{c}_{j} = weights[w_at_{c} + 4u * k + {j}u];
//#end
//#if WEIGHTS == q4
    let n_{c}_{j} = weights[w_at_{c} + 4u * k + {j}u];
    let w_{c}_{j} = vec4u(n_{c}_{j}.x << 4u, n_{c}_{j}.x, n_{c}_{j}.y << 4u, n_{c}_{j}.y) & vec4u(0xf0f0f0f0u);
//#end
//#end
//#end
//#for r in 0..ROWS
    {
      let a = x[x_at_{r} + k];
      let s = bitcast<vec4f>(x[x_at_{r} + params.k16 + k / 4u])[k % 4u];
//#for c in 0..COLUMNS
      sum_{r}_{c} = sum_{r}_{c} + s
//#if GROUPED == 1
        * scale_{c}
//#end
        * vec4f(vec4i(
          dot4I8Packed(a.x, w_{c}_0.x) + dot4I8Packed(a.y, w_{c}_1.x)
          + dot4I8Packed(a.z, w_{c}_2.x) + dot4I8Packed(a.w, w_{c}_3.x),
          dot4I8Packed(a.x, w_{c}_0.y) + dot4I8Packed(a.y, w_{c}_1.y)
          + dot4I8Packed(a.z, w_{c}_2.y) + dot4I8Packed(a.w, w_{c}_3.y),
          dot4I8Packed(a.x, w_{c}_0.z) + dot4I8Packed(a.y, w_{c}_1.z)
          + dot4I8Packed(a.z, w_{c}_2.z) + dot4I8Packed(a.w, w_{c}_3.z),
          dot4I8Packed(a.x, w_{c}_0.w) + dot4I8Packed(a.y, w_{c}_1.w)
          + dot4I8Packed(a.z, w_{c}_2.w) + dot4I8Packed(a.w, w_{c}_3.w)));
//#end
    }
//#end
  }

//#for c in 0..COLUMNS
//#if GROUPED == 0
  let scale_{c} = scales[column_{c}];
//#end
//#if BIAS == 1
  let offset_{c} = bias[column_{c}];
//#end
//#end
//#for r in 0..ROWS
  if (row + {r}u < params.rows) {
//#for c in 0..COLUMNS
    let value_{c} = activate(
      sum_{r}_{c}
//#if GROUPED == 0
      * scale_{c}
//#end
//#if BIAS == 1
      + offset_{c}
//#end
    );
//#if PACKED == 0
    if (column + {c}u < params.n4) {
      let at = row_of_out(row + {r}u) * params.n4 + column_{c};
      out[at] = value_{c}
//#if GATE == 1
        * gates[(row + {r}u) / params.tokens * params.gates4 + params.gate_at + column_{c}]
//#end
//#if RESIDUAL == 1
        + residual[at]
//#end
      ;
    }
//#end
//#end
//#if PACKED == 1
    store_group(row_of_out(row + {r}u), column / 4u, params.n4 / 4u, value_0, value_1, value_2, value_3);
//#end
  }
//#end
}
