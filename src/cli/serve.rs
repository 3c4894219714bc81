//! `portcullis serve`: the gateway, from the first line on the terminal to the drained exit.

use std::io::{self, IsTerminal};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::welcome::Welcome;
use super::{REFUSED, config_path, diagnostics, env, fail};
use crate::admin::{self, Admin};
use crate::alert;
use crate::config::{Away, Config, Stdout};
use crate::generation::{Builder, Generation};
use crate::hook;
use crate::mock;
use crate::pipeline::unix_ms;
use crate::probe;
use crate::reload::Reloader;
use crate::server::{self, Shared, Stage};
use crate::state::State;
use crate::state::cache;
use crate::state::kv;
use crate::state::limit::{self, shared::Policy};
use crate::state::log::text::Text;
use crate::state::log::{BATCH_BYTES, Log, LogFile, Sink, Writer};
use crate::state::redis::Link;
use crate::state::store::Store;
use crate::trial::smoke::Smoke;
use crate::upstream::{Pools, Proxies, Upstream};

/// How long the access log may take to be written out when the process ends.
const LOG_FLUSH: std::time::Duration = std::time::Duration::from_secs(2);

/// How long the workers may take to let go of what they cut.
const WORKERS_END: std::time::Duration = std::time::Duration::from_secs(2);

#[derive(clap::Args)]
pub(super) struct Args {
    /// The configuration; `config/portcullis.yaml` when it exists, else what is built in.
    #[arg(long, short, env = "PORTCULLIS_CONFIG")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> ExitCode {
    let builder = Builder::new(config_path(args.config), Box::new(env));
    let config = match builder.load() {
        Ok(loaded) => loaded.config,
        Err(errors) => return fail(REFUSED, &errors),
    };
    diagnostics(config.log.level.as_str());
    let generation = match builder.build(1) {
        Ok(generation) => generation,
        Err(errors) => return fail(REFUSED, &errors),
    };
    let smoke = Smoke::default();
    if let Err(errors) = super::smoke(&smoke, &generation) {
        return fail(REFUSED, &errors);
    }
    match start(&config, builder, smoke, generation) {
        Ok(status) => status,
        Err(error) => fail(1, &format!("portcullis: {error}")),
    }
}

/// Everything that runs until the process ends.
fn start(config: &Config, builder: Builder, smoke: Smoke, generation: Generation) -> io::Result<ExitCode> {
    // Bound before anything is started: a taken port is the commonest failure, and it should be the only line.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Asked for before anybody can know that we run: an early signal must not end the process in the system's own way.
    let signals = {
        let _context = runtime.enter();
        Signals::new()?
    };
    let listen = address(&config.listen.address)?;
    let listener = server::bind(listen)?;
    let builder = builder.serving(listener.local_addr()?, config.clone());
    let admin_listener = match config.admin.is_off() {
        true => None,
        false => Some(server::bind(address(&config.admin.address)?)?),
    };
    let (log, writer) = access_log(config)?;
    let state = Arc::new(State::new(config.records.keep, log));
    let ledger = keep(config, &builder, &generation, &state)?;
    generation.activate(&state);
    state.reloaded(Ok(generation.number));
    for warning in &generation.warnings {
        tracing::warn!("{warning}");
    }
    let greeting = greeting(config, &generation, listener.local_addr()?, admin_listener.as_ref());
    let current = Arc::new(ArcSwap::from_pointee(generation));
    let (announce, stage) = watch::channel(Stage::Serving);
    let proxies = Proxies::new(mock::Options::default());
    let shared = Shared {
        generation: current.clone(),
        state: state.clone(),
        proxies: Arc::new(proxies),
        stage,
        connections: Arc::new(AtomicUsize::new(0)),
    };
    share_counts(config, &shared, &runtime);
    let count = config.listen.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    let workers = server::start(&shared, &listener, count)?;
    drop(listener);
    greet(&greeting);

    let status = runtime.block_on(async {
        share_answers(config, &state)?;
        let reloader = Arc::new(Reloader::new(builder, smoke, current.clone(), state.clone()));
        tokio::spawn(reloader.clone().watch());
        tokio::spawn(reloader.clone().reap());
        tokio::spawn(reloader.clone().heed());
        let pools: Arc<dyn Upstream> = Arc::new(Pools::new(shared.proxies.clone()));
        tokio::spawn(probe::run(current.clone(), state.clone(), pools.clone()));
        tokio::spawn(hook::tick::run(current, state.clone(), pools));
        if let Some(listener) = admin_listener {
            let token = config.admin.token.as_ref().map(|token| token.expose().to_owned());
            let admin = Admin { shared: shared.clone(), reloader: reloader.clone(), token };
            tokio::spawn(admin::serve(Arc::new(admin), listener));
        }
        run_until_told(signals, &reloader, &shared, &announce, config.drain.timeout.into()).await
    })?;
    state.end();
    announce.send_replace(Stage::Ending);
    let owed = state.limits.owed();
    if owed > 0 {
        tracing::warn!("webhooks have not been told of {owed} budgets yet; they are once the process runs again");
    }
    // What the workers cut is settled before others are told what is counted, and before the log is closed.
    wait_until(WORKERS_END, || workers.iter().all(std::thread::JoinHandle::is_finished));
    if let Some(limits) = state.limits.shared() {
        runtime.block_on(limits.close());
    }
    finish(shared, state, runtime, [writer, ledger]);
    Ok(status)
}

/// The signals that are acted on.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Told to end.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits for signals: HUP reloads and opens a log anew that was moved away, TERM and INT drain, a second one ends at once.
async fn run_until_told(
    mut signals: Signals,
    reloader: &Reloader,
    shared: &Shared,
    announce: &watch::Sender<Stage>,
    limit: std::time::Duration,
) -> io::Result<ExitCode> {
    loop {
        let Signals { hangup, terminate, interrupt } = &mut signals;
        tokio::select! {
            _ = hangup.recv() => {
                shared.state.log.reopen();
                reloader.ask();
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    shared.state.drain();
    announce.send_replace(Stage::Draining);
    tracing::info!("draining: no new connections; streams may finish for {limit:?}. A second signal ends at once");
    Ok(tokio::select! {
        done = server::drained(shared, limit) => {
            if !done {
                tracing::warn!("the drain's time is over; what is still open is cut");
            }
            ExitCode::SUCCESS
        }
        () = signals.end() => {
            tracing::warn!("told twice: ending at once");
            ExitCode::FAILURE
        }
    })
}

/// Lets go of everything that holds the log, so that its writer ends, and waits for that.
fn finish(shared: Shared, state: Arc<State>, runtime: tokio::runtime::Runtime, writers: [Option<Writer>; 2]) {
    state.log.close();
    if let Some(store) = state.store.get() {
        store.close();
    }
    drop((shared, state, runtime));
    // A sink that is stuck must not keep the process: lines beyond this time are lost with it.
    wait_until(LOG_FLUSH, || writers.iter().flatten().all(Writer::is_finished));
}

/// Waits for other threads at the process's end, when no runtime is left to wait in.
#[expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "blocks nothing but the exit")]
fn wait_until(limit: std::time::Duration, done: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + limit;
    while !done() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Has thresholds told, and the counts of limits shared, before anybody is served: what came before would be counted by this
/// process alone.
fn share_counts(config: &Config, shared: &Shared, runtime: &tokio::runtime::Runtime) {
    let state = &shared.state;
    runtime.block_on(async {
        alert::start(&state.limits, state.redis.get().cloned(), shared.proxies.clone());
        let Some(link) = state.redis.get() else { return };
        let policy = match config.redis.away {
            Away::Local => Policy::Local,
            Away::Open => Policy::Open,
            Away::Closed => Policy::Closed,
        };
        // Without it, what comes at once is counted as when it is away.
        let _ = link.ready(link.budget()).await;
        limit::shared::Shared::start(&state.limits, link.clone(), policy);
    });
}

/// Opens the tier of the cache that several processes share. Must be called in the runtime that carries its work.
fn share_answers(config: &Config, state: &Arc<State>) -> io::Result<()> {
    let shared = config.cache.exact.as_ref().and_then(|exact| exact.shared.as_ref()).filter(|shared| shared.enabled);
    let url = config.redis.url.as_ref().filter(|url| !url.is_empty());
    if let (Some(shared), Some(url)) = (shared, url) {
        let link = Link::start("the cache", url.expose(), shared.timeout.into(), &config.redis.prefix)?;
        cache::Shared::start(state, link, shared.max_bytes.get());
    }
    Ok(())
}

/// Opens what keeps or shares the counts of limits and budgets, before anything is served.
fn keep(config: &Config, builder: &Builder, generation: &Generation, state: &State) -> io::Result<Option<Writer>> {
    if let Some(url) = config.redis.url.as_ref().filter(|url| !url.is_empty()) {
        // Which may come with a reload.
        let user = if generation.rules.is_empty() { "what processes share" } else { "limits" };
        let link = Link::start(user, url.expose(), config.redis.timeout.into(), &config.redis.prefix)?;
        let _ = state.redis.set(link);
        if config.redis.kv {
            let link = Link::start("gw.kv", url.expose(), config.redis.timeout.into(), &config.redis.prefix)?;
            let _ = state.shared_kv.set(kv::shared::Shared::new(link));
        }
    }
    let lasting = generation.rules.iter().any(|rule| rule.lasts());
    let path = match &config.store.path {
        Some(path) if path.as_os_str() == "off" => {
            if lasting && state.redis.get().is_none() {
                tracing::warn!(
                    "`store.path` is off: limits and budgets longer than a minute begin anew at every start"
                );
            }
            return Ok(None);
        }
        Some(path) => path.clone(),
        None if lasting && state.redis.get().is_none() => builder.beside("portcullis.db"),
        None => return Ok(None),
    };
    let ledger = config.store.ledger.unwrap_or(true);
    // What Redis keeps must not come back from here as well.
    let counts = state.redis.get().is_none().then_some(&state.limits);
    let (store, writer) = Store::open(&path, ledger, counts, unix_ms()).map_err(io::Error::other)?;
    tracing::info!("counts of limits and budgets are kept in {}", path.display());
    let _ = state.store.set(store);
    Ok(Some(writer))
}

fn address(text: &str) -> io::Result<SocketAddr> {
    text.parse().map_err(|_| io::Error::other(format!("`{text}` is no address; write IP:PORT")))
}

fn access_log(config: &Config) -> io::Result<(Log, Option<Writer>)> {
    let mut sinks = Vec::new();
    let stdout = io::BufWriter::with_capacity(BATCH_BYTES, io::stdout());
    match form(config.log.stdout) {
        Form::Json => sinks.push(Sink::Stream(Box::new(stdout))),
        Form::Text => sinks.push(Sink::Stream(Box::new(Text::new(stdout, io::stdout().is_terminal())))),
        Form::Off => {}
    }
    if let Some(path) = &config.log.file {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("log.file {}: {error}", path.display()));
        sinks.push(Sink::File(LogFile::open(path).map_err(named)?));
    }
    Log::to(sinks)
}

/// What the access log looks like on standard output.
#[derive(Clone, Copy)]
enum Form {
    Json,
    Text,
    Off,
}

fn form(written: Stdout) -> Form {
    match written {
        Stdout::Auto if io::stdout().is_terminal() => Form::Text,
        Stdout::Auto | Stdout::Json => Form::Json,
        Stdout::Text => Form::Text,
        Stdout::Off => Form::Off,
    }
}

/// The words that say that the gateway is up.
enum Greeting {
    Person(String),
    Journal(String),
}

fn greeting(config: &Config, generation: &Generation, address: SocketAddr, admin: Option<&TcpListener>) -> Greeting {
    let welcome = Welcome {
        generation,
        address,
        admin: admin.and_then(|admin| admin.local_addr().ok()),
        keys: config.keys.len(),
        log: match (form(config.log.stdout), &config.log.file) {
            (Form::Text, None) => "a line for each request below; JSON when this is no terminal",
            (Form::Text, Some(_)) => "a line for each request below; JSON in `log.file`",
            (Form::Json, _) => "JSON on standard output",
            (Form::Off, Some(_)) => "in `log.file`",
            (Form::Off, None) => "off",
        },
    };
    match io::stderr().is_terminal() {
        true => Greeting::Person(welcome.text()),
        false => Greeting::Journal(welcome.line()),
    }
}

#[expect(clippy::print_stderr, reason = "words for the person who started it")]
fn greet(greeting: &Greeting) {
    match greeting {
        Greeting::Person(text) => eprintln!("{text}"),
        Greeting::Journal(line) => tracing::info!("{line}"),
    }
}
