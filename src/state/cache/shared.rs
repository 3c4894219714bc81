//! The tier behind memory: answers on Redis or Valkey, which several processes give again.
//!
//! Never an error and never longer than its time: what is away, slow, unknown or damaged is a miss, and counted. Bounded
//! in bytes on the server itself, where those whose time ends first make room. All keys carry one hash tag, so that they
//! lie on one node of a cluster, as scripts need it.

mod value;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ::redis::{Script, Value, cmd};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::entry::{Entry, Key};
use super::purge::{About, Purge};
use crate::state::redis::{Away, Link};
use crate::state::{State, unix_ms};

/// Answers that may wait to be written.
const QUEUE: usize = 4096;

/// Bytes of those. Memory holds most of them anyway; the bound is for what it has forgotten meanwhile.
const QUEUE_BYTES: u64 = 32 << 20;

/// How often other processes' purges are looked for.
const PURGES: Duration = Duration::from_millis(500);

/// Purges that the server keeps for others to find. Whoever was away for more of them takes everything out.
const MAX_PURGES: usize = 1000;

/// Looks for purges that one answer may cost before it is left unwritten: each finds one that has just come.
const LOOKS: u32 = 3;

/// Purges before the process began that it carries out once more: clocks differ, and twice does no harm.
const PURGES_BEFORE_MS: u64 = 5000;

/// Answers looked at in one round trip of a purge.
const SCAN: usize = 500;

/// What came of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    Hit,
    Miss,
    /// The server is away; nothing was asked.
    Down,
    /// No answer within the time.
    Slow,
    Failed,
    /// Something lay there that is no answer of ours.
    Corrupt,
}

impl Read {
    pub const ALL: [Read; 6] = [Read::Hit, Read::Miss, Read::Down, Read::Slow, Read::Failed, Read::Corrupt];

    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Read::Hit => "hit",
            Read::Miss => "miss",
            Read::Down => "down",
            Read::Slow => "slow",
            Read::Failed => "failed",
            Read::Corrupt => "corrupt",
        }
    }
}

/// What happened since the process began.
#[derive(Debug, Default)]
pub struct Counts {
    reads: [AtomicU64; Read::ALL.len()],
    /// Answers written.
    kept: AtomicU64,
    /// Answers that were not: no room, too many waiting, or the server was away.
    lost: AtomicU64,
}

impl Counts {
    /// Every outcome with its count.
    pub fn reads(&self) -> impl Iterator<Item = (Read, u64)> {
        Read::ALL.into_iter().zip(self.reads.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Answers written, and those that were not.
    pub fn writes(&self) -> (u64, u64) {
        (self.kept.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }

    fn read(&self, outcome: Read) {
        self.reads[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// An answer to be written, and how many purges there were when it was asked for.
type Waiting = (Arc<Entry>, u64);

/// What came of writing an answer.
enum Written {
    Done,
    /// There are purges that this process has not heard of.
    Unheard,
}

/// The shared tier.
pub struct Shared {
    link: Arc<Link>,
    script: Script,
    max_bytes: u64,
    /// What this process signs its purges with: it has carried them out.
    node: String,
    /// Whether the generation in force uses it.
    used: AtomicBool,
    waiting: mpsc::Sender<Waiting>,
    waiting_bytes: AtomicU64,
    /// The last write was refused.
    failing: AtomicBool,
    pub counts: Counts,
}

impl Shared {
    /// Opens the tier behind the memory of `state`. Must be called in a runtime, which carries the background work.
    pub fn start(state: &Arc<State>, link: Arc<Link>, max_bytes: u64) {
        let (waiting, entries) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            link,
            script: Script::new(include_str!("shared/put.lua")),
            max_bytes,
            node: format!("{:016x}", fastrand::u64(..)),
            used: AtomicBool::new(true),
            waiting,
            waiting_bytes: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            counts: Counts::default(),
        });
        if state.cache.share(shared.clone()) {
            let keeper = Keeper { shared, state: Arc::downgrade(state), began: unix_ms(), purged: None };
            tokio::spawn(keeper.run(entries));
        }
    }

    /// Whether answers are looked for and kept here from now on.
    pub(super) fn set_used(&self, used: bool) {
        self.used.store(used, Ordering::Relaxed);
    }

    fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// The answer under a key, with a body of at most `max_body` bytes.
    pub async fn find(&self, key: Key, max_body: usize, now_ms: u64) -> Option<Entry> {
        if !self.is_used() {
            return None;
        }
        let (outcome, entry) = match self.read(key, max_body).await {
            Ok(value) if value.is_empty() => (Read::Miss, None),
            Ok(value) => match value::read(key, value) {
                Some(entry) if entry.left(now_ms).is_some() => (Read::Hit, Some(entry)),
                Some(_) => (Read::Miss, None),
                None => (Read::Corrupt, None),
            },
            Err(Away::Down) => (Read::Down, None),
            Err(Away::Slow) => (Read::Slow, None),
            Err(Away::Failed(_)) => (Read::Failed, None),
        };
        self.counts.read(outcome);
        entry
    }

    async fn read(&self, key: Key, max_body: usize) -> Result<Vec<u8>, Away> {
        // Whatever lies there, no more of it is fetched than an answer may have.
        let last = max_body.saturating_add(value::MAX_OVERHEAD) as u64;
        let answer = self.link.run(cmd("GETRANGE").arg(self.answer(key)).arg(0).arg(last)).await?;
        match answer {
            Value::BulkString(value) => Ok(value),
            _ => Err(Away::Failed("GETRANGE answered something else".to_owned())),
        }
    }

    /// Hands an answer over to be written, whose ask began after so many purges; never waits.
    pub(super) fn keep(&self, entry: &Arc<Entry>, since: u64) {
        if !self.is_used() {
            return;
        }
        let bytes = entry.body.len() as u64;
        let is_full = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > QUEUE_BYTES;
        if is_full || !self.link.is_up() || self.waiting.try_send((entry.clone(), since)).is_err() {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes an answer, unless there is a purge after the one of this name: it may have fitted.
    async fn write(&self, entry: &Entry, purged: &str) -> Written {
        let left = entry.left(unix_ms()).map(|left| left.as_millis().max(1) as u64);
        let (Some(left), Some(value)) = (left, value::write(entry)) else { return Written::Done };
        let told = [&entry.partition, &entry.asked, &entry.provider, &entry.model].map(String::as_str).join("\x1f");
        let mut call = self.script.prepare_invoke();
        call.key(self.name("ends")).key(self.name("about")).key(self.name("bytes")).key(self.answer(entry.key));
        call.key(self.name("purges"));
        call.arg("put").arg(entry.key.to_string()).arg(self.name("a:"));
        call.arg(value).arg(left).arg(self.max_bytes).arg(told).arg(purged);
        let answer = self.link.script(&call).await;
        if let Err(Away::Failed(why)) = &answer {
            // One line for as long as it lasts; a server that is away has its own.
            if !self.failing.swap(true, Ordering::Relaxed) {
                tracing::warn!("no answer can be kept on the shared tier: {why}");
            }
        } else {
            self.failing.store(false, Ordering::Relaxed);
        }
        let word = if let Ok(Value::BulkString(word)) = answer { word } else { Vec::new() };
        if word == b"unheard" {
            return Written::Unheard;
        }
        let count = if word == b"kept" { &self.counts.kept } else { &self.counts.lost };
        count.fetch_add(1, Ordering::Relaxed);
        Written::Done
    }

    /// Takes out what fits, here and in the memory of every other process, which looks for purges twice a second. Gives how
    /// many answers lay here. `query` is what `purge` was read from. It must have been carried out in this one's memory.
    ///
    /// # Errors
    /// The server is away; others may not have heard of the purge, or not everything is out.
    pub async fn purge(&self, purge: &Purge, query: &str) -> Result<usize, Away> {
        let mut tell = cmd("XADD");
        tell.arg(self.name("purges"))
            .arg("MAXLEN")
            .arg(MAX_PURGES)
            .arg("*")
            .arg("query")
            .arg(query)
            .arg("by")
            .arg(&self.node);
        self.link.run(&tell).await?;
        if let Some(key) = purge.only_key() {
            return self.drop_answers(&[key.to_string()]).await;
        }
        let mut cursor = "0".to_owned();
        let mut purged = 0;
        loop {
            let mut scan = cmd("HSCAN");
            scan.arg(self.name("about")).arg(&cursor).arg("COUNT").arg(SCAN);
            let (next, told) = page(self.link.run(&scan).await?)?;
            let fits =
                told.chunks_exact(2).filter(|pair| told_of(&pair[0], &pair[1]).is_some_and(|it| purge.fits(&it)));
            let digits: Vec<String> = fits.map(|pair| pair[0].clone()).collect();
            if !digits.is_empty() {
                purged += self.drop_answers(&digits).await?;
            }
            if next == "0" {
                return Ok(purged);
            }
            cursor = next;
        }
    }

    /// Takes out the answers under these keys; gives how many there were.
    async fn drop_answers(&self, digits: &[String]) -> Result<usize, Away> {
        let mut call = self.script.prepare_invoke();
        call.key(self.name("ends")).key(self.name("about")).key(self.name("bytes"));
        call.arg("drop").arg("").arg(self.name("a:"));
        for digits in digits {
            call.arg(digits.as_str());
        }
        let dropped = self.link.script(&call).await?;
        Ok(if let Value::Int(dropped) = dropped { usize::try_from(dropped).unwrap_or(0) } else { 0 })
    }

    fn answer(&self, key: Key) -> String {
        format!("{{{}}}:cache:a:{key}", self.link.prefix)
    }

    fn name(&self, what: &str) -> String {
        format!("{{{}}}:cache:{what}", self.link.prefix)
    }
}

/// A page of HSCAN: the next cursor, and names and values in turn.
fn page(value: Value) -> Result<(String, Vec<String>), Away> {
    ::redis::from_redis_value(value).map_err(|_| Away::Failed("HSCAN answered something else".to_owned()))
}

/// What is told of an answer, as the script keeps it: bytes, partition, asked, provider, model.
fn told_of<'a>(digits: &str, told: &'a str) -> Option<About<'a>> {
    let mut texts = told.split('\x1f').skip(1);
    let mut next = || texts.next();
    Some(About { key: Key::parse(digits)?, partition: next()?, asked: next()?, from: Some((next()?, next()?)) })
}

/// The background side: writes what waits, and carries out other processes' purges in this one's memory.
struct Keeper {
    shared: Arc<Shared>,
    state: Weak<State>,
    /// Unix milliseconds.
    began: u64,
    /// The last purge that was carried out; None before the first look.
    purged: Option<String>,
}

impl Keeper {
    async fn run(mut self, mut entries: mpsc::Receiver<Waiting>) {
        let mut look = interval(PURGES);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = look.tick() => if self.purges().await.is_none() { return },
                entry = entries.recv() => {
                    let Some((entry, since)) = entry else { return };
                    self.shared.waiting_bytes.fetch_sub(entry.body.len() as u64, Ordering::Relaxed);
                    if self.write(&entry, since).await.is_none() { return }
                }
            }
        }
    }

    /// Writes an answer that no purge has taken out. None when the process has ended.
    async fn write(&mut self, entry: &Entry, since: u64) -> Option<()> {
        for _ in 0..LOOKS {
            if self.state.upgrade()?.cache.is_purged(entry, since) {
                return Some(());
            }
            let purged = self.heard();
            if let Written::Done = self.shared.write(entry, &purged).await {
                return Some(());
            }
            self.purges().await?;
        }
        self.shared.counts.lost.fetch_add(1, Ordering::Relaxed);
        Some(())
    }

    /// The last purge that was heard of, or where to begin.
    fn heard(&mut self) -> String {
        let first = || format!("{}-0", self.shared.link.server_time(self.began).saturating_sub(PURGES_BEFORE_MS));
        self.purged.get_or_insert_with(first).clone()
    }

    /// None when the process has ended.
    async fn purges(&mut self) -> Option<()> {
        if !self.shared.link.is_up() {
            return self.state.upgrade().map(drop);
        }
        let after = self.heard();
        let link = &self.shared.link;
        let mut range = cmd("XRANGE");
        range.arg(self.shared.name("purges")).arg(format!("({after}")).arg("+").arg("COUNT").arg(MAX_PURGES);
        let answer = link.run(&range).await;
        let state = self.state.upgrade()?;
        let Ok(answer) = answer else { return Some(()) };
        let Ok(purges) = ::redis::from_redis_value::<Vec<(String, Vec<String>)>>(answer) else { return Some(()) };
        if purges.len() >= MAX_PURGES {
            // There may have been more than are kept.
            state.cache.purge(&Purge::all());
        }
        for (id, words) in purges {
            self.purged = Some(id);
            if words.get(3).is_some_and(|by| *by == self.shared.node) {
                continue;
            }
            if let Some(purge) = words.get(1).and_then(|query| Purge::read(query).ok()) {
                state.cache.purge(&purge);
            }
        }
        Some(())
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({:?})", self.link)
    }
}
