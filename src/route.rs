//! Which targets serve a model, in which order: pure data in, a plan out.
//!
//! Never looks at a clock, a socket or a body. The routes are built by `generation`; trying them is `attempt`'s.

pub mod availability;
pub mod condition;
pub mod facts;
mod filter;
pub mod planner;
pub mod policy;
pub mod tree;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde_json::Value;

use crate::chat::Usage;
use crate::cost::ModelCard;
use crate::dialect::adapter::Adapter;
use crate::dialect::{Dialect, Op, Quirks};
use crate::fault::{Fault, Kind};
use crate::state::health::{Health, Record, Settings};
use crate::upstream::Dial;
use policy::Locks;

pub use tree::{General, Node, Require, Route, RouteTarget, Tags, Tree};

/// One upstream account and wire form, ready to be sent to.
#[derive(Debug)]
pub struct Provider {
    /// The name in configuration, metrics and logs.
    pub name: String,
    /// `gen_ai.provider.name` of the OpenTelemetry conventions.
    pub otel: &'static str,
    /// The row of the provider table it is made from; names its prices. Empty for one that is all written out.
    pub preset: &'static str,
    /// Wire forms it speaks, its own first, each with the base URL it speaks it at.
    pub faces: Vec<Face>,
    /// Headers sent with every request.
    pub headers: HeaderMap,
    pub overrides: Overrides,
    /// The client's name of a model → the upstream's.
    pub models: BTreeMap<String, String>,
    pub timeouts: Timeouts,
    /// Prefixes of bare model names that belong to this provider.
    pub owns: &'static [&'static str],
    /// The pool of credentials, where there are several; each has its own [`Auth`] for every face.
    pub keys: Vec<Key>,
    /// Breaker and places of its targets.
    pub health: Settings,
    /// What constraints know of it.
    pub tags: Tags,
}

/// One credential of a pool.
#[derive(Debug)]
pub struct Key {
    /// Its name in logs, traces and health.
    pub alias: Arc<str>,
    /// Its share of the requests, against the other keys'; 0 takes none.
    pub weight: u32,
    /// Keys of a higher order are used only when all of a lower one are out.
    pub order: u32,
    /// Used only when every other key is out.
    pub last_resort: bool,
    /// How it is sent, one a face, in the order of `Provider.faces`.
    pub auth: Vec<Auth>,
    /// `provider#alias` in `state::health`.
    pub record: OnceLock<Arc<Record>>,
}

impl Provider {
    /// How the gateway proves itself at a face, with the key of this index where there is a pool.
    pub fn auth<'a>(&'a self, face: &'a Face, key: usize) -> &'a Auth {
        if self.keys.is_empty() {
            return &face.auth;
        }
        let at = self.faces.iter().position(|other| std::ptr::eq(other, face)).unwrap_or(0);
        self.keys.get(key).and_then(|key| key.auth.get(at)).unwrap_or(&face.auth)
    }
}

/// One dialect at one base URL.
#[derive(Debug)]
pub struct Face {
    /// [`crate::dialect::adapter::TAUGHT`] where an adapter speaks.
    pub dialect: &'static dyn Dialect,
    /// The guest that knows the wire form, where it is not built in.
    pub adapter: Option<Arc<dyn Adapter>>,
    /// May hold `{model}` where the address names the model.
    pub base_url: String,
    pub dial: Arc<Dial>,
    /// Appended to every path (`api-version` of Azure).
    pub query: Option<String>,
    pub auth: Auth,
    pub quirks: Quirks,
}

impl Face {
    /// The name of the wire form in metrics, logs and lists.
    pub fn form(&self) -> &'static str {
        self.adapter.as_ref().map_or(self.dialect.name(), |adapter| adapter.name())
    }

    fn serves(&self, op: Op, model: &str) -> bool {
        match &self.adapter {
            Some(adapter) => adapter.serves(op),
            None => self.dialect.path(op, model, false).is_some(),
        }
    }
}

/// How the gateway proves itself to a provider. The values are marked sensitive and never printed.
#[derive(Debug)]
pub enum Auth {
    None,
    Header(HeaderName, HeaderValue),
    /// A query parameter, name and value.
    Query(String, Secret),
}

/// A value that prints as `***`.
#[derive(Clone)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Parameters that the operator changes on the way. Names are top-level fields or dotted paths.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Overrides {
    /// Set whatever the client sent.
    pub set: BTreeMap<String, Value>,
    /// Set when the client sent nothing.
    pub default: BTreeMap<String, Value>,
    pub drop: Vec<String>,
}

impl Overrides {
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.default.is_empty() && self.drop.is_empty()
    }

    /// These overrides with `inner` (nearer to the target) on top: where both speak of a parameter, `inner` counts.
    pub fn with(&self, inner: &Overrides) -> Overrides {
        let mut merged = self.clone();
        merged.set.retain(|path, _| !inner.drop.contains(path));
        merged.default.retain(|path, _| !inner.drop.contains(path));
        merged.set.extend(inner.set.clone());
        merged.default.extend(inner.default.clone());
        merged.drop.extend(inner.drop.iter().cloned());
        merged
    }
}

/// How long each phase of an attempt may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// From the request sent to the head of the answer.
    pub head: Duration,
    /// From the request sent to the first content of a stream.
    pub first_token: Duration,
    /// Silence inside a stream.
    pub idle: Duration,
    /// One attempt, up to the end of its answer.
    pub attempt: Duration,
    /// The whole exchange, all attempts together.
    pub total: Duration,
}

/// One provider, upstream model and overrides.
#[derive(Debug)]
pub struct Target {
    pub provider: Arc<Provider>,
    /// The upstream's name of the model.
    pub model: String,
    pub overrides: Overrides,
    pub timeouts: Timeouts,
    pub card: Option<Arc<ModelCard>>,
    pub addresses: Addresses,
    record: OnceLock<Arc<Record>>,
}

/// Where a request of a target goes, with the headers that do not depend on the client.
#[derive(Clone)]
pub struct Address {
    pub uri: Uri,
    pub headers: HeaderMap,
}

/// A form of request: the dialect's name, what is wanted, whether as a stream, and the index of the credential.
type Form = (&'static str, Op, bool, usize);

/// The addresses of a target, each made when it is first needed: joining and parsing them costs more than a request's
/// routing. Forms are few, so neither is there an end to set nor a map to keep.
#[derive(Default)]
pub struct Addresses(ArcSwap<Vec<(Form, Arc<Address>)>>);

impl Addresses {
    pub fn get(&self, form: Form) -> Option<Arc<Address>> {
        self.0.load().iter().find(|(known, _)| *known == form).map(|(_, address)| address.clone())
    }

    pub fn keep(&self, form: Form, address: Address) -> Arc<Address> {
        let address = Arc::new(address);
        self.0.rcu(|known| known.iter().cloned().chain([(form, address.clone())]).collect::<Vec<_>>());
        address
    }
}

impl std::fmt::Debug for Addresses {
    // An address may hold a credential in its query.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Addresses")
    }
}

impl Target {
    pub fn new(
        provider: Arc<Provider>,
        model: String,
        overrides: Overrides,
        timeouts: Timeouts,
        card: Option<Arc<ModelCard>>,
    ) -> Self {
        let (addresses, record) = (Addresses::default(), OnceLock::new());
        Target { provider, model, overrides, timeouts, card, addresses, record }
    }

    /// How it is doing; looked up once.
    pub fn record(&self, health: &Health) -> &Arc<Record> {
        self.record.get_or_init(|| health.target(&self.name(), &self.provider.health))
    }

    /// The face to use for a caller of `dialect`: the same wire form where the provider speaks it, else its own first.
    pub fn face(&self, dialect: &'static dyn Dialect) -> Option<&Face> {
        let faces = &self.provider.faces;
        faces.iter().find(|face| face.dialect == dialect).or(faces.first())
    }

    /// The face to serve an operation with: the caller's own wire form where the provider speaks it, else the first that
    /// has the operation (token counting, embeddings), else the first.
    pub fn face_for(&self, dialect: &'static dyn Dialect, op: Op) -> Option<&Face> {
        let faces = &self.provider.faces;
        let own = faces.iter().find(|face| face.dialect == dialect);
        let able = || faces.iter().find(|face| face.serves(op, &self.model));
        own.or_else(able).or(faces.first())
    }

    /// What this usage costs, in nano-dollars; None when the price is unknown.
    pub fn cost(&self, usage: &Usage) -> Option<u64> {
        self.card.as_ref()?.price.as_ref().map(|price| price.cost(usage).nano_usd)
    }

    /// `provider/model`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.provider.name, self.model)
    }
}

/// Targets in the order they are to be tried, and the rules for trying.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub targets: Vec<Arc<Target>>,
    /// Where to go on when the conversation did not fit; empty leaves it to `targets`.
    pub on_context_length: Vec<Arc<Target>>,
    /// Where to go on when a provider would not answer for its policy; empty ends the exchange.
    pub on_content_policy: Vec<Arc<Target>>,
    pub rules: Arc<Rules>,
    /// What was thought of each candidate, for the decision trace and the availability object.
    pub verdicts: Vec<Verdict>,
}

/// How a plan is tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    pub retry: Retry,
    /// Start the next target when the first is slow.
    pub hedge: Option<Hedge>,
    /// Let the next target go on from the text so far when a stream breaks off.
    pub continue_on_cut: bool,
    /// Whether other targets are tried at all (`disable_fallbacks`).
    pub fallbacks: bool,
    /// A silent copy of some requests.
    pub mirror: Option<Mirror>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { retry: Retry::default(), hedge: None, continue_on_cut: false, fallbacks: true, mirror: None }
    }
}

/// Bounds on trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attempts of one exchange, all targets together.
    pub max_attempts: u32,
    /// Tries of one target.
    pub per_target: u32,
    /// All waits of one exchange together.
    pub max_wait: Duration,
    /// First wait before the same target is asked again; doubled each time, with jitter.
    pub backoff: Duration,
    /// Longest single wait of the backoff.
    pub max_backoff: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            max_attempts: 5,
            per_target: 2,
            max_wait: Duration::from_secs(10),
            backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(5),
        }
    }
}

/// When a second target is started beside the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hedge {
    pub after: HedgeAfter,
    /// Share of exchanges that may be hedged, 0 to 1.
    pub budget: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HedgeAfter {
    Fixed(Duration),
    /// This quantile (0 to 1) of the target's own time to the first content.
    Quantile(f64),
}

/// A target that gets copies of requests and whose answers are dropped.
#[derive(Debug, Clone)]
pub struct Mirror {
    pub target: Arc<Target>,
    /// Share of exchanges, 0 to 1.
    pub share: f64,
}

impl PartialEq for Mirror {
    fn eq(&self, other: &Self) -> bool {
        self.target.name() == other.target.name() && self.share == other.share
    }
}

/// What planning thought of one candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// `provider/model`.
    pub target: String,
    /// None when it is in the plan; else the filter that removed it (`max_price`, `context`, `tools`, `open`, …).
    pub removed_by: Option<&'static str>,
    /// The figure or fact behind it, for people.
    pub why: String,
    /// When it may be available again, where that is known.
    pub retry_after: Option<Duration>,
}

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
        let owner = self.providers.iter().find(|provider| provider.owns.iter().any(|prefix| model.starts_with(prefix)));
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
    let (before, after) = pattern.split_once('*')?;
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
