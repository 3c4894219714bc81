//! What policies cost: a route hook, three hooks with six host calls, and a stream event, each against no hook at all; and
//! what a policy that runs away costs its neighbours.
//!
//! Calls the engine as the pipeline does, views, leases and verdicts included; sockets and dialects are not here.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::guest::stand::{Stand, bundle};
use portcullis::guest::view::Subject;
use portcullis::host::{Budget, Grants, Phase};
use tokio::time::Instant;

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

fn stand(text: &str) -> Stand {
    Stand::luau(bundle(text), Budget::default(), serde_json::json!({}), Grants::default()).expect("loads")
}

fn call(stand: &Stand, phase: Phase, subject: Subject) {
    let (verdict, used) = stand.call_with(phase, subject);
    black_box((verdict.expect("a verdict"), used));
}

fn policies(criterion: &mut Criterion) {
    let mut route = stand(ROUTE);
    criterion.bench_function("visit alone", |bench| {
        bench.iter(|| {
            route.renew();
            black_box(&route.visit);
        });
    });
    criterion.bench_function("route hook, six fields, a plan (P8)", |bench| {
        bench.iter(|| {
            route.renew();
            call(&route, Phase::Route, route.request());
        });
    });
    let mut three = stand(THREE);
    criterion.bench_function("three hooks, six host calls (P9)", |bench| {
        bench.iter(|| {
            three.renew();
            for phase in [Phase::Request, Phase::Route, Phase::Done] {
                call(&three, phase, three.request());
            }
        });
    });
    let event = stand(EVENT);
    criterion.bench_function("event hook, one event (P10)", |bench| {
        bench.iter(|| call(&event, Phase::Event, event.event("some words of an answer")));
    });
}

/// A runaway, as it is called again and again on another thread.
const RUNAWAY: &str = "function on_request() while true do local t = {} for i = 1, 100 do t[i] = { i } end end end";

/// The 99th hundredth of the times of a good call, in nanoseconds.
fn p99(stand: &mut Stand) -> f64 {
    let mut times: Vec<u64> = (0..20_000)
        .map(|_| {
            stand.renew();
            let began = Instant::now();
            call(stand, Phase::Route, stand.request());
            began.elapsed().as_nanos() as u64
        })
        .collect();
    times.sort_unstable();
    times[times.len() * 99 / 100] as f64
}

/// Prints by how much the p99 of calls moves beside a runaway: the median of pairs, one after the other. And how long the
/// runaway goes on. Only under `cargo bench`: a test run has no use for figures, and less than the cores that they take.
#[expect(clippy::print_stdout, reason = "a figure for whoever runs it")]
fn neighbours(_: &mut Criterion) {
    if !std::env::args().any(|word| word == "--bench") {
        return;
    }
    let mut route = stand(ROUTE);
    let stop = Arc::new(AtomicBool::new(true));
    let beside = stop.clone();
    let runaway = std::thread::spawn(move || {
        let mut worst = 0;
        let hostile = stand(RUNAWAY);
        while Arc::strong_count(&beside) > 1 {
            if beside.load(Ordering::Relaxed) {
                std::thread::yield_now();
                continue;
            }
            let began = Instant::now();
            black_box(hostile.call(Phase::Request).expect_err("it is stopped"));
            worst = worst.max(began.elapsed().as_micros());
        }
        worst
    });
    let mut ratios: Vec<f64> = (0..15)
        .map(|_| {
            stop.store(true, Ordering::Relaxed);
            let alone = p99(&mut route);
            stop.store(false, Ordering::Relaxed);
            p99(&mut route) / alone
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    drop(stop);
    let worst = runaway.join().expect("ends");
    println!("p99 beside a runaway, of p99 alone: {:.3} (median of {})", ratios[ratios.len() / 2], ratios.len());
    println!("longest call of the runaway: {worst} us");
}

/// The same from a plugin: two headers and a host function in `on-request`, nothing in `on-route`.
#[cfg(feature = "wasm")]
fn plugins(criterion: &mut Criterion) {
    use std::collections::BTreeMap;
    use std::path::Path;

    use portcullis::guest::Engine;
    use portcullis::guest::adapter::Lease as Bounds;
    use portcullis::guest::wasm::{Bytes, Compiled, Described, Loading, Machine, Policy};
    use portcullis::host::Guest;

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
        memory_by: None,
        config: String::new(),
    };
    let (grants, budget) = (Grants::default(), Budget::default());
    let guest = Arc::new(Guest { name: "probe".into(), grants, budget, metrics: BTreeMap::new() });
    let described = Described::load(&loading, &bytes, &guest).expect("loads");
    criterion.bench_function("plugin from the compiled cache (P13)", |bench| {
        bench.iter(|| black_box(Described::load(&loading, &bytes, &guest).expect("loads")));
    });
    let policy = Policy::start(&described, &guest, r#"{"request":"look"}"#.to_owned()).expect("starts");
    let mut look = Stand::around(Engine::Wasm(policy.clone()), guest);
    let mut once = || {
        look.renew();
        call(&look, Phase::Request, look.request());
        call(&look, Phase::Route, look.request());
    };
    criterion
        .bench_function("plugin, request and route, two headers, one host call (P11)", |bench| bench.iter(&mut once));
    criterion.bench_function("the same with a fresh instance (P11)", |bench| {
        bench.iter(|| {
            policy.cool();
            once();
        });
    });
}

#[cfg(not(feature = "wasm"))]
fn plugins(_: &mut Criterion) {}

criterion_group!(benches, policies, neighbours, plugins);
criterion_main!(benches);
