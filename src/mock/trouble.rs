//! The faults that can be ordered: their names, and how often each strikes. Playing them is [`super::play`]'s work.

use std::str::FromStr;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    RateLimit,
    Quota,
    Credential,
    Forbidden,
    NotFound,
    Invalid,
    Context,
    Policy,
    Internal,
    Unavailable,
    Overloaded,
    StallHead,
    StallFirst,
    StallMid,
    CutHead,
    CutFirst,
    CutMid,
    EofMid,
    Malformed,
    MalformedFirst,
    ErrorFirst,
    ErrorMid,
    Drip,
    Slow,
    Html,
    Empty,
    GarbageSse,
    WrongType,
    NoUsage,
    NoDone,
    HugeFrame,
    Reset,
}

/// Every fault: its name, its kind and what it does, for the list of models.
pub const TROUBLES: &[(&str, Kind, &str)] = &[
    ("429", Kind::RateLimit, "rate limited; the value is retry-after in seconds (1)"),
    ("quota", Kind::Quota, "the account is empty"),
    ("401", Kind::Credential, "the key is wrong"),
    ("403", Kind::Forbidden, "the key may not use the model"),
    ("404", Kind::NotFound, "there is no such model"),
    ("400", Kind::Invalid, "a parameter is wrong"),
    ("context", Kind::Context, "the conversation does not fit"),
    ("policy", Kind::Policy, "the content is refused"),
    ("500", Kind::Internal, "an internal error"),
    ("503", Kind::Unavailable, "unavailable"),
    ("529", Kind::Overloaded, "overloaded"),
    ("stall-head", Kind::StallHead, "accepts and never answers; the value is how long (120s)"),
    ("stall-first", Kind::StallFirst, "stalls before the first content"),
    ("stall-mid", Kind::StallMid, "stalls after some content"),
    ("cut-head", Kind::CutHead, "closes before the head"),
    ("cut-first", Kind::CutFirst, "closes after the head, before content"),
    ("cut-mid", Kind::CutMid, "closes in the middle of a frame, after some content"),
    ("eof-mid", Kind::EofMid, "ends the body cleanly after some content, without the end marker"),
    ("malformed", Kind::Malformed, "invalid JSON, in a stream after some content"),
    ("malformed-first", Kind::MalformedFirst, "invalid JSON before any content"),
    ("error-first", Kind::ErrorFirst, "status 200, then an error event before any content"),
    ("error-mid", Kind::ErrorMid, "an error event after some content"),
    ("drip", Kind::Drip, "one byte at a time; the value is the wait between bytes"),
    ("slow", Kind::Slow, "a late head (2s, or the value) and slow content"),
    ("html", Kind::Html, "an HTML page; the value is the status (502)"),
    ("empty", Kind::Empty, "status 200 with an empty body"),
    ("garbage-sse", Kind::GarbageSse, "an event stream of noise"),
    ("wrong-type", Kind::WrongType, "JSON for a stream request, a stream for a JSON request"),
    ("no-usage", Kind::NoUsage, "no usage anywhere"),
    ("no-done", Kind::NoDone, "finish reason and usage, but no end marker"),
    ("huge-frame", Kind::HugeFrame, "one endless frame; the value is its bytes (40000000)"),
    ("reset", Kind::Reset, "resets the connection: head, first or mid (mid)"),
];

/// One fault with its value, if it has one.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    pub kind: Kind,
    pub value: Option<String>,
}

impl Trouble {
    /// The value as a whole number.
    pub fn number<T: FromStr>(&self) -> Option<T> {
        self.value.as_deref()?.parse().ok()
    }

    /// The name in [`TROUBLES`].
    pub fn name(&self) -> &'static str {
        TROUBLES.iter().find(|(_, kind, _)| *kind == self.kind).map_or("", |(name, ..)| name)
    }
}

impl FromStr for Trouble {
    type Err = String;

    fn from_str(text: &str) -> Result<Trouble, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim().to_owned())),
            None => (text, None),
        };
        match TROUBLES.iter().find(|(known, ..)| *known == name) {
            Some((_, kind, _)) => Ok(Trouble { kind: *kind, value }),
            None => {
                let known: Vec<&str> = TROUBLES.iter().map(|(name, ..)| *name).collect();
                Err(format!("mock: there is no fault `{name}`; there are {}", known.join(", ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_names_every_fault() {
        let readme = include_str!("../../README.md");
        for (name, ..) in TROUBLES {
            assert!(readme.contains(&format!("`{name}`")), "README.md: `{name}` is not among the options of the mock");
        }
    }

    #[test]
    fn every_fault_has_one_name_that_reads_back() {
        for (name, kind, what) in TROUBLES {
            let read: Trouble = name.parse().expect(name);
            assert_eq!((read.kind, read.name()), (*kind, *name));
            assert!(!what.is_empty());
        }
    }
}
