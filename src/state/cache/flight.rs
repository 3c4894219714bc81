//! Asks under way: the first of several identical ones leads, the others listen to what it gets.
//!
//! A leader that leaves or fails never takes its listeners along: the flight is given up and one of them leads the next.
//! A failure is told to all only when trying again is known to be of no use, or has been tried often enough.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::entry::{Entry, Key};
use crate::body::tape::{Hold, Reader, Tape};
use crate::chat::Usage;
use crate::dialect::Dialect;
use crate::fault::{Fault, Kind, Retry};
use crate::route::Target;

/// Locks for the flights, so that workers seldom meet.
const SHARDS: usize = 64;

/// Leaders that may fail in a row for a reason that may pass, before all listeners are told.
const MAX_LEADERS: u32 = 3;

/// What became of a flight.
#[derive(Debug, Clone)]
pub enum Landing {
    /// The leader is still trying.
    Trying,
    /// An answer is streaming.
    Streaming(Stream),
    /// The whole answer is there.
    Done(Arc<Entry>),
    Failed(Fault),
    /// The leader is gone, or what it gets cannot be shared; somebody else leads.
    GivenUp,
}

/// An answer that streams.
#[derive(Debug, Clone)]
pub struct Stream {
    pub tape: Arc<Tape>,
    /// The wire form on the tape.
    pub dialect: &'static dyn Dialect,
    pub target: Arc<Target>,
    /// Keeps the sender until the last exchange with it has settled.
    pub hold: Arc<Hold>,
    /// How many purges there were when it was asked for.
    pub since: u64,
}

/// What is done once for a shared stream. One of those who hear it bears its cost, the first, unless that one leaves early
/// while others go on; and one of them keeps it.
#[derive(Debug, Default)]
struct Bill(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    /// The leader and the listeners that have not ended.
    hearing: usize,
    /// The bearer has left; the next one to end takes it.
    unpaid: bool,
    /// What the stream used, as one who heard it to its end knows it: a leader whose client left before the head bears
    /// the cost and heard nothing.
    usage: Option<Usage>,
    /// The most that anybody heard who has ended.
    frames: u64,
    /// More than the leader took part.
    shared: bool,
    kept: bool,
}

/// What an exchange that ends has heard of the stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heard {
    /// All of it.
    pub complete: bool,
    pub usage: Option<Usage>,
    /// Frames with or after the first content.
    pub frames: u64,
}

impl Bill {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an exchange that ends now bears the cost. `leads`: it was the first.
    fn falls_to(&self, leads: bool, heard: Heard) -> bool {
        let mut open = self.open();
        open.usage = open.usage.or(heard.usage.filter(|_| heard.complete));
        open.frames = open.frames.max(heard.frames);
        open.hearing = open.hearing.saturating_sub(1);
        if !leads && !open.unpaid {
            return false;
        }
        let falls = heard.complete || open.hearing == 0;
        open.unpaid = !falls;
        falls
    }
}

/// One party's share in the bill; it is settled once.
#[derive(Debug)]
struct Share(AtomicBool);

impl Share {
    fn taken(bill: &Bill) -> Share {
        let mut open = bill.open();
        open.shared |= open.hearing > 0;
        open.hearing += 1;
        Share(AtomicBool::new(false))
    }

    fn settle(&self, bill: &Bill, leads: bool, heard: Heard) -> bool {
        !self.0.swap(true, Ordering::AcqRel) && bill.falls_to(leads, heard)
    }

    /// It never heard anything.
    fn give_back(&self, bill: &Bill) {
        if !self.0.swap(true, Ordering::AcqRel) {
            let mut open = bill.open();
            open.hearing = open.hearing.saturating_sub(1);
        }
    }
}

/// One ask under way.
#[derive(Debug)]
pub struct Flight {
    key: Key,
    /// How many purges there were when its leader asked.
    since: u64,
    landing: watch::Sender<Landing>,
    /// How many led this ask before and failed.
    failed_before: u32,
    listeners: AtomicUsize,
    bill: Bill,
    /// The leader's task, once its client has left it to the listeners.
    orphan: Mutex<Option<AbortHandle>>,
    flights: Arc<Shards>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.end(self);
    }
}

impl Flight {
    /// Waits until there is something to hear.
    pub async fn landed(&self) -> Landing {
        let mut watched = self.landing.subscribe();
        match watched.wait_for(|landing| !matches!(landing, Landing::Trying)).await {
            Ok(landing) => landing.clone(),
            // The sender is this very value.
            Err(_) => Landing::GivenUp,
        }
    }

    pub fn listeners(&self) -> usize {
        self.listeners.load(Ordering::SeqCst)
    }

    /// The leader's client has gone: its task goes on for the listeners, and ends with the last of them.
    pub fn leave(&self, task: AbortHandle) {
        *self.orphan.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        self.end_if_deserted();
    }

    /// True for the one who is to keep the answer.
    pub fn keep(&self) -> bool {
        !std::mem::replace(&mut self.bill.open().kept, true)
    }

    /// What the stream used, where somebody heard it to its end.
    pub fn usage(&self) -> Option<Usage> {
        self.bill.open().usage
    }

    /// The most frames that anybody heard who has ended.
    pub fn frames(&self) -> u64 {
        self.bill.open().frames
    }

    /// Whether anybody listened.
    pub fn was_shared(&self) -> bool {
        self.bill.open().shared
    }

    pub fn is_kept(&self) -> bool {
        self.bill.open().kept
    }

    /// Who answers, where that is known.
    fn target(&self) -> Option<Arc<Target>> {
        match &*self.landing.borrow() {
            Landing::Streaming(stream) => Some(stream.target.clone()),
            _ => None,
        }
    }

    /// Whoever comes last sees both that nobody listens and that nobody leads.
    fn end_if_deserted(&self) {
        let mut orphan = self.orphan.lock().unwrap_or_else(PoisonError::into_inner);
        if self.listeners() == 0
            && let Some(task) = orphan.take()
        {
            task.abort();
        }
    }
}

/// What an ask is to do.
#[derive(Debug)]
pub enum Join {
    Lead(Lead),
    Listen(Listener),
}

/// One who listens to a flight.
#[derive(Debug)]
pub struct Listener(Arc<Flight>, Share);

impl Listener {
    pub fn flight(&self) -> &Arc<Flight> {
        &self.0
    }

    /// The exchange ends: whether it bears the cost of what it heard.
    pub fn settle(&self, heard: Heard) -> bool {
        self.1.settle(&self.0.bill, false, heard)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.1.give_back(&self.0.bill);
        self.0.listeners.fetch_sub(1, Ordering::SeqCst);
        self.0.flights.listening.fetch_sub(1, Ordering::Relaxed);
        self.0.end_if_deserted();
    }
}

/// The duty to lead. Dropped without a landing, it gives the flight up.
#[derive(Debug)]
pub struct Lead(Arc<Flight>, Share);

impl Lead {
    pub fn key(&self) -> Key {
        self.0.key
    }

    pub fn flight(&self) -> &Arc<Flight> {
        &self.0
    }

    /// The exchange ends: whether it bears the cost of its stream.
    pub fn settle(&self, heard: Heard) -> bool {
        self.1.settle(&self.0.bill, true, heard)
    }

    /// Lets the listeners hear. Later asks still find a stream that runs here, and anything else in the store.
    pub fn land(&self, landing: Landing) {
        let runs = matches!(landing, Landing::Streaming(_));
        self.0.landing.send_replace(landing);
        if !runs {
            self.0.flights.end(&self.0);
        }
    }

    /// The leader failed before anything was heard. Told to all when no other try can help, or when several in a row
    /// have failed; else the next of them leads. `impatient`: it had a time of its own, which says nothing of the others'.
    pub fn fail(&self, fault: &Fault, impatient: bool) {
        let late = fault.kind == Kind::TotalTimeout;
        if late && impatient {
            return self.give_up(self.0.failed_before);
        }
        let failed_before = self.0.failed_before + 1;
        // Time that is up is the leader's: who came later has some left.
        if (fault.retry() == Retry::Never && !late) || failed_before >= MAX_LEADERS {
            self.land(Landing::Failed(fault.clone()));
        } else {
            self.give_up(failed_before);
        }
    }

    fn give_up(&self, failed_before: u32) {
        let flight = &self.0;
        let tries = |landing: &mut Landing| {
            let trying = matches!(landing, Landing::Trying);
            if trying {
                *landing = Landing::GivenUp;
            }
            trying
        };
        let mut shard = flight.flights.shard(flight.key);
        if matches!(*flight.landing.borrow(), Landing::Trying)
            && shard.flying.get(&flight.key).is_some_and(|known| known.is(flight))
        {
            shard.flying.remove(&flight.key);
            if failed_before > 0 && flight.listeners() > 0 {
                let after = Arc::downgrade(flight);
                shard.flying.insert(flight.key, Flying::Next { failed_before, after });
            }
        }
        drop(shard);
        flight.landing.send_if_modified(tries);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.1.give_back(&self.0.bill);
        self.give_up(self.0.failed_before);
    }
}

/// Every flight, by key.
#[derive(Debug, Default)]
pub(super) struct Flights(Arc<Shards>);

#[derive(Debug)]
struct Shards {
    shards: Box<[Mutex<Shard>]>,
    listening: AtomicUsize,
}

impl Default for Shards {
    fn default() -> Self {
        Shards { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), listening: AtomicUsize::new(0) }
    }
}

#[derive(Debug, Default)]
struct Shard {
    flying: HashMap<Key, Flying>,
}

#[derive(Debug)]
enum Flying {
    Now(Weak<Flight>),
    /// Its leader failed; whoever comes first leads, and knows of it. Forgotten with the last of those who have heard of it.
    Next {
        failed_before: u32,
        after: Weak<Flight>,
    },
}

impl Flying {
    /// Whether it is this flight, or what has become of it.
    fn is(&self, flight: &Flight) -> bool {
        let (Flying::Now(known) | Flying::Next { after: known, .. }) = self;
        std::ptr::eq(known.as_ptr(), flight)
    }
}

impl Shards {
    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        self.shards[usize::from(key.0[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A flight that nobody may join any more.
    fn end(&self, flight: &Flight) {
        let mut shard = self.shard(flight.key);
        if shard.flying.get(&flight.key).is_some_and(|known| known.is(flight)) {
            shard.flying.remove(&flight.key);
        }
    }
}

impl Flights {
    /// Leads also where `is_purged` says so of a flight that began after so many purges, to be answered by that target: who
    /// listens to it hears it to its end, and nobody joins them.
    pub(super) fn join(&self, key: Key, since: u64, is_purged: impl Fn(u64, Option<&Target>) -> bool) -> Join {
        // Let go of after the lock: the last one who holds it ends it, which takes the lock.
        let known;
        let mut shard = self.0.shard(key);
        let mut failed_before = 0;
        known = match shard.flying.get(&key) {
            Some(Flying::Now(flight)) => flight.upgrade(),
            Some(Flying::Next { failed_before: failed, .. }) => {
                failed_before = *failed;
                None
            }
            None => None,
        };
        if let Some(flight) = known.as_ref().filter(|flight| !is_purged(flight.since, flight.target().as_deref())) {
            flight.listeners.fetch_add(1, Ordering::SeqCst);
            self.0.listening.fetch_add(1, Ordering::Relaxed);
            let share = Share::taken(&flight.bill);
            return Join::Listen(Listener(flight.clone(), share));
        }
        let (landing, _) = watch::channel(Landing::Trying);
        let flight = Arc::new(Flight {
            key,
            since,
            landing,
            failed_before,
            listeners: AtomicUsize::new(0),
            bill: Bill::default(),
            orphan: Mutex::default(),
            flights: self.0.clone(),
        });
        shard.flying.insert(key, Flying::Now(Arc::downgrade(&flight)));
        let share = Share::taken(&flight.bill);
        Join::Lead(Lead(flight, share))
    }

    /// Those who listen, in all flights together.
    pub(super) fn listening(&self) -> usize {
        self.0.listening.load(Ordering::Relaxed)
    }

    pub(super) fn len(&self) -> usize {
        let shards = self.0.shards.iter();
        shards.map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).flying.len()).sum()
    }
}

impl Stream {
    /// Listens from the beginning; None when that is no longer there.
    pub fn listen(&self) -> Option<Reader> {
        self.tape.join()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::of([b"k".as_slice()])
    }

    fn lead(flights: &Flights) -> Lead {
        match flights.join(key(), 0, |_, _| false) {
            Join::Lead(lead) => lead,
            Join::Listen(_) => panic!("somebody leads already"),
        }
    }

    fn listen(flights: &Flights) -> Listener {
        match flights.join(key(), 0, |_, _| false) {
            Join::Listen(listener) => listener,
            Join::Lead(_) => panic!("nobody leads"),
        }
    }

    #[tokio::test]
    async fn a_leader_that_leaves_hands_over() {
        let flights = Flights::default();
        let first = lead(&flights);
        let listener = listen(&flights);
        assert_eq!(first.flight().listeners(), 1);
        drop(first);
        assert!(matches!(listener.flight().landed().await, Landing::GivenUp));
        let second = lead(&flights);
        let another = listen(&flights);
        second.land(Landing::Failed(Fault::new(Kind::InvalidRequest, "x")));
        assert!(matches!(another.flight().landed().await, Landing::Failed(_)));
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_by_a_few_and_what_cannot_is_told_at_once() {
        let flights = Flights::default();
        let passing = Fault::new(Kind::Overloaded, "busy");
        let mut known = Vec::new();
        for round in 1..=MAX_LEADERS {
            let leader = lead(&flights);
            let listener = listen(&flights);
            // As whoever goes on does until it has joined the next one.
            known.push(listener.flight().clone());
            leader.fail(&passing, false);
            drop(leader);
            match listener.flight().landed().await {
                Landing::GivenUp => assert!(round < MAX_LEADERS),
                Landing::Failed(_) => assert_eq!(round, MAX_LEADERS),
                other => panic!("{other:?}"),
            }
        }
        let leader = lead(&flights);
        let listener = listen(&flights);
        leader.fail(&Fault::new(Kind::InvalidRequest, "no"), false);
        assert!(matches!(listener.flight().landed().await, Landing::Failed(_)));
        drop(leader);
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn time_that_is_up_is_the_leaders_alone() {
        let flights = Flights::default();
        let late = Fault::new(Kind::TotalTimeout, "late");
        // Times that callers set themselves say nothing of the ask, however many there were.
        for _ in 0..=MAX_LEADERS {
            let leader = lead(&flights);
            let listener = listen(&flights);
            leader.fail(&late, true);
            assert!(matches!(listener.flight().landed().await, Landing::GivenUp));
        }
        // The model's own is tried as often as what may pass.
        let mut known = Vec::new();
        for round in 1..=MAX_LEADERS {
            let leader = lead(&flights);
            let listener = listen(&flights);
            known.push(listener.flight().clone());
            leader.fail(&late, false);
            let landed = listener.flight().landed().await;
            assert_eq!(matches!(landed, Landing::Failed(_)), round == MAX_LEADERS, "{landed:?}");
        }
    }

    #[tokio::test]
    async fn that_leaders_failed_is_forgotten_with_the_last_who_heard_of_it() {
        let flights = Flights::default();
        let passing = Fault::new(Kind::Overloaded, "busy");
        // Nobody goes on, however often.
        for _ in 0..=MAX_LEADERS {
            let leader = lead(&flights);
            let listener = listen(&flights);
            leader.fail(&passing, false);
            drop(leader);
            assert!(matches!(listener.flight().landed().await, Landing::GivenUp));
            assert_eq!(flights.len(), 1);
            drop(listener);
            assert_eq!(flights.len(), 0, "what nobody waits for is kept");
        }
        // One goes on, and what it knows is the next one's.
        let leader = lead(&flights);
        let listener = listen(&flights);
        leader.fail(&passing, false);
        let known = listener.flight().clone();
        drop((leader, listener));
        let next = lead(&flights);
        drop(known);
        assert_eq!((next.flight().failed_before, flights.len()), (1, 1));
    }

    #[tokio::test]
    async fn nobody_joins_what_a_purge_was_meant_for_and_who_listens_hears_it() {
        let flights = Flights::default();
        let first = lead(&flights);
        let listener = listen(&flights);
        let purged = |since, target: Option<&Target>| since < 1 && target.is_none();
        let Join::Lead(second) = flights.join(key(), 1, purged) else { panic!("it listens to what was purged") };
        let Join::Listen(another) = flights.join(key(), 1, purged) else { panic!("nobody leads") };
        // The end of the one says nothing of the other.
        first.land(Landing::Failed(Fault::new(Kind::InvalidRequest, "x")));
        assert!(matches!(listener.flight().landed().await, Landing::Failed(_)));
        drop((first, listener));
        assert_eq!((flights.len(), flights.listening()), (1, 1));
        drop(second);
        assert!(matches!(another.flight().landed().await, Landing::GivenUp));
        drop(another);
        assert_eq!((flights.len(), flights.listening()), (0, 0));
    }

    #[test]
    fn the_bill_is_borne_once_whoever_leaves() {
        let (whole, part) = (Heard { complete: true, ..Heard::default() }, Heard::default());
        let flights = Flights::default();
        let (leader, one, two) = (lead(&flights), listen(&flights), listen(&flights));
        assert_eq!([leader.settle(whole), one.settle(whole), two.settle(part)], [true, false, false]);
        assert_eq!([leader.settle(whole), one.settle(whole)], [false, false], "settled twice");
        drop((leader, one, two));
        // The first leaves early, then the second; the third ends well and pays.
        let (leader, one, two) = (lead(&flights), listen(&flights), listen(&flights));
        assert_eq!([leader.settle(part), one.settle(part), two.settle(whole)], [false, false, true]);
        drop((leader, one, two));
        // All leave: the last one bears what was seen; who never heard anything does not count.
        let (leader, one, two) = (lead(&flights), listen(&flights), listen(&flights));
        drop(two);
        assert_eq!([leader.settle(Heard { frames: 7, ..part }), one.settle(part)], [false, true]);
        assert_eq!((one.flight().frames(), one.flight().was_shared()), (7, true));
        drop((leader, one));
        assert!(!lead(&flights).flight().was_shared());
    }
}
