//! One exchange as one line of JSON.
//!
//! Written field by field instead of through a serialiser: this runs once an exchange, and the names, which are most of
//! the line, need no escaping. Never holds prompts, answers or keys.

use std::cell::RefCell;
use std::io::Write;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::chat::{Finish, Usage};
use crate::cost;
use crate::cost::decimal::{digits, millis, places};
use crate::exchange::{Attempt, Exchange, Role};
use crate::fault::Fault;
use crate::json::scan::is_plain;
use crate::settle::Settled;

thread_local! {
    /// Where lines are put together: the copy that is kept is as long as the line, and the ring of records small.
    static DRAFT: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(1024));
}

/// One line, newline included.
pub fn line(settled: &Settled<'_>) -> Bytes {
    DRAFT.with_borrow_mut(|draft| {
        draft.clear();
        let mut record = Object::open(draft);
        write(&mut record, settled);
        record.close();
        draft.push(b'\n');
        Bytes::copy_from_slice(draft)
    })
}

fn write(record: &mut Object<'_>, settled: &Settled<'_>) {
    let x: &Exchange = settled.exchange;
    let target = x.target();
    let principal = x.principal.as_deref();
    record.with("time", |out| time(out, x.started_ms));
    record.text("id", &x.id);
    record.text("request_id", &x.request_id);
    record.text_or_null("key", principal.map(|principal| principal.key.as_str()));
    record.text_or_null("project", principal.and_then(|principal| principal.project.as_deref()));
    if let Some(labels) = principal.map(|principal| &principal.metadata).filter(|labels| !labels.is_empty()) {
        record.json("metadata", labels);
    }
    record.optional("peer", x.peer, peer);
    record.text("endpoint", x.endpoint);
    record.text("dialect", x.dialect.name());
    record.text("operation", x.op.as_str());
    record.text("model", &x.model);
    if let Some(asked) = &x.asked_model {
        record.text("asked_model", asked);
    }
    let source = x.cache.as_ref().and_then(|visit| visit.source.as_ref());
    let provider = target.map(|target| target.provider.name.as_str());
    let target_model = target.map(|target| target.model.as_str());
    record.text_or_null("provider", provider.or_else(|| source.map(|source| source.provider.as_str())));
    record.text_or_null("target_model", target_model.or_else(|| source.map(|source| source.model.as_str())));
    record.text_or_null("upstream_model", x.seen.model.as_deref());
    record.text_or_null("upstream_id", x.seen.id.as_deref());
    record.flag("stream", x.stream);
    // As it ended: a stream that broke is a failure.
    record.number("status", settled.status.into());
    if let Some(fault) = settled.fault {
        record.with("error", |out| error(out, fault));
    }
    record.text_or_null("finish", x.seen.finish.map(Finish::as_str));
    record.optional("ttft_ms", x.seen.first_content.map(|at| at.duration_since(x.started)), millis);
    record.with("duration_ms", |out| millis(out, settled.ended.duration_since(x.started)));
    record.with("overhead_ms", |out| millis(out, x.overhead_at_head));
    record.optional("usage", settled.usage, usage);
    if settled.estimated {
        record.flag("usage_estimated", true);
    }
    record.optional("cost_usd", settled.cost_nano_usd, |out, nano| {
        cost::write_dollars(out, nano);
    });
    if let Some(visit) = &x.cache {
        record.text("cache", visit.status.as_str());
        if let Some(saved) = visit.saved_nano_usd {
            record.with("saved_usd", |out| cost::write_dollars(out, saved));
        }
    }
    record.number("bytes_in", x.bytes_in);
    record.number("bytes_out", x.bytes_out);
    record.with("attempts", |out| {
        out.push(b'[');
        for (position, attempt) in x.attempts.iter().enumerate() {
            if position > 0 {
                out.push(b',');
            }
            tried(out, settled, attempt);
        }
        out.push(b']');
    });
    if let Some(feedback) = &x.feedback {
        record.json("feedback", feedback);
    }
    if !x.dropped.is_empty() {
        record.json("dropped", &x.dropped);
    }
    if let Some(policy) = &settled.policy {
        record.json("policy", policy);
    }
    record.number("generation", x.generation);
    if let Some(trace) = &x.trace {
        record.json("trace", trace);
    }
}

fn error(out: &mut Vec<u8>, fault: &Fault) {
    let mut error = Object::open(out);
    error.text("code", fault.code());
    error.text("side", fault.side().as_str());
    error.text("message", &fault.message);
    if let Some(source) = &fault.source {
        error.text("source", source);
    }
    error.close();
}

fn tried(out: &mut Vec<u8>, settled: &Settled<'_>, attempt: &Attempt) {
    let mut tried = Object::open(out);
    tried.text("provider", &attempt.target.provider.name);
    tried.text("model", &attempt.target.model);
    if let Some(key) = &attempt.key {
        tried.text("key", key);
    }
    if attempt.role != Role::First {
        tried.text("role", attempt.role.as_str());
    }
    if !attempt.waited.is_zero() {
        tried.with("waited_ms", |out| millis(out, attempt.waited));
    }
    tried.with("at_ms", |out| millis(out, attempt.at));
    tried.with("took_ms", |out| millis(out, attempt.took));
    tried.optional("status", attempt.status, |out, status| digits(out, status.into()));
    if let Some(fault) = &attempt.fault {
        tried.text("error", fault.code());
        tried.text("message", &fault.message);
        if let Some(source) = &fault.source {
            tried.text("source", source);
        }
    }
    if attempt.cancelled {
        tried.flag("cancelled", true);
        tried.optional("estimated_cost_usd", settled.cost_given_up(attempt), |out, nano| {
            cost::write_dollars(out, nano);
        });
    }
    tried.close();
}

fn usage(out: &mut Vec<u8>, usage: Usage) {
    let mut counts = Object::open(out);
    counts.number("input", usage.input);
    counts.number("output", usage.output);
    for (name, count) in [
        ("cache_read", usage.cache_read),
        ("cache_write", usage.cache_write),
        ("reasoning", usage.reasoning),
        ("input_audio", usage.input_audio),
        ("output_audio", usage.output_audio),
    ] {
        if let Some(count) = count {
            counts.number(name, count);
        }
    }
    counts.close();
}

/// A JSON object under way. Names are ours and need no escaping. Its methods are inlined so that a name with the marks
/// around it is stored as a constant: there are thirty a line.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object { out, empty: true }
    }

    fn close(self) {
        self.out.push(b'}');
    }

    #[inline(always)]
    fn with(&mut self, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(if self.empty { b"\"" } else { b",\"" });
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.empty = false;
        value(self.out);
    }

    #[inline(always)]
    fn optional<T>(&mut self, name: &str, value: Option<T>, write: impl FnOnce(&mut Vec<u8>, T)) {
        self.with(name, |out| match value {
            Some(value) => write(out, value),
            None => out.extend_from_slice(b"null"),
        });
    }

    #[inline(always)]
    fn text(&mut self, name: &str, value: &str) {
        self.with(name, |out| quoted(out, value));
    }

    #[inline(always)]
    fn text_or_null(&mut self, name: &str, value: Option<&str>) {
        self.optional(name, value, quoted);
    }

    #[inline(always)]
    fn number(&mut self, name: &str, value: u64) {
        self.with(name, |out| digits(out, value));
    }

    #[inline(always)]
    fn flag(&mut self, name: &str, value: bool) {
        self.with(name, |out| out.extend_from_slice(if value { b"true" } else { b"false" }));
    }

    fn json(&mut self, name: &str, value: &impl serde::Serialize) {
        // Maps with string keys and lists always serialise.
        self.with(name, |out| _ = serde_json::to_writer(out, value));
    }
}

fn quoted(out: &mut Vec<u8>, text: &str) {
    if is_plain(text) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing a string into memory does not fail.
        let _ = serde_json::to_writer(out, text);
    }
}

fn peer(out: &mut Vec<u8>, peer: SocketAddr) {
    out.push(b'"');
    match peer {
        // The formatter of the standard library takes longer than the rest of the line's numbers together.
        SocketAddr::V4(v4) => {
            let [a, b, c, d] = v4.ip().octets();
            for (octet, mark) in [(a, b'.'), (b, b'.'), (c, b'.'), (d, b':')] {
                digits(out, octet.into());
                out.push(mark);
            }
            digits(out, v4.port().into());
        }
        SocketAddr::V6(_) => _ = write!(out, "{peer}"),
    }
    out.push(b'"');
}

/// Unix milliseconds as RFC 3339 in UTC.
fn time(out: &mut Vec<u8>, unix_ms: u64) {
    let (seconds, millis) = (unix_ms / 1000, unix_ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's `civil_from_days`: years begin in March, so that the leap day is the last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    out.push(b'"');
    for (number, width, mark) in [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (second / 3600, 2, b':'),
        (second / 60 % 60, 2, b':'),
        (second % 60, 2, b'.'),
        (millis, 3, b'Z'),
    ] {
        places(out, number, width);
        out.push(mark);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn written<T>(write: impl FnOnce(&mut Vec<u8>, T), value: T) -> String {
        let mut out = Vec::new();
        write(&mut out, value);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(written(time, 0), "\"1970-01-01T00:00:00.000Z\"");
        assert_eq!(written(time, 951_782_400_123), "\"2000-02-29T00:00:00.123Z\"");
        assert_eq!(written(time, 1_795_342_228_000), "\"2026-11-22T10:10:28.000Z\"");
        let step = 12_345_678_901;
        for ms in (0..).map(|n| n * step).take_while(|ms| *ms < 4_102_444_800_000) {
            let at = std::time::UNIX_EPOCH + Duration::from_millis(ms);
            assert_eq!(written(time, ms), format!("\"{}\"", humantime::format_rfc3339_millis(at)));
        }
    }

    #[test]
    fn leaves_are_json() {
        assert_eq!(written(quoted, "a\"b\\\n\u{fc}"), "\"a\\\"b\\\\\\n\u{fc}\"");
        assert_eq!(written(quoted, "plain \u{fc}"), "\"plain \u{fc}\"");
        for address in ["127.0.0.1:80", "255.1.20.0:65535", "[::1]:9"] {
            assert_eq!(written(peer, address.parse().expect("an address")), format!("\"{address}\""));
        }
    }

    #[test]
    fn objects_take_commas_between_their_members() {
        let mut out = Vec::new();
        let mut object = Object::open(&mut out);
        object.text_or_null("a", None);
        object.optional("b", Some(7), digits);
        object.flag("c", true);
        object.json("d", &[("x", "y")]);
        object.close();
        assert_eq!(out, br#"{"a":null,"b":7,"c":true,"d":[["x","y"]]}"#);
    }
}
