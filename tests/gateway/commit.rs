//! The commit point: before the first content a failure is invisible and the next target answers; after it nothing is
//! tried again.

use std::sync::Arc;

use portcullis::fault::{Kind, Retry};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::dialect::{ALL, Dialect, Turn};
use super::support::{Gateway, Mock};
use super::upstream::{Act, Upstream, answer};
use super::wire::{self, Reply};

/// Faults that show before the first content, and what the log calls them.
const BEFORE: &[(&str, &str)] = &[
    ("401", "upstream_credential_refused"),
    ("403", "upstream_forbidden"),
    ("404", "upstream_not_found"),
    ("429", "rate_limited"),
    ("quota", "quota_exceeded"),
    ("context", "context_length_exceeded"),
    ("500", "upstream_error"),
    ("503", "upstream_overloaded"),
    ("529", "upstream_overloaded"),
    ("html", "upstream_error"),
    ("html=200", "bad_upstream_answer"),
    ("empty", ""),
    ("garbage-sse", "bad_upstream_answer"),
    ("stall-head", "head_timeout"),
    ("stall-first", ""),
    ("cut-head", "upstream_unreachable"),
    ("cut-first", "stream_broken"),
    ("reset=head", "upstream_unreachable"),
    ("reset=first", "stream_broken"),
    ("malformed-first", "bad_upstream_answer"),
    ("error-first", ""),
    ("error-first=bare", ""),
];

/// Faults that show after some content.
const AFTER: &[&str] =
    &["stall-mid", "cut-mid", "reset=mid", "eof-mid", "malformed", "error-mid", "huge-frame=3000000"];

/// A model for each fault at each account, dialect and form of asking, so that no breaker sees more than one exchange,
/// with a good target of another dialect behind the faulty one.
fn config() -> String {
    let faults = BEFORE.iter().map(|(name, _)| *name).chain(AFTER.iter().copied()).chain(["400"]);
    let mut models = String::new();
    for fault in faults {
        for to in ALL {
            let (account, good) = (to.account(), good(to).account());
            let clocks = if fault.starts_with("stall") { "head: 1s, first_token: 1s, idle: 1s" } else { "" };
            for (from, stream) in ALL.iter().flat_map(|from| [(from, false), (from, true)]) {
                models.push_str(&format!(
                    "  \"{account} {fault} {from:?} {stream}\":
    fallback:
      - {{ target: \"{account}/mock-fast:fault={fault},key={from:?}-{stream}\", timeouts: {{ {clocks} }} }}
      - {good}/mock-good\n"
                ));
            }
        }
    }
    format!(
        "stream: {{ keep_alive: off, max_event_bytes: 1MiB }}
listen: {{ address: LISTEN, limits: {{ max_answer_bytes: 1MiB }} }}
models:\n{models}"
    )
}

fn good(to: Dialect) -> Dialect {
    ALL[(ALL.iter().position(|dialect| *dialect == to).unwrap_or(0) + 1) % 4]
}

struct Case {
    fault: &'static str,
    from: Dialect,
    to: Dialect,
    stream: bool,
    reply: Reply,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} at {:?}, asked in {:?}, stream {}: {}",
            self.fault,
            self.to,
            self.from,
            self.stream,
            self.reply.text()
        )
    }
}

/// Asks for every one of these faults in every dialect.
async fn run(gateway: &Gateway, faults: Vec<&'static str>, streams: &[bool]) -> Vec<Case> {
    let (places, address) = (Arc::new(Semaphore::new(48)), gateway.address);
    let mut cases = JoinSet::new();
    for fault in faults {
        for from in ALL {
            for to in ALL {
                for &stream in streams {
                    let places = places.clone();
                    cases.spawn(async move {
                        let _place = places.acquire_owned().await;
                        let model = format!("{} {fault} {from:?} {stream}", to.account());
                        let body = from.ask(&model, stream, Turn::Text, "Hello");
                        let path = from.path(&model.replace(' ', "%20"), stream);
                        let reply = wire::call(address, "POST", &path, &[], &body).await;
                        Case { fault, from, to, stream, reply }
                    });
                }
            }
        }
    }
    cases.join_all().await
}

fn line<'a>(lines: &'a [Value], case: &Case) -> &'a Value {
    let id = case.reply.head.id();
    lines.iter().find(|line| line["id"] == id).unwrap_or_else(|| panic!("no log line: {case}"))
}

#[tokio::test]
async fn a_failure_before_the_first_content_is_invisible_and_the_next_target_answers() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, &config()).await;
    let mut cases = run(&gateway, BEFORE.iter().map(|(name, _)| *name).collect(), &[false, true]).await;
    // Not streamed, the whole body is judged before anything is sent.
    cases.extend(run(&gateway, AFTER.to_vec(), &[false]).await);
    let lines = gateway.lines(cases.len()).await;
    for case in &cases {
        assert_eq!(case.reply.status(), 200, "{case}");
        let said = case.from.read(&case.reply);
        assert!(said.done && said.error.is_none(), "{case}");
        assert!(said.text.starts_with("You said: \"Hello\"."), "{case}");
        assert_eq!(said.text.matches("You said").count(), 1, "two answers in one: {case}");
        assert_eq!(said.usage.map(|usage| usage.1), Some(said.text.len().div_ceil(4) as u64), "{case}");
        assert_eq!(case.reply.head.header("x-portcullis-provider"), Some(good(case.to).account()), "{case}");
        let line = line(&lines, case);
        assert_eq!((&line["status"], &line["error"]), (&json!(200), &Value::Null), "{case}");
        let reason = line["attempts"][0]["error"].as_str().unwrap_or_default();
        let code = match BEFORE.iter().find(|(name, _)| *name == case.fault) {
            // A stream is to send its head with its first token.
            Some(("stall-head", _)) if case.stream => "first_token_timeout",
            Some((_, code)) => code,
            None => "",
        };
        assert!(!reason.is_empty() && (code.is_empty() || reason == code), "{reason}: {case}");
        let attempts = line["attempts"].as_array().expect("attempts");
        assert_eq!(attempts.len(), tries(reason) + 1, "{case}: {line}");
        assert_eq!(case.reply.head.attempts(), attempts.len() as u32, "{case}");
        assert_eq!(attempts[attempts.len() - 1]["error"], Value::Null, "{case}");
    }
    gateway.settled().await;
}

#[tokio::test]
async fn an_answer_that_is_nothing_but_an_error_is_invisible_and_one_after_content_is_told() {
    let mock = Mock::start().await;
    // As OpenRouter says that its provider failed: with 200, in the choice.
    let upstream = Upstream::start(|seen| {
        // Asked once more before the body is read.
        let ask: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let begun = if ask["model"] == "late" { "Half of" } else { "" };
        let message = json!({"role": "assistant", "content": begun});
        let error = json!({"code": 502, "message": "Provider disconnected"});
        let failed = |key: &str, said: Value| {
            json!({"id": "gen-1", "model": "m", "choices": [
                {"index": 0, key: said, "finish_reason": "error", "error": error}]})
        };
        if ask["stream"] != true {
            return Act::Answer(answer("application/json", failed("message", message).to_string().as_bytes()));
        }
        let first = json!({"id": "gen-1", "model": "m", "choices": [{"index": 0, "delta": message}]});
        let last = failed("delta", json!({"content": ""}));
        let frames = format!("data: {first}\n\ndata: {last}\n\ndata: [DONE]\n\n");
        Act::Answer(answer("text/event-stream", frames.as_bytes()))
    })
    .await;
    let yaml = format!(
        "routing: {{ retry: {{ per_target: 1 }} }}
providers:
  odd: {{ dialect: openai_chat, base_url: http://{}/v1, auth: none, breaker: off }}
  chat: {{ dialect: openai_chat, base_url: http://MOCK/v1, auth: none }}
models:
  early: {{ fallback: [odd/early, chat/mock-good] }}
  late: {{ fallback: [odd/late, chat/mock-good] }}
",
        upstream.address
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    for from in ALL {
        for (model, stream) in [("early", false), ("early", true), ("late", false), ("late", true)] {
            let body = from.ask(model, stream, Turn::Text, "Hello");
            let reply = gateway.call("POST", &from.path(model, stream), &[], body).await;
            let case = format!("{from:?} {model} {stream}: {}", reply.text());
            assert_eq!(reply.status(), 200, "{case}");
            let said = if stream { from.read_stream(&reply.text()) } else { from.read(&reply) };
            let line = gateway.logged(reply.head.id()).await;
            if (model, stream) == ("late", true) {
                assert!(said.text.starts_with("Half of") && said.error.is_some() && !said.done, "{case}");
                assert_eq!(line["error"]["code"], "upstream_error", "{case}");
            } else {
                assert!(said.text.starts_with("You said") && said.error.is_none() && said.done, "{case}");
                assert_eq!(line["attempts"][0]["error"], "upstream_error", "{case}: {line}");
            }
        }
    }
}

#[tokio::test]
async fn a_prompt_that_gemini_blocks_with_200_goes_to_the_chain_for_refused_content() {
    let mock = Mock::start().await;
    let blocked = "\"gemini/mock-fast:fault=policy\"";
    let yaml = format!(
        "models:
  chained: {{ fallback: [{blocked}, gemini/unasked], on_content_policy: [chat/mock-good] }}
  plain: {{ fallback: [{blocked}, gemini/unasked] }}
"
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    for from in ALL {
        for stream in [false, true] {
            let case = format!("{from:?} {stream}");
            for model in ["chained", "plain"] {
                let body = from.ask(model, stream, Turn::Text, "Hello");
                let reply = gateway.call("POST", &from.path(model, stream), &[], body).await;
                assert_eq!(reply.status(), 200, "{case}: {}", reply.text());
                let said = if stream { from.read_stream(&reply.text()) } else { from.read(&reply) };
                assert!(said.error.is_none(), "{case}: {}", reply.text());
                let attempts = gateway.logged(reply.head.id()).await["attempts"].clone();
                if model == "chained" {
                    assert!(said.text.starts_with("You said"), "{case}: {}", reply.text());
                    assert_eq!(attempts[0]["error"], "content_policy", "{case}: {attempts}");
                    assert_eq!(attempts[1]["model"], "mock-good", "{case}: {attempts}");
                } else {
                    assert_eq!((said.text.as_str(), attempts.as_array().map(Vec::len)), ("", Some(1)), "{case}");
                }
            }
        }
    }
}

/// How often a target that fails like this is asked before the next one.
fn tries(code: &str) -> usize {
    let kind = Kind::from_code(code).expect("a code");
    let again = kind.row().retry == Retry::Same && !kind.is_timeout() && kind != Kind::RateLimited;
    1 + usize::from(again)
}

#[tokio::test]
async fn after_the_first_content_nothing_is_tried_again() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, &config()).await;
    let cases = run(&gateway, AFTER.to_vec(), &[true]).await;
    let lines = gateway.lines(cases.len()).await;
    for case in &cases {
        assert_eq!((case.reply.status(), case.reply.head.attempts()), (200, 1), "{case}");
        let said = case.from.read_stream(&case.reply.text());
        assert!(said.error.is_some() && !said.done && said.text.matches("You said").count() == 1, "{case}");
        let line = line(&lines, case);
        assert!(line["status"].as_u64() >= Some(500) && line["attempts"].as_array().map(Vec::len) == Some(1), "{case}");
    }
    let journal = mock.journal().await;
    assert!(journal.iter().all(|entry| !entry["body"].to_string().contains("mock-good")), "the next target was asked");
}

#[tokio::test]
async fn what_every_provider_would_refuse_is_refused_at_once() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, &config()).await;
    for case in run(&gateway, vec!["400"], &[false, true]).await {
        assert_eq!((case.reply.status(), case.reply.head.attempts()), (400, 1), "{case}");
        case.from.error(&case.reply.json());
    }
}

#[tokio::test]
async fn when_every_target_fails_the_last_fault_is_told_and_all_are_logged() {
    let mock = Mock::start().await;
    // A model for each dialect, so that no target rests because of the exchange before.
    let models = ALL.map(|from| {
        let key = format!("key={from:?}");
        format!("  bad-{from:?}: {{ fallback: [\"chat/x:fault=500,{key}\", \"anthropic/x:fault=529,{key}\", \"gemini/x:fault=429=3,{key}\"] }}\n")
    });
    let yaml = &format!("models:\n{}", models.concat());
    let gateway = Gateway::start(&mock, yaml).await;
    for from in ALL {
        let bad = &format!("bad-{from:?}");
        let reply = gateway.post(&from.path(bad, true), from.ask(bad, true, Turn::Text, "Hello")).await;
        assert_eq!((reply.status(), reply.head.attempts()), (429, 5), "{from:?}");
        assert_eq!(reply.head.header("retry-after"), Some("3"), "{from:?}");
        from.error(&reply.json());
        let line = gateway.logged(reply.head.id()).await;
        let codes: Vec<_> =
            line["attempts"].as_array().into_iter().flatten().map(|attempt| attempt["error"].clone()).collect();
        assert_eq!(
            codes,
            ["upstream_error", "upstream_error", "upstream_overloaded", "upstream_overloaded", "rate_limited"],
            "{from:?}"
        );
        let statuses: Vec<_> =
            line["attempts"].as_array().into_iter().flatten().map(|attempt| attempt["status"].clone()).collect();
        assert_eq!(statuses, [500, 500, 529, 529, 429], "{from:?}");
    }
}

/// A refused connection is a failed attempt like any other.
#[tokio::test]
async fn a_provider_that_is_down_costs_an_attempt_and_no_more() {
    let mock = Mock::start().await;
    let yaml = "
providers:
  down: { dialect: openai_chat, base_url: http://127.0.0.1:1/v1, auth: none }
  chat: { dialect: openai_chat, base_url: http://MOCK/v1, auth: none }
models:
  any: { fallback: [down/x, chat/mock-fast] }
";
    let gateway = Gateway::start(&mock, yaml).await;
    for from in ALL {
        let reply = gateway.post(&from.path("any", true), from.ask("any", true, Turn::Text, "Hello")).await;
        assert_eq!((reply.status(), reply.head.attempts()), (200, 3), "{from:?}");
        assert!(from.read(&reply).done, "{from:?}");
        let line = gateway.logged(reply.head.id()).await;
        assert_eq!(line["attempts"][0]["error"], "upstream_unreachable", "{from:?}");
    }
}
