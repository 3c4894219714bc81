//! What an instance holds on the host's side: its lease, and the call it is in.
//!
//! An adapter's lease is renewed here for each call; a policy's is that of its call. Both bound processor time, memory,
//! host calls and the size of what comes back. What exceeds it is a trap: the instance is thrown away, the process goes on.

use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::engine::{Machine, TICK};
use crate::guest::Subject;
use crate::guest::adapter::Lease;
use crate::guest::pool::MAX_CALLS;
use crate::host::{Cx, lease};

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

/// The call of a policy that an instance is in.
pub struct Call {
    /// Which call of its instance it is.
    pub number: u32,
    pub cx: Arc<Cx>,
    pub subject: Subject,
}

/// What belongs to one instance.
pub struct Held {
    plugin: Arc<str>,
    lease: Lease,
    machine: Arc<Machine>,
    ticks_left: u64,
    host_calls_left: u32,
    host_bytes_left: usize,
    /// Linear memory it has now, in bytes.
    pub memory: usize,
    /// It was refused more of it.
    pub starved: bool,
    /// None for adapters, and between calls.
    pub call: Option<Call>,
    /// Calls of a policy that have begun.
    calls: u32,
    /// Only for components that import WASI: an empty context, without files, network or environment.
    wasi: Option<Box<WasiCtx>>,
    table: ResourceTable,
}

impl Held {
    /// A store for an instance of the plugin.
    pub fn store(machine: &Arc<Machine>, plugin: &Arc<str>, lease: Lease, wasi: bool) -> Store<Held> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_WASI_ENTRIES);
        let held = Held {
            plugin: plugin.clone(),
            lease,
            machine: machine.clone(),
            ticks_left: 0,
            host_calls_left: 0,
            host_bytes_left: 0,
            memory: 0,
            starved: false,
            call: None,
            calls: 0,
            wasi: wasi.then(|| Box::new(nothing())),
            table,
        };
        let mut store = Store::new(&machine.engine, held);
        store.set_max_component_handles(MAX_HANDLES);
        store.limiter(|held| held);
        store.set_hostcall_fuel(lease.output);
        store.epoch_deadline_callback(|mut context| {
            let held = context.data_mut();
            held.machine.wind();
            if let Some(cx) = held.cx() {
                // Counts as a safepoint, where the lease looks at its own clock. There are too few to keep that going.
                lease::stay_awake();
                return Ok(match cx.lease.safepoint() {
                    Err(_) => UpdateDeadline::Interrupt,
                    Ok(()) if cx.awaits => UpdateDeadline::Yield(1),
                    Ok(()) => UpdateDeadline::Continue(1),
                });
            }
            held.ticks_left = held.ticks_left.saturating_sub(1);
            // Yields, so that a guest which needs its whole lease does not keep others from their turn.
            Ok(if held.ticks_left == 0 { UpdateDeadline::Interrupt } else { UpdateDeadline::Yield(1) })
        });
        store
    }

    /// Renews the lease for one call. `times` is 1, or more for a start.
    pub fn renew(store: &mut Store<Held>, times: u32) {
        let held = store.data_mut();
        let ticks = held.lease.cpu.as_micros() / TICK.as_micros();
        held.ticks_left = u64::try_from(ticks).unwrap_or(u64::MAX).max(1).saturating_mul(u64::from(times));
        held.host_calls_left = held.lease.host_calls;
        held.host_bytes_left = held.lease.output.saturating_mul(2);
        held.machine.wind();
        store.set_epoch_deadline(1);
    }

    /// Puts an instance into a call of a policy, which brings its own lease.
    pub fn enter(store: &mut Store<Held>, cx: Arc<Cx>, subject: Subject) {
        let held = store.data_mut();
        held.starved = false;
        held.machine.wind();
        let output = cx.lease.budget().output;
        held.calls = held.calls.wrapping_add(1);
        held.call = Some(Call { number: held.calls, cx, subject });
        store.set_hostcall_fuel(output);
        store.set_epoch_deadline(1);
    }

    /// What a policy's call is about; None for adapters.
    pub fn cx(&self) -> Option<&Arc<Cx>> {
        self.call.as_ref().map(|call| &call.cx)
    }

    /// Which call of a policy this is, of those that its instance has served.
    pub fn number(&self) -> u32 {
        self.calls
    }

    /// The plugin's name.
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// Counts an adapter's host call that works on so many bytes: the clock sees only the guest's own work.
    ///
    /// # Errors
    /// There were too many.
    pub fn count(&mut self, bytes: usize) -> wasmtime::Result<()> {
        let calls = self.host_calls_left.checked_sub(1);
        self.host_calls_left =
            calls.ok_or_else(|| wasmtime::Error::msg(format!("more than {} host calls", self.lease.host_calls)))?;
        let left = self.host_bytes_left.checked_sub(bytes);
        self.host_bytes_left = left.ok_or_else(|| wasmtime::Error::msg("too many bytes given to host functions"))?;
        Ok(())
    }
}

/// WASI with nothing behind it. A socket that cannot reach anybody is still a descriptor of this process: there is none.
fn nothing() -> WasiCtx {
    WasiCtx::builder().allow_tcp(false).allow_udp(false).max_random_size(MAX_RANDOM_BYTES).build()
}

impl ResourceLimiter for Held {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        // Counts all memories of the component together.
        let after = self.memory.saturating_add(desired.saturating_sub(current));
        if after > self.lease.memory {
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
        // A component without WASI imports never comes here; the linker has seen to it.
        let ctx = self.wasi.get_or_insert_with(|| Box::new(nothing()));
        WasiCtxView { ctx, table: &mut self.table }
    }
}

impl super::bindings::chat::Host for Held {}
impl super::bindings::decision::Host for Held {}
