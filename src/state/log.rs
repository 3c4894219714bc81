//! The access log: one JSON line an exchange, written by a thread of its own.
//!
//! The request path only hands a line over; when the sink cannot keep up, lines are dropped and counted, never waited
//! for. A file that was moved away, as by logrotate, is opened anew. Prompts, answers and keys are not in it.

mod line;
pub mod text;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
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

/// Lines on their way into a file: handed over in batches, whole, and kept for a while where the file takes nothing.
struct Lines<W> {
    out: W,
    /// Whole lines that wait.
    waiting: Vec<u8>,
    /// What was written last ends within a line.
    torn: bool,
}

impl<W: Write> Lines<W> {
    fn new(out: W) -> Self {
        Lines { out, waiting: Vec::with_capacity(BATCH_BYTES), torn: false }
    }

    /// Takes a line, unless those that wait leave no room for it.
    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        if self.waiting.len() + line.len() > BATCH_BYTES {
            let flushed = self.flush();
            // A line of any length is taken where nothing waits.
            if !self.waiting.is_empty() {
                return flushed.and(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        self.waiting.extend_from_slice(line);
        Ok(())
    }

    /// Writes what waits. What is not taken waits on; of a line that was torn, all of it, on a line of its own.
    fn flush(&mut self) -> io::Result<()> {
        if self.torn && !self.waiting.is_empty() {
            self.out.write_all(b"\n")?;
            self.torn = false;
        }
        let mut written = 0;
        let outcome = loop {
            if written == self.waiting.len() {
                break self.out.flush();
            }
            match self.out.write(&self.waiting[written..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(some) => written += some,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let whole = self.waiting[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.torn |= whole < written;
        self.waiting.drain(..whole);
        outcome
    }
}

/// A file that lines are appended to, and that may be moved away under the writer.
pub struct LogFile {
    path: PathBuf,
    lines: Lines<File>,
    /// Why it could not be opened anew, when that was last tried.
    refused: Option<io::ErrorKind>,
}

impl LogFile {
    /// Opens a file, appending; makes it where there is none.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(LogFile { path: path.to_owned(), lines: Lines::new(opened(path)?), refused: None })
    }

    /// Whether the file at the path is still the one that is written to.
    fn is_in_place(&self) -> io::Result<bool> {
        let (ours, there) = (self.lines.out.metadata()?, fs::metadata(&self.path)?);
        Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    }

    /// Opens the path anew where another file, or none, has come to be there. Where that fails the old one goes on.
    fn follow(&mut self) {
        if self.is_in_place().unwrap_or(false) {
            return;
        }
        // What was held back belongs to what was there, if that takes it.
        let _ = self.lines.flush();
        match opened(&self.path) {
            Ok(file) => (self.lines.out, self.lines.torn, self.refused) = (file, false, None),
            Err(error) => {
                if self.refused.replace(error.kind()) != Some(error.kind()) {
                    let path = self.path.display();
                    tracing::warn!("log.file {path} was moved away and cannot be opened anew: {error}");
                }
            }
        }
    }
}

/// A named pipe is opened for both ends: for one it is not open before somebody reads, and the process would wait for that.
fn opened(path: &Path) -> io::Result<File> {
    let is_pipe = fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo());
    OpenOptions::new().create(!is_pipe).append(true).read(is_pipe).open(path)
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
        let dropped = Arc::<AtomicU64>::default();
        let sinks = sinks.into_iter().map(|sink| Outlet { sink, lost: None }).collect();
        let pen = Pen { sinks, dropped: dropped.clone() };
        let writer = std::thread::Builder::new().name("access-log".into()).spawn(move || pen.run(&receiver))?;
        Ok((Log { notes: Some(sender), dropped }, Some(writer)))
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

/// A sink, and what it has lost since it takes nothing; None while it does.
struct Outlet {
    sink: Sink,
    lost: Option<u64>,
}

impl Outlet {
    /// Hands a line on. True when it was lost.
    fn put(&mut self, line: &[u8]) -> bool {
        let put = match &mut self.sink {
            Sink::Stream(stream) => stream.write_all(line),
            Sink::File(log) => log.lines.put(line),
        };
        let failed = put.is_err();
        if let Err(error) = put {
            self.failed(&error);
            self.lost = self.lost.map(|lost| lost + 1);
        }
        failed
    }

    /// Hands on what is held back.
    fn flush(&mut self) {
        let flushed = match &mut self.sink {
            Sink::Stream(stream) => stream.flush(),
            Sink::File(log) => log.lines.flush(),
        };
        match flushed {
            Err(error) => self.failed(&error),
            Ok(()) => {
                if let Some(lost) = self.lost.take() {
                    tracing::info!("{} takes lines again; {lost} were lost", self.name());
                }
            }
        }
    }

    /// Says so, once for as long as it lasts.
    fn failed(&mut self, error: &io::Error) {
        if self.lost.is_none() {
            self.lost = Some(0);
            tracing::error!(
                "{} takes no lines, and loses what it cannot hold back until it does: {error}",
                self.name()
            );
        }
    }

    fn name(&self) -> String {
        match &self.sink {
            Sink::Stream(_) => "the access log on standard output".to_owned(),
            Sink::File(log) => format!("log.file {}", log.path.display()),
        }
    }
}

/// The writing side.
struct Pen {
    sinks: Vec<Outlet>,
    dropped: Arc<AtomicU64>,
}

impl Pen {
    fn run(mut self, notes: &Receiver<Note>) {
        let mut idle = 0;
        let mut looks = 0;
        loop {
            let note = match notes.try_recv() {
                Ok(note) => note,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    if idle == 0 {
                        self.flush();
                    }
                    (idle, looks) = (idle + 1, looks + 1);
                    if looks >= FILE_LOOKS {
                        looks = 0;
                        self.follow();
                    }
                    if idle < IDLE_LOOKS {
                        pause();
                        continue;
                    }
                    let Ok(note) = notes.recv() else { break };
                    // Nobody has looked while it slept.
                    self.follow();
                    note
                }
            };
            match note {
                Note::Line(line) => {
                    idle = 0;
                    self.put(&line);
                }
                Note::Reopen => self.follow(),
                Note::End => break,
            }
        }
        self.flush();
    }

    /// Hands a line on. A sink that fails loses its own lines only.
    fn put(&mut self, line: &[u8]) {
        // Every one of them, whatever became of it at the others.
        if self.sinks.iter_mut().fold(false, |lost, sink| sink.put(line) | lost) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&mut self) {
        self.sinks.iter_mut().for_each(Outlet::flush);
    }

    /// Opens files anew that were moved away.
    fn follow(&mut self) {
        for outlet in &mut self.sinks {
            if let Sink::File(log) = &mut outlet.sink {
                log.follow();
            }
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
    fn a_full_disk_costs_what_cannot_wait_and_tears_no_line_in_two() {
        /// Takes so many bytes.
        struct Disk(Vec<u8>, usize);
        impl Write for Disk {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                match self.1.min(bytes.len()) {
                    0 if !bytes.is_empty() => Err(io::ErrorKind::StorageFull.into()),
                    some => {
                        self.0.extend_from_slice(&bytes[..some]);
                        self.1 -= some;
                        Ok(some)
                    }
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let line = |number: usize| format!("{{\"n\":{number:06}}}\n").into_bytes();
        let mut lines = Lines::new(Disk(Vec::new(), 20));
        for number in 0..3 {
            lines.put(&line(number)).expect("waits");
        }
        assert_eq!(lines.flush().expect_err("is full").kind(), io::ErrorKind::StorageFull);
        let lost = (3..BATCH_BYTES / 8).filter(|number| lines.put(&line(*number)).is_err()).count();
        assert!(lost > 0 && lines.waiting.len() <= BATCH_BYTES);
        lines.out.1 = usize::MAX;
        lines.flush().expect("has room");
        lines.flush().expect("nothing waits");
        let text = String::from_utf8(lines.out.0).expect("UTF-8");
        let (whole, torn): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.ends_with('}'));
        assert_eq!(torn, ["{\"n\":00"], "the piece that was written");
        assert_eq!(whole.len() + lost, BATCH_BYTES / 8, "every other line is there once");
    }

    #[test]
    fn lines_that_a_sink_does_not_take_are_counted() {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("is there");
        let (log, writer) = Log::to(vec![Sink::Stream(Box::new(full))]).expect("a thread");
        for _ in 0..3 {
            log.send(Bytes::from_static(b"{}\n"));
        }
        log.close();
        writer.expect("a thread").join().expect("ends");
        assert_eq!(log.dropped(), 3);
    }

    #[test]
    fn a_named_pipe_that_nobody_reads_is_opened_at_once() {
        let path = std::env::temp_dir().join(format!("portcullis-{}-pipe", std::process::id()));
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("runs");
        assert!(made.success());
        let (log, writer) = Log::to(vec![Sink::File(LogFile::open(&path).expect("opens"))]).expect("a thread");
        // Keeps the pipe and what is in it.
        let mut reader = File::open(&path).expect("opens");
        log.send(Bytes::from_static(b"one\n"));
        log.close();
        writer.expect("a thread").join().expect("ends");
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).expect("reads");
        assert_eq!(text, "one\n");
        fs::remove_file(&path).expect("is there");
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
