//! What guests read of conversations and answers, the same for every language.
//!
//! Copies what is asked for and nothing else.

use super::{Message, Text, answer_texts, messages, texts};
use crate::chat::{Answer, Ask, Content};

/// Headers that carry credentials: a policy names the caller by its key, not by its secret.
const CREDENTIALS: &[&str] =
    &["authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key", "proxy-authorization"];

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
    let messages = messages(ask);
    let at = if index < 0 { messages.len() as i64 + index } else { index - 1 };
    usize::try_from(at).ok().and_then(|at| messages.into_iter().nth(at))
}

/// The text of the last turn of the user.
pub fn last_user(ask: &Ask) -> Option<String> {
    messages(ask).into_iter().rev().find(|turn| turn.role == "user").map(|turn| turn.text)
}

/// Every text of a conversation that a patch may replace.
pub fn texts_of(ask: &Ask) -> Vec<Text> {
    let mut ask = ask.clone();
    let mut found = Vec::new();
    texts(&mut ask, |spot, text| found.push(Text { spot, text: std::mem::take(text) }));
    found
}

/// Every text of an answer that a patch may replace.
pub fn texts_of_answer(answer: &Answer) -> Vec<Text> {
    let mut answer = answer.clone();
    let mut found = Vec::new();
    answer_texts(&mut answer, |spot, text| found.push(Text { spot, text: std::mem::take(text) }));
    found
}
