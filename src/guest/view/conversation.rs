//! What guests read of conversations and answers, the same for every language.
//!
//! Copies what is asked for and nothing else.

use super::{Message, Request, Text, answer_texts, message_at, read_texts};
use crate::chat::{Answer, Ask, Content, Role};

/// Headers that carry credentials: a policy names the caller by its key, not by its secret.
const CREDENTIALS: &[&str] =
    &["authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key", "proxy-authorization"];

/// Bytes that a value of an ask takes beside its text, decoded and shown: of a turn, three values, the ask has a thousand, and
/// what is shown is a table with four names and a list of its blocks.
const VALUE_BYTES: u64 = 256;

/// Whether a guest with so much memory can look at the words of a request. Asked before they are decoded: what nobody can
/// hold is not worth the time. Files are not shown, so they do not count.
///
/// # Errors
/// It cannot; the text says what to do.
pub fn fits(request: &Request, memory: usize) -> Result<(), String> {
    let envelope = request.call.envelope();
    let bytes = (envelope.body().len() as u64).saturating_sub(envelope.files().bytes);
    let values = envelope.values();
    if bytes.saturating_add(values.saturating_mul(VALUE_BYTES)) <= memory as u64 {
        return Ok(());
    }
    Err(format!(
        "the words of this request, {bytes} bytes in {values} values, do not fit into `budget.memory` of {memory} bytes; \
         raise it, or go by `req.bytes` first"
    ))
}

/// Whether a header is kept from policies that come after the key check.
pub fn is_credential(name: &str) -> bool {
    CREDENTIALS.iter().any(|hidden| name.eq_ignore_ascii_case(hidden))
}

/// The system prompt.
pub fn system(ask: &Ask) -> Option<String> {
    let texts: Vec<&str> = ask
        .system
        .iter()
        .filter_map(|block| match &block.content {
            Content::Text { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    (!texts.is_empty()).then(|| texts.join("\n"))
}

/// A turn, counted from 1; from the end when negative.
pub fn message(ask: &Ask, index: i64) -> Option<Message> {
    let at = if index < 0 { ask.messages.len() as i64 + index } else { index - 1 };
    usize::try_from(at).ok().and_then(|at| message_at(ask, at))
}

/// The text of the last turn of the user.
pub fn last_user(ask: &Ask) -> Option<String> {
    let turns = (0..ask.messages.len()).rev().filter(|at| ask.messages[*at].role == Role::User);
    turns.filter_map(|at| message_at(ask, at)).find(|turn| turn.role == "user").map(|turn| turn.text)
}

/// Every text of a conversation that a patch may replace.
pub fn texts_of(ask: &Ask) -> Vec<Text> {
    let mut found = Vec::new();
    read_texts(ask, |spot, text| found.push(Text { spot, text: std::mem::take(text) }));
    found
}

/// Every text of an answer that a patch may replace.
pub fn texts_of_answer(answer: &Answer) -> Vec<Text> {
    let mut answer = answer.clone();
    let mut found = Vec::new();
    answer_texts(&mut answer, |spot, text| found.push(Text { spot, text: std::mem::take(text) }));
    found
}
