//! The files of the published UniDiffuser, by the names that its publishers gave files and tensors.

use serde_json::json;
use std::io::Read;
use std::path::Path;
use uvit_web::model::Batch;
use uvit_web::package::{Manifest, Preset};
use uvit_web::sampler::TorchGenerator;
use uvit_web::weights::checkpoint::official_autoencoder_name;

/// A file, and its tensors.
pub type Listed = (&'static str, Vec<(String, Vec<usize>)>);

/// Normal values, faster than anybody draws a billion: pieces of a million, each from another place.
pub struct Values {
    drawn: Vec<f32>,
    at: usize,
}

impl Values {
    pub fn new() -> Values {
        // A prime, so that the rows of no matrix begin at one place twice.
        Values { drawn: TorchGenerator::new(1).randn_f32(1_048_573), at: 0 }
    }

    /// Of the size that training leaves: vectors near 0, a norm's scale near 1.
    pub fn of(&mut self, name: &str, shape: &[usize]) -> Vec<f32> {
        let columns: usize = shape.iter().skip(1).product();
        let is_norm = name.split('.').any(|word| word.contains("norm") || word.starts_with("ln_"));
        let (size, mean) = match shape.len() {
            0 | 1 => (0.02, if is_norm && name.ends_with("weight") { 1.0 } else { 0.0 }),
            _ => (1.0 / (columns as f32).sqrt(), 0.0),
        };
        let count = shape.iter().product();
        self.at = (self.at + 7919) % self.drawn.len();
        let values = self.drawn.iter().cycle().skip(self.at).take(count);
        let values = values.map(|v| mean + size * v).collect();
        self.at = (self.at + count) % self.drawn.len();
        values
    }
}

/// A component's tensors as its checkpoint has them.
fn tensors(manifest: &Manifest, component: &str) -> Vec<(String, Vec<usize>)> {
    let plan = manifest.network(component).unwrap().record(Batch::plain(1)).unwrap().plan;
    plan.published().flat_map(|weight| weight.sources()).collect()
}

/// Writes the small files, configurations and tokenizers, and lists the large ones.
pub fn write_folder(preset: &Preset, folder: &Path) -> Vec<Listed> {
    let manifest = preset.manifest().unwrap();
    let [text, image, gpt2] = ["clip-vit-large-patch14", "clip-vit-base-patch32", "gpt2"].map(|name| folder.join(name));
    for folder in [&text, &image, &gpt2] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let of = |component: &str, field: &str| manifest.component(component).unwrap().params[field].clone();
    let fields = |component: &str, names: &[&str]| {
        names.iter().map(|name| ((*name).to_owned(), of(component, name))).collect::<serde_json::Map<_, _>>()
    };
    let layers = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"];
    let write = |folder: &Path, config: serde_json::Value| {
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    };
    write(
        &text,
        json!({ "model_type": "clip", "projection_dim": 768, "text_config": fields("text_encoder", &layers) }),
    );
    write(
        &image,
        json!({ "model_type": "clip", "projection_dim": 512, "vision_config": fields("image_encoder", &layers) }),
    );
    std::fs::write(text.join("merges.txt"), clip_merges()).unwrap();
    let words = of("caption_decoder", "gpt2")["vocab_size"].as_u64().unwrap() as usize;
    std::fs::write(gpt2.join("merges.txt"), made_up_merges(words - 256 - 2)).unwrap();

    let mut autoencoder = [tensors(&manifest, "decoder"), tensors(&manifest, "encoder")].concat();
    autoencoder.iter_mut().for_each(|(name, _)| *name = official_autoencoder_name(name, 4));
    let mut captions = [tensors(&manifest, "text_projector"), tensors(&manifest, "caption_decoder")].concat();
    let table = captions.iter().find(|(name, _)| name == "gpt.transformer.wte.weight").unwrap().1.clone();
    captions.push(("gpt.lm_head.weight".into(), table));
    captions.push(("gpt.transformer.h.0.attn.masked_bias".into(), vec![]));
    captions.iter_mut().for_each(|(name, _)| *name = format!("module.{name}"));
    vec![
        ("uvit_v1.pth", tensors(&manifest, "denoiser")),
        ("autoencoder_kl.pth", autoencoder),
        ("caption_decoder.pth", captions),
        ("clip-vit-large-patch14/pytorch_model.bin", tensors(&manifest, "text_encoder")),
        ("clip-vit-base-patch32/pytorch_model.bin", tensors(&manifest, "image_encoder")),
    ]
}

/// The first lines of CLIP's vocabulary.
pub fn clip_merges() -> String {
    let vocabulary =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/clip_tokenizer/bpe_simple_vocab_16e6.txt.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(vocabulary).unwrap()).read_to_string(&mut text).unwrap();
    text.lines().take(1 + 48_894).flat_map(|line| [line, "\n"]).collect()
}

/// As many merges as GPT-2 has, of any two bytes that are printable, and of these and a third.
fn made_up_merges(count: usize) -> String {
    let letters: Vec<char> = ('!'..='~').collect();
    let pairs = letters.iter().flat_map(|a| letters.iter().map(move |b| (a, b)));
    let longer = letters.iter().flat_map(|a| letters.iter().map(move |b| (a, b))).flat_map(|(a, b)| {
        let third = |c: char| format!("{a}{b} {c}\n");
        ('a'..='z').map(third).collect::<Vec<_>>()
    });
    let lines = pairs.map(|(a, b)| format!("{a} {b}\n")).chain(longer).take(count);
    format!("#version: 0.2\n{}", lines.collect::<String>())
}
