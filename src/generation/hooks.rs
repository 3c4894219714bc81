//! From written hooks to loaded policies, whatever their language.
//!
//! Reads the policies' files; whatever is wrong with any of them refuses the whole generation.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::plugins::Shelf;
use crate::config::{self, Config};
use crate::guest::bundle::{self, Bundle};
use crate::guest::{self, Wanted};
use crate::hook::{Fail, Hook, Hooks, Matcher};
use crate::host::{Budget, Grants, Guest, Phase};
use crate::route::{self, Routes, Secret};

pub(super) use crate::guest::settings::{Wrong, settings};

/// What is wrong with a hook as written.
pub(super) fn check(config: &Config, hook: &config::Hook, shelf: &Shelf) -> Vec<Wrong> {
    // One that names two is told so elsewhere.
    if let (Some(plugin), None) = (&hook.wasm, &hook.lua) {
        return shelf.policy(config, hook, plugin).err().unwrap_or_default();
    }
    let Some(name) = hook.lua.as_deref() else { return Vec::new() };
    let at = |key: &str, message: String| (vec![key.to_owned()], message);
    let bundle = match bundle::read(name, &config.hooks_dir.0) {
        Ok(bundle) => bundle,
        Err(error) => return vec![at("lua", error)],
    };
    if bundle.manifest.adapter.is_some() {
        let what = format!("`{name}` is an adapter, not a policy; it is named by a provider, as `dialect: lua:{name}`");
        return vec![at("lua", what)];
    }
    if let Err(error) = guest::lua::compiles(&bundle) {
        return vec![at("lua", error)];
    }
    settings(&bundle.manifest, &hook.config).err().unwrap_or_default()
}

/// Every file of every script, for the watcher.
pub(super) fn files(config: &Config) -> Vec<PathBuf> {
    let names = config.hooks.iter().filter_map(|hook| hook.lua.as_deref());
    names.chain(config.scripted()).flat_map(|name| bundle::files(name, &config.hooks_dir.0)).collect()
}

/// Loads every hook.
///
/// # Errors
/// What is missing, does not compile or refuses its settings, a line each.
pub(super) fn build(
    config: &Config,
    shelf: &Shelf,
    routes: &Routes,
    warnings: &mut Vec<String>,
) -> Result<Hooks, String> {
    let mut wanted = Vec::new();
    let mut drafts = Vec::new();
    let mut wrong = Vec::new();
    for written in &config.hooks {
        let drafted = match &written.wasm {
            Some(plugin) => {
                let policy = shelf.policy(config, written, plugin).map_err(lines);
                policy.map(|(draft, engine)| (draft, Some(engine)))
            }
            None => draft(written, &config.hooks_dir.0, config.redis.kv).map(|(want, draft)| {
                wanted.push((drafts.len(), want));
                (draft, None)
            }),
        };
        match drafted {
            Ok(drafted) => drafts.push(drafted),
            Err(error) => wrong.push(format!("hooks.{}: {error}", written.title().unwrap_or_default())),
        }
    }
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    let slots = config.listen.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    let (places, wanted): (Vec<usize>, Vec<Wanted>) = wanted.into_iter().unzip();
    let scripts = guest::load(wanted, slots).map_err(|errors| {
        let line = |(at, error): (usize, String)| {
            let name = places.get(at).and_then(|place| drafts.get(*place)).map_or("", |(draft, _)| &draft.guest.name);
            format!("hooks.{name}: {error}")
        };
        errors.into_iter().map(line).collect::<Vec<_>>().join("\n")
    })?;
    for (place, script) in places.into_iter().zip(scripts) {
        drafts[place].1 = Some(script);
    }
    let hooks = drafts.into_iter().filter_map(|(draft, engine)| Some(draft.finish(engine?, warnings)));
    let hooks = hooks.collect::<Result<Vec<_>, _>>()?;
    let names_callers = hooks.iter().any(|hook| hook.phases().has(Phase::Auth));
    let unnamed = Unnamed { config, routes, names_callers };
    config.hooks.iter().for_each(|hook| unnamed.warn(hook, warnings));
    Ok(Hooks::new(hooks))
}

/// A hook without its engine.
pub(super) struct Draft {
    pub guest: Arc<Guest>,
    bundle: Arc<Bundle>,
    matcher: Matcher,
    priority: i32,
    fail: Fail,
    shadow: bool,
    share: u16,
}

impl Draft {
    /// What is written of a hook, with the policy that it names.
    ///
    /// `shared_kv`: its `kv` is kept together with other processes.
    pub fn of(written: &config::Hook, bundle: Arc<Bundle>, shared_kv: bool) -> Draft {
        let guest = Arc::new(Guest {
            name: written.title().unwrap_or_default().into(),
            grants: Grants { shared_kv, ..grants(&written.grants) },
            budget: budget(&written.budget),
            metrics: bundle.manifest.metrics.clone(),
        });
        Draft {
            guest,
            bundle,
            matcher: Matcher {
                models: written.on.models.clone(),
                keys: written.on.keys.clone(),
                projects: written.on.projects.clone(),
            },
            priority: written.priority,
            fail: match written.fail {
                config::Fail::Default => Fail::Default,
                config::Fail::Open => Fail::Open,
                config::Fail::Closed => Fail::Closed,
            },
            shadow: written.shadow,
            share: written.share.map_or(10_000, config::Percent::basis_points),
        }
    }

    /// # Errors
    /// It is attached in a way that cannot hold.
    fn finish(self, engine: guest::Engine, warnings: &mut Vec<String>) -> Result<Hook, String> {
        let Draft { guest, bundle, matcher, priority, fail, shadow, share } = self;
        let manifest = &bundle.manifest;
        let reads_streams = engine.phases().has(Phase::Event);
        let name = &guest.name;
        // Plugins export every phase as often as not, and theirs is left out.
        let names_callers = matches!(engine, guest::Engine::Lua(_)) && engine.phases().has(Phase::Auth);
        if names_callers && !matcher.is_everything() {
            return Err(format!(
                "hooks.{name}: has on_auth and is attached with `on`; on_auth runs before caller and model are known, for every \
                 request; take `on` out, and let the policy itself look at `head`, or put on_auth into a policy of its own"
            ));
        }
        if engine.phases().has(Phase::Tick) && manifest.tick().is_none() {
            warnings.push(format!(
                "hooks.{name}: has on_tick, but its manifest says no `tick`, so it never runs; add tick = \"30s\""
            ));
        }
        if !engine.phases().has(Phase::Tick) && manifest.tick().is_some() {
            warnings.push(format!("hooks.{name}: its manifest says `tick`, but it has no on_tick"));
        }
        match (reads_streams, manifest.stream) {
            (true, guest::StreamMode::None) => warnings.push(format!(
                "hooks.{name}: has on_event, but its manifest says no `stream`, so it sees none; add stream = \"event\""
            )),
            (false, guest::StreamMode::None) if manifest.guard && engine.phases().has(Phase::Answer) => {
                warnings
                    .push(format!("hooks.{name}: is a guard of answers without a stream mode; streams pass it unseen"));
            }
            (false, guest::StreamMode::Event | guest::StreamMode::Buffer) => {
                warnings.push(format!("hooks.{name}: asks for streams, but has no on_event"));
            }
            _ => {}
        }
        Ok(Hook::new(guest, bundle, engine, matcher, priority, fail, shadow, share))
    }
}

/// Looks for names of hooks that nothing is called by: a typo would leave a policy out without a word.
struct Unnamed<'a> {
    config: &'a Config,
    routes: &'a Routes,
    /// A policy names callers, by whatever names it likes.
    names_callers: bool,
}

impl Unnamed<'_> {
    fn warn(&self, hook: &config::Hook, warnings: &mut Vec<String>) {
        let title = hook.title().unwrap_or_default();
        let keys = || self.config.keys.iter();
        let mut say = |key: &str, name: &str, what: &str, unless: &str| {
            warnings.push(format!("hooks.{title}: {key}: {what} is called `{name}`{unless}"));
        };
        for (key, names) in [("on.models", &hook.on.models), ("grants.models", &hook.grants.models)] {
            for name in names.iter().filter(|name| !self.is_model(name)) {
                say(key, name, "no model", "");
            }
        }
        let named = if self.names_callers { ", unless an on_auth function names a caller so" } else { "" };
        for name in &hook.on.keys {
            if !is_among(name, keys().map(|key| key.name.as_str())) {
                say("on.keys", name, "no key", named);
            }
        }
        for name in &hook.on.projects {
            if !is_among(name, keys().filter_map(|key| key.project.as_deref())) {
                say("on.projects", name, "no project of a key", named);
            }
        }
    }

    /// Whether a request may come with such a model.
    fn is_model(&self, name: &str) -> bool {
        if is_among(name, self.config.models.iter().map(|(known, _)| known)) {
            return true;
        }
        let is_provider = |name: &str| {
            let mut live = self.routes.providers.iter().map(|provider| provider.name.as_str());
            let mut dormant = self.routes.dormant.iter().map(|(name, _)| name.as_str());
            name.contains('*') || live.any(|live| live == name) || dormant.any(|dormant| dormant == name)
        };
        match name.split_once('/') {
            Some((provider, _)) => is_provider(provider),
            // Whatever begins with anything may be any provider's.
            None if name.contains('*') => name.starts_with('*') || self.routes.providers.len() == 1,
            None => self.routes.tree(name, &|_, _| None).is_ok(),
        }
    }
}

/// Whether any of these is called so.
fn is_among<'a>(name: &str, mut known: impl Iterator<Item = &'a str>) -> bool {
    let pattern = [name.to_owned()];
    known.any(|known| route::allows(&pattern, known))
}

fn draft(written: &config::Hook, folder: &Path, shared_kv: bool) -> Result<(Wanted, Draft), String> {
    let name = written.lua.as_deref().ok_or("names no policy; write `lua: NAME` or `wasm: NAME`")?;
    let bundle = Arc::new(bundle::read(name, folder)?);
    let config = settings(&bundle.manifest, &written.config).map_err(lines)?;
    let draft = Draft::of(written, bundle.clone(), shared_kv);
    let wanted = Wanted { guest: draft.guest.clone(), bundle, config, domain: written.domain.clone() };
    Ok((wanted, draft))
}

/// What is wrong, a line each.
fn lines(wrong: Vec<Wrong>) -> String {
    let line = |(path, error): Wrong| match path.is_empty() {
        true => error,
        false => format!("{}: {error}", path.join(".")),
    };
    wrong.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

fn grants(written: &config::Grants) -> Grants {
    let secrets = written.secrets.iter().map(|(name, secret)| (name.clone(), Secret(secret.expose().to_owned())));
    Grants {
        http: written.http.clone(),
        private_addresses: written.private_addresses,
        secrets: secrets.collect(),
        kv: written.kv.clone(),
        shared_kv: false,
        models: written.models.clone(),
    }
}

fn budget(written: &config::Budget) -> Budget {
    Budget {
        cpu: written.cpu.into(),
        total: written.total.into(),
        wait: written.wait.into(),
        memory: written.memory.as_usize(),
        safepoints: written.safepoints,
        host_calls: written.host_calls,
        output: written.output.as_usize(),
    }
}
