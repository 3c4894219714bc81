//! What a stream has said so far of each item, for `decoder`.
//!
//! Keeps lengths, never text: the text has been sent on.

use crate::chat::{Delta, Event, Extra};

/// Parts and summaries that one item may have; what a wild index asks for beyond that is put into the last one.
const MAX_PARTS: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Item {
    /// `output_index`.
    pub at: u64,
    pub id: String,
    pub done: bool,
    /// Arguments that came before the call's name.
    pub early: String,
    /// Fields of a message that only this form knows, until its first block is opened.
    pub own: Extra,
    parts: Vec<(u64, Part)>,
    /// Bytes sent of each summary.
    summaries: Vec<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Part {
    /// The open block.
    pub block: Option<u32>,
    pub opened: bool,
    pub call: bool,
    /// Bytes of text sent.
    pub sent: usize,
    pub annotations: usize,
    pub logprobs: bool,
}

impl Item {
    pub fn new(at: u64, id: &str) -> Item {
        Item { at, id: id.to_owned(), ..Item::default() }
    }

    pub fn part(&mut self, index: u64) -> &mut Part {
        let last = self.parts.len().saturating_sub(1);
        let found = self.parts.iter().position(|(known, _)| *known == index);
        let at = match found {
            Some(at) => at,
            None if self.parts.len() >= MAX_PARTS => last,
            None => {
                self.parts.push((index, Part::default()));
                self.parts.len() - 1
            }
        };
        &mut self.parts[at].1
    }

    /// Adds to the bytes sent of a summary; gives the sum.
    pub fn sent_summary(&mut self, index: u64, more: usize) -> usize {
        let at = usize::try_from(index).unwrap_or(MAX_PARTS).min(MAX_PARTS - 1);
        if self.summaries.len() <= at {
            self.summaries.resize(at + 1, 0);
        }
        self.summaries[at] += more;
        self.summaries[at]
    }

    /// Whether a block of it has been opened.
    pub fn begun(&self) -> bool {
        self.parts.iter().any(|(_, part)| part.opened)
    }

    pub fn call_open(&self) -> bool {
        self.parts.iter().any(|(_, part)| part.call && part.block.is_some())
    }

    /// Closes the item's open blocks, calls only when told to.
    pub fn close(&mut self, calls: bool, out: &mut Vec<Event>) {
        for (_, part) in &mut self.parts {
            if (calls || !part.call)
                && let Some(index) = part.block.take()
            {
                out.push(Event::Close { choice: 0, index });
            }
        }
    }
}

impl Part {
    /// Takes note of a delta; false when it says nothing.
    pub fn note(&mut self, delta: &Delta) -> bool {
        match delta {
            Delta::Text(text) | Delta::Reasoning(text) | Delta::Arguments(text) | Delta::Refusal(text) => {
                self.sent += text.len();
                !text.is_empty()
            }
            Delta::Citation(_) => {
                self.annotations += 1;
                true
            }
            Delta::Logprobs(_) => {
                self.logprobs = true;
                true
            }
            _ => true,
        }
    }
}
