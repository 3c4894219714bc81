//! Providers that answer as a log says they did: the targets of the present exchange as they answered it, others as they
//! usually do, and as often not as they usually fail. They speak built-in wire forms: the log does not say what adapters read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::double::{Asking, Scripted};
use super::replay::{Recorded, Tokens, Tried};
use crate::dialect::Dialect;
use crate::fault::{Fault, Kind};
use crate::host::pick;
use crate::route::Provider;
use crate::upstream::{Dial, Outbound, Sending, Upstream};

/// Bytes of an answer's text at most; its tokens are stated, whatever its length.
const MAX_TEXT_BYTES: u64 = 4096;

/// What the providers did in one exchange.
#[derive(Default)]
pub(super) struct Past {
    id: String,
    /// Each target's acts, in order; the last repeats.
    acts: HashMap<String, Vec<Value>>,
    played: HashMap<String, usize>,
    usage: Tokens,
    guessed: bool,
}

impl Past {
    pub fn of(recorded: &Recorded) -> Past {
        let usage = recorded.usage.unwrap_or(Tokens { input: recorded.bytes_in / 4, output: 1, ..Tokens::default() });
        let mut acts: HashMap<String, Vec<Value>> = HashMap::new();
        let broke = recorded.broke();
        for tried in recorded.attempts.iter().filter(|tried| tried.tells()) {
            let first_ms = first_ms(recorded, tried.took_ms);
            let act = match tried.failure() {
                None if broke && tried.error.is_none() => broken(answer(usage, first_ms, recorded.duration_ms)),
                None => answer(usage, first_ms, recorded.duration_ms),
                Some(code) => failure(code, tried.status, tried.message.as_deref(), tried.took_ms),
            };
            acts.entry(tried.target()).or_default().push(act);
        }
        Past { id: recorded.id.clone(), acts, played: HashMap::new(), usage, guessed: false }
    }

    fn next(&mut self, target: &str, known: Option<&Known>, any: Usual) -> Value {
        let played = self.played.entry(target.to_owned()).or_default();
        *played += 1;
        if let Some(acts) = self.acts.get(target)
            && let Some(act) = acts.get(*played - 1).or(acts.last())
        {
            return act.clone();
        }
        // Drawn alike under every version that asks this target in this exchange.
        let point = pick::point(format!("{} {target} {played}", self.id).as_bytes());
        if let Some(failure) = known.and_then(|known| known.fails(point)) {
            return failure.clone();
        }
        self.guessed |= known.is_none();
        let usual = known.map_or(any, |known| known.usual);
        answer(self.usage, usual.first_ms, usual.duration_ms)
    }
}

fn first_ms(recorded: &Recorded, took_ms: f64) -> f64 {
    recorded.ttft_ms.unwrap_or(took_ms).min(took_ms.max(1.0))
}

fn answer(usage: Tokens, first_ms: f64, duration_ms: f64) -> Value {
    let text = "word ".repeat((usage.output * 4).min(MAX_TEXT_BYTES) as usize / 5 + 1);
    // Streams have about five frames besides the text's one.
    let gap = ((duration_ms - first_ms) / 5.0).max(0.0);
    json!({
        "pieces": [text], "input_tokens": usage.input, "output_tokens": usage.output,
        "cache_read_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write,
        "first_ms": first_ms, "gap_ms": gap, "whole_ms": duration_ms,
    })
}

/// The same, broken off before its end.
fn broken(mut answer: Value) -> Value {
    answer["cut"] = true.into();
    answer
}

/// A failure: what the provider said, or where it said nothing, what the gateway made of that. The rules for trying again
/// tell one from the other.
fn failure(code: &str, status: Option<u16>, message: Option<&str>, took_ms: f64) -> Value {
    let message = message.unwrap_or("The provider failed as it did then.");
    match status {
        Some(400..) => {
            json!({ "fails": true, "code": code, "status": status, "message": message, "after_ms": took_ms })
        }
        _ => json!({ "faults": code, "message": message, "after_ms": took_ms }),
    }
}

/// What a target usually takes.
#[derive(Debug, Clone, Copy, Default)]
struct Usual {
    first_ms: f64,
    duration_ms: f64,
}

/// What the log knows of a target.
#[derive(Debug, Default)]
struct Known {
    answers: usize,
    /// Its own failures; those of a request say nothing of others.
    failures: usize,
    /// How it failed last, by a request's doing only where it never did by itself.
    failure: Option<Value>,
    usual: Usual,
}

impl Known {
    fn failed(&mut self, code: &str, tried: &Tried) {
        let of_request = matches!(tried.status, Some(400 | 413 | 422));
        if !of_request || self.failures == 0 {
            self.failure = Some(failure(code, tried.status, tried.message.as_deref(), tried.took_ms));
        }
        self.failures += usize::from(!of_request);
    }

    /// How it fails at a point from 0 to 1; None where it answers there. Who never answered does not.
    fn fails(&self, point: f64) -> Option<&Value> {
        let fails = self.answers == 0 || point * ((self.answers + self.failures) as f64) < self.failures as f64;
        self.failure.as_ref().filter(|_| fails)
    }
}

/// Every provider of a generation, as the log knows them.
pub(super) struct Double {
    /// Whose connection is meant by a dial, and in which dialect it speaks.
    dials: Vec<(Arc<Dial>, String, &'static dyn Dialect)>,
    known: HashMap<String, Known>,
    any: Usual,
    past: Mutex<Past>,
}

impl Double {
    pub fn new(providers: &[Arc<Provider>], log: &[Recorded]) -> Self {
        let faces = providers.iter().flat_map(|provider| {
            provider.faces.iter().map(|face| (face.dial.clone(), provider.name.clone(), face.dialect))
        });
        let mut known: HashMap<String, Known> = HashMap::new();
        let mut times: HashMap<String, (Vec<f64>, Vec<f64>)> = HashMap::new();
        let mut all = (Vec::new(), Vec::new());
        for recorded in log {
            for tried in recorded.attempts.iter().filter(|tried| tried.tells()) {
                let known = known.entry(tried.target()).or_default();
                match tried.failure() {
                    None => known.answers += 1,
                    Some(code) => known.failed(code, tried),
                }
            }
            let good = recorded.attempts.iter().rfind(|tried| tried.error.is_none() && !tried.cancelled);
            if let Some(tried) = good {
                let own = times.entry(tried.target()).or_default();
                for list in [own, &mut all] {
                    list.0.push(first_ms(recorded, tried.took_ms));
                    list.1.push(recorded.duration_ms);
                }
            }
        }
        let usual = |(mut first, mut whole): (Vec<f64>, Vec<f64>)| Usual {
            first_ms: median(&mut first),
            duration_ms: median(&mut whole),
        };
        for (target, times) in times {
            known.entry(target).or_default().usual = usual(times);
        }
        Double { dials: faces.collect(), any: usual(all), known, past: Mutex::default() }
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, past: Past) {
        *self.past() = past;
    }

    /// Whether a target was asked of which the log knows nothing.
    pub fn guessed(&self) -> bool {
        self.past().guessed
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl Upstream for Double {
    fn send<'a>(&'a self, dial: &'a Arc<Dial>, request: Box<Outbound>, head_timeout: Duration) -> Sending<'a> {
        // What a policy asks by itself (`gw.http`) goes to no target, and is not in the log.
        let Some((_, provider, dialect)) = self.dials.iter().find(|(other, ..)| Arc::ptr_eq(other, dial)) else {
            let source =
                Some("nobody outside is asked in a replay, and the log does not hold what hosts answered".to_owned());
            let fault = Fault::new(Kind::UpstreamUnreachable, "The log does not say what this host answered.");
            return Box::pin(async move { Err(Fault { source, ..fault }) });
        };
        // The log has the usage, also of providers that are not asked for it.
        let mut asking = Asking::read(&request);
        asking.usage = true;
        let target = format!("{provider}/{}", asking.model);
        let mut act = self.past().next(&target, self.known.get(&target), self.any);
        if !asking.stream && act.get("whole_ms").is_some() {
            act["after_ms"] = act["whole_ms"].take();
        }
        Scripted::new(act, *dialect, asking, None).send(head_timeout)
    }

    fn connects(&self) -> bool {
        false
    }
}
