//! Writes a small model of clips with random weights: `cargo run --example clip-model -- FOLDER`.

#[path = "mod.rs"]
mod clip_model;

fn main() {
    let out = std::env::args().nth(1).expect("usage: clip-model FOLDER");
    clip_model::write(out.as_ref(), &clip_model::small());
}
