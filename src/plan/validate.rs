//! What every Plan must keep to: each device may then run it without asking again.

use super::{Op, Plan, Position, Role, TensorId, WeightId, WeightUse};
use crate::{Error, Result};

impl Op {
    /// The weights that the operation reads, and how.
    fn weights(&self) -> Vec<(WeightId, WeightUse)> {
        use WeightUse::{Floats, Matrix, PatchKernel};
        let with = |position: Option<Position>, others: &[(WeightId, WeightUse)]| {
            others.iter().copied().chain(position.map(|p| (p.table, Floats))).collect()
        };
        match *self {
            Op::Linear { weight, bias, .. } => {
                [Some((weight, Matrix)), bias.map(|bias| (bias, Floats))].into_iter().flatten().collect()
            }
            Op::Convolution { weight, bias, .. } => {
                [Some((weight, Matrix)), bias.map(|bias| (bias, Floats))].into_iter().flatten().collect()
            }
            Op::LayerNorm { affine, .. } => affine.map_or(Vec::new(), |(w, b)| vec![(w, Floats), (b, Floats)]),
            Op::GroupNorm { weight, bias, .. } | Op::Conv2d { weight, bias, .. } => {
                vec![(weight, Floats), (bias, Floats)]
            }
            Op::HeadNorm { weights, .. } => weights.map(|weight| (weight, Floats)).to_vec(),
            Op::Embedding { table, position, .. } => with(position, &[(table, Floats)]),
            Op::CopyTokens { position, .. } => with(position, &[]),
            Op::ResizedPositions { position, .. } => with(Some(position), &[]),
            Op::PatchEmbed { weight, bias, position, .. } => match bias {
                Some(bias) => with(position, &[(weight, PatchKernel), (bias, Floats)]),
                None => with(position, &[(weight, PatchKernel)]),
            },
            Op::TimestepEmbedding { .. }
            | Op::Activate { .. }
            | Op::Affine { .. }
            | Op::ImageTokens { .. }
            | Op::GroupMoments { .. }
            | Op::Add { .. }
            | Op::Gate { .. }
            | Op::Attention { .. }
            | Op::WriteCache { .. }
            | Op::CachedAttention { .. }
            | Op::Unpatchify { .. } => Vec::new(),
        }
    }

    /// Whether it reads a tensor as indices.
    fn takes_indices(&self, id: TensorId) -> bool {
        match *self {
            Op::Embedding { index, .. } => index == Some(id),
            Op::WriteCache { places, .. } => id == places,
            Op::CachedAttention { places, positions, .. } => [places, positions].contains(&id),
            _ => false,
        }
    }

    /// Its kind, in messages: written out, derived code would describe all its fields.
    fn name(&self) -> &'static str {
        match self {
            Op::TimestepEmbedding { .. } => "timestep embedding",
            Op::Linear { .. } => "linear",
            Op::Activate { .. } => "activation",
            Op::Add { .. } => "add",
            Op::Gate { .. } => "gated addition",
            Op::LayerNorm { .. } => "layer norm",
            Op::Attention { .. } => "attention",
            Op::HeadNorm { .. } => "norm of heads",
            Op::WriteCache { .. } => "write to a cache",
            Op::CachedAttention { .. } => "cached attention",
            Op::Embedding { .. } => "embedding",
            Op::CopyTokens { .. } => "copy of tokens",
            Op::ResizedPositions { .. } => "resized positions",
            Op::PatchEmbed { .. } => "patch embedding",
            Op::Unpatchify { .. } => "unpatchify",
            Op::Conv2d { .. } => "convolution of images",
            Op::Affine { .. } => "scale and offset",
            Op::ImageTokens { .. } => "tokens of an image",
            Op::Convolution { .. } => "convolution",
            Op::GroupMoments { .. } => "moments",
            Op::GroupNorm { .. } => "group norm",
        }
    }

    /// The tokens of its result that the operation writes, if it does not write all.
    fn places(&self, plan: &Plan) -> Option<std::ops::Range<usize>> {
        match *self {
            Op::Embedding { index, at, .. } => Some(at..at + plan.indexed(index)),
            Op::CopyTokens { count, at, .. } => Some(at..at + count),
            Op::HeadNorm { qkv, at, .. } => Some(at..at + plan.shape(qkv)[1]),
            Op::Linear { rows: Some(rows), .. } => Some(rows.at..rows.at + rows.count),
            Op::GroupMoments { x, slice, first, .. } => Some(2 * first..2 * (first + plan.shape(x)[1].div_ceil(slice))),
            Op::PatchEmbed { image, patch, frames, at, .. } => {
                Some(at..at + frames.patches(plan.shape(image), patch).map_or(0, |patches| patches.count()))
            }
            _ => None,
        }
    }
}

impl Plan {
    /// Checks that shapes agree, ids exist, weights are read as they were recorded, and every tensor is written once, whole,
    /// before it is read; only operations that place tokens share a result.
    ///
    /// # Errors
    /// `INTERNAL` with the operation that contradicts itself: a network recorded a wrong Plan.
    pub fn validate(&self) -> Result<()> {
        self.validate_weights()?;
        for tensor in &self.tensors {
            if tensor.shape.is_empty() || tensor.shape.contains(&0) {
                return Err(Error::internal(format!(
                    "plan: tensor {:?} has the shape {:?}",
                    tensor.name, tensor.shape
                )));
            }
        }
        let mut readable: Vec<bool> =
            self.tensors.iter().map(|t| !matches!(t.role, Role::Scratch | Role::Output)).collect();
        // Tokens that were placed; all of them at once where an operation writes everything.
        let mut placed: Vec<Vec<bool>> = vec![Vec::new(); self.tensors.len()];
        for (i, op) in self.ops.iter().enumerate() {
            let out = op.writes();
            let fail = |what: &str| {
                let TensorId(reads) = op.reads().first().copied().unwrap_or(out);
                let which = format!("operation {i} ({}, tensor {reads} to {})", op.name(), out.0);
                Err(Error::internal(format!("plan: {which}: {what}")))
            };
            if op.reads().iter().chain([&out]).any(|id| id.0 >= self.tensors.len()) {
                return fail("names a tensor that does not exist");
            }
            for (id, usage) in op.weights() {
                match self.weights.get(id.0) {
                    None => return fail("reads a weight that does not exist"),
                    Some(weight) if weight.usage != usage => {
                        return fail(&format!("reads {} as {usage:?}, recorded as {:?}", weight.name, weight.usage));
                    }
                    Some(_) => {}
                }
            }
            if let Some(what) = self.mismatch(op) {
                return fail(what);
            }
            for id in op.reads() {
                if (self.tensors[id.0].role == Role::Indices) != op.takes_indices(id) {
                    return fail("reads indices as values, or values as indices");
                }
                if !readable[id.0] {
                    return fail("reads a tensor before it is written");
                }
            }
            if op.reads().contains(&out) {
                return fail("writes what it reads");
            }
            if matches!(self.tensors[out.0].role, Role::Input | Role::Indices) {
                return fail("writes what the host writes");
            }
            let done = &mut placed[out.0];
            if matches!(op, Op::ResizedPositions { .. } | Op::WriteCache { .. }) {
                // They change some of what must be there.
                match readable[out.0] {
                    true => continue,
                    false => return fail("changes tokens before they are written"),
                }
            }
            match op.places(self) {
                Some(tokens) if done.is_empty() || done.contains(&false) => {
                    done.resize(self.tensors[out.0].shape[1], false);
                    done[tokens].fill(true);
                }
                None if done.is_empty() => done.push(true),
                _ => return fail("writes what was written before"),
            }
            readable[out.0] = readable[out.0] || !done.contains(&false);
        }
        let half = |id: &usize| self.tensors[*id].role != Role::State && placed[*id].contains(&false);
        match (0..self.tensors.len()).find(half) {
            Some(id) => Err(Error::internal(format!(
                "plan: of tensor {:?} {:?} some tokens are never written",
                self.tensors[id].name,
                self.shape(TensorId(id))
            ))),
            None => Ok(()),
        }
    }

    /// One name is one published tensor, whose shape does not depend on who reads it.
    fn validate_weights(&self) -> Result<()> {
        for (i, weight) in self.weights.iter().enumerate() {
            let other = self.weights[..i].iter().find(|other| other.name == weight.name && other.shape != weight.shape);
            if let Some(other) = other {
                return Err(Error::internal(format!(
                    "plan: weight {} is recorded as {:?} and as {:?}",
                    weight.name, other.shape, weight.shape
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Activation;

    /// What validation says of a Plan.
    fn refused(record: impl Fn(&mut Plan)) -> String {
        let mut plan = Plan::default();
        record(&mut plan);
        plan.validate().unwrap_err().to_string()
    }

    #[track_caller]
    fn assert_refused(what: &str, record: impl Fn(&mut Plan)) {
        let why = refused(record);
        assert!(why.contains(what), "{why}");
    }

    fn tokens(plan: &mut Plan) -> TensorId {
        plan.tensor("", &[2, 3, 16], Role::Input)
    }

    #[test]
    fn what_no_device_could_run_is_refused() {
        assert_refused("writes what it reads", |plan| {
            let x = plan.tensor("", &[2, 3, 16], Role::State);
            plan.push(Op::Activate { activation: Activation::Gelu, x, out: x });
        });
        assert_refused("writes what was written before", |plan| {
            let x = tokens(plan);
            let y = plan.linear("a", x, None, 16, false);
            plan.push(Op::Activate { activation: Activation::Gelu, x, out: y });
        });
        assert_refused("writes what the host writes", |plan| {
            let (x, out) = (tokens(plan), tokens(plan));
            plan.push(Op::Activate { activation: Activation::Silu, x, out });
        });
        assert_refused("some tokens are never written", |plan| {
            let x = tokens(plan);
            let out = plan.scratch("", &[2, 5, 16]);
            plan.push(Op::CopyTokens { x, from: 0, count: 3, position: None, out, at: 2 });
        });
        assert_refused("before it is written", |plan| {
            let x = tokens(plan);
            let out = plan.scratch("", &[2, 5, 16]);
            plan.push(Op::CopyTokens { x, from: 0, count: 3, position: None, out, at: 2 });
            plan.linear("a", out, None, 16, false);
        });
        assert_refused("tokens differ", |plan| {
            let (x, skip) = (tokens(plan), plan.tensor("", &[2, 4, 16], Role::Input));
            plan.linear("a", x, Some(skip), 16, false);
        });
        assert_refused("indices as values", |plan| {
            let x = plan.tensor("", &[2, 16], Role::Indices);
            plan.linear("a", x, None, 16, false);
        });
        assert_refused("has the shape [0, 3, 16]", |plan| {
            plan.tensor("", &[0, 3, 16], Role::Input);
        });
    }

    #[test]
    fn a_weight_is_read_as_it_was_recorded() {
        assert_refused("a.weight is recorded as [16, 16] and as [8, 16]", |plan| {
            let x = tokens(plan);
            plan.linear("a", x, None, 16, false);
            plan.linear("a", x, None, 8, false);
        });
        assert_refused("reads a as Matrix, recorded as Floats", |plan| {
            let x = tokens(plan);
            let weight = plan.weight("a", &[16, 16], WeightUse::Floats);
            let out = plan.scratch("", &[2, 3, 16]);
            plan.push(Op::Linear { x, skip: None, weight, bias: None, rows: None, out });
        });
        // Both at once are two weights that are published once.
        let mut plan = Plan::default();
        let table = plan.weight("a.weight", &[16, 16], WeightUse::Floats);
        let x = tokens(&mut plan);
        plan.linear("a", x, None, 16, false);
        assert_eq!(plan.weight("a.weight", &[16, 16], WeightUse::Floats), table);
        assert_eq!(plan.weights.len(), 2);
        let published: Vec<_> = plan.published().map(|w| (w.name.as_str(), w.usage)).collect();
        assert_eq!(published, [("a.weight", WeightUse::Matrix)]);
        plan.validate().unwrap();
    }
}
