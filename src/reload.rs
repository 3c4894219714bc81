//! Reload: on SIGHUP, on a file's change, or by the admin API, build a whole new generation and swap it in.
//!
//! A generation that cannot be built leaves the old one in force and says why. Never touches an exchange under way, and
//! neither reads files nor builds on the runtime's thread, which has others to serve meanwhile.

pub mod history;

#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc as threads};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecursiveMode, Watcher};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
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
    builder: Arc<Builder>,
    current: Arc<ArcSwap<Generation>>,
    state: Arc<State>,
    turn: Mutex<()>,
    aside: Aside,
    asked: Notify,
    smoke: Smoke,
    pub history: History,
    /// The highest number given so far, and what the files held when they were last taken up or set aside.
    number: AtomicU64,
    handled: AtomicU64,
    /// None when what the files held last is in force.
    refused: ArcSwapOption<Refused>,
}

/// What was refused last: its files, so that it is seen when they are mended, and what all files that are looked at held
/// before it was built, so that it is built once and not every two seconds.
struct Refused {
    files: Vec<PathBuf>,
    fingerprint: u64,
}

impl Reloader {
    pub fn new(builder: Builder, smoke: Smoke, current: Arc<ArcSwap<Generation>>, state: Arc<State>) -> Self {
        let history = History::default();
        let first = current.load_full();
        let (number, handled) = (AtomicU64::new(first.number), AtomicU64::new(first.fingerprint));
        history.add(first);
        let (turn, asked, refused) = (Mutex::new(()), Notify::new(), ArcSwapOption::empty());
        Reloader {
            builder: Arc::new(builder),
            current,
            state,
            turn,
            aside: Aside::start(),
            asked,
            smoke,
            history,
            number,
            handled,
            refused,
        }
    }

    /// Everything whose change may call for a reload while this generation is in force.
    fn files(&self, generation: &Generation) -> Vec<PathBuf> {
        let refused = self.refused.load();
        let wanted = refused.as_ref().map(|refused| refused.files.as_slice()).unwrap_or_default();
        together(&generation.files, wanted)
    }

    /// Builds a generation and tests its policies.
    ///
    /// # Errors
    /// Why it is none, with what is noted of that.
    async fn built(&self, number: u64) -> Result<Generation, (String, Option<Refused>)> {
        let (builder, current) = (self.builder.clone(), self.current.load().files.clone());
        let built = self.aside.work(move || {
            // Before the reading that counts, as the builder's own: what changes from here on is another change.
            let files = builder.files();
            let fingerprint = fingerprint(&together(&current, &files));
            (builder.build(number), Refused { files, fingerprint })
        });
        let (built, refused) = built.await.map_err(|error| (error, None))?;
        let tested = match built {
            Ok(generation) if generation.hooks_tests => self.smoke.test(&generation.scripts).await.map(|()| generation),
            built => built,
        };
        tested.map_err(|errors| (errors, Some(refused)))
    }

    /// Puts a generation back in force that is still kept. The files as they are now are set aside: the next change of
    /// one of them is taken up again.
    pub async fn rollback(&self, number: u64) -> Option<u64> {
        let _turn = self.turn.lock().await;
        let old = self.history.find(number)?;
        // As the watcher will look at them: what was refused and is wanted still is among them.
        let now = self.aside.look(self.files(&old)).await;
        old.activate(&self.state);
        self.current.store(old);
        if let Ok(now) = now {
            self.handled.store(now, Relaxed);
        }
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

    /// Builds a generation from what the files hold now and puts it in force. Gives its number. Goes on also where whoever
    /// asked does not wait for it.
    ///
    /// # Errors
    /// Why the files were refused; the old generation stays.
    pub async fn reload(self: &Arc<Self>) -> Result<u64, String> {
        let this = self.clone();
        // One that broke off must not let the next one begin beside what it has left running.
        let reload = tokio::spawn(async move { this.in_turn().await });
        reload.await.unwrap_or_else(|error| Err(format!("the reload broke off: {error}; the log has more")))
    }

    /// Asks for a reload that nobody waits for. What is asked for during one is done once after it.
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    /// Reloads whenever it is asked to.
    pub async fn heed(self: Arc<Self>) {
        loop {
            self.asked.notified().await;
            // A refusal has been logged; the old generation goes on.
            let _ = self.reload().await;
        }
    }

    async fn in_turn(&self) -> Result<u64, String> {
        let _turn = self.turn.lock().await;
        let number = self.number.load(Relaxed) + 1;
        match self.built(number).await {
            Ok(generation) => {
                self.refused.store(None);
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
            Err((errors, refused)) => {
                tracing::error!(
                    "the reload was refused, generation {} stays in force:\n{errors}",
                    self.current.load().number
                );
                if let Some(refused) = refused {
                    self.refused.store(Some(Arc::new(refused)));
                }
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
        loop {
            let files = self.files(&self.current.load());
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
            let Ok(now) = self.aside.look(self.files(&self.current.load_full())).await else { continue };
            let refused = self.refused.load().as_ref().map(|refused| refused.fingerprint);
            // A file that is again as it was is reloaded too: it is no longer refused.
            let changed = now != self.handled.load(Relaxed) || refused.is_some();
            if changed && refused != Some(now) {
                let _ = self.reload().await;
            }
        }
    }
}

/// Files of two lists, in order and each once: who compares fingerprints must take the same files in the same order.
fn together(some: &[PathBuf], others: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = [some, others].concat();
    files.sort();
    files.dedup();
    files
}

/// A thread that does what takes its time, one thing after the other. It is none of the runtime's for blocking work: those are
/// waited for when the process ends, and a file that cannot be read may keep this one for ever. It is always the same one,
/// as what the allocator keeps for a thread that has ended would be left of every build.
struct Aside(threads::Sender<Box<dyn FnOnce() + Send>>);

impl Aside {
    fn start() -> Self {
        let (sender, work) = threads::channel::<Box<dyn FnOnce() + Send>>();
        let run = move || {
            for work in work {
                // Whoever waits for it is told, as what would have answered is dropped.
                let _ = std::panic::catch_unwind(AssertUnwindSafe(work));
            }
        };
        let started = std::thread::Builder::new().name("reload".into()).spawn(run);
        let _ = started.inspect_err(|error| tracing::error!("no thread can be started for reloads: {error}"));
        Aside(sender)
    }

    /// # Errors
    /// It broke off, or there is no such thread.
    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        let (done, outcome) = oneshot::channel();
        let run = move || {
            // Whoever waited may have given up.
            let _ = done.send(work());
        };
        // Without the thread `done` is dropped with what is not sent.
        let _ = self.0.send(Box::new(run));
        outcome
            .await
            .map_err(|_| "the reload broke off, which is a fault of the gateway; the log says where".to_owned())
    }

    /// What files hold now.
    async fn look(&self, files: Vec<PathBuf>) -> Result<u64, String> {
        self.work(move || fingerprint(&files)).await
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
