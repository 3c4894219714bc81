//! The attempt loop over a scripted upstream and a paused clock. The bed that all of them stand on, and
//! what tries, keys and places do.

mod beside;
mod onward;
mod seeds;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{RelayCall, relay, run};
use crate::body::{Inbound, Outgoing};
use crate::exchange::{Exchange, Outcome, Role};
use crate::fault::{Fault, Kind};
use crate::generation::Builder;
use crate::pipeline::{self, Call, Cx};
use crate::reply::{Content, Reply};
use crate::route::{Auth, Key, Plan, Provider, Retry, Rules, Target, Timeouts};
use crate::settle::Settle;
use crate::state::State;
use crate::state::health::{Breaker, Settings};
use crate::state::log::Log;
use crate::upstream::{Dial, Outbound, Sending, Upstream};

pub(super) const MS: fn(u64) -> Duration = Duration::from_millis;

/// What a scripted upstream does with one request.
#[derive(Clone)]
pub(super) enum Act {
    /// Answers with status, headers and body.
    Say(u16, Vec<(&'static str, &'static str)>, String),
    /// The same after a while.
    Late(Duration, Box<Act>),
    /// A good head, and then nothing.
    Stalls,
    /// The connection fails.
    Dead,
}

pub(super) fn good(text: &str) -> Act {
    let body = json!({
        "id": "c", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    });
    Act::Say(200, vec![("content-type", "application/json")], body.to_string())
}

pub(super) fn status(status: u16) -> Act {
    Act::Say(status, vec![], json!({"error": {"message": "no"}}).to_string())
}

pub(super) fn refused(status: u16, code: &str) -> Act {
    Act::Say(status, vec![], json!({"error": {"message": "no", "code": code}}).to_string())
}

pub(super) fn limited(header: &'static str, value: &'static str) -> Act {
    Act::Say(429, vec![(header, value)], json!({"error": {"message": "slow"}}).to_string())
}

pub(super) fn late(by: Duration, act: Act) -> Act {
    Act::Late(by, Box::new(act))
}

/// One request as the script saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub host: String,
    pub at: Duration,
    pub key: Option<String>,
    pub body: String,
}

/// The sender of a body, kept so that the body does not end.
type Silent = tokio::sync::mpsc::UnboundedSender<Result<Bytes, String>>;

/// Plays its acts in order, for each host; past the last one it answers well.
pub(super) struct Script {
    acts: Mutex<HashMap<&'static str, VecDeque<Act>>>,
    seen: Mutex<Vec<Seen>>,
    /// Requests that were dropped before their answer was there.
    dropped: Arc<Mutex<u32>>,
    /// Bodies that nobody goes on with.
    stalled: Arc<Mutex<Vec<Silent>>>,
    began: Instant,
}

impl Script {
    pub fn of(acts: &[(&'static str, Vec<Act>)]) -> Arc<Self> {
        Arc::new(Script {
            acts: Mutex::new(acts.iter().map(|(host, acts)| (*host, acts.iter().cloned().collect())).collect()),
            seen: Mutex::default(),
            dropped: Arc::default(),
            stalled: Arc::default(),
            began: Instant::now(),
        })
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("whole").clone()
    }

    pub fn hosts(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.host).collect()
    }

    pub fn at(&self) -> Vec<Duration> {
        self.seen().into_iter().map(|seen| seen.at).collect()
    }

    pub fn dropped(&self) -> u32 {
        *self.dropped.lock().expect("whole")
    }
}

/// Counts a request that is dropped while it waits.
struct Waits(Arc<Mutex<u32>>, bool);

impl Drop for Waits {
    fn drop(&mut self) {
        if !self.1 {
            *self.0.lock().expect("whole") += 1;
        }
    }
}

/// A request's body, which is at hand as a whole.
fn text(mut body: Outgoing) -> String {
    let mut text = Vec::new();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    while let std::task::Poll::Ready(Some(Ok(frame))) = std::pin::Pin::new(&mut body).poll_frame(&mut cx) {
        text.extend_from_slice(&frame.into_data().expect("data"));
    }
    String::from_utf8(text).expect("UTF-8")
}

impl Upstream for Script {
    fn send(&self, _: &Arc<Dial>, request: Box<Outbound>, head_timeout: Duration) -> Sending<'_> {
        let host = request.uri.host().unwrap_or_default().to_owned();
        let key = request.headers.get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = text(request.body);
        self.seen.lock().expect("whole").push(Seen { host: host.clone(), at: self.began.elapsed(), key, body });
        let next = self.acts.lock().expect("whole").get_mut(host.as_str()).and_then(VecDeque::pop_front);
        let mut act = next.unwrap_or_else(|| good(&format!("from {host}")));
        let (waits, stalled) = (Waits(self.dropped.clone(), false), self.stalled.clone());
        Box::pin(async move {
            // The whole of it, so that dropping the future drops it.
            let mut waits = waits;
            if let Act::Late(by, then) = act {
                sleep(by.min(head_timeout)).await;
                if by >= head_timeout {
                    waits.1 = true;
                    return Err(Fault::new(Kind::HeadTimeout, "late"));
                }
                act = *then;
            }
            waits.1 = true;
            if matches!(act, Act::Stalls) {
                let (sender, body) = crate::body::channel();
                stalled.lock().expect("whole").push(sender);
                let response = Response::builder().header("content-type", "text/event-stream").body(body);
                return Ok(response.expect("a response"));
            }
            let Act::Say(status, headers, body) = act else {
                return Err(Fault::new(Kind::UpstreamUnreachable, "dead"));
            };
            let mut response = Response::new(Inbound::Ready(Some(Bytes::from(body))));
            *response.status_mut() = status.try_into().expect("a status");
            for (name, value) in headers {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            Ok(response)
        })
    }
}

/// A gateway around a script.
pub(super) struct Bed {
    pub cx: Cx,
    pub script: Arc<Script>,
}

impl Bed {
    pub fn new(acts: &[(&'static str, Vec<Act>)]) -> Self {
        let yaml = "
providers:
  a: { dialect: openai_chat, base_url: http://a/v1, auth: none }
  b: { dialect: openai_chat, base_url: http://b/v1, auth: none }
  c: { dialect: openai_chat, base_url: http://c/v1, auth: none }
  prefilling: { dialect: openai_chat, base_url: http://prefilling/v1, auth: none, quirks: { prefill: prefix } }
";
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("portcullis-attempt-{}-{number}.yaml", std::process::id()));
        std::fs::write(&path, yaml).expect("is writable");
        let generation = Builder::new(Some(path.clone()), Box::new(|_| None)).build(1).expect("builds");
        std::fs::remove_file(&path).expect("is there");
        let script = Script::of(acts);
        let cx = Cx {
            generation: Arc::new(generation),
            state: Arc::new(State::new(0, Log::off())),
            upstream: script.clone(),
            peer: None,
        };
        Bed { cx, script }
    }

    pub fn target(&self, provider: &str) -> Arc<Target> {
        self.cx.generation.target(provider, "m").expect("a provider")
    }

    pub fn plan(&self, providers: &[&str], retry: Retry) -> Plan {
        let targets = providers.iter().map(|provider| self.target(provider)).collect();
        Plan { targets, rules: Arc::new(Rules { retry, ..Rules::default() }), ..Plan::default() }
    }

    pub async fn ask(&self, plan: &Plan) -> (Result<Reply, Fault>, Exchange) {
        self.asked(plan, json!({"model": "any", "messages": [{"role": "user", "content": "Hi"}]})).await
    }

    pub async fn asked(&self, plan: &Plan, body: serde_json::Value) -> (Result<Reply, Fault>, Exchange) {
        let (mut x, call) = self.exchange(body);
        let outcome = run(&self.cx, &mut x, &call, plan).await;
        (outcome, x)
    }

    pub fn exchange(&self, body: serde_json::Value) -> (Exchange, Arc<Call>) {
        self.exchange_at("/v1/chat/completions", body)
    }

    pub fn exchange_at(&self, path: &str, body: serde_json::Value) -> (Exchange, Arc<Call>) {
        let request = Request::post(path).body(()).expect("a request");
        let (head, ()) = request.into_parts();
        let Ok(matched) = crate::api::find(&head) else { panic!("no path") };
        let mut x = pipeline::begin(&self.cx, &head, &matched, None);
        let call = crate::api::ask::read(&mut x, Bytes::from(body.to_string()), head, &matched).expect("an ask");
        (x, Arc::new(call))
    }
}

/// The provider as it is but with a pool of keys, each with its weight and whether it is of last resort.
pub(super) fn pooled(target: &Target, keys: &[(&str, u32, bool)]) -> Arc<Target> {
    let provider = &target.provider;
    let face = &provider.faces[0];
    let keys = keys.iter().map(|(alias, weight, last_resort)| Key {
        alias: Arc::from(*alias),
        weight: *weight,
        order: 0,
        last_resort: *last_resort,
        auth: vec![Auth::Header("authorization".parse().expect("a name"), alias.parse().expect("a value"))],
        record: OnceLock::new(),
    });
    let pooled = Provider {
        name: provider.name.clone(),
        otel: provider.otel.clone(),
        preset: provider.preset,
        faces: vec![crate::route::Face {
            adapter: None,
            dialect: face.dialect,
            base_url: face.base_url.clone(),
            dial: face.dial.clone(),
            query: None,
            auth: Auth::None,
            quirks: face.quirks,
        }],
        headers: provider.headers.clone(),
        overrides: provider.overrides.clone(),
        models: provider.models.clone(),
        cards: Default::default(),
        timeouts: provider.timeouts,
        owns: provider.owns,
        keys: keys.collect(),
        probe: None,
        tags: Default::default(),
        health: provider.health.clone(),
    };
    Arc::new(Target::new(
        Arc::new(pooled),
        target.model.clone(),
        target.overrides.clone(),
        target.timeouts,
        target.card.clone(),
    ))
}

pub(super) fn said(outcome: &Result<Reply, Fault>) -> String {
    match outcome {
        Ok(Reply { content: Content::Whole(bytes), .. }) => {
            let body: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
            body["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
        }
        Ok(_) => "a stream".to_owned(),
        Err(fault) => fault.code().to_owned(),
    }
}

pub(super) fn roles(x: &Exchange) -> Vec<Role> {
    x.attempts.iter().map(|attempt| attempt.role).collect()
}

/// What an operator writes who wants a second try also where there is one target alone.
pub(super) fn twice() -> Retry {
    Retry { per_target: Some(2), ..Retry::default() }
}

#[tokio::test(start_paused = true)]
async fn a_target_without_a_rival_is_asked_whatever_was_unless_a_breaker_is_written() {
    let bed = Bed::new(&[("a", vec![Act::Dead; 20])]);
    let alone = bed.plan(&["a"], Retry { per_target: Some(1), ..Retry::default() });
    for _ in 0..20 {
        let (outcome, x) = bed.ask(&alone).await;
        assert_eq!((said(&outcome).as_str(), x.attempts.len()), ("upstream_unreachable", 1));
    }
    assert_eq!(said(&bed.ask(&alone).await.0), "from a");
}

#[tokio::test(start_paused = true)]
async fn without_fallbacks_only_the_first_target_is_tried() {
    let full = refused(400, "context_length_exceeded");
    let bed = Bed::new(&[("a", vec![status(500), full])]);
    let mut plan = bed.plan(&["a", "b"], Retry::default());
    plan.on_context_length = vec![bed.target("c")];
    plan.rules = Arc::new(Rules { fallbacks: false, ..Rules::default() });
    assert_eq!(said(&bed.ask(&plan).await.0), "upstream_error");
    assert_eq!(said(&bed.ask(&plan).await.0), "context_length_exceeded");
    assert_eq!(bed.script.hosts(), hosts(&["a", "a"]));
}

#[tokio::test(start_paused = true)]
async fn with_nothing_untried_left_the_target_that_is_ready_first_gets_its_second_try() {
    let bed = Bed::new(&[("a", vec![limited("retry-after-ms", "700")]), ("b", vec![status(500); 2])]);
    let (outcome, x) = bed.ask(&bed.plan(&["a", "b"], Retry::default())).await;
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("from a", hosts(&["a", "b", "b", "a"])));
    // Timers round to milliseconds.
    assert!((MS(699)..=MS(702)).contains(&bed.script.at()[3]), "{:?}", bed.script.at());
    let waited: Duration = x.attempts.iter().map(|attempt| attempt.waited).sum();
    assert!((MS(699)..=MS(702)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn the_keys_of_a_target_that_is_gone_back_to_have_had_their_rest() {
    let bed = Bed::new(&[("a", vec![limited("retry-after-ms", "700"); 2]), ("b", vec![status(404)])]);
    let mut plan = bed.plan(&["a", "b"], Retry { per_target: Some(3), ..Retry::default() });
    plan.targets[0] = pooled(&plan.targets[0], &[("one", 1, false), ("two", 1, false)]);
    let (outcome, x) = bed.ask(&plan).await;
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("from a", hosts(&["a", "a", "b", "a"])));
    assert_eq!(roles(&x), [Role::First, Role::Key, Role::Next, Role::Next]);
    // Nor need it be a wait of ours: a provider may want none.
    let bed = Bed::new(&[("a", vec![limited("retry-after", "0"); 2])]);
    let mut plan = bed.plan(&["a"], Retry { per_target: Some(3), ..Retry::default() });
    plan.targets[0] = pooled(&plan.targets[0], &[("one", 1, false), ("two", 1, false)]);
    assert_eq!((said(&bed.ask(&plan).await.0).as_str(), bed.script.hosts().len()), ("from a", 3));
}

#[tokio::test(start_paused = true)]
async fn what_the_upstream_says_of_another_try_goes_with_its_refusal() {
    for (header, expected) in [("true", true), ("false", false), ("perhaps", false)] {
        let refusal = Act::Say(400, vec![("x-should-retry", header)], json!({"error": {"message": "no"}}).to_string());
        let bed = Bed::new(&[("a", vec![refusal])]);
        let (outcome, _) = bed.ask(&bed.plan(&["a"], Retry::default())).await;
        let fault = outcome.map(|_| ()).expect_err("refused");
        assert_eq!((fault.kind, fault.should_retry()), (Kind::UpstreamRejected, expected), "{header}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_is_waited_for_only_where_no_other_target_is_left() {
    let bed = Bed::new(&[("a", vec![late(MS(300), good("first"))])]);
    let queue = crate::state::health::QueueSettings { size: 4, wait: MS(2000) };
    let settings = Settings { breaker: Some(Breaker::default()), max_inflight: Some(1), queue, ..Settings::default() };
    bed.cx.state.health.target("a/m", &settings);
    let plan = bed.plan(&["a"], Retry::default());
    for target in &plan.targets {
        // The generation's own settings have no bound.
        target.record(&bed.cx.state.health);
        bed.cx.state.health.target("a/m", &settings);
    }
    let whole = async || {
        let (outcome, mut x) = bed.ask(&plan).await;
        x.outcome = Outcome::Complete;
        drop(Settle::new(x, bed.cx.state.clone()));
        outcome
    };
    let (one, two) = tokio::join!(whole(), whole());
    assert_eq!((said(&one).as_str(), said(&two).as_str()), ("first", "from a"));
    assert_eq!(bed.script.at(), [MS(0), MS(300)]);
    // Who does not get one is told of which target, and why.
    bed.script.acts.lock().expect("whole").insert("a", vec![late(MS(9_000), good("slow")); 2].into());
    let (_, none) = tokio::join!(whole(), whole());
    let fault = none.map(|_| ()).expect_err("the queue's patience has an end");
    let object = fault.availability.clone().expect("is there");
    assert_eq!((fault.code(), &object["targets"][0]["target"]), ("no_target_available", &json!("a/m")));
    assert_eq!((&object["excluded_by"], &object["retry_after"]), (&json!(["full"]), &json!(1.0)));
    let both = bed.plan(&["a", "b"], Retry::default());
    let plan = Plan { targets: vec![plan.targets[0].clone(), both.targets[1].clone()], ..both };
    bed.script.acts.lock().expect("whole").insert("a", [late(MS(300), good("first"))].into());
    let (one, two) = tokio::join!(bed.ask(&plan), bed.ask(&plan));
    assert_eq!((said(&one.0).as_str(), said(&two.0).as_str()), ("first", "from b"));
}

#[tokio::test(start_paused = true)]
async fn keys_are_drawn_by_weight_and_those_of_last_resort_only_when_all_others_are_out() {
    let bed = Bed::new(&[]);
    let mut plan = bed.plan(&["a"], Retry::default());
    plan.targets[0] = pooled(&plan.targets[0], &[("nine", 9, false), ("one", 1, false), ("spare", 100, true)]);
    for _ in 0..1000 {
        assert!(bed.ask(&plan).await.0.is_ok());
    }
    let count = |key: &str| bed.script.seen().iter().filter(|seen| seen.key.as_deref() == Some(key)).count();
    assert_eq!((count("nine") + count("one"), count("spare")), (1000, 0));
    // Six standard deviations of a fair draw.
    assert!((840..=957).contains(&count("nine")), "{}", count("nine"));
}

#[tokio::test(start_paused = true)]
async fn a_pool_whose_keys_all_rest_is_no_harder_to_reach_than_a_single_key() {
    let keys = [("one", 1, false), ("two", 1, false)];
    let pool = |bed: &Bed, model| pooled(&bed.cx.generation.target("a", model).expect("a provider"), &keys);
    let of = |bed: &Bed, targets: Vec<Arc<Target>>| Plan { targets, ..bed.plan(&["a"], Retry::default()) };
    let both = vec![limited("retry-after", "3"); 2];
    // The next in the list may be another model of the same provider.
    let bed = Bed::new(&[("a", both.clone())]);
    let (outcome, x) = bed.ask(&of(&bed, vec![pool(&bed, "m"), pool(&bed, "well")])).await;
    assert_eq!((said(&outcome).as_str(), roles(&x)), ("from a", vec![Role::First, Role::Key, Role::Next]));
    // The model that is limited rests itself, and lets through who has no other; the others are as they were.
    let limited_is_open = pool(&bed, "m").record(&bed.cx.state.health).standing(bed.cx.state.now());
    assert!(matches!(limited_is_open, crate::state::health::Standing::Open { until: Some(_) }), "{limited_is_open:?}");
    for model in ["m", "well"] {
        assert_eq!(said(&bed.ask(&of(&bed, vec![pool(&bed, model)])).await.0), "from a", "{model}");
    }
    // While they rest, one of them is asked and not each.
    bed.script.acts.lock().expect("whole").insert("a", both.into());
    let (outcome, x) = bed.ask(&of(&bed, vec![pool(&bed, "m")])).await;
    assert_eq!((said(&outcome).as_str(), x.attempts.len()), ("rate_limited", 1));
    // A key that was refused is left alone as long as there is another target.
    let bed = Bed::new(&[("a", vec![status(401); 2])]);
    let elsewhere = |bed: &Bed| of(bed, vec![pool(bed, "m"), bed.target("b")]);
    assert_eq!(bed.ask(&elsewhere(&bed)).await.1.attempts.len(), 3);
    assert_eq!(bed.ask(&elsewhere(&bed)).await.1.attempts.len(), 1);
    assert_eq!(said(&bed.ask(&of(&bed, vec![pool(&bed, "m")])).await.0), "from a");
}

#[tokio::test(start_paused = true)]
async fn a_stored_response_that_is_fetched_has_the_time_of_an_exchange_and_no_more() {
    let whole = || late(MS(60_000), good("late"));
    let bed = Bed::new(&[("a", vec![whole(), Act::Stalls, whole(), Act::Stalls])]);
    let known = bed.target("a");
    let timeouts = Timeouts { idle: MS(60_000), head: MS(60_000), total: MS(500), ..known.timeouts };
    let (total, attempt) = ((timeouts.attempt, Kind::TotalTimeout, 500), (MS(200), Kind::AttemptTimeout, 200));
    for ((attempt, kind, waited), streams) in [(total, false), (total, true), (attempt, false), (attempt, true)] {
        let timeouts = Timeouts { attempt, ..timeouts };
        let target = Arc::new(Target::new(known.provider.clone(), "m".into(), known.overrides.clone(), timeouts, None));
        let (mut x, _) = bed.exchange(json!({"model": "any", "messages": []}));
        let (headers, body) = Default::default();
        let call = RelayCall { method: http::Method::GET, path: "/responses/r".into(), headers, body };
        let began = Instant::now();
        let outcome = relay(&bed.cx, &mut x, &target, &call).await;
        assert_eq!(outcome.as_ref().is_ok_and(Reply::is_stream), streams);
        let fault = match outcome.map(|reply| reply.content) {
            Ok(Content::Stream(mut relay)) => {
                while std::future::poll_fn(|cx| relay.poll_bytes(cx)).await.is_some() {}
                relay.ending().and_then(Result::err)
            }
            outcome => outcome.err(),
        };
        assert_eq!(fault.map(|fault| fault.kind), Some(kind));
        assert!((MS(waited)..MS(waited + 2)).contains(&began.elapsed()), "{:?}", began.elapsed());
        drop(Settle::new(x, bed.cx.state.clone()));
        assert_eq!(bed.cx.state.health.record("a/m").measure(bed.cx.state.now()).in_flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stored_response_that_came_compressed_is_not_given_as_json() {
    let squeezed = Act::Say(200, vec![("content-type", "application/json"), ("content-encoding", "gzip")], "?".into());
    let bed = Bed::new(&[("a", vec![squeezed])]);
    let (mut x, _) = bed.exchange(json!({"model": "any", "messages": []}));
    let (headers, body) = Default::default();
    let call = RelayCall { method: http::Method::GET, path: "/responses/r".into(), headers, body };
    let outcome = relay(&bed.cx, &mut x, &bed.target("a"), &call).await;
    assert_eq!(outcome.map(|_| ()).map_err(|fault| fault.kind), Err(Kind::BadAnswer));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_came_compressed_is_told_as_that_and_not_as_rubbish() {
    let squeezed = Act::Say(429, vec![("content-encoding", "gzip")], "\u{1f}\u{8b}?".into());
    let bed = Bed::new(&[("a", vec![squeezed])]);
    let (outcome, _) = bed.ask(&bed.plan(&["a"], Retry::default())).await;
    let fault = outcome.map(|_| ()).expect_err("refused");
    assert_eq!(fault.kind, Kind::RateLimited);
    assert!(fault.text().starts_with("The provider compressed its answer (\"gzip\")"), "{}", fault.text());
}

#[tokio::test(start_paused = true)]
async fn what_a_client_that_leaves_had_begun_gives_its_place_back() {
    let bed = Bed::new(&[("a", vec![late(MS(1000), good("late"))])]);
    let plan = bed.plan(&["a"], Retry::default());
    let (mut x, call) = bed.exchange(json!({"model": "any", "messages": []}));
    let left = tokio::time::timeout(MS(100), run(&bed.cx, &mut x, &call, &plan)).await;
    assert!(left.is_err());
    let record = bed.cx.state.health.record("a/m");
    assert_eq!(record.measure(bed.cx.state.now()).in_flight, 1, "the exchange still holds its place");
    assert_eq!(x.attempts.len(), 1);
    drop(Settle::new(x, bed.cx.state.clone()));
    let measure = record.measure(bed.cx.state.now());
    assert_eq!((measure.in_flight, measure.samples), (0, 0), "a client that leaves says nothing of the target");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_too_slow_says_nothing_of_the_target() {
    let bed = Bed::new(&[]);
    let (outcome, mut x) = bed.ask(&bed.plan(&["a"], Retry::default())).await;
    assert!(outcome.is_ok());
    x.outcome = Outcome::Failed(Fault::new(Kind::ClientTooSlow, "slow"));
    drop(Settle::new(x, bed.cx.state.clone()));
    assert_eq!(bed.cx.state.health.record("a/m").attempts(), 0);
}

pub(super) fn hosts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
