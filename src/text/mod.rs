//! From text to the ids of tokens: CLIP's byte-level BPE. Nothing here knows networks or devices.

mod pieces;
mod tokenizer;

pub use tokenizer::{Encoded, Tokenizer};
