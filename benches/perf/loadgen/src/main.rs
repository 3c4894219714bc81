//! Load generator, one thread, that reads event streams. Prints one JSON line.
//!
//! ```text
//! loadgen run     --url U [--form openai|anthropic|cohere|ollama] [--sse] [--conc N] [--ramp-ms MS] [--rate R] [--secs S] [--warmup S]
//!                 [--requests N] [--fresh] [--vary] [--ca PEM] [--h2 CONNECTIONS] [--model M] [--pad BYTES] [--header 'k: v']… [--expect-chunks N] [--think-ms MS]
//!                 [--pid P]…
//! loadgen startup --url U [--model M] [--header 'k: v']… [--timeout S] -- COMMAND ARG…
//! ```
//!
//! An address with https:// needs the certificate to trust. `--h2` sends all requests over so many shared connections of
//! HTTP/2. `--vary` makes each ask another.
//!
//! `run` is a closed loop over `--conc` connections that begin spread over `--ramp-ms`, each with a random pause of up to
//! `--think-ms` after a request; or with `--rate` an open loop paced evenly by a timerfd, where a due request takes an
//! idle connection or opens one, and those that could not begin in time are counted as late. `--requests` ends the run
//! after so many; with `--fresh` each request has a connection of its own. CPU time and memory are those of `--pid` and all its descendants, in the measured window.
//!
//! `--sse` asks for streams and notes the time to the first content and, for each chunk, the time since the mock wrote
//! it (`t=<CLOCK_MONOTONIC ns>` in its text). A stream without its end, or with another number of chunks than expected,
//! is incomplete. `startup` starts a command, asks every 2 ms, and prints the time to the first 200.

mod args;
mod exchange;
mod link;
mod proc;
mod report;
mod startup;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::task::spawn_local;

use args::{Args, Request};
use exchange::one;
use link::{Conn, Way};
use report::Stats;

/// What all connections of a run share.
pub struct Shared {
    pub way: Way,
    pub request: Request,
    pub args: Args,
    pub stats: RefCell<Stats>,
    idle: RefCell<VecDeque<Conn>>,
    open: Cell<usize>,
    /// Requests begun, for `--requests`.
    begun: Cell<u64>,
    /// Requests made, those before the window too.
    numbered: Cell<u64>,
}

impl Shared {
    /// The number of a request that is made now.
    pub fn numbered(&self) -> u64 {
        self.numbered.replace(self.numbered.get() + 1)
    }

    /// Whether one more request may begin; counts it.
    fn next(&self) -> bool {
        let begun = self.begun.get();
        self.begun.set(begun + 1);
        Instant::now() < self.stats.borrow().until && self.args.requests.is_none_or(|most| begun < most)
    }
}

fn main() {
    let (verb, args) = args::args();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    match verb.as_str() {
        "run" => local.block_on(&runtime, run(args)),
        "startup" => local.block_on(&runtime, startup::measure(args)),
        _ => {
            eprintln!("loadgen run|startup …: see the head of main.rs");
            std::process::exit(2)
        }
    }
}

async fn run(args: Args) {
    let (address, request) = Request::new(&args);
    let from = Instant::now() + Duration::from_secs_f64(args.warmup);
    let until = from + Duration::from_secs_f64(args.secs);
    let idle_kb = proc::rss_kb(&args.pids);
    let shared = Rc::new(Shared {
        way: Way::new(address, &args),
        request,
        stats: RefCell::new(Stats::new(from, until)),
        idle: RefCell::default(),
        open: Cell::new(0),
        begun: Cell::new(0),
        numbered: Cell::new(0),
        args: args.clone(),
    });
    let spent = Rc::new(Cell::new(report::Spent::default()));
    let meter = spawn_local(meter(args.clone(), from, until, spent.clone()));
    if args.rate > 0.0 {
        open_loop(&shared).await;
    } else {
        closed_loop(&shared).await;
    }
    if args.requests.is_some() {
        // The run ended by number; the window did not. What was spent until now is what there is.
        meter.abort();
    }
    let _ = meter.await;
    report::print(&shared, idle_kb, spent.get());
}

/// CPU time from the window's beginning to now, or to its end; memory is looked at all along for its peak.
async fn meter(args: Args, from: Instant, until: Instant, spent: Rc<Cell<report::Spent>>) {
    const STEP: Duration = Duration::from_millis(100);
    let pids = args.pids;
    let look =
        |seen: report::Spent| spent.set(report::Spent { peak_kb: seen.peak_kb.max(proc::rss_kb(&pids)), ..seen });
    while Instant::now() + STEP < from {
        tokio::time::sleep(STEP).await;
        look(spent.get());
    }
    tokio::time::sleep_until(from.into()).await;
    let (cpu, own) = (proc::cpu_ns(&pids), proc::self_cpu_ns());
    let mut over = false;
    while !over {
        let next = until.min(Instant::now() + STEP);
        tokio::time::sleep_until(next.into()).await;
        over = next == until;
        look(spent.get());
        // A run that ends by number may end any moment.
        if over || args.requests.is_some() {
            let (cpu_ns, own_ns) = (proc::cpu_ns(&pids).saturating_sub(cpu), proc::self_cpu_ns() - own);
            spent.set(report::Spent { cpu_ns, own_ns, ..spent.get() });
        }
    }
}

async fn closed_loop(shared: &Rc<Shared>) {
    let ramp_us = (shared.args.ramp_ms * 1000).max(1);
    let until = shared.stats.borrow().until;
    let loops: Vec<_> = (0..shared.args.conc as u64)
        .map(|number| {
            let shared = shared.clone();
            spawn_local(async move {
                // Spread out, so that streams do not march in step.
                tokio::time::sleep(Duration::from_micros(number.wrapping_mul(7_919) * 97 % ramp_us)).await;
                let mut conn = None;
                let mut random = Random(number + 1);
                while shared.next() {
                    conn = one(&shared, conn).await.filter(|_| !shared.args.fresh);
                    if shared.args.think_ms > 0.0 {
                        let pause = random.fraction() * shared.args.think_ms;
                        tokio::time::sleep(Duration::from_secs_f64(pause / 1000.0)).await;
                    }
                    if conn.is_none() && shared.stats.borrow().first_bad.is_some() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            })
        })
        .collect();
    // A stream that never ends must not hang the run.
    let grace = tokio::time::sleep_until((until + Duration::from_secs(60)).into());
    tokio::select! {
        () = async { for one in loops { let _ = one.await; } } => {}
        () = grace => {}
    }
}

/// Xorshift: pauses need no better.
struct Random(u64);

impl Random {
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (self.0 >> 29);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

async fn open_loop(shared: &Rc<Shared>) {
    let timer = interval(shared.args.rate);
    let live = Rc::new(Cell::new(0usize));
    let mut over = false;
    while !over {
        let mut ready = timer.readable().await.expect("the timer's descriptor is registered");
        let mut count = [0u8; 8];
        // SAFETY: the descriptor is open and the buffer has the eight bytes that a timerfd gives.
        let read = unsafe { libc::read(ready.get_inner().as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        ready.clear_ready();
        if read != 8 {
            continue;
        }
        let due = u64::from_ne_bytes(count);
        shared.stats.borrow_mut().late += due - 1;
        for _ in 0..due {
            let conn = shared.idle.borrow_mut().pop_back();
            if conn.is_none() && shared.open.get() >= shared.args.conc {
                // Every connection is busy: the gateway does not keep up.
                shared.stats.borrow_mut().late += 1;
                continue;
            }
            if !shared.next() {
                over = true;
                break;
            }
            shared.open.set(shared.open.get() + usize::from(conn.is_none()));
            let (shared, live) = (shared.clone(), live.clone());
            live.set(live.get() + 1);
            spawn_local(async move {
                match one(&shared, conn).await {
                    Some(conn) => shared.idle.borrow_mut().push_back(conn),
                    None => shared.open.set(shared.open.get() - 1),
                }
                live.set(live.get() - 1);
            });
        }
    }
    for _ in 0..200 {
        if live.get() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A timer that rings `rate` times a second and counts the rings that nobody read.
fn interval(rate: f64) -> AsyncFd<OwnedFd> {
    let nanos = (1e9 / rate) as i64;
    let every = libc::timespec { tv_sec: nanos / 1_000_000_000, tv_nsec: nanos % 1_000_000_000 };
    let spec = libc::itimerspec { it_interval: every, it_value: every };
    // SAFETY: plain system calls on a descriptor that is checked and then owned here.
    let timer: OwnedFd = unsafe {
        let raw = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC);
        assert!(raw >= 0, "no timerfd");
        libc::timerfd_settime(raw, 0, &spec, std::ptr::null_mut());
        OwnedFd::from_raw_fd(raw)
    };
    // SAFETY: the `AsyncFd` owns the timer, so its descriptor stays open as long as it is watched.
    unsafe { AsyncFd::register(timer) }.expect("inside the runtime")
}
