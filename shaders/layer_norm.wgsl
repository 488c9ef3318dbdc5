// (x - mean) / sqrt(var + eps) over rows, biased variance, two passes; then weight and bias, then shift and scale of the row's
// item, (1 + scale) .. + shift. One invocation computes one row; rows are padded to whole vec4s with zeros, and so are weight
// and bias. Modulated rows have no padding.
//
// Template: AFFINE 0 | 1, MODULATED 0 | 1, PACKED 0 | 1 (rows of out quantised), WORKGROUP.

struct Params {
  rows: u32,
  dim: u32,
  dim4: u32,
  eps: f32,
  tokens: u32,   // rows of an item
  vector4: u32,  // a vector's vec4s
  shift4: u32,   // where in it
  scale4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;
//#if AFFINE == 1
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
//#end
//#if PACKED == 0
@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;
//#end
//#if PACKED == 1
@group(0) @binding(4) var<storage, read_write> out: array<u32>;
//#include "lib/pack.wgsl"
//#end
//#if MODULATED == 1
@group(0) @binding(5) var<storage, read_write> vectors: array<vec4f>;
//#end

// What becomes of a row's normalised vec4 i.
fn finished(normed: vec4f, row: u32, i: u32) -> vec4f {
  var value = normed;
//#if AFFINE == 1
  value = value * weight[i] + bias[i];
//#end
//#if MODULATED == 1
  let vector = row / params.tokens * params.vector4 + i;
  value = value * (1.0 + vectors[vector + params.scale4]) + vectors[vector + params.shift4];
//#end
  return value;
}

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.rows) {
    return;
  }
  let at = id.x * params.dim4;
  let count = f32(params.dim);
  let gap = f32(4u * params.dim4 - params.dim);
  var total = vec4f();
  for (var i = 0u; i < params.dim4; i = i + 1u) {
    total = total + x[at + i];
  }
  let mean = (total.x + total.y + total.z + total.w) / count;
  var squares = vec4f();
  for (var i = 0u; i < params.dim4; i = i + 1u) {
    let centred = x[at + i] - mean;
    squares = squares + centred * centred;
  }
  // The padding's zeros each added mean^2.
  let variance = (squares.x + squares.y + squares.z + squares.w - gap * mean * mean) / count;
  let scale = 1.0 / sqrt(variance + params.eps);
//#if PACKED == 0
  for (var i = 0u; i < params.dim4; i = i + 1u) {
    out[at + i] = finished((x[at + i] - mean) * scale, id.x, i);
  }
//#end
//#if PACKED == 1
  for (var i = 0u; i < params.dim4; i = i + 4u) {
//#for j in 0..4
    let value_{j} = finished((x[at + i + {j}u] - mean) * scale, id.x, i + {j}u);
//#end
    store_group(id.x, i / 4u, params.dim4 / 4u, value_0, value_1, value_2, value_3);
  }
//#end
}
