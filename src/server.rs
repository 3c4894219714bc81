//! Listeners, worker threads and the drain: from a socket to `pipeline::run`.
//!
//! One single-threaded runtime per core, each accepting from the same listener, instead of one multi-threaded runtime:
//! a worker's connections, timers and upstream pools are its own, so that nothing on the way of a request is shared with
//! another core. The scheduler itself is no reason: the bare pass-through of `benches/` on one core at saturation spends
//! 40 to 42 µs of CPU a request on the one (medians of 4 runs on a loaded machine), 38 to 45 µs on the other.

mod activity;
mod answer;
pub mod connection;
mod crew;
mod head;
mod nudge;
pub mod tls;
mod wire;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::body::bell;
use crate::defer;
use crate::generation::Generation;
use crate::guest;
use crate::state::State;
use crate::upstream::{Pools, Proxies, Upstream};

use crew::{Crew, Given};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How often a worker that has no room for connections looks for some.
const ROOM_CHECK: Duration = Duration::from_millis(10);

/// How long answers that are cut may take to tell their clients so.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// How far the process is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Serving,
    /// No new connections; what runs may finish.
    Draining,
    /// What still runs is cut; streams tell their clients.
    Ending,
}

/// What every worker shares.
#[derive(Clone)]
pub struct Shared {
    /// The generation in force.
    pub generation: Arc<ArcSwap<Generation>>,
    pub state: Arc<State>,
    pub proxies: Arc<Proxies>,
    /// How far the process is from its end.
    pub stage: watch::Receiver<Stage>,
    /// Open connections of all workers.
    pub connections: Arc<AtomicUsize>,
}

/// Binds an address for all workers.
///
/// # Errors
/// The address is taken or not ours; the text names it.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let named = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "; something else listens there: stop it, or choose another address (`listen.address`, `admin.address`)"
            }
            io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege: choose another",
            _ => "",
        };
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}{hint}"))
    };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).map_err(named)?;
    socket.set_reuse_address(true).map_err(named)?;
    socket.set_nonblocking(true).map_err(named)?;
    socket.bind(&address.into()).map_err(named)?;
    socket.listen(BACKLOG).map_err(named)?;
    Ok(socket.into())
}

/// Starts the workers.
///
/// # Errors
/// A thread or its runtime cannot be made.
pub fn start(shared: &Shared, listener: &TcpListener, workers: usize) -> io::Result<Vec<JoinHandle<()>>> {
    let (crew, takes) = Crew::of(workers);
    let each = takes.into_iter().enumerate();
    each.map(|(number, takes)| {
        let (shared, crew) = (shared.clone(), crew.clone());
        let listener = listener.try_clone()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            guest::sit(number);
            runtime.block_on(accept(shared, listener, &crew, number, takes));
            // Cuts what still runs, which settles it; a name lookup that hangs is not waited for.
            runtime.shutdown_background();
        })
    })
    .collect()
}

/// Accepts until the process drains, then waits for this worker's connections until the process ends.
async fn accept(
    shared: Shared,
    listener: TcpListener,
    crew: &Crew,
    number: usize,
    mut takes: UnboundedReceiver<Given>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("the listener cannot be used: {error}");
            return;
        }
    };
    bell::hang();
    defer::write_for_all();
    let upstream: Arc<dyn Upstream> = Arc::new(Pools::new(shared.proxies.clone()));
    let mut stage = shared.stage.clone();
    let mut drains = false;
    loop {
        let mine = tokio::select! {
            accepted = next(&shared, &listener), if !drains => match accepted {
                Ok(accepted) => crew.place(number, accepted, &shared.connections),
                Err(error) => Err(error),
            },
            given = takes.recv() => match given {
                Some(given) => given.stream().map(Some),
                None => break,
            },
            _ = stage.wait_for(|stage| *stage >= Stage::Draining), if !drains => {
                // What others have accepted until now is served; what comes later they serve themselves.
                takes.close();
                drains = true;
                continue;
            }
        };
        match mine {
            Ok(Some((stream, peer, open))) => {
                let (shared, upstream) = (shared.clone(), upstream.clone());
                tokio::spawn(async move {
                    connection::serve(shared, upstream, stream, peer).await;
                    drop(open);
                });
            }
            Ok(None) => {}
            Err(error) => {
                // Out of descriptors, mostly: accepting again at once would spin.
                tracing::warn!("accept failed: {error}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    let mut end = None;
    while crew.open(number) > 0 && end.is_none_or(|end| Instant::now() < end) {
        sleep(Duration::from_millis(10)).await;
        if end.is_none() && *stage.borrow() == Stage::Ending {
            end = Some(Instant::now() + LAST_WORDS);
        }
    }
}

/// The next connection, once there is room for it. Until then clients wait in the kernel's queue.
async fn next(shared: &Shared, listener: &tokio::net::TcpListener) -> io::Result<(tokio::net::TcpStream, SocketAddr)> {
    let full = || shared.connections.load(Ordering::Relaxed) >= shared.generation.load().server.max_connections;
    if full() {
        tracing::warn!("listen.limits.max_connections are open; further ones wait");
        while full() {
            sleep(ROOM_CHECK).await;
        }
    }
    listener.accept().await
}

/// Counts a connection as long as it lives: its worker's, and the process's.
struct Open([Arc<AtomicUsize>; 2]);

impl Open {
    fn new(counts: [Arc<AtomicUsize>; 2]) -> Self {
        counts.iter().for_each(|count| _ = count.fetch_add(1, Ordering::Relaxed));
        Open(counts)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.iter().for_each(|count| _ = count.fetch_sub(1, Ordering::Relaxed));
    }
}

/// Waits until every connection has ended, at most `limit`. False when some are left.
pub async fn drained(shared: &Shared, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while shared.connections.load(Ordering::Relaxed) > 0 {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(10)).await;
    }
    true
}
