//! Tokens of one exchange, in one meaning for every dialect.
//!
//! Totals include their parts (`input` holds cached tokens, `output` holds reasoning), as OpenAI counts; dialects that
//! count apart (Anthropic) add on decode and subtract on encode.

/// Token counts. Parts are `None` when the provider did not state them: unknown is not zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All input tokens: fresh, read from cache and written to cache.
    pub input: u64,
    /// Part of `input` read from the provider's prompt cache.
    pub cache_read: Option<u64>,
    /// Part of `input` written to the provider's prompt cache, whatever its lifetime.
    pub cache_write: Option<u64>,
    /// Part of `cache_write` with a lifetime of one hour, which costs more.
    pub cache_write_1h: Option<u64>,
    /// All output tokens, reasoning included.
    pub output: u64,
    /// Part of `output` spent on reasoning.
    pub reasoning: Option<u64>,
    /// Part of `input` that was sound.
    pub input_audio: Option<u64>,
    /// Part of `output` that was sound.
    pub output_audio: Option<u64>,
    /// Part of `output` that came from an accepted prediction.
    pub accepted_prediction: Option<u64>,
    /// Part of `output` spent on a prediction that was not used.
    pub rejected_prediction: Option<u64>,
    /// The total as the provider stated it, where it did.
    pub stated_total: Option<u64>,
}

/// The most tokens that one answer is believed to have used, each of its totals. The longest contexts hold a tenth of it;
/// a provider that states more has lost count, and one such number would use up a budget for good.
pub const MAX_TOKENS: u64 = 100_000_000;

impl Usage {
    /// The same where it can be true; None leaves it to an estimate.
    pub fn believed(self) -> Option<Usage> {
        let totals = [self.input, self.output, self.stated_total.unwrap_or(0)];
        totals.iter().all(|count| *count <= MAX_TOKENS).then_some(self)
    }

    pub fn total(&self) -> u64 {
        self.stated_total.unwrap_or(self.input.saturating_add(self.output))
    }

    /// The same where a provider has stated more than a total. A total alone is the input of an ask that has nothing written
    /// (embeddings, rankings); of others (`writes`) it says too little, and None leaves them to an estimate.
    pub fn parted(self, writes: bool) -> Option<Usage> {
        match self.stated_total {
            Some(total) if total > 0 && self.input == 0 && self.output == 0 => {
                (!writes).then_some(Usage { input: total, ..self })
            }
            _ => Some(self),
        }
    }

    /// The same with parts that are no larger than what they are parts of, as prices take them too.
    #[must_use]
    pub fn within(mut self) -> Usage {
        // A stream may state a part in one event and the whole in another: nought states nothing.
        let whole = |of: u64| if of > 0 { of } else { u64::MAX };
        let (input, output) = (whole(self.input), whole(self.output));
        let part = |most: u64, part: Option<u64>| part.map(|part| part.min(most));
        self.cache_read = part(input, self.cache_read);
        self.cache_write = part(input - self.cache_read.unwrap_or(0), self.cache_write);
        self.reasoning = part(output, self.reasoning);
        self
    }

    /// Both together: two parts of one answer.
    #[must_use]
    pub fn plus(&self, other: &Usage) -> Usage {
        let both = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (None, None) => None,
            _ => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
        };
        Usage {
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
            cache_read: both(self.cache_read, other.cache_read),
            cache_write: both(self.cache_write, other.cache_write),
            cache_write_1h: both(self.cache_write_1h, other.cache_write_1h),
            reasoning: both(self.reasoning, other.reasoning),
            input_audio: both(self.input_audio, other.input_audio),
            output_audio: both(self.output_audio, other.output_audio),
            accepted_prediction: both(self.accepted_prediction, other.accepted_prediction),
            rejected_prediction: both(self.rejected_prediction, other.rejected_prediction),
            // Stated for one part alone it would be wrong for both.
            stated_total: None,
        }
    }

    /// Takes over what a later report says, as SDKs do: a count that it states replaces the earlier one, also where it
    /// is smaller (Gemini corrects its prompt downwards). Streams may state the input at the start and the output at the
    /// end, so nought states nothing.
    pub fn update(&mut self, later: &Usage) {
        let stated = |count: u64, before: u64| if count > 0 { count } else { before };
        self.input = stated(later.input, self.input);
        self.output = stated(later.output, self.output);
        self.cache_read = later.cache_read.or(self.cache_read);
        self.cache_write = later.cache_write.or(self.cache_write);
        self.cache_write_1h = later.cache_write_1h.or(self.cache_write_1h);
        self.reasoning = later.reasoning.or(self.reasoning);
        self.input_audio = later.input_audio.or(self.input_audio);
        self.output_audio = later.output_audio.or(self.output_audio);
        self.accepted_prediction = later.accepted_prediction.or(self.accepted_prediction);
        self.rejected_prediction = later.rejected_prediction.or(self.rejected_prediction);
        self.stated_total = later.stated_total.or(self.stated_total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_alone_is_all_input_or_says_too_little() {
        let total = Usage { stated_total: Some(5000), ..Usage::default() };
        assert_eq!(total.parted(false).map(|usage| (usage.input, usage.output, usage.total())), Some((5000, 0, 5000)));
        assert_eq!(total.parted(true), None);
        for whole in [Usage::default(), Usage { input: 5000, ..total }, Usage { stated_total: Some(0), ..total }] {
            assert_eq!((whole.parted(true), whole.parted(false)), (Some(whole), Some(whole)));
        }
    }

    #[test]
    fn more_tokens_than_any_answer_uses_are_not_believed() {
        let most = Usage { input: MAX_TOKENS, output: MAX_TOKENS, ..Usage::default() };
        assert_eq!(most.believed(), Some(most));
        let (more, one) = (MAX_TOKENS + 1, Usage { input: 1, output: 1, ..Usage::default() });
        for absurd in
            [Usage { input: more, ..one }, Usage { output: more, ..one }, Usage { stated_total: Some(more), ..one }]
        {
            assert_eq!(absurd.believed(), None);
        }
        for (dialect, absurd) in [
            ("openai_chat", r#"{"choices": [], "usage": {"prompt_tokens": -5, "completion_tokens": 1e30}}"#),
            (
                "openai_chat",
                r#"{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 4611686018427387904,
                "total_tokens": 18446744073709551615, "reasoning_tokens": 18446744073709551615}}"#,
            ),
            (
                "openai_responses",
                r#"{"output": [], "usage": {"input_tokens": 5, "output_tokens": 4611686018427387904}}"#,
            ),
            ("anthropic", r#"{"content": [], "usage": {"input_tokens": 5, "output_tokens": 4611686018427387904}}"#),
            (
                "gemini",
                r#"{"candidates": [], "usageMetadata": {"promptTokenCount": 18446744073709551615,
                "candidatesTokenCount": 18446744073709551615, "thoughtsTokenCount": 5}}"#,
            ),
        ] {
            let dialect = crate::dialect::find(dialect).expect("built in");
            let told = dialect.summary(crate::dialect::Op::Generate, absurd.as_bytes()).expect("an object");
            assert_eq!(told.usage, None, "{}", dialect.name());
        }
    }

    #[test]
    fn no_part_is_larger_than_its_whole() {
        let (cache_read, cache_write, reasoning) = (Some(90), Some(20), Some(9));
        let said = Usage { input: 100, output: 5, cache_read, cache_write, reasoning, ..Usage::default() };
        let held = said.within();
        assert_eq!((held.cache_read, held.cache_write, held.reasoning), (Some(90), Some(10), Some(5)));
        let most = Usage { cache_read: Some(u64::MAX), ..said }.within();
        assert_eq!((most.cache_read, most.cache_write), (Some(100), Some(0)));
        let apart = Usage { input: 0, output: 0, ..said };
        assert_eq!(apart.within(), apart, "the wholes stand in another event");
    }

    #[test]
    fn a_later_report_corrects_an_earlier_one_and_nought_states_nothing() {
        let mut usage = Usage { input: 169, output: 0, cache_read: Some(55), ..Usage::default() };
        usage.update(&Usage { input: 79, output: 12, cache_read: Some(0), ..Usage::default() });
        assert_eq!((usage.input, usage.output, usage.cache_read), (79, 12, Some(0)));
        usage.update(&Usage { output: 15, reasoning: Some(3), ..Usage::default() });
        assert_eq!((usage.input, usage.output, usage.reasoning), (79, 15, Some(3)));
    }
}
