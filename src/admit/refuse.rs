//! Refusals as faults: which rule, what is left of it, and what to do.

use std::fmt::Write;
use std::time::Duration;

use crate::cost;
use crate::fault::{Fault, Kind};
use crate::state::limit::meter::{Unit, Wait};
use crate::state::limit::{Queued, Refusal};

/// What to wait where nothing says when something that is under way ends.
const RELEASE_WAIT: Duration = Duration::from_secs(1);

pub(super) fn fault(refusal: &Refusal) -> Fault {
    if refusal.away {
        return away(refusal);
    }
    let kind = if refusal.rule.budget.is_some() { Kind::BudgetExceeded } else { Kind::LimitExceeded };
    Fault::new(kind, text(refusal)).retry_after(retry_after(refusal.wait))
}

fn away(refusal: &Refusal) -> Fault {
    let text = format!("The counts of the limit `{}` cannot be reached.", refusal.rule.name);
    Fault::new(Kind::LimitsUnavailable, text).retry_after(retry_after(refusal.wait))
}

/// The refusal of a rule that is for targets: another target may have room.
pub(super) fn target(refusal: &Refusal) -> Fault {
    if refusal.away {
        return away(refusal);
    }
    Fault::new(Kind::TargetLimited, text(refusal)).retry_after(retry_after(refusal.wait))
}

fn retry_after(wait: Wait) -> Option<Duration> {
    match wait {
        Wait::Millis(millis) => Some(Duration::from_millis(millis)),
        Wait::Release => Some(RELEASE_WAIT),
        Wait::Never => None,
    }
}

fn text(refusal: &Refusal) -> String {
    let Refusal { rule, unit, limit, used, amount: asked, .. } = refusal;
    let time = refusal.shape.words();
    let what = if rule.budget.is_some() { "budget" } else { "limit" };
    let mut text = format!("The {what} `{}` allows {}", rule.name, amount(*unit, *limit));
    // Writing into a string does not fail.
    let _ = match unit {
        Unit::Concurrency => write!(text, " at the same time, and {used} are under way."),
        _ => write!(text, " per {time}; {} used", amount(*unit, *used)),
    };
    if *unit != Unit::Concurrency {
        let _ = match refusal.wait {
            Wait::Never if asked > limit => {
                write!(
                    text,
                    ", and this request was estimated at {}, more than all of it; send less, or a smaller bound of output tokens.",
                    amount(*unit, *asked)
                )
            }
            _ if matches!(unit, Unit::Requests) => write!(text, "."),
            _ if refusal.assumed => {
                write!(text, ", and this request needs {} at least.", amount(*unit, *asked))
            }
            _ => write!(text, ", and this request was estimated at {}.", amount(*unit, *asked)),
        };
    }
    let _ = match refusal.queued {
        None => Ok(()),
        Some(Queued::Full) => write!(text, " Its queue is full."),
        Some(Queued::InVain(millis)) => write!(text, " It waited {millis} ms in the queue for room."),
    };
    text
}

fn amount(unit: Unit, amount: u64) -> String {
    match unit {
        Unit::Money => format!("${}", cost::nano_to_decimal(amount)),
        Unit::Requests | Unit::Concurrency => format!("{amount} requests"),
        Unit::InputTokens => format!("{amount} input tokens"),
        Unit::OutputTokens => format!("{amount} output tokens"),
        Unit::Tokens => format!("{amount} tokens"),
    }
}
