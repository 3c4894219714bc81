//! The bound on the real time of a test: says when it is over, to whoever asks and to whoever waits.
//!
//! Ends nothing itself. The clock of the runtime cannot tell: it is the test's own.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::watch;

/// Watches over one span after the other, on a thread that ends with it.
pub(super) struct Watch {
    /// Each test may take so long.
    pub span: Duration,
    begin: mpsc::Sender<u64>,
    /// The present span.
    number: AtomicU64,
    /// The last span that is over without another having begun in time.
    over: watch::Receiver<u64>,
}

impl Watch {
    /// Begins the first span.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn new(span: Duration) -> Result<Watch, String> {
        let (begin, begun) = mpsc::channel();
        let (tell, over) = watch::channel(0);
        let thread = std::thread::Builder::new().name("test-watch".into());
        thread.spawn(move || run(&begun, &tell, span)).map_err(|error| format!("a test cannot be watched: {error}"))?;
        let watch = Watch { span, begin, number: AtomicU64::new(0), over };
        watch.renew();
        Ok(watch)
    }

    /// Begins another span.
    pub fn renew(&self) {
        let number = self.number.fetch_add(1, Relaxed) + 1;
        // The thread is there as long as we are.
        let _ = self.begin.send(number);
    }

    pub fn is_over(&self) -> bool {
        *self.over.borrow() == self.number.load(Relaxed)
    }

    /// Ends when the present span does.
    pub async fn over(&self) {
        let number = self.number.load(Relaxed);
        let _ = self.over.clone().wait_for(|over| *over == number).await;
    }
}

fn run(begun: &Receiver<u64>, tell: &watch::Sender<u64>, span: Duration) {
    let mut next = begun.recv().ok();
    while let Some(number) = next {
        next = match begun.recv_timeout(span) {
            Ok(number) => Some(number),
            Err(RecvTimeoutError::Timeout) => {
                tell.send_replace(number);
                begun.recv().ok()
            }
            Err(RecvTimeoutError::Disconnected) => None,
        };
    }
}
