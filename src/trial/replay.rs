//! Recorded exchanges once more, on the real pipeline under another generation: whom would it have asked, what would it
//! have refused, what would that have cost.
//!
//! Asks nobody: every provider answers as the log says it did. The log holds no prompts, so texts are filled in by length.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Runtime;

use super::client;
use super::past::{Double, Past};
use crate::auth::{Keys, Principal};
use crate::body::Inbound;
use crate::fault::{Kind, Side};
use crate::generation::Generation;
use crate::host::{Phase, pick};
use crate::pipeline::{self, Cx};
use crate::state::State;
use crate::state::guests::Outcome as Called;
use crate::state::log::Log;

/// An exchange as a line of the access log has it, as far as it is played again.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Recorded {
    pub time: String,
    pub id: String,
    pub key: Option<String>,
    pub project: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub dialect: String,
    pub operation: String,
    pub model: String,
    /// The model as the caller named it, where a policy made another of it.
    pub asked_model: Option<String>,
    pub stream: bool,
    pub status: u16,
    pub error: Option<Wrong>,
    pub ttft_ms: Option<f64>,
    pub duration_ms: f64,
    pub usage: Option<Tokens>,
    pub cost_usd: Option<f64>,
    pub bytes_in: u64,
    pub attempts: Vec<Tried>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Wrong {
    pub code: String,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Tokens {
    pub input: u64,
    pub output: u64,
    /// Parts of `input` that have a price of their own.
    pub cache_read: Option<u64>,
    pub cache_write: Option<u64>,
}

/// One try of the log.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Tried {
    pub provider: String,
    pub model: String,
    pub took_ms: f64,
    pub status: Option<u16>,
    pub error: Option<String>,
    pub message: Option<String>,
    pub cancelled: bool,
}

impl Tried {
    fn kind(&self) -> Option<Kind> {
        self.error.as_deref().and_then(Kind::from_code)
    }

    /// Whether it says how the target does: not where it was given up, nor where a limit of this gateway kept it from being
    /// asked.
    pub fn tells(&self) -> bool {
        let is_ours = self.kind().is_some_and(|kind| kind.row().side == Side::Gateway && !is_late(kind));
        !self.cancelled && !is_ours
    }

    /// The code of the target's failure. What a policy made of an answer is what is played again.
    pub fn failure(&self) -> Option<&str> {
        let is_guests = self.kind().is_some_and(|kind| kind.row().side == Side::Guest);
        self.error.as_deref().filter(|_| !is_guests)
    }

    pub fn target(&self) -> String {
        format!("{}/{}", self.provider, self.model)
    }
}

impl Recorded {
    /// A line of the log; None when it is none, or of an exchange that asked no model.
    pub fn read(line: &str) -> Option<Recorded> {
        let recorded: Recorded = serde_json::from_str(line).ok()?;
        let asks = matches!(recorded.operation.as_str(), "chat" | "text_completion" | "embeddings");
        // Whoever was not let in asked for nothing, and what would have come of one who left before that is not known.
        let is_known = recorded.key.is_some() && (!recorded.was_left() || recorded.ttft_ms.is_some());
        (asks && !recorded.model.is_empty() && is_known && recorded.unix_ms().is_some()).then_some(recorded)
    }

    fn kind(&self) -> Option<Kind> {
        self.error.as_ref().and_then(|error| Kind::from_code(&error.code))
    }

    /// It ended with its client, or with the process, and not by what was decided.
    fn was_left(&self) -> bool {
        matches!(self.kind(), Some(Kind::ClientGone | Kind::ClientTooSlow | Kind::Draining))
    }

    /// Its stream had begun, and then the target failed.
    pub fn broke(&self) -> bool {
        self.stream && self.kind().is_some_and(|kind| kind.row().side == Side::Upstream || is_late(kind))
    }

    /// The try that answered.
    fn good(&self) -> Option<&Tried> {
        self.attempts.iter().rfind(|tried| !tried.cancelled && tried.error.is_none())
    }

    /// When it began, in Unix milliseconds.
    pub fn unix_ms(&self) -> Option<u64> {
        let at = humantime::parse_rfc3339(&self.time).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        u64::try_from(at.as_millis()).ok()
    }

    /// What became of it.
    pub fn outcome(&self) -> Outcome {
        let tries: Vec<String> = self.attempts.iter().map(Tried::target).collect();
        let left = self.was_left();
        Outcome {
            target: self.good().map(Tried::target).or_else(|| tries.last().cloned()),
            tries,
            // Who is asked once more does not leave.
            status: if left { 200 } else { self.status },
            code: self.error.as_ref().filter(|_| !left).map(|error| error.code.clone()),
            cost_usd: self.cost_usd,
            duration_ms: self.duration_ms,
            guessed: false,
        }
    }

    fn caller(&self) -> Caller {
        (self.key.clone().unwrap_or_default(), self.project.clone(), self.metadata.clone())
    }

    /// The request as it may have been: its texts are as long as they were.
    fn request(&self, credential: &str) -> Result<client::Wanted, String> {
        let model = self.asked_model.as_ref().unwrap_or(&self.model);
        let text = "word ".repeat((self.bytes_in / 5).clamp(1, MAX_TEXT_WORDS) as usize);
        let headers = json!({ AUTHORIZATION.as_str(): format!("Bearer {credential}") });
        match self.operation.as_str() {
            "chat" => client::chat(&json!({
                "dialect": self.dialect, "model": model, "stream": self.stream, "text": text, "headers": headers,
            })),
            "embeddings" => client::raw(&json!({
                "path": "/v1/embeddings", "headers": headers, "body": { "model": model, "input": text },
            })),
            _ => client::raw(&json!({
                "path": "/v1/completions", "headers": headers,
                "body": { "model": model, "prompt": text, "stream": self.stream },
            })),
        }
    }
}

/// Whether the time of an exchange was over.
fn is_late(kind: Kind) -> bool {
    kind == Kind::TotalTimeout
}

/// Words of five bytes that a prompt is filled in with at most: a megabyte.
const MAX_TEXT_WORDS: u64 = 200_000;

/// Key, project and labels.
type Caller = (String, Option<String>, BTreeMap<String, String>);

/// What became of an exchange.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Outcome {
    /// Who answered, or failed last.
    pub target: Option<String>,
    pub tries: Vec<String>,
    pub status: u16,
    pub code: Option<String>,
    pub cost_usd: Option<f64>,
    pub duration_ms: f64,
    /// A target was asked of which the log knows nothing, so that it answered, in the time of others.
    pub guessed: bool,
}

impl Outcome {
    /// Refused before anybody was asked.
    pub fn is_refused(&self) -> bool {
        self.status >= 400 && self.tries.is_empty()
    }

    /// Whether it went where the other did: what it failed of there is no other way.
    pub fn went_as(&self, other: &Outcome) -> bool {
        let failed = |outcome: &Outcome| outcome.status >= 400 && !outcome.is_refused();
        self.place() == other.place() || self.target == other.target && failed(self) && failed(other)
    }

    /// Where it went, in a word.
    pub fn place(&self) -> String {
        match (&self.target, &self.code) {
            (_, Some(code)) if self.is_refused() => format!("refused ({code})"),
            (Some(target), Some(code)) => format!("{target} failed ({code})"),
            (Some(target), None) => target.clone(),
            (None, _) => "answered by the gateway".to_owned(),
        }
    }
}

/// How often a policy failed in a replay.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Failures {
    pub policy: String,
    pub phase: &'static str,
    pub count: u64,
    pub last_error: Option<String>,
}

/// A generation under which recorded exchanges are played.
pub struct Player {
    runtime: Runtime,
    state: Arc<State>,
    double: Arc<Double>,
    cx: Cx,
    credentials: HashMap<Caller, String>,
    /// A policy would say who is calling.
    named: bool,
}

impl Player {
    /// `known` gives what a key of this name may do, where the configuration knows it.
    ///
    /// # Errors
    /// No runtime can be made.
    pub fn new(
        mut generation: Generation,
        log: &[Recorded],
        known: &dyn Fn(&str) -> Option<Principal>,
    ) -> Result<Player, String> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().map_err(|error| error.to_string())?;
        let state = runtime.block_on(async { Arc::new(State::new(1024, Log::off())) });
        let began_ms = log.iter().filter_map(Recorded::unix_ms).min().unwrap_or(0);
        let mut keys = Keys::new(Some(b"replay"), vec![AUTHORIZATION]);
        let mut credentials = HashMap::new();
        for recorded in log {
            let caller = recorded.caller();
            if credentials.contains_key(&caller) {
                continue;
            }
            let (key, project, metadata) = caller.clone();
            let credential = format!("replay-{}", credentials.len());
            let may = known(&key).unwrap_or_default();
            keys.add(&credential, Principal { key, project, metadata, expires: None, trace: false, ..may })?;
            credentials.insert(caller, credential);
        }
        generation.keys = keys;
        // Who called is in the log; what they showed to say so is not.
        let named = generation.hooks.has(Phase::Auth);
        Arc::get_mut(&mut generation.hooks).ok_or("the policies are in use")?.leave_out(Phase::Auth);
        let double = Arc::new(Double::new(&generation.routes.providers, log));
        let cx = {
            let _inside = runtime.enter();
            state.set_clock(began_ms);
            generation.activate(&state);
            Cx { generation: Arc::new(generation), state: state.clone(), upstream: double.clone(), peer: None }
        };
        Ok(Player { runtime, state, double, cx, credentials, named })
    }

    /// Plays one exchange. They come in the order in which they began.
    ///
    /// # Errors
    /// It cannot be asked again.
    pub fn play(&mut self, recorded: &Recorded) -> Result<Outcome, String> {
        let credential = self.credentials.get(&recorded.caller()).map(String::as_str).unwrap_or_default();
        let client::Wanted { head, body, dialect } = recorded.request(credential)?;
        self.double.set(Past::of(recorded));
        let at = recorded.unix_ms().unwrap_or_default();
        let (cx, state) = (self.cx.clone(), self.state.clone());
        // What goes by chance or by the id, as a hook's share does, goes as it went, and alike under every version.
        fastrand::seed(pick::point(recorded.id.as_bytes()).to_bits());
        let id = Some(recorded.id.clone()).filter(|id| state.records.is_id(id));
        let told = self.runtime.block_on(async {
            // As much time passes as had passed; what is waited in an exchange passes as well.
            let gap = at.saturating_sub(state.unix_ms()).min(MAX_GAP_MS);
            tokio::time::advance(Duration::from_millis(gap)).await;
            state.set_clock(at);
            let response = pipeline::run_as(cx, head, Inbound::Ready(Some(body)), id).await;
            let told = client::read(response, dialect).await;
            tokio::task::yield_now().await;
            told
        });
        let id = told["headers"]["x-portcullis-id"].as_str().unwrap_or_default();
        let record = self.state.records.find(id).ok_or("it left no record")?;
        let again: Recorded = serde_json::from_value(record).map_err(|error| error.to_string())?;
        Ok(Outcome { guessed: self.double.guessed(), ..again.outcome() })
    }

    /// Whether a policy has `on_auth`, which is left out.
    pub fn leaves_auth_out(&self) -> bool {
        self.named
    }

    /// Which policies failed, and how often.
    pub fn failures(&self) -> Vec<Failures> {
        let mut failures = Vec::new();
        for hook in self.cx.generation.hooks.all() {
            let record = self.state.guests.record(&hook.guest.name);
            for phase in hook.phases().iter() {
                let counts = record.phase(phase as usize);
                let count = counts.count(Called::Error) + counts.count(Called::Killed) + counts.count(Called::Off);
                if count > 0 {
                    let last_error = record.last_error.load().as_deref().cloned();
                    failures.push(Failures {
                        policy: hook.guest.name.to_string(),
                        phase: phase.name(),
                        count,
                        last_error,
                    });
                }
            }
        }
        failures
    }
}

/// Longest pause between two exchanges that passes for the health of targets: beyond it everything is forgotten anyway.
const MAX_GAP_MS: u64 = 24 * 3600 * 1000;
