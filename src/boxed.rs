//! Futures that are made where they stay.

use std::pin::Pin;

/// A future made in its box. With [`Box::pin`] it is made before, and all of it is moved there, the room for what it will need
/// later too: two to six kilobytes.
pub fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}
