//! Reload: on SIGHUP, on a file's change, or by the admin API, build a whole new generation and swap it in.
//!
//! A generation that cannot be built leaves the old one in force and says why. Never touches an exchange under way.

pub mod history;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecursiveMode, Watcher};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{sleep, timeout};

use crate::generation::{Builder, Generation, fingerprint};
use crate::state::State;
use crate::trial::smoke::Smoke;

use history::History;

/// How long files must be quiet before a change counts: editors write in several steps.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// How often files are compared by content as well. Catches what inotify cannot see: network and overlay file systems.
const POLL: Duration = Duration::from_secs(2);

/// How often it is looked whether an old generation is still used.
const REAP: Duration = Duration::from_millis(500);

/// Builds and swaps generations, one at a time.
pub struct Reloader {
    builder: Builder,
    current: Arc<ArcSwap<Generation>>,
    state: Arc<State>,
    turn: Mutex<()>,
    smoke: Smoke,
    pub history: History,
    /// The highest number given so far, and what the files held when they were last taken up or set aside.
    number: AtomicU64,
    handled: AtomicU64,
    /// The files of what was refused last, so that it is seen when they are mended; none when nothing was.
    wanted: ArcSwap<Vec<PathBuf>>,
}

impl Reloader {
    pub fn new(builder: Builder, smoke: Smoke, current: Arc<ArcSwap<Generation>>, state: Arc<State>) -> Self {
        let history = History::default();
        let first = current.load_full();
        let (number, handled) = (AtomicU64::new(first.number), AtomicU64::new(first.fingerprint));
        history.add(first);
        let wanted = ArcSwap::default();
        Reloader { builder, current, state, turn: Mutex::new(()), smoke, history, number, handled, wanted }
    }

    /// Everything whose change may call for a reload.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = self.current.load().files.clone();
        files.extend(self.wanted.load().iter().cloned());
        files.sort();
        files.dedup();
        files
    }

    /// Builds a generation and tests its policies.
    async fn built(&self, number: u64) -> Result<Generation, String> {
        let generation = self.builder.build(number)?;
        if generation.hooks_tests {
            self.smoke.test(&generation.scripts).await?;
        }
        Ok(generation)
    }

    /// Puts a generation back in force that is still kept. The files as they are now are set aside: the next change of
    /// one of them is taken up again.
    pub async fn rollback(&self, number: u64) -> Option<u64> {
        let _turn = self.turn.lock().await;
        let old = self.history.find(number)?;
        old.activate(&self.state);
        self.current.store(old);
        // As the watcher will look at them: what was refused and is wanted still is among them.
        self.handled.store(fingerprint(&self.files()), Relaxed);
        self.state.reloaded(Ok(number));
        tracing::warn!("generation {number} is in force again; the next change of a file ends that");
        Some(number)
    }

    /// Lets go of old generations, off the request path, as soon as nobody uses them.
    pub async fn reap(self: Arc<Self>) {
        loop {
            sleep(REAP).await;
            self.history.reap();
        }
    }

    /// Builds a generation from what the files hold now and puts it in force. Gives its number.
    ///
    /// # Errors
    /// Why the files were refused; the old generation stays.
    pub async fn reload(&self) -> Result<u64, String> {
        let _turn = self.turn.lock().await;
        let number = self.number.load(Relaxed) + 1;
        match self.built(number).await {
            Ok(generation) => {
                self.wanted.store(Arc::default());
                for warning in &generation.warnings {
                    tracing::warn!("{warning}");
                }
                generation.activate(&self.state);
                self.number.store(number, Relaxed);
                self.handled.store(generation.fingerprint, Relaxed);
                let generation = Arc::new(generation);
                self.history.add(generation.clone());
                self.current.store(generation);
                // Under many reloads the next look of the reaper would come late.
                self.history.reap();
                self.state.reloaded(Ok(number));
                tracing::info!("generation {number} is in force");
                Ok(number)
            }
            Err(errors) => {
                tracing::error!(
                    "the reload was refused, generation {} stays in force:\n{errors}",
                    self.current.load().number
                );
                self.wanted.store(Arc::new(self.builder.files()));
                self.state.reloaded(Err(errors.clone()));
                Err(errors)
            }
        }
    }

    /// Reloads whenever a file of the generation in force changes.
    ///
    /// The folders are watched, not the files: editors replace a file, and a Kubernetes ConfigMap swaps the symbolic
    /// link `..data` beside it, so the file's own inode says nothing. What counts is the content: an event that leaves
    /// it alone reloads nothing.
    pub async fn watch(self: Arc<Self>) {
        let (events, mut changed) = mpsc::channel::<()>(1);
        let mut watched: Vec<PathBuf> = Vec::new();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| is_a_look(event.kind)) {
                // A full channel already says that something changed.
                let _ = events.try_send(());
            }
        })
        .inspect_err(|error| tracing::warn!("files are polled only: {error}"))
        .ok();
        // What was refused last, so that a broken file is reported once and not every two seconds.
        let mut refused = None;
        loop {
            let files = self.files();
            if files.is_empty() {
                // Nothing on disk to watch; the admin API and SIGHUP still reload.
                sleep(POLL).await;
                continue;
            }
            if let Some(watcher) = &mut watcher {
                follow(watcher, &files, &mut watched);
            }
            if timeout(POLL, changed.recv()).await.is_ok() {
                sleep(DEBOUNCE).await;
                while changed.try_recv().is_ok() {}
            }
            let now = fingerprint(&self.files());
            // A file that is again as it was is reloaded too: it is no longer refused.
            let changed = now != self.handled.load(Relaxed) || refused.is_some();
            if changed && refused != Some(now) {
                refused = self.reload().await.err().map(|_| fingerprint(&self.files()));
            }
        }
    }
}

/// Whether somebody only opened, read or closed a file: our own look at the files must not be the reason for the next one.
fn is_a_look(kind: EventKind) -> bool {
    kind.is_access() && kind != EventKind::Access(AccessKind::Close(AccessMode::Write))
}

/// Watches the folders of the files, and those that symbolic links lead to.
fn follow(watcher: &mut impl Watcher, files: &[PathBuf], watched: &mut Vec<PathBuf>) {
    let folders = files.iter().flat_map(|file| {
        let real = file.canonicalize().unwrap_or_else(|_| file.clone());
        [file.clone(), real].map(|path| match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        })
    });
    for folder in folders {
        if !watched.contains(&folder) && watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok() {
            watched.push(folder);
        }
    }
}
