// out = activation(a) + b. One invocation computes one vec4.
//
// Template: OPERANDS 1 | 2, ACTIVATION none | gelu | silu, WORKGROUP.
//#include "lib/activation.wgsl"

struct Params {
  count4: u32,
  unused_0: u32,
  unused_1: u32,
  unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> a: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
//#if OPERANDS == 2
@group(0) @binding(3) var<storage, read_write> b: array<vec4f>;
//#end

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) count: vec3u) {
  let at = id.x + id.y * count.x * {WORKGROUP}u;
  if (at >= params.count4) {
    return;
  }
  var value = activate(a[at]);
//#if OPERANDS == 2
  value = value + b[at];
//#end
  out[at] = value;
}
