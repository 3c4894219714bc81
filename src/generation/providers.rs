//! From a written provider and its built-in row to one that can be sent to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::adapters::Known;
use crate::config;
use crate::cost::ModelCard;
use crate::dialect::adapter::TAUGHT;
use crate::dialect::{self, Dialect, Prefill, Quirks, ReasoningStyle};
use crate::guest::adapter::{AuthKind, Model};
use crate::json::THOUGHTS;
use crate::provider::{self, AuthScheme, Row};
use crate::route::{Auth, Face, Key, Overrides, Probe, Probed, Provider, Secret, Tags, Timeouts};
use crate::state::health::{Adaptive, Breaker, QueueSettings, Settings};
use crate::upstream::{Dial, Proxy, Wire};

/// The environment, as the builder was given it.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Stands for "no limit": longer than any process runs, short enough to add to an instant.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The row of the mock provider, which is dialled inside this process when it has no address.
pub(super) const MOCK: &str = "mock";

/// What the mock is addressed as there; the host is never looked up.
const MOCK_BASE: &str = "http://mock/v1";

/// What came of a written provider.
pub(super) enum Built {
    Live(Box<Provider>),
    /// It has no credential; the text says which variable or field to set.
    Dormant(String),
}

/// Builds a provider.
///
/// # Errors
/// What the configuration lacks or what does not fit, with the field's path.
pub(super) fn build(
    name: &str,
    written: &config::Provider,
    general: &config::Timeouts,
    env: Env<'_>,
    adapter: &dyn Fn(&str) -> Option<Result<Known, String>>,
) -> Result<Built, String> {
    let at = |field: &str| format!("providers.{name}.{field}");
    let row = provider::find(written.preset.as_deref().unwrap_or(name));
    let from_env = row.and_then(|row| row.key_from_env(env)).filter(|_| written.keys.is_empty());
    // A key without weight is as good as none: it must not serve where it is the only one that is set.
    let is_used = |key: &&config::PoolKey| key.weight > 0 && key.key.as_ref().is_some_and(|key| !key.is_empty());
    let pool: Vec<&config::PoolKey> = written.keys.iter().filter(is_used).collect();
    let key = match &written.api_key {
        _ if !written.keys.is_empty() => {
            pool.first().and_then(|key| key.key.as_ref()).map(|key| key.expose().to_owned())
        }
        Some(key) if !key.is_empty() => Some(key.expose().to_owned()),
        // Written but empty: `${OPENAI_API_KEY:-}` without the variable.
        Some(_) => None,
        None => from_env.and_then(|(variable, _)| env(variable)).map(|key| key.trim().to_owned()),
    };
    let keyless = row.is_none_or(|row| row.keyless) || written.auth == Some(config::AuthScheme::None);
    if key.is_none() && !keyless {
        let of_pool = written.keys.iter().find_map(|key| key.env.as_deref());
        let variable = of_pool.or(row.and_then(|row| row.env.first()).copied()).unwrap_or("its api_key");
        return Ok(Built::Dormant(variable.to_owned()));
    }
    let names = dialects(written, row);
    if names.is_empty() {
        return Err(format!("{}: no dialect; set one of {}", at("dialect"), dialect_names()));
    }
    let of_exchange = config::TimeoutOverrides { total: None, ..written.timeouts };
    let timeouts = timeouts(&of_exchange.over(general), written.timeouts.total);
    let mut faces = Vec::with_capacity(names.len());
    let (mut models, mut cards) = (written.models.clone(), BTreeMap::new());
    // How each key of the pool is sent, one a face.
    let mut pooled: Vec<Vec<Auth>> = pool.iter().map(|_| Vec::with_capacity(names.len())).collect();
    for dialect_name in &names {
        let taught = adapter(dialect_name).transpose();
        let taught = taught.map_err(|error| format!("{}: {error}", at("dialect")))?;
        if taught.is_some() && written.probe.as_ref().is_some_and(|probe| probe.model.is_some()) {
            return Err(format!(
                "{}: a provider that an adapter speaks for is probed by a path; write `path`",
                at("probe.model")
            ));
        }
        let dialect: &'static dyn Dialect = match &taught {
            Some(_) => &TAUGHT,
            None => dialect::find(dialect_name).ok_or_else(|| {
                format!("{}: no dialect is called `{dialect_name}`; there are {}", at("dialect"), dialect_names())
            })?,
        };
        let in_process = row.is_some_and(|row| row.name == MOCK) && written.base_url.is_none();
        let base = if in_process { MOCK_BASE.to_owned() } else { base_url(name, written, row, dialect_name, env)? };
        let scheme = match (&written.auth, from_env.filter(|_| written.api_key.is_none())) {
            (Some(scheme), _) => Scheme::Written(scheme),
            _ if taught.is_some() => {
                taught.as_ref().map_or(Scheme::Row(AuthScheme::None), |taught| wanted(&taught.auth))
            }
            (None, Some((_, scheme))) if *dialect_name == names[0] => Scheme::Row(scheme),
            (None, _) => Scheme::Row(row.map_or(AuthScheme::Bearer, |row| row.auth_for(dialect_name))),
        };
        let sent = |key: Option<&str>| auth(&scheme, key).map_err(|error| format!("{}: {error}", at("api_key")));
        for (auths, key) in pooled.iter_mut().zip(&pool) {
            auths.push(sent(key.key.as_ref().map(config::Secret::expose))?);
        }
        let auth = sent(key.as_deref())?;
        let (wire, base_url) = wire(&base, in_process).map_err(|error| format!("{}: {error}", at("base_url")))?;
        let dial = Arc::new(Dial {
            wire,
            connect_timeout: timeouts.connect,
            http2_only: written.http2 == Some(true) && base_url.starts_with("http://"),
            http1_only: written.http2 == Some(false),
            proxy: proxy(written.proxy.as_deref()),
        });
        let query =
            written.api_version.as_ref().filter(|_| written.base_url.is_some() && !base_url.contains("api-version="));
        let query = query.map(|version| format!("api-version={version}"));
        let quirks = quirks(row.map_or(Quirks::NONE, |row| row.quirks_for(dialect_name)), &written.quirks);
        // What an adapter knows is listed under its own name, unless the operator has another use for the name.
        for Model { id, context, max_output } in taught.iter().flat_map(|taught| &taught.models) {
            models.entry(id.clone()).or_insert_with(|| id.clone());
            if context.is_some() || max_output.is_some() {
                let card = ModelCard { context: *context, max_output: *max_output, ..ModelCard::default() };
                cards.insert(id.clone(), card);
            }
        }
        let adapter = taught.map(|taught| taught.adapter);
        faces.push(Face { dialect, adapter, base_url, dial, query, auth, quirks });
    }
    let keys = pool.iter().zip(pooled).map(|(key, auth)| Key {
        alias: alias(written, key).into(),
        weight: key.weight,
        order: key.order,
        last_resort: key.last_resort,
        auth,
        record: OnceLock::new(),
    });
    // One key alone is no pool: there is none to change to.
    let keys = if pool.len() > 1 { keys.collect() } else { Vec::new() };
    Ok(Built::Live(Box::new(Provider {
        name: name.to_owned(),
        otel: row.map_or_else(|| name.to_owned(), |row| row.otel_name().to_owned()),
        preset: row.map_or("", Row::prices_name),
        faces,
        headers: headers(written, row).map_err(|error| format!("{}: {error}", at("headers")))?,
        overrides: overrides(&written.set, &written.default, &written.drop),
        models,
        cards,
        timeouts,
        owns: row.map_or(&[], |row| row.owns),
        keys,
        health: health(written),
        probe: written.probe.as_ref().map(probe),
        tags: tags(&written.tags, written.region.as_deref()),
    })))
}

/// The name of a key: its alias, or its place in the list, from 1.
fn alias(written: &config::Provider, key: &config::PoolKey) -> String {
    let place = written.keys.iter().position(|other| std::ptr::eq(other, key)).unwrap_or(0) + 1;
    key.alias.clone().unwrap_or_else(|| place.to_string())
}

fn health(written: &config::Provider) -> Settings {
    let breaker = match written.breaker {
        Some(config::BreakerOrOff::Off(_)) => None,
        Some(config::BreakerOrOff::On(written)) => Some(breaker(written)),
        None => Some(breaker(config::Breaker::default())),
    };
    let queue = written.queue.map(|queue| QueueSettings { size: queue.size, wait: queue.wait.get() });
    Settings {
        breaker,
        spares_lone: written.breaker.is_none(),
        probed: written.probe.is_some(),
        max_inflight: written.max_inflight,
        adaptive: written.concurrency.map(|bounds| Adaptive { min: bounds.min, max: bounds.max }),
        queue: queue.unwrap_or_default(),
    }
}

/// Every wire form lists its models there, below a base URL with the version or without.
const MODELS: &str = "v1/models";

fn probe(written: &config::Probe) -> Probe {
    let path = || Probed::Path(written.path.clone().unwrap_or_else(|| MODELS.to_owned()));
    Probe {
        what: written.model.clone().map_or_else(path, Probed::Model),
        every: written.every.get(),
        timeout: written.timeout.get(),
        failures: written.failures,
    }
}

fn breaker(written: config::Breaker) -> Breaker {
    Breaker {
        failure_rate: written.failure_rate.get(),
        min_samples: written.min_samples,
        window: written.window.get(),
        consecutive: written.consecutive,
        cool_down: written.cool_down.get(),
        max_cool_down: written.max_cool_down.get(),
        probes: written.probes,
    }
}

/// A cloud region that the provider is addressed by is where it runs, unless the tags say otherwise.
fn tags(written: &config::Tags, region: Option<&str>) -> Tags {
    Tags {
        region: written.region.as_deref().or(region).map(str::to_owned),
        zdr: written.zdr == Some(true),
        data_deny: written.data_collection == Some(config::DataCollection::Deny),
        labels: written.labels.clone().into_iter().collect(),
    }
}

fn dialect_names() -> String {
    dialect::DIALECTS.iter().map(|dialect| dialect.name()).collect::<Vec<_>>().join(", ")
}

/// The dialects a provider speaks: those written, else the row's.
fn dialects(written: &config::Provider, row: Option<&'static Row>) -> Vec<String> {
    let mut names: Vec<String> = written.dialect.iter().chain(&written.dialects).cloned().collect();
    // A server at an address of its own speaks what its operator says; the row's other dialects may be elsewhere.
    if let Some(row) = row
        && (names.is_empty() || written.base_url.is_none())
    {
        let of_row = if written.base_url.is_some() { &row.dialects[..1] } else { row.dialects };
        names.extend(of_row.iter().map(|name| (*name).to_owned()));
    }
    let mut seen = Vec::new();
    names.retain(|name| {
        let fresh = !seen.contains(name);
        seen.push(name.clone());
        fresh
    });
    names
}

fn base_url(
    name: &str,
    written: &config::Provider,
    row: Option<&'static Row>,
    dialect: &str,
    env: Env<'_>,
) -> Result<String, String> {
    let field = |field: &str| match field {
        "account" => written.account.clone(),
        "api_version" => written.api_version.clone(),
        "project" => written.project.clone(),
        "region" => written.region.clone(),
        "resource" => written.resource.clone(),
        _ => None,
    };
    if let Some(base) = &written.base_url {
        let missing =
            |missing| format!("providers.{name}.base_url: `{{{missing}}}` stands in it, but `{missing}` is not set");
        return provider::expand(base, &field).map_err(missing);
    }
    let Some(row) = row else {
        return Err(format!(
            "providers.{name}.base_url: no built-in provider is called `{name}`, so it needs an address"
        ));
    };
    row.base_with(dialect, &field, env).map_err(|missing| missing.to_string())
}

/// What lies under the address: the network, or a Unix socket as `unix:///path/to.sock:/v1`.
fn wire(base: &str, mock: bool) -> Result<(Wire, String), String> {
    if mock {
        return Ok((Wire::Mock, base.to_owned()));
    }
    let Some(path) = base.strip_prefix("unix://") else {
        return match base.parse::<http::Uri>() {
            Ok(uri) if uri.host().is_some() => Ok((Wire::Network, base.to_owned())),
            // A template with `{model}` in it is no URI yet.
            _ if base.contains("{model}") => Ok((Wire::Network, base.to_owned())),
            _ => Err(format!("`{base}` is no address; write http://, https:// or unix://")),
        };
    };
    let (socket, prefix) =
        path.split_once(":/").map_or((path, String::new()), |(socket, rest)| (socket, format!("/{rest}")));
    Ok((Wire::Unix(PathBuf::from(socket)), format!("http://localhost{prefix}")))
}

/// Tools that still speak YAML 1.1 write `off` back as `false`.
fn proxy(written: Option<&str>) -> Proxy {
    match written {
        None => Proxy::Environment,
        Some("off" | "false") => Proxy::Off,
        Some(url) => Proxy::Url(url.to_owned()),
    }
}

enum Scheme<'a> {
    Written(&'a config::AuthScheme),
    Row(AuthScheme),
    /// A header or a query parameter that an adapter names.
    Header(&'a str),
    Query(&'a str),
}

fn wanted(kind: &AuthKind) -> Scheme<'_> {
    match kind {
        AuthKind::None => Scheme::Row(AuthScheme::None),
        AuthKind::Bearer => Scheme::Row(AuthScheme::Bearer),
        AuthKind::Header(name) => Scheme::Header(name),
        AuthKind::Query(name) => Scheme::Query(name),
    }
}

fn auth(scheme: &Scheme<'_>, key: Option<&str>) -> Result<Auth, String> {
    let Some(key) = key else { return Ok(Auth::None) };
    let header = |name: &str, prefix: &str| {
        let name = name.parse::<HeaderName>().map_err(|error| error.to_string())?;
        let mut value = HeaderValue::from_str(&format!("{prefix}{key}"))
            .map_err(|_| "it has characters that a header cannot hold".to_owned())?;
        value.set_sensitive(true);
        Ok(Auth::Header(name, value))
    };
    let query = |name: &str| Ok(Auth::Query(name.to_owned(), Secret(key.to_owned())));
    match scheme {
        Scheme::Written(config::AuthScheme::Bearer) | Scheme::Row(AuthScheme::Bearer) => {
            header("authorization", "Bearer ")
        }
        Scheme::Written(config::AuthScheme::XApiKey) => header("x-api-key", ""),
        Scheme::Written(config::AuthScheme::ApiKey) => header("api-key", ""),
        Scheme::Written(config::AuthScheme::XGoogApiKey) => header("x-goog-api-key", ""),
        Scheme::Written(config::AuthScheme::QueryKey) => query("key"),
        Scheme::Written(config::AuthScheme::Header(own)) => header(&own.header, &own.prefix),
        Scheme::Row(AuthScheme::Header { name, prefix }) => header(name, prefix),
        Scheme::Row(AuthScheme::Query(name)) => query(name),
        Scheme::Written(config::AuthScheme::None) | Scheme::Row(AuthScheme::None) => Ok(Auth::None),
        Scheme::Header(name) => header(name, ""),
        Scheme::Query(name) => query(name),
    }
}

/// The row's headers, then the operator's.
fn headers(written: &config::Provider, row: Option<&'static Row>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let of_row = row.map_or(&[][..], |row| row.headers).iter().map(|(name, value)| (*name, *value));
    let own = written.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in of_row.chain(own) {
        let name: HeaderName = name.parse().map_err(|_| format!("`{name}` is no header name"))?;
        let value =
            HeaderValue::from_str(value).map_err(|_| format!("the value of `{name}` cannot stand in a header"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

fn quirks(row: Quirks, own: &config::QuirkOverrides) -> Quirks {
    let reasoning = |style| match style {
        config::Reasoning::Effort => ReasoningStyle::Effort,
        config::Reasoning::Object => ReasoningStyle::Object,
        config::Reasoning::Thinking => ReasoningStyle::Thinking,
        config::Reasoning::Template => ReasoningStyle::Template,
        config::Reasoning::Enable => ReasoningStyle::Enable,
        config::Reasoning::None => ReasoningStyle::None,
    };
    let prefill = |how| match how {
        config::Prefill::None => Prefill::None,
        config::Prefill::Plain => Prefill::Plain,
        config::Prefill::Prefix => Prefill::Prefix,
        config::Prefill::Partial => Prefill::Partial,
        config::Prefill::Continue => Prefill::Continue,
    };
    Quirks {
        max_completion_tokens: own.max_completion_tokens.unwrap_or(row.max_completion_tokens),
        verbosity: own.verbosity.unwrap_or(row.verbosity),
        prompt_cache_key: own.prompt_cache_key.unwrap_or(row.prompt_cache_key),
        service_tier: own.service_tier.unwrap_or(row.service_tier),
        store: own.store.unwrap_or(row.store),
        speech: own.speech.unwrap_or(row.speech),
        custom_tools: own.custom_tools.unwrap_or(row.custom_tools),
        short_call_ids: own.short_call_ids.unwrap_or(row.short_call_ids),
        assistant_after_tools: own.assistant_after_tools.unwrap_or(row.assistant_after_tools),
        stream_usage: own.stream_usage.unwrap_or(row.stream_usage),
        developer_role: own.developer_role.unwrap_or(row.developer_role),
        reasoning: own.reasoning.map_or(row.reasoning, reasoning),
        json_schema: own.json_schema.unwrap_or(row.json_schema),
        cache_control: own.cache_control.unwrap_or(row.cache_control),
        flat_content: own.flat_content.unwrap_or(row.flat_content),
        prefill: own.prefill.map_or(row.prefill, prefill),
        efforts: row.efforts,
        refuses: row.refuses,
        refuses_thoughts: match own.thoughts {
            Some(true) => &[],
            Some(false) => THOUGHTS,
            None => row.refuses_thoughts,
        },
    }
}

pub(super) fn overrides(
    set: &serde_json::Map<String, serde_json::Value>,
    default: &serde_json::Map<String, serde_json::Value>,
    drop: &[String],
) -> Overrides {
    let owned = |map: &serde_json::Map<String, serde_json::Value>| map.clone().into_iter().collect();
    Overrides { set: owned(set), default: owned(default), drop: drop.to_vec() }
}

/// `attempt` is what a target or its provider says of `total`.
pub(super) fn timeouts(written: &config::Timeouts, attempt: Option<config::DurationOrOff>) -> Timeouts {
    let bounded = |limit: config::DurationOrOff| limit.get().unwrap_or(FOREVER);
    Timeouts {
        connect: written.connect.get(),
        head: bounded(written.head),
        first_token: bounded(written.first_token),
        idle: bounded(written.idle),
        attempt: attempt.map_or(FOREVER, bounded),
        total: bounded(written.total),
    }
}
