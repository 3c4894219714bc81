//! WebAssembly plugins: loading them, lending out their instances, and calling the contract of `plugins/wit`.
//!
//! The only room that knows wasmtime. A plugin gets nothing but its lease and the host functions: no file, no socket, no
//! environment. What goes wrong in one costs one request and one instance.

mod bindings;
mod compiled;
mod convert;
mod engine;
pub mod fixture;
mod functions;
mod plugin;
mod policy;
mod pool;
mod provider;
mod shape;
mod signature;
mod store;
#[cfg(test)]
mod tests;
mod turn;
mod words;

pub use compiled::Compiled;
pub use engine::Machine;
pub use plugin::{Bytes, Loading};
#[cfg(test)]
pub(in crate::guest) use policy::tests::try_probe as probe;
pub use policy::{Described, Policy};
pub use provider::Taught;
pub use shape::Shape;
pub use signature::{Signed, beside, keygen, sign, signature};
