//! The built-in mock provider: an upstream that speaks every dialect, says the same words to the same question, and
//! goes wrong on demand. It writes its answers by hand, as the real providers send them.
//!
//! It never uses the crate's own `dialect` module, which it is there to test.
//!
//! # Ways to run it
//!
//! [`serve`] answers on a listener, [`connection`] on any pair of byte streams, so that a connector can dial it
//! without a port:
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use portcullis::mock;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! let options = mock::Options::default(); // clones share one memory
//! let (mut client, server) = tokio::io::duplex(64 * 1024);
//! tokio::spawn(mock::connection(server, options.clone()));
//!
//! client.write_all(b"GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n").await.unwrap();
//! let mut answer = String::new();
//! client.read_to_string(&mut answer).await.unwrap();
//! assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("mock-realistic"));
//! # });
//! ```
//!
//! # What it says
//!
//! Text repeats the last user turn and tells what else was seen. A tool is called when `tool_choice` demands one, or
//! when the user names it (`weather` finds a tool with that word in its name, `tool` means the first, `parallel` makes
//! two calls); once results are there, text quotes them. A JSON format gives an example of its schema. Reasoning is
//! given when asked for; a proof of reasoning that the mock did not make is refused. One token is four bytes, begun
//! ones counted. Requests are checked as the real providers check them.
//!
//! # Models and options
//!
//! Any name works. `mock-fast` answers at once, `mock-realistic` takes 300 ms and then about 50 tokens a second,
//! `mock-reasoning` and `mock-tools` reason and call tools unasked, `mock-fault-NAME` fails. A suffix adds options:
//!
//! ```text
//! model   = name [ ":" option *( "," option ) ]        the suffix counts only if it holds "="
//! option  = key "=" value
//! head    = time       wait before the head of the answer
//! ttft    = time       wait between the head and the first content
//! delay   = time       wait between two pieces of content
//! chunks  = number     pieces that each text is streamed in
//! length  = number     bytes of text ("t" after it: tokens)
//! reasoning, tools     1 or 0: reason, call tools without being asked
//! ids     = 1          Gemini function calls carry an id
//! strict  = 1          unknown fields are refused (also: header x-mock-strict: 1)
//! fault   = name [ "=" value ]                          (also: header x-mock-fault: name[=value][,times=…][,key=…])
//! times   = number     only the first so many requests with the same key fail
//! key     = word       counts `times`; the model's name when absent
//! time    = number [ "us" | "ms" | "s" | "m" ]          milliseconds without a unit
//! ```
//!
//! For example `mock-fast:chunks=64,delay=10ms,ttft=50ms,length=2000` or `mock-fast:fault=429=2,times=1,key=abc`.
//! The faults stand in [`trouble::TROUBLES`].
//!
//! # Looking at it
//!
//! `GET /__mock/last` lists the last requests as they arrived, with the way each ended and when the client left, if it
//! did; `DELETE /__mock/last` clears the list.

mod answer;
mod anthropic;
mod chat;
mod completions;
mod embeddings;
mod endpoint;
mod gemini;
mod journal;
pub mod knobs;
mod models;
mod openai;
mod play;
mod prompt;
mod refusal;
mod reply;
mod rerank;
mod responses;
mod schema;
mod score;
mod signature;
mod state;
#[cfg(test)]
mod tests;
pub mod trouble;
mod wire;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use answer::{Dialect, Turn};
use endpoint::{Endpoint, Verb};
use journal::Outcome;
use knobs::{FAULT_HEADER, Knobs, STRICT_HEADER};
use play::{End, play};
use refusal::Refusal;
use score::Score;
use trouble::Kind;
use wire::{Gone, NoRequest, Request, Wire};

pub use state::State;

/// Connections served at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 4096;

/// How long to rest when accepting fails, which mostly means that there are no file descriptors left.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// How the mock is set up. Clones share one memory, and so one journal.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Options for every model that does not set its own, for example `ttft=50ms,delay=5ms` or `fault=500`.
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    pub knobs: Knobs,
    /// What is remembered between requests.
    #[arg(skip)]
    pub state: Arc<State>,
}

/// Answers on a listener until the future is dropped, which ends every connection too.
pub async fn serve(listener: TcpListener, options: Options) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_REST).await;
            continue;
        };
        let options = options.clone();
        connections.spawn(async move {
            let _ = stream.set_nodelay(true);
            if converse(&mut stream, &options).await == End::Reset {
                let _ = stream.set_zero_linger();
            }
            drop(stream);
            drop(place);
        });
    }
}

/// Answers on one connection until its client or a fault ends it. A reset is a plain end here.
pub async fn connection<I>(mut io: I, options: Options)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    converse(&mut io, &options).await;
}

/// Request after request, until one leaves the connection unusable.
async fn converse<I: AsyncRead + AsyncWrite + Unpin>(io: &mut I, options: &Options) -> End {
    let mut wire = Wire::new(io);
    loop {
        let request = match wire.request().await {
            Ok(request) => request,
            Err(NoRequest::Gone) => return End::Cut,
            Err(NoRequest::Bad(status, phrase)) => {
                let head = format!("HTTP/1.1 {status} {phrase}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = wire.write(head.as_bytes()).await;
                wire.close().await;
                return End::Cut;
            }
        };
        let close = !request.keep_alive;
        match exchange(&mut wire, request, options).await {
            Ok(End::Whole) if !close => {}
            Ok(End::Whole) => {
                wire.close().await;
                return End::Whole;
            }
            Ok(end) => return end,
            Err(Gone) => return End::Cut,
        }
    }
}

/// One request: noted, answered, its end noted.
async fn exchange<I>(wire: &mut Wire<'_, I>, request: Request, options: &Options) -> Result<End, Gone>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let state = &options.state;
    let endpoint = endpoint::find(&request);
    let looks = matches!(endpoint, Endpoint::Journal | Endpoint::JournalClear);
    let number = (!looks).then(|| state.journal.begin(&request));
    let played = prepare(&endpoint, &request, options);
    if let Some(number) = number {
        state.journal.answered(number, played.status, played.fault);
    }
    let end = play(wire, played.steps, played.drip).await;
    if let Some(number) = number {
        let outcome = match end {
            Ok(End::Whole) => Outcome::Complete,
            Ok(End::Cut | End::Reset) => Outcome::Broken,
            Err(Gone) => Outcome::ClientGone,
        };
        state.journal.end(number, outcome, wire.sent);
    }
    end
}

/// An answer ready to be played.
struct Played {
    status: u16,
    steps: Vec<play::Step>,
    drip: Option<Duration>,
    fault: Option<&'static str>,
}

fn prepare(endpoint: &Endpoint, request: &Request, options: &Options) -> Played {
    let dialect = endpoint.dialect(request);
    let request_id = options.state.id("req_01", 22);
    let mut knobs = Knobs::default();
    let answer = decide(endpoint, dialect, request, options, &mut knobs, &request_id).unwrap_or_else(|refusal| {
        // A wrong request is refused in the right way, whatever fault was ordered.
        knobs.trouble = None;
        refusal.answer(dialect, &request_id)
    });
    let trouble = knobs.trouble.as_ref();
    let drip = trouble.filter(|trouble| trouble.kind == Kind::Drip);
    let drip =
        drip.map(|trouble| trouble.value.as_deref().and_then(|value| knobs::wait(value).ok()).unwrap_or_default());
    let score = Score {
        knobs: &knobs,
        trouble,
        dialect,
        state: &options.state,
        request_id: &request_id,
        close: !request.keep_alive,
    };
    let answer = score.replaced(answer);
    let status = answer.status;
    let mut steps = score.compose(answer);
    if request.method == "HEAD" {
        // A head alone; a body would be taken for the next answer.
        let head = steps.iter().position(|step| matches!(step, play::Step::Send(_)));
        steps.truncate(head.map_or(steps.len(), |head| head + 1));
    }
    Played { status, steps, drip, fault: trouble.map(trouble::Trouble::name) }
}

/// Reads the request and decides on the answer. Leaves in `knobs` what holds for playing it.
fn decide(
    endpoint: &Endpoint,
    dialect: Dialect,
    request: &Request,
    options: &Options,
    knobs: &mut Knobs,
    request_id: &str,
) -> answer::Outcome {
    let body = if endpoint.takes_body() { body(dialect, request)? } else { Value::Null };
    let model = match endpoint {
        Endpoint::Gemini { model, .. } => model.clone(),
        _ => match body["model"].as_str() {
            Some(model) if !model.is_empty() => model.to_owned(),
            _ if endpoint.needs_model() => return Err(no_model(dialect)),
            _ => String::new(),
        },
    };
    let misuse = |why: String| Refusal::misuse(dialect, why);
    *knobs = Knobs::of_model(&model).map_err(misuse)?.over(options.knobs.clone());
    if let Some(value) = request.header(FAULT_HEADER) {
        *knobs = Knobs::of_header(value).map_err(misuse)?.over(std::mem::take(knobs));
    }
    if request.header(STRICT_HEADER) == Some("1") {
        knobs.strict = Some(true);
    }
    if let Some(times) = knobs.times
        && !options.state.strikes(knobs.key.as_deref().unwrap_or(&model), times)
    {
        knobs.trouble = None;
    }
    let trouble = knobs.trouble.clone();
    let stream = match endpoint {
        Endpoint::Gemini { verb, .. } => *verb == Verb::Stream,
        _ => body["stream"] == true,
    };
    let wrong = trouble.as_ref().is_some_and(|trouble| trouble.kind == Kind::WrongType);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let turn = Turn { request, body: &body, model, stream: stream != wrong, knobs, state: &options.state, now };
    let answer = endpoint.answer(&turn)?;
    let ordered = trouble.and_then(|trouble| refusal::ordered(&trouble, dialect, &turn.model));
    Ok(ordered.map_or(answer, |refusal| refusal.answer(dialect, request_id)))
}

fn body(dialect: Dialect, request: &Request) -> Result<Value, Refusal> {
    match serde_json::from_slice::<Value>(&request.body) {
        Ok(body) if body.is_object() => Ok(body),
        Ok(_) => Err(Refusal::misuse(dialect, "The JSON body of the request is not an object.")),
        Err(error) => Err(Refusal::misuse(
            dialect,
            match dialect {
                Dialect::OpenAi | Dialect::Responses => {
                    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your \
                     HTTP library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid \
                     JSON.)"
                        .to_owned()
                }
                Dialect::Anthropic => format!("The request body is not valid JSON: {error}"),
                Dialect::Gemini => format!("Invalid JSON payload received. {error}"),
            },
        )),
    }
}

fn no_model(dialect: Dialect) -> Refusal {
    match dialect {
        Dialect::Responses => openai::missing("model"),
        Dialect::Anthropic => Refusal::anthropic("model: Field required"),
        _ => Refusal::openai("you must provide a model parameter", None, None),
    }
}
