//! Watches chunks that are relayed byte for byte.
//!
//! Runs on the hot path: once content was seen, a chunk is parsed only when a byte search says that it holds usage, an
//! error or a finish reason. Changes nothing.

use std::sync::LazyLock;

use aho_corasick::packed::Searcher;
use serde_json::Value;

use super::{answer, data_of, decoder, finish, usage};
use crate::chat::Finish;
use crate::dialect::{self, Frame, Sighting};

pub(super) struct Sniffer {
    /// Content was seen: from here on a search comes before a parse.
    content: bool,
    named: bool,
    called: bool,
    complete: bool,
    /// Choices that were seen and that ended, a bit each, and whether one of them ended well.
    seen: u64,
    ended: u64,
    good: bool,
}

/// Finds the keys that tell something in one pass, on processors that can; others read every chunk.
static TELLING: LazyLock<Option<Searcher>> =
    LazyLock::new(|| Searcher::new([r#""usage""#, r#""error""#, r#""finish_reason""#]));

/// How most chunks end. What tells nothing need not be searched, and the search would begin anew behind it.
const USUAL_END: &[u8] = b"\"finish_reason\":null}]}\n\n";

impl Sniffer {
    pub fn new() -> Self {
        Sniffer { content: false, named: false, called: false, complete: false, seen: 0, ended: 0, good: false }
    }

    /// Whether one of the keys has a value other than null. Inside strings the quotes would be escaped.
    fn tells(bytes: &[u8]) -> bool {
        let bytes = bytes.strip_suffix(USUAL_END).unwrap_or(bytes);
        TELLING.as_ref().is_none_or(|keys| keys.find_iter(bytes).any(|key| !null_follows(&bytes[key.end()..])))
    }

    fn read(&mut self, frame: &Frame<'_>) -> Sighting {
        let mut seen = Sighting::default();
        let data = data_of(frame);
        if data.as_ref() == b"[DONE]" {
            self.complete = true;
            return seen;
        }
        // What cannot be read is relayed as it is; only what we must know is looked for.
        let Ok(chunk) = serde_json::from_slice::<Value>(&data) else { return seen };
        if let Some(fault) = decoder::fault_in(frame, &chunk) {
            seen.fault = Some(fault);
            return seen;
        }
        let Value::Object(chunk) = chunk else { return seen };
        let text = |key: &str| chunk.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        if !self.named && (text("id").is_some() || text("model").is_some()) {
            self.named = true;
            seen.id = text("id").map(str::to_owned);
            seen.model = text("model").map(str::to_owned);
        }
        seen.usage = usage::of_chunk(&chunk);
        let choices = chunk.get("choices").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        seen.only_usage = seen.usage.is_some() && choices.is_empty();
        let mut undone = None;
        for (position, choice) in choices.iter().filter_map(Value::as_object).enumerate() {
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(position as u64);
            let bit = 1_u64.checked_shl(index as u32).unwrap_or(0);
            self.seen |= bit;
            self.called |= answer::calls(choice);
            seen.content |= !self.content && (self.called || answer::shows(choice));
            if let Some(word) = choice.get("finish_reason").and_then(Value::as_str).filter(|word| !word.is_empty()) {
                self.complete = true;
                self.ended |= bit;
                seen.finish = Some(finish::read(word, self.called));
                undone = finish::fault(word, self.content || seen.content);
                self.good |= undone.is_none();
            }
        }
        self.content |= seen.content;
        // One good choice of several is an answer.
        let undone = undone.filter(|_| !self.good && self.seen == self.ended);
        seen.fault = answer::choices_error(choices).or(undone);
        if seen.fault.is_some() {
            // What came with it is no reason to go no further than this provider.
            (seen.finish, seen.content) = (Some(Finish::Error), false);
        }
        seen
    }
}

/// After a key: a colon and `null`, with white space around. A quoted word that is no key counts as telling.
fn null_follows(rest: &[u8]) -> bool {
    let rest = rest.trim_ascii_start();
    rest.strip_prefix(b":").is_some_and(|value| value.trim_ascii_start().starts_with(b"null"))
}

impl dialect::Sniffer for Sniffer {
    fn frame(&mut self, frame: &Frame<'_>) -> Sighting {
        if self.content {
            // `[DONE]` is a frame by itself; no chunk is as short.
            let short = frame.0.len() < 64;
            if !short && !Self::tells(frame.0) {
                return Sighting::default();
            }
        }
        self.read(frame)
    }

    fn complete(&self) -> bool {
        self.complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Sniffer as _;

    fn sniff(sniffer: &mut Sniffer, text: &str) -> Sighting {
        sniffer.frame(&Frame(text.as_bytes()))
    }

    #[test]
    fn content_is_not_a_role_an_empty_delta_or_azures_prologue() {
        let mut sniffer = Sniffer::new();
        let prologue = r#"data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0}]}"#;
        let seen = sniff(&mut sniffer, &format!("{prologue}\n\n"));
        assert!(!seen.content && !seen.only_usage && seen.id.is_none());
        assert!(!sniff(&mut sniffer, ": OPENROUTER PROCESSING\n\n").content);
        let role = r#"data: {"id":"c1","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}],"usage":null}"#;
        let seen = sniff(&mut sniffer, role);
        assert!(!seen.content);
        assert_eq!((seen.id.as_deref(), seen.model.as_deref()), (Some("c1"), Some("m")));
        let seen = sniff(&mut sniffer, r#"data: {"id":"c1","choices":[{"index":0,"delta":{"content":"Hi"}}]}"#);
        assert!(seen.content && seen.id.is_none());
        // Some servers give no ids.
        let seen = sniff(&mut Sniffer::new(), r#"data: {"id":"","model":"m","choices":[{"index":0,"delta":{}}]}"#);
        assert_eq!((seen.id, seen.model.as_deref()), (None, Some("m")));
    }

    #[test]
    fn every_kind_of_content_commits() {
        for delta in [
            r#"{"content":"x"}"#,
            r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"x"}]}]}"#,
            r#"{"reasoning_content":"x"}"#,
            r#"{"reasoning":"x"}"#,
            r#"{"refusal":"x"}"#,
            r#"{"tool_calls":[{"index":0,"id":"c"}]}"#,
            r#"{"function_call":{"name":"f"}}"#,
            r#"{"audio":{"id":"a"}}"#,
        ] {
            let frame = format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta}}}]}}\n\n");
            assert!(sniff(&mut Sniffer::new(), &frame).content, "{delta}");
        }
        let text = r#"data: {"object":"text_completion","choices":[{"text":"x","index":0}]}"#;
        assert!(sniff(&mut Sniffer::new(), text).content);
    }

    #[test]
    fn after_content_only_what_tells_something_is_read() {
        let mut sniffer = Sniffer::new();
        sniff(&mut sniffer, r#"data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}"#);
        // Broken JSON shows that it was not parsed: nothing comes of it, whatever it says in strings.
        let chatter = r#"data: {"choices":[{"delta":{"content":"\"usage\":{\"error\":1 [DONE]"},"finish_reason": null,"logprobs":null}],"usage" : null,"error":null}"#;
        assert!(!Sniffer::tells(chatter.as_bytes()));
        // The usual end hides nothing that stands before it.
        let choices = |first: &str| {
            format!("data: {{\"choices\":[{{\"finish_reason\":{first}}},{{\"finish_reason\":null}}]}}\n\n")
        };
        assert!(Sniffer::tells(choices("\"stop\"").as_bytes()) && !Sniffer::tells(choices("null").as_bytes()));
        let seen = sniff(&mut sniffer, chatter);
        assert!(seen.usage.is_none() && seen.fault.is_none() && !sniffer.complete());
        let seen =
            sniff(&mut sniffer, r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}],"usage":null}"#);
        assert_eq!(seen.finish, Some(Finish::Length));
        assert!(sniffer.complete());
        let seen = sniff(
            &mut sniffer,
            r#"data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#,
        );
        assert!(seen.only_usage);
        assert_eq!(seen.usage.map(|usage| usage.total()), Some(5));
    }

    #[test]
    fn the_end_is_done_or_a_finish_reason_and_nothing_else() {
        let mut sniffer = Sniffer::new();
        sniff(&mut sniffer, r#"data: {"choices":[{"index":0,"delta":{"content":"[DONE]"}}]}"#);
        assert!(!sniffer.complete());
        sniff(&mut sniffer, "data: [DONE]\n\n");
        assert!(sniffer.complete());
    }

    #[test]
    fn an_error_inside_a_stream_is_seen_before_and_after_content() {
        let error = r#"data: {"error":{"message":"Overloaded","type":"overloaded_error"}}"#;
        assert!(sniff(&mut Sniffer::new(), error).fault.is_some());
        let mut sniffer = Sniffer::new();
        sniff(&mut sniffer, r#"data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}"#);
        let fault = sniff(&mut sniffer, error).fault.expect("a fault");
        assert_eq!(fault.message, "Overloaded");
        let routed = r#"data: {"id":"g","error":{"code":502,"message":"Provider disconnected"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}"#;
        assert_eq!(sniff(&mut sniffer, routed).fault.expect("a fault").message, "Provider disconnected");
    }

    #[test]
    fn usage_beside_choices_is_not_only_usage() {
        let mut sniffer = Sniffer::new();
        let seen = sniff(
            &mut sniffer,
            r#"data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#,
        );
        assert!(seen.content && seen.usage.is_some() && !seen.only_usage);
    }
}
