//! The mock over a pair of byte streams: what each dialect gets, and what each fault does on the wire.

mod answers;
mod checks;
mod faults;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{Options, connection};

/// A raw answer, cut up. `complete` says whether the framing came to its end.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
    complete: bool,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The message of an error body, whichever the dialect.
    fn error(&self) -> String {
        self.json()["error"]["message"].as_str().expect("an error message").to_owned()
    }

    /// The events of the stream: name and data.
    fn events(&self) -> Vec<(String, Value)> {
        let text = self.text().replace("\r\n", "\n");
        let frames = text.split("\n\n").filter(|frame| !frame.is_empty()).map(|frame| {
            let field =
                |name: &str| frame.lines().filter_map(|line| line.strip_prefix(name)).next().unwrap_or_default();
            let data = field("data: ");
            (field("event: ").to_owned(), serde_json::from_str(data).unwrap_or_else(|_| json!(data)))
        });
        frames.collect()
    }
}

/// A client of one mock.
#[derive(Default)]
struct Client {
    options: Options,
    headers: Vec<(&'static str, &'static str)>,
}

impl Client {
    fn with(headers: &[(&'static str, &'static str)]) -> Client {
        Client { headers: headers.to_vec(), ..Client::default() }
    }

    fn dial(&self) -> DuplexStream {
        let (here, there) = tokio::io::duplex(1 << 20);
        tokio::spawn(connection(there, self.options.clone()));
        here
    }

    fn request(&self, method: &str, target: &str, body: &str) -> String {
        let more: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!(
            "{method} {target} HTTP/1.1\r\nanthropic-version: 2023-06-01\r\n{more}content-length: {}\r\nconnection: \
             close\r\n\r\n{body}",
            body.len()
        )
    }

    async fn send(&self, method: &str, target: &str, body: &str) -> Reply {
        let mut io = self.dial();
        io.write_all(self.request(method, target, body).as_bytes()).await.expect("writes");
        let mut bytes = Vec::new();
        io.read_to_end(&mut bytes).await.expect("reads");
        cut_up(&bytes)
    }

    async fn post(&self, target: &str, body: Value) -> Reply {
        self.send("POST", target, &body.to_string()).await
    }

    async fn get(&self, target: &str) -> Reply {
        self.send("GET", target, "").await
    }
}

fn cut_up(bytes: &[u8]) -> Reply {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return Reply { status: 0, head: String::new(), body: bytes.to_vec(), complete: false };
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let mut reply = Reply { status, head, body: bytes[end + 4..].to_vec(), complete: true };
    match reply.header("content-length").map(|length| length.parse::<usize>().expect("a length")) {
        Some(length) => reply.complete = reply.body.len() == length,
        None => (reply.body, reply.complete) = dechunk(&reply.body),
    }
    reply
}

/// The data of chunks, and whether the last chunk came.
fn dechunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    while let Some(end) = memchr::memmem::find(bytes, b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            return (out, true);
        }
        let from = end + 2;
        out.extend_from_slice(&bytes[from..bytes.len().min(from + size)]);
        let next = from + size + 2;
        if next > bytes.len() {
            break;
        }
        bytes = &bytes[next..];
    }
    (out, false)
}

/// The path and a minimal body of every dialect's generation, streamed or not.
fn asks(model: &str, stream: bool) -> Vec<(&'static str, String, Value)> {
    let turn = json!([{"role": "user", "content": "Hello there"}]);
    let verb = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
    vec![
        ("chat", "/v1/chat/completions".to_owned(), json!({"model": model, "messages": turn, "stream": stream})),
        ("responses", "/v1/responses".to_owned(), json!({"model": model, "input": "Hello there", "stream": stream})),
        (
            "anthropic",
            "/v1/messages".to_owned(),
            json!({"model": model, "messages": turn, "stream": stream, "max_tokens": 1000}),
        ),
        (
            "gemini",
            format!("/v1beta/models/{model}:{verb}"),
            json!({"contents": [{"role": "user", "parts": [{"text": "Hello there"}]}]}),
        ),
    ]
}

/// The text of a whole answer, whichever the dialect.
fn whole_text(dialect: &str, value: &Value) -> String {
    let text = match dialect {
        "chat" => &value["choices"][0]["message"]["content"],
        "responses" => &value["output"][0]["content"][0]["text"],
        "anthropic" => &value["content"][0]["text"],
        _ => &value["candidates"][0]["content"]["parts"][0]["text"],
    };
    text.as_str().unwrap_or_default().to_owned()
}

/// The text of a streamed answer, whichever the dialect.
fn streamed_text(dialect: &str, events: &[(String, Value)]) -> String {
    let pieces = events.iter().map(|(event, data)| match dialect {
        "chat" => data["choices"][0]["delta"]["content"].clone(),
        "responses" if event == "response.output_text.delta" => data["delta"].clone(),
        "anthropic" => data["delta"]["text"].clone(),
        "gemini" => data["candidates"][0]["content"]["parts"][0]["text"].clone(),
        _ => Value::Null,
    });
    pieces.filter_map(|piece| piece.as_str().map(str::to_owned)).collect()
}

async fn until(deadline: Duration, mut holds: impl AsyncFnMut() -> bool) -> bool {
    tokio::time::timeout(deadline, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .is_ok()
}
