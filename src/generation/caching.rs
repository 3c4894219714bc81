//! From the written cache to its rules.

use std::sync::Arc;

use crate::attempt::Replay;
use crate::cache::embedder::{Embedder, Table};
use crate::cache::fields;
use crate::cache::policy::{General, Overrides, Partition, Rules};
use crate::cache::semantic::Semantic;
use crate::chat::Finish;
use crate::config::{CacheFinish, CacheOverrides, Config, Partition as Written, Pieces, PromptMarks, SemanticCache};

/// The rules; None when nobody's answers are kept.
///
/// # Errors
/// The static table cannot be read.
pub(super) fn build(config: &Config) -> Result<Option<Rules>, String> {
    // Also those that say nothing: whoever is routed by one of them must not hear another's word.
    let models = config.models.iter().map(|(name, model)| (name.to_owned(), overrides(&model.cache)));
    let (mut patterns, models): (Vec<_>, Vec<_>) = models.partition(|(name, _)| name.contains('*'));
    // As routes are found.
    patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
    let keys = config.keys.iter().map(|key| (key.name.clone(), overrides(&key.cache)));
    let keys: Vec<_> = keys.filter(|(_, said)| *said != Overrides::default()).collect();
    let enabled = config.cache.exact.as_ref().is_some_and(|exact| exact.enabled);
    let mut said = models.iter().chain(&patterns).chain(&keys);
    let prompt = config.cache.prompt == PromptMarks::Auto;
    if !enabled && !prompt && !said.any(|(_, said)| said.enabled == Some(true) || said.prompt == Some(true)) {
        return Ok(None);
    }
    let exact = config.cache.exact.clone().unwrap_or_default();
    let finishes = exact.finishes.iter().flat_map(|finish| match finish {
        CacheFinish::Stop => [Finish::Stop, Finish::StopSequence].as_slice(),
        CacheFinish::Length => &[Finish::Length],
        CacheFinish::ToolCalls => &[Finish::ToolCalls],
    });
    Ok(Some(Rules {
        max_bytes: exact.max_bytes.get(),
        enabled,
        prompt,
        semantic: config.cache.semantic.as_ref().map(semantic).transpose()?,
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
            ignore: exact.ignore.iter().map(|name| fields::own_name(name).to_owned()).collect(),
            single_flight: exact.single_flight,
            replay: Replay { pace: exact.replay.pace.get(), joined: exact.replay.pieces == Pieces::Joined },
            shared: exact.shared.is_some_and(|shared| shared.enabled),
            client_control: exact.client_control,
        }),
    }))
}

/// How asks in other words are found.
fn semantic(written: &SemanticCache) -> Result<(Arc<Semantic>, bool), String> {
    let embedder = match (&written.path, &written.model) {
        (Some(path), _) => Embedder::Table(Table::open(path).map_err(|error| format!("cache.semantic.path: {error}"))?),
        (None, Some(name)) => Embedder::Model { name: name.clone(), within: written.timeout.get() },
        (None, None) => return Err("cache.semantic: neither `model` nor `path` is written".to_owned()),
    };
    let semantic = Semantic {
        embedder,
        threshold: written.threshold as f32,
        messages: written.messages,
        system: written.system,
        same_model: written.same_model,
        guard: written.guard,
    };
    Ok((Arc::new(semantic), written.enabled))
}

fn overrides(written: &CacheOverrides) -> Overrides {
    Overrides {
        enabled: written.enabled,
        ttl: written.ttl.map(Into::into),
        partition: written.partition.map(partition),
        prompt: written.prompt.map(|marks| marks == PromptMarks::Auto),
        semantic: written.semantic,
    }
}

fn partition(written: Written) -> Partition {
    match written {
        Written::Key => Partition::Key,
        Written::Project => Partition::Project,
        Written::Global => Partition::Global,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, Known};

    fn rules(yaml: &str) -> Rules {
        let known = Known {
            is_makers: &|_| false,
            providers: &["mock"],
            dialects: &[],
            endpoints: &[],
            asks: fields::THE_ASK,
            parameters: &[],
            hooks: &|_, _| Vec::new(),
            adapters: &|_, _| Vec::new(),
            parts: &|_| Vec::new(),
            serving: None,
        };
        let loaded = config::parse("test.yaml", yaml, Path::new(""), &|_| None, &known).expect("is good");
        build(&loaded.config).expect("builds").expect("something is cached")
    }

    #[test]
    fn the_models_name_that_routes_an_ask_says_how_it_is_cached() {
        let rules = rules(
            "cache: { exact: { enabled: false } }
models:
  u/a*: { target: mock/x, cache: { enabled: true } }
  u/ab*: { target: mock/x, cache: { enabled: false } }
  u/ac*: { target: mock/x }
  u/add: { target: mock/x }
",
        );
        for (model, cached) in [("u/axx", true), ("u/abc", false), ("u/acc", false), ("u/add", false), ("u/adx", true)]
        {
            assert_eq!(rules.policy(rules.overrides(model, "k")).is_some(), cached, "{model}");
        }
    }

    #[test]
    fn ignored_fields_may_be_named_as_clients_write_them() {
        let rules = rules("cache: { exact: { ignore: [response_format, max_completion_tokens, seed, my_own] } }");
        assert_eq!(rules.general.ignore, ["output", "max_tokens", "seed", "my_own"]);
    }
}
