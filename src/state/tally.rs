//! Metrics that policies declare: counters, gauges and histograms by name and labels, beside the process's own.
//!
//! Bounded: past [`MAX_SERIES`] of one metric, further labels count as `other`. Outlives a reload, so counters go on.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use serde::Deserialize;

/// Most series of one metric of one policy.
const MAX_SERIES: usize = 100;
/// Buckets of histograms that declare none: milliseconds from one to ten thousand.
const BUCKETS: &[f64] = &[1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0];

/// What a metric does with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One line of a metric.
#[derive(Debug, Clone, Copy)]
pub struct Series<'a> {
    /// The policy.
    pub guest: &'a str,
    pub name: &'a str,
    /// In the order of the declaration.
    pub labels: &'a [(&'a str, &'a str)],
}

impl Series<'_> {
    /// The labels as they are written out; with `other` for every value where there are too many.
    fn text(&self, other: Option<&str>) -> String {
        let mut text = String::with_capacity(64);
        let _ = write!(text, "guest=\"{}\"", escaped(self.guest));
        for (label, value) in self.labels {
            let _ = write!(text, ",{label}=\"{}\"", escaped(other.unwrap_or(value)));
        }
        text
    }
}

#[derive(Debug)]
struct Metric {
    kind: Kind,
    help: String,
    buckets: Vec<f64>,
    /// By policy and labels, as they are written out. Copied when one is new, so that counting takes no lock.
    series: ArcSwap<BTreeMap<String, Arc<Cell>>>,
}

#[derive(Debug, Default)]
struct Cell {
    /// The bits of a float.
    value: AtomicU64,
    counts: Vec<AtomicU64>,
    count: AtomicU64,
}

impl Cell {
    fn new(buckets: usize) -> Self {
        Cell { counts: (0..buckets).map(|_| AtomicU64::new(0)).collect(), ..Cell::default() }
    }

    fn value(&self) -> f64 {
        f64::from_bits(self.value.load(Relaxed))
    }

    fn add(&self, value: f64) {
        let more = |bits| Some((f64::from_bits(bits) + value).to_bits());
        let _ = self.value.fetch_update(Relaxed, Relaxed, more);
    }
}

impl Metric {
    fn record(&self, cell: &Cell, value: f64) {
        match self.kind {
            Kind::Counter => cell.add(value),
            Kind::Gauge => cell.value.store(value.to_bits(), Relaxed),
            Kind::Histogram => {
                for (_, count) in self.buckets.iter().zip(&cell.counts).filter(|(end, _)| value <= **end) {
                    count.fetch_add(1, Relaxed);
                }
                cell.add(value);
                cell.count.fetch_add(1, Relaxed);
            }
        }
    }

    /// Makes a series that is new, or finds the one that counts for all that are too many.
    fn grow(&self, series: &Series<'_>, labels: String) -> Arc<Cell> {
        let full = self.series.load().len() >= MAX_SERIES;
        let labels = if full { series.text(Some("other")) } else { labels };
        let fresh = Arc::new(Cell::new(if self.kind == Kind::Histogram { self.buckets.len() } else { 0 }));
        self.series.rcu(|known| {
            let mut more = BTreeMap::clone(known);
            more.entry(labels.clone()).or_insert_with(|| fresh.clone());
            more
        });
        self.series.load().get(&labels).cloned().unwrap_or(fresh)
    }
}

/// Every metric of every policy.
#[derive(Debug, Default)]
pub struct Tally {
    // Copied when a name is new, so that counting takes no lock.
    metrics: ArcSwap<BTreeMap<String, Arc<Metric>>>,
}

impl Tally {
    /// Adds to a counter, sets a gauge, or observes a value. A name that another policy has as another kind is left alone.
    pub fn record(&self, series: &Series<'_>, kind: Kind, help: &str, buckets: &[f64], value: f64) {
        let metrics = self.metrics.load();
        let Some(metric) = metrics.get(series.name) else {
            self.metrics.rcu(|known| {
                let mut more = BTreeMap::clone(known);
                more.entry(series.name.to_owned()).or_insert_with(|| {
                    let buckets = if buckets.is_empty() { BUCKETS } else { buckets }.to_vec();
                    Arc::new(Metric { kind, help: help.to_owned(), buckets, series: ArcSwap::default() })
                });
                more
            });
            return self.record(series, kind, help, buckets, value);
        };
        if metric.kind != kind {
            return;
        }
        let labels = series.text(None);
        match metric.series.load().get(&labels) {
            Some(cell) => metric.record(cell, value),
            None => metric.record(&metric.grow(series, labels), value),
        }
    }

    /// The lines of the text form, without its end mark.
    pub fn render(&self, out: &mut String) {
        for (name, metric) in self.metrics.load().iter() {
            let name = format!("portcullis_policy_{name}");
            let _ = writeln!(out, "# HELP {name} {}.", metric.help.trim_end_matches('.').replace('\n', " "));
            let _ = writeln!(out, "# TYPE {name} {}", metric.kind.as_str());
            for (labels, cell) in metric.series.load().iter() {
                let (value, all) = (cell.value(), cell.count.load(Relaxed));
                let _ = match metric.kind {
                    Kind::Counter => writeln!(out, "{name}_total{{{labels}}} {value}"),
                    Kind::Gauge => writeln!(out, "{name}{{{labels}}} {value}"),
                    Kind::Histogram => {
                        for (end, count) in metric.buckets.iter().zip(&cell.counts) {
                            let count = count.load(Relaxed);
                            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{end}\"}} {count}");
                        }
                        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {all}");
                        let _ = writeln!(out, "{name}_sum{{{labels}}} {value}");
                        writeln!(out, "{name}_count{{{labels}}} {all}")
                    }
                };
            }
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(tally: &Tally, (name, team): (&str, &str), kind: Kind, help: &str, buckets: &[f64], value: f64) {
        tally.record(&Series { guest: "tiers", name, labels: &[("team", team)] }, kind, help, buckets, value);
    }

    #[test]
    fn metrics_are_written_as_prometheus_reads_them() {
        let tally = Tally::default();
        record(&tally, ("moved", "a\"b"), Kind::Counter, "Requests moved", &[], 2.0);
        record(&tally, ("moved", "a\"b"), Kind::Counter, "", &[], 1.0);
        record(&tally, ("wait", "x"), Kind::Histogram, "Waits", &[1.0, 5.0], 3.0);
        // Another policy's idea of the same name does not spoil it.
        record(&tally, ("moved", "z"), Kind::Gauge, "", &[], 9.0);
        let mut out = String::new();
        tally.render(&mut out);
        assert_eq!(
            out,
            "# HELP portcullis_policy_moved Requests moved.\n# TYPE portcullis_policy_moved counter\n\
             portcullis_policy_moved_total{guest=\"tiers\",team=\"a\\\"b\"} 3\n\
             # HELP portcullis_policy_wait Waits.\n# TYPE portcullis_policy_wait histogram\n\
             portcullis_policy_wait_bucket{guest=\"tiers\",team=\"x\",le=\"1\"} 0\n\
             portcullis_policy_wait_bucket{guest=\"tiers\",team=\"x\",le=\"5\"} 1\n\
             portcullis_policy_wait_bucket{guest=\"tiers\",team=\"x\",le=\"+Inf\"} 1\n\
             portcullis_policy_wait_sum{guest=\"tiers\",team=\"x\"} 3\n\
             portcullis_policy_wait_count{guest=\"tiers\",team=\"x\"} 1\n"
        );
    }

    #[test]
    fn series_have_an_end() {
        let tally = Tally::default();
        for user in 0..500 {
            record(&tally, ("seen", &format!("u{user}")), Kind::Counter, "", &[], 1.0);
        }
        let mut out = String::new();
        tally.render(&mut out);
        assert_eq!(out.lines().filter(|line| line.starts_with("portcullis_policy_seen_total")).count(), 101);
        assert!(out.contains("team=\"other\"} 400"), "{out}");
    }

    #[test]
    fn nothing_is_lost_where_many_count_at_once() {
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for turn in 0..1000 {
                        record(&tally, ("seen", ["a", "b"][turn % 2]), Kind::Counter, "", &[], 1.0);
                    }
                });
            }
        });
        let mut out = String::new();
        tally.render(&mut out);
        assert!(out.contains("team=\"a\"} 2000\n") && out.contains("team=\"b\"} 2000\n"), "{out}");
    }
}
