//! What a request itself says about its routing: the `models` and `provider` of its body, and the headers for clients
//! that cannot change their bodies.
//!
//! # Precedence
//!
//! 1. The operator's constraints (`require`, `routing.require`) hold always; a request can tighten them, never loosen.
//! 2. What `routing.request_policy` ignores has no effect; what it refuses is a 400.
//! 3. A field of the body counts over the header for the same thing, and `provider.sort` over a suffix of the model.
//! 4. Within what is left, the request's `order`, `sort` and preferences rank; where it says nothing, the model's tree does.

use serde::Deserialize;
use serde_json::Value;

use super::tree::{MaxPrice, Require};
use crate::fault::{Fault, Kind};

/// Names in one list of a request at most.
const MAX_NAMES: usize = 64;

/// Longest name of a model: it stands in headers, labels of metrics and log lines, and what is known of it is kept.
pub const MAX_MODEL_BYTES: usize = 512;

/// A request's wishes. Nothing set means that the tree alone decides.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    /// Further models, after the one asked for.
    pub models: Vec<String>,
    pub order: Vec<String>,
    pub only: Vec<String>,
    pub ignore: Vec<String>,
    pub sort: Option<Sort>,
    /// Sorts the targets of all models together, not each model's apart.
    pub across_models: bool,
    pub allow_fallbacks: Option<bool>,
    pub require_parameters: bool,
    pub data_deny: bool,
    pub zdr: bool,
    pub max_price: MaxPrice,
    /// Tokens per second at each quantile.
    pub min_throughput: Vec<(Quantile, f64)>,
    /// Seconds to the first content at each quantile.
    pub max_latency: Vec<(Quantile, f64)>,
}

/// What a request sorts its targets by, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Price,
    Throughput,
    Latency,
}

/// Of a rolling distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantile {
    P50,
    P75,
    P90,
    P99,
}

/// Which parts of a request's policy count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Locks {
    pub models: Lock,
    pub order: Lock,
    pub only: Lock,
    pub ignore: Lock,
    pub sort: Lock,
    pub fallbacks: Lock,
    pub require_parameters: Lock,
    pub data_policy: Lock,
    pub max_price: Lock,
    pub performance: Lock,
    pub session: Lock,
    pub timeout: Lock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lock {
    #[default]
    Allow,
    Ignore,
    Refuse,
}

impl Lock {
    /// Whether the part counts.
    ///
    /// # Errors
    /// [`Kind::InvalidRequest`] when the operator refuses it.
    pub fn lets(self, field: &str) -> Result<bool, Fault> {
        match self {
            Lock::Allow => Ok(true),
            Lock::Ignore => Ok(false),
            Lock::Refuse => {
                let text = format!("`{field}` may not be set here; the operator decides it. Take it out.");
                Err(Fault::new(Kind::InvalidRequest, text).param(field))
            }
        }
    }
}

/// The `provider` object, as OpenRouter has it. What this gateway knows nothing of (quantizations) is taken and ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    order: Option<Vec<String>>,
    only: Option<Vec<String>>,
    ignore: Option<Vec<String>>,
    sort: Option<SortWritten>,
    allow_fallbacks: Option<bool>,
    require_parameters: Option<bool>,
    data_collection: Option<Collection>,
    zdr: Option<bool>,
    max_price: Option<PriceWritten>,
    preferred_min_throughput: Option<Preference>,
    preferred_max_latency: Option<Preference>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "`sort` is \"price\", \"throughput\" or \"latency\", or {\"by\": one of them, \"partition\": \"model\" or \"none\"}"
)]
enum SortWritten {
    Word(SortWord),
    Object {
        by: SortWord,
        #[serde(default)]
        partition: Partition,
    },
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SortWord {
    Price,
    Throughput,
    Latency,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Partition {
    #[default]
    Model,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Collection {
    Allow,
    Deny,
}

/// US dollars per million tokens, as numbers or as text; the words of OpenRouter and our own.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "prices like {\"prompt\": 1, \"completion\": 2.5}")]
struct PriceWritten {
    #[serde(alias = "input")]
    prompt: Option<Value>,
    #[serde(alias = "output")]
    completion: Option<Value>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(
    untagged,
    expecting = "a bound is a number, or numbers like {\"p50\": 1, \"p90\": 2}, of p50, p75, p90 and p99"
)]
enum Preference {
    P50(f64),
    Each { p50: Option<f64>, p75: Option<f64>, p90: Option<f64>, p99: Option<f64> },
}

impl Preference {
    fn list(self) -> Vec<(Quantile, f64)> {
        match self {
            Preference::P50(bound) => vec![(Quantile::P50, bound)],
            Preference::Each { p50, p75, p90, p99 } => {
                let each = [(Quantile::P50, p50), (Quantile::P75, p75), (Quantile::P90, p90), (Quantile::P99, p99)];
                each.into_iter().filter_map(|(quantile, bound)| Some((quantile, bound?))).collect()
            }
        }
    }
}

impl Policy {
    pub fn is_none(&self) -> bool {
        *self == Policy::default()
    }

    /// Whether it puts targets into an order of its own.
    pub fn ranks(&self) -> bool {
        let prefers = !self.min_throughput.is_empty() || !self.max_latency.is_empty();
        self.sort.is_some() || !self.order.is_empty() || prefers
    }

    /// Takes over a `provider` object.
    ///
    /// # Errors
    /// [`Kind::InvalidRequest`] when it has another shape, or says what the operator refuses.
    pub fn provider(&mut self, json: &[u8], field: &str, locks: &Locks) -> Result<(), Fault> {
        let wrong = |what: String| Fault::new(Kind::InvalidRequest, what).param(field);
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err(wrong(format!("`{field}` is no object; write {{\"order\": [\"openai\"]}} or the like.")));
        }
        let written: Written =
            serde_json::from_slice(json).map_err(|error| wrong(format!("`{field}` is not understood: {error}.")))?;
        let at = |name: &str| format!("{field}.{name}");
        let list = |list: Option<Vec<String>>, name: &str, lock: Lock, to: &mut Vec<String>| match list {
            Some(list) if lock.lets(&at(name))? => {
                bounded(&list, &at(name))?;
                *to = list;
                Ok(())
            }
            _ => Ok::<(), Fault>(()),
        };
        list(written.order, "order", locks.order, &mut self.order)?;
        list(written.only, "only", locks.only, &mut self.only)?;
        list(written.ignore, "ignore", locks.ignore, &mut self.ignore)?;
        if let Some(sort) = written.sort
            && locks.sort.lets(&at("sort"))?
        {
            let (word, partition) = match sort {
                SortWritten::Word(word) => (word, Partition::Model),
                SortWritten::Object { by, partition } => (by, partition),
            };
            self.sort = Some(match word {
                SortWord::Price => Sort::Price,
                SortWord::Throughput => Sort::Throughput,
                SortWord::Latency => Sort::Latency,
            });
            self.across_models = partition == Partition::None;
        }
        if let Some(allow) = written.allow_fallbacks
            && locks.fallbacks.lets(&at("allow_fallbacks"))?
        {
            self.allow_fallbacks = Some(allow);
        }
        if written.require_parameters == Some(true) && locks.require_parameters.lets(&at("require_parameters"))? {
            self.require_parameters = true;
        }
        if written.data_collection == Some(Collection::Deny) && locks.data_policy.lets(&at("data_collection"))? {
            self.data_deny = true;
        }
        if written.zdr == Some(true) && locks.data_policy.lets(&at("zdr"))? {
            self.zdr = true;
        }
        if let Some(price) = written.max_price
            && locks.max_price.lets(&at("max_price"))?
        {
            let read = |value: Option<Value>| match value {
                Some(value) => nanos(&value).map(Some).ok_or_else(|| {
                    wrong(format!("`{field}.max_price` holds `{value}`; write US dollars per million tokens."))
                }),
                None => Ok(None),
            };
            self.max_price = MaxPrice { input: read(price.prompt)?, output: read(price.completion)? };
        }
        if let Some(bound) = written.preferred_min_throughput
            && locks.performance.lets(&at("preferred_min_throughput"))?
        {
            self.min_throughput = bound.list();
        }
        if let Some(bound) = written.preferred_max_latency
            && locks.performance.lets(&at("preferred_max_latency"))?
        {
            self.max_latency = bound.list();
        }
        Ok(())
    }

    /// Takes over further models.
    ///
    /// # Errors
    /// As [`Policy::provider`].
    pub fn models(&mut self, models: Vec<String>, field: &str, locks: &Locks) -> Result<(), Fault> {
        if !models.is_empty() && locks.models.lets(field)? {
            bounded(&models, field)?;
            self.models = models;
        }
        Ok(())
    }

    /// The operator's constraints with the request's on top; None when the request adds nothing.
    pub fn tighten(&self, require: &Require) -> Option<Require> {
        if !self.data_deny && !self.zdr && self.max_price.is_none() {
            return None;
        }
        Some(Require {
            data_deny: require.data_deny || self.data_deny,
            zdr: require.zdr || self.zdr,
            max_price: require.max_price.tighter(self.max_price),
            ..require.clone()
        })
    }
}

/// A model's name without the suffix that stands for a way to sort, and that way. OpenRouter's `:floor` and `:nitro`.
pub fn suffix(model: &str) -> Option<(&str, Sort)> {
    let (name, suffix) = model.rsplit_once(':')?;
    match suffix {
        "floor" => Some((name, Sort::Price)),
        "nitro" => Some((name, Sort::Throughput)),
        _ => None,
    }
    .filter(|(name, _)| !name.is_empty())
}

fn bounded(list: &[String], field: &str) -> Result<(), Fault> {
    if list.len() > MAX_NAMES {
        let text = format!("`{field}` names {} things; name at most {MAX_NAMES}.", list.len());
        return Err(Fault::new(Kind::InvalidRequest, text).param(field));
    }
    if list.iter().any(|name| name.len() > MAX_MODEL_BYTES) {
        let text = format!("`{field}` holds a name of more than {MAX_MODEL_BYTES} bytes; name a shorter one.");
        return Err(Fault::new(Kind::InvalidRequest, text).param(field));
    }
    Ok(())
}

fn nanos(value: &Value) -> Option<u64> {
    let dollars = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }?;
    (0.0..1e9).contains(&dollars).then(|| (dollars * 1e9).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_that_is_not_understood_is_told_with_what_may_be_written() {
        for (json, allowed) in [
            (r#"{"sort": "nonsense"}"#, r#""price", "throughput" or "latency""#),
            (r#"{"sort": {"by": "nonsense"}}"#, r#""price", "throughput" or "latency""#),
            (r#"{"max_price": "x"}"#, r#"{"prompt": 1, "completion": 2.5}"#),
            (r#"{"preferred_max_latency": "x"}"#, "a bound is a number"),
            (r#"{"data_collection": "x"}"#, "`allow` or `deny`"),
        ] {
            let refused = Policy::default().provider(json.as_bytes(), "provider", &Locks::default());
            let message = refused.expect_err("no such word").message;
            assert!(message.contains(allowed), "{message}");
        }
    }
}
