//! The link to Redis or Valkey: one connection, kept by a thread of its own, with a time budget for every command.
//!
//! Never waits for a connection and never longer than the budget: what does not answer is away, whether it is dead or
//! slow. A few slow answers in a row close the link until a ping is quick again, so that an outage costs each exchange
//! nothing but the first few.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, Cmd, RedisError, ScriptInvocation, Value};
use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// Slow answers in a row that close the link.
const SLOW_IN_A_ROW: u32 = 3;

/// How often an open link is pinged.
const PING: Duration = Duration::from_secs(1);

/// How often a closed one is, or a lost connection is tried anew.
const PROBE: Duration = Duration::from_millis(100);

/// Longest wait for a connection; nobody but the keeper waits for it.
const CONNECT: Duration = Duration::from_secs(2);

/// How often the log is told that the server answers with an error, in milliseconds: with a full memory every write brings one.
const TELL_AGAIN: u64 = 60_000;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Away {
    /// No connection, or the link is closed. Nothing was sent.
    Down,
    /// No answer within the budget; it may have been carried out.
    Slow,
    /// The connection broke, or the server refused.
    Failed(String),
}

impl Away {
    /// The word in logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Away::Down => "down",
            Away::Slow => "slow",
            Away::Failed(_) => "failed",
        }
    }
}

/// A shared server.
pub struct Link {
    /// Who uses it, for the log: each has a link of its own, so that large answers are not in the way of small ones.
    user: &'static str,
    client: Client,
    /// Host and port, for the log.
    address: String,
    budget: Duration,
    /// Begins every key's name; also the hash tag that keeps them on one node of a cluster.
    pub prefix: String,
    connection: ArcSwapOption<MultiplexedConnection>,
    closed: AtomicBool,
    slow: AtomicU32,
    /// When the log was last told of an error that the server answered with, in Unix milliseconds.
    told: AtomicU64,
    /// The server's clock less ours, in milliseconds.
    offset: AtomicI64,
    /// Connections made so far; another one may be to a server that has forgotten everything.
    epoch: AtomicU64,
    /// Rung when the connection is lost, so that the keeper need not wait for its next ping.
    lost: Notify,
    /// Rung when the link opens.
    opened: Notify,
}

impl Link {
    /// Opens the link; the first connection is made in the background.
    ///
    /// # Errors
    /// The address cannot be read, or the thread cannot be made.
    pub fn start(user: &'static str, url: &str, budget: Duration, prefix: &str) -> io::Result<Arc<Self>> {
        // The library's text may hold the address, and with it a password.
        let client = Client::open(url).map_err(|_| {
            io::Error::other("redis.url is no address; write redis://host:6379/0, or rediss:// for TLS")
        })?;
        let address = client.get_connection_info().addr().to_string();
        let link = Arc::new(Link {
            user,
            client,
            address,
            budget,
            prefix: prefix.to_owned(),
            connection: ArcSwapOption::empty(),
            closed: AtomicBool::new(false),
            slow: AtomicU32::new(0),
            told: AtomicU64::new(0),
            offset: AtomicI64::new(0),
            epoch: AtomicU64::new(0),
            lost: Notify::new(),
            opened: Notify::new(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kept = Arc::downgrade(&link);
        std::thread::Builder::new().name("redis".into()).spawn(move || {
            runtime.block_on(async {
                // Ends with the process's last handle.
                while let Some(link) = kept.upgrade() {
                    let pause = link.keep().await;
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = link.lost.notified() => {}
                    }
                }
            });
        })?;
        Ok(link)
    }

    /// Whether commands are sent at all now.
    pub fn is_up(&self) -> bool {
        !self.closed.load(Ordering::Relaxed) && self.connection.load().is_some()
    }

    /// Counts the connections made; a change means that the server may have forgotten.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Waits until the link opens; for one waiter.
    pub async fn opened(&self) {
        self.opened.notified().await;
    }

    /// The longest that a command takes.
    pub fn budget(&self) -> Duration {
        self.budget
    }

    /// The server's clock for one of ours, in Unix milliseconds.
    pub fn server_time(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.offset.load(Ordering::Relaxed))
    }

    /// Waits until the link is up, at most so long. For starting, not for exchanges.
    pub async fn ready(&self, within: Duration) -> bool {
        timeout(within, async {
            while !self.is_up() {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .is_ok()
    }

    /// Sends a command and waits for its answer within the budget.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn run(&self, command: &Cmd) -> Result<Value, Away> {
        let mut connection = self.open()?;
        self.judge(timeout(self.budget, connection.send_packed_command(command)).await)
    }

    /// Runs a script within the budget, also when the server does not know it yet.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn script(&self, script: &ScriptInvocation<'_>) -> Result<Value, Away> {
        let mut connection = self.open()?;
        self.judge(timeout(self.budget, script.invoke_async(&mut connection)).await)
    }

    fn open(&self) -> Result<MultiplexedConnection, Away> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Away::Down);
        }
        self.connection.load().as_deref().cloned().ok_or(Away::Down)
    }

    fn judge<E>(&self, answer: Result<Result<Value, RedisError>, E>) -> Result<Value, Away> {
        match answer {
            Ok(Ok(value)) => {
                self.slow.store(0, Ordering::Relaxed);
                Ok(value)
            }
            Ok(Err(error)) => {
                if error.is_io_error() || error.is_unrecoverable_error() {
                    self.drop_connection(&error.to_string());
                } else {
                    self.tell(&error.to_string());
                }
                Err(Away::Failed(error.to_string()))
            }
            Err(_) => {
                if self.slow.fetch_add(1, Ordering::Relaxed) + 1 >= SLOW_IN_A_ROW {
                    self.close("answers are slower than its `timeout`");
                }
                Err(Away::Slow)
            }
        }
    }

    /// Tells the log what the server answers instead of doing as it is asked, now and then.
    fn tell(&self, why: &str) {
        let (now, last) = (super::unix_ms(), self.told.load(Ordering::Relaxed));
        let due = now.saturating_sub(last) >= TELL_AGAIN;
        if due && self.told.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::warn!("redis at {} answers {} with an error: {why}", self.address, self.user);
        }
    }

    fn close(&self, why: &str) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            tracing::warn!("redis at {} is away for {}: {why}", self.address, self.user);
            self.lost.notify_one();
        }
    }

    fn drop_connection(&self, why: &str) {
        self.close(why);
        self.connection.store(None);
        self.lost.notify_one();
    }

    /// Connects where there is no connection, pings, and opens or closes the link by the answer. Gives the pause.
    async fn keep(&self) -> Duration {
        if self.connection.load().is_none()
            && let Err(why) = self.connect().await
        {
            self.close(&format!("no connection: {why}"));
            return PROBE;
        }
        let Some(mut connection) = self.connection.load().as_deref().cloned() else { return PROBE };
        let asked = super::unix_ms();
        // A slow server gets more time from the keeper than from exchanges: a late answer is still one.
        let answer = timeout(CONNECT, connection.send_packed_command(&::redis::cmd("TIME"))).await;
        let took = super::unix_ms().saturating_sub(asked);
        match answer {
            Ok(Ok(time)) if u128::from(took) <= self.budget.as_millis() => {
                if let Some(server) = server_ms(&time) {
                    let offset = server as i64 - (asked + took / 2) as i64;
                    self.offset.store(offset, Ordering::Relaxed);
                }
                self.slow.store(0, Ordering::Relaxed);
                if self.closed.swap(false, Ordering::Relaxed) {
                    tracing::info!("redis at {} is back for {}", self.address, self.user);
                    self.opened.notify_one();
                }
                PING
            }
            Ok(Ok(_)) => {
                self.close("a ping took longer than its `timeout`");
                PROBE
            }
            Ok(Err(error)) => {
                self.drop_connection(&error.to_string());
                PROBE
            }
            Err(_) => {
                self.drop_connection("it does not answer");
                PROBE
            }
        }
    }

    /// Makes the connection, or says why not. The library's texts on this hold neither the password nor the user.
    async fn connect(&self) -> Result<(), String> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
        let connection = timeout(CONNECT, self.client.get_multiplexed_async_connection_with_config(&config)).await;
        let connection = connection.map_err(|_| "it does not answer".to_owned())?.map_err(|error| error.to_string())?;
        self.connection.store(Some(Arc::new(connection)));
        self.epoch.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({})", if self.is_up() { "up" } else { "away" })
    }
}

/// What TIME answers, in Unix milliseconds.
fn server_ms(value: &Value) -> Option<u64> {
    let (seconds, micros): (u64, u64) = ::redis::from_redis_value(value.clone()).ok()?;
    Some(seconds * 1000 + micros / 1000)
}
