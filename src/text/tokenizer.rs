//! Byte-level BPE as CLIP's tokenizer does it: `clip/simple_tokenizer.py` of openai/CLIP at
//! 2558ec83f8fdfd5b500bf0c7255d1f53b5dbf588, with what Hugging Face's CLIPTokenizer does to the text before (NFC, one space
//! for each run of white space, lower case), which is what U-ViT, UniDiffuser and Stable Diffusion call.
//!
//! A byte is a symbol, written as a printable character; a word's last symbol ends in `</w>`. Ids: 256 symbols, 256 with
//! `</w>`, the merges in order, `<|startoftext|>`, `<|endoftext|>`.

use super::pieces::{Piece, pieces};
use crate::{Code, Error, Result};

/// Symbols without and with the end of a word.
const SYMBOLS: usize = 512;

/// CLIP's merges, or some of them.
pub struct Tokenizer {
    /// The two ids that a merge joins, and the id that it makes, which is its rank too; sorted.
    merges: Vec<((u32, u32), u32)>,
    /// Ids without the two special ones.
    symbols: u32,
}

/// Bytes, and whether a word ends behind them.
type Symbol = (Vec<u8>, bool);

/// Bytes of a word that are read, at most: many times what fits, so that a text without spaces takes no long time.
const LONGEST_WORD: usize = 4096;

/// A text as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// As long as asked for: start, the text, end, padding.
    pub ids: Vec<u32>,
    /// The word that did not fit whole, in lower case, if one did not: behind it nothing is read.
    pub left_out: Option<String>,
}

/// Whether a byte is its own character in a file of merges.
fn is_printable(byte: &u8) -> bool {
    matches!(byte, 33..=126 | 161..=172 | 174..=255)
}

/// The bytes in the order of their symbols: those that are printable, then the others.
fn in_order() -> Vec<u8> {
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

impl Tokenizer {
    /// Reads a file of merges, one a line after a header, as CLIP publishes them.
    ///
    /// # Errors
    /// `BAD_MANIFEST` naming the line that is none.
    pub fn new(merges: &str) -> Result<Tokenizer> {
        let characters = characters();
        let symbol = |written: &str| -> Option<Symbol> {
            let (text, ends) = written.strip_suffix("</w>").map_or((written, false), |text| (text, true));
            let byte = |c: char| characters.binary_search_by_key(&c, |at| at.0).ok().map(|at| characters[at].1);
            text.chars().map(byte).collect::<Option<Vec<u8>>>().map(|bytes| (bytes, ends))
        };
        let bad = |line: &str| {
            let cause = format!("the tokenizer's merge \"{line}\" does not join two symbols that are there before it");
            Error::new(Code::BadManifest, cause, "Convert the model again, with its own merges.txt")
        };
        let mut spelled: Vec<Symbol> = Vec::new();
        for ends in [false, true] {
            spelled.extend(in_order().into_iter().map(|byte| (vec![byte], ends)));
        }
        let lines: Vec<&str> = merges.lines().skip(1).filter(|line| !line.is_empty()).collect();
        let mut pairs = Vec::with_capacity(lines.len());
        for line in &lines {
            let pair = line.split_once(' ').and_then(|(left, right)| Some((symbol(left)?, symbol(right)?)));
            let (left, right) = pair.filter(|(left, _)| !left.1).ok_or_else(|| bad(line))?;
            spelled.push(([left.0.as_slice(), &right.0].concat(), right.1));
            pairs.push((left, right));
        }
        let mut by_symbol: Vec<u32> = (0..spelled.len() as u32).collect();
        by_symbol.sort_unstable_by_key(|&id| &spelled[id as usize]);
        let id = |symbol: &Symbol, before: u32| {
            let at = by_symbol.binary_search_by_key(&symbol, |&id| &spelled[id as usize]).ok()?;
            Some(by_symbol[at]).filter(|&id| id < before)
        };
        let merge = |(rank, (left, right)): (usize, &(Symbol, Symbol))| {
            let made = (SYMBOLS + rank) as u32;
            id(left, made).zip(id(right, made)).map(|pair| (pair, made)).ok_or_else(|| bad(lines[rank]))
        };
        let mut merges = pairs.iter().enumerate().map(merge).collect::<Result<Vec<_>>>()?;
        merges.sort_unstable();
        Ok(Tokenizer { merges, symbols: spelled.len() as u32 })
    }

    /// How many ids there are.
    pub fn vocabulary(&self) -> usize {
        self.symbols as usize + 2
    }

    /// The id of `<|startoftext|>`.
    pub fn start(&self) -> u32 {
        self.symbols
    }

    /// The id of `<|endoftext|>`.
    pub fn end(&self) -> u32 {
        self.start() + 1
    }

    /// The text as `length` ids: start, at most `length - 2` of the text, end, and as many of `pad` as it takes.
    pub fn encode(&self, text: &str, length: usize, pad: u32) -> Encoded {
        let length = length.max(2);
        let mut ids = vec![self.start()];
        let mut left_out = None;
        for piece in pieces(text) {
            let of_piece = match &piece {
                Piece::Start => vec![self.start()],
                Piece::End => vec![self.end()],
                Piece::Word(word) => self.word(word),
            };
            ids.extend(of_piece);
            if ids.len() >= length {
                left_out = Some(piece.text().to_owned());
                break;
            }
        }
        ids.truncate(length - 1);
        ids.push(self.end());
        ids.resize(length, pad);
        Encoded { ids, left_out }
    }

    /// A word's ids: of all pairs that a merge joins, the one of the lowest rank first, wherever it is.
    fn word(&self, word: &str) -> Vec<u32> {
        let order = in_order();
        let symbol = |byte: u8| order.iter().position(|&other| other == byte).unwrap_or(0) as u32;
        let mut ids: Vec<u32> = word.bytes().take(LONGEST_WORD).map(symbol).collect();
        if let Some(last) = ids.last_mut() {
            *last += SYMBOLS as u32 / 2;
        }
        loop {
            let merge = |pair: &[u32]| {
                let pair = (pair[0], pair[1]);
                self.merges.binary_search_by_key(&pair, |merge| merge.0).ok().map(|at| self.merges[at])
            };
            let Some((pair, made)) = ids.windows(2).filter_map(merge).min_by_key(|merge| merge.1) else { return ids };
            let mut joined = Vec::with_capacity(ids.len());
            let mut at = 0;
            while at < ids.len() {
                let found = ids.get(at..at + 2) == Some(&[pair.0, pair.1]);
                joined.push(if found { made } else { ids[at] });
                at += 1 + usize::from(found);
            }
            ids = joined;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MERGES: &str = "#version: 0.2\nc a\nca t</w>\nd o\ndo g</w>\na t</w>\n";
    const PAD: u32 = 9999;

    fn id(symbol: u8) -> u32 {
        in_order().iter().position(|&byte| byte == symbol).unwrap() as u32
    }

    #[test]
    fn the_earliest_merge_comes_first_and_words_end() {
        let tokenizer = Tokenizer::new(MERGES).unwrap();
        let (cat, dog, start, end) = (513, 515, 517, 518);
        assert_eq!((tokenizer.vocabulary(), tokenizer.start(), tokenizer.end()), (519, start, end));
        let encode = |text: &str| tokenizer.encode(text, 8, PAD).ids;
        assert_eq!(encode("a Cat, DOG"), [start, 256 + id(b'a'), cat, 256 + id(b','), dog, end, PAD, PAD]);
        // "c a" is before "a t</w>", which then finds no a.
        assert_eq!(encode("cats"), [start, 512, id(b't'), 256 + id(b's'), end, PAD, PAD, PAD]);
        assert_eq!(encode("  \t\n "), [start, end, PAD, PAD, PAD, PAD, PAD, PAD]);
        assert_eq!(encode("<|endoftext|>cat<|startoftext|>")[..5], [start, end, cat, start, end]);
        // One byte of UTF-8 a symbol.
        assert_eq!(encode("\u{e9}")[1..4], [id(0xc3), 256 + id(0xa9), end]);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let tokenizer = Tokenizer::new(MERGES).unwrap();
        let encode = |text: &str, length| tokenizer.encode(text, length, PAD);
        assert_eq!(encode("cat dog", 4), Encoded { ids: vec![517, 513, 515, 518], left_out: None });
        assert_eq!(encode("cat dog Ca t", 4), Encoded { ids: vec![517, 513, 515, 518], left_out: Some("ca".into()) });
        let cut = encode("cat dogs", 5);
        assert_eq!((cut.ids, cut.left_out), (vec![517, 513, 514, id(b'g'), 518], Some("dogs".into())));
        assert_eq!(encode("cat", 0), Encoded { ids: vec![517, 518], left_out: Some("cat".into()) });
        let long = encode(&"dog".repeat(1 << 20), 77);
        assert!(long.ids.len() == 77 && long.left_out.is_some());
    }

    #[test]
    fn merges_of_what_is_not_there_are_refused_by_their_line() {
        for (merges, line) in [
            ("#\nc a\nab c", "\"ab c\""),
            ("#\nca t\nc a", "\"ca t\""),
            ("#\nca", "\"ca\""),
            ("#\na</w> b", "a</w> b"),
            ("#\na \u{20ac}", "\u{20ac}"),
        ] {
            let error = Tokenizer::new(merges).err().unwrap();
            assert!(error.code == Code::BadManifest && error.cause.contains(line), "{error}");
        }
        assert_eq!(Tokenizer::new("").unwrap().vocabulary(), 514);
    }
}
