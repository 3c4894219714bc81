//! What a request on the raw path allocates, held against a budget: a regression guard that no clock disturbs.
//!
//! One thread serves as a worker does, with keys, prices, metrics and the access log on; client and upstream are threads
//! of their own, and only the worker's allocations count. The upstream writes a chunk when the client has the one before,
//! so that none meet. A change that needs more raises the budget in the same commit and says why.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use arc_swap::ArcSwap;
use portcullis::generation::Builder;
use portcullis::reload::history::History;
use portcullis::server::{Shared, Stage, connection};
use portcullis::state::State;
use portcullis::state::log::{Log, Sink};
use portcullis::upstream::{Pools, Proxies};
use tokio::sync::{oneshot, watch};

/// Requests before counting begins: connections, caches and thread-local buffers are then there.
const WARM: usize = 20;
/// Requests that are counted.
const COUNTED: u64 = 100;
/// Chunks of a stream.
const CHUNKS: usize = 64;

/// Most allocations of one whole answer of 0.6 KB.
const PER_REQUEST: u64 = 45;
/// Most allocations of one stream, apart from its chunks.
const PER_STREAM: u64 = 100;
/// Most allocations of one chunk: its bytes.
const PER_CHUNK: u64 = 1;

const ASK: &str = r#"{"model":"mock","messages":[{"role":"system","content":"You are helpful."},{"role":"user","content":"Hi"}],"temperature":0.7,"max_tokens":256"#;
const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog."},"finish_reason":"stop"}],"usage":{"prompt_tokens":21,"completion_tokens":64,"total_tokens":85}}"#;

fn config(upstream: SocketAddr, hooks: &str) -> String {
    format!(
        "listen: {{ address: 127.0.0.1:0 }}
providers:
  upstream: {{ dialect: openai_chat, base_url: 'http://{upstream}/v1', api_key: sk-upstream }}
models: {{ mock: upstream/mock }}
keys: [{{ name: guard, key: sk-guard-0123456789abcdef0123456789abcdef, project: guard }}]
prices: {{ models: {{ 'upstream/*': {{ input: 0.15, output: 0.60 }} }} }}
log: {{ stdout: json }}
{hooks}"
    )
}

/// Reads a message with a stated length from its first byte to its last; what came is in `held`. False at the end.
fn whole(stream: &mut TcpStream, held: &mut Vec<u8>) -> bool {
    held.clear();
    loop {
        let head = held.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = head {
            let text = String::from_utf8_lossy(&held[..end]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
            if held.len() >= end + 4 + length.unwrap_or(0) {
                return true;
            }
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return false,
            Ok(length) => held.extend_from_slice(&piece[..length]),
        }
    }
}

/// An upstream that answers whole, or in chunks, each when the client is `ready` for it.
fn upstream(ready: Receiver<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the gateway connects");
        stream.set_nodelay(true).expect("a socket");
        let mut held = Vec::new();
        while whole(&mut stream, &mut held) {
            if !String::from_utf8_lossy(&held).contains("\"stream\":true") {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
                // In one write: `write!` makes one of each piece, and the gateway would read what has come by then.
                let answer = format!("{head}{}\r\n\r\n{ANSWER}", ANSWER.len());
                stream.write_all(answer.as_bytes()).expect("the gateway reads");
                continue;
            }
            let mut next =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
            for number in 0..CHUNKS {
                let event = format!(
                    "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"word {number}\"}},\"finish_reason\":null}}]}}\n\n"
                );
                next.push_str(&format!("{:x}\r\n{event}\r\n", event.len()));
                stream.write_all(next.as_bytes()).expect("the gateway reads");
                next.clear();
                ready.recv().expect("the client goes on");
            }
            let end = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":64,\"total_tokens\":66}}\n\ndata: [DONE]\n\n";
            let end = format!("{:x}\r\n{end}\r\n0\r\n\r\n", end.len());
            stream.write_all(end.as_bytes()).expect("the gateway reads");
        }
    });
    address
}

/// What client and counter tell each other.
struct Stages {
    warm: oneshot::Sender<()>,
    begin: Receiver<()>,
    done: oneshot::Sender<()>,
}

/// A client that makes requests one after the other and says when it is warm and when it is done.
fn client(address: SocketAddr, stream: bool, ready: Sender<()>, stages: Stages) {
    let Stages { warm, begin, done } = stages;
    let mut socket = TcpStream::connect(address).expect("the gateway listens");
    socket.set_nodelay(true).expect("a socket");
    let body = format!("{ASK}{}}}", if stream { ",\"stream\":true" } else { "" });
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\nauthorization: Bearer sk-guard-0123456789abcdef0123456789abcdef\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (mut warm, mut held) = (Some(warm), Vec::new());
    for number in 0..WARM + COUNTED as usize {
        if number == WARM {
            warm.take().expect("once").send(()).expect("somebody counts");
            begin.recv().expect("counting begins");
        }
        socket.write_all(request.as_bytes()).expect("the gateway reads");
        if stream {
            chunks(&mut socket, &mut held, &ready);
        } else {
            assert!(
                whole(&mut socket, &mut held) && held.starts_with(b"HTTP/1.1 200"),
                "{}",
                String::from_utf8_lossy(&held)
            );
        }
    }
    done.send(()).expect("somebody waits");
}

/// Reads a stream and asks for each next chunk when one is there.
fn chunks(socket: &mut TcpStream, held: &mut Vec<u8>, ready: &Sender<()>) {
    held.clear();
    let (mut seen, mut piece) = (0, [0; 4096]);
    while !held.ends_with(b"\r\n0\r\n\r\n") {
        let length = socket.read(&mut piece).expect("the gateway answers");
        assert!(length > 0, "closed after {}", String::from_utf8_lossy(held));
        held.extend_from_slice(&piece[..length]);
        let words = held.windows(6).filter(|six| six == b"\"word ").count();
        (seen..words).for_each(|_| ready.send(()).expect("the upstream goes on"));
        seen = words;
    }
    assert_eq!(seen, CHUNKS);
}

/// The allocations of the worker for all of [`COUNTED`] requests, with this policy attached.
fn counted(stream: bool, policy: Option<&str>) -> u64 {
    let (ready, is_ready) = channel();
    let name = format!("portcullis-allocations-{}-{:?}", std::process::id(), thread::current().id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(folder.join("scripts")).expect("is writable");
    let hooks = policy.map_or("", |policy| {
        std::fs::write(folder.join("scripts/p.luau"), policy).expect("is writable");
        "hooks: [{ lua: p }]\n"
    });
    let path = folder.join("portcullis.yaml");
    std::fs::write(&path, config(upstream(is_ready), hooks)).expect("is writable");
    let generation = Builder::new(Some(path), Box::new(|_| None)).build(1).expect("builds");
    std::fs::remove_dir_all(&folder).expect("is there");
    let (log, _writer) = Log::to(vec![Sink::Stream(Box::new(std::io::sink()))]).expect("a thread");
    let proxies = Arc::new(Proxies::new(Default::default()));
    let (_announce, stage) = watch::channel(Stage::Serving);
    let shared = Shared {
        generation: Arc::new(ArcSwap::from_pointee(generation)),
        state: Arc::new(State::new(100, log)),
        proxies: proxies.clone(),
        stage,
        connections: Arc::new(AtomicUsize::new(1)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (warm, is_warm) = oneshot::channel();
    let (begun, begin) = channel();
    let (done, is_done) = oneshot::channel();
    let stages = Stages { warm, begin, done };
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || client(address, stream, ready, stages));
        let (socket, peer) = listener.accept().await.expect("the client connects");
        tokio::spawn(connection::serve(shared, Arc::new(Pools::new(proxies)), socket, peer));
        is_warm.await.expect("the client gets warm");
    });
    let info = allocation_counter::measure(|| {
        begun.send(()).expect("the client goes on");
        runtime.block_on(async { is_done.await.expect("the client gets all answers") });
    });
    info.count_total
}

#[test]
fn a_reload_leaves_nothing_behind() {
    const RELOADS: u32 = 40;
    let folder = std::env::temp_dir().join(format!("portcullis-allocations-{}-reloads", std::process::id()));
    std::fs::create_dir_all(folder.join("scripts")).expect("is writable");
    let path = folder.join("portcullis.yaml");
    let yaml = config(([127, 0, 0, 1], 9).into(), "hooks: [{ lua: p }]\n");
    std::fs::write(&path, yaml).expect("is writable");
    let version = |number: u32| {
        let text = format!("-- {number:09}\nlocal kept = {{}}\nfunction on_route() return {{ 'upstream/mock' }} end\n");
        std::fs::write(folder.join("scripts/p.luau"), text).expect("is writable");
    };
    version(0);
    let builder = Builder::new(Some(path), Box::new(|_| None));
    let current = Arc::new(ArcSwap::from_pointee(builder.build(1).expect("builds")));
    let (state, history) = (Arc::new(State::new(100, Log::off())), History::default());
    // What a reload does, on the one thread whose allocations are counted: the reloader builds on a thread of its own.
    let reload = |number: u32| {
        version(number);
        let generation = Arc::new(builder.build(number.into()).expect("builds"));
        generation.activate(&state);
        history.add(generation.clone());
        current.store(generation);
        history.reap();
        state.reloaded(Ok(number.into()));
    };
    // As many as are kept whole, and some for whatever is made once.
    (1..20).for_each(reload);
    let info = allocation_counter::measure(|| (20..20 + RELOADS).for_each(reload));
    std::fs::remove_dir_all(&folder).expect("is there");
    let left = info.bytes_current / i64::from(RELOADS);
    assert!(left < 256, "a reload leaves {left} bytes behind, of {}", info.bytes_total / u64::from(RELOADS));
}

fn hold(what: &str, spent: u64, budget: u64) {
    let spent = spent / COUNTED;
    assert!(spent <= budget, "{what}: {spent} allocations, {budget} are allowed");
    assert!(
        spent * 10 >= budget * 7,
        "{what}: {spent} allocations only: lower the budget of {budget}, so that it holds"
    );
}

#[test]
fn a_whole_answer_keeps_its_budget() {
    hold("a request", counted(false, None), PER_REQUEST);
}

#[test]
fn a_stream_keeps_its_budget() {
    hold("a stream", counted(true, None), PER_STREAM + PER_CHUNK * CHUNKS as u64);
}

#[test]
fn a_policy_that_listens_to_nothing_of_an_exchange_costs_it_nothing() {
    let idle = "--[[manifest\ntick = \"1h\"\n]]\nfunction on_tick() end\n";
    let (with, without) = (counted(false, Some(idle)), counted(false, None));
    // A single allocation a request more would show.
    assert!(with.abs_diff(without) < COUNTED, "{with} with it, {without} without");
}

#[test]
fn a_policy_that_listens_to_no_event_costs_the_chunks_of_a_stream_nothing() {
    let done = "function on_done() return { seen = true } end\n";
    let (with, without) = (counted(true, Some(done)), counted(true, None));
    // The policy is called once a request; a single allocation a chunk more would show.
    let more = with.saturating_sub(without);
    assert!((COUNTED..COUNTED * CHUNKS as u64).contains(&more), "{with} with it, {without} without");
}
