// softmax(q k^T / sqrt(head_dim)) v per head, of keys and values in a cache [rows, 2, heads, head_dim]: a token sees the positions
// 0 to positions[token] of its item, and position p of an item lies in the row places[item, p]. The online softmax of
// attention.wgsl. qkv [items, tokens, 3, heads, head_dim].
//
// One invocation computes one head of one token, four keys at a time.
//
// Template: HEAD_DIM4 (head_dim / 4), WORKGROUP.

struct Params {
  rows: u32,    // items x tokens
  tokens: u32,
  heads: u32,
  most: u32,    // positions of an item
  scale: f32,
  unused_0: u32,
  unused_1: u32,
  unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> qkv: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> cache: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> places: array<u32>;
@group(0) @binding(4) var<storage, read_write> positions: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4f>;

const HEAD_DIM4 = {HEAD_DIM4}u;
const LOWEST = -3.0e38;

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x / params.heads;
  let head = id.x % params.heads;
  if (row >= params.rows) {
    return;
  }
  let dim4 = params.heads * HEAD_DIM4;
  let q_at = row * 3u * dim4 + head * HEAD_DIM4;
  let item = row / params.tokens * params.most;
  let last = min(positions[row], params.most - 1u);
  var o: array<vec4f, HEAD_DIM4>;
  var largest = LOWEST;
  var sum = 0.0;
  for (var first = 0u; first <= last; first = first + 4u) {
    let key = vec4u(first) + vec4u(0u, 1u, 2u, 3u);
    let at = item + min(key, vec4u(last));
    let k_at = vec4u(places[at.x], places[at.y], places[at.z], places[at.w]) * 2u * dim4 + head * HEAD_DIM4;
    var score = vec4f(0.0);
    for (var d = 0u; d < HEAD_DIM4; d = d + 1u) {
      let k = mat4x4f(cache[k_at.x + d], cache[k_at.y + d], cache[k_at.z + d], cache[k_at.w + d]);
      score = score + qkv[q_at + d] * k;
    }
    score = select(vec4f(LOWEST), score * params.scale, key <= vec4u(last));
    let next = max(largest, max(max(score.x, score.y), max(score.z, score.w)));
    let keep = exp(largest - next);
    // Where nothing is seen a score is as low as what it is compared with can be.
    let p = select(vec4f(0.0), exp(score - next), key <= vec4u(last));
    largest = next;
    sum = sum * keep + (p.x + p.y) + (p.z + p.w);
    let v_at = k_at + dim4;
    for (var d = 0u; d < HEAD_DIM4; d = d + 1u) {
      let v = mat4x4f(cache[v_at.x + d], cache[v_at.y + d], cache[v_at.z + d], cache[v_at.w + d]);
      o[d] = o[d] * keep + v * p;
    }
  }
  for (var d = 0u; d < HEAD_DIM4; d = d + 1u) {
    out[row * dim4 + head * HEAD_DIM4 + d] = o[d] / sum;
  }
}
