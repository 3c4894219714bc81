//! The stage of a trial: a gateway built for the scene, its clock held, its chance the same every time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep_until};

use super::client::{self, Wanted};
use super::double::Double;
use super::scene::Scene;
use super::watch::Watch;
use super::{Subject, What, words};
use crate::body::Inbound;
use crate::generation::Builder;
use crate::guest::adapter::Function;
use crate::hook::tick::Ticks;
use crate::host::Phase;
use crate::pipeline::{self, Cx};
use crate::state::health::{End, Record, Wanted as Standing};
use crate::state::log::Log;
use crate::state::{State, guests};

/// Exchanges whose log lines can be looked at.
const RECORDS: usize = 4096;

/// What chance begins with in every test.
const SEED: u64 = 7;

/// The moment at which tests begin that do not say when: a Monday noon.
const BEGIN_UNIX_MS: u64 = 1_767_614_400_000;

/// A gateway for one test file.
pub(super) struct Stage {
    runtime: Runtime,
    /// Ends what hangs; what is done here is done in the test's own time.
    watch: Arc<Watch>,
    subject: Subject,
    room: Room,
    state: Arc<State>,
    double: Arc<Double>,
    /// The scene's configuration and what was built of it.
    built: Option<(Value, Cx)>,
    /// The past of targets as it was last told.
    told: HashMap<String, Value>,
    ticks: Ticks,
    generations: u64,
}

/// A folder for the configuration of a scene; gone with it.
struct Room(PathBuf);

impl Drop for Room {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The real clock, for reports.
#[expect(clippy::disallowed_types, reason = "the runtime's clock is the test's own")]
pub(super) fn real_now() -> std::time::Instant {
    std::time::Instant::now()
}

impl Stage {
    pub fn new(subject: Subject, watch: Arc<Watch>) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let room = std::env::temp_dir().join(format!("portcullis-trial-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&room).map_err(|error| format!("{} cannot be made: {error}", room.display()))?;
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().map_err(|error| error.to_string())?;
        let state = fresh(&runtime);
        Ok(Stage {
            runtime,
            watch,
            subject,
            room: Room(room),
            state,
            double: Arc::default(),
            built: None,
            told: HashMap::new(),
            ticks: Ticks::default(),
            generations: 0,
        })
    }

    /// Does what a test says.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn play(&mut self, word: &str, said: &Value) -> Result<Value, String> {
        match word {
            "reset" => {
                self.state = fresh(&self.runtime);
                self.double.reset();
                self.built = None;
                self.told.clear();
                self.ticks = Ticks::default();
                Ok(Value::Null)
            }
            "now" => {
                let unix_ms = said["unix_ms"].as_u64().ok_or("t.now takes Unix milliseconds")?;
                self.runtime.block_on(async { self.state.set_clock(unix_ms) });
                Ok(Value::Null)
            }
            "advance" => {
                let ms = said["ms"].as_f64().filter(|ms| (0.0..=words::MAX_NUMBER).contains(ms));
                let ms = ms.ok_or("t.advance takes milliseconds, from 0 to 1e12")?;
                self.advance(&said["scene"], Duration::from_secs_f64(ms / 1000.0))
            }
            "chat" => {
                words::chat(&said["ask"])?;
                if said["ask"]["split"] == 0 {
                    return Err("`split` of an ask is the bytes of a piece; write 1 or more".to_owned());
                }
                self.ask(&said["scene"], client::chat(&said["ask"])?, said["ask"]["split"].as_u64())
            }
            "send" => {
                words::send(&said["request"])?;
                self.ask(&said["scene"], client::raw(&said["request"])?, None)
            }
            other => Err(format!("the stage does not know `{other}`")),
        }
    }

    fn ask(&mut self, scene: &Value, wanted: Wanted, split: Option<u64>) -> Result<Value, String> {
        let record = self.record(scene);
        let failures = Failures::of(&record);
        let cx = self.set(scene, split.map(|size| size as usize))?;
        self.tick(&cx)?;
        let warnings = cx.generation.warnings.iter().filter(|warning| warning.starts_with("hooks."));
        let warnings: Vec<String> = warnings.cloned().collect();
        // An adapter's calls are bounded by time alone.
        let used = || if self.subject.what == What::Adapter { 0 } else { record.safepoints() };
        let before = used();
        let Wanted { head, body, dialect } = wanted;
        let mut told = wait(&self.runtime, &self.watch, async {
            let began = Instant::now();
            let response = pipeline::run(cx, head, Inbound::Ready(Some(body))).await;
            let mut told = client::read(response, dialect).await;
            told.insert("duration_ms".to_owned(), json!(began.elapsed().as_secs_f64() * 1000.0));
            // What the end of the exchange has set going (`on_done`) comes to its end too.
            tokio::task::yield_now().await;
            told
        })?;
        told.insert("sent".to_owned(), Value::Array(self.double.take_sent()));
        told.insert("safepoints".to_owned(), json!(used() - before));
        told.insert("warnings".to_owned(), json!(warnings));
        if let Some(error) = failures.since(&record) {
            told.insert("failed".to_owned(), error);
            told.insert("failing".to_owned(), json!(self.subject.what.as_str()));
        }
        self.recorded(&mut told);
        Ok(Value::Object(told))
    }

    /// Sets the scene: its gateway, and how its upstreams answer.
    fn set(&mut self, scene: &Value, split: Option<usize>) -> Result<Cx, String> {
        let cx = self.build(scene)?;
        let config = self.built.as_ref().map(|(config, _)| &config["providers"]);
        let providers = config.and_then(Value::as_object).cloned().unwrap_or_default();
        let dialect = |(name, provider): (String, Value)| Some((name, provider["dialect"].as_str()?.to_owned()));
        let dialects: HashMap<String, String> = providers.into_iter().filter_map(dialect).collect();
        self.double.set(Scene(scene).map("upstreams"), &cx.generation.routes.providers, &dialects, split);
        Ok(cx)
    }

    /// Lets time pass, and the policy have its turns in it once there has been an exchange: before, nothing is loaded.
    fn advance(&mut self, scene: &Value, span: Duration) -> Result<Value, String> {
        let record = self.record(scene);
        let failures = Failures::of(&record);
        let cx = if self.built.is_some() { Some(self.set(scene, None)?) } else { None };
        let ticks = &mut self.ticks;
        // Made inside the runtime: a sleep belongs to the clock under which it is made.
        wait(&self.runtime, &self.watch, async {
            let end = Instant::now() + span;
            loop {
                let next = match &cx {
                    Some(cx) => ticks.step(cx).await,
                    None => None,
                };
                if Instant::now() >= end {
                    return;
                }
                sleep_until(next.map_or(end, |next| next.min(end))).await;
            }
        })?;
        let what = self.subject.what.as_str();
        Ok(failures.since(&record).map_or_else(|| json!({}), |error| json!({ "failed": error, "failing": what })))
    }

    /// The turns that are due, the first of a policy that was loaded just now among them.
    fn tick(&mut self, cx: &Cx) -> Result<(), String> {
        if !cx.generation.hooks.has(Phase::Tick) {
            return Ok(());
        }
        let ticks = &mut self.ticks;
        wait(&self.runtime, &self.watch, async { ticks.step(cx).await }).map(drop)
    }

    /// What the log says of the exchange.
    fn recorded(&self, told: &mut Map<String, Value>) {
        let id = told["headers"]["x-portcullis-id"].as_str().unwrap_or_default().to_owned();
        let Some(record) = self.state.records.find(&id) else { return };
        let name = |try_: &Value| json!(format!("{}/{}", text(&try_["provider"]), text(&try_["model"])));
        let tries: Vec<Value> = record["attempts"].as_array().into_iter().flatten().map(name).collect();
        if let Some(last) = tries.last() {
            told.insert("target".to_owned(), last.clone());
        }
        told.insert("tries".to_owned(), Value::Array(tries));
        if let Some(cost) = record.get("cost_usd") {
            told.insert("cost".to_owned(), cost.clone());
        }
        told.insert("record".to_owned(), record);
    }

    /// The gateway for a scene; the one at hand where nothing changed.
    fn build(&mut self, scene: &Value) -> Result<Cx, String> {
        let catalogue_file = self.room.0.join("catalogue.json");
        let (config, catalogue) = Scene(scene).config(&self.subject, &self.room.0, &catalogue_file);
        let whole = json!({"config": config, "catalogue": catalogue});
        if let Some((known, cx)) = &self.built
            && known["whole"] == whole
        {
            let cx = cx.clone();
            self.set_standings(scene);
            return Ok(cx);
        }
        let put = |path: &PathBuf, value: &Value| {
            std::fs::write(path, value.to_string()).map_err(|error| format!("{}: {error}", path.display()))
        };
        if let Some(catalogue) = &catalogue {
            put(&catalogue_file, catalogue)?;
        }
        // JSON is YAML.
        let file = self.room.0.join("portcullis.yaml");
        put(&file, &config)?;
        self.generations += 1;
        let generation = Builder::new(Some(file), Box::new(|_| None)).build(self.generations);
        let mut generation =
            generation.map_err(|errors| errors.replace(&self.room.0.display().to_string(), "scene"))?;
        Arc::get_mut(&mut generation.hooks).ok_or("the policies are in use")?.stay_on();
        let _runtime = self.runtime.enter();
        generation.activate(&self.state);
        self.set_standings(scene);
        let cx = Cx {
            generation: Arc::new(generation),
            state: self.state.clone(),
            upstream: self.double.clone(),
            peer: None,
        };
        self.built = Some((json!({"whole": whole, "providers": config["providers"]}), cx.clone()));
        Ok(cx)
    }

    /// Gives targets the past that the scene says they have.
    fn set_standings(&mut self, scene: &Value) {
        let now = self.state.now();
        for (name, facts) in Scene(scene).map("targets") {
            if self.told.get(&name) == Some(&facts) {
                continue;
            }
            let record = self.state.health.record(&name);
            match facts["standing"].as_str() {
                Some("drained") => record.want(Standing::Drained),
                Some("open") => record.want(Standing::Open),
                _ => {}
            }
            let count = |name: &str| facts[name].as_u64().unwrap_or(0);
            for _ in 0..count("successes") {
                fly(&record, now, facts["latency_ms"].as_u64().unwrap_or(100), End::Good { output_tokens: Some(50) });
            }
            let failed = End::Failed { kind: crate::fault::Kind::UpstreamError, retry_after: None };
            for _ in 0..count("failures") {
                fly(&record, now, 100, failed);
            }
            self.told.insert(name, facts);
        }
    }

    /// What the guest has used and how often it has failed so far.
    fn record(&self, scene: &Value) -> Arc<guests::Record> {
        let name = &self.subject.name;
        match self.subject.what {
            What::Adapter => self.state.guests.adapter(&format!("lua:{name}"), Function::NAMES),
            What::Script | What::Plugin => self.state.guests.record(scene["hook"]["name"].as_str().unwrap_or(name)),
        }
    }
}

/// Does some work under the test's own clock, until the real time of the test is over.
pub(super) fn wait<T>(runtime: &Runtime, watch: &Watch, work: impl Future<Output = T>) -> Result<T, String> {
    runtime.block_on(async {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = watch.over() => Err(format!(
                "did not end within {:?} of real time; the policy may be waiting for what never comes", watch.span
            )),
        }
    })
}

/// The failures of a guest up to some moment.
struct Failures {
    count: u64,
    last: Option<Arc<String>>,
}

impl Failures {
    fn of(record: &guests::Record) -> Self {
        Failures { count: record.failures(), last: record.last_error.load_full() }
    }

    /// The last one since then. What an adapter says that cannot be is one although its call ended well.
    fn since(&self, record: &guests::Record) -> Option<Value> {
        let Failures { count, last } = Failures::of(record);
        let is_new = match (&self.last, &last) {
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            (old, new) => old.is_some() != new.is_some(),
        };
        last.filter(|_| is_new || count > self.count).map(|error| json!(error.as_str()))
    }
}

/// One attempt of the past.
fn fly(record: &Arc<Record>, now: u64, took: u64, end: End) {
    if let Ok(mut flight) = record.begin(now) {
        flight.first_content(now + took);
        flight.end(now + took, end);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A state that remembers nothing, at the moment where tests begin.
fn fresh(runtime: &Runtime) -> Arc<State> {
    fastrand::seed(SEED);
    runtime.block_on(async {
        let state = State::new(RECORDS, Log::off());
        state.set_clock(BEGIN_UNIX_MS);
        Arc::new(state)
    })
}
