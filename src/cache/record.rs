//! Recording: answers on their way through an attempt, for those who listen and those who come later.
//!
//! Called by `attempt` with what the upstream said, before it is translated. Without a visit that records, nothing
//! happens here and nothing is copied.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::visit::{Role, Said};
use crate::body::Inbound;
use crate::body::tape::Tape;
use crate::dialect::{Dialect, Op};
use crate::exchange::Exchange;
use crate::route::Target;
use crate::state::State;
use crate::state::cache::flight::Stream;
use crate::state::cache::{Form, Landing};

/// A stream's body, with a tape behind it where the exchange records.
pub fn tap(x: &mut Exchange, body: Inbound, dialect: &'static dyn Dialect, target: &Arc<Target>) -> Inbound {
    let Some(visit) = x.cache.as_mut().filter(|visit| visit.records()) else { return body };
    let (tape, reader) = Tape::of(body, visit.policy.general.max_entry_bytes);
    let hold = Arc::new(tape.hold());
    visit.stream = Some(Stream { tape, dialect, target: target.clone(), hold });
    Inbound::Shared(reader)
}

/// The stream has content: from now on it is this exchange's answer, and others may listen.
pub fn committed(x: &Exchange) {
    if let Some(visit) = &x.cache
        && let (Role::Lead(lead), Some(stream)) = (&visit.role, &visit.stream)
    {
        lead.land(Landing::Streaming(stream.clone()));
    }
}

/// An answer that is there as a whole, `form` being how it came. Kept when it is good, and told to those who listen.
pub fn whole(x: &Exchange, state: &State, dialect: &'static dyn Dialect, target: &Target, form: Form, body: &Bytes) {
    let Some(visit) = x.cache.as_ref().filter(|visit| visit.records()) else { return };
    let seen = &x.seen;
    // The buffer that it came in may be much larger.
    let body = Bytes::copy_from_slice(body);
    let said = Said { dialect, form, body, usage: seen.usage, finish: seen.finish };
    let Some(entry) = visit.make(&x.model, target, said, seen.id.as_deref()) else { return };
    let entry = Arc::new(entry);
    let is_good = matches!(x.op, Op::Embed | Op::EmbedBatch) || visit.keeps(seen.finish);
    if visit.write && is_good {
        if entry.body.len() <= visit.policy.general.max_entry_bytes {
            state.cache.keep(entry.clone());
        } else {
            state.cache.counts.too_long.fetch_add(1, Ordering::Relaxed);
        }
    }
    if let Role::Lead(lead) = &visit.role {
        lead.land(Landing::Done(entry));
    }
}
