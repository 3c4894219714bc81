//! An adapter that misbehaves. The model's name says how; a stream's first line says so to its decoder.
//!
//! Only for the gateway's tests: nothing here should hurt anybody but the request it happens in.

use std::cell::Cell;
use std::hint::black_box;

use portcullis_plugin::adapter::{
    AnyAsk, AuthKind, Description, Framing, Guest, GuestStreamDecoder, Header, HttpAnswer, HttpRequest, Operation, Outcome,
    Payload, Piece,
};
use portcullis_plugin::chat::{Event, Finish, FinishReason, Refusal};
use portcullis_plugin::serde_json::json;
use portcullis_plugin::{self as sdk, log};

struct Hostile;

/// Of WASI, what nothing that is well-behaved asks of a gateway.
mod outside {
    wit_bindgen::generate!({
        inline: "
            package portcullis:hostile;
            world outside {
                import wasi:clocks/monotonic-clock@0.2.0;
                import wasi:random/random@0.2.0;
                import wasi:sockets/tcp-create-socket@0.2.0;
            }
            package wasi:io@0.2.0 {
                interface poll { resource pollable { block: func(); } }
            }
            package wasi:clocks@0.2.0 {
                interface monotonic-clock {
                    use wasi:io/poll@0.2.0.{pollable};
                    type duration = u64;
                    subscribe-duration: func(when: duration) -> pollable;
                }
            }
            package wasi:random@0.2.0 {
                interface random { get-random-bytes: func(len: u64) -> list<u8>; }
            }
            package wasi:sockets@0.2.0 {
                interface network {
                    enum error-code {
                        unknown, access-denied, not-supported, invalid-argument, out-of-memory, timeout,
                        concurrency-conflict, not-in-progress, would-block, invalid-state, new-socket-limit,
                        address-not-bindable, address-in-use, remote-unreachable, connection-refused, connection-reset,
                        connection-aborted, datagram-too-large, name-unresolvable, temporary-resolver-failure,
                        permanent-resolver-failure,
                    }
                    enum ip-address-family { ipv4, ipv6 }
                }
                interface tcp { resource tcp-socket; }
                interface tcp-create-socket {
                    use network.{error-code, ip-address-family};
                    use tcp.{tcp-socket};
                    create-tcp-socket: func(address-family: ip-address-family) -> result<tcp-socket, error-code>;
                }
            }
        ",
        generate_all,
    });

    pub use wasi::clocks::monotonic_clock::subscribe_duration;
    pub use wasi::random::random::get_random_bytes;
    pub use wasi::sockets::network::IpAddressFamily;
    pub use wasi::sockets::tcp_create_socket::create_tcp_socket;
}

thread_local!(static CALLS: Cell<u32> = const { Cell::new(0) });

fn misbehave(how: &str) {
    misbehave::misbehave(how);
    match how {
        "storm" => {
            for _ in 0..u32::MAX {
                sdk::rand::number();
            }
        }
        "heavy-storm" => {
            let document = format!("[{}0]", "0,".repeat(500_000));
            for _ in 0..u32::MAX {
                black_box(sdk::json::length(&document, ""));
            }
        }
        // Each is an entry of the gateway's own tables, and none is given back.
        "hoard" => loop {
            std::mem::forget(outside::subscribe_duration(u64::MAX));
        },
        "sleep" => outside::subscribe_duration(u64::MAX).block(),
        // A minute of milliseconds.
        "naps" => (0..60_000).for_each(|_| outside::subscribe_duration(1_000_000).block()),
        "random" => drop(black_box(outside::get_random_bytes(32 << 20))),
        "chatter" => log::write(log::Level::Debug, &"x".repeat(1 << 20)),
        _ => {}
    }
}

/// Sockets that it was let open.
fn sockets() -> usize {
    let made = (0..64).map(|_| outside::create_tcp_socket(outside::IpAddressFamily::Ipv4));
    made.filter_map(Result::ok).map(std::mem::forget).count()
}

impl Guest for Hostile {
    type StreamDecoder = Decoder;

    fn describe() -> Description {
        Description {
            title: "Hostile".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            auth: AuthKind::Header("x-key".into()),
            operations: vec![Operation::Chat],
            framing: Framing::Lines,
            suggested_base_url: None,
            models: Vec::new(),
        }
    }

    fn init(config: String) -> Result<(), String> {
        match config.as_str() {
            "" | "{}" => Ok(()),
            config if config.contains("refuse") => Err("as told".into()),
            config if config.contains("trap") => panic!("as told"),
            _ => Ok(()),
        }
    }

    fn encode(what: AnyAsk) -> Result<HttpRequest, Refusal> {
        let AnyAsk::Chat(ask) = what else { return Err(sdk::unsupported("Chat only.", "input")) };
        misbehave(&ask.model);
        let calls = CALLS.get() + 1;
        CALLS.set(calls);
        let sockets = if ask.model == "sockets" { sockets() } else { 0 };
        let said = json!({ "calls": calls, "source": ask.source, "sockets": sockets });
        let mut request = sdk::post("/chat", &said, ask.streamed);
        match ask.model.as_str() {
            "huge" => request.body = Payload::Bytes(vec![b'x'; 40 << 20]),
            "escape" => request.path = "@evil.example/chat".into(),
            "climb" => request.path = "/../admin".into(),
            "headers" => {
                let names = ["host", "x-key", "content-length", "transfer-encoding", "x-mine"];
                request.headers = names.map(|name| Header { name: name.into(), value: "forged".into() }).into();
            }
            "split" => request.headers.push(Header { name: "x-a".into(), value: "b\r\nx-key: c".into() }),
            _ => {}
        }
        Ok(request)
    }

    fn decode(_: Operation, answer: HttpAnswer) -> Result<Outcome, Refusal> {
        let how = sdk::text(&answer).to_owned();
        misbehave(how.trim());
        Err(sdk::nonsense("There is no answer here."))
    }

    fn decode_error(answer: HttpAnswer) -> Refusal {
        misbehave(sdk::text(&answer).trim());
        sdk::refusal(answer.status, "refused")
    }
}

struct Decoder;

impl GuestStreamDecoder for Decoder {
    fn new() -> Self {
        Decoder
    }

    fn push(&self, next: Piece) -> Result<Vec<Event>, Refusal> {
        let Piece::Line(line) = next else { return Err(sdk::nonsense("A line was expected.")) };
        misbehave(&line);
        Ok(match line.as_str() {
            "flood" => vec![Event::Text("x".repeat(64)); 200_000],
            "end" => vec![Event::Finish(Finish { reason: FinishReason::Stop, native: None, stop_sequence: None })],
            "nonsense" => return Err(sdk::nonsense("as told")),
            _ => vec![Event::Text(line)],
        })
    }

    fn finish(&self) -> Result<Vec<Event>, Refusal> {
        Ok(Vec::new())
    }
}

sdk::provider!(Hostile);
