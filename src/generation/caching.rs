//! From the written cache to its rules.

use std::sync::Arc;

use crate::cache::policy::{General, Overrides, Partition, Rules};
use crate::chat::Finish;
use crate::config::{CacheFinish, CacheOverrides, Config, Partition as Written, PromptMarks};

/// The rules; None when nobody's answers are kept.
pub(super) fn build(config: &Config) -> Option<Rules> {
    let models = config.models.iter().map(|(name, model)| (name.to_owned(), overrides(&model.cache)));
    let (patterns, models): (Vec<_>, Vec<_>) =
        models.filter(|(_, said)| *said != Overrides::default()).partition(|(name, _)| name.contains('*'));
    let keys = config.keys.iter().map(|key| (key.name.clone(), overrides(&key.cache)));
    let keys: Vec<_> = keys.filter(|(_, said)| *said != Overrides::default()).collect();
    let enabled = config.cache.exact.as_ref().is_some_and(|exact| exact.enabled);
    let mut said = models.iter().chain(&patterns).chain(&keys);
    let prompt = config.cache.prompt == PromptMarks::Auto;
    if !enabled && !prompt && !said.any(|(_, said)| said.enabled == Some(true) || said.prompt == Some(true)) {
        return None;
    }
    let exact = config.cache.exact.clone().unwrap_or_default();
    let finishes = exact.finishes.iter().flat_map(|finish| match finish {
        CacheFinish::Stop => [Finish::Stop, Finish::StopSequence].as_slice(),
        CacheFinish::Length => &[Finish::Length],
        CacheFinish::ToolCalls => &[Finish::ToolCalls],
    });
    Some(Rules {
        max_bytes: exact.max_bytes.get(),
        enabled,
        prompt,
        ttl: exact.ttl.get(),
        partition: partition(exact.partition),
        models: models.into_iter().collect(),
        patterns,
        keys: keys.into_iter().collect(),
        general: Arc::new(General {
            max_ttl: exact.max_ttl.get(),
            max_entry_bytes: exact.max_entry_bytes.as_usize(),
            order_insensitive: exact.order_insensitive,
            finishes: finishes.copied().collect(),
            ignore: exact.ignore,
            single_flight: exact.single_flight,
            client_control: exact.client_control,
        }),
    })
}

fn overrides(written: &CacheOverrides) -> Overrides {
    Overrides {
        enabled: written.enabled,
        ttl: written.ttl.map(Into::into),
        partition: written.partition.map(partition),
        prompt: written.prompt.map(|marks| marks == PromptMarks::Auto),
    }
}

fn partition(written: Written) -> Partition {
    match written {
        Written::Key => Partition::Key,
        Written::Project => Partition::Project,
        Written::Global => Partition::Global,
    }
}
