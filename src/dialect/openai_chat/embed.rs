//! `/embeddings`, both directions.
//!
//! Vectors travel as f32: JSON numbers or base64 of little-endian bytes, as the caller wants them. Never rounds.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::fields::{self, Fields, invalid};
use super::{NAME, answer, usage};
use crate::dialect::{Encoding, RawAsk};
use crate::embed::{EmbedAnswer, EmbedAsk, EmbedInput};
use crate::fault::{Fault, Kind};
use crate::json;

pub(super) fn decode(raw: &RawAsk<'_>) -> Result<EmbedAsk, Fault> {
    let mut fields = fields::body(raw.body)?;
    let model = fields.string("model")?.or_else(|| raw.model.map(str::to_owned));
    let input = fields.take("input").ok_or_else(|| invalid("input", "is missing"))?;
    let (inputs, single) = read_input(input)?;
    let base64 = match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(invalid("encoding_format", "must be `float` or `base64`")),
    };
    Ok(EmbedAsk {
        model: model.ok_or_else(|| invalid("model", "is missing"))?,
        inputs,
        dimensions: fields.uint("dimensions")?,
        base64,
        user: fields.string("user")?,
        single,
        source: NAME,
        extra: fields.rest(),
        ..EmbedAsk::default()
    })
}

fn read_input(input: Value) -> Result<(Vec<EmbedInput>, bool), Fault> {
    match input {
        Value::String(text) => Ok((vec![EmbedInput::Text(text)], true)),
        Value::Array(list) if list.is_empty() => Err(invalid("input", "must not be empty")),
        Value::Array(list) if list.iter().all(Value::is_u64) => {
            Ok((vec![EmbedInput::Tokens(list.iter().filter_map(Value::as_u64).collect())], true))
        }
        Value::Array(list) => Ok((list.into_iter().map(read_one).collect(), false)),
        other @ Value::Object(_) => Ok((vec![EmbedInput::Other(other)], true)),
        _ => Err(invalid("input", "must be a string or an array")),
    }
}

fn read_one(value: Value) -> EmbedInput {
    match value {
        Value::String(text) => EmbedInput::Text(text),
        Value::Array(ids) if !ids.is_empty() && ids.iter().all(Value::is_u64) => {
            EmbedInput::Tokens(ids.iter().filter_map(Value::as_u64).collect())
        }
        other => EmbedInput::Other(other),
    }
}

pub(super) fn encode(ask: &EmbedAsk, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
    let own = ask.source == NAME;
    let mut inputs = ask
        .inputs
        .iter()
        .map(|input| match input {
            EmbedInput::Text(text) => Ok(text.as_str().into()),
            EmbedInput::Tokens(ids) => Ok(ids.as_slice().into()),
            EmbedInput::Other(value) if own => Ok(value.clone()),
            EmbedInput::Other(_) => {
                let text = "OpenAI embeddings take text and token ids only.";
                Err(Fault::new(Kind::UnsupportedFeature, text).param("input"))
            }
        })
        .collect::<Result<Vec<Value>, Fault>>()?;
    let input = if ask.single && inputs.len() == 1 { inputs.swap_remove(0) } else { inputs.into() };
    let mut body = Map::new();
    body.insert("model".into(), to.model.into());
    body.insert("input".into(), input);
    if ask.base64 {
        body.insert("encoding_format".into(), "base64".into());
    }
    body.extend(ask.dimensions.map(|length| ("dimensions".to_owned(), length.into())));
    body.extend(ask.user.as_ref().map(|user| ("user".to_owned(), user.as_str().into())));
    to.drop_if(ask.task.is_some(), "task_type", "OpenAI embeddings have no task");
    to.drop_if(ask.title.is_some(), "title", "OpenAI embeddings have no title");
    if own {
        body.extend(ask.extra.clone());
    }
    for refused in to.quirks.refuses {
        if body.shift_remove(*refused).is_some() {
            to.dropped.push((refused, "the provider refuses it"));
        }
    }
    Ok(json::written(&body))
}

pub(super) fn decode_answer(body: &[u8]) -> Result<EmbedAnswer, Fault> {
    let bad = |what: &str| Fault::new(Kind::BadAnswer, format!("The embeddings answer {what}."));
    let value: Value = serde_json::from_slice(body).map_err(|error| bad("is no JSON").because(error))?;
    if let Some(fault) = answer::reported_error(&value) {
        return Err(fault);
    }
    let mut fields = Fields::of(value, "answer").map_err(|_| bad("is no object"))?;
    let Some(Value::Array(data)) = fields.take("data") else { return Err(bad("has no `data`")) };
    let mut vectors = Vec::with_capacity(data.len());
    for (position, entry) in data.iter().enumerate() {
        let index = entry.get("index").and_then(Value::as_u64).unwrap_or(position as u64);
        let vector = entry.get("embedding").and_then(read_vector).ok_or_else(|| bad("holds no vector"))?;
        vectors.push((index, vector));
    }
    vectors.sort_by_key(|(index, _)| *index);
    let text = |value: Option<Value>| value.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
    let model = text(fields.take("model"));
    let usage = fields.take("usage").as_ref().and_then(usage::read_input);
    fields.take("object");
    let vectors = vectors.into_iter().map(|(_, vector)| vector).collect();
    Ok(EmbedAnswer { model, vectors, usage, source: NAME, extra: fields.rest() })
}

fn read_vector(value: &Value) -> Option<Vec<f32>> {
    match value {
        Value::Array(numbers) => numbers.iter().map(|number| number.as_f64().map(|float| float as f32)).collect(),
        Value::String(text) => {
            let bytes = BASE64_STANDARD.decode(text).ok()?;
            let (words, rest) = bytes.as_chunks::<4>();
            rest.is_empty().then(|| words.iter().map(|word| f32::from_le_bytes(*word)).collect())
        }
        _ => None,
    }
}

/// The answer as it is written. Typed, because an f32 put into a JSON value would grow digits.
#[derive(Serialize)]
struct Written<'a> {
    object: &'static str,
    data: Vec<Entry<'a>>,
    model: &'a str,
    usage: Value,
}

#[derive(Serialize)]
struct Entry<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Numbers(&'a [f32]),
    Base64(String),
}

pub(super) fn encode_answer<'a>(answer: &'a EmbedAnswer, ask: &EmbedAsk) -> Vec<u8> {
    let packed = |vector: &[f32]| {
        BASE64_STANDARD.encode(vector.iter().flat_map(|float| float.to_le_bytes()).collect::<Vec<u8>>())
    };
    let entry = |(index, vector): (usize, &'a Vec<f32>)| {
        let embedding = if ask.base64 { Vector::Base64(packed(vector)) } else { Vector::Numbers(vector) };
        Entry { object: "embedding", index, embedding }
    };
    let data = answer.vectors.iter().enumerate().map(entry).collect();
    // The SDKs' type has no place for an unknown count.
    let input = answer.usage.map_or(0, |usage| usage.input);
    let usage = json!({ "prompt_tokens": input, "total_tokens": answer.usage.map_or(0, |usage| usage.total()) });
    let model = if answer.model.is_empty() { &ask.model } else { &answer.model };
    // Plain data serialises into memory without fail.
    json::written(&Written { object: "list", data, model, usage })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::{Op, Quirks};

    fn ask(body: &Value) -> Result<EmbedAsk, Fault> {
        decode(&RawAsk { op: Op::Embed, body: body.to_string().as_bytes(), model: None, stream: false })
    }

    #[test]
    fn every_form_of_input_comes_back_as_it_was() {
        for input in [json!("one"), json!(["one"]), json!(["one", "two"]), json!([1, 2, 3]), json!([[1, 2], [3]])] {
            let body = json!({"model": "m", "input": input, "encoding_format": "base64", "dimensions": 8, "user": "u",
                              "input_type": "query"});
            let decoded = ask(&body).expect("valid");
            let mut to = Encoding::new("m", &Quirks::NONE);
            let encoded: Value = serde_json::from_slice(&encode(&decoded, &mut to).expect("encodes")).expect("JSON");
            assert_eq!(encoded, body);
        }
    }

    #[test]
    fn bad_asks_name_the_field() {
        for (body, param) in [
            (json!({"model": "m"}), "input"),
            (json!({"model": "m", "input": []}), "input"),
            (json!({"model": "m", "input": 7}), "input"),
            (json!({"input": "x"}), "model"),
            (json!({"model": "m", "input": "x", "encoding_format": "hex"}), "encoding_format"),
            (json!({"model": "m", "input": "x", "dimensions": "8"}), "dimensions"),
        ] {
            assert_eq!(ask(&body).expect_err("refused").param.as_deref(), Some(param), "{body}");
        }
    }

    #[test]
    fn base64_and_numbers_say_the_same_and_keep_their_order() {
        let numbers = json!({"object": "list", "model": "m", "data": [
            {"object": "embedding", "index": 1, "embedding": [0.25, -1.5]},
            {"object": "embedding", "index": 0, "embedding": [1.0, 0.1]}],
            "usage": {"prompt_tokens": 4, "total_tokens": 4}});
        let answer = decode_answer(numbers.to_string().as_bytes()).expect("valid");
        assert_eq!(answer.vectors, [[1.0, 0.1], [0.25, -1.5]]);
        let packed = EmbedAsk { base64: true, ..EmbedAsk::default() };
        let text = encode_answer(&answer, &packed);
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(value["data"][1]["embedding"], "AACAPgAAwL8=");
        assert_eq!(decode_answer(&text).expect("valid").vectors, answer.vectors);
        let plain = String::from_utf8(encode_answer(&answer, &EmbedAsk::default())).expect("UTF-8");
        assert!(plain.contains("[1.0,0.1]"), "{plain}");
        assert!(plain.contains(r#""usage":{"prompt_tokens":4,"total_tokens":4}"#), "{plain}");
    }

    #[test]
    fn what_is_no_embedding_is_a_bad_answer() {
        for body in ["x", "[]", "{}", r#"{"data":[{"index":0}]}"#, r#"{"data":[{"embedding":"AAA="}]}"#] {
            assert_eq!(decode_answer(body.as_bytes()).expect_err(body).kind, Kind::BadAnswer);
        }
    }
}
