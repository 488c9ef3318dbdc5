//! What networks record with: one method an operation, which names its weights and makes its result.

use super::{
    Activation, Arrangement, Frames, GateOf, LEAST_SLICE, MOST_SLICES, Modulation, Moments, Op, Plan, Role, Rows,
    TensorId, WeightUse, Window,
};

impl Plan {
    /// Records `x W^T + b` under the name `name` (`name.weight`, `name.bias`); returns `[.., out]`.
    pub fn linear(
        &mut self,
        name: &str,
        x: TensorId,
        skip: Option<TensorId>,
        out_features: usize,
        bias: bool,
    ) -> TensorId {
        let mut shape = self.shape(x).to_vec();
        let last = shape.len() - 1;
        let in_features = shape[last] + skip.map_or(0, |s| *self.shape(s).last().unwrap_or(&0));
        shape[last] = out_features;
        let weight = self.weight(format!("{name}.weight"), &[out_features, in_features], WeightUse::Matrix);
        let bias = bias.then(|| self.weight(format!("{name}.bias"), &[out_features], WeightUse::Floats));
        let out = self.scratch(name, &shape);
        self.push(Op::Linear { x, skip, weight, bias, rows: None, out });
        out
    }

    /// [`Plan::linear`] of the tokens `first .. first + count` of every item of `x`, which become those from `at` on of `out`.
    pub fn linear_rows(
        &mut self,
        name: &str,
        x: TensorId,
        first: usize,
        count: usize,
        out: TensorId,
        at: usize,
        bias: bool,
    ) {
        let last = |shape: &[usize]| shape[shape.len() - 1];
        let (k, n) = (last(self.shape(x)), last(self.shape(out)));
        let weight = self.weight(format!("{name}.weight"), &[n, k], WeightUse::Matrix);
        let bias = bias.then(|| self.weight(format!("{name}.bias"), &[n], WeightUse::Floats));
        self.push(Op::Linear { x, skip: None, weight, bias, rows: Some(Rows { first, count, at }), out });
    }

    /// [`Plan::linear`] whose matrix is published as `[in, out]`.
    pub fn linear_of_columns(&mut self, name: &str, x: TensorId, out_features: usize) -> TensorId {
        let out = self.linear(name, x, None, out_features, true);
        if let Some(&Op::Linear { weight, .. }) = self.ops.last() {
            self.weights[weight.0].arrangement = Arrangement::Columns;
        }
        out
    }

    /// Records LayerNorm with the affine weights `name.weight`, `name.bias`.
    pub fn layer_norm(&mut self, name: &str, x: TensorId, eps: f32) -> TensorId {
        let shape = self.shape(x).to_vec();
        let dim = [shape[shape.len() - 1]];
        let weight = self.weight(format!("{name}.weight"), &dim, WeightUse::Floats);
        let bias = self.weight(format!("{name}.bias"), &dim, WeightUse::Floats);
        let out = self.scratch(name, &shape);
        self.push(Op::LayerNorm { x, affine: Some((weight, bias)), modulation: None, eps, out });
        out
    }

    /// Records LayerNorm without weights of its own, modulated.
    pub fn modulated_norm(&mut self, name: &str, x: TensorId, modulation: Modulation, eps: f32) -> TensorId {
        let shape = self.shape(x).to_vec();
        let out = self.scratch(name, &shape);
        self.push(Op::LayerNorm { x, affine: None, modulation: Some(modulation), eps, out });
        out
    }

    /// Records RMS norm of the heads of `qkv` with the weights `names` of q and of k (`name.weight`), into tokens `at ..` of `out`.
    pub fn head_norm(&mut self, names: [&str; 2], qkv: TensorId, heads: usize, eps: f32, out: TensorId, at: usize) {
        let head_dim = self.shape(qkv).last().copied().unwrap_or(0) / 3 / heads.max(1);
        let weights = names.map(|name| self.weight(format!("{name}.weight"), &[head_dim], WeightUse::Floats));
        self.push(Op::HeadNorm { qkv, weights, heads, eps, out, at });
    }

    /// Records the moments of tokens, as many slices as [`Op::GroupNorm`] likes of them.
    pub fn moments(&mut self, x: TensorId) -> Moments {
        let tokens = self.shape(x)[1];
        let slice = tokens.div_ceil(MOST_SLICES).max(LEAST_SLICE);
        let moments = self.no_moments(x, tokens, slice);
        self.push(Op::GroupMoments { x, slice, first: 0, out: moments.tensor });
        moments
    }

    /// Room for the moments of so many tokens, of batch and channels like those of `x`.
    pub fn no_moments(&mut self, x: TensorId, tokens: usize, slice: usize) -> Moments {
        let (batch, dim) = (self.shape(x)[0], self.shape(x)[2]);
        let tensor = self.scratch("", &[batch, 2 * tokens.div_ceil(slice), dim]);
        Moments { tensor, tokens, slice }
    }

    /// Records GroupNorm with the affine weights `name.weight`, `name.bias`.
    pub fn group_norm(&mut self, name: &str, x: TensorId, moments: Moments, groups: usize, eps: f32) -> TensorId {
        let shape = self.shape(x).to_vec();
        let dim = [shape[shape.len() - 1]];
        let weight = self.weight(format!("{name}.weight"), &dim, WeightUse::Floats);
        let bias = self.weight(format!("{name}.bias"), &dim, WeightUse::Floats);
        let out = self.scratch(name, &shape);
        self.push(Op::GroupNorm { x, moments, groups, weight, bias, eps, out });
        out
    }

    /// Records a 3x3 convolution under the name `name` (`name.weight`, `name.bias`) over tokens that are an image's pixels.
    pub fn convolution(
        &mut self,
        name: &str,
        x: TensorId,
        window: Window,
        out_channels: usize,
        bias: bool,
    ) -> TensorId {
        let shape = self.shape(x).to_vec();
        let columns = 9 * shape[shape.len() - 1];
        let weight = self.weight(format!("{name}.weight"), &[out_channels, columns], WeightUse::Matrix);
        self.weights[weight.0].arrangement = Arrangement::Windows;
        let bias = bias.then(|| self.weight(format!("{name}.bias"), &[out_channels], WeightUse::Floats));
        let out = self.scratch(name, &[shape[0], window.pixels(), out_channels]);
        self.push(Op::Convolution { x, window, weight, bias, out });
        out
    }

    /// Records a function of every value.
    pub fn activate(&mut self, name: impl Into<String>, activation: Activation, x: TensorId) -> TensorId {
        let shape = self.shape(x).to_vec();
        let out = self.scratch(name, &shape);
        self.push(Op::Activate { activation, x, out });
        out
    }

    /// Records `scale x + offset`.
    pub fn affine(&mut self, x: TensorId, scale: f32, offset: f32) -> TensorId {
        let shape = self.shape(x).to_vec();
        let out = self.scratch("", &shape);
        self.push(Op::Affine { x, scale, offset, out });
        out
    }

    /// Records the pixels of an image as tokens.
    pub fn image_tokens(&mut self, image: TensorId) -> TensorId {
        let s = self.shape(image).to_vec();
        let out = self.scratch("", &[s[0], s[2] * s[3], s[1]]);
        self.push(Op::ImageTokens { image, out });
        out
    }

    /// Records tokens as the pixels of an image of so many rows and columns.
    pub fn image(&mut self, name: &str, x: TensorId, [height, width]: [usize; 2], role: Role) -> TensorId {
        let s = self.shape(x).to_vec();
        let out = self.tensor(name, &[s[0], s[2], height, width], role);
        self.push(Op::Unpatchify { x, patch: 1, frames: Frames::NONE, skip_tokens: 0, first_channel: 0, out });
        out
    }

    /// Records `a + b`.
    pub fn add(&mut self, name: impl Into<String>, a: TensorId, b: TensorId) -> TensorId {
        let shape = self.shape(a).to_vec();
        let out = self.scratch(name, &shape);
        self.push(Op::Add { a, b, out });
        out
    }

    /// Records `x + gate y`.
    pub fn gated_add(&mut self, name: impl Into<String>, x: TensorId, gate: GateOf, y: TensorId) -> TensorId {
        let shape = self.shape(x).to_vec();
        let out = self.scratch(name, &shape);
        self.push(Op::Gate { x, gate, y, out });
        out
    }
}
