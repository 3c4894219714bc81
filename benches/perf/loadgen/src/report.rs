//! What a run counted, and the line it prints.

use std::time::Instant;

use hdrhistogram::Histogram;

use crate::{Shared, proc};

/// Counts of one run; only what begins and ends inside the window counts.
pub struct Stats {
    pub from: Instant,
    pub until: Instant,
    pub latency: Histogram<u64>,
    pub first: Histogram<u64>,
    pub chunk: Histogram<u64>,
    pub ok: u64,
    pub refused: u64,
    pub errors: u64,
    pub incomplete: u64,
    pub chunks: u64,
    pub late: u64,
    /// The first thing that went wrong, for people.
    pub first_bad: Option<String>,
}

/// CPU time of the gateway and of the generator in the window, and the gateway's largest memory.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    pub cpu_ns: u64,
    pub own_ns: u64,
    pub peak_kb: u64,
}

impl Stats {
    pub fn new(from: Instant, until: Instant) -> Self {
        Stats {
            from,
            until,
            latency: histogram(),
            first: histogram(),
            chunk: histogram(),
            ok: 0,
            refused: 0,
            errors: 0,
            incomplete: 0,
            chunks: 0,
            late: 0,
            first_bad: None,
        }
    }

    /// No connection was to be had.
    pub fn unreached(&mut self, error: &std::io::Error) {
        self.errors += 1;
        self.bad(&error.to_string());
    }

    pub fn bad(&mut self, what: &str) {
        self.first_bad.get_or_insert_with(|| what.chars().take(200).collect());
    }
}

/// Microseconds, to ten minutes.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order")
}

/// The shares at which plots are drawn, in thousandths.
const CURVE: [u32; 13] = [1, 10, 50, 100, 250, 500, 750, 900, 950, 980, 990, 995, 999];

fn quantiles(of: &Histogram<u64>) -> String {
    let at = |quantile| of.value_at_quantile(quantile);
    let curve = CURVE.map(|share| format!("[{share},{}]", at(f64::from(share) / 1000.0))).join(",");
    let (p50, p90, p99, max, mean) = (at(0.5), at(0.9), at(0.99), of.max(), of.mean());
    format!(r#"{{"p50":{p50},"p90":{p90},"p99":{p99},"max":{max},"mean":{mean:.1},"curve":[{curve}]}}"#)
}

pub fn print(shared: &Shared, idle_kb: u64, spent: Spent) {
    let (stats, args) = (shared.stats.borrow(), &shared.args);
    let micros = spent.cpu_ns as f64 / 1000.0;
    let per = |count: u64| if count > 0 { micros / count as f64 } else { 0.0 };
    let bad = stats.first_bad.as_deref().unwrap_or("").replace(['"', '\\', '\n', '\r'], " ");
    let fields = [
        ("conc", args.conc.to_string()),
        ("secs", args.secs.to_string()),
        ("ask_bytes", shared.request.bytes.len().to_string()),
        ("begun", shared.numbered.get().to_string()),
        ("ok", stats.ok.to_string()),
        ("rps", format!("{:.1}", stats.ok as f64 / args.secs)),
        ("refused", stats.refused.to_string()),
        ("errors", stats.errors.to_string()),
        ("incomplete", stats.incomplete.to_string()),
        ("late", stats.late.to_string()),
        ("latency_us", quantiles(&stats.latency)),
        ("first_us", quantiles(&stats.first)),
        ("chunk_us", quantiles(&stats.chunk)),
        ("chunks", stats.chunks.to_string()),
        ("cpu_share", format!("{:.3}", micros / 1e6 / args.secs)),
        ("cpu_us_per_request", format!("{:.2}", per(stats.ok))),
        ("cpu_us_per_chunk", format!("{:.2}", per(stats.chunks))),
        ("generator_share", format!("{:.3}", spent.own_ns as f64 / 1e9 / args.secs)),
        ("rss_before_kb", idle_kb.to_string()),
        ("rss_peak_kb", spent.peak_kb.to_string()),
        ("rss_after_kb", proc::rss_kb(&args.pids).to_string()),
        ("bad", format!("\"{bad}\"")),
    ];
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    println!("{{{}}}", fields.join(","));
}
