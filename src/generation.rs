//! One immutable snapshot of everything that was written: built whole, then swapped in.
//!
//! The only reader of `config`. What is built here holds running things; what must outlive it is in `state`.

mod adapters;
mod caching;
mod hooks;
mod limits;
mod plugins;
mod providers;
mod routes;
mod strategy;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::api;
use crate::auth::forwarded::Trusted;
use crate::auth::page::Names;
use crate::auth::{self, Keys, Principal};
use crate::cache;
use crate::config::{self, AdapterCheck, Config, HookCheck, Known, Loaded, PartsCheck};
use crate::cost::{Catalogue, ModelCard};
use crate::fault::Fault;
use crate::guest::adapter::Seen;
use crate::guest::{Bundle, bundle};
use crate::hook::Hooks;
use crate::pipeline;
use crate::provider::{PROVIDERS, owner_of};
use crate::route::{Provider, Routes, Target, Tree};
use crate::server::{connection, tls};
use crate::state::State;
use crate::state::handles::Handles;
use crate::state::limit::rule::Rules;

/// Trees kept for names that callers send. Past it they are made anew each time, which costs a microsecond or two.
const MAX_TREES: usize = 1000;

/// A snapshot in force.
pub struct Generation {
    /// Counts up from 1.
    pub number: u64,
    /// The file it came from, for people.
    pub source: String,
    pub loaded: SystemTime,
    /// Files whose change calls for a reload.
    pub files: Vec<PathBuf>,
    /// What those files held, as [`fingerprint`] gives it.
    pub fingerprint: u64,
    pub warnings: Vec<String>,
    pub keys: Keys,
    /// What was written, secrets masked: the configuration in force and every policy, by name.
    pub sources: Vec<(String, String)>,
    /// Policies, in the order in which they run.
    pub hooks: Arc<Hooks>,
    /// The guests that speak for providers, by name.
    pub adapters: Vec<Arc<dyn Seen>>,
    /// What policies and adapters are made of, by the place where they are named.
    pub scripts: Vec<(String, Arc<Bundle>)>,
    /// Their own tests must pass before they go live.
    pub hooks_tests: bool,
    /// Proxies whose word on the caller's address is taken.
    pub trusted: Trusted,
    pub routes: Routes,
    pub limits: pipeline::Limits,
    /// How long an exchange may take where its model says nothing else; None without a limit.
    pub total: Option<Duration>,
    /// Limits and budgets.
    pub rules: Rules,
    pub server: connection::Limits,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub max_answer_bytes: usize,
    pub max_event_bytes: usize,
    /// Silence after which a waiting stream gets a comment.
    pub keep_alive: Option<Duration>,
    /// What is cached; None where nothing is.
    pub cache: Option<cache::Rules>,
    /// Every exchange keeps its decision trace, for the log.
    pub log_trace: bool,
    catalogue: Cow<'static, Catalogue>,
    /// What the operator says of configured names.
    pub descriptions: HashMap<String, String>,
    trees: Handles<String, Arc<Tree>>,
}

/// One model that callers may ask for.
#[derive(Debug, Clone)]
pub struct Listed {
    pub id: String,
    pub provider: String,
    /// What the operator says of it.
    pub description: Option<String>,
    pub card: Option<Arc<ModelCard>>,
}

impl Generation {
    /// The tree for a model name.
    ///
    /// # Errors
    /// [`crate::fault::Kind::ModelNotFound`].
    pub fn tree(&self, model: &str) -> Result<Arc<Tree>, Fault> {
        if let Some(tree) = self.trees.get(model) {
            return Ok(tree);
        }
        let tree = Arc::new(self.routes.tree(model, &|provider, model| self.card(provider, model))?);
        if self.trees.count() >= MAX_TREES {
            return Ok(tree);
        }
        Ok(self.trees.put(model.to_owned(), tree))
    }

    /// Every target of a model name, in the order written, whatever a request or their health may say: for lists. Who
    /// sends a request somewhere asks the pipeline for a plan.
    ///
    /// # Errors
    /// As [`Generation::tree`].
    pub fn targets(&self, model: &str) -> Result<Vec<Arc<Target>>, Fault> {
        self.tree(model).map(|tree| tree.targets())
    }

    /// The target at a provider for one of its models, past every configured name.
    pub fn target(&self, provider: &str, model: &str) -> Option<Arc<Target>> {
        let provider = self.routes.providers.iter().find(|live| live.name == provider)?;
        let (overrides, timeouts) = (provider.overrides.clone(), provider.timeouts);
        let card = self.card(provider, model);
        Some(Arc::new(Target::new(provider.clone(), model.to_owned(), overrides, timeouts, card)))
    }

    /// Makes the rooms that this generation needs in what outlives it. Called before it is in force.
    pub fn activate(&self, state: &State) {
        if let Some(rules) = &self.cache {
            state.cache.resize(rules.max_bytes);
            state.cache.use_shared(rules.general.shared);
        }
        for adapter in &self.adapters {
            adapter.count_in(&state.guests);
        }
        for provider in &self.routes.providers {
            state.health.lay(&provider.name, &provider.health);
        }
    }

    fn card(&self, provider: &Provider, model: &str) -> Option<Arc<ModelCard>> {
        let stated = self.catalogue.find(&[provider.name.as_str(), provider.preset], model).cloned();
        let Some(told) = provider.cards.get(model) else { return stated.map(Arc::new) };
        // What the operator and the catalogue state counts before what an adapter tells.
        let mut card = stated.unwrap_or_default();
        card.context = card.context.or(told.context);
        card.max_output = card.max_output.or(told.max_output);
        Some(Arc::new(card))
    }

    /// Every model that can be named, each once: configured names, then what the catalogue knows of live providers and
    /// what is written of them.
    pub fn listed(&self) -> Vec<Listed> {
        let mut listed: Vec<Listed> = Vec::new();
        let mut names: Vec<&String> = self.routes.models.keys().collect();
        names.sort();
        for name in names {
            let target = self.targets(name).ok().and_then(|targets| targets.first().cloned());
            let (provider, card) =
                target.map(|target| (target.provider.name.clone(), target.card.clone())).unwrap_or_default();
            listed.push(Listed { id: name.clone(), provider, description: self.descriptions.get(name).cloned(), card });
        }
        for provider in &self.routes.providers {
            let known = self.catalogue.models(provider.preset).map(|(model, card)| Listed {
                id: format!("{}/{model}", provider.name),
                provider: provider.name.clone(),
                description: None,
                card: Some(Arc::new(card.clone())),
            });
            listed.extend(known);
            listed.extend(provider.models.keys().map(|model| Listed {
                id: format!("{}/{model}", provider.name),
                provider: provider.name.clone(),
                description: None,
                card: self.card(provider, model),
            }));
        }
        // Whoever pages goes on behind a name, and would not get past its twin.
        let mut seen = HashSet::new();
        listed.retain(|model| seen.insert(model.id.clone()));
        listed
    }

    pub fn loaded_unix(&self) -> u64 {
        self.loaded.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// Looks a variable up; brought by the caller, so that tests have their own.
pub type Environment = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Builds generations from a file, or from what is built in, and the environment.
pub struct Builder {
    path: Option<PathBuf>,
    env: Environment,
    amend: Option<Amend>,
    serving: Option<Serving>,
    plugins: plugins::Shelf,
    scripts: adapters::Scripts,
}

/// What a process runs with until it ends.
struct Serving {
    address: SocketAddr,
    config: Config,
}

/// The settings that a process is built around and that differ here. `config/README.md` lists them.
fn waiting<'a>(running: &'a Config, written: &'a Config) -> impl Iterator<Item = &'static str> + 'a {
    fn differs<T: PartialEq>(running: &Config, written: &Config, of: impl Fn(&Config) -> &T) -> bool {
        of(running) != of(written)
    }
    let shares = |config: &Config| config.cache.exact.as_ref().and_then(|exact| exact.shared.clone());
    let differ = [
        ("listen.address", differs(running, written, |config| &config.listen.address)),
        ("listen.workers", differs(running, written, |config| &config.listen.workers)),
        ("admin.address", differs(running, written, |config| &config.admin.address)),
        ("admin.token", differs(running, written, |config| &config.admin.token)),
        ("log.stdout", differs(running, written, |config| &config.log.stdout)),
        ("log.file", differs(running, written, |config| &config.log.file)),
        ("log.level", differs(running, written, |config| &config.log.level)),
        ("records", differs(running, written, |config| &config.records)),
        ("store", differs(running, written, |config| &config.store)),
        ("redis", differs(running, written, |config| &config.redis)),
        ("cache.exact.shared", shares(running) != shares(written)),
        ("drain", differs(running, written, |config| &config.drain)),
    ];
    differ.into_iter().filter_map(|(name, differs)| differs.then_some(name))
}

/// Changes what was written before anything is built of it.
type Amend = Box<dyn Fn(&mut Config) + Send + Sync>;

impl Builder {
    pub fn new(path: Option<PathBuf>, env: Environment) -> Self {
        let (plugins, scripts) = (plugins::Shelf::default(), adapters::Scripts::default());
        Builder { path, env, amend: None, serving: None, plugins, scripts }
    }

    /// The same for a process that serves clients at this address until it ends: what is built from now on must be safe
    /// there, wherever it says to listen. What of it counts from the next start only is warned of where it differs from
    /// this configuration.
    #[must_use]
    pub fn serving(self, address: SocketAddr, config: Config) -> Self {
        Builder { serving: Some(Serving { address, config }), ..self }
    }

    /// The same with another hand in what is written, for what is no service: the file itself stays as it is.
    #[must_use]
    pub fn amended(self, amend: impl Fn(&mut Config) + Send + Sync + 'static) -> Self {
        Builder { amend: Some(Box::new(amend)), ..self }
    }

    /// A file of this name beside the configuration.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path.as_ref().and_then(|path| path.parent()).unwrap_or(std::path::Path::new("")).join(name)
    }

    /// Reads what is written.
    ///
    /// # Errors
    /// Every error of the file, a line each.
    pub fn load(&self) -> Result<Loaded, String> {
        let adapter = |config: &Config, dialect: &str| adapters::check(config, dialect, &self.plugins);
        self.read(&|config, hook| hooks::check(config, hook, &self.plugins), &adapter, &parts)
    }

    /// The same whatever is wrong with scripts, plugins, certificates and prices, for what has nothing to do with them.
    ///
    /// # Errors
    /// As [`Builder::load`].
    pub fn load_alone(&self) -> Result<Loaded, String> {
        self.read(&|_, _| Vec::new(), &|_, _| Vec::new(), &|_| Vec::new())
    }

    fn read(&self, hooks: HookCheck<'_>, adapters: AdapterCheck<'_>, parts: PartsCheck<'_>) -> Result<Loaded, String> {
        let providers: Vec<&str> = PROVIDERS.iter().map(|row| row.name).collect();
        let dialects: Vec<&str> = crate::dialect::DIALECTS.iter().map(|dialect| dialect.name()).collect();
        let endpoints: Vec<&str> = api::ENDPOINTS.iter().map(|endpoint| endpoint.path).collect();
        let parameters: Vec<&str> = cache::fields::parameters().collect();
        let known = Known {
            providers: &providers,
            is_makers: &|model| owner_of(model).is_some(),
            dialects: &dialects,
            endpoints: &endpoints,
            asks: cache::fields::THE_ASK,
            parameters: &parameters,
            hooks,
            adapters,
            parts,
            serving: self.serving.as_ref().map(|serving| serving.address),
        };
        let loaded = match &self.path {
            Some(path) => config::load(path, &*self.env, &known),
            None => config::builtin(&*self.env, &known),
        };
        let mut loaded = loaded.map_err(|errors| errors.to_string())?;
        if let Some(amend) = &self.amend {
            amend(&mut loaded.config);
        }
        Ok(loaded)
    }

    /// The files that a generation would come from, whatever is wrong with its policies; none when the configuration
    /// cannot be read.
    pub fn files(&self) -> Vec<PathBuf> {
        self.load_alone().map(|loaded| self.files_of(&loaded.config)).unwrap_or_default()
    }

    /// In order and each once: who compares fingerprints must take the same files in the same order.
    fn files_of(&self, config: &Config) -> Vec<PathBuf> {
        let files = self.path.iter().cloned().chain(config.files()).chain(hooks::files(config));
        files.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Reads and builds everything.
    ///
    /// # Errors
    /// Why nothing was built, a line each.
    pub fn build(&self, number: u64) -> Result<Generation, String> {
        let config = self.load()?.config;
        let files = self.files_of(&config);
        // Taken before the reading that counts: whatever changes from here on will be seen to have changed.
        let fingerprint = fingerprint(&files);
        let loaded = self.load()?;
        let config = loaded.config;
        let mut warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let catalogue = routes::catalogue(&config).map_err(in_lines)?;
        let speaking = RefCell::default();
        let adapter = |dialect: &str| adapters::find(&config, dialect, &self.scripts, &self.plugins, &speaking);
        let routes = routes::build(&config, &*self.env, &adapter, &mut warnings)?;
        let described =
            config.models.iter().filter_map(|(name, model)| Some((name.to_owned(), model.description.clone()?)));
        let descriptions = described.collect();
        let bounds = &config.listen.limits;
        let tls = certificates(&config).map_err(in_lines)?;
        let hooks = Arc::new(hooks::build(&config, &self.plugins, &routes, &mut warnings)?);
        warnings.extend(self.plugins.warnings());
        if let Some(serving) = &self.serving {
            let waits = |name| format!("{name}: what changed here takes effect at the next start");
            warnings.extend(waiting(&serving.config, &config).map(waits));
        }
        let mut scripts: Vec<_> =
            hooks.all().iter().map(|hook| (format!("hooks.{}", hook.guest.name), hook.bundle.clone())).collect();
        let bundles = self.scripts.bundles(&config).into_iter();
        scripts.extend(bundles.map(|(name, bundle)| (format!("adapters.{name}"), bundle)));
        scripts.extend(adapters::plugins(&speaking));
        Ok(Generation {
            number,
            source: self.path.as_ref().map_or_else(|| "built in".to_owned(), |path| path.display().to_string()),
            loaded: SystemTime::now(),
            files,
            fingerprint,
            sources: sources(&config, &scripts),
            scripts,
            hooks,
            adapters: speaking.into_inner().into_values().collect(),
            hooks_tests: config.hooks_tests.0,
            warnings,
            keys: keys(&config)?,
            trusted: trusted(&config)?,
            routes,
            rules: limits::build(&config)?,
            total: config.timeouts.total.get(),
            limits: pipeline::Limits {
                max_body_bytes: bounds.max_body_bytes.as_usize(),
                body_timeout: bounds.body_timeout.into(),
            },
            server: connection::Limits {
                max_connections: bounds.max_connections,
                max_head_bytes: bounds.max_head_bytes.as_usize(),
                max_headers: bounds.max_headers,
                head_timeout: bounds.head_timeout.into(),
                keep_alive_timeout: bounds.keep_alive_timeout.into(),
                max_streams: bounds.max_streams,
            },
            tls,
            max_answer_bytes: bounds.max_answer_bytes.as_usize(),
            max_event_bytes: config.stream.max_event_bytes.as_usize(),
            keep_alive: config.stream.keep_alive.get(),
            log_trace: config.log.trace,
            cache: caching::build(&config)?,
            catalogue,
            descriptions,
            trees: Handles::default(),
        })
    }
}

/// What is wrong with a part of what is written: the way to it, and what to do.
type Wrong = (Vec<String>, String);

/// What is wrong with the parts that are built of files and sums alone.
fn parts(config: &Config) -> Vec<Wrong> {
    let wrong = [certificates(config).err(), routes::catalogue(config).err()];
    wrong.into_iter().flatten().flatten().collect()
}

/// The same for people, where the file's lines are no longer known.
fn in_lines(wrong: Vec<Wrong>) -> String {
    wrong.iter().map(|(way, message)| format!("{}: {message}", way.join("."))).collect::<Vec<_>>().join("\n")
}

/// The listener's certificate, where it has one.
fn certificates(config: &Config) -> Result<Option<Arc<rustls::ServerConfig>>, Vec<Wrong>> {
    let Some(files) = &config.listen.tls else { return Ok(None) };
    let named = |(key, message): (&str, String)| (vec!["listen".to_owned(), "tls".to_owned(), key.to_owned()], message);
    match tls::load(&files.cert, &files.key, files.client_ca.as_deref()) {
        Ok(tls) => Ok(Some(tls)),
        Err(wrong) => Err(wrong.into_iter().map(named).collect()),
    }
}

/// The texts by which two generations are compared.
fn sources(config: &Config, scripts: &[(String, Arc<Bundle>)]) -> Vec<(String, String)> {
    let mut sources = vec![("configuration".to_owned(), config::print_marked(config))];
    for (_, bundle) in scripts {
        let all = std::iter::once(&bundle.main).chain(bundle.modules.values());
        sources.extend(all.map(|source| (source.label.clone(), source.text.clone())));
    }
    sources.sort();
    sources.dedup();
    sources
}

fn trusted(config: &Config) -> Result<Trusted, String> {
    let list = config.listen.trusted_proxies.iter().map(String::as_str);
    Trusted::read(list)
        .ok_or_else(|| "listen.trusted_proxies: one of them is neither an address nor a network".to_owned())
}

/// What files hold, as one number. An unreadable file counts as such: its return is a change.
pub fn fingerprint(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        match file.is_dir() {
            true => bundle::listing(file).hash(&mut hasher),
            false => std::fs::read(file).ok().hash(&mut hasher),
        }
    }
    hasher.finish()
}

/// The keys, or everybody when there are none: `config::check` has made sure that this is wanted.
fn keys(config: &Config) -> Result<Keys, String> {
    let headers = config
        .auth
        .headers
        .iter()
        .map(|name| name.parse().map_err(|_| format!("auth.headers: `{name}` is no header name")))
        .collect::<Result<_, _>>()?;
    let pepper = config.auth.pepper.as_ref().map(|pepper| pepper.expose().as_bytes());
    let mut keys = Keys::new(pepper, headers);
    for key in &config.keys {
        let principal = Principal {
            key: key.name.clone(),
            project: key.project.clone(),
            models: key.allowed_models(),
            metadata: key.metadata.clone(),
            disable_fallbacks: key.disable_fallbacks,
            priority: key.priority,
            trace: key.trace,
            expires: key.expires.as_ref().map(|expiry| u64::try_from(expiry.unix()).unwrap_or(0)),
            is_anyone: false,
        };
        let added = match (&key.key, &key.hash) {
            (Some(secret), _) => keys.add(secret.expose(), principal),
            (None, Some(hash)) => {
                let digest = auth::parse_hash(hash.expose())
                    .ok_or_else(|| format!("keys: the hash of `{}` is not hmac-sha256: and 64 digits", key.name))?;
                keys.add_hashed(digest, principal)
            }
            // Its variable or file is empty: the loader has warned, and nobody can present it.
            (None, None) => Ok(()),
        };
        added.map_err(|other| {
            let name = &key.name;
            format!("keys: `{name}` is the same key as `{other}`, so the caller cannot be told; give each its own")
        })?;
    }
    if config.keys.is_empty() {
        // Behind an address that others reach names are whatever they call it; on loopback they are known.
        let names = if config.auth.open { Names::Any } else { Names::Local };
        keys.open(Principal { key: "anyone".into(), trace: true, is_anyone: true, ..Principal::default() }, names);
    }
    Ok(keys)
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation").field("number", &self.number).finish_non_exhaustive()
    }
}
