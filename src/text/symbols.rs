//! What the ids of a byte-level BPE spell: bytes, and what merges make of them. CLIP's (see [`super::Tokenizer`]) and GPT-2's
//! (`src/encoder.py` of openai/gpt-2), whose words begin with their space, so that no symbol says where one ends.

use crate::{Code, Error, Result};
use std::ops::Range;

/// Whose symbols they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// 256 symbols, 256 with `</w>`, the merges in order; then special ids.
    Clip,
    /// 256 symbols, the merges in order; then special ids.
    Gpt2,
}

impl Spelling {
    /// Symbols that are one byte.
    fn bytes(self) -> u32 {
        match self {
            Spelling::Clip => 512,
            Spelling::Gpt2 => 256,
        }
    }
}

/// The symbols of a file of merges.
pub struct Symbols {
    spelling: Spelling,
    /// The two ids that each merge joins.
    merges: Vec<(u32, u32)>,
}

/// Bytes, and whether a word ends behind them.
type Symbol = (Vec<u8>, bool);

/// Whether a byte is its own character in a file of merges.
fn is_printable(byte: &u8) -> bool {
    matches!(byte, 33..=126 | 161..=172 | 174..=255)
}

/// The bytes in the order of their symbols: those that are printable, then the others.
pub(super) fn in_order() -> Vec<u8> {
    let (mut all, others): (Vec<u8>, Vec<u8>) = (0..=255).partition(is_printable);
    all.extend(others);
    all
}

/// The characters that stand for bytes in a file of merges; the others are 256 and up.
fn characters() -> Vec<(char, u8)> {
    let mut all = Vec::new();
    let mut others = '\u{100}'..;
    for byte in in_order() {
        let character = if is_printable(&byte) { Some(char::from(byte)) } else { others.next() };
        all.extend(character.map(|character| (character, byte)));
    }
    all.sort_unstable();
    all
}

impl Symbols {
    /// Reads a file of merges, one a line after a header.
    ///
    /// # Errors
    /// `BAD_MANIFEST` naming the line that is none.
    pub fn new(merges: &str, spelling: Spelling) -> Result<Symbols> {
        let characters = characters();
        let symbol = |written: &str| -> Option<Symbol> {
            let end = if spelling == Spelling::Clip { written.strip_suffix("</w>") } else { None };
            let (text, ends) = end.map_or((written, false), |text| (text, true));
            let mut bytes = Vec::with_capacity(text.len());
            for c in text.chars() {
                let at = characters.binary_search_by_key(&c, |at| at.0).ok()?;
                bytes.push(characters[at].1);
            }
            Some((bytes, ends))
        };
        let bad = |line: &str| {
            let cause = format!("the tokenizer's merge \"{line}\" does not join two symbols that are there before it");
            Error::new(Code::BadManifest, cause, "Convert the model again, with its own merges.txt")
        };
        let bytes = in_order();
        let mut spelled: Vec<Symbol> = Vec::new();
        for id in 0..spelling.bytes() as usize {
            spelled.push((vec![bytes[id % 256]], id >= 256));
        }
        let mut pairs = Vec::new();
        for line in merges.lines().skip(1) {
            if line.is_empty() {
                continue;
            }
            let pair = line.split_once(' ').and_then(|(left, right)| Some((symbol(left)?, symbol(right)?)));
            let (left, right) = pair.filter(|(left, _)| !left.1).ok_or_else(|| bad(line))?;
            spelled.push(([left.0.as_slice(), &right.0].concat(), right.1));
            pairs.push((line, left, right));
        }
        let mut by_symbol: Vec<u32> = (0..spelled.len() as u32).collect();
        by_symbol.sort_unstable_by_key(|&id| &spelled[id as usize]);
        let id = |symbol: &Symbol, before: u32| {
            let at = by_symbol.binary_search_by_key(&symbol, |&id| &spelled[id as usize]).ok()?;
            Some(by_symbol[at]).filter(|&id| id < before)
        };
        let mut merges = Vec::with_capacity(pairs.len());
        for (line, left, right) in &pairs {
            let made = spelling.bytes() + merges.len() as u32;
            merges.push(id(left, made).zip(id(right, made)).ok_or_else(|| bad(line))?);
        }
        Ok(Symbols { spelling, merges })
    }

    /// How many there are; ids from there on are special.
    pub fn count(&self) -> u32 {
        self.merged().end
    }

    /// Those that are one byte.
    pub(super) fn bytes(&self) -> u32 {
        self.spelling.bytes()
    }

    /// Those that merges make.
    pub(super) fn merged(&self) -> Range<u32> {
        self.bytes()..self.bytes() + self.merges.len() as u32
    }

    /// What a merge joins, if one makes the symbol.
    pub(super) fn pair(&self, id: u32) -> Option<(u32, u32)> {
        self.merges.get(id.checked_sub(self.bytes())? as usize).copied()
    }

    /// The text of some ids, special ones left out: of CLIP's a space behind every word but before a comma. Bytes that are no UTF-8
    /// become U+FFFD.
    pub fn text(&self, ids: &[u32]) -> String {
        let order = in_order();
        let mut bytes = Vec::new();
        let mut left: Vec<u32> = ids.iter().rev().copied().collect();
        while let Some(id) = left.pop() {
            if let Some((first, second)) = self.pair(id) {
                left.extend([second, first]);
            } else if id < self.bytes() {
                let byte = order[id as usize % 256];
                if self.spelling == Spelling::Clip && byte == b',' && bytes.last() == Some(&b' ') {
                    bytes.pop();
                }
                bytes.push(byte);
                if id >= 256 {
                    bytes.push(b' ');
                }
            }
        }
        spelled(&bytes).trim().to_owned()
    }
}

/// Bytes as a text; `String::from_utf8_lossy` is the same, and more to load.
fn spelled(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    loop {
        let error = match std::str::from_utf8(bytes) {
            Ok(valid) => return text + valid,
            Err(error) => error,
        };
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        text += std::str::from_utf8(valid).unwrap_or_default();
        text.push(char::REPLACEMENT_CHARACTER);
        bytes = &rest[error.error_len().unwrap_or(rest.len())..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_replaced_as_the_standard_library_does() {
        for bytes in [&b"cat"[..], b"", b"\xff\xfecat\xe2\x82", b"\xe2\x82a\xf0\x9f\x98\x80\xf0\x9f", b"\xed\xa0\x80,"]
        {
            assert_eq!(spelled(bytes), String::from_utf8_lossy(bytes));
        }
    }

    fn id(byte: u8) -> u32 {
        in_order().iter().position(|&other| other == byte).unwrap() as u32
    }

    #[test]
    fn ids_spell_what_merges_have_joined() {
        let symbols = Symbols::new("#version: 0.2\nc a\nca t</w>\nd o\ndo g</w>\na t</w>\n", Spelling::Clip).unwrap();
        let (cat, dog, comma) = (513, 515, 256 + id(b','));
        assert_eq!(symbols.count(), 517);
        assert_eq!(symbols.text(&[517, cat, comma, dog, 518]), "cat, dog");
        // A piece of a word stays with what follows; a comma within a word is no space's business.
        assert_eq!(symbols.text(&[512, id(b','), 256 + id(b's'), cat]), "ca,s cat");
        assert_eq!(symbols.text(&[]), "");
        assert_eq!(symbols.text(&[comma, comma, cat]), ",, cat");
        assert_eq!(symbols.text(&[id(0xc3), 256 + id(0xa9), id(0xff), cat]), "\u{e9} \u{fffd}cat");
        assert_eq!(symbols.text(&[id(b' '), id(b'\n'), cat, u32::MAX]), "cat");
    }

    #[test]
    fn gpt2s_words_begin_with_their_space() {
        // "\u{120}" stands for a space.
        let symbols = Symbols::new("#version: 0.2\n\u{120} a\n\u{120}a t\nc a\n", Spelling::Gpt2).unwrap();
        assert_eq!((symbols.count(), symbols.bytes()), (259, 256));
        let (a, at, ca) = (256, 257, 258);
        assert_eq!(symbols.text(&[a, id(b' '), ca, id(b't'), at, 259, id(b' '), id(b','), 50256]), "a cat at ,");
        assert_eq!(symbols.text(&[id(0xe2), id(0x82), id(0xac), id(0xe2), a]), "\u{20ac}\u{fffd} a");
        // No symbol ends a word.
        assert!(Symbols::new("#\na t</w>", Spelling::Gpt2).is_err());
        assert_eq!(Symbols::new("#\n< /\n</ w\n</w >", Spelling::Gpt2).unwrap().text(&[258]), "</w>");
    }
}
