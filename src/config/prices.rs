//! What tokens cost where the catalogue does not know it or is wrong.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::named::Named;
use super::value::Usd;

/// Prices of models. What is unknown stays unknown; it is never taken for zero.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// Catalogue in the shape of models.dev's `api.json`, laid over the one that is built in.
    pub file: Option<PathBuf>,
    /// Prices over those of the catalogues, by `provider/model` with the upstream's name of the model; `provider/*` counts for all its other models. In US dollars per million tokens.
    pub models: Named<PriceOverride>,
}

/// Prices of one model in US dollars per million tokens. What is not set stays as in the catalogue.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PriceOverride {
    /// Input that was not cached.
    pub input: Option<Usd>,
    /// Output.
    pub output: Option<Usd>,
    /// Input read from the upstream's cache.
    pub cache_read: Option<Usd>,
    /// Input written to the upstream's cache for its usual time (Anthropic: five minutes).
    pub cache_write: Option<Usd>,
    /// Input written to the upstream's cache for an hour.
    pub cache_write_1h: Option<Usd>,
    /// Reasoning, where it is priced apart from output.
    pub reasoning: Option<Usd>,
    /// Audio input.
    pub input_audio: Option<Usd>,
    /// Audio output.
    pub output_audio: Option<Usd>,
    /// Prices for requests with a larger context.
    pub tiers: Vec<PriceTier>,
}

/// Prices that count for the whole request once its input is larger than a bound.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceTier {
    /// Input tokens above which the tier counts, such as 200000.
    pub above: u64,
    /// Input that was not cached.
    #[serde(default)]
    pub input: Option<Usd>,
    /// Output.
    #[serde(default)]
    pub output: Option<Usd>,
    /// Input read from the upstream's cache.
    #[serde(default)]
    pub cache_read: Option<Usd>,
    /// Input written to the upstream's cache for its usual time.
    #[serde(default)]
    pub cache_write: Option<Usd>,
    /// Input written to the upstream's cache for an hour.
    #[serde(default)]
    pub cache_write_1h: Option<Usd>,
    /// Reasoning, where it is priced apart from output.
    #[serde(default)]
    pub reasoning: Option<Usd>,
}
