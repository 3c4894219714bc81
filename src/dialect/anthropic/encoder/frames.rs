//! The frames of content blocks, and their index on the wire. Knows nothing of what goes into them.

use serde_json::{Value, json};

use crate::sse;

/// Writes blocks one after the other.
#[derive(Debug, Default)]
pub struct Frames {
    /// Index of the block that is open or comes next.
    index: u32,
}

impl Frames {
    pub fn open(&self, head: &Value, out: &mut Vec<u8>) {
        let event = json!({"type": "content_block_start", "index": self.index, "content_block": head});
        sse::write(out, "content_block_start", &event);
    }

    pub fn delta(&self, piece: &Piece<'_>, out: &mut Vec<u8>) {
        let event = BlockDelta { kind: "content_block_delta", index: self.index, delta: piece };
        sse::write(out, "content_block_delta", &event);
    }

    pub fn stop(&mut self, out: &mut Vec<u8>) {
        sse::write(out, "content_block_stop", &json!({"type": "content_block_stop", "index": self.index}));
        self.index += 1;
    }

    /// A block that is whole in its head.
    pub fn whole(&mut self, head: &Value, out: &mut Vec<u8>) {
        self.open(head, out);
        self.stop(out);
    }

    pub fn text(&self, text: &str, out: &mut Vec<u8>) {
        self.delta(&Piece::Text { text }, out);
    }

    pub fn thinking(&self, thinking: &str, out: &mut Vec<u8>) {
        self.delta(&Piece::Thinking { thinking }, out);
    }

    pub fn signature(&self, signature: &str, out: &mut Vec<u8>) {
        self.delta(&Piece::Signature { signature }, out);
    }

    pub fn json(&self, partial_json: &str, out: &mut Vec<u8>) {
        self.delta(&Piece::Json { partial_json }, out);
    }
}

/// The event that most of a stream is made of, written without a tree.
#[derive(serde::Serialize)]
struct BlockDelta<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    index: u32,
    delta: &'a Piece<'a>,
}

#[derive(serde::Serialize)]
#[serde(tag = "type")]
pub enum Piece<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "input_json_delta")]
    Json { partial_json: &'a str },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'a str },
    #[serde(rename = "citations_delta")]
    Citation { citation: &'a Value },
    #[serde(rename = "compaction_delta")]
    Compaction { content: &'a Value },
}
