//! What the operator wrote: one YAML file, typed and checked.
//!
//! Plain data that serde reads: no `Arc`, no sockets, nothing that runs; `generation` alone turns it into running
//! things. Only `load` reads files, and it asks the environment through a function that its caller brings. Everything
//! wrong is said at once, each with file, line, column, path and what to do.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod adapter;
mod cache;
mod check;
mod condition;
mod error;
mod expand;
mod guard;
mod hook;
mod key;
mod limit;
mod listen;
mod load;
mod log;
mod model;
mod named;
mod path;
mod plugins;
mod prices;
mod print;
mod provider;
mod read;
mod routing;
mod schema;
#[cfg(test)]
mod tests;
mod timeouts;
mod tree;
mod value;

pub use adapter::Adapter;
pub use cache::{
    Cache, CacheFinish, CacheOverrides, ExactCache, Partition, Pieces, PromptMarks, Replay, SemanticCache, SharedCache,
};
pub use check::{AdapterCheck, HookCheck, Known, PartsCheck, check};
pub use condition::{Clause, Tests, When};
pub use error::{ConfigError, Errors, Issue, Severity};
pub use guard::{Breaker, BreakerOrOff, Concurrency, Off, PlaceQueue, PoolKey, Probe, Tags};
pub use hook::{Budget, Fail, Grants, Hook, On, Percent};
pub use key::{Auth, Key};
pub use limit::{Algorithm, Away, Limit, Match, MoneyBudget, OnExhausted, Queue, Redis, Store, Unpriced};
pub use listen::{Admin, Drain, Limits, Listen, Tls};
pub use load::{Loaded, builtin, load, parse};
pub use log::{Level, Log, Records, Stdout};
pub use model::{Balance, Branch, By, Model, Node, Split};
pub use named::Named;
pub use path::{KeyPath, Seg};
pub use plugins::{Demand, Plugin, Plugins};
pub use prices::{PriceOverride, PriceTier, Prices};
pub use print::{print, print_marked};
pub use provider::{AuthHeader, AuthScheme, Prefill, Provider, QuirkOverrides, Reasoning};
pub use routing::{
    Ability, Affinity, DataCollection, Hedge, Lock, MaxPrice, Mirror, RequestPolicy, Require, Retry, RetryOverrides,
    Routing,
};
pub use schema::{reference, schema};
pub use timeouts::{Stream, TimeoutOverrides, Timeouts};
pub use value::{
    After, ByteSize, Duration, DurationOrOff, Expiry, Portion, Quota, Quotas, Secret, Share, Source, Span, Spends,
    Texts, Usd, Zone,
};

/// How the environment is asked for a variable. None when it is not set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where policies are looked for; `scripts` beside the configuration unless written.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct HooksDir(pub PathBuf);

impl Default for HooksDir {
    fn default() -> Self {
        HooksDir("scripts".into())
    }
}

/// Whether policies' own tests must pass before they go live; yes unless written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct HooksTests(pub bool);

impl Default for HooksTests {
    fn default() -> Self {
        HooksTests(true)
    }
}

/// The configuration of Portcullis. Every key may be left out; keys that begin with `x-` are free for YAML anchors.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The listener for clients.
    pub listen: Listen,
    /// The listener for operators: metrics, health, reload.
    pub admin: Admin,
    /// Upstream accounts by name. Providers of the built-in table whose key is in the environment are there without being written.
    pub providers: Named<Provider>,
    /// Settings of scripts that speak for providers (`dialect: lua:NAME`), by the script's name.
    pub adapters: Named<Adapter>,
    /// WebAssembly plugins.
    pub plugins: Plugins,
    /// Model names that clients send, and what each stands for. A name may hold one `*` for any text. `provider/model` works without being written.
    pub models: Named<Model>,
    /// How models are tried where they say nothing else, and what requests may say about it.
    pub routing: Routing,
    /// The callers. Without any, everybody is served, which is allowed only on a loopback address or with `auth.open`.
    pub keys: Vec<Key>,
    /// How callers are recognised.
    pub auth: Auth,
    /// How much callers may use in which time.
    pub limits: Vec<Limit>,
    /// How much may be spent, and who is told.
    pub budgets: Vec<MoneyBudget>,
    /// Where counts are kept that outlive the process.
    pub store: Store,
    /// What several processes share.
    pub redis: Redis,
    /// Answers kept for requests that come again.
    pub cache: Cache,
    /// How long each part of an exchange may take.
    pub timeouts: Timeouts,
    /// Policies, in the order in which they run.
    pub hooks: Vec<Hook>,
    /// Folder of the policies and of the adapters in Lua, from the folder of this file.
    pub hooks_dir: HooksDir,
    /// Run the scripts' own tests (`*_test.luau`) before a new version goes live; one that fails keeps it out.
    pub hooks_tests: HooksTests,
    /// How streams behave towards the client.
    pub stream: Stream,
    /// What tokens cost where the catalogue does not know it or is wrong.
    pub prices: Prices,
    /// Finished exchanges kept in memory for `GET /v1/generation`.
    pub records: Records,
    /// The access log and the process's own messages.
    pub log: Log,
    /// How the process ends.
    pub drain: Drain,
}
