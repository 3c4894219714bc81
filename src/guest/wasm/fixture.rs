//! Fixtures of an adapter: files that say what it must make of what.
//!
//! Asks and answers are written as OpenAI chat bodies, which every author knows; the provider's side is written as the
//! provider writes it. Runs the adapter as the gateway would, with no network, and refuses what the gateway does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};

use super::provider::{REFUSES, Taught, nobody};
use crate::body::Inbound;
use crate::chat::event::Collector;
use crate::chat::{Answer, Ask};
use crate::dialect::adapter::{Adapter, Asking, Came, Read, Written, below_base, embeds, ranks, sound};
use crate::dialect::openai_chat::OpenAiChat;
use crate::dialect::{self, Dialect, Op, RawAsk, refusal};
use crate::embed::EmbedAsk;
use crate::fault::{Fault, Kind};
use crate::guest::near;
use crate::host::log;
use crate::rerank::{RerankAnswer, RerankAsk};
use crate::stream::Adapted;

/// Cuts tried of one stream: every place of short ones, evenly spread over long ones.
const MAX_CUTS: usize = 4096;

/// The kinds of fixtures, each with a folder of its name.
const KINDS: &[&str] = &["ask", "answer", "stream", "error", "embed", "rerank", "init"];

/// What came of one fixture.
#[derive(Debug)]
pub struct Outcome {
    /// `stream/tools.txt`
    pub file: String,
    /// None: as expected.
    pub wrong: Option<String>,
    /// What the adapter wrote into the log, the first lines of it.
    pub said: Vec<String>,
}

/// Runs every fixture in a folder, in order. With `bless`, expectations are written instead of compared.
///
/// # Errors
/// The folder cannot be read, or holds one that is of no kind.
pub async fn run(plugin: &Arc<Taught>, folder: &Path, bless: bool) -> Result<Vec<Outcome>, String> {
    known(folder)?;
    let mut outcomes = Vec::new();
    for kind in KINDS.iter().copied() {
        for path in files(&folder.join(kind))? {
            let file = format!("{kind}/{}", path.file_name().unwrap_or_default().to_string_lossy());
            log::listen();
            let ran = match kind {
                "ask" => ask(plugin, &path, bless).await,
                "answer" => answer(plugin, &path, bless).await,
                "stream" => stream(plugin, &path, bless).await,
                "embed" => embed(plugin, &path, bless).await,
                "rerank" => rerank(plugin, &path, bless).await,
                "init" => init(plugin, &path, bless).await,
                _ => error(plugin, &path, bless).await,
            };
            outcomes.push(Outcome { file, wrong: ran.err(), said: log::heard() });
        }
    }
    Ok(outcomes)
}

/// Whether every folder in it is of a kind: what lies in another would not be run, and nobody would know.
fn known(folder: &Path) -> Result<(), String> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !name.starts_with('.') && !KINDS.contains(&name.as_str()) {
            let hint = match near(&name, KINDS) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("there are {}", KINDS.join(", ")),
            };
            return Err(format!("{}: no fixtures are of the kind `{name}`; {hint}", folder.display()));
        }
    }
    Ok(())
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
    let request = request(plugin, &asked.model, Asking::Chat(&asked)).await;
    if bless {
        fixture["request"] = request;
        return write_json(path, &fixture);
    }
    same(&fixture["request"], &request)
}

/// What the adapter makes of an ask, as it would be sent.
async fn request(plugin: &Arc<Taught>, model: &str, asking: Asking<'_>) -> Value {
    match plugin.encode(&nobody(), model, asking).await.and_then(|written| sendable(&written).map(|()| told(&written)))
    {
        Ok(request) => request,
        Err(fault) if fault.kind == Kind::GuestFailed => broken(&fault),
        Err(fault) => json!({ "refused": fault.message, "param": fault.param }),
    }
}

/// Whether the gateway would send a request.
fn sendable(written: &Written) -> Result<(), Fault> {
    below_base(&written.path).map_err(|what| Fault::new(Kind::GuestFailed, format!("The adapter's path {what}.")))
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
    let read = read_as(Asked::Chat, plugin, came).await;
    expect(path, &read, bless)
}

/// What an answer is read for.
#[derive(Clone, Copy)]
enum Asked<'a> {
    Chat,
    Embed(&'a EmbedAsk),
    Rerank(&'a RerankAsk),
}

/// What the adapter reads in an answer, as far as the gateway takes it.
async fn read_as(asked: Asked<'_>, plugin: &Arc<Taught>, came: Came<'_>) -> Value {
    let op = match asked {
        Asked::Chat => Op::Generate,
        Asked::Embed(_) => Op::Embed,
        Asked::Rerank(_) => Op::Rerank,
    };
    let nonsense = |what: String| Fault::new(Kind::GuestFailed, format!("The adapter `{}` {what}.", plugin.name()));
    let read = match (plugin.decode(&nobody(), op, came).await, asked) {
        (Ok(Read::Chat(mut answer)), Asked::Chat) => sound(&mut answer).map(|()| shown(&answer)),
        (Ok(Read::Embed(answer)), Asked::Embed(ask)) => {
            embeds(&answer, ask).map(|()| json!(answer.vectors)).map_err(nonsense)
        }
        (Ok(Read::Rerank(mut answer)), Asked::Rerank(ask)) => {
            let places = |answer: RerankAnswer| answer.ranked.iter().map(|at| json!([at.index, at.score])).collect();
            ranks(&mut answer, ask).map(|()| places(answer)).map_err(nonsense)
        }
        (Ok(Read::FollowUp(written, wait)), _) => follow_up(&written, wait),
        (Ok(_), _) => Err(nonsense("answered another question than it was asked".to_owned())),
        (Err(fault), _) => Err(fault),
    };
    read.unwrap_or_else(|fault| broken(&fault))
}

/// Another request that an answer leads to.
fn follow_up(written: &Written, wait: Duration) -> Result<Value, Fault> {
    sendable(written)?;
    Ok(json!({ "follow_up": told(written), "wait_ms": wait.as_millis() as u64 }))
}

/// A fault as fixtures show it. Why a guest failed is for its author.
fn broken(fault: &Fault) -> Value {
    let message = if fault.kind == Kind::GuestFailed { fault.to_string() } else { fault.message.clone() };
    json!({ "fault": fault.code(), "message": message })
}

/// `{ "ask": …, "request": …, "body": …, "ranked": … }`: an ask for a ranking, the request that it becomes, the provider's
/// answer, and the places in it: index and score of each.
async fn rerank(plugin: &Arc<Taught>, path: &Path, bless: bool) -> Result<(), String> {
    let ask = asked_in(path, Op::Rerank, |raw| OpenAiChat.decode_rerank(raw))?;
    there_and_back(plugin, path, (&ask.model, Asking::Rerank(&ask), Asked::Rerank(&ask)), "ranked", bless).await
}

/// `{ "ask": …, "request": …, "body": …, "vectors": … }`: an ask for embeddings, the request that it becomes, the
/// provider's answer, and the vectors in it.
async fn embed(plugin: &Arc<Taught>, path: &Path, bless: bool) -> Result<(), String> {
    let ask = asked_in(path, Op::Embed, |raw| OpenAiChat.decode_embed(raw))?;
    there_and_back(plugin, path, (&ask.model, Asking::Embed(&ask), Asked::Embed(&ask)), "vectors", bless).await
}

/// The ask of a fixture that is no conversation.
fn asked_in<A>(path: &Path, op: Op, decode: impl FnOnce(&RawAsk<'_>) -> Result<A, Fault>) -> Result<A, String> {
    let body = read_json(path)?["ask"].to_string();
    decode(&RawAsk { op, body: body.as_bytes(), model: None, stream: false }).map_err(|fault| fault.to_string())
}

/// The request that an ask becomes, and what is read in the provider's answer, which stands under `what`.
async fn there_and_back(
    plugin: &Arc<Taught>,
    path: &Path,
    (model, asking, asked): (&str, Asking<'_>, Asked<'_>),
    what: &str,
    bless: bool,
) -> Result<(), String> {
    let mut fixture = read_json(path)?;
    let request = request(plugin, model, asking).await;
    let (headers, body) = (HeaderMap::new(), Bytes::from(fixture["body"].to_string()));
    let read = read_as(asked, plugin, Came { status: 200, headers: &headers, body: &body }).await;
    if bless {
        (fixture["request"], fixture[what]) = (request, read);
        return write_json(path, &fixture);
    }
    same(&fixture["request"], &request).and_then(|()| same(&fixture[what], &read))
}

/// `{ "config": …, "refused": … }`: settings, and in which words the adapter refuses them; without, it must take them.
async fn init(plugin: &Arc<Taught>, path: &Path, bless: bool) -> Result<(), String> {
    let mut fixture = read_json(path)?;
    let config = if fixture["config"].is_null() { String::new() } else { fixture["config"].to_string() };
    let refused = match plugin.try_config(&config).await {
        Ok(()) => Value::Null,
        Err(why) => why.strip_prefix(REFUSES).map(str::to_owned).unwrap_or(why).into(),
    };
    if bless {
        fixture["refused"] = refused;
        return write_json(path, &fixture);
    }
    same(&fixture["refused"], &refused)
}

/// An answer as fixtures show it: OpenAI's form.
fn shown(answer: &Answer) -> Value {
    let (ask, model) = (Arc::new(Ask::default()), answer.model.clone());
    let asked = dialect::Asked { op: Op::Generate, ask, model, id: "gen-fixture".into(), now: 0 };
    serde_json::from_slice(&OpenAiChat.encode_answer(answer, &asked)).unwrap_or_default()
}

/// The provider's bytes, and what they become however they are cut.
async fn stream(plugin: &Arc<Taught>, path: &Path, bless: bool) -> Result<(), String> {
    let bytes = read(path)?;
    let whole = collected(plugin, &bytes, 0).await?;
    // However often it is cut, what it says of it is shown once.
    log::pause();
    let step = bytes.len().div_ceil(MAX_CUTS).max(1);
    for cut in (1..bytes.len()).step_by(step) {
        let again = collected(plugin, &bytes, cut).await?;
        same(&whole, &again).map_err(|wrong| format!("cut at byte {cut} it becomes something else: {wrong}"))?;
    }
    expect(path, &whole, bless)
}

async fn collected(plugin: &Arc<Taught>, bytes: &[u8], cut: usize) -> Result<Value, String> {
    let decoder = plugin.decoder(&nobody()).await.map_err(|fault| fault.to_string())?;
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
    let said = plugin.decode_error(&nobody(), Came { status, headers: &headers, body: &body }).await;
    if let Some(broke) = said.unread {
        return Err(broke);
    }
    let fault = refusal::fault(refusal::read(said, status), None);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::adapter::{Draft, written};

    #[test]
    fn a_follow_up_leads_where_the_gateway_would_go() {
        let next = |path: &str| {
            let draft = Draft { method: "GET".to_owned(), path: path.to_owned(), ..Draft::default() };
            follow_up(&written(draft).expect("can be sent"), Duration::from_millis(500))
        };
        assert_eq!(next("/a/x").expect("goes there")["wait_ms"], 500);
        let fault = next("/a/../x").expect_err("leads out");
        assert_eq!(fault.kind, Kind::GuestFailed);
        assert_eq!(fault.message, "The adapter's path `/a/../x` does not stay below the base URL.");
    }
}
