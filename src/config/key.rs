//! Who may call: keys, and how callers show them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cache::CacheOverrides;
use super::value::{Expiry, Secret, optional_secret};

/// One caller's key, given by exactly one of `key`, `env`, `file` and `hash`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Name of the key in logs, metrics and reports; unique.
    pub name: String,
    /// The key itself; best written as `${VARIABLE}`.
    #[serde(default, deserialize_with = "optional_secret")]
    pub key: Option<Secret>,
    /// Environment variable that holds the key.
    #[serde(default)]
    pub env: Option<String>,
    /// File that holds the key, read at every load; a line end at its end is cut off.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// `hmac-sha256:HEX`: the key's HMAC-SHA-256 under `auth.pepper`, 64 hexadecimal digits, so that the file does not hold the key.
    #[serde(default)]
    pub hash: Option<Secret>,
    /// Project that the key's use is counted for.
    #[serde(default)]
    pub project: Option<String>,
    /// Model names that the key may use, as clients send them; `*` stands for any text. When empty, all of them.
    #[serde(default)]
    pub models: Vec<String>,
    /// Free labels, for logs and policies.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// What differs for this key's answers in the cache.
    #[serde(default)]
    pub cache: CacheOverrides,
    /// Date or moment after which the key is refused; when not set, never.
    #[serde(default)]
    pub expires: Option<Expiry>,
    /// No other target is tried when the first fails or rests, whatever the model says.
    #[serde(default)]
    pub disable_fallbacks: bool,
    /// Its requests go before those of a lower number where they wait for a place at a provider (`queue`), 0 to 255.
    #[serde(default)]
    pub priority: u8,
    /// The key may ask for the decision trace with `x-portcullis-trace: 1`. It names targets, prices and rules.
    #[serde(default)]
    pub trace: bool,
}

impl Key {
    /// Names of the models that the key may use; None for all of them.
    pub fn allowed_models(&self) -> Option<Vec<String>> {
        (!self.models.is_empty()).then(|| self.models.clone())
    }
}

/// How callers are recognised.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Headers in which a key is looked for, in order. In `authorization` it follows the word `Bearer`.
    pub headers: Vec<String>,
    /// Serve everybody when there are no keys, also on an address that other machines can reach.
    pub open: bool,
    /// Secret that keys the hashes of `keys[].hash`.
    pub pepper: Option<Secret>,
}

impl Default for Auth {
    fn default() -> Self {
        let headers = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];
        Auth { headers: headers.map(str::to_owned).to_vec(), open: false, pepper: None }
    }
}
