//! Recording: answers on their way through an attempt, for those who listen and those who come later.
//!
//! Called by `attempt` with what the upstream said, before it is translated; what an adapter decoded it tells in the
//! caller's form, as nobody could read the upstream's again. Without a visit that records, nothing happens here and
//! nothing is copied.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::semantic;
use super::visit::{Role, Said, Visit};
use crate::body::Inbound;
use crate::body::tape::Tape;
use crate::dialect::{Dialect, Op};
use crate::exchange::Exchange;
use crate::route::Target;
use crate::state::State;
use crate::state::cache::flight::Stream;
use crate::state::cache::{Form, Landing};

/// What an attempt heard of its upstream. Of several attempts only the one that answers is kept.
pub enum Recorded {
    Stream(Stream),
    /// An answer that is there as a whole, `form` being how it came.
    Whole {
        dialect: &'static dyn Dialect,
        target: Arc<Target>,
        form: Form,
        body: Bytes,
    },
}

/// A stream's body, with a tape behind it where the exchange records.
pub fn tap(
    visit: Option<&Visit>,
    body: Inbound,
    dialect: &'static dyn Dialect,
    target: &Arc<Target>,
) -> (Inbound, Option<Recorded>) {
    let Some(visit) = visit.filter(|visit| visit.records()) else { return (body, None) };
    let (tape, reader) = Tape::of(body, visit.policy.general.max_entry_bytes);
    let hold = Arc::new(tape.hold());
    let stream = Stream { tape, dialect, target: target.clone(), hold, since: visit.since };
    (Inbound::Shared(reader), Some(Recorded::Stream(stream)))
}

/// An attempt's answer is this exchange's. Of a stream others may hear from now on; a whole answer is kept when it is
/// good, and told to those who listen.
pub fn answered(x: &mut Exchange, state: &State, recorded: Recorded) {
    match recorded {
        Recorded::Stream(stream) => {
            let Some(visit) = &mut x.cache else { return };
            visit.stream = Some(stream.clone());
            if let Role::Lead(lead) = &visit.role {
                lead.land(Landing::Streaming(stream));
            }
        }
        Recorded::Whole { dialect, target, form, body } => whole(x, state, dialect, &target, form, &body),
    }
}

fn whole(x: &mut Exchange, state: &State, dialect: &'static dyn Dialect, target: &Target, form: Form, body: &Bytes) {
    let Some(visit) = x.cache.as_ref().filter(|visit| visit.records()) else { return };
    let seen = &x.seen;
    // The buffer that it came in may be much larger.
    let body = Bytes::copy_from_slice(body);
    let said = Said { dialect, form, body, usage: seen.usage, finish: seen.finish };
    let Some(entry) = visit.make(&x.model, target, said, seen.id.as_deref()) else { return };
    let entry = Arc::new(entry);
    let is_good = matches!(x.op, Op::Embed | Op::EmbedBatch | Op::Rerank) || visit.keeps(seen.finish);
    let fits = entry.body.len() <= visit.policy.general.max_entry_bytes;
    let is_kept = visit.write && is_good && fits && state.cache.keep(entry.clone(), visit.since);
    if is_kept {
        semantic::keep(visit, &entry, &state.cache.vectors);
    } else if visit.write && is_good && !fits {
        state.cache.counts.too_long.fetch_add(1, Ordering::Relaxed);
    }
    if let Role::Lead(lead) = &visit.role {
        lead.land(Landing::Done(entry));
    }
    if let Some(visit) = &mut x.cache {
        visit.write = is_kept;
    }
}
