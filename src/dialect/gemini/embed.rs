//! `embedContent` and `batchEmbedContents`, both directions.
//!
//! The neutral form has one task, title and length for all inputs; where the requests of a batch differ, their own
//! fields ride in `extra.requests`, one object an input. Never calls Vertex's older `predict`, but reads its answers.

use serde_json::{Map, Value};

use super::field::{self, Object, put, take, take_list, take_object, take_string, take_uint};
use super::part::{self, Piece};
use super::{NAME, usage};
use crate::dialect::{Encoding, Op, RawAsk};
use crate::embed::{EmbedAnswer, EmbedAsk, EmbedInput};
use crate::fault::{Fault, Kind};
use crate::json;

pub fn decode(raw: &RawAsk<'_>) -> Result<EmbedAsk, Fault> {
    let mut body = super::json_object(raw.body)?;
    let named = take_string(&mut body, "model").map(|name| super::bare_model(&name).to_owned());
    let mut ask = EmbedAsk {
        model: raw.model.map(str::to_owned).or(named).unwrap_or_default(),
        single: raw.op != Op::EmbedBatch,
        source: NAME,
        ..EmbedAsk::default()
    };
    if ask.single {
        let wanted = wanted(&mut body);
        let content = take(&mut body, "content").ok_or_else(|| missing("content"))?;
        ask.inputs.push(input(content));
        (ask.task, ask.title, ask.dimensions) = wanted;
        ask.extra = body;
        return Ok(ask);
    }
    let mut rests = Vec::new();
    let mut all = Vec::new();
    for (index, request) in take_list(&mut body, "requests").into_iter().enumerate() {
        let at = format!("requests[{index}]");
        let Value::Object(mut request) = request else { return Err(field::wrong(&at, "an object")) };
        take(&mut request, "model");
        all.push(wanted(&mut request));
        let content = take(&mut request, "content").ok_or_else(|| missing(&format!("{at}.content")))?;
        ask.inputs.push(input(content));
        rests.push(request);
    }
    if ask.inputs.is_empty() {
        return Err(missing("requests"));
    }
    (ask.task, ask.title, ask.dimensions) = all[0].clone();
    if all.iter().any(|(_, _, dimensions)| *dimensions != ask.dimensions) {
        let text = "All requests of a batch must want the same `outputDimensionality`.";
        return Err(Fault::new(Kind::UnsupportedFeature, text).param("requests.outputDimensionality"));
    }
    if all.iter().any(|one| *one != all[0]) {
        (ask.task, ask.title) = (None, None);
        for (rest, (task, title, _)) in rests.iter_mut().zip(all) {
            put(rest, "taskType", task);
            put(rest, "title", title);
        }
    }
    ask.extra = body;
    if rests.iter().any(|rest| !rest.is_empty()) {
        ask.extra.insert("requests".into(), rests.into_iter().map(Value::Object).collect());
    }
    Ok(ask)
}

fn missing(field: &str) -> Fault {
    Fault::new(Kind::InvalidRequest, format!("`{field}` is missing.")).param(field)
}

/// Task, title and length, also from where Vertex puts them.
fn wanted(request: &mut Object) -> (Option<String>, Option<String>, Option<u64>) {
    let read = |object: &mut Object| {
        (take_string(object, "taskType"), take_string(object, "title"), take_uint(object, "outputDimensionality"))
    };
    let (task, title, length) = read(request);
    let Some(mut config) = take_object(request, "embedContentConfig") else { return (task, title, length) };
    let (inner_task, inner_title, inner_length) = read(&mut config);
    if !config.is_empty() {
        request.insert("embedContentConfig".into(), config.into());
    }
    (task.or(inner_task), title.or(inner_title), length.or(inner_length))
}

/// Content that is text alone becomes text; anything else stays as it is.
fn input(content: Value) -> EmbedInput {
    let text = match &content {
        Value::String(text) => Some(text.clone()),
        Value::Object(content) => text_of(content.clone()),
        _ => None,
    };
    text.map_or(EmbedInput::Other(content), EmbedInput::Text)
}

fn text_of(mut content: Object) -> Option<String> {
    let texts = take_list(&mut content, "parts").into_iter().map(|part| match part::read(part)?.piece {
        Piece::Text(text) => Some(text),
        _ => None,
    });
    let texts: Vec<String> = texts.collect::<Option<_>>()?;
    (!texts.is_empty()).then(|| texts.join("\n"))
}

pub fn encode(ask: &EmbedAsk, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
    to.drop_if(ask.user.is_some(), "user", "Gemini has no such field");
    let own = ask.source == NAME;
    let rests = ask.extra.get("requests").and_then(Value::as_array).filter(|_| own);
    let mut requests = Vec::with_capacity(ask.inputs.len());
    for (at, input) in ask.inputs.iter().enumerate() {
        let mut request = field::object("model", super::model_resource(to.model));
        request.insert("content".into(), content(input, own)?);
        put(&mut request, "taskType", ask.task.clone());
        put(&mut request, "title", ask.title.clone());
        put(&mut request, "outputDimensionality", ask.dimensions);
        if let Some(Value::Object(rest)) = rests.and_then(|rests| rests.get(at)) {
            request.extend(rest.clone());
        }
        requests.push(request);
    }
    let rest: Map<String, Value> = match own {
        true => ask.extra.iter().filter(|(name, _)| *name != "requests").map(|(n, v)| (n.clone(), v.clone())).collect(),
        false => Map::new(),
    };
    let mut body = match requests.pop() {
        Some(one) if ask.single && requests.is_empty() => one,
        Some(last) => {
            requests.push(last);
            field::object("requests", requests.into_iter().map(Value::Object).collect::<Value>())
        }
        None => return Err(Fault::new(Kind::InvalidRequest, "There is nothing to embed.").param("input")),
    };
    body.extend(rest);
    Ok(json::written(&body))
}

fn content(input: &EmbedInput, own: bool) -> Result<Value, Fault> {
    match input {
        EmbedInput::Text(text) => {
            Ok(Value::Object(field::object("parts", vec![Value::Object(field::object("text", text.clone()))])))
        }
        EmbedInput::Other(content) if own => Ok(content.clone()),
        EmbedInput::Tokens(_) => {
            let text = "Token ids mean nothing to another model's tokenizer; send text.";
            Err(Fault::new(Kind::UnsupportedFeature, text).param("input"))
        }
        EmbedInput::Other(_) => {
            let text = "This kind of input cannot be sent to Gemini; send text.";
            Err(Fault::new(Kind::UnsupportedFeature, text).param("input"))
        }
    }
}

pub fn decode_answer(body: &[u8]) -> Result<EmbedAnswer, Fault> {
    let bad = || Fault::new(Kind::BadAnswer, "The provider's answer holds no embeddings.");
    let mut body: Object = serde_json::from_slice(body).map_err(|error| bad().because(error))?;
    let mut embeddings = take_list(&mut body, "embedding");
    embeddings.extend(take_list(&mut body, "embeddings"));
    for prediction in take_list(&mut body, "predictions") {
        embeddings.extend(prediction.get("embeddings").cloned());
    }
    let vectors: Option<Vec<Vec<f32>>> = embeddings.iter().map(vector).collect();
    let vectors = vectors.filter(|vectors| !vectors.is_empty()).ok_or_else(bad)?;
    let counted = take(&mut body, "usageMetadata").as_ref().and_then(usage::read);
    Ok(EmbedAnswer { model: String::new(), vectors, usage: counted, source: NAME, extra: body })
}

fn vector(embedding: &Value) -> Option<Vec<f32>> {
    let values = embedding.get("values")?.as_array()?;
    values.iter().map(|value| value.as_f64().map(|value| value as f32)).collect()
}

pub fn encode_answer(answer: &EmbedAnswer, op: Op) -> Vec<u8> {
    let mut embeddings = answer.vectors.iter().map(|vector| serde_json::json!({ "values": vector }));
    let mut body = match op {
        Op::EmbedBatch => field::object("embeddings", embeddings.collect::<Value>()),
        _ => field::object("embedding", embeddings.next().unwrap_or_default()),
    };
    if let Some(counted) = &answer.usage {
        let counts = serde_json::json!({ "promptTokenCount": counted.input, "totalTokenCount": counted.total() });
        body.insert("usageMetadata".into(), counts);
    }
    if answer.source == NAME {
        body.extend(answer.extra.clone());
    }
    json::written(&body)
}
