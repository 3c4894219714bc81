//! Functions of an exchange, for policies: what is kept, counted, asked and told. An adapter is refused.
//!
//! Every one goes through its row first, which knows in which phases and with which grant it may be called.

use std::collections::BTreeMap;

use serde_json::Value;
use wasmtime::Result;

use super::super::bindings::{cache, cost, ctx, http, kv, limit, llm, metrics, secret, targets, trace};
use super::super::store::Held;
use super::super::turn;
use super::{Given, policy, row, text};
use crate::host::keep::{self, Store};
use crate::host::visit::Kept;
use crate::host::{self, Cx, Function, HostError};
use crate::state::tally::Kind;

/// Bytes that may have been kept in another language.
fn readable(value: Option<bytes::Bytes>) -> std::result::Result<Option<String>, String> {
    let value = value.map(|bytes| String::from_utf8(bytes.into())).transpose();
    value.map_err(|_| "what is kept there is no text".to_owned())
}

/// The functions that `cache` and `kv` have in common. `$waits` is `async` where they may wait, and `$end` ends them.
macro_rules! keeping {
    ($module:ident, $store:expr, ($($waits:tt)?) $end:ident,
        $get:literal $set:literal $add:literal $incr:literal $delete:literal, $($more:item)*) => {
        impl $module::Host for Held {
            $($waits)? fn get(&mut self, key: String, space: Option<String>) -> Given<Option<String>> {
                let cx = policy!(self, $get);
                let kept = $end!(&cx, kept(&cx, $store, &key, space.as_deref()));
                Ok(text(kept).and_then(readable))
            }

            $($waits)? fn set(&mut self, key: String, value: String, ttl: Option<f64>, space: Option<String>) -> Given<()> {
                let cx = policy!(self, $set);
                let done = async {
                    let space = keep::space(&cx, $store, space.as_deref())?;
                    keep::set(&space, &key, value.into(), keep::ttl(ttl)?).await
                };
                Ok(text($end!(&cx, done)))
            }

            $($waits)? fn add(&mut self, key: String, value: String, ttl: Option<f64>, space: Option<String>) -> Given<bool> {
                let cx = policy!(self, $add);
                let done = async {
                    let space = keep::space(&cx, $store, space.as_deref())?;
                    keep::add(&space, &key, value.into(), keep::ttl(ttl)?).await
                };
                Ok(text($end!(&cx, done)))
            }

            $($waits)? fn incr(&mut self, key: String, by: i64, ttl: Option<f64>, space: Option<String>) -> Given<i64> {
                let cx = policy!(self, $incr);
                let done = async {
                    let space = keep::space(&cx, $store, space.as_deref())?;
                    keep::incr(&space, &key, by as f64, keep::ttl(ttl)?).await
                };
                Ok(text($end!(&cx, done)))
            }

            $($waits)? fn delete(&mut self, key: String, space: Option<String>) -> Given<bool> {
                let cx = policy!(self, $delete);
                let done = async {
                    let space = keep::space(&cx, $store, space.as_deref())?;
                    keep::delete(&space, &key).await
                };
                Ok(text($end!(&cx, done)))
            }

            $($more)*
        }
    };
}

macro_rules! at_once {
    ($cx:expr, $done:expr) => {
        keep::at_once($done)
    };
}

macro_rules! awaited {
    ($cx:expr, $done:expr) => {
        elsewhere($cx, $done).await
    };
}

/// Waits for what may be kept on another machine: others' time then, and bounded like all waiting.
async fn elsewhere<T>(
    cx: &Cx,
    done: impl Future<Output = std::result::Result<T, HostError>>,
) -> std::result::Result<T, HostError> {
    match cx.guest.grants.shared_kv {
        true => turn::hosted(cx.lease.wait(done)).await.and_then(|done| done),
        false => done.await,
    }
}

async fn kept(
    cx: &Cx,
    store: Store,
    key: &str,
    space: Option<&str>,
) -> std::result::Result<Option<bytes::Bytes>, HostError> {
    let space = keep::space(cx, store, space)?;
    keep::get(&space, key).await
}

keeping!(cache, Store::Cache, () at_once, "cache.get" "cache.set" "cache.add" "cache.incr" "cache.delete",);
keeping!(kv, Store::Kv, (async) awaited, "kv.get" "kv.set" "kv.add" "kv.incr" "kv.delete",
    async fn swap(
        &mut self,
        key: String,
        expected: Option<String>,
        value: String,
        ttl: Option<f64>,
        space: Option<String>,
    ) -> Given<bool> {
        let cx = policy!(self, "kv.swap");
        let done = async {
            let space = keep::space(&cx, Store::Kv, space.as_deref())?;
            let expected = expected.as_deref().map(str::as_bytes);
            keep::swap(&space, &key, expected, value.into(), keep::ttl(ttl)?).await
        };
        Ok(text(elsewhere(&cx, done).await))
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
            // Scripts write a span as `per_s` and `kind`.
            let window = host::limit::Window::new(written(&window));
            let window = window.map_err(|error| HostError(error.0.replacen("per_s", "the time of a `span`", 1)))?;
            let amount = host::limit::amount("amount", amount as f64)?;
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
        let actual = host::limit::amount("actual", actual as f64);
        Ok(text(actual.and_then(|actual| host::limit::settle(&cx, reservation, actual))))
    }
}

pub fn target(view: host::targets::View) -> targets::Target {
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

impl cost::Host for Held {
    fn estimate(&mut self, target: String, input: u64, output: u64) -> Given<Option<f64>> {
        let cx = policy!(self, "cost.estimate");
        Ok(text(host::targets::cost(&cx, &target, input, output)))
    }
}

impl trace::Host for Held {
    fn note(&mut self, what: String) -> Given<()> {
        let cx = policy!(self, "trace.note");
        let bytes = what.len();
        Ok(match serde_json::from_str(&what) {
            Ok(what) => text(host::log::note(&cx, what, bytes)),
            Err(error) => Err(format!("trace.note takes JSON text, and this is none: {error}")),
        })
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
        let cx = self.anyone(row!("secret.get"))?;
        Ok(host::secret::get(cx, &name).is_ok())
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
        let answer = text(turn::hosted(host::http::fetch(&cx, asked)).await);
        Ok(answer.map(|answer| http::Answer {
            status: answer.status,
            headers: fields(&answer.headers).map(|(name, value)| http::Field { name, value }).collect(),
            body: String::from_utf8_lossy(&answer.body).into_owned(),
        }))
    }
}

/// Headers as texts; a value that is none is left out.
pub fn fields(headers: &::http::HeaderMap) -> impl Iterator<Item = (String, String)> {
    headers.iter().filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
}

impl llm::Host for Held {
    async fn ask(&mut self, ask: String) -> Given<llm::Answer> {
        let cx = policy!(self, "llm.ask");
        let ask = match serde_json::from_str(&ask) {
            Ok(ask) => ask,
            Err(error) => return Ok(Err(format!("the ask is not JSON: {error}"))),
        };
        let answer = text(turn::hosted(host::llm::ask(&cx, ask)).await);
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
        Ok(text(turn::hosted(host::llm::embed(&cx, &model, texts)).await))
    }
}

impl ctx::Host for Held {
    fn get(&mut self, key: String) -> Given<Option<ctx::Kept>> {
        let Some(cx) = self.cx() else { return Ok(Err(NO_EXCHANGE.to_owned())) };
        let kept = match cx.kept(&key) {
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
        Ok(text(cx.keep(&key, value)))
    }
}

const NO_EXCHANGE: &str = "there is no exchange to keep it for";

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;
    use crate::host::{Budget, Grants, Guest, Killed, Lease, Phase, Visit};

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_on_another_machine_is_waited_for_beside_the_time_of_the_call() {
        let budget = Budget { cpu: Duration::from_millis(100), wait: Duration::from_millis(500), ..Budget::default() };
        let grants = Grants { shared_kv: true, ..Grants::default() };
        let guest = Guest { name: "test".into(), grants, budget, metrics: BTreeMap::new() };
        let cx = Cx {
            guest: Arc::new(guest),
            phase: Phase::Request,
            visit: Arc::new(Visit::nobody(0)),
            apart: None,
            world: None,
            lease: Lease::new(budget),
            awaits: true,
            gives_way: true,
        };
        let kept = |ms| {
            elsewhere(&cx, async move {
                sleep(Duration::from_millis(ms)).await;
                Ok(ms)
            })
        };
        let (outcome, used) = turn::metered(&cx, Duration::ZERO, async {
            assert_eq!(kept(300).await, Ok(300));
            let late = kept(300).await.expect_err("is late");
            assert!(late.0.contains("waited longer than 500ms; raise `budget.wait`"), "{}", late.0);
            Ok(())
        })
        .await;
        outcome.expect("is not ended for its own time");
        assert!(used < Duration::from_millis(100), "{used:?}");
        assert_eq!(cx.lease.killed(), Some(Killed::Wait));
    }
}
