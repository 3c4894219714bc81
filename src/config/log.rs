//! What is written down about exchanges, and where.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The records of finished exchanges that are kept in memory for `GET /v1/generation`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Records {
    /// How many are kept; the oldest go first. 0 keeps none.
    pub keep: usize,
}

impl Default for Records {
    fn default() -> Self {
        Records { keep: 4096 }
    }
}

/// The access log, one JSON line for each exchange, and the process's own messages.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Form of the access log on standard output: `json`, `text` for people, or `off`. `auto` is `text` on a terminal and `json` everywhere else.
    pub stdout: Stdout,
    /// File that the access log is appended to, besides standard output. When it was moved away it is opened anew, at SIGHUP or within a second.
    pub file: Option<PathBuf>,
    /// Keep the decision trace of every exchange in its line: every candidate, every attempt, with why and when. Without it only those that a caller asked for have it.
    pub trace: bool,
    /// The least important messages of the process itself that are written, to standard error.
    pub level: Level,
}

/// What goes to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stdout {
    #[default]
    Auto,
    Json,
    Text,
    // Tools that still speak YAML 1.1 write `off` back as `false`.
    #[serde(alias = "false")]
    Off,
}

/// How important a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Off,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl Level {
    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Off => "off",
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}
