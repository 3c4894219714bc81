//! A bench for scripts: one script, a request to show it, and a gateway without targets around it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;

use crate::auth::Principal;
use crate::chat;
use crate::dialect::{self, Op, RawAsk};
use crate::fault::Fault;
use crate::guest::bundle::{Bundle, Manifest, Source};
use crate::guest::view::{Asked, Request, Subject};
use crate::guest::{Engine, Failed, Used, Verdict, Wanted};
use crate::host::visit::Facts;
use crate::host::{Budget, Cx, Grants, Guest, HostError, Lease, Pending, Phase, Visit, World, llm};
use crate::json::Envelope;
use crate::route::{Secret, Target};
use crate::state::State;
use crate::state::log::Log;
use crate::upstream::Upstream;

/// A script ready to be called.
pub struct Bench {
    pub engine: Engine,
    pub guest: Arc<Guest>,
    pub visit: Arc<Visit>,
    world: Arc<dyn World>,
}

struct Nowhere(Arc<State>);

impl World for Nowhere {
    fn state(&self) -> &Arc<State> {
        &self.0
    }

    fn targets(&self, model: &str) -> Result<Vec<Arc<Target>>, String> {
        Err(format!("No model is called `{model}`."))
    }

    fn models(&self) -> Vec<String> {
        vec!["fast".into()]
    }

    fn upstream(&self) -> Arc<dyn Upstream> {
        panic!("no test asks outside")
    }

    fn ask(&self, _: Arc<Visit>, ask: llm::Ask) -> Pending<llm::Answer> {
        let asked = String::from_utf8_lossy(&ask.body).into_owned();
        Box::pin(async move {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            if asked.contains("fail") {
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

pub fn bundle(text: &str) -> Bundle {
    Bundle {
        name: "test".into(),
        manifest: Manifest::default(),
        main: Source { label: "test.luau".into(), text: text.into() },
        modules: BTreeMap::new(),
        files: Vec::new(),
        digest: String::new(),
    }
}

pub fn visit() -> Arc<Visit> {
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
    });
    visit.identify(Arc::new(Principal {
        key: "search-prod".into(),
        project: Some("search".into()),
        models: vec![],
        metadata: [("tier".to_owned(), "gold".to_owned())].into(),
        expires: None,
        ..Principal::default()
    }));
    Arc::new(visit)
}

pub fn try_load(text: &str, budget: Budget, config: Value) -> Result<Bench, String> {
    load_bundle(bundle(text), budget, config, Grants::default())
}

pub fn load_bundle(bundle: Bundle, budget: Budget, config: Value, mut grants: Grants) -> Result<Bench, String> {
    grants.secrets.insert("pepper".into(), Secret("hush".into()));
    grants.models.push("judge".into());
    let guest = Arc::new(Guest { name: "test".into(), grants, budget, metrics: BTreeMap::new() });
    let wanted = Wanted { guest: guest.clone(), bundle: Arc::new(bundle), config, domain: None };
    let mut engines = crate::guest::load(vec![wanted], 1).map_err(|errors| errors[0].1.clone())?;
    Ok(Bench::around(engines.remove(0), guest))
}

pub fn load(text: &str) -> Bench {
    // Time is for the tests of time: a busy machine must not fail the others.
    let budget = Budget { cpu: Duration::from_secs(2), total: Duration::from_secs(9), ..Budget::default() };
    try_load(text, budget, Value::Null).unwrap_or_else(|error| panic!("{error}"))
}

pub struct Said {
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
        dialect::find("openai_chat").expect("a dialect").decode_ask(&raw).map(Arc::new)
    }
}

pub const ASK: &str = r#"{"model":"fast","stream":true,"max_tokens":64,"temperature":0.5,"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"messages":[{"role":"system","content":"Be short."},{"role":"user","content":"Hello"},{"role":"assistant","content":"Hi"},{"role":"user","content":"Which day is it?"}]}"#;

impl Bench {
    /// A bench for a guest of any language.
    pub fn around(engine: Engine, guest: Arc<Guest>) -> Self {
        let state = Arc::new(State::new(8, Log::to(Vec::new()).expect("a log").0));
        Bench { engine, guest, visit: visit(), world: Arc::new(Nowhere(state)) }
    }

    pub fn request(&self) -> Subject {
        let mut headers = HeaderMap::new();
        headers.insert("x-team", "blue".parse().expect("a value"));
        headers.insert("authorization", "Bearer secret".parse().expect("a value"));
        let envelope = Envelope::read(Bytes::from_static(ASK.as_bytes())).expect("reads");
        let call = Arc::new(Said { envelope, headers });
        Subject::Request(Arc::new(Request { visit: self.visit.clone(), call, plan: Vec::new() }))
    }

    pub fn cx(&self, phase: Phase) -> Cx {
        Cx {
            guest: self.guest.clone(),
            phase,
            visit: self.visit.clone(),
            world: Some(self.world.clone()),
            lease: Lease::new(self.guest.budget.of(phase)),
            awaits: false,
        }
    }

    pub fn call_with(&self, phase: Phase, subject: Subject) -> (Result<Verdict, Failed>, Used) {
        self.engine.call_now(self.cx(phase), subject)
    }

    pub fn call(&self, phase: Phase) -> Result<Verdict, Failed> {
        self.call_with(phase, self.request()).0
    }

    pub async fn wait(&self, phase: Phase) -> (Result<Verdict, Failed>, Used) {
        self.engine.call(self.cx(phase), self.request()).await
    }
}
