//! The upstreams of a trial: each target plays its acts in order and repeats the last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use crate::body::{self, Inbound};
use crate::chat::event::{self, Delta, Event, Opened};
use crate::chat::{Answer, Ask, Block, Choice, Content, Finish, ToolCall, Usage};
use crate::dialect::{self, Asked, Dialect, Op};
use crate::fault::{Fault, Kind};
use crate::json;
use crate::route::Provider;
use crate::upstream::{Dial, Outbound, Sending, Upstream};

/// Every upstream of a scene.
#[derive(Default)]
pub(super) struct Double {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The acts of each target.
    acts: Map<String, Value>,
    /// Each provider by the connection that is meant for it, and its dialect.
    providers: Vec<(Arc<Dial>, String, Option<&'static dyn Dialect>)>,
    /// Acts played, by target.
    played: HashMap<String, usize>,
    /// Requests as they came.
    sent: Vec<Value>,
    /// Bytes of a piece, where streams are to be split so.
    split: Option<usize>,
}

impl Double {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the acts. What was played stays played, unless a target's acts were begun anew.
    pub fn set(
        &self,
        acts: Map<String, Value>,
        providers: &[Arc<Provider>],
        dialects: &HashMap<String, String>,
        split: Option<usize>,
    ) {
        let mut inner = self.inner();
        for (name, said) in &acts {
            if inner.acts.get(name).is_none_or(|known| known["begun"] != said["begun"]) {
                inner.played.remove(name);
            }
        }
        inner.acts = acts;
        let dialect = |name: &str| dialects.get(name).and_then(|name| dialect::find(name));
        let faces = providers.iter().flat_map(|provider| {
            let name = &provider.name;
            provider.faces.iter().map(move |face| (face.dial.clone(), name.clone(), dialect(name)))
        });
        inner.providers = faces.collect();
        inner.split = split;
    }

    /// Forgets everything.
    pub fn reset(&self) {
        *self.inner() = Inner::default();
    }

    /// The requests since the last time it was asked.
    pub fn take_sent(&self) -> Vec<Value> {
        std::mem::take(&mut self.inner().sent)
    }

    /// Notes a request and gives the act that answers it, with the dialect it is answered in.
    ///
    /// # Errors
    /// It is for a host that is no provider, and for which there is none.
    fn next(&self, dial: &Arc<Dial>, request: &Outbound) -> Result<Scripted, Fault> {
        let host = request.uri.host().unwrap_or_default();
        let asking = Asking::read(request);
        let mut inner = self.inner();
        // What a policy asks by itself (`gw.http`) goes to a host and to no target.
        let provider = inner.providers.iter().find(|(known, ..)| Arc::ptr_eq(known, dial));
        let provider = provider.map(|(_, name, dialect)| (name.clone(), *dialect));
        let (name, dialect) = provider.clone().unwrap_or((host.to_owned(), None));
        let target = if provider.is_some() { format!("{name}/{}", asking.model) } else { host.to_owned() };
        let headers: Map<String, Value> = request
            .headers
            .iter()
            .filter(|(name, _)| *name != http::header::AUTHORIZATION)
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), json!(value.to_str().ok()?))))
            .collect();
        inner
            .sent
            .push(json!({"target": target, "url": request.uri.to_string(), "headers": headers, "body": asking.sent}));
        let known = [target.as_str(), name.as_str(), host].into_iter().find(|name| inner.acts.contains_key(*name));
        let key = known.unwrap_or(&target).to_owned();
        let acts = inner.acts.get(&key).and_then(|said| said["acts"].as_array()).cloned().unwrap_or_default();
        let played = inner.played.entry(key).or_default();
        let act = acts.get(*played).or(acts.last()).cloned();
        *played += 1;
        let act = match act {
            Some(act) => act,
            None if provider.is_none() => return Err(unscripted(host)),
            None => json!({"text": format!("An answer of {target}.")}),
        };
        let split = inner.split;
        let scripted = Scripted::new(act, dialect.unwrap_or(&dialect::openai_chat::OpenAiChat), asking, split);
        Ok(Scripted { outside: provider.is_none(), ..scripted })
    }
}

fn unscripted(host: &str) -> Fault {
    let how = format!("t.upstream(\"{host}\"):answers(nil, {{ body = {{ … }} }})");
    let source = format!("nobody outside is asked in tests; say what it answers, with {how}");
    Fault {
        source: Some(source),
        ..Fault::new(Kind::UpstreamUnreachable, "The test does not say what this host answers.")
    }
}

/// What a request to an upstream asks for, whatever its dialect.
pub(super) struct Asking {
    pub model: String,
    pub stream: bool,
    /// A stream is to state its usage.
    pub usage: bool,
    sent: Value,
}

impl Asking {
    pub fn read(request: &Outbound) -> Asking {
        let sent: Value = serde_json::from_slice(&request.body.pieces().concat()).unwrap_or(Value::Null);
        let path = request.uri.path();
        let in_path = path.split_once("/models/").and_then(|(_, rest)| rest.split_once(':')).map(|(model, _)| model);
        // An adapter may name its model anywhere, or nowhere.
        let told = request.target.as_ref().and_then(|target| target.split_once('/')).map(|(_, model)| model);
        let model = told.or(sent["model"].as_str()).or(in_path).unwrap_or_default().to_owned();
        let stream = sent["stream"] == true || path.contains(":streamGenerateContent");
        let usage = sent["stream_options"]["include_usage"] == true;
        Asking { model, stream, usage, sent }
    }
}

/// One answer to be given.
pub(super) struct Scripted {
    act: Value,
    dialect: &'static dyn Dialect,
    model: String,
    stream: bool,
    usage: bool,
    split: Option<usize>,
    /// It is no provider that answers.
    outside: bool,
}

impl Upstream for Double {
    fn send<'a>(&'a self, dial: &'a Arc<Dial>, request: Box<Outbound>, head_timeout: Duration) -> Sending<'a> {
        match self.next(dial, &request) {
            Ok(scripted) => scripted.send(head_timeout),
            Err(fault) => Box::pin(async { Err(fault) }),
        }
    }

    fn connects(&self) -> bool {
        false
    }
}

fn millis(act: &Value, name: &str) -> Duration {
    Duration::from_secs_f64(act[name].as_f64().unwrap_or(0.0).max(0.0) / 1000.0)
}

impl Scripted {
    pub fn new(act: Value, dialect: &'static dyn Dialect, asking: Asking, split: Option<usize>) -> Self {
        let Asking { model, stream, usage, .. } = asking;
        Scripted { act, dialect, model, stream, usage, split, outside: false }
    }

    /// Answers as the act says, when it says.
    pub fn send(self, head_timeout: Duration) -> Sending<'static> {
        Box::pin(async move {
            let after = millis(&self.act, "after_ms");
            if let Some(code) = self.act["faults"].as_str() {
                sleep(after).await;
                let message = self.act["message"].as_str().unwrap_or_default();
                return Err(Fault::new(Kind::from_code(code).unwrap_or(Kind::UpstreamError), message));
            }
            sleep(after.min(head_timeout)).await;
            if after >= head_timeout {
                return Err(Fault::new(Kind::HeadTimeout, "The provider sent no answer in time."));
            }
            self.response()
        })
    }

    fn response(&self) -> Result<Response<Inbound>, Fault> {
        let act = &self.act;
        if act["unreachable"] == true {
            return Err(Fault::new(Kind::UpstreamUnreachable, "The provider cannot be reached."));
        }
        let (status, kind, body) = if act["fails"] == true { self.failure() } else { self.success() };
        let mut response = Response::new(body);
        *response.status_mut() = status.try_into().map_err(|_| Fault::new(Kind::Internal, "No such status."))?;
        response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(kind));
        let mut headers = act["headers"].as_object().cloned().unwrap_or_default();
        if let Some(ms) = act.get("retry_after_ms") {
            headers.insert("retry-after-ms".to_owned(), json!(ms.to_string()));
        }
        for (name, value) in &headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = value.as_str().and_then(|value| HeaderValue::from_str(value).ok());
            if let (Ok(name), Some(value)) = (name, value) {
                response.headers_mut().insert(name, value);
            }
        }
        Ok(response)
    }

    fn failure(&self) -> (u16, &'static str, Inbound) {
        let act = &self.act;
        let status = act["status"].as_u64().and_then(|status| u16::try_from(status).ok());
        let kind = act["code"].as_str().and_then(Kind::from_code);
        let kind = kind.unwrap_or(match status {
            Some(429) => Kind::RateLimited,
            Some(503 | 529) => Kind::Overloaded,
            Some(400..=499) => Kind::UpstreamRejected,
            _ => Kind::UpstreamError,
        });
        let message = act["message"].as_str().unwrap_or("The provider failed as the test wants.");
        let body = match act.get("body") {
            Some(Value::String(text)) => text.clone().into_bytes(),
            Some(value) => json::written(value),
            None if self.outside => message.as_bytes().to_vec(),
            None => self.in_its_words(kind, message),
        };
        (status.unwrap_or(kind.row().status), "application/json", Inbound::Ready(Some(body.into())))
    }

    /// An error body from which the gateway reads this kind again. Most have the gateway's own code, which it knows; for
    /// the others it is what providers write.
    fn in_its_words(&self, kind: Kind, message: &str) -> Vec<u8> {
        if kind == Kind::ContentPolicy {
            let message = format!("{message} Output blocked by content filtering policy.");
            let code = "content_policy_violation";
            return json!({"type": "error", "error": {"type": "invalid_request_error", "code": code, "message": message}})
                .to_string()
                .into_bytes();
        }
        self.dialect.encode_error(&Fault::new(kind, message), "req-test")
    }

    fn success(&self) -> (u16, &'static str, Inbound) {
        let status = self.act["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(200);
        if let Some(raw) = self.act["raw"].as_str() {
            let stream = raw.starts_with("data:") || raw.starts_with("event:") || raw.starts_with(':');
            let kind = if stream { "text/event-stream" } else { "application/json" };
            return (status, kind, self.in_pieces(vec![Bytes::copy_from_slice(raw.as_bytes())]));
        }
        if let Some(body) = self.act.get("body") {
            let text = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
            return (status, "application/json", Inbound::Ready(Some(text.into())));
        }
        if self.outside {
            let text = self.act["text"].as_str().unwrap_or_default().to_owned();
            return (status, "text/plain", Inbound::Ready(Some(text.into())));
        }
        let ask = Arc::new(Ask { include_usage: self.usage, ..Ask::default() });
        let model = self.model.clone();
        let asked = Asked { op: Op::Generate, ask, model, id: "answer-1".to_owned(), now: 0 };
        if self.stream || self.act["cut"] == true || self.act["stall"] == true {
            return (status, "text/event-stream", self.in_pieces(self.frames(&asked)));
        }
        let body = self.dialect.encode_answer(&self.answer(), &asked);
        (status, "application/json", Inbound::Ready(Some(body.into())))
    }

    fn answer(&self) -> Answer {
        let act = &self.act;
        let pieces = act["pieces"].as_array().map(|pieces| pieces.iter().filter_map(Value::as_str).collect::<String>());
        let text = pieces.or_else(|| act["text"].as_str().map(str::to_owned)).unwrap_or_default();
        let mut blocks = Vec::new();
        if let Some(reasoning) = act["reasoning"].as_str() {
            let reasoning = crate::chat::Reasoning { text: reasoning.to_owned(), ..Default::default() };
            blocks.push(Block::new(Content::Reasoning(reasoning)));
        }
        if !text.is_empty() {
            blocks.push(Block::text(text.as_str()));
        }
        for (at, call) in act["tool_calls"].as_array().into_iter().flatten().enumerate() {
            let arguments = match &call["arguments"] {
                Value::String(text) => text.clone(),
                Value::Null => "{}".to_owned(),
                value => value.to_string(),
            };
            blocks.push(Block::new(Content::ToolCall(ToolCall {
                id: call["id"].as_str().map_or_else(|| format!("call-{}", at + 1), str::to_owned),
                name: call["name"].as_str().unwrap_or_default().to_owned(),
                arguments,
                ..ToolCall::default()
            })));
        }
        let finish = match act["finish"].as_str().and_then(Finish::named) {
            Some(finish) => finish,
            None if act["tool_calls"].is_array() => Finish::ToolCalls,
            None => Finish::Stop,
        };
        let count = |name: &str, or: u64| act[name].as_u64().unwrap_or(or);
        let usage = Usage {
            input: count("input_tokens", 10),
            output: count("output_tokens", (text.len() as u64 / 4).max(1)),
            cache_read: act["cache_read_tokens"].as_u64(),
            cache_write: act["cache_write_tokens"].as_u64(),
            ..Usage::default()
        };
        let choice = Choice { blocks, finish: Some(finish), ..Choice::default() };
        Answer {
            id: "answer-1".to_owned(),
            model: self.model.clone(),
            choices: vec![choice],
            usage: Some(usage),
            ..Answer::default()
        }
    }

    /// The stream: a frame or more for each piece of text, so that it can be cut between two.
    fn frames(&self, asked: &Asked) -> Vec<Bytes> {
        let mut encoder = self.dialect.encoder(asked);
        let mut frames = Vec::new();
        let mut encode = |event: &Event| {
            let mut out = Vec::new();
            encoder.event(event, &mut out);
            if !out.is_empty() {
                frames.push(Bytes::from(out));
            }
        };
        let answer = self.answer();
        let unfinished = self.act["cut"] == true || self.act["stall"] == true;
        let pieces: Vec<String> = match self.act["pieces"].as_array() {
            Some(pieces) => pieces.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            None => answer.text().split_inclusive(' ').map(str::to_owned).collect(),
        };
        for event in event::replay(&answer) {
            match event {
                Event::Delta { choice, index, delta: Delta::Text(_) } => {
                    for piece in &pieces {
                        encode(&Event::Delta { choice, index, delta: Delta::Text(piece.clone()) });
                    }
                    if unfinished {
                        return frames;
                    }
                }
                // A cut stream without a piece ends before it says anything.
                Event::Open { block: Opened::Text, .. } if unfinished && pieces.is_empty() => return frames,
                Event::Finish { .. } if unfinished => return frames,
                event => encode(&event),
            }
        }
        let mut out = Vec::new();
        encoder.finish(&mut out);
        frames.push(out.into());
        frames
    }

    /// A body that sends these pieces, as the act wants them timed, and ends as it wants.
    fn in_pieces(&self, frames: Vec<Bytes>) -> Inbound {
        let pieces: Vec<Bytes> = match self.split {
            Some(size) => {
                let whole: Bytes = frames.concat().into();
                (0..whole.len()).step_by(size).map(|at| whole.slice(at..(at + size).min(whole.len()))).collect()
            }
            None => frames,
        };
        let (gap, first) = (millis(&self.act, "gap_ms"), millis(&self.act, "first_ms"));
        let (cut, stall) = (self.act["cut"] == true, self.act["stall"] == true);
        let (sender, body) = body::channel();
        tokio::spawn(async move {
            sleep(first).await;
            for piece in pieces {
                if sender.send(Ok(piece)).is_err() {
                    return;
                }
                sleep(gap).await;
            }
            if cut {
                let _ = sender.send(Err("the test cut the connection".to_owned()));
            }
            if stall {
                sender.closed().await;
            }
        });
        body
    }
}
