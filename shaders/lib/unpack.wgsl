// Small integers as floats, without a conversion, which is slow: a number's bits become the first of a mantissa.

// Four int8: q / 256.
fn unpack_bytes(w: u32) -> vec4f {
  let u = w ^ 0x80808080u;
  let mantissas = vec4u(u << 15u, u << 7u, u >> 1u, u >> 9u) & vec4u(0x007f8000u);
  return bitcast<vec4f>(mantissas | vec4u(0x3f800000u)) - 1.5;
}

// The low halves of four bytes, each q + 8: q / 16.
fn unpack_nibbles(w: u32) -> vec4f {
  let mantissas = vec4u(w << 19u, w << 11u, w << 3u, w >> 5u) & vec4u(0x00780000u);
  return bitcast<vec4f>(mantissas | vec4u(0x3f800000u)) - 1.5;
}
