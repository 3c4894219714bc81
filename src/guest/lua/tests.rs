//! Scripts as they run: what they see, what they may decide, and that none of them hurts anybody.

mod hostile;
mod phases;
pub(in crate::guest) mod support;
mod turns;
