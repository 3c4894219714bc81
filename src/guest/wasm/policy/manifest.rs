//! What a component says of itself, as the gateway reads manifests.
//!
//! The same checks as for a policy in Lua; never takes the component's word for what it may do.

use std::time::Duration;

use super::wit;
use crate::guest::bundle::{Coalesce, Manifest, StreamMode};
use crate::host::metrics::Declared;
use crate::state::tally::Kind;

/// Reads a description.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(said: wit::Description) -> Result<Manifest, String> {
    let given = |text: String| (!text.is_empty()).then_some(text);
    let config = match said.config.is_empty() {
        true => None,
        false => Some(
            serde_json::from_str(&said.config)
                .map_err(|error| format!("describes its config by what is not JSON: {error}"))?,
        ),
    };
    let metrics = said.metrics.into_iter().map(|metric| {
        let kind = match metric.kind {
            wit::MetricKind::Counter => Kind::Counter,
            wit::MetricKind::Gauge => Kind::Gauge,
            wit::MetricKind::Histogram => Kind::Histogram,
        };
        (metric.name, Declared { kind, help: metric.help, labels: metric.labels, buckets: metric.buckets })
    });
    let manifest = Manifest {
        name: given(said.title),
        version: given(said.version),
        description: given(said.description),
        api: None,
        guard: said.guard,
        stream: match said.stream {
            wit::StreamMode::None => StreamMode::None,
            wit::StreamMode::Event => StreamMode::Event,
            wit::StreamMode::Buffer => StreamMode::Buffer,
        },
        coalesce: said.coalesce.map(|coalesce| Coalesce { events: coalesce.events, ms: coalesce.ms.map(u64::from) }),
        // Told by what it exports.
        arguments: false,
        tick: said.tick_ms.map(|ms| humantime::format_duration(Duration::from_millis(u64::from(ms))).to_string()),
        metrics: metrics.collect(),
        config,
        adapter: None,
    };
    manifest.check()?;
    Ok(manifest)
}
