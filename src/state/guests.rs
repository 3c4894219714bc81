//! What guests cost and how often they fail: by policy and phase, by adapter and function, for the metrics, the admin API
//! and people.
//!
//! Keyed by the name of hook or dialect, so a reload changes nothing here. Counts only; what follows from a failure is the
//! stage's.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::handles::Handles;

/// Ends of the buckets of time, in nanoseconds.
const BUCKETS: [u64; 10] = [1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 1_000_000, 5_000_000, 25_000_000];

/// Every guest that was ever attached.
#[derive(Debug, Default)]
pub struct Guests {
    records: Handles<String, Arc<Record>>,
}

/// One guest's counts.
#[derive(Debug)]
pub struct Record {
    pub name: String,
    /// What an adapter's counts are told apart by; a policy's are by phase, whose names are the reader's.
    functions: Option<&'static [&'static str]>,
    phases: [Counts; PHASES],
    /// Bytes of its machines, the largest seen of each kept by the engine.
    pub memory: AtomicU64,
    /// Machines that were replaced because they could not be trusted any more.
    pub replaced: AtomicU64,
    /// Times it was switched off for failing too often.
    pub switched_off: AtomicU64,
    /// The newest failure.
    pub last_error: ArcSwapOption<String>,
}

/// Room for every phase, and every function of an adapter.
pub const PHASES: usize = 10;

/// Counts of one guest in one phase or function.
#[derive(Debug, Default)]
pub struct Counts {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS.len()],
    safepoints: AtomicU64,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It said nothing.
    Pass,
    /// It decided something.
    Acted,
    /// It decided something, in shadow.
    Shadow,
    Error,
    Killed,
    /// It was switched off and not called.
    Off,
    /// An adapter did what it was asked to, or said in its own words why not.
    Good,
}

impl Outcome {
    pub const ALL: [Outcome; 7] =
        [Outcome::Pass, Outcome::Acted, Outcome::Shadow, Outcome::Error, Outcome::Killed, Outcome::Off, Outcome::Good];

    /// Those of policies, and those of adapters.
    pub const POLICY: [Outcome; 6] =
        [Outcome::Pass, Outcome::Acted, Outcome::Shadow, Outcome::Error, Outcome::Killed, Outcome::Off];
    pub const ADAPTER: [Outcome; 3] = [Outcome::Good, Outcome::Error, Outcome::Killed];

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Pass => "pass",
            Outcome::Acted => "acted",
            Outcome::Shadow => "shadow",
            Outcome::Error => "error",
            Outcome::Killed => "killed",
            Outcome::Off => "off",
            Outcome::Good => "good",
        }
    }
}

impl Guests {
    /// The record of a policy.
    pub fn record(&self, name: &str) -> Arc<Record> {
        self.kept(name, None)
    }

    /// The record of an adapter, whose counts are those of these functions.
    pub fn adapter(&self, name: &str, functions: &'static [&'static str]) -> Arc<Record> {
        self.kept(name, Some(functions))
    }

    fn kept(&self, name: &str, functions: Option<&'static [&'static str]>) -> Arc<Record> {
        let known = self.records.get(name);
        known.unwrap_or_else(|| self.records.put(name.to_owned(), Arc::new(Record::new(name, functions))))
    }

    fn all(&self) -> Vec<Arc<Record>> {
        let mut all: Vec<_> = self.records.all().into_iter().map(|(_, record)| record).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The lines of the text form, without its end mark.
    pub fn render(&self, phases: &[&str], out: &mut String) {
        let all = self.all();
        if all.is_empty() {
            return;
        }
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            let _ = write!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}\n");
        };
        head(out, "portcullis_guest_calls", "counter", "Calls of guests by how they ended");
        each(&all, phases, |guest, phase, counts| {
            for outcome in Outcome::ALL {
                let count = counts.count(outcome);
                if count > 0 {
                    let outcome = outcome.as_str();
                    let _ = writeln!(
                        out,
                        "portcullis_guest_calls_total{{guest=\"{guest}\",phase=\"{phase}\",outcome=\"{outcome}\"}} {count}"
                    );
                }
            }
        });
        head(out, "portcullis_guest_seconds", "histogram", "Time that guests ran");
        each(&all, phases, |guest, phase, counts| counts.histogram(guest, phase, out));
        head(out, "portcullis_guest_safepoints", "counter", "Loop turns and calls of guests");
        each(&all, phases, |guest, phase, counts| {
            let safepoints = counts.safepoints.load(Relaxed);
            let _ =
                writeln!(out, "portcullis_guest_safepoints_total{{guest=\"{guest}\",phase=\"{phase}\"}} {safepoints}");
        });
        for (name, kind, help, value) in [
            (
                "memory_bytes",
                "gauge",
                "Memory of guests' machines",
                (|record| &record.memory) as fn(&Record) -> &AtomicU64,
            ),
            ("replaced", "counter", "Machines of guests that were replaced", |record| &record.replaced),
            ("switched_off", "counter", "Times that policies were switched off", |record| &record.switched_off),
        ] {
            head(out, &format!("portcullis_guest_{name}"), kind, help);
            let end = if kind == "counter" { "_total" } else { "" };
            for record in &all {
                let value = value(record).load(Relaxed);
                let _ = writeln!(out, "portcullis_guest_{name}{end}{{guest=\"{}\"}} {value}", record.name);
            }
        }
    }
}

fn each(all: &[Arc<Record>], phases: &[&str], mut write: impl FnMut(&str, &str, &Counts)) {
    for record in all {
        for (phase, counts) in record.functions.unwrap_or(phases).iter().zip(&record.phases) {
            if counts.calls() > 0 {
                write(&record.name, phase, counts);
            }
        }
    }
}

impl Record {
    /// Safepoints of every phase.
    pub fn safepoints(&self) -> u64 {
        self.phases.iter().map(Counts::safepoints).sum()
    }

    /// Calls that came to nothing, in every phase: errors, budgets, and verdicts that could not be done.
    pub fn failures(&self) -> u64 {
        self.phases.iter().map(|counts| counts.count(Outcome::Error) + counts.count(Outcome::Killed)).sum()
    }

    fn new(name: &str, functions: Option<&'static [&'static str]>) -> Self {
        Record {
            name: name.to_owned(),
            functions,
            phases: Default::default(),
            memory: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            switched_off: AtomicU64::new(0),
            last_error: ArcSwapOption::empty(),
        }
    }

    /// The counts of the phase at this place.
    pub fn phase(&self, at: usize) -> &Counts {
        &self.phases[at.min(PHASES - 1)]
    }
}

impl Counts {
    /// A call ended.
    pub fn add(&self, outcome: Outcome, took: Duration, safepoints: u64) {
        let nanos = took.as_nanos() as u64;
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
        self.safepoints.fetch_add(safepoints, Relaxed);
        if let Some(bucket) = BUCKETS.iter().position(|end| nanos <= *end) {
            self.buckets[bucket].fetch_add(1, Relaxed);
        }
    }

    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Relaxed)
    }

    pub fn calls(&self) -> u64 {
        Outcome::ALL.into_iter().map(|outcome| self.count(outcome)).sum()
    }

    /// Time of all calls.
    pub fn took(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Relaxed))
    }

    pub fn safepoints(&self) -> u64 {
        self.safepoints.load(Relaxed)
    }

    /// Ends of the buckets of time in microseconds, and how many calls were in each.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        BUCKETS.iter().zip(&self.buckets).map(|(end, count)| (*end as f64 / 1000.0, count.load(Relaxed)))
    }

    fn histogram(&self, guest: &str, phase: &str, out: &mut String) {
        let labels = format!("guest=\"{guest}\",phase=\"{phase}\"");
        let mut sum = 0;
        for (end, count) in BUCKETS.iter().zip(&self.buckets) {
            sum += count.load(Relaxed);
            let end = *end as f64 / 1e9;
            let _ = writeln!(out, "portcullis_guest_seconds_bucket{{{labels},le=\"{end}\"}} {sum}");
        }
        let (count, seconds) = (self.calls(), self.took().as_secs_f64());
        let _ = writeln!(out, "portcullis_guest_seconds_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "portcullis_guest_seconds_sum{{{labels}}} {seconds}");
        let _ = writeln!(out, "portcullis_guest_seconds_count{{{labels}}} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_by_policy_and_phase() {
        let guests = Guests::default();
        let record = guests.record("tiers");
        record.phase(3).add(Outcome::Acted, Duration::from_micros(2), 7);
        guests.record("tiers").phase(3).add(Outcome::Killed, Duration::from_secs(1), 1000);
        let mut out = String::new();
        guests.render(&["init", "auth", "request", "route"], &mut out);
        for line in [
            "portcullis_guest_calls_total{guest=\"tiers\",phase=\"route\",outcome=\"acted\"} 1",
            "portcullis_guest_calls_total{guest=\"tiers\",phase=\"route\",outcome=\"killed\"} 1",
            "portcullis_guest_seconds_bucket{guest=\"tiers\",phase=\"route\",le=\"0.0000025\"} 1",
            "portcullis_guest_seconds_bucket{guest=\"tiers\",phase=\"route\",le=\"+Inf\"} 2",
            "portcullis_guest_safepoints_total{guest=\"tiers\",phase=\"route\"} 1007",
            "portcullis_guest_memory_bytes{guest=\"tiers\"} 0",
        ] {
            assert!(out.lines().any(|written| written == line), "{line}\n{out}");
        }
        assert!(!out.contains("phase=\"auth\""));
    }

    #[test]
    fn an_adapters_counts_are_told_apart_by_its_functions() {
        let guests = Guests::default();
        let functions: &[&str] = &["start", "encode"];
        guests.adapter("lua:acme", functions).phase(1).add(Outcome::Good, Duration::from_micros(2), 7);
        let mut out = String::new();
        guests.render(&["init", "auth"], &mut out);
        let line = "portcullis_guest_calls_total{guest=\"lua:acme\",phase=\"encode\",outcome=\"good\"} 1";
        assert!(out.lines().any(|written| written == line), "{out}");
    }
}
