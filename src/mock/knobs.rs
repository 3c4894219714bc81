//! What a model's name and the `x-mock-*` headers ask for: timing, length, faults. Reads words, never acts on them.
//!
//! The grammar stands in the head of [`crate::mock`].

use std::str::FromStr;
use std::time::Duration;

use super::trouble::Trouble;

/// Longest text that `length` may ask for.
pub const MAX_LENGTH_BYTES: usize = 4 << 20;

/// Longest wait that any timing option may ask for.
pub const MAX_WAIT: Duration = Duration::from_secs(120);

/// Header with a fault, in the grammar of the name's suffix: `429=2,times=1,key=abc`.
pub const FAULT_HEADER: &str = "x-mock-fault";

/// Header that switches the refusal of unknown fields on.
pub const STRICT_HEADER: &str = "x-mock-strict";

/// Everything that can be turned. Absent means: as the stage below has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Knobs {
    /// Wait before the head of the answer.
    pub head: Option<Duration>,
    /// Wait between the head and the first content.
    pub ttft: Option<Duration>,
    /// Wait between two pieces of content.
    pub delay: Option<Duration>,
    /// Number of pieces a text is streamed in.
    pub chunks: Option<usize>,
    /// Bytes of text in the answer.
    pub length: Option<usize>,
    /// Reason without being asked.
    pub reasoning: Option<bool>,
    /// Call a tool without being asked, when there is one.
    pub tools: Option<bool>,
    /// Give Gemini's function calls an id, as its newer models do.
    pub ids: Option<bool>,
    /// Refuse unknown fields.
    pub strict: Option<bool>,
    pub trouble: Option<Trouble>,
    /// Only so many requests of one `key` meet the trouble.
    pub times: Option<u32>,
    pub key: Option<String>,
}

impl Knobs {
    /// The knobs of a model name: those of its preset, then those of its suffix.
    ///
    /// # Errors
    /// What is wrong with the suffix. A name whose part after the colon holds no `=` (`qwen:7b`) has no suffix.
    pub fn of_model(name: &str) -> Result<Knobs, String> {
        let name = name.rsplit('/').next().unwrap_or(name);
        let (base, suffix) = match name.split_once(':') {
            Some((base, suffix)) if suffix.contains('=') => (base, suffix),
            _ => (name, ""),
        };
        Ok(suffix.parse::<Knobs>()?.over(preset(base)?))
    }

    /// The knobs of a fault header.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_header(value: &str) -> Result<Knobs, String> {
        format!("fault={}", value.trim()).parse()
    }

    /// These knobs where they are set, `base` where they are not.
    #[must_use]
    pub fn over(self, base: Knobs) -> Knobs {
        Knobs {
            head: self.head.or(base.head),
            ttft: self.ttft.or(base.ttft),
            delay: self.delay.or(base.delay),
            chunks: self.chunks.or(base.chunks),
            length: self.length.or(base.length),
            reasoning: self.reasoning.or(base.reasoning),
            tools: self.tools.or(base.tools),
            ids: self.ids.or(base.ids),
            strict: self.strict.or(base.strict),
            trouble: self.trouble.or(base.trouble),
            times: self.times.or(base.times),
            key: self.key.or(base.key),
        }
    }
}

/// What the mock's own model names stand for; any other name stands for nothing.
fn preset(base: &str) -> Result<Knobs, String> {
    let mut knobs = Knobs::default();
    match base {
        "mock-realistic" => {
            knobs.ttft = Some(Duration::from_millis(300));
            // About 50 tokens a second.
            knobs.delay = Some(Duration::from_millis(20));
        }
        "mock-reasoning" => knobs.reasoning = Some(true),
        "mock-tools" => knobs.tools = Some(true),
        _ => {
            if let Some(name) = base.strip_prefix("mock-fault-") {
                knobs.trouble = Some(name.parse()?);
            }
        }
    }
    Ok(knobs)
}

impl FromStr for Knobs {
    type Err = String;

    fn from_str(text: &str) -> Result<Knobs, String> {
        let mut knobs = Knobs::default();
        for pair in text.split([',', ';']).map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| format!("mock: `{pair}` is not `option=value`"))?;
            knobs.set(name.trim(), value.trim()).map_err(|why| format!("mock: option `{name}`: {why}"))?;
        }
        Ok(knobs)
    }
}

impl Knobs {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "head" => self.head = Some(wait(value)?),
            "ttft" => self.ttft = Some(wait(value)?),
            "delay" => self.delay = Some(wait(value)?),
            "chunks" => self.chunks = Some(number::<usize>(value)?.max(1)),
            "length" => {
                let bytes = match value.strip_suffix('t') {
                    Some(tokens) => number::<usize>(tokens)?.saturating_mul(4),
                    None => number(value)?,
                };
                self.length = Some(bytes.min(MAX_LENGTH_BYTES));
            }
            "reasoning" => self.reasoning = Some(switch(value)?),
            "tools" => self.tools = Some(switch(value)?),
            "ids" => self.ids = Some(switch(value)?),
            "strict" => self.strict = Some(switch(value)?),
            "fault" => self.trouble = Some(value.parse()?),
            "times" => self.times = Some(number(value)?),
            "key" => self.key = Some(value.to_owned()),
            _ => {
                return Err("there is no such option; there are head, ttft, delay, chunks, length, reasoning, tools, \
                            ids, strict, fault, times, key"
                    .to_owned());
            }
        }
        Ok(())
    }
}

/// A wait with its unit (`us`, `ms`, `s`, `m`; milliseconds without one), cut to [`MAX_WAIT`].
pub fn wait(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let count: u64 = number(&text[..digits])?;
    let wait = match &text[digits..] {
        "us" => Duration::from_micros(count),
        "" | "ms" => Duration::from_millis(count),
        "s" => Duration::from_secs(count),
        "m" => Duration::from_secs(count.saturating_mul(60)),
        unit => return Err(format!("`{unit}` is no unit of time; there are us, ms, s, m")),
    };
    Ok(wait.min(MAX_WAIT))
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not a whole number"))
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "on" | "true" => Ok(true),
        "0" | "off" | "false" => Ok(false),
        _ => Err(format!("`{text}` is neither 1 nor 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::trouble::Kind;

    #[test]
    fn a_suffix_turns_knobs_and_a_preset_stands_below_it() {
        let knobs = Knobs::of_model("mock/mock-realistic:chunks=64,delay=10ms,length=50t,fault=429=2,times=1,key=a")
            .expect("reads");
        assert_eq!(knobs.ttft, Some(Duration::from_millis(300)));
        assert_eq!(knobs.delay, Some(Duration::from_millis(10)));
        assert_eq!((knobs.chunks, knobs.length), (Some(64), Some(200)));
        let trouble = knobs.trouble.expect("a fault");
        assert_eq!((trouble.kind, trouble.value.as_deref()), (Kind::RateLimit, Some("2")));
        assert_eq!((knobs.times, knobs.key.as_deref()), (Some(1), Some("a")));
    }

    #[test]
    fn names_without_options_mean_nothing_and_wrong_options_are_told() {
        assert_eq!(Knobs::of_model("qwen:7b"), Ok(Knobs::default()));
        assert_eq!(Knobs::of_model("ft:gpt-4o:org::id"), Ok(Knobs::default()));
        assert!(Knobs::of_model("x:chunk=4").expect_err("refused").contains("there are head"));
        assert!(Knobs::of_model("x:delay=4h").expect_err("refused").contains("unit"));
        assert!(Knobs::of_model("mock-fault-teapot").expect_err("refused").contains("teapot"));
    }

    #[test]
    fn waits_are_bounded() {
        assert_eq!(wait("90m"), Ok(MAX_WAIT));
        assert_eq!(wait("500us"), Ok(Duration::from_micros(500)));
    }
}
