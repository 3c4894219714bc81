//! Hooks: which policies run, where, and what each of them may do.
//!
//! Holds what the operator grants; what a policy itself declares is in its manifest and read by `generation`.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::value::{ByteSize, Duration, Secret};

/// One policy, attached. The list's order is that in which they run, unless `priority` says otherwise.
#[derive(Debug, Clone, PartialEq, Default, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hook {
    /// A Lua policy: `NAME` for `NAME.luau` or `NAME/main.luau` in `hooks_dir`, or a path that ends in `.luau`.
    pub lua: Option<String>,
    /// A policy in a WebAssembly plugin: `NAME` for `NAME.wasm` in the folder of `plugins`, whose `settings` hold for it too.
    pub wasm: Option<String>,
    /// Name in metrics, logs and the admin API; when not set, that of the policy.
    pub name: Option<String>,
    /// Where it runs. Without it: everywhere.
    pub on: On,
    /// Hooks with a higher number run first; of the same number, in the order of the list.
    pub priority: i32,
    /// The policy's own settings, checked against the schema that it brings.
    pub config: Map<String, Value>,
    /// What it may reach. Nothing that is not written.
    pub grants: Grants,
    /// How much it may use.
    pub budget: Budget,
    /// What happens to a request when the policy fails: `open` goes on without it, `closed` refuses, `default` does what is usual for the phase.
    pub fail: Fail,
    /// Run it and record what it decides, but do not do it.
    pub shadow: bool,
    /// Share of requests it runs for, such as `10%`. Of one conversation it is all or nothing, where the request names it (`x-portcullis-session`, `session_id`); only `on_auth` knows it not yet.
    pub share: Option<Percent>,
    /// Policies with the same word share one machine and its memory; without it each has its own.
    pub domain: Option<String>,
}

impl Hook {
    /// Its name: the one written, or that of the policy. None when it names none.
    pub fn title(&self) -> Option<&str> {
        let policy = self.lua.as_deref().or(self.wasm.as_deref()).filter(|name| !name.is_empty())?;
        let stem = policy.rsplit('/').next().unwrap_or(policy);
        Some(self.name.as_deref().unwrap_or_else(|| stem.strip_suffix(".luau").unwrap_or(stem)))
    }
}

/// Where a hook runs: every list that is written must fit. `*` stands for any text.
#[derive(Debug, Clone, PartialEq, Default, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct On {
    /// Model names as clients send them, or as a policy has put them in the place of those.
    pub models: Vec<String>,
    /// Names of keys.
    pub keys: Vec<String>,
    /// Projects of keys.
    pub projects: Vec<String>,
}

/// What a policy may reach beyond the request it is shown.
#[derive(Debug, Clone, PartialEq, Default, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// Hosts that `gw.http` may ask: `HOST` or `HOST:PORT`; `*.example.com` stands for every name below.
    pub http: Vec<String>,
    /// Let `gw.http` reach private, loopback and link-local addresses through the hosts above.
    pub private_addresses: bool,
    /// Secrets by the name that the policy uses; best written as `${VARIABLE}`.
    pub secrets: BTreeMap<String, Secret>,
    /// Namespaces of `gw.kv`, `gw.cache` and `gw.limit` beside the policy's own.
    pub kv: Vec<String>,
    /// Models that `gw.llm` may ask, by the names that clients send.
    pub models: Vec<String>,
}

/// What one call of a policy may use. A stream event gets a tenth of `cpu` and `safepoints`, `init` a hundred times as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Time a call may run; waiting for others is not counted.
    pub cpu: Duration,
    /// Time that all its calls of one exchange may run together, stream events apart.
    pub total: Duration,
    /// Time that a call may wait for host functions altogether: for `gw.http`, `gw.llm`, `gw.time.sleep`, a shared `gw.kv`.
    pub wait: Duration,
    /// Memory of the policy's machine, one a worker. A plugin made of Python needs more than the usual 16MiB.
    pub memory: ByteSize,
    /// Loop turns and calls within one call: the same number on every machine. Plugins are held to their time alone.
    pub safepoints: u64,
    /// Host functions within one call.
    pub host_calls: u32,
    /// Size of what a call may return, log or send.
    pub output: ByteSize,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            cpu: Duration::from_millis(5),
            total: Duration::from_millis(50),
            wait: Duration::from_secs(60),
            memory: ByteSize::mib(16),
            safepoints: 200_000,
            host_calls: 1000,
            output: ByteSize::mib(1),
        }
    }
}

/// What happens when a policy fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fail {
    #[default]
    Default,
    Open,
    Closed,
}

/// A share, written in percent with at most two decimals: `10%`, `0.5%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(u16);

impl Percent {
    /// Hundredths of a percent: 10,000 is everything.
    pub const fn basis_points(self) -> u16 {
        self.0
    }
}

impl std::str::FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "is not a share; write a percentage from 0% to 100%, such as 10% or 0.5%".to_owned();
        let number = text.strip_suffix('%').ok_or_else(wrong)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || fraction.len() > 2 || !digits(whole) || !digits(fraction) {
            return Err(wrong());
        }
        let points: u16 = format!("{whole}{fraction:0<2}").parse().map_err(|_| wrong())?;
        if points > 10_000 { Err(wrong()) } else { Ok(Percent(points)) }
    }
}

impl std::fmt::Display for Percent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, part) if part % 10 == 0 => write!(f, "{whole}.{}%", part / 10),
            (whole, part) => write!(f, "{whole}.{part:02}%"),
        }
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Percent {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,2})?%$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_and_printed_exactly() {
        for (text, points) in [("10%", 1000), ("0.5%", 50), ("0.05%", 5), ("100%", 10_000), ("0%", 0)] {
            let share: Percent = text.parse().expect(text);
            assert_eq!((share.basis_points(), share.to_string().as_str()), (points, text));
        }
        for text in ["10", "101%", "-1%", "1.234%", "%", "x%"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
