//! What can be asked besides models themselves: lists, records, and paths that are none.

use serde_json::{Value, json};

use super::dialect::{ALL, Chat, Gemini, Turn};
use super::support::{Gateway, Mock};

const CONFIG: &str = "
models:
  fast: chat/mock-fast
  vendor/deep: anthropic/mock-fast
  hidden: chat/mock-hidden
keys:
  - { name: few, key: sk-few, models: [fast, vendor/deep] }
  - { name: all, key: sk-all }
";

const FEW: (&str, &str) = ("authorization", "Bearer sk-few");

#[tokio::test]
async fn models_are_listed_in_each_dialects_shape_and_only_those_a_key_may_use() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let list = async |path: &str, headers: &[(&str, &str)]| {
        let reply = gateway.call("GET", path, headers, b"").await;
        assert_eq!(reply.status(), 200, "{path}: {}", reply.text());
        reply.json()
    };
    for path in ["/v1/models", "/models"] {
        let openai = list(path, &[FEW]).await;
        assert_eq!(openai["object"], "list");
        let ids: Vec<_> = openai["data"].as_array().expect("data").iter().map(|row| row["id"].clone()).collect();
        assert_eq!(ids, ["fast", "vendor/deep"]);
        let row = &openai["data"][0];
        assert!(row["object"] == "model" && row["created"].is_u64() && row["owned_by"] == "chat", "{row}");
    }
    let anthropic = list("/v1/models", &[("x-api-key", "sk-few"), ("anthropic-version", "2023-06-01")]).await;
    assert_eq!((&anthropic["has_more"], &anthropic["first_id"]), (&json!(false), &json!("fast")));
    let row = &anthropic["data"][1];
    assert!(row["type"] == "model" && row["id"] == "vendor/deep" && row["display_name"].is_string(), "{row}");
    assert!(row["created_at"].as_str().is_some_and(|time| time.contains('T') && time.ends_with('Z')), "{row}");
    let gemini = list("/v1beta/models", &[("x-goog-api-key", "sk-few")]).await;
    assert_eq!(gemini["models"][0]["name"], "models/fast");
    let methods = gemini["models"][0]["supportedGenerationMethods"].as_array().expect("methods");
    assert!(methods.contains(&json!("generateContent")));
}

/// What is known of a name is kept, and whoever may use every model may make names up.
#[tokio::test]
async fn names_of_models_have_an_end_wherever_they_stand() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let (all, long) = ([("authorization", "Bearer sk-all")], format!("chat/{}", "x".repeat(600)));
    for path in [format!("/v1/models/{long}"), format!("/v1/models/{long}/endpoints")] {
        assert_eq!(gateway.call("GET", &path, &all, b"").await.status(), 404);
    }
    for field in ["models", "fallbacks"] {
        let body = json!({"model": "fast", "messages": [{"role": "user", "content": "Hi"}], field: [long]});
        let reply = gateway.call("POST", "/v1/chat/completions", &all, body.to_string()).await;
        assert_eq!((reply.status(), &reply.json()["error"]["param"]), (400, &json!("models")), "{}", reply.text());
    }
    let targets = gateway.admin("GET", "/admin/targets").await.text();
    assert!(targets.contains("mock-fast") && !targets.contains("xxx"), "{targets}");
}

#[tokio::test]
async fn models_are_listed_in_pages_as_each_api_has_them() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let list = async |path: &str| {
        let key = if path.starts_with("/v1beta") { ("x-goog-api-key", "sk-few") } else { ("x-api-key", "sk-few") };
        gateway.call("GET", path, &[key, ("anthropic-version", "2023-06-01")], b"").await
    };
    for (query, ids, more) in [
        ("limit=1", vec!["fast"], true),
        ("limit=1&after_id=fast", vec!["vendor/deep"], false),
        ("after_id=vendor%2Fdeep", vec![], false),
        ("limit=5&before_id=vendor%2Fdeep", vec!["fast"], false),
    ] {
        let page = list(&format!("/v1/models?{query}")).await.json();
        let found: Vec<_> = page["data"].as_array().expect("data").iter().map(|row| row["id"].clone()).collect();
        assert_eq!((found, &page["has_more"]), (ids.into_iter().map(Value::from).collect(), &json!(more)), "{query}");
    }
    let first = list("/v1beta/models?pageSize=1").await.json();
    assert_eq!(first["models"].as_array().map(Vec::len), Some(1), "{first}");
    let next = first["nextPageToken"].as_str().expect("a token").replace('/', "%2F");
    let second = list(&format!("/v1beta/models?pageSize=1&pageToken={next}")).await.json();
    assert_eq!((&second["models"][0]["name"], second.get("nextPageToken")), (&json!("models/vendor/deep"), None));
    assert!(!first.to_string().contains("null"), "{first}");
    for path in ["/v1/models?limit=abc", "/v1/models?limit=0", "/v1/models?after_id=none", "/v1beta/models?pageToken=x"]
    {
        assert_eq!(list(path).await.status(), 400, "{path}");
    }
}

#[tokio::test]
async fn one_model_is_told_in_each_dialects_shape_or_not_found() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for id in ["vendor/deep", "vendor%2Fdeep"] {
        let reply = gateway.call("GET", &format!("/v1/models/{id}"), &[FEW], b"").await;
        assert_eq!((reply.status(), reply.json()["id"].clone()), (200, json!("vendor/deep")));
        let headers = [("x-api-key", "sk-few"), ("anthropic-version", "2023-06-01")];
        let reply = gateway.call("GET", &format!("/v1/models/{id}"), &headers, b"").await;
        assert_eq!(reply.json()["type"], "model");
        let reply = gateway.call("GET", &format!("/v1beta/models/{id}"), &[("x-goog-api-key", "sk-few")], b"").await;
        assert_eq!(reply.json()["name"], "models/vendor/deep");
    }
    // A model that exists for others is not there for this key.
    for id in ["hidden", "chat/mock-fast", "nonsense"] {
        let reply = gateway.call("GET", &format!("/v1/models/{id}"), &[FEW], b"").await;
        assert_eq!(reply.status(), 404, "{id}");
        Chat.error(&reply.json());
        let reply = gateway.call("GET", &format!("/v1beta/models/{id}"), &[("x-goog-api-key", "sk-few")], b"").await;
        assert_eq!(reply.status(), 404, "{id}");
        Gemini.error(&reply.json());
    }
}

#[tokio::test]
async fn the_record_of_an_exchange_is_told_to_the_caller_that_made_it() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for from in ALL {
        let body = from.ask("fast", true, Turn::Text, "Hello");
        let reply = gateway.call("POST", &from.path("fast", true), &[FEW], body).await;
        let said = from.read(&reply);
        let id = reply.head.id();
        gateway.logged(id).await;
        for path in ["/v1/generation", "/generation"] {
            let record = gateway.call("GET", &format!("{path}?id={id}"), &[FEW], b"").await;
            assert_eq!(record.status(), 200, "{}", record.text());
            let data = &record.json()["data"];
            assert_eq!((&data["id"], &data["status"]), (&json!(id), &json!(200)), "{data}");
            assert_eq!((&data["provider_name"], &data["requested_model"]), (&json!("chat"), &json!("fast")), "{data}");
            let (input, output) = said.usage.expect("usage");
            assert_eq!((&data["tokens_prompt"], &data["tokens_completion"]), (&json!(input), &json!(output)), "{data}");
            assert_eq!((&data["streamed"], &data["cancelled"]), (&json!(true), &json!(false)), "{data}");
        }
        let other = [("authorization", "Bearer sk-all")];
        assert_eq!(gateway.call("GET", &format!("/v1/generation?id={id}"), &other, b"").await.status(), 404);
        // The answer's own id is as good; it is the one that a stream's first event has.
        let upstream = gateway.logged(id).await["upstream_id"].as_str().expect("an id").to_owned();
        let path = format!("/v1/generation?id={upstream}");
        assert_eq!(gateway.call("GET", &path, &[FEW], b"").await.json()["data"]["upstream_id"], json!(upstream));
        assert_eq!(gateway.call("GET", &path, &other, b"").await.status(), 404);
    }
    assert_eq!(gateway.call("GET", "/v1/generation", &[FEW], b"").await.status(), 400);
    assert_eq!(gateway.call("GET", "/v1/generation?id=gen-0", &[FEW], b"").await.status(), 404);
}

#[tokio::test]
async fn the_endpoints_of_a_model_are_told_with_their_health() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let endpoints = async || {
        gateway.call("GET", "/v1/models/fast/endpoints", &[FEW], b"").await.json()["data"]["endpoints"].clone()
    };
    let health = &endpoints().await[0]["health"];
    assert_eq!((&health["standing"], &health["attempts"]), (&json!("closed"), &json!(0)), "{health}");
    let asked = Chat.ask("fast", false, Turn::Text, "Hello");
    let reply = gateway.call("POST", &Chat.path("fast", false), &[FEW], asked).await;
    gateway.logged(reply.head.id()).await;
    let health = &endpoints().await[0]["health"];
    assert_eq!((&health["attempts"], &health["error_rate"], &health["in_flight"]), (&json!(1), &json!(0.0), &json!(0)));
    assert!(health["duration_ms"].as_f64().is_some_and(|millis| millis > 0.0), "{health}");
}

#[tokio::test]
async fn feedback_stays_with_the_record_of_the_callers_own_exchange() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let asked = Chat.ask("fast", false, Turn::Text, "Hello");
    let reply = gateway.call("POST", &Chat.path("fast", false), &[FEW], asked).await;
    let id = reply.head.id();
    gateway.logged(id).await;
    let judge = async |key, body: Value| gateway.call("POST", "/v1/feedback", &[key], body.to_string()).await;
    let kept = judge(FEW, json!({"id": id, "score": -0.5, "comment": "It rhymes."})).await;
    assert_eq!((kept.status(), &kept.json()["id"]), (200, &json!(id)), "{}", kept.text());
    let line = gateway.logged(kept.head.id()).await;
    assert_eq!(
        (&line["feedback"], line["endpoint"].as_str()),
        (&json!({"id": id, "score": -0.5}), Some("/v1/feedback"))
    );
    assert!(!line.to_string().contains("rhymes"), "what people write stays out of the log: {line}");
    let record = gateway.call("GET", &format!("/v1/generation?id={id}"), &[FEW], b"").await.json();
    assert_eq!(record["data"]["feedback"]["comment"], "It rhymes.");
    assert_eq!(judge(("authorization", "Bearer sk-all"), json!({"id": id, "score": 1})).await.status(), 404);
    for (wrong, word) in [
        (json!({"id": id}), "score"),
        (json!({"id": id, "score": 7}), "score"),
        (json!({"id": id, "score": 0, "stars": 5}), "stars"),
        (json!({"id": id, "score": 0, "comment": "x".repeat(5000)}), "comment"),
    ] {
        let refused = judge(FEW, wrong).await;
        assert_eq!((refused.status(), refused.text().contains(word)), (400, true), "{}", refused.text());
    }
}

#[tokio::test]
async fn paths_without_v1_serve_the_same() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    let model = "chat/mock-fast";
    for from in ALL {
        let path = from.path(model, false);
        let bare = path.replacen("/v1/", "/", 1).replacen("/v1beta/", "/v1/", 1);
        assert_ne!(path, bare);
        for path in [bare.clone(), format!("{bare}/")] {
            if from == Gemini && path.ends_with('/') {
                continue;
            }
            let reply = gateway.post(&path, from.ask(model, false, Turn::Text, "Hello")).await;
            assert_eq!(reply.status(), 200, "{path}: {}", reply.text());
            assert!(from.read(&reply).text.starts_with("You said"), "{path}");
        }
    }
}

#[tokio::test]
async fn what_is_not_served_is_said_in_the_callers_dialect() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    let dialects = [Chat, super::dialect::Responses, super::dialect::Anthropic, Gemini];
    for (from, unknown, known) in [
        (dialects[0], "/v1/chat/completion", "/v1/chat/completions"),
        (dialects[1], "/v1/responses/a/b/c/d", "/v1/responses"),
        (dialects[2], "/v1/messages/batches/x", "/v1/messages"),
        (dialects[3], "/v1beta/models/m:frobnicate", "/v1beta/models/m:generateContent"),
    ] {
        let reply = gateway.post(unknown, "{}").await;
        assert_eq!(reply.status(), 404, "{unknown}: {}", reply.text());
        let message = from.error(&reply.json());
        assert!(!message.is_empty(), "{unknown}");
        assert_eq!(reply.head.header("x-portcullis-error"), Some("unknown_endpoint"), "{unknown}");
        let reply = gateway.call("PUT", known, &[], "{}").await;
        assert_eq!(reply.status(), 405, "{known}: {}", reply.text());
        from.error(&reply.json());
        assert!(reply.head.header("allow").is_some_and(|allow| allow.contains("POST")), "{known}");
    }
    let reply = gateway.get("/").await;
    assert!(reply.status() == 404 || reply.status() == 200);
    assert!(mock.journal().await.is_empty());
}

#[tokio::test]
async fn ids_of_callers_go_in_and_out_and_odd_ones_are_replaced() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    for from in ALL {
        let ask = async |headers: &[(&str, &str)]| {
            let model = "anthropic/mock-fast";
            gateway.call("POST", &from.path(model, false), headers, from.ask(model, false, Turn::Text, "Hi")).await
        };
        let reply = ask(&[("x-request-id", "mine-42")]).await;
        assert_eq!(reply.head.header("x-request-id"), Some("mine-42"));
        assert_eq!(gateway.logged(reply.head.id()).await["request_id"], "mine-42");
        let long = "x".repeat(200);
        for odd in ["two words", long.as_str(), ""] {
            let reply = ask(&[("x-request-id", odd)]).await;
            assert_eq!(reply.head.header("x-request-id"), Some(reply.head.id()), "{odd:?}");
            let reply = ask(&[("x-request-id", odd), ("x-client-request-id", "theirs-7")]).await;
            assert_eq!(reply.head.header("x-request-id"), Some("theirs-7"), "{odd:?}");
        }
    }
    let lines = gateway.log();
    assert!(lines.iter().all(|line| line["error"] == Value::Null));
}
