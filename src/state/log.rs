//! The access log: one JSON line an exchange, written by a thread of its own.
//!
//! The request path only hands a line over; when the sink cannot keep up, lines are dropped and counted, never waited
//! for. Prompts, answers and keys are not in it.

mod line;
pub mod text;

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::Path;
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

/// How often a busy writer looks for lines. Sleeping between looks spares the request path a wake-up a line.
const PACE: Duration = Duration::from_millis(10);

/// Looks without a line before the writer goes to sleep until the next comes.
const IDLE_LOOKS: u32 = 100;

/// The handle that hands lines over.
#[derive(Debug)]
pub struct Log {
    lines: Option<SyncSender<Bytes>>,
    dropped: Arc<AtomicU64>,
}

/// The thread that writes; join it to flush.
pub type Writer = JoinHandle<()>;

impl Log {
    /// Nothing is written.
    pub fn off() -> Self {
        Log { lines: None, dropped: Arc::default() }
    }

    /// Lines go to the sinks.
    pub fn to(sinks: Vec<Box<dyn Write + Send>>) -> io::Result<(Self, Option<Writer>)> {
        if sinks.is_empty() {
            return Ok((Log::off(), None));
        }
        let (sender, receiver) = sync_channel(QUEUE);
        let writer = std::thread::Builder::new().name("access-log".into()).spawn(move || write(&receiver, sinks))?;
        Ok((Log { lines: Some(sender), dropped: Arc::default() }, Some(writer)))
    }

    /// Opens a file sink, appending.
    pub fn file(path: &Path) -> io::Result<Box<dyn Write + Send>> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Box::new(BufWriter::with_capacity(BATCH_BYTES, file)))
    }

    /// Hands a line over, or drops it when the queue is full.
    pub fn send(&self, line: Bytes) {
        if let Some(lines) = &self.lines
            && lines.try_send(line).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells the writer that no more lines come. What is queued is still written.
    pub fn close(&self) {
        // An empty line is the end mark; with a full queue the writer is stuck and will not see one anyway.
        self.send(Bytes::new());
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

fn write(lines: &Receiver<Bytes>, mut sinks: Vec<Box<dyn Write + Send>>) {
    let mut put = |line: Option<&Bytes>| {
        for sink in &mut sinks {
            // A sink that fails (a closed pipe) loses its own lines only; there is nobody to tell.
            let _ = match line {
                Some(line) => sink.write_all(line),
                None => sink.flush(),
            };
        }
    };
    let mut idle = 0;
    loop {
        match lines.try_recv() {
            Ok(line) if line.is_empty() => break,
            Ok(line) => {
                idle = 0;
                put(Some(&line));
            }
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                if idle == 0 {
                    put(None);
                }
                idle += 1;
                if idle < IDLE_LOOKS {
                    pause();
                    continue;
                }
                match lines.recv() {
                    Ok(line) if !line.is_empty() => {
                        idle = 0;
                        put(Some(&line));
                    }
                    Ok(_) | Err(_) => break,
                }
            }
        }
    }
    put(None);
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
        let (log, _writer) = Log::to(vec![Box::new(Stalled)]).expect("thread");
        for _ in 0..QUEUE + 10 {
            log.send(Bytes::from_static(b"{}\n"));
        }
        assert!(log.dropped() >= 9);
    }
}
