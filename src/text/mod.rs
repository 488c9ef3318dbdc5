//! From text to the ids of tokens, and back: CLIP's byte-level BPE, and what GPT-2's spells. Nothing here knows networks or devices.

mod pieces;
mod symbols;
mod tokenizer;

pub use symbols::{Spelling, Symbols};
pub use tokenizer::{Encoded, Padding, Tokenizer};
