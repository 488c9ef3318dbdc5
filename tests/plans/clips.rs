//! Tokens through a clip and back, in random Plans: cut out of their channels, perhaps convolved frame by frame, and with positions.

use std::collections::HashMap;
use uvit_web::cpu;
use uvit_web::plan::{
    Conv2d, FrameLayout, Frames, Op, PatchEmbed, Plan, Position, TensorId, Unpatchify, WeightId, WeightUse,
};

/// Records it for tokens of whole patches of eight values; gives tokens that are `n` wide.
pub fn through_a_clip(plan: &mut Plan, at: usize, x: TensorId, n: usize, second: usize) -> TensorId {
    let [batch, tokens, dim] = *plan.shape(x) else { panic!("tokens") };
    let depth = 1 + second / 2 % 2;
    let channels = dim / (4 * depth);
    let first_channel = second % channels;
    let skip_tokens = usize::from(tokens > 1);
    let patches = tokens - skip_tokens;
    let layout = [FrameLayout::ChannelsFirst, FrameLayout::FramesFirst][second % 2];
    let frames = Frames { patch: depth, layout };
    let shape = |channels: usize| match layout {
        FrameLayout::FramesFirst => [batch, patches * depth, channels, 2, 2],
        _ => [batch, channels, patches * depth, 2, 2],
    };
    let mut channels = channels - first_channel;
    let mut clip = plan.scratch("", &shape(channels));
    plan.push(Op::Unpatchify { x, patch: 2, frames, skip_tokens, first_channel, out: clip });
    if layout == FrameLayout::ChannelsFirst {
        let weight = plan.weight(format!("conv {at}"), &[3, channels, 3, 3], WeightUse::Floats);
        let bias = plan.weight(format!("conv bias {at}"), &[3], WeightUse::Floats);
        channels = 3;
        let out = plan.scratch("", &shape(channels));
        plan.push(Op::Conv2d { x: clip, weight, bias, out });
        clip = out;
    }
    let weight = plan.weight(format!("patches {at}"), &[n, channels, depth, 2, 2], WeightUse::PatchKernel);
    let bias = (!second.is_multiple_of(3)).then(|| plan.weight(format!("patches bias {at}"), &[n], WeightUse::Floats));
    let position = (!second.is_multiple_of(5)).then(|| {
        let table = plan.weight(format!("positions {at}"), &[5 + 3 * patches, n], WeightUse::Floats);
        Position { table, at: 1, width: 2, stride: 3, inner: 1 }
    });
    let out = plan.scratch("", &[batch, patches, n]);
    plan.push(Op::PatchEmbed { image: clip, weight, bias, position, patch: 2, frames, out, at: 0 });
    out
}

/// What an operation of it writes; none if it is another.
pub fn meaning(
    plan: &Plan,
    op: &Op,
    values: &HashMap<TensorId, Vec<f32>>,
    weight: &dyn Fn(WeightId) -> Vec<f32>,
    result: &mut [f32],
) -> Option<()> {
    match *op {
        Op::Unpatchify { x, patch, frames, skip_tokens, first_channel, out } => {
            let patches = frames.patches(plan.shape(out), patch)?;
            let [batch, tokens, dim] = *plan.shape(x) else { return None };
            let channels = dim / patches.pixels();
            let kernel = Unpatchify { x, out, patches, skip_tokens, channels, first_channel, batch, tokens };
            cpu::unpatchify(&values[&x], result, &kernel);
        }
        Op::Conv2d { x, weight: w, bias, out } => {
            let [batch, in_channels, frames, height, width] = *plan.shape(x) else { return None };
            let out_channels = plan.shape(out)[1];
            let kernel = Conv2d { x, weight: w, bias, out, batch, in_channels, out_channels, frames, height, width };
            cpu::conv2d(&values[&x], &weight(w), &weight(bias), result, &kernel);
        }
        Op::PatchEmbed { image, weight: w, bias, position, patch, frames, out, at } => {
            let patches = frames.patches(plan.shape(image), patch)?;
            let [batch, tokens, dim] = *plan.shape(out) else { return None };
            let images = plan.shape(image)[0];
            let kernel = PatchEmbed { image, weight: w, bias, position, out, at, patches, batch, images, tokens, dim };
            let rows = weight(w);
            let columns = rows.len() / dim;
            let transposed: Vec<f32> = (0..rows.len()).map(|i| rows[i % dim * columns + i / dim]).collect();
            let (bias, table) = (bias.map(weight), position.map(|p| weight(p.table)));
            cpu::patch_embed(&values[&image], &transposed, bias.as_deref(), table.as_deref(), result, &kernel);
        }
        _ => return None,
    }
    Some(())
}
