//! Every fault of the mock against every pair of dialects, streamed and not: what the caller sees, and what is logged.

use std::sync::Arc;

use portcullis::fault::{Kind, Retry};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::dialect::{ALL, Anthropic, Chat, Dialect, Gemini, Turn};
use super::support::{Gateway, Mock};
use super::wire::{self, Reply};

/// Small bounds, so that nothing takes long, and under `quick/` short clocks for what stalls.
const CONFIG: &str = "
listen: { address: LISTEN, limits: { max_answer_bytes: 1MiB } }
stream: { keep_alive: off, max_event_bytes: 1MiB }
routing: { retry: { per_target: 2 } }
models:
  \"quick/chat/*\": { target: \"chat/*\", timeouts: &quick { head: 1s, first_token: 1s, idle: 1s } }
  \"quick/responses/*\": { target: \"responses/*\", timeouts: *quick }
  \"quick/anthropic/*\": { target: \"anthropic/*\", timeouts: *quick }
  \"quick/gemini/*\": { target: \"gemini/*\", timeouts: *quick }
";

/// Exchanges at the same time.
const AT_ONCE: usize = 48;

/// How an exchange must end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// With this status and error code, before anything of an answer.
    Refused(u16, &'static str),
    /// With 200 and content, then an error event; the log has this code.
    Broken(&'static str),
    /// Well.
    Fine,
}

use End::{Broken, Fine, Refused};

/// Faults and how they end: for an answer in one piece, for a stream.
const TABLE: &[(&str, End, End)] = &[
    ("400", Refused(400, "upstream_rejected"), Refused(400, "upstream_rejected")),
    ("401", Refused(502, "upstream_credential_refused"), Refused(502, "upstream_credential_refused")),
    ("403", Refused(403, "upstream_forbidden"), Refused(403, "upstream_forbidden")),
    ("404", Refused(404, "upstream_not_found"), Refused(404, "upstream_not_found")),
    ("429=70", Refused(429, "rate_limited"), Refused(429, "rate_limited")),
    ("quota", Refused(429, "quota_exceeded"), Refused(429, "quota_exceeded")),
    ("context", Refused(400, "context_length_exceeded"), Refused(400, "context_length_exceeded")),
    ("policy", Refused(400, "content_policy"), Refused(400, "content_policy")),
    ("500", Refused(500, "upstream_error"), Refused(500, "upstream_error")),
    ("503", Refused(503, "upstream_overloaded"), Refused(503, "upstream_overloaded")),
    ("529", Refused(529, "upstream_overloaded"), Refused(529, "upstream_overloaded")),
    ("html", Refused(502, "upstream_error"), Refused(502, "upstream_error")),
    ("html=200", Refused(502, "bad_upstream_answer"), Refused(502, "bad_upstream_answer")),
    ("empty", Refused(502, "bad_upstream_answer"), Refused(502, "stream_broken")),
    ("garbage-sse", Refused(502, "bad_upstream_answer"), Refused(502, "bad_upstream_answer")),
    ("stall-head", Refused(504, "head_timeout"), Refused(504, "first_token_timeout")),
    ("stall-first", Refused(504, "idle_timeout"), Refused(504, "first_token_timeout")),
    ("stall-mid", Refused(504, "idle_timeout"), Broken("idle_timeout")),
    ("cut-head", Refused(502, "upstream_unreachable"), Refused(502, "upstream_unreachable")),
    ("cut-first", Refused(502, "stream_broken"), Refused(502, "stream_broken")),
    ("cut-mid", Refused(502, "stream_broken"), Broken("stream_broken")),
    ("reset=head", Refused(502, "upstream_unreachable"), Refused(502, "upstream_unreachable")),
    ("reset=first", Refused(502, "stream_broken"), Refused(502, "stream_broken")),
    ("reset=mid", Refused(502, "stream_broken"), Broken("stream_broken")),
    ("eof-mid", Refused(502, "bad_upstream_answer"), Broken("stream_broken")),
    ("malformed", Refused(502, "bad_upstream_answer"), Broken("bad_upstream_answer")),
    ("malformed-first", Refused(502, "bad_upstream_answer"), Refused(502, "bad_upstream_answer")),
    ("huge-frame=3000000", Refused(502, "bad_upstream_answer"), Broken("bad_upstream_answer")),
    ("error-first", Refused(502, "upstream_error"), Refused(502, "upstream_error")),
    ("error-first=bare", Refused(502, "upstream_error"), Refused(502, "upstream_error")),
    ("error-mid", Refused(502, "upstream_error"), Broken("upstream_error")),
    ("wrong-type", Fine, Fine),
    ("no-usage", Fine, Fine),
    ("no-done", Fine, Fine),
    ("drip", Fine, Fine),
];

/// What differs from the table where a provider has words of its own.
fn expected(fault: &str, from: Dialect, to: Dialect, stream: bool) -> End {
    let row = TABLE.iter().find(|(name, ..)| *name == fault).expect("a row");
    let end = if stream { row.2 } else { row.1 };
    match (fault, to, end) {
        // Anthropic's own callers hear its 400; others what their dialect says of an empty account.
        ("quota", Anthropic, _) if from == Anthropic => Refused(400, "quota_exceeded"),
        // Gemini blocks a prompt with a 200 and a reason.
        ("policy", Gemini, _) => Fine,
        // What Anthropic and Gemini say inside a stream is that they are overloaded.
        ("error-first" | "error-first=bare" | "error-mid", Anthropic | Gemini, Refused(..)) => {
            Refused(503, "upstream_overloaded")
        }
        ("error-mid", Anthropic | Gemini, _) => Broken("upstream_overloaded"),
        // A JSON array of chunks in an answer's place.
        ("wrong-type", Gemini, Fine) if !stream => Refused(502, "bad_upstream_answer"),
        _ => end,
    }
}

#[tokio::test]
async fn every_fault_ends_as_it_should_between_every_pair() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut exchanges = JoinSet::new();
    let address = gateway.address;
    for (fault, ..) in TABLE {
        for from in ALL {
            for to in ALL {
                for stream in [false, true] {
                    let places = places.clone();
                    exchanges.spawn(async move {
                        let _place = places.acquire_owned().await;
                        let quick = if fault.starts_with("stall") { "quick/" } else { "" };
                        // A model of its own, so that no breaker sees more than one exchange.
                        let model = format!("{quick}{}/mock-fast:fault={fault},key={from:?}-{stream}", to.account());
                        let body = from.ask(&model, stream, Turn::Text, "Hello");
                        let json = [("content-type", "application/json")];
                        let reply = wire::call(address, "POST", &from.path(&model, stream), &json, &body).await;
                        (*fault, from, to, stream, reply)
                    });
                }
            }
        }
    }
    let replies = exchanges.join_all().await;
    let total = replies.len();
    gateway.settled().await;
    let lines = gateway.lines(total).await;
    let mut wrong = Vec::new();
    for (fault, from, to, stream, reply) in &replies {
        let mut of_this = lines.iter().filter(|line| line["id"] == reply.head.id());
        let verdict = match (of_this.next(), of_this.next()) {
            (Some(line), None) => judged(fault, *from, *to, *stream, reply, line),
            _ => Err("there is not one log line".to_owned()),
        };
        if let Err(why) = verdict {
            wrong.push(format!("{fault}, {from:?} to {to:?}, stream {stream}: {why}"));
        }
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{} of {total} went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// [`judge`], with what the readers of dialects object to as well.
fn judged(fault: &str, from: Dialect, to: Dialect, stream: bool, reply: &Reply, log: &Value) -> Result<(), String> {
    let judge = || judge(fault, from, to, stream, reply, log);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(judge)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map_or("it panicked", String::as_str);
        Err(format!("{text}; {}", reply.text()))
    })
}

/// How often the only target there is must have been asked.
fn tries(end: End) -> usize {
    match end {
        // Its wait is longer than any that is sat out.
        Refused(_, "rate_limited") => 1,
        Refused(_, code) => match Kind::from_code(code).map(|kind| kind.row().retry) {
            Some(Retry::Same) => 2,
            _ => 1,
        },
        Broken(_) | Fine => 1,
    }
}

/// Whether an exchange ended as the table says.
fn judge(fault: &str, from: Dialect, to: Dialect, stream: bool, reply: &Reply, log: &Value) -> Result<(), String> {
    let same = |what: &str, is: &Value, should: Value| {
        if *is == should { Ok(()) } else { Err(format!("{what} is {is}, not {should}; log {log}; {}", reply.text())) }
    };
    let attempts = log["attempts"].as_array().map_or(0, Vec::len);
    same("the number of attempts", &json!(attempts), json!(tries(expected(fault, from, to, stream))))?;
    same("the log's stream", &log["stream"], json!(stream))?;
    same("the body's end", &json!(reply.whole), json!(true))?;
    match expected(fault, from, to, stream) {
        Refused(status, code) => {
            same("the status", &json!(reply.status()), json!(status))?;
            same("the log's status", &log["status"], json!(status))?;
            same("the log's code", &log["error"]["code"], json!(code))?;
            same("the attempt's error", &log["attempts"][0]["error"], json!(code))?;
            same("x-portcullis-error", &json!(reply.head.header("x-portcullis-error")), json!(code))?;
            same("the content type", &json!(reply.head.header("content-type")), json!("application/json"))?;
            from.error(&reply.json());
            if code == "rate_limited" {
                same("retry-after", &json!(reply.head.header("retry-after")), json!("70"))?;
                same("retry-after-ms", &json!(reply.head.header("retry-after-ms")), json!("70000"))?;
            }
        }
        Broken(code) => {
            same("the status", &json!(reply.status()), json!(200))?;
            same("the log's code", &log["error"]["code"], json!(code))?;
            let failed = log["status"].as_u64().is_some_and(|status| status >= 500);
            same("the log's status as a failure", &json!(failed), json!(true))?;
            same("the attempt's error", &log["attempts"][0]["error"], Value::Null)?;
            // Gemini states its usage all along.
            let estimated = if to == Gemini { Value::Null } else { json!(true) };
            same("the log's usage as an estimate", &log["usage_estimated"], estimated)?;
            same("usage in the log", &json!(log["usage"]["output"].as_u64() > Some(1)), json!(true))?;
            let said = from.read_stream(&reply.text());
            same("an early text", &json!(said.text.starts_with("You said")), json!(true))?;
            same("the end mark", &json!(said.done), json!(false))?;
            match &said.error {
                None => return Err(format!("no error event in {}", reply.text())),
                Some(event) => drop(from.error_event(event)),
            }
        }
        Fine => {
            same("the status", &json!(reply.status()), json!(200))?;
            same("the log's status", &log["status"], json!(200))?;
            same("the log's error", &log["error"], Value::Null)?;
            let said = from.read(reply);
            same("the error", &json!(said.error), Value::Null)?;
            // A stream that nobody asked for comes without the usage chunk that must be asked for.
            let unasked = fault == "wrong-type" && to == Chat && !stream;
            let unstated = fault == "no-usage" || unasked;
            let blocked = fault == "policy";
            same("the text", &json!(said.text.starts_with("You said: \"Hello\".")), json!(!blocked))?;
            let estimated = if unstated { json!(true) } else { Value::Null };
            same("the log's usage as an estimate", &log["usage_estimated"], estimated)?;
            same("usage in the log", &json!(log["usage"]["input"].as_u64() > Some(0)), json!(true))?;
        }
    }
    Ok(())
}
