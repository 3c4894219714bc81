//! Which targets serve a model, in which order: pure data in, a plan out.
//!
//! Never looks at a clock, a socket or a body. The routes are built by `generation`; trying them is `attempt`'s.

pub mod availability;
pub mod condition;
pub mod facts;
mod filter;
mod plan;
pub mod planner;
pub mod policy;
mod target;
pub mod tree;
pub mod way;

use std::collections::HashMap;
use std::sync::Arc;

use crate::cost::ModelCard;
use crate::fault::{Fault, Kind};
use crate::provider::claim;
use policy::Locks;

pub use plan::{Hedge, HedgeAfter, Mirror, Plan, Retry, Rules, Verdict};
pub use target::{Address, Addresses, Auth, Face, Key, Overrides, Probe, Probed, Provider, Secret, Target, Timeouts};
pub use tree::{General, Node, Require, Route, RouteTarget, Tags, Tree};

/// Every way from a model name to targets.
#[derive(Debug, Default)]
pub struct Routes {
    /// Exact names of the configuration.
    pub models: HashMap<String, Route>,
    /// Names with one `*`, longest fixed part first.
    pub wildcards: Vec<(String, Route)>,
    /// Live providers by name, in the order of the configuration.
    pub providers: Vec<Arc<Provider>>,
    /// Rules for names that are not configured.
    pub general: General,
    /// What requests may say about their own routing.
    pub locks: Locks,
    /// Names that the built-in table knows but that have no credential, for the error text: (name, variable to set).
    pub dormant: Vec<(String, String)>,
}

impl Routes {
    /// The tree for a model name: configured names first, then wildcards, then `provider/model` split at the first
    /// slash, then the provider that bare name belongs to, then the only provider there is.
    ///
    /// # Errors
    /// [`Kind::ModelNotFound`], with the nearest names.
    pub fn tree(&self, model: &str, cards: Cards<'_>) -> Result<Tree, Fault> {
        if let Some(route) = self.models.get(model) {
            return Ok(ready(route, "", cards));
        }
        for (pattern, route) in &self.wildcards {
            if let Some(part) = matched(pattern, model) {
                return Ok(ready(route, part, cards));
            }
        }
        let direct = self.direct(model).ok_or_else(|| self.not_found(model))?;
        Ok(ready(&Route::to(direct, &self.general), "", cards))
    }

    fn direct(&self, model: &str) -> Option<RouteTarget> {
        if let Some((name, rest)) = model.split_once('/')
            && let Some(provider) = self.providers.iter().find(|provider| provider.name == name)
            && !rest.is_empty()
        {
            return Some(direct(provider, rest));
        }
        // The name means a provider that has no key: another one must not answer in its place.
        if model.split_once('/').is_some_and(|(name, _)| self.dormant.iter().any(|(dormant, _)| dormant == name)) {
            return None;
        }
        let claims = self.providers.iter().filter_map(|provider| Some((claim(provider.owns, model)?, provider)));
        let owner = claims.reduce(|best, other| if other.0 > best.0 { other } else { best }).map(|(_, owner)| owner);
        let provider = match (owner, self.providers.as_slice()) {
            (Some(owner), _) => owner,
            (None, [only]) => only,
            _ => return None,
        };
        (!model.is_empty()).then(|| direct(provider, model))
    }

    fn not_found(&self, model: &str) -> Fault {
        let prefix = model.split_once('/').map_or(model, |(prefix, _)| prefix);
        let dormant = self.dormant.iter().find(|(name, _)| name == prefix).map(|(_, variable)| variable.as_str());
        // A provider of the built-in table that nobody wrote down is told of as well.
        let of_table = || crate::provider::find(prefix).and_then(|row| row.env.first()).copied();
        if let Some(variable) = dormant.or_else(of_table) {
            let text = format!(
                "The provider `{prefix}` of the model `{model}` has no credential; the operator sets {variable}."
            );
            return Fault::new(Kind::ModelNotFound, text).param("model");
        }
        let names = self.models.keys().map(String::as_str);
        let near = names
            .chain(self.providers.iter().map(|provider| provider.name.as_str()))
            .map(|name| (strsim::jaro_winkler(name, if name.contains('/') { model } else { prefix }), name))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = near.map(|(_, name)| format!(" Did you mean `{name}`?")).unwrap_or_default();
        Fault::new(Kind::ModelNotFound, format!("No model is called `{model}`.{hint}")).param("model")
    }
}

/// Looks up what the catalogue says of a provider's model.
pub type Cards<'a> = &'a dyn Fn(&Provider, &str) -> Option<Arc<ModelCard>>;

/// The route's tree with its targets made, for a name whose `*` stood for `part`.
fn ready(route: &Route, part: &str, cards: Cards<'_>) -> Tree {
    let make = |target: &RouteTarget| {
        let RouteTarget { provider, model, overrides, timeouts } = target.clone();
        let model = if part.is_empty() { model } else { model.replacen('*', part, 1) };
        let card = cards(&provider, &model);
        Arc::new(Target::new(provider, model, overrides, timeouts, card))
    };
    let chain = |nodes: &[Node<RouteTarget>]| nodes.iter().map(|node| node.map(&mut |target| make(target))).collect();
    let rules = Rules {
        retry: route.retry,
        hedge: route.hedge,
        continue_on_cut: route.continue_on_cut,
        fallbacks: true,
        mirror: route.mirror.as_ref().map(|(target, share)| Mirror { target: make(target), share: *share }),
    };
    Tree::new(
        route.root.map(&mut |target| make(target)),
        [chain(&route.on_context_length), chain(&route.on_content_policy)],
        rules,
        route.require.clone(),
        route.affinity.clone(),
    )
}

/// A target straight at a provider, without a configured name between.
fn direct(provider: &Arc<Provider>, model: &str) -> RouteTarget {
    RouteTarget {
        provider: provider.clone(),
        model: provider.models.get(model).cloned().unwrap_or_else(|| model.to_owned()),
        overrides: provider.overrides.clone(),
        timeouts: provider.timeouts,
    }
}

/// The part of `name` that the `*` of `pattern` stands for.
pub fn matched<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    let star = memchr::memchr(b'*', pattern.as_bytes())?;
    let (before, after) = (&pattern[..star], &pattern[star + 1..]);
    let rest = name.strip_prefix(before)?;
    rest.strip_suffix(after).filter(|part| !part.is_empty())
}

/// Whether one of the patterns (exact, or with one `*`) names the model.
pub fn allows(patterns: &[String], model: &str) -> bool {
    patterns.iter().any(|pattern| pattern == "*" || pattern == model || matched(pattern, model).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn overrides(set: &[(&str, i32)], default: &[(&str, i32)], drop: &[&str]) -> Overrides {
        let map = |list: &[(&str, i32)]| list.iter().map(|(path, value)| ((*path).to_owned(), json!(value))).collect();
        Overrides { set: map(set), default: map(default), drop: drop.iter().map(|path| (*path).to_owned()).collect() }
    }

    #[test]
    fn the_override_nearest_to_the_target_counts() {
        let provider = overrides(&[("a", 1), ("b", 1)], &[("c", 1), ("d", 1)], &["e"]);
        let target = overrides(&[("a", 2)], &[("c", 2)], &["b", "d"]);
        assert_eq!(provider.with(&target), overrides(&[("a", 2)], &[("c", 2)], &["e", "b", "d"]));
    }

    #[test]
    fn patterns_name_exactly_what_they_say() {
        let patterns = ["fast".to_owned(), "openai/*".to_owned(), "*-mini".to_owned()];
        for (model, allowed) in [
            ("fast", true),
            ("faster", false),
            ("openai/gpt-5", true),
            ("openai/", false),
            ("gpt-5-mini", true),
            ("-mini", false),
        ] {
            assert_eq!(allows(&patterns, model), allowed, "{model}");
        }
    }
}
