//! Wire forms that guests teach: from the dialect that a provider names to the adapter that speaks for it.
//!
//! Scripts are kept while they do not change, so that a reload leaves their machines alone; plugins are kept by their own
//! shelf.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::hooks::settings;
use super::plugins::Shelf;
use crate::config::{self, Config};
use crate::dialect::adapter::Adapter;
use crate::guest::Manifest;
use crate::guest::adapter::{About, AuthKind, Description, Lease, Model, Seen};
use crate::guest::bundle::{self, Bundle};
use crate::guest::lua::{self, adapter::Taught};

/// A loaded adapter and what it says of itself.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub adapter: Arc<dyn Adapter>,
    seen: Arc<dyn Seen>,
    pub auth: AuthKind,
    /// Models that it knows.
    pub models: Vec<Model>,
}

impl Known {
    pub fn new(adapter: Arc<dyn Adapter>, seen: Arc<dyn Seen>, description: &Description) -> Known {
        Known { adapter, seen, auth: description.auth.clone(), models: description.models.clone() }
    }
}

/// The adapter for a dialect, which is noted as speaking; None for dialects that the gateway knows itself.
///
/// # Errors
/// Why it cannot be loaded, with its file.
pub(super) fn find(
    config: &Config,
    dialect: &str,
    scripts: &Scripts,
    plugins: &Shelf,
    speaking: &Speaking,
) -> Option<Result<Known, String>> {
    let found = match dialect.split_once(':')? {
        ("lua", script) => scripts.adapter(config, script),
        ("wasm", plugin) => plugins.adapter(config, plugin),
        _ => return None,
    };
    if let Ok(known) = &found {
        speaking.borrow_mut().insert(known.adapter.name(), known.seen.clone());
    }
    Some(found)
}

/// Plugins among those that speak, as generations are listed and compared: of a component it is the hash that tells.
pub(super) fn plugins(speaking: &Speaking) -> Vec<(String, Arc<Bundle>)> {
    let about = speaking.borrow().values().map(|seen| seen.about()).collect::<Vec<_>>();
    let plugins = about.into_iter().filter_map(|about| {
        let About { label, version, file, digest, .. } = about;
        let name = label.strip_prefix("wasm:")?.to_owned();
        let manifest = Manifest { version: Some(version), ..Manifest::default() };
        Some((format!("adapters.{label}"), Arc::new(Bundle::of_component(name, manifest, file, digest))))
    });
    plugins.collect()
}

/// Those that were found for some provider, by dialect.
pub(super) type Speaking = RefCell<BTreeMap<&'static str, Arc<dyn Seen>>>;

/// A script that is to be loaded, and its settings.
struct Wanted {
    bundle: Bundle,
    key: Key,
}

/// What makes a script another one.
#[derive(PartialEq)]
struct Key {
    digest: String,
    config: Value,
    lease: Lease,
}

/// What is wrong: the way to it inside the adapter's settings, None for the script itself.
pub(super) type Wrong = (Option<Vec<String>>, String);

fn wanted(config: &Config, name: &str) -> Result<Wanted, Vec<Wrong>> {
    let own = |error: String| vec![(None, error)];
    let bundle = bundle::read(name, &config.hooks_dir.0).map_err(own)?;
    let default = config::Adapter::default();
    let written = config.adapters.get(name).unwrap_or(&default);
    let inside = |wrong: Vec<(Vec<String>, String)>| -> Vec<Wrong> {
        wrong.into_iter().map(|(path, error)| (Some(path), error)).collect()
    };
    let usual = Lease::default();
    let lease = Lease {
        cpu: written.cpu.map_or(usual.cpu, |cpu| cpu.get()),
        memory: written.memory.map_or(usual.memory, |memory| memory.as_usize()),
        ..usual
    };
    let key = Key {
        digest: bundle.digest.clone(),
        config: settings(&bundle.manifest, &written.config).map_err(inside)?,
        lease,
    };
    Ok(Wanted { bundle, key })
}

/// What is wrong with the script or plugin of a dialect as written. A plugin is loaded, and kept for whoever needs it.
pub(super) fn check(config: &Config, dialect: &str, plugins: &Shelf) -> Vec<Wrong> {
    let name = match dialect.split_once(':') {
        Some(("lua", script)) => script,
        Some(("wasm", plugin)) => {
            return plugins.adapter(config, plugin).err().map(|error| (None, error)).into_iter().collect();
        }
        _ => return Vec::new(),
    };
    let compiled = wanted(config, name).and_then(|wanted| {
        let compiled = lua::adapter::described(&wanted.bundle).and_then(|_| lua::compiles(&wanted.bundle));
        compiled.map_err(|error| vec![(None, error)])
    });
    compiled.err().unwrap_or_default()
}

/// The scripts that speak for providers, by name.
#[derive(Debug, Default)]
pub(super) struct Scripts(Mutex<HashMap<String, (Key, Arc<Taught>)>>);

impl Scripts {
    /// The adapter in a script.
    ///
    /// # Errors
    /// Why it cannot be loaded, with file and line.
    fn adapter(&self, config: &Config, name: &str) -> Result<Known, String> {
        let lines = |wrong: Vec<Wrong>| wrong.into_iter().map(|(_, error)| error).collect::<Vec<_>>().join("\n");
        let Wanted { bundle, key } = wanted(config, name).map_err(lines)?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taught = match all.get(name) {
            Some((known, taught)) if *known == key => taught.clone(),
            _ => {
                let taught = Taught::load(name, Arc::new(bundle), key.config.clone(), key.lease)?;
                all.insert(name.to_owned(), (key, taught.clone()));
                taught
            }
        };
        let description = taught.description.clone();
        Ok(Known::new(Arc::new(taught.clone()), taught, &description))
    }

    /// The sources of the scripts that a configuration names, once they are loaded; others are let go.
    pub fn bundles(&self, config: &Config) -> Vec<(String, Arc<Bundle>)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|name, _| config.scripted().any(|known| known == name));
        let mut bundles: Vec<_> = all.iter().map(|(name, (_, taught))| (name.clone(), taught.bundle.clone())).collect();
        bundles.sort_by(|a, b| a.0.cmp(&b.0));
        bundles
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.digest)
    }
}
