//! What is done after a failed try: one decision, made of plain values.
//!
//! Never waits and never looks at a clock. The rules, in this order:
//!
//! 1. A context that did not fit and a refused content have chains of their own; where there is one, only it is tried.
//! 2. What every target would refuse (400, 422) ends the exchange.
//! 3. What one credential is refused for (401, 402, 403, 429) is tried at once with the next credential of the pool.
//! 4. 401, 402, 403, 404 and whatever else this target will not answer: the next target.
//! 5. A missed clock has spent the wait already: the next target, the same one only where there is no other.
//! 6. 429: the next target, as long as one is untried. Its wait is sat out only where it is shorter than the backoff.
//! 7. 5xx and broken connections: the same target again after the backoff, up to `per_target` tries (one where there is
//!    no other target, unless the operator says more); but a longer wait that the provider asks for is not sat out while
//!    another target is untried.
//! 8. With no target untried: the one that may be asked again soonest.
//!
//! A wait that does not fit into what is left of `max_wait` or of the exchange's time is never begun.

use std::time::Duration;

use crate::fault::{Fault, Kind, Retry as Class};
use crate::route::Retry;

/// What was tried so far, and what is left to try.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// Attempts of the exchange.
    pub attempts: u32,
    /// Those of the target that failed now.
    pub of_target: u32,
    /// The exchange has no other target.
    pub alone: bool,
    /// How long the provider, or the breaker of the target, wants us to wait.
    pub stated: Option<Duration>,
    /// What was waited so far.
    pub waited: Duration,
    /// What is left of the exchange's time.
    pub left: Duration,
    /// The target's pool has a credential that was not refused yet and does not rest.
    pub keys: bool,
    /// A target is left that was not tried yet.
    pub untried: bool,
    /// A target is left in the chain for contexts that did not fit, or for refused content.
    pub chain: bool,
    /// How long until the first of the other targets that were tried may be asked again.
    pub elsewhere: Option<Duration>,
    /// A random share, 0 to 1, for the jitter.
    pub dice: f64,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Give up and report the fault.
    Stop,
    /// The same target at once, with another credential.
    Key,
    /// The same target after a wait.
    Again(Duration),
    /// The first untried target.
    Next,
    /// Another target that was tried before, after a wait.
    Back(Duration),
    /// The chain for this kind of fault.
    Chain,
}

impl Decision {
    /// For the trace.
    pub fn describe(self) -> serde_json::Value {
        let (what, wait) = match self {
            Decision::Stop => ("stop", None),
            Decision::Key => ("key", None),
            Decision::Again(wait) => ("again", Some(wait)),
            Decision::Next => ("next", None),
            Decision::Back(wait) => ("back", Some(wait)),
            Decision::Chain => ("chain", None),
        };
        match wait {
            Some(wait) => serde_json::json!({"then": what, "wait_ms": wait.as_millis() as u64}),
            None => serde_json::json!({"then": what}),
        }
    }
}

/// Decides.
pub(super) fn next(fault: &Fault, tally: &Tally, rules: &Retry) -> Decision {
    if tally.attempts >= rules.max_attempts {
        return Decision::Stop;
    }
    match fault.kind {
        Kind::ContextLength | Kind::ContentPolicy if tally.chain => return Decision::Chain,
        // A chain of its own is the only way on from here.
        Kind::ContentPolicy => return Decision::Stop,
        _ => {}
    }
    if fault.retry() == Class::Never {
        return Decision::Stop;
    }
    if fault.kind.is_of_credential() && tally.keys {
        return Decision::Key;
    }
    let again = again(fault, tally, rules);
    if tally.untried {
        return match again {
            Some(wait) if rests_here(fault, tally, rules) => Decision::Again(wait),
            _ => Decision::Next,
        };
    }
    let elsewhere = tally.elsewhere.filter(|wait| fits(*wait, tally, rules));
    match (again, elsewhere) {
        (Some(here), Some(there)) if there < here => Decision::Back(there),
        (Some(here), _) => Decision::Again(here),
        (None, Some(there)) => Decision::Back(there),
        (None, None) => Decision::Stop,
    }
}

/// How long to wait before the same target is asked again; None where that makes no sense or does not fit.
fn again(fault: &Fault, tally: &Tally, rules: &Retry) -> Option<Duration> {
    if fault.retry() != Class::Same || tally.of_target >= rules.tries(tally.alone) {
        return None;
    }
    let own = backoff(tally.of_target, tally.dice, rules);
    // Asking earlier than the provider wants would only be refused again.
    let wait = tally.stated.unwrap_or(own);
    fits(wait, tally, rules).then_some(wait)
}

/// Whether the same target is asked again although another one is untried.
fn rests_here(fault: &Fault, tally: &Tally, rules: &Retry) -> bool {
    let stated_short = tally.stated.is_some_and(|stated| stated <= ceiling(tally.of_target, rules));
    match fault.kind {
        Kind::RateLimited => stated_short,
        _ if fault.kind.is_timeout() => false,
        _ => tally.stated.is_none() || stated_short,
    }
}

fn fits(wait: Duration, tally: &Tally, rules: &Retry) -> bool {
    tally.waited + wait <= rules.max_wait && wait < tally.left
}

/// The wait after so many tries of a target: doubled each time, between half of it and all of it.
pub(super) fn backoff(tries: u32, dice: f64, rules: &Retry) -> Duration {
    ceiling(tries, rules).mul_f64(0.5 + 0.5 * dice.clamp(0.0, 1.0))
}

fn ceiling(tries: u32, rules: &Retry) -> Duration {
    let doubled = rules.backoff.saturating_mul(1 << tries.saturating_sub(1).min(16));
    doubled.min(rules.max_backoff)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn after(kind: Kind, stated_ms: Option<u64>, tally: Tally, rules: &Retry) -> Decision {
        next(&Fault::new(kind, ""), &Tally { stated: stated_ms.map(MS), ..tally }, rules)
    }

    /// One try of one of two targets, a minute left; the dice show their highest.
    fn fresh() -> Tally {
        Tally { attempts: 1, of_target: 1, left: MS(60_000), untried: true, dice: 1.0, ..Tally::default() }
    }

    /// One try of the one target that this exchange was left with.
    fn alone() -> Tally {
        Tally { untried: false, ..fresh() }
    }

    #[test]
    fn a_target_without_a_rival_is_tried_once_unless_the_operator_says_more() {
        let lone = Tally { alone: true, ..alone() };
        for kind in [Kind::UpstreamError, Kind::UpstreamUnreachable, Kind::RateLimited, Kind::HeadTimeout] {
            assert_eq!(after(kind, Some(150), lone, &Retry::default()), Decision::Stop, "{kind:?}");
            let twice = Retry { per_target: Some(2), ..Retry::default() };
            assert_eq!(after(kind, Some(150), lone, &twice), Decision::Again(MS(150)), "{kind:?}");
        }
        // A credential of a pool is no second try of what failed.
        let keyed = Tally { keys: true, ..lone };
        assert_eq!(after(Kind::RateLimited, None, keyed, &Retry::default()), Decision::Key);
    }

    #[test]
    fn every_rule_holds() {
        use Decision::*;
        use Kind::*;
        let rules = Retry::default();
        let keyed = Tally { keys: true, ..fresh() };
        let chained = Tally { chain: true, ..fresh() };
        let second = Tally { attempts: 2, of_target: 2, ..fresh() };
        let table: &[(&str, Kind, Option<u64>, Tally, Decision)] = &[
            // 1
            ("a full context goes to its chain", ContextLength, None, chained, Chain),
            ("without a chain to the next target", ContextLength, None, fresh(), Next),
            ("a refused content goes to its chain", ContentPolicy, None, chained, Chain),
            ("without a chain nowhere", ContentPolicy, None, fresh(), Stop),
            // 2
            ("a bad request stops", UpstreamRejected, None, chained, Stop),
            ("the caller's own error stops", InvalidRequest, None, keyed, Stop),
            ("no time left stops", TotalTimeout, None, keyed, Stop),
            // 3
            ("a dead key: the next key", UpstreamCredential, None, keyed, Key),
            ("an empty account: the next key", QuotaExceeded, None, keyed, Key),
            ("a key that may not: the next key", UpstreamForbidden, None, keyed, Key),
            ("a limited key: the next key, no wait", RateLimited, Some(200), keyed, Key),
            ("a 500 has nothing to do with keys", UpstreamError, None, keyed, Again(MS(200))),
            // 4
            ("no more keys: the next target", UpstreamCredential, None, fresh(), Next),
            ("no such model here: the next target", UpstreamNotFound, None, fresh(), Next),
            ("what it cannot do: the next target", UnsupportedFeature, None, fresh(), Next),
            ("and with none left the end", UpstreamCredential, None, alone(), Stop),
            // 5
            ("a late head: the next target", HeadTimeout, None, fresh(), Next),
            ("a late token: the next target", FirstTokenTimeout, None, fresh(), Next),
            ("no connection in time: the next target", ConnectTimeout, None, fresh(), Next),
            ("a late head and no other: again", HeadTimeout, None, alone(), Again(MS(200))),
            // 6
            ("429: the next target", RateLimited, Some(3000), fresh(), Next),
            ("429 without a wait: the next target", RateLimited, None, fresh(), Next),
            ("429 with a short wait: here", RateLimited, Some(150), fresh(), Again(MS(150))),
            ("429 and no other: wait as told", RateLimited, Some(3000), alone(), Again(MS(3000))),
            ("429 and no other, no wait stated: the backoff", RateLimited, None, alone(), Again(MS(200))),
            // 7
            ("500: again after the backoff", UpstreamError, None, fresh(), Again(MS(200))),
            ("overloaded: again after the backoff", Overloaded, None, fresh(), Again(MS(200))),
            ("500 with a long wait: the next target", UpstreamError, Some(3000), fresh(), Next),
            ("a dead connection: again", UpstreamUnreachable, None, fresh(), Again(MS(200))),
            ("a broken stream: again", StreamBroken, None, fresh(), Again(MS(200))),
            ("twice is enough", UpstreamError, None, second, Next),
            // 8
            ("none untried: back to one that failed before", UpstreamError, None, back(second, 700), Back(MS(700))),
            ("or here, if that is sooner", UpstreamError, None, back(fresh(), 700), Again(MS(200))),
            ("nothing left", UpstreamError, None, Tally { untried: false, ..second }, Stop),
        ];
        for (what, kind, wait, tally, expected) in table {
            assert_eq!(after(*kind, *wait, *tally, &rules), *expected, "{what}");
        }
    }

    fn back(tally: Tally, ms: u64) -> Tally {
        Tally { untried: false, elsewhere: Some(MS(ms)), ..tally }
    }

    #[test]
    fn a_wait_that_does_not_fit_is_not_begun() {
        use Decision::*;
        let rules = Retry { max_wait: MS(1000), ..Retry::default() };
        let limited = |tally| after(Kind::RateLimited, Some(800), tally, &rules);
        assert_eq!(limited(alone()), Again(MS(800)));
        // All waits together are bounded.
        assert_eq!(limited(Tally { waited: MS(300), ..alone() }), Stop);
        // So is the exchange.
        assert_eq!(limited(Tally { left: MS(800), ..alone() }), Stop);
        assert_eq!(limited(back(Tally { left: MS(700), ..fresh() }, 600)), Back(MS(600)));
        assert_eq!(limited(back(Tally { left: MS(700), ..fresh() }, 900)), Stop);
        // An untried target needs no wait.
        assert_eq!(limited(Tally { left: MS(10), ..fresh() }), Next);
    }

    #[test]
    fn the_cap_on_attempts_holds_for_every_way_on() {
        let rules = Retry { max_attempts: 3, ..Retry::default() };
        let tally = Tally { attempts: 3, keys: true, chain: true, ..fresh() };
        for kind in [Kind::RateLimited, Kind::ContextLength, Kind::UpstreamCredential, Kind::UpstreamError] {
            assert_eq!(after(kind, None, tally, &rules), Decision::Stop, "{kind:?}");
        }
    }

    #[test]
    fn the_backoff_doubles_up_to_its_bound_with_jitter_between_half_and_all() {
        let rules = Retry { backoff: MS(100), max_backoff: MS(350), ..Retry::default() };
        let waits = |dice| [1, 2, 3, 40].map(|tries| backoff(tries, dice, &rules));
        assert_eq!(waits(1.0), [100, 200, 350, 350].map(MS));
        assert_eq!(waits(0.0), [50, 100, 175, 175].map(MS));
    }
}
