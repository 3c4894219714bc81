//! The stream of a stored response: what is said once more, and was paid for when it was made.
//!
//! Never looks at what goes by but for its end.

use crate::body::Inbound;
use crate::dialect::{Sighting, Sniffer};
use crate::exchange::Subject;
use crate::pipeline::Cx;
use crate::reply::Reply;
use crate::route::Target;
use crate::sse::Frame;
use crate::stream::{Deadline, Framing, Mode, Raw, Relay, Setting};

/// Relays it, however long it is silent until the exchange has to end: it may still be in the making.
pub(super) fn stream(cx: &Cx, x: &Subject<'_>, target: &Target, deadline: Deadline, body: Inbound) -> Reply {
    let sniffer = Ends { sniffer: x.dialect.sniffer(x.op), failed: false };
    let setting = Setting {
        dialect: x.dialect,
        called: None,
        framing: Framing::Sse,
        request_id: x.request_id.to_owned(),
        idle: target.timeouts.total,
        first_token: (deadline.at, target.timeouts.total),
        deadline,
        keep_alive: None,
        max_event_bytes: cx.generation.max_event_bytes,
        add_cost: None,
        at_end: None,
        onward: None,
        input_tokens: 0,
        filter: None,
    };
    Reply::stream(Relay::new(body, Mode::Raw(Raw::new(Box::new(sniffer), false)), setting), true)
}

/// Knows where the stream may end, in whatever way, and tells nothing else.
struct Ends {
    sniffer: Box<dyn Sniffer>,
    failed: bool,
}

impl Sniffer for Ends {
    fn frame(&mut self, frame: &Frame<'_>) -> Sighting {
        self.failed |= self.sniffer.frame(frame).fault.is_some();
        Sighting::default()
    }

    fn complete(&self) -> bool {
        self.failed || self.sniffer.complete()
    }
}
