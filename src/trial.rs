//! Trials of policies and adapters: their test files, played on the real pipeline with scripted upstreams and a clock of
//! its own.
//!
//! Opens no socket and asks nobody. What a policy meets here is what it meets in service: engine, sandbox, budgets,
//! attempt loop and streams are the same; only time, chance and the providers are the test's.

mod catalogue;
mod client;
mod double;
pub mod fixture;
mod past;
pub mod replay;
mod scene;
pub mod smoke;
mod stage;
mod watch;
mod words;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::guest::bundle;
use crate::guest::lua::coverage::{self, Lines};
use crate::guest::lua::trial;

use watch::Watch;

/// One test of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    pub name: String,
    /// What went wrong, with file and line.
    pub outcome: Result<(), String>,
    /// Failures of the policy on the way, and what the gateway warns of when it loads it. It goes on without a policy that
    /// fails, unless it is a guard: who tests one must not be left to wonder why nothing happened.
    pub notes: Vec<String>,
}

/// What came of a test file.
#[derive(Debug)]
pub struct Report {
    pub file: PathBuf,
    pub cases: Vec<Case>,
    /// The file itself broke: it does not compile, or an error outside its tests ended it.
    pub broken: Option<String>,
    pub took: Duration,
}

impl Report {
    pub fn failed(&self) -> usize {
        self.cases.iter().filter(|case| case.outcome.is_err()).count() + usize::from(self.broken.is_some())
    }
}

/// Every test file under these paths; a path may be one itself.
///
/// # Errors
/// A path is not there.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for path in paths {
        if !path.exists() {
            return Err(format!("there is no `{}`", path.display()));
        }
        gather(path, &mut found);
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn gather(path: &Path, found: &mut Vec<PathBuf>) {
    if !path.is_dir() {
        match path.extension().is_some_and(|end| end == "luau") && !is_test(path) {
            // A script stands for its tests.
            true => found.extend(bundle::tests_of(path)),
            false => found.push(path.to_owned()),
        }
        return;
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() || is_test(&path) {
            gather(&path, found);
        }
    }
}

fn is_test(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with("_test.luau"))
}

/// The guest that tests are about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subject {
    /// As a hook or a provider names it.
    name: String,
    /// Where it is looked up.
    folder: PathBuf,
    what: What,
}

/// What a guest under test is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A policy in Lua.
    Script,
    /// A script that speaks for a provider.
    Adapter,
    /// A policy in a WebAssembly plugin.
    Plugin,
}

impl What {
    /// For whoever reads a report.
    fn as_str(self) -> &'static str {
        match self {
            What::Adapter => "adapter",
            What::Script | What::Plugin => "policy",
        }
    }
}

impl Subject {
    /// That of a test file: the script or plugin of its name without `_test` beside it, else the folder that it lies in.
    fn of(file: &Path) -> Option<Self> {
        let folder = whole(file.parent().unwrap_or(Path::new(".")))?;
        let stem = file.file_stem()?.to_str()?.strip_suffix("_test")?;
        if folder.join("main.luau").is_file() {
            let name = folder.file_name()?.to_str()?.to_owned();
            return Some(Subject::script(name, folder.parent()?.to_owned()));
        }
        let beside = |ending: &str| folder.join(format!("{stem}.{ending}")).is_file();
        if beside("luau") {
            return Some(Subject::script(stem.to_owned(), folder));
        }
        beside("wasm").then(|| Subject { name: stem.to_owned(), folder: folder.clone(), what: What::Plugin })
    }

    fn script(name: String, folder: PathBuf) -> Self {
        // One that cannot be read is found to be so when the first scene is built.
        let adapts = bundle::read(&name, &folder).is_ok_and(|bundle| bundle.manifest.adapter.is_some());
        Subject { name, folder, what: if adapts { What::Adapter } else { What::Script } }
    }

    /// That which a component is.
    fn component(file: &Path) -> Option<Self> {
        let folder = whole(file.parent().unwrap_or(Path::new(".")))?;
        Some(Subject { name: file.file_stem()?.to_str()?.to_owned(), folder, what: What::Plugin })
    }
}

fn whole(folder: &Path) -> Option<PathBuf> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    folder.canonicalize().ok()
}

/// Real time that a test may take when nobody says otherwise.
pub const TIME: Duration = Duration::from_secs(10);

/// Which tests of a file run, and how long they may take.
#[derive(Debug, Clone, Copy)]
pub struct Running<'a> {
    /// Real time of each test, and of what stands between them.
    pub each: Duration,
    /// Real time of the whole file: no test begins after it.
    pub all: Duration,
    /// Only tests whose name holds this run.
    pub filter: Option<&'a str>,
}

impl Default for Running<'_> {
    fn default() -> Self {
        Running { each: TIME, all: Duration::MAX, filter: None }
    }
}

/// Runs one test file.
pub fn run(file: &Path, running: Running<'_>) -> Report {
    let began = stage::real_now();
    let mut report = Report { file: file.to_owned(), cases: Vec::new(), broken: None, took: Duration::ZERO };
    let told = Arc::new(Mutex::new(Told::default()));
    report.broken = play(file, running, told.clone()).err();
    let told = std::mem::take(&mut *told.lock().unwrap_or_else(PoisonError::into_inner));
    report.cases = told.cases;
    report.took = began.elapsed();
    if report.cases.is_empty() && told.left_out == 0 && report.broken.is_none() {
        report.broken = Some(format!("{}: has no test; write t.test(\"…\", function() … end)", file.display()));
    }
    report
}

/// Runs one test file and counts which lines of its policy run.
pub fn run_covered(file: &Path, running: Running<'_>) -> (Report, Lines) {
    coverage::gather();
    let report = run(file, running);
    (report, coverage::take())
}

/// What a test file has said so far.
#[derive(Default)]
struct Told {
    cases: Vec<Case>,
    /// Tests that did not run.
    left_out: usize,
}

fn play(file: &Path, running: Running<'_>, told: Arc<Mutex<Told>>) -> Result<(), String> {
    let label = file.display().to_string();
    let source = std::fs::read_to_string(file).map_err(|error| format!("{label} cannot be read: {error}"))?;
    let subject = Subject::of(file).ok_or_else(|| {
        format!("{label}: no policy lies beside it; a test of NAME.luau or NAME.wasm is NAME_test.luau")
    })?;
    let watch = Arc::new(Watch::new(running.each)?);
    let mut stage = stage::Stage::new(subject, watch.clone())?;
    let (began, filter, renew) = (stage::real_now(), running.filter.map(str::to_owned), watch.clone());
    let play = move |word: &str, said: Value| {
        let told = || told.lock().unwrap_or_else(PoisonError::into_inner);
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        match word {
            "begin" => {
                let wanted = filter.as_ref().is_none_or(|filter| text("name").contains(filter));
                let runs = wanted && began.elapsed() < running.all;
                told().left_out += usize::from(!runs);
                renew.renew();
                return Ok(runs.into());
            }
            "end" => renew.renew(),
            "result" => {
                let outcome = if said["ok"] == true { Ok(()) } else { Err(text("message")) };
                let notes = said["notes"].as_array().into_iter().flatten().filter_map(Value::as_str);
                told().cases.push(Case { name: text("name"), outcome, notes: notes.map(str::to_owned).collect() });
            }
            "read" => words::read(&said)?,
            "act" => words::act(said["form"].as_str(), &said["act"])?,
            "target" => words::target(&text("name"), &said["facts"])?,
            word => return stage.play(word, &said),
        }
        Ok(Value::Null)
    };
    trial::run(&label, &source, Box::new(move || watch.is_over().then_some(watch.span)), Box::new(play))
}

#[cfg(test)]
mod tests;
