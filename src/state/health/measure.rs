//! What is known of a target at one moment: plain values for planning, guests, metrics and people.
//!
//! Says nothing of how it became known; `health` puts it together.

use super::Millis;

/// What is known of a target at one moment: plain data for planning, guests, metrics and people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measure {
    pub standing: Standing,
    pub in_flight: u32,
    /// Places at the target, where they are bounded.
    pub places: Option<u32>,
    /// Peak EWMA of the time to the first content of streams, in milliseconds; None before the first.
    pub ttft_ewma_ms: Option<f64>,
    /// Peak EWMA of the duration of whole answers, in milliseconds.
    pub duration_ewma_ms: Option<f64>,
    /// EWMA of output tokens per second.
    pub throughput_ewma: Option<f64>,
    pub ttft: Quantiles,
    pub duration: Quantiles,
    /// Output tokens per second after the first content.
    pub throughput: Quantiles,
    /// Share of failed attempts in the window, 0 to 1.
    pub error_rate: f64,
    /// Attempts in the window.
    pub samples: u32,
    /// Share of tool calls whose arguments parsed and fitted their schema; None before the first.
    pub tool_validity: Option<f64>,
    /// Share of the provider's own rate limit that is left, 0 to 1, as its headers say; None when it says nothing.
    pub usage_left: Option<f64>,
}

impl Measure {
    /// Nothing is known: a target that was never asked.
    pub const UNKNOWN: Measure = Measure {
        standing: Standing::Closed,
        in_flight: 0,
        places: None,
        ttft_ewma_ms: None,
        duration_ewma_ms: None,
        throughput_ewma: None,
        ttft: Quantiles::NONE,
        duration: Quantiles::NONE,
        throughput: Quantiles::NONE,
        error_rate: 0.0,
        samples: 0,
        tool_validity: None,
        usage_left: None,
    };
}

/// Rolling quantiles; None before the first sample. Milliseconds, or tokens per second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Quantiles {
    pub p50: Option<f64>,
    pub p75: Option<f64>,
    pub p90: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
}

impl Quantiles {
    pub const NONE: Quantiles = Quantiles { p50: None, p75: None, p90: None, p95: None, p99: None };

    /// As JSON, with one decimal; null before the first sample.
    pub fn described(&self) -> serde_json::Value {
        let rounded = |value: Option<f64>| value.map(|value| (value * 10.0).round() / 10.0);
        let Quantiles { p50, p75, p90, p95, p99 } = *self;
        p50.map_or(serde_json::Value::Null, |_| {
            serde_json::json!({
                "p50": rounded(p50), "p75": rounded(p75), "p90": rounded(p90), "p95": rounded(p95), "p99": rounded(p99),
            })
        })
    }

    /// The nearest of the quantiles that are kept; `share` is 0 to 1.
    pub fn at(&self, share: f64) -> Option<f64> {
        match share {
            share if share < 0.625 => self.p50,
            share if share < 0.825 => self.p75,
            share if share < 0.925 => self.p90,
            share if share < 0.97 => self.p95,
            _ => self.p99,
        }
    }
}

/// Whether a target gets requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Closed,
    /// A few, to see whether it is well again.
    HalfOpen,
    /// None until then; None means until an operator says so.
    Open { until: Option<Millis> },
    /// None, because the operator wants it so; requests under way go on.
    Drained,
}

impl Standing {
    /// The word in the admin API and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Standing::Closed => "closed",
            Standing::HalfOpen => "half_open",
            Standing::Open { .. } => "open",
            Standing::Drained => "drained",
        }
    }
}
