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
    serving: Option<SocketAddr>,
    plugins: plugins::Shelf,
    scripts: adapters::Scripts,
}

/// Changes what was written before anything is built of it.
type Amend = Box<dyn Fn(&mut Config) + Send + Sync>;

impl Builder {
    pub fn new(path: Option<PathBuf>, env: Environment) -> Self {
        let (plugins, scripts) = (plugins::Shelf::default(), adapters::Scripts::default());
        Builder { path, env, amend: None, serving: None, plugins, scripts }
    }

    /// The same for a process that serves clients at this address until it ends: what is built from now on must be safe
    /// there, wherever it says to listen.
    #[must_use]
    pub fn serving(self, address: SocketAddr) -> Self {
        Builder { serving: Some(address), ..self }
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
            serving: self.serving,
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::dialect::{self, Op};
    use crate::fault::Kind;
    use crate::route::{Auth, Overrides};
    use crate::state::health::{End, Standing, Wanted};
    use crate::state::log::Log;
    use crate::upstream::Proxy;

    fn built(name: &str, text: &str) -> Generation {
        let path = std::env::temp_dir().join(format!("portcullis-{}-{name}.yaml", std::process::id()));
        std::fs::write(&path, text).expect("is writable");
        let built = Builder::new(Some(path.clone()), Box::new(|_| None)).build(1);
        std::fs::remove_file(&path).expect("is there");
        built.expect("builds")
    }

    #[test]
    fn what_a_provider_says_of_its_connection_is_done() {
        let generation = built(
            "dial",
            "providers: {
               direct: { dialect: openai_chat, base_url: 'https://a/v1', proxy: off, http2: false },
               behind: { dialect: openai_chat, base_url: 'https://b/v1', proxy: 'http://proxy:3128' },
               plain: { dialect: openai_chat, base_url: 'http://c/v1', http2: true },
             }",
        );
        let dials: Vec<_> = generation.routes.providers.iter().map(|provider| &*provider.faces[0].dial).collect();
        assert_eq!(dials[0].proxy, Proxy::Off);
        assert_eq!(dials[1].proxy, Proxy::Url("http://proxy:3128".into()));
        assert_eq!(dials[2].proxy, Proxy::Environment);
        assert_eq!(dials.iter().map(|dial| dial.http1_only).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(dials.iter().map(|dial| dial.http2_only).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn models_that_openais_chat_form_lacks_are_asked_in_its_other_form_by_callers_of_others() {
        let generation = built("faces", "providers: { openai: { api_key: x } }");
        let provider = &generation.routes.providers[0];
        let form = |caller: &str, model: &str, op: Op| {
            let timeouts = provider.timeouts;
            let target = Target::new(provider.clone(), model.to_owned(), Overrides::default(), timeouts, None);
            target.face_for(dialect::find(caller).expect("built in"), op).expect("a face").form()
        };
        for model in ["gpt-5.5", "gpt-5.3-codex", "o3-pro"] {
            assert_eq!(form("anthropic", model, Op::Generate), "openai_responses", "{model}");
            assert_eq!(form("openai_chat", model, Op::Generate), "openai_chat", "{model}");
        }
        assert_eq!(form("anthropic", "gpt-5.1", Op::Generate), "openai_chat");
        assert_eq!(form("gemini", "text-embedding-3-small", Op::Embed), "openai_chat");
    }

    #[test]
    fn a_key_without_weight_is_never_used_also_where_no_other_is_set() {
        let generation = built(
            "weightless",
            "providers: {
               openai: { keys: [{ key: spare, weight: 0 }, { env: NOT_SET }] },
               groq: { keys: [{ key: spare, weight: 0 }, { key: used }] },
             }",
        );
        assert_eq!(generation.routes.dormant, [("openai".to_owned(), "NOT_SET".to_owned())]);
        let groq = generation.routes.providers.iter().find(|provider| provider.name == "groq").expect("is live");
        assert!(groq.keys.is_empty(), "one key alone is no pool");
        let Auth::Header(_, value) = &groq.faces[0].auth else { panic!("{:?}", groq.faces[0].auth) };
        assert_eq!(value, "Bearer used");
    }

    #[cfg(feature = "wasm")]
    #[test]
    fn a_folder_of_compiled_plugins_that_is_none_is_told_once() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let generation = built(
            "uncompiled",
            &format!(
                "plugins: {{ folder: '{}', compiled: '{}' }}\nproviders:\n  \
                 one: {{ dialect: 'wasm:cohere', base_url: 'https://a' }}\n  \
                 two: {{ dialect: 'wasm:replicate', base_url: 'https://b' }}\n",
                root.join("plugins/prebuilt").display(),
                root.join("Cargo.toml").display()
            ),
        );
        let told: Vec<_> = generation.warnings.iter().filter(|told| told.starts_with("plugins.compiled: ")).collect();
        assert_eq!(told.len(), 1, "{:?}", generation.warnings);
        assert!(told[0].contains("are not kept: ") && told[0].contains("Cargo.toml"), "{told:?}");
    }

    #[test]
    fn what_is_wrong_with_certificates_and_prices_is_said_with_its_place_and_together_with_all_else() {
        let folder = std::env::temp_dir().join(format!("portcullis-{}-parts", std::process::id()));
        std::fs::create_dir_all(&folder).expect("is writable");
        let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
        let tls = tls.display();
        let said = |listen: &str| {
            let text = format!(
                "listen: {{ tls: {listen} }}\nmodels: {{ x: opnai/y }}\nprices:\n  file: p.json\n  models:\n    \
                 openai/nobodys: {{ input: 1 }}\n    openai/nobodys-too: {{ output: 1 }}\n\
                 budgets: [{{ name: b, money: $1 / day, webhook: nope }}]\n"
            );
            std::fs::write(folder.join("p.json"), "[]").expect("is writable");
            std::fs::write(folder.join("c.yaml"), text).expect("is writable");
            let said = Builder::new(Some(folder.join("c.yaml")), Box::new(|_| None))
                .load()
                .map(|_| ())
                .expect_err("is refused");
            said.replace(&format!("{}/", folder.display()), "").replace(&format!("{tls}/"), "")
        };
        let rest = "\
c.yaml:2:14: models.x.target: there is no provider `opnai`; did you mean `openai`?
c.yaml:4:9: prices.file: p.json is no catalogue (";
        let twins = said(&format!("{{ cert: {tls}/first.crt, key: {tls}/second.key }}"));
        let (pair, others) = twins.split_once('\n').expect("lines");
        assert!(
            pair.starts_with("c.yaml:1:") && pair.contains(" listen.tls.key: second.key does not fit first.crt ("),
            "{pair}"
        );
        assert!(others.starts_with(rest), "{others}");
        for line in [
            "c.yaml:6:5: prices.models.\"openai/nobodys\": neither it nor the catalogue states both `input` and `output`;",
            "c.yaml:7:5: prices.models.\"openai/nobodys-too\": neither it nor",
            "c.yaml:8:48: budgets[0].webhook: is no address; write https://host/path",
        ] {
            assert!(others.contains(line), "{line} is not in:\n{others}");
        }
        let swapped = said(&format!("{{ cert: {tls}/first.key, key: {tls}/first.crt, client_ca: {tls}/first.key }}"));
        for what in [
            "listen.tls.cert: first.key holds no certificate;",
            "listen.tls.key: first.crt holds no private key (",
            "listen.tls.client_ca: first.key holds no certificate;",
        ] {
            assert!(swapped.contains(what), "{what} is not in:\n{swapped}");
        }
        // Else nobody would see it when the pair is whole.
        let pair = format!("listen: {{ tls: {{ cert: {tls}/first.crt, key: {tls}/second.key }} }}\n");
        std::fs::write(folder.join("c.yaml"), pair).expect("is writable");
        let watched = Builder::new(Some(folder.join("c.yaml")), Box::new(|_| None)).files();
        assert!(watched.iter().any(|file| file.ends_with("second.key")), "{watched:?}");
        std::fs::remove_dir_all(&folder).expect("is there");
    }

    /// The shipped file under some variables.
    fn shipped(env: &'static [(&'static str, &'static str)]) -> Generation {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/portcullis.yaml");
        let env = move |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Builder::new(Some(path), Box::new(env)).build(1).expect("the shipped file builds")
    }

    fn target(generation: &Generation, model: &str) -> Result<String, String> {
        let targets = generation.targets(model).map_err(|fault| fault.message)?;
        Ok(targets.first().map(|target| target.name()).unwrap_or_default())
    }

    /// Else the watcher, which knows the files in order, would see a change where there is none, again and again.
    #[test]
    fn the_files_of_a_generation_are_in_order_and_each_is_there_once() {
        let folder = std::env::temp_dir().join(format!("portcullis-{}-files", std::process::id()));
        std::fs::create_dir_all(&folder).expect("is writable");
        for name in ["a", "z"] {
            let text = "function on_request() end";
            std::fs::write(folder.join(format!("{name}.luau")), text).expect("is writable");
        }
        let path = folder.join("m.yaml");
        std::fs::write(&path, "hooks_dir: .\nhooks: [{ lua: z }, { lua: a }, { lua: a, name: again }]\n")
            .expect("writes");
        let generation = Builder::new(Some(path), Box::new(|_| None)).build(1).expect("builds");
        std::fs::remove_dir_all(&folder).expect("is there");
        let mut sorted = generation.files.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(generation.files, sorted);
        assert!(sorted.len() >= 3, "{sorted:?}");
    }

    #[test]
    fn a_test_that_comes_to_an_attached_policy_is_a_change() {
        let folder = std::env::temp_dir().join(format!("portcullis-{}-coming", std::process::id()));
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("is writable");
        std::fs::create_dir_all(folder.join("whole")).expect("is writable");
        write("single.luau", "function on_request() end");
        write("whole/main.luau", "function on_request() end");
        write("m.yaml", "hooks_dir: .\nhooks: [{ lua: single }, { lua: whole }]\n");
        let generation = Builder::new(Some(folder.join("m.yaml")), Box::new(|_| None)).build(1).expect("builds");
        let mut before = fingerprint(&generation.files);
        assert_eq!(before, generation.fingerprint);
        for name in ["single_test.luau", "whole/any_test.luau", "whole/module.luau"] {
            write(name, "");
            let now = fingerprint(&generation.files);
            assert_ne!(before, now, "{name}");
            before = now;
        }
        write("whole/notes.txt", "");
        assert_eq!(before, fingerprint(&generation.files), "no source");
        std::fs::remove_dir_all(&folder).expect("is there");
    }

    #[test]
    fn a_provider_without_a_key_is_not_stood_in_for() {
        let generation = shipped(&[]);
        let why = target(&generation, "openai/gpt-5").expect_err("refused");
        assert!(why.contains("OPENAI_API_KEY"), "{why}");
        // A name that means nobody is for the only provider there is.
        assert_eq!(target(&generation, "gpt-5").as_deref(), Ok("mock/gpt-5"));
    }

    #[tokio::test]
    async fn a_generation_that_is_put_back_brings_its_bounds_and_breakers() {
        let state = State::new(0, Log::off());
        let of = |number: u32| {
            let provider = format!(
                "{{ dialect: openai_chat, base_url: 'http://a', max_inflight: {number}, breaker: {{ consecutive: {number} }} }}"
            );
            built(
                &format!("back-{number}"),
                &format!("providers: {{ a: {provider}, ab: {{ preset: openai, api_key: k, max_inflight: 9 }} }}"),
            )
        };
        let (first, second) = (of(7), of(1));
        let bounds = |generation: &Generation| {
            generation.activate(&state);
            for model in ["a/m", "ab/m"] {
                let tree = generation.tree(model).expect("a provider");
                tree.targets().iter().for_each(|target| drop(target.record(&state.health).clone()));
            }
            let places = |name: &str| state.health.record(name).measure(0).places;
            let flight = state.health.record("a/m").begin(0).expect("is let through");
            flight.end(0, End::Failed { kind: Kind::UpstreamError, retry_after: None });
            let opens = matches!(state.health.record("a/m").standing(0), Standing::Open { .. });
            state.health.record("a/m").want(Wanted::Closed);
            (places("a"), places("ab"), opens)
        };
        let (ours, theirs) = ((Some(7), Some(9), false), (Some(1), Some(9), true));
        assert_eq!([&first, &second, &first].map(bounds), [ours, theirs, ours]);
    }

    #[test]
    fn a_model_is_listed_once_however_often_it_is_known() {
        let generation = built(
            "listed",
            "providers: { openai: { api_key: k, models: { gpt-5: gpt-5-2025-08-07, ours: ft-1 } } }
models: { openai/gpt-5-mini: { target: openai/gpt-5-mini, description: small } }",
        );
        let mut names: Vec<String> = generation.listed().into_iter().map(|model| model.id).collect();
        let count = names.len();
        for name in ["openai/gpt-5", "openai/gpt-5-mini", "openai/ours"] {
            assert_eq!(names.iter().filter(|known| *known == name).count(), 1, "{name}");
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(generation.listed()[0].description.as_deref(), Some("small"));
    }

    #[test]
    fn a_bare_name_goes_to_its_maker() {
        let generation = shipped(&[("OPENAI_API_KEY", "sk-a"), ("ANTHROPIC_API_KEY", "sk-b")]);
        assert_eq!(target(&generation, "gpt-5").as_deref(), Ok("openai/gpt-5"));
        assert_eq!(target(&generation, "claude-sonnet-4-5").as_deref(), Ok("anthropic/claude-sonnet-4-5"));
        assert_eq!(target(&generation, "smart").as_deref(), Ok("anthropic/claude-sonnet-4-5"));
        // Open weights of a maker that does not serve them, and what only begins like a name.
        for model in ["gpt-oss:20b", "gpt-oss-120b", "o10", "o1x"] {
            assert!(target(&generation, model).is_err(), "{model}");
        }
        assert_eq!(target(&generation, "o1-mini").as_deref(), Ok("openai/o1-mini"));
        assert!(target(&generation, "no-such-model").is_err());
    }
}
