// softmax(q k^T / sqrt(head_dim)) v per head, without a tokens x tokens buffer: the running maximum and sum of the
// online softmax (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; FlashAttention, 2022).
//
// One invocation computes QUERIES queries of one head, 4 KEYS4 keys at a time. qkv [batch, groups x tokens, 3, heads, head_dim]:
// a group's tokens follow each other, or lie as far apart as there are groups.
//
// Neighbours need the same keys and values: with SHARED each of KEYS4 of them loads one group of four for all, so KEYS4 is at
// most the smallest subgroup, and a workgroup has queries of one group alone; else of as many as it has room for.
//
// With `causal` a query sees itself and the keys before it.
//
// Heads that are no whole vec4s are read and written element by element, zeros behind them; rows are whole vec4s.
//
// Template: HEAD (head_dim, in vec4s unless it is ODD), HEAD_DIM4 (vec4s that hold a head), ODD 0 | 1, QUERIES, KEYS4,
// SHARED 0 | 1, PACKED 0 | 1 (rows of out quantised), WORKGROUP.

struct Params {
  tokens: u32,
  heads: u32,
  scale: f32,
  causal: u32,
  first: u32,   // query
  end: u32,     // one past the last
  tiles: u32,   // invocations of a group
  groups: u32,  // of an item
  apart: u32,   // tokens from group to group
  step: u32,    // from token to token of a group
  unused_0: u32,
  unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
//#if ODD == 0
@group(0) @binding(1) var<storage, read_write> qkv: array<vec4f>;
//#if PACKED == 0
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
//#end
//#end
//#if ODD == 1
@group(0) @binding(1) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
//#end
//#if PACKED == 1
@group(0) @binding(2) var<storage, read_write> out: array<u32>;
//#include "lib/pack.wgsl"
//#end

const HEAD = {HEAD}u;
const HEAD_DIM4 = {HEAD_DIM4}u;
const LOWEST = -3.0e38;

// Elements 4 d .. of the head that begins at an index.
fn of_head(begin: u32, d: u32) -> vec4f {
//#if ODD == 0
  return qkv[begin + d];
//#end
//#if ODD == 1
  var four = vec4f();
  for (var i = 0u; i < min(4u, HEAD - 4u * d); i = i + 1u) {
    four[i] = qkv[begin + 4u * d + i];
  }
  return four;
//#end
}

@compute @workgroup_size({WORKGROUP}, 1, 1)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(local_invocation_index) local: u32,
//#if SHARED == 1
  @builtin(subgroup_invocation_id) invocation: u32,
//#end
) {
  let index = id.x * {WORKGROUP}u + local;
  let group = index / params.tiles;
  let query = params.first + (index % params.tiles) * {QUERIES}u;
//#if SHARED == 0
  if (group >= params.groups) {
    return;
  }
//#end
  let dim = params.heads * HEAD;
  let stride = 3u * dim * params.step;
  let row = id.z * params.groups * params.tokens + group * params.apart;
  let q_base = row * 3u * dim + id.y * HEAD;
  let k_base = q_base + dim;
  let last = params.tokens - 1u;
//#for q in 0..QUERIES
  let q_at_{q} = q_base + min(query + {q}u, last) * stride;
  let seen_{q} = select(last, min(query + {q}u, last), params.causal == 1u);
  var o_{q}: array<vec4f, HEAD_DIM4>;
  var largest_{q} = LOWEST;
  var sum_{q} = 0.0;
//#end
  for (var first = 0u; first < params.tokens; first = first + 4u * {KEYS4}u) {
//#for g in 0..KEYS4
    let key_{g} = vec4u(first + 4u * {g}u) + vec4u(0u, 1u, 2u, 3u);
//#if SHARED == 0
    let k_at_{g} = k_base + min(key_{g}, vec4u(last)) * stride;
    let v_at_{g} = k_at_{g} + dim;
//#end
//#for q in 0..QUERIES
    var s_{q}_{g} = vec4f();
//#end
//#end
//#if SHARED == 1
    let own = vec4u(first + 4u * (invocation % {KEYS4}u)) + vec4u(0u, 1u, 2u, 3u);
    let k_at = k_base + min(own, vec4u(last)) * stride;
    let v_at = k_at + dim;
//#end
    for (var d = 0u; d < HEAD_DIM4; d = d + 1u) {
//#if SHARED == 1
      let loaded = mat4x4f(of_head(k_at.x, d), of_head(k_at.y, d), of_head(k_at.z, d), of_head(k_at.w, d));
//#end
//#for g in 0..KEYS4
//#if SHARED == 0
      let k_{g} = mat4x4f(of_head(k_at_{g}.x, d), of_head(k_at_{g}.y, d), of_head(k_at_{g}.z, d), of_head(k_at_{g}.w, d));
//#end
//#if SHARED == 1
      let k_{g} = mat4x4f(
        subgroupBroadcast(loaded[0], {g}u), subgroupBroadcast(loaded[1], {g}u),
        subgroupBroadcast(loaded[2], {g}u), subgroupBroadcast(loaded[3], {g}u));
//#end
//#end
//#for q in 0..QUERIES
      {
        let x = of_head(q_at_{q}, d);
//#for g in 0..KEYS4
        s_{q}_{g} = s_{q}_{g} + x * k_{g};
//#end
      }
//#end
    }
//#for q in 0..QUERIES
    var top_{q} = vec4f(LOWEST);
//#for g in 0..KEYS4
    s_{q}_{g} = select(s_{q}_{g} * params.scale, vec4f(LOWEST), key_{g} > vec4u(seen_{q}));
    top_{q} = max(top_{q}, s_{q}_{g});
//#end
    let next_{q} = max(largest_{q}, max(max(top_{q}.x, top_{q}.y), max(top_{q}.z, top_{q}.w)));
    let keep_{q} = exp(largest_{q} - next_{q});
    var total_{q} = vec4f();
//#for g in 0..KEYS4
    let p_{q}_{g} = exp(s_{q}_{g} - next_{q});
    total_{q} = total_{q} + p_{q}_{g};
//#end
    largest_{q} = next_{q};
    sum_{q} = sum_{q} * keep_{q} + (total_{q}.x + total_{q}.y + total_{q}.z + total_{q}.w);
//#end
    for (var d = 0u; d < HEAD_DIM4; d = d + 1u) {
//#if SHARED == 1
      let loaded = mat4x4f(of_head(v_at.x, d), of_head(v_at.y, d), of_head(v_at.z, d), of_head(v_at.w, d));
//#end
//#for g in 0..KEYS4
//#if SHARED == 0
      let v_{g} = mat4x4f(of_head(v_at_{g}.x, d), of_head(v_at_{g}.y, d), of_head(v_at_{g}.z, d), of_head(v_at_{g}.w, d));
//#end
//#if SHARED == 1
      let v_{g} = mat4x4f(
        subgroupBroadcast(loaded[0], {g}u), subgroupBroadcast(loaded[1], {g}u),
        subgroupBroadcast(loaded[2], {g}u), subgroupBroadcast(loaded[3], {g}u));
//#end
//#end
//#for q in 0..QUERIES
      o_{q}[d] = o_{q}[d] * keep_{q}
//#for g in 0..KEYS4
        + v_{g} * p_{q}_{g}
//#end
        ;
//#end
    }
  }
//#for q in 0..QUERIES
  if (query + {q}u < params.end) {
//#if PACKED == 0
    let at = (row + (query + {q}u) * params.step) * dim + id.y * HEAD;
    for (var d = 0u; d < HEAD_DIM4; d = d + 1u) {
//#if ODD == 0
      out[at + d] = o_{q}[d] / sum_{q};
//#end
//#if ODD == 1
      for (var i = 0u; i < min(4u, HEAD - 4u * d); i = i + 1u) {
        out[at + 4u * d + i] = o_{q}[d][i] / sum_{q};
      }
//#end
    }
//#end
//#if PACKED == 1
    for (var d = 0u; d < HEAD_DIM4; d = d + 4u) {
      let lane = (id.y * HEAD_DIM4 + d) / 4u;
      store_group(
        row + (query + {q}u) * params.step, lane, dim / 4u,
        o_{q}[d] / sum_{q}, o_{q}[d + 1u] / sum_{q}, o_{q}[d + 2u] / sum_{q}, o_{q}[d + 3u] / sum_{q});
    }
//#end
  }
//#end
}
