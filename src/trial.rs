//! Trials of policies and adapters: their test files, played on the real pipeline with scripted upstreams and a clock of its own.
//!
//! Opens no socket and asks nobody. What a policy meets here is what it meets in service: engine, sandbox, budgets,
//! attempt loop and streams are the same; only time, chance and the providers are the test's.

mod catalogue;
mod client;
mod double;
mod past;
pub mod replay;
mod scene;
pub mod smoke;
mod stage;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::guest::bundle;
use crate::guest::lua::coverage::{self, Lines};
use crate::guest::lua::trial;

/// One test of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    pub name: String,
    /// What went wrong, with file and line.
    pub outcome: Result<(), String>,
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
        found.push(path.to_owned());
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

/// The script that a test file is about, as a hook or a provider names it, and the folder that it is looked up in: the file without
/// `_test` beside it, else the folder it lies in.
fn subject(file: &Path) -> Option<(String, PathBuf)> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let folder = folder.canonicalize().ok()?;
    let stem = file.file_stem()?.to_str()?.strip_suffix("_test")?;
    if folder.join("main.luau").is_file() {
        let name = folder.file_name()?.to_str()?.to_owned();
        return Some((name, folder.parent()?.to_owned()));
    }
    folder.join(format!("{stem}.luau")).is_file().then(|| (stem.to_owned(), folder))
}

/// Real time that a test file may take.
const TIME: Duration = Duration::from_secs(120);

/// Runs one test file.
pub fn run(file: &Path) -> Report {
    run_within(file, TIME)
}

/// Runs one test file and counts which lines of its policy run.
pub fn run_covered(file: &Path) -> (Report, Lines) {
    coverage::gather();
    let report = run(file);
    (report, coverage::take())
}

fn run_within(file: &Path, time: Duration) -> Report {
    let began = stage::real_now();
    let mut report = Report { file: file.to_owned(), cases: Vec::new(), broken: None, took: Duration::ZERO };
    let cases = Arc::new(Mutex::new(Vec::new()));
    report.broken = play(file, time, cases.clone()).err();
    report.cases = std::mem::take(&mut *cases.lock().unwrap_or_else(PoisonError::into_inner));
    report.took = began.elapsed();
    if report.cases.is_empty() && report.broken.is_none() {
        report.broken = Some(format!("{}: has no test; write t.test(\"…\", function() … end)", file.display()));
    }
    report
}

fn play(file: &Path, time: Duration, cases: Arc<Mutex<Vec<Case>>>) -> Result<(), String> {
    let label = file.display().to_string();
    let source = std::fs::read_to_string(file).map_err(|error| format!("{label} cannot be read: {error}"))?;
    let (script, folder) = subject(file)
        .ok_or_else(|| format!("{label}: no policy lies beside it; a test of NAME.luau is NAME_test.luau"))?;
    // One that cannot be read is found to be so when the first scene is built.
    let script = match bundle::read(&script, &folder) {
        Ok(bundle) if bundle.manifest.adapter.is_some() => scene::Script::Adapter(script),
        _ => scene::Script::Policy(script),
    };
    let mut stage = stage::Stage::new(script, folder)?;
    let play = move |word: &str, said: Value| match word {
        "result" => {
            let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
            let outcome = if said["ok"] == true { Ok(()) } else { Err(text("message")) };
            cases.lock().unwrap_or_else(PoisonError::into_inner).push(Case { name: text("name"), outcome });
            Ok(Value::Null)
        }
        word => stage.play(word, &said),
    };
    trial::run(&label, &source, time, Box::new(play))
}
