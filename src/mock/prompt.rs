//! What the mock understands of a request, whatever its dialect, and how it counts tokens.
//!
//! The dialects' readers fill it in; only `reply` decides what to say to it.

use serde_json::Value;

use super::state::{State, hash};

/// Tokens that one image, sound and file count for.
pub const IMAGE_TOKENS: u64 = 85;
pub const AUDIO_TOKENS: u64 = 50;
pub const FILE_TOKENS: u64 = 100;

/// Shortest prompt that a provider caches without being told (OpenAI's figure); that much of it is remembered.
const IMPLICIT_CACHE_TOKENS: u64 = 1024;

/// One request, boiled down.
#[derive(Debug, Default)]
pub struct Prompt {
    pub system_bytes: usize,
    /// User turns seen; tool results alone are none.
    pub turns: usize,
    /// Text of the last user turn.
    pub last: String,
    pub images: usize,
    pub audios: usize,
    pub files: usize,
    pub tools: Vec<Tool>,
    pub choice: Choice,
    /// Whether two tools may be called at once.
    pub parallel: bool,
    /// Tool results that came after the last answer.
    pub results: Vec<String>,
    pub format: Option<Format>,
    pub thinking: Option<Thinking>,
    /// Bound of generated tokens, reasoning included.
    pub max_tokens: Option<u64>,
    pub stop: Vec<String>,
    /// Choices wanted; 0 counts as 1.
    pub choices: usize,
    /// Say something before calling a tool, as Anthropic's models do where they need not call one.
    pub preface: bool,
    pub measure: Measure,
}

#[derive(Debug, Clone)]
pub struct Tool {
    pub name: String,
    /// JSON Schema of the arguments.
    pub schema: Value,
    /// Takes free text instead of JSON.
    pub custom: bool,
}

#[derive(Debug, Default, PartialEq)]
pub enum Choice {
    #[default]
    Auto,
    None,
    Required,
    Named(String),
}

/// What the text must be.
#[derive(Debug)]
pub enum Format {
    JsonObject,
    Schema(Value),
}

/// How much to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thinking {
    /// Steps of reasoning, 1 to 4.
    pub steps: usize,
    /// Bound of reasoning tokens.
    pub budget: Option<u64>,
}

impl Thinking {
    /// The thinking that a word of effort asks for; none for those that ask for none.
    pub fn of_effort(word: &str) -> Option<Thinking> {
        let steps = match word {
            "none" => return None,
            "minimal" | "low" => 1,
            "high" => 3,
            "xhigh" | "max" => 4,
            _ => 2,
        };
        Some(Thinking { steps, budget: None })
    }

    pub fn of_budget(budget: u64) -> Option<Thinking> {
        let steps = match budget {
            0 => return None,
            1..=2048 => 1,
            2049..=8192 => 2,
            8193..=16384 => 3,
            _ => 4,
        };
        Some(Thinking { steps, budget: Some(budget) })
    }
}

/// The prompt as a stream of bytes: its size, its media and where it may be cached. Fed in the order in which the
/// provider would see the parts, so that equal beginnings have equal hashes.
#[derive(Debug, Default)]
pub struct Measure {
    bytes: u64,
    media_tokens: u64,
    /// Part of the media that was sound.
    pub audio_tokens: u64,
    hash: u64,
    /// Hash of the beginning that is long enough to be cached without being told.
    start: Option<u64>,
    marks: Vec<Mark>,
}

#[derive(Debug)]
struct Mark {
    hash: u64,
    tokens: u64,
    hour: bool,
}

/// Parts of the input that came from or went to the prompt cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cached {
    pub read: u64,
    pub write_5m: u64,
    pub write_1h: u64,
}

impl Measure {
    pub fn text(&mut self, text: &str) {
        for byte in text.as_bytes() {
            self.hash = hash(self.hash, std::slice::from_ref(byte));
            self.bytes += 1;
            if self.bytes == IMPLICIT_CACHE_TOKENS * 4 {
                self.start = Some(self.hash);
            }
        }
    }

    /// JSON counts as its compact text.
    pub fn json(&mut self, value: &Value) {
        if !value.is_null() {
            self.text(&value.to_string());
        }
    }

    /// A picture, sound or file: a fixed number of tokens, whatever its size.
    pub fn media(&mut self, tokens: u64, content: &Value) {
        self.hash = hash(self.hash, content.to_string().as_bytes());
        self.media_tokens += tokens;
    }

    pub fn audio(&mut self, content: &Value) {
        self.media(AUDIO_TOKENS, content);
        self.audio_tokens += AUDIO_TOKENS;
    }

    /// An Anthropic cache breakpoint after what came so far.
    pub fn mark(&mut self, control: &Value) {
        if control.is_object() {
            let hour = control["ttl"] == "1h";
            self.marks.push(Mark { hash: self.hash, tokens: self.tokens(), hour });
        }
    }

    pub fn marks(&self) -> usize {
        self.marks.len()
    }

    /// All input tokens: one for each four bytes begun, and those of media; at least one.
    pub fn tokens(&self) -> u64 {
        (self.bytes.div_ceil(4) + self.media_tokens).max(1)
    }

    /// What the breakpoints read and write: the longest beginning seen before is read, the rest up to the last
    /// breakpoint is written, at the price of that breakpoint. `scope` keeps models apart.
    pub fn marked(&self, state: &State, scope: &str) -> Cached {
        let mut cached = Cached::default();
        // Every breakpoint is remembered, the later ones too when an earlier one was new.
        for mark in &self.marks {
            let known = state.seen_before(hash(mark.hash, scope.as_bytes()));
            if known {
                cached = Cached { read: mark.tokens, write_5m: 0, write_1h: 0 };
            } else {
                let fresh = mark.tokens - cached.read - cached.write_5m - cached.write_1h;
                if mark.hour {
                    cached.write_1h += fresh;
                } else {
                    cached.write_5m += fresh;
                }
            }
        }
        cached
    }

    /// What a provider that caches by itself reads: the beginning of a long prompt, when it is known. Breakpoints, which
    /// some compatible providers take in their place, come first.
    pub fn implicit(&self, state: &State, scope: &str) -> Cached {
        if !self.marks.is_empty() {
            return self.marked(state, scope);
        }
        let known = self.start.is_some_and(|start| state.seen_before(hash(start, scope.as_bytes())));
        Cached { read: if known { IMPLICIT_CACHE_TOKENS } else { 0 }, ..Cached::default() }
    }
}

impl Prompt {
    /// A system text.
    pub fn system(&mut self, text: &str) {
        self.system_bytes += text.len();
        self.measure.text(text);
    }

    /// A user turn begins: what was last said and the results before it are history.
    pub fn user_turn(&mut self) {
        self.turns += 1;
        self.last.clear();
        self.results.clear();
    }

    /// Text within a user turn.
    pub fn user_text(&mut self, text: &str) {
        if !self.last.is_empty() {
            self.last.push('\n');
        }
        self.last.push_str(text);
        self.measure.text(text);
    }

    /// An answer begins: results before it are history.
    pub fn answer_turn(&mut self) {
        self.results.clear();
    }

    pub fn tool_result(&mut self, text: String) {
        self.measure.text(&text);
        self.results.push(text);
    }

    pub fn image(&mut self, content: &Value) {
        self.images += 1;
        self.measure.media(IMAGE_TOKENS, content);
    }

    pub fn audio(&mut self, content: &Value) {
        self.audios += 1;
        self.measure.audio(content);
    }

    pub fn file(&mut self, content: &Value) {
        self.files += 1;
        self.measure.media(FILE_TOKENS, content);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_marked_beginning_is_written_once_and_read_after() {
        let state = State::default();
        let turn = |more: &str| {
            let mut measure = Measure::default();
            measure.text(&"s".repeat(400));
            measure.mark(&json!({"type": "ephemeral", "ttl": "1h"}));
            measure.text(&more.repeat(40));
            measure.mark(&json!({"type": "ephemeral"}));
            measure.text("tail");
            (measure.tokens(), measure.marked(&state, "m"))
        };
        assert_eq!(turn("a"), (111, Cached { read: 0, write_5m: 10, write_1h: 100 }));
        assert_eq!(turn("a"), (111, Cached { read: 110, write_5m: 0, write_1h: 0 }));
        assert_eq!(turn("bb"), (121, Cached { read: 100, write_5m: 20, write_1h: 0 }));
    }

    #[test]
    fn a_long_prompt_is_cached_without_being_told_and_a_short_one_is_not() {
        let state = State::default();
        let ask = |bytes: usize| {
            let mut measure = Measure::default();
            measure.text(&"x".repeat(bytes));
            measure.implicit(&state, "m").read
        };
        assert_eq!([ask(4000), ask(4000), ask(5000), ask(5000), ask(6000)], [0, 0, 0, 1024, 1024]);
    }
}
