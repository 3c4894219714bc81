//! Answers that are given again: to whom, for how long, and in which form.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::dialect::{ALL, Anthropic, Chat, Dialect, Gemini, Responses, Turn};
use super::support::{Gateway, Mock, SOON};
use super::upstream::Upstream;
use super::wire::{Conn, Reply, request};

const ON: &str = "cache: { exact: { ttl: 10m, max_bytes: 16MiB } }\n";

/// The same conversation in each dialect.
pub fn same(dialect: Dialect, model: &str, stream: bool, say: &str) -> Vec<u8> {
    let mut body = match dialect {
        Chat => {
            json!({"max_tokens": 900_000, "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": say}]})
        }
        Responses => json!({"max_output_tokens": 900_000, "instructions": "Be kind.", "input": say}),
        Anthropic => {
            json!({"max_tokens": 900_000, "system": "Be kind.", "messages": [{"role": "user", "content": say}]})
        }
        Gemini => {
            json!({"generationConfig": {"maxOutputTokens": 900_000}, "systemInstruction": {"parts": [{"text": "Be kind."}]},
            "contents": [{"role": "user", "parts": [{"text": say}]}]})
        }
    };
    if dialect != Gemini {
        body["model"] = json!(model);
        body["stream"] = json!(stream);
    }
    if dialect == Chat && stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    serde_json::to_vec(&body).expect("JSON")
}

async fn ask(gateway: &Gateway, dialect: Dialect, model: &str, stream: bool, say: &str) -> Reply {
    gateway.post(&dialect.path(model, stream), same(dialect, model, stream, say)).await
}

fn cache(reply: &Reply) -> &str {
    reply.head.header("x-portcullis-cache").unwrap_or("")
}

/// What was said, ids aside.
fn said(dialect: Dialect, reply: &Reply) -> (String, String, Option<(u64, u64)>) {
    let said = dialect.read(reply);
    assert!(said.error.is_none() && said.done, "{dialect:?}: {}", reply.text());
    (said.text, said.finish, said.usage)
}

#[tokio::test]
async fn an_answer_is_given_again_in_every_dialect_and_form_whatever_it_was_made_in() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    for to in ALL {
        for made_in in ALL {
            for made_as_stream in [false, true] {
                let model = format!("{}/mock-fast:chunks=7", to.account());
                let say = format!("{to:?} {made_in:?} {made_as_stream}");
                mock.clear().await;
                let first = ask(&gateway, made_in, &model, made_as_stream, &say).await;
                assert_eq!((first.status(), cache(&first)), (200, "miss"), "{say}: {}", first.text());
                let text = said(made_in, &first).0;
                for dialect in ALL {
                    for stream in [false, true] {
                        let case = format!("{say} given in {dialect:?} {stream}");
                        let again = ask(&gateway, dialect, &model, stream, &say).await;
                        assert_eq!((again.status(), cache(&again)), (200, "hit"), "{case}: {}", again.text());
                        assert!(again.whole, "{case}");
                        assert_eq!(said(dialect, &again).0, text, "{case}");
                        assert_eq!(again.head.header("x-portcullis-cost"), Some("0"), "{case}");
                        assert_eq!(again.head.attempts(), 0, "{case}");
                        assert_eq!(again.head.header("x-portcullis-provider"), Some(to.account()), "{case}");
                        if dialect == made_in && stream == made_as_stream {
                            assert_eq!(said(dialect, &again), said(made_in, &first), "{case}");
                            let ids = [&first, &again].map(|reply| dialect.read(reply).id);
                            // Stored responses are named by their id later.
                            assert_eq!(ids[0] == ids[1], dialect == Responses && to == Responses, "{case}: {ids:?}");
                        }
                    }
                }
                assert_eq!(mock.journal().await.len(), 1, "{say}");
            }
        }
    }
    gateway.settled().await;
}

#[tokio::test]
async fn streams_are_given_at_a_pace_and_in_pieces_as_the_operator_says() {
    let mock = Mock::start().await;
    for (pieces, made_as_stream) in [("kept", true), ("joined", true), ("kept", false)] {
        let yaml = format!("cache: {{ exact: {{ replay: {{ pace: 40ms, pieces: {pieces} }} }} }}\n");
        let gateway = Gateway::start(&mock, &yaml).await;
        for (to, dialect) in ALL.into_iter().flat_map(|to| ALL.map(|dialect| (to, dialect))) {
            let model = format!("{}/mock-fast:chunks=6", to.account());
            let say = format!("{pieces} {made_as_stream} {dialect:?}");
            let first = ask(&gateway, dialect, &model, made_as_stream, &say).await;
            let began = Instant::now();
            let again = ask(&gateway, dialect, &model, true, &say).await;
            assert_eq!((cache(&again), again.whole), ("hit", true), "{say}");
            assert_eq!(said(dialect, &again).0, said(dialect, &first).0, "{to:?} {say}");
            let events = again.text().matches("data: ").count();
            // A pause between any two events is a lower bound; the upper one is the machine's.
            assert!(began.elapsed() >= Duration::from_millis(40), "{to:?} {say}: {events} events at once");
            let texts = again.text().matches("provider").count();
            assert!(texts > 0, "{}", again.text());
            if dialect == Chat {
                assert!((pieces == "kept" && made_as_stream) == (events > 6), "{to:?} {say}: {}", again.text());
            }
        }
    }
}

#[tokio::test]
async fn a_purge_reaches_answers_that_are_under_way() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    for stream in [false, true] {
        let model = format!("chat/mock-fast:head=500ms,key=purged{stream}");
        let asking = ask(&gateway, Chat, &model, stream, "Hello");
        let purging = async {
            mock.seen(&format!("purged{stream}"), |_| true).await;
            gateway.admin("POST", "/admin/cache/purge?all=true").await.status()
        };
        let (asked, purged) = tokio::join!(asking, purging);
        assert_eq!((cache(&asked), purged), ("miss", 200));
        gateway.settled().await;
        assert_eq!(cache(&ask(&gateway, Chat, &model, stream, "Hello").await), "miss", "what was purged is given");
        gateway.settled().await;
        assert_eq!(cache(&ask(&gateway, Chat, &model, stream, "Hello").await), "hit");
    }
}

#[tokio::test]
async fn who_asks_after_a_purge_hears_nothing_that_was_asked_before_it() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    // Before anything is said, and in the middle of a stream; by what is known of the answer then.
    for (case, knobs, query, shares) in [
        ("whole", "head=500ms", "all=true", false),
        ("before", "head=500ms", "model=chat%2Fmock-fast", false),
        ("stream", "chunks=20,delay=50ms", "all=true", false),
        ("target", "chunks=20,delay=50ms", "model=chat%2FTARGET", false),
        ("another", "chunks=20,delay=50ms", "model=chat%2Fanother", true),
        ("elsewhere", "head=500ms", "partition=key:nobody", true),
    ] {
        let key = format!("after-{case}");
        let model = format!("chat/mock-fast:{knobs},key={key}");
        let query = query.replace("TARGET", model.split_once('/').expect("a target").1);
        let stream = case != "whole";
        let begin = async || {
            let mut conn = Conn::open(gateway.address).await;
            let ask = Chat.ask(&model, stream, Turn::Text, "Hello");
            conn.send(&request("POST", &Chat.path(&model, stream), &[], &ask)).await;
            conn
        };
        let mut first = begin().await;
        mock.seen(&key, |_| true).await;
        if knobs.starts_with("chunks") {
            assert_eq!(first.head().await.status, 200);
            first.until("You said").await;
        }
        assert_eq!(gateway.admin("POST", &format!("/admin/cache/purge?{query}")).await.status(), 200);
        let second = begin().await.reply().await;
        assert_eq!(cache(&second), if shares { "coalesced" } else { "miss" }, "{case}");
        assert!(Chat.read(&second).error.is_none() && second.whole, "{case}: {}", second.text());
        let asked = mock.journal().await.iter().filter(|entry| entry["body"].to_string().contains(&key)).count();
        assert_eq!(asked, if shares { 1 } else { 2 }, "{case}");
        drop(first);
        gateway.settled().await;
    }
}

#[tokio::test]
async fn a_hit_costs_nothing_and_the_saving_is_told() {
    let mock = Mock::start().await;
    let yaml = format!("{ON}prices: {{ models: {{ chat/mock-fast: {{ input: 1000, output: 1000 }} }} }}\n");
    let gateway = Gateway::start(&mock, &yaml).await;
    for stream in [false, true] {
        let say = format!("money {stream}");
        let headers = [("x-portcullis-usage-cost", "true"), ("content-type", "application/json")];
        let body = same(Chat, "chat/mock-fast", stream, &say);
        let mut replies = Vec::new();
        for _ in 0..2 {
            replies.push(gateway.call("POST", "/v1/chat/completions", &headers, &body).await);
        }
        let [first, again] = replies.as_slice() else { panic!("two") };
        assert_eq!((cache(first), cache(again)), ("miss", "hit"));
        let cost = |reply: &Reply| {
            let text = reply.text();
            let at = text.find("\"cost\":").unwrap_or_else(|| panic!("no cost in {text}"));
            text[at + 7..]
                .chars()
                .take_while(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | '-'))
                .collect::<String>()
        };
        assert!(cost(first).parse::<f64>().expect("a number") > 0.0, "{}", first.text());
        assert_eq!(cost(again).parse::<f64>().ok(), Some(0.0), "{}", again.text());
        let lines = [gateway.logged(first.head.id()).await, gateway.logged(again.head.id()).await];
        assert_eq!((&lines[0]["cache"], &lines[1]["cache"]), (&json!("miss"), &json!("hit")));
        assert!(lines[0]["cost_usd"].as_f64() > Some(0.0) && lines[0].get("saved_usd").is_none(), "{}", lines[0]);
        assert_eq!(lines[1]["saved_usd"], lines[0]["cost_usd"]);
        assert_eq!(
            (&lines[1]["cost_usd"], &lines[1]["usage"], &lines[1]["attempts"]),
            (&json!(0), &Value::Null, &json!([]))
        );
        assert_eq!((&lines[1]["provider"], &lines[1]["finish"]), (&json!("chat"), &json!("stop")));
    }
    assert_eq!(gateway.metric("portcullis_cache_requests_total{status=\"hit\"}").await, Some(2.0));
    assert!(gateway.metric("portcullis_cache_saved_usd_total").await > Some(0.0));
    assert_eq!(gateway.metric("portcullis_cache_answers").await, Some(2.0));
}

#[tokio::test]
async fn two_tenants_never_share_unless_they_are_told_to() {
    let mock = Mock::start().await;
    let keys = "keys:
  - { name: a, key: sk-a, project: one }
  - { name: b, key: sk-b, project: one }
  - { name: c, key: sk-c, project: two }
  - { name: d, key: sk-d }
";
    for (partition, hits) in
        [("key", [false; 4]), ("project", [false, true, false, false]), ("global", [false, true, true, true])]
    {
        let yaml = format!("{keys}cache: {{ exact: {{ partition: {partition} }} }}\n");
        let gateway = Gateway::start(&mock, &yaml).await;
        for (key, hit) in ["a", "b", "c", "d"].into_iter().zip(hits) {
            for (dialect, stream) in [(Chat, false), (Anthropic, true)] {
                let bearer = format!("Bearer sk-{key}");
                let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
                let body = same(dialect, "chat/mock-fast", stream, "secret");
                let reply = gateway.call("POST", &dialect.path("chat/mock-fast", stream), &headers, body).await;
                // The second form of one key's ask hits what the first has made.
                let expected = if hit || dialect == Anthropic { "hit" } else { "miss" };
                assert_eq!((reply.status(), cache(&reply)), (200, expected), "{partition} {key} {dialect:?}");
            }
        }
    }
}

#[tokio::test]
async fn errors_and_answers_that_did_not_end_well_are_not_kept() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    for (fault, stream) in [
        ("429", false),
        ("500", false),
        ("429", true),
        ("cut", true),
        ("malformed", false),
        ("malformed", true),
        ("refusal", false),
    ] {
        for to in [Chat, Anthropic] {
            let model = format!("{}/mock-fast:fault={fault}", to.account());
            let first = ask(&gateway, to, &model, stream, fault).await;
            let again = ask(&gateway, to, &model, stream, fault).await;
            assert_ne!(cache(&again), "hit", "{fault} {stream} {to:?}: {} then {}", first.text(), again.text());
        }
    }
    // Refused by a filter, though with status 200.
    let filtered = r#"{"id":"chatcmpl-123456789","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":""},"finish_reason":"content_filter"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#;
    let upstream = Upstream::saying("application/json", filtered).await;
    let yaml = format!(
        "{ON}providers:\n  up: {{ dialect: openai_chat, base_url: http://{}/v1, auth: none }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    for _ in 0..2 {
        let reply = ask(&gateway, Chat, "up/m", false, "x").await;
        assert_eq!((reply.status(), cache(&reply)), (200, "miss"));
    }
}

#[tokio::test]
async fn requests_steer_the_cache_and_the_operator_can_lock_it() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    let call = async |gateway: &Gateway, name: &str, value: &str, say: &str| {
        let headers = [(name, value), ("content-type", "application/json")];
        let reply =
            gateway.call("POST", "/v1/chat/completions", &headers, same(Chat, "chat/mock-fast", false, say)).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        cache(&reply).to_owned()
    };
    let control = "x-portcullis-cache";
    assert_eq!(call(&gateway, control, "no-store", "a").await, "miss");
    assert_eq!(call(&gateway, "x-other", "1", "a").await, "miss", "what was not to be stored was");
    assert_eq!(call(&gateway, control, "no-store", "a").await, "hit");
    assert_eq!(call(&gateway, control, "no-cache, no-store", "a").await, "bypass");
    let before = mock.journal().await.len();
    assert_eq!(call(&gateway, control, "refresh", "a").await, "refresh");
    assert_eq!(mock.journal().await.len(), before + 1);
    assert_eq!(call(&gateway, "x-portcullis-cache-namespace", "n", "a").await, "miss");
    assert_eq!(call(&gateway, "x-portcullis-cache-namespace", "n", "a").await, "hit");
    // The body's object does the same and never goes upstream.
    let mut body: Value = serde_json::from_slice(&same(Chat, "chat/mock-fast", false, "b")).expect("JSON");
    body["cache"] = json!({"ttl": 1, "namespace": "short"});
    let post = async |body: &Value| gateway.post("/v1/chat/completions", body.to_string()).await;
    assert_eq!(cache(&post(&body).await), "miss");
    let sent: Value = serde_json::from_str(mock.last().await["body"].as_str().expect("text")).expect("JSON");
    assert!(sent.get("cache").is_none(), "{sent}");
    let hit = post(&body).await;
    assert_eq!((cache(&hit), hit.head.header("x-portcullis-cache-ttl")), ("hit", Some("0")));
    // Never beyond its time.
    let deadline = Instant::now() + SOON;
    while cache(&post(&body).await) == "hit" {
        assert!(Instant::now() < deadline, "an answer outlived its second");
        sleep(Duration::from_millis(50)).await;
    }
    body["cache"] = json!({"no-stoer": true});
    let refused = post(&body).await;
    assert_eq!((refused.status(), refused.head.header("x-portcullis-error")), (400, Some("invalid_request")));
    assert!(refused.text().contains("no-store"), "{}", refused.text());

    let locked = Gateway::start(&mock, "cache: { exact: { client_control: false } }\n").await;
    assert_eq!(call(&locked, control, "no-store", "c").await, "miss");
    body["cache"] = json!({"no-store": true});
    body["messages"][1]["content"] = json!("c");
    let reply = locked.post("/v1/chat/completions", body.to_string()).await;
    assert_eq!(cache(&reply), "hit", "{}", reply.text());
}

#[tokio::test]
async fn models_and_keys_have_their_own_word() {
    let mock = Mock::start().await;
    let yaml = "cache: { exact: { enabled: false, ttl: 5m } }
keys: [{ name: a, key: sk-a }, { name: b, key: sk-b, cache: { enabled: false } }]
models:
  kept: { target: chat/mock-fast, cache: { enabled: true, ttl: 1h } }
  fresh: { target: chat/mock-fast }
";
    let gateway = Gateway::start(&mock, yaml).await;
    for (key, model, expected, ttl) in
        [("a", "kept", "hit", Some("3600")), ("a", "fresh", "", None), ("b", "kept", "", None)]
    {
        let bearer = format!("Bearer sk-{key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let mut last = Vec::new();
        for _ in 0..2 {
            let reply = gateway.call("POST", "/v1/chat/completions", &headers, same(Chat, model, false, "x")).await;
            assert_eq!(reply.status(), 200, "{}", reply.text());
            last.push((cache(&reply).to_owned(), reply.head.header("x-portcullis-cache-ttl").map(str::to_owned)));
        }
        assert_eq!(last[1].0, expected, "{key} {model}");
        assert_eq!(last[0].1.as_deref(), ttl, "{key} {model}");
    }
}

#[tokio::test]
async fn embeddings_are_given_again_and_token_counts_and_stored_conversations_are_not() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    let mut vectors = Vec::new();
    for _ in 0..2 {
        let body = json!({"model": "chat/mock-embed", "input": ["a", "b"], "user": vectors.len().to_string()});
        let reply = gateway.post("/v1/embeddings", body.to_string()).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        vectors.push((cache(&reply).to_owned(), reply.json()["data"].clone()));
    }
    assert_eq!((vectors[0].0.as_str(), vectors[1].0.as_str()), ("miss", "hit"));
    assert_eq!(vectors[0].1, vectors[1].1);
    let count = json!({"model": "anthropic/mock-fast", "messages": [{"role": "user", "content": "Hi"}]}).to_string();
    for _ in 0..2 {
        assert_eq!(cache(&gateway.post("/v1/messages/count_tokens", &count).await), "");
    }
    let made = gateway.post("/v1/responses", same(Responses, "responses/mock-fast", false, "Hi")).await;
    let id = made.json()["id"].as_str().expect("an id").to_owned();
    let mut next: Value = serde_json::from_slice(&same(Responses, "responses/mock-fast", false, "And?")).expect("JSON");
    next["previous_response_id"] = json!(id);
    for _ in 0..2 {
        let reply = gateway.post("/v1/responses", next.to_string()).await;
        assert_eq!((reply.status(), cache(&reply)), (200, "bypass"), "{}", reply.text());
    }
}

#[tokio::test]
async fn operators_see_what_is_kept_and_take_out_what_they_name() {
    let mock = Mock::start().await;
    let yaml = format!("{ON}keys: [{{ name: a, key: sk-a }}, {{ name: b, key: sk-b }}]\n");
    let gateway = Gateway::start(&mock, &yaml).await;
    let call = async |key: &str, model: &str, say: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let reply = gateway.call("POST", "/v1/chat/completions", &headers, same(Chat, model, false, say)).await;
        let key = reply.head.header("x-portcullis-cache-key").expect("a key").to_owned();
        (cache(&reply).to_owned(), key)
    };
    let fill = async || {
        for (key, model, say) in [
            ("sk-a", "chat/mock-fast", "1"),
            ("sk-a", "chat/mock-fast", "2"),
            ("sk-a", "anthropic/mock-fast", "1"),
            ("sk-b", "chat/mock-fast", "1"),
        ] {
            call(key, model, say).await;
        }
    };
    fill().await;
    let stats = gateway.admin("GET", "/admin/cache").await.json();
    assert_eq!((&stats["answers"], &stats["kept"], &stats["max_bytes"]), (&json!(4), &json!(4), &json!(16 << 20)));
    let purge = async |query: &str| {
        let reply = gateway.admin("POST", &format!("/admin/cache/purge?{query}")).await;
        (reply.status(), reply.json())
    };
    let (_, key) = call("sk-a", "chat/mock-fast", "1").await;
    assert_eq!(purge(&format!("key={key}")).await, (200, json!({"purged": 1})));
    assert_eq!(call("sk-a", "chat/mock-fast", "1").await.0, "miss");
    assert_eq!(purge(&format!("prefix={}", &key[..8])).await, (200, json!({"purged": 1})));
    fill().await;
    assert_eq!(purge("model=anthropic/mock-fast").await, (200, json!({"purged": 1})));
    assert_eq!(purge("partition=key:b").await, (200, json!({"purged": 1})));
    assert_eq!(call("sk-b", "chat/mock-fast", "1").await.0, "miss");
    assert_eq!(purge("all=true").await.1["purged"], json!(3));
    let (status, refused) = purge("").await;
    assert_eq!(status, 400);
    assert!(refused["error"]["message"].as_str().is_some_and(|text| text.contains("all=true")), "{refused}");
}

#[tokio::test]
async fn prompt_cache_marks_are_set_where_the_client_has_none() {
    let mock = Mock::start().await;
    let yaml = "cache: { prompt: auto }\nmodels: { plain: { target: anthropic/mock-fast, cache: { prompt: off } } }\n";
    let gateway = Gateway::start(&mock, yaml).await;
    let long = "A long and lasting instruction. ".repeat(400);
    let chat =
        json!({"max_tokens": 99, "messages": [{"role": "system", "content": long}, {"role": "user", "content": "Hi"}]});
    let anthropic = json!({"max_tokens": 99, "system": long, "messages": [{"role": "user", "content": "Hi"}]});
    let marked = json!({"max_tokens": 99, "system": [{"type": "text", "text": long, "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "messages": [{"role": "user", "content": "Hi"}]});
    for (dialect, model, body, marks) in [
        (Chat, "anthropic/mock-fast", &chat, 1),
        (Anthropic, "anthropic/mock-fast", &anthropic, 1),
        (Anthropic, "anthropic/mock-fast", &marked, 1),
        (Anthropic, "plain", &anthropic, 0),
        (Chat, "chat/mock-fast", &chat, 0),
    ] {
        let mut body = body.clone();
        body["model"] = json!(model);
        let reply = gateway.post(&dialect.path(model, false), body.to_string()).await;
        assert_eq!((reply.status(), cache(&reply)), (200, ""), "{}", reply.text());
        let sent = mock.last().await["body"].as_str().expect("text").to_owned();
        assert_eq!(sent.matches("cache_control").count(), marks, "{dialect:?} {model}: {}", &sent[..200]);
        assert!(marks == 0 || sent.contains("ephemeral"), "{dialect:?}");
    }
    // The client's own mark goes on as it was.
    gateway.lines(5).await;
}

#[tokio::test]
async fn an_ask_in_other_words_is_answered_within_its_partition_and_an_embedder_that_fails_is_a_miss() {
    let mock = Mock::start().await;
    // The mock's vectors tell any two texts apart, so the words that may differ are those of the system prompt.
    let yaml = |embedder: &str| {
        format!(
            "keys: [{{ name: a, key: sk-a }}, {{ name: b, key: sk-b }}]
cache:
  exact: {{ ttl: 10m }}
  semantic: {{ model: '{embedder}', system: false, timeout: 1s }}
"
        )
    };
    let ask = async |gateway: &Gateway, key: &str, dialect: Dialect, stream: bool, system: &str, say: &str| {
        let mut body: Value = serde_json::from_slice(&same(dialect, "chat/mock-fast", stream, say)).expect("JSON");
        match dialect {
            Anthropic => body["system"] = json!(system),
            _ => body["messages"][0]["content"] = json!(system),
        }
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let path = dialect.path("chat/mock-fast", stream);
        let reply = gateway.call("POST", &path, &headers, body.to_string()).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        cache(&reply).to_owned()
    };
    let gateway = Gateway::start(&mock, &yaml("chat/mock-embed")).await;
    assert_eq!(ask(&gateway, "sk-a", Chat, false, "Be kind.", "Hello").await, "miss");
    assert_eq!(ask(&gateway, "sk-a", Chat, false, "Be brief.", "Hello").await, "semantic-hit");
    assert_eq!(ask(&gateway, "sk-a", Anthropic, true, "Be fair.", "Hello").await, "semantic-hit");
    assert_eq!(ask(&gateway, "sk-a", Chat, false, "Be fair.", "Hello 2").await, "miss");
    assert_eq!(ask(&gateway, "sk-b", Chat, false, "Be brief.", "Hello").await, "miss");
    for embedder in ["chat/mock-embed:fault=500", "chat/mock-embed:head=20s", "nobody/at-all"] {
        let gateway = Gateway::start(&mock, &yaml(embedder)).await;
        let started = Instant::now();
        assert_eq!(ask(&gateway, "sk-a", Chat, false, "Be kind.", "Hello").await, "miss", "{embedder}");
        assert_eq!(ask(&gateway, "sk-a", Chat, false, "Be brief.", "Hello").await, "miss", "{embedder}");
        assert_eq!(ask(&gateway, "sk-a", Chat, false, "Be brief.", "Hello").await, "hit", "{embedder}");
        assert!(started.elapsed() < SOON, "{embedder}");
    }
}
