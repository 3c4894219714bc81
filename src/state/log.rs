//! The access log: one JSON line an exchange, written by a thread of its own.
//!
//! The request path only hands a line over; when the sink cannot keep up, lines are dropped and counted, never waited
//! for. Prompts, answers and keys are not in it.

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
use serde::Serialize;

use crate::cost;
use crate::exchange::{Attempt, Exchange};
use crate::settle::Settled;

/// Lines that may wait for the sink: a few seconds of a busy process.
const QUEUE: usize = 16_384;

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
        Ok(Box::new(BufWriter::new(OpenOptions::new().create(true).append(true).open(path)?)))
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

/// One line, newline included.
pub fn line(settled: &Settled<'_>) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    // The record is our own type with string keys: it always serialises.
    let _ = serde_json::to_writer(&mut out, &Record::new(settled));
    out.push(b'\n');
    out.into()
}

#[derive(Serialize)]
struct Record<'a> {
    time: Time,
    id: &'a str,
    request_id: &'a str,
    key: Option<&'a str>,
    project: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a std::collections::BTreeMap<String, String>>,
    peer: Option<std::net::SocketAddr>,
    endpoint: &'a str,
    dialect: &'a str,
    operation: &'a str,
    model: &'a str,
    provider: Option<&'a str>,
    target_model: Option<&'a str>,
    upstream_model: Option<&'a str>,
    upstream_id: Option<&'a str>,
    stream: bool,
    /// As it ended: a stream that broke is a failure.
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error<'a>>,
    finish: Option<&'static str>,
    ttft_ms: Option<Millis>,
    duration_ms: Millis,
    overhead_ms: Millis,
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    usage_estimated: bool,
    cost_usd: Option<f64>,
    bytes_in: u64,
    bytes_out: u64,
    attempts: Vec<Try<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    dropped: &'a [(&'static str, &'static str)],
    generation: u64,
}

#[derive(Serialize)]
struct Error<'a> {
    code: &'a str,
    side: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
}

#[derive(Serialize)]
struct Try<'a> {
    provider: &'a str,
    model: &'a str,
    at_ms: Millis,
    took_ms: Millis,
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

#[derive(Serialize)]
struct Usage {
    input: u64,
    output: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_read: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_write: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_audio: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_audio: Option<u64>,
}

impl<'a> Record<'a> {
    fn new(settled: &'a Settled<'_>) -> Self {
        let x: &Exchange = settled.exchange;
        let target = x.target();
        let usage = settled.usage.map(|usage| Usage {
            input: usage.input,
            output: usage.output,
            cache_read: usage.cache_read,
            cache_write: usage.cache_write,
            reasoning: usage.reasoning,
            input_audio: usage.input_audio,
            output_audio: usage.output_audio,
        });
        Record {
            time: Time(x.started_ms),
            id: &x.id,
            request_id: &x.request_id,
            key: x.principal.as_ref().map(|principal| principal.key.as_str()),
            project: x.principal.as_ref().and_then(|principal| principal.project.as_deref()),
            metadata: x.principal.as_ref().map(|principal| &principal.metadata).filter(|labels| !labels.is_empty()),
            peer: x.peer,
            endpoint: x.endpoint,
            dialect: x.dialect.name(),
            operation: x.op.as_str(),
            model: &x.model,
            provider: target.map(|target| target.provider.name.as_str()),
            target_model: target.map(|target| target.model.as_str()),
            upstream_model: x.seen.model.as_deref(),
            upstream_id: x.seen.id.as_deref(),
            stream: x.stream,
            status: settled.status,
            error: settled.fault.map(|fault| Error {
                code: fault.code(),
                side: fault.side().as_str(),
                message: &fault.message,
                source: fault.source.as_deref(),
            }),
            finish: x.seen.finish.map(crate::chat::Finish::as_str),
            ttft_ms: x.seen.first_content.map(|at| Millis(at.duration_since(x.started))),
            duration_ms: Millis(settled.ended.duration_since(x.started)),
            overhead_ms: Millis(x.overhead_at_head),
            usage,
            usage_estimated: settled.estimated,
            cost_usd: settled.cost_nano_usd.map(cost::nano_to_f64),
            bytes_in: x.bytes_in,
            bytes_out: x.bytes_out,
            attempts: x.attempts.iter().map(Try::new).collect(),
            dropped: &x.dropped,
            generation: x.generation,
        }
    }
}

impl<'a> Try<'a> {
    fn new(attempt: &'a Attempt) -> Self {
        Try {
            provider: &attempt.target.provider.name,
            model: &attempt.target.model,
            at_ms: Millis(attempt.at),
            took_ms: Millis(attempt.took),
            status: attempt.status,
            error: attempt.fault.as_ref().map(crate::fault::Fault::code),
            message: attempt.fault.as_ref().map(|fault| fault.message.as_str()),
        }
    }
}

/// A span in milliseconds with three decimals.
struct Millis(Duration);

impl Serialize for Millis {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_micros() as f64 / 1000.0)
    }
}

/// Unix milliseconds as RFC 3339 in UTC.
struct Time(u64);

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + Duration::from_millis(self.0)).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Time(951_782_400_123).to_string(), "2000-02-29T00:00:00.123Z");
        assert_eq!(Time(1_795_342_228_000).to_string(), "2026-11-22T10:10:28.000Z");
    }

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
