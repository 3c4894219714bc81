//! Who may still be tried: the plan's targets with what became of each, and the credentials of their pools.
//!
//! Never sends and never waits; moments are brought in.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::fault::{Fault, Kind, Retry as Class};
use crate::route::{Key, Provider, Target};
use crate::state::State;
use crate::state::health::{Flight, Millis, Refused, RefusedBy};

/// The targets of one exchange.
pub(super) struct Roster {
    entries: SmallVec<[Entry; 2]>,
    /// The exchange has nobody else to ask: a breaker that spares those lets it through.
    alone: bool,
}

struct Entry {
    target: Arc<Target>,
    tries: u32,
    /// It takes nothing more of this exchange.
    out: bool,
    /// When it may be asked again, where it must not be asked now.
    ready: Option<Instant>,
    /// Every place is taken; it may be waited for.
    full: bool,
    /// Credentials that were refused in this exchange, by index, and whether that was for asking too often.
    dead: SmallVec<[(u16, bool); 4]>,
}

/// Places taken at a target.
pub(super) struct Places {
    /// Index of the credential.
    pub key: usize,
    pub alias: Option<Arc<str>>,
    pub flight: Flight,
    pub key_flight: Option<Flight>,
    /// When they were taken.
    pub since: Instant,
}

impl Roster {
    pub fn new<'a>(targets: impl IntoIterator<Item = &'a Arc<Target>>) -> Self {
        let entry = |target: &Arc<Target>| Entry {
            target: target.clone(),
            tries: 0,
            out: false,
            ready: None,
            full: false,
            dead: SmallVec::new(),
        };
        let entries: SmallVec<[Entry; 2]> = targets.into_iter().map(entry).collect();
        Roster { alone: entries.len() == 1, entries }
    }

    /// One target of which the exchange is not in need: it has others, or its answer already.
    pub fn spare(target: &Arc<Target>) -> Self {
        Roster { alone: false, ..Roster::new([target]) }
    }

    pub fn target(&self, at: usize) -> &Arc<Target> {
        &self.entries[at].target
    }

    /// Whether there is only one target to try.
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    pub fn tries(&self, at: usize) -> u32 {
        self.entries[at].tries
    }

    /// The first target that was not tried and may be asked now.
    pub fn untried(&self) -> Option<usize> {
        self.entries.iter().position(|entry| entry.tries == 0 && !entry.out && entry.ready.is_none())
    }

    /// How many targets were not tried and may be asked now.
    pub fn untried_count(&self) -> usize {
        self.entries.iter().filter(|entry| entry.tries == 0 && !entry.out && entry.ready.is_none()).count()
    }

    /// Who may go on when a stream of this target breaks off: those that were not tried, and at last itself again.
    pub fn after(&self, at: usize) -> Vec<Arc<Target>> {
        let untried = self.entries.iter().enumerate().filter(|(other, entry)| *other != at && entry.tries == 0);
        untried.map(|(_, entry)| entry.target.clone()).chain([self.entries[at].target.clone()]).collect()
    }

    /// The first target that would take the exchange if a place came free.
    pub fn full(&self) -> Option<usize> {
        self.entries.iter().position(|entry| entry.full)
    }

    /// The target, other than this one, that may be asked again first, and how long until then.
    pub fn elsewhere(&self, than: usize, per_target: u32, now: Instant) -> Option<(usize, Duration)> {
        let others = self.entries.iter().enumerate().filter(|(at, _)| *at != than);
        let open = others.filter(|(_, entry)| !entry.out && entry.tries < per_target);
        open.filter_map(|(at, entry)| Some((at, entry.ready?.saturating_duration_since(now))))
            .min_by_key(|(_, wait)| *wait)
    }

    /// Takes a place at a target and at one of its credentials.
    ///
    /// # Errors
    /// Why it takes nothing now.
    pub fn begin(&mut self, at: usize, state: &State) -> Result<Places, Refused> {
        let alone = self.is_alone();
        let (entry, now) = (&mut self.entries[at], Instant::now());
        let taken = entry.target.record(&state.health).begin_as(state.at(now), alone);
        entry.taken(taken, now, alone, state)
    }

    /// The same, but waits in the target's queue where every place is taken, by this priority.
    ///
    /// # Errors
    /// As [`Roster::begin`], at the end of patience.
    pub async fn enter(
        &mut self,
        at: usize,
        state: &State,
        priority: u8,
        patience: Duration,
    ) -> Result<Places, Refused> {
        let alone = self.is_alone();
        let entry = &mut self.entries[at];
        entry.full = false;
        let taken = entry.target.record(&state.health).enter(state.now(), alone, priority, patience).await;
        entry.taken(taken, Instant::now(), alone, state)
    }

    /// Notes that a try failed: what that means for the target and for the credential it was made with.
    pub fn failed(&mut self, at: usize, key: usize, fault: &Fault, ready: Instant) {
        let entry = &mut self.entries[at];
        entry.ready = Some(ready);
        if fault.kind.is_of_credential()
            && let Ok(key) = u16::try_from(key)
        {
            entry.dead.push((key, fault.kind == Kind::RateLimited));
        }
        // What the target said no to, it will say no to again.
        entry.out |= fault.retry() != Class::Same && !(fault.kind.is_of_credential() && entry.keys().next().is_some());
    }

    /// Whether the target's pool has a credential that was not refused yet and takes requests now.
    pub fn keys_ready(&self, at: usize, now: Millis) -> bool {
        self.entries[at].keys().any(|key| key.is_ready(now))
    }

    /// Forgets which credentials of a target that is asked once more were limited, where no other is ready: they may have
    /// had their rest, which their own records know.
    pub fn rested(&mut self, at: usize, now: Millis) {
        let ready = self.keys_ready(at, now);
        let entry = &mut self.entries[at];
        if !ready {
            entry.dead.retain(|(_, limited)| !*limited);
        }
    }
}

impl Entry {
    fn taken(
        &mut self,
        taken: Result<Flight, Refused>,
        since: Instant,
        alone: bool,
        state: &State,
    ) -> Result<Places, Refused> {
        let provider = &self.target.provider;
        let taken = taken.and_then(|flight| {
            let (key, key_flight) = key(provider, &self.dead, alone, state)?;
            let alias = provider.keys.get(key).map(|key| key.alias.clone());
            Ok(Places { key, alias, flight, key_flight, since })
        });
        match &taken {
            Ok(_) => self.tries += 1,
            Err(refused) => {
                self.full = refused.why == RefusedBy::Full;
                self.ready = refused.retry_after.map(|wait| since + wait);
                self.out = self.ready.is_none();
            }
        }
        taken
    }

    /// The credentials that were not refused in this exchange.
    fn keys(&self) -> impl Iterator<Item = &Key> {
        let keys = self.target.provider.keys.iter().enumerate();
        keys.filter(|(at, key)| key.weight > 0 && !is_dead(&self.dead, *at)).map(|(_, key)| key)
    }
}

fn is_dead(dead: &[(u16, bool)], key: usize) -> bool {
    dead.iter().any(|(dead, _)| usize::from(*dead) == key)
}

/// Picks a credential of the pool and takes a place at it: by weight among those of the lowest order, those of last
/// resort only when all others are out.
/// Nothing to pick where the provider has one. Where all rest, the one that is back first is asked all the same, once an
/// exchange: its limit may be another model's, and with a single credential the request would have gone out too.
fn key(
    provider: &Provider,
    dead: &[(u16, bool)],
    alone: bool,
    state: &State,
) -> Result<(usize, Option<Flight>), Refused> {
    if provider.keys.is_empty() {
        return Ok((0, None));
    }
    let mut passed: SmallVec<[usize; 8]> = SmallVec::new();
    let mut refused: Option<Refused> = None;
    let mut resting: Option<(Duration, usize)> = None;
    loop {
        let left = || {
            let keys = provider.keys.iter().enumerate().filter(|(_, key)| key.weight > 0);
            keys.filter(|(at, _)| !passed.contains(at) && !is_dead(dead, *at))
        };
        let tier = left().map(|(_, key)| (key.last_resort, key.order)).min();
        let first = left().filter(|(_, key)| Some((key.last_resort, key.order)) == tier);
        let Some(at) = drawn(first.map(|(at, key)| (at, key.weight))) else { break };
        let key = &provider.keys[at];
        let record = key.record(provider, &state.health);
        match record.begin(state.now()) {
            Ok(flight) => return Ok((at, Some(flight))),
            Err(why) => {
                passed.push(at);
                let spared = !record.is_dead() || alone && provider.health.spares_lone;
                if let (RefusedBy::Open, Some(wait), true) = (why.why, why.retry_after, spared) {
                    resting = Some(resting.map_or((wait, at), |known| known.min((wait, at))));
                }
                refused = Some(refused.map_or(why, |known| sooner(known, why)));
            }
        }
    }
    if let Some((_, at)) = resting.filter(|_| dead.is_empty())
        && let Ok(flight) = provider.keys[at].record(provider, &state.health).begin_as(state.now(), true)
    {
        return Ok((at, Some(flight)));
    }
    Err(refused.unwrap_or(Refused { why: RefusedBy::Open, retry_after: None }))
}

/// The refusal that ends sooner: that is what a caller wants to know.
fn sooner(one: Refused, other: Refused) -> Refused {
    match (one.retry_after, other.retry_after) {
        (Some(a), Some(b)) if b < a => other,
        (None, Some(_)) => other,
        _ => one,
    }
}

/// One of several by weight.
fn drawn(of: impl Iterator<Item = (usize, u32)> + Clone) -> Option<usize> {
    let total: u64 = of.clone().map(|(_, weight)| u64::from(weight)).sum();
    if total == 0 {
        return None;
    }
    let mut ticket = fastrand::u64(..total);
    for (at, weight) in of {
        match ticket.checked_sub(u64::from(weight)) {
            Some(rest) => ticket = rest,
            None => return Some(at),
        }
    }
    None
}
