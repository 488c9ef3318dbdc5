//! One network's tensors under the names of several libraries. Networks use one of them, for autoencoders diffusers'; a file
//! has another: the code that they were published with first (CompVis/latent-diffusion), and diffusers before 0.17. UniDiffuser's and
//! DiT's are the other way round: their networks have the names of their authors, and a folder of diffusers its own. The tables are in
//! [`super::spellings`].

use super::made::Made;

/// A library's name for a part of a network, and another's. `#` is a number; `$` the last one, which is one below the number of levels;
/// `^` one that counts levels from the other end; `+` the next one. `NAME@1/3` is the second of three parts of NAME, one below the other.
pub type Names = [(&'static str, &'static str)];

/// A spelling of a network's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spelling {
    pub names: &'static Names,
    /// Of an autoencoder, or blocks of a transformer.
    pub levels: usize,
    /// What a file has beside the network's tensors, in this spelling: the beginnings of names.
    pub beside: &'static [&'static str],
    /// What every block of a file has, and the network once: the beginnings of names with the block's number. Block 0's are taken.
    pub repeated: &'static [&'static str],
    /// What the network has and the file leaves out.
    pub made: &'static [(&'static str, Made)],
    /// A square table of positions, `[1, side^2, dim]`, of which the network has the middle: its name in the file.
    pub cropped: &'static str,
}

/// One of several equal parts of a file's tensor, one below the other; mostly all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The tensor's name.
    pub name: String,
    /// Which part.
    pub at: usize,
    /// How many there are.
    pub of: usize,
}

impl Part {
    /// A part as [`Names`] writes it.
    pub fn read(said: &str) -> Part {
        let number = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let read = || {
            let (before, part) = said.split_once('@')?;
            let (at, of) = part.split_once('/')?;
            let (of, after) = of.split_at(number(of));
            Some(Part { name: format!("{before}{after}"), at: at.parse().ok()?, of: of.parse().ok()? })
        };
        read().unwrap_or_else(|| Part { name: said.to_owned(), at: 0, of: 1 })
    }
}

impl Spelling {
    /// A network's name in this spelling; with a list in braces, if that is several tensors, one below the other.
    pub fn spell(&self, name: &str) -> String {
        self.names.iter().fold(name.to_owned(), |name, &(ours, theirs)| translate(&name, ours, theirs, self.levels))
    }

    /// Whether a tensor belongs in the network's file without being one of its own.
    pub fn is_beside(&self, name: &str) -> bool {
        self.beside.iter().chain(self.repeated).any(|pattern| begins(name, pattern))
    }

    /// Whether a tensor of block 0 stands for those of all blocks.
    pub fn is_repeated(&self, name: &str) -> bool {
        self.repeated.iter().any(|pattern| begins(name, &pattern.replacen('#', "0", 1)))
    }

    /// Whether a tensor has the network's shape. A convolution of one pixel is a Linear.
    pub fn fits(&self, name: &str, shape: &[usize], wanted: &[usize]) -> bool {
        shape == wanted
            || wanted.len() == 2 && shape.strip_prefix(wanted) == Some(&[1, 1])
            || name == self.cropped && middle(shape, wanted).is_some()
    }
}

/// The sides of a square table and of its middle, if that has a row and a column as far from every side.
pub fn middle(shape: &[usize], wanted: &[usize]) -> Option<[usize; 2]> {
    let (&[1, all, dim], &[1, inner, same]) = (shape, wanted) else { return None };
    let sides = [all, inner].map(usize::isqrt);
    let [side, within] = sides;
    let square = side * side == all && within * within == inner && dim == same;
    (square && within <= side && (side - within).is_multiple_of(2)).then_some(sides)
}

fn begins(name: &str, pattern: &str) -> bool {
    let words: Vec<&str> = name.split('.').collect();
    matched(&words, &pattern.split('.').collect::<Vec<_>>(), 0).is_some()
}

/// A name with a part of it, between dots, said in another way; as it was if it has no such part.
pub fn translate(name: &str, from: &str, to: &str, levels: usize) -> String {
    let words: Vec<&str> = name.split('.').collect();
    let pattern: Vec<&str> = from.split('.').collect();
    let found = (0..words.len()).find_map(|at| Some((at, matched(words.get(at..)?, &pattern, levels)?)));
    let Some((at, numbers)) = found else { return name.to_owned() };
    let mut numbers = numbers.into_iter();
    let mut said: Vec<String> = words[..at].iter().map(ToString::to_string).collect();
    said.extend(to.split('.').map(|word| match word {
        "#" | "$" => numbers.next().unwrap_or(0).to_string(),
        "+" => (numbers.next().unwrap_or(0) + 1).to_string(),
        "^" => (levels.saturating_sub(1)).saturating_sub(numbers.next().unwrap_or(0)).to_string(),
        word => word.to_owned(),
    }));
    said.extend(words[at + pattern.len()..].iter().map(ToString::to_string));
    said.join(".")
}

/// The numbers in words that begin as the pattern says.
fn matched(words: &[&str], pattern: &[&str], levels: usize) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for (i, part) in pattern.iter().enumerate() {
        match (words.get(i)?, *part) {
            (word, "#" | "^") => numbers.push(word.parse().ok()?),
            (word, "$") => numbers.push(word.parse().ok().filter(|&number: &usize| number + 1 == levels)?),
            (word, part) if *word == part => {}
            _ => return None,
        }
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_tensor_are_read_off_its_name() {
        let part = |name: &str, at, of| Part { name: name.into(), at, of };
        assert_eq!(Part::read("blocks.0.attn.qkv@1/3.weight"), part("blocks.0.attn.qkv.weight", 1, 3));
        assert_eq!(Part::read("pos_embed"), part("pos_embed", 0, 1));
        assert_eq!(Part::read("a@b.weight"), part("a@b.weight", 0, 1));
    }

    #[test]
    fn the_middle_of_a_table_is_as_far_from_every_side() {
        assert_eq!(middle(&[1, 64, 8], &[1, 16, 8]), Some([8, 4]));
        assert_eq!(middle(&[1, 64, 8], &[1, 64, 8]), Some([8, 8]));
        for (shape, wanted) in
            [([1, 64, 8], [1, 9, 8]), ([1, 64, 8], [1, 16, 4]), ([1, 16, 8], [1, 64, 8]), ([1, 60, 8], [1, 16, 8])]
        {
            assert_eq!(middle(&shape, &wanted), None);
        }
        let spelling = Spelling { cropped: "pos_embed", ..Spelling::default() };
        assert!(spelling.fits("pos_embed", &[1, 64, 8], &[1, 16, 8]));
        assert!(!Spelling::default().fits("pos_embed", &[1, 64, 8], &[1, 16, 8]));
    }

    #[test]
    fn the_last_block_may_have_names_of_its_own() {
        let names: &Names = &[("blocks.$.norm", "b.$.last@{1/2,0/2}"), ("blocks.#.norm", "b.#.norm")];
        let spelling =
            Spelling { names: Box::leak(names.to_vec().into_boxed_slice()), levels: 3, ..Spelling::default() };
        assert_eq!(spelling.spell("blocks.1.norm.weight"), "b.1.norm.weight");
        assert_eq!(spelling.spell("blocks.2.norm.weight"), "b.2.last@{1/2,0/2}.weight");
    }
}
