//! A request body written from the neutral form, as the target's quirks want it.
//!
//! Asks of this dialect keep their unknown fields. Of asks from elsewhere only what every server takes is sent, or what
//! the target is known to take: a strict server refuses a whole request for one field too many.

use serde_json::{Map, Number, Value, json};

use super::{NAME, complete, history, reasoning, tools};
use crate::chat::{Ask, OutputFormat, Role};
use crate::dialect::foreign::json_in_words;
use crate::dialect::{Encoding, Prefill, Quirks, openai_models, openai_renames_user, openai_shared};
use crate::fault::{Fault, Kind};
use crate::json;

/// Longest `user` that OpenAI takes, in bytes. Claude Code sends about 150.
const MAX_USER_BYTES: usize = 64;

/// Most stop sequences that OpenAI takes.
const MAX_STOPS: usize = 4;

/// OpenAI's voices, and the one that speaks where another is asked for.
const VOICES: &[&str] =
    &["alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse"];
const VOICE: &str = "alloy";

/// Unknown fields that are kept for our own use and written by other code.
const WRITTEN_ELSEWHERE: &[&str] = &["functions", "stream_options", "chat_template_kwargs"];

pub(super) fn encode(ask: &Ask, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
    let mut body = Map::new();
    body.insert("model".into(), to.model.into());
    if complete::is_legacy(ask) {
        body.insert("prompt".into(), complete::prompt(ask)?.into());
    } else {
        body.insert("messages".into(), history::write(ask, to)?.into());
        prefill(ask, to.quirks.prefill, &mut body);
        tools::write(ask, to, &mut body);
        output(ask, to, &mut body);
        reasoning::write_ask(ask, to, &mut body);
    }
    sampling(ask, to, &mut body);
    stream(ask, to, &mut body);
    openai_only(ask, to, &mut body);
    modalities(ask, to, &mut body)?;
    caller(ask, to, &mut body);
    if ask.source == NAME {
        for (key, value) in &ask.extra {
            if !WRITTEN_ELSEWHERE.contains(&key.as_str()) && !body.contains_key(key) {
                body.insert(key.clone(), value.clone());
            }
        }
        if let (Some(given), false) = (ask.extra.get("chat_template_kwargs"), body.contains_key("chat_template_kwargs"))
        {
            body.insert("chat_template_kwargs".into(), given.clone());
        }
    }
    if ask.source != NAME {
        body.extend(openai_shared(ask, to).map(|(key, value)| (key.clone(), value.clone())));
        let effort = body.get("reasoning_effort").and_then(Value::as_str).map(str::to_owned);
        openai_models::leave_out(effort.as_deref(), to, &mut body);
        few_stops(to, &body)?;
    }
    for refused in to.quirks.refuses {
        if body.shift_remove(*refused).is_some() {
            to.dropped.push((refused, "the provider refuses it"));
        }
    }
    Ok(json::written(&body))
}

/// A stop sequence that is left out would let the model write on.
fn few_stops(to: &Encoding<'_>, body: &Map<String, Value>) -> Result<(), Fault> {
    let stops = body.get("stop").and_then(Value::as_array).map_or(0, Vec::len);
    if samples_as_openai(to.quirks) && stops > MAX_STOPS {
        let text = format!("OpenAI chat completions take {MAX_STOPS} stop sequences at most, not {stops}.");
        return Err(Fault::new(Kind::UnsupportedFeature, text).param("stop"));
    }
    Ok(())
}

/// Marks a last turn of the assistant for the model to go on from, where the target has a mark for it. A turn that calls
/// tools is whole.
fn prefill(ask: &Ask, how: Prefill, body: &mut Map<String, Value>) {
    if !ask.messages.last().is_some_and(|last| last.role == Role::Assistant) {
        return;
    }
    let turns = body.get_mut("messages").and_then(Value::as_array_mut);
    let last = turns.and_then(|turns| turns.last_mut()).and_then(Value::as_object_mut);
    let Some(last) = last.filter(|last| last["role"] == "assistant" && !last.contains_key("tool_calls")) else {
        return;
    };
    let mark = match how {
        Prefill::None | Prefill::Plain => return,
        Prefill::Prefix => "prefix",
        Prefill::Partial => "partial",
        Prefill::Continue => {
            body.insert("continue_final_message".into(), true.into());
            body.insert("add_generation_prompt".into(), false.into());
            return;
        }
    };
    last.insert(mark.into(), true.into());
}

/// Whether the target samples and stops as OpenAI's own endpoint does, as those do that know the output bound by its newer
/// name. Says nothing of what else OpenAI has: each is a fact of its own.
pub(super) fn samples_as_openai(quirks: &Quirks) -> bool {
    quirks.max_completion_tokens
}

fn sampling(ask: &Ask, to: &mut Encoding<'_>, body: &mut Map<String, Value>) {
    let bound = if to.quirks.max_completion_tokens && !complete::is_legacy(ask) {
        "max_completion_tokens"
    } else {
        "max_tokens"
    };
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(key.to_owned(), value);
        }
    };
    let number = |value: &Option<Number>| value.clone().map(Value::Number);
    set(bound, ask.max_tokens.map(Value::from));
    set("temperature", number(&ask.temperature));
    set("top_p", number(&ask.top_p));
    set("frequency_penalty", number(&ask.frequency_penalty));
    set("presence_penalty", number(&ask.presence_penalty));
    set("seed", number(&ask.seed));
    set("n", ask.n.map(Value::from));
    set("logprobs", ask.logprobs.map(Value::from));
    set("top_logprobs", ask.top_logprobs.map(Value::from));
    set("logit_bias", ask.logit_bias.clone());
    match ask.stop.as_slice() {
        [] => {}
        [one] => set("stop", Some(one.as_str().into())),
        several => set("stop", Some(several.into())),
    }
    // OpenAI has neither, local servers and routers have both.
    if ask.source == NAME || !samples_as_openai(to.quirks) {
        set("top_k", number(&ask.top_k));
        set("min_p", number(&ask.min_p));
    } else {
        to.drop_if(ask.top_k.is_some(), "top_k", "OpenAI has no such parameter");
        to.drop_if(ask.min_p.is_some(), "min_p", "OpenAI has no such parameter");
    }
}

fn stream(ask: &Ask, to: &Encoding<'_>, body: &mut Map<String, Value>) {
    if !ask.stream {
        return;
    }
    body.insert("stream".into(), true.into());
    let mut options = match ask.extra.get("stream_options") {
        Some(Value::Object(given)) if ask.source == NAME => given.clone(),
        _ => Map::new(),
    };
    if to.quirks.stream_usage {
        options.insert("include_usage".into(), true.into());
    }
    if !options.is_empty() {
        body.insert("stream_options".into(), Value::Object(options));
    }
}

fn output(ask: &Ask, to: &mut Encoding<'_>, body: &mut Map<String, Value>) {
    let format = match &ask.output {
        None => return,
        Some(OutputFormat::Text) if ask.source == NAME => json!({ "type": "text" }),
        // The default need not be said.
        Some(OutputFormat::Text) => return,
        Some(OutputFormat::JsonObject) => json!({ "type": "json_object" }),
        Some(OutputFormat::JsonSchema { schema, .. }) if !to.quirks.json_schema => {
            to.drop_if(true, "response_format.json_schema", "the schema went into the instructions instead");
            instruct(body, schema, to.quirks);
            json!({ "type": "json_object" })
        }
        Some(OutputFormat::JsonSchema { name, description, schema, strict }) => {
            let mut inner = Map::new();
            inner.insert("name".into(), schema_name(name).into());
            inner.extend(description.as_ref().map(|text| ("description".to_owned(), text.as_str().into())));
            inner.insert("schema".into(), schema.clone());
            inner.extend(strict.map(|strict| ("strict".to_owned(), strict.into())));
            json!({ "type": "json_schema", "json_schema": inner })
        }
    };
    body.insert("response_format".into(), format);
}

/// OpenAI takes letters, digits, `_` and `-`, 64 at most.
fn schema_name(name: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let name: String = name.chars().take(64).map(fit).collect();
    if name.is_empty() { "answer".to_owned() } else { name }
}

/// Tells the model the schema in words, for targets that only know `json_object` (and demand that "JSON" be said).
fn instruct(body: &mut Map<String, Value>, schema: &Value, quirks: &Quirks) {
    let text = json_in_words(Some(schema));
    let Some(Value::Array(messages)) = body.get_mut("messages") else { return };
    let instructs = |message: &Value| matches!(message["role"].as_str(), Some("system" | "developer"));
    match messages.first_mut().filter(|message| instructs(message)).and_then(|message| message.get_mut("content")) {
        Some(Value::String(given)) => {
            given.push_str("\n\n");
            given.push_str(&text);
        }
        Some(Value::Array(parts)) => parts.push(json!({ "type": "text", "text": text })),
        _ => {
            let role = if quirks.developer_role { "developer" } else { "system" };
            messages.insert(0, json!({ "role": role, "content": text }));
        }
    }
}

/// Why a field is left out.
const ONLY_OPENAI: &str = "only OpenAI is known to take it";

/// Fields that OpenAI invented and few others took over.
fn openai_only(ask: &Ask, to: &mut Encoding<'_>, body: &mut Map<String, Value>) {
    let (own, quirks) = (ask.source == NAME, to.quirks);
    let fields = [
        ("verbosity", quirks.verbosity, ask.verbosity.as_deref().map(Value::from)),
        ("prompt_cache_key", quirks.prompt_cache_key, ask.cache_key.as_deref().map(Value::from)),
        ("service_tier", quirks.service_tier, ask.service_tier.as_deref().map(Value::from)),
        // Elsewhere `false` is the default, and a server that stores nothing may not know the word.
        ("store", quirks.store, ask.store.filter(|store| *store || own).map(Value::from)),
    ];
    for (key, takes, value) in fields {
        match value {
            Some(value) if own || takes => drop(body.insert(key.to_owned(), value)),
            Some(_) => to.drop_if(true, key, ONLY_OPENAI),
            None => {}
        }
    }
}

/// What the answer is besides text. Speech that cannot be had is refused, also to who asks in this form: the next target
/// may speak, and an answer in writing is none.
fn modalities(ask: &Ask, to: &mut Encoding<'_>, body: &mut Map<String, Value>) -> Result<(), Fault> {
    let own = ask.source == NAME;
    let takes = own || to.quirks.speech;
    if ask.wants("audio") && (!takes || to.quirks.refuses.contains(&"audio")) {
        let text = "This provider's chat completions cannot give spoken answers.";
        return Err(Fault::new(Kind::UnsupportedFeature, text).param("modalities"));
    }
    if ask.wants("audio") && !own {
        if openai_models::is_mute(to.model) {
            let text = format!("The model {} cannot give spoken answers.", to.model);
            return Err(Fault::new(Kind::UnsupportedFeature, text).param("modalities"));
        }
        // Sound alone is refused: its words come with it.
        let words = (!ask.wants("text")).then_some("text");
        let all: Vec<&str> = words.into_iter().chain(ask.modalities.iter().map(String::as_str)).collect();
        body.insert("modalities".into(), all.into());
        body.insert("audio".into(), speech(ask, to));
        return Ok(());
    }
    if !ask.modalities.is_empty() {
        // Image answers are asked for so at routers too.
        match takes || ask.wants("image") {
            true => drop(body.insert("modalities".into(), ask.modalities.as_slice().into())),
            false => to.drop_if(true, "modalities", ONLY_OPENAI),
        }
    }
    match &ask.audio {
        Some(audio) if takes => drop(body.insert("audio".into(), audio.clone())),
        audio => to.drop_if(audio.is_some(), "audio", ONLY_OPENAI),
    }
    Ok(())
}

/// Voice and format, which must both be said. Streams are of raw samples only.
fn speech(ask: &Ask, to: &mut Encoding<'_>) -> Value {
    let said = |key: &str| ask.audio.as_ref()?.get(key)?.as_str();
    let voice = said("voice").map(str::to_ascii_lowercase);
    let known = voice.as_deref().filter(|voice| VOICES.contains(voice));
    to.drop_if(voice.is_some() && known.is_none(), "audio.voice", "OpenAI has other voices; `alloy` speaks");
    let format = if ask.stream { "pcm16" } else { said("format").unwrap_or("wav") };
    json!({ "voice": known.unwrap_or(VOICE), "format": format })
}

fn caller(ask: &Ask, to: &mut Encoding<'_>, body: &mut Map<String, Value>) {
    let own = ask.source == NAME;
    let renamed = openai_renames_user(ask) && (own || openai_shared(ask, to).next().is_some());
    if let Some(user) = ask.user.as_ref().filter(|_| !renamed) {
        let end = user.floor_char_boundary(MAX_USER_BYTES);
        let cut = !own && end < user.len();
        to.drop_if(cut, "user", "cut to the 64 bytes that OpenAI takes");
        body.insert("user".into(), if cut { &user[..end] } else { user.as_str() }.into());
    }
    if let Some(metadata) = &ask.metadata {
        // OpenAI takes metadata only for what it stores.
        if own || (to.quirks.store && ask.store == Some(true)) {
            body.insert("metadata".into(), Value::Object(metadata.clone()));
        } else {
            to.drop_if(true, "metadata", "only taken for stored answers of OpenAI");
        }
    }
    let lost = ask.extra.len() > openai_shared(ask, to).count();
    to.drop_if(!own && lost, "extra fields", "only the caller's dialect knows them");
}
