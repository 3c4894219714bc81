//! The same behaviour from a script and from a plugin, and plugins that want to hurt.
//!
//! The plugin is `plugins/prebuilt/probe.wasm`, which does as its settings tell it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::guest::lua::tests::support::{self, Bench};
use crate::guest::tests::{
    PAST, PAST_UNOPTIMISED, Resident, assert_gives_way, assert_gives_way_to_sockets, thread_time,
};
use crate::guest::verdict::Body;
use crate::guest::view;
use crate::guest::{Engine, Failed, Verdict};
use crate::host::{Budget, FUNCTIONS, Grants, Killed};
use crate::route::Secret;

/// Time is for the tests of time: a busy machine must not fail the others.
const AMPLE: Budget = Budget {
    cpu: Duration::from_secs(2),
    total: Duration::from_secs(9),
    memory: 16 << 20,
    wait: Duration::from_secs(60),
    safepoints: 200_000,
    host_calls: 1000,
    output: 1 << 20,
};

fn guest(budget: Budget, metrics: BTreeMap<String, crate::host::metrics::Declared>) -> Arc<Guest> {
    let mut grants = Grants::default();
    grants.secrets.insert("pepper".into(), Secret("hush".into()));
    grants.models.push("judge".into());
    Arc::new(Guest { name: "test".into(), grants, budget, metrics })
}

fn described() -> Arc<Described> {
    static PROBE: OnceLock<Arc<Described>> = OnceLock::new();
    let load = || {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/prebuilt/probe.wasm");
        let bytes = Bytes::read(&path).expect("is checked in");
        let machine = Arc::new(Machine::new().expect("runs here"));
        let loading = Loading {
            machine: &machine,
            compiled: None,
            name: "probe",
            lease: crate::guest::adapter::Lease::default(),
            memory_by: None,
            config: String::new(),
        };
        Described::load(&loading, &bytes, &guest(AMPLE, BTreeMap::new())).expect("is a policy")
    };
    PROBE.get_or_init(load).clone()
}

/// The plugin that does as it is told.
pub(in crate::guest) fn try_probe(told: &Value, budget: Budget) -> Result<Bench, String> {
    let described = described();
    let guest = guest(budget, described.manifest.metrics.clone());
    let policy = Policy::start(&described, &guest, told.to_string())?;
    Ok(Bench::around(Engine::Wasm(policy), guest))
}

fn probe(told: Value) -> Bench {
    try_probe(&told, AMPLE).expect("starts")
}

/// What a policy answered in its own words.
fn words(verdict: Result<Verdict, Failed>, what: &str) -> String {
    match verdict {
        Ok(Verdict::Respond(respond)) => match respond.body {
            Body::Raw(text) => text,
            other => panic!("{what}: {other:?}"),
        },
        other => panic!("{what}: {other:?}"),
    }
}

/// What a script and the plugin say, each asked in its own way.
fn both(expression: &str, told: &str) -> (String, String) {
    let script = format!("function on_request(req, ctx)\n  return gw.respond(200, tostring({expression}))\nend");
    let script = words(support::load(&script).call(Phase::Request), expression);
    (script, words(probe(json!({ "request": told })).call(Phase::Request), told))
}

#[test]
fn both_languages_see_the_same_request() {
    for (expression, what, value) in [
        ("req.id", "id", "gen-1"),
        ("req.model", "model", "fast"),
        ("req.stream", "stream", "true"),
        ("req.max_tokens", "max_tokens", "64"),
        ("req.temperature", "temperature", "0.5"),
        ("req.message_count", "message_count", "4"),
        ("req.tool_count", "tool_count", "1"),
        ("req.key", "key", "search-prod"),
        ("req.project", "project", "search"),
        ("req.peer", "peer", "10.0.0.1"),
        ("req:header('X-Team')", "header", "blue"),
        ("req:header('authorization')", "credential", "nil"),
        ("req:metadata('tier')", "metadata", "gold"),
        ("req:metadata('none')", "no_metadata", "nil"),
        ("req:param('max_tokens')", "param", "64"),
        ("req:system()", "system", "Be short."),
        ("req:message(1).text", "first", "Hello"),
        ("req:message(-1).text", "last", "Which day is it?"),
        ("req:message(9)", "ninth", "nil"),
        ("#req:messages()", "messages", "3"),
        ("req:last_user()", "last_user", "Which day is it?"),
        ("req:texts()[1].role", "text", "system"),
        ("#req:plan()", "plan", "0"),
    ] {
        assert_eq!(both(expression, &format!("see {what}")), (value.to_owned(), value.to_owned()), "{what}");
    }
    let see = |what: &str| words(probe(json!({ "request": format!("see {what}") })).call(Phase::Request), what);
    assert_eq!(see("headers"), "x-team", "no credentials in bulk either");
    assert_eq!(see("body"), "\"model\"");
    assert_eq!(see("rest"), "1", "what is asked for beyond the end is not there");
}

#[test]
fn both_languages_get_the_same_from_host_functions() {
    for (expression, what, value) in [
        ("gw.re.match('(a+)(b)', 'xaab')[2]", "re.match", "aa"),
        ("gw.re.test('^x', 'yx')", "re.test", "false"),
        ("select(2, gw.re.replace('[0-9]', 'a1b2', '#'))", "re.replace", "2"),
        ("gw.re.find('a', 'banana')[2].first - 1", "re.find", "3"),
        ("gw.hash.sha256('abc'):sub(1, 8)", "hash.sha256", "ba7816bf"),
        ("gw.hash.unbase64(gw.hash.base64('hey'))", "hash.unbase64", "hey"),
        (
            "gw.hash.hmac_sha256(gw.secret.get('pepper'), 'x') == gw.hash.hmac_sha256('hush', 'x')",
            "hash.secret",
            "true",
        ),
        (
            "tostring(pcall(gw.secret.get, 'pepper')) .. tostring((pcall(gw.secret.get, 'other')))",
            "secret.granted",
            "truefalse",
        ),
        ("gw.time.now_ms()", "time.now_ms", "1700000000000"),
        ("gw.time.date().weekday", "time.weekday", "2"),
        ("gw.time.elapsed_ms() >= 0", "time.elapsed", "true"),
        ("gw.rand.int(1, 3)", "rand.int", "2"),
        ("#gw.rand.id()", "rand.id", "24"),
        ("gw.pick.weighted({ a = 1, b = 0 })", "pick.weighted", "a"),
        ("gw.pick.hash({ 'a' }, 'k')", "pick.hash", "a"),
        ("gw.cache.get('none')", "cache.get", "nil"),
        ("(function() gw.cache.set('c', 'v', 60) return gw.cache.get('c') end)()", "cache.set", "v"),
        ("gw.kv.incr('n') + gw.kv.incr('n', 4, 60)", "kv.incr", "6"),
        ("tostring(gw.kv.add('a', 'x', 60)) .. tostring(gw.kv.add('a', 'y'))", "kv.add", "truefalse"),
        ("tostring(gw.kv.swap('s', nil, '1')) .. tostring(gw.kv.swap('s', '2', '3'))", "kv.swap", "truefalse"),
        ("gw.tokens.estimate('abcdefgh')", "tokens.estimate", "2"),
        ("gw.targets.models()[1]", "targets.models", "fast"),
    ] {
        assert_eq!(both(expression, &format!("call {what}")), (value.to_owned(), value.to_owned()), "{what}");
    }
}

#[test]
fn a_host_function_that_refuses_says_what_to_do() {
    let call = |what: &str| words(probe(json!({ "request": format!("call {what}") })).call(Phase::Request), what);
    for (what, said) in [
        ("re.wrong", "refused:"),
        ("kv.others", "the namespace `others` is not granted"),
        ("cost.estimate", "No model is called `nobody/x`"),
        ("metrics.unknown", "the manifest declares no metric `nothing`"),
        ("llm.ask", "nothing may wait"),
    ] {
        let answer = call(what);
        let waits = what == "llm.ask" && answer.contains("waits");
        assert!(answer.contains(said) || waits, "{what}: {answer}");
    }
    for (what, said) in [
        ("trace.note", "noted"),
        ("metrics.count", "counted"),
        ("targets.get", "false"),
        ("ctx", "Some(Kept::Number(4.0))"),
        ("limit", "true 1 false true"),
        ("json.get", "{\"b\":\"x\"}"),
        ("json.quote", "\"a\\\"b\""),
    ] {
        assert_eq!(call(what), said, "{what}");
    }
}

#[test]
fn a_weight_that_is_none_ends_the_call() {
    let failed = probe(json!({ "request": "call pick.infinite" })).call(Phase::Request).expect_err("ends");
    assert!(failed.message.contains("the weight of `a` is inf"), "{}", failed.message);
}

#[test]
fn what_tools_are_called_with_goes_to_the_export_for_it() {
    let bench = probe(json!({ "event": "drop", "arguments": "tell" }));
    assert!(described().manifest.arguments, "it exports on-arguments");
    let hear = |kind, tool: Option<&str>, text: &str| {
        let event = view::Event { kind, tool: tool.map(Into::into), text: text.to_owned(), ..view::Event::default() };
        bench.call_with(Phase::Event, Subject::Event(Arc::new(event))).0
    };
    assert_eq!(hear("text", None, "Hi"), Ok(Verdict::Text(String::new())));
    assert_eq!(hear("arguments", Some("f"), "{}"), Ok(Verdict::Text(String::new())));
    assert_eq!(hear("end", Some("f"), ""), Ok(Verdict::Text("\"f:arguments:{} f:end: \"".to_owned())));
    let stopped = probe(json!({ "arguments": "stop" }));
    let event = view::Event { kind: "arguments", tool: Some("f".into()), ..view::Event::default() };
    let verdict = stopped.call_with(Phase::Event, Subject::Event(Arc::new(event))).0.expect("decides");
    assert!(matches!(verdict, Verdict::Stop(stop) if stop.code.as_deref() == Some("no_tools")));
}

#[tokio::test]
async fn a_plugin_waits_where_it_may() {
    for (what, said) in [
        ("time.sleep", "slept"),
        ("llm.ask", "yes"),
        ("llm.other", "the model `other` is not granted"),
        ("http.other", "not granted"),
    ] {
        let (verdict, used) = probe(json!({ "request": format!("call {what}") })).wait(Phase::Request).await;
        let answer = words(verdict, what);
        assert!(answer.contains(said), "{what}: {answer}");
        assert!(used.cpu < Duration::from_secs(1), "waiting is not working");
    }
}

#[test]
fn both_languages_decide_the_same() {
    let script = support::load(
        "return {
           on_request = function(req)
             return { model = 'smart', params = { temperature = 0, top_p = gw.null }, system = 'S',
                      messages = { 1, { role = 'user', text = 'More' } }, texts = { [2] = 'x' } }
           end,
           on_route = function(req)
             return { steps = { 'a/x', { target = 'b/y', weight = 3, timeout_ms = 500, params = { seed = 1 } } },
                      mode = 'weighted', max_attempts = 2, deadline_ms = 9000 }
           end,
         }",
    );
    let plugin = probe(json!({ "request": "patch", "route": "plan" }));
    for phase in [Phase::Request, Phase::Route] {
        let decided = script.call(phase).expect("decides");
        assert_ne!(decided, Verdict::Pass);
        assert_eq!(plugin.call(phase).expect("decides"), decided, "{phase:?}");
    }
    let script = "function on_request(req) return gw.reject('not_here', 'Not here.', 451, 1500) end";
    let script = support::load(script).call(Phase::Request);
    let plugin = probe(json!({ "request": "reject" })).call(Phase::Request);
    assert_eq!(plugin.expect("decides").name(), script.expect("decides").name());
}

#[test]
fn a_field_that_can_be_read_in_two_ways_ends_the_call_and_its_caller_hears_of_it() {
    let mut bench = probe(json!({ "request": "see param" }));
    let ask = |bound: &str| format!(r#"{{"model":"fast","max_tokens":{bound},"messages":[]}}"#);
    for bound in [r#"{"a":1,"a":2}"#, r#"[{"a":{"b":1,"\u0062":2}}]"#] {
        bench.ask(ask(bound)).expect("an ask");
        let failed = bench.call(Phase::Request).expect_err(bound);
        assert!(failed.message.contains("this request cannot be read: "), "{bound}: {}", failed.message);
        assert!(bench.visit.unreadable(&failed.message).is_some(), "{bound}: its caller hears of it");
    }
    bench.ask(ask(r#"{"a":1,"b":2}"#)).expect("an ask");
    assert_eq!(words(bench.call(Phase::Request), "see param"), r#"{"a":1,"b":2}"#);
}

#[test]
fn a_verdict_that_means_nothing_is_a_failure() {
    let failed = |told: Value, phase| probe(told).call(phase).expect_err("fails").message;
    assert!(failed(json!({ "request": "nonsense" }), Phase::Request).contains("400 to 599"));
    assert!(failed(json!({ "route": "nobody" }), Phase::Route).contains("without steps"));
    assert_eq!(failed(json!({ "request": "error" }), Phase::Request), "as told");
}

#[test]
fn settings_that_it_does_not_take_are_refused() {
    assert!(try_probe(&json!({ "init": "why" }), AMPLE).err().expect("refuses").contains("refuses its settings: why"));
    assert!(try_probe(&json!({ "init": "trap" }), AMPLE).err().expect("breaks").contains("on_init broke"));
    let kv = try_probe(&json!({ "init": "kv" }), AMPLE).err().expect("is too early");
    assert!(kv.contains(": kv.") && kv.contains(" cannot be called in on-init; it is there in on-auth, "), "{kv}");
}

#[test]
fn a_handle_is_good_for_its_own_call_only() {
    let bench = probe(json!({ "request": "keep" }));
    assert_eq!(bench.call(Phase::Request), Ok(Verdict::Pass));
    let (failed, used) = bench.call_with(Phase::Request, bench.request());
    assert!(failed.expect_err("is over").message.contains("the call that this was given to has ended"));
    assert!(used.replaced, "what holds on to another's exchange is thrown away");
    assert_eq!(bench.call(Phase::Request), Ok(Verdict::Pass), "a new one keeps nothing yet");
}

#[test]
fn every_runaway_is_stopped_and_the_next_call_is_served() {
    for (how, killed) in [
        ("loop", Some(Killed::Deadline)),
        ("recurse", None),
        ("forge", None),
        ("trap", None),
        ("grow", Some(Killed::Memory)),
        ("storm", Some(Killed::HostCalls)),
        ("chatter", Some(Killed::Output)),
        ("huge", Some(Killed::Output)),
    ] {
        // What ends by another bound must get there on a busy machine, too.
        let cpu = Duration::from_millis(if how == "loop" { 30 } else { 300 });
        let tight = Budget { cpu, total: Duration::from_millis(900), ..AMPLE };
        let bench = try_probe(&json!({ "request": how }), tight).expect("starts");
        let began = thread_time();
        let (outcome, used) = bench.call_with(Phase::Request, bench.request());
        let took = thread_time() - began;
        let failed = outcome.expect_err(how);
        assert_eq!(failed.killed, killed, "{how}: {}", failed.message);
        assert!(used.replaced, "{how}");
        // Code of a guest is as fast in every build; that of the gateway under it is not.
        let most = tight.cpu + if how == "loop" { PAST } else { PAST_UNOPTIMISED };
        assert!(took < most, "{how} went on for {took:?}, more than {most:?}");
        assert_eq!(bench.call(Phase::Route), Ok(Verdict::Pass), "after {how}");
    }
}

/// The clock is held still but for waits, so that it is exact about them.
#[tokio::test(start_paused = true)]
async fn whoever_sleeps_is_over_with_its_lease() {
    let tight = Budget { cpu: Duration::from_millis(30), total: Duration::from_secs(60), ..AMPLE };
    for how in ["sleep", "naps"] {
        let bench = try_probe(&json!({ "request": how }), tight).expect("starts");
        let began = tokio::time::Instant::now();
        let (outcome, used) = bench.wait(Phase::Request).await;
        let (failed, took) = (outcome.expect_err(how), began.elapsed());
        assert_eq!(failed.killed, Some(Killed::Deadline), "{how}: {}", failed.message);
        assert!(took >= Duration::from_millis(29) && took <= tight.cpu + PAST, "{how} went on for {took:?}");
        assert!(used.replaced && used.cpu >= Duration::from_millis(29), "{how}: {used:?}");
        assert_eq!(bench.wait(Phase::Route).await.0, Ok(Verdict::Pass), "after {how}");
    }
    // All that an exchange may take together bounds its sleeps too.
    let bench = try_probe(&json!({ "request": "sleep" }), Budget { total: Duration::from_millis(40), ..tight });
    let bench = bench.expect("starts");
    let began = tokio::time::Instant::now();
    for _ in 0..3 {
        bench.wait(Phase::Request).await.0.expect_err("sleeps");
    }
    assert!(began.elapsed() <= Duration::from_millis(40) + PAST, "{:?}", began.elapsed());
    let before = Resident::now();
    let bench = try_probe(&json!({ "request": "sleep" }), tight).expect("starts");
    for _ in 0..200 {
        let mut cx = bench.cx(Phase::Request);
        cx.visit = Arc::new(Visit::nobody(0));
        bench.engine.call(cx, bench.request()).await.0.expect_err("sleeps");
    }
    before.assert_same("200 sleepers");
}

#[test]
fn there_are_no_files_and_no_sockets() {
    let failed = probe(json!({ "request": "files" })).call(Phase::Request).expect_err("finds nothing");
    assert!(failed.message.contains("nothing there"), "{}", failed.message);
}

#[tokio::test]
async fn others_go_on_while_a_policy_runs_away() {
    let endless = Budget { cpu: Duration::from_secs(60), total: Duration::from_secs(60), ..AMPLE };
    let bench = try_probe(&json!({ "request": "loop" }), endless).expect("starts");
    assert_gives_way(bench.wait(Phase::Request), "a loop").await;
    let short = Budget { cpu: Duration::from_millis(30), ..AMPLE };
    let bench = try_probe(&json!({ "request": "loop" }), short).expect("starts");
    assert_eq!(bench.wait(Phase::Request).await.0.expect_err("is stopped").killed, Some(Killed::Deadline));
}

#[tokio::test]
async fn sockets_are_looked_at_between_two_turns() {
    let endless = Budget { cpu: Duration::from_secs(60), total: Duration::from_secs(60), ..AMPLE };
    let bench = try_probe(&json!({ "request": "loop" }), endless).expect("starts");
    assert_gives_way_to_sockets(bench.wait(Phase::Request)).await;
}

/// 10,000 traps with `PORTCULLIS_SOAK=1`, 300 without.
#[test]
fn traps_leak_nothing() {
    let bench = probe(json!({ "request": "trap" }));
    let rounds = if std::env::var_os("PORTCULLIS_SOAK").is_some() { 10_000 } else { 300 };
    for _ in 0..50 {
        bench.call(Phase::Request).expect_err("traps");
    }
    let before = Resident::now();
    for _ in 0..rounds {
        bench.call(Phase::Request).expect_err("traps");
    }
    // Other tests run beside this one; a leak of one instance a trap would be 64 KiB times 300.
    before.assert_same(&format!("{rounds} traps"));
}

/// A policy may keep every handle that it is given, as engines do that collect their garbage when they like: each instance
/// ends after so many calls, and its handles with it.
#[test]
fn handles_that_are_kept_cost_nobody_anything() {
    let bench = probe(json!({ "request": "hoard" }));
    let call = |round| assert_eq!(bench.call(Phase::Request), Ok(Verdict::Pass), "call {round}");
    (0..100).for_each(call);
    let before = Resident::now();
    (0..10_000).for_each(call);
    // As above; the exchanges themselves, if a handle held them, would be ten times as much.
    before.assert_same("10,000 kept handles");
}

/// Rows that the contract spells another way, and why.
const OTHERWISE: &[(&str, &str)] = &[
    // One function with a level: an enum is what every language has.
    ("log.debug", "log.write"),
    ("log.info", "log.write"),
    ("log.warn", "log.write"),
    ("log.error", "log.write"),
    // There is no value of any type to decode to.
    ("json.decode", "json.get"),
    ("json.encode", "json.quote"),
    // A secret is named where it is used; nobody holds one.
    ("secret.get", "secret.granted"),
];

#[test]
fn the_contract_has_what_the_tables_have() {
    let read = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/wit").join(name);
        std::fs::read_to_string(path).expect("is checked in")
    };
    let (host, policy) = (read("host.wit"), read("policy.wit"));
    let block = |text: &str, head: &str| -> String {
        let from = text.find(&format!("{head} {{")).unwrap_or_else(|| panic!("no {head}"));
        let rest = &text[from..];
        let indent = rest.find('\n').map_or(0, |line| rest[line + 1..].len() - rest[line + 1..].trim_start().len());
        let end = format!("\n{}}}", " ".repeat(indent.saturating_sub(2)));
        rest[..rest.find(&end).expect("its end")].to_owned()
    };
    let has = |text: &str, name: &str| {
        let kebab = name.replace('_', "-");
        text.lines().any(|line| line.trim_start().trim_start_matches('%').starts_with(&format!("{kebab}: ")))
    };
    for row in FUNCTIONS {
        let name = OTHERWISE.iter().find(|(known, _)| *known == row.name).map_or(row.name, |(_, other)| other);
        let (module, function) = name.split_once('.').expect("module.function");
        assert!(has(&block(&host, &format!("interface {module}")), function), "the contract lacks {}", row.name);
    }
    fn names<V: crate::guest::view::View>(methods: bool) -> Vec<&'static str> {
        let rows = V::FIELDS.iter().chain(if methods { V::METHODS } else { &[] });
        rows.map(|(name, _, _)| *name).filter(|name| *name != "request").collect()
    }
    use crate::guest::view;
    for (names, blocks) in [
        (names::<view::Head>(true), &["record head-facts", "resource head"][..]),
        (names::<view::Request>(true), &["record request-facts", "resource request"]),
        (names::<view::Try>(false), &["record attempt"]),
        (names::<view::Failure>(false), &["record failure"]),
        (names::<view::Answer>(true), &["record answer-facts", "resource answer"]),
        (names::<view::Event>(false), &["record event"]),
        (names::<view::Done>(false), &["record done"]),
    ] {
        let text: String = blocks.iter().map(|head| block(&policy, head)).collect();
        // The tool is told beside an event, by the phase that is for what it is called with.
        assert!(policy.contains("handle: func(tool: string, next: event)"));
        for name in names.into_iter().filter(|name| (blocks[0], *name) != ("record event", "tool")) {
            assert!(has(&text, name), "{blocks:?} lacks {name}");
        }
    }
    for phase in Phase::ALL {
        assert!(phase == Phase::Init || policy.contains(&format!("interface on-{} {{", phase.name())), "{phase:?}");
    }
}
