//! A plan: targets in the order they are to be tried, the rules for trying, and what was thought of each candidate.
//!
//! Plain data; `planner` makes it, policies may change it, `attempt` goes by it.

use std::sync::Arc;
use std::time::Duration;

use super::target::Target;

/// Targets in the order they are to be tried, and the rules for trying.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub targets: Vec<Arc<Target>>,
    /// Where to go on when the conversation did not fit; empty leaves it to `targets`.
    pub on_context_length: Vec<Arc<Target>>,
    /// Where to go on when a provider would not answer for its policy; empty ends the exchange.
    pub on_content_policy: Vec<Arc<Target>>,
    pub rules: Arc<Rules>,
    /// What was thought of each candidate, for the decision trace and the availability object.
    pub verdicts: Vec<Verdict>,
}

/// How a plan is tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    pub retry: Retry,
    /// Start the next target when the first is slow.
    pub hedge: Option<Hedge>,
    /// Let the next target go on from the text so far when a stream breaks off.
    pub continue_on_cut: bool,
    /// Whether other targets are tried at all (`disable_fallbacks`).
    pub fallbacks: bool,
    /// A silent copy of some requests.
    pub mirror: Option<Mirror>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { retry: Retry::default(), hedge: None, continue_on_cut: false, fallbacks: true, mirror: None }
    }
}

/// Bounds on trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attempts of one exchange, all targets together.
    pub max_attempts: u32,
    /// Tries of one target, where the operator says; see [`Retry::tries`].
    pub per_target: Option<u32>,
    /// All waits of one exchange together.
    pub max_wait: Duration,
    /// First wait before the same target is asked again; doubled each time, with jitter.
    pub backoff: Duration,
    /// Longest single wait of the backoff.
    pub max_backoff: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            max_attempts: 5,
            per_target: None,
            max_wait: Duration::from_secs(10),
            backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(5),
        }
    }
}

impl Retry {
    /// Tries of one target; `alone` where the exchange has no other. Clients try again by themselves: a second try at
    /// a target without a rival would double each of theirs, just when that target has too much to do.
    pub fn tries(&self, alone: bool) -> u32 {
        self.per_target.unwrap_or(if alone { 1 } else { 2 })
    }
}

/// When a second target is started beside the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hedge {
    pub after: HedgeAfter,
    /// Share of exchanges that may be hedged, 0 to 1.
    pub budget: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HedgeAfter {
    Fixed(Duration),
    /// This quantile (0 to 1) of the target's own time to the first content.
    Quantile(f64),
}

/// A target that gets copies of requests and whose answers are dropped.
#[derive(Debug, Clone)]
pub struct Mirror {
    pub target: Arc<Target>,
    /// Share of exchanges, 0 to 1.
    pub share: f64,
}

impl PartialEq for Mirror {
    fn eq(&self, other: &Self) -> bool {
        self.target.name() == other.target.name() && self.share == other.share
    }
}

/// What planning thought of one candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// `provider/model`.
    pub target: String,
    /// None when it is in the plan; else the filter that removed it (`max_price`, `context`, `tools`, `open`, …).
    pub removed_by: Option<&'static str>,
    /// The figure or fact behind it, for people.
    pub why: String,
    /// When it may be available again, where that is known.
    pub retry_after: Option<Duration>,
}
