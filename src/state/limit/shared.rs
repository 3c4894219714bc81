//! Counts that several processes share by way of Redis: one script and one round trip for all rules of an exchange.
//!
//! Every process also counts what it has itself, in the same cells as without Redis, and that is the truth about its own
//! part: whatever was lost or late is put right by stating it anew. So nothing is counted twice, and a server that comes
//! back empty is filled again.

mod elsewhere;
mod keeper;
mod resets;
mod spent;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::redis::{FromRedisValue, Script, ScriptInvocation, Value};
use smallvec::SmallVec;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::cell::{self, Cell, Counts};
use super::fit::{self, Check, Want};
use super::meter::{Meter, Shape, Unit};
use super::rule::Window;
use super::{Charge, Estimate, Hold, Limits, Refusal, WHOLE};
use crate::state::redis::{Away, Link};
pub use elsewhere::Elsewhere;
pub(super) use elsewhere::{Found, Known};
use keeper::Keeper;
pub use resets::told;
use resets::{Heard, Reset};
pub(super) use spent::Spent;

/// Corrections that may wait for the server; past them the counts are stated anew.
const QUEUE: usize = 65_536;

/// Corrections sent in one script.
const BATCH: usize = 128;

/// Longest wait for the server at the process's end.
const CLOSE: Duration = Duration::from_secs(1);

/// What happens to limits while the server is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Each process holds its part: the limit by the number of processes.
    Local,
    /// Nothing is limited.
    Open,
    /// What is limited is refused.
    Closed,
}

/// A change of what this process has of a window.
#[derive(Debug)]
pub(super) struct Correction {
    pub cell: Arc<Cell>,
    pub place: usize,
    pub mark: u64,
    pub reserved: u64,
    pub actual: u64,
    /// Number of the change in its cell, so that it is not sent after a statement that holds it.
    pub number: u64,
}

/// The sharing side of the limiter.
pub struct Shared {
    link: Arc<Link>,
    script: Script,
    /// States what was settled of budgets.
    spending: Script,
    /// This process, among those that share.
    node: String,
    policy: Policy,
    /// Processes that share, as last heard.
    nodes: AtomicU64,
    corrections: mpsc::Sender<Correction>,
    /// Corrections that were not sent yet.
    pending: AtomicU64,
    /// Something was lost: every count must be stated anew.
    behind: AtomicBool,
    /// Rung with it, so that the background side need not wait for its next beat.
    lost: Notify,
    /// Cells of which something is leased.
    pub(super) leased: Mutex<Vec<Arc<Cell>>>,
    /// Nothing is leased any more.
    closing: AtomicBool,
    /// Budgets of which something was settled or refused since the background side looked.
    spent: Mutex<spent::Changed>,
    /// What was heard of other processes' resets.
    heard: Mutex<Heard>,
    /// How often the background side has listened for those, in vain or not.
    listened: AtomicU64,
    /// What was stated of budgets may be gone with a reset.
    budgets_behind: AtomicBool,
}

impl Shared {
    /// Shares the counts of `limits` from now on. Must be called in a runtime, which carries the background work.
    pub fn start(limits: &Arc<Limits>, link: Arc<Link>, policy: Policy) {
        let (corrections, waiting) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            link,
            script: Script::new(include_str!("shared.lua")),
            spending: Script::new(include_str!("shared/spent.lua")),
            node: format!("{:016x}", fastrand::u64(..)),
            policy,
            nodes: AtomicU64::new(1),
            corrections,
            pending: AtomicU64::new(0),
            behind: AtomicBool::new(false),
            lost: Notify::new(),
            leased: Mutex::default(),
            closing: AtomicBool::new(false),
            spent: Mutex::default(),
            heard: Mutex::new(Heard::new()),
            listened: AtomicU64::new(0),
            budgets_behind: AtomicBool::new(false),
        });
        if limits.share(shared.clone()) {
            tokio::spawn(Keeper::new(shared, limits.clone()).run(waiting));
        }
    }

    /// The process ends: gives back what is leased, and waits until the server knows of all that was settled, as long as
    /// it answers in time.
    pub async fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.give_back_leases(self.time(crate::state::unix_ms()), true);
        let told = async {
            while self.pending.load(Ordering::Acquire) > 0 && self.link.is_up() {
                sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(CLOSE, told).await.is_err() {
            tracing::warn!("redis is too slow: the last counts of limits were not told");
        }
    }

    /// The server's time for one of ours: windows of all processes begin at the same moment.
    pub fn time(&self, now: u64) -> u64 {
        self.link.server_time(now)
    }

    /// Takes the estimate from every window of every charge, or from none, on the server; while that is away as the policy
    /// says. `now` is the server's time.
    ///
    /// # Errors
    /// As [`Limits::reserve`]; with `away` set where the policy refuses.
    pub async fn reserve(
        self: &Arc<Self>,
        limits: &Arc<Limits>,
        charges: &[Charge<'_>],
        estimate: &Estimate,
        now: u64,
    ) -> Result<Hold, Box<Refusal>> {
        if charges.is_empty() {
            return limits.reserve(charges, estimate, now);
        }
        if !self.closing.load(Ordering::Relaxed)
            && let Some(hold) = limits.reserve_leased(charges, estimate, now)
        {
            return Ok(hold);
        }
        // Who leaves meanwhile does not know whether the server has counted it. The task does: what it is given then is
        // dropped, and so given back.
        let parts = charges.iter().map(|charge| (charge.rule.clone(), charge.cell.clone(), charge.share));
        let parts: SmallVec<[_; 6]> = parts.collect();
        let (shared, all, sought) = (self.clone(), limits.clone(), *estimate);
        let reserving = tokio::spawn(async move {
            let charges = parts.iter().map(|(rule, cell, share)| Charge { rule, cell: cell.clone(), share: *share });
            let charges: SmallVec<[_; 6]> = charges.collect();
            shared.reserve_there(&all, &charges, &sought, now).await
        });
        reserving.await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The process ends.
            Err(_) => Err(limits.refuse(charges, estimate)),
        })
    }

    /// The same of charges of which nothing is leased. Not to be left before it has ended.
    async fn reserve_there(
        &self,
        limits: &Arc<Limits>,
        charges: &[Charge<'_>],
        estimate: &Estimate,
        now: u64,
    ) -> Result<Hold, Box<Refusal>> {
        let windows = charges.iter().flat_map(|charge| &charge.rule.windows);
        let mut wants: SmallVec<[Want; 8]> = windows.map(|window| estimate.of(window.unit)).collect();
        // Shares are kept among the callers of this process.
        if charges.iter().any(|charge| charge.share.is_some()) {
            let fitting = fit::fit(&mut fit::lock(charges), charges, estimate, now, Check::Full)?;
            wants.iter_mut().zip(fitting.0).for_each(|(want, most)| want.most = most);
        }
        let asking = Asking::new(charges, !self.closing.load(Ordering::Relaxed), now);
        let answered = self.ask(limits, charges, &asking, &wants, now).await;
        if let Ok(answer) = &answered {
            self.carry_out(limits, &answer.resets);
        }
        match answered {
            Ok(answer) if answer.room => {
                let given: SmallVec<[u64; 8]> = answer.windows.iter().map(|window| window.taken).collect();
                let mut hold = limits.reserve_as(charges, estimate, now, Check::Given(&given))?;
                hold.remote(charges, &answer.windows, now);
                Ok(hold)
            }
            Ok(answer) => {
                drop(asking);
                hear(charges, &answer.windows, now);
                let Some(refusal) = refusal(charges, estimate, &answer.windows, now) else {
                    // The script's sums are rounded, ours are not; between the two the script has the last word.
                    return Err(limits.refuse(charges, estimate));
                };
                limits.watch_refusal(&refusal, now);
                Err(refusal)
            }
            Err(away) => {
                if away != Away::Down {
                    // It may have been carried out: our own counts say what is true.
                    self.fall_behind();
                }
                let check = match self.policy {
                    Policy::Open => Check::Never,
                    Policy::Local => Check::Part(self.nodes.load(Ordering::Relaxed).max(1)),
                    Policy::Closed => return Err(limits.refuse(charges, estimate)),
                };
                self.note_away(charges);
                limits.reserve_as(charges, estimate, now, check).map(|mut hold| {
                    hold.away = true;
                    hold
                })
            }
        }
    }

    /// Asks the server. One that does not know this process is new or was emptied: then it is told what the process has of
    /// these counts, at once, and asked again, all within the budget.
    async fn ask(
        &self,
        limits: &Limits,
        charges: &[Charge<'_>],
        asking: &Asking,
        wants: &[Want],
        now: u64,
    ) -> Result<Answer, Away> {
        if !self.link.is_up() {
            return Err(Away::Down);
        }
        if wants.is_empty() {
            return Ok(Answer { room: true, nodes: None, windows: Vec::new(), resets: Vec::new() });
        }
        let deadline = Instant::now() + self.link.budget();
        let mut answer = self.ask_once(charges, asking, wants, now).await?;
        if matches!(answer, Said::Unknown) {
            // Every other count follows by itself.
            self.fall_behind();
            let again = async {
                self.introduce(limits, charges, now).await?;
                self.ask_once(charges, asking, wants, now).await
            };
            answer = timeout_at(deadline, again).await.map_err(|_| Away::Slow)??;
        }
        let Said::Answer(answer) = answer else { return Err(Away::Failed("it forgets at once".to_owned())) };
        if let Some(nodes) = answer.nodes {
            self.nodes.store(nodes.max(1), Ordering::Relaxed);
        }
        Ok(answer)
    }

    async fn ask_once(&self, charges: &[Charge<'_>], asking: &Asking, wants: &[Want], now: u64) -> Result<Said, Away> {
        // Carried out later than anybody waits for, it must not count.
        let mut call = self.call("take", now);
        let mut wanted = wants.iter();
        for (charge, (_, leases)) in charges.iter().zip(&asking.0) {
            for (window, want) in charge.rule.windows.iter().zip(&mut wanted) {
                let quantum = if *leases { charge.wanted(window) } else { 0 };
                call.key(self.key(&charge.cell, window.unit, window.shape));
                arguments(&mut call, window, charge.rule.hard, now, [0, 0, want.most, quantum, want.least]);
            }
        }
        self.say(&call, wants.len()).await
    }

    /// Sends a call about so many windows.
    ///
    /// # Errors
    /// [`Away`]; also where it came too late to be carried out.
    async fn say(&self, call: &ScriptInvocation<'_>, windows: usize) -> Result<Said, Away> {
        match Said::read(self.link.script(call).await?, windows) {
            Some(Said::Late) => Err(Away::Slow),
            Some(said) => Ok(said),
            None => Err(Away::Failed("the script answered something else".to_owned())),
        }
    }

    /// Tells a server that does not know this process what it has of some counts; one that does is told nothing.
    async fn introduce(&self, limits: &Limits, charges: &[Charge<'_>], now: u64) -> Result<(), Away> {
        loop {
            let mut call = self.call("meet", now);
            for Charge { cell, .. } in charges {
                self.state(&mut call, cell, &mut cell.lock(), now);
            }
            if self.stated(limits, &call).await? {
                return Ok(());
            }
        }
    }

    /// Sends a statement. False where a reset that was unheard of kept the server from taking it: that one is carried out,
    /// and what is left may be stated.
    async fn stated(&self, limits: &Limits, call: &ScriptInvocation<'_>) -> Result<bool, Away> {
        match self.say(call, 0).await? {
            Said::Reset(resets) => {
                self.carry_out(limits, &resets);
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    /// Begins a call of the script.
    fn call(&self, mode: &str, now: u64) -> ScriptInvocation<'_> {
        let mut call = self.script.prepare_invoke();
        call.key(self.nodes_key()).key(self.resets_key());
        call.arg(mode).arg(&*self.node).arg(now + self.link.budget().as_millis() as u64).arg(self.last_heard());
        call
    }

    /// Adds what this process has of a cell, with what it has leased, to a call. Gives the number of windows.
    fn state(&self, call: &mut ScriptInvocation<'_>, cell: &Cell, counts: &mut Counts, now: u64) -> usize {
        let mut windows = 0;
        for slot in counts.slots.iter_mut().filter(|slot| slot.share.is_empty()) {
            slot.roll(now);
            let window = Window { unit: slot.unit, shape: slot.shape, limit: slot.limit };
            let amount = u64::try_from(slot.meter.cur).unwrap_or(u64::MAX).saturating_add(slot.leased());
            call.key(self.key(cell, window.unit, window.shape));
            arguments(call, &window, true, now, [slot.meter.start, 0, amount, 0, 0]);
            windows += 1;
        }
        windows
    }

    /// Every count must be stated anew, at once.
    fn fall_behind(&self) {
        self.behind.store(true, Ordering::Relaxed);
        self.lost.notify_one();
    }

    /// The processes that the server knows, by when they last spoke.
    fn nodes_key(&self) -> String {
        format!("{{{}}}:nodes", self.link.prefix)
    }

    /// The name of a window's hash. The prefix is the hash tag: a script's keys must lie on one node of a cluster.
    fn key(&self, cell: &Cell, unit: Unit, shape: Shape) -> String {
        format!("{}{}", self.keys_of(&cell.rule), window(&cell.partition, unit, shape))
    }

    /// How the names of all of a rule's hashes begin. Names of rules have no colon.
    fn keys_of(&self, rule: &str) -> String {
        format!("{}{rule}:", self.keys_of_all())
    }

    /// How the names of all rules' hashes begin.
    fn keys_of_all(&self) -> String {
        format!("{{{}}}:limit:", self.link.prefix)
    }

    /// Queues a correction; never waits.
    pub(super) fn correct(&self, correction: Correction) {
        self.pending.fetch_add(1, Ordering::AcqRel);
        if self.corrections.try_send(correction).is_err() {
            self.pending.fetch_sub(1, Ordering::AcqRel);
            self.fall_behind();
        }
    }
}

/// How the names of a window's hashes end.
fn window(partition: &str, unit: Unit, shape: Shape) -> String {
    format!("{partition}:{}:{}", unit.as_str(), shape.text())
}

/// The kind of a window in the script's words, its length, its begin where that is ours to say, and how long the server
/// keeps it; milliseconds.
fn span(shape: Shape, now: u64) -> (&'static str, u64, u64, u64) {
    const DAY_MS: u64 = 86_400_000;
    match shape {
        Shape::Fixed(length) => ("f", length, 0, length + 60_000),
        Shape::Sliding(length) => ("s", length, 0, 2 * length + 60_000),
        Shape::Bucket(length) => ("b", length, 0, length + 60_000),
        Shape::Calendar(calendar) => {
            let (begin, end) = calendar.bounds(now);
            ("c", end - begin, begin, end - now.min(end) + DAY_MS)
        }
        Shape::Total => ("c", 1, 0, 0),
        Shape::InFlight => ("i", 1, 0, 60_000),
    }
}

/// Eleven arguments for one window, as the script reads them.
fn arguments(
    call: &mut ScriptInvocation<'_>,
    window: &Window,
    hard: bool,
    now: u64,
    [mark, reserved, amount, quantum, least]: [u64; 5],
) {
    let (kind, length, start, ttl) = span(window.shape, now);
    call.arg(kind).arg(length).arg(start).arg(window.limit).arg(u8::from(hard)).arg(ttl);
    call.arg(mark).arg(reserved).arg(amount).arg(quantum).arg(least);
}

/// How a window stands on the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct There {
    pub used: u64,
    /// Taken in advance, beyond the amount.
    pub granted: u64,
    /// What was taken of what was wanted.
    pub taken: u64,
    /// Begin of the window there; of what is not in one, when it was looked at.
    pub start: u64,
    cur: u64,
    prev: u64,
}

impl There {
    /// As a meter of ours counts it, before what was taken.
    pub fn meter(&self, shape: Shape) -> Meter {
        let mut meter = Meter { start: self.start, cur: self.cur.into(), prev: self.prev.into(), ..Meter::default() };
        if let Shape::Bucket(length) = shape {
            meter.cur *= u128::from(length);
        }
        meter
    }
}

struct Answer {
    room: bool,
    /// Processes that share.
    nodes: Option<u64>,
    windows: Vec<There>,
    /// Those that this process had not heard of when it asked.
    resets: Vec<Reset>,
}

/// What the script says.
enum Said {
    Answer(Answer),
    /// It has done as it was told, which needs no answer.
    Done,
    /// It was told later than anybody waits for, and has done nothing.
    Late,
    /// It does not know this process, and has counted nothing.
    Unknown,
    /// Of these resets this process has not heard: nothing was stated.
    Reset(Vec<Reset>),
}

impl Said {
    fn read(value: Value, count: usize) -> Option<Self> {
        let mut parts = Vec::<Value>::from_redis_value(value).ok()?.into_iter();
        let word = String::from_redis_value(parts.next()?).ok()?;
        let room = match word.as_str() {
            "ok" => true,
            "no" => false,
            "unknown" => return Some(Said::Unknown),
            "late" => return Some(Said::Late),
            "reset" => return Reset::read(parts.next()?).map(Said::Reset),
            _ => return None,
        };
        let Some(nodes) = parts.next() else { return Some(Said::Done) };
        let nodes = String::from_redis_value(nodes).ok()?.parse().ok();
        let numbers = Vec::<u64>::from_redis_value(parts.next()?).ok()?;
        let resets = Reset::read(parts.next()?)?;
        let windows = numbers.chunks_exact(6).map(|window| There {
            used: window[0],
            granted: window[4],
            taken: window[5],
            start: window[1],
            cur: window[2],
            prev: window[3],
        });
        let windows: Vec<There> = windows.collect();
        (windows.len() == count).then_some(Said::Answer(Answer { room, nodes, windows, resets }))
    }
}

/// Notes how windows stand there of which nothing was taken.
fn hear(charges: &[Charge<'_>], there: &[There], now: u64) {
    let windows = charges.iter().flat_map(|charge| charge.rule.windows.iter().map(move |window| (charge, window)));
    for ((charge, window), there) in windows.zip(there) {
        let mut counts = charge.cell.lock();
        let place = counts.place(window.unit, window.shape, &WHOLE, window.limit);
        counts.slots[place].heard = Some(Box::new(cell::Heard { meter: there.meter(window.shape), at: now }));
    }
}

/// The windows without room, as the engine's own refusals tell of them.
fn refusal(charges: &[Charge<'_>], estimate: &Estimate, there: &[There], now: u64) -> Option<Box<Refusal>> {
    let windows = charges.iter().flat_map(|charge| charge.rule.windows.iter().map(move |window| (charge, window)));
    let mut worst: Option<Box<Refusal>> = None;
    let mut standing = Vec::new();
    for ((charge, window), there) in windows.zip(there) {
        let amount = estimate.least.of(window.unit);
        let meter = there.meter(window.shape);
        standing.push(super::hold::standing(charge.rule, window, &meter, there.used, now));
        if !charge.rule.hard || u128::from(there.used) + u128::from(amount) <= u128::from(window.limit) {
            continue;
        }
        let wait = meter.wait(window.shape, window.limit, amount, now);
        if worst.as_ref().is_none_or(|known| fit::later(known.wait, wait)) {
            worst = Some(Box::new(Refusal::new(charge, window, estimate, there.used, wait)));
        }
    }
    worst.map(|mut worst| {
        worst.standing = standing;
        worst
    })
}

/// Says of cells that the server is being asked about them, as long as it lives, and of which it is asked for a lease, too:
/// of several exchanges only one is, so that a process never has more than one lease of a count.
struct Asking(Vec<(Arc<Cell>, bool)>);

impl Asking {
    fn new(charges: &[Charge<'_>], may_lease: bool, now: u64) -> Self {
        let cells = charges.iter().map(|charge| {
            let cell = charge.cell.clone();
            cell.asking.fetch_add(1, Ordering::AcqRel);
            cell.asked.fetch_add(1, Ordering::AcqRel);
            let leases = charge.rule.lease > 0 && Shared::is_busy(&cell, now) && may_lease;
            let first = leases && !cell.leasing.swap(true, Ordering::AcqRel);
            (cell, first)
        });
        Asking(cells.collect())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        for (cell, leases) in &self.0 {
            if *leases {
                cell.leasing.store(false, Ordering::Release);
            }
            cell.asking.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({:?})", self.link)
    }
}

#[cfg(test)]
mod tests;
