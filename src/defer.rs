//! Writing behind whatever is ready.
//!
//! A worker that writes the moment it has something finds its peer asleep each time and wakes it, which costs as much as
//! the rest of a write: on one machine an interrupt of another core. What is to be written therefore lies with the worker
//! until the tasks that are ready have run; then a task of the worker's own writes for all, so that none has to be polled
//! once more for it. With 64 requests under way the wakes that this saves are a tenth of what one costs. A lone one finds
//! nobody before it and loses nothing.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::mem::take;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::task::coop::unconstrained;

/// Longest write that is worth leaving: a longer one costs more than waking somebody does, most of all when its bytes have gone
/// cold by then, and those of clients are copied, and held when they are not taken.
pub const MAX_BYTES_EACH: usize = 16 << 10;

/// Most bytes that lie with a worker; beyond it writers write for themselves.
const MAX_BYTES: usize = 1 << 20;

/// Memory that a worker keeps for them when they have gone out.
const KEPT_BYTES: usize = 128 << 10;

thread_local! {
    static LEFT: RefCell<Left> = RefCell::default();
}

/// What the writers of a worker have left with it since it wrote last.
#[derive(Default)]
struct Left {
    bytes: Vec<u8>,
    /// Who left them, in order, and where each one's end.
    writers: Vec<(Arc<dyn Writer>, usize)>,
    /// The task that writes; None on threads without one, where everybody writes for himself.
    task: Option<Waker>,
}

/// One who leaves something with its worker.
pub trait Writer: Send + Sync {
    /// Writes what it has to write and the bytes that it left. Whose socket takes no more sees to the rest itself.
    fn write(&self, bytes: &[u8], cx: &mut Context<'_>);
}

/// Begins to write for the tasks of this thread, in whose runtime it must be called.
pub fn write_for_all() {
    LEFT.take();
    // Ends with the runtime. It writes for many, and none of them has more than its share.
    tokio::spawn(unconstrained(poll_fn(|cx| {
        write_left(cx);
        Poll::<()>::Pending
    })));
}

/// Has a writer called in the worker's turn, with a copy of these bytes. False where there is no worker, or no room.
pub fn leave(writer: impl FnOnce() -> Arc<dyn Writer>, bufs: &[IoSlice<'_>]) -> bool {
    let len: usize = bufs.iter().map(|buf| buf.len()).sum();
    LEFT.with_borrow_mut(|left| {
        let has_room = left.bytes.len() + len <= MAX_BYTES;
        let Some(task) = left.task.as_ref().filter(|_| has_room) else { return false };
        if left.writers.is_empty() {
            task.wake_by_ref();
        }
        bufs.iter().for_each(|buf| left.bytes.extend_from_slice(buf));
        left.writers.push((writer(), left.bytes.len()));
        true
    })
}

fn write_left(cx: &mut Context<'_>) {
    let (mut bytes, mut writers) = LEFT.with_borrow_mut(|left| {
        left.task.get_or_insert_with(|| cx.waker().clone());
        (take(&mut left.bytes), take(&mut left.writers))
    });
    let mut from = 0;
    for (writer, to) in writers.drain(..) {
        writer.write(&bytes[from..to], cx);
        from = to;
    }
    bytes.clear();
    bytes.shrink_to(KEPT_BYTES);
    LEFT.with_borrow_mut(|left| (left.bytes, left.writers) = (bytes, writers));
}
