//! Counters and histograms, in the Prometheus text form.
//!
//! Names of the GenAI conventions 1.41 in Prometheus spelling, and `portcullis_*` for what they do not cover. Label sets
//! are bounded: past [`MAX_SERIES`] pairs of provider and model the rest counts as `other`.

mod labels;

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::settle::Settled;
use crate::state::handles::Handles;
use crate::state::health::{Health, Millis, Standing};
use labels::{
    ApartLabels, AttemptLabels, AttemptName, CacheLabels, LimitLabels, MeterKey, MeterName, ModelLabels, ReloadLabels,
    RequestLabels, SharedKvLabels, SharedReadLabels, SharedWriteLabels, TargetLabels, TokenLabels,
};

/// Most pairs of provider and model that get series of their own. Callers choose model names, so this must have an end.
pub const MAX_SERIES: usize = 500;

/// `gen_ai.client.operation.duration`, in seconds.
const DURATION: &[f64] = &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// `gen_ai.client.token.usage`.
const TOKENS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
/// `gen_ai.server.time_to_first_token`, in seconds.
const FIRST_TOKEN: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// `gen_ai.server.time_per_output_token`, in seconds.
const PER_TOKEN: &[f64] = &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
/// Waits for a shared limiter, around the time budgets that one gives it.
const LIMIT_WAIT: &[f64] = &[0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.05, 0.1, 0.25, 1.0];
/// What this process adds, in seconds.
const OVERHEAD: &[f64] = &[0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1];

/// What a limit did to an exchange, other than let it pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Refused,
    Queued,
    Routed,
    /// Refused or let pass because the shared counts were away.
    Away,
}

/// Makes histograms with one set of buckets.
#[derive(Debug, Clone)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

type Histograms<L> = Family<L, Histogram, Buckets>;

/// The series of one (operation, provider, model), looked up once and kept.
#[derive(Debug)]
struct Meters {
    labels: ModelLabels,
    duration: Histogram,
    first_token: Histogram,
    per_token: Histogram,
    input: Histogram,
    output: Histogram,
    /// There from the first known cost on: a model without a price has none, and none is not zero.
    cost: OnceLock<Counter<f64, AtomicU64>>,
}

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    durations: Histograms<ModelLabels>,
    first_tokens: Histograms<ModelLabels>,
    per_tokens: Histograms<ModelLabels>,
    tokens: Histograms<TokenLabels>,
    costs: Family<ModelLabels, Counter<f64, AtomicU64>>,
    requests: Family<RequestLabels, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    apart: Family<ApartLabels, Counter>,
    apart_costs: Family<ApartLabels, Counter<f64, AtomicU64>>,
    overhead: Histogram,
    in_flight: Gauge<i64, AtomicI64>,
    reloads: Family<ReloadLabels, Counter>,
    target_standing: Family<TargetLabels, Gauge>,
    target_in_flight: Family<TargetLabels, Gauge>,
    target_places: Family<TargetLabels, Gauge>,
    target_error_rate: Family<TargetLabels, Gauge<f64, AtomicU64>>,
    target_tool_validity: Family<TargetLabels, Gauge<f64, AtomicU64>>,
    target_usage_left: Family<TargetLabels, Gauge<f64, AtomicU64>>,
    target_first_content: Family<TargetLabels, Gauge<f64, AtomicU64>>,
    generation: Gauge<i64, AtomicI64>,
    log_dropped: Counter,
    ledger_dropped: Counter,
    cache_shared_reads: Family<SharedReadLabels, Counter>,
    cache_shared_writes: Family<SharedWriteLabels, Counter>,
    kv_shared_calls: Family<SharedKvLabels, Counter>,
    limited: Family<LimitLabels, Counter>,
    limit_wait: Histogram,
    cached: Family<CacheLabels, Counter>,
    saved: Counter<f64, AtomicU64>,
    cache_answers: Gauge<i64, AtomicI64>,
    cache_bytes: Gauge<i64, AtomicI64>,
    cache_listening: Gauge<i64, AtomicI64>,
    // Handles of what every exchange counts: a family's own lookup takes a lock that all workers share.
    meters: Handles<MeterKey, Arc<Meters>>,
    ended: Handles<RequestLabels, Counter>,
    tried: Handles<AttemptLabels, Counter>,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let durations = Histograms::new_with_constructor(Buckets(DURATION));
        let first_tokens = Histograms::new_with_constructor(Buckets(FIRST_TOKEN));
        let per_tokens = Histograms::new_with_constructor(Buckets(PER_TOKEN));
        let tokens = Histograms::new_with_constructor(Buckets(TOKENS));
        let costs = Family::default();
        let requests = Family::default();
        let attempts = Family::default();
        let apart = Family::default();
        let apart_costs = Family::default();
        let overhead = Histogram::new(OVERHEAD.iter().copied());
        let in_flight = Gauge::default();
        let reloads = Family::default();
        let target_standing = Family::default();
        let target_in_flight = Family::default();
        let target_places = Family::default();
        let target_error_rate = Family::default();
        let target_tool_validity = Family::default();
        let target_usage_left = Family::default();
        let target_first_content = Family::default();
        let generation = Gauge::default();
        let log_dropped = Counter::default();
        let ledger_dropped = Counter::default();
        let cache_shared_reads = Family::default();
        let cache_shared_writes = Family::default();
        let kv_shared_calls = Family::default();
        let limited = Family::default();
        let limit_wait = Histogram::new(LIMIT_WAIT.iter().copied());
        let cached = Family::default();
        let saved = Counter::default();
        let cache_answers = Gauge::default();
        let cache_bytes = Gauge::default();
        let cache_listening = Gauge::default();
        macro_rules! register {
            ($name:literal, $help:literal, $metric:ident) => {
                registry.register($name, $help, $metric.clone())
            };
        }
        register!("gen_ai_client_operation_duration_seconds", "Duration of an exchange", durations);
        register!("gen_ai_client_token_usage", "Tokens of an exchange", tokens);
        register!("gen_ai_server_time_to_first_token_seconds", "Time to the first content of a stream", first_tokens);
        register!("gen_ai_server_time_per_output_token_seconds", "Time per output token after the first", per_tokens);
        register!("portcullis_cost_usd", "Cost of exchanges with a known price", costs);
        register!("portcullis_requests", "Exchanges by endpoint, status as they ended, and error code", requests);
        register!("portcullis_attempts", "Tries of upstreams by provider and error code", attempts);
        register!("portcullis_apart", "Tries beside the exchanges: hedges given up and mirrors", apart);
        register!("portcullis_apart_cost_usd", "What those cost, hedges by an estimate of their input", apart_costs);
        register!("portcullis_overhead_seconds", "Time spent in this process before the head of the answer", overhead);
        register!("portcullis_in_flight", "Exchanges under way", in_flight);
        register!("portcullis_target_standing", "0 closed, 1 half open, 2 open, 3 drained", target_standing);
        register!("portcullis_target_in_flight", "Attempts under way at a target, key or provider", target_in_flight);
        register!("portcullis_target_places", "Attempts that may be under way at a time", target_places);
        register!("portcullis_target_error_rate", "Share of failed attempts in the window", target_error_rate);
        register!(
            "portcullis_target_tool_validity",
            "Share of tool calls whose arguments parsed and fitted their schema",
            target_tool_validity
        );
        register!(
            "portcullis_target_usage_left",
            "Share of the provider's own rate limit that is left, as it says",
            target_usage_left
        );
        register!(
            "portcullis_target_first_content_p95_seconds",
            "Time to the first content of streams",
            target_first_content
        );
        register!("portcullis_reloads", "Reloads by result", reloads);
        register!("portcullis_generation", "Number of the generation in force", generation);
        register!("portcullis_cache_requests", "Exchanges that the cache had to do with, by what it did", cached);
        register!("portcullis_cache_saved_usd", "Cost of answers that were not asked for again", saved);
        register!("portcullis_cache_answers", "Answers in the memory cache", cache_answers);
        register!("portcullis_cache_bytes", "Bytes of the memory cache in use", cache_bytes);
        register!("portcullis_cache_listening", "Exchanges that wait for another's upstream call", cache_listening);
        register!("portcullis_cache_shared_reads", "Looks at the shared tier of the cache", cache_shared_reads);
        register!("portcullis_cache_shared_writes", "Answers for the shared tier of the cache", cache_shared_writes);
        register!("portcullis_kv_shared_calls", "Calls of gw.kv on Redis", kv_shared_calls);
        register!("portcullis_ledger_dropped_rows", "Ledger rows that the disk was too slow for", ledger_dropped);
        register!("portcullis_log_dropped_lines", "Access log lines that a sink did not take", log_dropped);
        register!("portcullis_limit_decisions", "Exchanges that a limit did not simply let pass", limited);
        register!("portcullis_limit_wait_seconds", "Time that limits on Redis took an exchange", limit_wait);
        Metrics {
            registry,
            durations,
            first_tokens,
            per_tokens,
            tokens,
            costs,
            requests,
            attempts,
            apart,
            apart_costs,
            overhead,
            in_flight,
            reloads,
            target_standing,
            target_in_flight,
            target_places,
            target_error_rate,
            target_tool_validity,
            target_usage_left,
            target_first_content,
            generation,
            log_dropped,
            ledger_dropped,
            cache_shared_reads,
            cache_shared_writes,
            kv_shared_calls,
            limited,
            limit_wait,
            cached,
            saved,
            cache_answers,
            cache_bytes,
            cache_listening,
            meters: Handles::default(),
            ended: Handles::default(),
            tried: Handles::default(),
        }
    }

    /// An exchange begins.
    pub fn begin(&self) {
        self.in_flight.inc();
    }

    /// An exchange has ended.
    pub fn end(&self, settled: &Settled<'_>) {
        self.in_flight.dec();
        let x = settled.exchange;
        let code = settled.fault.map_or("", |fault| fault.code());
        let labels = RequestLabels { endpoint: x.endpoint, status: settled.status, code };
        let ended = self.ended.get(&labels);
        ended.unwrap_or_else(|| self.ended.put(labels.clone(), self.requests.get_or_create_owned(&labels))).inc();
        self.overhead.observe(x.overhead_at_head.as_secs_f64());
        for attempt in &x.attempts {
            if attempt.cancelled {
                self.apart("hedge", &attempt.target.provider.name, "", settled.cost_given_up(attempt));
            }
            let code = attempt.fault.as_ref().map_or("", |fault| fault.code());
            let provider = attempt.target.provider.name.as_str();
            let tried = self.tried.get(&AttemptName { provider, code });
            let fresh = || {
                let labels = AttemptLabels { provider: provider.to_owned(), code };
                self.tried.put(labels.clone(), self.attempts.get_or_create_owned(&labels))
            };
            tried.unwrap_or_else(fresh).inc();
        }
        if let Some(visit) = &x.cache {
            self.cached.get_or_create(&CacheLabels { status: visit.status.as_str() }).inc();
            if let Some(saved) = visit.saved_nano_usd {
                self.saved.inc_by(saved as f64 / 1e9);
            }
        }
        if let Some(target) = settled.target {
            let meters = self.meters(x.op.as_str(), &target.provider.name, &target.model, &target.provider.otel);
            meters.observe(settled, &self.costs);
        }
    }

    /// A try beside an exchange ended, with the code of its fault, if it had one.
    pub fn apart(&self, why: &'static str, provider: &str, code: &'static str, nano_usd: Option<u64>) {
        let labels = ApartLabels { why, provider: provider.to_owned(), code };
        self.apart.get_or_create(&labels).inc();
        if let Some(nano) = nano_usd {
            self.apart_costs.get_or_create(&labels).inc_by(nano as f64 / 1e9);
        }
    }

    fn meters(&self, op: &'static str, provider: &str, model: &str, otel: &str) -> Arc<Meters> {
        if let Some(meters) = self.meters.get(&MeterName { op, provider, model }) {
            return meters;
        }
        let model = if self.meters.count() >= MAX_SERIES { "other" } else { model };
        if let Some(meters) = self.meters.get(&MeterName { op, provider, model }) {
            return meters;
        }
        let labels = ModelLabels {
            gen_ai_operation_name: op,
            gen_ai_provider_name: otel.to_owned(),
            gen_ai_request_model: model.to_owned(),
        };
        let key = MeterKey { op, provider: provider.to_owned(), model: model.to_owned() };
        self.meters.put(key, Arc::new(self.create(&labels)))
    }

    // Owned handles: the borrowed ones hold the family's lock to the end of the expression.
    fn create(&self, labels: &ModelLabels) -> Meters {
        let tokens = |kind| TokenLabels {
            gen_ai_operation_name: labels.gen_ai_operation_name,
            gen_ai_provider_name: labels.gen_ai_provider_name.clone(),
            gen_ai_request_model: labels.gen_ai_request_model.clone(),
            gen_ai_token_type: kind,
        };
        Meters {
            duration: self.durations.get_or_create_owned(labels),
            first_token: self.first_tokens.get_or_create_owned(labels),
            per_token: self.per_tokens.get_or_create_owned(labels),
            input: self.tokens.get_or_create_owned(&tokens("input")),
            output: self.tokens.get_or_create_owned(&tokens("output")),
            cost: OnceLock::new(),
            labels: labels.clone(),
        }
    }

    /// A limit did not simply let an exchange pass.
    pub fn limited(&self, rule: &str, decision: Decision) {
        let decision = match decision {
            Decision::Refused => "refused",
            Decision::Queued => "queued",
            Decision::Routed => "routed",
            Decision::Away => "away",
        };
        self.limited.get_or_create(&LimitLabels { rule: rule.to_owned(), decision }).inc();
    }

    /// Limits that are shared were asked, for so long.
    pub fn limits_asked(&self, took: Duration) {
        self.limit_wait.observe(took.as_secs_f64());
    }

    /// Takes over how targets are doing, for the page that is about to be rendered. The busiest have series of their own.
    pub fn targets(&self, health: &Health, now: Millis) {
        let mut rows: Vec<_> = health.all().into_iter().map(|record| (record.attempts(), record)).collect();
        rows.sort_by_key(|(attempts, _)| std::cmp::Reverse(*attempts));
        for family in [&self.target_standing, &self.target_in_flight, &self.target_places] {
            family.clear();
        }
        for family in
            [&self.target_error_rate, &self.target_tool_validity, &self.target_usage_left, &self.target_first_content]
        {
            family.clear();
        }
        for (_, record) in rows.into_iter().take(MAX_SERIES) {
            let measure = record.measure(now);
            let labels = TargetLabels { target: record.name.clone() };
            let standing = match measure.standing {
                Standing::Closed => 0,
                Standing::HalfOpen => 1,
                Standing::Open { .. } => 2,
                Standing::Drained => 3,
            };
            self.target_standing.get_or_create(&labels).set(standing);
            self.target_in_flight.get_or_create(&labels).set(i64::from(measure.in_flight));
            self.target_error_rate.get_or_create(&labels).set(measure.error_rate);
            if let Some(places) = measure.places {
                self.target_places.get_or_create(&labels).set(i64::from(places));
            }
            for (family, known) in [
                (&self.target_tool_validity, measure.tool_validity),
                (&self.target_usage_left, measure.usage_left),
                (&self.target_first_content, measure.ttft.p95.map(|p95| p95 / 1000.0)),
            ] {
                if let Some(value) = known {
                    family.get_or_create(&labels).set(value);
                }
            }
        }
    }

    /// A reload ended: in this generation, or not at all.
    pub fn reloaded(&self, generation: Option<u64>) {
        let result = if generation.is_some() { "ok" } else { "refused" };
        self.reloads.get_or_create(&ReloadLabels { result }).inc();
        if let Some(number) = generation {
            self.generation.set(number as i64);
        }
    }

    /// How much the memory cache holds, for the next scrape.
    pub fn cache_holds(&self, answers: u64, bytes: u64, listening: usize) {
        self.cache_listening.set(listening as i64);
        self.cache_answers.set(answers as i64);
        self.cache_bytes.set(bytes as i64);
    }

    pub fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// Takes over how the shared tier of the cache is doing, for the next scrape.
    pub fn cache_shares(&self, counts: &super::cache::shared::Counts) {
        for (read, count) in counts.reads() {
            let labels = SharedReadLabels { outcome: read.as_str() };
            catch_up(&self.cache_shared_reads.get_or_create(&labels), count);
        }
        let (kept, lost) = counts.writes();
        for (outcome, count) in [("kept", kept), ("lost", lost)] {
            catch_up(&self.cache_shared_writes.get_or_create(&SharedWriteLabels { outcome }), count);
        }
    }

    /// Takes over how the shared store of guests is doing, for the next scrape.
    pub fn kv_shares(&self, shared: &super::kv::shared::Shared) {
        for (outcome, count) in shared.calls() {
            let labels = SharedKvLabels { outcome: outcome.as_str() };
            catch_up(&self.kv_shared_calls.get_or_create(&labels), count);
        }
    }

    /// The text that Prometheus scrapes. `log_dropped` and `ledger_dropped` are the log's and the store's own counts.
    pub fn render(&self, log_dropped: u64, ledger_dropped: u64) -> String {
        catch_up(&self.log_dropped, log_dropped);
        catch_up(&self.ledger_dropped, ledger_dropped);
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Brings a counter up to what somebody else has counted.
fn catch_up(counter: &Counter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Meters {
    fn observe(&self, settled: &Settled<'_>, costs: &Family<ModelLabels, Counter<f64, AtomicU64>>) {
        let x = settled.exchange;
        let duration = settled.ended.duration_since(x.started);
        self.duration.observe(duration.as_secs_f64());
        if let Some(usage) = settled.usage {
            self.input.observe(usage.input as f64);
            self.output.observe(usage.output as f64);
        }
        if let Some(first) = x.seen.first_content {
            let waited = first.duration_since(x.started);
            self.first_token.observe(waited.as_secs_f64());
            let rest: Duration = duration.saturating_sub(waited);
            if let Some(after_first) = settled.usage.map(|usage| usage.output.saturating_sub(1)).filter(|n| *n > 0) {
                self.per_token.observe(rest.as_secs_f64() / after_first as f64);
            }
        }
        if let Some(cost) = settled.cost_nano_usd {
            self.cost.get_or_init(|| costs.get_or_create_owned(&self.labels)).inc_by(cost as f64 / 1e9);
        }
    }
}
