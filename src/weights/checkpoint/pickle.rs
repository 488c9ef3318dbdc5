//! Pickles, all protocols, as data: a tree of nodes, in which what a pickle would call is only written down. Nodes live in one list and refer to each other by number, so that neither cycles nor
//! depth matter here; who walks the tree must bound both.

use super::opcodes;

/// The number of a node in [`Pickle::nodes`].
pub type Id = usize;

/// What an opcode pushed.
#[derive(Debug)]
pub enum Node {
    /// A whole number.
    Int(i64),
    /// Text.
    Text(String),
    /// A tuple, a list or a set.
    List(Vec<Id>),
    /// A dict, an OrderedDict or a defaultdict.
    Dict(Vec<(Id, Id)>),
    /// `module.name`.
    Class(String),
    /// Something that Python would make by a call.
    Object {
        /// A [`Node::Class`], as a rule.
        callable: Id,
        /// Whether Python would call it, as a function; it would make an object without `__init__` otherwise.
        called: bool,
        /// A [`Node::List`].
        arguments: Id,
        /// What `__setstate__` would get.
        state: Option<Id>,
        /// Entries of a subclass of dict.
        entries: Vec<(Id, Id)>,
        /// Elements of a subclass of list.
        elements: Vec<Id>,
    },
    /// What lies outside of the pickle, by the description that PyTorch gives of a storage.
    Persistent(Id),
    /// None, a float, bytes.
    Other,
}

/// A pickle that was read.
pub struct Pickle {
    /// All nodes.
    pub nodes: Vec<Node>,
    /// The outermost one.
    pub root: Id,
}

impl Pickle {
    /// Reads the opcodes up to the last; an error says what is wrong with them.
    pub fn parse(bytes: &[u8]) -> Result<Pickle, String> {
        let (nodes, root) = opcodes::follow(bytes)?;
        Ok(Pickle { nodes, root })
    }

    /// The text of a node, if it is one.
    pub fn text(&self, id: Id) -> Option<&str> {
        match &self.nodes[id] {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn int(&self, id: Id) -> Option<i64> {
        match self.nodes[id] {
            Node::Int(value) => Some(value),
            _ => None,
        }
    }

    /// The elements of a tuple or list.
    pub fn list(&self, id: Id) -> Option<&[Id]> {
        match &self.nodes[id] {
            Node::List(elements) => Some(elements),
            _ => None,
        }
    }

    /// The name of a class.
    pub fn class(&self, id: Id) -> Option<&str> {
        match &self.nodes[id] {
            Node::Class(name) => Some(name),
            _ => None,
        }
    }
}
