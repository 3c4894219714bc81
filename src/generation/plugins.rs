//! The plugins that a configuration names, loaded when they are first needed and kept while they do not change.
//!
//! Lives as long as the builder: a reload that leaves a plugin alone keeps its compiled code and its instances. Never
//! loads what the operator's demands do not let pass.

use std::sync::Arc;

#[cfg(not(feature = "wasm"))]
use crate::config::Config;
use crate::dialect::adapter::Adapter;

/// What begins the dialect of a provider that an adapter speaks for.
pub(super) const PREFIX: &str = "wasm:";

/// How an adapter wants its key sent, until the operator says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "wasm"), expect(dead_code, reason = "only a loaded adapter wants anything"))]
pub(super) enum Wants {
    Nothing,
    Bearer,
    Header(String),
    Query(String),
}

/// A loaded adapter and what it says of itself.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub adapter: Arc<dyn Adapter>,
    pub auth: Wants,
    /// Names of models that it knows.
    pub models: Vec<String>,
}

#[cfg(not(feature = "wasm"))]
#[derive(Debug, Default)]
pub(super) struct Shelf;

#[cfg(not(feature = "wasm"))]
impl Shelf {
    /// # Errors
    /// Always: this build has no engine for plugins.
    pub fn adapter(&self, _: &Config, _: &str) -> Result<Known, String> {
        Err("this build is without plugins; take one with the feature `wasm`".to_owned())
    }
}

#[cfg(feature = "wasm")]
pub(super) use with_engine::Shelf;

#[cfg(feature = "wasm")]
mod with_engine {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::{Known, Wants};
    use crate::config::{Config, Demand, Plugin};
    use crate::guest::wasm::{self, AuthKind, Compiled, Lease, Loading, Machine, Taught};

    /// See the module.
    #[derive(Default)]
    pub struct Shelf(Mutex<Inner>);

    #[derive(Default)]
    struct Inner {
        machine: Option<Arc<Machine>>,
        /// By name: everything that it depends on, and the adapter.
        adapters: HashMap<String, (Key, Arc<Taught>)>,
    }

    /// What makes a plugin another one.
    #[derive(PartialEq)]
    struct Key {
        sha256: String,
        config: String,
        lease: Lease,
    }

    impl Shelf {
        /// The adapter of this name.
        ///
        /// # Errors
        /// Why it cannot be loaded, with its file.
        pub fn adapter(&self, config: &Config, name: &str) -> Result<Known, String> {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let taught = inner.adapter(config, name)?;
            let auth = match &taught.description.auth {
                AuthKind::None => Wants::Nothing,
                AuthKind::Bearer => Wants::Bearer,
                AuthKind::Header(name) => Wants::Header(name.clone()),
                AuthKind::Query(name) => Wants::Query(name.clone()),
            };
            let models = taught.description.models.iter().map(|model| model.id.clone()).collect();
            Ok(Known { adapter: Arc::new(taught), auth, models })
        }
    }

    impl Inner {
        fn adapter(&mut self, config: &Config, name: &str) -> Result<Arc<Taught>, String> {
            let plugins = &config.plugins;
            let default = Plugin::default();
            let settings = plugins.settings.get(name).unwrap_or(&default);
            let bytes = wasm::Bytes::read(&config.plugin_file(name))?;
            admit(&bytes, settings.sha256.as_deref(), plugins.demand, &plugins.signers)?;
            let usual = Lease::default();
            let key = Key {
                sha256: bytes.sha256.clone(),
                config: match settings.config.is_empty() {
                    true => String::new(),
                    false => serde_json::to_string(&settings.config).unwrap_or_default(),
                },
                lease: Lease {
                    cpu: settings.cpu.map_or(usual.cpu, |cpu| cpu.get()),
                    memory: settings.memory.map_or(usual.memory, |memory| memory.as_usize()),
                    ..usual
                },
            };
            if let Some((known, taught)) = self.adapters.get(name)
                && *known == key
            {
                return Ok(taught.clone());
            }
            let machine = match &self.machine {
                Some(machine) => machine.clone(),
                None => self.machine.insert(Arc::new(Machine::new()?)).clone(),
            };
            let folder = plugins.compiled.clone().unwrap_or_else(|| plugins.folder.join(".compiled"));
            let compiled = Compiled::open(&folder);
            if let Err(why) = &compiled {
                tracing::warn!("compiled plugins are not kept: {why}");
            }
            let loading = Loading {
                machine: &machine,
                compiled: compiled.as_ref().ok(),
                name,
                lease: key.lease,
                config: key.config.clone(),
            };
            let taught = Taught::load(&loading, &bytes)?;
            self.adapters.insert(name.to_owned(), (key, taught.clone()));
            Ok(taught)
        }
    }

    /// Lets a plugin pass, or says what it lacks.
    fn admit(bytes: &wasm::Bytes, pin: Option<&str>, demand: Demand, signers: &[String]) -> Result<(), String> {
        let file = bytes.path.display();
        let found = &bytes.sha256;
        match pin.map(|pin| pin.strip_prefix("sha256:").unwrap_or(pin)) {
            Some(pin) if pin.eq_ignore_ascii_case(found) => {}
            Some(_) => return Err(format!("{file}: is not the pinned file: its sha256 is {found}")),
            None if demand == Demand::Pinned => {
                return Err(format!(
                    "{file}: is not pinned; add `sha256: {found}` to its settings if it is the right file"
                ));
            }
            None => {}
        }
        match wasm::signature(bytes, signers)? {
            wasm::Signed::By(_) => Ok(()),
            wasm::Signed::Nobody if demand == Demand::Signed => {
                Err(format!("{file}: is not signed; `plugins.demand` wants {file}.sig of one of `plugins.signers`"))
            }
            wasm::Signed::Nobody => Ok(()),
        }
    }
}
