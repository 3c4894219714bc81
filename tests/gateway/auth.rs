//! Who may call, for what, and what of a caller's words goes no further.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::dialect::{ALL, Anthropic, Chat, Dialect, Gemini, Turn};
use super::support::{Gateway, Mock};
use super::wire::{Conn, Reply};

const CONFIG: &str = "
keys:
  - { name: all, key: sk-gateway-all, project: search }
  - { name: few, key: sk-gateway-few, models: [fast, \"chat/allowed*\"] }
  - { name: old, key: sk-gateway-old, expires: 2020-01-31 }
models:
  fast: chat/mock-fast
  secret: chat/mock-secret
";

/// The ways of SDKs to show a key.
const HEADERS: &[(&str, &str)] =
    &[("authorization", "Bearer "), ("x-api-key", ""), ("api-key", ""), ("x-goog-api-key", "")];

async fn ask(gateway: &Gateway, from: Dialect, model: &str, headers: &[(&str, &str)]) -> Reply {
    gateway.call("POST", &from.path(model, false), headers, from.ask(model, false, Turn::Text, "Hello")).await
}

#[tokio::test]
async fn every_sdks_way_to_show_a_key_is_accepted_by_every_dialect() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for from in ALL {
        for (name, prefix) in HEADERS {
            let reply = ask(&gateway, from, "fast", &[(name, &format!("{prefix}sk-gateway-all"))]).await;
            assert_eq!(reply.status(), 200, "{from:?} {name}: {}", reply.text());
            let line = gateway.logged(reply.head.id()).await;
            assert_eq!((&line["key"], &line["project"]), (&json!("all"), &json!("search")), "{from:?} {name}");
        }
        let path = from.path("fast", true);
        let path = format!("{path}{}key=sk-gateway-all", if path.contains('?') { '&' } else { '?' });
        let reply = gateway.post(&path, from.ask("fast", true, Turn::Text, "Hello")).await;
        assert_eq!(reply.status(), 200, "{from:?}: {}", reply.text());
    }
    let journal = mock.journal().await.iter().map(Value::to_string).collect::<String>();
    assert!(!journal.contains("sk-gateway"), "a gateway key went upstream");
}

/// A request that names the gateway so.
async fn called(to: std::net::SocketAddr, line: &str, head: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut text = format!("{line} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
    head.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
    let mut conn = Conn::open(to).await;
    conn.send(&[format!("{text}\r\n").as_bytes(), body].concat()).await;
    conn.reply().await
}

/// What a browser says of a page of another site, and of one whose own name was turned to this machine.
const PAGES: &[&[(&str, &str)]] = &[
    &[("host", "127.0.0.1:4100"), ("origin", "https://evil.example"), ("content-type", "text/plain")],
    &[("host", "localhost:4100"), ("origin", "null")],
    &[("host", "localhost:4100"), ("sec-fetch-site", "cross-site")],
    &[("host", "evil.example:4100"), ("origin", "http://evil.example:4100"), ("sec-fetch-site", "same-origin")],
];

#[tokio::test]
async fn web_pages_of_others_are_refused_where_nobody_needs_a_key() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    for from in ALL {
        let line = format!("POST {}", from.path("chat/mock-fast", false));
        let body = from.ask("chat/mock-fast", false, Turn::Text, "Hello");
        for page in PAGES {
            let reply = called(gateway.address, &line, page, &body).await;
            assert_eq!(reply.status(), 403, "{from:?} {page:?}: {}", reply.text());
            assert!(from.error(&reply.json()).contains("`keys:`"), "{}", reply.text());
            assert_eq!(gateway.logged(reply.head.id()).await["error"]["code"], "foreign_page");
        }
        for own in [
            &[("host", "gateway:4100")][..],
            &[("host", "localhost:4100"), ("origin", "http://localhost:3000"), ("sec-fetch-site", "same-site")],
        ] {
            let reply = called(gateway.address, &line, own, &body).await;
            assert_eq!(reply.status(), 200, "{from:?} {own:?}: {}", reply.text());
        }
    }
    assert_eq!(mock.journal().await.len(), 2 * ALL.len(), "a page's request went upstream");
    for page in PAGES {
        let reply = called(gateway.address, "GET /health", page, b"").await;
        assert_eq!((reply.status(), &reply.json()["providers"]), (200, &Value::Null), "{page:?}: {}", reply.text());
    }
    let own = called(gateway.address, "GET /health", &[("host", "localhost:4100")], b"").await;
    assert!(own.text().contains("chat"), "{}", own.text());
    for line in ["POST /admin/targets/chat/drain", "POST /admin/reload", "GET /metrics", "GET /admin/targets"] {
        for page in PAGES {
            let reply = called(gateway.admin, line, page, b"").await;
            assert_eq!(reply.status(), 403, "{line} {page:?}: {}", reply.text());
            let error = &reply.json()["error"];
            assert_eq!(error["code"], "foreign_page");
            assert!(error["message"].as_str().is_some_and(|text| text.contains("`admin.token`")), "{error}");
        }
    }
    assert_eq!(called(gateway.admin, "POST /admin/reload", &[("host", "localhost:4101")], b"").await.status(), 200);
}

#[tokio::test]
async fn who_has_a_key_or_the_token_may_be_a_page() {
    let mock = Mock::start().await;
    let keys = "keys: [{ name: k, key: sk-one }]\nadmin: { address: ADMIN, token: admin-token }\n";
    let gateway = Gateway::start(&mock, keys).await;
    let body = Chat.ask("chat/mock-fast", false, Turn::Text, "Hello");
    for page in PAGES {
        let with = |key| [page, &[("authorization", key)][..]].concat();
        let reply = called(gateway.address, "POST /v1/chat/completions", &with("Bearer sk-one"), &body).await;
        assert_eq!(reply.status(), 200, "{page:?}: {}", reply.text());
        assert_eq!(called(gateway.admin, "GET /metrics", &with("Bearer admin-token"), b"").await.status(), 200);
    }
}

#[tokio::test]
async fn strangers_get_401_in_their_dialect_and_go_no_further() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for from in ALL {
        for (headers, code) in [
            (&[][..], "missing_credential"),
            (&[("authorization", "Bearer ")], "missing_credential"),
            (&[("authorization", "Bearer sk-wrong")], "invalid_credential"),
            (&[("x-api-key", "sk-gateway-al")], "invalid_credential"),
            (&[("x-goog-api-key", "sk-gateway-all2")], "invalid_credential"),
            (&[("api-key", "SK-GATEWAY-ALL")], "invalid_credential"),
            (&[("authorization", "Bearer sk-gateway-old")], "invalid_credential"),
        ] {
            let reply = ask(&gateway, from, "fast", headers).await;
            assert_eq!(reply.status(), 401, "{from:?} {headers:?}: {}", reply.text());
            let message = from.error(&reply.json());
            assert!(message.contains("key") && !message.contains("sk-"), "{from:?} {headers:?}: {message}");
            let line = gateway.logged(reply.head.id()).await;
            assert_eq!((&line["error"]["code"], &line["status"]), (&json!(code), &json!(401)), "{from:?} {headers:?}");
            assert!(!line.to_string().contains("sk-"), "a credential is in the log: {line}");
        }
    }
    for path in ["/v1/models", "/v1/models/fast", "/v1beta/models", "/v1/generation?id=gen-1", "/v1/responses/resp_1"] {
        assert_eq!(gateway.get(path).await.status(), 401, "{path}");
    }
    for path in ["/livez", "/readyz", "/health"] {
        assert_eq!(gateway.get(path).await.status(), 200, "{path}");
    }
    assert!(mock.journal().await.is_empty());
}

#[tokio::test]
async fn a_strangers_body_is_never_waited_for() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for from in ALL {
        for framing in ["content-length: 60000000", "transfer-encoding: chunked"] {
            let mut conn = Conn::open(gateway.address).await;
            let began = Instant::now();
            conn.send(format!("POST {} HTTP/1.1\r\nhost: g\r\n{framing}\r\n\r\n", from.path("fast", false)).as_bytes())
                .await;
            assert_eq!(conn.reply().await.status(), 401, "{from:?} {framing}");
            assert!(began.elapsed() < Duration::from_secs(1), "{from:?} {framing}: {:?}", began.elapsed());
        }
    }
}

#[tokio::test]
async fn a_key_reaches_its_own_models_and_no_others_by_any_spelling() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let key = [("x-api-key", "sk-gateway-few"), ("content-type", "application/json")];
    for from in ALL {
        for model in ["fast", "chat/allowed-one"] {
            assert_eq!(ask(&gateway, from, model, &key).await.status(), 200, "{from:?} {model}");
        }
        for model in ["secret", "chat/mock-fast", "Fast", "fast ", "chat/allowed/../mock", "anthropic/allowed"] {
            let asked = from.path(&model.replace(' ', "%20"), false);
            let reply = gateway.call("POST", &asked, &key, from.ask(model, false, Turn::Text, "Hello")).await;
            // A pattern's star also stands for what looks like a way up; such a name is only a name.
            let allowed = model.starts_with("chat/allowed");
            assert_eq!(reply.status(), if allowed { 200 } else { 403 }, "{from:?} {model}: {}", reply.text());
            if !allowed {
                from.error(&reply.json());
                assert_eq!(gateway.logged(reply.head.id()).await["error"]["code"], "model_not_allowed", "{from:?}");
            }
        }
    }
    mock.clear().await;
    let messages = r#""messages":[{"role":"user","content":"Hello"}]"#;
    for (fields, status) in [
        (r#""model":"fast","model":"secret""#, 400),
        (r#""model":"secret","model":"fast""#, 400),
        (r#""model":"fast","Model":"secret""#, 400),
        (r#""MODEL":"secret","model":"fast""#, 400),
        (r#""model":"fast","mod\u0065l":"secret""#, 400),
        (r#""model":"fast","models":["fast","secret"]"#, 403),
        (r#""model":"fast","models":["fast",{"model":"secret"}]"#, 403),
        (r#""model":"fast","fallbacks":["secret"]"#, 403),
        (r#""model":["fast","secret"]"#, 400),
        (r#""model":null"#, 400),
        (r#""model":"""#, 400),
        (r#""mod\u0065l":"secret""#, 403),
        (r#""model":"\u0073ecret""#, 403),
        (r#""mod\u0065l":"f\u0061st""#, 200),
        (r#""model":"fast","models":["fast"]"#, 200),
    ] {
        let reply = gateway.call("POST", "/v1/chat/completions", &key, format!("{{{fields},{messages}}}")).await;
        assert_eq!(reply.status(), status, "{fields}: {}", reply.text());
    }
    let journal = mock.journal().await;
    assert_eq!(journal.len(), 2);
    for entry in journal {
        let body: Value = serde_json::from_str(entry["body"].as_str().expect("a body")).expect("JSON");
        assert_eq!(body["model"], "mock-fast");
    }
}

/// What the path names was authorised; what the body says beside it must not reach the provider.
#[tokio::test]
async fn a_second_model_in_a_gemini_body_goes_nowhere() {
    let mock = Mock::start().await;
    let yaml = "keys: [{ name: few, key: sk-gateway-few, models: [\"gemini/mock-embed\", \"gemini/mock-fast\"] }]\n";
    let gateway = Gateway::start(&mock, yaml).await;
    let key = [("x-goog-api-key", "sk-gateway-few")];
    let part = json!({"parts": [{"text": "one"}]});
    for (path, body) in [
        ("gemini/mock-embed:embedContent", json!({"model": "models/secret", "content": part})),
        ("gemini/mock-embed:batchEmbedContents", json!({"requests": [{"model": "models/secret", "content": part}]})),
        ("gemini/mock-fast:generateContent", json!({"model": "models/secret", "contents": [part]})),
        (
            "gemini/mock-fast:countTokens",
            json!({"generateContentRequest": {"model": "models/secret", "contents": [part]}}),
        ),
    ] {
        let reply = gateway.call("POST", &format!("/v1beta/models/{path}"), &key, body.to_string()).await;
        let entry = mock.last().await;
        assert!(!entry["body"].to_string().contains("secret"), "{path}: {entry}");
        assert!(reply.status() == 200 || reply.status() == 400, "{path}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_missing_or_odd_content_type_changes_nothing() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for from in ALL {
        for kind in [
            None,
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
            Some("application/json; charset=latin1"),
        ] {
            for (model, status) in [("fast", 200), ("secret", 403)] {
                let mut headers = vec![("x-api-key", "sk-gateway-few")];
                headers.extend(kind.map(|kind| ("content-type", kind)));
                let reply = ask(&gateway, from, model, &headers).await;
                assert_eq!(reply.status(), status, "{from:?} {kind:?} {model}: {}", reply.text());
            }
        }
    }
}

#[tokio::test]
async fn credentials_cookies_and_hop_headers_stay_here_and_the_dialects_own_go_on() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let private = [
        ("authorization", "Bearer sk-gateway-all"),
        ("x-api-key", "sk-gateway-all"),
        ("api-key", "sk-gateway-all"),
        ("x-goog-api-key", "sk-gateway-all"),
        ("cookie", "session=private"),
        ("proxy-authorization", "Basic cHJpdmF0ZQ=="),
        ("x-forwarded-for", "10.9.8.7"),
        ("x-real-ip", "10.9.8.7"),
        ("forwarded", "for=10.9.8.7"),
        ("via", "1.1 private"),
        ("te", "trailers"),
        ("keep-alive", "timeout=5"),
        ("connection", "keep-alive, x-private"),
        ("x-private", "private"),
        ("origin", "https://private.example"),
        ("referer", "https://private.example"),
        ("user-agent", "private/1.0"),
        ("x-portcullis-usage-cost", "true"),
        ("x-mock-fault", "500"),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "context-1m-2025-08-07"),
        ("anthropic-beta", "token-efficient-tools-2025-02-19"),
    ];
    for from in ALL {
        for to in ALL {
            let model = format!("{}/mock-fast", to.account());
            let reply = ask(&gateway, from, &model, &private).await;
            assert_eq!(reply.status(), 200, "{from:?} to {to:?}: {}", reply.text());
            let entry = mock.last().await;
            let headers: Vec<(String, String)> = serde_json::from_value(entry["headers"].clone()).expect("headers");
            let get = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
            let text = entry["headers"].to_string() + &entry["target"].to_string();
            for word in ["sk-gateway", "private", "10.9.8.7", "cHJpdmF0ZQ"] {
                assert!(!text.contains(word), "{from:?} to {to:?}: `{word}` went upstream: {text}");
            }
            for name in ["te", "keep-alive", "x-portcullis-usage-cost", "x-mock-fault", "cookie", "forwarded", "via"] {
                assert_eq!(get(name), None, "{from:?} to {to:?}");
            }
            assert_eq!(get("authorization"), None, "{from:?} to {to:?}");
            assert_eq!(get("x-api-key"), (to == Anthropic).then_some("sk-upstream-anthropic"), "{from:?} to {to:?}");
            assert_eq!(get("x-goog-api-key"), (to == Gemini).then_some("sk-upstream-gemini"), "{from:?} to {to:?}");
            let betas = "context-1m-2025-08-07,token-efficient-tools-2025-02-19";
            let beta = (from == Anthropic && to == Anthropic).then_some(betas);
            assert_eq!(get("anthropic-beta"), beta, "{from:?} to {to:?}");
            assert_eq!(get("anthropic-version").is_some(), to == Anthropic, "{from:?} to {to:?}");
            assert_eq!(get("content-type"), Some("application/json"), "{from:?} to {to:?}");
            assert!(get("user-agent").is_some_and(|agent| agent.starts_with("portcullis/")), "{from:?} to {to:?}");
        }
    }
}

/// Of what the upstream says in headers only what is meant for the caller comes back.
#[tokio::test]
async fn the_upstreams_own_headers_do_not_come_back() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for to in ALL {
        let reply =
            ask(&gateway, Chat, &format!("{}/mock-fast", to.account()), &[("x-api-key", "sk-gateway-all")]).await;
        for name in
            ["openai-organization", "anthropic-organization-id", "x-ratelimit-limit-requests", "vary", "server-timing"]
        {
            assert_eq!(reply.head.header(name), None, "{to:?}");
        }
    }
}
