//! Keys and values of tokens into the rows of a cache; the twin of `shaders/write_cache.wgsl`.

/// qkv `[tokens, 3, dim]`, places `[tokens]` (u32 bits), out `[rows, 2, dim]`.
pub fn write_cache(qkv: &[f32], places: &[f32], out: &mut [f32], dim: usize) {
    for (qkv, place) in qkv.chunks_exact(3 * dim).zip(places) {
        out[place.to_bits() as usize * 2 * dim..][..2 * dim].copy_from_slice(&qkv[dim..]);
    }
}
