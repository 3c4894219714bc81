//! The price of a model and the bill for a usage. Pure arithmetic; never looks anything up.

use super::decimal::{nano_to_decimal, nano_to_f64};
use crate::chat::Usage;

/// Prices are stated per this many tokens.
const PER: u128 = 1_000_000;

/// Nano-dollars per million tokens for each part of a usage. `None` is "not stated": [`Rates::bill`] says what stands
/// in for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    pub input: u64,
    pub output: u64,
    pub cache_read: Option<u64>,
    /// Writing to the provider's prompt cache with the shortest lifetime (Anthropic: five minutes).
    pub cache_write: Option<u64>,
    /// Writing with a lifetime of one hour.
    pub cache_write_1h: Option<u64>,
    pub reasoning: Option<u64>,
    pub input_audio: Option<u64>,
    pub output_audio: Option<u64>,
}

/// Rates as far as a file or an operator states them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stated {
    pub input: Option<u64>,
    pub output: Option<u64>,
    pub cache_read: Option<u64>,
    pub cache_write: Option<u64>,
    pub cache_write_1h: Option<u64>,
    pub reasoning: Option<u64>,
    pub input_audio: Option<u64>,
    pub output_audio: Option<u64>,
}

/// Rates that hold for the whole request once its input is larger than `above` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    pub above: u64,
    pub rates: Rates,
}

/// What a model costs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Price {
    pub base: Rates,
    /// In ascending order of `above`. Every tier is complete: what it does not state was taken from `base`.
    pub tiers: Vec<Tier>,
}

/// An amount of money.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cost {
    pub nano_usd: u64,
}

impl Price {
    /// A price with tiers above input sizes; each takes from `base` what it does not state.
    pub fn new(base: Rates, tiers: &[(u64, Stated)]) -> Price {
        let complete = |&(above, stated): &(u64, Stated)| stated.over(Some(&base)).map(|rates| Tier { above, rates });
        let mut tiers: Vec<Tier> = tiers.iter().filter_map(complete).collect();
        tiers.sort_by_key(|tier| tier.above);
        Price { base, tiers }
    }

    /// The rates for a request with this many input tokens, cached ones included.
    pub fn rates(&self, input: u64) -> &Rates {
        let tier = self.tiers.iter().rev().find(|tier| input > tier.above);
        tier.map_or(&self.base, |tier| &tier.rates)
    }

    /// The bill for `usage`: every token is charged exactly once, rounded half up once at the end.
    pub fn cost(&self, usage: &Usage) -> Cost {
        let micro_nano = self.rates(usage.input).bill(usage);
        let nano = micro_nano.saturating_add(PER / 2) / PER;
        Cost { nano_usd: u64::try_from(nano).unwrap_or(u64::MAX) }
    }
}

impl Stated {
    /// These rates over the ones they change. None when input or output stay without a price.
    pub fn over(&self, base: Option<&Rates>) -> Option<Rates> {
        let old = base.copied().unwrap_or_default();
        // An hour's write belongs to the short write that it was stated beside, and is else derived from the new one.
        let old_1h = if self.cache_write.is_some() { None } else { old.cache_write_1h };
        Some(Rates {
            input: self.input.or(base.map(|old| old.input))?,
            output: self.output.or(base.map(|old| old.output))?,
            cache_read: self.cache_read.or(old.cache_read),
            cache_write: self.cache_write.or(old.cache_write),
            cache_write_1h: self.cache_write_1h.or(old_1h),
            reasoning: self.reasoning.or(old.reasoning),
            input_audio: self.input_audio.or(old.input_audio),
            output_audio: self.output_audio.or(old.output_audio),
        })
    }
}

impl Rates {
    /// The sum in nano-dollars times a million.
    ///
    /// Providers state parts that overlap (cached audio counts as cached and as audio) or that are larger than their
    /// total (a stream cut between two reports). So parts are taken out of the total one after the other, each at
    /// most what is left; the rest is fresh text. Cache comes first: what was read from it is not charged again.
    ///
    /// What stands in for a rate that is not stated:
    /// - cache read, cache write, audio in: the input rate. A provider without a discount charges the full price.
    /// - cache write for an hour: 1.6 times the short write, Anthropic's ratio of 2× to 1.25× input; and the input
    ///   rate where no write is priced at all.
    /// - reasoning, audio out: the output rate.
    fn bill(&self, usage: &Usage) -> u128 {
        let mut input = Rest(usage.input);
        let read = input.take(usage.cache_read);
        let written = input.take(usage.cache_write.max(usage.cache_write_1h));
        let mut short = Rest(written);
        let hour = short.take(usage.cache_write_1h);
        let audio_in = input.take(usage.input_audio);

        let mut output = Rest(usage.output);
        let audio_out = output.take(usage.output_audio);
        let reasoning = output.take(usage.reasoning);

        let write_1h = self.cache_write_1h.or(self.cache_write.map(|short| short.saturating_mul(8) / 5));
        [
            (input.0, self.input),
            (read, self.cache_read.unwrap_or(self.input)),
            (short.0, self.cache_write.unwrap_or(self.input)),
            (hour, write_1h.unwrap_or(self.input)),
            (audio_in, self.input_audio.unwrap_or(self.input)),
            (output.0, self.output),
            (reasoning, self.reasoning.unwrap_or(self.output)),
            (audio_out, self.output_audio.unwrap_or(self.output)),
        ]
        .into_iter()
        .fold(0u128, |sum, (tokens, rate)| sum.saturating_add(u128::from(tokens) * u128::from(rate)))
    }
}

/// Tokens of a total that no part has claimed yet.
struct Rest(u64);

impl Rest {
    fn take(&mut self, part: Option<u64>) -> u64 {
        let taken = part.unwrap_or(0).min(self.0);
        self.0 -= taken;
        taken
    }
}

impl Cost {
    /// Dollars as an exact decimal number.
    pub fn decimal(self) -> String {
        nano_to_decimal(self.nano_usd)
    }

    /// Dollars as the nearest double.
    pub fn as_f64(self) -> f64 {
        nano_to_f64(self.nano_usd)
    }
}

impl std::ops::Add for Cost {
    type Output = Cost;

    /// Saturates: a sum that cannot be told apart from the largest amount must not wrap to a small one.
    fn add(self, other: Cost) -> Cost {
        Cost { nano_usd: self.nano_usd.saturating_add(other.nano_usd) }
    }
}
