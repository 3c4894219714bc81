//! The turns of calls: which call runs on this thread, how long it has had of its lease, and when others are to run.
//!
//! What runs on a thread is told by [`RUNNING`], which is set around every turn and never across one. A call that may give
//! way does so at the first safepoint at which its turn has been long enough; inside of C functions that call back, which
//! no coroutine can leave, it goes on to its next one. One that has ended is left where it is in the same way, for good.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use mlua::{Error, FromLuaMulti, IntoLuaMulti, Lua, Thread, VmState};
use tokio::time::Instant;

use crate::guest::give_way;
use crate::guest::view::{KINDS, Kind, Request, Subject};
use crate::host::{Cx, Killed, ticker};

/// Safepoints between two looks at the clock: calls that are short never look, and those of a loop are soon there.
const SAFEPOINTS_A_LOOK: u32 = 64;

thread_local! {
    /// The call that runs on this thread now.
    static RUNNING: RefCell<Option<Now>> = const { RefCell::new(None) };
}

/// A call under way.
pub(super) struct Running {
    pub cx: Cx,
    /// What the script is shown, by the numbers that stand for it: first what it was called with.
    shown: Mutex<Shown>,
    /// The line of the script at which it was ended, as `file:line`.
    ended_at: OnceLock<String>,
    id: OnceLock<usize>,
}

/// A call that is shown something while this lives.
pub(super) struct Showing<'a>(&'a Running);

impl Drop for Showing<'_> {
    fn drop(&mut self) {
        self.0.unshow();
    }
}

#[derive(Default)]
struct Shown {
    first: Option<(usize, Subject)>,
    others: Vec<(usize, Subject)>,
}

impl Shown {
    fn iter(&self) -> impl Iterator<Item = &(usize, Subject)> {
        self.first.iter().chain(&self.others)
    }
}

/// Bits of a number, its kind apart, that count those of one thread; the others tell the thread.
const THREAD_SHIFT: u32 = 40;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The number given last. Nothing has 0, which is `gw.null`.
    static LAST: Cell<usize> = Cell::new(THREADS.fetch_add(1, Relaxed) << THREAD_SHIFT);
}

/// A number for a view of this kind that nothing in the process has had.
pub(super) fn number(kind: usize) -> usize {
    let number = LAST.get() + 1;
    LAST.set(number);
    number * KINDS.len() + kind
}

/// A call in one of its turns.
struct Now {
    call: Arc<Running>,
    began: Cell<Instant>,
    /// The tick at which the clock was last looked at.
    tick: Cell<u64>,
    until_look: Cell<u32>,
    /// It has been told to give way.
    is_over: Cell<bool>,
    /// It has ended, and was told at its last safepoint to stay where it is.
    stays: Cell<bool>,
}

/// What a call has run so far.
#[derive(Default)]
pub(super) struct Spent {
    /// Used up before it began.
    before: Duration,
    /// Its own time.
    pub cpu: Duration,
    /// Ticks that passed while the clock stood still, as tests hold it: a loop must end there, too.
    still: u64,
}

impl Spent {
    pub fn after(before: Duration) -> Self {
        Spent { before, ..Spent::default() }
    }

    fn of_lease(&self) -> Duration {
        self.before + self.cpu + Duration::from_millis(self.still)
    }
}

impl Running {
    /// One that gives way must run on a coroutine.
    pub fn new(cx: Cx) -> Self {
        Running { cx, shown: Mutex::default(), ended_at: OnceLock::new(), id: OnceLock::new() }
    }

    /// A number that no other call has.
    pub fn id(&self) -> usize {
        *self.id.get_or_init(|| number(0))
    }

    /// Where the script was when its budget was used up, if that was in the script itself.
    pub fn ended_at(&self) -> Option<&str> {
        self.ended_at.get().map(String::as_str)
    }

    /// Notes where the script is, if its budget has just been used up inside of a function of the gateway's.
    pub fn look(&self, lua: &Lua) {
        if self.cx.lease.killed().is_some()
            && self.ended_at.get().is_none()
            && let Some(place) = place(lua)
        {
            let _ = self.ended_at.set(place);
        }
    }

    /// Why it does not go on, if its budget is used up.
    pub fn ended(&self) -> Option<Error> {
        let lease = &self.cx.lease;
        lease.killed().map(|killed| Error::runtime(lease.explain(killed)))
    }

    /// Shows the script something: the number that stands for it, until the call has ended. None where there is nothing to see.
    pub fn show(&self, view: Subject) -> Option<usize> {
        let number = number(view.kind()?);
        let mut shown = self.shown();
        let same = |(_, known): &&(usize, Subject)| match (known, &view) {
            (Subject::Request(known), Subject::Request(view)) => Arc::ptr_eq(known, view),
            _ => false,
        };
        if let Some((number, _)) = shown.iter().find(same) {
            return Some(*number);
        }
        match shown.first {
            None => shown.first = Some((number, view)),
            Some(_) => shown.others.push((number, view)),
        }
        Some(number)
    }

    /// What a number stands for.
    pub fn seen(&self, number: usize) -> Option<Subject> {
        let shown = self.shown();
        shown.iter().find(|(known, _)| *known == number).map(|(_, view)| view.clone())
    }

    /// The ask that it is about.
    pub fn request(&self) -> Option<Arc<Request>> {
        self.shown().iter().find_map(|(_, subject)| match subject {
            Subject::Request(request) => Some(request.clone()),
            Subject::Try(next) => Some(next.request.clone()),
            _ => None,
        })
    }

    /// The kind of what was shown last and has such a method.
    pub fn kind_with(&self, method: &str) -> Option<Kind> {
        let shown = self.shown();
        let kinds = shown.iter().filter_map(|(_, view)| Some(KINDS[view.kind()?]));
        kinds.filter(|kind| kind.has_method(method)).last()
    }

    /// Takes back what it was shown: a script that keeps a number keeps nothing alive.
    pub fn unshow(&self) {
        *self.shown() = Shown::default();
    }

    /// Does so when what this gives is dropped. Whoever waits may never be asked to go on, and its machine holds on to the call
    /// until it is collected.
    pub fn showing(&self) -> Showing<'_> {
        Showing(self)
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a part of the call, which is metered: all of it, or one turn.
    pub fn turn<T>(self: &Arc<Self>, spent: &mut Spent, part: impl FnOnce() -> T) -> T {
        let lease = &self.cx.lease;
        lease.resume(spent.of_lease());
        let (began, tick, excused) = (Instant::now(), ticker::tick_now(), lease.excused());
        let now = Now {
            call: self.clone(),
            began: Cell::new(began),
            tick: Cell::new(tick),
            until_look: Cell::new(SAFEPOINTS_A_LOOK),
            is_over: Cell::new(false),
            stays: Cell::new(false),
        };
        let turn = Turn { before: RUNNING.replace(Some(now)) };
        let done = part();
        drop(turn);
        let (took, excused) = (began.elapsed(), lease.excused().saturating_sub(excused));
        let still = if took.is_zero() { ticker::tick_now().saturating_sub(tick) } else { 0 };
        spent.still += still;
        lease.over(took + Duration::from_millis(still), excused);
        spent.cpu += took.saturating_sub(excused);
        done
    }

    /// Whether it has been told to give way in the turn that this thread is in.
    fn gave_way(&self) -> bool {
        RUNNING
            .try_with(|running| {
                let running = running.borrow();
                running.as_ref().is_some_and(|now| std::ptr::eq(&raw const *now.call, self) && now.is_over.get())
            })
            // A thread that ends runs nothing.
            .unwrap_or(false)
    }
}

/// Marks a call as the one that runs, for as long as this lives.
struct Turn {
    before: Option<Now>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(ended) = RUNNING.replace(self.before.take()) {
            ended.call.cx.lease.pause();
        }
    }
}

impl Now {
    /// Whether the present turn has been long enough.
    fn is_long(&self) -> bool {
        let (tick, left) = (ticker::tick_now(), self.until_look.get());
        if left > 0 && tick == self.tick.get() {
            self.until_look.set(left - 1);
            return false;
        }
        self.until_look.set(SAFEPOINTS_A_LOOK);
        let ticked = self.tick.replace(tick) != tick;
        let took = self.began.get().elapsed();
        // A clock that is held still says nothing, and the ticks do.
        took >= ticker::TURN || ticked && took.is_zero()
    }

    fn safepoint(&self, lua: &Lua) -> mlua::Result<VmState> {
        // Whoever gives way comes to the same safepoint again, and it must count once. Who cannot has to go on counting.
        if self.call.cx.gives_way && !self.is_over.get() && self.is_long() {
            self.is_over.set(true);
            return Ok(VmState::Yield);
        }
        let lease = &self.call.cx.lease;
        match lease.safepoint() {
            Ok(()) if self.is_over.get() => Ok(VmState::Yield),
            Ok(()) => Ok(VmState::Continue),
            Err(killed) => {
                self.call.look(lua);
                // To throw out of thousands of `pcall`s takes far longer than a budget. Where nothing can be left, they are 200
                // at most, and what was told in vain comes to its next safepoint, where it is thrown.
                if self.call.cx.gives_way && !self.stays.replace(!self.stays.get()) {
                    return Ok(VmState::Yield);
                }
                Err(Error::runtime(lease.explain(killed)))
            }
        }
    }
}

/// Functions that are looked through for a line of the script's: those of the library, which call each other, and one.
const MAX_LEVELS: usize = 8;

/// The line of a script that runs now.
fn place(lua: &Lua) -> Option<String> {
    (0..MAX_LEVELS).find_map(|level| {
        let here = lua.inspect_stack(level, |here| (here.source().short_src.map(Cow::into_owned), here.current_line()));
        let (Some(source), Some(line)) = here? else { return None };
        source.ends_with(".luau").then(|| format!("{source}:{line}"))
    })
}

/// A safepoint of whatever runs on this thread.
///
/// # Errors
/// Its budget is used up.
pub(super) fn safepoint(lua: &Lua) -> mlua::Result<VmState> {
    RUNNING.with_borrow(|running| running.as_ref().map_or(Ok(VmState::Continue), |now| now.safepoint(lua)))
}

/// A safepoint of the call that runs, for loops of ours, which cannot give way.
///
/// # Errors
/// Its budget is used up.
pub(super) fn step() -> mlua::Result<()> {
    RUNNING.with_borrow(|running| match running {
        Some(now) => {
            let lease = &now.call.cx.lease;
            lease.safepoint().map_err(|killed| Error::runtime(lease.explain(killed)))
        }
        None => Ok(()),
    })
}

/// Does native work for the call that runs, where there is one: see [`crate::host::Lease::work`].
pub(super) fn working<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    match RUNNING.with_borrow(|running| running.as_ref().map(|now| now.call.clone())) {
        Some(call) => call.cx.lease.work(bytes, work),
        None => work(),
    }
}

/// Whether the call that runs may do native work that takes so long, and that nothing can stop.
pub(super) fn has_time_for(span: Duration) -> bool {
    RUNNING.with_borrow(|running| running.as_ref().is_none_or(|now| now.call.cx.lease.has_time_for(span)))
}

/// The call that runs has no memory left: it has ended, whoever catches that.
pub(super) fn out_of_memory(lua: &Lua) {
    RUNNING.with_borrow(|running| {
        if let Some(now) = running {
            now.call.cx.lease.kill(Killed::Memory);
            now.call.look(lua);
        }
    });
}

/// Whether the budget of the call that runs is used up.
pub(super) fn has_ended() -> bool {
    RUNNING.with_borrow(|running| running.as_ref().is_some_and(|now| now.call.cx.lease.killed().is_some()))
}

/// The call that runs was told to give way and cannot: it has another turn.
pub(super) fn again() {
    RUNNING.with_borrow(|running| {
        if let Some(now) = running {
            now.is_over.set(false);
            now.began.set(Instant::now());
        }
    });
}

/// Looks at the call that runs on this thread, for what scripts call.
pub(super) fn with_running<T>(look: impl FnOnce(&Arc<Running>) -> mlua::Result<T>) -> mlua::Result<T> {
    RUNNING.with_borrow(|running| match running {
        Some(now) => look(&now.call),
        None => Err(Error::runtime("nothing of the gateway's is running")),
    })
}

/// The call that runs on this thread, for what outlives a look at it.
pub(super) fn running() -> mlua::Result<Arc<Running>> {
    with_running(|running| Ok(running.clone()))
}

/// Does work of the gateway's own inside a call: it costs the script nothing.
pub(super) fn excused<T>(work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    RUNNING.with_borrow(|running| {
        if let Some(now) = running {
            now.call.cx.lease.excuse(began.elapsed());
        }
    });
    done
}

/// Goes on with a coroutine in a turn of its call: what it returned, or None when it has given way.
///
/// # Errors
/// What it threw, or why it has ended.
pub(super) fn resume<T: FromLuaMulti>(
    call: &Running,
    coroutine: &Thread,
    args: impl IntoLuaMulti,
) -> mlua::Result<Option<T>> {
    let mut returned = coroutine.resume::<T>(args)?;
    while coroutine.is_resumable() {
        if let Some(ended) = call.ended() {
            return Err(ended);
        }
        if call.gave_way() {
            return Ok(None);
        }
        // Whoever yields outside of coroutines of their own hears what they would hear on no coroutine at all.
        returned = coroutine.resume_error::<T>("attempt to yield from outside a coroutine")?;
    }
    Ok(Some(returned))
}

/// What wakes a call that waits for host functions: the engine would also do so at the end of each turn, at once.
struct Bell {
    task: Waker,
    call: Arc<Running>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Whoever gives way is woken in due time, whatever else there is to wake them for.
        if !self.call.gave_way() {
            self.task.wake_by_ref();
        }
    }
}

/// How one call is polled while it waits: its waker, made anew only when its task's changes.
#[derive(Default)]
pub(super) struct Waking {
    /// The task's waker, and the call's.
    bell: Option<(Waker, Waker)>,
    /// It gave way, perhaps after it had looked whether what it waits for has come, and before it said that it waits: what
    /// woke it since has to be looked at again.
    unheard: bool,
    /// Others have their turn until this is over.
    way: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Waking {
    /// Polls a call's future in a turn of the call.
    pub fn poll<F: Future>(
        &mut self,
        call: &Arc<Running>,
        mut future: Pin<&mut F>,
        task: &mut Context<'_>,
    ) -> Poll<F::Output> {
        let bell = match &self.bell {
            Some((of, bell)) if of.will_wake(task.waker()) => bell,
            _ => {
                let bell = Arc::new(Bell { task: task.waker().clone(), call: call.clone() });
                &self.bell.insert((task.waker().clone(), bell.into())).1
            }
        };
        loop {
            if let Some(way) = &mut self.way {
                ready!(way.as_mut().poll(task));
                self.way = None;
            }
            let polled = future.as_mut().poll(&mut Context::from_waker(bell));
            if polled.is_pending() && call.gave_way() {
                self.unheard = true;
                // Polled here and now: it asks for the task to be woken.
                let way = self.way.insert(Box::pin(give_way()));
                ready!(way.as_mut().poll(task));
            } else if polled.is_pending() && std::mem::take(&mut self.unheard) {
                continue;
            }
            return polled;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::guest::lua::tests::support::load;
    use crate::host::Phase;

    /// What the engine does with a call that is told to give way just after it has looked for an answer, which comes then.
    #[test]
    fn what_wakes_a_call_that_gives_way_is_not_lost() {
        let stand = load("function on_request() end");
        let call = Arc::new(Running::new(stand.cx(Phase::Request)));
        let mut polls = 0;
        let mut future = pin!(std::future::poll_fn(|_| {
            polls += 1;
            match polls {
                1 => RUNNING.with_borrow(|running| running.as_ref().expect("runs").is_over.set(true)),
                // The coroutine goes on to say that it waits, and nobody looks.
                2 => {}
                _ => return Poll::Ready(()),
            }
            Poll::Pending
        }));
        let (mut spent, mut waking) = (Spent::default(), Waking::default());
        let mut task = Context::from_waker(Waker::noop());
        let mut turn = || call.turn(&mut spent, || waking.poll(&call, future.as_mut(), &mut task));
        for round in 0..crate::guest::ROUNDS_OF_OTHERS {
            assert!(turn().is_pending(), "{round}");
        }
        assert!(turn().is_ready());
    }
}
