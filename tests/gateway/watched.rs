//! Raw streams that policies look at: what they leave as it is arrives as the provider wrote it.

use std::fs;

use serde_json::json;

use super::dialect::{Chat, Turn};
use super::support::{Folder, Gateway, Mock};
use super::upstream::Upstream;
use super::wire::Reply;

const STREAM: &str = "text/event-stream";
const ROLE: &str = r#"data: {"id":"c1","object":"chat.completion.chunk","created":7,"model":"m-1","x_own":{"n":1.50e+2},"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
const ONE: &str = r#"data: {"id":"c1","object":"chat.completion.chunk","created":7,"model":"m-1","choices":[{"index":0,"delta":{"content":"The \u0077ord"},"x_filter":{"hate":false}}],"obfuscation":"a"}"#;
const TWO: &str = r#"data:{"id":"c1","object":"chat.completion.chunk","created":7,"model":"m-1","choices":[{"index":0,"delta":{"content":" is out."}}]}"#;
const STOP: &str = r#"data: {"id":"c1","choices":[{"delta":{},"index":0,"finish_reason":"stop","x_filter":{}}]}"#;
const USED: &str =
    r#"data: {"id":"c1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"x_ms":1.50}}"#;

fn stream(frames: &[&str]) -> String {
    [": hello", ROLE]
        .iter()
        .chain(frames)
        .chain(&[STOP, USED, "data: [DONE]"])
        .map(|frame| format!("{frame}\n\n"))
        .collect()
}

/// A gateway whose one account says this, and that has this policy.
async fn watched(mock: &Mock, kind: &'static str, said: &str, policy: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::saying(kind, said).await;
    let folder = Folder::new();
    fs::create_dir_all(folder.path("scripts")).expect("a folder");
    folder.write("scripts/p.luau", &format!("--[[manifest\nguard = true\nstream = \"event\"\n]]\n{policy}"));
    let yaml = format!(
        "providers:\n  raw: {{ dialect: openai_chat, base_url: http://{}/v1, auth: none }}\n\
         prices: {{ models: {{ raw/m: {{ input: 1, output: 1 }} }} }}\nhooks: [{{ lua: p, budget: {{ cpu: 2s }} }}]\n",
        upstream.address
    );
    (Gateway::prepared(folder, mock, &yaml).await, upstream)
}

async fn ask(gateway: &Gateway, usage: bool, headers: &[(&str, &str)]) -> Reply {
    let mut body = String::from_utf8(Chat.ask("raw/m", true, Turn::Text, "Hello")).expect("UTF-8");
    assert!(body.contains("\"include_usage\":true"), "{body}");
    if !usage {
        body = body.replace("\"include_usage\":true", "\"include_usage\":false");
    }
    let headers = [&[("content-type", "application/json")], headers].concat();
    let reply = gateway.call("POST", "/v1/chat/completions", &headers, body).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply
}

#[tokio::test]
async fn what_a_policy_leaves_as_it_is_arrives_byte_for_byte() {
    let mock = Mock::start().await;
    // It sees every text and the end of the block, or the stream would stop.
    let policy = "function on_event(e, ctx)
        local all = (ctx:get('all') or '') .. e.text
        ctx:set('all', all)
        if e.kind == 'end' and all ~= 'The word is out.' then return gw.stop{ message = all } end
        if e.kind == 'text' and e.choice == 0 then return e.text end
      end";
    let said = stream(&[ONE, TWO]);
    let (gateway, _upstream) = watched(&mock, STREAM, &said, policy).await;
    let reply = ask(&gateway, true, &[]).await;
    assert_eq!(reply.text(), said);
    let line = gateway.logged(reply.head.id()).await;
    assert_eq!(line["usage"], json!({"input": 3, "output": 2}), "{line}");
    assert_eq!((&line["finish"], &line["status"]), (&json!("stop"), &json!(200)));
    // The chunk that only the gateway asked for is hidden, and the cost stands where it is asked for.
    let used = format!("{USED}\n\n");
    assert_eq!(ask(&gateway, false, &[]).await.text(), said.replace(&used, ""));
    let reply = ask(&gateway, true, &[("x-portcullis-usage-cost", "true")]).await;
    let costs = r#""x_ms":1.5,"cost":5e-6}}"#;
    assert!(reply.text().contains(costs) && reply.text().starts_with(&stream(&[ONE, TWO])[..200]), "{}", reply.text());
}

#[tokio::test]
async fn what_a_policy_changes_is_written_anew_and_nothing_repeats_it() {
    let mock = Mock::start().await;
    let said = stream(&[ONE, TWO, ONE]);
    let head = format!(": hello\n\n{ROLE}\n\n");
    let say = |text: &str| {
        format!(
            r#"data: {{"id":"c1","object":"chat.completion.chunk","created":7,"model":"m-1","choices":[{{"index":0,"delta":{{"content":"{text}"}},"logprobs":null,"finish_reason":null}}]}}"#
        ) + "\n\n"
    };
    let end = r#"data: {"id":"c1","object":"chat.completion.chunk","created":7,"model":"m-1","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}"#;
    let end = format!("{end}\n\ndata: [DONE]\n\n");
    let two = format!("{TWO}\n\n");
    for (policy, expected) in [
        (
            "if e.text == 'The word' then return 'A \"word\"' end",
            [head.clone(), say(r#"A \"word\""#), two.clone(), say(r#"A \"word\""#), end.clone()].concat(),
        ),
        ("if e.text == 'The word' then return gw.drop() end", [head.clone(), two.clone(), end.clone()].concat()),
        (
            "if e.kind == 'end' then return ' Bye.' end",
            [head.clone(), format!("{ONE}\n\n{TWO}\n\n{ONE}\n\n"), say(" Bye."), end.clone()].concat(),
        ),
        (
            "if e.text == ' is out.' then return gw.stop{ text = '!' } end",
            [head.clone(), format!("{ONE}\n\n"), say("!"), end.clone()].concat(),
        ),
    ] {
        let (gateway, _upstream) = watched(&mock, STREAM, &said, &format!("function on_event(e) {policy} end")).await;
        let reply = ask(&gateway, false, &[]).await;
        assert_eq!(reply.text(), expected, "{policy}");
    }
}

#[tokio::test]
async fn an_answer_that_came_whole_is_watched_as_a_stream_too() {
    let mock = Mock::start().await;
    let whole = r#"{"id":"c1","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"The word"},"finish_reason":"stop"}]}"#;
    let policy = "function on_event(e) return string.upper(e.text) end";
    let (gateway, _upstream) = watched(&mock, "application/json", whole, policy).await;
    let reply = ask(&gateway, false, &[]).await;
    assert_eq!(Chat.read_stream(&reply.text()).text, "THE WORD", "{}", reply.text());
}
