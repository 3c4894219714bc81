//! What policies cost: a route hook, three hooks with six host calls, and a stream event, each against no hook at all.
//!
//! Calls the engine as the pipeline does, views, leases and verdicts included; sockets and dialects are not here.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use portcullis::auth::Principal;
use portcullis::chat;
use portcullis::dialect::{self, Op, RawAsk};
use portcullis::fault::Fault;
use portcullis::guest::bundle::{Bundle, Manifest, Source};
use portcullis::guest::view::{Asked, Event, Request, Subject};
use portcullis::guest::{self, Engine, Wanted};
use portcullis::host::visit::Facts;
use portcullis::host::{Budget, Cx, Grants, Guest, HostError, Lease, Pending, Phase, Visit, World, llm};
use portcullis::json::Envelope;
use portcullis::route::Target;
use portcullis::state::State;
use portcullis::state::log::Log;
use portcullis::upstream::Upstream;

/// A route hook that reads six fields and returns a plan.
const ROUTE: &str = "function on_route(req, ctx)
  local tier = req:metadata('tier')
  if req.stream and tier == 'gold' and req.tokens < 8000 and req.model == 'fast' and req.tool_count == 0 then
    return { steps = { 'openai/gpt-5-mini', { target = 'anthropic/claude-haiku', timeout_ms = 8000 } } }
  end
  return nil, req.project
end";

/// Three hooks with six host calls between them.
const THREE: &str = "function on_request(req, ctx)
  ctx:set('tier', req:metadata('tier'))
  if gw.re.test('^(fast|smart)$', req.model) then ctx:set('n', gw.tokens.estimate(req.model)) end
end
function on_route(req, ctx)
  local one = gw.pick.hash({ 'openai/gpt-5-mini', 'anthropic/claude-haiku' }, req.key)
  return { one, gw.time.elapsed_ms() > 1e9 and 'x/y' or 'openai/gpt-5' }
end
function on_done(req, ctx)
  gw.time.now_ms()
  return { tier = ctx:get('tier'), r = gw.rand.number() }
end";

const EVENT: &str = "function on_event(e) if string.find(e.text, 'secret', 1, true) then return '' end end";

struct Nowhere(Arc<State>);

impl World for Nowhere {
    fn state(&self) -> &Arc<State> {
        &self.0
    }

    fn targets(&self, model: &str) -> Result<Vec<Arc<Target>>, String> {
        Err(model.to_owned())
    }

    fn models(&self) -> Vec<String> {
        Vec::new()
    }

    fn upstream(&self) -> Arc<dyn Upstream> {
        unreachable!("no benchmark asks outside")
    }

    fn ask(&self, _: Arc<Visit>, _: llm::Ask) -> Pending<llm::Answer> {
        Box::pin(async { Err(HostError::new("no benchmark asks a model")) })
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
        dialect::DIALECTS[0].decode_ask(&raw).map(Arc::new)
    }
}

struct Bench {
    engine: Engine,
    guest: Arc<Guest>,
    world: Arc<dyn World>,
    call: Arc<Said>,
    principal: Arc<Principal>,
}

impl Bench {
    fn new(text: &str) -> Bench {
        let main = Source { label: "bench.luau".into(), text: text.into() };
        let bundle = Bundle {
            name: "bench".into(),
            manifest: Manifest::default(),
            main,
            modules: BTreeMap::new(),
            files: Vec::new(),
            digest: String::new(),
        };
        let budget = Budget::default();
        let guest =
            Arc::new(Guest { name: "bench".into(), grants: Grants::default(), budget, metrics: BTreeMap::new() });
        let wanted =
            Wanted { guest: guest.clone(), bundle: Arc::new(bundle), config: serde_json::json!({}), domain: None };
        Bench::around(guest::load(vec![wanted], 1).expect("loads").remove(0), guest)
    }

    fn around(engine: Engine, guest: Arc<Guest>) -> Bench {
        let log = Log::to(Vec::new()).expect("a log").0;
        let body = format!(
            r#"{{"model":"fast","stream":true,"max_tokens":64,"messages":[{{"role":"user","content":"{}"}}]}}"#,
            "x".repeat(200)
        );
        let envelope = Envelope::read(Bytes::from(body)).expect("reads");
        let principal = Principal {
            key: "search-prod".into(),
            project: Some("search".into()),
            metadata: [("tier".to_owned(), "gold".to_owned())].into(),
            models: Vec::new(),
            expires: None,
            disable_fallbacks: false,
            trace: false,
        };
        Bench {
            engine,
            guest,
            world: Arc::new(Nowhere(Arc::new(State::new(8, log)))),
            call: Arc::new(Said { envelope, headers: HeaderMap::new() }),
            principal: Arc::new(principal),
        }
    }

    /// What the pipeline makes of every exchange that has guests.
    fn visit(&self) -> Arc<Visit> {
        let visit = Visit::new(Facts {
            id: "gen-0123456789abcdef01234567".into(),
            request_id: "gen-0123456789abcdef01234567".into(),
            endpoint: "/v1/chat/completions",
            dialect: "openai_chat",
            op: "chat",
            peer: None,
            started: tokio::time::Instant::now(),
            started_ms: 1,
            generation: 1,
            depth: 0,
            traced: false,
        });
        visit.identify(self.principal.clone());
        Arc::new(visit)
    }

    fn request(&self, visit: &Arc<Visit>) -> Subject {
        Subject::Request(Arc::new(Request { visit: visit.clone(), call: self.call.clone(), plan: Vec::new() }))
    }

    fn call(&self, visit: &Arc<Visit>, phase: Phase, subject: Subject) {
        let cx = Cx {
            guest: self.guest.clone(),
            phase,
            visit: visit.clone(),
            world: Some(self.world.clone()),
            lease: Lease::new(self.guest.budget.of(phase)),
            awaits: false,
        };
        let (verdict, used) = self.engine.call_now(cx, subject);
        black_box((verdict.expect("a verdict"), used));
    }
}

fn policies(criterion: &mut Criterion) {
    let route = Bench::new(ROUTE);
    criterion.bench_function("visit alone", |bench| bench.iter(|| black_box(route.visit())));
    criterion.bench_function("route hook, six fields, a plan (P8)", |bench| {
        bench.iter(|| {
            let visit = route.visit();
            route.call(&visit, Phase::Route, route.request(&visit));
        });
    });
    let three = Bench::new(THREE);
    criterion.bench_function("three hooks, six host calls (P9)", |bench| {
        bench.iter(|| {
            let visit = three.visit();
            three.call(&visit, Phase::Request, three.request(&visit));
            three.call(&visit, Phase::Route, three.request(&visit));
            three.call(&visit, Phase::Done, three.request(&visit));
        });
    });
    let event = Bench::new(EVENT);
    let visit = event.visit();
    criterion.bench_function("event hook, one event (P10)", |bench| {
        bench.iter(|| {
            let view = Event {
                visit: visit.clone(),
                kind: "text",
                text: "some words of an answer".into(),
                choice: 0,
                index: 0,
                merged: 1,
            };
            event.call(&visit, Phase::Event, Subject::Event(Arc::new(view)));
        });
    });
}

/// The same from a plugin: two headers and a host function in `on-request`, nothing in `on-route`.
#[cfg(feature = "wasm")]
fn plugins(criterion: &mut Criterion) {
    use std::path::Path;

    use portcullis::guest::wasm::{Bytes, Compiled, Described, Lease as Bounds, Loading, Machine, Policy};

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/prebuilt/probe.wasm");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-plugins");
    let bytes = Bytes::read(&path).expect("is checked in");
    let machine = Arc::new(Machine::new().expect("runs here"));
    let compiled = Compiled::open(&folder).expect("can be written to");
    let loading = Loading {
        machine: &machine,
        compiled: Some(&compiled),
        name: "probe",
        lease: Bounds::default(),
        config: String::new(),
    };
    let (grants, budget) = (Grants::default(), Budget::default());
    let guest = Arc::new(Guest { name: "probe".into(), grants, budget, metrics: BTreeMap::new() });
    let described = Described::load(&loading, &bytes, &guest).expect("loads");
    criterion.bench_function("plugin from the compiled cache (P13)", |bench| {
        bench.iter(|| black_box(Described::load(&loading, &bytes, &guest).expect("loads")));
    });
    let policy = Policy::start(&described, &guest, r#"{"request":"look"}"#.to_owned()).expect("starts");
    let look = Bench::around(Engine::Wasm(policy.clone()), guest);
    let once = || {
        let visit = look.visit();
        look.call(&visit, Phase::Request, look.request(&visit));
        look.call(&visit, Phase::Route, look.request(&visit));
    };
    criterion.bench_function("plugin, request and route, two headers, one host call (P11)", |bench| bench.iter(once));
    criterion.bench_function("the same with a fresh instance (P11)", |bench| {
        bench.iter(|| {
            policy.cool();
            once();
        });
    });
}

#[cfg(not(feature = "wasm"))]
fn plugins(_: &mut Criterion) {}

criterion_group!(benches, policies, plugins);
criterion_main!(benches);
