//! What the OpenAI endpoints share: usage, log probabilities, fingerprints, checks of parameters and schemas.

use serde_json::{Value, json};

use super::answer::Turn;
use super::prompt::{Cached, Measure};
use super::refusal::Refusal;
use super::reply::{self, Reply};

/// Tokens of one exchange.
#[derive(Debug)]
pub struct Usage {
    pub input: u64,
    pub cached: Cached,
    pub audio: u64,
    pub output: u64,
    pub reasoning: u64,
}

impl Usage {
    /// The usage of an answer to a prompt that the provider caches by itself.
    pub fn of(measure: &Measure, replies: &[Reply], turn: &Turn<'_>) -> Usage {
        Usage {
            input: measure.tokens(),
            cached: measure.implicit(turn.state, &turn.model),
            audio: measure.audio_tokens,
            output: replies.iter().map(Reply::tokens).sum(),
            reasoning: replies.iter().map(Reply::reasoning_tokens).sum(),
        }
    }

    fn written(&self) -> u64 {
        self.cached.write_5m + self.cached.write_1h
    }

    /// As chat and legacy completions spell it.
    pub fn chat(&self) -> Value {
        json!({
            "prompt_tokens": self.input,
            "completion_tokens": self.output,
            "total_tokens": self.input + self.output,
            "prompt_tokens_details": {
                "cached_tokens": self.cached.read, "cache_write_tokens": self.written(), "audio_tokens": self.audio,
            },
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning, "audio_tokens": 0,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
            },
        })
    }

    /// As the Responses form spells it.
    pub fn responses(&self) -> Value {
        json!({
            "input_tokens": self.input,
            "input_tokens_details": {"cached_tokens": self.cached.read, "cache_write_tokens": self.written()},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.input + self.output,
        })
    }
}

/// The tier that served the request: the one asked for, or `default`.
pub fn tier(body: &Value) -> Value {
    match body["service_tier"].as_str() {
        None | Some("auto") => json!("default"),
        Some(tier) => json!(tier),
    }
}

/// The backend's fingerprint; shows the seed, so that a test sees it arrived.
pub fn fingerprint(body: &Value) -> Value {
    match &body["seed"] {
        Value::Null => json!("fp_mock"),
        seed => json!(format!("fp_mock_seed_{seed}")),
    }
}

/// The noise that OpenAI adds to chunks so that their length tells nothing, unless switched off.
pub fn obfuscation(body: &Value, chunk: &mut Value, length: usize) {
    if body["stream_options"]["include_obfuscation"] != false {
        chunk["obfuscation"] = json!(&"mockNoise0mockNoise1"[..4 + length % 13]);
    }
}

/// Log probabilities in the form of chat: a token for each four bytes of text.
pub fn logprobs(text: &str, top: u64) -> Value {
    let entry = |token: &str, rank: u64| json!({"token": token, "logprob": -0.25 * (rank + 1) as f64, "bytes": token.as_bytes()});
    let tokens = token_texts(text).into_iter().map(|token| {
        let mut chosen = entry(token, 0);
        let others: Vec<Value> = (0..top.min(20))
            .map(|rank| if rank == 0 { entry(token, 0) } else { entry(&format!("alt{rank}"), rank) })
            .collect();
        chosen["top_logprobs"] = Value::Array(others);
        chosen
    });
    json!({"content": tokens.collect::<Vec<Value>>(), "refusal": null})
}

/// A text in pieces of about four bytes.
pub fn token_texts(text: &str) -> Vec<&str> {
    let count = usize::try_from(reply::tokens(text)).unwrap_or(1);
    reply::pieces(text, Some(count.max(1)))
}

/// Refuses a missing field.
pub fn required<'a>(body: &'a Value, field: &str) -> Result<&'a Value, Refusal> {
    match &body[field] {
        Value::Null => Err(missing(field)),
        value => Ok(value),
    }
}

pub fn missing(field: &str) -> Refusal {
    let message = format!("Missing required parameter: '{field}'.");
    Refusal::openai(message, field.to_owned(), Some("missing_required_parameter"))
}

/// A value that is none of those allowed.
pub fn unsupported(param: String, value: &str, allowed: &[&str]) -> Refusal {
    let quoted: Vec<String> = allowed.iter().map(|word| format!("'{word}'")).collect();
    let list = match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, [one])) => format!("{one} and {last}"),
        Some((last, rest)) => format!("{}, and {last}", rest.join(", ")),
        None => String::new(),
    };
    let message = format!("Invalid value: '{value}'. Supported values are: {list}.");
    Refusal::openai(message, param, Some("invalid_value"))
}

pub fn wrong_type(param: &str, wanted: &str, value: &Value) -> Refusal {
    let got = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    let message = format!("Invalid type for '{param}': expected {wanted}, but got {got} instead.");
    Refusal::openai(message, param.to_owned(), Some("invalid_type"))
}

/// Refuses strings beyond a length, as OpenAI does with ids.
pub fn longest(param: &str, text: &str, most: usize) -> Result<(), Refusal> {
    let length = text.chars().count();
    if length <= most {
        return Ok(());
    }
    let message = format!(
        "Invalid '{param}': string too long. Expected a string with maximum length {most}, but got a string with \
         length {length} instead."
    );
    Err(Refusal::openai(message, param.to_owned(), Some("string_above_max_length")))
}

/// The checks of numbers that chat and Responses share.
pub fn ranges(body: &Value, rows: &[(&str, f64, f64)]) -> Result<(), Refusal> {
    for (field, least, most) in rows {
        let value = &body[*field];
        if value.is_null() {
            continue;
        }
        let Some(number) = value.as_f64() else { return Err(wrong_type(field, "a decimal", value)) };
        if number < *least {
            let (kind, code) = kind_and_code(value, true);
            let message = format!(
                "Invalid '{field}': {kind} below minimum value. Expected a value >= {least}, but got {value} instead."
            );
            return Err(Refusal::openai(message, (*field).to_owned(), Some(code)));
        }
        if number > *most {
            let (kind, code) = kind_and_code(value, false);
            let message = format!(
                "Invalid '{field}': {kind} above maximum value. Expected a value <= {most}, but got {value} instead."
            );
            return Err(Refusal::openai(message, (*field).to_owned(), Some(code)));
        }
    }
    Ok(())
}

fn kind_and_code(value: &Value, below: bool) -> (&'static str, &'static str) {
    match (value.is_f64(), below) {
        (true, true) => ("decimal", "decimal_below_min_value"),
        (true, false) => ("decimal", "decimal_above_max_value"),
        (false, true) => ("integer", "integer_below_min_value"),
        (false, false) => ("integer", "integer_above_max_value"),
    }
}

/// Checks the name of a tool.
pub fn tool_name(param: &str, name: &str) -> Result<(), Refusal> {
    longest(param, name, 64)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || !name.chars().all(fits) {
        let message = format!(
            "Invalid '{param}': string does not match pattern. Expected a string that matches the pattern \
             '^[a-zA-Z0-9_-]+$'."
        );
        return Err(Refusal::openai(message, param.to_owned(), Some("invalid_value")));
    }
    Ok(())
}

/// Checks the parameters of a function: an object schema; under `strict` every object closed and all of it required.
pub fn function_schema(param: &str, name: &str, schema: &Value, strict: bool) -> Result<(), Refusal> {
    if schema.is_null() {
        return Ok(());
    }
    let what = format!("function '{name}'");
    if schema["type"] != "object" {
        let got = schema["type"].as_str().unwrap_or("None");
        let message = format!(
            "Invalid schema for {what}: schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{got}\"'."
        );
        return Err(Refusal::openai(message, param.to_owned(), Some("invalid_function_parameters")));
    }
    closed(schema, &what, param, "invalid_function_parameters", strict, &mut Vec::new())
}

/// Checks the schema of a `json_schema` format.
pub fn format_schema(param: &str, name: &str, schema: &Value, strict: bool) -> Result<(), Refusal> {
    let what = format!("response_format '{name}'");
    if strict && schema["type"] != "object" {
        let got = schema["type"].as_str().unwrap_or("None");
        let message = format!(
            "Invalid schema for {what}: schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{got}\"'."
        );
        return Err(Refusal::openai(message, param.to_owned(), Some("invalid_json_schema")));
    }
    closed(schema, &what, param, "invalid_json_schema", strict, &mut Vec::new())
}

fn closed(
    schema: &Value,
    what: &str,
    param: &str,
    code: &'static str,
    strict: bool,
    path: &mut Vec<String>,
) -> Result<(), Refusal> {
    let refuse = |path: &[String], why: &str| {
        let context: Vec<String> = path.iter().map(|step| format!("'{step}'")).collect();
        let context = if context.len() == 1 { format!("{},", context[0]) } else { context.join(", ") };
        let message = format!("Invalid schema for {what}: In context=({context}), {why}");
        Err(Refusal::openai(message, param.to_owned(), Some(code)))
    };
    if schema["type"] == "array" && schema.get("items").is_none() {
        return refuse(path, "array schema missing items.");
    }
    if let Some(properties) = schema["properties"].as_object() {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if strict && schema["additionalProperties"] != false {
            return refuse(path, "'additionalProperties' is required to be supplied and to be false.");
        }
        if let Some(left_out) = properties.keys().find(|name| strict && !required.contains(&name.as_str())) {
            let why = format!(
                "'required' is required to be supplied and to be an array including every key in properties. Missing \
                 '{left_out}'."
            );
            return refuse(path, &why);
        }
        for (name, property) in properties {
            path.extend(["properties".to_owned(), name.clone()]);
            closed(property, what, param, code, strict, path)?;
            path.truncate(path.len() - 2);
        }
    }
    if schema["items"].is_object() {
        path.push("items".to_owned());
        closed(&schema["items"], what, param, code, strict, path)?;
        path.pop();
    }
    Ok(())
}

/// Refuses the first unknown field in OpenAI's words.
pub fn unrecognized(turn: &Turn<'_>, known: &[&[&str]]) -> Result<(), Refusal> {
    match turn.unknown_field(known) {
        Some(field) => Err(Refusal::openai(format!("Unrecognized request argument supplied: {field}"), None, None)),
        None => Ok(()),
    }
}
