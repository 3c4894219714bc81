//! The plugins that a configuration names, loaded when they are first needed and kept while they do not change.
//!
//! Lives as long as the builder: a reload that leaves a plugin alone keeps its compiled code and its instances. Never
//! loads what the operator's demands do not let pass.

#[cfg(not(feature = "wasm"))]
use super::adapters::Known;
#[cfg(not(feature = "wasm"))]
use super::hooks::{Draft, Wrong};
#[cfg(not(feature = "wasm"))]
use crate::config::{Config, Hook};
#[cfg(not(feature = "wasm"))]
use crate::guest::Engine;

#[cfg(not(feature = "wasm"))]
#[derive(Debug, Default)]
pub(super) struct Shelf {}

#[cfg(not(feature = "wasm"))]
impl Shelf {
    /// # Errors
    /// Always: this build has no engine for plugins.
    pub fn adapter(&self, _: &Config, _: &str) -> Result<Known, String> {
        Err(WITHOUT.to_owned())
    }

    /// # Errors
    /// Always: this build has no engine for plugins.
    pub fn policy(&self, _: &Config, _: &Hook, _: &str) -> Result<(Draft, Engine), Vec<Wrong>> {
        Err(vec![(vec!["wasm".to_owned()], WITHOUT.to_owned())])
    }

    pub fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(not(feature = "wasm"))]
const WITHOUT: &str = "this build is without plugins; take one with the feature `wasm`";

#[cfg(feature = "wasm")]
pub(super) use with_engine::Shelf;

#[cfg(feature = "wasm")]
mod with_engine {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex, PoisonError};

    use serde_json::Value;

    use super::super::adapters::Known;
    use super::super::hooks::{Draft, Wrong, settings};
    use crate::config::{Config, Demand, Hook, Plugin};
    use crate::guest::adapter::Lease;
    use crate::guest::wasm::{self, Compiled, Described, Loading, Machine, Policy, Taught};
    use crate::guest::{Bundle, Engine};

    /// See the module.
    #[derive(Default)]
    pub struct Shelf(Mutex<Inner>);

    #[derive(Default)]
    struct Inner {
        machine: Option<Arc<Machine>>,
        /// By name: everything that it depends on, and the adapter.
        adapters: HashMap<String, (Key, Arc<Taught>)>,
        /// By the name of the plugin: the component, and what it says of itself.
        described: HashMap<String, Arc<Described>>,
        /// By the name of the hook: the component, its settings, and the policy.
        policies: HashMap<String, (Arc<Described>, Value, Arc<Policy>)>,
        /// What is to be told of compiled code.
        warnings: Vec<String>,
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
            let description = taught.description.clone();
            Ok(Known::new(Arc::new(taught.clone()), taught, &description))
        }

        /// The policy of a hook, started for its settings.
        ///
        /// # Errors
        /// Why it cannot be loaded, or what it does not take of its settings.
        pub fn policy(&self, config: &Config, hook: &Hook, plugin: &str) -> Result<(Draft, Engine), Vec<Wrong>> {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            inner.policy(config, hook, plugin)
        }

        /// Why plugins that were loaded just now were compiled anew, each reason once.
        pub fn warnings(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).warnings)
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
            let (machine, compiled) = (self.machine()?, self.compiled(config));
            let (kept, config) = (compiled.as_ref(), key.config.clone());
            let loading =
                Loading { machine: &machine, compiled: kept, name, lease: key.lease, memory_by: None, config };
            let taught = Taught::load(&loading, &bytes);
            compiled.into_iter().flat_map(Compiled::notes).for_each(|note| self.warn(note));
            let taught = taught?;
            self.adapters.insert(name.to_owned(), (key, taught.clone()));
            Ok(taught)
        }

        fn machine(&mut self) -> Result<Arc<Machine>, String> {
            Ok(match &self.machine {
                Some(machine) => machine.clone(),
                None => self.machine.insert(Arc::new(Machine::new()?)).clone(),
            })
        }

        /// The folder of compiled plugins; None where nothing can be kept.
        fn compiled(&mut self, config: &Config) -> Option<Compiled> {
            let plugins = &config.plugins;
            let folder = plugins.compiled.clone().unwrap_or_else(|| plugins.folder.join(".compiled"));
            let opened = Compiled::open(&folder);
            opened.map_err(|why| self.warn(format!("compiled plugins are not kept: {why}"))).ok()
        }

        fn warn(&mut self, what: String) {
            let what = format!("plugins.compiled: {what}");
            if !self.warnings.contains(&what) {
                self.warnings.push(what);
            }
        }

        /// Policies of hooks and plugins that nobody names any more go with their last generation.
        fn forget(&mut self, config: &Config) {
            let hooks = || config.hooks.iter().filter(|hook| hook.wasm.is_some());
            self.policies.retain(|title, _| hooks().any(|hook| hook.title() == Some(title)));
            self.described.retain(|plugin, _| hooks().any(|hook| hook.wasm.as_ref() == Some(plugin)));
        }

        fn policy(&mut self, config: &Config, hook: &Hook, plugin: &str) -> Result<(Draft, Engine), Vec<Wrong>> {
            let at = |key: &'static str| move |message: String| vec![(vec![key.to_owned()], message)];
            self.forget(config);
            let described = self.described(config, hook, plugin).map_err(at("wasm"))?;
            let label = config.plugin_file(plugin).display().to_string();
            let draft = Draft::of(hook, Arc::new(bundle(plugin, &label, Some(&described))), config.redis.kv);
            let wanted = settings(&described.manifest, &hook.config)?;
            let title = draft.guest.name.to_string();
            if let Some((component, known, policy)) = self.policies.get(&title)
                && Arc::ptr_eq(component, &described)
                && *known == wanted
                && policy.suits(&draft.guest)
            {
                return Ok((draft, Engine::Wasm(policy.clone())));
            }
            let policy = Policy::start(&described, &draft.guest, wanted.to_string());
            let policy = policy.map_err(|why| at("config")(format!("{label}: {why}")))?;
            self.policies.insert(title, (described, wanted, policy.clone()));
            Ok((draft, Engine::Wasm(policy)))
        }

        /// The component of a hook, which has said what it is.
        fn described(&mut self, config: &Config, hook: &Hook, plugin: &str) -> Result<Arc<Described>, String> {
            let default = Plugin::default();
            let pins = config.plugins.settings.get(plugin).unwrap_or(&default);
            let bytes = wasm::Bytes::read(&config.plugin_file(plugin))?;
            admit(&bytes, pins.sha256.as_deref(), config.plugins.demand, &config.plugins.signers)?;
            if let Some(known) = self.described.get(plugin).filter(|known| known.sha256 == bytes.sha256) {
                return Ok(known.clone());
            }
            let (machine, compiled) = (self.machine()?, self.compiled(config));
            let shared_kv = config.redis.kv;
            let (kept, lease, config) = (compiled.as_ref(), Lease::default(), String::new());
            let loading = Loading { machine: &machine, compiled: kept, name: plugin, lease, memory_by: None, config };
            // Under the hook's own budget, but before its manifest is known.
            let draft = Draft::of(hook, Arc::new(bundle(plugin, &bytes.path.display().to_string(), None)), shared_kv);
            let described = Described::load(&loading, &bytes, &draft.guest);
            compiled.into_iter().flat_map(Compiled::notes).for_each(|note| self.warn(note));
            let described = described?;
            self.described.insert(plugin.to_owned(), described.clone());
            Ok(described)
        }
    }

    /// A component as the gateway lists policies.
    fn bundle(plugin: &str, label: &str, described: Option<&Described>) -> Bundle {
        let manifest = described.map(|described| described.manifest.clone()).unwrap_or_default();
        let sha256 = described.map(|described| described.sha256.clone()).unwrap_or_default();
        let name = manifest.name.clone().unwrap_or_else(|| plugin.to_owned());
        Bundle::of_component(name, manifest, label.to_owned(), sha256)
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
