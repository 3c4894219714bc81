//! What an instance holds on the host's side: its lease, and the call it is in.
//!
//! Each call brings its lease, which bounds time, host calls and the size of what comes back; memory is bounded for as long
//! as the instance lives. What exceeds it is a trap: the instance is thrown away, the process goes on.

use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime::{Engine, ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::turn;
use super::words::LastWords;
use crate::guest::pool::MAX_CALLS;
use crate::guest::{Subject, give_way};
use crate::host::{Cx, ticker};

/// Elements of all tables that an instance may grow to; Python's components need about 40,000.
const MAX_TABLE_ELEMENTS: usize = 60_000;

/// Handles that an instance may have at a time. A call of a policy is given two at most, and one that drops none must get
/// through all the calls of its instance.
const MAX_HANDLES: usize = 4096;
const _: () = assert!(MAX_HANDLES > 2 * MAX_CALLS as usize);

/// Entries of the host's own table for WASI: streams, clocks that somebody waits on. Interpreters have some dozens.
const MAX_WASI_ENTRIES: usize = 1024;

/// Most random bytes of one call to WASI: they are made in the gateway's memory first.
const MAX_RANDOM_BYTES: u64 = 1 << 20;

/// The call that an instance is in.
pub struct Call {
    /// Which call of its instance it is.
    pub number: u32,
    pub cx: Arc<Cx>,
    /// What a policy is asked about.
    pub subject: Subject,
}

/// What belongs to one instance.
pub struct Held {
    /// Most linear memory that it may have, in bytes.
    max_memory: usize,
    /// Linear memory it has now, in bytes.
    pub memory: usize,
    /// It was refused more of it.
    pub starved: bool,
    /// None between calls.
    pub call: Option<Call>,
    /// Calls that have begun.
    calls: u32,
    /// An empty context, without files, network or environment; made when a component first asks for WASI.
    wasi: Option<Box<WasiCtx>>,
    /// What it has written in the present call.
    words: LastWords,
    table: ResourceTable,
}

impl Held {
    /// A store for an instance that may have so much memory.
    pub fn store(engine: &Engine, max_memory: usize) -> Store<Held> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_WASI_ENTRIES);
        let words = LastWords::default();
        let held = Held { max_memory, memory: 0, starved: false, call: None, calls: 0, wasi: None, words, table };
        let mut store = Store::new(engine, held);
        store.set_max_component_handles(MAX_HANDLES);
        store.limiter(|held| held);
        store.epoch_deadline_callback(|mut context| {
            let held = context.data_mut();
            // Between calls nothing of a guest has any business to run.
            let Some(cx) = held.cx() else { return Ok(UpdateDeadline::Interrupt) };
            // Counts as a safepoint, where the lease looks at its own clock. There are too few to keep that going.
            ticker::stay_awake();
            Ok(match cx.lease.safepoint() {
                Err(_) => UpdateDeadline::Interrupt,
                Ok(()) if turn::is_over() => {
                    ticker::hurry();
                    match cx.gives_way {
                        // So that a guest which needs its whole lease does not keep others from their turn. The engine's own
                        // way to yield wakes the task at once, and it would be polled again before any socket is looked at.
                        true => UpdateDeadline::YieldCustom(1, Box::pin(give_way())),
                        // Others wait until it ends: it must end in time.
                        false => UpdateDeadline::Continue(1),
                    }
                }
                Ok(()) => UpdateDeadline::Continue(1),
            })
        });
        store
    }

    /// Puts an instance into a call, which brings its own lease.
    pub fn enter(store: &mut Store<Held>, cx: Arc<Cx>, subject: Subject) {
        let held = store.data_mut();
        held.starved = false;
        // Who was never given WASI has had nowhere to write.
        if held.wasi.is_some() {
            held.words.forget();
        }
        let output = cx.lease.budget().output;
        held.calls = held.calls.wrapping_add(1);
        held.call = Some(Call { number: held.calls, cx, subject });
        store.set_hostcall_fuel(output);
        store.set_epoch_deadline(1);
    }

    /// What the call that it is in may do.
    pub fn cx(&self) -> Option<&Arc<Cx>> {
        self.call.as_ref().map(|call| &call.cx)
    }

    /// The end of what it has written in this call, on one line.
    pub fn last_words(&self) -> Option<String> {
        self.words.text()
    }

    /// Which call this is, of those that its instance has served.
    pub fn number(&self) -> u32 {
        self.calls
    }
}

/// WASI with nothing behind it but who keeps its last words. A socket that cannot reach anybody is still a descriptor of this process: there is none.
fn nothing(words: &LastWords) -> WasiCtx {
    let mut context = WasiCtx::builder();
    context.allow_tcp(false).allow_udp(false).max_random_size(MAX_RANDOM_BYTES);
    context.stdout(words.clone()).stderr(words.clone()).build()
}

impl ResourceLimiter for Held {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        // Counts all memories of the component together.
        let after = self.memory.saturating_add(desired.saturating_sub(current));
        if after > self.max_memory {
            // Growth fails inside the guest, which may cope with it, as allocators of C do.
            self.starved = true;
            return Ok(false);
        }
        self.memory = after;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS)
    }
}

impl WasiView for Held {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        // Its random seeds and boxes are a microsecond that most calls of most components never need.
        let ctx = self.wasi.get_or_insert_with(|| Box::new(nothing(&self.words)));
        WasiCtxView { ctx, table: &mut self.table }
    }
}

impl super::bindings::chat::Host for Held {}
impl super::bindings::decision::Host for Held {}
