//! Resets of shared counts: every partition of a rule, whichever process made it, and word of it to the other processes.
//!
//! A process hears of them with its next answer from the server, or a beat later where it asks nothing: always before it
//! counts what came after them, and before it states its counts anew, so that neither a lost link nor a late statement
//! undoes a reset: the server takes none from a process that has not heard. What a process has counted while the server was
//! away is kept: nobody can say any more which part of it came before.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use ::redis::{FromRedisValue, Value, cmd, from_redis_value};

use super::super::cell::Apart;
use super::super::meter::{Shape, Unit};
use super::super::{Alert, Charge, Limits};
use super::Shared;
use crate::state::redis::Away;
use crate::state::unix_ms;

/// Names looked at in one round trip. Redis takes some 0.1 ms for them.
const SCAN: usize = 1000;

/// Resets that the server keeps for others to find.
const MAX_RESETS: usize = 1000;

/// How far a process has listened.
pub(super) struct Heard {
    /// Unix milliseconds, by this process's clock.
    began: u64,
    /// The last reset that was carried out; None before the first look.
    last: Option<Id>,
}

/// The name of a reset: the server's time, and its number within that millisecond.
type Id = (u64, u64);

impl Heard {
    pub fn new() -> Self {
        Heard { began: unix_ms(), last: None }
    }
}

/// A reset as the server tells of it.
#[derive(Debug)]
pub(super) struct Reset {
    id: Id,
    /// The process that made it.
    node: String,
    rule: String,
    /// None for all.
    partition: Option<String>,
}

impl Reset {
    /// Reads what XRANGE answered.
    pub fn read(value: Value) -> Option<Vec<Self>> {
        let entries: Vec<(String, Vec<String>)> = from_redis_value(value).ok()?;
        let reset = |(id, words): (String, Vec<String>)| {
            let (millis, number) = id.split_once('-')?;
            let mut words = words.into_iter();
            let (node, rule) = (words.next()?, words.next()?);
            Some(Reset { id: (millis.parse().ok()?, number.parse().ok()?), node, rule, partition: words.nth(1) })
        };
        Some(entries.into_iter().filter_map(reset).collect())
    }
}

impl Shared {
    /// Forgets what all processes have of a rule's windows: of one partition, or of all. What is under way here is stated
    /// anew. Gives how many partitions lay on the server.
    ///
    /// # Errors
    /// The server is away; it still counts what it did, or a part of it.
    pub async fn reset(&self, rule: &str, partition: Option<&str>) -> Result<usize, Away> {
        let mut tell = cmd("XADD");
        tell.arg(self.resets_key()).arg("MAXLEN").arg(MAX_RESETS).arg("*").arg(&[&*self.node, rule]);
        if let Some(partition) = partition {
            tell.arg(&["partition", partition]);
        }
        self.link.run(&tell).await?;
        let mut partitions = HashSet::new();
        for begin in [self.keys_of(rule), self.spent_of(rule)] {
            partitions.extend(self.unlink(&begin, partition, partition_of).await?);
        }
        // What was told of the counts that are gone is to be told of those that come.
        self.unlink(&told_of(&self.link.prefix, rule), partition, partition_told).await?;
        self.behind.store(true, Ordering::Relaxed);
        Ok(partitions.len())
    }

    /// Forgets what is kept under names that begin so: of one partition, or of all. Gives which, as `read` finds them in
    /// the rest of a name.
    async fn unlink(
        &self,
        begin: &str,
        partition: Option<&str>,
        read: fn(&str) -> Option<&str>,
    ) -> Result<HashSet<String>, Away> {
        let mut partitions = HashSet::new();
        let pattern = format!("{}*", escaped(&format!("{begin}{}", partition.unwrap_or_default())));
        let mut cursor = "0".to_owned();
        loop {
            let (next, keys) = self.scan(&cursor, &pattern).await?;
            let mut drop = cmd("UNLINK");
            let mut fits = false;
            for key in keys {
                let of = key.strip_prefix(begin).and_then(read);
                if let Some(of) = of.filter(|of| partition.is_none_or(|partition| partition == *of)) {
                    partitions.insert(of.to_owned());
                    drop.arg(&key);
                    fits = true;
                }
            }
            if fits {
                self.link.run(&drop).await?;
            }
            if next == "0" {
                return Ok(partitions);
            }
            cursor = next;
        }
    }

    /// Looks at some names on the server, from where a cursor stands. Gives those that fit, and where to go on; `0` is the
    /// begin and the end.
    pub(super) async fn scan(&self, cursor: &str, pattern: &str) -> Result<(String, Vec<String>), Away> {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN);
        read(self.link.run(&scan).await?, "SCAN")
    }

    /// Carries out what other processes have reset since the last look.
    ///
    /// # Errors
    /// The server is away; it is heard of later.
    pub(super) async fn listen(&self, limits: &Limits) -> Result<(), Away> {
        let mut range = cmd("XRANGE");
        range.arg(self.resets_key()).arg(format!("({}", self.last_heard())).arg("+").arg("COUNT").arg(MAX_RESETS);
        let resets = Reset::read(self.link.run(&range).await?);
        let resets = resets.ok_or_else(|| Away::Failed("XRANGE answered something else".to_owned()))?;
        self.carry_out(limits, &resets);
        self.listened.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Carries out in this process's counts what others have reset, each once whoever hears of it first.
    pub(super) fn carry_out(&self, limits: &Limits, resets: &[Reset]) {
        if resets.is_empty() {
            return;
        }
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        for reset in resets.iter().filter(|reset| reset.node != self.node) {
            if heard.last.is_none_or(|last| last < reset.id) {
                limits.reset_heard(&reset.rule, reset.partition.as_deref(), self.listened.load(Ordering::Acquire));
                self.budgets_behind.store(true, Ordering::Relaxed);
            }
        }
        heard.last = heard.last.max(resets.last().map(|reset| reset.id));
    }

    /// The last reset that was heard of, as the server names it.
    pub(super) fn last_heard(&self) -> String {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let began = heard.began;
        let (millis, number) = *heard.last.get_or_insert_with(|| (self.time(began), 0));
        format!("{millis}-{number}")
    }

    /// Counts of this process are about to change of which the server knows nothing.
    pub(super) fn note_away(&self, charges: &[Charge<'_>]) {
        let listened = self.listened.load(Ordering::Acquire);
        for charge in charges {
            for slot in &mut charge.cell.lock().slots {
                if slot.away.as_ref().is_none_or(|away| away.listened != listened) {
                    slot.away = Some(Box::new(Apart { listened, before: slot.meter }));
                }
            }
        }
    }

    /// The stream that they are told in.
    pub(super) fn resets_key(&self) -> String {
        format!("{{{}}}:limits:resets", self.link.prefix)
    }
}

fn read<T: FromRedisValue>(value: Value, command: &str) -> Result<T, Away> {
    from_redis_value(value).map_err(|_| Away::Failed(format!("{command} answered something else")))
}

/// How the names begin under which is kept that a threshold of a rule was told of.
fn told_of(prefix: &str, rule: &str) -> String {
    format!("{{{prefix}}}:told:{rule}:")
}

/// The name under which is kept that somebody was told of this. Of a budget that was raised in its window the thresholds are
/// others.
pub fn told(prefix: &str, alert: &Alert) -> String {
    let Alert { rule, partition, percent, limit, window_start, shape, .. } = alert;
    let (begin, unit, shape) = (told_of(prefix, &rule.name), Unit::Money.as_str(), shape.text());
    format!("{begin}{partition}:{unit}:{shape}:{window_start}:{percent}/{limit}")
}

/// The partition in the rest of such a name.
fn partition_told(rest: &str) -> Option<&str> {
    let (rest, _percent) = rest.rsplit_once(':')?;
    let (rest, _window_start) = rest.rsplit_once(':')?;
    partition_of(rest)
}

/// The partition in the rest of a hash's name; it may hold colons itself.
pub(super) fn partition_of(rest: &str) -> Option<&str> {
    let fits = |(at, _): &(usize, &str)| {
        let (unit, shape) = rest[at + 1..].split_once(':').unwrap_or_default();
        Unit::from_name(unit).is_some() && Shape::from_text(shape).is_some()
    };
    rest.match_indices(':').find(fits).map(|(at, _)| &rest[..at])
}

/// A text that a pattern of SCAN takes as it is.
pub(super) fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_is_found_whatever_is_in_it() {
        for (rest, partition) in [
            ("key=a:requests:fixed:60000", Some("key=a")),
            (":tokens:total", Some("")),
            ("user=a:b:c:money:day:0", Some("user=a:b:c")),
            ("user=tokens:x:requests:in_flight", Some("user=tokens:x")),
            ("something else", None),
        ] {
            assert_eq!(partition_of(rest), partition, "{rest}");
        }
        assert_eq!(partition_told("user=a:b:money:day:0:1700000000000:80"), Some("user=a:b"));
        assert_eq!(partition_told("user=a:b:money:total:0:80"), Some("user=a:b"));
        assert_eq!(escaped("{p}:limit:r[1]*\\"), "{p}:limit:r\\[1\\]\\*\\\\");
    }
}
