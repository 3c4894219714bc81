//! One spelling for asks that mean the same, whatever dialect they came in: what a cache key is made of.
//!
//! Two asks that a model could answer differently never have one spelling. What cannot change an answer (who asks,
//! whether it streams, prompt-cache marks, ids that only link a call to its result) is left out.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

use crate::chat::{Ask, Block, Content, Media, Message, OutputFormat, Reasoning, Role, Tool, ToolChoice};
use crate::embed::{EmbedAsk, EmbedInput};

/// Fields of `extra` that are for the gateway, or for accounts and not for the model.
const NOT_FOR_THE_MODEL: &[&str] =
    &["usage", "cache", "safety_identifier", "prompt_cache_retention", "include_obfuscation"];

/// What the spelling takes no notice of.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The order of keys inside JSON objects.
    pub order: bool,
    /// These top-level fields, in the spelling's [own names](super::fields::own_name).
    pub ignore: &'a [String],
    /// The answer repeats the ask's labels, so that they do make a difference.
    pub echoed: bool,
}

/// The spelling of a conversation.
pub fn ask(ask: &Ask, rules: Rules<'_>) -> Vec<u8> {
    let mut canon = Canon::new(rules, ask.source);
    canon.within(|canon| {
        canon.conversation(ask);
        canon.tools(ask);
    });
    canon.tool_use(ask);
    canon.parameters(ask);
    canon.rest(ask);
    canon.out
}

/// The spelling of a request for embeddings.
pub fn embed(ask: &EmbedAsk, rules: Rules<'_>) -> Vec<u8> {
    let mut canon = Canon::new(rules, ask.source);
    for input in &ask.inputs {
        match input {
            EmbedInput::Text(text) => canon.text(b't', text),
            EmbedInput::Tokens(tokens) => {
                canon.tag(b'n');
                tokens.iter().for_each(|token| canon.out.extend_from_slice(&token.to_le_bytes()));
                canon.tag(b'.');
            }
            EmbedInput::Other(value) => canon.value(value),
        }
    }
    canon.number("dimensions", ask.dimensions);
    canon.optional("task", ask.task.as_deref());
    canon.optional("title", ask.title.as_deref());
    // Both are about the answer's form, which is kept as it came.
    canon.flag("base64", Some(ask.base64));
    canon.flag("single", Some(ask.single));
    canon.extra(&ask.extra);
    canon.out
}

/// A spelling under way. Every part begins with a tag and says its length, so that no two sequences of parts read alike.
struct Canon<'a> {
    out: Vec<u8>,
    rules: Rules<'a>,
    source: &'static str,
    /// A part of a field or of the conversation is being written; nothing inside is ignored.
    inside: bool,
    /// Ids of calls in the order in which they were first met.
    calls: HashMap<String, usize>,
}

impl<'a> Canon<'a> {
    fn new(rules: Rules<'a>, source: &'static str) -> Self {
        Canon { out: Vec::with_capacity(1024), rules, source, inside: false, calls: HashMap::new() }
    }

    fn tag(&mut self, tag: u8) {
        self.out.push(tag);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.out.extend_from_slice(bytes);
    }

    fn text(&mut self, tag: u8, text: &str) {
        self.tag(tag);
        self.bytes(text.as_bytes());
    }

    fn ignored(&self, name: &str) -> bool {
        !self.inside && self.rules.ignore.iter().any(|ignored| ignored == name)
    }

    fn within(&mut self, write: impl FnOnce(&mut Self)) {
        let inside = std::mem::replace(&mut self.inside, true);
        write(self);
        self.inside = inside;
    }

    /// A field, unless it is absent or makes no difference.
    fn field<T>(&mut self, name: &str, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        if let Some(value) = value.filter(|_| !self.ignored(name)) {
            self.text(b'=', name);
            self.within(|canon| write(canon, value));
        }
    }

    fn optional(&mut self, name: &str, value: Option<&str>) {
        self.field(name, value, |canon, value| canon.text(b's', value));
    }

    fn number(&mut self, name: &str, value: Option<u64>) {
        self.field(name, value, |canon, value| canon.out.extend_from_slice(&value.to_le_bytes()));
    }

    fn flag(&mut self, name: &str, value: Option<bool>) {
        self.field(name, value, |canon, value| canon.tag(u8::from(value)));
    }

    /// `1`, `1.0` and `1e0` ask for the same.
    fn decimal(&mut self, name: &str, value: Option<&Number>) {
        self.field(name, value, |canon, value| canon.numeral(value));
    }

    fn numeral(&mut self, value: &Number) {
        match value.as_f64() {
            // Beyond 2^53 a float no longer tells neighbours apart.
            Some(float) if float.abs() < 9_007_199_254_740_992.0 => {
                self.tag(b'f');
                // -0 and 0 are one.
                self.out.extend_from_slice(&(float + 0.0).to_bits().to_le_bytes());
            }
            _ => self.text(b'N', &value.to_string()),
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.tag(b'0'),
            Value::Bool(flag) => self.tag(if *flag { b'y' } else { b'x' }),
            Value::Number(number) => self.numeral(number),
            Value::String(text) => self.text(b's', text),
            Value::Array(items) => {
                self.tag(b'[');
                items.iter().for_each(|item| self.value(item));
                self.tag(b']');
            }
            Value::Object(fields) => self.object(fields),
        }
    }

    fn object(&mut self, fields: &Map<String, Value>) {
        self.tag(b'{');
        let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
        if self.rules.order {
            fields.sort_by_key(|(name, _)| *name);
        }
        for (name, value) in fields {
            self.text(b'k', name);
            self.value(value);
        }
        self.tag(b'}');
    }

    /// Fields that only the source dialect knows: they mean something only in it.
    fn extra(&mut self, extra: &Map<String, Value>) {
        let mut known: Vec<(&String, &Value)> = extra
            .iter()
            .filter(|(name, _)| !NOT_FOR_THE_MODEL.contains(&name.as_str()) && !self.ignored(name))
            .collect();
        if known.is_empty() {
            return;
        }
        // The order of top-level fields means nothing to anybody.
        known.sort_by_key(|(name, _)| *name);
        self.text(b'e', self.source);
        for (name, value) in known {
            self.text(b'k', name);
            self.value(value);
        }
        self.tag(b'.');
    }

    fn conversation(&mut self, ask: &Ask) {
        self.tag(b'S');
        ask.system.iter().for_each(|block| self.block(block));
        let mut before: Option<&Message> = None;
        for message in &ask.messages {
            // Neighbours of one role are one turn: dialects differ in whether they merge them.
            let goes_on = before.is_some_and(|before| before.role == message.role && before.name == message.name);
            if !goes_on {
                self.tag(match message.role {
                    Role::System => b'D',
                    Role::User => b'U',
                    Role::Assistant => b'A',
                });
                self.optional("name", message.name.as_deref());
            }
            message.blocks.iter().for_each(|block| self.block(block));
            self.extra(&message.extra);
            before = Some(message);
        }
    }

    fn block(&mut self, block: &Block) {
        match &block.content {
            Content::Text { text, .. } => self.text(b't', text),
            Content::Image { source, detail } => {
                self.tag(b'i');
                self.media(source);
                self.optional("detail", detail.as_deref());
            }
            Content::Audio { data, format, id, .. } => {
                self.text(b'a', format);
                self.bytes(data.as_bytes());
                self.optional("id", id.as_deref());
            }
            Content::File { source, name } => {
                self.tag(b'd');
                self.media(source);
                self.optional("name", name.as_deref());
            }
            Content::ToolCall(call) => {
                self.text(b'c', &call.name);
                self.link(&call.id);
                self.bytes(if call.arguments.is_empty() { b"{}" } else { call.arguments.as_bytes() });
            }
            Content::ToolResult(result) => {
                self.tag(b'r');
                self.link(&result.id);
                self.tag(u8::from(result.is_error.unwrap_or(false)));
                result.content.iter().for_each(|block| self.block(block));
                self.tag(b'.');
            }
            Content::Reasoning(reasoning) => self.reasoning(reasoning),
            Content::Refusal(text) => self.text(b'R', text),
            Content::Other(value) => {
                self.text(b'o', self.source);
                self.value(value);
            }
        }
        self.extra(&block.extra);
    }

    fn reasoning(&mut self, reasoning: &Reasoning) {
        self.text(b'T', &reasoning.text);
        reasoning.summary.iter().for_each(|part| self.text(b's', part));
        self.optional("signature", reasoning.signature.as_deref());
        self.optional("encrypted", reasoning.encrypted.as_deref());
    }

    fn media(&mut self, media: &Media) {
        match media {
            Media::Url { url, .. } => self.text(b'u', url),
            Media::Inline { mime, data } => {
                self.text(b'm', mime);
                self.bytes(data.as_bytes());
            }
            Media::Id(id) => {
                // An id means something only to the provider that gave it.
                self.text(b'p', self.source);
                self.bytes(id.as_bytes());
            }
            Media::Text(text) => self.text(b't', text),
        }
    }

    /// Which call this is about: the place of its id, not the id.
    fn link(&mut self, id: &str) {
        let next = self.calls.len();
        let place = *self.calls.entry(id.to_owned()).or_insert(next);
        self.out.extend_from_slice(&(place as u32).to_le_bytes());
    }

    fn tools(&mut self, ask: &Ask) {
        for tool in &ask.tools {
            match tool {
                Tool::Function { name, description, parameters, strict, extra, .. } => {
                    self.text(b'F', name);
                    self.optional("description", description.as_deref());
                    self.field("parameters", parameters.as_ref(), |canon, value| canon.value(value));
                    self.flag("strict", *strict);
                    self.extra(extra);
                }
                Tool::Custom { name, description, format } => {
                    self.text(b'C', name);
                    self.optional("description", description.as_deref());
                    self.field("format", format.as_ref(), |canon, value| canon.value(value));
                }
                Tool::Hosted(value) => {
                    self.text(b'H', self.source);
                    self.value(value);
                }
            }
        }
    }

    fn tool_use(&mut self, ask: &Ask) {
        self.field("tool_choice", ask.tool_choice.as_ref(), |canon, choice| match choice {
            ToolChoice::Auto => canon.tag(b'a'),
            ToolChoice::None => canon.tag(b'n'),
            ToolChoice::Required => canon.tag(b'r'),
            ToolChoice::Named(name) => canon.text(b'N', name),
            ToolChoice::Allowed { names, required } => {
                canon.tag(if *required { b'R' } else { b'L' });
                names.iter().for_each(|name| canon.text(b's', name));
                canon.tag(b'.');
            }
        });
        self.flag("parallel_tools", ask.parallel_tools);
    }

    fn parameters(&mut self, ask: &Ask) {
        self.number("max_tokens", ask.max_tokens);
        for (name, value) in [
            ("temperature", &ask.temperature),
            ("top_p", &ask.top_p),
            ("top_k", &ask.top_k),
            ("min_p", &ask.min_p),
            ("frequency_penalty", &ask.frequency_penalty),
            ("presence_penalty", &ask.presence_penalty),
            ("seed", &ask.seed),
        ] {
            self.decimal(name, value.as_ref());
        }
        for word in &ask.stop {
            self.optional("stop", Some(word));
        }
        // One choice is what everybody gets who does not ask.
        self.number("n", ask.n.filter(|n| *n != 1));
        self.flag("logprobs", ask.logprobs.filter(|wanted| *wanted));
        self.number("top_logprobs", ask.top_logprobs);
        self.field("logit_bias", ask.logit_bias.as_ref(), |canon, value| canon.value(value));
        self.field("output", ask.output.as_ref(), |canon, format| match format {
            OutputFormat::Text => canon.tag(b't'),
            OutputFormat::JsonObject => canon.tag(b'j'),
            OutputFormat::JsonSchema { name, description, schema, strict } => {
                canon.text(b's', name);
                canon.optional("description", description.as_deref());
                canon.value(schema);
                canon.flag("strict", *strict);
            }
        });
    }

    fn rest(&mut self, ask: &Ask) {
        self.optional("verbosity", ask.verbosity.as_deref());
        self.field("reasoning", ask.reasoning.as_ref(), |canon, reasoning| {
            canon.optional("effort", reasoning.effort.map(|effort| effort.as_str()));
            canon.number("budget", reasoning.budget);
            canon.flag("adaptive", reasoning.adaptive.then_some(true));
            canon.flag("include", reasoning.include);
            canon.optional("summary", reasoning.summary.as_deref());
        });
        for kind in &ask.modalities {
            self.optional("modalities", Some(kind));
        }
        self.field("audio", ask.audio.as_ref(), |canon, value| canon.value(value));
        self.optional("service_tier", ask.service_tier.as_deref());
        self.flag("store", ask.store);
        if self.rules.echoed {
            self.optional("user", ask.user.as_deref());
            self.field("metadata", ask.metadata.as_ref(), |canon, labels| canon.object(labels));
        }
        self.extra(&ask.extra);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::own_name;
    use super::*;
    use crate::dialect::{self, Op, RawAsk};
    use serde_json::json;

    const RULES: Rules<'static> = Rules { order: false, ignore: &[], echoed: false };

    fn spelt(dialect: &str, body: Value, rules: Rules<'_>) -> Vec<u8> {
        let body = body.to_string();
        let raw = RawAsk { op: Op::Generate, body: body.as_bytes(), model: Some("m"), stream: false };
        ask(&dialect::find(dialect).expect("a dialect").decode_ask(&raw).expect("decodes"), rules)
    }

    fn chat(body: Value) -> Vec<u8> {
        spelt("openai_chat", body, RULES)
    }

    #[test]
    fn one_conversation_is_spelt_alike_in_every_dialect() {
        let chat = chat(json!({"model": "m", "max_tokens": 50, "temperature": 1, "stream": true, "user": "u",
            "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"},
                         {"role": "assistant", "content": "Ho"}, {"role": "user", "content": [{"type": "text", "text": "How?"}]}]}));
        let others = [
            spelt(
                "anthropic",
                json!({"model": "m", "max_tokens": 50, "temperature": 1.0, "system": "Be short.",
                "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"},
                             {"role": "user", "content": [{"type": "text", "text": "How?", "cache_control": {"type": "ephemeral"}}]}]}),
                RULES,
            ),
            spelt(
                "openai_responses",
                json!({"model": "m", "max_output_tokens": 50, "temperature": 1, "instructions": "Be short.",
                "input": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "How?"}]}),
                RULES,
            ),
            spelt(
                "gemini",
                json!({"generationConfig": {"maxOutputTokens": 50, "temperature": 1}, "systemInstruction": {"parts": [{"text": "Be short."}]},
                "contents": [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Ho"}]},
                             {"role": "user", "parts": [{"text": "How?"}]}]}),
                RULES,
            ),
        ];
        for other in others {
            assert_eq!(String::from_utf8_lossy(&chat), String::from_utf8_lossy(&other));
        }
    }

    #[test]
    fn ids_that_only_link_make_no_difference_but_what_they_link_does() {
        let turn = |first: &str, second: &str, answered: &str| {
            chat(json!({"model": "m", "messages": [{"role": "user", "content": "x"},
                {"role": "assistant", "tool_calls": [
                    {"id": first, "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": second, "type": "function", "function": {"name": "g", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": answered, "content": "y"}]}))
        };
        assert_eq!(turn("call_1", "call_2", "call_1"), turn("call_a", "call_b", "call_a"));
        assert_ne!(turn("call_1", "call_2", "call_1"), turn("call_1", "call_2", "call_2"));
    }

    #[test]
    fn whatever_a_model_could_answer_differently_is_spelt_differently() {
        let base = json!({"model": "m", "messages": [{"role": "user", "content": "ab"}], "temperature": 0.5,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": 1, "b": 2}}}]});
        let plain = chat(base.clone());
        for (path, value) in [
            ("/messages/0/content", json!("a b")),
            ("/messages/0/content", json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])),
            ("/messages/0/role", json!("assistant")),
            ("/temperature", json!(0.6)),
            ("/tools/0/function/parameters", json!({"b": 2, "a": 1})),
            ("/tools/0/function/name", json!("g")),
        ] {
            let mut other = base.clone();
            *other.pointer_mut(path).expect("a place") = value;
            assert_ne!(plain, chat(other), "{path}");
        }
        for (name, value) in [
            ("seed", json!(1)),
            ("stop", json!(["x"])),
            ("n", json!(2)),
            ("max_tokens", json!(5)),
            ("x_unknown", json!(1)),
            ("response_format", json!({"type": "json_object"})),
            ("reasoning_effort", json!("low")),
            ("logprobs", json!(true)),
            ("tool_choice", json!("required")),
        ] {
            let mut other = base.clone();
            other[name] = value;
            assert_ne!(plain, chat(other), "{name}");
        }
        for (name, value) in [
            ("user", json!("u")),
            ("metadata", json!({"a": "b"})),
            ("stream", json!(true)),
            ("n", json!(1)),
            ("stream_options", json!({"include_usage": true})),
            ("usage", json!({"include": true})),
            ("prompt_cache_key", json!("k")),
        ] {
            let mut other = base.clone();
            other[name] = value;
            assert_eq!(plain, chat(other), "{name}");
        }
    }

    #[test]
    fn the_operator_says_what_else_makes_no_difference() {
        let one = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "seed": 1, "x_trace": "a", "response_format": {"type": "json_object"}, "max_completion_tokens": 9,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": 1, "b": 2}}}]});
        let two = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "seed": 2, "x_trace": "b",
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"b": 2, "a": 1}}}]});
        let ignore = ["seed".to_owned(), "x_trace".to_owned(), "description".to_owned(), "name".to_owned()];
        let ignore =
            [&ignore[..], &["response_format", "max_completion_tokens"].map(own_name).map(str::to_owned)].concat();
        let rules = Rules { order: true, ignore: &ignore, echoed: false };
        assert_eq!(spelt("openai_chat", one.clone(), rules), spelt("openai_chat", two.clone(), rules));
        // Only what the request itself says at its top is left out, not what has the same name inside.
        let mut other = one.clone();
        other["tools"][0]["function"]["description"] = json!("another");
        assert_ne!(spelt("openai_chat", one.clone(), rules), spelt("openai_chat", other, rules));
        assert_ne!(chat(one), chat(two));
    }
}
