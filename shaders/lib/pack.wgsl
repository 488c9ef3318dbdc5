// Quantised rows: 16 values share a scale, the largest becomes 127. A row of `groups` such groups holds four words of four
// i8 each for every group, then the scales, filled up to whole vec4s. `out` is the shader's array<u32>.

fn row_words(groups: u32) -> u32 {
  return 4u * (groups + (groups + 3u) / 4u);
}

fn store_group(row: u32, group: u32, groups: u32, a: vec4f, b: vec4f, c: vec4f, d: vec4f) {
  let m = max(max(abs(a), abs(b)), max(abs(c), abs(d)));
  let most = max(max(m.x, m.y), max(m.z, m.w));
  let inverse = select(0.0, 1.0 / most, most > 0.0);
  let at = row * row_words(groups);
  out[at + 4u * group] = pack4x8snorm(a * inverse);
  out[at + 4u * group + 1u] = pack4x8snorm(b * inverse);
  out[at + 4u * group + 2u] = pack4x8snorm(c * inverse);
  out[at + 4u * group + 3u] = pack4x8snorm(d * inverse);
  out[at + 4u * groups + group] = bitcast<u32>(most / 127.0);
}
