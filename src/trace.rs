//! The decision trace: what each stage saw and decided, with its time. Kept only where somebody will read it.
//!
//! Never holds a prompt, an answer or a key.

use std::fmt::Write;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use serde::Serialize;
use serde_json::{Value, json};

use crate::route::Plan;

/// The header that asks for the trace, and the one that answers with it.
pub const HEADER: HeaderName = HeaderName::from_static("x-portcullis-trace");

/// Longest value of the header that answers. Many clients and proxies take no more than 8 KiB of headers in all.
const MAX_HEADER_BYTES: usize = 4096;

/// Most steps of one exchange that are kept; guests may note as many as they like.
const MAX_STEPS: usize = 200;

/// The steps of one exchange, in order.
#[derive(Debug, Default)]
pub struct Trace {
    pub steps: Vec<Step>,
    /// Steps that there was no room for.
    left_out: usize,
    /// The caller wants it in its answer; else it is for the log alone.
    pub answered: bool,
}

/// One decision.
#[derive(Debug, Serialize)]
pub struct Step {
    /// Since the exchange began, in milliseconds.
    pub at_ms: f64,
    /// `plan`, `attempt`, `limit`, `cache`, `hook`, …
    pub stage: &'static str,
    /// What was decided and why.
    pub what: Value,
}

/// Whether a request asks for the trace.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    headers.get(HEADER).is_some_and(|value| matches!(value.as_bytes(), b"1" | b"true"))
}

impl Trace {
    pub fn note(&mut self, at: Duration, stage: &'static str, what: Value) {
        if self.steps.len() < MAX_STEPS {
            let at_ms = (at.as_secs_f64() * 1_000_000.0).round() / 1000.0;
            self.steps.push(Step { at_ms, stage, what });
        } else {
            self.left_out += 1;
        }
    }

    /// One line of JSON in ASCII, for a header: as many steps as fit, the newest first to go.
    pub fn header(&self) -> String {
        let mut text = String::from("{\"steps\":[");
        let mut left_out = self.left_out;
        let mut full = false;
        for step in &self.steps {
            let step = ascii(&serde_json::to_string(step).unwrap_or_default());
            full |= text.len() + step.len() > MAX_HEADER_BYTES - 64;
            if full {
                left_out += 1;
                continue;
            }
            if !text.ends_with('[') {
                text.push(',');
            }
            text.push_str(&step);
        }
        text.push(']');
        if left_out > 0 {
            // Writing into a string does not fail.
            let _ = write!(text, ",\"left_out\":{left_out}");
        }
        text.push('}');
        text
    }
}

impl Serialize for Trace {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.steps)
    }
}

/// What planning thought of each candidate, and the order that came of it.
pub fn plan(plan: &Plan) -> Value {
    let names = |targets: &[std::sync::Arc<crate::route::Target>]| -> Vec<String> {
        targets.iter().map(|target| target.name()).collect()
    };
    let mut what = json!({ "targets": names(&plan.targets) });
    let mut add = |name: &str, value: Value| {
        if let Some(object) = what.as_object_mut()
            && value.as_array().is_some_and(|list| !list.is_empty())
        {
            object.insert(name.to_owned(), value);
        }
    };
    add("on_context_length", names(&plan.on_context_length).into());
    add("on_content_policy", names(&plan.on_content_policy).into());
    let verdicts = plan.verdicts.iter().map(|verdict| {
        let mut of = json!({ "target": verdict.target, "why": verdict.why });
        if let Some(filter) = verdict.removed_by {
            of["removed_by"] = filter.into();
        }
        if let Some(wait) = verdict.retry_after {
            of["retry_after_ms"] = (wait.as_millis() as u64).into();
        }
        of
    });
    add("verdicts", verdicts.collect());
    what
}

/// JSON text with everything that is not ASCII escaped.
fn ascii(json: &str) -> String {
    if json.is_ascii() {
        return json.to_owned();
    }
    let mut out = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if character.is_ascii() {
            out.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_ascii_json_and_bounded() {
        let mut trace = Trace { answered: true, ..Trace::default() };
        trace.note(Duration::from_micros(1500), "plan", json!({"why": "naïve 🦀"}));
        assert_eq!(
            trace.header(),
            "{\"steps\":[{\"at_ms\":1.5,\"stage\":\"plan\",\"what\":{\"why\":\"na\\u00efve \\ud83e\\udd80\"}}]}"
        );
        let parsed: Value = serde_json::from_str(&trace.header()).expect("JSON");
        assert_eq!(parsed["steps"][0]["what"]["why"], "naïve 🦀");
        (0..500).for_each(|_| trace.note(Duration::ZERO, "hook", json!({"text": "x".repeat(100)})));
        let header = trace.header();
        assert!(header.len() <= MAX_HEADER_BYTES, "{}", header.len());
        let parsed: Value = serde_json::from_str(&header).expect("JSON");
        let kept = parsed["steps"].as_array().map_or(0, Vec::len);
        assert_eq!(parsed["left_out"], 501 - kept);
        assert_eq!(trace.steps.len(), MAX_STEPS);
    }
}
