//! The host functions as plugins call them: conversion only, the work is `host`'s.
//!
//! Every function goes through its row of the table, which knows phase, grant and lease. What ends a lease is a trap;
//! what a guest may cope with is an error that it is given.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use wasmtime::{Error, Result};

use super::bindings::{
    cache, cost, ctx, hash, http, json, kv, limit, llm, log, metrics, pick, rand, re, secret, targets, time, tokens,
    trace,
};
use super::store::Held;
use crate::host::keep::Store;
use crate::host::visit::Kept;
use crate::host::{self, Cx, FUNCTIONS, Function, HostError};
use crate::state::tally::Kind;

/// Longest line that a guest writes to the log, in bytes.
const MAX_LOG_BYTES: usize = 4 << 10;

/// The row of a function; a name that is in no table does not compile.
macro_rules! row {
    ($name:literal) => {{
        const ROW: &Function = at($name);
        ROW
    }};
}

const fn at(name: &str) -> &'static Function {
    let mut index = 0;
    while index < FUNCTIONS.len() {
        if same(FUNCTIONS[index].name.as_bytes(), name.as_bytes()) {
            return &FUNCTIONS[index];
        }
        index += 1;
    }
    panic!("no such host function")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut index = 0;
    while index < a.len() && index < b.len() && a[index] == b[index] {
        index += 1;
    }
    index == a.len() && index == b.len()
}

/// What a guest is given where a function may refuse.
type Given<T> = Result<std::result::Result<T, String>>;

fn text<T>(outcome: std::result::Result<T, HostError>) -> std::result::Result<T, String> {
    outcome.map_err(|error| error.0)
}

impl Held {
    /// Lets a policy into a function of its exchange; the refusal is the guest's to read, unless its lease is over.
    fn policy(&self, row: &Function) -> Given<Arc<Cx>> {
        let Some(cx) = self.cx() else {
            return Ok(Err(format!("`{}` is for policies; an adapter has no exchange to ask about", row.name)));
        };
        match cx.enter(row) {
            Ok(()) => Ok(Ok(cx.clone())),
            Err(error) if cx.lease.killed().is_some() => Err(Error::msg(error.0)),
            Err(error) => Ok(Err(error.0)),
        }
    }

    /// Lets any guest into a function that needs nothing but a lease.
    fn anyone(&mut self, row: &Function, bytes: usize) -> Result<()> {
        match self.cx() {
            Some(cx) => cx.enter(row).map_err(|error| Error::msg(error.0)),
            None => self.count(bytes),
        }
    }
}

/// Enters a function of the exchange, or gives the guest the refusal.
macro_rules! policy {
    ($held:ident, $name:literal) => {
        match $held.policy(row!($name))? {
            Ok(cx) => cx,
            Err(refused) => return Ok(Err(refused)),
        }
    };
}

impl log::Host for Held {
    fn write(&mut self, level: log::Level, message: String) -> Result<()> {
        let (row, to) = match level {
            log::Level::Debug => (row!("log.debug"), host::log::Level::Debug),
            log::Level::Info => (row!("log.info"), host::log::Level::Info),
            log::Level::Warn => (row!("log.warn"), host::log::Level::Warn),
            log::Level::Error => (row!("log.error"), host::log::Level::Error),
        };
        self.anyone(row, message.len())?;
        let line = &message[..message.floor_char_boundary(MAX_LOG_BYTES)];
        if let Some(cx) = self.cx() {
            return host::log::line(cx, to, line, None).map_err(|error| Error::msg(error.0));
        }
        let plugin = self.plugin();
        match level {
            log::Level::Debug => tracing::debug!(plugin, "{line}"),
            log::Level::Info => tracing::info!(plugin, "{line}"),
            log::Level::Warn => tracing::warn!(plugin, "{line}"),
            log::Level::Error => tracing::error!(plugin, "{line}"),
        }
        Ok(())
    }
}

/// The value at a pointer of a document.
fn within(document: &str, pointer: &str) -> Option<Value> {
    let mut value: Value = serde_json::from_str(document).ok()?;
    value.pointer_mut(pointer).map(Value::take)
}

impl json::Host for Held {
    fn get(&mut self, document: String, pointer: String) -> Result<Option<String>> {
        self.anyone(row!("json.decode"), document.len())?;
        Ok(within(&document, &pointer).map(|value| value.to_string()))
    }

    fn get_string(&mut self, document: String, pointer: String) -> Result<Option<String>> {
        self.anyone(row!("json.decode"), document.len())?;
        Ok(within(&document, &pointer).and_then(|value| match value {
            Value::String(text) => Some(text),
            _ => None,
        }))
    }

    fn get_number(&mut self, document: String, pointer: String) -> Result<Option<f64>> {
        self.anyone(row!("json.decode"), document.len())?;
        Ok(within(&document, &pointer).and_then(|value| value.as_f64()))
    }

    fn length(&mut self, document: String, pointer: String) -> Result<Option<u32>> {
        self.anyone(row!("json.decode"), document.len())?;
        let length = within(&document, &pointer).and_then(|value| match value {
            Value::Array(items) => Some(items.len()),
            Value::Object(entries) => Some(entries.len()),
            _ => None,
        });
        Ok(length.and_then(|length| u32::try_from(length).ok()))
    }

    fn quote(&mut self, text: String) -> Result<String> {
        self.anyone(row!("json.encode"), text.len())?;
        Ok(Value::String(text).to_string())
    }

    fn valid(&mut self, document: String) -> Result<bool> {
        self.anyone(row!("json.decode"), document.len())?;
        Ok(serde_json::from_str::<serde::de::IgnoredAny>(&document).is_ok())
    }
}

impl hash::Host for Held {
    fn sha256(&mut self, data: Vec<u8>) -> Result<String> {
        self.anyone(row!("hash.sha256"), data.len())?;
        Ok(host::hash::sha256(&data))
    }

    fn hmac_sha256(&mut self, key: hash::Key, data: Vec<u8>) -> Given<String> {
        self.anyone(row!("hash.hmac_sha256"), data.len())?;
        Ok(match (&key, self.cx()) {
            (hash::Key::Bytes(key), _) => Ok(host::hash::hmac_sha256(key, &data)),
            (hash::Key::Secret(name), Some(cx)) => {
                let handle = host::secret::get(cx, name);
                text(handle.and_then(|handle| Ok(host::hash::hmac_sha256(handle.expose(cx)?.as_bytes(), &data))))
            }
            (hash::Key::Secret(_), None) => Err("an adapter holds no secrets".to_owned()),
        })
    }

    fn base64(&mut self, data: Vec<u8>) -> Result<String> {
        self.anyone(row!("hash.base64"), data.len())?;
        Ok(host::hash::base64(&data))
    }

    fn unbase64(&mut self, text: String) -> Result<Option<Vec<u8>>> {
        self.anyone(row!("hash.unbase64"), text.len())?;
        Ok(host::hash::unbase64(text.as_bytes()))
    }
}

impl time::Host for Held {
    fn now_ms(&mut self) -> Result<u64> {
        self.anyone(row!("time.now_ms"), 0)?;
        Ok(self.cx().map_or_else(host::time::unix_ms, |cx| host::time::now_ms(cx)))
    }

    fn elapsed_ms(&mut self) -> Result<f64> {
        self.anyone(row!("time.now_ms"), 0)?;
        Ok(self.cx().map_or(0.0, |cx| cx.visit.started.elapsed().as_secs_f64() * 1000.0))
    }

    fn date(&mut self, unix_ms: Option<i64>, offset_minutes: Option<i32>) -> Result<time::Moment> {
        self.anyone(row!("time.date"), 0)?;
        let now = || self.cx().map_or_else(host::time::unix_ms, |cx| host::time::now_ms(cx)) as i64;
        let date = host::time::date(unix_ms.unwrap_or_else(now), i64::from(offset_minutes.unwrap_or(0)));
        let host::time::Date { year, month, day, hour, minute, second, weekday } = date;
        Ok(time::Moment { year, month, day, hour, minute, second, weekday })
    }

    async fn sleep(&mut self, ms: u32) -> Given<()> {
        policy!(self, "time.sleep");
        Ok(text(host::time::sleep(f64::from(ms)).await))
    }
}

impl rand::Host for Held {
    fn number(&mut self) -> Result<f64> {
        self.anyone(row!("rand.number"), 0)?;
        Ok(random(self.cx()))
    }

    fn int(&mut self, first: i64, last: i64) -> Result<i64> {
        self.anyone(row!("rand.int"), 0)?;
        let (first, last) = (first.min(last), first.max(last));
        let width = (i128::from(last) - i128::from(first) + 1) as f64;
        let step = (random(self.cx()) * width) as i128;
        Ok(i64::try_from(i128::from(first) + step).unwrap_or(last).min(last))
    }

    fn id(&mut self) -> Result<String> {
        self.anyone(row!("rand.id"), 0)?;
        let half = || (random(self.cx()) * (1u64 << 48) as f64) as u64;
        Ok(format!("{:012x}{:012x}", half(), half()))
    }
}

fn random(cx: Option<&Arc<Cx>>) -> f64 {
    cx.and_then(|cx| cx.world.as_ref()).map_or_else(fastrand::f64, |world| world.random())
}

/// Bytes that may have been kept in another language.
fn readable(value: Option<bytes::Bytes>) -> std::result::Result<Option<String>, String> {
    let value = value.map(|bytes| String::from_utf8(bytes.into())).transpose();
    value.map_err(|_| "what is kept there is no text".to_owned())
}

/// The functions that `cache` and `kv` have in common.
macro_rules! keeping {
    ($module:ident, $store:expr, $get:literal $set:literal $add:literal $incr:literal $delete:literal, $($more:item)*) => {
        impl $module::Host for Held {
            fn get(&mut self, key: String, space: Option<String>) -> Given<Option<String>> {
                let cx = policy!(self, $get);
                let space = host::keep::space(&cx, $store, space.as_deref());
                Ok(text(space).and_then(|space| readable(host::keep::get(&space, &key))))
            }

            fn set(&mut self, key: String, value: String, ttl: Option<f64>, space: Option<String>) -> Given<()> {
                let cx = policy!(self, $set);
                let space = host::keep::space(&cx, $store, space.as_deref());
                Ok(text(space.and_then(|space| host::keep::set(&space, &key, value.as_bytes(), host::keep::ttl(ttl)?))))
            }

            fn add(&mut self, key: String, value: String, ttl: Option<f64>, space: Option<String>) -> Given<bool> {
                let cx = policy!(self, $add);
                let space = host::keep::space(&cx, $store, space.as_deref());
                Ok(text(space.and_then(|space| host::keep::add(&space, &key, value.as_bytes(), host::keep::ttl(ttl)?))))
            }

            fn incr(&mut self, key: String, by: i64, ttl: Option<f64>, space: Option<String>) -> Given<i64> {
                let cx = policy!(self, $incr);
                let space = host::keep::space(&cx, $store, space.as_deref());
                Ok(text(space.and_then(|space| host::keep::incr(&space, &key, by as f64, host::keep::ttl(ttl)?))))
            }

            fn delete(&mut self, key: String, space: Option<String>) -> Given<bool> {
                let cx = policy!(self, $delete);
                Ok(text(host::keep::space(&cx, $store, space.as_deref()).map(|space| space.delete(&key))))
            }

            $($more)*
        }
    };
}

keeping!(cache, Store::Cache, "cache.get" "cache.set" "cache.add" "cache.incr" "cache.delete",);
keeping!(kv, Store::Kv, "kv.get" "kv.set" "kv.add" "kv.incr" "kv.delete",
    fn swap(
        &mut self,
        key: String,
        expected: Option<String>,
        value: String,
        ttl: Option<f64>,
        space: Option<String>,
    ) -> Given<bool> {
        let cx = policy!(self, "kv.swap");
        let expected = expected.as_deref().map(str::as_bytes);
        let space = host::keep::space(&cx, Store::Kv, space.as_deref());
        Ok(text(space.and_then(|space| {
            host::keep::swap(&space, &key, expected, value.as_bytes(), host::keep::ttl(ttl)?)
        })))
    }
);

impl Held {
    /// Counts in a window of the policy's own.
    fn counted<T>(
        &self,
        row: &Function,
        (key, window, amount, space): (String, limit::Window, u64, Option<String>),
        body: impl FnOnce(&Cx, &host::limit::Count<'_>) -> std::result::Result<T, HostError>,
    ) -> Given<T> {
        let cx = match self.policy(row)? {
            Ok(cx) => cx,
            Err(refused) => return Ok(Err(refused)),
        };
        let count = || {
            let window = host::limit::Window::new(written(&window))?;
            let amount = host::limit::amount(amount as f64)?;
            body(&cx, &host::limit::Count { key: &key, window, amount, space: space.as_deref() })
        };
        Ok(text(count()))
    }
}

fn written(window: &limit::Window) -> host::limit::Written<'static> {
    let (per_s, per, kind) = match window.span {
        limit::Span::Sliding(seconds) => (Some(seconds), None, Some("sliding")),
        limit::Span::Fixed(seconds) => (Some(seconds), None, Some("fixed")),
        limit::Span::Bucket(seconds) => (Some(seconds), None, Some("bucket")),
        limit::Span::Calendar(period) => {
            let word = match period {
                limit::Period::Minute => "minute",
                limit::Period::Hour => "hour",
                limit::Period::Day => "day",
                limit::Period::Week => "week",
                limit::Period::Month => "month",
                limit::Period::Year => "year",
            };
            (None, Some(word), None)
        }
        limit::Span::Ever => (None, Some("ever"), None),
        limit::Span::AtOnce => (None, Some("at_once"), None),
    };
    host::limit::Written { limit: window.limit as f64, per_s, per, kind }
}

fn given(given: crate::state::limit::Given) -> limit::Given {
    let retry_after_ms = host::limit::retry_after_ms(&given);
    limit::Given { allowed: given.allowed, remaining: given.remaining, retry_after_ms }
}

impl limit::Host for Held {
    fn take(&mut self, key: String, window: limit::Window, amount: u64, space: Option<String>) -> Given<limit::Given> {
        let given = |cx: &Cx, count: &host::limit::Count<'_>| host::limit::take(cx, count).map(self::given);
        self.counted(row!("limit.take"), (key, window, amount, space), given)
    }

    fn peek(&mut self, key: String, window: limit::Window, amount: u64, space: Option<String>) -> Given<limit::Given> {
        let given = |cx: &Cx, count: &host::limit::Count<'_>| host::limit::peek(cx, count).map(self::given);
        self.counted(row!("limit.peek"), (key, window, amount, space), given)
    }

    fn reserve(
        &mut self,
        key: String,
        window: limit::Window,
        amount: u64,
        space: Option<String>,
    ) -> Given<limit::Held> {
        let held = |cx: &Cx, count: &host::limit::Count<'_>| {
            let (reservation, given) = host::limit::reserve(cx, count)?;
            let limit::Given { remaining, retry_after_ms, .. } = self::given(given);
            Ok(limit::Held { reservation, remaining, retry_after_ms })
        };
        self.counted(row!("limit.reserve"), (key, window, amount, space), held)
    }

    fn settle(&mut self, reservation: u32, actual: u64) -> Given<bool> {
        let cx = policy!(self, "limit.settle");
        let actual = host::limit::amount(actual as f64);
        Ok(text(actual.and_then(|actual| host::limit::settle(&cx, reservation, actual))))
    }
}

pub(super) fn target(view: host::targets::View) -> targets::Target {
    let (healthy, standing) = (view.healthy(), view.standing().to_owned());
    let measure = &view.measure;
    targets::Target {
        healthy,
        standing,
        in_flight: measure.in_flight,
        error_rate: measure.error_rate,
        samples: measure.samples,
        ttft_ms: measure.ttft_ewma_ms,
        ttft_p50_ms: measure.ttft.p50,
        ttft_p95_ms: measure.ttft.p95,
        latency_ms: measure.duration_ewma_ms,
        latency_p50_ms: measure.duration.p50,
        latency_p95_ms: measure.duration.p95,
        tokens_per_s: measure.throughput.p50,
        tool_validity: measure.tool_validity,
        usage_left: measure.usage_left,
        price_in: view.price_in,
        price_out: view.price_out,
        context: view.context,
        max_output: view.max_output,
        tools: view.tools,
        vision: view.vision,
        reasoning: view.reasoning,
        json_schema: view.json_schema,
        name: view.name,
        provider: view.provider,
        model: view.model,
    }
}

impl targets::Host for Held {
    fn get(&mut self, name: String) -> Given<Option<targets::Target>> {
        let cx = policy!(self, "targets.get");
        Ok(text(host::targets::get(&cx, &name)).map(|view| view.map(target)))
    }

    fn list(&mut self, model: String) -> Given<Vec<targets::Target>> {
        let cx = policy!(self, "targets.list");
        Ok(text(host::targets::list(&cx, &model)).map(|views| views.into_iter().map(target).collect()))
    }

    fn models(&mut self) -> Given<Vec<String>> {
        let cx = policy!(self, "targets.models");
        Ok(text(cx.world().map(|world| world.models())))
    }
}

impl pick::Host for Held {
    fn weighted(&mut self, weights: Vec<pick::Weight>, key: Option<String>) -> Result<Option<String>> {
        self.anyone(row!("pick.weighted"), weights.len())?;
        let weights: Vec<(String, f64)> = weights.into_iter().map(|weight| (weight.name, weight.weight)).collect();
        let point = key.map_or_else(|| random(self.cx()), |key| host::pick::point(key.as_bytes()));
        Ok(host::pick::weighted(&weights, point).map(str::to_owned))
    }

    fn hash(&mut self, names: Vec<String>, key: String) -> Result<Option<String>> {
        self.anyone(row!("pick.hash"), names.len())?;
        Ok(host::pick::hash(&names, key.as_bytes()).map(str::to_owned))
    }
}

impl cost::Host for Held {
    fn estimate(&mut self, target: String, input: u64, output: u64) -> Given<Option<f64>> {
        let cx = policy!(self, "cost.estimate");
        Ok(text(host::targets::cost(&cx, &target, input, output)))
    }
}

impl tokens::Host for Held {
    fn estimate(&mut self, text: String) -> Result<u64> {
        self.anyone(row!("tokens.estimate"), text.len())?;
        Ok(host::targets::tokens(text.as_bytes()))
    }
}

impl re::Host for Held {
    fn test(&mut self, pattern: String, subject: String) -> Given<bool> {
        self.anyone(row!("re.test"), subject.len())?;
        Ok(text(host::re::test(&pattern, &subject)))
    }

    fn match_(&mut self, pattern: String, subject: String) -> Given<Option<Vec<String>>> {
        self.anyone(row!("re.match"), subject.len())?;
        let groups = text(host::re::first(&pattern, &subject));
        Ok(groups.map(|groups| groups.map(|groups| groups.into_iter().map(str::to_owned).collect())))
    }

    fn find(&mut self, pattern: String, subject: String, max: Option<u32>) -> Given<Vec<re::Found>> {
        self.anyone(row!("re.find"), subject.len())?;
        let max = max.map_or(host::re::MAX_MATCHES, |max| max as usize);
        let found = text(host::re::find(&pattern, &subject, max));
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Ok(found.map(|found| {
            let each = |found: &host::re::Found| re::Found {
                first: place(found.first),
                end: place(found.end),
                text: subject[found.first..found.end].to_owned(),
            };
            found.iter().map(each).collect()
        }))
    }

    fn replace(&mut self, pattern: String, subject: String, with: String) -> Given<re::Replaced> {
        self.anyone(row!("re.replace"), subject.len())?;
        let replaced = text(host::re::replace(&pattern, &subject, &with));
        Ok(replaced.map(|(text, count)| re::Replaced { text, count: u32::try_from(count).unwrap_or(u32::MAX) }))
    }
}

impl trace::Host for Held {
    fn note(&mut self, what: String) -> Given<()> {
        let cx = policy!(self, "trace.note");
        let bytes = what.len();
        let what = serde_json::from_str(&what).unwrap_or(Value::String(what));
        Ok(text(host::log::note(&cx, what, bytes)))
    }
}

impl Held {
    fn record(&self, row: &Function, kind: Kind, name: &str, value: f64, labels: Vec<metrics::Label>) -> Given<()> {
        let cx = match self.policy(row)? {
            Ok(cx) => cx,
            Err(refused) => return Ok(Err(refused)),
        };
        let labels: Vec<(String, String)> = labels.into_iter().map(|label| (label.name, label.value)).collect();
        Ok(text(host::metrics::record(&cx, name, kind, value, &labels)))
    }
}

impl metrics::Host for Held {
    fn count(&mut self, name: String, by: f64, labels: Vec<metrics::Label>) -> Given<()> {
        self.record(row!("metrics.count"), Kind::Counter, &name, by, labels)
    }

    fn gauge(&mut self, name: String, value: f64, labels: Vec<metrics::Label>) -> Given<()> {
        self.record(row!("metrics.gauge"), Kind::Gauge, &name, value, labels)
    }

    fn observe(&mut self, name: String, value: f64, labels: Vec<metrics::Label>) -> Given<()> {
        self.record(row!("metrics.observe"), Kind::Histogram, &name, value, labels)
    }
}

impl secret::Host for Held {
    fn granted(&mut self, name: String) -> Result<bool> {
        self.anyone(row!("secret.get"), 0)?;
        Ok(self.cx().is_some_and(|cx| host::secret::get(cx, &name).is_ok()))
    }
}

impl http::Host for Held {
    async fn fetch(&mut self, request: http::Request) -> Given<http::Answer> {
        let cx = policy!(self, "http.fetch");
        let mut headers = BTreeMap::new();
        for http::Header { name, value } in request.headers {
            let value = match value {
                http::HeaderValue::Text(text) => host::http::Header::Text(text),
                http::HeaderValue::Secret(name) => host::http::Header::Secret(name),
            };
            headers.insert(name, Some(value));
        }
        let asked = host::http::Request {
            url: request.url,
            method: request.method,
            headers,
            body: request.body.map(String::into_bytes).unwrap_or_default(),
            timeout_ms: request.timeout_ms.map(f64::from),
        };
        let answer = text(host::http::fetch(&cx, asked).await);
        Ok(answer.map(|answer| http::Answer {
            status: answer.status,
            headers: fields(&answer.headers).map(|(name, value)| http::Field { name, value }).collect(),
            body: String::from_utf8_lossy(&answer.body).into_owned(),
        }))
    }
}

/// Headers as texts; a value that is none is left out.
pub(super) fn fields(headers: &::http::HeaderMap) -> impl Iterator<Item = (String, String)> {
    headers.iter().filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
}

impl llm::Host for Held {
    async fn ask(&mut self, ask: String) -> Given<llm::Answer> {
        let cx = policy!(self, "llm.ask");
        let ask = match serde_json::from_str(&ask) {
            Ok(ask) => ask,
            Err(error) => return Ok(Err(format!("the ask is not JSON: {error}"))),
        };
        let answer = text(host::llm::ask(&cx, ask).await);
        Ok(answer.map(|answer| {
            let word = |name: &str| answer[name].as_str().map(str::to_owned);
            llm::Answer {
                text: word("text").unwrap_or_default(),
                model: word("model").unwrap_or_default(),
                finish: word("finish"),
                tool_calls: answer.get("tool_calls").map(Value::to_string).unwrap_or_default(),
                input_tokens: answer["input_tokens"].as_u64(),
                output_tokens: answer["output_tokens"].as_u64(),
            }
        }))
    }

    async fn embed(&mut self, model: String, texts: Vec<String>) -> Given<Vec<Vec<f64>>> {
        let cx = policy!(self, "llm.embed");
        Ok(text(host::llm::embed(&cx, &model, texts).await))
    }
}

impl ctx::Host for Held {
    fn get(&mut self, key: String) -> Given<Option<ctx::Kept>> {
        let Some(cx) = self.cx() else { return Ok(Err(NO_EXCHANGE.to_owned())) };
        let kept = match cx.visit.get(&cx.guest.name, &key) {
            None => None,
            Some(Kept::Bool(bool)) => Some(ctx::Kept::Flag(bool)),
            Some(Kept::Number(number)) => Some(ctx::Kept::Number(number)),
            Some(Kept::Text(text)) => Some(ctx::Kept::Text(String::from_utf8_lossy(&text).into_owned())),
        };
        Ok(Ok(kept))
    }

    fn set(&mut self, key: String, value: Option<ctx::Kept>) -> Given<()> {
        let Some(cx) = self.cx() else { return Ok(Err(NO_EXCHANGE.to_owned())) };
        let value = value.map(|value| match value {
            ctx::Kept::Flag(bool) => Kept::Bool(bool),
            ctx::Kept::Number(number) => Kept::Number(number),
            ctx::Kept::Text(text) => Kept::Text(text.into_bytes()),
        });
        Ok(text(cx.visit.set(&cx.guest.name, &key, value)))
    }
}

const NO_EXCHANGE: &str = "there is no exchange to keep it for";
