//! The access log for people: each JSON line as one short line, for a terminal.
//!
//! Runs in the log's own thread, behind the JSON: the request path knows nothing of it. Never shows what the JSON does
//! not hold.

use std::io::{self, Write};

use serde_json::Value;

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// A sink that writes every record as a line for people. It must be given whole lines, as the log's writer does.
pub struct Text<W> {
    inner: W,
    colour: bool,
}

impl<W: Write> Text<W> {
    pub fn new(inner: W, colour: bool) -> Self {
        Text { inner, colour }
    }
}

impl<W: Write> Write for Text<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Ok(record) = serde_json::from_slice(line) {
            writeln!(self.inner, "{}", render(&record, self.colour))?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// `11:22:47 200 /v1/messages  smart → mock/mock-fast  2 in, 50 out  $0.0001  first token 3.2 ms, 25 ms`
fn render(record: &Value, colour: bool) -> String {
    let paint = |code: &str, text: &str| if colour { format!("{code}{text}{PLAIN}") } else { text.to_owned() };
    let word = |value: &Value| value.as_str().map(printable).filter(|text| !text.is_empty());
    let time = record["time"].as_str().and_then(|time| time.get(11..19)).unwrap_or("        ");
    let status = record["status"].as_u64().unwrap_or(0);
    let endpoint = record["endpoint"].as_str().unwrap_or_default();
    let judged = paint(if status < 400 { GREEN } else { RED }, &status.to_string());
    let mut parts = vec![format!("{} {judged} {endpoint:<20}", paint(DIM, time))];
    let target = word(&record["provider"]).zip(word(&record["target_model"]));
    let target = target.map(|(provider, model)| format!("{provider}/{model}"));
    parts.extend(match (word(&record["model"]), target) {
        (Some(model), Some(target)) if model != target => Some(format!("{model} → {target}")),
        (model, target) => target.or(model),
    });
    if let (Some(input), Some(output)) = (record["usage"]["input"].as_u64(), record["usage"]["output"].as_u64()) {
        let about = if record["usage_estimated"] == true { "about " } else { "" };
        parts.push(format!("{about}{input} in, {output} out"));
    }
    parts.extend(record["cost_usd"].as_f64().map(|cost| format!("${cost}")));
    let first = millis(&record["ttft_ms"]).map(|first| format!("first token {first}"));
    let times: Vec<String> = first.into_iter().chain(millis(&record["duration_ms"])).collect();
    parts.push(times.join(", "));
    if let Some(code) = word(&record["error"]["code"]) {
        let why = word(&record["error"]["message"]).unwrap_or_default();
        let own = word(&record["error"]["own_code"]).map(|own| format!(" ({own})")).unwrap_or_default();
        parts.push(paint(RED, &format!("{code}{own}: {why}")));
    }
    let tries = record["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
    if tries.len() > 1 {
        let failed =
            tries.iter().filter_map(|one| Some(format!("{} {}", word(&one["provider"])?, word(&one["error"])?)));
        let failed: Vec<String> = failed.collect();
        parts.push(paint(DIM, &format!("({} attempts: {})", tries.len(), failed.join(", "))));
    }
    parts.join("  ")
}

/// Milliseconds with as many digits as somebody reads.
fn millis(value: &Value) -> Option<String> {
    Some(match value.as_f64()? {
        short if short < 10.0 => format!("{short:.1} ms"),
        middle if middle < 10_000.0 => format!("{middle:.0} ms"),
        long => format!("{:.1} s", long / 1000.0),
    })
}

/// Without control characters: neither a client's model name nor an upstream's message may steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_is_one_line_with_what_a_person_wants_to_know() {
        let record = json!({
            "time": "2026-11-22T11:22:47.007Z", "endpoint": "/v1/messages", "model": "smart", "provider": "openai",
            "target_model": "gpt-5", "status": 200, "usage": {"input": 2, "output": 50}, "cost_usd": 0.0005,
            "ttft_ms": 3.25, "duration_ms": 1234.2,
            "attempts": [{"provider": "anthropic", "error": "rate_limited"}, {"provider": "openai"}],
        });
        let line = "11:22:47 200 /v1/messages          smart → openai/gpt-5  2 in, 50 out  $0.0005  first token 3.2 ms, \
                    1234 ms  (2 attempts: anthropic rate_limited)";
        assert_eq!(render(&record, false), line);
    }

    #[test]
    fn a_failure_says_why_and_cannot_steer_the_terminal() {
        let record = json!({
            "time": "2026-11-22T11:22:47.007Z", "endpoint": "/v1/responses", "model": "x\u{1b}[2J", "status": 404,
            "duration_ms": 12_000, "error": {"code": "model_not_found", "message": "No \u{1b}[2Jmodel\nx."},
        });
        let line = "11:22:47 404 /v1/responses         x [2J  12.0 s  model_not_found: No  [2Jmodel x.";
        assert_eq!(render(&record, false), line);
        assert!(!render(&record, true).contains("\u{1b}[2J"));
        let refused =
            json!({"status": 403, "error": {"code": "policy_rejected", "own_code": "not_now", "message": "No."}});
        assert!(render(&refused, false).ends_with("policy_rejected (not_now): No."));
    }

    #[test]
    fn the_sink_takes_whole_lines_and_skips_what_is_no_record() {
        let mut out = Vec::new();
        let mut sink = Text::new(&mut out, false);
        sink.write_all(b"{\"status\":200,\"endpoint\":\"/v1/models\",\"duration_ms\":0.5}\n").expect("writes");
        sink.write_all(b"noise\n").expect("writes");
        assert_eq!(String::from_utf8(out).expect("text"), "         200 /v1/models            0.5 ms\n");
    }
}
