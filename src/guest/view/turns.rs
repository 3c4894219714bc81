//! Conversations and answers as turns and texts that a patch may replace.
//!
//! The one order in which texts are numbered: what shows them and what replaces them both walk it here.

use crate::chat::{self, Content, Role};

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

/// A text of a conversation or an answer that a patch may replace.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// Counted from 1, over the whole.
    pub index: usize,
    /// `system`, `user`, `assistant` or `tool`.
    pub role: &'static str,
    pub text: String,
}

/// The turns of a conversation.
pub fn messages(ask: &chat::Ask) -> Vec<Message> {
    ask.messages.iter().enumerate().map(|(at, message)| turn(at + 1, message)).collect()
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

/// Every text of a conversation, in order: system prompt, turns, and what tools gave back.
pub fn texts(ask: &mut chat::Ask, mut each: impl FnMut(usize, &'static str, &mut String)) {
    let mut index = 0;
    let mut visit = |role, text: &mut String| {
        index += 1;
        each(index, role, text);
    };
    for block in &mut ask.system {
        in_block(block, "system", &mut visit);
    }
    for message in &mut ask.messages {
        let role = role(message);
        for block in &mut message.blocks {
            in_block(block, role, &mut visit);
        }
    }
}

fn in_block(block: &mut chat::Block, role: &'static str, visit: &mut dyn FnMut(&'static str, &mut String)) {
    match &mut block.content {
        Content::Text { text, .. } => visit(role, text),
        Content::ToolResult(result) => {
            for block in &mut result.content {
                in_block(block, "tool", visit);
            }
        }
        _ => {}
    }
}

/// Every text of an answer, choice by choice.
pub fn answer_texts(answer: &mut chat::Answer, mut each: impl FnMut(usize, &mut String)) {
    let mut index = 0;
    for block in answer.choices.iter_mut().flat_map(|choice| &mut choice.blocks) {
        if let Content::Text { text, .. } = &mut block.content {
            index += 1;
            each(index, text);
        }
    }
}
