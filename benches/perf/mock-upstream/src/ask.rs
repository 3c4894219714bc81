//! Reads one request off a connection's bytes; looks for three keys in its body and parses nothing.

use std::io;

use memchr::{memchr, memmem};

#[derive(Clone, Copy, PartialEq)]
pub enum Form {
    OpenAi,
    Anthropic,
    /// Cohere's version 2.
    Cohere,
    /// Ollama's own.
    Ollama,
    Health,
    Unknown,
}

pub struct Ask {
    pub form: Form,
    pub model: String,
    pub stream: bool,
    /// OpenAI: the usage chunk was asked for.
    pub usage: bool,
    pub chunks: u64,
    pub every_ms: u64,
    pub first_ms: u64,
    /// The text of a whole answer, in KB; 0 is one sentence.
    pub text_kb: usize,
    pub close: bool,
}

/// Chunks of a stream whose model names no number.
const CHUNKS: u64 = 64;

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// The first whole request and its length; None while bytes are missing.
pub fn read(bytes: &[u8]) -> io::Result<Option<(Ask, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 96];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(end) = head.parse(bytes).map_err(|error| odd(&error.to_string()))? else {
        return Ok(None);
    };
    let (mut length, mut chunked, mut close) = (0, false, false);
    for header in head.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).unwrap_or_default();
            length = text.trim().parse().map_err(|_| odd("content-length"))?;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = true;
        } else if header.name.eq_ignore_ascii_case("connection") {
            close = header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let path = head.path.unwrap_or("/").split('?').next().unwrap_or("/");
    let form = match path {
        "/health" => Form::Health,
        path if path.ends_with("/chat/completions") => Form::OpenAi,
        path if path.ends_with("/v2/chat") => Form::Cohere,
        path if path.ends_with("/api/chat") => Form::Ollama,
        path if path.ends_with("/messages") => Form::Anthropic,
        _ => Form::Unknown,
    };
    if chunked {
        let Some((body, used)) = dechunked(&bytes[end..]) else { return Ok(None) };
        return Ok(Some((ask(form, &body, close), end + used)));
    }
    let Some(body) = bytes.get(end..end + length) else { return Ok(None) };
    Ok(Some((ask(form, body, close), end + length)))
}

fn ask(form: Form, body: &[u8], close: bool) -> Ask {
    let model = value(body, b"\"model\"").and_then(string).unwrap_or("mock").to_owned();
    // Long prompts are not searched twice: the switches stand at the ends of a body that a generator wrote.
    let edges = [&body[..body.len().min(1024)], &body[body.len().saturating_sub(1024)..]];
    let on = |key: &[u8]| edges.iter().any(|edge| value(edge, key).is_some_and(|value| value.starts_with(b"true")));
    let mut ask = Ask {
        form,
        stream: on(b"\"stream\""),
        usage: on(b"\"include_usage\""),
        chunks: CHUNKS,
        every_ms: 0,
        first_ms: 0,
        text_kb: 0,
        close,
        model: String::new(),
    };
    for part in model.split('-').skip(1) {
        let Some((kind, number)) = part.split_at_checked(1) else { continue };
        let Ok(number) = number.parse() else { continue };
        match kind {
            "c" => ask.chunks = number,
            "d" => ask.every_ms = number,
            "t" => ask.first_ms = number,
            "s" => ask.text_kb = number as usize,
            _ => {}
        }
    }
    ask.model = model;
    ask
}

/// What follows `"key":`, white space apart.
fn value<'a>(body: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let at = memmem::find(body, key)? + key.len();
    Some(body[at..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

fn string(value: &[u8]) -> Option<&str> {
    let text = value.strip_prefix(b"\"")?;
    std::str::from_utf8(&text[..memchr(b'"', text)?]).ok()
}

/// A chunked body joined, and its length on the wire.
fn dechunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut at, mut body) = (0, Vec::new());
    loop {
        let line = memmem::find(&bytes[at..], b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        let from = at + line + 2;
        body.extend_from_slice(bytes.get(from..from + size)?);
        bytes.get(from + size..from + size + 2)?;
        at = from + size + 2;
        if size == 0 {
            return Some((body, at));
        }
    }
}
