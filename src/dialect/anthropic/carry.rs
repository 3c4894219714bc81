//! Opaque reasoning of other dialects inside Anthropic's `signature` and `data` fields.
//!
//! An Anthropic client returns these two unread, so they carry what a later turn at another provider needs: foreign
//! signatures, encrypted reasoning with its item id, and the signature that Gemini puts on a tool call. Uses the seal of
//! `chat::reasoning`; never alters what Anthropic itself made.

use serde_json::{Value, json};

use super::NAME;
use crate::chat::reasoning::{seal, unseal};
use crate::chat::{Block, Content, Reasoning};

/// What a sealed value holds, told apart by the first word after the seal.
#[derive(Debug, PartialEq)]
enum Carried<'a> {
    Signature(&'a str),
    /// `summary` says that the visible text beside it was a summary (Responses), not the reasoning itself.
    Encrypted {
        id: &'a str,
        data: &'a str,
        summary: bool,
    },
    Call(&'a str),
}

fn pack(origin: &str, carried: &Carried<'_>) -> String {
    let (word, id, opaque) = match *carried {
        Carried::Signature(opaque) => ("sig", "", opaque),
        Carried::Encrypted { id, data, summary: false } => ("enc", id, data),
        Carried::Encrypted { id, data, summary: true } => ("sum", id, data),
        Carried::Call(opaque) => ("call", "", opaque),
    };
    // What comes sealed already keeps its maker's name.
    let (origin, opaque) = unseal(opaque).unwrap_or((origin, opaque));
    seal(origin, &format!("{word}.{}.{opaque}", id.replace('.', "_")))
}

fn unpack(value: &str) -> Option<(&str, Carried<'_>)> {
    let (origin, inner) = unseal(value)?;
    let mut parts = inner.splitn(3, '.');
    let carried = match (parts.next(), parts.next(), parts.next()) {
        (Some("sig"), Some(_), Some(opaque)) => Carried::Signature(opaque),
        (Some("enc"), Some(id), Some(data)) => Carried::Encrypted { id, data, summary: false },
        (Some("sum"), Some(id), Some(data)) => Carried::Encrypted { id, data, summary: true },
        (Some("call"), Some(_), Some(opaque)) => Carried::Call(opaque),
        _ => Carried::Signature(inner),
    };
    Some((origin, carried))
}

/// The value for `signature` or `data` that stands for the opaque parts of a reasoning block, in the order in which they
/// are to be shown: the first belongs to the visible text, if there is any.
pub fn opaque(reasoning: &Reasoning, source: &str) -> Vec<String> {
    let origin = if reasoning.origin.is_empty() { source } else { &reasoning.origin };
    let summary = reasoning.text.is_empty() && !reasoning.summary.is_empty();
    let id = reasoning.id.as_deref().unwrap_or_default();
    let signature = reasoning.signature.as_deref().map(|opaque| pack(origin, &Carried::Signature(opaque)));
    let encrypted = reasoning.encrypted.as_deref();
    let encrypted = encrypted.map(|data| pack(origin, &Carried::Encrypted { id, data, summary }));
    signature.into_iter().chain(encrypted).collect()
}

/// The block to put before a `tool_use` whose call carries a signature of another dialect.
pub fn call_block(signature: &str, source: &str) -> Value {
    redacted(&pack(source, &Carried::Call(signature)))
}

pub fn thinking(text: &str, signature: &str) -> Value {
    json!({"type": "thinking", "thinking": text, "signature": signature})
}

pub fn redacted(data: &str) -> Value {
    json!({"type": "redacted_thinking", "data": data})
}

/// Whether a reasoning block is nothing but foreign opaque data behind text (Gemini signs the end of its answers). It is
/// shown only once something follows: agents take the last block of a turn for its answer, and no provider insists on
/// having back what stands at the end.
pub fn trails(reasoning: &Reasoning, source: &str, after_text: bool) -> bool {
    after_text && source != NAME && visible(reasoning).is_empty()
}

/// Reasoning as an Anthropic client should hold it: one block, or more when there is more than one opaque part.
pub fn blocks(reasoning: &Reasoning, source: &str) -> Vec<Value> {
    let text = visible(reasoning);
    let origin = if reasoning.origin.is_empty() { source } else { &reasoning.origin };
    if origin == NAME {
        let signature = reasoning.signature.as_deref();
        let shown = !text.is_empty() || signature.is_some();
        let mut blocks = Vec::new();
        blocks.extend(shown.then(|| thinking(&text, signature.unwrap_or_default())));
        blocks.extend(reasoning.encrypted.as_deref().map(redacted));
        return blocks;
    }
    let mut opaque = opaque(reasoning, source).into_iter();
    let mut blocks = Vec::new();
    if !text.is_empty() {
        blocks.push(thinking(&text, &opaque.next().unwrap_or_default()));
    }
    blocks.extend(opaque.map(|data| redacted(&data)));
    blocks
}

/// The text of reasoning that a reader may see.
pub fn visible(reasoning: &Reasoning) -> String {
    if reasoning.text.is_empty() { reasoning.summary.join("\n\n") } else { reasoning.text.clone() }
}

/// Undoes [`blocks`] and [`call_block`] in what a client sent back: names the origin of foreign reasoning and gives tool
/// calls their signatures again.
pub fn adopt(blocks: Vec<Block>) -> Vec<Block> {
    let mut adopted = Vec::with_capacity(blocks.len());
    let mut held: Option<String> = None;
    for mut block in blocks {
        match &mut block.content {
            Content::Reasoning(reasoning) => {
                if let Some(signature) = adopt_reasoning(reasoning) {
                    held = Some(signature);
                    continue;
                }
            }
            Content::ToolCall(call) => call.signature = held.take(),
            _ => {}
        }
        adopted.push(block);
    }
    adopted
}

/// Returns the sealed signature when the block stood for a tool call's.
fn adopt_reasoning(reasoning: &mut Reasoning) -> Option<String> {
    let value = reasoning.signature.as_ref().or(reasoning.encrypted.as_ref())?.clone();
    // What bears no seal is Anthropic's own and stays where it is.
    let (origin, carried) = unpack(&value)?;
    reasoning.origin = origin.to_owned();
    reasoning.signature = None;
    reasoning.encrypted = None;
    match carried {
        Carried::Signature(signature) => reasoning.signature = Some(signature.to_owned()),
        Carried::Encrypted { id, data, summary } => {
            reasoning.encrypted = Some(data.to_owned());
            reasoning.id = (!id.is_empty()).then(|| id.to_owned());
            if summary && !reasoning.text.is_empty() {
                reasoning.summary = vec![std::mem::take(&mut reasoning.text)];
            }
        }
        Carried::Call(signature) => return Some(seal(origin, signature)),
    }
    None
}
