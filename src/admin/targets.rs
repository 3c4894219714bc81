//! `/admin/targets`: how every target, key and provider is doing, and the operator's word on them.
//!
//! Shows names and figures, never a credential or an address.

use http::StatusCode;
use serde_json::{Value, json};

use crate::generation::Generation;
use crate::state::State;
use crate::state::health::{Millis, Record, Standing, Wanted};

/// Every record by name: those of the configuration, and those that requests have named since the process began.
pub fn list(generation: &Generation, state: &State) -> Value {
    for name in generation.routes.models.keys() {
        if let Ok(tree) = generation.tree(name) {
            tree.targets().iter().for_each(|target| drop(target.record(&state.health).clone()));
        }
    }
    let now = state.now();
    let rows: Vec<Value> = state.health.all().iter().map(|record| row(record, now)).collect();
    json!({"targets": rows})
}

fn row(record: &Record, now: Millis) -> Value {
    let measure = record.measure(now);
    let kind = match record.name.as_str() {
        name if name.contains('/') => "target",
        name if name.contains('#') => "key",
        _ => "provider",
    };
    let retry_in = match measure.standing {
        Standing::Open { until: Some(until) } => Some(until.saturating_sub(now)),
        _ => None,
    };
    let (good, failed) = record.totals();
    let failed: serde_json::Map<String, Value> =
        failed.into_iter().map(|(kind, count)| (kind.row().code.to_owned(), count.into())).collect();
    json!({
        "name": record.name,
        "kind": kind,
        "standing": measure.standing.as_str(),
        "retry_in_ms": retry_in,
        "in_flight": measure.in_flight,
        "places": measure.places,
        "waiting": record.waiting(),
        "good": good,
        "failed": failed,
        "window": {"attempts": measure.samples, "error_rate": measure.error_rate},
        "first_content_ms": measure.ttft.described(),
        "duration_ms": measure.duration.described(),
        "tokens_per_second": measure.throughput.described(),
        "tool_validity": measure.tool_validity,
        "usage_left": measure.usage_left,
    })
}

/// Does what `/admin/targets/{name}/{word}` says. None when that is no such path.
pub fn act(path: &str, generation: &Generation, state: &State) -> Option<(StatusCode, Value)> {
    let (name, word) = path.strip_prefix("/admin/targets/")?.rsplit_once('/')?;
    let wanted = match word {
        "drain" => Wanted::Drained,
        "open" => Wanted::Open,
        "close" => Wanted::Closed,
        _ => return None,
    };
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    let provider = name.split(['/', '#']).next().unwrap_or_default();
    let known = generation.routes.providers.iter().find(|known| known.name == provider);
    let record = match state.health.find(&name) {
        Some(record) => record,
        // One that nobody has asked for yet can be drained as well.
        None if known.is_some() && name.contains('/') => {
            known.map(|known| state.health.target(&name, &known.health)).unwrap_or_else(|| state.health.record(&name))
        }
        None if known.is_some() && *name == *provider => state.health.record(&name),
        None => {
            let text = format!("No target, key or provider is called `{name}`; GET /admin/targets lists them.");
            return Some((StatusCode::NOT_FOUND, json!({"error": {"code": "unknown_target", "message": text}})));
        }
    };
    record.want(wanted);
    tracing::info!(target = %record.name, "the operator wants it {word}");
    Some((StatusCode::OK, row(&record, state.now())))
}
