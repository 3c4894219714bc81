//! Composes the steps of an answer under a fault: where it waits, what it leaves out, where it breaks. Plays nothing.

use std::time::Duration;

use serde_json::Value;

use super::answer::{Answer, Body, Dialect, Frame, Framing, Part, json_bytes};
use super::knobs::{Knobs, wait};
use super::play::Step;
use super::refusal;
use super::state::State;
use super::trouble::{Kind, Trouble};
use super::wire::reason;

/// Longest stall when the fault states none.
const STALL: Duration = Duration::from_secs(120);

/// How long bytes are given to arrive before a reset, which destroys what is under way.
const BEFORE_RESET: Duration = Duration::from_millis(50);

/// What `slow` waits for the head and between pieces.
const SLOW_HEAD: Duration = Duration::from_secs(2);
const SLOW_DELAY: Duration = Duration::from_millis(100);

/// Bytes that `huge-frame` adds when it states no number, and at most.
const HUGE_BYTES: usize = 40_000_000;
const MAX_HUGE_BYTES: usize = 1 << 30;

/// What the composer needs besides the answer.
#[derive(Debug)]
pub struct Score<'a> {
    pub knobs: &'a Knobs,
    pub trouble: Option<&'a Trouble>,
    pub dialect: Dialect,
    pub state: &'a State,
    pub request_id: &'a str,
    /// Whether the connection ends with this answer.
    pub close: bool,
}

impl Score<'_> {
    fn kind(&self) -> Option<Kind> {
        self.trouble.map(|trouble| trouble.kind)
    }

    fn head_wait(&self) -> Duration {
        let wait = self.knobs.head.unwrap_or_default();
        if self.kind() == Some(Kind::Slow) { wait.max(self.stated().unwrap_or(SLOW_HEAD)) } else { wait }
    }

    fn delay(&self) -> Duration {
        let delay = self.knobs.delay.unwrap_or_default();
        if self.kind() == Some(Kind::Slow) { delay.max(SLOW_DELAY) } else { delay }
    }

    /// The fault's value as a time.
    fn stated(&self) -> Option<Duration> {
        wait(self.trouble?.value.as_deref()?).ok()
    }

    fn stall(&self) -> Duration {
        self.stated().unwrap_or(STALL)
    }

    /// The steps of an answer.
    pub fn compose(&self, answer: Answer) -> Vec<Step> {
        let mut steps = Vec::new();
        match self.kind() {
            Some(Kind::StallHead) => return vec![Step::Wait(self.stall()), Step::Cut],
            Some(Kind::CutHead) => return vec![Step::Cut],
            Some(Kind::Reset) if self.reset_at() == "head" => return vec![Step::Reset],
            _ => steps.push(Step::Wait(self.head_wait())),
        }
        let Answer { status, headers, body } = answer;
        match body {
            Body::Frames { framing, frames } => self.stream(&mut steps, status, &headers, framing, frames),
            Body::Json { mut value, pieces } => {
                if self.kind() == Some(Kind::NoUsage) {
                    without_usage(&mut value);
                }
                let delay = self.delay() * u32::try_from(pieces).unwrap_or(u32::MAX);
                let thinks = if pieces > 0 { self.knobs.ttft.unwrap_or_default() + delay } else { Duration::ZERO };
                steps.push(Step::Wait(thinks));
                let indent = self.dialect.indents();
                let mut bytes = json_bytes(&value, indent);
                if indent {
                    bytes.push(b'\n');
                }
                self.whole(&mut steps, status, &headers, "application/json", bytes);
            }
            Body::Raw { kind, bytes } => self.whole(&mut steps, status, &headers, kind, bytes),
        }
        steps
    }

    /// The answer, or what the fault puts in its place. Comes before [`Score::compose`].
    pub fn replaced(&self, answer: Answer) -> Answer {
        let raw = |status, kind, bytes: &[u8]| Answer {
            status,
            headers: Vec::new(),
            body: Body::Raw { kind, bytes: bytes.to_vec() },
        };
        let frames = matches!(answer.body, Body::Frames { .. });
        match self.kind() {
            Some(Kind::Html) => {
                let status = self.trouble.and_then(Trouble::number).filter(|status| (200..600).contains(status));
                raw(status.unwrap_or(502), "text/html", HTML)
            }
            Some(Kind::Empty) => raw(200, if frames { Framing::Sse.content_type() } else { "application/json" }, b""),
            Some(Kind::GarbageSse) => raw(200, Framing::Sse.content_type(), GARBAGE),
            Some(Kind::ErrorFirst | Kind::ErrorMid) if !frames => {
                let value = refusal::stream_error(self.dialect).body(self.dialect, self.request_id);
                Answer { body: Body::Json { value, pieces: 0 }, ..answer }
            }
            _ => answer,
        }
    }

    fn reset_at(&self) -> &str {
        self.trouble.and_then(|trouble| trouble.value.as_deref()).unwrap_or("mid")
    }

    fn head(&self, status: u16, headers: &[(&'static str, String)], kind: &str, length: Option<usize>) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
        let mut add = |name: &str, value: &str| {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        };
        add("date", &httpdate::fmt_http_date(std::time::SystemTime::now()));
        add("content-type", kind);
        match length {
            Some(length) => add("content-length", &length.to_string()),
            None => add("transfer-encoding", "chunked"),
        }
        for (name, value) in self.dialect.headers(self.request_id).iter().chain(headers) {
            add(name, value);
        }
        if self.close {
            add("connection", "close");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// A body of known length.
    fn whole(
        &self,
        steps: &mut Vec<Step>,
        status: u16,
        headers: &[(&'static str, String)],
        kind: &str,
        mut bytes: Vec<u8>,
    ) {
        let half = bytes.len() / 2;
        let head = |length| Step::Send(self.head(status, headers, kind, length));
        match self.kind() {
            Some(Kind::Malformed | Kind::MalformedFirst) => {
                bytes.truncate(half);
                bytes.extend_from_slice(b"\"}{[");
                steps.extend([head(Some(bytes.len())), Step::Send(bytes)]);
            }
            Some(Kind::HugeFrame) if bytes.trim_ascii_end().ends_with(b"}") => {
                let (before, after) = padding(&bytes);
                let size = self.huge();
                steps.push(head(Some(before.len() + size + after.len())));
                steps.extend([Step::Send(before), Step::Flood(size), Step::Send(after)]);
            }
            Some(Kind::EofMid) => {
                bytes.truncate(half);
                steps.extend([head(None), Step::Send(chunk(&bytes)), Step::Send(LAST_CHUNK.to_vec())]);
            }
            Some(Kind::StallFirst) => {
                steps.extend([head(Some(bytes.len())), Step::Wait(self.stall()), Step::Cut]);
            }
            Some(Kind::CutFirst) => steps.extend([head(Some(bytes.len())), Step::Cut]),
            Some(Kind::Reset) if self.reset_at() == "first" => {
                steps.extend([head(Some(bytes.len())), Step::Wait(BEFORE_RESET), Step::Reset]);
            }
            Some(kind @ (Kind::StallMid | Kind::CutMid | Kind::Reset)) => {
                steps.push(head(Some(bytes.len())));
                bytes.truncate(half);
                steps.push(Step::Send(bytes));
                steps.extend(self.broken(kind));
            }
            _ => steps.extend([head(Some(bytes.len())), Step::Send(bytes)]),
        }
    }

    /// How the three breaking faults end.
    fn broken(&self, kind: Kind) -> Vec<Step> {
        match kind {
            Kind::StallFirst | Kind::StallMid => vec![Step::Wait(self.stall()), Step::Cut],
            Kind::Reset => vec![Step::Wait(BEFORE_RESET), Step::Reset],
            _ => vec![Step::Cut],
        }
    }

    fn huge(&self) -> usize {
        self.trouble.and_then(Trouble::number).unwrap_or(HUGE_BYTES).min(MAX_HUGE_BYTES)
    }

    /// A stream of frames, each an HTTP chunk of its own.
    fn stream(
        &self,
        steps: &mut Vec<Step>,
        status: u16,
        headers: &[(&'static str, String)],
        framing: Framing,
        mut frames: Vec<Frame>,
    ) {
        match self.kind() {
            Some(Kind::NoUsage) => frames.iter_mut().for_each(|frame| without_usage(&mut frame.data)),
            Some(Kind::NoDone) => frames.retain(|frame| frame.part != Part::Done),
            _ => {}
        }
        steps.push(Step::Send(self.head(status, headers, framing.content_type(), None)));
        let strike = self.strike(&frames);
        let errors = match strike {
            Some(at) => refusal::in_stream(self.dialect, self.state, &frames[0].data["response"], at),
            None => Vec::new(),
        };
        let mut content = 0;
        for (i, frame) in frames.iter().enumerate() {
            if frame.part == Part::Content {
                let first = content == 0;
                steps.push(Step::Wait(if first { self.knobs.ttft.unwrap_or_default() } else { self.delay() }));
                content += 1;
            }
            if strike == Some(i) && !self.struck(steps, framing, frame, &errors, i == 0) {
                return;
            }
            if strike != Some(i) || !self.replaces() {
                steps.push(Step::Send(chunk(&framing.render(frame, i == 0))));
            }
        }
        let close = framing.close(frames.is_empty());
        if !close.is_empty() {
            steps.push(Step::Send(chunk(close)));
        }
        steps.push(Step::Send(LAST_CHUNK.to_vec()));
    }

    /// Before which frame the fault strikes: the first content, or the middle one with content before it.
    fn strike(&self, frames: &[Frame]) -> Option<usize> {
        let bare = self.trouble.is_some_and(|trouble| trouble.value.as_deref() == Some("bare"));
        let first = frames.iter().position(|frame| frame.part == Part::Content);
        let first = first.or_else(|| frames.iter().position(|frame| frame.part == Part::Finish));
        match self.kind()? {
            Kind::ErrorFirst if bare => Some(0),
            Kind::StallFirst | Kind::CutFirst | Kind::MalformedFirst | Kind::ErrorFirst => first,
            Kind::Reset if self.reset_at() == "first" => first,
            Kind::StallMid
            | Kind::CutMid
            | Kind::EofMid
            | Kind::Malformed
            | Kind::ErrorMid
            | Kind::HugeFrame
            | Kind::Reset => {
                let contents = frames.iter().filter(|frame| frame.part == Part::Content).count();
                let before = (contents / 2).max(1);
                let mut seen = 0;
                frames.iter().position(|frame| {
                    let here = seen == before;
                    seen += usize::from(frame.part == Part::Content);
                    here
                })
            }
            _ => None,
        }
    }

    /// Whether the struck frame is left out because the fault put something in its place.
    fn replaces(&self) -> bool {
        matches!(self.kind(), Some(Kind::Malformed | Kind::MalformedFirst | Kind::HugeFrame))
    }

    /// Adds what the fault does before `frame`; false when the stream ends with it.
    fn struck(&self, steps: &mut Vec<Step>, framing: Framing, frame: &Frame, errors: &[Frame], first: bool) -> bool {
        let rendered = framing.render(frame, first);
        match self.kind() {
            Some(Kind::Malformed | Kind::MalformedFirst) => {
                let (before, after) = framing.around(frame.event, first);
                let json = json_bytes(&frame.data, framing == Framing::Array);
                let mut broken = before.into_bytes();
                broken.extend_from_slice(&json[..json.len() / 2]);
                broken.extend_from_slice(after.as_bytes());
                steps.push(Step::Send(chunk(&broken)));
                true
            }
            Some(Kind::HugeFrame) => {
                let (before, after) = framing.around(frame.event, first);
                let (start, end) = padding(&json_bytes(&frame.data, false));
                let start = [before.as_bytes(), &start].concat();
                let end = [&end, after.as_bytes()].concat();
                let size = self.huge();
                let length = start.len() + size + end.len();
                steps.push(Step::Send([format!("{length:x}\r\n").as_bytes(), &start].concat()));
                steps.push(Step::Flood(size));
                steps.push(Step::Send([&end, &b"\r\n"[..]].concat()));
                true
            }
            Some(Kind::ErrorFirst | Kind::ErrorMid) => {
                for (i, error) in errors.iter().enumerate() {
                    steps.push(Step::Send(chunk(&framing.render(error, first && i == 0))));
                }
                let close = framing.close(false);
                if !close.is_empty() {
                    steps.push(Step::Send(chunk(close)));
                }
                steps.push(Step::Send(LAST_CHUNK.to_vec()));
                false
            }
            Some(Kind::EofMid) => {
                steps.push(Step::Send(LAST_CHUNK.to_vec()));
                false
            }
            // Half a frame of a chunk that promised the whole.
            Some(Kind::CutMid) => {
                let mut half = chunk(&rendered);
                half.truncate(half.len() / 2);
                steps.extend([Step::Send(half), Step::Cut]);
                false
            }
            Some(kind) => {
                steps.extend(self.broken(kind));
                false
            }
            None => true,
        }
    }
}

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

const HTML: &[u8] = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad \
    Gateway</h1></center>\r\n<hr><center>mock</center>\r\n</body>\r\n</html>\r\n";

/// Lines that look like events and are none.
const GARBAGE: &[u8] =
    b"data: this is not json\n\nevent: ???\ndata: {\"half\": \n\n: comment\n\nid: 7\nretry: soon\n\n\
    data: [1, 2\n\n\xff\xfe\x00data: \xc3\x28\n\nno colon at all\n\ndata: null\n\ndata: 42\n\ndata: {}\n\n";

/// Splits a JSON object before its last brace, so that a long `padding` field fits between.
fn padding(json: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let end = json.iter().rposition(|byte| *byte == b'}').unwrap_or(json.len());
    let mut before = json[..end].trim_ascii_end().to_vec();
    if before != b"{" {
        before.push(b',');
    }
    before.extend_from_slice(b"\"padding\":\"");
    let mut after = b"\"".to_vec();
    after.extend_from_slice(&json[end..]);
    (before, after)
}

/// An HTTP chunk.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut out = format!("{:x}\r\n", bytes.len()).into_bytes();
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
    out
}

/// Takes usage out wherever it stands.
fn without_usage(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| name != "usage" && name != "usageMetadata");
            fields.values_mut().for_each(without_usage);
        }
        Value::Array(items) => items.iter_mut().for_each(without_usage),
        _ => {}
    }
}
