// RMS norm of every head of queries and keys, v / sqrt(mean v^2 + eps) weight; values as they are. The tokens of qkv become some of
// out's. One invocation takes one head of one token.
//
// Template: WORKGROUP.

struct Params {
  count: u32,       // heads of queries, keys and values of all tokens
  heads: u32,       // of each
  head4: u32,       // vec4s of a head
  tokens: u32,      // of an item of qkv
  out_at: u32,      // the first one's place in an item of out
  out_tokens: u32,
  eps: f32,
  unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> qkv: array<vec4f>;
@group(0) @binding(2) var<storage, read> of_queries: array<vec4f>;
@group(0) @binding(3) var<storage, read> of_keys: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) count: vec3u) {
  let at = id.x + id.y * count.x * {WORKGROUP}u;
  if (at >= params.count) {
    return;
  }
  let of_token = 3u * params.heads;
  let row = at / of_token;
  let part = at % of_token / params.heads;
  let x = at * params.head4;
  let out_row = row / params.tokens * params.out_tokens + params.out_at + row % params.tokens;
  let to = (out_row * of_token + at % of_token) * params.head4;
  var squares = 0.0;
  for (var i = 0u; i < params.head4; i = i + 1u) {
    let v = qkv[x + i];
    squares = squares + dot(v, v);
  }
  let scale = inverseSqrt(squares / f32(4u * params.head4) + params.eps);
  for (var i = 0u; i < params.head4; i = i + 1u) {
    var v = qkv[x + i];
    if (part == 0u) {
      v = v * scale * of_queries[i];
    }
    if (part == 1u) {
      v = v * scale * of_keys[i];
    }
    out[to + i] = v;
  }
}
