//! Stored responses find their way back to the account that made them, for the caller that had them made.

use serde_json::{Value, json};

use super::policies::with;
use super::support::{Gateway, Mock};
use super::wire::Reply;

/// Two accounts that keep responses; `pair` is answered by the second.
async fn gateway(first: &Mock, second: &Mock) -> Gateway {
    let yaml = format!(
        "
providers:
  first: {{ dialect: openai_responses, base_url: http://MOCK/v1, auth: none }}
  second: {{ dialect: openai_responses, base_url: http://{}/v1, auth: none }}
  chat: {{ dialect: openai_chat, base_url: http://MOCK/v1, auth: none }}
  anthropic: {{ dialect: anthropic, base_url: http://MOCK/v1, auth: none }}
  gemini: {{ dialect: gemini, base_url: http://MOCK/v1beta, auth: none }}
models:
  pair: {{ fallback: [\"first/x:fault=500\", second/mock-fast] }}
  either: {{ fallback: [first/mock-fast, second/mock-fast] }}
  deaf: {{ fallback: [chat/mock-fast, anthropic/mock-fast] }}
keys:
  - {{ name: one, key: sk-one }}
  - {{ name: other, key: sk-other }}
",
        second.address
    );
    Gateway::start(first, &yaml).await
}

const ONE: &[(&str, &str)] = &[("authorization", "Bearer sk-one")];
const OTHER: &[(&str, &str)] = &[("authorization", "Bearer sk-other")];

async fn ask(gateway: &Gateway, key: &[(&str, &str)], model: &str, previous: Option<&str>, stream: bool) -> Reply {
    let mut body = json!({"model": model, "input": "What did I say?", "stream": stream});
    if let Some(previous) = previous {
        body["previous_response_id"] = json!(previous);
    }
    gateway.call("POST", "/v1/responses", key, body.to_string()).await
}

fn provider(reply: &Reply) -> Option<&str> {
    reply.head.header("x-portcullis-provider")
}

async fn made(gateway: &Gateway, model: &str, stream: bool) -> String {
    let reply = ask(gateway, ONE, model, None, stream).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    super::dialect::Responses.read(&reply).id
}

#[tokio::test]
async fn a_conversation_goes_on_where_it_began() {
    let (first, second) = (Mock::start().await, Mock::start().await);
    let gateway = gateway(&first, &second).await;
    for stream in [false, true] {
        // Made by the plan's second target, behind one that failed.
        let id = made(&gateway, "pair", stream).await;
        for model in ["pair", "either", "second/mock-fast", "second/mock-other"] {
            let reply = ask(&gateway, ONE, model, Some(&id), stream).await;
            assert_eq!((reply.status(), reply.head.attempts()), (200, 1), "{model}: {}", reply.text());
            assert_eq!(provider(&reply), Some("second"), "{model}");
            let said = super::dialect::Responses.read(&reply);
            assert!(said.text.contains("I have seen 2 user turns"), "{model}: {}", said.text);
        }
        // The model that is named now is the model that is asked now.
        let reply = ask(&gateway, ONE, "second/mock-other", Some(&id), stream).await;
        assert_eq!(reply.head.header("x-portcullis-model"), Some("mock-other"));
        let id = made(&gateway, "either", stream).await;
        let reply = ask(&gateway, ONE, "either", Some(&id), stream).await;
        assert_eq!((reply.status(), provider(&reply)), (200, Some("first")));
    }
    // A reload forgets nothing.
    let id = made(&gateway, "pair", false).await;
    assert_eq!(gateway.admin("POST", "/admin/reload").await.status(), 200);
    assert_eq!(provider(&ask(&gateway, ONE, "pair", Some(&id), false).await), Some("second"));
}

#[tokio::test]
async fn a_model_of_another_account_cannot_go_on_from_it() {
    let (first, second) = (Mock::start().await, Mock::start().await);
    let gateway = gateway(&first, &second).await;
    let id = made(&gateway, "pair", false).await;
    let asked = first.journal().await.len();
    let reply = ask(&gateway, ONE, "first/mock-fast", Some(&id), false).await;
    assert_eq!(reply.status(), 404, "{}", reply.text());
    assert_eq!(reply.json()["error"]["param"], "previous_response_id");
    assert_eq!(first.journal().await.len(), asked);
    // Providers that keep nothing say so instead of forgetting what was said.
    for model in ["chat/mock-fast", "anthropic/mock-fast", "gemini/mock-fast", "deaf"] {
        let reply = ask(&gateway, ONE, model, Some("resp_of_old"), true).await;
        assert_eq!(reply.status(), 400, "{model}: {}", reply.text());
        assert_eq!(reply.head.header("x-portcullis-error"), Some("unsupported_feature"), "{model}");
    }
}

#[tokio::test]
async fn another_callers_response_is_not_found_by_any_path() {
    let (first, second) = (Mock::start().await, Mock::start().await);
    let gateway = gateway(&first, &second).await;
    let id = made(&gateway, "either", false).await;
    let before = first.journal().await.len() + second.journal().await.len();
    let reply = ask(&gateway, OTHER, "either", Some(&id), false).await;
    assert_eq!(reply.status(), 404, "{}", reply.text());
    assert_eq!(reply.json()["error"]["code"], "response_not_found");
    for (method, path) in [
        ("GET", format!("/v1/responses/{id}")),
        ("DELETE", format!("/v1/responses/{id}")),
        ("POST", format!("/v1/responses/{id}/cancel")),
        ("GET", format!("/v1/responses/{id}/input_items")),
        ("GET", "/v1/responses/resp_unheard_of".to_owned()),
    ] {
        let reply = gateway.call(method, &path, OTHER, b"").await;
        assert_eq!(reply.status(), 404, "{method} {path}: {}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "response_not_found", "{method} {path}");
    }
    assert_eq!(first.journal().await.len() + second.journal().await.len(), before);
}

#[tokio::test]
async fn stored_responses_are_read_cancelled_and_deleted_where_they_are() {
    let (first, second) = (Mock::start().await, Mock::start().await);
    let gateway = gateway(&first, &second).await;
    let id = made(&gateway, "pair", false).await;
    for prefix in ["/v1", ""] {
        let reply = gateway.call("GET", &format!("{prefix}/responses/{id}/?include[]=x"), ONE, b"").await;
        assert_eq!((reply.status(), provider(&reply)), (200, Some("second")), "{}", reply.text());
        assert_eq!(reply.json()["id"], id.as_str());
        assert!(
            second.last().await["target"]
                .as_str()
                .is_some_and(|target| target.ends_with(&format!("/{id}?include[]=x")))
        );
        // The caller's key goes no further, wherever it stands.
        let path = format!("{prefix}/responses/{id}?key=sk-one&include[]=x&key=sk-one");
        assert_eq!(gateway.call("GET", &path, &[], b"").await.status(), 200);
        assert!(
            second.last().await["target"]
                .as_str()
                .is_some_and(|target| target.ends_with(&format!("/{id}?include[]=x")))
        );
        let line = gateway.logged(reply.head.id()).await;
        assert_eq!((&line["status"], &line["provider"]), (&json!(200), &json!("second")));
    }
    // A stream of it comes as one, and is not paid for again.
    let reply = gateway.call("GET", &format!("/v1/responses/{id}?stream=true"), ONE, b"").await;
    assert!(reply.head.header("content-type").is_some_and(|form| form.starts_with("text/event-stream")), "{reply:?}");
    let said = super::dialect::Responses.read_stream(&reply.text());
    assert!(said.done && said.id == id, "{said:?}");
    let line = gateway.logged(reply.head.id()).await;
    assert_eq!((&line["status"], &line["stream"], &line["usage"]), (&json!(200), &json!(true), &Value::Null), "{line}");
    let reply = gateway.call("GET", &format!("/v1/responses/{id}/input_items"), ONE, b"").await;
    assert!(reply.json()["data"].as_array().is_some_and(|items| !items.is_empty()), "{}", reply.text());
    let body = json!({"model": "second/mock-fast", "input": "Hello", "background": true});
    let reply = gateway.call("POST", "/v1/responses", ONE, body.to_string()).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let background = reply.json()["id"].as_str().expect("an id").to_owned();
    let reply = gateway.call("POST", &format!("/v1/responses/{background}/cancel"), ONE, b"").await;
    assert_eq!((reply.status(), provider(&reply)), (200, Some("second")), "{}", reply.text());
    let reply = gateway.call("DELETE", &format!("/v1/responses/{id}"), ONE, b"").await;
    assert_eq!((reply.status(), reply.json()["deleted"].clone()), (200, json!(true)), "{}", reply.text());
    // What is gone is the provider's to say.
    let reply = gateway.call("GET", &format!("/v1/responses/{id}"), ONE, b"").await;
    assert_eq!((reply.status(), provider(&reply)), (404, Some("second")), "{}", reply.text());
    let calls = first.journal().await.iter().filter(|entry| entry["target"].to_string().contains(&id)).count();
    assert_eq!(calls, 0, "the first account was asked for what the second made");
    assert!(reply.json()["error"]["message"].is_string() && reply.json() != Value::Null);
}

#[tokio::test]
async fn nobody_fetches_a_stored_response_past_a_policy_that_looks_at_answers() {
    let mock = Mock::start().await;
    let policy = "--[[manifest\nguard = true\nstream = \"event\"\n]]
        function on_answer(a) end
        function on_event(e) return 'x' end";
    let model = "responses/mock-fast";
    let keys = "keys: [{ name: one, key: sk-one, project: p }]\nmodels: { smart: responses/mock-fast }\n";
    for (hook, asked, status) in [
        ("{ lua: g }", model, 403),
        ("{ lua: g, share: 1% }", model, 403),
        ("{ lua: g, on: { models: [smart], projects: [p] } }", "smart", 403),
        ("{ lua: g, on: { models: [smart] } }", model, 200),
        ("{ lua: g, shadow: true }", model, 200),
    ] {
        let gateway = with(&mock, &[("g", policy)], &format!("{keys}hooks: [{hook}]\n")).await;
        let id = made(&gateway, asked, true).await;
        for (method, tail) in [("GET", ""), ("GET", "?stream=true"), ("GET", "/input_items"), ("POST", "/cancel")] {
            let reply = gateway.call(method, &format!("/v1/responses/{id}{tail}"), ONE, b"").await;
            if status == 403 {
                assert_eq!(reply.status(), 403, "{hook} {tail}: {}", reply.text());
                assert_eq!(reply.json()["error"]["code"], "policy_rejected", "{hook} {tail}");
                assert_eq!(reply.json()["error"]["param"], "response_id", "{hook} {tail}");
            } else if tail.is_empty() {
                assert_eq!(reply.status(), 200, "{hook}: {}", reply.text());
            }
        }
        let body = json!({"model": asked, "input": "Hello", "background": true});
        let reply = gateway.call("POST", "/v1/responses", ONE, body.to_string()).await;
        assert_eq!(reply.status(), status, "{hook}: {}", reply.text());
        let reply = gateway.call("DELETE", &format!("/v1/responses/{id}"), ONE, b"").await;
        assert_eq!(reply.status(), 200, "{hook}: {}", reply.text());
    }
}

/// The id of the message in an answer, streamed or not.
fn message_id(reply: &Reply) -> String {
    let text = reply.text();
    let from = text.rfind("\"output\"").expect("an output");
    let id = text[from..].find("\"msg_").expect("a message");
    text[from + id + 1..].split('"').next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn turns_named_by_id_reach_a_provider_that_keeps_none() {
    let (mock, other) = (Mock::start().await, Mock::start().await);
    let gateway = gateway(&mock, &other).await;
    for (model, stream) in [("chat/mock-fast", false), ("anthropic/mock-fast", true), ("gemini/mock-fast", true)] {
        let first = ask(&gateway, ONE, model, None, stream).await;
        let said = super::dialect::Responses.read(&first).text;
        let again = json!({"model": model, "input": [
            {"role": "user", "content": "What did I say?"},
            {"type": "item_reference", "id": message_id(&first)},
            {"role": "user", "content": "Go on."},
        ]});
        let reply = gateway.call("POST", "/v1/responses", ONE, again.to_string()).await;
        assert_eq!(reply.status(), 200, "{model}: {}", reply.text());
        let sent = mock.last().await["body"].as_str().unwrap_or_default().to_owned();
        let words = json!(said).to_string();
        assert!(sent.contains(words.trim_matches('"')), "{model}: {sent}");
        // Nobody else's words come out by guessing an id.
        mock.clear().await;
        let reply = gateway.call("POST", "/v1/responses", OTHER, again.to_string()).await;
        assert_eq!(reply.status(), 400, "{model}: {}", reply.text());
        assert!(mock.journal().await.is_empty(), "{model}");
    }
}
