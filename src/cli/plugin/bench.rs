//! `portcullis plugin bench`: what calls of a component cost.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{MEMORY_FLAG, Plugin, Shape};
use crate::cli::bench;
use crate::guest::Engine;
use crate::guest::adapter::Lease;
use crate::guest::settings::settings;
use crate::guest::stand::Stand;
use crate::guest::wasm::{Described, Loading, Machine, Policy};
use crate::host::{Budget, Grants, Guest};

pub(super) fn run(plugin: &Plugin) -> Result<(), String> {
    let bytes = plugin.bytes()?;
    let machine = Arc::new(Machine::new()?);
    let began = Instant::now();
    if !Shape::of(&bytes)?.is_policy() {
        let adapter = plugin.load_on(&machine, Lease::default())?;
        bench::line("compile, link and start", began.elapsed());
        return bench::adapter(&adapter);
    }
    let name = plugin.name();
    let lease = Lease::default();
    let (compiled, memory_by) = (None, Some(MEMORY_FLAG));
    let loading = Loading { machine: &machine, compiled, name: &name, lease, memory_by, config: String::new() };
    let budget = Budget { memory: plugin.memory << 20, ..bench::BUDGET };
    let guest = |metrics| Arc::new(Guest { name: name.as_str().into(), grants: Grants::default(), budget, metrics });
    let described = Described::load(&loading, &bytes, &guest(BTreeMap::new()))?;
    let guest = guest(described.manifest.metrics.clone());
    let written: Map<String, Value> = match plugin.config.as_str() {
        "" => Map::new(),
        text => serde_json::from_str(text).map_err(|error| format!("--config is no JSON object: {error}"))?,
    };
    let config = settings(&described.manifest, &written).map_err(bench::unfit)?;
    let policy = Policy::start(&described, &guest, config.to_string())?;
    bench::line("compile, link and start", began.elapsed());
    let began = Instant::now();
    drop(Policy::start(&described, &guest, config.to_string())?);
    bench::line("start for other settings", began.elapsed());
    bench::policy(Stand::around(Engine::Wasm(policy), guest))
}
