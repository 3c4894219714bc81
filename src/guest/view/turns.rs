//! Conversations and answers as turns and texts that a patch may replace: all words, also those for tools and those that
//! a model thinks.
//!
//! The one order in which texts are numbered: what shows them and what replaces them both walk it here.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::words::words;
use crate::chat::{self, Block, Content, Media, Role};

/// The kind of what a tool is called with: JSON, which a patch must leave such.
pub const ARGUMENTS: &str = "arguments";

/// Fields of an ask, beside its conversation, that are read to the model: the rest of a completion, an answer that is
/// expected, documents, and what is put into a prompt that the provider keeps.
const READ_TOO: &[&str] = &["suffix", "prediction", "documents", "prompt"];

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

/// Every text of a conversation, in order: system prompt, turns, and what tools were given and gave back; then what else is
/// read to the model.
pub fn texts(ask: &mut chat::Ask, each: impl FnMut(Spot, &mut String)) {
    let mut numbered = Numbered::new(each);
    for block in &mut ask.system {
        numbered.block(block, "system");
    }
    for message in &mut ask.messages {
        let role = role(message);
        for block in &mut message.blocks {
            numbered.block(block, role);
        }
        numbered.about(message.name.as_mut(), &mut message.extra, role);
    }
    for (name, value) in read_too(&mut ask.extra) {
        numbered.words(name, value, "user");
    }
}

/// The same of a conversation that stays as it is, whose texts are given away as copies: block by block, so that there is
/// never a second one of the whole.
pub fn read_texts(ask: &chat::Ask, each: impl FnMut(Spot, &mut String)) {
    let mut numbered = Numbered::new(each);
    ask.system.iter().for_each(|block| numbered.block(&mut wordy(block), "system"));
    for message in &ask.messages {
        let role = role(message);
        message.blocks.iter().for_each(|block| numbered.block(&mut wordy(block), role));
        numbered.about(message.name.clone().as_mut(), &mut message.extra.clone(), role);
    }
    if READ_TOO.iter().any(|name| ask.extra.contains_key(*name)) {
        for (name, value) in read_too(&mut ask.extra.clone()) {
            numbered.words(name, value, "user");
        }
    }
}

fn read_too(extra: &mut chat::Extra) -> impl Iterator<Item = (&str, &mut Value)> {
    // A prompt that is no object is the conversation itself.
    let is_read = |name: &str, value: &Value| READ_TOO.contains(&name) && (name != "prompt" || value.is_object());
    extra.iter_mut().map(|(name, value)| (name.as_str(), value)).filter(move |(name, value)| is_read(name, value))
}

/// A copy of a block without the bytes that nobody is shown.
fn wordy(block: &Block) -> Block {
    let content = match &block.content {
        Content::Image { .. } => Content::Other(Value::Null),
        Content::Audio { format, transcript, id, .. } => Content::Audio {
            data: String::new(),
            format: format.clone(),
            transcript: transcript.clone(),
            id: id.clone(),
        },
        Content::File { source: Media::Inline { mime, .. }, name } if !chat::is_textual(mime, name.as_deref()) => {
            Content::File { source: Media::Id(String::new()), name: name.clone() }
        }
        other => other.clone(),
    };
    Block { content, cache: None, extra: block.extra.clone() }
}

/// Every text of one block of an answer.
pub fn texts_of_block(block: &Block) -> Vec<Text> {
    let mut found = Vec::new();
    Numbered::new(|spot, text: &mut String| found.push(Text { spot, text: std::mem::take(text) }))
        .block(&mut wordy(block), "assistant");
    found
}

/// Puts texts in place of those of one block with their numbers.
pub fn replace_in_block(block: &mut Block, texts: &BTreeMap<usize, String>) {
    if !texts.is_empty() {
        let mut replacing = Replacing::with(texts);
        Numbered::new(|spot, text: &mut String| replacing.at(spot, text)).block(block, "assistant");
    }
}

/// Every text of an answer, choice by choice.
pub fn answer_texts(answer: &mut chat::Answer, each: impl FnMut(Spot, &mut String)) {
    let mut numbered = Numbered::new(each);
    for block in answer.choices.iter_mut().flat_map(|choice| &mut choice.blocks) {
        numbered.block(block, "assistant");
    }
}

/// Visits texts and counts them.
struct Numbered<F> {
    index: usize,
    each: F,
    /// What was changed into what, where that is written down.
    changes: Option<Vec<(String, String)>>,
}

impl<F: FnMut(Spot, &mut String)> Numbered<F> {
    fn new(each: F) -> Self {
        Numbered { index: 0, each, changes: None }
    }

    fn text(&mut self, role: &'static str, kind: &'static str, text: &mut String) {
        self.index += 1;
        let before = self.changes.is_some().then(|| text.clone());
        (self.each)(Spot { index: self.index, role, kind }, text);
        if let (Some(changes), Some(before)) = (&mut self.changes, before.filter(|before| before != text)) {
            changes.push((before, text.clone()));
        }
    }

    fn words(&mut self, name: &str, value: &mut Value, role: &'static str) {
        words(name, value, &mut |called, text| self.text(role, if called { ARGUMENTS } else { "text" }, text));
    }

    /// What a dialect says of a turn or a block beside its content.
    fn about(&mut self, name: Option<&mut String>, extra: &mut chat::Extra, role: &'static str) {
        if let Some(name) = name {
            self.text(role, "text", name);
        }
        for (name, value) in extra {
            self.words(name, value, role);
        }
    }

    fn block(&mut self, block: &mut Block, role: &'static str) {
        match &mut block.content {
            Content::Text { text, citations } => {
                self.text(role, "text", text);
                for citation in citations {
                    self.words("", citation, role);
                }
            }
            Content::File { source, name } => match block.extra.shift_remove(chat::KEPT_SOURCE) {
                Some(mut kept) => {
                    self.kept(&mut kept, source, name.as_mut(), role);
                    self.about(None, &mut block.extra, role);
                    block.extra.insert(chat::KEPT_SOURCE.to_owned(), kept);
                    return;
                }
                None => self.file(source, name.as_mut(), role),
            },
            Content::Audio { transcript: Some(text), .. } => self.text(role, "text", text),
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
                let kind = if call.custom { "text" } else { ARGUMENTS };
                self.text(role, kind, &mut call.arguments);
            }
            Content::ToolResult(result) => {
                for block in &mut result.content {
                    self.block(block, "tool");
                }
            }
            Content::Other(value) => self.words("", value, role),
            Content::Image { .. } | Content::Audio { .. } => {}
        }
        self.about(None, &mut block.extra, role);
    }

    /// A file that is sent as it came where that can be, else as its text: both must say the same.
    fn kept(&mut self, kept: &mut Value, source: &mut Media, name: Option<&mut String>, role: &'static str) {
        let has_name = kept.get("title").is_some();
        let outer = self.changes.replace(Vec::new());
        self.words("", kept, role);
        let changes = std::mem::replace(&mut self.changes, outer).unwrap_or_default();
        let follow = |said: &mut String| {
            for (from, to) in &changes {
                *said = said.replace(from.as_str(), to);
            }
        };
        if let Media::Text(text) = source {
            follow(text);
        }
        match name {
            Some(name) if has_name => follow(name),
            Some(name) => self.text(role, "text", name),
            None => {}
        }
    }

    fn file(&mut self, source: &mut Media, name: Option<&mut String>, role: &'static str) {
        let textual = matches!(&*source, Media::Inline { mime, .. } if chat::is_textual(mime, name.as_deref().map(String::as_str)));
        match source {
            Media::Text(text) => self.text(role, "text", text),
            Media::Inline { data, .. } if textual => {
                // What is no base64 no provider can read; what is no UTF-8 is shown as far as it can be.
                if let Ok(bytes) = BASE64_STANDARD.decode(&*data) {
                    let shown = String::from_utf8_lossy(&bytes);
                    let mut text = shown.clone().into_owned();
                    self.text(role, "text", &mut text);
                    if text != shown {
                        *data = BASE64_STANDARD.encode(text);
                    }
                }
            }
            _ => {}
        }
        if let Some(name) = name {
            self.text(role, "text", name);
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
        if spot.kind == ARGUMENTS && is_arguments(text) && !is_arguments(new) {
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
    text.is_empty() || is_object(text)
}

/// Whether a text is a JSON object.
pub(super) fn is_object(text: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, Value>>(text).is_ok()
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
    fn a_document_says_the_same_as_it_came_and_as_its_text() {
        let kept = serde_json::json!({ "type": "content", "content": [
            { "type": "text", "text": "one" }, { "type": "image", "source": { "type": "base64", "data": "aGk=" } },
            { "type": "text", "text": "ann" } ] });
        let file = Content::File { source: Media::Text("one\nann".into()), name: Some("of ann".into()) };
        let extra = [(chat::KEPT_SOURCE.to_owned(), kept), ("context".to_owned(), "by ann".into())];
        let mut block = Block { extra: extra.into_iter().collect(), ..Block::new(file) };
        let found: Vec<String> = texts_of_block(&block).into_iter().map(|text| text.text).collect();
        assert_eq!(found, ["one", "ann", "of ann", "by ann"]);
        let texts = (1..).zip(found).map(|(index, text)| (index, text.replace("ann", "x"))).collect();
        replace_in_block(&mut block, &texts);
        let Content::File { source: Media::Text(text), name } = &block.content else { panic!("no file") };
        assert_eq!((text.as_str(), name.as_deref()), ("one\nx", Some("of x")));
        assert!(!serde_json::to_string(&block.extra).expect("JSON").contains("ann"));
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
