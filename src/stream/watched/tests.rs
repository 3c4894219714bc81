//! What clients read of a watched stream is what they would read if all of it were encoded, whatever guests do; and what
//! guests leave as it is are the provider's bytes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::super::{Deadline, Filter, Framing, Mode, Relay, Setting, Watch};
use super::*;
use crate::body::Inbound;
use crate::chat::event::Delta;
use crate::chat::{Answer, Ask, Finish};
use crate::dialect::{self, Asked, Dialect, Op};
use crate::fault::Kind;

/// Does with every text what `edit` says, as guests do: None leaves it as it is.
struct Guest {
    edit: fn(&str) -> Option<String>,
    /// Says this before a block closes.
    last: &'static str,
    /// Shows it a block's text only when the block closes.
    holds: bool,
    held: String,
    stops_at: Option<&'static str>,
    stopped: bool,
}

impl Guest {
    fn new(edit: fn(&str) -> Option<String>) -> Self {
        Guest { edit, last: "", holds: false, held: String::new(), stops_at: None, stopped: false }
    }
}

impl Filter for Guest {
    fn events(&mut self, events: &mut Vec<Event>) -> Result<Flow, Fault> {
        let mut changed = false;
        for event in std::mem::take(events) {
            if self.stopped {
                break;
            }
            let say = |index: u32, text: String| Event::Delta { choice: 0, index, delta: Delta::Text(text) };
            match event {
                Event::Delta { delta: Delta::Text(text), choice: 0, index } => {
                    if self.stops_at.is_some_and(|word| text.contains(word)) {
                        self.stopped = true;
                        events.push(Event::Close { choice: 0, index });
                        let reason = Finish::ContentFilter;
                        events.push(Event::Finish { choice: 0, reason, native: None, stop_sequence: None });
                    } else if self.holds {
                        changed = true;
                        self.held.push_str(&text);
                    } else {
                        let edited = (self.edit)(&text);
                        changed |= edited.as_ref().is_some_and(|edited| *edited != text);
                        events.extend(
                            Some(edited.unwrap_or(text)).filter(|text| !text.is_empty()).map(|t| say(index, t)),
                        );
                    }
                }
                Event::Close { choice: 0, index } => {
                    let held = std::mem::take(&mut self.held);
                    let last = held + self.last;
                    if !last.is_empty() {
                        changed = true;
                        events.push(say(index, last));
                    }
                    events.push(event);
                }
                event => events.push(event),
            }
        }
        match (self.stopped, changed) {
            (true, _) => Ok(Flow::End),
            (_, true) => Ok(Flow::On),
            _ => Ok(Flow::Same),
        }
    }

    fn due(&self) -> Option<Instant> {
        None
    }
}

/// What a client gets of a stream that comes in these pieces, and what is noted of it: how it ended, and what it showed.
async fn relayed(pieces: &[&[u8]], watch: Option<Watch>, guest: Guest, usage: bool) -> (String, String) {
    let dialect = dialect::find("openai_chat").expect("built in");
    let ask = Ask { model: "m".into(), source: "openai_chat", include_usage: usage, ..Ask::default() };
    let asked = Asked { op: Op::Generate, ask: Arc::new(ask), model: "m".into(), id: "x".into(), now: 0 };
    let (decoder, encoder) = (dialect.decoder(), dialect.encoder(&asked));
    let limit = Duration::from_secs(60);
    let at = Instant::now() + limit;
    let setting = Setting {
        dialect,
        called: None,
        framing: Framing::Sse,
        request_id: "r".into(),
        idle: limit,
        first_token: (at, limit),
        deadline: Deadline { at, limit, kind: Kind::TotalTimeout, callers: false },
        keep_alive: None,
        max_event_bytes: 1 << 20,
        add_cost: None,
        at_end: None,
        filter: Some(Box::new(guest)),
        onward: None,
        input_tokens: 0,
    };
    let body = Inbound::Pieces(pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect());
    let mut relay = Relay::new(body, Mode::Translate { decoder, encoder, events: Vec::new(), watch }, setting);
    if let Err(fault) = relay.commit().await {
        return (String::new(), format!("{:?}", fault.kind));
    }
    let mut out = Vec::new();
    while let Some(bytes) = std::future::poll_fn(|cx| relay.poll_bytes(cx)).await {
        out.extend_from_slice(&bytes);
    }
    let ending = relay.ending().expect("it has ended").map_err(|fault| fault.kind);
    let seen = &relay.seen;
    let noted = format!("{ending:?} {:?} {:?} {:?} {:?} {}", seen.id, seen.model, seen.usage, seen.finish, seen.frames);
    (String::from_utf8(out).expect("UTF-8"), noted)
}

/// What a client reads: everything but how it is spelled.
fn read(stream: &str) -> String {
    let dialect: &dyn Dialect = dialect::find("openai_chat").expect("built in");
    let whole = stream.contains("data: [DONE]");
    let answer: Result<Answer, _> = dialect::collect(dialect, Bytes::copy_from_slice(stream.as_bytes()));
    let answer = answer.map(|answer| format!("{:?} {:?}", answer.choices, answer.usage)).map_err(|fault| fault.kind);
    format!("{whole} {answer:?}")
}

fn guests() -> Vec<fn() -> Guest> {
    vec![
        || Guest::new(|_| None),
        || Guest::new(|text| Some(text.to_owned())),
        || Guest::new(|text| Some(text.to_uppercase())),
        || Guest::new(|text| text.contains('e').then(String::new)),
        || Guest::new(|text| text.contains('o').then(|| text.replace('o', "\"0\""))),
        || Guest { last: " The end.", ..Guest::new(|_| None) },
        || Guest { holds: true, ..Guest::new(|_| None) },
        || Guest { stops_at: Some(" "), ..Guest::new(|_| None) },
    ]
}

/// Streams of providers, and some that are odd on purpose.
fn streams() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dialect/openai_chat/stream");
    let mut streams: Vec<_> = std::fs::read_dir(folder)
        .expect("fixtures")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sse"))
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).expect("a text")))
        .collect();
    assert!(streams.len() > 10);
    let frames = |datas: &[&str]| datas.iter().map(|data| format!("data: {data}\n\n")).collect::<String>();
    let odd: &[(&str, &[&str])] = &[
        ("text after the finish", &[ROLE, ONE, STOP, TWO, "[DONE]"]),
        ("text after the usage", &[ROLE, ONE, USED, TWO, STOP, "[DONE]"]),
        (
            "finish with a text",
            &[
                ROLE,
                ONE,
                r#"{"choices":[{"index":0,"delta":{"content":" end"},"finish_reason":"stop"}]}"#,
                USED,
                "[DONE]",
            ],
        ),
        ("no finish", &[ROLE, ONE, "[DONE]"]),
        ("no mark", &[ROLE, ONE, STOP, USED]),
        ("no end", &[ROLE, ONE, TWO]),
        ("torn", &[ROLE, ONE, r#"{"choices":["#]),
        ("an error", &[ROLE, ONE, r#"{"error":{"message":"Overloaded","type":"overloaded_error"}}"#]),
        (
            "usage on every chunk",
            &[
                ROLE,
                r#"{"choices":[{"index":0,"delta":{"content":"One"}}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#,
                TWO,
                STOP,
                "[DONE]",
            ],
        ),
        (
            "a call after text",
            &[
                ROLE,
                ONE,
                r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"t","type":"function","function":{"name":"f","arguments":"{}"}}]}}]}"#,
                TWO,
                r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
                "[DONE]",
            ],
        ),
        (
            "thoughts",
            &[
                ROLE,
                r#"{"choices":[{"index":0,"delta":{"reasoning_content":"Hm, so"}}]}"#,
                r#"{"choices":[{"index":0,"delta":{"reasoning_details":[{"type":"reasoning.text","text":"","signature":"s"}]}}]}"#,
                ONE,
                TWO,
                STOP,
                USED,
                "[DONE]",
            ],
        ),
        ("only thoughts", &[ROLE, r#"{"choices":[{"index":0,"delta":{"reasoning_content":"Hm"}}]}"#, STOP, "[DONE]"]),
        ("no role", &[ONE, TWO, STOP, "[DONE]"]),
        ("more after the mark", &[ROLE, ONE, STOP, "[DONE]", TWO]),
    ];
    streams.extend(odd.iter().map(|(name, datas)| ((*name).to_owned(), frames(datas))));
    streams
}

const ROLE: &str = r#"{"id":"c","object":"chat.completion.chunk","created":7,"model":"m-1","x_own":{"a":1},"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}],"usage":null}"#;
const ONE: &str = r#"{"id":"c","object":"chat.completion.chunk","created":7,"model":"m-1","choices":[{"index":0,"delta":{"content":"One \u00fc"},"x_own":[1.0]}],"obfuscation":"a1"}"#;
const TWO: &str = r#"{"id":"c","object":"chat.completion.chunk","created":7,"model":"m-1","choices":[{"index":0,"delta":{"content":" two"}}],"obfuscation":"b22"}"#;
const STOP: &str = r#"{"id":"c","object":"chat.completion.chunk","created":7,"model":"m-1","choices":[{"index":0,"delta":{},"finish_reason":"stop","x_filter":{}}]}"#;
const USED: &str = r#"{"id":"c","object":"chat.completion.chunk","created":7,"model":"m-1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"x_ms":1}}"#;

#[tokio::test]
async fn clients_read_what_they_would_if_all_were_encoded() {
    let mut raw = 0;
    for (name, stream) in streams() {
        for (number, guest) in guests().into_iter().enumerate() {
            for usage in [true, false] {
                let what = format!("{name}, guest {number}, usage {usage}");
                let pieces = [stream.as_bytes()];
                let (encoded, how) = relayed(&pieces, None, guest(), usage).await;
                let (watched, as_well) = relayed(&pieces, Some(Watch::new(!usage)), guest(), usage).await;
                assert_eq!(as_well, how, "{what}");
                assert_eq!(read(&watched), read(&encoded), "{what}:\n{watched}\n---\n{encoded}");
                raw += usize::from(watched == stream);
            }
        }
    }
    assert!(raw > 20, "{raw} went through whole");
}

#[tokio::test]
async fn what_comes_out_does_not_depend_on_where_the_pieces_are_cut() {
    let datas = [ROLE, ONE, TWO, ONE, STOP, USED, "[DONE]"];
    let stream: String = datas.iter().map(|data| format!("data: {data}\n\n")).collect();
    for guest in guests() {
        let whole = relayed(&[stream.as_bytes()], Some(Watch::new(false)), guest(), true).await;
        for at in 1..stream.len() {
            let (first, second) = stream.as_bytes().split_at(at);
            let cut = relayed(&[first, second], Some(Watch::new(false)), guest(), true).await;
            assert_eq!(cut, whole, "cut at {at}");
        }
    }
}

#[tokio::test]
async fn only_what_is_changed_is_encoded_and_fields_that_may_repeat_it_are_left_out_after() {
    let frame = |data: &str| format!("data: {data}\n\n");
    let stream: String = [ROLE, ONE, TWO, ONE, TWO, STOP, USED, "[DONE]"].map(frame).concat();
    let (same, _) = relayed(&[stream.as_bytes()], Some(Watch::new(false)), Guest::new(|_| None), true).await;
    assert_eq!(same, stream);
    let (hidden, _) = relayed(&[stream.as_bytes()], Some(Watch::new(true)), Guest::new(|_| None), false).await;
    assert_eq!(hidden, stream.replace(&frame(USED), ""));

    let edit: fn(&str) -> Option<String> = |text| (text == " two").then(|| " 2 \"x\"".to_owned());
    let (edited, _) = relayed(&[stream.as_bytes()], Some(Watch::new(false)), Guest::new(edit), true).await;
    let frames: Vec<&str> = edited.split_inclusive("\n\n").collect();
    let say = |text: &str| {
        format!(
            r#"data: {{"id":"c","object":"chat.completion.chunk","created":7,"model":"m-1","choices":[{{"index":0,"delta":{{"content":"{text}"}},"logprobs":null,"finish_reason":null}}],"usage":null}}{}"#,
            "\n\n"
        )
    };
    let two = say(r#" 2 \"x\""#);
    assert_eq!(frames[..2], [frame(ROLE), frame(ONE)]);
    assert_eq!(frames[2..5], [two.clone(), say("One ü"), two], "{edited}");
    assert!(
        frames[5].contains(r#""finish_reason":"stop""#)
            && !edited[frame(ROLE).len() + frame(ONE).len()..].contains("x_")
    );
}

#[tokio::test]
async fn others_have_their_turn_between_the_events_of_one_read() {
    fn slow(_: &str) -> Option<String> {
        let until = Instant::now() + Duration::from_micros(400);
        while Instant::now() < until {}
        None
    }
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = turns.clone();
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let frame = br#"data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}"#;
    let bytes = [&frame[..], b"\n\n"].concat().repeat(40);
    for watch in [None, Some(Watch::new(false))] {
        let before = turns.load(Ordering::Relaxed);
        let (text, _) = relayed(&[&bytes], watch, Guest::new(slow), false).await;
        assert_eq!(text.matches(r#""content":"a""#).count(), 40, "{text}");
        let had = turns.load(Ordering::Relaxed) - before;
        assert!(had >= 30, "others had {had} turns in 40 events");
    }
    other.abort();
}
