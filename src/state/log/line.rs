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

/// The name of a member with the marks around it, as one constant: there are thirty a line.
macro_rules! name {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

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
    record.with(name!("time"), |out| time(out, x.started_ms));
    record.word(name!("id"), &x.id);
    record.text(name!("request_id"), &x.request_id);
    record.text_or_null(name!("key"), principal.map(|principal| principal.key.as_str()));
    record.text_or_null(name!("project"), principal.and_then(|principal| principal.project.as_deref()));
    if let Some(labels) = principal.map(|principal| &principal.metadata).filter(|labels| !labels.is_empty()) {
        record.json(name!("metadata"), labels);
    }
    record.optional(name!("peer"), x.peer, peer);
    record.word(name!("endpoint"), x.endpoint);
    record.word(name!("dialect"), x.dialect.name());
    record.word(name!("operation"), x.op.as_str());
    record.text(name!("model"), &x.model);
    if let Some(asked) = &x.asked_model {
        record.text(name!("asked_model"), asked);
    }
    let source = x.cache.as_ref().and_then(|visit| visit.source.as_ref());
    let provider = target.map(|target| target.provider.name.as_str());
    let target_model = target.map(|target| target.model.as_str());
    record.text_or_null(name!("provider"), provider.or_else(|| source.map(|source| source.provider.as_str())));
    record.text_or_null(name!("target_model"), target_model.or_else(|| source.map(|source| source.model.as_str())));
    record.text_or_null(name!("upstream_model"), x.seen.model.as_deref());
    record.text_or_null(name!("upstream_id"), x.seen.id.as_deref());
    record.flag(name!("stream"), x.stream);
    // As it ended: a stream that broke is a failure.
    record.number(name!("status"), settled.status.into());
    if let Some(fault) = settled.fault {
        record.with(name!("error"), |out| error(out, fault));
    }
    record.text_or_null(name!("finish"), x.seen.finish.map(Finish::as_str));
    record.optional(name!("ttft_ms"), x.seen.first_content.map(|at| at.duration_since(x.started)), millis);
    record.with(name!("duration_ms"), |out| millis(out, settled.ended.duration_since(x.started)));
    record.with(name!("overhead_ms"), |out| millis(out, x.overhead_at_head));
    record.optional(name!("usage"), settled.usage, usage);
    if settled.estimated {
        record.flag(name!("usage_estimated"), true);
    }
    record.optional(name!("cost_usd"), settled.cost_nano_usd, |out, nano| {
        cost::write_dollars(out, nano);
    });
    if let Some(visit) = &x.cache {
        record.word(name!("cache"), visit.status.as_str());
        if let Some(saved) = visit.saved_nano_usd {
            record.with(name!("saved_usd"), |out| cost::write_dollars(out, saved));
        }
    }
    record.number(name!("bytes_in"), x.bytes_in);
    record.number(name!("bytes_out"), x.bytes_out);
    record.with(name!("attempts"), |out| {
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
        record.json(name!("feedback"), feedback);
    }
    if !x.dropped.is_empty() || !x.seen.unshown.is_empty() {
        let asked = x.dropped.iter().map(|(field, why)| (&**field, &**why));
        let answered =
            x.seen.unshown.iter().map(|what| (*what, "the caller's dialect has no form for it in an answer"));
        record.json(name!("dropped"), &asked.chain(answered).collect::<Vec<_>>());
    }
    if let Some(policy) = &settled.policy {
        record.json(name!("policy"), policy);
    }
    record.number(name!("generation"), x.generation);
    if let Some(trace) = &x.trace {
        record.json(name!("trace"), trace);
    }
}

fn error(out: &mut Vec<u8>, fault: &Fault) {
    let mut error = Object::open(out);
    error.word(name!("code"), fault.code());
    if let Some(own) = &fault.own {
        error.text(name!("own_code"), &own.code);
    }
    error.word(name!("side"), fault.side().as_str());
    error.text(name!("message"), &fault.message);
    if let Some(source) = &fault.source {
        error.text(name!("source"), source);
    }
    error.close();
}

fn tried(out: &mut Vec<u8>, settled: &Settled<'_>, attempt: &Attempt) {
    let mut tried = Object::open(out);
    tried.text(name!("provider"), &attempt.target.provider.name);
    tried.text(name!("model"), &attempt.target.model);
    if let Some(key) = &attempt.key {
        tried.text(name!("key"), key);
    }
    if attempt.role != Role::First {
        tried.word(name!("role"), attempt.role.as_str());
    }
    if !attempt.waited.is_zero() {
        tried.with(name!("waited_ms"), |out| millis(out, attempt.waited));
    }
    tried.with(name!("at_ms"), |out| millis(out, attempt.at));
    tried.with(name!("took_ms"), |out| millis(out, attempt.took));
    tried.optional(name!("status"), attempt.status, |out, status| digits(out, status.into()));
    if let Some(fault) = &attempt.fault {
        tried.word(name!("error"), fault.code());
        tried.text(name!("message"), &fault.message);
        if let Some(source) = &fault.source {
            tried.text(name!("source"), source);
        }
    }
    if attempt.cancelled {
        tried.flag(name!("cancelled"), true);
        tried.optional(name!("estimated_cost_usd"), settled.cost_given_up(attempt), |out, nano| {
            cost::write_dollars(out, nano);
        });
    }
    tried.close();
}

fn usage(out: &mut Vec<u8>, usage: Usage) {
    let mut counts = Object::open(out);
    counts.number(name!("input"), usage.input);
    counts.number(name!("output"), usage.output);
    for (name, count) in [
        (name!("cache_read"), usage.cache_read),
        (name!("cache_write"), usage.cache_write),
        (name!("reasoning"), usage.reasoning),
        (name!("input_audio"), usage.input_audio),
        (name!("output_audio"), usage.output_audio),
    ] {
        if let Some(count) = count {
            counts.number(name, count);
        }
    }
    counts.close();
}

/// A JSON object under way. Every member begins with a comma; the first one's becomes the opening brace. Its members are
/// written by calls: a line runs once a request, and inlined it is twelve kilobytes of code that no cache holds by then.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    from: usize,
}

impl<'a> Object<'a> {
    fn open(out: &'a mut Vec<u8>) -> Self {
        let from = out.len();
        Object { out, from }
    }

    fn close(self) {
        match self.out.get_mut(self.from) {
            Some(first) => *first = b'{',
            None => self.out.push(b'{'),
        }
        self.out.push(b'}');
    }

    /// A member; the name comes from [`name!`].
    #[inline(always)]
    fn with(&mut self, name: &'static str, value: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(name.as_bytes());
        value(self.out);
    }

    /// A word of ours, which needs no escaping.
    #[inline(never)]
    fn word(&mut self, name: &'static str, word: &str) {
        debug_assert!(is_plain(word));
        self.with(name, |out| {
            out.push(b'"');
            out.extend_from_slice(word.as_bytes());
            out.push(b'"');
        });
    }

    #[inline(always)]
    fn optional<T>(&mut self, name: &'static str, value: Option<T>, write: impl FnOnce(&mut Vec<u8>, T)) {
        self.with(name, |out| match value {
            Some(value) => write(out, value),
            None => out.extend_from_slice(b"null"),
        });
    }

    #[inline(never)]
    fn text(&mut self, name: &'static str, value: &str) {
        self.with(name, |out| quoted(out, value));
    }

    #[inline(never)]
    fn text_or_null(&mut self, name: &'static str, value: Option<&str>) {
        self.optional(name, value, quoted);
    }

    #[inline(never)]
    fn number(&mut self, name: &'static str, value: u64) {
        self.with(name, |out| digits(out, value));
    }

    #[inline(never)]
    fn flag(&mut self, name: &'static str, value: bool) {
        self.with(name, |out| out.extend_from_slice(if value { b"true" } else { b"false" }));
    }

    fn json(&mut self, name: &'static str, value: &impl serde::Serialize) {
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

/// Unix milliseconds as RFC 3339 in UTC. Lines of one second have all but the milliseconds in common.
fn time(out: &mut Vec<u8>, unix_ms: u64) {
    thread_local! {
        static LAST: RefCell<(u64, Vec<u8>)> = const { RefCell::new((u64::MAX, Vec::new())) };
    }
    LAST.with_borrow_mut(|(of, text)| {
        if *of != unix_ms / 1000 {
            *of = unix_ms / 1000;
            text.clear();
            second(text, *of);
        }
        out.extend_from_slice(text);
    });
    places(out, unix_ms % 1000, 3);
    out.extend_from_slice(b"Z\"");
}

/// Unix seconds as RFC 3339 in UTC, up to the point.
fn second(out: &mut Vec<u8>, unix: u64) {
    let (days, second) = (unix / 86_400, unix % 86_400);
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
    ] {
        places(out, number, width);
        out.push(mark);
    }
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
        object.text_or_null(name!("a"), None);
        object.optional(name!("b"), Some(7), digits);
        object.flag(name!("c"), true);
        object.json(name!("d"), &[("x", "y")]);
        object.close();
        assert_eq!(out, br#"{"a":null,"b":7,"c":true,"d":[["x","y"]]}"#);
    }
}
