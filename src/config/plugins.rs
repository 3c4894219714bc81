//! WebAssembly plugins: where they lie and what is demanded of them.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::named::Named;
use super::value::{ByteSize, Duration};

/// WebAssembly plugins. `dialect: wasm:NAME` of a provider loads `NAME.wasm`; what is not named anywhere is not loaded.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Plugins {
    /// Folder with the plugins, from this file's own.
    pub folder: PathBuf,
    /// Folder for compiled plugins, which load in milliseconds then. Only the gateway's user may be able to write to it. When not set, `.compiled` in `folder`.
    pub compiled: Option<PathBuf>,
    /// What a plugin must show before it is loaded: `nothing`, a `sha256` in its settings (`pinned`), or a signature of one of the `signers` in `NAME.wasm.sig` (`signed`). What is there must be right, demanded or not.
    pub demand: Demand,
    /// Public keys, in base64, of those whose signature counts; `portcullis plugin keygen` makes a pair. Without any nobody can tell whose a signature is, and none counts.
    pub signers: Vec<String>,
    /// What is to hold for a plugin, by its name.
    pub settings: Named<Plugin>,
}

impl Default for Plugins {
    fn default() -> Self {
        Plugins {
            folder: PathBuf::from("plugins"),
            compiled: None,
            demand: Demand::Nothing,
            signers: Vec::new(),
            settings: Named::default(),
        }
    }
}

/// What a plugin must show before it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// Nothing; a pin or a signature that is there must be right all the same.
    #[default]
    Nothing,
    /// A `sha256` in its settings.
    Pinned,
    /// A signature of one of the `signers` in `NAME.wasm.sig`.
    Signed,
}

/// One plugin.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Plugin {
    /// The component; when not set, `NAME.wasm` in the folder.
    pub file: Option<PathBuf>,
    /// SHA-256 of the component, 64 hexadecimal digits with or without `sha256:` before them; another file is not loaded.
    pub sha256: Option<String>,
    /// Given to the plugin as JSON; it says itself what it knows.
    pub config: Map<String, Value>,
    /// Processor time of one call; a call that needs more is ended. When not set, 500ms.
    pub cpu: Option<Duration>,
    /// Memory of one instance. When not set, 64MiB; components made of Python need about 256MiB.
    pub memory: Option<ByteSize>,
}
