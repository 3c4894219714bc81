//! Fixtures of an adapter: files that say what it must make of what.
//!
//! Asks and answers are written as OpenAI chat bodies, which every author knows; the provider's side is written as the
//! provider writes it. Runs the adapter as the gateway would, with no network.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};

use super::provider::Taught;
use crate::body::Inbound;
use crate::chat::event::Collector;
use crate::chat::{Answer, Ask};
use crate::dialect::adapter::{Adapter, Asking, Came, Read, Written};
use crate::dialect::openai_chat::OpenAiChat;
use crate::dialect::{Asked, Dialect, Op, RawAsk, refusal};
use crate::fault::{Fault, Kind};
use crate::stream::Adapted;

/// Cuts tried of one stream: every place of short ones, evenly spread over long ones.
const MAX_CUTS: usize = 4096;

/// What came of one fixture.
#[derive(Debug)]
pub struct Outcome {
    /// `stream/tools.txt`
    pub file: String,
    /// None: as expected.
    pub wrong: Option<String>,
}

/// Runs every fixture in a folder, in order. With `bless`, expectations are written instead of compared.
///
/// # Errors
/// The folder cannot be read.
pub async fn run(plugin: &Arc<Taught>, folder: &Path, bless: bool) -> Result<Vec<Outcome>, String> {
    let mut outcomes = Vec::new();
    for kind in ["ask", "answer", "stream", "error", "rerank"] {
        for path in files(&folder.join(kind))? {
            let file = format!("{kind}/{}", path.file_name().unwrap_or_default().to_string_lossy());
            let ran = match kind {
                "ask" => ask(plugin, &path, bless).await,
                "answer" => answer(plugin, &path, bless).await,
                "stream" => stream(plugin, &path, bless).await,
                "rerank" => rerank(plugin, &path, bless).await,
                _ => error(plugin, &path, bless).await,
            };
            outcomes.push(Outcome { file, wrong: ran.err() });
        }
    }
    Ok(outcomes)
}

/// The fixtures of a kind; what is expected of them lies beside them.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
        if path.is_file() && !path.to_string_lossy().ends_with(".expected.json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// `{ "ask": …, "request": … }`: an OpenAI chat body and the request that it becomes.
async fn ask(plugin: &Arc<Taught>, path: &Path, bless: bool) -> Result<(), String> {
    let mut fixture = read_json(path)?;
    let asked = decode_ask(&fixture["ask"]).map_err(|fault| fault.to_string())?;
    let request = match plugin.encode(&asked.model, Asking::Chat(&asked)).await {
        Ok(written) => told(&written),
        Err(fault) if fault.kind == Kind::GuestFailed => broken(&fault),
        Err(fault) => json!({ "refused": fault.message, "param": fault.param }),
    };
    if bless {
        fixture["request"] = request;
        return write_json(path, &fixture);
    }
    same(&fixture["request"], &request)
}

fn decode_ask(body: &Value) -> Result<Ask, Fault> {
    let body = body.to_string();
    OpenAiChat.decode_ask(&RawAsk { op: Op::Generate, body: body.as_bytes(), model: None, stream: false })
}

/// A request as fixtures show it.
pub fn told(written: &Written) -> Value {
    let text = String::from_utf8_lossy(&written.body);
    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or_else(|_| text.into()) };
    let headers: serde_json::Map<String, Value> = written
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    let mut request = json!({
        "method": written.method.as_str(), "path": written.path, "body": body, "streamed": written.streamed,
    });
    if !headers.is_empty() {
        request["headers"] = headers.into();
    }
    if !written.dropped.is_empty() {
        request["dropped"] = written.dropped.iter().map(|(field, why)| json!([field, why])).collect();
    }
    request
}

/// The provider's body, and what it becomes.
async fn answer(plugin: &Arc<Taught>, path: &Path, bless: bool) -> Result<(), String> {
    let body = Bytes::from(read(path)?);
    let headers = HeaderMap::new();
    let came = Came { status: 200, headers: &headers, body: &body };
    let read = read_as(Op::Generate, plugin, came).await;
    expect(path, &read, bless)
}

/// What the adapter reads in an answer to this operation.
async fn read_as(op: Op, plugin: &Arc<Taught>, came: Came<'_>) -> Value {
    match plugin.decode(op, came).await {
        Ok(Read::Chat(answer)) => shown(&answer),
        Ok(Read::Embed(answer)) => json!({ "vectors": answer.vectors }),
        Ok(Read::Rerank(answer)) => answer.ranked.iter().map(|place| json!([place.index, place.score])).collect(),
        Ok(Read::FollowUp(written, wait)) => json!({ "follow_up": told(&written), "wait_ms": wait.as_millis() as u64 }),
        Err(fault) => broken(&fault),
    }
}

/// A fault as fixtures show it. Why a guest failed is for its author.
fn broken(fault: &Fault) -> Value {
    let message = if fault.kind == Kind::GuestFailed { fault.to_string() } else { fault.message.clone() };
    json!({ "fault": fault.code(), "message": message })
}

/// `{ "ask": …, "request": …, "body": …, "ranked": … }`: an ask for a ranking, the request that it becomes, the provider's
/// answer, and the places in it: index and score of each.
async fn rerank(plugin: &Arc<Taught>, path: &Path, bless: bool) -> Result<(), String> {
    let mut fixture = read_json(path)?;
    let body = fixture["ask"].to_string();
    let raw = RawAsk { op: Op::Rerank, body: body.as_bytes(), model: None, stream: false };
    let asked = OpenAiChat.decode_rerank(&raw).map_err(|fault| fault.to_string())?;
    let request = match plugin.encode(&asked.model, Asking::Rerank(&asked)).await {
        Ok(written) => told(&written),
        Err(fault) if fault.kind == Kind::GuestFailed => broken(&fault),
        Err(fault) => json!({ "refused": fault.message, "param": fault.param }),
    };
    let (headers, body) = (HeaderMap::new(), Bytes::from(fixture["body"].to_string()));
    let ranked = read_as(Op::Rerank, plugin, Came { status: 200, headers: &headers, body: &body }).await;
    if bless {
        (fixture["request"], fixture["ranked"]) = (request, ranked);
        return write_json(path, &fixture);
    }
    same(&fixture["request"], &request).and_then(|()| same(&fixture["ranked"], &ranked))
}

/// An answer as fixtures show it: OpenAI's form.
fn shown(answer: &Answer) -> Value {
    let (ask, model) = (Arc::new(Ask::default()), answer.model.clone());
    let asked = Asked { op: Op::Generate, ask, model, id: "gen-fixture".into(), now: 0 };
    serde_json::from_slice(&OpenAiChat.encode_answer(answer, &asked)).unwrap_or_default()
}

/// The provider's bytes, and what they become however they are cut.
async fn stream(plugin: &Arc<Taught>, path: &Path, bless: bool) -> Result<(), String> {
    let bytes = read(path)?;
    let whole = collected(plugin, &bytes, 0).await?;
    let step = bytes.len().div_ceil(MAX_CUTS).max(1);
    for cut in (1..bytes.len()).step_by(step) {
        let again = collected(plugin, &bytes, cut).await?;
        same(&whole, &again).map_err(|wrong| format!("cut at byte {cut} it becomes something else: {wrong}"))?;
    }
    expect(path, &whole, bless)
}

async fn collected(plugin: &Arc<Taught>, bytes: &[u8], cut: usize) -> Result<Value, String> {
    let decoder = plugin.decoder().await.map_err(|fault| fault.to_string())?;
    let (first, second) = bytes.split_at(cut);
    let pieces = [first, second].into_iter().filter(|piece| !piece.is_empty()).map(Bytes::copy_from_slice);
    let mut collector = Collector::default();
    let ended = match Adapted::new(Inbound::pieces(pieces), decoder).all().await {
        Ok(events) => events.into_iter().try_for_each(|event| collector.event(event)),
        Err(fault) => Err(fault),
    };
    Ok(match ended {
        Ok(()) => shown(&collector.finish()),
        Err(fault) => broken(&fault),
    })
}

/// `{ "status": …, "body": …, "expected": { "code": …, "message": … } }`
async fn error(plugin: &Arc<Taught>, path: &Path, bless: bool) -> Result<(), String> {
    let mut fixture = read_json(path)?;
    let status = fixture["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(500);
    let body = match &fixture["body"] {
        Value::String(text) => Bytes::from(text.clone()),
        other => Bytes::from(other.to_string()),
    };
    let headers = HeaderMap::new();
    let mut said = plugin.decode_error(Came { status, headers: &headers, body: &body }).await;
    said.status = status;
    let wait = said.retry_after;
    let fault = refusal::fault(said, wait);
    let mut read = json!({ "code": fault.code(), "message": fault.message });
    if let Some(wait) = fault.retry_after {
        read["retry_after_ms"] = (wait.as_millis() as u64).into();
    }
    if bless {
        fixture["expected"] = read;
        return write_json(path, &fixture);
    }
    same(&fixture["expected"], &read)
}

fn expect(path: &Path, read: &Value, bless: bool) -> Result<(), String> {
    let beside = path.with_extension("expected.json");
    if bless {
        return write_json(&beside, read);
    }
    same(&read_json(&beside)?, read)
}

fn same(wanted: &Value, got: &Value) -> Result<(), String> {
    if wanted == got {
        return Ok(());
    }
    Err(format!("expected\n{wanted:#}\nand got\n{got:#}"))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}; run with --bless to write it", path.display()))
}

fn read_json(path: &Path) -> Result<Value, String> {
    serde_json::from_slice(&read(path)?).map_err(|error| format!("{}: {error}", path.display()))
}

fn write_json(path: &Path, value: &Value) -> Result<(), String> {
    fs::write(path, format!("{value:#}\n")).map_err(|error| format!("{}: {error}", path.display()))
}
