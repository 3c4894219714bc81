//! What a component writes to its standard output and error. Nobody reads that, but the last of it is told of a call that
//! breaks: it is where languages say why they give up, Rust in a panic, C in an `assert`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes of it that are kept.
const KEPT: usize = 1024;

/// What Rust adds to every panic: of no use here, where there is no environment to set it in.
const HINT: &str = "note: run with `RUST_BACKTRACE";

/// The end of what was written in the present call.
#[derive(Clone, Default)]
pub struct LastWords(Arc<Mutex<Vec<u8>>>);

impl LastWords {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn forget(&self) {
        self.lock().clear();
    }

    /// On one line; None where nothing was written.
    pub fn text(&self) -> Option<String> {
        let kept = self.lock();
        let kept = String::from_utf8_lossy(&kept);
        let lines = kept.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(HINT));
        let text = lines.collect::<Vec<_>>().join(" ");
        (!text.is_empty()).then_some(text)
    }

    fn add(&self, bytes: &[u8]) {
        let mut kept = self.lock();
        kept.extend_from_slice(&bytes[bytes.len().saturating_sub(KEPT)..]);
        let over = kept.len().saturating_sub(KEPT);
        kept.drain(..over);
    }
}

impl IsTerminal for LastWords {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LastWords {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    /// Of later versions of WASI, which no component is given.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

impl OutputStream for LastWords {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.add(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(KEPT)
    }
}

#[async_trait]
impl Pollable for LastWords {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_on_one_line() {
        let words = LastWords::default();
        assert_eq!(words.text(), None);
        words.add("ä".repeat(KEPT).as_bytes());
        words.add(b"\nthread '<unnamed>' panicked at src/lib.rs:7:9:\nno such field\n");
        words.add(b"note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n");
        let text = words.text().expect("something was written");
        assert!(text.ends_with("ä thread '<unnamed>' panicked at src/lib.rs:7:9: no such field"), "{text}");
        assert!(text.len() <= KEPT + '\u{fffd}'.len_utf8(), "{}", text.len());
        words.forget();
        assert_eq!(words.text(), None);
    }
}
