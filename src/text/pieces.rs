//! Where a text falls into words, by the classes of Unicode: `regex` natively, the engine's own expressions in the browser, which
//! has the tables of cases and forms as well.

/// A part of a text that no merge crosses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// `<|startoftext|>`.
    Start,
    /// `<|endoftext|>`.
    End,
    /// What texts are filled up with, where that may stand in a text.
    Pad(String),
    /// Anything else.
    Word(String),
}

impl Piece {
    /// As it was written.
    pub fn text(&self) -> &str {
        match self {
            Piece::Start => START,
            Piece::End => END,
            Piece::Word(word) | Piece::Pad(word) => word,
        }
    }
}

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// Contractions, letters, single numbers, and runs of what is neither these nor white space.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+";

/// The pieces of a text: special tokens as they are written, words of what lies between in NFC and lower case. `pad` is one of the
/// special tokens, unless it is empty.
pub fn pieces(text: &str, pad: &str) -> Vec<Piece> {
    let mut all = Vec::new();
    let mut rest = text;
    // The library's search is made for long texts, and 1 kB to load.
    let find = |text: &str, token: &str| text.as_bytes().windows(token.len()).position(|part| part == token.as_bytes());
    let tokens = [START, END, pad];
    let tokens = if pad.is_empty() { &tokens[..2] } else { &tokens[..] };
    loop {
        let next = tokens.iter().filter_map(|token| Some((find(rest, token)?, *token))).min();
        let (at, token) = next.unwrap_or((rest.len(), ""));
        all.extend(words(&lowered(&composed(&rest[..at]))).into_iter().map(Piece::Word));
        match token {
            "" => return all,
            START => all.push(Piece::Start),
            END => all.push(Piece::End),
            pad => all.push(Piece::Pad(pad.to_owned())),
        }
        rest = &rest[at + token.len()..];
    }
}

/// Lower case, character by character.
#[cfg(not(target_arch = "wasm32"))]
fn lowered(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

#[cfg(not(target_arch = "wasm32"))]
fn composed(text: &str) -> String {
    unicode_normalization::UnicodeNormalization::nfc(text).collect()
}

#[cfg(not(target_arch = "wasm32"))]
fn words(text: &str) -> Vec<String> {
    use std::sync::LazyLock;
    #[allow(clippy::unwrap_used)] // the expression is a constant
    static EXPRESSION: LazyLock<regex::Regex> = LazyLock::new(|| regex::Regex::new(WORDS).unwrap());
    EXPRESSION.find_iter(text).map(|word| word.as_str().to_owned()).collect()
}

#[cfg(target_arch = "wasm32")]
fn lowered(text: &str) -> String {
    // One by one: of a whole word, the engine would lower a last sigma otherwise.
    let lower = |c: char| String::from(js_sys::JsString::from(c).to_lower_case());
    text.chars().map(lower).collect()
}

#[cfg(target_arch = "wasm32")]
fn composed(text: &str) -> String {
    js_sys::JsString::from(text).normalize("NFC").into()
}

#[cfg(target_arch = "wasm32")]
fn words(text: &str) -> Vec<String> {
    let expression = js_sys::RegExp::new(WORDS, "gu");
    let found = js_sys::JsString::from(text).match_(&expression);
    // Null where there is none.
    found.map_or(Vec::new(), |all| js_sys::Array::from(&all).iter().filter_map(|word| word.as_string()).collect())
}
