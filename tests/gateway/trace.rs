//! The decision trace: who may ask for it, what it tells, on answers, errors and streams.

use serde_json::{Value, json};

use super::dialect::{ALL, Chat, Turn};
use super::support::{Gateway, Mock};
use super::wire::Head;

const CONFIG: &str = "
models:
  # One for each dialect and form, so that no breaker sees more than one exchange.
  \"safe-*\": { fallback: [\"chat/x:fault=500,key=*\", \"anthropic/x:fault=401,key=*\", gemini/mock-fast] }
  bad: { target: \"chat/x:fault=400\" }
";

const ASKED: &[(&str, &str)] = &[("content-type", "application/json"), ("x-portcullis-trace", "1")];

fn steps(head: &Head) -> Vec<Value> {
    let text = head.header("x-portcullis-trace").expect("a trace");
    let trace: Value = serde_json::from_str(text).expect("JSON");
    trace["steps"].as_array().expect("steps").clone()
}

#[tokio::test]
async fn an_answer_tells_every_candidate_and_every_attempt() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for from in ALL {
        for stream in [false, true] {
            let key = format!("{from:?}-{stream}");
            let model = &format!("safe-{key}");
            let body = from.ask(model, stream, Turn::Text, "a secret prompt");
            let reply = gateway.call("POST", &from.path(model, stream), ASKED, body).await;
            assert_eq!(reply.status(), 200, "{from:?}: {}", reply.text());
            let steps = steps(&reply.head);
            let of = |stage: &str| -> Vec<&Value> {
                steps.iter().filter(|step| step["stage"] == stage).map(|step| &step["what"]).collect()
            };
            let bad = [format!("chat/x:fault=500,key={key}"), format!("anthropic/x:fault=401,key={key}")];
            let targets = json!([bad[0], bad[1], "gemini/mock-fast"]);
            assert_eq!(of("plan")[0]["targets"], targets, "{from:?}");
            let attempts = of("attempt");
            let told: Vec<_> = attempts.iter().map(|attempt| (&attempt["role"], &attempt["fault"])).collect();
            let (error, dead) = (json!("upstream_error"), json!("upstream_credential_refused"));
            let [first, again, next] = [json!("first"), json!("again"), json!("next")];
            let expected = [(&first, &error), (&again, &error), (&next, &dead), (&next, &Value::Null)];
            assert_eq!(told, expected, "{from:?}: {steps:?}");
            assert!(attempts[1]["waited_ms"].as_u64() >= Some(100), "{attempts:?}");
            assert_eq!(of("retry")[1], &json!({"then": "next"}));
            let line = gateway.logged(reply.head.id()).await;
            assert_eq!(line["trace"].as_array().map(Vec::len), Some(steps.len()));
            assert!(!line["trace"].to_string().contains("secret"));
        }
    }
}

#[tokio::test]
async fn an_error_tells_it_too_and_who_does_not_ask_hears_nothing() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let body = Chat.ask("bad", false, Turn::Text, "Hello");
    let reply = gateway.call("POST", "/v1/chat/completions", ASKED, &body).await;
    assert_eq!(reply.status(), 400);
    assert!(steps(&reply.head).iter().any(|step| step["what"]["fault"] == "upstream_rejected"));
    let reply = gateway.post("/v1/chat/completions", &body).await;
    assert_eq!(reply.head.header("x-portcullis-trace"), None);
    assert_eq!(gateway.logged(reply.head.id()).await["trace"], Value::Null);
}

#[tokio::test]
async fn a_key_may_not_ask_unless_it_is_told_so_and_the_log_may_have_all() {
    let mock = Mock::start().await;
    let yaml = "
keys: [{ name: k, key: sk-caller }]
log: { stdout: off, file: FOLDER/access.log, trace: true }
";
    let gateway = Gateway::start(&mock, yaml).await;
    let headers = [("authorization", "Bearer sk-caller"), ("x-portcullis-trace", "1")];
    let body = Chat.ask("chat/mock-fast", false, Turn::Text, "Hello");
    let reply = gateway.call("POST", "/v1/chat/completions", &headers, body).await;
    assert_eq!((reply.status(), reply.head.header("x-portcullis-trace")), (200, None));
    assert!(gateway.logged(reply.head.id()).await["trace"].is_array());
}
