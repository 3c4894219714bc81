//! Writing an ask from any dialect. Never sends what Gemini did not make: foreign signatures, ids it would not know.
//!
//! Without ids Gemini tells results apart by their place alone, so they go out in the order of the calls of the turn that
//! they answer, one for each.

use std::collections::HashMap;

use serde_json::Value;

use super::{config, tools};
use crate::chat::reasoning::for_target;
use crate::chat::{Ask, Block, Content, Media, Message, Reasoning, Role, Tool, ToolCall, ToolResult};
use crate::dialect::Encoding;
use crate::dialect::gemini::field::{self, Object, put};
use crate::dialect::gemini::part::{self, Parts};
use crate::dialect::gemini::{NAME, call_id, media, signature};
use crate::fault::{Fault, Kind};
use crate::json::exact;

/// What stands for a result that the caller left out where it gave others: Gemini counts as many results as calls, and
/// would take the next one for it.
const NO_RESULT: &str = "There is no result of this call.";

/// Most stop sequences that Gemini takes.
const MAX_STOPS: usize = 5;

/// Why a block is left out.
const UNKNOWN_BLOCK: &str = "a block that only its own provider understands";

pub fn encode(ask: &Ask, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
    if ask.source != NAME && ask.stop.len() > MAX_STOPS {
        // One that is left out would let the model write on.
        let text = format!("Gemini takes {MAX_STOPS} stop sequences at most, not {}.", ask.stop.len());
        return Err(Fault::new(Kind::UnsupportedFeature, text).param("stop"));
    }
    Ok(exact::written(body(ask, to)?))
}

/// AI Studio counts either bare `contents`, or a whole ask that must then name its model.
pub fn encode_count(ask: &Ask, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
    let mut body = body(ask, to)?;
    if body.contains_key("systemInstruction") || body.contains_key("tools") {
        body.insert("model".into(), super::super::model_resource(to.model).into());
        body = field::object("generateContentRequest", body);
    } else {
        body.retain(|name, _| name == "contents");
    }
    Ok(exact::written(body))
}

fn body(ask: &Ask, to: &mut Encoding<'_>) -> Result<Object, Fault> {
    if ask.source != NAME && ask.wants("audio") && config::is_mute(to.model) {
        let text = format!("The model {} cannot give spoken answers.", to.model);
        return Err(Fault::new(Kind::UnsupportedFeature, text).param("modalities"));
    }
    note_dropped(ask, to);
    let mut turns = Turns { source: ask.source, to, names: HashMap::new(), open: Vec::new(), contents: Vec::new() };
    for run in ask.messages.chunk_by(|one, next| is_models(one) == is_models(next)) {
        turns.run(run)?;
    }
    let mut contents = turns.finish();
    let mut system = system_parts(ask)?;
    let words = config::json_in_words(ask, to);
    let formatted = words.is_none();
    system.extend(words.map(|words| field::object("text", words).into()));
    if contents.is_empty() && !system.is_empty() {
        // Gemini answers nobody who only instructs.
        contents.push(content("user", std::mem::take(&mut system)));
    }
    let mut body = Object::new();
    body.insert("contents".into(), contents.into());
    if !system.is_empty() {
        body.insert("systemInstruction".into(), field::object("parts", system).into());
    }
    let tools = tools::encode(&ask.tools, ask.source, to);
    put(&mut body, "tools", (!tools.is_empty()).then_some(tools));
    put(&mut body, "toolConfig", tools::encode_choice(ask));
    let mut config = config::encode(ask, formatted, to);
    for refused in to.quirks.refuses {
        to.drop_if(config.shift_remove(*refused).is_some(), refused, "the provider refuses it");
    }
    put(&mut body, "generationConfig", (!config.is_empty()).then_some(config));
    put(&mut body, "serviceTier", ask.service_tier.as_deref().and_then(config::gemini_tier));
    if ask.source == NAME {
        for (name, value) in
            ask.extra.iter().filter(|(name, _)| !matches!(name.as_str(), "generationConfig" | "toolConfig"))
        {
            body.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    for refused in to.quirks.refuses {
        to.drop_if(body.shift_remove(*refused).is_some(), refused, "the provider refuses it");
    }
    Ok(body)
}

fn note_dropped(ask: &Ask, to: &mut Encoding<'_>) {
    const UNKNOWN: &str = "Gemini has no such field";
    to.drop_if(ask.logit_bias.is_some(), "logit_bias", "Gemini's token ids are its own and it takes no biases");
    to.drop_if(ask.parallel_tools.is_some(), "parallel_tool_calls", "Gemini decides that itself");
    to.drop_if(ask.user.is_some(), "user", UNKNOWN);
    to.drop_if(ask.metadata.is_some(), "metadata", UNKNOWN);
    to.drop_if(ask.store.is_some(), "store", UNKNOWN);
    to.drop_if(ask.min_p.is_some(), "min_p", UNKNOWN);
    to.drop_if(ask.verbosity.is_some(), "verbosity", UNKNOWN);
    to.drop_if(ask.cache_key.is_some(), "prompt_cache_key", "Gemini caches by prefix without a key");
    to.drop_if(ask.audio.is_some(), "audio", "Gemini has other voices; they are set in its own `speechConfig`");
    to.drop_if(ask.messages.iter().any(|message| message.name.is_some()), "messages.name", UNKNOWN);
    to.drop_if(ask.source != NAME && !ask.extra.is_empty(), "extra fields", "only the caller's dialect knows them");
    let strict = |tool: &Tool| matches!(tool, Tool::Function { strict: Some(true), .. });
    to.drop_if(ask.tools.iter().any(strict), "tools.strict", "Gemini does not hold arguments to their schema");
    let marked_tool = ask.tools.iter().any(|tool| matches!(tool, Tool::Function { cache: Some(_), .. }));
    let mut blocks = ask.system.iter().chain(ask.messages.iter().flat_map(|message| &message.blocks));
    let marked = marked_tool || blocks.any(|block| block.cache.is_some());
    to.drop_if(marked, "cache_control", "Gemini caches by prefix without marks");
    let mut blocks = ask.messages.iter().flat_map(|message| &message.blocks);
    let hint =
        |block: &Block| matches!(&block.content, Content::Image { detail: Some(detail), .. } if detail != "auto");
    to.drop_if(blocks.any(hint), "image.detail", "Gemini sets the resolution for the whole ask");
}

fn system_parts(ask: &Ask) -> Result<Vec<Value>, Fault> {
    let mut parts = Parts::default();
    for block in &ask.system {
        if let Some(part) = shared(block, ask.source)? {
            parts.push(part);
        }
    }
    Ok(parts.done())
}

fn content(role: &str, parts: Vec<Value>) -> Value {
    let mut content = field::object("role", role);
    content.insert("parts".into(), parts.into());
    Value::Object(content)
}

/// Parts that look alike in every role: text and media. None for what is empty or has no form here.
fn shared(block: &Block, source: &'static str) -> Result<Option<Object>, Fault> {
    let mut part = match &block.content {
        // Gemini refuses an empty text part.
        Content::Text { text, .. } | Content::Refusal(text) if text.is_empty() => return Ok(None),
        Content::Text { text, .. } | Content::Refusal(text) => field::object("text", text.clone()),
        Content::Image { source: from, .. } => media_part(from, Some("image/jpeg"), None, source)?,
        Content::File { source: from, name } => {
            media_part(from, None, name.as_deref().filter(|_| source == NAME), source)?
        }
        Content::Audio { data, .. } if data.is_empty() => return Ok(None),
        Content::Audio { data, format, .. } => {
            let odd = block.extra.get("mimeType").and_then(Value::as_str).filter(|_| source == NAME);
            media::inline(odd.unwrap_or(&media::audio_mime(format, data)), data)
        }
        Content::Other(Value::Object(part)) if source == NAME => part.clone(),
        _ => return Ok(None),
    };
    if source == NAME {
        part.extend(block.extra.iter().filter(|(name, _)| *name != "mimeType").map(|(n, v)| (n.clone(), v.clone())));
    }
    Ok(Some(part))
}

fn media_part(from: &Media, fallback: Option<&str>, name: Option<&str>, source: &str) -> Result<Object, Fault> {
    match (from, media::part(from, fallback, name)) {
        (_, Some(part)) => Ok(part),
        (Media::Id(id), None) if source == NAME => Ok(field::object("fileData", field::object("fileUri", id.clone()))),
        _ => {
            let text = "A file that another provider holds cannot be sent to Gemini; send its bytes or a URL.";
            Err(Fault::new(Kind::UnsupportedFeature, text).param("file_id"))
        }
    }
}

fn is_models(message: &Message) -> bool {
    message.role == Role::Assistant
}

/// Turns of the conversation, neighbours of one role merged.
struct Turns<'a, 'b, 'c> {
    source: &'static str,
    to: &'b mut Encoding<'c>,
    /// Names of the calls so far by id: a response must name its function, and most dialects only give the id.
    names: HashMap<&'a str, &'a str>,
    /// Calls of the model's turn that was written last.
    open: Vec<&'a ToolCall>,
    contents: Vec<(&'static str, Parts)>,
}

impl<'a> Turns<'a, '_, '_> {
    /// Messages that together are one turn.
    fn run(&mut self, messages: &'a [Message]) -> Result<(), Fault> {
        // Gemini has no instructions inside a conversation: they are said by the user, at their place.
        let role = if messages.first().is_some_and(is_models) { "model" } else { "user" };
        let mut results = Vec::new();
        for block in messages.iter().flat_map(|message| &message.blocks) {
            if let Content::ToolResult(result) = &block.content {
                results.push(result);
            }
        }
        // Results must come first in the turn after their calls.
        self.results(results)?;
        for block in messages.iter().flat_map(|message| &message.blocks) {
            self.block(role, block)?;
        }
        Ok(())
    }

    /// The results of one turn. Its own callers have paired theirs themselves.
    fn results(&mut self, mut results: Vec<&'a ToolResult>) -> Result<(), Fault> {
        let calls = std::mem::take(&mut self.open);
        if self.source != NAME {
            let mut answers = Vec::with_capacity(calls.len());
            for call in calls {
                let at = results.iter().position(|result| result.id == call.id);
                answers.push((call, at.map(|at| results.remove(at))));
            }
            if answers.iter().any(|(_, answer)| answer.is_some()) {
                for (call, answer) in answers {
                    match answer {
                        Some(result) => self.result(result)?,
                        None => {
                            let none = field::object("error", NO_RESULT).into();
                            self.response(&call.id, &call.name, none, Vec::new());
                        }
                    }
                }
            }
        }
        // What answers no call of the turn before; Gemini judges it.
        results.into_iter().try_for_each(|result| self.result(result))
    }

    fn block(&mut self, role: &'static str, block: &'a Block) -> Result<(), Fault> {
        match &block.content {
            Content::ToolCall(call) => self.call(role, call, block),
            // Written before everything else of the turn.
            Content::ToolResult(_) => {}
            Content::Reasoning(reasoning) => self.reasoning(role, reasoning),
            Content::Other(_) if self.source != NAME => {
                self.to.drop_if(true, "messages.content", UNKNOWN_BLOCK);
            }
            _ => {
                if let Some(part) = shared(block, self.source)? {
                    self.parts(role).push(part);
                }
            }
        }
        Ok(())
    }

    fn parts(&mut self, role: &'static str) -> &mut Parts {
        if self.contents.last().is_none_or(|(last, _)| *last != role) {
            self.contents.push((role, Parts::default()));
        }
        let last = self.contents.len() - 1;
        &mut self.contents[last].1
    }

    fn call(&mut self, role: &'static str, call: &'a ToolCall, block: &Block) {
        self.names.insert(&call.id, &call.name);
        self.open.push(call);
        let mut part = part::call(call, Some(call.id.as_str()).filter(|id| call_id::own(id)));
        let signature = call.signature.as_deref().and_then(|held| for_target(held, self.source, NAME));
        put(&mut part, "thoughtSignature", signature);
        if self.source == NAME {
            part.extend(block.extra.clone());
        }
        self.parts(role).push(part);
    }

    fn reasoning(&mut self, role: &'static str, reasoning: &Reasoning) {
        let signature = signature::for_provider(reasoning, self.source);
        let origin = if reasoning.origin.is_empty() { self.source } else { &reasoning.origin };
        if signature.is_none() && origin != NAME {
            return self.to.drop_if(
                true,
                "messages.reasoning",
                "another model's reasoning, which Gemini cannot verify",
            );
        }
        let text = if reasoning.text.is_empty() { reasoning.summary.join("\n\n") } else { reasoning.text.clone() };
        self.parts(role).reasoning(text, signature);
    }

    fn result(&mut self, result: &'a ToolResult) -> Result<(), Fault> {
        let name = self.names.get(result.id.as_str()).copied().or(result.name.as_deref());
        let mut beside = Vec::new();
        for block in result.content.iter().filter(|block| !matches!(block.content, Content::Text { .. })) {
            let part = shared(block, self.source)?;
            let lost = part.is_none() && matches!(block.content, Content::Other(_));
            self.to.drop_if(lost, "messages.content", UNKNOWN_BLOCK);
            beside.extend(part);
        }
        // A result without its call in the history still needs some name; Gemini then judges the conversation.
        self.response(&result.id, name.unwrap_or("unknown_function"), response(result), beside);
        Ok(())
    }

    fn response(&mut self, id: &str, name: &str, response: Value, media: Vec<Object>) {
        let mut inner = Object::new();
        put(&mut inner, "id", Some(id).filter(|id| call_id::own(id)));
        inner.insert("name".into(), name.into());
        inner.insert("response".into(), response);
        // From 3 on inline media ride inside the response; other media, and before, all of them, stand beside it.
        let inside = config::wants_signatures(self.to.model);
        let (inside, beside): (Vec<_>, Vec<_>) =
            media.into_iter().partition(|part| inside && part.contains_key("inlineData"));
        if !inside.is_empty() {
            inner.insert("parts".into(), inside.into_iter().map(Value::Object).collect());
        }
        let parts = self.parts("user");
        parts.push(field::object("functionResponse", inner));
        beside.into_iter().for_each(|part| parts.push(part));
    }

    fn finish(self) -> Vec<Value> {
        let stand_in = config::wants_signatures(self.to.model);
        let turns = self.contents.into_iter().map(|(role, parts)| (role, parts.done()));
        turns
            .filter(|(_, parts)| !parts.is_empty())
            .map(|(role, mut parts)| {
                if stand_in && role == "model" {
                    sign_first_call(&mut parts);
                }
                content(role, parts)
            })
            .collect()
    }
}

/// Gemini 3 refuses a turn whose first call has no signature; for calls that other models made it documents a stand-in.
fn sign_first_call(parts: &mut [Value]) {
    let first = parts.iter_mut().filter_map(Value::as_object_mut).find(|part| part.contains_key("functionCall"));
    if let Some(part) = first {
        part.entry("thoughtSignature").or_insert_with(|| signature::STAND_IN.into());
    }
}

/// What a tool answered as the object that Gemini wants: text that is a JSON object as it is, other text wrapped.
fn response(result: &ToolResult) -> Value {
    let text = part::plain_text(&result.content);
    let object = match serde_json::from_str(&text) {
        Ok(object @ Value::Object(_)) => Some(exact::of(object, &text)),
        _ => None,
    };
    match (result.is_error, object) {
        (Some(true), Some(object)) => field::object("error", object).into(),
        (Some(true), None) => field::object("error", text).into(),
        (_, Some(object)) => object,
        (_, None) => field::object("result", text).into(),
    }
}
