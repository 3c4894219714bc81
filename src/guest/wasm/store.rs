//! What an instance holds on the host's side: its lease, and the host functions it may call.
//!
//! A lease is renewed for each call and bounds processor time, memory, host calls and the size of what comes back. What
//! exceeds it is a trap: the instance is thrown away, the process goes on.

use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::bindings::portcullis::gateway::{hash, json, log, rand, time};
use super::engine::{Machine, TICK};
use crate::host;

/// How much one call of a guest may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Processor time, counted in ticks of [`TICK`]; an instance's first call and its start get ten times as much.
    pub cpu: std::time::Duration,
    /// Linear memory of one instance, in bytes.
    pub memory: usize,
    pub host_calls: u32,
    /// Bytes copied out of the guest in one crossing: results, and arguments of host functions.
    pub output: usize,
}

impl Default for Lease {
    fn default() -> Self {
        Lease {
            // Enough for a 64 KiB body in an interpreted language (reference: 7 to 123 ms), with room.
            cpu: std::time::Duration::from_millis(500),
            memory: 64 << 20,
            host_calls: 100_000,
            output: 32 << 20,
        }
    }
}

/// Longest line that a guest writes to the log, in bytes.
const MAX_LOG_BYTES: usize = 4 << 10;

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
    /// Only for components that import WASI: an empty context, without files, network or environment.
    wasi: Option<Box<WasiCtx>>,
    table: ResourceTable,
}

impl Held {
    /// A store for an instance of the plugin.
    pub fn store(machine: &Arc<Machine>, plugin: &Arc<str>, lease: Lease, wasi: bool) -> Store<Held> {
        let held = Held {
            plugin: plugin.clone(),
            lease,
            machine: machine.clone(),
            ticks_left: 0,
            host_calls_left: 0,
            host_bytes_left: 0,
            memory: 0,
            wasi: wasi.then(|| Box::new(WasiCtx::default())),
            table: ResourceTable::new(),
        };
        let mut store = Store::new(&machine.engine, held);
        store.limiter(|held| held);
        store.set_hostcall_fuel(lease.output);
        store.epoch_deadline_callback(|mut context| {
            let held = context.data_mut();
            held.machine.wind();
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

    /// Counts a host call that works on so many bytes: the clock sees only the guest's own work.
    fn call(&mut self, bytes: usize) -> wasmtime::Result<()> {
        let calls = self.host_calls_left.checked_sub(1);
        self.host_calls_left =
            calls.ok_or_else(|| wasmtime::Error::msg(format!("more than {} host calls", self.lease.host_calls)))?;
        let left = self.host_bytes_left.checked_sub(bytes);
        self.host_bytes_left = left.ok_or_else(|| wasmtime::Error::msg("too many bytes given to host functions"))?;
        Ok(())
    }
}

impl ResourceLimiter for Held {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        // Counts all memories of the component together.
        let after = self.memory.saturating_add(desired.saturating_sub(current));
        if after > self.lease.memory {
            // Growth fails inside the guest, which may cope with it, as allocators of C do.
            return Ok(false);
        }
        self.memory = after;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 60_000)
    }
}

impl WasiView for Held {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        // A component without WASI imports never comes here; the linker has seen to it.
        let ctx = self.wasi.get_or_insert_with(|| Box::new(WasiCtx::default()));
        WasiCtxView { ctx, table: &mut self.table }
    }
}

impl super::bindings::chat::Host for Held {}

impl log::Host for Held {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.call(message.len())?;
        let end = message.floor_char_boundary(MAX_LOG_BYTES);
        let (plugin, text) = (&*self.plugin, &message[..end]);
        match level {
            log::Level::Debug => tracing::debug!(plugin, "{text}"),
            log::Level::Info => tracing::info!(plugin, "{text}"),
            log::Level::Warn => tracing::warn!(plugin, "{text}"),
            log::Level::Error => tracing::error!(plugin, "{text}"),
        }
        Ok(())
    }
}

/// The value at a pointer of a document.
fn at(document: &str, pointer: &str) -> Option<serde_json::Value> {
    let mut value: serde_json::Value = serde_json::from_str(document).ok()?;
    value.pointer_mut(pointer).map(serde_json::Value::take)
}

impl json::Host for Held {
    fn get(&mut self, document: String, pointer: String) -> wasmtime::Result<Option<String>> {
        self.call(document.len())?;
        Ok(at(&document, &pointer).map(|value| value.to_string()))
    }

    fn get_string(&mut self, document: String, pointer: String) -> wasmtime::Result<Option<String>> {
        self.call(document.len())?;
        Ok(at(&document, &pointer).and_then(|value| match value {
            serde_json::Value::String(text) => Some(text),
            _ => None,
        }))
    }

    fn get_number(&mut self, document: String, pointer: String) -> wasmtime::Result<Option<f64>> {
        self.call(document.len())?;
        Ok(at(&document, &pointer).and_then(|value| value.as_f64()))
    }

    fn length(&mut self, document: String, pointer: String) -> wasmtime::Result<Option<u32>> {
        self.call(document.len())?;
        let length = at(&document, &pointer).and_then(|value| match value {
            serde_json::Value::Array(list) => Some(list.len()),
            serde_json::Value::Object(object) => Some(object.len()),
            _ => None,
        });
        Ok(length.and_then(|length| u32::try_from(length).ok()))
    }

    fn quote(&mut self, text: String) -> wasmtime::Result<String> {
        self.call(text.len())?;
        Ok(serde_json::Value::String(text).to_string())
    }

    fn valid(&mut self, document: String) -> wasmtime::Result<bool> {
        self.call(document.len())?;
        Ok(serde_json::from_str::<serde::de::IgnoredAny>(&document).is_ok())
    }
}

impl hash::Host for Held {
    fn sha256(&mut self, data: Vec<u8>) -> wasmtime::Result<String> {
        self.call(data.len())?;
        Ok(host::hash::sha256(&data))
    }

    fn hmac_sha256(&mut self, key: Vec<u8>, data: Vec<u8>) -> wasmtime::Result<String> {
        self.call(key.len() + data.len())?;
        Ok(host::hash::hmac_sha256(&key, &data))
    }

    fn base64_encode(&mut self, data: Vec<u8>) -> wasmtime::Result<String> {
        self.call(data.len())?;
        Ok(host::hash::base64(&data))
    }

    fn base64_decode(&mut self, text: String) -> wasmtime::Result<Option<Vec<u8>>> {
        self.call(text.len())?;
        Ok(host::hash::unbase64(text.as_bytes()))
    }
}

impl time::Host for Held {
    fn now_ms(&mut self) -> wasmtime::Result<u64> {
        self.call(0)?;
        Ok(host::time::unix_ms())
    }
}

impl rand::Host for Held {
    fn float(&mut self) -> wasmtime::Result<f64> {
        self.call(0)?;
        Ok(fastrand::f64())
    }
}
