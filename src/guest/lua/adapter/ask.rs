//! Asks, from the neutral form into the tables that `encode` gets.
//!
//! Loses only what the contract leaves out on purpose: opaque values that another provider made. What the caller did not
//! state is absent.

use mlua::{IntoLua, Lua, LuaSerdeExt, Result, Table};
use serde_json::{Map, Number, Value};

use super::super::{convert, turn};
use crate::chat::reasoning::for_target;
use crate::chat::{
    Ask, Block, Content, Media, Message, OutputFormat, Reasoning, ReasoningAsk, Role, Tool, ToolCall, ToolChoice,
    ToolResult,
};
use crate::embed::{EmbedAsk, EmbedInput};
use crate::fault::{Fault, Kind};
use crate::guest::adapter::Operation;
use crate::rerank::RerankAsk;

/// Makes the tables of one ask. It knows who the ask is for and where it comes from: opaque values reach only their maker.
pub struct Teller<'a> {
    pub lua: &'a Lua,
    pub source: &'a str,
    pub adapter: &'a str,
}

/// A table under way.
struct Fields<'a> {
    lua: &'a Lua,
    table: Table,
}

impl Fields<'_> {
    fn put(self, name: &str, value: impl IntoLua) -> Result<Self> {
        self.table.raw_set(name, value)?;
        Ok(self)
    }

    /// Nothing where there is nothing.
    fn some(self, name: &str, value: Option<impl IntoLua>) -> Result<Self> {
        match value {
            Some(value) => self.put(name, value),
            None => Ok(self),
        }
    }

    fn json(self, name: &str, value: Option<&Value>) -> Result<Self> {
        let value = value.map(|value| convert::to_lua(self.lua, value)).transpose()?;
        self.some(name, value)
    }

    fn object(self, name: &str, entries: Option<&Map<String, Value>>) -> Result<Self> {
        let Some(entries) = entries.filter(|entries| !entries.is_empty()) else { return Ok(self) };
        let inner = fields(self.lua)?;
        for (key, value) in entries.iter().filter(|(_, value)| !value.is_null()) {
            inner.table.raw_set(key.as_str(), convert::to_lua(self.lua, value)?)?;
        }
        self.put(name, inner.table)
    }
}

fn fields(lua: &Lua) -> Result<Fields<'_>> {
    turn::step()?;
    Ok(Fields { lua, table: lua.create_table()? })
}

/// A list that stays one when it is written as JSON, also where it is empty.
fn list<T>(lua: &Lua, items: &[T], each: impl Fn(&T) -> Result<Option<Table>>) -> Result<Table> {
    let list = lua.create_table_with_capacity(items.len(), 0)?;
    let mut count = 0;
    for item in items {
        if let Some(table) = each(item)? {
            count += 1;
            list.raw_seti(count, table)?;
        }
    }
    list.set_metatable(Some(lua.array_metatable()))?;
    Ok(list)
}

fn float(number: Option<&Number>) -> Option<f64> {
    number.and_then(Number::as_f64)
}

impl<'a> Teller<'a> {
    fn fields(&self) -> Result<Fields<'a>> {
        fields(self.lua)
    }

    /// The ask for a conversation.
    ///
    /// # Errors
    /// The machine has no room for it.
    pub fn ask(&self, ask: &Ask, model: &str) -> Result<Table> {
        let stop = (!ask.stop.is_empty()).then(|| ask.stop.clone());
        let fields = self
            .fields()?
            .put("operation", Operation::Chat.as_str())?
            .put("model", model)?
            .put("system", self.blocks(&ask.system)?)?
            .put("messages", list(self.lua, &ask.messages, |message| self.message(message).map(Some))?)?
            .put("tools", list(self.lua, &ask.tools, |tool| self.tool(tool).map(Some))?)?;
        let fields = match &ask.tool_choice {
            Some(choice) => self.tool_choice(fields, choice)?,
            None => fields,
        };
        let fields = fields
            .some("parallel_tools", ask.parallel_tools)?
            .some("max_tokens", ask.max_tokens.map(|count| count as f64))?
            .some("temperature", float(ask.temperature.as_ref()))?
            .some("top_p", float(ask.top_p.as_ref()))?
            .some("top_k", float(ask.top_k.as_ref()))?
            .some("min_p", float(ask.min_p.as_ref()))?
            .some("frequency_penalty", float(ask.frequency_penalty.as_ref()))?
            .some("presence_penalty", float(ask.presence_penalty.as_ref()))?
            .some("stop", stop)?
            .some("seed", float(ask.seed.as_ref()))?
            .some("n", ask.n.map(|count| count as f64))?
            .some("logprobs", ask.logprobs)?
            .some("top_logprobs", ask.top_logprobs.map(|count| count as f64))?
            .some("output", ask.output.as_ref().map(|output| self.output(output)).transpose()?)?
            .some("reasoning", ask.reasoning.as_ref().map(|reasoning| self.reasoning_ask(ask, reasoning)).transpose()?)?
            .put("streamed", ask.stream)?
            .some("user", ask.user.as_deref())?
            .object("metadata", ask.metadata.as_ref())?
            .some("cache_key", ask.cache_key.as_deref())?
            .put("source", ask.source)?
            .object("extra", Some(&ask.extra))?;
        Ok(fields.table)
    }

    /// The ask for vectors.
    ///
    /// # Errors
    /// The machine has no room for it.
    pub fn embed(&self, inputs: &[&str], ask: &EmbedAsk, model: &str) -> Result<Table> {
        let fields = self
            .fields()?
            .put("operation", Operation::Embed.as_str())?
            .put("model", model)?
            .put("inputs", self.lua.create_sequence_from(inputs.iter().copied())?)?
            .some("dimensions", ask.dimensions.map(|count| count as f64))?
            .some("user", ask.user.as_deref())?;
        Ok(fields.table)
    }

    /// The ask for a ranking.
    ///
    /// # Errors
    /// The machine has no room for it.
    pub fn rerank(&self, ask: &RerankAsk, model: &str) -> Result<Table> {
        let documents = self.lua.create_sequence_from(ask.documents.iter().map(String::as_str))?;
        let fields = self
            .fields()?
            .put("operation", Operation::Rerank.as_str())?
            .put("model", model)?
            .put("query", ask.query.as_str())?
            .put("documents", documents)?
            .some("top_n", ask.top_n.map(|count| count as f64))?;
        Ok(fields.table)
    }

    fn reasoning_ask(&self, ask: &Ask, reasoning: &ReasoningAsk) -> Result<Table> {
        let fields = self
            .fields()?
            .some("effort", reasoning.effort_level(ask.max_tokens).map(|effort| effort.as_str()))?
            .some("budget", reasoning.budget_tokens(ask.max_tokens).map(|count| count as f64))?
            .some("shown", reasoning.include)?;
        Ok(fields.table)
    }

    fn message(&self, message: &Message) -> Result<Table> {
        let role = match message.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let fields = self.fields()?.put("role", role)?.put("blocks", self.blocks(&message.blocks)?)?;
        Ok(fields.some("name", message.name.as_deref())?.table)
    }

    fn blocks(&self, blocks: &[Block]) -> Result<Table> {
        list(self.lua, blocks, |block| self.block(block))
    }

    /// None for a block that would be empty: foreign reasoning without text.
    fn block(&self, block: &Block) -> Result<Option<Table>> {
        let of = |kind: &str| self.fields()?.put("kind", kind);
        let fields = match &block.content {
            Content::Text { text, citations } => {
                let cited = (!citations.is_empty()).then(|| Value::Array(citations.clone()));
                of("text")?.put("text", text.as_str())?.json("citations", cited.as_ref())?
            }
            Content::Image { source, detail } => self.image(source, detail.as_deref())?,
            Content::Audio { data, format, transcript, .. } => of("audio")?
                .put("data", data.as_str())?
                .put("format", format.as_str())?
                .some("transcript", transcript.as_deref())?,
            Content::File { source, name } => {
                of("file")?.put("source", self.media(source)?)?.some("name", name.as_deref())?
            }
            Content::ToolCall(call) => self.tool_call(call)?,
            Content::ToolResult(result) => self.tool_result(result)?,
            Content::Reasoning(thought) => match self.reasoning(thought)? {
                Some(fields) => fields,
                None => return Ok(None),
            },
            Content::Refusal(text) => of("refusal")?.put("text", text.as_str())?,
            Content::Other(value) => of("other")?.json("value", Some(value))?,
        };
        let cache = block.cache.as_ref().map(|mark| mark.ttl.as_deref().unwrap_or_default());
        Ok(Some(fields.some("cache", cache)?.table))
    }

    fn image(&self, source: &Media, detail: Option<&str>) -> Result<Fields<'a>> {
        self.fields()?.put("kind", "image")?.put("source", self.media(source)?)?.some("detail", detail)
    }

    fn media(&self, media: &Media) -> Result<Table> {
        let fields = self.fields()?;
        let fields = match media {
            Media::Url { url, .. } => fields.put("url", url.as_str())?,
            Media::Inline { mime, data } => fields.put("mime", mime.as_str())?.put("data", data.as_str())?,
            Media::Id(id) => fields.put("id", id.as_str())?,
            Media::Text(text) => fields.put("text", text.as_str())?,
        };
        Ok(fields.table)
    }

    fn reasoning(&self, thought: &Reasoning) -> Result<Option<Fields<'a>>> {
        let origin = if thought.origin.is_empty() { self.source } else { &thought.origin };
        let text = if thought.text.is_empty() { thought.summary.join("\n") } else { thought.text.clone() };
        let own = |opaque: &Option<String>| {
            opaque.as_ref().and_then(|opaque| for_target(opaque, origin, self.adapter)).map(str::to_owned)
        };
        let (signature, encrypted) = (own(&thought.signature), own(&thought.encrypted));
        if text.is_empty() && signature.is_none() && encrypted.is_none() {
            return Ok(None);
        }
        let fields = self.fields()?.put("kind", "reasoning")?.put("text", text)?;
        fields.some("signature", signature)?.some("encrypted", encrypted).map(Some)
    }

    fn tool_call(&self, call: &ToolCall) -> Result<Fields<'a>> {
        let signature = call.signature.as_ref().and_then(|opaque| for_target(opaque, self.source, self.adapter));
        self.fields()?
            .put("kind", "tool_call")?
            .put("id", call.id.as_str())?
            .put("name", call.name.as_str())?
            .put("arguments", call.arguments.as_str())?
            .some("custom", call.custom.then_some(true))?
            .some("signature", signature)
    }

    fn tool_result(&self, result: &ToolResult) -> Result<Fields<'a>> {
        let part = |block: &Block| {
            let text = |text: &str| self.fields()?.put("kind", "text")?.put("text", text);
            let fields = match &block.content {
                Content::Text { text: said, .. } | Content::Refusal(said) => text(said)?,
                Content::Image { source, detail } => self.image(source, detail.as_deref())?,
                Content::Audio { transcript, .. } => text(transcript.as_deref().unwrap_or_default())?,
                Content::File { .. } | Content::Other(_) => return self.block(block),
                // Tools give neither calls nor thoughts.
                Content::ToolCall(_) | Content::ToolResult(_) | Content::Reasoning(_) => text("")?,
            };
            Ok(Some(fields.table))
        };
        self.fields()?
            .put("kind", "tool_result")?
            .put("id", result.id.as_str())?
            .some("name", result.name.as_deref())?
            .put("content", list(self.lua, &result.content, part)?)?
            .some("is_error", result.is_error)
    }

    fn tool(&self, tool: &Tool) -> Result<Table> {
        let of = |kind: &str| self.fields()?.put("kind", kind);
        let fields = match tool {
            Tool::Function { name, description, parameters, strict, .. } => of("function")?
                .put("name", name.as_str())?
                .some("description", description.as_deref())?
                .json("parameters", parameters.as_ref())?
                .some("strict", *strict)?,
            Tool::Custom { name, description, format } => {
                let value =
                    serde_json::json!({ "type": "custom", "name": name, "description": description, "format": format });
                of("other")?.json("value", Some(&value))?
            }
            Tool::Hosted(value) => of("other")?.json("value", Some(value))?,
        };
        Ok(fields.table)
    }

    fn tool_choice(&self, fields: Fields<'a>, choice: &ToolChoice) -> Result<Fields<'a>> {
        let word = match choice {
            ToolChoice::Auto => "auto",
            ToolChoice::None => "none",
            ToolChoice::Required => "required",
            ToolChoice::Named(name) => {
                return fields.put("tool_choice", self.fields()?.put("named", name.as_str())?.table);
            }
            ToolChoice::Allowed { names, .. } => {
                return fields.put("tool_choice", self.fields()?.put("allowed", names.clone())?.table);
            }
        };
        fields.put("tool_choice", word)
    }

    fn output(&self, output: &OutputFormat) -> Result<Table> {
        let of = |kind: &str| self.fields()?.put("kind", kind);
        let fields = match output {
            OutputFormat::Text => of("text")?,
            OutputFormat::JsonObject => of("json_object")?,
            OutputFormat::JsonSchema { name, description, schema, strict } => of("json_schema")?
                .put("name", name.as_str())?
                .some("description", description.as_deref())?
                .json("schema", Some(schema))?
                .some("strict", *strict)?,
        };
        Ok(fields.table)
    }
}

/// The texts of an ask for vectors.
///
/// # Errors
/// [`Kind::UnsupportedFeature`]: inputs that are no text.
pub fn inputs(ask: &EmbedAsk) -> std::result::Result<Vec<&str>, Fault> {
    let texts = ask.inputs.iter().map(|input| match input {
        EmbedInput::Text(text) => Ok(text.as_str()),
        EmbedInput::Tokens(_) | EmbedInput::Other(_) => {
            Err(Fault::new(Kind::UnsupportedFeature, "An adapter embeds text, and nothing else.").param("input"))
        }
    });
    texts.collect()
}
