// out = gate activation(scale a + offset) + b. One invocation computes one vec4, or with PACKED a group of 16 values of a row.
//
// Template: OPERANDS 1 | 2, GATE 0 | 1 (with OPERANDS 2), ACTIVATION (lib/activation.wgsl), PACKED 0 | 1 (rows of out quantised), WORKGROUP.
//#include "lib/activation.wgsl"

struct Params {
  count: u32,   // vec4s, or groups
  groups: u32,  // of a row
  scale: f32,
  offset: f32,
//#if GATE == 1
  row4: u32,     // vec4s of a row
  tokens: u32,   // rows of an item
  gate_at: u32,  // vec4 column of the first gate
  gates4: u32,   // vec4 columns of an item's vector of gates
//#end
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> a: array<vec4f>;
//#if PACKED == 0
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
//#end
//#if PACKED == 1
@group(0) @binding(2) var<storage, read_write> out: array<u32>;
//#include "lib/pack.wgsl"
//#end
//#if OPERANDS == 2
@group(0) @binding(3) var<storage, read_write> b: array<vec4f>;
//#end
//#if GATE == 1
@group(0) @binding(4) var<storage, read_write> gates: array<vec4f>;
//#end

fn value(at: u32) -> vec4f {
//#if OPERANDS == 1
  return activate(params.scale * a[at] + params.offset);
//#end
//#if OPERANDS == 2
//#if GATE == 0
  return activate(params.scale * a[at] + params.offset) + b[at];
//#end
//#if GATE == 1
  let gate = at / params.row4 / params.tokens * params.gates4 + params.gate_at + at % params.row4;
  return activate(params.scale * a[at] + params.offset) * gates[gate] + b[at];
//#end
//#end
}

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) count: vec3u) {
  let at = id.x + id.y * count.x * {WORKGROUP}u;
  if (at >= params.count) {
    return;
  }
//#if PACKED == 0
  out[at] = value(at);
//#end
//#if PACKED == 1
  store_group(
    at / params.groups, at % params.groups, params.groups,
    value(4u * at), value(4u * at + 1u), value(4u * at + 2u), value(4u * at + 3u));
//#end
}
