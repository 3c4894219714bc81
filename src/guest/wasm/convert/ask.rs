//! Asks, from the neutral form into the contract's.

use serde_json::{Number, Value};

use super::super::bindings::chat as wit;
use super::text_of;
use crate::chat::reasoning::for_target;
use crate::chat::{
    Ask, Block, CacheMark, Content, Extra, Media, Message, OutputFormat, Reasoning, Role, Tool, ToolCall, ToolChoice,
    ToolResult,
};
use crate::embed::{EmbedAsk, EmbedInput};
use crate::fault::{Fault, Kind};
use crate::rerank::RerankAsk;

/// Who the ask is for, and where it comes from: opaque values reach only their maker.
#[derive(Clone, Copy)]
struct Way<'a> {
    source: &'a str,
    adapter: &'a str,
}

/// The ask for an adapter of this name.
pub fn ask(ask: &Ask, model: &str, adapter: &str) -> wit::Ask {
    let way = Way { source: ask.source, adapter };
    wit::Ask {
        model: model.to_owned(),
        system: blocks(&ask.system, way),
        messages: ask.messages.iter().map(|message| self::message(message, way)).collect(),
        tools: ask.tools.iter().map(tool).collect(),
        tool_choice: ask.tool_choice.as_ref().map(tool_choice),
        parallel_tools: ask.parallel_tools,
        max_tokens: ask.max_tokens,
        temperature: float(ask.temperature.as_ref()),
        top_p: float(ask.top_p.as_ref()),
        top_k: float(ask.top_k.as_ref()),
        min_p: float(ask.min_p.as_ref()),
        frequency_penalty: float(ask.frequency_penalty.as_ref()),
        presence_penalty: float(ask.presence_penalty.as_ref()),
        stop: ask.stop.clone(),
        seed: ask.seed.as_ref().and_then(Number::as_i64),
        n: ask.n,
        logprobs: ask.logprobs,
        top_logprobs: ask.top_logprobs,
        output: ask.output.as_ref().map(output),
        reasoning: ask.reasoning.as_ref().map(|reasoning| wit::ReasoningAsk {
            effort: reasoning.effort_level(ask.max_tokens).map(|effort| effort.as_str().to_owned()),
            budget: reasoning.budget_tokens(ask.max_tokens),
            shown: reasoning.include,
        }),
        streamed: ask.stream,
        user: ask.user.clone(),
        metadata: ask.metadata.as_ref().map(object).unwrap_or_default(),
        cache_key: ask.cache_key.clone(),
        source: ask.source.to_owned(),
        extra: object(&ask.extra),
    }
}

/// The ask for a ranking.
pub fn rerank_ask(ask: &RerankAsk, model: &str) -> wit::RerankAsk {
    let RerankAsk { query, documents, top_n, .. } = ask.clone();
    wit::RerankAsk { model: model.to_owned(), query, documents, top_n }
}

/// # Errors
/// [`Kind::UnsupportedFeature`]: inputs that are no text.
pub fn embed_ask(ask: &EmbedAsk, model: &str) -> Result<wit::EmbedAsk, Fault> {
    let inputs = ask.inputs.iter().map(|input| match input {
        EmbedInput::Text(text) => Ok(text.clone()),
        EmbedInput::Tokens(_) | EmbedInput::Other(_) => {
            Err(Fault::new(Kind::UnsupportedFeature, "An adapter embeds text, and nothing else.").param("input"))
        }
    });
    Ok(wit::EmbedAsk {
        model: model.to_owned(),
        inputs: inputs.collect::<Result<_, _>>()?,
        dimensions: ask.dimensions,
        user: ask.user.clone(),
    })
}

fn float(number: Option<&Number>) -> Option<f64> {
    number.and_then(Number::as_f64)
}

fn object(extra: &Extra) -> String {
    if extra.is_empty() { String::new() } else { serde_json::to_string(extra).unwrap_or_default() }
}

fn blocks(blocks: &[Block], way: Way<'_>) -> Vec<wit::Block> {
    blocks.iter().filter_map(|block| self::block(block, way)).collect()
}

fn message(message: &Message, way: Way<'_>) -> wit::Message {
    wit::Message {
        role: match message.role {
            Role::System => wit::Role::System,
            Role::User => wit::Role::User,
            Role::Assistant => wit::Role::Assistant,
        },
        blocks: blocks(&message.blocks, way),
        name: message.name.clone(),
    }
}

/// None for a block that would be empty: foreign reasoning without text.
fn block(block: &Block, way: Way<'_>) -> Option<wit::Block> {
    let mut citations = String::new();
    let content = match &block.content {
        Content::Text { text, citations: cited } => {
            if !cited.is_empty() {
                citations = serde_json::to_string(cited).unwrap_or_default();
            }
            wit::Content::Text(text.clone())
        }
        Content::Image { source, detail } => wit::Content::Image(image(source, detail.as_ref())),
        Content::Audio { data, format, transcript, .. } => wit::Content::Audio(wit::Audio {
            data: data.clone(),
            format: format.clone(),
            transcript: transcript.clone(),
        }),
        Content::File { source, name } => wit::Content::File(wit::File { source: media(source), name: name.clone() }),
        Content::ToolCall(call) => wit::Content::ToolCall(tool_call(call, way)),
        Content::ToolResult(result) => wit::Content::ToolResult(tool_result(result)),
        Content::Reasoning(thought) => wit::Content::Reasoning(reasoning(thought, way)?),
        Content::Refusal(text) => wit::Content::Refusal(text.clone()),
        Content::Other(value) => wit::Content::Other(value.to_string()),
    };
    let cache = block.cache.as_ref().map(|CacheMark { ttl }| ttl.clone().unwrap_or_default());
    Some(wit::Block { content, cache, citations })
}

fn reasoning(thought: &Reasoning, way: Way<'_>) -> Option<wit::Reasoning> {
    let origin = if thought.origin.is_empty() { way.source } else { &thought.origin };
    let own = |opaque: &Option<String>| {
        opaque.as_ref().and_then(|opaque| for_target(opaque, origin, way.adapter)).map(str::to_owned)
    };
    let text = if thought.text.is_empty() { thought.summary.join("\n") } else { thought.text.clone() };
    let reasoning = wit::Reasoning { text, signature: own(&thought.signature), encrypted: own(&thought.encrypted) };
    let empty = reasoning.text.is_empty() && reasoning.signature.is_none() && reasoning.encrypted.is_none();
    (!empty).then_some(reasoning)
}

fn tool_call(call: &ToolCall, way: Way<'_>) -> wit::ToolCall {
    let signature = call.signature.as_ref().and_then(|opaque| for_target(opaque, way.source, way.adapter));
    wit::ToolCall {
        id: call.id.clone(),
        name: call.name.clone(),
        arguments: call.arguments.clone(),
        custom: call.custom,
        signature: signature.map(str::to_owned),
    }
}

fn tool_result(result: &ToolResult) -> wit::ToolResult {
    let part = |block: &Block| match &block.content {
        Content::Text { text, .. } => wit::ResultPart::Text(text.clone()),
        Content::Image { source, detail } => wit::ResultPart::Image(image(source, detail.as_ref())),
        Content::Refusal(text) => wit::ResultPart::Text(text.clone()),
        Content::Other(value) => wit::ResultPart::Other(value.to_string()),
        Content::File { source, name } => {
            let mut file = serde_json::Map::new();
            file.insert("type".into(), "file".into());
            file.insert("name".into(), name.clone().into());
            file.insert("url".into(), source.to_url().into());
            if let Media::Text(text) = source {
                file.insert("text".into(), text.clone().into());
            }
            wit::ResultPart::Other(Value::Object(file).to_string())
        }
        Content::Audio { transcript, .. } => wit::ResultPart::Text(transcript.clone().unwrap_or_default()),
        // Tools give neither calls nor thoughts.
        Content::ToolCall(_) | Content::ToolResult(_) | Content::Reasoning(_) => wit::ResultPart::Text(String::new()),
    };
    wit::ToolResult {
        id: result.id.clone(),
        name: result.name.clone(),
        content: result.content.iter().map(part).collect(),
        is_error: result.is_error,
    }
}

fn image(source: &Media, detail: Option<&String>) -> wit::Image {
    wit::Image { source: media(source), detail: detail.cloned() }
}

fn media(media: &Media) -> wit::Media {
    match media {
        Media::Url { url, .. } => wit::Media::Url(url.clone()),
        Media::Inline { mime, data } => wit::Media::Inline(wit::InlineMedia { mime: mime.clone(), data: data.clone() }),
        Media::Id(id) => wit::Media::Id(id.clone()),
        Media::Text(text) => wit::Media::Text(text.clone()),
    }
}

fn tool(tool: &Tool) -> wit::Tool {
    match tool {
        Tool::Function { name, description, parameters, strict, .. } => wit::Tool::Function(wit::FunctionTool {
            name: name.clone(),
            description: description.clone(),
            parameters: text_of(parameters.as_ref()),
            strict: *strict,
        }),
        Tool::Custom { name, description, format } => wit::Tool::Other(
            serde_json::json!({ "type": "custom", "name": name, "description": description, "format": format })
                .to_string(),
        ),
        Tool::Hosted(value) => wit::Tool::Other(value.to_string()),
    }
}

fn tool_choice(choice: &ToolChoice) -> wit::ToolChoice {
    match choice {
        ToolChoice::Auto => wit::ToolChoice::Auto,
        ToolChoice::None => wit::ToolChoice::None,
        ToolChoice::Required => wit::ToolChoice::Required,
        ToolChoice::Named(name) => wit::ToolChoice::Named(name.clone()),
        ToolChoice::Allowed { names, .. } => wit::ToolChoice::Allowed(names.clone()),
    }
}

fn output(output: &OutputFormat) -> wit::OutputFormat {
    match output {
        OutputFormat::Text => wit::OutputFormat::Text,
        OutputFormat::JsonObject => wit::OutputFormat::JsonObject,
        OutputFormat::JsonSchema { name, description, schema, strict } => {
            wit::OutputFormat::JsonSchema(wit::JsonSchema {
                name: name.clone(),
                description: description.clone(),
                schema: schema.to_string(),
                strict: *strict,
            })
        }
    }
}
