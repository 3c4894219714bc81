//! The embedded store: an SQLite file with the counts of lasting windows and the ledger, written by one thread.
//!
//! The request path only hands over; the thread writes what gathered, in one transaction, several times a second. Counts
//! are written as they stand, not as changes, and ledger rows by their id, so that nothing is counted twice, whatever
//! moment the process dies at.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, params};

use super::limit::Limits;
use super::limit::cell::Threshold;
use super::limit::meter::{Shape, Unit};
use super::limit::report::Row;

/// How often what gathered is written. With the time of a transaction this stays well within the second that a kill may
/// cost.
const PACE: Duration = Duration::from_millis(200);

/// How often windows that are over are taken out of the file: callers choose some of the partitions, and each leaves rows.
const SWEEP_PACES: u32 = (Duration::from_secs(3600).as_millis() / PACE.as_millis()) as u32;

/// Rows that are looked at in one pace of that: some ten milliseconds, which what gathers meanwhile waits for.
const SWEEP_ROWS: usize = 5000;

/// Ledger rows that may wait for a slow disk.
const QUEUE: usize = 65_536;

/// How long another process that holds the file is waited for: one that is just ending.
const BUSY: Duration = Duration::from_secs(2);

/// The layout of the tables; a file of a later one is not touched.
const LAYOUT: i64 = 1;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS windows (
    rule TEXT NOT NULL, partition TEXT NOT NULL, unit TEXT NOT NULL, shape TEXT NOT NULL, share TEXT NOT NULL,
    cap TEXT NOT NULL, start INTEGER NOT NULL, cur TEXT NOT NULL, prev TEXT NOT NULL,
    told INTEGER NOT NULL, told_start INTEGER NOT NULL, told_cap TEXT NOT NULL DEFAULT '0',
    PRIMARY KEY (rule, partition, unit, shape, share)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger (
    id TEXT NOT NULL PRIMARY KEY, time INTEGER NOT NULL, key TEXT NOT NULL, project TEXT, model TEXT NOT NULL,
    target TEXT, input INTEGER, output INTEGER, cost_nano_usd INTEGER, status INTEGER NOT NULL, code TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ledger_time ON ledger (time);
";

const PUT_WINDOW: &str = "INSERT OR REPLACE INTO windows
    (rule, partition, unit, shape, share, cap, start, cur, prev, told, told_start, told_cap)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

const ROWS: &str =
    "SELECT rule, partition, unit, shape, share, cap, start, cur, prev, told, told_start, told_cap FROM windows";

/// In the order of the table itself.
const ROWS_AFTER: &str = "WHERE (rule, partition, unit, shape, share) > (?1, ?2, ?3, ?4, ?5)
    ORDER BY rule, partition, unit, shape, share LIMIT ?6";

const DROP_WINDOW: &str =
    "DELETE FROM windows WHERE rule = ?1 AND partition = ?2 AND unit = ?3 AND shape = ?4 AND share = ?5";

/// Files of before thresholds had an amount.
const ADD_TOLD_CAP: &str = "ALTER TABLE windows ADD COLUMN told_cap TEXT NOT NULL DEFAULT '0'";

const PUT_ENTRY: &str = "INSERT OR IGNORE INTO ledger
    (id, time, key, project, model, target, input, output, cost_nano_usd, status, code)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

/// One exchange in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The exchange's id.
    pub id: String,
    /// When it began, Unix milliseconds.
    pub time: u64,
    pub key: String,
    pub project: Option<String>,
    /// The model as the caller named it.
    pub model: String,
    /// `provider/model` that answered.
    pub target: Option<String>,
    pub input: Option<u64>,
    pub output: Option<u64>,
    /// Nano-dollars; None when the price is unknown.
    pub cost: Option<u64>,
    pub status: u16,
    /// Code of the fault it ended with.
    pub code: Option<&'static str>,
}

enum Message {
    Entry(Box<Entry>),
    Close,
}

/// The handle that hands over.
pub struct Store {
    messages: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    ledger: bool,
    pub path: PathBuf,
}

/// The thread that writes; join it to flush.
pub type Writer = JoinHandle<()>;

impl Store {
    /// Opens or makes the file, puts its counts back into `limits` (None: others keep the counts), and starts writing. `now` in Unix milliseconds.
    ///
    /// # Errors
    /// The file cannot be opened, belongs to another process, is damaged or of a later layout; the text says what to do.
    pub fn open(path: &Path, ledger: bool, limits: Option<&Arc<Limits>>, now: u64) -> Result<(Self, Writer), String> {
        let connection = open(path).map_err(|error| explain(path, &error))?;
        let rows = read(&connection).map_err(|error| explain(path, &error))?;
        if let Some(limits) = limits {
            limits.restore(rows, now);
            limits.watch();
        }
        let (messages, received) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut pen = Pen::new(connection, limits.cloned(), dropped.clone());
        let writer = std::thread::Builder::new().name("store".into());
        let writer = writer
            .spawn(move || pen.run(&received))
            .map_err(|error| format!("the store's thread cannot be started: {error}"))?;
        Ok((Store { messages, dropped, ledger, path: path.to_owned() }, writer))
    }

    /// Whether a row is kept for every exchange.
    pub fn keeps_ledger(&self) -> bool {
        self.ledger
    }

    /// Hands a ledger row over, or drops it when the disk is far behind.
    pub fn enter(&self, entry: Entry) {
        if self.messages.try_send(Message::Entry(Box::new(entry))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ledger rows dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Tells the writer that nothing more comes. What is there is still written.
    pub fn close(&self) {
        let _ = self.messages.try_send(Message::Close);
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.path.display())
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    // A file that is made here is never without a header again: SQLite would take an empty one for new, and begin from zero.
    if std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == 0) {
        return Err(rusqlite::Error::ToSqlConversionFailure("it is empty".into()));
    }
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    // One process alone: two that each count in memory would both be wrong.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A kill loses nothing that was committed; a loss of power may lose the last commits, never the file.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let layout: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if layout > LAYOUT {
        return Err(rusqlite::Error::ToSqlConversionFailure("it was written by a later version of Portcullis".into()));
    }
    let all = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    all.execute_batch(TABLES)?;
    if all.prepare("SELECT told_cap FROM windows LIMIT 0").is_err() {
        all.execute_batch(ADD_TOLD_CAP)?;
    }
    all.pragma_update(None, "user_version", LAYOUT)?;
    all.commit()?;
    let sound: String = connection.query_row("PRAGMA quick_check('windows')", [], |row| row.get(0))?;
    if sound != "ok" {
        return Err(rusqlite::Error::ToSqlConversionFailure(format!("its check found: {sound}").into()));
    }
    Ok(connection)
}

fn read(connection: &Connection) -> rusqlite::Result<Vec<Row>> {
    connection.prepare(ROWS)?.query_map([], row)?.collect()
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let text = |at: usize| row.get::<_, String>(at);
    let number = |at: usize| row.get::<_, i64>(at).map(|number| u64::try_from(number).unwrap_or(0));
    let (unit, shape) = (Unit::from_name(&text(2)?), Shape::from_text(&text(3)?));
    let (cap, cur, prev) = (text(5)?.parse(), text(7)?.parse(), text(8)?.parse());
    let told_cap = text(11)?.parse();
    let (Some(unit), Some(shape), Ok(limit), Ok(cur), Ok(prev), Ok(told_cap)) = (unit, shape, cap, cur, prev, told_cap)
    else {
        let text = "a row of its table `windows` cannot be read";
        return Err(rusqlite::Error::ToSqlConversionFailure(text.into()));
    };
    Ok(Row {
        rule: text(0)?,
        partition: text(1)?,
        unit,
        shape,
        share: text(4)?,
        limit,
        start: number(6)?,
        cur,
        prev,
        told: Threshold { percent: number(9)?, limit: if told_cap > 0 { told_cap } else { limit } },
        told_start: number(10)?,
    })
}

/// Takes the windows that are over out of the file, as far as they are among the rows that follow one. Gives the last that
/// was looked at; None at the end.
fn sweep(connection: &mut Connection, after: Option<&Row>, now: u64) -> rusqlite::Result<Option<Row>> {
    let all = connection.transaction()?;
    let name = |row: &Row| {
        [row.rule.clone(), row.partition.clone(), row.unit.as_str().to_owned(), row.shape.text(), row.share.clone()]
    };
    let mut rows = {
        let [rule, partition, unit, shape, share] = after.map(name).unwrap_or_default();
        let mut query = all.prepare_cached(&format!("{ROWS} {ROWS_AFTER}"))?;
        let rows = query.query_map(params![rule, partition, unit, shape, share, SWEEP_ROWS as i64], row)?;
        rows.collect::<rusqlite::Result<Vec<Row>>>()?
    };
    for row in rows.iter().filter(|row| row.is_over(now)) {
        all.prepare_cached(DROP_WINDOW)?.execute(name(row))?;
    }
    all.commit()?;
    Ok(rows.pop().filter(|_| rows.len() + 1 == SWEEP_ROWS))
}

/// What is wrong with the file, and the ways out.
fn explain(path: &Path, error: &rusqlite::Error) -> String {
    let file = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => format!(
            "store.path {file}: another process holds the file; stop it, or give each process a file of its own \
             (several that share limits need `redis:`)"
        ),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::DiskFull) => {
            format!(
                "store.path {file}: the file cannot be written ({error}); make its folder writable, set `store.path` to \
             another place, or write `store: {{ path: off }}` to keep counts in memory only"
            )
        }
        _ => format!(
            "store.path {file}: the file is damaged ({error}); what limits and budgets have counted is in it, so nothing \
             starts from zero by itself: bring back a copy, or move it away together with its -wal file to begin anew"
        ),
    }
}

/// The writing side.
struct Pen {
    connection: Connection,
    limits: Option<Arc<Limits>>,
    /// Taken from the engine and not written yet.
    rows: Vec<Row>,
    entries: Vec<Entry>,
    failing: bool,
    /// Rows of the ledger that are written nowhere.
    dropped: Arc<AtomicU64>,
    /// Paces until the file is swept.
    sweep_in: u32,
    /// Where that has got to.
    swept: Option<Row>,
}

impl Pen {
    fn new(connection: Connection, limits: Option<Arc<Limits>>, dropped: Arc<AtomicU64>) -> Self {
        let (rows, entries) = (Vec::new(), Vec::new());
        Pen { connection, limits, rows, entries, failing: false, dropped, sweep_in: SWEEP_PACES, swept: None }
    }

    fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            let open = self.gather(messages);
            self.rows.extend(self.limits.iter().flat_map(|limits| limits.changed()));
            if !self.rows.is_empty() || !self.entries.is_empty() {
                self.write();
            }
            if !open {
                break;
            }
            self.sweep();
        }
    }

    /// Goes on with the sweep that is under way, or begins one when it is due. What others count is not touched.
    fn sweep(&mut self) {
        self.sweep_in = self.sweep_in.saturating_sub(1);
        if self.sweep_in > 0 || self.failing || self.limits.is_none() {
            return;
        }
        // Rows that could not be looked at are in the next one's way.
        self.swept = sweep(&mut self.connection, self.swept.as_ref(), super::unix_ms()).unwrap_or_default();
        if self.swept.is_none() {
            self.sweep_in = SWEEP_PACES;
        }
    }

    /// Collects for one pace. False when nothing more will come.
    fn gather(&mut self, messages: &Receiver<Message>) -> bool {
        #[expect(clippy::disallowed_types, reason = "a thread of its own, without a runtime")]
        let deadline = std::time::Instant::now() + PACE;
        loop {
            #[expect(clippy::disallowed_types, reason = "a thread of its own, without a runtime")]
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match messages.recv_timeout(left) {
                Ok(Message::Entry(entry)) => self.take(*entry),
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => return true,
            }
        }
    }

    /// Keeps a row to be written, unless too many wait for a disk that takes none.
    fn take(&mut self, entry: Entry) {
        if self.entries.len() < QUEUE {
            self.entries.push(entry);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write(&mut self) {
        let written = write(&mut self.connection, &self.rows, &self.entries);
        match written {
            Ok(()) => {
                self.rows.clear();
                self.entries.clear();
                if self.failing {
                    tracing::info!("the store can be written again");
                }
                self.failing = false;
            }
            // Kept, and written with what comes: a full disk may become an emptier one.
            Err(error) => {
                self.forget_older();
                if !self.failing {
                    tracing::error!("the store cannot be written, counts are in memory only until it can: {error}");
                }
                self.failing = true;
            }
        }
    }

    /// Of several states of one count only the newest is worth writing.
    fn forget_older(&mut self) {
        let mut seen = std::collections::HashSet::new();
        self.rows.reverse();
        self.rows.retain(|row| {
            seen.insert((row.rule.clone(), row.partition.clone(), row.unit, row.shape, row.share.clone()))
        });
        self.rows.reverse();
    }
}

fn write(connection: &mut Connection, rows: &[Row], entries: &[Entry]) -> rusqlite::Result<()> {
    let all = connection.transaction()?;
    {
        let mut put = all.prepare_cached(PUT_WINDOW)?;
        for row in rows {
            put.execute(params![
                row.rule,
                row.partition,
                row.unit.as_str(),
                row.shape.text(),
                row.share,
                row.limit.to_string(),
                signed(row.start),
                row.cur.to_string(),
                row.prev.to_string(),
                signed(row.told.percent),
                signed(row.told_start),
                row.told.limit.to_string(),
            ])?;
        }
        let mut put = all.prepare_cached(PUT_ENTRY)?;
        for entry in entries {
            put.execute(params![
                entry.id,
                signed(entry.time),
                entry.key,
                entry.project,
                entry.model,
                entry.target,
                entry.input.map(signed),
                entry.output.map(signed),
                entry.cost.map(signed),
                entry.status,
                entry.code,
            ])?;
        }
    }
    all.commit()
}

/// SQLite's integers have a sign; nothing that is kept here comes near it.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::state::limit::{Adhoc, Amounts};

    const NOW: u64 = 1_700_000_000_000;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("portcullis-store-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).expect("a folder");
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn adhoc(key: &str) -> Adhoc<'_> {
        Adhoc { namespace: "test", key, shape: Shape::Total, limit: 10 }
    }

    #[test]
    fn counts_and_ledger_come_back_and_nothing_twice() {
        let folder = Folder::new("back");
        let path = folder.0.join("p.db");
        for round in 1..=3u64 {
            let limits = Arc::new(Limits::new());
            let (store, writer) = Store::open(&path, true, Some(&limits), NOW).expect("opens");
            assert_eq!(limits.peek(&adhoc("k"), 0, NOW).expect("few windows").remaining, 10 - (round - 1) * 2);
            assert!(limits.take(&adhoc("k"), 2, NOW).expect("few windows").allowed);
            let entry = Entry { id: "gen-1".into(), cost: Some(7), status: 200, ..Entry::default() };
            store.enter(entry.clone());
            store.enter(entry);
            store.close();
            writer.join().expect("ends");
            assert_eq!(store.dropped(), 0);
        }
        let sum: i64 = Connection::open(&path)
            .and_then(|file| file.query_row("SELECT SUM(cost_nano_usd) FROM ledger", [], |row| row.get(0)))
            .expect("a sum");
        assert_eq!(sum, 7);
        assert_eq!(Amounts::default().money, None);
    }

    #[test]
    fn windows_that_are_over_leave_the_file_and_memory_and_no_others() {
        const HOUR: u64 = 3_600_000;
        let folder = Folder::new("over");
        let path = folder.0.join("p.db");
        let hour = |key| Adhoc { shape: Shape::Fixed(HOUR), ..adhoc(key) };
        let names: Vec<String> = (0..SWEEP_ROWS + 10).map(|number| format!("k{number}")).collect();
        let limits = Arc::new(Limits::new());
        let (store, writer) = Store::open(&path, true, Some(&limits), NOW).expect("opens");
        for name in &names {
            assert!(limits.take(&hour(name), 2, NOW).expect("few windows").allowed);
        }
        assert!(
            limits.take(&adhoc("ever"), 2, NOW).expect("few windows").allowed
                && limits.take(&hour("later"), 2, NOW + 2 * HOUR).expect("few windows").allowed
        );
        store.close();
        writer.join().expect("ends");
        // What is over is not brought back.
        let limits = Arc::new(Limits::new());
        let (store, writer) = Store::open(&path, true, Some(&limits), NOW + 2 * HOUR).expect("opens");
        assert_eq!(limits.keys(), 2);
        assert_eq!(limits.peek(&adhoc("ever"), 0, NOW + 2 * HOUR).expect("few windows").remaining, 8);
        assert_eq!(limits.peek(&hour("later"), 0, NOW + 2 * HOUR).expect("few windows").remaining, 8);
        store.close();
        writer.join().expect("ends");
        let mut connection = open(&path).expect("opens");
        let first = sweep(&mut connection, None, NOW + 2 * HOUR).expect("is swept");
        assert!(first.is_some(), "there is more");
        assert_eq!(sweep(&mut connection, first.as_ref(), NOW + 2 * HOUR).expect("is swept"), None);
        let left: Vec<String> = read(&connection).expect("rows").into_iter().map(|row| row.partition).collect();
        assert_eq!(left, ["ever", "later"]);
    }

    #[test]
    fn rows_that_a_disk_takes_too_late_are_counted() {
        let mut pen = Pen::new(Connection::open_in_memory().expect("opens"), None, Arc::default());
        pen.entries = vec![Entry::default(); QUEUE - 1];
        (0..3).for_each(|_| pen.take(Entry::default()));
        assert_eq!((pen.entries.len(), pen.dropped.load(Ordering::Relaxed)), (QUEUE, 2));
    }

    #[test]
    fn a_damaged_or_taken_file_refuses_with_a_way_out() {
        let folder = Folder::new("bad");
        let limits = Arc::new(Limits::new());
        let path = folder.0.join("p.db");
        let refusal = |path: &Path| Store::open(path, true, Some(&limits), NOW).map(|_| ()).expect_err("refused");
        fs::write(&path, "not a database at all, but long enough to be taken for one".repeat(50)).expect("is written");
        let text = refusal(&path);
        assert!(text.contains("damaged") && text.contains("move it away"), "{text}");
        fs::write(&path, "").expect("is written");
        let text = refusal(&path);
        assert!(text.contains("it is empty") && text.contains("move it away"), "{text}");
        fs::remove_file(&path).expect("is there");
        let (store, writer) = Store::open(&path, true, Some(&limits), NOW).expect("opens");
        assert!(limits.take(&adhoc("k"), 2, NOW).expect("few windows").allowed);
        let text = refusal(&path);
        assert!(text.contains("another process") && text.contains("redis"), "{text}");
        store.close();
        writer.join().expect("ends");
        let text = refusal(&folder.0.join("missing/p.db"));
        assert!(text.contains("path: off"), "{text}");
        let file = Connection::open(&path).expect("opens");
        file.execute("UPDATE windows SET cur = 'x'", []).expect("is changed");
        file.close().expect("closes");
        assert!(refusal(&path).contains("cannot be read"));
        let file = Connection::open(&path).expect("opens");
        file.pragma_update(None, "user_version", 99).expect("is changed");
        file.close().expect("closes");
        assert!(refusal(&path).contains("later version"));
    }
}
