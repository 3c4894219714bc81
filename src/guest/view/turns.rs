//! Conversations and answers as turns and texts that a patch may replace: all words, also those for tools and those that
//! a model thinks.
//!
//! The one order in which texts are numbered: what shows them and what replaces them both walk it here.

use std::collections::BTreeMap;

use crate::chat::{self, Content, Media, Role};

/// A turn as guests see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Counted from 1.
    pub index: usize,
    pub role: &'static str,
    pub text: String,
    /// Kinds of its blocks: `text`, `image`, `tool_call`, …
    pub kinds: Vec<&'static str>,
}

/// Where a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// Counted from 1, over the whole.
    pub index: usize,
    /// `system`, `user`, `assistant` or `tool`.
    pub role: &'static str,
    /// `text`, `reasoning`, `arguments` (JSON, of a call of a tool) or `refusal`.
    pub kind: &'static str,
}

/// A text of an ask or an answer that a patch may replace.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    pub spot: Spot,
    pub text: String,
}

/// The turns of a conversation.
pub fn messages(ask: &chat::Ask) -> impl Iterator<Item = Message> {
    ask.messages.iter().enumerate().map(|(at, message)| turn(at + 1, message))
}

/// The turn at a place, counted from 0.
pub fn message_at(ask: &chat::Ask, at: usize) -> Option<Message> {
    ask.messages.get(at).map(|message| turn(at + 1, message))
}

fn turn(index: usize, message: &chat::Message) -> Message {
    let mut text = String::new();
    for block in &message.blocks {
        if let Content::Text { text: part, .. } = &block.content {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(part);
        }
    }
    Message {
        index,
        role: role(message),
        text,
        kinds: message.blocks.iter().map(|block| kind(&block.content)).collect(),
    }
}

fn role(message: &chat::Message) -> &'static str {
    match message.role {
        Role::System => "system",
        Role::Assistant => "assistant",
        Role::User if is_tool_result(message) => "tool",
        Role::User => "user",
    }
}

fn is_tool_result(message: &chat::Message) -> bool {
    !message.blocks.is_empty() && message.blocks.iter().all(|block| matches!(block.content, Content::ToolResult(_)))
}

fn kind(content: &Content) -> &'static str {
    match content {
        Content::Text { .. } => "text",
        Content::Image { .. } => "image",
        Content::Audio { .. } => "audio",
        Content::File { .. } => "file",
        Content::ToolCall(_) => "tool_call",
        Content::ToolResult(_) => "tool_result",
        Content::Reasoning(_) => "reasoning",
        Content::Refusal(_) => "refusal",
        Content::Other(_) => "other",
    }
}

/// Every text of a conversation, in order: system prompt, turns, and what tools were given and gave back.
pub fn texts(ask: &mut chat::Ask, each: impl FnMut(Spot, &mut String)) {
    let mut numbered = Numbered { index: 0, each };
    for block in &mut ask.system {
        numbered.block(block, "system");
    }
    for message in &mut ask.messages {
        let role = role(message);
        for block in &mut message.blocks {
            numbered.block(block, role);
        }
    }
}

/// The same of a conversation that stays as it is, whose texts are given away as copies: block by block, so that there is
/// never a second one of the whole.
pub fn read_texts(ask: &chat::Ask, each: impl FnMut(Spot, &mut String)) {
    let mut numbered = Numbered { index: 0, each };
    let mut read = |block: &chat::Block, role| {
        if has_words(&block.content) {
            numbered.block(&mut block.clone(), role);
        }
    };
    ask.system.iter().for_each(|block| read(block, "system"));
    for message in &ask.messages {
        let role = role(message);
        message.blocks.iter().for_each(|block| read(block, role));
    }
}

fn has_words(content: &Content) -> bool {
    match content {
        Content::Image { .. } | Content::Audio { .. } | Content::Other(_) => false,
        Content::File { source, .. } => matches!(source, Media::Text(_)),
        _ => true,
    }
}

/// Every text of an answer, choice by choice.
pub fn answer_texts(answer: &mut chat::Answer, each: impl FnMut(Spot, &mut String)) {
    let mut numbered = Numbered { index: 0, each };
    for block in answer.choices.iter_mut().flat_map(|choice| &mut choice.blocks) {
        numbered.block(block, "assistant");
    }
}

/// Visits texts and counts them.
struct Numbered<F> {
    index: usize,
    each: F,
}

impl<F: FnMut(Spot, &mut String)> Numbered<F> {
    fn text(&mut self, role: &'static str, kind: &'static str, text: &mut String) {
        self.index += 1;
        (self.each)(Spot { index: self.index, role, kind }, text);
    }

    fn block(&mut self, block: &mut chat::Block, role: &'static str) {
        match &mut block.content {
            Content::Text { text, .. } | Content::File { source: Media::Text(text), .. } => {
                self.text(role, "text", text);
            }
            Content::Refusal(text) => self.text(role, "refusal", text),
            Content::Reasoning(reasoning) => {
                // What is sealed alone has no words.
                for text in std::iter::once(&mut reasoning.text).chain(&mut reasoning.summary) {
                    if !text.is_empty() {
                        self.text(role, "reasoning", text);
                    }
                }
            }
            // What a custom tool is given is free text.
            Content::ToolCall(call) => {
                let kind = if call.custom { "text" } else { "arguments" };
                self.text(role, kind, &mut call.arguments);
            }
            Content::ToolResult(result) => {
                for block in &mut result.content {
                    self.block(block, "tool");
                }
            }
            Content::Image { .. } | Content::Audio { .. } | Content::File { .. } | Content::Other(_) => {}
        }
    }
}

/// Texts on their way into the places of others.
pub struct Replacing<'a> {
    texts: &'a BTreeMap<usize, String>,
    count: usize,
    wrong: Option<usize>,
}

impl<'a> Replacing<'a> {
    /// With these texts, by their numbers.
    pub fn with(texts: &'a BTreeMap<usize, String>) -> Self {
        Replacing { texts, count: 0, wrong: None }
    }

    /// Replaces the text at this spot if there is a new one for it.
    pub fn at(&mut self, spot: Spot, text: &mut String) {
        self.count = spot.index;
        let Some(new) = self.texts.get(&spot.index) else { return };
        // Arguments that were no JSON before, cut off by a limit, need not become it.
        if spot.kind == "arguments" && is_arguments(text) && !is_arguments(new) {
            self.wrong.get_or_insert(spot.index);
        }
        text.clone_from(new);
    }

    /// Ends it. `what`: whose texts they are.
    ///
    /// # Errors
    /// There is no text with one of the numbers, or arguments are no JSON any more.
    pub fn end(self, what: &str) -> Result<(), String> {
        if let Some(index) = self.texts.keys().find(|index| **index == 0 || **index > self.count) {
            let texts = if self.count == 1 { "text" } else { "texts" };
            return Err(format!("texts[{index}]: {what} has {} {texts}", self.count));
        }
        self.wrong.map_or(Ok(()), |index| {
            Err(format!(
                "texts[{index}]: it is the arguments of a tool's call and must stay a JSON object; change the texts within it, as `kind` tells"
            ))
        })
    }
}

/// Whether a tool can be called with this; nothing counts as an empty object.
fn is_arguments(text: &str) -> bool {
    text.is_empty() || serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Answer, Block, Choice, Reasoning, ToolCall};

    fn answer() -> Answer {
        let call = ToolCall { arguments: r#"{"to":"ann"}"#.into(), ..ToolCall::default() };
        let thought = Reasoning { text: "Ann.".into(), summary: vec!["A.".into()], ..Reasoning::default() };
        let sealed = Reasoning { encrypted: Some("x".into()), ..Reasoning::default() };
        let blocks = [
            Content::Reasoning(thought),
            Content::Reasoning(sealed),
            Content::Text { text: "Hello".into(), citations: Vec::new() },
            Content::ToolCall(call),
            Content::Refusal("No.".into()),
        ];
        let blocks = blocks.into_iter().map(Block::new).collect();
        Answer { choices: vec![Choice { blocks, ..Choice::default() }], ..Answer::default() }
    }

    fn patched(texts: &[(usize, &str)]) -> Result<Vec<String>, String> {
        let texts = texts.iter().map(|(index, text)| (*index, (*text).to_owned())).collect();
        let (mut answer, mut replacing) = (answer(), Replacing::with(&texts));
        answer_texts(&mut answer, |spot, text| replacing.at(spot, text));
        replacing.end("the answer")?;
        let mut found = Vec::new();
        answer_texts(&mut answer, |_, text| found.push(text.clone()));
        Ok(found)
    }

    #[test]
    fn every_word_of_an_answer_has_a_number_and_a_kind() {
        let mut found = Vec::new();
        answer_texts(&mut answer(), |spot, text| found.push((spot.index, spot.kind, text.clone())));
        let expected = [
            (1, "reasoning", "Ann."),
            (2, "reasoning", "A."),
            (3, "text", "Hello"),
            (4, "arguments", r#"{"to":"ann"}"#),
            (5, "refusal", "No."),
        ];
        assert_eq!(found, expected.map(|(index, kind, text)| (index, kind, text.to_owned())));
    }

    #[test]
    fn a_patch_meets_its_number_and_arguments_stay_json() {
        let texts = patched(&[(1, "B."), (4, r#"{"to":"bob"}"#)]).expect("fits");
        assert_eq!(texts, ["B.", "A.", "Hello", r#"{"to":"bob"}"#, "No."]);
        for bad in ["bob", "[1]", r#"{"to":"#] {
            let error = patched(&[(4, bad)]).expect_err(bad);
            assert!(error.contains("texts[4]") && error.contains("JSON object"), "{error}");
        }
        assert_eq!(patched(&[(6, "x")]).expect_err("no sixth"), "texts[6]: the answer has 5 texts");
        assert_eq!(patched(&[(0, "x")]).expect_err("from 1"), "texts[0]: the answer has 5 texts");
    }
}
