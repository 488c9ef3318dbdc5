//! `sd3_prompt`: texts through two tokenizers and two encoders, to what a denoiser is given.

use super::clip_tokenizer::merges;
use crate::goldens_harness::devices::{judge_on_each, load_some};
use crate::goldens_harness::{Case, Checks, Report, Stop};
use serde_json::Value;
use uvit_web::model::{Batch, Network};
use uvit_web::pipeline::{Component, Joined, Joining, NamedTensor, Values};
use uvit_web::runtime::Device;
use uvit_web::text::Tokenizer;
use uvit_web::weights::Dtype;

const ENCODERS: [&str; 2] = ["text_encoder", "text_encoder_2"];

/// Every run on every device.
pub fn judge(case: &Case, report: &mut Report) {
    for run in case.runs() {
        let texts = &case.config["runs"][run.id.parse::<usize>().unwrap_or(0)];
        judge_on_each(report, &format!("run {}", run.id), |device, checks| {
            let prompts = Prompts::read(case, device, texts, &format!("run_{}/", run.id), checks)?;
            let tolerance = case.tolerance("f32")?;
            for (name, got) in prompts.named() {
                let stored = format!("{name}_f64");
                let got: Vec<f64> = got.iter().map(|v| f64::from(*v)).collect();
                checks.close(&stored, &got, run.tensor(&stored)?, tolerance);
            }
            Ok(())
        });
    }
}

/// What a denoiser is given for texts.
pub struct Prompts {
    /// `[B, tokens, width]`, and `[B, pooled]`: of the prompts, and of what guidance leads away from.
    pub of: [[Vec<f32>; 2]; 2],
}

impl Prompts {
    /// Tokenizes `texts`, checks the ids, and encodes them. `prefix` stands before the names of the case's ids.
    pub fn read(
        case: &Case,
        device: &Device,
        texts: &Value,
        prefix: &str,
        checks: &mut Checks,
    ) -> Result<Prompts, Stop> {
        let tokenizer = Tokenizer::new(&merges(&Case::read(&case.folder.with_file_name("clip_tokenizer"))?)?)?;
        let list = |name: &str| -> Option<Vec<&str>> {
            texts[name].as_array().map(|all| all.iter().filter_map(Value::as_str).collect())
        };
        let prompt = list("prompt").ok_or_else(|| "no prompt".to_owned())?;
        let negative = list("negative_prompt").unwrap_or(vec![""; prompt.len()]);
        let [prompt_2, negative_2] = [list("prompt_2"), list("negative_prompt_2")];
        let both =
            [[&prompt, prompt_2.as_ref().unwrap_or(&prompt)], [&negative, negative_2.as_ref().unwrap_or(&negative)]];
        let params = &case.config["params"];
        let number = |value: &Value| value.as_u64().unwrap_or(0) as usize;
        let count = prompt.len();
        let of_encoder = |name: &str| number(&params[name]["projection_dim"]);
        let joint = params["joint_attention_dim"].as_u64().or(params["transformer"]["joint_attention_dim"].as_u64());
        let shape = Joined {
            tokens: number(&params["max_position_embeddings"]) + number(&params["max_sequence_length"]),
            width: joint.unwrap_or(0) as usize,
            pooled: ENCODERS.iter().map(|name| of_encoder(name)).sum(),
        };
        let mut joining = Joining::new(shape, 2 * count);
        for (k, name) in ENCODERS.into_iter().enumerate() {
            let suffix = ["", "_2"][k];
            let in_use = case.tensor(&format!("token_ids{suffix}"))?;
            let mut network = params[name].clone();
            network["max_position_embeddings"] = params["max_position_embeddings"].clone();
            // The table holds only the rows in use.
            network["vocab_size"] = in_use.values.len().into();
            network["hidden_state"] = (-2).into();
            network["pad_token"] = ["<|endoftext|>", "!"][k].into();
            let network = Network::of("clip_text", &network)?;
            let pad = tokenizer.padding(network.pad_token());
            let mut ids: Vec<u32> = Vec::new();
            for (texts, which) in both.iter().zip(["", "negative_"]) {
                let encoded = texts[k].iter().map(|text| tokenizer.encode(text, network.tokens(), &pad).ids);
                let of_these: Vec<u32> = encoded.flatten().collect();
                let want = case.tensor(&format!("{prefix}{which}input_ids{suffix}"))?;
                let same = of_these.iter().map(|id| f64::from(*id)).eq(want.values.iter().copied());
                checks.that(same, || format!("{which}input_ids{suffix} are {of_these:?}"));
                ids.extend(of_these);
            }
            let row = |id: &u32| in_use.values.iter().position(|known| *known == f64::from(*id)).map(|row| row as u32);
            let rows: Option<Vec<u32>> = ids.iter().map(row).collect();
            let rows = rows.ok_or_else(|| "an id that is not in use".to_owned())?;
            let (weights, left) = load_some(device, case, &network, &|weight| format!("{name}.{weight}"))?;
            let forgotten = left.iter().find(|weight| weight.starts_with(&format!("{name}.")));
            checks.that(forgotten.is_none(), || format!("the network does not use {forgotten:?}"));
            let stored = vec![(Dtype::F32, 0); network.record(Batch::plain(1))?.plan.weights.len()];
            let mut component = Component::new(network, weights, stored, Vec::new());
            let given = [NamedTensor::new("input_ids", Values::Indices(rows))];
            let results = pollster::block_on(component.forward(&given, &|| false))?;
            let floats = |name: &str| match results.iter().find(|result| result.name == name).map(|r| &r.values) {
                Some(Values::Floats(values)) => Ok(values.as_slice()),
                _ => Err(format!("the encoder gave no {name}")),
            };
            joining.add(&ids, tokenizer.end(), floats("hidden_state")?, floats("text_embeds")?)?;
        }
        let all = joining.finish();
        let of = [0, 1].map(|which| {
            let texts = all.chunks(shape.elements()).skip(which * count).take(count);
            let (mut context, mut pooled) = (Vec::new(), Vec::new());
            for text in texts {
                let (tokens, vector) = text.split_at(shape.tokens * shape.width);
                context.extend(tokens);
                pooled.extend(vector);
            }
            [context, pooled]
        });
        Ok(Prompts { of })
    }

    /// By their names in a case.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Vec<f32>)> {
        let names = ["prompt_embeds", "pooled", "negative_prompt_embeds", "negative_pooled"];
        names.into_iter().zip(self.of.iter().flatten())
    }
}
