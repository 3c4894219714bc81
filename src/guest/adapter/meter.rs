//! What an adapter's calls cost and how they end: counted among those of all guests, and told as faults.
//!
//! The same for every language. Counts are kept by the adapter's name, so that they go on when it is swapped.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use super::{Lease, START};
use crate::fault::{Fault, Kind};
use crate::guest::{Failed, Used};
use crate::host::Killed;
use crate::host::log::in_line;
use crate::state::guests::{Guests, Outcome, Record};

/// What of an adapter is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// It is made ready: run and configured.
    Start,
    Encode,
    Decode,
    DecodeError,
    /// A decoder of a stream: begun, given a piece, ended.
    Stream,
}

impl Function {
    /// The words in metrics and errors, in the order of the functions.
    pub const NAMES: &'static [&'static str] = &["start", "encode", "decode", "decode_error", "stream"];

    pub fn as_str(self) -> &'static str {
        Function::NAMES[self as usize]
    }

    /// How often a call's processor time it may take.
    pub fn times(self) -> u32 {
        if self == Function::Start { START } else { 1 }
    }
}

/// Counts an adapter's calls.
#[derive(Debug)]
pub struct Meter {
    /// `wasm:NAME`
    label: &'static str,
    /// The adapter's own name.
    name: Arc<str>,
    /// What sets its processor time and its memory: keys of the configuration.
    cpu_by: String,
    memory_by: String,
    lease: Lease,
    /// None until its generation is in force.
    record: OnceLock<Arc<Record>>,
}

impl Meter {
    /// `settings` is the key that holds those of all adapters of its language.
    pub fn new(label: &'static str, name: &Arc<str>, settings: &str, lease: Lease) -> Self {
        let by = |key: &str| format!("{settings}.{name}.{key}");
        let (cpu_by, memory_by) = (by("cpu"), by("memory"));
        Meter { label, name: name.clone(), cpu_by, memory_by, lease, record: OnceLock::new() }
    }

    /// The same where something else sets its memory, such as a flag.
    #[must_use]
    pub fn with_memory_by(self, what: Option<&str>) -> Self {
        Meter { memory_by: what.map_or(self.memory_by, str::to_owned), ..self }
    }

    /// What a call went past, and what raises it, if anything does.
    fn overrun(&self, killed: Killed, function: Function) -> (String, String) {
        let advice = match killed {
            Killed::Memory => format!("; raise `{}`", self.memory_by),
            Killed::HostCalls | Killed::Output => String::new(),
            Killed::Deadline | Killed::Safepoints | Killed::Wait | Killed::Exchange => {
                format!("; raise `{}`", self.cpu_by)
            }
        };
        (self.lease.overrun(killed, function), advice)
    }

    /// Counts among these from now on.
    pub fn count_in(&self, guests: &Guests) {
        self.record.get_or_init(|| guests.adapter(self.label, Function::NAMES));
    }

    /// What a call went past, with the key that raises it; or that it failed.
    pub fn why(&self, function: Function, failed: &Failed) -> String {
        match failed.killed {
            Some(killed) => {
                let (what, advice) = self.overrun(killed, function);
                format!("{what}{advice}")
            }
            None => "failed".to_owned(),
        }
    }

    /// Counts a call.
    ///
    /// # Errors
    /// The fault of one that broke. Where in the adapter it did is for the log.
    pub fn counted<T>(&self, function: Function, used: &Used, called: Result<T, Failed>) -> Result<T, Fault> {
        let (outcome, failed) = match &called {
            Ok(_) => (Outcome::Good, None),
            Err(failed) if failed.killed.is_some() => (Outcome::Killed, Some(failed)),
            Err(failed) => (Outcome::Error, Some(failed)),
        };
        if let Some(record) = self.record.get() {
            record.phase(function as usize).add(outcome, used.cpu, used.safepoints);
            record.memory.store(used.memory as u64, Relaxed);
            if used.replaced {
                record.replaced.fetch_add(1, Relaxed);
            }
            if let Some(failed) = failed {
                let text = format!("{}: {}", function.as_str(), failed.message);
                record.last_error.store(Some(Arc::new(text)));
            }
        }
        called.map_err(|failed| {
            let (name, place) = (&self.name, function.as_str());
            let text = match failed.killed {
                Some(killed) => {
                    let (what, advice) = self.overrun(killed, function);
                    format!("The adapter `{name}` {what} in `{place}`{advice}.")
                }
                None => format!("The adapter `{name}` failed in `{place}`."),
            };
            // The caller hears nothing of a fault that the next target mends.
            tracing::warn!("{} in {place}: {}", self.label, in_line(&failed.message));
            Fault::new(Kind::GuestFailed, text).because(failed.message)
        })
    }

    /// The fault of an adapter whose call ended well and gave what cannot be.
    pub fn nonsense(&self, what: impl std::fmt::Display) -> Fault {
        if let Some(record) = self.record.get() {
            record.last_error.store(Some(Arc::new(format!("it {what}"))));
        }
        tracing::warn!("{} {}", self.label, in_line(&what.to_string()));
        Fault::new(Kind::GuestFailed, format!("The adapter `{}` {what}.", self.name))
    }
}
