//! The opcodes of pickles: a machine with a stack and a memo that makes nodes. Nothing that a pickle names is imported or run.

use super::pickle::{Id, Node};

/// Follows the opcodes up to the last; all nodes, and which is the outermost.
pub fn follow(bytes: &[u8]) -> Result<(Vec<Node>, Id), String> {
    let mut machine =
        Machine { bytes, at: 0, nodes: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: Vec::new() };
    while machine.step()? {}
    let root = machine.pop()?;
    Ok((machine.nodes, root))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: Vec<Option<Id>>,
}

/// A memo's numbers are dense: more than this is no pickle that anybody wrote.
const MOST_MEMO: usize = 1 << 26;

impl<'a> Machine<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or("the pickle ends in the middle of a value")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// A little-endian number without sign.
    fn number(&mut self, count: usize) -> Result<usize, String> {
        let value = self.take(count)?.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        usize::try_from(value).map_err(|_| "a length in the pickle is too large".into())
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&b| b == b'\n').ok_or("the pickle ends in the middle of a line")?;
        self.at += length + 1;
        // Protocol 0 writes Latin-1.
        Ok(String::from_utf8_lossy(&rest[..length]).trim_end().to_owned())
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn push_text(&mut self, bytes: &[u8]) {
        self.push(Node::Text(String::from_utf8_lossy(bytes).into_owned()));
    }

    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the pickle takes a value that is not there".into());
        }
        self.stack.pop().ok_or_else(|| "the pickle takes a value that is not there".into())
    }

    fn last(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| "the pickle takes a value that is not there".into())
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, String> {
        let height = self.marks.pop().ok_or("the pickle takes a mark that is not there")?;
        Ok(self.stack.split_off(height))
    }

    fn tuple(&mut self, count: usize) -> Result<(), String> {
        let mut elements = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        elements.reverse();
        self.push(Node::List(elements));
        Ok(())
    }

    fn entries(values: &[Id]) -> Result<impl Iterator<Item = (Id, Id)>, String> {
        let (pairs, rest) = values.as_chunks::<2>();
        if rest.is_empty() {
            Ok(pairs.iter().map(|&[k, v]| (k, v)))
        } else {
            Err("a dict has a key without a value".into())
        }
    }

    fn add_entries(&mut self, values: &[Id]) -> Result<(), String> {
        let into = self.last()?;
        match &mut self.nodes[into] {
            Node::Dict(entries) | Node::Object { entries, .. } => {
                entries.extend(Self::entries(values)?);
                Ok(())
            }
            _ => Err("the pickle sets entries of something that is no dict".into()),
        }
    }

    fn add_elements(&mut self, values: &[Id]) -> Result<(), String> {
        let into = self.last()?;
        match &mut self.nodes[into] {
            Node::List(elements) | Node::Object { elements, .. } => {
                elements.extend(values);
                Ok(())
            }
            _ => Err("the pickle appends to something that is no list".into()),
        }
    }

    fn object(&mut self, callable: Id, called: bool, arguments: Id) {
        let class = match &self.nodes[callable] {
            Node::Class(name) => name.as_str(),
            _ => "",
        };
        if !matches!(
            class,
            "collections.OrderedDict" | "collections.defaultdict" | "builtins.dict" | "__builtin__.dict"
        ) {
            return self.push(Node::Object {
                callable,
                called,
                arguments,
                state: None,
                entries: Vec::new(),
                elements: Vec::new(),
            });
        }
        // Python 2 hands an OrderedDict its entries as a list of pairs.
        let list = |id: Id| match &self.nodes[id] {
            Node::List(elements) => elements.as_slice(),
            _ => &[],
        };
        let pairs = list(arguments).first().map_or(&[][..], |&pairs| list(pairs));
        let entries = pairs.iter().filter_map(|&pair| list(pair).as_array::<2>().map(|&[k, v]| (k, v))).collect();
        self.push(Node::Dict(entries));
    }

    fn remember(&mut self, at: usize) -> Result<(), String> {
        if at >= MOST_MEMO.min(self.bytes.len() + 1) {
            return Err(format!("the pickle remembers a value as number {at}"));
        }
        let id = self.last()?;
        self.memo.resize(self.memo.len().max(at + 1), None);
        self.memo[at] = Some(id);
        Ok(())
    }

    fn recall(&mut self, at: usize) -> Result<(), String> {
        let id = self.memo.get(at).copied().flatten();
        self.stack.push(id.ok_or_else(|| format!("the pickle recalls value {at}, which it never made"))?);
        Ok(())
    }

    fn line_number(&mut self) -> Result<usize, String> {
        let line = self.line()?;
        line.parse().map_err(|_| format!("{line:?} is no number"))
    }

    fn long(&mut self, bytes: &[u8]) {
        // Longer ones are random seeds and the like.
        self.push(match bytes.len() {
            0 => Node::Int(0),
            n @ 1..=8 => {
                let mut wide = [if bytes[n - 1] & 0x80 == 0 { 0 } else { 0xff }; 8];
                wide[..n].copy_from_slice(bytes);
                Node::Int(i64::from_le_bytes(wide))
            }
            _ => Node::Other,
        });
    }

    /// Follows one opcode; false at the last.
    fn step(&mut self) -> Result<bool, String> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => return Ok(false),
            0x80 => drop(self.take(1)?), // PROTO
            0x95 => drop(self.take(8)?), // FRAME
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                // POP also takes a mark.
                match self.marks.pop_if(|height| *height == self.stack.len()) {
                    Some(_) => {}
                    None => _ = self.pop()?,
                }
            }
            b'1' => drop(self.since_mark()?),
            b'2' => self.stack.push(self.last()?),
            b'N' => self.push(Node::Other),
            0x88 => self.push(Node::Int(1)),
            0x89 => self.push(Node::Int(0)),
            b'I' | b'L' => {
                let line = self.line()?;
                self.push(line.trim_end_matches('L').parse().map_or(Node::Other, Node::Int));
            }
            b'J' => {
                let value = self.number(4)?;
                self.push(Node::Int(i64::from(value as u32 as i32)));
            }
            b'K' | b'M' => {
                let value = self.number(if opcode == b'K' { 1 } else { 2 })?;
                self.push(Node::Int(value as i64));
            }
            0x8a | 0x8b => {
                let length = self.number(if opcode == 0x8a { 1 } else { 4 })?;
                let bytes = self.take(length)?;
                self.long(bytes);
            }
            b'F' => {
                self.line()?;
                self.push(Node::Other);
            }
            b'G' => {
                self.take(8)?;
                self.push(Node::Other);
            }
            b'S' => {
                let line = self.line()?;
                self.push_text(line.trim_matches(['\'', '"']).as_bytes());
            }
            b'V' => {
                let line = self.line()?;
                self.push_text(line.as_bytes());
            }
            b'U' | b'T' | b'X' | 0x8c | 0x8d => {
                let length = self.number(match opcode {
                    b'U' | 0x8c => 1,
                    0x8d => 8,
                    _ => 4,
                })?;
                let bytes = self.take(length)?;
                self.push_text(bytes);
            }
            b'C' | b'B' | 0x8e | 0x96 => {
                let length = self.number(match opcode {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                })?;
                self.take(length)?;
                self.push(Node::Other);
            }
            b')' | b']' | 0x8f => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b't' | b'l' | 0x91 => {
                let elements = self.since_mark()?;
                self.push(Node::List(elements));
            }
            0x85..=0x87 => self.tuple(usize::from(opcode - 0x84))?,
            b'd' => {
                let values = self.since_mark()?;
                let entries = Self::entries(&values)?.collect();
                self.push(Node::Dict(entries));
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.add_entries(&[key, value])?;
            }
            b'u' => {
                let values = self.since_mark()?;
                self.add_entries(&values)?;
            }
            b'a' => {
                let value = self.pop()?;
                self.add_elements(&[value])?;
            }
            b'e' | 0x90 => {
                let values = self.since_mark()?;
                self.add_elements(&values)?;
            }
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                self.push(Node::Class(name));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let [Node::Text(name), Node::Text(module)] = [&self.nodes[name], &self.nodes[module]] else {
                    return Err("a class of the pickle has no name".into());
                };
                self.push(Node::Class(format!("{module}.{name}")));
            }
            0x82..=0x84 => {
                self.take(1 << (opcode - 0x82))?;
                self.push(Node::Other);
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.object(callable, opcode == b'R', arguments);
            }
            0x92 => {
                let (_named, arguments, callable) = (self.pop()?, self.pop()?, self.pop()?);
                self.object(callable, false, arguments);
            }
            b'i' | b'o' => {
                if opcode == b'i' {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    let height = *self.marks.last().ok_or("the pickle takes a mark that is not there")?;
                    self.push(Node::Class(name));
                    let class = self.pop()?;
                    self.stack.insert(height, class);
                }
                let mut values = self.since_mark()?;
                if values.is_empty() {
                    return Err("an object of the pickle has no class".into());
                }
                let callable = values.remove(0);
                self.push(Node::List(values));
                let arguments = self.pop()?;
                self.object(callable, true, arguments);
            }
            b'b' => {
                let given = self.pop()?;
                let into = self.last()?;
                // What a dict gets here are attributes, such as the versions of a state_dict's modules.
                if let Node::Object { state, .. } = &mut self.nodes[into] {
                    *state = Some(given);
                }
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            b'P' => {
                self.line()?;
                self.push(Node::Other);
            }
            0x97 => self.push(Node::Other),
            0x98 => {}
            b'p' => {
                let at = self.line_number()?;
                self.remember(at)?;
            }
            b'q' | b'r' => {
                let at = self.number(if opcode == b'q' { 1 } else { 4 })?;
                self.remember(at)?;
            }
            0x94 => self.remember(self.memo.len())?,
            b'g' => {
                let at = self.line_number()?;
                self.recall(at)?;
            }
            b'h' | b'j' => {
                let at = self.number(if opcode == b'h' { 1 } else { 4 })?;
                self.recall(at)?;
            }
            other => return Err(format!("the pickle has the unknown opcode {other:#04x}")),
        }
        Ok(true)
    }
}
