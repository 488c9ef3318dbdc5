//! What the shapes of every operation must have to do with each other.

use super::{Groups, Op, Plan, Position, Role, Rows, TensorId, WeightId};

impl Plan {
    /// What is wrong with an operation's shapes, if anything.
    pub(super) fn mismatch(&self, op: &Op) -> Option<&'static str> {
        let shape = |id: TensorId| self.shape(id);
        let last = |id: TensorId| shape(id).last().copied().unwrap_or(0);
        let wshape = |id: WeightId| self.weights[id.0].shape.as_slice();
        let check = |ok: bool, what: &'static str| (!ok).then_some(what);
        let positions = |position: Option<Position>, tokens: usize, dim: usize| {
            position.is_none_or(|p| {
                let rows = wshape(p.table).iter().product::<usize>() / dim.max(1);
                wshape(p.table).last() == Some(&dim) && p.width > 0 && p.rows(tokens) <= rows
            })
        };
        match *op {
            Op::TimestepEmbedding { time, out } => check(
                self.tensors[time.0].role == Role::Input && shape(time) == [shape(out)[0]],
                "time is not an input of one number an item",
            )
            .or(check(shape(out).len() == 3 && shape(out)[1] == 1 && last(out) % 2 == 0, "out is not [batch, 1, 2 h]")),
            Op::Linear { x, skip, weight, bias, rows: some, out } => {
                // A vector an item, whether it is called a token or not.
                let rows = |id: TensorId| {
                    let s = shape(id);
                    (s.len() > 1).then(|| (s[0], s[1..s.len() - 1].iter().product::<usize>()))
                };
                let k = last(x) + skip.map_or(0, last);
                let tokens = |r: Rows| {
                    let (s, o) = (shape(x), shape(out));
                    let fits = s.len() == 3 && o.len() == 3 && s[0] == o[0] && skip.is_none() && r.count > 0;
                    fits && r.first + r.count <= s[1] && r.at + r.count <= o[1]
                };
                let all = || rows(x) == rows(out) && skip.is_none_or(|s| rows(s) == rows(x));
                check(wshape(weight) == [last(out), k], "weight is not [out, in]")
                    .or(check(bias.is_none_or(|b| wshape(b) == [last(out)]), "bias is not [out]"))
                    .or(check(matches!(shape(x).len(), 2 | 3), "x is neither tokens nor a vector an item"))
                    .or(check(some.map_or_else(all, tokens), "tokens differ"))
            }
            Op::Gate { x, gate, y, out } => {
                let (s, v) = (shape(x), shape(gate.vector));
                check(s.len() == 3 && s == shape(y) && s == shape(out), "shapes differ").or(check(
                    v.len() == 3 && v[..2] == [s[0], 1] && gate.at % 4 == 0 && gate.at + last(x) <= v[2],
                    "gates are no channels of a vector an item",
                ))
            }
            Op::Activate { x, out, .. } => check(shape(x) == shape(out), "shapes differ"),
            Op::Affine { x, offset, out, .. } => check(shape(x) == shape(out), "shapes differ").or(check(
                offset == 0.0 || shape(x).len() >= 4 || last(x) % 4 == 0,
                "the zeros that fill up rows would not stay zeros",
            )),
            Op::Add { a, b, out } => check(shape(a) == shape(b) && shape(a) == shape(out), "shapes differ"),
            Op::LayerNorm { x, affine, modulation, out, .. } => check(
                shape(x) == shape(out)
                    && matches!(shape(x).len(), 2 | 3)
                    && affine.is_none_or(|(weight, bias)| wshape(weight) == [last(x)] && wshape(bias) == [last(x)]),
                "shapes differ",
            )
            .or(check(affine.is_some() || modulation.is_some(), "neither weights nor a modulation follow the norm"))
            .or(check(
                modulation.is_none_or(|m| {
                    let s = shape(m.vector);
                    s.len() == 3 && s[0] == shape(x)[0] && s[1] == 1 && m.shift.max(m.scale) + last(x) <= s[2]
                }),
                "shift and scale are not of an item's vector",
            ))
            .or(check(
                modulation.is_none_or(|m| (last(x) | m.shift | m.scale) % 4 == 0),
                "shift and scale are no whole vec4s",
            )),
            Op::Attention { qkv, heads, groups, out, .. } => {
                let dim = last(out);
                let head_dim = dim.checked_div(heads).unwrap_or(0);
                let fits = shape(out).len() == 3 && shape(qkv) == [shape(out)[0], shape(out)[1], 3 * dim];
                let whole = match groups {
                    Groups::Item => true,
                    Groups::Consecutive { tokens } | Groups::Strided { tokens } => {
                        tokens > 0 && fits && shape(out)[1].is_multiple_of(tokens)
                    }
                };
                check(fits && heads * head_dim == dim, "qkv is not 3 x heads x head_dim")
                    .or(check(head_dim <= 512 && dim % 4 == 0, "heads are wider than 512, or no whole vec4s together"))
                    .or(check(whole, "an item is no whole number of groups"))
            }
            Op::HeadNorm { qkv, weights, heads, out, at, .. } => {
                let (s, o) = (shape(qkv), shape(out));
                let head_dim = last(qkv).checked_div(3 * heads).unwrap_or(0);
                let fits = s.len() == 3 && o.len() == 3 && s[0] == o[0] && s[2] == o[2];
                check(fits && 3 * heads * head_dim == s[2], "qkv is not 3 x heads x head_dim")
                    .or(check(head_dim % 4 == 0, "head_dim is not a multiple of 4"))
                    .or(check(weights.iter().all(|&w| wshape(w) == [head_dim]), "weights are not [head_dim]"))
                    .or(check(fits && at + s[1] <= o[1], "tokens do not fit"))
            }
            Op::WriteCache { qkv, places, out } => {
                let (s, o) = (shape(qkv), shape(out));
                let fits = s.len() == 3 && o.len() == 3 && o[0] == 1 && 2 * s[2] == 3 * o[2];
                check(fits && shape(places) == &s[..2], "the cache is not [1, rows, keys and values]")
                    .or(check(fits && o[2] % 8 == 0, "keys are no whole vec4s"))
            }
            Op::CachedAttention { qkv, cache, places, positions, heads, out } => {
                let (s, o, c) = (shape(qkv), shape(out), shape(cache));
                let dim = last(out);
                let head_dim = dim.checked_div(heads).unwrap_or(0);
                let fits = s.len() == 3 && o.len() == 3 && s[..2] == o[..2] && s[2] == 3 * dim;
                check(fits && heads * head_dim == dim, "qkv is not 3 x heads x head_dim")
                    .or(check(head_dim <= 512 && head_dim % 4 == 0, "head_dim is not a multiple of 4 up to 512"))
                    .or(check(c.len() == 3 && c[0] == 1 && c[2] == 2 * dim, "the cache is not [1, rows, 2 dim]"))
                    .or(check(
                        shape(places).len() == 2 && fits && shape(places)[0] == s[0] && shape(positions) == &s[..2],
                        "places or positions are not of the tokens",
                    ))
            }
            Op::Embedding { table, index, position, out, at } => {
                let (o, count) = (shape(out), self.indexed(index));
                check(
                    o.len() == 3
                        && wshape(table).last() == Some(&o[2])
                        && index.is_none_or(|index| matches!(shape(index).len(), 1 | 2) && shape(index)[0] == o[0])
                        && at + count <= o[1],
                    "table or index does not fit",
                )
                .or(check(positions(position, count, last(out)), "there are too few positions"))
            }
            Op::CopyTokens { x, from, count, position, out, at } => {
                let (s, o) = (shape(x), shape(out));
                if s.len() != 3 || o.len() != 3 {
                    return Some("not tokens");
                }
                let fit = s[0] == o[0] && s[2] == o[2] && count > 0 && from + count <= s[1] && at + count <= o[1];
                check(fit, "tokens do not fit")
                    .or(check(positions(position, count, last(out)), "there are too few positions"))
            }
            Op::ResizedPositions { position, from, to, out, at } => {
                let o = shape(out);
                check(o.len() == 3 && !from.contains(&0) && at + to[0] * to[1] <= o[1], "tokens do not fit")
                    .or(check(positions(Some(position), from[0] * from[1], last(out)), "there are too few positions"))
            }
            Op::PatchEmbed { image, weight, bias, position, patch, frames, out, at } => {
                let (s, o) = (shape(image), shape(out));
                let (3, Some(p)) = (o.len(), frames.patches(s, patch)) else {
                    return Some("not tokens and an image of whole patches");
                };
                let of_image = wshape(weight) == [o[2], p.channels, patch, patch] && p.depth == 1;
                let of_clip = wshape(weight) == [o[2], p.channels, p.depth, patch, patch];
                check(of_image || of_clip, "weight is neither [dim, channels, p, p] nor [dim, channels, q, p, p]")
                    .or(check(bias.is_none_or(|b| wshape(b) == [o[2]]), "bias is not [dim]"))
                    .or(check(at + p.count() <= o[1] && o[0] % s[0] == 0, "patches do not fit"))
                    .or(check(positions(position, p.count(), o[2]), "there are too few positions"))
            }
            Op::Unpatchify { x, patch, frames, skip_tokens, first_channel, out } => {
                let (s, o) = (shape(x), shape(out));
                let (3, Some(p)) = (s.len(), frames.patches(o, patch)) else {
                    return Some("not tokens and an image of whole patches");
                };
                let channels = s[2] / p.pixels();
                check(s[0] == o[0] && s[2] == p.pixels() * channels, "tokens are not q p p C wide")
                    .or(check(first_channel + p.channels <= channels, "tokens have fewer channels"))
                    .or(check(s[1] == skip_tokens + p.count(), "token count differs"))
            }
            Op::Conv2d { x, weight, bias, out } => {
                let (s, o) = (shape(x), shape(out));
                let images = matches!(s.len(), 4 | 5) && s.len() == o.len() && s[0] == o[0] && s[2..] == o[2..];
                check(images && wshape(weight) == [o[1], s[1], 3, 3], "weight is not [out, in, 3, 3]")
                    .or(check(images && wshape(bias) == [o[1]], "bias is not [out]"))
            }
            Op::ImageTokens { image, out } => {
                let (s, o) = (shape(image), shape(out));
                check(s.len() == 4 && o == [s[0], s[2] * s[3], s[1]], "out is not the image's pixels")
            }
            Op::Convolution { x, window, weight, bias, out } => {
                let (s, o) = (shape(x), shape(out));
                if s.len() != 3 || o.len() != 3 {
                    return Some("not tokens");
                }
                let pixels = window.height * window.width;
                let last = |n: usize, of: usize| (n - 1) * window.stride + 2 <= of * window.upsample + window.padding;
                check(
                    s[0] == o[0] && s[1] == pixels && o[1] == window.pixels() && o[1] > 0,
                    "tokens are no image's pixels",
                )
                .or(check(matches!((window.stride, window.upsample), (1, 1) | (1, 2) | (2, 1)), "no such window"))
                .or(check(window.padding <= 1, "padding is more than 1"))
                .or(check(
                    last(window.out_height + window.skip / window.stride, window.height)
                        && last(window.out_width, window.width),
                    "windows lie beyond the image",
                ))
                .or(check(wshape(weight) == [o[2], 9 * s[2]], "weight is not [out, 9 in]"))
                .or(check(bias.is_none_or(|b| wshape(b) == [o[2]]), "bias is not [out]"))
            }
            Op::GroupMoments { x, slice, first, out } => {
                let (s, o) = (shape(x), shape(out));
                check(
                    s.len() == 3 && o.len() == 3 && slice > 0 && s[0] == o[0] && s[2] == o[2],
                    "out is not moments of tokens",
                )
                .or(check(2 * (first + s[1].div_ceil(slice)) <= o[1], "slices do not fit"))
            }
            Op::GroupNorm { x, moments: m, groups, weight, bias, out, .. } => check(
                shape(x) == shape(out)
                    && shape(x).len() == 3
                    && m.slice > 0
                    && shape(m.tensor) == [shape(x)[0], 2 * m.tokens.div_ceil(m.slice), last(x)]
                    && groups > 0
                    && last(x).is_multiple_of(groups)
                    && wshape(weight) == [last(x)]
                    && wshape(bias) == [last(x)],
                "shapes differ, or channels are no whole groups",
            ),
        }
    }
}
