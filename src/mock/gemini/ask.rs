//! Reads a generateContent request as strictly as Gemini does, into a [`Prompt`].
//!
//! Names are taken in both spellings that protobuf's JSON allows.

use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine as _};
use serde_json::Value;

use crate::mock::answer::Turn;
use crate::mock::prompt::{Choice, Format, Prompt, Thinking, Tool};
use crate::mock::refusal::Refusal;
use crate::mock::signature;

/// Scope of the proofs in `thoughtSignature`.
pub const SCOPE: &str = "gemini";

/// Signatures that Gemini takes in place of its own, for histories that another model made.
const PASSES: &[&str] = &["skip_thought_signature_validator", "context_engineering_is_the_way_to_go"];

/// Whether a proof is one of these: as a word, or in base64, as Google's own clients write the bytes of it.
fn passes(proof: &str) -> bool {
    let said = [&STANDARD, &URL_SAFE].iter().find_map(|alphabet| alphabet.decode(proof).ok());
    PASSES.iter().any(|pass| *pass == proof || said.as_deref() == Some(pass.as_bytes()))
}

/// Both alphabets, padded or not, as protobuf's JSON reads bytes.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

const FIELDS: &[&str] = &[
    "model",
    "contents",
    "tools",
    "toolConfig",
    "safetySettings",
    "systemInstruction",
    "generationConfig",
    "cachedContent",
    "labels",
    "store",
    "serviceTier",
];

/// Fields of Gemini's own `Schema`, which is less than JSON Schema.
const SCHEMA_FIELDS: &[&str] = &[
    "type",
    "format",
    "title",
    "description",
    "nullable",
    "enum",
    "maxItems",
    "minItems",
    "properties",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "example",
    "anyOf",
    "propertyOrdering",
    "default",
    "items",
    "minimum",
    "maximum",
];

/// A field under its camelCase name, or the snake_case one.
pub fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    match &value[name] {
        Value::Null => &value[snake(name).as_str()],
        found => found,
    }
}

fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

pub fn read(turn: &Turn<'_>) -> Result<Prompt, Refusal> {
    let body = turn.body;
    let spelled: Vec<String> = FIELDS.iter().map(|name| snake(name)).collect();
    let spelled: Vec<&str> = spelled.iter().map(String::as_str).collect();
    if let Some(field) = turn.unknown_field(&[FIELDS, &spelled]) {
        return Err(unknown_name(field, ""));
    }
    let config = field(body, "generationConfig");
    let mut prompt = Prompt {
        choices: usize::try_from(field(config, "candidateCount").as_u64().unwrap_or(1)).unwrap_or(1),
        parallel: true,
        max_tokens: field(config, "maxOutputTokens").as_u64(),
        stop: stops(config)?,
        thinking: thinking(field(config, "thinkingConfig")),
        format: format(config)?,
        ..Prompt::default()
    };
    scalars(config)?;
    for part in field(body, "systemInstruction")["parts"].as_array().into_iter().flatten() {
        prompt.system(part["text"].as_str().unwrap_or_default());
    }
    if let Some(text) = field(body, "systemInstruction").as_str() {
        return Err(Refusal::gemini(format!("Invalid value at 'system_instruction' (Content), \"{text}\"")));
    }
    tools(body, &mut prompt)?;
    prompt.choice = choice(body, &prompt)?;
    let contents = body["contents"].as_array();
    let Some(contents) = contents.filter(|contents| !contents.is_empty()) else {
        return Err(Refusal::gemini("* GenerateContentRequest.contents: contents is not specified\n"));
    };
    Contents { prompt: &mut prompt, open: 0, strict: turn.strict() }.read(contents)?;
    Ok(prompt)
}

fn unknown_name(name: &str, at: &str) -> Refusal {
    let place = if at.is_empty() { String::new() } else { format!(" at '{at}'") };
    Refusal::gemini(format!("Invalid JSON payload received. Unknown name \"{name}\"{place}: Cannot find field."))
}

fn scalars(config: &Value) -> Result<(), Refusal> {
    let limits = [("temperature", "[0.0, 2.0]", 2.0), ("topP", "[0.0, 1.0]", 1.0)];
    for (name, range, most) in limits {
        let value = field(config, name);
        if value.as_f64().is_some_and(|number| !(0.0..=most).contains(&number)) {
            let name = snake(name);
            return Err(Refusal::gemini(format!(
                "* GenerateContentRequest.generation_config.{name}: {name} must be in the range {range}.\n"
            )));
        }
    }
    if field(config, "candidateCount").as_u64().is_some_and(|count| count > 8) {
        return Err(Refusal::gemini(
            "* GenerateContentRequest.generation_config.candidate_count: candidate_count must be in the range [1, 8].\n",
        ));
    }
    Ok(())
}

fn stops(config: &Value) -> Result<Vec<String>, Refusal> {
    let stops: Vec<&str> =
        field(config, "stopSequences").as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if stops.len() > 5 {
        return Err(Refusal::gemini(
            "* GenerateContentRequest.generation_config.stop_sequences: at most 5 stop sequences may be given.\n",
        ));
    }
    Ok(stops.into_iter().map(str::to_owned).collect())
}

fn thinking(asked: &Value) -> Option<Thinking> {
    if !asked.is_object() {
        return None;
    }
    if let Some(level) = field(asked, "thinkingLevel").as_str() {
        return Thinking::of_effort(&level.to_ascii_lowercase());
    }
    match field(asked, "thinkingBudget").as_i64() {
        Some(budget) if budget >= 0 => Thinking::of_budget(budget.unsigned_abs()),
        // -1 leaves the amount to the model.
        _ => Thinking::of_effort("medium"),
    }
}

fn format(config: &Value) -> Result<Option<Format>, Refusal> {
    let own = field(config, "responseSchema");
    let json = [field(config, "responseJsonSchema"), field(config, "_responseJsonSchema")];
    let schema = [own].into_iter().chain(json).find(|schema| !schema.is_null());
    if own.is_object() {
        schema_fields(own, "generation_config.response_schema")?;
    }
    let mime = field(config, "responseMimeType").as_str();
    match (mime, schema) {
        (Some("application/json"), Some(schema)) => Ok(Some(Format::Schema(schema.clone()))),
        (Some("application/json"), None) => Ok(Some(Format::JsonObject)),
        (Some("text/x.enum"), Some(schema)) => Ok(Some(Format::Schema(schema.clone()))),
        (None | Some("text/plain"), None) => Ok(None),
        (None | Some("text/plain"), Some(_)) => Err(Refusal::gemini(
            "* GenerateContentRequest.generation_config.response_schema: only allowed when response_mime_type is set to \
             application/json or text/x.enum.\n",
        )),
        (Some(other), _) => Err(Refusal::gemini(format!(
            "* GenerateContentRequest.generation_config.response_mime_type: unsupported response_mime_type: {other}\n"
        ))),
    }
}

/// Refuses what Gemini's `Schema` does not know; `path` names the place as Google does.
fn schema_fields(schema: &Value, path: &str) -> Result<(), Refusal> {
    let Some(fields) = schema.as_object() else { return Ok(()) };
    for (name, value) in fields {
        if !SCHEMA_FIELDS.iter().any(|known| known == name || snake(known) == *name) {
            return Err(unknown_name(name, path));
        }
        match name.as_str() {
            "properties" => {
                for (i, property) in value.as_object().into_iter().flat_map(|map| map.values()).enumerate() {
                    schema_fields(property, &format!("{path}.properties[{i}].value"))?;
                }
            }
            "items" => schema_fields(value, &format!("{path}.items"))?,
            "anyOf" | "any_of" => {
                for (i, option) in value.as_array().into_iter().flatten().enumerate() {
                    schema_fields(option, &format!("{path}.any_of[{i}]"))?;
                }
            }
            "type" if value.is_array() => {
                return Err(Refusal::gemini(format!(
                    "Invalid value at '{path}.type' (type.googleapis.com/google.ai.generativelanguage.v1beta.Type), \
                     {value}"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

fn tools(body: &Value, prompt: &mut Prompt) -> Result<(), Refusal> {
    prompt.measure.json(&body["tools"]);
    for (i, tool) in body["tools"].as_array().into_iter().flatten().enumerate() {
        for (j, function) in field(tool, "functionDeclarations").as_array().into_iter().flatten().enumerate() {
            let at = format!("tools[{i}].function_declarations[{j}]");
            let name = function["name"].as_str().unwrap_or_default();
            if !is_name(name) {
                return Err(Refusal::gemini(format!(
                    "* GenerateContentRequest.{at}.name: Invalid function name. Must start with a letter or an \
                     underscore. Must be alphanumeric (a-z, A-Z, 0-9), underscores (_), dots (.), colons (:), or dashes \
                     (-), with a maximum length of 64.\n"
                )));
            }
            let own = &function["parameters"];
            schema_fields(own, &format!("{at}.parameters"))?;
            if own["type"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("object"))
                && own["properties"].as_object().is_some_and(serde_json::Map::is_empty)
            {
                return Err(Refusal::gemini(format!(
                    "* GenerateContentRequest.{at}.parameters.properties: should be non-empty for OBJECT type\n"
                )));
            }
            let schema = if own.is_null() { field(function, "parametersJsonSchema") } else { own };
            prompt.tools.push(Tool { name: name.to_owned(), schema: schema.clone(), custom: false });
        }
    }
    Ok(())
}

fn choice(body: &Value, prompt: &Prompt) -> Result<Choice, Refusal> {
    let config = field(field(body, "toolConfig"), "functionCallingConfig");
    let allowed: Vec<&str> =
        field(config, "allowedFunctionNames").as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mode = config["mode"].as_str().unwrap_or("AUTO").to_ascii_uppercase();
    match mode.as_str() {
        "NONE" => Ok(Choice::None),
        "ANY" | "VALIDATED" if prompt.tools.is_empty() => {
            Err(Refusal::gemini("Function calling config is set without function_declarations."))
        }
        "ANY" => match allowed.first() {
            Some(name) if prompt.tools.iter().any(|tool| tool.name == *name) => Ok(Choice::Named((*name).to_owned())),
            Some(name) => Err(Refusal::gemini(format!(
                "The allowed function name '{name}' is not among the function declarations."
            ))),
            None => Ok(Choice::Required),
        },
        _ if !allowed.is_empty() && mode == "AUTO" => Err(Refusal::gemini(
            "Function calling config: allowed_function_names should only be set when the function calling mode is ANY.",
        )),
        "AUTO" | "VALIDATED" | "MODE_UNSPECIFIED" => Ok(Choice::Auto),
        _ => Err(Refusal::gemini(format!(
            "Invalid value at 'tool_config.function_calling_config.mode' \
             (type.googleapis.com/google.ai.generativelanguage.v1beta.FunctionCallingConfig.Mode), {}",
            config["mode"]
        ))),
    }
}

/// Reads the conversation; `open` is the number of calls of the turn just before.
struct Contents<'a> {
    prompt: &'a mut Prompt,
    open: usize,
    strict: bool,
}

impl Contents<'_> {
    /// Neighbours of one role are one turn: clients keep a streamed answer as one content for each chunk.
    fn read(&mut self, contents: &[Value]) -> Result<(), Refusal> {
        let mut roles = Vec::with_capacity(contents.len());
        for content in contents {
            roles.push(match content["role"].as_str() {
                None | Some("user" | "function") => false,
                Some("model") => true,
                Some(_) => return Err(Refusal::gemini("Please use a valid role: user, model.")),
            });
        }
        let mut from = 0;
        for turn in roles.chunk_by(|one, next| one == next) {
            self.turn(from, &contents[from..from + turn.len()], turn[0])?;
            from += turn.len();
        }
        if self.open > 0 {
            return Err(Refusal::gemini(
                "Please ensure that function call turn is followed by a function response turn.",
            ));
        }
        Ok(())
    }

    fn turn(&mut self, from: usize, contents: &[Value], model: bool) -> Result<(), Refusal> {
        let has = |name: &str| {
            let parts = contents.iter().flat_map(|content| content["parts"].as_array().into_iter().flatten());
            parts.filter(|part| !field(part, name).is_null()).collect::<Vec<&Value>>()
        };
        let (calls, answers) = (has("functionCall"), has("functionResponse").len());
        if answers != self.open {
            return Err(Refusal::gemini(
                "Please ensure that the number of function response parts is equal to the number of function call \
                 parts of the function call turn.",
            ));
        }
        self.open = calls.len();
        if model {
            self.prompt.answer_turn();
        } else if answers == 0 {
            self.prompt.user_turn();
        }
        for (i, content) in contents.iter().enumerate() {
            let at = format!("contents[{}]", from + i);
            let parts = content["parts"].as_array().map_or(&[][..], Vec::as_slice);
            if parts.is_empty() {
                return Err(Refusal::gemini(format!(
                    "* GenerateContentRequest.{at}.parts: contents.parts must not be empty.\n"
                )));
            }
            for (j, part) in parts.iter().enumerate() {
                self.part(&format!("{at}.parts[{j}]"), part, model)?;
            }
        }
        match calls.first().filter(|first| self.strict && field(first, "thoughtSignature").is_null()) {
            Some(first) => {
                let name = field(first, "functionCall")["name"].as_str().unwrap_or_default();
                Err(Refusal::gemini(format!(
                    "Function call is missing a thought_signature in functionCall parts. This is required for tools to \
                     work correctly, and missing thought_signature may lead to degraded model performance. Additional \
                     data, function call `default_api:{name}` , position {}.",
                    from + 1
                )))
            }
            None => Ok(()),
        }
    }

    fn part(&mut self, at: &str, part: &Value, model: bool) -> Result<(), Refusal> {
        if let Some(proof) = field(part, "thoughtSignature").as_str()
            && !passes(proof)
            && !signature::is_ours(SCOPE, proof, None)
        {
            return Err(Refusal::gemini("Corrupted thought signature."));
        }
        if let Some(text) = part["text"].as_str() {
            if model {
                self.prompt.measure.text(text);
            } else {
                self.prompt.user_text(text);
            }
            return Ok(());
        }
        let inline = field(part, "inlineData");
        if inline.is_object() {
            return self.inline(at, inline);
        }
        let file = field(part, "fileData");
        if file.is_object() {
            self.media(field(file, "mimeType").as_str().unwrap_or_default(), file);
            return Ok(());
        }
        let call = field(part, "functionCall");
        if call.is_object() {
            self.prompt.measure.json(&call["args"]);
            return Ok(());
        }
        let answer = field(part, "functionResponse");
        if answer.is_object() {
            if !answer["response"].is_object() {
                return Err(Refusal::gemini(format!(
                    "* GenerateContentRequest.{at}.function_response.response: response is not a JSON object\n"
                )));
            }
            if answer["name"].as_str().is_none_or(str::is_empty) {
                return Err(Refusal::gemini(format!(
                    "* GenerateContentRequest.{at}.function_response.name: Name cannot be empty.\n"
                )));
            }
            self.prompt.tool_result(result_text(&answer["response"]));
            return Ok(());
        }
        let others = ["executableCode", "codeExecutionResult", "toolCall", "toolResponse"];
        if let Some(other) = others.iter().map(|name| field(part, name)).find(|value| !value.is_null()) {
            self.prompt.measure.json(other);
            return Ok(());
        }
        Err(Refusal::gemini(format!(
            "* GenerateContentRequest.{at}.data: required oneof field 'data' must have one initialized field\n"
        )))
    }

    fn inline(&mut self, at: &str, inline: &Value) -> Result<(), Refusal> {
        let data = inline["data"].as_str().unwrap_or_default();
        if STANDARD.decode(data).is_err() && URL_SAFE.decode(data).is_err() {
            return Err(Refusal::gemini(format!(
                "Invalid value at '{at}.inline_data.data' (TYPE_BYTES), Base64 decoding failed for \"{}\"",
                crate::mock::reply::cut(data, 40)
            )));
        }
        let mime = field(inline, "mimeType").as_str().unwrap_or_default();
        if mime.is_empty() {
            return Err(Refusal::gemini(format!(
                "* GenerateContentRequest.{at}.inline_data.mime_type: mime_type is not specified\n"
            )));
        }
        self.media(mime, inline);
        Ok(())
    }

    fn media(&mut self, mime: &str, content: &Value) {
        match mime.split('/').next() {
            Some("image") => self.prompt.image(content),
            Some("audio") => self.prompt.audio(content),
            _ => self.prompt.file(content),
        }
    }
}

/// The words of a function's response: its one usual field bare, anything else as JSON.
fn result_text(response: &Value) -> String {
    let usual = ["output", "result", "content", "error"].into_iter().find_map(|name| response[name].as_str());
    match (usual, response.as_object().map(serde_json::Map::len)) {
        (Some(text), Some(1)) => text.to_owned(),
        _ => response.to_string(),
    }
}

fn is_name(name: &str) -> bool {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stand_in_for_a_signature_is_taken_as_a_word_and_in_base64() {
        assert!(passes("skip_thought_signature_validator"));
        assert!(passes("c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="));
        assert!(!passes("c2tpcA==") && !passes("skip"));
    }
}
