//! Reload: on SIGHUP, on a file's change, or by the admin API, build a whole new generation and swap it in.
//!
//! A generation that cannot be built leaves the old one in force and says why. Never touches an exchange under way.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::{RecursiveMode, Watcher};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{sleep, timeout};

use crate::generation::{Builder, Generation, fingerprint};
use crate::state::State;

/// How long files must be quiet before a change counts: editors write in several steps.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// How often files are compared by content as well. Catches what inotify cannot see: network and overlay file systems.
const POLL: Duration = Duration::from_secs(2);

/// Builds and swaps generations, one at a time.
pub struct Reloader {
    builder: Builder,
    current: Arc<ArcSwap<Generation>>,
    state: Arc<State>,
    turn: Mutex<()>,
}

impl Reloader {
    pub fn new(builder: Builder, current: Arc<ArcSwap<Generation>>, state: Arc<State>) -> Self {
        Reloader { builder, current, state, turn: Mutex::new(()) }
    }

    /// Builds a generation from what the files hold now and puts it in force. Gives its number.
    ///
    /// # Errors
    /// Why the files were refused; the old generation stays.
    pub async fn reload(&self) -> Result<u64, String> {
        let _turn = self.turn.lock().await;
        let number = self.current.load().number + 1;
        match self.builder.build(number) {
            Ok(generation) => {
                for warning in &generation.warnings {
                    tracing::warn!("{warning}");
                }
                generation.activate(&self.state);
                self.current.store(Arc::new(generation));
                self.state.reloaded(Ok(number));
                tracing::info!("generation {number} is in force");
                Ok(number)
            }
            Err(errors) => {
                tracing::error!("the reload was refused, generation {} stays in force:\n{errors}", number - 1);
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
        let mut watcher = notify::recommended_watcher(move |_: notify::Result<notify::Event>| {
            // A full channel already says that something changed.
            let _ = events.try_send(());
        })
        .inspect_err(|error| tracing::warn!("files are polled only: {error}"))
        .ok();
        // What was refused last, so that a broken file is reported once and not every two seconds.
        let mut refused = None;
        loop {
            let files = self.current.load().files.clone();
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
            let current = self.current.load_full();
            let now = fingerprint(&current.files);
            // A file that is again as it was is reloaded too: it is no longer refused.
            let changed = now != current.fingerprint || refused.is_some();
            if changed && refused != Some(now) {
                refused = self.reload().await.err().map(|_| now);
            }
        }
    }
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
