//! Streams of answers that are known already: an adapter's whole answer, or what a guest says in a model's place.

use std::time::Duration;

use tokio::time::Instant;

use super::{Deadline, Filter, Framing, Mode, Raw, Relay, Setting, Watch};
use crate::body::Inbound;
use crate::chat::{Answer, event};
use crate::dialect::{Asked, Dialect};
use crate::fault::Kind;

/// A stream that says a whole answer at once, in the caller's dialect, as if an upstream of that dialect had sent it.
pub fn said(answer: &Answer, asked: &Asked, framing: Framing, setting: Said) -> Relay {
    let Said { dialect, request_id, limit, filter } = setting;
    let mut encoder = dialect.encoder(asked);
    let mut out = Vec::new();
    for event in event::replay(answer) {
        encoder.event(&event, &mut out);
    }
    encoder.finish(&mut out);
    let mode = match &filter {
        Some(_) => Mode::Translate {
            decoder: dialect.decoder(),
            encoder: dialect.encoder(asked),
            events: Vec::new(),
            watch: Some(Watch::new(false)),
        },
        None => Mode::Raw(Raw::new(dialect.sniffer(asked.op), false)),
    };
    let at = Instant::now() + limit;
    let setting = Setting {
        dialect,
        called: None,
        framing,
        request_id,
        idle: limit,
        first_token: (at, limit),
        deadline: Deadline { at, limit, kind: Kind::TotalTimeout, callers: false },
        keep_alive: None,
        // It is whole and bounded already.
        max_event_bytes: usize::MAX,
        add_cost: None,
        at_end: None,
        filter,
        onward: None,
        input_tokens: 0,
    };
    Relay::new(Inbound::Ready(Some(out.into())), mode, setting)
}

/// For whom [`said`] speaks, and how long it may take to be read.
pub struct Said {
    pub dialect: &'static dyn Dialect,
    pub request_id: String,
    pub limit: Duration,
    /// Who looks at it on its way.
    pub filter: Option<Box<dyn Filter>>,
}
