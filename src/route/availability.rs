//! Why nothing is left to try: the fault, and the object in its body that says what removed each target.
//!
//! The form is OpenRouter's where it has one. Names targets and constraints, never addresses or credentials.

use std::time::Duration;

use serde_json::json;

use super::{Plan, Target, Verdict};
use crate::fault::{Fault, Kind};
use crate::state::health::Refused;

/// What is said of a target that was planned for and then took nothing.
pub fn refused(target: &Target, refused: Refused) -> Verdict {
    let Refused { why, retry_after } = refused;
    let (by, why) = (why.as_str(), why.described().to_owned());
    Verdict { target: target.name(), removed_by: Some(by), why, retry_after }
}

/// The fault of a plan without targets, or without one that takes anything.
pub fn fault(models: &[&str], plan: &Plan) -> Fault {
    let removed = || plan.verdicts.iter().filter(|verdict| verdict.removed_by.is_some());
    let of_health = |verdict: &&Verdict| matches!(verdict.removed_by, Some("open" | "drained" | "full"));
    let mut filters: Vec<&str> = removed().filter_map(|verdict| verdict.removed_by).collect();
    filters.sort_unstable();
    filters.dedup();
    let named = models.join("`, `");
    let by = filters.join(", ");
    let unwell = removed().any(|verdict| of_health(&verdict));
    let (kind, text) = if unwell {
        (Kind::NoTarget, format!("No target of the model `{named}` takes requests now ({by})."))
    } else {
        (
            Kind::NoTargetFits,
            format!("No target of the model `{named}` is allowed or able to serve this request ({by})."),
        )
    };
    let wait = removed().filter_map(|verdict| verdict.retry_after).min();
    let mut fault = Fault::new(kind, text).retry_after(wait.filter(|_| unwell));
    let targets = removed().map(|verdict| {
        json!({
            "target": verdict.target,
            "removed_by": verdict.removed_by,
            "why": verdict.why,
            "retry_after": verdict.retry_after.map(seconds),
        })
    });
    fault.availability = Some(Box::new(json!({
        "code": fault.code(),
        "retryable": unwell,
        "retry_after": fault.retry_after.map(seconds),
        "requested_models": models,
        "excluded_by": filters,
        "targets": targets.collect::<Vec<_>>(),
    })));
    fault
}

/// Seconds with three decimals.
fn seconds(wait: Duration) -> f64 {
    (wait.as_secs_f64() * 1000.0).round() / 1000.0
}
