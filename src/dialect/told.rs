//! How much of a frame its events tell: whether the frame may go on in their place, as it came.
//!
//! For streams that somebody looks at event by event although both sides speak one dialect. When in doubt a frame is
//! [`Told::Partly`]: then only its events go on, and nobody's client sees what nobody looked at.

/// What the events of a frame are to the frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Told {
    /// It says more than its events, or something whose events come later.
    #[default]
    Partly,
    /// Everything that it says, and perhaps what `foreign` fields say, which the gateway does not know. Some servers
    /// repeat in those what was said before.
    Wholly {
        foreign: bool,
        /// The choice that it says the role of, for which there is no event.
        role: Option<u32>,
    },
    /// It says how the stream ends, and its events come when the stream has ended. With `usage` that is all it does, and
    /// `last` is the dialect's final mark.
    Ending { foreign: bool, usage: bool, last: bool },
}
