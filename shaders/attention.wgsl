// softmax(q k^T / sqrt(head_dim)) v per head, without a tokens x tokens buffer: the running maximum and sum of the
// online softmax (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; FlashAttention, 2022).
//
// One invocation computes QUERIES queries of one head, four keys at a time. qkv [batch, tokens, 3, heads, head_dim].
//
// Template: HEAD_DIM4 (head_dim / 4), QUERIES, WORKGROUP.

struct Params {
  tokens: u32,
  heads: u32,
  scale: f32,
  unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> qkv: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;

const HEAD_DIM4 = {HEAD_DIM4}u;
const LOWEST = -3.0e38;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let query = id.x * {QUERIES}u;
  if (query >= params.tokens) {
    return;
  }
  let dim4 = params.heads * HEAD_DIM4;
  let item = id.z * params.tokens;
  let q_base = item * 3u * dim4 + id.y * HEAD_DIM4;
  let k_base = q_base + dim4;
  let v_base = k_base + dim4;
  let last = params.tokens - 1u;
//#for q in 0..QUERIES
  let q_at_{q} = q_base + min(query + {q}u, last) * 3u * dim4;
  var o_{q}: array<vec4f, HEAD_DIM4>;
  var largest_{q} = LOWEST;
  var sum_{q} = 0.0;
//#end
  for (var j = 0u; j < params.tokens; j = j + 4u) {
    let key = vec4u(j, min(j + 1u, last), min(j + 2u, last), min(j + 3u, last)) * (3u * dim4);
    let outside = vec4u(j, j + 1u, j + 2u, j + 3u) > vec4u(last);
//#for q in 0..QUERIES
    var s_{q} = vec4f();
//#end
    for (var d = 0u; d < HEAD_DIM4; d = d + 1u) {
      let k0 = qkv[k_base + key.x + d];
      let k1 = qkv[k_base + key.y + d];
      let k2 = qkv[k_base + key.z + d];
      let k3 = qkv[k_base + key.w + d];
//#for q in 0..QUERIES
      let q_{q} = qkv[q_at_{q} + d];
      s_{q} = s_{q} + vec4f(dot(q_{q}, k0), dot(q_{q}, k1), dot(q_{q}, k2), dot(q_{q}, k3));
//#end
    }
//#for q in 0..QUERIES
    s_{q} = select(s_{q} * params.scale, vec4f(LOWEST), outside);
    let next_{q} = max(largest_{q}, max(max(s_{q}.x, s_{q}.y), max(s_{q}.z, s_{q}.w)));
    let keep_{q} = exp(largest_{q} - next_{q});
    let p_{q} = exp(s_{q} - next_{q});
    largest_{q} = next_{q};
    sum_{q} = sum_{q} * keep_{q} + (p_{q}.x + p_{q}.y + p_{q}.z + p_{q}.w);
//#end
    for (var d = 0u; d < HEAD_DIM4; d = d + 1u) {
      let v = mat4x4f(qkv[v_base + key.x + d], qkv[v_base + key.y + d], qkv[v_base + key.z + d], qkv[v_base + key.w + d]);
//#for q in 0..QUERIES
      o_{q}[d] = o_{q}[d] * keep_{q} + v * p_{q};
//#end
    }
  }
//#for q in 0..QUERIES
  if (query + {q}u < params.tokens) {
    let at = (item + query + {q}u) * dim4 + id.y * HEAD_DIM4;
    for (var d = 0u; d < HEAD_DIM4; d = d + 1u) {
      out[at + d] = o_{q}[d] / sum_{q};
    }
  }
//#end
}
