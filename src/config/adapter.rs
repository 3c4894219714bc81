//! Scripts that speak for providers: what is to hold for each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::value::{ByteSize, Duration};

/// A script that speaks for providers.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Adapter {
    /// Its settings, checked against the schema in its manifest.
    pub config: Map<String, Value>,
    /// Processor time of one call; a call that needs more is ended. When not set, 500ms.
    pub cpu: Option<Duration>,
    /// Memory of one machine; each call has one, and a stream keeps its own. When not set, 64MiB.
    pub memory: Option<ByteSize>,
}
