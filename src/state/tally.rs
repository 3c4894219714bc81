//! Metrics that policies declare: counters, gauges and histograms by name and labels, beside the process's own.
//!
//! Bounded: past [`MAX_SERIES`] of one metric, further labels count as `other`. Outlives a reload, so counters go on.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// The policy.
    pub guest: Arc<str>,
    pub name: String,
    /// In the order of the declaration.
    pub labels: Vec<(String, String)>,
}

#[derive(Debug)]
struct Metric {
    kind: Kind,
    help: String,
    buckets: Vec<f64>,
    /// By policy and values of labels.
    series: BTreeMap<Vec<(String, String)>, Cell>,
}

#[derive(Debug, Default, Clone)]
struct Cell {
    value: f64,
    counts: Vec<u64>,
    count: u64,
}

/// Every metric of every policy.
#[derive(Debug, Default)]
pub struct Tally {
    // A guest's own counting is rare beside requests, and the lock is held for a look-up.
    metrics: Mutex<BTreeMap<String, Metric>>,
}

impl Tally {
    /// Adds to a counter, sets a gauge, or observes a value. A name that another policy has as another kind is left alone.
    pub fn record(&self, series: Series, kind: Kind, help: &str, buckets: &[f64], value: f64) {
        let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        let metric = metrics.entry(series.name).or_insert_with(|| Metric {
            kind,
            help: help.to_owned(),
            buckets: if buckets.is_empty() { BUCKETS.to_vec() } else { buckets.to_vec() },
            series: BTreeMap::new(),
        });
        if metric.kind != kind {
            return;
        }
        let mut labels = vec![("guest".to_owned(), series.guest.to_string())];
        labels.extend(series.labels);
        if !metric.series.contains_key(&labels) && metric.series.len() >= MAX_SERIES {
            labels[1..].iter_mut().for_each(|(_, value)| "other".clone_into(value));
        }
        let cell = metric.series.entry(labels).or_default();
        match kind {
            Kind::Counter => cell.value += value,
            Kind::Gauge => cell.value = value,
            Kind::Histogram => {
                cell.counts.resize(metric.buckets.len(), 0);
                let reached = metric.buckets.iter().zip(&mut cell.counts).filter(|(end, _)| value <= **end);
                reached.for_each(|(_, count)| *count += 1);
                cell.value += value;
                cell.count += 1;
            }
        }
    }

    /// The lines of the text form, without its end mark.
    pub fn render(&self, out: &mut String) {
        let metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, metric) in metrics.iter() {
            let name = format!("portcullis_policy_{name}");
            let _ = writeln!(out, "# HELP {name} {}.", metric.help.trim_end_matches('.').replace('\n', " "));
            let _ = writeln!(out, "# TYPE {name} {}", metric.kind.as_str());
            for (labels, cell) in &metric.series {
                let labels = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value)));
                let labels = labels.collect::<Vec<_>>().join(",");
                let _ = match metric.kind {
                    Kind::Counter => writeln!(out, "{name}_total{{{labels}}} {}", cell.value),
                    Kind::Gauge => writeln!(out, "{name}{{{labels}}} {}", cell.value),
                    Kind::Histogram => {
                        for (end, count) in metric.buckets.iter().zip(&cell.counts) {
                            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{end}\"}} {count}");
                        }
                        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", cell.count);
                        let _ = writeln!(out, "{name}_sum{{{labels}}} {}", cell.value);
                        writeln!(out, "{name}_count{{{labels}}} {}", cell.count)
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

    fn series(name: &str, team: &str) -> Series {
        Series { guest: "tiers".into(), name: name.into(), labels: vec![("team".into(), team.into())] }
    }

    #[test]
    fn metrics_are_written_as_prometheus_reads_them() {
        let tally = Tally::default();
        tally.record(series("moved", "a\"b"), Kind::Counter, "Requests moved", &[], 2.0);
        tally.record(series("moved", "a\"b"), Kind::Counter, "", &[], 1.0);
        tally.record(series("wait", "x"), Kind::Histogram, "Waits", &[1.0, 5.0], 3.0);
        // Another policy's idea of the same name does not spoil it.
        tally.record(series("moved", "z"), Kind::Gauge, "", &[], 9.0);
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
            tally.record(series("seen", &format!("u{user}")), Kind::Counter, "", &[], 1.0);
        }
        let mut out = String::new();
        tally.render(&mut out);
        assert_eq!(out.lines().filter(|line| line.starts_with("portcullis_policy_seen_total")).count(), 101);
        assert!(out.contains("team=\"other\"} 400"), "{out}");
    }
}
