//! Asks in other words, found by a static table that the test makes itself.

use std::fs;

use serde_json::{Value, json};

use super::cache::same;
use super::dialect::{Anthropic, Chat, Dialect, Gemini};
use super::support::{Folder, Gateway, Mock};
use super::wire::Reply;

/// Words and where they point. Names of countries all point the same way, as real static vectors nearly do.
const WORDS: &[(&str, [f32; 4])] = &[
    ("[UNK]", [0.0, 0.0, 0.0, 0.01]),
    ("capital", [1.0, 0.0, 0.0, 0.0]),
    ("city", [0.97, 0.1, 0.0, 0.0]),
    ("france", [0.0, 1.0, 0.0, 0.0]),
    ("germany", [0.0, 0.99, 0.05, 0.0]),
    ("weather", [0.0, 0.0, 1.0, 0.0]),
];

/// A table in the form that model2vec writes.
fn table(folder: &Folder) {
    fs::create_dir(folder.path("table")).expect("a folder");
    let vocabulary: serde_json::Map<String, Value> =
        WORDS.iter().enumerate().map(|(at, (word, _))| ((*word).to_owned(), json!(at))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    });
    folder.write("table/tokenizer.json", &tokenizer.to_string());
    folder.write("table/config.json", r#"{"normalize": true}"#);
    let numbers: Vec<u8> =
        WORDS.iter().flat_map(|(_, vector)| vector.iter().flat_map(|part| part.to_le_bytes())).collect();
    let shape = json!({"dtype": "F32", "shape": [WORDS.len(), 4], "data_offsets": [0, numbers.len()]});
    let head = json!({"embeddings": shape}).to_string();
    let mut file = (head.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(head.as_bytes());
    file.extend_from_slice(&numbers);
    fs::write(folder.path("table/model.safetensors"), file).expect("a file");
}

fn yaml(more: &str) -> String {
    format!(
        "keys: [{{ name: a, key: sk-a }}, {{ name: b, key: sk-b }}]\n\
         cache: {{ exact: {{ ttl: 10m }}, semantic: {{ path: FOLDER/table, threshold: 0.9, {more} }} }}\n"
    )
}

async fn start(mock: &Mock, more: &str) -> Gateway {
    let folder = Folder::new();
    table(&folder);
    Gateway::prepared(folder, mock, &yaml(more)).await
}

async fn ask(gateway: &Gateway, key: &str, dialect: Dialect, model: &str, stream: bool, say: &str) -> Reply {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let reply = gateway.call("POST", &dialect.path(model, stream), &headers, same(dialect, model, stream, say)).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply
}

fn cache(reply: &Reply) -> &str {
    reply.head.header("x-portcullis-cache").unwrap_or("")
}

#[tokio::test]
async fn what_means_the_same_is_answered_and_what_only_looks_so_is_not() {
    let mock = Mock::start().await;
    let gateway = start(&mock, "").await;
    let chat = "chat/mock-fast";
    let first = ask(&gateway, "sk-a", Chat, chat, true, "What is the capital of France?").await;
    assert_eq!(cache(&first), "miss");
    for (key, dialect, model, stream, say, expected) in [
        ("sk-a", Anthropic, chat, false, "Which city is the capital of France?", "semantic-hit"),
        ("sk-a", Gemini, chat, true, "capital france", "miss"),
        ("sk-a", Chat, chat, false, "What is the capital of Germany?", "miss"),
        ("sk-a", Chat, chat, false, "How is the weather in France?", "miss"),
        ("sk-a", Chat, chat, false, "What is not the capital of France?", "miss"),
        ("sk-a", Chat, chat, false, "What is the capital of France in 1800?", "miss"),
        ("sk-b", Chat, chat, false, "Which city is the capital of France?", "miss"),
        ("sk-a", Chat, "anthropic/mock-fast", false, "Which city is the capital of France?", "miss"),
    ] {
        let reply = ask(&gateway, key, dialect, model, stream, say).await;
        assert_eq!(cache(&reply), expected, "{say}");
        if expected == "semantic-hit" {
            assert_eq!(dialect.read(&reply).text, Chat.read(&first).text, "the other ask's answer");
            assert_eq!(reply.head.header("x-portcullis-cost"), Some("0"));
        }
    }
    // What was taken out is not found by its meaning either.
    assert_eq!(gateway.admin("POST", "/admin/cache/purge?all=true").await.status(), 200);
    let again = ask(&gateway, "sk-a", Chat, chat, false, "Which city is the capital of France?").await;
    assert_eq!(cache(&again), "miss");
}

#[tokio::test]
async fn the_callers_words_and_headers_count_and_the_answer_is_taken_out_by_its_own_key() {
    let mock = Mock::start().await;
    let gateway = start(&mock, "").await;
    let ask = async |say: &str, extra: &[(&str, &str)], cache: Value| {
        let mut body: Value =
            serde_json::from_slice(&same(Anthropic, "anthropic/mock-fast", false, say)).expect("JSON");
        body["cache"] = cache;
        let headers = [&[("authorization", "Bearer sk-a"), ("content-type", "application/json")], extra].concat();
        gateway.call("POST", "/v1/messages", &headers, body.to_string()).await
    };
    let (plain, other) = (&[("x-other", "1")], "Which city is the capital of France?");
    let first = ask("What is the capital of France?", plain, json!({})).await;
    let again = ask(other, plain, json!({"no-store": true})).await;
    assert_eq!((cache(&first), cache(&again)), ("miss", "semantic-hit"), "{}", first.text());
    let mut betas = vec![("anthropic-beta", "tools-1")];
    assert_eq!(cache(&ask("What is the capital of France?", &betas, json!({})).await), "miss");
    betas.push(("anthropic-beta", "tools-2"));
    assert_eq!(cache(&ask(other, &betas, json!({"no-store": true})).await), "miss");
    assert_eq!(cache(&ask(other, plain, json!({"no-store": true, "s-maxage": 0})).await), "miss");
    let key = again.head.header("x-portcullis-cache-key").expect("a key");
    assert_eq!(first.head.header("x-portcullis-cache-key"), Some(key));
    let purged = gateway.admin("POST", &format!("/admin/cache/purge?key={key}")).await.json();
    assert_eq!(purged["purged"], json!(1));
    assert_eq!(cache(&ask(other, plain, json!({"no-store": true})).await), "miss");
}

#[tokio::test]
async fn without_the_guard_static_vectors_take_one_country_for_another() {
    let mock = Mock::start().await;
    let gateway = start(&mock, "guard: false, same_model: false").await;
    ask(&gateway, "sk-a", Chat, "chat/mock-fast", false, "What is the capital of France?").await;
    let other = ask(&gateway, "sk-a", Chat, "anthropic/mock-fast", true, "What is the capital of Germany?").await;
    assert_eq!(cache(&other), "semantic-hit");
}

#[tokio::test]
async fn a_reload_keeps_the_table_and_a_broken_one_keeps_the_old_generation() {
    let mock = Mock::start().await;
    let gateway = start(&mock, "").await;
    ask(&gateway, "sk-a", Chat, "chat/mock-fast", false, "What is the capital of France?").await;
    gateway.configure(&yaml("messages: 1"));
    assert_eq!(gateway.admin("POST", "/admin/reload").await.status(), 200);
    let say = "Which city is the capital of France?";
    assert_eq!(cache(&ask(&gateway, "sk-a", Chat, "chat/mock-fast", false, say).await), "semantic-hit");
    gateway.configure(&yaml("messages: 1").replace("FOLDER/table", "FOLDER/nowhere"));
    let refused = gateway.admin("POST", "/admin/reload").await;
    assert_eq!(refused.status(), 422);
    assert!(refused.text().contains("model.safetensors"), "{}", refused.text());
    let say = "The capital city of France?";
    assert_eq!(cache(&ask(&gateway, "sk-a", Chat, "chat/mock-fast", true, say).await), "semantic-hit");
}
