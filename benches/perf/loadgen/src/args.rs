//! The command line, and the one request that a run sends over and over.

use bytes::Bytes;

/// The wire form of the client.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Form {
    #[default]
    OpenAi,
    Anthropic,
    /// Read only: the mock looks at no more of an ask than an OpenAI one has.
    Cohere,
    /// The same.
    Ollama,
}

impl Form {
    /// What stands between the events of a stream.
    pub fn between(self) -> &'static [u8] {
        match self {
            Form::Ollama => b"\n",
            _ => b"\n\n",
        }
    }

    /// Whether a stream's event is its last.
    pub fn ends(self, event: &[u8]) -> bool {
        match self {
            Form::OpenAi => event.starts_with(b"data: [DONE]"),
            Form::Anthropic => event.starts_with(b"event: message_stop"),
            Form::Cohere => event.starts_with(b"event: message-end"),
            Form::Ollama => memchr::memmem::find(event, b"\"done\":true").is_some(),
        }
    }
}

#[derive(Default, Clone)]
pub struct Args {
    pub url: String,
    pub form: Form,
    pub sse: bool,
    /// A connection a request.
    pub fresh: bool,
    /// Every ask differs from every other.
    pub vary: bool,
    /// HTTP/2 over so many connections, which all requests share.
    pub h2: usize,
    /// PEM file of the one certificate that is trusted; goes with an address that begins with https://.
    pub ca: Option<String>,
    pub conc: usize,
    pub rate: f64,
    pub secs: f64,
    pub warmup: f64,
    pub requests: Option<u64>,
    pub ramp_ms: u64,
    pub model: String,
    pub headers: Vec<String>,
    pub pids: Vec<i32>,
    pub pad: usize,
    pub expect: Option<u64>,
    pub timeout: f64,
    pub think_ms: f64,
    pub cmd: Vec<String>,
}

/// The verb and its options.
pub fn args() -> (String, Args) {
    let mut a = Args {
        conc: 64,
        secs: 10.0,
        warmup: 2.0,
        ramp_ms: 100,
        model: "mock".into(),
        timeout: 120.0,
        ..Args::default()
    };
    let mut words = std::env::args().skip(1);
    let verb = words.next().unwrap_or_default();
    while let Some(key) = words.next() {
        if key == "--" {
            a.cmd = words.by_ref().collect();
            break;
        }
        match key.as_str() {
            "--sse" => a.sse = true,
            "--fresh" => a.fresh = true,
            "--vary" => a.vary = true,
            _ => {}
        }
        if ["--sse", "--fresh", "--vary"].contains(&key.as_str()) {
            continue;
        }
        let value = words.next().unwrap_or_else(|| panic!("{key} needs a value"));
        let number = || value.parse::<f64>().unwrap_or_else(|_| panic!("{key}: `{value}` is no number"));
        match key.as_str() {
            "--url" => a.url = value,
            "--form" => {
                a.form = match value.as_str() {
                    "openai" => Form::OpenAi,
                    "anthropic" => Form::Anthropic,
                    "cohere" => Form::Cohere,
                    "ollama" => Form::Ollama,
                    _ => panic!("--form is openai, anthropic, cohere or ollama"),
                }
            }
            "--h2" => a.h2 = number() as usize,
            "--ca" => a.ca = Some(value),
            "--conc" => a.conc = number() as usize,
            "--rate" => a.rate = number(),
            "--secs" => a.secs = number(),
            "--warmup" => a.warmup = number(),
            "--requests" => a.requests = Some(number() as u64),
            "--ramp-ms" => a.ramp_ms = number() as u64,
            "--model" => a.model = value,
            "--header" => a.headers.push(value),
            "--pid" => a.pids.push(number() as i32),
            "--pad" => a.pad = number() as usize,
            "--expect-chunks" => a.expect = Some(number() as u64),
            "--timeout" => a.timeout = number(),
            "--think-ms" => a.think_ms = number(),
            _ => panic!("unknown option {key}"),
        }
    }
    (verb, a)
}

/// Longest text of one padding message: long prompts are long conversations, not one long string.
const TURN_BYTES: usize = 4096;

/// Where the number of an ask stands that differs from every other.
const NUMBER: &str = "0000000000";

/// The request of a run, in both versions of HTTP.
pub struct Request {
    /// Head and body, as HTTP/1.1 has them.
    pub bytes: Vec<u8>,
    head: http::Request<()>,
    body: Bytes,
    /// Where the body's number stands in `bytes`, and in the body.
    number: Option<(usize, usize)>,
}

impl Request {
    /// The address to connect to, and what to send there.
    pub fn new(a: &Args) -> (String, Self) {
        let (scheme, rest) = a.url.split_once("://").expect("--url begins with http:// or https://");
        assert_eq!(scheme == "https", a.ca.is_some(), "https:// needs --ca, and http:// none");
        let (address, path) =
            rest.split_once('/').map_or((rest, String::new()), |(host, path)| (host, path.to_owned()));
        let body = body(a);
        let mut headers: Vec<&str> = vec!["content-type: application/json", "accept: */*", "user-agent: loadgen"];
        if a.form == Form::Anthropic {
            headers.push("anthropic-version: 2023-06-01");
        }
        headers.extend(a.headers.iter().map(String::as_str));
        let mut head = http::Request::post(format!("{scheme}://{address}/{path}"));
        for (name, value) in headers.iter().filter_map(|header| header.split_once(": ")) {
            head = head.header(name, value);
        }
        let head = head.header("content-length", body.len()).body(()).expect("the headers are sound");
        let headers = headers.join("\r\n");
        let mut text =
            format!("POST /{path} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\ncontent-length: {}\r\n\r\n", body.len());
        let number = a.vary.then(|| body.rfind(NUMBER).expect("it is there")).map(|at| (text.len() + at, at));
        text.push_str(&body);
        (address.to_owned(), Request { bytes: text.into(), head, body: body.into(), number })
    }

    pub fn head(&self) -> http::Request<()> {
        self.head.clone()
    }

    pub fn body(&self, number: u64) -> Bytes {
        self.number.map_or_else(|| self.body.clone(), |(_, at)| write(&self.body, at, number).into())
    }

    /// The request with its number in it; None when all are the same.
    pub fn varied(&self, number: u64) -> Option<Vec<u8>> {
        self.number.map(|(at, _)| write(&self.bytes, at, number))
    }
}

fn write(bytes: &[u8], at: usize, number: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + NUMBER.len()].copy_from_slice(format!("{number:0width$}", width = NUMBER.len()).as_bytes());
    bytes
}

fn body(a: &Args) -> String {
    let system = "You are a helpful assistant.";
    let stream = if a.sse { r#","stream":true"# } else { "" };
    let mut turns = String::new();
    if a.form != Form::Anthropic {
        turns.push_str(&format!(r#"{{"role":"system","content":"{system}"}},"#));
    }
    pad(&mut turns, a.pad);
    let number = if a.vary { format!(" {NUMBER}") } else { String::new() };
    turns.push_str(&format!(r#"{{"role":"user","content":"Say something about foxes.{number}"}}"#));
    let model = &a.model;
    let rest = match a.form {
        Form::Anthropic => format!(r#""system":"{system}","#),
        _ => String::new(),
    };
    format!(r#"{{"model":"{model}",{rest}"messages":[{turns}],"temperature":0.7,"max_tokens":256{stream}}}"#)
}

/// Earlier turns of about `bytes` bytes in all: prose and code, with the escapes that real prompts are full of.
fn pad(out: &mut String, bytes: usize) {
    const LINE: &str =
        r#"fn main() { println!(\"the quick brown fox\"); } // lorem ipsum dolor sit amet, consectetur\n"#;
    let mut left = bytes;
    let mut turn = 0;
    while left > 0 {
        let size = left.min(TURN_BYTES);
        left -= size;
        let role = if turn % 2 == 0 { "user" } else { "assistant" };
        let text: String = LINE.repeat((size / LINE.len()).max(1));
        out.push_str(&format!(r#"{{"role":"{role}","content":"{text}"}},"#));
        turn += 1;
    }
    if turn % 2 == 1 {
        // The last turn is the user's, so an assistant's stands before it.
        out.push_str(r#"{"role":"assistant","content":"Go on."},"#);
    }
}
