//! `portcullis plugin`: what authors of WebAssembly plugins need, without a gateway and without a network.
//!
//! Loads plugins exactly as the gateway does: the same engine, the same lease, the same contract.

mod bench;
mod build;
mod scaffold;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::{REFUSED, fail, hint, say};
use crate::guest::adapter::{Framing, Lease};
use crate::guest::wasm::{self, Bytes, Described, Loading, Machine, Shape, Taught, fixture};
use crate::host::{Budget, Grants, Guest};
use crate::trial;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Start a new adapter or policy in a folder of its own.
    New(scaffold::Args),
    /// Build a plugin's folder into a component, with the tools of its language.
    Build(build::Args),
    /// Show what a component is, wants and says of itself.
    Inspect {
        /// The component.
        file: PathBuf,
    },
    /// Run the fixtures: of an adapter asks, answers, errors, and streams cut at every byte; of a policy exchanges and what
    /// comes of them.
    Test {
        #[command(flatten)]
        plugin: Plugin,
        /// Folder with the fixtures; when not named, `fixtures` beside the component.
        #[arg(long)]
        fixtures: Option<PathBuf>,
        /// Write what the plugin makes of them as what is expected.
        #[arg(long)]
        bless: bool,
    },
    /// Measure an adapter's functions, or a policy's phases.
    Bench {
        #[command(flatten)]
        plugin: Plugin,
    },
    /// Make a pair of keys: the secret goes to a file, the public one to `plugins.signers`.
    Keygen {
        /// File for the secret; it must not exist.
        secret: PathBuf,
    },
    /// Sign a component: the signature is written beside it.
    Sign {
        file: PathBuf,
        /// File with the secret that keygen wrote.
        #[arg(long)]
        key: PathBuf,
    },
}

#[derive(clap::Args)]
struct Plugin {
    /// The component.
    file: PathBuf,
    /// Its configuration, as JSON.
    #[arg(long, default_value = "")]
    config: String,
    /// Memory of one instance, in MiB.
    #[arg(long, default_value_t = 64)]
    memory: usize,
}

/// As messages name what raises the memory here.
const MEMORY_FLAG: &str = "--memory";

pub(super) fn run(args: Args) -> ExitCode {
    let done = match args.command {
        Command::New(args) => scaffold::run(&args),
        Command::Build(args) => build::run(args),
        Command::Inspect { file } => inspect(&file),
        Command::Test { plugin, fixtures, bless } => test(&plugin, fixtures, bless),
        Command::Bench { plugin } => bench::run(&plugin),
        Command::Keygen { secret } => keygen(&secret),
        Command::Sign { file, key } => sign(&file, &key),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(REFUSED, &why),
    }
}

impl Plugin {
    fn bytes(&self) -> Result<Bytes, String> {
        Bytes::read(&self.file)
    }

    /// Its name, for errors.
    fn name(&self) -> String {
        self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn load(&self) -> Result<Arc<Taught>, String> {
        let machine = Arc::new(Machine::new()?);
        self.load_on(&machine, Lease::default())
    }

    fn load_on(&self, machine: &Arc<Machine>, lease: Lease) -> Result<Arc<Taught>, String> {
        let name = self.name();
        let lease = Lease { memory: self.memory << 20, ..lease };
        let (compiled, memory_by, config) = (None, Some(MEMORY_FLAG), self.config.clone());
        let loading = Loading { machine, compiled, name: &name, lease, memory_by, config };
        Taught::load(&loading, &self.bytes()?)
    }
}

/// A runtime for the adapter's calls.
fn wait<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    Ok(runtime.map_err(|error| format!("no runtime: {error}"))?.block_on(work))
}

fn inspect(file: &Path) -> Result<(), String> {
    let bytes = Bytes::read(file)?;
    let machine = Arc::new(Machine::new()?);
    let shape = Shape::of(&bytes)?;
    say(&format!("file     {}", file.display()));
    say(&format!("size     {} bytes", bytes.wasm.len()));
    say(&format!("sha256   {}", bytes.sha256));
    say(&format!("imports  {}", listed(&shape.imports)));
    say(&format!("exports  {}", listed(&shape.exports)));
    if shape.imports.iter().any(|name| name.starts_with("wasi:")) {
        say("wasi     is imported, and given empty: no files, no sockets, no environment; clocks and chance are real");
    } else {
        say("wasi     is not imported: what the language would ask it for, such as the clock, ends the call");
    }
    for (import, grant) in GRANTS {
        if shape.imports.iter().any(|name| name.starts_with(&format!("portcullis:gateway/{import}@"))) {
            say(&format!("may use  {grant}"));
        }
    }
    if shape.is_policy() {
        return inspect_policy(&machine, &bytes);
    }
    let plugin = Plugin { file: file.to_owned(), config: String::new(), memory: 512 };
    let taught = plugin.load_on(&machine, Lease { cpu: Duration::from_secs(5), ..Lease::default() })?;
    let said = &taught.description;
    say(&format!("world    provider ({} {})", said.title, said.version));
    say(&format!("serves   {}", said.operations.iter().map(|op| format!("{op:?}")).collect::<Vec<_>>().join(", ")));
    say(&format!("auth     {:?}", said.auth));
    say(&format!("framing  {:?}", said.framing.unwrap_or(Framing::Bytes)));
    say(&format!("usually  {}", said.suggested_base_url.as_deref().unwrap_or("it does not say")));
    say(&format!("models   {}", said.models.iter().map(|model| model.id.as_str()).collect::<Vec<_>>().join(", ")));
    Ok(())
}

/// What a policy's imports tell of the grants that it would use.
const GRANTS: &[(&str, &str)] =
    &[("http", "grants.http: hosts"), ("llm", "grants.models: models"), ("secret", "grants.secrets: secrets")];

fn inspect_policy(machine: &Arc<Machine>, bytes: &Bytes) -> Result<(), String> {
    let (lease, memory_by, config) = (Lease::default(), None, String::new());
    let loading = Loading { machine, compiled: None, name: "plugin", lease, memory_by, config };
    let budget = Budget { cpu: Duration::from_secs(1), memory: 512 << 20, ..Budget::default() };
    let guest = Guest { name: "plugin".into(), grants: Grants::default(), budget, metrics: BTreeMap::new() };
    let described = Described::load(&loading, bytes, &Arc::new(guest))?;
    let said = &described.manifest;
    let word = |text: &Option<String>| text.clone().unwrap_or_else(|| "it does not say".to_owned());
    say(&format!("world    policy ({} {})", word(&said.name), word(&said.version)));
    say(&format!("does     {}", word(&said.description)));
    say(&format!("phases   {}", described.phases));
    say(&format!("guard    {}", said.guard));
    say(&format!("streams  {:?}", said.stream));
    say(&format!("ticks    {}", said.tick.as_deref().unwrap_or("never")));
    say(&format!("metrics  {}", listed(&said.metrics.keys().cloned().collect::<Vec<_>>())));
    say(&format!("config   {}", said.config.as_ref().map_or_else(|| "anything".to_owned(), ToString::to_string)));
    Ok(())
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join("\n         ") }
}

fn test(plugin: &Plugin, fixtures: Option<PathBuf>, bless: bool) -> Result<(), String> {
    let beside = || plugin.file.parent().unwrap_or(Path::new("")).join("fixtures");
    let folder = fixtures.unwrap_or_else(beside);
    let shape = Shape::of(&plugin.bytes()?)?;
    let outcomes: Vec<(String, Option<String>, Vec<String>)> = if shape.is_policy() {
        if !plugin.config.is_empty() {
            return Err("the settings of a policy stand in each of its fixtures, as `config`".to_owned());
        }
        let cases = trial::fixture::run(&plugin.file, &folder, bless)?;
        cases.into_iter().map(|case| (case.name, case.outcome.err(), case.notes)).collect()
    } else {
        let loaded = plugin.load()?;
        let outcomes = wait(fixture::run(&loaded, &folder, bless))??;
        outcomes.into_iter().map(|outcome| (outcome.file, outcome.wrong, outcome.said)).collect()
    };
    if outcomes.is_empty() {
        return Err(format!("{}: holds no fixtures; plugins/README.md shows how they look", folder.display()));
    }
    for (file, wrong, said) in &outcomes {
        match wrong {
            None => say(&format!("ok    {file}")),
            Some(why) => say(&format!("WRONG {file}: {why}")),
        }
        said.iter().for_each(|line| say(&format!("      {line}")));
    }
    match outcomes.iter().filter(|(_, wrong, _)| wrong.is_some()).count() {
        0 => Ok(()),
        wrong => Err(format!("{wrong} of {} fixtures are wrong", outcomes.len())),
    }
}

fn keygen(path: &Path) -> Result<(), String> {
    let (secret, public) = wasm::keygen()?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(path).and_then(|mut file| std::io::Write::write_all(&mut file, secret.as_bytes()));
    written.map_err(|error| format!("{}: {error}", path.display()))?;
    hint("the public key, for `plugins.signers`:");
    say(&public);
    Ok(())
}

fn sign(file: &Path, key: &Path) -> Result<(), String> {
    let bytes = Bytes::read(file)?;
    let secret = std::fs::read_to_string(key).map_err(|error| format!("{}: {error}", key.display()))?;
    let made = wasm::sign(&bytes.wasm, &secret)?;
    let path = wasm::beside(file);
    std::fs::write(&path, made).map_err(|error| format!("{}: {error}", path.display()))?;
    say(&path.display().to_string());
    Ok(())
}
