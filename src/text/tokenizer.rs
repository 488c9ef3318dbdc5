//! Byte-level BPE as CLIP's tokenizer does it: `clip/simple_tokenizer.py` of openai/CLIP at
//! 2558ec83f8fdfd5b500bf0c7255d1f53b5dbf588, with what Hugging Face's CLIPTokenizer does to the text before (NFC, one space
//! for each run of white space, lower case), which is what U-ViT, UniDiffuser and Stable Diffusion call.
//!
//! A byte is a symbol, written as a printable character; a word's last symbol ends in `</w>`. Ids: 256 symbols, 256 with
//! `</w>`, the merges in order, `<|startoftext|>`, `<|endoftext|>`.

use super::pieces::{Piece, pieces};
use super::symbols::{Spelling, Symbols, in_order};
use crate::Result;

/// CLIP's merges, or some of them.
pub struct Tokenizer {
    symbols: Symbols,
    /// The symbols that merges make, by what they join.
    by_pair: Vec<u32>,
}

/// Bytes of a word that are read, at most: many times what fits, so that a text without spaces takes no long time.
const LONGEST_WORD: usize = 4096;

/// What fills a text up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Padding {
    /// Its id.
    pub id: u32,
    /// How it is written, if it is a token wherever it stands in a text; else empty.
    pub written: String,
}

impl From<u32> for Padding {
    fn from(id: u32) -> Padding {
        Padding { id, written: String::new() }
    }
}

/// A text as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// As long as asked for: start, the text, end, padding.
    pub ids: Vec<u32>,
    /// The word that did not fit whole, in lower case, if one did not: behind it nothing is read.
    pub left_out: Option<String>,
}

impl Tokenizer {
    /// Reads CLIP's file of merges, or the first part of one.
    ///
    /// # Errors
    /// Those of [`Symbols::new`].
    pub fn new(merges: &str) -> Result<Tokenizer> {
        let symbols = Symbols::new(merges, Spelling::Clip)?;
        let mut by_pair: Vec<u32> = symbols.merged().collect();
        by_pair.sort_unstable_by_key(|&id| symbols.pair(id));
        Ok(Tokenizer { symbols, by_pair })
    }

    /// How many ids there are.
    pub fn vocabulary(&self) -> usize {
        self.symbols.count() as usize + 2
    }

    /// The id of `<|startoftext|>`.
    pub fn start(&self) -> u32 {
        self.symbols.count()
    }

    /// The id of `<|endoftext|>`.
    pub fn end(&self) -> u32 {
        self.start() + 1
    }

    /// What a tokenizer whose `pad_token` is this fills texts up with: the end of a text; or a character of one byte, of which the
    /// id is that of its symbol within a word. CLIPTokenizer takes such a character for its pad token wherever it is written: of the one
    /// that Stable Diffusion XL and 3 call `tokenizer_2` that is `!`, id 0.
    pub fn padding(&self, pad_token: &str) -> Padding {
        match pad_token.as_bytes() {
            &[byte] => Padding { id: symbol(byte), written: pad_token.to_owned() },
            _ => self.end().into(),
        }
    }

    /// The text as `length` ids: start, at most `length - 2` of the text, end, and as many of `pad` as it takes.
    pub fn encode(&self, text: &str, length: usize, pad: &Padding) -> Encoded {
        let length = length.max(2);
        let mut ids = vec![self.start()];
        let mut left_out = None;
        for piece in pieces(text, &pad.written) {
            let of_piece = match &piece {
                Piece::Start => vec![self.start()],
                Piece::End => vec![self.end()],
                Piece::Pad(_) => vec![pad.id],
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
        ids.resize(length, pad.id);
        Encoded { ids, left_out }
    }

    /// A word's ids: of all pairs that a merge joins, the one of the lowest rank first, wherever it is.
    fn word(&self, word: &str) -> Vec<u32> {
        let mut ids: Vec<u32> = word.bytes().take(LONGEST_WORD).map(symbol).collect();
        if let Some(last) = ids.last_mut() {
            *last += self.symbols.bytes() / 2;
        }
        loop {
            let merge = |pair: &[u32]| {
                let pair = Some((pair[0], pair[1]));
                let at = self.by_pair.binary_search_by_key(&pair, |&id| self.symbols.pair(id)).ok()?;
                pair.zip(Some(self.by_pair[at]))
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

/// The symbol of a byte within a word.
fn symbol(byte: u8) -> u32 {
    in_order().iter().position(|&other| other == byte).unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

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
        let encode = |text: &str| tokenizer.encode(text, 8, &PAD.into()).ids;
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
        let encode = |text: &str, length| tokenizer.encode(text, length, &PAD.into());
        assert_eq!(encode("cat dog", 4), Encoded { ids: vec![517, 513, 515, 518], left_out: None });
        assert_eq!(encode("cat dog Ca t", 4), Encoded { ids: vec![517, 513, 515, 518], left_out: Some("ca".into()) });
        let cut = encode("cat dogs", 5);
        assert_eq!((cut.ids, cut.left_out), (vec![517, 513, 514, id(b'g'), 518], Some("dogs".into())));
        assert_eq!(encode("cat", 0), Encoded { ids: vec![517, 518], left_out: Some("cat".into()) });
        let long = encode(&"dog".repeat(1 << 20), 77);
        assert!(long.ids.len() == 77 && long.left_out.is_some());
    }

    #[test]
    fn a_pad_token_of_one_character_is_one_wherever_it_stands() {
        let tokenizer = Tokenizer::new(MERGES).unwrap();
        let (cat, dog, start, end) = (513, 515, 517, 518);
        assert_eq!(tokenizer.padding("<|endoftext|>"), end.into());
        let pad = tokenizer.padding("!");
        assert_eq!(pad, Padding { id: 0, written: "!".into() });
        let encode = |text: &str| tokenizer.encode(text, 8, &pad).ids;
        assert_eq!(encode("Cat!!dog"), [start, cat, 0, 0, dog, end, 0, 0]);
        assert_eq!(encode("!<|endoftext|>\u{ff01}")[..4], [start, 0, end, id(0xef)]);
        let cut = tokenizer.encode("cat!!", 4, &pad);
        assert_eq!((cut.ids, cut.left_out), (vec![start, cat, 0, end], Some("!".into())));
        assert_eq!(tokenizer.encode("cat!!", 4, &end.into()).left_out, Some("!!".into()));
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
