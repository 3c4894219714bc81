//! The types and calls of the contract in `plugins/wit`, generated.
//!
//! Nothing is written by hand here. Exports may wait, as a guest is stopped and let on by the clock; imports that only
//! compute do not.

wasmtime::component::bindgen!({
    path: "plugins/wit",
    world: "provider",
    imports: { default: trappable },
    exports: { default: async },
});

pub use exports::portcullis::gateway::adapter;
pub use portcullis::gateway::chat;
