//! `GET /admin/guests`: every policy of the generation in force, what it may do, what it cost and how often it failed.
//!
//! Never shows a secret; their names only.

use serde_json::{Value, json};

use crate::generation::Generation;
use crate::host::Phase;
use crate::state::State;
use crate::state::guests::Outcome;

pub(super) fn list(generation: &Generation, state: &State) -> Value {
    let guests = generation.hooks.all().iter().map(|hook| {
        let record = state.guests.record(&hook.guest.name);
        let phases = hook.phases().iter().map(|phase| {
            let counts = record.phase(phase as usize);
            let mut what = json!({
                "calls": counts.calls(),
                "total_us": counts.took().as_micros() as u64,
                "safepoints": counts.safepoints(),
            });
            for outcome in Outcome::ALL {
                what[outcome.as_str()] = counts.count(outcome).into();
            }
            (phase.name().to_owned(), what)
        });
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
            "off": hook.is_off(),
            "phases": phases,
            "memory_bytes": record.memory.load(std::sync::atomic::Ordering::Relaxed),
            "replaced": record.replaced.load(std::sync::atomic::Ordering::Relaxed),
            "switched_off": record.switched_off.load(std::sync::atomic::Ordering::Relaxed),
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
                "memory_bytes": budget.memory,
                "safepoints": budget.safepoints,
                "host_calls": budget.host_calls,
                "output_bytes": budget.output,
            },
        })
    });
    json!({ "generation": generation.number, "guests": guests.collect::<Vec<_>>() })
}

/// The names of the phases, in the order of their counts.
pub(super) fn phases() -> Vec<&'static str> {
    Phase::ALL.iter().map(|phase| phase.name()).collect()
}
