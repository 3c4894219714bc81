//! WebAssembly plugins: loading them, lending out their instances, and calling the contract of `plugins/wit`.
//!
//! The only room that knows wasmtime. A plugin gets nothing but its lease and the host functions: no file, no socket, no
//! environment. What goes wrong in one costs one request and one instance.

mod bindings;
mod compiled;
mod convert;
mod cut;
mod engine;
pub mod fixture;
mod functions;
mod plugin;
mod policy;
mod pool;
mod provider;
mod signature;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

pub use bindings::adapter::AuthKind;
pub use compiled::Compiled;
pub use engine::Machine;
pub use plugin::{Bytes, Loading, Shape, shape};
#[cfg(test)]
pub(in crate::guest) use policy::tests::try_probe as probe;
pub use policy::{Described, Policy};
pub use provider::{Description, Taught};
pub use signature::{Signed, beside, keygen, sign, signature};
pub use store::Lease;

/// A name that lives as long as the process. Each distinct name is kept once, however often its plugin is swapped: wire
/// forms are told apart by static names in a great many places, and plugins are few.
fn interned(name: &str) -> &'static str {
    static NAMES: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let names = names.get_or_insert_default();
    match names.get(name) {
        Some(known) => known,
        None => {
            let kept: &'static str = Box::leak(name.into());
            names.insert(kept);
            kept
        }
    }
}
