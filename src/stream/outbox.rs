//! Bytes on their way to the client, in its framing.
//!
//! Nothing is copied, unless frames have to become elements of a JSON array.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Framing;
use crate::sse::{Frame, Scanner};

/// Most bytes held back before the commit point. A prelude is a few hundred bytes; an upstream that sends more without
/// content is let through.
const MAX_HELD_BYTES: usize = 1 << 20;

/// What the client has not read yet, in order.
pub(super) struct Outbox {
    framing: Framing,
    queue: VecDeque<Bytes>,
    /// Bytes queued so far, read or not.
    queued: usize,
    /// An opening bracket has been written.
    array_open: bool,
}

impl Outbox {
    pub(super) fn new(framing: Framing) -> Self {
        Outbox { framing, queue: VecDeque::new(), queued: 0, array_open: false }
    }

    /// Queues whole frames.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let bytes = match self.framing {
            Framing::Sse => bytes,
            Framing::JsonArray => self.as_array(&bytes),
        };
        self.queued += bytes.len();
        self.queue.push_back(bytes);
    }

    /// Queues what keeps the connection alive.
    pub(super) fn comment(&mut self, bytes: &'static [u8]) {
        self.queue.push_back(Bytes::from_static(bytes));
    }

    /// Nothing follows; once only.
    pub(super) fn close(&mut self) {
        if self.framing == Framing::JsonArray {
            self.queue.push_back(Bytes::from_static(if self.array_open { b"]" } else { b"[]" }));
        }
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.queue.pop_front()
    }

    /// Takes all that is queued, in one piece.
    pub(super) fn drain(&mut self) -> Bytes {
        self.queue.drain(..).collect::<Vec<_>>().concat().into()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// More came than is held back.
    pub(super) fn is_overfull(&self) -> bool {
        self.queued > MAX_HELD_BYTES
    }

    fn as_array(&mut self, bytes: &Bytes) -> Bytes {
        // They were held to their bound where they came from.
        let mut frames = Scanner::bounded(usize::MAX);
        let mut array = Vec::with_capacity(bytes.len());
        frames.push(bytes.clone());
        while let Ok(true) = frames.scan() {
            self.element(&Frame(frames.last()).data(), &mut array);
        }
        // A last one whose CR was taken for half of a CRLF.
        drop(frames.take());
        if let Some(rest) = frames.rest() {
            self.element(&Frame(&rest).data(), &mut array);
        }
        array.into()
    }

    fn element(&mut self, data: &[u8], array: &mut Vec<u8>) {
        if !data.is_empty() {
            array.extend_from_slice(if self.array_open { b",\r\n" } else { b"[" });
            array.extend_from_slice(data);
            self.array_open = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::MAX_FRAME_BYTES;

    #[test]
    fn an_event_as_large_as_it_may_be_is_an_element_of_its_own() {
        let mut out = Outbox::new(Framing::JsonArray);
        let large = format!("data: {{\"a\":\"{}\"}}\r\n\r\n", "x".repeat(MAX_FRAME_BYTES));
        out.push([large.as_str(), "data: {}\r\n\r\n"].concat().into());
        out.close();
        let all: Vec<serde_json::Value> = serde_json::from_slice(&out.drain()).expect("an array");
        assert_eq!((all.len(), all[0]["a"].as_str().map(str::len)), (2, Some(MAX_FRAME_BYTES)));
    }
}
