//! Budgets and long windows across a kill, the ledger against the answers, and alerts.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::support::{Folder, Gateway, Mock, SOON, portcullis, together};
use super::wire::Reply;

async fn ask(gateway: &Gateway, key: &str, model: &str, stream: bool) -> Reply {
    let body = json!({
        "model": model, "max_tokens": 60, "stream": stream, "stream_options": if stream { json!({"include_usage": true}) } else { Value::Null },
        "messages": [{"role": "user", "content": "Hello"}],
    });
    let auth = format!("Bearer {key}");
    let headers = [("content-type", "application/json"), ("authorization", auth.as_str())];
    gateway.call("POST", "/v1/chat/completions", &headers, body.to_string()).await
}

#[tokio::test]
async fn a_kill_loses_at_most_a_second_and_counts_nothing_twice() {
    let mock = Mock::start().await;
    let mut gateway = Gateway::start(&mock, "limits: [{ name: r, requests: 10 / day }]\n").await;
    for _ in 0..4 {
        assert_eq!(ask(&gateway, "", "chat/mock-fast", false).await.status(), 200);
    }
    assert!(gateway.folder.path("portcullis.db").exists(), "the file is beside the configuration");
    // What was settled a second ago must be there.
    sleep(Duration::from_secs(1)).await;
    gateway.process.signal("KILL");
    gateway.process.exit(SOON).await;
    let path = gateway.folder.path("portcullis.yaml");
    gateway.serve(&path).await;
    let replies = together((0..10).map(|_| ask(&gateway, "", "chat/mock-fast", false))).await;
    assert_eq!(replies.iter().filter(|reply| reply.status() == 200).count(), 6);
}

#[tokio::test]
async fn a_damaged_file_keeps_the_gateway_from_starting() {
    let mock = Mock::start().await;
    let folder = Folder::new();
    folder.write("counts.db", &"no database".repeat(1000));
    let gateway = Gateway::unstarted(folder, Some(mock.address));
    let yaml = "limits: [{ requests: 10 / day }]\nstore: { path: FOLDER/counts.db }\n";
    let path = gateway.configure(yaml);
    let output = portcullis().args(["serve", "--config"]).arg(&path).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("counts.db") && text.contains("move it away"), "{text}");
}

#[tokio::test]
async fn no_budget_is_overspent_and_the_ledger_is_the_sum_of_the_answers() {
    const HOLDERS: usize = 10;
    const EACH: usize = 200;
    let mock = Mock::start().await;
    let keys: Vec<String> = (0..HOLDERS).map(|at| format!("{{ name: k{at}, key: sk-{at} }}")).collect();
    // A tenth of a cent a token; a dollar is a thousand tokens.
    let yaml = format!(
        "keys: [{}]\nprices: {{ models: {{ chat/*: {{ input: 1000, output: 1000 }} }} }}\n\
         budgets: [{{ name: b, per: key, money: $1 / day }}]\n",
        keys.join(", ")
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    let asks = (0..HOLDERS * EACH).map(|at| {
        let gateway = &gateway;
        async move {
            let (key, model) =
                (format!("sk-{}", at % HOLDERS), if at % 7 == 3 { "chat/x:fault=500" } else { "chat/mock-fast" });
            let asked = ask(gateway, &key, model, at % 3 == 0);
            // Some leave before they have their answer.
            if at % 5 == 4 {
                timeout(Duration::from_millis(3 + (at % 20) as u64), asked).await.ok()
            } else {
                Some(asked.await)
            }
        }
    });
    let replies = together(asks).await;
    assert!(replies.iter().flatten().any(|reply| reply.status() == 429), "no budget was used up");
    gateway.settled().await;
    // The writer has had its time.
    sleep(Duration::from_secs(1)).await;
    let lines = gateway.log();
    let logged: f64 = lines.iter().filter_map(|line| line["cost_usd"].as_f64()).sum();
    let state = gateway.admin("GET", "/admin/limits").await.json();
    let partitions = state["rules"][0]["fullest"].as_array().expect("a list").clone();
    let used = |partition: &Value, what: &str| partition["windows"][0][what].as_u64().expect("a number");
    // The estimate is 60 tokens out and the body by its length; the truth is not larger by more than a few.
    let most = partitions.iter().map(|partition| used(partition, "used")).max().expect("ten");
    assert!(most <= 1_000_000_000 + 100_000_000, "{most} nano-dollars of a dollar were spent");
    assert!(partitions.iter().all(|partition| used(partition, "reserved") == 0), "{partitions:?}");
    let counted: u64 = partitions.iter().map(|partition| used(partition, "used")).sum();
    assert!((logged * 1e9 - counted as f64).abs() < 1.0, "{logged} logged, {counted} counted");
    drop(gateway.process);
    let file = rusqlite::Connection::open(gateway.folder.path("portcullis.db")).expect("opens");
    let ledger: i64 = file.query_row("SELECT SUM(cost_nano_usd) FROM ledger", [], |row| row.get(0)).expect("a sum");
    assert_eq!(ledger as u64, counted, "the ledger is not the sum of what was counted");
}

#[tokio::test]
async fn a_threshold_is_told_to_the_webhook_once() {
    let mock = Mock::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let hook = listener.local_addr().expect("an address");
    let yaml = format!(
        "prices: {{ models: {{ chat/*: {{ input: 1000, output: 1000 }} }} }}\nstore: {{ path: off }}\n\
         budgets: [{{ name: b, money: $0.10 / day, hard: false, thresholds: [50%], webhook: \"http://{hook}/alerts\" }}]\n"
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    for _ in 0..8 {
        assert_eq!(ask(&gateway, "", "chat/mock-fast", false).await.status(), 200);
    }
    let mut bodies = Vec::new();
    // The first try is refused: it must come again.
    for answer in [
        "HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 204 Yes\r\nconnection: close\r\n\r\n",
    ] {
        let (mut socket, _) = timeout(SOON, listener.accept()).await.expect("is called").expect("accepts");
        let mut text = Vec::new();
        while !text.ends_with(b"}") {
            assert!(timeout(SOON, socket.read_buf(&mut text)).await.expect("sends").expect("reads") > 0);
        }
        socket.write_all(answer.as_bytes()).await.expect("is answered");
        let text = String::from_utf8(text).expect("text");
        bodies.push(text.split("\r\n\r\n").nth(1).expect("a body").to_owned());
    }
    let alert: Value = serde_json::from_str(&bodies[1]).expect("JSON");
    assert_eq!((&alert["window"], &alert["refuses"]), (&json!("day"), &json!(false)));
    assert_eq!((&alert["budget"], &alert["percent"], &alert["limit_usd"]), (&json!("b"), &json!(50), &json!("0.1")));
    assert_eq!(bodies[0], bodies[1]);
    assert!(timeout(Duration::from_millis(1500), listener.accept()).await.is_err(), "it was told twice");
}
