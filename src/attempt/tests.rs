//! The attempt loop over a scripted upstream and a paused clock. The names of the seeds are those of the acceptance list.

mod onward;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::run;
use crate::body::{Inbound, Outgoing};
use crate::exchange::{Exchange, Outcome, Role};
use crate::fault::{Fault, Kind};
use crate::generation::Builder;
use crate::pipeline::{self, Call, Cx};
use crate::reply::{Content, Reply};
use crate::route::{Auth, Hedge, HedgeAfter, Key, Mirror, Plan, Provider, Retry, Rules, Target};
use crate::settle::Settle;
use crate::state::State;
use crate::state::health::{Breaker, Settings, Standing};
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

fn refused(status: u16, code: &str) -> Act {
    Act::Say(status, vec![], json!({"error": {"message": "no", "code": code}}).to_string())
}

fn limited(header: &'static str, value: &'static str) -> Act {
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

/// Plays its acts in order, for each host; past the last one it answers well.
pub(super) struct Script {
    acts: Mutex<HashMap<&'static str, VecDeque<Act>>>,
    seen: Mutex<Vec<Seen>>,
    /// Requests that were dropped before their answer was there.
    dropped: Arc<Mutex<u32>>,
    began: Instant,
}

impl Script {
    pub fn of(acts: &[(&'static str, Vec<Act>)]) -> Arc<Self> {
        Arc::new(Script {
            acts: Mutex::new(acts.iter().map(|(host, acts)| (*host, acts.iter().cloned().collect())).collect()),
            seen: Mutex::default(),
            dropped: Arc::default(),
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
    fn send(&self, _: &Arc<Dial>, request: Outbound, head_timeout: Duration) -> Sending<'_> {
        let host = request.uri.host().unwrap_or_default().to_owned();
        let key = request.headers.get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = text(request.body);
        self.seen.lock().expect("whole").push(Seen { host: host.clone(), at: self.began.elapsed(), key, body });
        let next = self.acts.lock().expect("whole").get_mut(host.as_str()).and_then(VecDeque::pop_front);
        let mut act = next.unwrap_or_else(|| good(&format!("from {host}")));
        let waits = Waits(self.dropped.clone(), false);
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
        let mut x = pipeline::begin(&self.cx, &head, &matched);
        let call = crate::api::ask::read(&mut x, Bytes::from(body.to_string()), head, &matched).expect("an ask");
        (x, Arc::new(call))
    }
}

/// The provider as it is but with a pool of keys, each with its weight and whether it is of last resort.
fn pooled(target: &Target, keys: &[(&str, u32, bool)]) -> Arc<Target> {
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
        otel: provider.otel,
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

fn roles(x: &Exchange) -> Vec<Role> {
    x.attempts.iter().map(|attempt| attempt.role).collect()
}

/// What an operator writes who wants a second try also where there is one target alone.
fn twice() -> Retry {
    Retry { per_target: Some(2), ..Retry::default() }
}

#[tokio::test(start_paused = true)]
async fn seed_1_a_429_with_a_wait_is_tried_once_more_after_it() {
    let bed = Bed::new(&[("a", vec![limited("retry-after-ms", "200")])]);
    let (outcome, x) = bed.ask(&bed.plan(&["a"], twice())).await;
    assert_eq!(said(&outcome), "from a");
    assert_eq!(bed.script.at(), [MS(0), MS(200)]);
    assert_eq!((roles(&x), x.attempts[1].waited), (vec![Role::First, Role::Again], MS(200)));
}

#[tokio::test(start_paused = true)]
async fn seed_1_with_a_pool_another_key_is_tried_at_once() {
    let bed = Bed::new(&[("a", vec![limited("retry-after-ms", "200")])]);
    let mut plan = bed.plan(&["a"], Retry::default());
    plan.targets[0] = pooled(&plan.targets[0], &[("one", 1, false), ("two", 1, false)]);
    let (outcome, x) = bed.ask(&plan).await;
    assert_eq!(said(&outcome), "from a");
    let seen = bed.script.seen();
    assert_eq!((seen.len(), seen[1].at), (2, MS(0)));
    assert_ne!(seen[0].key, seen[1].key);
    assert_eq!(roles(&x), [Role::First, Role::Key]);
    // The limited key has a rest; the target has none.
    let first = seen[0].key.as_deref().expect("a key");
    let standing = |name: &str| bed.cx.state.health.record(name).standing(bed.cx.state.now());
    assert!(matches!(standing(&format!("a#{first}")), Standing::Open { .. }), "{:?}", standing(first));
    assert_eq!(standing("a/m"), Standing::Closed);
}

#[tokio::test(start_paused = true)]
async fn seed_2_a_wait_beyond_the_bounds_is_not_begun_and_the_next_target_answers() {
    for (retry_after, targets) in [("3600", &["a", "b"][..]), ("30", &["a", "b"])] {
        let bed = Bed::new(&[("a", vec![limited("retry-after", retry_after)])]);
        let (outcome, _) = bed.ask(&bed.plan(targets, Retry::default())).await;
        assert_eq!((said(&outcome), bed.script.at()), ("from b".to_owned(), vec![MS(0), MS(0)]));
    }
    // And without another target the caller hears it at once, with the wait.
    let bed = Bed::new(&[("a", vec![limited("retry-after", "30")])]);
    let (outcome, _) = bed.ask(&bed.plan(&["a"], Retry::default())).await;
    let fault = outcome.expect_err("refused");
    assert_eq!((fault.kind, fault.retry_after), (Kind::RateLimited, Some(MS(30_000))));
    assert_eq!(bed.script.began.elapsed(), MS(0));
}

#[tokio::test(start_paused = true)]
async fn seed_3_a_dead_key_is_passed_over_without_a_wait_and_all_dead_is_a_502() {
    for bad in [401, 402, 403] {
        let bed = Bed::new(&[("a", vec![status(bad)])]);
        let mut plan = bed.plan(&["a"], Retry::default());
        plan.targets[0] = pooled(&plan.targets[0], &[("one", 1, false), ("spare", 1, true)]);
        let (outcome, x) = bed.ask(&plan).await;
        assert_eq!(said(&outcome), "from a", "{bad}");
        let keys: Vec<_> = bed.script.seen().into_iter().map(|seen| seen.key.expect("a key")).collect();
        assert_eq!((keys, bed.script.at()), (vec!["one".to_owned(), "spare".to_owned()], vec![MS(0), MS(0)]));
        assert_eq!(x.attempts[1].key.as_deref(), Some("spare"));
        // The next exchange does not ask the dead one.
        assert!(bed.ask(&plan).await.0.is_ok());
        assert_eq!(bed.script.seen()[2].key.as_deref(), Some("spare"), "{bad}");
    }
    let bed = Bed::new(&[("a", vec![status(401), status(401), status(401)])]);
    let mut plan = bed.plan(&["a"], Retry::default());
    plan.targets[0] = pooled(&plan.targets[0], &[("one", 1, false), ("two", 1, false), ("off", 0, false)]);
    let (outcome, _) = bed.ask(&plan).await;
    let fault = outcome.expect_err("refused");
    assert_eq!((fault.code(), fault.status("openai_chat")), ("upstream_credential_refused", 502));
    assert_eq!(bed.script.seen().len(), 2, "a key without weight was used, or one twice");
}

#[tokio::test(start_paused = true)]
async fn seed_4_what_the_caller_got_wrong_is_not_tried_again() {
    for bad in [400, 422] {
        let bed = Bed::new(&[("a", vec![status(bad)])]);
        let (outcome, _) = bed.ask(&bed.plan(&["a", "b"], Retry::default())).await;
        assert_eq!((said(&outcome).as_str(), bed.script.hosts().len()), ("upstream_rejected", 1), "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn seed_5_a_context_that_does_not_fit_goes_to_its_own_chain_alone() {
    let full = || refused(400, "context_length_exceeded");
    let bed = Bed::new(&[("a", vec![full()]), ("c", vec![full()])]);
    let plan = Plan { on_context_length: vec![bed.target("c")], ..bed.plan(&["a", "b"], Retry::default()) };
    let (outcome, _) = bed.ask(&plan).await;
    // It fits nowhere in the chain either: the plain targets are not asked.
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("context_length_exceeded", hosts(&["a", "c"])));
    let (outcome, _) = bed.ask(&plan).await;
    assert_eq!(said(&outcome), "from a");
}

#[tokio::test(start_paused = true)]
async fn seed_6_a_refused_content_goes_to_its_own_chain_or_nowhere() {
    let bed = Bed::new(&[("a", vec![refused(400, "content_filter"), refused(400, "content_filter")])]);
    let plan = bed.plan(&["a", "b"], Retry::default());
    let (outcome, _) = bed.ask(&plan).await;
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("content_policy", hosts(&["a"])));
    let plan = Plan { on_content_policy: vec![bed.target("c")], ..plan };
    let (outcome, _) = bed.ask(&plan).await;
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("from c", hosts(&["a", "a", "c"])));
}

#[tokio::test(start_paused = true)]
async fn seed_7_an_error_inside_a_good_stream_before_content_is_another_targets_business() {
    let stream = |text: &str| Act::Say(200, vec![("content-type", "text/event-stream")], text.to_owned());
    let error = r#"data: {"error":{"message":"busy","type":"server_error","code":null}}"#;
    let content = r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}"#;
    let fine = format!("{content}\n\ndata: [DONE]\n\n");
    let broken = format!("{error}\n\n");
    let bed = Bed::new(&[("a", vec![stream(&broken), stream(&broken)]), ("b", vec![stream(&fine)])]);
    let body = json!({"model": "any", "stream": true, "messages": []});
    let (outcome, x) = bed.asked(&bed.plan(&["a", "b"], Retry::default()), body).await;
    assert_eq!(said(&outcome), "a stream");
    assert_eq!(bed.script.hosts(), hosts(&["a", "a", "b"]));
    assert_eq!(x.attempts[0].status, Some(200));
}

#[tokio::test(start_paused = true)]
async fn seed_9_a_late_first_token_is_not_waited_for_a_second_time() {
    let bed = Bed::new(&[("a", vec![late(MS(600_000), good("late"))])]);
    let (outcome, x) = bed.ask(&bed.plan(&["a", "b"], Retry::default())).await;
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("from b", hosts(&["a", "b"])));
    assert_eq!(x.attempts[0].fault.as_ref().map(|fault| fault.kind), Some(Kind::HeadTimeout));
}

#[tokio::test(start_paused = true)]
async fn seed_10_trying_ends_at_the_cap_and_at_the_deadline() {
    let bad = || vec![status(500); 9];
    let bed = Bed::new(&[("a", bad()), ("b", bad()), ("c", bad())]);
    let (outcome, _) = bed.ask(&bed.plan(&["a", "b", "c"], Retry { max_attempts: 4, ..Retry::default() })).await;
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("upstream_error", hosts(&["a", "a", "b", "b"])));

    let slow = || vec![late(MS(250_000), status(500)); 9];
    let bed = Bed::new(&[("a", slow()), ("b", slow()), ("c", slow())]);
    let began = Instant::now();
    let (outcome, _) = bed.ask(&bed.plan(&["a", "b", "c"], Retry { per_target: Some(1), ..Retry::default() })).await;
    assert_eq!(said(&outcome), "total_timeout");
    assert_eq!(began.elapsed(), MS(600_000), "longer than timeouts.total");
}

#[tokio::test(start_paused = true)]
async fn seed_11_a_target_that_fails_is_passed_over_and_all_of_them_is_a_503_with_a_wait() {
    let bed = Bed::new(&[("a", vec![Act::Dead; 10]), ("b", vec![])]);
    let once = Retry { per_target: Some(1), ..Retry::default() };
    let plan = bed.plan(&["a", "b"], once);
    for _ in 0..10 {
        assert_eq!(said(&bed.ask(&plan).await.0), "from b");
    }
    assert_eq!(bed.script.hosts().len(), 20);
    // Ten in a row are enough: it is not asked any more.
    let (outcome, x) = bed.ask(&plan).await;
    assert_eq!((said(&outcome).as_str(), x.attempts.len()), ("from b", 1));
    // Alone it is a 503 that says how long, where the operator wrote a breaker.
    let alone = bed.plan(&["a"], once);
    let strict = Settings { breaker: Some(Breaker::default()), ..Settings::default() };
    alone.targets[0].record(&bed.cx.state.health).configure(&strict);
    let (outcome, x) = bed.ask(&alone).await;
    let fault = outcome.expect_err("refused");
    assert_eq!((fault.code(), fault.status("openai_chat"), x.attempts.len()), ("no_target_available", 503, 0));
    assert_eq!(fault.retry_after, Some(MS(5000)));
    // After the rest one request may see whether it is well again.
    sleep(MS(5001)).await;
    assert_eq!(said(&bed.ask(&plan).await.0), "from a");
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

fn hedged(bed: &Bed, providers: &[&str], after: HedgeAfter, budget: f64) -> Plan {
    let rules = Rules { hedge: Some(Hedge { after, budget }), ..Rules::default() };
    Plan { rules: Arc::new(rules), ..bed.plan(providers, Retry::default()) }
}

#[tokio::test(start_paused = true)]
async fn a_slow_target_gets_company_and_the_faster_one_answers() {
    let bed = Bed::new(&[("a", vec![late(MS(1000), good("slow"))]), ("b", vec![late(MS(50), good("quick"))])]);
    let plan = hedged(&bed, &["a", "b", "c"], HedgeAfter::Fixed(MS(100)), 0.05);
    let (outcome, mut x) = bed.ask(&plan).await;
    assert_eq!((said(&outcome).as_str(), bed.script.at()), ("quick", vec![MS(0), MS(100)]));
    assert_eq!(bed.script.began.elapsed(), MS(150));
    assert_eq!((roles(&x), bed.script.dropped()), (vec![Role::First, Role::Hedge], 1));
    assert_eq!(x.attempts.iter().map(|attempt| attempt.cancelled).collect::<Vec<_>>(), [true, false]);
    assert_eq!(x.target().map(|target| target.name()).as_deref(), Some("b/m"));
    // 50 ms of the two overlap and count once.
    assert_eq!(x.overhead(Instant::now()), MS(0));
    x.outcome = Outcome::Complete;
    drop(Settle::new(x, bed.cx.state.clone()));
    for (name, samples) in [("a/m", 0), ("b/m", 1)] {
        let measure = bed.cx.state.health.record(name).measure(bed.cx.state.now());
        assert_eq!((measure.in_flight, measure.samples), (0, samples), "{name}");
    }
    let metrics = bed.cx.state.metrics.render(0, 0);
    assert!(metrics.contains("portcullis_apart_total{why=\"hedge\",provider=\"a\""), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_fails_or_is_slower_changes_nothing() {
    for second in [status(500), status(400), late(MS(900), good("slower"))] {
        let bed = Bed::new(&[("a", vec![late(MS(300), good("first"))]), ("b", vec![second])]);
        let (outcome, x) = bed.ask(&hedged(&bed, &["a", "b"], HedgeAfter::Fixed(MS(100)), 0.05)).await;
        assert_eq!((said(&outcome).as_str(), bed.script.began.elapsed()), ("first", MS(300)));
        assert_eq!(x.target().map(|target| target.name()).as_deref(), Some("a/m"));
    }
}

#[tokio::test(start_paused = true)]
async fn when_both_fail_the_rules_of_trying_go_on_from_there() {
    let bed = Bed::new(&[("a", vec![late(MS(300), status(404))]), ("b", vec![late(MS(10), status(404))])]);
    let (outcome, x) = bed.ask(&hedged(&bed, &["a", "b", "c"], HedgeAfter::Fixed(MS(100)), 0.05)).await;
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("from c", hosts(&["a", "b", "c"])));
    assert_eq!(roles(&x), [Role::First, Role::Hedge, Role::Next]);
}

#[tokio::test(start_paused = true)]
async fn a_quick_target_and_one_of_which_nothing_is_known_get_no_company() {
    let bed = Bed::new(&[("a", vec![late(MS(90), good("quick")), late(MS(900), good("unknown"))])]);
    assert!(bed.ask(&hedged(&bed, &["a", "b"], HedgeAfter::Fixed(MS(100)), 0.05)).await.0.is_ok());
    assert!(bed.ask(&hedged(&bed, &["a", "b"], HedgeAfter::Quantile(0.95), 0.05)).await.0.is_ok());
    assert_eq!(bed.script.hosts(), hosts(&["a", "a"]));
}

#[tokio::test(start_paused = true)]
async fn the_targets_own_quantile_says_when_it_is_slow_and_the_share_how_often() {
    let bed = Bed::new(&[]);
    let plan = hedged(&bed, &["a", "b"], HedgeAfter::Quantile(0.95), 0.05);
    let mut hedges = 0;
    for number in 0..400 {
        // One in ten is slow; the share allows one in twenty.
        let act = if number % 10 == 9 { late(MS(1000), good("slow")) } else { late(MS(20), good("usual")) };
        bed.script.acts.lock().expect("whole").insert("a", [act].into());
        let (outcome, mut x) = bed.ask(&plan).await;
        hedges += roles(&x).iter().filter(|role| **role == Role::Hedge).count();
        assert!(outcome.is_ok());
        x.outcome = Outcome::Complete;
        drop(Settle::new(x, bed.cx.state.clone()));
    }
    assert!((15..=21).contains(&hedges), "{hedges} of 400");
}

/// How long the first content of 99 in 100 requests takes at most, and how many calls a request costs, with requests in
/// turns over three targets. Their answers begin after 20 to 30 ms; this share of the first one's takes ten times that.
async fn tail(hedge: Option<Hedge>, slow: f64) -> (Duration, f64) {
    const REQUESTS: usize = 3000;
    let stream = || {
        let content = r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}"#;
        Act::Say(200, vec![("content-type", "text/event-stream")], format!("{content}\n\ndata: [DONE]\n\n"))
    };
    let mut dice = fastrand::Rng::with_seed(7);
    let mut acts = |slow: f64| {
        let act = |_| {
            let usual = MS(dice.u64(20..=30));
            late(if dice.f64() < slow { usual * 10 } else { usual }, stream())
        };
        (0..REQUESTS).map(act).collect::<Vec<_>>()
    };
    let bed = Bed::new(&[("a", acts(slow)), ("b", acts(0.0)), ("c", acts(0.0))]);
    let mut names = ["a", "b", "c"];
    let mut times = Vec::new();
    for _ in 0..REQUESTS {
        names.rotate_left(1);
        let rules = Rules { hedge, ..Rules::default() };
        let plan = Plan { rules: Arc::new(rules), ..bed.plan(&names, Retry::default()) };
        let began = Instant::now();
        let (outcome, mut x) = bed.asked(&plan, json!({"model": "any", "stream": true, "messages": []})).await;
        times.push(began.elapsed());
        assert!(outcome.is_ok());
        x.outcome = Outcome::Complete;
        drop(Settle::new(x, bed.cx.state.clone()));
    }
    times.sort();
    (times[REQUESTS * 99 / 100], bed.script.seen().len() as f64 / REQUESTS as f64)
}

/// At most seven calls more in a hundred: with a fixed time where every twentieth request of all is slow, and with the
/// targets' own quantile where every twentieth of one target's is.
#[tokio::test(start_paused = true)]
async fn hedging_cuts_the_tail_to_a_third_for_seven_calls_more_in_a_hundred() {
    for (after, slow) in [(HedgeAfter::Fixed(MS(45)), 0.15), (HedgeAfter::Quantile(0.95), 0.05)] {
        let (plain, once) = tail(None, slow).await;
        assert_eq!(once, 1.0);
        let (hedged, calls) = tail(Some(Hedge { after, budget: 0.07 }), slow).await;
        assert!(hedged * 3 <= plain, "{after:?}: {plain:?} without, {hedged:?} with");
        assert!(calls <= 1.07, "{after:?}: {calls} calls a request");
    }
}

fn mirrored(bed: &Bed, share: f64) -> Plan {
    let rules = Rules { mirror: Some(Mirror { target: bed.target("b"), share }), ..Rules::default() };
    Plan { rules: Arc::new(rules), ..bed.plan(&["a"], Retry::default()) }
}

#[tokio::test(start_paused = true)]
async fn a_mirror_gets_the_same_ask_and_neither_delays_nor_fails_the_exchange() {
    for silent in [good("copy"), status(500), Act::Dead, late(MS(5000), good("slow"))] {
        let bed = Bed::new(&[("b", vec![silent])]);
        let (outcome, x) = bed.ask(&mirrored(&bed, 1.0)).await;
        assert_eq!((said(&outcome).as_str(), bed.script.began.elapsed()), ("from a", MS(0)));
        assert_eq!((x.attempts.len(), x.target().map(|target| target.name()).as_deref()), (1, Some("a/m")));
        // The copy ends on its own.
        sleep(MS(6000)).await;
        let seen = bed.script.seen();
        let mut hosts = bed.script.hosts();
        hosts.sort();
        assert_eq!(hosts, ["a", "b"]);
        assert_eq!(seen[0].body, seen[1].body);
        let (well, failed) = bed.cx.state.health.record("b/m").totals();
        assert_eq!(well + failed.iter().map(|(_, count)| count).sum::<u64>(), 1);
        assert_eq!(bed.cx.state.health.record("b/m").measure(bed.cx.state.now()).in_flight, 0);
        let metrics = bed.cx.state.metrics.render(0, 0);
        assert!(metrics.contains("portcullis_apart_total{why=\"mirror\",provider=\"b\""), "{metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mirror_gets_its_share_and_no_more_at_a_time_than_its_bound() {
    let bed = Bed::new(&[]);
    for _ in 0..1000 {
        assert!(bed.ask(&mirrored(&bed, 0.1)).await.0.is_ok());
        tokio::task::yield_now().await;
    }
    let copies = bed.script.hosts().iter().filter(|host| *host == "b").count();
    // Six standard deviations of a fair draw.
    assert!((43..=157).contains(&copies), "{copies} of 1000");
    let bed = Bed::new(&[("b", vec![late(MS(60_000), good("slow")); 200])]);
    for _ in 0..100 {
        assert!(bed.ask(&mirrored(&bed, 1.0)).await.0.is_ok());
        tokio::task::yield_now().await;
    }
    let copies = bed.script.hosts().iter().filter(|host| *host == "b").count();
    assert_eq!(copies, crate::state::MAX_MIRRORS);
}

pub(super) fn hosts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
