//! Where requests can go: providers with their faces and credentials, and the targets at them.
//!
//! Built by `generation` and never changed; only addresses and health records are looked up late, once.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde_json::Value;

use super::tree::Tags;
use crate::chat::Usage;
use crate::cost::ModelCard;
use crate::dialect::adapter::Adapter;
use crate::dialect::{Dialect, Op, Quirks};
use crate::state::health::{Health, Millis, Record, Settings, Standing};
use crate::upstream::{Dial, Headers};

/// One upstream account and wire form, ready to be sent to.
#[derive(Debug)]
pub struct Provider {
    /// The name in configuration, metrics and logs.
    pub name: String,
    /// `gen_ai.provider.name` of the OpenTelemetry conventions.
    pub otel: String,
    /// The row of the provider table it is made from; names its prices. Empty for one that is all written out.
    pub preset: &'static str,
    /// Wire forms it speaks, its own first, each with the base URL it speaks it at.
    pub faces: Vec<Face>,
    /// Headers sent with every request.
    pub headers: HeaderMap,
    pub overrides: Overrides,
    /// The client's name of a model → the upstream's.
    pub models: BTreeMap<String, String>,
    /// What an adapter tells of its models, by the upstream's names.
    pub cards: BTreeMap<String, ModelCard>,
    pub timeouts: Timeouts,
    /// Bare model names that belong to this provider: see [`crate::provider::claim`].
    pub owns: &'static [&'static str],
    /// The pool of credentials, where there are several; each has its own [`Auth`] for every face.
    pub keys: Vec<Key>,
    /// Breaker and places of its targets.
    pub health: Settings,
    /// Asks it now and then whether it is there.
    pub probe: Option<Probe>,
    /// What constraints know of it.
    pub tags: Tags,
}

/// How a provider is asked whether it is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    pub what: Probed,
    pub every: Duration,
    pub timeout: Duration,
    /// Bad answers in a row that are too many.
    pub failures: u32,
}

/// What a probe asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Probed {
    /// By GET; with a slash before it from the root of the host, else below the base URL. Costs nothing.
    Path(String),
    /// One token of this model, which costs money.
    Model(String),
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

    /// How long until the first key of the pool is back, where all of them rest.
    pub fn keys_rest(&self, now: Millis) -> Option<Duration> {
        if self.keys.iter().any(|key| key.is_ready(now)) {
            return None;
        }
        let records = self.keys.iter().filter(|key| key.weight > 0).filter_map(|key| key.record.get());
        let ends = records.filter_map(|record| match record.standing(now) {
            Standing::Open { until } => until,
            _ => None,
        });
        ends.min().map(|until| Duration::from_millis(until.saturating_sub(now)))
    }
}

impl Key {
    /// How it is doing; looked up once.
    pub fn record(&self, provider: &Provider, health: &Health) -> &Arc<Record> {
        self.record.get_or_init(|| health.key(&provider.name, &self.alias, &provider.health))
    }

    /// Whether it takes requests now, as far as it was ever looked up.
    pub fn is_ready(&self, now: Millis) -> bool {
        let standing = self.record.get().map(|record| record.standing(now));
        self.weight > 0 && matches!(standing, None | Some(Standing::Closed | Standing::HalfOpen))
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
    /// The provider's name and the model's, as headers of answers say them.
    pub labels: [HeaderValue; 2],
    /// Wire forms that the provider speaks, but does not have this model in.
    lacking: Vec<&'static dyn Dialect>,
    record: OnceLock<Arc<Record>>,
}

/// Where a request of a target goes, with the headers that do not depend on the client.
#[derive(Clone)]
pub struct Address {
    pub uri: Uri,
    pub headers: Headers,
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
        let label = |text| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
        let labels = [label(&provider.name), label(&model)];
        let lacking = provider.faces.iter().filter(|face| face.dialect.lacks(&model, &face.quirks));
        let lacking = lacking.map(|face| face.dialect).collect();
        Target { provider, model, overrides, timeouts, card, addresses, labels, lacking, record }
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

    /// The face to serve an operation with: the caller's own wire form where the provider speaks it and has the model in
    /// it, else the first that has the operation (token counting, embeddings) and does not yield to another for this
    /// model, else the first.
    pub fn face_for(&self, dialect: &'static dyn Dialect, op: Op) -> Option<&Face> {
        let faces = &self.provider.faces;
        let lacks = op == Op::Generate && self.lacking.contains(&dialect);
        let own = faces.iter().find(|face| face.dialect == dialect && !lacks);
        let able = || faces.iter().filter(|face| face.serves(op, &self.model));
        let best = || able().find(|face| !face.dialect.yields(&self.model, &face.quirks));
        own.or_else(best).or_else(|| able().next()).or(faces.first())
    }

    /// What this usage costs, in nano-dollars; None when the price is unknown.
    pub fn cost(&self, usage: &Usage) -> Option<u64> {
        self.card.as_ref()?.price.as_ref().map(|price| price.cost(usage).nano_usd)
    }

    /// `provider/model`.
    pub fn name(&self) -> String {
        [&self.provider.name, "/", &self.model].concat()
    }
}
