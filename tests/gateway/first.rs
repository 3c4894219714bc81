//! The first minute: no file, no key.

use std::process::Command;

use serde_json::json;

use super::dialect::{ALL, Turn};
use super::support::{Folder, Gateway, portcullis};

/// Starts the binary in an empty folder; only where it listens is said.
async fn start(variables: &[(&str, &str)]) -> Gateway {
    let mut gateway = Gateway::unstarted(Folder::new(), None);
    let mut command: Command = portcullis();
    command
        .current_dir(gateway.folder.path(""))
        .env("PORTCULLIS_LISTEN", gateway.address.to_string())
        .env("PORTCULLIS_ADMIN", gateway.admin.to_string())
        .envs(variables.iter().copied());
    gateway.spawn(&mut command).await;
    gateway
}

#[tokio::test]
async fn without_file_and_keys_the_mock_answers_and_the_terminal_says_what_to_try() {
    let gateway = start(&[]).await;
    for from in ALL {
        for stream in [false, true] {
            let model = "mock/mock-fast";
            let reply = gateway.post(&from.path(model, stream), from.ask(model, stream, Turn::Text, "Hello")).await;
            assert_eq!(reply.status(), 200, "{from:?}: {}", reply.text());
            let said = from.read(&reply);
            assert!(said.done && said.text.starts_with("You said: \"Hello\"."), "{from:?}: {}", reply.text());
            assert_eq!(reply.head.header("x-portcullis-provider"), Some("mock"), "{from:?}");
        }
    }
    // It is the only provider: any name will do.
    let reply = gateway.post("/v1/chat/completions", ALL[0].ask("gpt-5", false, Turn::Text, "Hello")).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let said = gateway.process.stderr();
    for word in [&gateway.address.to_string(), &gateway.admin.to_string(), "mock"] {
        assert!(said.contains(word), "`{word}` is not said: {said}");
    }
    assert_eq!(gateway.get("/health").await.json()["providers"], json!(["mock"]));
}

#[tokio::test]
async fn documents_are_ranked_without_a_provider_too() {
    let gateway = start(&[]).await;
    let documents = json!(["Rust and iron", {"text": "A gateway in Rust"}, "Bread"]);
    let body = json!({"model": "ranker", "query": "Which gateway is in Rust?", "documents": documents, "top_n": 2});
    for path in ["/v1/rerank", "/rerank", "/v2/rerank"] {
        let reply = gateway.post(path, body.to_string()).await;
        let results = reply.json()["results"].clone();
        let places: Vec<_> = results.as_array().into_iter().flatten().map(|result| &result["index"]).collect();
        assert_eq!((reply.status(), places), (200, vec![&json!(1), &json!(0)]), "{path}: {}", reply.text());
    }
    let refused = gateway.post("/v1/rerank", r#"{"model":"ranker","query":"q"}"#).await;
    assert_eq!(refused.status(), 400, "{}", refused.text());
}

#[tokio::test]
async fn a_key_in_the_environment_makes_its_provider_live_without_a_file() {
    let gateway = start(&[("OPENAI_API_KEY", "sk-live-openai"), ("ANTHROPIC_API_KEY", "sk-live-anthropic")]).await;
    let providers = gateway.get("/health").await.json()["providers"].to_string();
    assert!(providers.contains("\"openai\"") && providers.contains("\"anthropic\""), "{providers}");
    assert!(!providers.contains("gemini"), "{providers}");
    let listed = gateway.get("/v1/models").await.json();
    let ids: Vec<&str> = listed["data"].as_array().expect("data").iter().filter_map(|row| row["id"].as_str()).collect();
    assert!(ids.iter().any(|id| id.starts_with("openai/gpt-")), "{ids:?}");
    assert!(ids.iter().any(|id| id.starts_with("anthropic/claude-")), "{ids:?}");
    assert!(!gateway.process.stderr().contains("sk-live"), "a key is on the terminal");
    for page in [gateway.get("/health").await, gateway.admin("GET", "/admin/generation").await] {
        assert!(!page.text().contains("sk-live"), "{}", page.text());
    }
    // Who has no key is told which variable to set.
    let reply = gateway.post("/v1/chat/completions", ALL[0].ask("groq/llama", false, Turn::Text, "Hello")).await;
    assert_eq!(reply.status(), 404);
    assert!(reply.text().contains("GROQ_API_KEY"), "{}", reply.text());
}

#[tokio::test]
async fn a_wrong_file_is_refused_with_its_place_and_status_2() {
    let folder = Folder::new();
    let file = folder.write("wrong.yaml", "models:\n  fast: { targett: mock/x }\n");
    let output = portcullis().args(["serve", "--config"]).arg(&file).output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("wrong.yaml:2:") && said.contains("target"), "{said}");
    let missing = folder.path("missing.yaml");
    let output = portcullis().args(["serve", "--config"]).arg(&missing).output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn a_taken_port_is_the_only_thing_that_is_said() {
    let gateway = start(&[]).await;
    let output = portcullis()
        .current_dir(gateway.folder.path(""))
        .env("PORTCULLIS_LISTEN", gateway.address.to_string())
        .env("PORTCULLIS_ADMIN", "off")
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&gateway.address.to_string()) && said.lines().count() == 1, "{said}");
}
