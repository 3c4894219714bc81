//! What calls of a guest cost, measured as the gateway makes them: for authors, on their own machine.
//!
//! Whatever the language. Sockets, dialects and the rest of an exchange are not in the figures; nobody outside is asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::Instant;

use super::{hint, say};
use crate::chat::{Ask, Block, Message, Role};
use crate::dialect::Op;
use crate::dialect::adapter::{Adapter, Asking, Came, Desk, StreamDecoder};
use crate::embed::{EmbedAsk, EmbedInput};
use crate::fault::{Fault, Kind};
use crate::generation::Builder;
use crate::guest::Subject;
use crate::guest::settings::Wrong;
use crate::guest::stand::Stand;
use crate::host::{Budget, Phase, Visit};
use crate::route::Target;

/// How long each figure is measured for.
const SPAN: Duration = Duration::from_millis(500);

/// Time and memory are what is measured: they end nothing that ends at all.
pub(super) const BUDGET: Budget = Budget {
    cpu: Duration::from_secs(5),
    total: Duration::from_secs(3600),
    wait: Duration::from_secs(3600),
    memory: 512 << 20,
    safepoints: 10_000_000,
    host_calls: 1_000_000,
    output: 64 << 20,
};

/// The phases that a policy can be shown without an exchange under way.
const PHASES: [Phase; 6] = [Phase::Auth, Phase::Request, Phase::Route, Phase::Event, Phase::Done, Phase::Tick];

pub(super) fn line(what: &str, took: Duration) {
    say(&format!("{what:<30} {took:>10.2?}"));
}

/// What does not fit of settings that were given with `--config`, or not at all.
pub(super) fn unfit(wrong: Vec<Wrong>) -> String {
    let lines: Vec<String> = wrong.into_iter().map(|(_, error)| error).collect();
    format!("{}; settings are given as JSON with --config", lines.join("\n"))
}

/// Calls again and again, and says how long one takes. Of one that fails in earnest it says why: the others may do.
async fn each(what: &str, call: impl AsyncFnMut() -> Result<(), String>) {
    match timed(call).await {
        Ok(took) => line(what, took),
        Err(why) => hint(&format!("{what}: {why}")),
    }
}

async fn timed(mut call: impl AsyncFnMut() -> Result<(), String>) -> Result<Duration, String> {
    // The first call of a guest may set it up.
    call().await?;
    let (mut calls, began) = (0u32, Instant::now());
    while began.elapsed() < SPAN {
        call().await?;
        calls += 1;
    }
    Ok(began.elapsed() / calls)
}

/// What the adapter makes of it does not matter here; that it broke does.
fn broke(fault: &Fault) -> Result<(), String> {
    match fault.kind {
        Kind::GuestFailed => Err(format!("{fault} {}", fault.source.as_deref().unwrap_or_default())),
        _ => Ok(()),
    }
}

/// Ends a stream in which nothing came.
async fn ended(decoder: Box<dyn StreamDecoder>) -> Result<(), Fault> {
    let desk = Desk::default();
    desk.put(None);
    decoder.run(desk.clone()).await;
    desk.take(&mut Vec::new()).unwrap_or(Ok(()))
}

/// Measures an adapter's functions.
pub(super) fn adapter(adapter: &impl Adapter) -> Result<(), String> {
    let (ask, nothing, body) = (ask(), HeaderMap::new(), Bytes::from_static(b"{}"));
    let visit = Arc::new(Visit::nobody(0));
    let embed = EmbedAsk { inputs: vec![EmbedInput::Text("words and words".to_owned())], ..EmbedAsk::default() };
    wait(async {
        let came = |status| Came { status, headers: &nothing, body: &body };
        if adapter.serves(Op::Generate) {
            each("encode, 1 KiB in 4 turns", async || {
                adapter.encode(&visit, "model", Asking::Chat(&ask)).await.map_or_else(|fault| broke(&fault), |_| Ok(()))
            })
            .await;
            each("decode, an empty object", async || {
                adapter.decode(&visit, Op::Generate, came(200)).await.map_or_else(|fault| broke(&fault), |_| Ok(()))
            })
            .await;
            each("begin and end a stream", async || match adapter.decoder(&visit).await {
                Ok(decoder) => ended(decoder).await.or_else(|fault| broke(&fault)),
                Err(fault) => broke(&fault),
            })
            .await;
        }
        if adapter.serves(Op::Embed) {
            each("encode, one text to embed", async || {
                adapter
                    .encode(&visit, "model", Asking::Embed(&embed))
                    .await
                    .map_or_else(|fault| broke(&fault), |_| Ok(()))
            })
            .await;
        }
        each("decode an error", async || {
            adapter.decode_error(&visit, came(500)).await;
            Ok(())
        })
        .await;
    })
}

/// What stands behind the model that is asked for: a plan of usual length, with prices and abilities from the catalogue.
const CANDIDATES: [&str; 3] = ["openai/gpt-5-mini", "anthropic/claude-haiku-4-5", "gemini/gemini-2.5-flash"];

/// The candidates, as a gateway with keys for their providers has them. The keys are none: nobody is asked.
fn candidates() -> Result<Vec<Arc<Target>>, String> {
    let key = |name: &str| {
        let needed = ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"];
        needed.contains(&name).then(|| "none".to_owned())
    };
    let generation = Builder::new(None, Box::new(key)).build(1)?;
    let targets = CANDIDATES.iter().map(|name| generation.targets(name).map_err(|fault| fault.message));
    Ok(targets.collect::<Result<Vec<_>, _>>()?.concat())
}

/// Measures a policy in those of its phases that need no exchange under way.
pub(super) fn policy(mut stand: Stand) -> Result<(), String> {
    stand.offer(candidates()?);
    let has = stand.engine.phases();
    wait(async {
        for phase in PHASES.into_iter().filter(|phase| has.has(*phase)) {
            let stand = &mut stand;
            each(&format!("on_{}", phase.name()), async || {
                stand.renew();
                let subject = match phase {
                    Phase::Auth => stand.head(),
                    Phase::Tick => Subject::Tick,
                    Phase::Event => stand.event("some words of an answer"),
                    Phase::Done => stand.done(),
                    Phase::Route => stand.planned(),
                    _ => stand.request(),
                };
                let (verdict, _) = stand.engine.call(stand.cx(phase), subject).await;
                verdict.map(drop).map_err(|failed| failed.message)
            })
            .await;
        }
        for phase in Phase::ALL.into_iter().filter(|phase| has.has(*phase) && !PHASES.contains(phase)) {
            if phase != Phase::Init {
                hint(&format!("on_{} is not measured: it needs an exchange under way", phase.name()));
            }
        }
    })
}

/// A runtime for the guest's calls.
fn wait<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    Ok(runtime.map_err(|error| format!("no runtime: {error}"))?.block_on(work))
}

fn ask() -> Ask {
    let turn = |role| Message::new(role, vec![Block::text("words and words ".repeat(16))]);
    Ask {
        messages: [Role::User, Role::Assistant, Role::User, Role::Assistant].map(turn).into(),
        source: "openai_chat",
        ..Ask::default()
    }
}
