//! The file as a tree in which every key and value knows its line and column.
//!
//! Scalars stay as they were spelt; `read` gives them a type when it knows which one is wanted. Never forgets a place:
//! what was found wrong is marked as gone, not taken out, so that the rest keeps its numbers.

use std::collections::HashMap;

use super::path::{KeyPath, Seg};

mod yaml;

pub(super) use yaml::{parse, resolve};

/// A line and a column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

#[derive(Debug)]
pub(super) struct Node {
    pub at: Place,
    pub value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
    Gone(Gone),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub at: Place,
    pub value: Node,
}

/// Why something does not count.
#[derive(Debug)]
pub(super) enum Gone {
    /// Its value was wrong.
    Wrong,
    /// Its key was unknown; with the key that was probably meant.
    Unknown(Option<String>),
}

#[derive(Debug)]
pub(super) struct Scalar {
    pub text: String,
    /// Written without quotes, so that it may be a number, a boolean or null.
    pub plain: bool,
    /// The text before variables were put in. Messages quote this one, never a variable's value.
    pub written: Option<String>,
    /// It was one `${…}` and nothing else.
    pub whole: bool,
    /// It is empty because an empty default was written for the variable.
    pub optional: bool,
}

impl Scalar {
    pub fn written(&self) -> &str {
        self.written.as_ref().unwrap_or(&self.text)
    }

    pub fn is_null(&self) -> bool {
        self.plain && self.written.is_none() && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// Nothing was written, or the variable that stands here, in quotes or not, is empty.
    pub fn is_absent(&self) -> bool {
        self.is_null() || (self.whole && self.text.is_empty())
    }

    /// Whether it may be a number or a boolean. A variable may, also in the quotes that it needs between braces.
    pub fn may_be_typed(&self) -> bool {
        self.plain || self.whole
    }
}

impl Node {
    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    pub fn is_gone(&self) -> bool {
        matches!(self.value, Value::Gone(_))
    }

    /// Makes what is at the path as if nothing were written there, if it is a variable that is empty. Whether it was.
    pub fn unset(&mut self, path: &[Seg]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            let Value::Scalar(scalar) = &mut self.value else { return false };
            let is_empty_variable = scalar.whole && scalar.text.is_empty();
            if is_empty_variable {
                (scalar.plain, scalar.written, scalar.whole) = (true, None, false);
            }
            return is_empty_variable;
        };
        match (&mut self.value, first) {
            (Value::Map(entries), Seg::Key(key)) => {
                let entry = entries.iter_mut().find(|entry| entry.key == *key && !entry.value.is_gone());
                entry.is_some_and(|entry| entry.value.unset(rest))
            }
            (Value::List(items), Seg::Index(index)) => items.get_mut(*index).is_some_and(|item| item.unset(rest)),
            _ => false,
        }
    }

    /// Marks what is at the path as gone.
    pub fn remove(&mut self, path: &[Seg], why: Gone) {
        let Some((first, rest)) = path.split_first() else {
            self.value = Value::Gone(why);
            return;
        };
        let child = match (&mut self.value, first) {
            (Value::Map(entries), Seg::Key(key)) => {
                entries.iter_mut().find(|entry| entry.key == *key && !entry.value.is_gone()).map(|it| &mut it.value)
            }
            (Value::List(items), Seg::Index(index)) => items.get_mut(*index),
            _ => None,
        };
        if let Some(child) = child {
            child.remove(rest, why);
        }
    }

    /// The node at a path whose indices count every element, gone or not.
    pub fn find(&self, path: &[Seg]) -> Option<&Node> {
        path.iter().try_fold(self, |node, seg| match (&node.value, seg) {
            (Value::Map(entries), Seg::Key(key)) => {
                entries.iter().find(|entry| entry.key == *key && !entry.value.is_gone()).map(|entry| &entry.value)
            }
            (Value::List(items), Seg::Index(index)) => items.get(*index),
            _ => None,
        })
    }

    /// The scalar at a path, also when it is short for a mapping that the path goes into.
    pub fn scalar_at(&self, path: &[Seg]) -> Option<&Scalar> {
        let around = || path.split_last().and_then(|(_, around)| self.find(around));
        self.find(path).or_else(around).and_then(Node::scalar)
    }

    /// The place that a message about this path should name: a scalar where it stands, anything larger at its key; the
    /// nearest thing around it when the path is not in the file.
    pub fn place(&self, path: &[Seg]) -> Place {
        self.find_place(path, false, self.at)
    }

    /// The place of the key that the path ends with.
    pub fn key_place(&self, path: &[Seg]) -> Place {
        self.find_place(path, true, self.at)
    }

    /// `holder` is the key, or the item, that the node stands for.
    fn find_place(&self, path: &[Seg], of_key: bool, holder: Place) -> Place {
        let Some((first, rest)) = path.split_first() else { return holder };
        match (&self.value, first) {
            (Value::Map(entries), Seg::Key(key)) => {
                let mut named = entries.iter().filter(|entry| entry.key == *key);
                // Of keys that stand twice the one that still counts.
                let counts = named.clone().find(|entry| !entry.value.is_gone()).or_else(|| named.next());
                let Some(entry) = counts else { return holder };
                let seen = entry.value.scalar().is_some_and(|scalar| !scalar.is_null());
                let ends = rest.is_empty() && of_key;
                entry.value.find_place(rest, of_key, if seen && !ends { entry.value.at } else { entry.at })
            }
            (Value::List(items), Seg::Index(index)) => match items.get(*index) {
                Some(item) => item.find_place(rest, of_key, item.at),
                None => holder,
            },
            _ => holder,
        }
    }

    /// Marks keys that stand twice in one mapping as gone, all but the first, and says so.
    pub fn refuse_duplicates(&mut self, path: &mut KeyPath, wrong: &mut dyn FnMut(&KeyPath, Place, String)) {
        match &mut self.value {
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    path.push(Seg::Index(index));
                    item.refuse_duplicates(path, wrong);
                    path.pop();
                }
            }
            Value::Map(entries) => {
                let mut first_at: HashMap<String, Place> = HashMap::new();
                for entry in entries {
                    path.push(Seg::Key(entry.key.clone()));
                    match first_at.get(&entry.key) {
                        Some(first) => {
                            let line = first.line;
                            let message = format!("this key stands on line {line} already; keep one of the two");
                            wrong(path, entry.at, message);
                            entry.value.value = Value::Gone(Gone::Unknown(None));
                        }
                        None => {
                            first_at.insert(entry.key.clone(), entry.at);
                            entry.value.refuse_duplicates(path, wrong);
                        }
                    }
                    path.pop();
                }
            }
            Value::Scalar(_) | Value::Gone(_) => {}
        }
    }

    /// Turns a path whose indices count only what is left into one whose indices count every element of the file.
    pub fn original(&self, path: &KeyPath) -> KeyPath {
        let mut node = Some(self);
        let mut original = KeyPath::default();
        for seg in path.segs() {
            let (seg, next) = match (node.map(|node| &node.value), seg) {
                (Some(Value::List(items)), Seg::Index(index)) => {
                    match items.iter().enumerate().filter(|(_, item)| !item.is_gone()).nth(*index) {
                        Some((place, item)) => (Seg::Index(place), Some(item)),
                        None => (seg.clone(), None),
                    }
                }
                (Some(Value::Map(entries)), Seg::Key(key)) => {
                    let live = entries.iter().find(|entry| entry.key == *key && !entry.value.is_gone());
                    (seg.clone(), live.map(|entry| &entry.value))
                }
                _ => (seg.clone(), None),
            };
            original.push(seg);
            node = next;
        }
        original
    }

    /// Whether something in here was found wrong, so that what is said about the rest may be untrue.
    pub fn is_damaged(&self) -> bool {
        match &self.value {
            Value::Gone(Gone::Wrong | Gone::Unknown(Some(_))) => true,
            Value::Gone(Gone::Unknown(None)) | Value::Scalar(_) => false,
            Value::List(items) => items.iter().any(Node::is_damaged),
            Value::Map(entries) => entries.iter().any(|entry| entry.value.is_damaged()),
        }
    }
}
