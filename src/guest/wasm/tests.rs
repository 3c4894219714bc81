//! Plugins as they must behave, hostile ones too. They are the components in `plugins/prebuilt`.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes as Slice;
use http::HeaderMap;
use serde_json::json;
use tokio::time::Instant;

use super::plugin::{Bytes, Loading};
use super::provider::{Taught, nobody};
use super::{Machine, fixture};
use crate::body::Inbound;
use crate::chat::{Ask, Event};
use crate::dialect::adapter::{Adapter, Asking, Came, Written};
use crate::dialect::{Op, refusal};
use crate::fault::{Fault, Kind};
use crate::guest::adapter::{Function, Lease, Seen};
use crate::guest::tests::{PAST, Resident, assert_gives_way, assert_gives_way_to_sockets};
use crate::state::guests::{Guests, Outcome};
use crate::stream::Adapted;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins")
}

fn machine() -> Arc<Machine> {
    static MACHINE: OnceLock<Arc<Machine>> = OnceLock::new();
    MACHINE.get_or_init(|| Arc::new(Machine::new().expect("runs here"))).clone()
}

fn load(name: &str, lease: Lease, config: &str) -> Result<Arc<Taught>, String> {
    let bytes = Bytes::read(&root().join(format!("prebuilt/{name}.wasm"))).expect("is checked in");
    let machine = machine();
    let loading =
        Loading { machine: &machine, compiled: None, name, lease, memory_by: None, config: config.to_owned() };
    Taught::load(&loading, &bytes)
}

/// Little of everything, so that tests are short.
fn tight() -> Lease {
    Lease { cpu: Duration::from_millis(30), host_calls: 2_000, output: 4 << 20, ..Lease::default() }
}

fn hostile() -> Arc<Taught> {
    static HOSTILE: OnceLock<Arc<Taught>> = OnceLock::new();
    HOSTILE.get_or_init(|| load("hostile", tight(), "").expect("loads")).clone()
}

async fn encode(plugin: &Arc<Taught>, how: &str) -> Result<Written, Fault> {
    plugin.encode(&nobody(), how, Asking::Chat(&Ask { source: "openai_chat", ..Ask::default() })).await
}

#[tokio::test]
async fn shipped_adapters_do_what_their_fixtures_say() {
    for name in ["cohere", "replicate"] {
        let plugin = load(name, Lease::default(), "").expect("loads");
        let outcomes = fixture::run(&plugin, &root().join(name).join("fixtures"), false).await.expect("reads");
        assert!(outcomes.len() >= 4, "{name} has {} fixtures", outcomes.len());
        for outcome in outcomes {
            assert!(outcome.wrong.is_none(), "{name}/{}: {}", outcome.file, outcome.wrong.unwrap_or_default());
        }
    }
}

/// A folder of fixtures of these files, gone with it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn with(name: &str, files: &[(&str, serde_json::Value)]) -> Folder {
        let folder = std::env::temp_dir().join(format!("portcullis-adapter-fixtures-{}-{name}", std::process::id()));
        for (file, text) in files {
            let path = folder.join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("is writable");
            std::fs::write(path, text.to_string()).expect("is writable");
        }
        Folder(folder)
    }

    async fn run(&self, plugin: &Arc<Taught>) -> Vec<fixture::Outcome> {
        fixture::run(plugin, &self.0, false).await.expect("reads")
    }

    /// What is wrong with the only one.
    async fn wrong(&self, plugin: &Arc<Taught>) -> String {
        let outcomes = self.run(plugin).await;
        assert_eq!(outcomes.len(), 1, "{outcomes:?}");
        outcomes.into_iter().next().and_then(|outcome| outcome.wrong).expect("is wrong")
    }
}

#[tokio::test]
async fn a_fixture_is_refused_what_the_gateway_refuses() {
    let climb =
        json!({ "ask": { "model": "climb", "messages": [{ "role": "user", "content": "Hi" }] }, "request": {} });
    let wrong = Folder::with("out", &[("ask/a.json", climb)]).wrong(&hostile()).await;
    assert!(wrong.contains("The adapter's path `/../admin` does not stay below the base URL."), "{wrong}");
    let cohere = load("cohere", Lease::default(), "").expect("loads");
    let rerank = |results: serde_json::Value| {
        json!({
            "ask": { "model": "m", "query": "q", "documents": ["a", "b", "c"], "top_n": 2 },
            "body": { "id": "r", "results": results },
        })
    };
    let twice = json!([{ "index": 1, "relevance_score": 0.9 }, { "index": 1, "relevance_score": 0.8 }]);
    let wrong = Folder::with("twice", &[("rerank/a.json", rerank(twice))]);
    fixture::run(&cohere, &wrong.0, true).await.expect("writes");
    let read = |folder: &Folder, file: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(folder.0.join(file)).expect("is there")).expect("JSON")
    };
    let ranked = &read(&wrong, "rerank/a.json")["ranked"];
    assert_eq!(ranked["message"], "guest_failed: The adapter `wasm:cohere` ranks document 1 twice.");
    let unsorted = json!([
        { "index": 2, "relevance_score": 0.1 }, { "index": 0, "relevance_score": 0.5 }, { "index": 1, "relevance_score": 0.9 },
    ]);
    let sorted = Folder::with("sorted", &[("rerank/a.json", rerank(unsorted))]);
    fixture::run(&cohere, &sorted.0, true).await.expect("writes");
    assert_eq!(
        read(&sorted, "rerank/a.json")["ranked"],
        json!([[1, 0.9], [0, 0.5]]),
        "sorted and cut, as callers get it"
    );
}

#[tokio::test]
async fn a_fixture_says_why_an_error_could_not_be_read() {
    let broken =
        json!({ "status": 503, "body": "trap", "expected": { "code": "upstream_overloaded", "message": "trap" } });
    let wrong = Folder::with("broken", &[("error/a.json", broken)]).wrong(&hostile()).await;
    let told = "The adapter `hostile` failed in `decode_error`. (";
    assert!(wrong.starts_with(told) && wrong.contains("unreachable"), "{wrong}");
    // In service it goes into the line of the log.
    let (headers, body) = (HeaderMap::new(), Slice::from_static(b"trap"));
    let said = hostile().decode_error(&nobody(), Came { status: 503, headers: &headers, body: &body }).await;
    let fault = refusal::fault(refusal::read(said, 503), None);
    assert_eq!((fault.kind, fault.message.as_str()), (Kind::Overloaded, "trap"));
    assert_eq!(fault.source, Some(wrong));
}

#[tokio::test]
async fn fixtures_are_of_known_kinds_and_show_what_the_adapter_says() {
    let cohere = load("cohere", Lease::default(), "").expect("loads");
    let body = json!({ "id": "e", "embeddings": { "float": [[0.5, 1.0], [0.25, -1.0]] } });
    let ask = json!({ "model": "embed-v4.0", "input": ["a", "b"] });
    let folder = Folder::with("embed", &[("embed/two.json", json!({ "ask": ask, "body": body }))]);
    fixture::run(&cohere, &folder.0, true).await.expect("writes");
    let written = std::fs::read(folder.0.join("embed/two.json")).expect("is there");
    let written: serde_json::Value = serde_json::from_slice(&written).expect("JSON");
    assert_eq!(
        (&written["request"]["path"], &written["vectors"]),
        (&json!("/v2/embed"), &json!([[0.5, 1.0], [0.25, -1.0]]))
    );
    assert!(folder.run(&cohere).await.iter().all(|outcome| outcome.wrong.is_none()), "as it was blessed");
    let fewer = json!({ "id": "e", "embeddings": { "float": [[0.5]] } });
    let wrong = Folder::with("fewer", &[("embed/a.json", json!({ "ask": ask, "body": fewer }))]).run(&cohere).await;
    assert!(wrong[0].wrong.as_deref().is_some_and(|wrong| wrong.contains("expected")), "{wrong:?}");

    let unknown = |name: &'static str| Folder::with(name, &[(&*format!("{name}/a.json"), json!({}))]);
    let refused = async |folder: Folder| fixture::run(&cohere, &folder.0, false).await.expect_err("is of no kind");
    let told = refused(unknown("anser")).await;
    assert!(told.ends_with("no fixtures are of the kind `anser`; did you mean `answer`?"), "{told}");
    let told = refused(unknown("x")).await;
    assert!(told.ends_with("there are ask, answer, stream, error, embed, rerank, init"), "{told}");

    let chatter =
        json!({ "ask": { "model": "chatter", "messages": [{ "role": "user", "content": "Hi" }] }, "request": {} });
    let outcomes = Folder::with("chatter", &[("ask/a.json", chatter)]).run(&hostile()).await;
    assert!(outcomes[0].said[0].starts_with("log debug: xxx") && outcomes[0].said.len() == 1, "{:?}", outcomes[0].said);
    let files = [
        ("init/refused.json", json!({ "config": { "refuse": 1 }, "refused": "as told" })),
        ("init/taken.json", json!({ "config": { "other": 1 } })),
        ("init/wrong.json", json!({ "config": { "refuse": 1 } })),
    ];
    let outcomes = Folder::with("init", &files).run(&hostile()).await;
    let wrong: Vec<bool> = outcomes.iter().map(|outcome| outcome.wrong.is_some()).collect();
    assert_eq!(wrong, [false, false, true], "{outcomes:?}");
}

#[tokio::test]
async fn what_is_raised_is_what_was_set() {
    let bytes = Bytes::read(&root().join("prebuilt/hostile.wasm")).expect("is checked in");
    let (machine, lease) = (machine(), Lease { memory: 64 << 10, ..Lease::default() });
    let loading = |memory_by| {
        let config = String::new();
        Taught::load(&Loading { machine: &machine, compiled: None, name: "hostile", lease, memory_by, config }, &bytes)
    };
    let told = loading(None).expect_err("has no room");
    assert!(told.contains("raise `plugins.settings.hostile.memory`"), "{told}");
    let told = loading(Some("--memory")).expect_err("has no room");
    assert!(told.contains("raise `--memory`"), "{told}");
}

#[tokio::test]
async fn a_runaway_costs_its_own_call_and_no_more() {
    let plugin = hostile();
    for how in ["loop", "recurse", "trap", "grow", "storm", "heavy-storm", "huge", "hoard", "random"] {
        let began = Instant::now();
        let fault = encode(&plugin, how).await.expect_err(how);
        assert_eq!(fault.kind, Kind::GuestFailed, "{how}: {fault}");
        // Far above the lease, for machines under load; a guest that is not stopped would never end.
        assert!(began.elapsed() < Duration::from_secs(10), "{how} took {:?}", began.elapsed());
        encode(&plugin, "well").await.expect("the next call is served");
    }
}

#[tokio::test]
async fn what_broke_is_named() {
    let plugin = hostile();
    let looped = encode(&plugin, "loop").await.expect_err("stops").message;
    let long = "used up its 30ms of processor time in `encode`; raise `plugins.settings.hostile.cpu`.";
    assert!(looped.contains(long), "{looped}");
    let trapped = encode(&plugin, "trap").await.expect_err("stops");
    assert_eq!(trapped.message, "The adapter `hostile` failed in `encode`.");
    assert!(trapped.source.expect("for the log").contains("unreachable"));
    let stormed = encode(&plugin, "storm").await.expect_err("stops").message;
    assert!(stormed.contains("called more than 2000 host functions"), "{stormed}");
}

/// WASI is there for components that cannot start without it, and nothing is behind it.
#[tokio::test]
async fn what_the_gateway_holds_for_a_guest_is_bounded_too() {
    let plugin = load("hostile", Lease { cpu: Duration::from_secs(9), ..Lease::default() }, "").expect("loads");
    let broke = |fault: Fault| fault.source.expect("for the log");
    // Each round leaves as many handles behind as it may have; all of them end with the instance.
    let rounds = |count| (0..count).map(|_| "hoard");
    for how in rounds(20) {
        let why = broke(encode(&plugin, how).await.expect_err("is stopped"));
        assert!(why.contains("resource table has no free keys"), "{why}");
    }
    let before = Resident::now();
    for how in rounds(200) {
        encode(&plugin, how).await.expect_err("is stopped");
    }
    before.assert_same("200 full tables");
    let why = broke(encode(&plugin, "random").await.expect_err("is stopped"));
    assert!(why.contains("exceeds limit"), "{why}");
    let written = encode(&plugin, "sockets").await.expect("asks for them in vain");
    let said: serde_json::Value = serde_json::from_slice(&written.body).expect("JSON");
    assert_eq!(said["sockets"], 0, "a socket is a descriptor of this process, wherever it may lead");
}

/// The clock is held still but for waits, so that it is exact about them.
#[tokio::test(start_paused = true)]
async fn whoever_sleeps_is_over_with_its_lease() {
    let plugin = load("hostile", tight(), "").expect("loads");
    for how in ["sleep", "naps"] {
        let began = Instant::now();
        let fault = encode(&plugin, how).await.expect_err(how);
        let took = began.elapsed();
        assert!(fault.message.contains("used up its 30ms"), "{how}: {fault}");
        assert!(took >= Duration::from_millis(29) && took <= tight().cpu + PAST, "{how} went on for {took:?}");
        encode(&plugin, "well").await.expect("the next call is served");
    }
    let began = Instant::now();
    let (events, ended) = streamed(&plugin, &["first\n", "sleep\n", "never\n"]).await;
    assert_eq!(ended.expect_err("sleeps").kind, Kind::GuestFailed);
    assert!(events.iter().any(Event::is_content) && began.elapsed() <= tight().cpu + PAST, "{:?}", began.elapsed());
    let before = Resident::now();
    for _ in 0..200 {
        encode(&plugin, "sleep").await.expect_err("sleeps");
    }
    before.assert_same("200 sleepers");
}

#[tokio::test]
async fn calls_are_counted_by_function_and_by_how_they_ended() {
    let plugin = load("hostile", tight(), "").expect("loads");
    let guests = Guests::default();
    plugin.count_in(&guests);
    encode(&plugin, "well").await.expect("serves");
    encode(&plugin, "trap").await.expect_err("traps");
    encode(&plugin, "loop").await.expect_err("loops");
    streamed(&plugin, &["a\nend\n"]).await.1.expect("ends well");
    let record = guests.adapter("wasm:hostile", Function::NAMES);
    let count = |function: Function, outcome| record.phase(function as usize).count(outcome);
    let encodes = [Outcome::Good, Outcome::Error, Outcome::Killed].map(|outcome| count(Function::Encode, outcome));
    assert_eq!(encodes, [1, 1, 1]);
    // Begun, two pieces, ended.
    assert_eq!(count(Function::Stream, Outcome::Good), 4);
    assert!(count(Function::Start, Outcome::Good) >= 2, "what broke was made anew");
    assert!(record.phase(Function::Encode as usize).took() >= Duration::from_millis(20));
    assert!(record.memory.load(Relaxed) > 64 << 10 && record.replaced.load(Relaxed) == 2);
    let last = record.last_error.load();
    assert!(last.as_deref().is_some_and(|error| error.starts_with("encode: ")), "{last:?}");
}

#[tokio::test]
async fn others_go_on_while_a_guest_runs_away() {
    let plugin = load("hostile", Lease { cpu: Duration::from_secs(60), ..Lease::default() }, "").expect("loads");
    assert_gives_way(encode(&plugin, "loop"), "a loop").await;
}

#[tokio::test]
async fn sockets_are_looked_at_between_two_turns() {
    let plugin = load("hostile", Lease { cpu: Duration::from_secs(60), ..Lease::default() }, "").expect("loads");
    assert_gives_way_to_sockets(encode(&plugin, "loop")).await;
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_nothing_behind() {
    let plugin = load("hostile", Lease { cpu: Duration::from_secs(60), ..Lease::default() }, "").expect("loads");
    let gone = tokio::time::timeout(Duration::from_millis(20), encode(&plugin, "loop")).await;
    assert!(gone.is_err(), "the client left");
    encode(&plugin, "well").await.expect("others are served");
}

#[tokio::test]
async fn a_guest_that_breaks_over_an_answer_is_a_fault_too() {
    let plugin = hostile();
    let headers = HeaderMap::new();
    for how in ["loop", "trap", "storm"] {
        let body = Slice::from_static(how.as_bytes());
        let came = Came { status: 200, headers: &headers, body: &body };
        assert_eq!(plugin.decode(&nobody(), Op::Generate, came).await.expect_err(how).kind, Kind::GuestFailed);
        // An error answer stands as it came.
        let came = Came { status: 503, headers: &headers, body: &body };
        let refusal = plugin.decode_error(&nobody(), came).await;
        assert_eq!((refusal.status, refusal.message.as_str()), (503, how));
    }
}

/// The events of a stream in these pieces, and how it ended.
async fn streamed(plugin: &Arc<Taught>, pieces: &[&'static str]) -> (Vec<Event>, Result<(), Fault>) {
    let decoder = plugin.decoder(&nobody()).await.expect("a decoder");
    let body = Inbound::pieces(pieces.iter().map(|piece| Slice::from_static(piece.as_bytes())));
    let mut adapted = Adapted::new(body, decoder);
    let mut events = Vec::new();
    let mut ended = Ok(());
    while let Some(worked) = std::future::poll_fn(|cx| adapted.poll_events(cx, &mut events)).await {
        ended = worked;
        if ended.is_err() {
            break;
        }
    }
    (events, ended)
}

#[tokio::test]
async fn a_stream_breaks_alone() {
    let plugin = hostile();
    for how in ["loop\n", "trap\n", "recurse\n", "grow\n", "storm\n"] {
        let (events, ended) = streamed(&plugin, &["first\n", how, "never\n"]).await;
        assert_eq!(ended.expect_err(how).kind, Kind::GuestFailed);
        assert!(events.iter().any(Event::is_content), "what came before is the client's");
    }
    let (_, ended) = streamed(&plugin, &["a\n", "b"]).await;
    assert_eq!(ended.expect_err("no end").kind, Kind::StreamBroken);
    let (_, ended) = streamed(&plugin, &["a\n", "nonsense\n"]).await;
    assert_eq!(ended.expect_err("as told").kind, Kind::BadAnswer);
    let (events, ended) = streamed(&plugin, &["a\nb\nen", "d\n"]).await;
    ended.expect("ends well");
    assert!(matches!(events.last(), Some(Event::Finish { .. })), "{events:?}");
}

#[tokio::test]
async fn instances_are_used_again_and_do_not_know_their_callers_after_a_trap() {
    let plugin = load("hostile", tight(), "").expect("loads");
    let calls = |written: Written| -> u64 {
        let body: serde_json::Value = serde_json::from_slice(&written.body).expect("JSON");
        body["calls"].as_u64().expect("a number")
    };
    let first = calls(encode(&plugin, "well").await.expect("serves"));
    let second = calls(encode(&plugin, "well").await.expect("serves"));
    assert_eq!(second, first + 1, "the same instance");
    encode(&plugin, "trap").await.expect_err("traps");
    assert_eq!(calls(encode(&plugin, "well").await.expect("serves")), 1, "a new one");
}

#[tokio::test]
async fn a_plugin_that_does_not_start_is_not_loaded() {
    let refused = load("hostile", tight(), r#"{"refuse":1}"#).expect_err("refuses");
    assert!(refused.contains("refuses its configuration: as told"), "{refused}");
    assert!(load("hostile", tight(), r#"{"trap":1}"#).expect_err("traps").contains("broke"));
    let tiny = Lease { memory: 64 << 10, ..Lease::default() };
    load("hostile", tiny, "").expect_err("has no room to begin with");
}

#[test]
fn what_is_no_component_is_named() {
    let folder = std::env::temp_dir().join(format!("portcullis-no-component-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("is writable");
    let told = |wasm: &[u8]| {
        let path = folder.join("a.wasm");
        std::fs::write(&path, wasm).expect("writes");
        let bytes = Bytes::read(&path)?;
        let machine = machine();
        let (compiled, lease, memory_by, config) = (None, Lease::default(), None, String::new());
        let loading = Loading { machine: &machine, compiled, name: "a", lease, memory_by, config };
        Taught::load(&loading, &bytes).map(drop)
    };
    assert!(told(b"text").expect_err("no wasm").contains("not WebAssembly"));
    assert!(told(b"\0asm\x01\0\0\0").expect_err("a module").contains("core module"));
    let empty = b"\0asm\x0d\0\x01\0";
    assert!(told(empty).expect_err("no adapter").contains("must export portcullis:gateway/adapter"));
    // (component (import "evil:host/power" (instance (export "take" (func)))))
    let types = b"\x07\x11\x01\x42\x02\x01\x40\0\x01\0\x04\0\x04take\x01\0";
    let imports = b"\x0a\x14\x01\0\x0fevil:host/power\x05\0";
    let greedy = [&empty[..], types, imports].concat();
    let said = told(&greedy).expect_err("wants more");
    assert!(said.contains("wants what the gateway does not give"), "{said}");
    std::fs::remove_dir_all(&folder).expect("is there");
}

/// 10,000 traps with `PORTCULLIS_SOAK=1`, 300 without.
#[tokio::test]
async fn traps_leak_nothing() {
    let plugin = load("hostile", tight(), "").expect("loads");
    let rounds = if std::env::var_os("PORTCULLIS_SOAK").is_some() { 10_000 } else { 300 };
    for _ in 0..50 {
        encode(&plugin, "trap").await.expect_err("traps");
    }
    let before = Resident::now();
    for _ in 0..rounds {
        encode(&plugin, "trap").await.expect_err("traps");
    }
    // Other tests run beside this one; a leak of one instance a trap would be 64 KiB times 300.
    before.assert_same(&format!("{rounds} traps"));
}
