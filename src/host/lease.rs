//! How much one call of a guest may use, and the clock that ends it.
//!
//! Counts are the same on every machine; the deadline is read off one shared ticker, so that looking at it at every
//! safepoint costs a load. A lease that was overrun stays overrun: catching the error does not help a guest.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, timeout_at};

use super::{HostError, Phase, ticker};

/// What one call of a guest may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Time one call may run.
    pub cpu: Duration,
    /// Time that all its calls of one exchange may run together.
    pub total: Duration,
    /// Time that one call may wait for host functions altogether.
    pub wait: Duration,
    /// Bytes of its machine.
    pub memory: usize,
    pub safepoints: u64,
    pub host_calls: u32,
    /// Bytes that a call may return, and that it may log.
    pub output: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            cpu: Duration::from_millis(5),
            total: Duration::from_millis(50),
            wait: Duration::from_secs(60),
            memory: 16 << 20,
            safepoints: 200_000,
            host_calls: 1000,
            output: 1 << 20,
        }
    }
}

/// Deepest nesting of what a guest returns: schemas of tools are nested some 30 deep.
pub const MAX_DEPTH: usize = 64;

impl Budget {
    /// The budget of a call in a phase: a stream event's is a tenth, loading gets a hundred times as much.
    #[must_use]
    pub fn of(self, phase: Phase) -> Budget {
        match phase {
            Phase::Event => Budget { cpu: self.cpu / 10, safepoints: self.safepoints / 10, ..self },
            Phase::Init => Budget {
                cpu: self.cpu * 100,
                total: self.cpu * 100,
                safepoints: self.safepoints.saturating_mul(100),
                host_calls: self.host_calls.saturating_mul(100),
                ..self
            },
            Phase::Tick => Budget { cpu: self.cpu * 10, safepoints: self.safepoints.saturating_mul(10), ..self },
            _ => self,
        }
    }
}

/// Why a call was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Killed {
    Safepoints = 1,
    Deadline = 2,
    HostCalls = 3,
    Memory = 4,
    Output = 5,
    Wait = 6,
    /// The time of the whole exchange was over.
    Exchange = 7,
}

impl Killed {
    /// The word in metrics and the trace.
    pub fn as_str(self) -> &'static str {
        match self {
            Killed::Safepoints => "safepoints",
            Killed::Deadline => "deadline",
            Killed::HostCalls => "host_calls",
            Killed::Memory => "memory",
            Killed::Output => "output",
            Killed::Wait => "wait",
            Killed::Exchange => "exchange",
        }
    }
}

/// What a late call may still run at most, in the thread's own time. Who has less than that for a call has as much again.
const GRACE: Duration = Duration::from_millis(4);
/// Most ticks between two looks, and the number of looks after which a call ends whatever its thread got.
const GRACE_TICKS: u64 = 5;
const GRACE_LOOKS: u32 = 40;

/// What a burst without a safepoint may take beyond its budget. It is over when that is looked at, so that nothing is won by
/// being strict; and a machine that takes its core away from a virtual one leaves the thread's own time running.
const UNSEEN: Duration = Duration::from_millis(20);

/// Bytes from which on native work is timed by the thread's own clock, which costs as much as hashing a few hundred of them.
const LARGE: usize = 4 << 10;

/// Safepoints after which a burst says again that it is under way: far fewer than run before the ticker takes the process for idle.
const AWAKE_EVERY: u64 = 4096;

/// Time that this thread has been running on a core.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

thread_local! {
    /// A millisecond, by the ticker's clock, and the thread's own time within it.
    static NOTED: Cell<(u64, Duration)> = const { Cell::new((u64::MAX, Duration::ZERO)) };
}

/// Notes the thread's own time, once a millisecond: reading it costs as much as a short call.
fn note_thread_time(now: u64) {
    if NOTED.get().0 != now {
        NOTED.set((now, thread_time()));
    }
}

/// What this thread has run at least since a burst was resumed on it.
fn ran_since_resumed() -> Duration {
    thread_time().saturating_sub(NOTED.get().1 + Duration::from_millis(1))
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// One call's use of its budget.
#[derive(Debug)]
pub struct Lease {
    budget: Budget,
    safepoints: AtomicU64,
    host_calls: AtomicU32,
    output: AtomicU64,
    /// The tick at which the present burst must be over.
    deadline: AtomicU64,
    /// The thread's own time at which the present burst was seen to be late; 0 while it is not.
    late_since_us: AtomicU64,
    /// What earlier bursts ran in the thread's own time after they were seen to be late.
    late_us: AtomicU64,
    late_looks: AtomicU32,
    killed: AtomicU8,
    /// Nanoseconds that the present burst may run.
    left: AtomicU64,
    /// Nanoseconds of host functions in the present burst, by the clock on the wall.
    worked: AtomicU64,
    /// Those of large work, by the thread's own clock.
    worked_large: AtomicU64,
    /// Nanoseconds of the gateway's own work inside the call.
    excused: AtomicU64,
    /// Nanoseconds that were waited.
    waited: AtomicU64,
    /// When its exchange must be over, and how long that is from its start.
    until: Option<(Instant, Duration)>,
    /// The budget is a hook's, so that keys of `budget` raise it.
    of_hook: bool,
}

impl Lease {
    pub fn new(budget: Budget) -> Self {
        Lease {
            budget,
            safepoints: AtomicU64::new(0),
            host_calls: AtomicU32::new(0),
            output: AtomicU64::new(0),
            deadline: AtomicU64::new(u64::MAX),
            late_since_us: AtomicU64::new(0),
            late_us: AtomicU64::new(0),
            late_looks: AtomicU32::new(0),
            killed: AtomicU8::new(0),
            left: AtomicU64::new(u64::MAX),
            worked: AtomicU64::new(0),
            worked_large: AtomicU64::new(0),
            excused: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            until: None,
            of_hook: true,
        }
    }

    /// The same for a guest that is no hook's: there is no `budget` to raise.
    #[must_use]
    pub fn without_hook(self) -> Self {
        Lease { of_hook: false, ..self }
    }

    /// The same within an exchange that must be over then.
    #[must_use]
    pub fn until(mut self, deadline: Option<(Instant, Duration)>) -> Self {
        self.until = deadline;
        self
    }

    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The guest runs from now on, having run for `spent` before.
    pub fn resume(&self, spent: Duration) {
        let left = self.budget.cpu.saturating_sub(spent);
        self.left.store(nanos(left), Relaxed);
        self.worked.store(0, Relaxed);
        self.worked_large.store(0, Relaxed);
        let now = ticker::now();
        note_thread_time(now);
        // Ticks are whole milliseconds and the present one has begun: one more is never too early. Bursts may be shorter
        // than a tick, so a guest that has nothing left is late from its first safepoint on.
        let ticks = match left.is_zero() {
            // Its first safepoint may be the end of the burst: what it runs until then counts as well.
            true => {
                self.late_since_us.store(micros(thread_time()).max(1), Relaxed);
                0
            }
            false => left.as_millis() as u64 + 1,
        };
        let deadline = if self.killed().is_some() { 0 } else { now + ticks };
        self.deadline.store(deadline, Relaxed);
    }

    /// The guest does not run: it waits, gives way, or has ended.
    pub fn pause(&self) {
        self.deadline.store(u64::MAX, Relaxed);
        // What others run in between is not its own.
        let since = self.late_since_us.load(Relaxed);
        if since != 0 {
            self.late_since_us.store(0, Relaxed);
            self.late_us.fetch_add(micros(thread_time()).saturating_sub(since), Relaxed);
        }
    }

    /// The burst that began with [`Lease::resume`] on this thread has taken so long by the clock on the wall, and by it so
    /// long for the gateway's own work. What passed no safepoint in that time and took more than its budget and 20 ms is ended
    /// by this.
    pub fn over(&self, took: Duration, excused: Duration) {
        let most = Duration::from_nanos(self.left.load(Relaxed)) + UNSEEN + excused;
        if took > most && ran_since_resumed() > most {
            self.kill(Killed::Deadline);
        }
    }

    /// The gateway has done work of its own inside the call, such as decoding the ask: the deadline moves as far.
    pub fn excuse(&self, span: Duration) {
        self.excused.fetch_add(span.as_nanos() as u64, Relaxed);
        let deadline = self.deadline.load(Relaxed);
        self.deadline.store(deadline.saturating_add(span.as_millis() as u64), Relaxed);
    }

    /// Does work of the gateway's own inside the call: it costs the guest nothing.
    fn ours<T>(&self, work: impl FnOnce() -> T) -> T {
        // Who is late runs on in the thread's own time, which stands still as well.
        let late = self.late_since_us.swap(0, Relaxed);
        let (began, ran) = (Instant::now(), if late == 0 { Duration::ZERO } else { thread_time() });
        let done = work();
        self.excuse(began.elapsed());
        if late != 0 {
            self.late_since_us.store(late + micros(thread_time().saturating_sub(ran)), Relaxed);
        }
        done
    }

    /// Does native work of a host function on so many bytes. It passes no safepoint, so that it is charged when it is over:
    /// what is large ends the call by itself, what is small and often makes it late.
    pub fn work<T>(&self, bytes: usize, work: impl FnOnce() -> T) -> T {
        if bytes >= LARGE {
            let began = thread_time();
            let done = work();
            self.worked_large(thread_time().saturating_sub(began));
            return done;
        }
        let began = Instant::now();
        let done = work();
        let span = nanos(began.elapsed());
        if self.worked.fetch_add(span, Relaxed) + span > self.left.load(Relaxed) {
            // Looked at by the next safepoint.
            self.deadline.store(0, Relaxed);
        }
        done
    }

    /// Whether work that passes no safepoint may take so long: no longer than a burst that is ended for it.
    pub fn has_time_for(&self, span: Duration) -> bool {
        span <= Duration::from_nanos(self.left.load(Relaxed)) + UNSEEN
    }

    /// Charges native work by the thread's own time: of that it is certain that it was the call's.
    pub fn worked_large(&self, span: Duration) {
        let span = nanos(span);
        if self.worked_large.fetch_add(span, Relaxed) + span > self.left.load(Relaxed) {
            self.kill(Killed::Deadline);
        }
    }

    /// The gateway's own work inside the call so far.
    pub fn excused(&self) -> Duration {
        Duration::from_nanos(self.excused.load(Relaxed))
    }

    /// Called by the engine at every loop turn and call.
    ///
    /// # Errors
    /// The budget is used up.
    pub fn safepoint(&self) -> Result<(), Killed> {
        // One thread runs a guest at a time, so a load and a store will do.
        let count = self.safepoints.load(Relaxed) + 1;
        self.safepoints.store(count, Relaxed);
        if count > self.budget.safepoints {
            return Err(self.kill(Killed::Safepoints));
        }
        if count.is_multiple_of(AWAKE_EVERY) {
            ticker::stay_awake();
        }
        if ticker::tick_now() >= self.deadline.load(Relaxed) { self.late() } else { Ok(()) }
    }

    /// The deadline has passed in real time. A thread that waits for a core loses more of that than a budget holds, so
    /// from here on it is the thread's own time that counts, for a little longer.
    #[cold]
    fn late(&self) -> Result<(), Killed> {
        if let Some(killed) = self.killed() {
            return Err(killed);
        }
        ticker::alert();
        let now = micros(thread_time());
        // Work of host functions brings it here at each of them; only what ticks have brought is counted.
        let looks = match self.deadline.load(Relaxed) {
            0 => self.late_looks.load(Relaxed),
            _ => self.late_looks.fetch_add(1, Relaxed),
        };
        let mut since = self.late_since_us.load(Relaxed);
        if since == 0 {
            since = now.max(1);
            self.late_since_us.store(since, Relaxed);
        }
        let ran = self.late_us.load(Relaxed) + now.saturating_sub(since);
        let grace = micros(self.budget.cpu.min(GRACE));
        if ran >= grace || looks >= GRACE_LOOKS {
            return Err(self.kill(Killed::Deadline));
        }
        self.deadline.store(ticker::tick_now() + (grace / 1000).clamp(1, GRACE_TICKS), Relaxed);
        Ok(())
    }

    /// Counts a call of a host function.
    ///
    /// # Errors
    /// There were too many.
    pub fn host_call(&self) -> Result<(), HostError> {
        let count = self.host_calls.load(Relaxed) + 1;
        self.host_calls.store(count, Relaxed);
        if count > self.budget.host_calls {
            self.kill(Killed::HostCalls);
        }
        self.dead()
    }

    /// Counts bytes that the guest puts out.
    ///
    /// # Errors
    /// There were too many.
    pub fn output(&self, bytes: usize) -> Result<(), HostError> {
        let sum = self.output.load(Relaxed).saturating_add(bytes as u64);
        self.output.store(sum, Relaxed);
        if sum > self.budget.output as u64 {
            self.kill(Killed::Output);
        }
        self.dead()
    }

    /// Waits for something outside, within what is left of the call's time for that and of the exchange's. What the gateway
    /// does for it, such as setting up TLS, is its own work.
    ///
    /// # Errors
    /// It took longer: the call has ended then.
    pub async fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, HostError> {
        let (began, waited) = (Instant::now(), Duration::from_nanos(self.waited.load(Relaxed)));
        let own = began + self.budget.wait.saturating_sub(waited);
        let (end, why) = match self.until {
            Some((end, _)) if end < own => (end, Killed::Exchange),
            _ => (own, Killed::Wait),
        };
        let mut work = pin!(work);
        let done = timeout_at(end, poll_fn(|task| self.ours(|| work.as_mut().poll(task)))).await;
        self.waited.fetch_add(began.elapsed().as_nanos() as u64, Relaxed);
        done.map_err(|_| HostError(self.explain(self.kill(why))))
    }

    fn dead(&self) -> Result<(), HostError> {
        match self.killed() {
            Some(killed) => Err(HostError(self.explain(killed))),
            None => Ok(()),
        }
    }

    /// Marks the call as ended. The first reason stands.
    pub fn kill(&self, why: Killed) -> Killed {
        let _ = self.killed.compare_exchange(0, why as u8, Relaxed, Relaxed);
        // Every further safepoint says so too: whoever catches its end does not go on.
        self.deadline.store(0, Relaxed);
        self.killed().unwrap_or(why)
    }

    pub fn killed(&self) -> Option<Killed> {
        match self.killed.load(Relaxed) {
            1 => Some(Killed::Safepoints),
            2 => Some(Killed::Deadline),
            3 => Some(Killed::HostCalls),
            4 => Some(Killed::Memory),
            5 => Some(Killed::Output),
            6 => Some(Killed::Wait),
            7 => Some(Killed::Exchange),
            _ => None,
        }
    }

    pub fn safepoints(&self) -> u64 {
        self.safepoints.load(Relaxed)
    }

    pub fn host_calls(&self) -> u32 {
        self.host_calls.load(Relaxed)
    }

    /// What went past the budget, and which key of the configuration raises it.
    pub fn explain(&self, killed: Killed) -> String {
        let budget = &self.budget;
        let (what, key) = match killed {
            Killed::Safepoints => {
                (format!("ran through {} loop turns and calls", budget.safepoints), "`budget.safepoints`")
            }
            Killed::Deadline => (format!("ran longer than {:?}", budget.cpu), "`budget.cpu` or `budget.total`"),
            Killed::HostCalls => {
                (format!("called more than {} host functions", budget.host_calls), "`budget.host_calls`")
            }
            Killed::Memory => (format!("needed more than {} bytes", budget.memory), "`budget.memory`"),
            Killed::Output => (format!("put out more than {} bytes", budget.output), "`budget.output`"),
            Killed::Wait => (format!("waited longer than {:?}", budget.wait), "`budget.wait`"),
            Killed::Exchange => {
                let total = self.until.map_or(Duration::ZERO, |(_, total)| total);
                return format!(
                    "waited until the exchange's own time of {total:?} was over; raise `timeouts.total`, or wait less"
                );
            }
        };
        if self.of_hook { format!("{what}; raise {key}") } else { what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As engines have it that look at the lease at the end of a turn only.
    #[test]
    fn who_gives_way_ends_as_soon_as_who_does_not() {
        let lease = Lease::new(Budget::default());
        let mut bursts = 0;
        loop {
            lease.resume(Budget::default().cpu);
            let began = thread_time();
            while thread_time() < began + Duration::from_millis(2) {}
            if lease.safepoint().is_err() {
                break;
            }
            lease.pause();
            bursts += 1;
            assert!(bursts < 10, "it goes on");
        }
        assert_eq!(lease.killed(), Some(Killed::Deadline));
    }

    fn busy(span: Duration) {
        let began = thread_time();
        while thread_time() < began + span {}
    }

    /// As the first connection under TLS does, which reads the trust roots.
    #[tokio::test]
    async fn what_the_gateway_does_while_a_guest_waits_is_its_own_work() {
        let lease = Lease::new(Budget::default());
        let began = std::time::SystemTime::now();
        lease.resume(Duration::ZERO);
        assert_eq!(lease.wait(async { busy(Duration::from_millis(60)) }).await, Ok(()));
        assert!(lease.excused() >= Duration::from_millis(60), "{:?}", lease.excused());
        assert_eq!(lease.safepoint(), Ok(()), "its deadline has moved as far");
        lease.over(began.elapsed().expect("no clock goes back"), lease.excused());
        assert_eq!(lease.killed(), None);
        // Who is late already is no later afterwards.
        lease.resume(Budget::default().cpu);
        assert_eq!(lease.wait(async { busy(Duration::from_millis(60)) }).await, Ok(()));
        lease.deadline.store(0, Relaxed);
        assert_eq!(lease.safepoint(), Ok(()));
    }

    /// A call of a tenth of the time, as those for events of streams.
    #[test]
    fn native_work_is_charged_when_it_is_over() {
        let budget = Budget { cpu: Duration::from_micros(500), ..Budget::default() };
        let lease = Lease::new(budget);
        lease.resume(Duration::ZERO);
        lease.work(LARGE, || busy(Duration::from_millis(1)));
        assert_eq!(lease.safepoint(), Err(Killed::Deadline), "one that is large is not forgiven");
        let lease = Lease::new(budget);
        lease.resume(Duration::ZERO);
        let small = || {
            lease.work(1, || busy(Duration::from_micros(100)));
            lease.safepoint()
        };
        // Its own time, as much again in its thread's, and one more.
        let calls = (0..100).take_while(|_| small().is_ok()).count();
        assert!(calls <= 11, "{calls}");
        assert_eq!((lease.safepoint(), lease.killed()), (Err(Killed::Deadline), Some(Killed::Deadline)));
    }

    #[test]
    fn what_passed_no_safepoint_is_ended_when_it_is_over() {
        for (ran, waited, ends) in [(30, 0, true), (15, 0, false), (1, 40, false)] {
            let lease = Lease::new(Budget::default());
            let began = std::time::SystemTime::now();
            lease.resume(Duration::ZERO);
            busy(Duration::from_millis(ran));
            std::thread::park_timeout(Duration::from_millis(waited));
            lease.pause();
            let took = began.elapsed().expect("no clock goes back");
            lease.over(took, Duration::ZERO);
            assert_eq!(lease.killed().is_some(), ends, "{ran} {waited} {took:?}");
            lease.over(took, took);
            assert_eq!(lease.killed().is_some(), ends, "what was the gateway's own is not the call's");
        }
    }

    #[test]
    fn a_late_call_may_run_its_budget_once_more_and_no_longer() {
        for (cpu, ran, ends) in [(500, 600, true), (500, 100, false), (5000, 600, false), (5000, 4100, true)] {
            let lease = Lease::new(Budget { cpu: Duration::from_micros(cpu), ..Budget::default() });
            lease.deadline.store(0, Relaxed);
            assert_eq!(lease.safepoint(), Ok(()), "it may have waited for a core");
            busy(Duration::from_micros(ran));
            lease.deadline.store(0, Relaxed);
            assert_eq!(lease.safepoint().is_err(), ends, "{cpu} {ran}");
        }
    }

    #[test]
    fn who_was_ended_is_ended_at_every_further_safepoint_and_turn() {
        let lease = Lease::new(Budget { host_calls: 1, ..Budget::default() });
        lease.resume(Duration::ZERO);
        assert_eq!((lease.host_call(), lease.safepoint()), (Ok(()), Ok(())));
        assert!(lease.host_call().is_err());
        assert_eq!(lease.safepoint(), Err(Killed::HostCalls));
        lease.pause();
        lease.resume(Duration::ZERO);
        assert_eq!(lease.safepoint(), Err(Killed::HostCalls));
    }
}
