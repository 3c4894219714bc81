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
        "chatter" => log::write(log::Level::Debug, &"x".repeat(1 << 20)),
        _ => {}
    }
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
        let mut request = sdk::post("/chat", &json!({ "calls": calls, "source": ask.source }), ask.streamed);
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
