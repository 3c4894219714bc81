//! The names that clients send, and what each of them stands for.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::cache::CacheOverrides;
use super::timeouts::TimeoutOverrides;

/// What a model name stands for: one target, or several to be tried in order. The text `provider/model` alone is short for `{target: provider/model}`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = shorthand)]
pub struct Model {
    /// `provider/model`. In a name with `*` the target may hold one too; it stands for the same text.
    pub target: Option<String>,
    /// Targets tried in this order: the next one when the one before failed and nothing was sent to the client yet.
    pub fallback: Vec<Target>,
    /// Top-level parameters that every request to this model gets, also over the client's.
    pub set: Map<String, Value>,
    /// Top-level parameters for requests that lack them.
    pub default: Map<String, Value>,
    /// Parameters taken out of every request: top-level names or dotted paths.
    pub drop: Vec<String>,
    /// Timeouts that differ from the provider's and the general ones.
    pub timeouts: TimeoutOverrides,
    /// What differs for this model's answers in the cache.
    pub cache: CacheOverrides,
    /// What the model is for; shown in the list of models.
    pub description: Option<String>,
}

impl Model {
    /// Every target in order, also when there is only one.
    pub fn targets(&self) -> Vec<Target> {
        match &self.target {
            Some(target) => vec![Target { target: target.clone(), ..Target::default() }],
            None => self.fallback.clone(),
        }
    }
}

/// One target of a model, with what differs for it. The text `provider/model` alone is short for `{target: provider/model}`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = shorthand)]
pub struct Target {
    /// `provider/model`, split at the first slash.
    pub target: String,
    /// Parameters set for this target, over those of the model.
    #[serde(default)]
    pub set: Map<String, Value>,
    /// Parameters for requests that lack them.
    #[serde(default)]
    pub default: Map<String, Value>,
    /// Parameters taken out for this target.
    #[serde(default)]
    pub drop: Vec<String>,
    /// Timeouts that differ for this target.
    #[serde(default)]
    pub timeouts: TimeoutOverrides,
}

impl Target {
    /// Provider and upstream model.
    pub fn split(&self) -> Option<(&str, &str)> {
        self.target.split_once('/')
    }
}

/// Text where a mapping with `target` may stand; `read` has the other half of this rule.
fn shorthand(schema: &mut Schema) {
    if let Some(kind) = schema.get_mut("type") {
        *kind = json!(["object", "string"]);
    }
}
