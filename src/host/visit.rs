//! What guests leave behind in one exchange: their `ctx`, their notes, what they reserved, and the time each has used.
//!
//! Host-side, so that it outlives a machine that is replaced and is the same on every attempt. Bounded: a guest cannot
//! grow an exchange.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::Value;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::limit::Held;
use super::log::{Room, Written};
use super::{Cx, HostError};
use crate::auth::Principal;
use crate::fault::Fault;

/// Entries that all guests together may keep in one exchange, and bytes of one value and of its key.
const MAX_KEPT: usize = 256;
const MAX_VALUE_BYTES: usize = 16 << 10;
const MAX_KEY_BYTES: usize = 256;
/// Bytes of all texts and keys that guests keep in one exchange: they stand beside the memory of their machines.
const MAX_KEPT_BYTES: usize = 1 << 20;
/// Notes of one exchange; further ones are dropped.
const MAX_NOTES: usize = 64;

/// A guest, and how long it has run.
type Spent = (Arc<str>, Duration);

/// One exchange, as its guests share it.
#[derive(Debug)]
pub struct Visit {
    facts: Facts,
    principal: OnceLock<Arc<Principal>>,
    /// What each guest has run.
    spent: Mutex<SmallVec<[Spent; 2]>>,
    kept: Mutex<Entries>,
    notes: Mutex<Vec<Note>>,
    /// What each guest has written into the log.
    written: Mutex<Vec<(Arc<str>, Written)>>,
    /// Guests that were called in it: a bit for each of the first, by their places among the hooks, and the others.
    called: AtomicU64,
    called_late: Mutex<Vec<Arc<str>>>,
    /// Guests that failed in it.
    failed: Mutex<Vec<Arc<str>>>,
    /// Why the ask cannot be read, where a guest wanted to.
    unreadable: OnceLock<Fault>,
    /// Guests that changed its stream, and that has been noted.
    changed: Mutex<Vec<Arc<str>>>,
    /// The conversation it belongs to, where the caller names one.
    conversation: OnceLock<Box<str>>,
    /// Milliseconds after its start at which it must be over.
    total_ms: AtomicU64,
    /// What they have reserved.
    pub held: Held,
}

/// What is known of an exchange when its first guest is called.
#[derive(Debug)]
pub struct Facts {
    pub id: String,
    pub request_id: String,
    pub endpoint: &'static str,
    /// The caller's wire form.
    pub dialect: &'static str,
    pub op: &'static str,
    pub peer: Option<SocketAddr>,
    pub started: Instant,
    pub started_ms: u64,
    /// Number of the generation that serves it.
    pub generation: u64,
    /// How many asks of guests this one is inside of.
    pub depth: u8,
    /// Whether somebody will read what guests decided.
    pub traced: bool,
    /// How long it may take, as far as that is known when its first guest is called; None without a limit.
    pub total: Option<Duration>,
}

/// A value of `ctx`.
#[derive(Debug, Clone, PartialEq)]
pub enum Kept {
    Bool(bool),
    Number(f64),
    Text(Vec<u8>),
}

/// What guests keep, by guest and key.
#[derive(Debug, Clone, Default)]
struct Entries(Vec<(Arc<str>, String, Kept)>);

impl Entries {
    fn place(&self, guest: &Arc<str>, key: &str) -> Option<usize> {
        self.0.iter().position(|(of, name, _)| of == guest && name == key)
    }

    fn get(&self, guest: &Arc<str>, key: &str) -> Option<Kept> {
        self.place(guest, key).map(|at| self.0[at].2.clone())
    }

    fn set(&mut self, guest: &Arc<str>, key: &str, value: Option<Kept>) -> Result<(), HostError> {
        if key.len() > MAX_KEY_BYTES {
            return Err(HostError(format!("ctx takes keys of at most {MAX_KEY_BYTES} bytes, not {}", key.len())));
        }
        if let Some(Kept::Text(text)) = &value
            && text.len() > MAX_VALUE_BYTES
        {
            return Err(HostError(format!("ctx takes texts of at most {MAX_VALUE_BYTES} bytes, not {}", text.len())));
        }
        let at = self.place(guest, key);
        let bytes = |key: &str, value: &Kept| key.len() + if let Kept::Text(text) = value { text.len() } else { 0 };
        if let Some(new) = value.as_ref().map(|value| bytes(key, value)) {
            let others = self.0.iter().enumerate().filter(|(place, _)| Some(*place) != at);
            if others.map(|(_, (_, key, value))| bytes(key, value)).sum::<usize>() + new > MAX_KEPT_BYTES {
                let text = format!("ctx is full: its texts and keys take {MAX_KEPT_BYTES} bytes of an exchange");
                return Err(HostError(text));
            }
            if at.is_none() && self.0.len() >= MAX_KEPT {
                return Err(HostError(format!("ctx is full: it takes {MAX_KEPT} values")));
            }
        }
        self.put(guest, key, value);
        Ok(())
    }

    fn put(&mut self, guest: &Arc<str>, key: &str, value: Option<Kept>) {
        match (self.place(guest, key), value) {
            (Some(at), Some(value)) => self.0[at].2 = value,
            (Some(at), None) => drop(self.0.swap_remove(at)),
            (None, Some(value)) => self.0.push((guest.clone(), key.to_owned(), value)),
            (None, None) => {}
        }
    }
}

/// What guests keep while they look at a stream of which nothing has gone out yet. It may come to nothing, and a hedge may
/// run beside it: until it is the answer, what is kept of it is nobody else's.
#[derive(Debug)]
pub struct Apart(Mutex<Option<Aside>>);

#[derive(Debug)]
struct Aside {
    entries: Entries,
    /// What was written since, by guest and key.
    written: Vec<(Arc<str>, String)>,
}

impl Aside {
    fn set(&mut self, guest: &Arc<str>, key: &str, value: Option<Kept>) -> Result<(), HostError> {
        self.entries.set(guest, key, value)?;
        if !self.written.iter().any(|(of, name)| of == guest && name == key) {
            self.written.push((guest.clone(), key.to_owned()));
        }
        Ok(())
    }
}

impl Cx {
    /// A value that the guest keeps.
    pub fn kept(&self, key: &str) -> Option<Kept> {
        let guest = &self.guest.name;
        if let Some(apart) = &self.apart
            && let Some(aside) = &*lock(&apart.0)
        {
            return aside.entries.get(guest, key);
        }
        self.visit.get(guest, key)
    }

    /// Keeps a value, or with None forgets it.
    ///
    /// # Errors
    /// There are too many, or it or its key is too large.
    pub fn keep(&self, key: &str, value: Option<Kept>) -> Result<(), HostError> {
        let guest = &self.guest.name;
        if let Some(apart) = &self.apart
            && let Some(aside) = &mut *lock(&apart.0)
        {
            return aside.set(guest, key, value);
        }
        self.visit.set(guest, key, value)
    }
}

/// Something a guest wrote into the decision trace.
#[derive(Debug, Clone)]
pub struct Note {
    /// Since the exchange began.
    pub at: Duration,
    pub guest: Arc<str>,
    pub what: Value,
}

impl Deref for Visit {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.facts
    }
}

impl Visit {
    pub fn new(facts: Facts) -> Self {
        let total_ms = AtomicU64::new(facts.total.map_or(u64::MAX, millis));
        Visit {
            facts,
            principal: OnceLock::new(),
            spent: Mutex::default(),
            kept: Mutex::default(),
            notes: Mutex::default(),
            written: Mutex::default(),
            called: AtomicU64::new(0),
            called_late: Mutex::default(),
            failed: Mutex::default(),
            unreadable: OnceLock::new(),
            changed: Mutex::default(),
            conversation: OnceLock::new(),
            total_ms,
            held: Held::default(),
        }
    }

    /// A visit without an exchange: for loading, timers and tests.
    pub fn nobody(generation: u64) -> Self {
        Visit::of_adapter(generation, String::new())
    }

    /// What an adapter leaves behind in the exchange with this id, of which it is shown nothing else.
    pub fn of_adapter(generation: u64, id: String) -> Self {
        Visit::new(Facts {
            id,
            request_id: String::new(),
            endpoint: "",
            dialect: "",
            op: "",
            peer: None,
            started: Instant::now(),
            started_ms: super::time::unix_ms(),
            generation,
            depth: 0,
            traced: false,
            total: None,
        })
    }

    /// Who is calling; None until the key check is done.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.get()
    }

    /// Names the caller. Only the first one counts.
    pub fn identify(&self, principal: Arc<Principal>) {
        let _ = self.principal.set(principal);
    }

    /// How long this guest has run in it.
    pub fn spent(&self, guest: &Arc<str>) -> Duration {
        lock(&self.spent).iter().find(|(of, _)| of == guest).map_or(Duration::ZERO, |(_, spent)| *spent)
    }

    pub fn spend(&self, guest: &Arc<str>, time: Duration) {
        let mut spent = lock(&self.spent);
        match spent.iter_mut().find(|(of, _)| of == guest) {
            Some((_, spent)) => *spent += time,
            None => spent.push((guest.clone(), time)),
        }
    }

    /// How long it may take is known better by now.
    pub fn allow(&self, total: Duration) {
        self.total_ms.store(millis(total), Relaxed);
    }

    /// When it must be over, and how long that is from its start.
    pub fn deadline(&self) -> Option<(Instant, Duration)> {
        let total = Duration::from_millis(self.total_ms.load(Relaxed));
        Some((self.started.checked_add(total)?, total))
    }

    /// Notes that a guest is called, which has this place among the hooks. True for the first time.
    pub fn first_call_of(&self, place: usize, guest: &Arc<str>) -> bool {
        match 1_u64.checked_shl(u32::try_from(place).unwrap_or(u32::MAX)) {
            Some(bit) => self.called.fetch_or(bit, Relaxed) & bit == 0,
            None => enlist(&self.called_late, guest),
        }
    }

    /// Notes that a guest failed. True for the first time.
    pub fn first_failure_of(&self, guest: &Arc<str>) -> bool {
        enlist(&self.failed, guest)
    }

    pub fn has_failed(&self, guest: &Arc<str>) -> bool {
        lock(&self.failed).contains(guest)
    }

    /// Notes that the ask cannot be read, which is its caller's doing and no guest's.
    pub fn cannot_be_read(&self, why: &Fault) {
        let _ = self.unreadable.set(why.clone());
    }

    /// Why a guest that failed with this text could not read the ask, where that was the reason.
    pub fn unreadable(&self, failure: &str) -> Option<&Fault> {
        self.unreadable.get().filter(|fault| failure.contains(&fault.message))
    }

    /// Notes that a guest changed the stream. True for the first time, and where nobody reads notes.
    pub fn first_change_by(&self, guest: &Arc<str>) -> bool {
        !self.traced || enlist(&self.changed, guest)
    }

    /// The caller's own name of the conversation that it belongs to. Only the first one counts.
    pub fn converse(&self, name: &str) {
        let _ = self.conversation.set(name.into());
    }

    /// The conversation's name, where the caller says one.
    pub fn named_conversation(&self) -> Option<&str> {
        self.conversation.get().map(AsRef::as_ref)
    }

    /// What shares go by: the conversation, or the exchange alone where none is named.
    pub fn conversation(&self) -> &str {
        self.named_conversation().unwrap_or(&self.id)
    }

    /// A value that this guest keeps.
    pub fn get(&self, guest: &Arc<str>, key: &str) -> Option<Kept> {
        lock(&self.kept).get(guest, key)
    }

    /// Keeps a value, or with None forgets it.
    ///
    /// # Errors
    /// There are too many, or it or its key is too large.
    pub fn set(&self, guest: &Arc<str>, key: &str, value: Option<Kept>) -> Result<(), HostError> {
        lock(&self.kept).set(guest, key, value)
    }

    /// Room for what guests keep while they look at a stream.
    pub fn apart(&self) -> Apart {
        Apart(Mutex::new(Some(Aside { entries: lock(&self.kept).clone(), written: Vec::new() })))
    }

    /// The stream goes out: what guests have kept apart is what they keep.
    pub fn join(&self, apart: &Apart) {
        let Some(Aside { entries, written }) = lock(&apart.0).take() else { return };
        let mut kept = lock(&self.kept);
        for (guest, key) in written {
            let value = entries.get(&guest, &key);
            kept.put(&guest, &key, value);
        }
    }

    /// Counts a line of the log by this guest.
    pub fn room_for_line(&self, guest: &Arc<str>, bytes: usize) -> Room {
        let mut written = lock(&self.written);
        if let Some((_, written)) = written.iter_mut().find(|(of, _)| of == guest) {
            return written.count(bytes);
        }
        let mut first = Written::default();
        let room = first.count(bytes);
        written.push((guest.clone(), first));
        room
    }

    /// Adds a note for the decision trace.
    pub fn note(&self, guest: &Arc<str>, what: impl FnOnce() -> Value) {
        if !self.traced {
            return;
        }
        let mut notes = lock(&self.notes);
        if notes.len() < MAX_NOTES {
            notes.push(Note { at: self.started.elapsed(), guest: guest.clone(), what: what() });
        }
    }

    /// The notes since the last time.
    pub fn take_notes(&self) -> Vec<Note> {
        std::mem::take(&mut *lock(&self.notes))
    }
}

/// Puts a guest on a list. True when it was not there.
fn enlist(list: &Mutex<Vec<Arc<str>>>, guest: &Arc<str>) -> bool {
    let mut list = lock(list);
    let new = !list.contains(guest);
    if new {
        list.push(guest.clone());
    }
    new
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
