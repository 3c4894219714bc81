//! Guests: code that operators bring along, and what it is lent.
//!
//! Engines are rooms of their own; nothing outside them names one.

#[cfg(feature = "wasm")]
pub mod wasm;
