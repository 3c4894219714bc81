//! The access log: one JSON line an exchange, written by a thread of its own.
//!
//! The request path only hands a line over; when the sink cannot keep up, lines are dropped and counted, never waited
//! for. A file that was moved away, as by logrotate, is opened anew. Prompts, answers and keys are not in it.

mod line;
pub mod text;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

pub use line::line;

/// Lines that may wait for the sink: a few seconds of a busy process.
const QUEUE: usize = 16_384;

/// Bytes that a busy writer hands to the system at once: some eighty lines, so that the call costs a line next to nothing.
pub const BATCH_BYTES: usize = 64 << 10;

/// How often a busy writer looks for lines. Sleeping between looks spares the request path a wake-up a line; each look
/// takes a worker's core from it, and at a few dozen lines a second a hundred looks cost more than the lines.
const PACE: Duration = Duration::from_millis(40);

/// Looks without a line before the writer goes to sleep until the next comes.
const IDLE_LOOKS: u32 = 25;

/// Pauses after which a busy writer looks whether its file is still the one at its path: about a second.
const FILE_LOOKS: u32 = 25;

/// The handle that hands lines over.
#[derive(Debug)]
pub struct Log {
    notes: Option<SyncSender<Note>>,
    dropped: Arc<AtomicU64>,
}

/// What the writer is handed.
#[derive(Debug)]
enum Note {
    Line(Bytes),
    /// Files may have been moved away.
    Reopen,
    /// Nothing follows.
    End,
}

/// Where lines go.
pub enum Sink {
    Stream(Box<dyn Write + Send>),
    File(LogFile),
}

/// A file that lines are appended to, and that may be moved away under the writer.
pub struct LogFile {
    path: PathBuf,
    file: BufWriter<File>,
    /// Why it could not be opened anew, when that was last tried.
    refused: Option<io::ErrorKind>,
}

impl LogFile {
    /// Opens a file, appending; makes it where there is none.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(LogFile { path: path.to_owned(), file: opened(path)?, refused: None })
    }

    /// Whether the file at the path is still the one that is written to.
    fn is_in_place(&self) -> io::Result<bool> {
        let (ours, there) = (self.file.get_ref().metadata()?, fs::metadata(&self.path)?);
        Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    }

    /// Opens the path anew where another file, or none, has come to be there. Where that fails the old one goes on.
    fn follow(&mut self) {
        if self.is_in_place().unwrap_or(false) {
            return;
        }
        // What was held back belongs to what was there.
        let _ = self.file.flush();
        match opened(&self.path) {
            Ok(file) => (self.file, self.refused) = (file, None),
            Err(error) => {
                if self.refused.replace(error.kind()) != Some(error.kind()) {
                    let path = self.path.display();
                    tracing::warn!("log.file {path} was moved away and cannot be opened anew: {error}");
                }
            }
        }
    }
}

fn opened(path: &Path) -> io::Result<BufWriter<File>> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(BufWriter::with_capacity(BATCH_BYTES, file))
}

/// The thread that writes; join it to flush.
pub type Writer = JoinHandle<()>;

impl Log {
    /// Nothing is written.
    pub fn off() -> Self {
        Log { notes: None, dropped: Arc::default() }
    }

    /// Lines go to the sinks.
    pub fn to(sinks: Vec<Sink>) -> io::Result<(Self, Option<Writer>)> {
        if sinks.is_empty() {
            return Ok((Log::off(), None));
        }
        let (sender, receiver) = sync_channel(QUEUE);
        let writer = std::thread::Builder::new().name("access-log".into()).spawn(move || write(&receiver, sinks))?;
        Ok((Log { notes: Some(sender), dropped: Arc::default() }, Some(writer)))
    }

    /// Hands a line over, or drops it when the queue is full.
    pub fn send(&self, line: Bytes) {
        if let Some(notes) = &self.notes
            && notes.try_send(Note::Line(line)).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has the writer look at once whether its file was moved away; it does so by itself within a second of work.
    pub fn reopen(&self) {
        self.tell(Note::Reopen);
    }

    /// Tells the writer that no more lines come. What is queued is still written.
    pub fn close(&self) {
        self.tell(Note::End);
    }

    fn tell(&self, note: Note) {
        if let Some(notes) = &self.notes {
            // With a full queue the writer is busy and looks by itself, or it is stuck and would not hear of it.
            let _ = notes.try_send(note);
        }
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[expect(clippy::disallowed_methods, reason = "the writer has a thread of its own")]
fn pause() {
    std::thread::sleep(PACE);
}

fn write(notes: &Receiver<Note>, mut sinks: Vec<Sink>) {
    let mut idle = 0;
    let mut looks = 0;
    loop {
        let note = match notes.try_recv() {
            Ok(note) => note,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                if idle == 0 {
                    flush(&mut sinks);
                }
                (idle, looks) = (idle + 1, looks + 1);
                if looks >= FILE_LOOKS {
                    looks = 0;
                    follow(&mut sinks);
                }
                if idle < IDLE_LOOKS {
                    pause();
                    continue;
                }
                let Ok(note) = notes.recv() else { break };
                // Nobody has looked while it slept.
                follow(&mut sinks);
                note
            }
        };
        match note {
            Note::Line(line) => {
                idle = 0;
                put(&mut sinks, &line);
            }
            Note::Reopen => follow(&mut sinks),
            Note::End => break,
        }
    }
    flush(&mut sinks);
}

/// Hands a line on. A sink that fails (a closed pipe) loses its own lines only; there is nobody to tell.
fn put(sinks: &mut [Sink], line: &[u8]) {
    for sink in sinks {
        let _ = match sink {
            Sink::Stream(stream) => stream.write_all(line),
            Sink::File(log) => log.file.write_all(line),
        };
    }
}

/// Hands on what sinks hold back; failures as those of [`put`].
fn flush(sinks: &mut [Sink]) {
    for sink in sinks {
        let _ = match sink {
            Sink::Stream(stream) => stream.flush(),
            Sink::File(log) => log.file.flush(),
        };
    }
}

/// Opens files anew that were moved away.
fn follow(sinks: &mut [Sink]) {
    for sink in sinks {
        if let Sink::File(log) = sink {
            log.follow();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_stalls_costs_lines_and_never_a_wait() {
        struct Stalled;
        impl Write for Stalled {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                std::thread::park();
                Ok(0)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (log, _writer) = Log::to(vec![Sink::Stream(Box::new(Stalled))]).expect("thread");
        for _ in 0..QUEUE + 10 {
            log.send(Bytes::from_static(b"{}\n"));
        }
        assert!(log.dropped() >= 9);
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew_and_holds_what_came_after() {
        let folder = std::env::temp_dir().join(format!("portcullis-{}-log", std::process::id()));
        fs::create_dir_all(&folder).expect("is writable");
        let (path, moved) = (folder.join("a.log"), folder.join("a.log.1"));
        let (log, writer) = Log::to(vec![Sink::File(LogFile::open(&path).expect("opens"))]).expect("a thread");
        log.send(Bytes::from_static(b"one\n"));
        // The writer takes up what is queued before it in order.
        log.reopen();
        while fs::metadata(&path).is_ok_and(|file| file.len() == 0) {
            pause();
        }
        fs::rename(&path, &moved).expect("moves");
        log.reopen();
        log.send(Bytes::from_static(b"two\n"));
        log.close();
        writer.expect("a thread").join().expect("ends");
        assert_eq!(fs::read_to_string(&moved).expect("is there"), "one\n");
        assert_eq!(fs::read_to_string(&path).expect("is there"), "two\n");
        fs::remove_dir_all(&folder).expect("is there");
    }
}
