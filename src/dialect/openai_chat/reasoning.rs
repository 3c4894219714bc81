//! Reasoning in OpenAI chat clothes: the five ways providers are asked for it, and `reasoning_details`.
//!
//! OpenAI itself shows no reasoning in this form; the fields are those of DeepSeek (`reasoning_content`) and OpenRouter
//! (`reasoning`, `reasoning_details`). Never invents a signature, and never shows one to a provider that did not make it.

use serde_json::{Map, Value, json};

use super::NAME;
use super::fields::Fields;
use crate::chat::reasoning::{for_client, for_target, unseal};
use crate::chat::{Ask, Block, Content, Effort, Extra, Reasoning, ReasoningAsk};
use crate::dialect::openai_models::{self, Told};
use crate::dialect::{Encoding, ReasoningStyle};
use crate::fault::Fault;

/// Reads whichever spelling the client chose. Words that are not known stay in the body as unknown fields.
pub(super) fn read_ask(fields: &mut Fields) -> Result<Option<ReasoningAsk>, Fault> {
    let mut asked = ReasoningAsk::default();
    if let Some(mut object) = fields.object("reasoning")? {
        asked.effort = object.string("effort")?.as_deref().and_then(Effort::parse);
        asked.budget = object.uint("max_tokens")?;
        asked.include = object.bool("exclude")?.map(|exclude| !exclude);
        asked.summary = object.string("summary")?;
        switch(&mut asked, object.bool("enabled")?);
    }
    if let Some(Value::Object(thinking)) = fields.peek("thinking") {
        let budget = thinking.get("budget_tokens").and_then(Value::as_u64);
        let kind = thinking.get("type").and_then(Value::as_str).unwrap_or("enabled");
        asked.budget = asked.budget.or(budget);
        switch(&mut asked, Some(kind != "disabled"));
        fields.take("thinking");
    }
    switch(&mut asked, fields.bool("enable_thinking")?);
    asked.budget = asked.budget.or(fields.uint("thinking_budget")?);
    asked.include = asked.include.or(fields.bool("include_reasoning")?);
    if let Some(word) = fields.string("reasoning_effort")? {
        match Effort::parse(&word) {
            Some(effort) => asked.effort = asked.effort.or(Some(effort)),
            None => fields.put("reasoning_effort", word.into()),
        }
    }
    Ok((asked != ReasoningAsk::default()).then_some(asked))
}

/// On without an amount, or off.
fn switch(asked: &mut ReasoningAsk, on: Option<bool>) {
    match on {
        Some(true) if asked.effort.is_none() && asked.budget.is_none() => asked.adaptive = true,
        Some(false) => asked.effort = Some(Effort::None),
        _ => {}
    }
}

/// Asks for reasoning in the way the target understands.
pub(super) fn write_ask(ask: &Ask, to: &mut Encoding<'_>, body: &mut Map<String, Value>) {
    let is_off = |asked: &ReasoningAsk| asked.effort == Some(Effort::None) || asked.budget == Some(0);
    if ask.source != NAME && body.contains_key("tools") && openai_models::reasons_without_tools(to) {
        let lost = ask.reasoning.as_ref().is_some_and(|asked| !is_off(asked));
        to.drop_if(lost, "reasoning", "chat completions take tools from this model only while it does not reason");
        body.insert("reasoning_effort".into(), Effort::None.as_str().into());
        return;
    }
    let Some(asked) = &ask.reasoning else { return };
    let off = is_off(asked);
    match to.quirks.reasoning {
        ReasoningStyle::Effort => write_effort(ask, asked, off, to, body),
        ReasoningStyle::Object => {
            body.insert("reasoning".into(), object(asked, off));
        }
        ReasoningStyle::Thinking => {
            body.insert("thinking".into(), json!({ "type": if off { "disabled" } else { "enabled" } }));
        }
        ReasoningStyle::Template => {
            body.insert("chat_template_kwargs".into(), template(ask, !off));
        }
        ReasoningStyle::Enable => {
            body.insert("enable_thinking".into(), (!off).into());
            if let Some(budget) = asked.budget.filter(|budget| *budget > 0) {
                body.insert("thinking_budget".into(), budget.into());
            }
        }
        ReasoningStyle::None => to.drop_if(true, "reasoning", "the target cannot be asked for reasoning"),
    }
}

fn write_effort(ask: &Ask, asked: &ReasoningAsk, off: bool, to: &mut Encoding<'_>, body: &mut Map<String, Value>) {
    if ask.source != NAME
        && let Some(stated) = if off { Some(Effort::None) } else { asked.effort_level(ask.max_tokens) }
    {
        match openai_models::told(stated, to) {
            Told::AsAsked => {}
            Told::Word(word) => {
                body.insert("reasoning_effort".into(), word.as_str().into());
                return;
            }
            Told::Nothing => return,
        }
    }
    // The OpenAI forms share the words. Others' extremes would be refused by most models that have effort at all.
    let same_words = ask.source == NAME || ask.source == "openai_responses";
    let level = match asked.effort_level(ask.max_tokens) {
        Some(stated) if same_words && asked.effort.is_some() => stated,
        _ if off => return to.drop_if(true, "reasoning", "the target has no common word for no reasoning"),
        Some(level) => level.clamp(Effort::Low, Effort::High),
        None => return,
    };
    body.insert("reasoning_effort".into(), level.as_str().into());
}

/// OpenRouter's object takes an effort or a budget, not both.
fn object(asked: &ReasoningAsk, off: bool) -> Value {
    let mut object = Map::new();
    match (asked.effort, asked.budget) {
        _ if off => object.insert("enabled".into(), false.into()),
        (_, Some(budget)) => object.insert("max_tokens".into(), budget.into()),
        (Some(effort), None) => object.insert("effort".into(), effort.as_str().into()),
        (None, None) => object.insert("enabled".into(), true.into()),
    };
    if let Some(include) = asked.include {
        object.insert("exclude".into(), (!include).into());
    }
    Value::Object(object)
}

/// The client's own template arguments with ours among them.
fn template(ask: &Ask, on: bool) -> Value {
    let mut given = match ask.extra.get("chat_template_kwargs") {
        Some(Value::Object(given)) if ask.source == NAME => given.clone(),
        _ => Map::new(),
    };
    given.insert("enable_thinking".into(), on.into());
    Value::Object(given)
}

/// OpenRouter names the maker of an opaque value in `format`. The neutral form has no place for it, so it rides in
/// front of the value: `anthropic-claude-v1;EqQB…`.
pub(super) fn pack(format: Option<&str>, opaque: &str) -> String {
    match format {
        Some(format) if is_format(format) && unseal(opaque).is_none() => format!("{format};{opaque}"),
        _ => opaque.to_owned(),
    }
}

/// Undoes [`pack`].
pub(super) fn unpack(opaque: &str) -> (Option<&str>, &str) {
    match opaque.split_once(';') {
        Some((format, value)) if is_format(format) => (Some(format), value),
        _ => (None, opaque),
    }
}

fn is_format(word: &str) -> bool {
    word.contains("-v") && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// OpenRouter's word for what a dialect makes.
fn format_of(origin: &str) -> Option<&'static str> {
    match origin {
        "anthropic" => Some("anthropic-claude-v1"),
        "gemini" => Some("google-gemini-v1"),
        "openai_responses" => Some("openai-responses-v1"),
        _ => None,
    }
}

/// To whom an opaque value is shown.
#[derive(Clone, Copy)]
pub(super) enum To {
    Client,
    Target,
}

/// The `reasoning_details` entries of one block, numbered from `index`. Text needs none unless something opaque belongs
/// to it; a summary always gets them, because what was encrypted may follow in a block of its own.
pub(super) fn details(of: &Reasoning, source: &str, to: To, index: usize) -> Vec<Value> {
    let origin = if of.origin.is_empty() { source } else { of.origin.as_str() };
    let shown = |opaque: &Option<String>| {
        let opaque = opaque.as_deref().filter(|opaque| !opaque.is_empty())?;
        match to {
            To::Client => Some(for_client(opaque, origin, NAME)),
            To::Target => for_target(opaque, origin, NAME).map(str::to_owned),
        }
    };
    let (signature, encrypted) = (shown(&of.signature), shown(&of.encrypted));
    let mut items = Vec::new();
    let summary = of.summary.iter().filter(|part| !part.is_empty());
    items.extend(summary.map(|part| json!({ "type": "reasoning.summary", "summary": part })));
    if signature.is_some() || (encrypted.is_some() && !of.text.is_empty()) {
        items.push(json!({ "type": "reasoning.text", "text": of.text }));
    }
    let mut format = None;
    if let (Some(signature), Some(Value::Object(item))) = (signature, items.last_mut()) {
        format = named(&signature);
        item.insert("signature".into(), unpack(&signature).1.into());
    }
    if let Some(data) = encrypted {
        format = format.or(named(&data));
        items.push(json!({ "type": "reasoning.encrypted", "data": unpack(&data).1 }));
    }
    for (offset, item) in items.iter_mut().enumerate().filter_map(|(at, item)| Some((at, item.as_object_mut()?))) {
        if let Some(id) = &of.id {
            item.insert("id".into(), id.as_str().into());
        }
        if let Some(format) = &format {
            item.insert("format".into(), format.as_str().into());
        }
        item.insert("index".into(), (index + offset).into());
    }
    items
}

fn named(opaque: &str) -> Option<String> {
    let made_by = unseal(opaque).and_then(|(origin, _)| format_of(origin));
    unpack(opaque).0.or(made_by).map(str::to_owned)
}

/// One entry of `reasoning_details`, read.
pub(super) struct Detail {
    pub kind: DetailKind,
    pub signature: Option<String>,
    pub id: Option<String>,
    pub index: Option<u64>,
}

pub(super) enum DetailKind {
    Text(String),
    Summary(String),
    Encrypted(String),
}

impl Detail {
    /// Gives the entry back when it is of a kind that the neutral form does not know.
    pub fn read(entry: Value) -> Result<Detail, Value> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let format = text("format");
        let kind = match text("type") {
            Some("reasoning.text") => DetailKind::Text(text("text").unwrap_or_default().to_owned()),
            Some("reasoning.summary") => DetailKind::Summary(text("summary").unwrap_or_default().to_owned()),
            Some("reasoning.encrypted") => DetailKind::Encrypted(pack(format, text("data").unwrap_or_default())),
            _ => return Err(entry),
        };
        Ok(Detail {
            kind,
            signature: text("signature").map(|signature| pack(format, signature)),
            id: text("id").map(str::to_owned),
            index: entry.get("index").and_then(Value::as_u64),
        })
    }

    /// Whether it only adds to the block that `id` and `index` belong to. Entries of one id are one block; pieces of a
    /// stream that nobody joined share the index.
    fn continues(&self, before: &Reasoning, index: Option<u64>) -> bool {
        let same_id = self.id.is_some() && self.id == before.id;
        let same_index = self.index.is_some() && self.index == index;
        match &self.kind {
            DetailKind::Text(_) => (same_id || same_index) && before.signature.is_none() && before.encrypted.is_none(),
            DetailKind::Summary(_) => (same_id || same_index) && before.encrypted.is_none(),
            DetailKind::Encrypted(_) => same_id && before.encrypted.is_none(),
        }
    }
}

/// Reasoning blocks out of `reasoning_details` and the plain text that most providers repeat beside them.
pub(super) fn blocks(entries: Vec<Value>, plain: String) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut index = None;
    for entry in entries {
        let detail = match Detail::read(entry) {
            Ok(detail) => detail,
            Err(unknown) => {
                blocks.extend(unknown.is_object().then(|| Block::new(Content::Other(unknown))));
                continue;
            }
        };
        let (at, same_index) = (detail.index, detail.index.is_some() && detail.index == index);
        match blocks.last_mut().map(|block| &mut block.content) {
            Some(Content::Reasoning(before)) if detail.continues(before, index) => add(before, detail, same_index),
            _ => {
                let mut fresh = Reasoning { id: detail.id.clone(), ..Reasoning::default() };
                add(&mut fresh, detail, false);
                blocks.push(Block::new(Content::Reasoning(fresh)));
            }
        }
        index = at;
    }
    place_plain(&mut blocks, plain);
    blocks
}

fn add(to: &mut Reasoning, detail: Detail, same_part: bool) {
    match detail.kind {
        DetailKind::Text(text) => to.text.push_str(&text),
        DetailKind::Summary(text) => match to.summary.last_mut() {
            Some(last) if same_part => last.push_str(&text),
            _ => to.summary.push(text),
        },
        DetailKind::Encrypted(data) => to.encrypted = Some(data),
    }
    to.signature = detail.signature.or(to.signature.take());
}

/// The plain text counts only when the details hold none.
fn place_plain(blocks: &mut Vec<Block>, plain: String) {
    let reasoning = |block: &Block| match &block.content {
        Content::Reasoning(reasoning) => !reasoning.text.is_empty() || !reasoning.summary.is_empty(),
        _ => false,
    };
    if plain.is_empty() || blocks.iter().any(reasoning) {
        return;
    }
    let signed = blocks.iter_mut().find_map(|block| match &mut block.content {
        Content::Reasoning(reasoning) if reasoning.signature.is_some() => Some(reasoning),
        _ => None,
    });
    match signed {
        Some(reasoning) => reasoning.text = plain,
        None => blocks.insert(0, Block::new(Content::Reasoning(Reasoning { text: plain, ..Reasoning::default() }))),
    }
}

/// Takes the reasoning fields out of a message.
pub(super) fn read_message(message: &mut Extra) -> Vec<Block> {
    let mut text = |key: &str| match message.shift_remove(key) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (content, alias) = (text("reasoning_content"), text("reasoning"));
    let plain = if content.is_empty() { alias } else { content };
    let details = match message.shift_remove("reasoning_details") {
        Some(Value::Array(entries)) => entries,
        _ => Vec::new(),
    };
    blocks(details, plain)
}

/// What is shown as plain text: the text itself, or the summary where that is all there is.
pub(super) fn plain(of: &Reasoning) -> String {
    if of.text.is_empty() { of.summary.join("\n\n") } else { of.text.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(text: &str, signature: &str) -> Reasoning {
        Reasoning { text: text.into(), signature: Some(signature.into()), ..Reasoning::default() }
    }

    fn reasonings(blocks: Vec<Block>) -> Vec<Reasoning> {
        blocks
            .into_iter()
            .filter_map(|block| match block.content {
                Content::Reasoning(reasoning) => Some(reasoning),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_foreign_signature_goes_to_the_client_sealed_and_comes_back_to_its_maker() {
        let items = details(&signed("hm", "EqQB"), "anthropic", To::Client, 0);
        assert_eq!(
            items,
            [json!({"type": "reasoning.text", "text": "hm", "signature": "portcullis.anthropic.EqQB",
                    "format": "anthropic-claude-v1", "index": 0})]
        );
        let back = reasonings(blocks(items, "hm".into()));
        assert_eq!(back.len(), 1);
        assert_eq!(back[0].text, "hm");
        let held = back[0].signature.as_deref().expect("kept");
        assert_eq!(for_target(held, NAME, "anthropic"), Some("EqQB"));
        assert!(details(&back[0], NAME, To::Target, 0).is_empty(), "a foreign signature went to an OpenAI upstream");
    }

    #[test]
    fn the_format_of_a_routers_signature_survives() {
        let entry = json!({"type": "reasoning.text", "text": "hm", "signature": "EqQB",
                           "format": "anthropic-claude-v1", "index": 0});
        let back = reasonings(blocks(vec![entry.clone()], String::new()));
        assert_eq!(details(&back[0], NAME, To::Target, 0), [entry]);
    }

    #[test]
    fn summary_and_encrypted_content_of_one_item_stay_one_block() {
        let item = Reasoning {
            summary: vec!["a".into(), "b".into()],
            encrypted: Some("gAAA".into()),
            id: Some("rs_1".into()),
            ..Reasoning::default()
        };
        let items = details(&item, "openai_responses", To::Client, 0);
        assert_eq!(items.len(), 3);
        assert_eq!(items[2]["data"], "portcullis.openai_responses.gAAA");
        let back = reasonings(blocks(items, "a\n\nb".into()));
        assert_eq!(back.len(), 1);
        assert_eq!(back[0].summary, ["a", "b"]);
        assert_eq!(back[0].id.as_deref(), Some("rs_1"));
    }

    #[test]
    fn pieces_that_a_client_never_joined_are_joined() {
        let pieces = vec![
            json!({"type": "reasoning.text", "text": "one ", "index": 0}),
            json!({"type": "reasoning.text", "text": "two", "index": 0}),
            json!({"type": "reasoning.text", "signature": "S", "index": 0}),
            json!({"type": "reasoning.text", "text": "next", "index": 1}),
            json!({"type": "reasoning.encrypted", "data": "D", "index": 1}),
        ];
        let back = reasonings(blocks(pieces, String::new()));
        let seen: Vec<_> =
            back.iter().map(|r| (r.text.as_str(), r.signature.as_deref(), r.encrypted.as_deref())).collect();
        assert_eq!(seen, [("one two", Some("S"), None), ("next", None, None), ("", None, Some("D"))]);
    }

    #[test]
    fn plain_text_fills_in_for_details_without_text() {
        let entries = vec![json!({"type": "reasoning.text", "signature": "S", "index": 0})];
        assert_eq!(reasonings(blocks(entries, "thought".into()))[0], signed("thought", "S"));
        let entries = vec![json!({"type": "reasoning.encrypted", "data": "D"})];
        let back = reasonings(blocks(entries, "thought".into()));
        assert_eq!((back.len(), back[0].text.as_str(), back[1].encrypted.as_deref()), (2, "thought", Some("D")));
    }
}
