//! The command line, and the one request that a run sends over and over.

/// The wire form of the client.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Form {
    #[default]
    OpenAi,
    Anthropic,
}

impl Form {
    /// What the last event of a stream holds.
    pub fn end_mark(self) -> &'static [u8] {
        match self {
            Form::OpenAi => b"data: [DONE]",
            Form::Anthropic => b"event: message_stop",
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
            _ => {}
        }
        if ["--sse", "--fresh"].contains(&key.as_str()) {
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
                    _ => panic!("--form is openai or anthropic"),
                }
            }
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

/// The address to connect to and the bytes of the request.
pub fn request(a: &Args) -> (String, Vec<u8>) {
    let rest = a.url.strip_prefix("http://").expect("--url begins with http://");
    let (address, path) = rest.split_once('/').map_or((rest, String::new()), |(host, path)| (host, path.to_owned()));
    let body = body(a);
    let mut text = format!(
        "POST /{path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\naccept: */*\r\nuser-agent: loadgen\r\n"
    );
    if a.form == Form::Anthropic {
        text.push_str("anthropic-version: 2023-06-01\r\n");
    }
    for header in &a.headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    (address.to_owned(), text.into_bytes())
}

fn body(a: &Args) -> String {
    let system = "You are a helpful assistant.";
    let stream = if a.sse { r#","stream":true"# } else { "" };
    let mut turns = String::new();
    if a.form == Form::OpenAi {
        turns.push_str(&format!(r#"{{"role":"system","content":"{system}"}},"#));
    }
    pad(&mut turns, a.pad);
    turns.push_str(r#"{"role":"user","content":"Say something about foxes."}"#);
    let model = &a.model;
    let rest = match a.form {
        Form::OpenAi => String::new(),
        Form::Anthropic => format!(r#""system":"{system}","#),
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
