//! A stand for guests: one guest, a request to show it, and a gateway around it that has the targets it is given.
//!
//! For tests and benchmarks of any engine; service never comes here. Nothing outside is asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;

use super::bundle::{Bundle, Manifest, Source};
use super::view::{self, Asked, Done, Event, Head, Request, Subject};
use super::{Engine, Failed, Used, Verdict, Wanted};
use crate::auth::Principal;
use crate::chat;
use crate::dialect::openai_chat::OpenAiChat;
use crate::dialect::{Dialect, Op, RawAsk};
use crate::fault::Fault;
use crate::host::visit::Facts;
use crate::host::{Budget, Cx, Grants, Guest, HostError, Lease, Pending, Phase, Visit, World, llm};
use crate::json::Envelope;
use crate::route::{Secret, Target};
use crate::state::State;
use crate::state::health::End;
use crate::state::log::Log;
use crate::upstream::Upstream;

/// The ask that guests are shown: in the OpenAI form, streamed, with a system prompt, three turns and a tool.
pub const ASK: &str = r#"{"model":"fast","stream":true,"max_tokens":64,"temperature":0.5,"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"messages":[{"role":"system","content":"Be short."},{"role":"user","content":"Hello"},{"role":"assistant","content":"Hi"},{"role":"user","content":"Which day is it?"}]}"#;

/// Good attempts in the past of a target that is offered: enough for every figure of it.
const PAST_ATTEMPTS: usize = 20;

/// How long those took at the first target, in milliseconds; at each further one as much longer.
const PAST_MS: u64 = 300;

/// A guest ready to be called.
pub struct Stand {
    pub engine: Engine,
    pub guest: Arc<Guest>,
    pub visit: Arc<Visit>,
    world: Arc<dyn World>,
    call: Arc<dyn Asked>,
    /// What is planned for the request.
    plan: Vec<Arc<Target>>,
}

impl Stand {
    /// For a guest of any language.
    pub fn around(engine: Engine, guest: Arc<Guest>) -> Stand {
        // A state without a log's thread: guests only count and keep in it.
        let state = Arc::new(State::new(8, Log::off()));
        let mut headers = HeaderMap::new();
        headers.insert("x-team", http::HeaderValue::from_static("blue"));
        headers.insert("authorization", http::HeaderValue::from_static("Bearer secret"));
        let call: Arc<dyn Asked> = match Envelope::read(Bytes::from_static(ASK.as_bytes())) {
            Ok(envelope) => Arc::new(Said { envelope, headers }),
            Err(fault) => unreachable!("the ask is a constant: {}", fault.message),
        };
        let world = Arc::new(Nowhere { state, targets: Vec::new() });
        Stand { engine, guest, visit: visit(), world, call, plan: Vec::new() }
    }

    /// A script in Luau. It is granted the secret `pepper` and the model `judge`.
    ///
    /// # Errors
    /// It does not load.
    pub fn luau(bundle: Bundle, budget: Budget, config: Value, mut grants: Grants) -> Result<Stand, String> {
        grants.secrets.insert("pepper".into(), Secret("hush".into()));
        grants.models.push("judge".into());
        let metrics = bundle.manifest.metrics.clone();
        let guest = Arc::new(Guest { name: "test".into(), grants, budget, metrics });
        let wanted = Wanted { guest: guest.clone(), bundle: Arc::new(bundle), config, domain: None };
        let engines = super::load(vec![wanted], 1)
            .map_err(|errors| errors.into_iter().map(|(_, why)| why).collect::<String>())?;
        let engine = engines.into_iter().next().ok_or("nothing was loaded")?;
        Ok(Stand::around(engine, guest))
    }

    /// Asks with another body, in the form of OpenAI.
    ///
    /// # Errors
    /// It is no ask.
    pub fn ask(&mut self, body: impl Into<Bytes>) -> Result<(), Fault> {
        let (envelope, headers) = (Envelope::read(body.into())?, self.call.headers().clone());
        self.call = Arc::new(Said { envelope, headers });
        Ok(())
    }

    /// Puts these targets behind the model that is asked for, each with some attempts in its past.
    pub fn offer(&mut self, targets: Vec<Arc<Target>>) {
        let state = self.world.state().clone();
        let now = state.now();
        for (target, took) in targets.iter().zip((1..).map(|place| place * PAST_MS)) {
            for _ in 0..PAST_ATTEMPTS {
                if let Ok(mut flight) = target.record(&state.health).begin(now) {
                    flight.first_content(now + took);
                    flight.end(now + took, End::Good { output_tokens: Some(50) });
                }
            }
        }
        self.plan.clone_from(&targets);
        self.world = Arc::new(Nowhere { state, targets });
    }

    /// Begins another exchange.
    pub fn renew(&mut self) {
        self.visit = visit();
    }

    pub fn request(&self) -> Subject {
        Subject::Request(Arc::new(Request { visit: self.visit.clone(), call: self.call.clone(), plan: Vec::new() }))
    }

    /// The request once there is a plan for it.
    pub fn planned(&self) -> Subject {
        let (visit, call, plan) = (self.visit.clone(), self.call.clone(), self.plan.clone());
        Subject::Request(Arc::new(Request { visit, call, plan }))
    }

    /// The head of the request, as it comes before anybody is known.
    pub fn head(&self) -> Subject {
        Subject::Head(Arc::new(Head {
            visit: self.visit.clone(),
            method: "POST".to_owned(),
            path: "/v1/chat/completions".to_owned(),
            query: None,
            headers: self.call.headers().clone(),
        }))
    }

    /// Text of a stream.
    pub fn event(&self, text: &str) -> Subject {
        Subject::Event(Arc::new(Event { kind: "text", text: text.to_owned(), merged: 1, ..Event::default() }))
    }

    pub fn cx(&self, phase: Phase) -> Cx {
        Cx {
            guest: self.guest.clone(),
            phase,
            visit: self.visit.clone(),
            apart: None,
            world: Some(self.world.clone()),
            lease: Lease::new(self.guest.budget.of(phase)),
            awaits: false,
            gives_way: false,
        }
    }

    pub fn call_with(&self, phase: Phase, subject: Subject) -> (Result<Verdict, Failed>, Used) {
        self.engine.call_now(self.cx(phase), subject)
    }

    /// Calls it with an exchange that is over at `on_done`, and with the request wherever else, whatever is shown there in
    /// service.
    ///
    /// # Errors
    /// It failed.
    pub fn call(&self, phase: Phase) -> Result<Verdict, Failed> {
        let subject = if phase == Phase::Done { self.done() } else { self.request() };
        self.call_with(phase, subject).0
    }

    /// An exchange that ended well.
    pub fn done(&self) -> Subject {
        Subject::Done(Arc::new(Done {
            visit: self.visit.clone(),
            model: "fast".into(),
            stream: true,
            status: 200,
            code: None,
            target: Some("a/fast".into()),
            attempts: 1,
            usage: None,
            estimated: false,
            cost_nano_usd: None,
            finish: None,
            took: Duration::from_millis(250),
            first_content: None,
            bytes_in: ASK.len() as u64,
            bytes_out: 1000,
        }))
    }

    pub async fn wait(&self, phase: Phase) -> (Result<Verdict, Failed>, Used) {
        self.engine.call(self.cx(phase), self.request()).await
    }
}

/// A bundle of one file.
pub fn bundle(text: &str) -> Bundle {
    Bundle {
        name: "test".into(),
        manifest: Manifest::default(),
        main: Source { label: "test.luau".into(), text: text.into() },
        modules: BTreeMap::new(),
        files: Vec::new(),
        tests: Vec::new(),
        digest: String::new(),
    }
}

/// A budget whose time is no test's subject: a busy machine must not fail the others.
pub fn unhurried() -> Budget {
    Budget { cpu: Duration::from_secs(2), total: Duration::from_secs(9), ..Budget::default() }
}

fn visit() -> Arc<Visit> {
    let visit = Visit::new(Facts {
        id: "gen-1".into(),
        request_id: "r-1".into(),
        endpoint: "/v1/chat/completions",
        dialect: "openai_chat",
        op: "chat",
        peer: Some(([10, 0, 0, 1], 1).into()),
        started: tokio::time::Instant::now(),
        started_ms: 1,
        generation: 1,
        depth: 0,
        traced: true,
        total: None,
    });
    visit.identify(Arc::new(Principal {
        key: "search-prod".into(),
        project: Some("search".into()),
        metadata: [("tier".to_owned(), "gold".to_owned())].into(),
        ..Principal::default()
    }));
    Arc::new(visit)
}

struct Nowhere {
    state: Arc<State>,
    /// Those behind its only model.
    targets: Vec<Arc<Target>>,
}

impl World for Nowhere {
    fn state(&self) -> &Arc<State> {
        &self.state
    }

    fn targets(&self, model: &str) -> Result<Vec<Arc<Target>>, String> {
        match self.models().iter().any(|known| known == model) && !self.targets.is_empty() {
            true => Ok(self.targets.clone()),
            false => Err(format!("No model is called `{model}`.")),
        }
    }

    fn models(&self) -> Vec<String> {
        vec!["fast".into()]
    }

    fn upstream(&self) -> Arc<dyn Upstream> {
        unreachable!("nothing outside is asked on a stand")
    }

    /// A judge that says yes after 20 ms, and fails where it is asked to.
    fn ask(&self, _: Arc<Visit>, ask: llm::Ask) -> Pending<llm::Answer> {
        let fails = memchr::memmem::find(&ask.body, b"fail").is_some();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if fails {
                return Err(HostError::new("it failed"));
            }
            let body = r#"{"model":"m","choices":[{"message":{"content":"yes"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
            Ok(llm::Answer { status: 200, body: Bytes::from_static(body.as_bytes()) })
        })
    }

    fn unix_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn random(&self) -> f64 {
        0.5
    }
}

struct Said {
    envelope: Envelope,
    headers: HeaderMap,
}

impl Asked for Said {
    fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn model(&self) -> &str {
        "fast"
    }

    fn stream(&self) -> bool {
        true
    }

    fn chat(&self) -> Result<Arc<chat::Ask>, Fault> {
        let raw = RawAsk { op: Op::Generate, body: self.envelope.body(), model: None, stream: true };
        OpenAiChat.decode_ask(&raw).map(Arc::new)
    }

    fn texts(&self) -> Result<Vec<view::Text>, Fault> {
        self.chat().map(|ask| view::conversation::texts_of(&ask))
    }
}
