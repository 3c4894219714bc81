//! How a translated stream ends when its connection breaks.

use std::sync::Arc;

use super::*;
use crate::body;
use crate::chat::Ask;
use crate::dialect::{self, Asked, Dialect, Op};

fn setting(dialect: &'static dyn Dialect, limit: Duration) -> Setting {
    let at = Instant::now() + limit;
    Setting {
        dialect,
        called: None,
        framing: Framing::Sse,
        request_id: "r".into(),
        idle: limit,
        first_token: (at, limit),
        deadline: Deadline { at, limit, kind: Kind::AttemptTimeout, callers: false },
        keep_alive: None,
        max_event_bytes: 1 << 20,
        add_cost: None,
        at_end: None,
        filter: None,
        onward: None,
        input_tokens: 0,
    }
}

/// What the client of another dialect is sent when the connection breaks after these bytes, and how it ended.
async fn broken_after(said: &[u8], from: &str, to: &str) -> (String, Result<(), Kind>) {
    let upstream = dialect::find(from).expect("built in");
    let dialect = dialect::find(to).expect("built in");
    let ask = Ask { model: "m".into(), source: dialect.name(), ..Ask::default() };
    let asked = Asked { op: Op::Generate, ask: Arc::new(ask), model: "m".into(), id: "x".into(), now: 0 };
    let (sender, upstreams) = body::channel();
    sender.send(Ok(Bytes::copy_from_slice(said))).expect("it listens");
    sender.send(Err("connection reset".into())).expect("it listens");
    let (decoder, encoder) = (upstream.decoder(), dialect.encoder(&asked));
    let mode = Mode::Translate { decoder, encoder, events: Vec::new(), watch: None };
    let mut relay = Relay::new(upstreams, mode, setting(dialect, Duration::from_secs(60)));
    relay.commit().await.expect("there is content");
    let mut out = Vec::new();
    while let Some(bytes) = std::future::poll_fn(|cx| relay.poll_bytes(cx)).await {
        out.extend_from_slice(&bytes);
    }
    let ending = relay.ending().expect("it has ended").map_err(|fault| fault.kind);
    (String::from_utf8(out).expect("UTF-8"), ending)
}

/// A stream whose upstream is always ahead of its client is late when its time is over, whoever held it back.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_too_slowly_is_told_when_time_is_over_and_one_that_reads_no_more_ends_it() {
    for (from, reads) in [("openai_chat", true), ("openai_chat", false), ("anthropic", true), ("anthropic", false)] {
        let upstream = dialect::find(from).expect("built in");
        let said = if from == "anthropic" { ANTHROPIC } else { CHAT };
        let limit = Duration::from_secs(60);
        let (sender, body) = body::channel();
        for frame in said.split_inclusive("\n\n") {
            sender.send(Ok(Bytes::copy_from_slice(frame.as_bytes()))).expect("it listens");
        }
        let asked = || Asked { op: Op::Generate, ask: Arc::default(), model: "m".into(), id: "x".into(), now: 0 };
        let (decoder, encoder) = (upstream.decoder(), upstream.encoder(&asked()));
        let mode = match reads {
            true => Mode::Translate { decoder, encoder, events: Vec::new(), watch: None },
            false => Mode::Raw(Raw::new(upstream.sniffer(Op::Generate), false)),
        };
        let mut relay = Relay::new(body, mode, setting(upstream, limit));
        relay.commit().await.expect("there is content");
        tokio::time::advance(limit).await;
        let mut out = Vec::new();
        if reads {
            while let Some(bytes) = std::future::poll_fn(|cx| relay.poll_bytes(cx)).await {
                out.extend_from_slice(&bytes);
            }
        } else {
            relay.abandon();
        }
        assert_eq!(relay.ending().map(|end| end.map_err(|fault| fault.kind)), Some(Err(Kind::TotalTimeout)));
        let out = String::from_utf8(out).expect("UTF-8");
        assert_eq!(out.contains("longer than 60s"), reads, "{out}");
        assert!(!out.contains("[DONE]") && !out.contains("message_stop"), "{out}");
        drop(relay);
        assert!(sender.is_closed());
    }
}

const CHAT: &str = concat!(
    "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n",
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
);

const ANTHROPIC: &str = concat!(
    "data: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"m\",\"content\":[]}}\n\n",
    "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"Hi\"}}\n\n",
    "data: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
    "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n",
);

#[tokio::test]
async fn a_connection_that_breaks_after_the_end_was_told_is_no_failure() {
    for (said, from, to, last) in
        [(CHAT, "openai_chat", "anthropic", "message_stop"), (ANTHROPIC, "anthropic", "openai_chat", "[DONE]")]
    {
        // Half a frame more makes no difference.
        for more in ["", "data: {\"ty"] {
            let (text, ending) = broken_after(format!("{said}{more}").as_bytes(), from, to).await;
            assert_eq!(ending, Ok(()), "{from}: {text}");
            assert!(text.contains("Hi") && text.contains(last) && !text.contains("error"), "{from}: {text}");
        }
        let half = said.rfind("data:").expect("a last frame");
        let (text, ending) = broken_after(&said.as_bytes()[..half], from, to).await;
        assert_eq!(ending, Err(Kind::StreamBroken), "{from}: {text}");
        assert!(!text.contains(last), "{from}: {text}");
    }
}

/// A stream that begins in one response must not end in another.
#[tokio::test]
async fn a_broken_responses_stream_ends_as_the_response_that_it_began() {
    let responses = dialect::find("openai_responses").expect("built in");
    let asked = || Asked { op: Op::Generate, ask: Arc::default(), model: "m".into(), id: "x".into(), now: 7 };
    let raw = Mode::Raw(Raw::new(responses.sniffer(Op::Generate), false));
    let translated = |from: &str| {
        let decoder = dialect::find(from).expect("built in").decoder();
        Mode::Translate { decoder, encoder: responses.encoder(&asked()), events: Vec::new(), watch: None }
    };
    for (said, mode) in
        [(RESPONSES, raw), (RESPONSES, translated("openai_responses")), (CHAT, translated("openai_chat"))]
    {
        let said = said.split_inclusive("\n\n").take_while(|frame| !frame.contains("stop")).collect::<String>();
        let (sender, body) = body::channel();
        sender.send(Ok(Bytes::from(said))).expect("it listens");
        sender.send(Err("connection reset".into())).expect("it listens");
        let mut relay = Relay::new(body, mode, setting(responses, Duration::from_secs(60)));
        relay.commit().await.expect("there is content");
        let mut scanner = Scanner::new();
        while let Some(bytes) = std::future::poll_fn(|cx| relay.poll_bytes(cx)).await {
            scanner.push(bytes);
        }
        let mut events: Vec<serde_json::Value> = Vec::new();
        while scanner.scan().expect("frames") {
            events.push(serde_json::from_slice(&Frame(scanner.last()).data()).expect("JSON"));
        }
        let numbers: Vec<_> = events.iter().map(|event| event["sequence_number"].as_u64()).collect();
        assert_eq!(numbers, (0..events.len() as u64).map(Some).collect::<Vec<_>>());
        let (first, last) = (&events[0], &events[events.len() - 1]);
        assert_eq!(last["type"], "response.failed");
        for field in ["id", "model", "created_at"] {
            assert_eq!(last["response"][field], first["response"][field], "{field}");
        }
    }
}

const RESPONSES: &str = concat!(
    r#"data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_1","created_at":5,"model":"m-1","status":"in_progress","output":[]}}"#,
    "\n\n",
    r#"data: {"type":"response.in_progress","sequence_number":1,"response":{"id":"resp_1","created_at":5,"model":"m-1","status":"in_progress","output":[]}}"#,
    "\n\n",
    r#"data: {"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"type":"message","id":"msg_1","role":"assistant","status":"in_progress","content":[]}}"#,
    "\n\n",
    r#"data: {"type":"response.content_part.added","sequence_number":3,"item_id":"msg_1","output_index":0,"content_index":0,"part":{"type":"output_text","text":"","annotations":[]}}"#,
    "\n\n",
    r#"data: {"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"Hi"}"#,
    "\n\n",
);
