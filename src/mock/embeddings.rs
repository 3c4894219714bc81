//! `POST /v1/embeddings` of OpenAI, and the vectors that Gemini's endpoints share: unit length, the same for the same
//! text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::answer::{Answer, Outcome, Turn};
use super::openai::{self, required, unrecognized, wrong_type};
use super::refusal::Refusal;
use super::reply::tokens;
use super::state::{hash, mix};

const FIELDS: &[&str] = &["input", "model", "dimensions", "encoding_format", "user"];

/// Length of a vector when none is asked for.
const DEFAULT_DIMENSIONS: u64 = 1536;

/// Longest vector.
const MAX_DIMENSIONS: u64 = 4096;

/// Most inputs in one request.
const MAX_INPUTS: usize = 2048;

pub fn answer(turn: &Turn<'_>) -> Outcome {
    let body = turn.body;
    unrecognized(turn, &[FIELDS])?;
    openai::ranges(body, &[("dimensions", 1.0, MAX_DIMENSIONS as f64)])?;
    let base64 = match body["encoding_format"].as_str() {
        Some("base64") => true,
        None | Some("float") => false,
        Some(other) => return Err(openai::unsupported("encoding_format".to_owned(), other, &["float", "base64"])),
    };
    let inputs = inputs(required(body, "input")?)?;
    let dimensions = body["dimensions"].as_u64().unwrap_or(DEFAULT_DIMENSIONS);
    let used: u64 = inputs.iter().map(|input| input.tokens).sum();
    let data = inputs.iter().enumerate().map(|(index, input)| {
        let vector = vector(&input.text, dimensions);
        let embedding = if base64 { json!(pack(&vector)) } else { numbers(&vector) };
        json!({"object": "embedding", "index": index, "embedding": embedding})
    });
    let data: Vec<Value> = data.collect();
    Ok(Answer::json(json!({
        "object": "list", "data": data, "model": turn.model,
        "usage": {"prompt_tokens": used, "total_tokens": used},
    })))
}

struct Input {
    text: String,
    tokens: u64,
}

/// A text, a list of texts, a list of token ids or a list of such lists; none of them empty.
fn inputs(given: &Value) -> Result<Vec<Input>, Refusal> {
    let invalid = || Refusal::openai("'$.input' is invalid. Please check the API reference.", None, None);
    let one = |value: &Value| match value {
        Value::String(text) if text.is_empty() => Err(Refusal::openai("input cannot be an empty string", None, None)),
        Value::String(text) => Ok(Input { text: text.clone(), tokens: tokens(text).max(1) }),
        Value::Array(ids) if !ids.is_empty() && ids.iter().all(Value::is_u64) => {
            Ok(Input { text: value.to_string(), tokens: ids.len() as u64 })
        }
        _ => Err(invalid()),
    };
    match given {
        Value::Array(list) if list.is_empty() => Err(invalid()),
        Value::Array(list) if list.len() > MAX_INPUTS => {
            let message = format!("'$.input' is invalid. The array may hold at most {MAX_INPUTS} inputs.");
            Err(Refusal::openai(message, None, None))
        }
        Value::Array(list) if !list.iter().all(Value::is_u64) => list.iter().map(one).collect(),
        Value::Array(_) | Value::String(_) => Ok(vec![one(given)?]),
        other => Err(wrong_type("input", "one of a string or array", other)),
    }
}

/// The unit vector of a text.
pub fn vector(text: &str, dimensions: u64) -> Vec<f32> {
    let seed = hash(0, text.as_bytes());
    // The casts lose precision, which noise does not need.
    let mut vector: Vec<f32> = (0..dimensions.clamp(1, MAX_DIMENSIONS))
        .map(|i| (mix(seed ^ mix(i)) as f64 / u64::MAX as f64 * 2.0 - 1.0) as f32)
        .collect();
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
    vector
}

/// Numbers with the digits that an f32 has, not those of its f64.
pub fn numbers(vector: &[f32]) -> Value {
    vector.iter().map(|x| x.to_string().parse::<f64>().map_or(Value::Null, |x| json!(x))).collect()
}

/// Base64 of little-endian f32, as OpenAI packs vectors.
fn pack(vector: &[f32]) -> String {
    STANDARD.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_unit_length_and_tell_texts_apart() {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (one, two) = (vector("one", 256), vector("two", 256));
        assert!((dot(&one, &one) - 1.0).abs() < 1e-4);
        assert!(dot(&one, &two).abs() < 0.5);
        assert_eq!(one, vector("one", 256));
    }
}
