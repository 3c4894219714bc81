//! `GET /admin/guests`: every policy and adapter of the generation in force, what it may do, what it cost and how often it
//! failed.
//!
//! Never shows a secret; their names only.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Value, json};

use crate::generation::Generation;
use crate::guest::adapter::{Function, Seen};
use crate::host::Phase;
use crate::state::State;
use crate::state::guests::{Counts, Outcome};

pub(super) fn list(generation: &Generation, state: &State) -> Value {
    let guests = generation.hooks.all().iter().map(|hook| {
        let record = state.guests.record(&hook.guest.name);
        let phases = hook
            .phases()
            .iter()
            .map(|phase| (phase.name().to_owned(), counted(record.phase(phase as usize), &Outcome::POLICY)));
        let phases: serde_json::Map<String, Value> = phases.collect();
        let (grants, budget) = (&hook.guest.grants, &hook.guest.budget);
        json!({
            "name": &*hook.guest.name,
            "policy": hook.bundle.name,
            "version": hook.bundle.manifest.version,
            "description": hook.bundle.manifest.description,
            "digest": hook.bundle.digest,
            "file": hook.bundle.main.label,
            "guard": hook.bundle.manifest.guard,
            "shadow": hook.shadow,
            "off": hook.is_off(state),
            "phases": phases,
            "memory_bytes": record.memory.load(Relaxed),
            "replaced": record.replaced.load(Relaxed),
            "switched_off": record.switched_off.load(Relaxed),
            "last_error": record.last_error.load().as_deref(),
            "grants": {
                "http": grants.http,
                "private_addresses": grants.private_addresses,
                "secrets": grants.secrets.keys().collect::<Vec<_>>(),
                "kv": grants.kv,
                "models": grants.models,
            },
            "budget": {
                "cpu_us": budget.cpu.as_micros() as u64,
                "total_us": budget.total.as_micros() as u64,
                "wait_ms": budget.wait.as_millis() as u64,
                "memory_bytes": budget.memory,
                "safepoints": budget.safepoints,
                "host_calls": budget.host_calls,
                "output_bytes": budget.output,
            },
        })
    });
    let guests = guests.collect::<Vec<_>>();
    let adapters = generation.adapters.iter().map(|adapter| speaks(adapter.as_ref(), state)).collect::<Vec<_>>();
    json!({ "generation": generation.number, "guests": guests, "adapters": adapters })
}

/// An adapter.
fn speaks(adapter: &dyn Seen, state: &State) -> Value {
    let about = adapter.about();
    let record = state.guests.adapter(about.label, Function::NAMES);
    let functions = Function::NAMES.iter().enumerate();
    let functions: serde_json::Map<String, Value> =
        functions.map(|(at, name)| ((*name).to_owned(), counted(record.phase(at), &Outcome::ADAPTER))).collect();
    json!({
        "name": about.label,
        "title": about.title,
        "version": about.version,
        "digest": about.digest,
        "file": about.file,
        "functions": functions,
        "memory_bytes": record.memory.load(Relaxed),
        "replaced": record.replaced.load(Relaxed),
        "last_error": record.last_error.load().as_deref(),
        "budget": {
            "cpu_us": about.lease.cpu.as_micros() as u64,
            "memory_bytes": about.lease.memory,
            "host_calls": about.lease.host_calls,
            "output_bytes": about.lease.output,
        },
    })
}

/// The counts of one phase or function.
fn counted(counts: &Counts, outcomes: &[Outcome]) -> Value {
    let mut what = json!({
        "calls": counts.calls(),
        "total_us": counts.took().as_micros() as u64,
        "safepoints": counts.safepoints(),
        // Calls that took no longer than so many microseconds, and longer than the bucket before.
        "took_us": counts.buckets().map(|(end, count)| json!([end, count])).collect::<Vec<_>>(),
    });
    for outcome in outcomes {
        what[outcome.as_str()] = counts.count(*outcome).into();
    }
    what
}

/// The names of the phases, in the order of their counts.
pub(super) fn phases() -> Vec<&'static str> {
    Phase::ALL.iter().map(|phase| phase.name()).collect()
}
