//! The tests of scripts before a generation goes live: those of every script that has not passed them as it is now.
//!
//! Runs on a thread of its own, under a bound of real time: neither a worker nor the reload waits on it for long.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::subscriber::{NoSubscriber, with_default};

use super::{Running, run};
use crate::guest::Bundle;
use crate::host::hash;

/// Real time that the tests of one file may take, and those of all policies together.
const LIMIT: Duration = Duration::from_secs(10);
const ALL: Duration = Duration::from_secs(30);

/// What has passed.
#[derive(Debug, Default)]
pub struct Smoke {
    passed: Mutex<HashSet<String>>,
}

/// A script to be tested: where it is named, its tests, and what tells this version from others.
#[derive(Clone)]
struct Due {
    place: String,
    tests: Vec<PathBuf>,
    mark: String,
}

impl Smoke {
    /// Tests these scripts, named by their places. Those that passed before and have not changed since are not tested again.
    ///
    /// # Errors
    /// What failed, a line each, with file and line.
    pub async fn test(&self, scripts: &[(String, Arc<Bundle>)]) -> Result<(), String> {
        let all = due(scripts);
        let fresh = {
            let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter(|due| !passed.contains(&due.mark)).cloned().collect::<Vec<_>>()
        };
        if !fresh.is_empty() {
            let progress = Arc::new(Mutex::new(Progress::default()));
            match tokio::time::timeout(ALL, play(fresh, progress.clone())?).await {
                Ok(outcome) => outcome?,
                Err(_) => return Err(progress.lock().unwrap_or_else(PoisonError::into_inner).late()),
            }
        }
        *self.passed.lock().unwrap_or_else(PoisonError::into_inner) = all.into_iter().map(|due| due.mark).collect();
        Ok(())
    }
}

/// How far the tests have come.
#[derive(Default)]
struct Progress {
    /// The place of the policy that is tested.
    at: String,
    failed: Vec<String>,
}

impl Progress {
    /// What is said when there is no more time.
    fn late(&self) -> String {
        let late = format!(
            "{}: its tests had not ended when all policies' tests had taken {ALL:?}; make them shorter, or set \
             `hooks_tests: false` to go without",
            self.at
        );
        self.failed.iter().cloned().chain([late]).collect::<Vec<_>>().join("\n")
    }
}

/// Begins the tests; what is awaited is their outcome.
fn play(fresh: Vec<Due>, progress: Arc<Mutex<Progress>>) -> Result<impl Future<Output = Result<(), String>>, String> {
    let (done, outcome) = oneshot::channel();
    let play = move || {
        let progress = || progress.lock().unwrap_or_else(PoisonError::into_inner);
        for due in &fresh {
            progress().at.clone_from(&due.place);
            // What policies say in their tests is nothing for the process's own messages.
            let failed = with_default(NoSubscriber::new(), || failures(due));
            progress().failed.extend(failed);
        }
        let failed = std::mem::take(&mut progress().failed);
        // Whoever waited may have given up.
        let _ = done.send(if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) });
    };
    let started = std::thread::Builder::new().name("smoke".into()).spawn(play);
    started.map_err(|error| format!("hooks_tests: the tests of the scripts cannot be run: {error}"))?;
    Ok(async move { outcome.await.unwrap_or_else(|_| Err("hooks_tests: the tests of a script broke off".to_owned())) })
}

fn failures(due: &Due) -> Vec<String> {
    let mut failed = Vec::new();
    for file in &due.tests {
        let report = run(file, Running { each: LIMIT, all: LIMIT, filter: None });
        for case in &report.cases {
            if let Err(message) = &case.outcome {
                let said = [message].into_iter().chain(&case.notes).map(String::as_str).collect::<Vec<_>>().join("; ");
                failed.push(format!("{}: its test \"{}\" fails: {said}", due.place, case.name));
            }
        }
        let broken = report.broken.iter();
        failed.extend(broken.map(|broken| format!("{}: its test fails: {broken}", due.place)));
    }
    failed
}

fn due(scripts: &[(String, Arc<Bundle>)]) -> Vec<Due> {
    let mut all: Vec<Due> = Vec::new();
    for (place, bundle) in scripts.iter().filter(|(_, bundle)| !bundle.tests.is_empty()) {
        let mut mark = bundle.digest.clone();
        for test in &bundle.tests {
            // An unreadable one is found to be so when it is run.
            mark.push_str(&hash::sha256(&std::fs::read(test).unwrap_or_default()));
        }
        // A script that is attached twice is tested once.
        if !all.iter().any(|due| due.mark == mark) {
            all.push(Due { place: place.clone(), tests: bundle.tests.clone(), mark });
        }
    }
    all
}
