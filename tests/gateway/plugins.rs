//! Providers that a WebAssembly plugin speaks for: the same retries, commit point, usage and errors as built-in ones, and
//! a guest that misbehaves hurts nobody else.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::support::{Folder, Gateway, Mock, portcullis, together};
use super::upstream::{Act, Seen, Upstream, answer};
use super::wire;

fn prebuilt(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("plugins/prebuilt/{name}.wasm")).display().to_string()
}

/// A gateway whose provider `it` is spoken to through a prebuilt plugin.
async fn gateway(mock: &Mock, upstream: &Upstream, plugin: &str, more: &str) -> Gateway {
    let yaml = format!(
        "providers:\n  it: {{ dialect: 'wasm:{plugin}', base_url: 'http://{}/base', api_key: sk-it }}\n\
         \x20 chat: {{ dialect: openai_chat, base_url: http://MOCK/v1, auth: none }}\n\
         plugins:\n  compiled: FOLDER/compiled\n  settings:\n    {plugin}: {{ file: {}, {more} }}\n\
         models:\n  well: {{ target: it/well }}\n  \
         falls: {{ fallback: [{{ target: it/loop }}, {{ target: chat/mock }}] }}\n",
        upstream.address,
        prebuilt(plugin),
    );
    Gateway::start(mock, &yaml).await
}

fn ask(model: &str, stream: bool) -> Vec<u8> {
    json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "Hello" }] }).to_string().into()
}

async fn chat(gateway: &Gateway, model: &str, stream: bool) -> wire::Reply {
    gateway.post("/v1/chat/completions", ask(model, stream)).await
}

const COHERE: &str = r#"{"id":"c1","finish_reason":"COMPLETE","message":{"role":"assistant","content":[{"type":"text","text":"Hi."}]},"usage":{"billed_units":{"input_tokens":5,"output_tokens":3}}}"#;

#[tokio::test]
async fn a_taught_provider_answers_callers_of_other_dialects() {
    let mock = Mock::start().await;
    let upstream = Upstream::saying("application/json", COHERE).await;
    let gateway = gateway(&mock, &upstream, "cohere", "").await;
    let reply = chat(&gateway, "it/command-a-03-2025", false).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let body = reply.json();
    assert_eq!(body["choices"][0]["message"]["content"], "Hi.");
    assert_eq!(body["usage"]["total_tokens"], 8);
    let seen = upstream.last();
    assert!(seen.head.starts_with("POST /base/v2/chat "), "{}", seen.head);
    assert!(seen.head.to_ascii_lowercase().contains("authorization: bearer sk-it"), "{}", seen.head);
    let sent: Value = serde_json::from_slice(&seen.body).expect("JSON");
    assert_eq!(sent["model"], "command-a-03-2025");
    let listed = gateway.get("/v1/models").await.text();
    assert!(listed.contains("it/embed-v4.0"), "{listed}");
}

#[tokio::test]
async fn documents_are_ranked_by_a_plugin() {
    let mock = Mock::start().await;
    let ranked = r#"{"id":"r1","results":[{"index":2,"relevance_score":0.9},{"index":0,"relevance_score":0.1}]}"#;
    let upstream = Upstream::saying("application/json", ranked).await;
    let gateway = gateway(&mock, &upstream, "cohere", "").await;
    let ask = json!({ "model": "it/rerank-v3.5", "query": "q", "documents": ["a", "b", "c"], "top_n": 2 });
    let reply = gateway.post("/v1/rerank", ask.to_string()).await;
    let places = json!([{ "index": 2, "relevance_score": 0.9 }, { "index": 0, "relevance_score": 0.1 }]);
    assert_eq!(reply.json()["results"], places, "{}", reply.text());
    let seen = upstream.last();
    assert!(seen.head.starts_with("POST /base/v2/rerank "), "{}", seen.head);
    let sent: Value = serde_json::from_slice(&seen.body).expect("JSON");
    assert_eq!(sent, json!({ "model": "rerank-v3.5", "query": "q", "documents": ["a", "b", "c"], "top_n": 2 }));
}

#[tokio::test]
async fn a_taught_stream_is_whole_however_it_is_cut() {
    let mock = Mock::start().await;
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/cohere/fixtures/stream/text.txt");
    let stream = std::fs::read(fixture).expect("is there");
    let upstream = Upstream::saying("text/event-stream", stream).await;
    let gateway = gateway(&mock, &upstream, "cohere", "").await;
    let reply = chat(&gateway, "it/command-a-03-2025", true).await;
    assert_eq!(reply.status(), 200);
    let text = reply.text();
    assert!(text.contains("Grüße") && text.contains(" from Rome."), "{text}");
    assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
    let whole = chat(&gateway, "it/command-a-03-2025", false).await;
    assert_eq!(whole.status(), 502, "a stream that nobody asked for is a bad answer: {}", whole.text());
}

#[tokio::test]
async fn a_provider_that_answers_later_is_asked_again() {
    let mock = Mock::start().await;
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = polls.clone();
    let upstream = Upstream::start(move |seen: &Seen| {
        let there = seen.head.starts_with("GET") && counted.fetch_add(1, Ordering::SeqCst) >= 2;
        let body = match there {
            true => r#"{"id":"p1","model":"a/b","status":"succeeded","output":["Hel","lo."]}"#,
            false => r#"{"id":"p1","model":"a/b","status":"processing","output":null}"#,
        };
        Act::Answer(answer("application/json", body.as_bytes()))
    })
    .await;
    let gateway = gateway(&mock, &upstream, "replicate", "config: { poll_ms: 10 }").await;
    let reply = chat(&gateway, "it/a/b", false).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello.", "{}", reply.text());
    assert_eq!(polls.load(Ordering::SeqCst), 3);
    assert!(upstream.seen().last().expect("a poll").head.starts_with("GET /base/v1/predictions/p1 "));
    let stream = chat(&gateway, "it/a/b", true).await.text();
    assert!(stream.contains("Hello.") && stream.contains("[DONE]"), "{stream}");
}

#[tokio::test]
async fn a_broken_adapter_is_a_fault_that_the_next_target_mends() {
    let mock = Mock::start().await;
    let upstream = Upstream::saying("application/json", "{}").await;
    let gateway = gateway(&mock, &upstream, "hostile", "cpu: 30ms").await;
    let reply = chat(&gateway, "falls", false).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    for how in ["loop", "trap", "recurse", "grow", "storm", "huge", "escape", "climb", "split"] {
        let reply = chat(&gateway, &format!("it/{how}"), false).await;
        assert_eq!(reply.status(), 502, "{how}: {}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "guest_failed", "{how}");
    }
    assert!(upstream.seen().is_empty(), "nothing of it was sent");
}

#[tokio::test]
async fn why_an_error_could_not_be_read_stands_in_the_log() {
    let mock = Mock::start().await;
    let refusal = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\ntrap";
    let upstream = Upstream::start(move |_| Act::Answer(refusal.as_bytes().to_vec())).await;
    let gateway = gateway(&mock, &upstream, "hostile", "").await;
    let reply = chat(&gateway, "well", false).await;
    let told = (reply.status(), reply.json()["error"]["message"].clone());
    assert_eq!(told, (400, json!("trap")), "{}", reply.text());
    let line = gateway.logged_where("it", |line| line["status"] == 400).await;
    let source = line["error"]["source"].as_str().unwrap_or_default();
    assert!(source.starts_with("The adapter `hostile` failed in `decode_error`. ("), "{line}");
}

#[tokio::test]
async fn the_compiled_code_of_one_plugin_does_not_run_for_another() {
    let mock = Mock::start().await;
    let upstream = Upstream::saying("application/json", COHERE).await;
    let folder = Folder::new();
    let config = |plugin: &str| {
        let (file, address) = (prebuilt(plugin), upstream.address);
        format!(
            "providers: {{ it: {{ dialect: 'wasm:{plugin}', base_url: 'http://{address}', api_key: k }} }}\n\
             plugins: {{ compiled: compiled, settings: {{ {plugin}: {{ file: '{file}' }} }} }}\n"
        )
    };
    let check = |plugin: &str| {
        let path = folder.write("p.yaml", &config(plugin));
        assert!(portcullis().arg("check").arg(path).output().expect("runs").status.success(), "{plugin}");
    };
    let compiled = || -> Vec<std::path::PathBuf> {
        let files =
            std::fs::read_dir(folder.path("compiled")).expect("is there").map(|file| file.expect("a file").path());
        files.filter(|path| path.extension().is_some_and(|ending| ending == "cwasm")).collect()
    };
    check("hostile");
    let hostile = compiled().pop().expect("is kept");
    check("cohere");
    let cohere = compiled().into_iter().find(|path| *path != hostile).expect("is kept");
    std::fs::copy(&hostile, &cohere).expect("copies");
    let gateway = Gateway::prepared(folder, &mock, &config("cohere")).await;
    let reply = chat(&gateway, "it/command-a-03-2025", false).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hi.", "{}", reply.text());
    let said = gateway.process.stderr();
    assert!(said.contains("is not what this gateway wrote for this plugin; the plugin is compiled anew"), "{said}");
}

#[tokio::test]
async fn an_adapter_sets_neither_the_credential_nor_the_framing() {
    let mock = Mock::start().await;
    let upstream = Upstream::saying("application/json", "{}").await;
    let gateway = gateway(&mock, &upstream, "hostile", "").await;
    chat(&gateway, "it/headers", false).await;
    let head = upstream.last().head.to_ascii_lowercase();
    assert!(head.contains("x-key: sk-it") && head.contains("x-mine: forged"), "{head}");
    assert_eq!(head.matches("forged").count(), 1, "{head}");
}

#[tokio::test]
async fn a_plugin_is_swapped_under_load_without_a_failed_request() {
    let mock = Mock::start().await;
    let upstream = Upstream::saying("application/json", COHERE).await;
    let gateway = gateway(&mock, &upstream, "cohere", "").await;
    let path = gateway.folder.path("portcullis.yaml");
    let text = std::fs::read_to_string(&path).expect("the configuration");
    let rounds = if std::env::var_os("PORTCULLIS_SOAK").is_some() { 1000 } else { 20 };
    for round in 0..rounds {
        // Another configuration makes another plugin of it: compiled code and instances are new.
        let kind = if round % 2 == 0 { "search_query" } else { "search_document" };
        let changed = text.replace("cohere.wasm, ", &format!("cohere.wasm, config: {{ input_type: {kind} }}, "));
        assert_ne!(changed, text);
        std::fs::write(&path, changed).expect("is writable");
        let reload = gateway.admin("POST", "/admin/reload");
        let asks = together((0..8).map(|_| chat(&gateway, "it/command-a-03-2025", false)));
        let (reload, asks) = tokio::join!(reload, asks);
        assert_eq!(reload.status(), 200, "{}", reload.text());
        for reply in asks {
            assert_eq!(reply.status(), 200, "round {round}: {}", reply.text());
        }
    }
}

#[test]
fn shipped_policies_do_what_their_fixtures_say() {
    for name in ["pii-guard", "json-schema-guard"] {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins").join(name).join("fixtures");
        let mut command = portcullis();
        command.args(["plugin", "test", &prebuilt(name), "--fixtures"]).arg(&fixtures);
        let output = command.output().expect("runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {said}");
        let files = std::fs::read_dir(&fixtures).expect("is there").count();
        assert_eq!(said.lines().filter(|line| line.starts_with("ok    ")).count(), files, "{said}");
    }
}

#[test]
fn a_fixture_of_a_policy_that_is_wrong_fails_the_command() {
    let folder = Folder::new();
    folder.write(
        "one.json",
        r#"{ "models": { "m": ["a/m"] }, "chat": { "model": "m", "text": "Hi" }, "expected": { "status": 404 } }"#,
    );
    let test = |more: &[&str]| {
        let mut command = portcullis();
        command.args(["plugin", "test", &prebuilt("pii-guard"), "--fixtures"]).arg(folder.path(".")).args(more);
        let output = command.output().expect("runs");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.success(), said)
    };
    let (good, said) = test(&[]);
    assert!(!good && said.contains("WRONG one.json: status is 200, and not 404"), "{said}");
    let (good, said) = test(&["--config", "{}"]);
    assert!(!good && said.contains("in each of its fixtures"), "{said}");
    assert!(test(&["--bless"]).0);
    assert_eq!(test(&[]), (true, "ok    one.json\n".to_owned()));
}

#[tokio::test]
async fn a_plugin_that_is_not_what_was_demanded_is_refused() {
    let folder = Folder::new();
    let wasm = prebuilt("cohere");
    let check = |plugins: &str| {
        let yaml = format!(
            "providers: {{ it: {{ dialect: 'wasm:cohere', base_url: 'http://127.0.0.1:9', api_key: k }} }}\n\
             plugins: {{ compiled: compiled, {plugins} }}\n"
        );
        let path = folder.write("p.yaml", &yaml);
        let output = portcullis().arg("check").arg(path).output().expect("runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (good, said) = check(&format!("settings: {{ cohere: {{ file: '{wasm}' }} }}"));
    assert!(good, "{said}");
    let (good, said) = check(&format!("demand: pinned, settings: {{ cohere: {{ file: '{wasm}' }} }}"));
    assert!(!good && said.contains("is not pinned; add `sha256: "), "{said}");
    let zeros = "0".repeat(64);
    let (good, said) = check(&format!("settings: {{ cohere: {{ file: '{wasm}', sha256: '{zeros}' }} }}"));
    assert!(!good && said.contains("is not the pinned file"), "{said}");
    let signer = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let (good, said) =
        check(&format!("demand: signed, signers: ['{signer}'], settings: {{ cohere: {{ file: '{wasm}' }} }}"));
    assert!(!good && said.contains("is not signed"), "{said}");
    let (good, said) = check("folder: nowhere");
    assert!(!good && said.contains("nowhere/cohere.wasm: cannot be read"), "{said}");
    assert!(said.contains("p.yaml:1:") && said.contains("providers.it.dialect"), "{said}");
    // A pin under a slip of the name would let any file pass.
    let slip = format!("settings: {{ cohere: {{ file: '{wasm}' }}, coheer: {{ sha256: '{zeros}' }} }}");
    let (good, said) = check(&slip);
    assert!(!good && said.contains("plugins.settings.coheer") && said.contains("did you mean `cohere`?"), "{said}");
    let (good, said) = check(&format!("settings: {{ cohere: {{ file: '{wasm}' }}, other: {{ cpu: 1s }} }}"));
    assert!(good && said.contains("plugins.settings.other: no provider has `dialect: wasm:other`"), "{said}");
    let guard = prebuilt("pii-guard");
    let (good, said) = check(&format!("settings: {{ cohere: {{ file: '{guard}' }} }}"));
    assert!(!good && said.contains("is a policy, not an adapter; attach it under `hooks`"), "{said}");
}

#[tokio::test]
async fn a_swapped_adapter_is_a_difference_between_generations() {
    let mock = Mock::start().await;
    let upstream = Upstream::saying("application/json", COHERE).await;
    let gateway = gateway(&mock, &upstream, "cohere", "").await;
    let known = gateway.admin("GET", "/admin/generations").await.json();
    let adapter = &known["generations"][0]["adapters"][0];
    assert_eq!(adapter["name"], "wasm:cohere", "{known}");
    assert_eq!(adapter["digest"].as_str().map(str::len), Some(64), "{known}");
    let path = gateway.folder.path("portcullis.yaml");
    let text = std::fs::read_to_string(&path).expect("the configuration");
    let other = text.replace("cohere.wasm", "replicate.wasm");
    assert_ne!(other, text);
    std::fs::write(&path, other).expect("is writable");
    assert_eq!(gateway.admin("POST", "/admin/reload").await.status(), 200);
    let diff = gateway.admin("GET", "/admin/generations/1/diff").await.text();
    assert!(diff.matches("sha256:").count() >= 2, "{diff}");
}
