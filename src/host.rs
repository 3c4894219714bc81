//! What guests may call: every host function once, in plain Rust types, whatever language the guest is written in.
//!
//! [`FUNCTIONS`] is the one table of them: the engines register its rows, the documentation is made from it, and
//! [`Cx::enter`] checks phase, grant and lease by it. Never knows an engine; effects on the exchange are the verdict's.

pub mod hash;
pub mod http;
pub mod keep;
pub mod lease;
pub mod limit;
pub mod llm;
pub mod log;
pub mod metrics;
pub mod phase;
pub mod pick;
pub mod re;
pub mod secret;
pub mod table;
pub mod targets;
pub mod ticker;
pub mod time;
pub mod visit;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use crate::route::{Secret, Target};
use crate::state::State;
use crate::upstream::Upstream;

pub use lease::{Budget, Killed, Lease};
pub use phase::{Phase, Phases};
pub use table::{FUNCTIONS, Function};
pub use visit::Visit;

/// A guest as the host knows it: its name and what the operator lets it do.
#[derive(Debug)]
pub struct Guest {
    /// Name of the hook; its namespace in `ctx`, cache and kv.
    pub name: Arc<str>,
    pub grants: Grants,
    pub budget: Budget,
    /// The metrics its manifest declares, by name.
    pub metrics: BTreeMap<String, metrics::Declared>,
}

/// What the operator lets a guest reach.
#[derive(Debug, Default)]
pub struct Grants {
    /// Hosts of `http`: `host`, `host:port` or `*.host`.
    pub http: Vec<String>,
    /// Private, loopback and link-local addresses may be reached through those hosts.
    pub private_addresses: bool,
    pub secrets: BTreeMap<String, Secret>,
    /// Namespaces of cache, kv and limit beside its own.
    pub kv: Vec<String>,
    /// Its kv is kept together with other processes, so that its functions wait.
    pub shared_kv: bool,
    /// Models of `llm`.
    pub models: Vec<String>,
}

/// Largest whole number up to which guests can write every one exactly.
pub const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

/// The gateway as guests may use it; implemented by the stage that runs hooks, and by test runners.
pub trait World: Send + Sync {
    fn state(&self) -> &Arc<State>;

    /// The targets behind a configured model or `provider/model`.
    ///
    /// # Errors
    /// No model is called so, in the words for a caller.
    fn targets(&self, model: &str) -> Result<Vec<Arc<Target>>, String>;

    /// Every name that is configured.
    fn models(&self) -> Vec<String>;

    fn upstream(&self) -> Arc<dyn Upstream>;

    /// Puts an ask for a model through the gateway as the visit's own caller.
    fn ask(&self, visit: Arc<Visit>, ask: llm::Ask) -> Pending<llm::Answer>;

    /// Now, in Unix milliseconds.
    fn unix_ms(&self) -> u64 {
        time::unix_ms()
    }

    /// A number from 0 up to, not including, 1.
    fn random(&self) -> f64 {
        fastrand::f64()
    }
}

/// What an awaiting host function gives back in the end.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, HostError>> + Send>>;

/// One call of a guest, as host functions see it.
pub struct Cx {
    pub guest: Arc<Guest>,
    pub phase: Phase,
    pub visit: Arc<Visit>,
    /// Where `ctx` is kept instead while nothing of a stream has gone out.
    pub apart: Option<Arc<visit::Apart>>,
    /// Absent while a guest is loaded: then there is no gateway around it yet.
    pub world: Option<Arc<dyn World>>,
    pub lease: Lease,
    /// Whether this call runs where awaiting functions can wait.
    pub awaits: bool,
    /// Whether this call gives way to others: what runs it goes on with it later.
    pub gives_way: bool,
}

/// How a guest's language writes the names of functions and phases, for those who read its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// `gw.time.now_ms`, `on_request`
    Lua,
    /// `time.now-ms`, `on-request`
    Wasm,
}

impl Words {
    fn function(self, function: &Function) -> String {
        match self {
            Words::Lua => format!("gw.{}", function.name),
            Words::Wasm => match function.name.split_once('.') {
                Some(("log", _)) => "log.write".to_owned(),
                _ => function.name.replace('_', "-"),
            },
        }
    }

    /// One phase or several.
    fn phases(self, phases: Phases) -> String {
        let named = phases.to_string();
        if self == Words::Lua { named } else { named.replace("on_", "on-") }
    }
}

impl Cx {
    /// The one door to every host function: whether this phase, these grants and this lease allow it now.
    ///
    /// # Errors
    /// What is in the way and what to do about it, in the words of the guest's language.
    pub fn enter(&self, function: &Function, words: Words) -> Result<(), HostError> {
        if !function.phases.has(self.phase) {
            let (name, phase) = (words.function(function), words.phases(Phases::of(&[self.phase])));
            let there = words.phases(function.phases);
            return Err(HostError(format!("{name} cannot be called in {phase}; it is there in {there}")));
        }
        if function.awaits && !self.awaits {
            let name = words.function(function);
            let module = name.rsplit_once('.').map_or("", |(module, _)| module);
            let advice = match words {
                Words::Lua => format!("this policy is not known to wait; write `{module}` out in its source"),
                Words::Wasm => "this call cannot".to_owned(),
            };
            return Err(HostError(format!("{name} waits, and {advice}")));
        }
        self.lease.host_call()
    }

    /// The gateway around this call.
    ///
    /// # Errors
    /// The guest is being loaded, so there is none.
    pub fn world(&self) -> Result<&Arc<dyn World>, HostError> {
        self.world.as_ref().ok_or_else(|| HostError::new("is not there while the policy is loaded"))
    }
}

impl fmt::Debug for Cx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cx({} in {})", self.guest.name, self.phase.name())
    }
}

/// Why a host function did not do it; the guest may catch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostError(pub String);

impl HostError {
    pub fn new(text: impl Into<String>) -> Self {
        HostError(text.into())
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for HostError {}
