// What an adapter's arithmetic reaches at most: multiply-adds in registers, nothing loaded inside the loop. SUMS vec4s
// take STEPS dependent steps an expression, so that compilers which keep variables in memory touch them rarely.
//
// Template: SUMS, STEPS, WORKGROUP.

struct Params {
  turns: u32,
  unused_0: u32,
  unused_1: u32,
  unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  // Never 0: a value that decays would measure denormal numbers.
  let x = f32((id.x & 7u) + 1u) * 0.03125;
  let b = vec4f(x + 0.5);
  let c = vec4f(x);
//#for s in 0..SUMS
  var sum_{s} = vec4f(x + {s}.0);
//#end
  for (var turn = 0u; turn < params.turns; turn = turn + 1u) {
//#for s in 0..SUMS
    sum_{s} =
//#for t in 0..STEPS
      (
//#end
      sum_{s}
//#for t in 0..STEPS
      * b + c)
//#end
      ;
//#end
  }
  var total = vec4f();
//#for s in 0..SUMS
  total = total + sum_{s};
//#end
  out[id.x] = total.x + total.y + total.z + total.w;
}
