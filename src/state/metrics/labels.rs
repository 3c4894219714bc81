//! The labels of the series, and the keys that handles of the busiest are kept under.
//!
//! Every label set has an end: names come from the operator or are ours, and models are counted by `metrics`.

use hashbrown::Equivalent;
use prometheus_client::encoding::EncodeLabelSet;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ModelLabels {
    pub gen_ai_operation_name: &'static str,
    pub gen_ai_provider_name: String,
    pub gen_ai_request_model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenLabels {
    pub gen_ai_operation_name: &'static str,
    pub gen_ai_provider_name: String,
    pub gen_ai_request_model: String,
    pub gen_ai_token_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub endpoint: &'static str,
    pub status: u16,
    pub code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    pub provider: String,
    pub code: &'static str,
}

/// Whose series: operation, provider, model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MeterKey {
    pub op: &'static str,
    pub provider: String,
    pub model: String,
}

/// A [`MeterKey`] to look for.
#[derive(Hash)]
pub struct MeterName<'a> {
    pub op: &'static str,
    pub provider: &'a str,
    pub model: &'a str,
}

impl Equivalent<MeterKey> for MeterName<'_> {
    fn equivalent(&self, key: &MeterKey) -> bool {
        (self.op, self.provider, self.model) == (key.op, key.provider.as_str(), key.model.as_str())
    }
}

/// [`AttemptLabels`] to look for.
#[derive(Hash)]
pub struct AttemptName<'a> {
    pub provider: &'a str,
    pub code: &'static str,
}

impl Equivalent<AttemptLabels> for AttemptName<'_> {
    fn equivalent(&self, labels: &AttemptLabels) -> bool {
        (self.provider, self.code) == (labels.provider.as_str(), labels.code)
    }
}

/// Labels of [`super::Decision`]s; rules are named by the operator, so they have an end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabels {
    pub rule: String,
    pub decision: &'static str,
}

/// What is paid apart from the exchanges themselves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApartLabels {
    /// `hedge`: an attempt that was given up because another target was faster. `mirror`: a silent copy.
    pub why: &'static str,
    pub provider: String,
    pub code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TargetLabels {
    pub target: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReloadLabels {
    pub result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CacheLabels {
    pub status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SharedReadLabels {
    pub outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SharedKvLabels {
    pub outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SharedWriteLabels {
    pub outcome: &'static str,
}
