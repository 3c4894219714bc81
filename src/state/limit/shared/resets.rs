//! Resets of shared counts: every partition of a rule, whichever process made it, and word of it to the other processes.
//!
//! A process that is told late, at most a beat, forgets what it has counted since; the server has it all the same. It is
//! always told before it states its counts anew, so that a lost link does not undo a reset.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use ::redis::{FromRedisValue, Value, cmd, from_redis_value};

use super::super::meter::{Shape, Unit};
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
    last: Option<String>,
}

impl Heard {
    pub fn new() -> Self {
        Heard { began: unix_ms(), last: None }
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
        tell.arg(self.told()).arg("MAXLEN").arg(MAX_RESETS).arg("*").arg(&[&*self.node, rule]);
        if let Some(partition) = partition {
            tell.arg(&["partition", partition]);
        }
        self.link.run(&tell).await?;
        let begin = self.keys_of(rule);
        let pattern = format!("{}*", escaped(&format!("{begin}{}", partition.unwrap_or_default())));
        let mut partitions = HashSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN);
            let (next, keys): (String, Vec<String>) = read(self.link.run(&scan).await?, "SCAN")?;
            let mut drop = cmd("UNLINK");
            let mut fits = false;
            for key in keys {
                let of = key.strip_prefix(&begin).and_then(partition_of);
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
                self.behind.store(true, Ordering::Relaxed);
                return Ok(partitions.len());
            }
            cursor = next;
        }
    }

    /// What other processes have reset since the last look: rules, each with one partition or all.
    pub(super) async fn resets(&self, heard: &mut Heard) -> Result<Vec<(String, Option<String>)>, Away> {
        let began = heard.began;
        let after = heard.last.get_or_insert_with(|| format!("{}-0", self.time(began)));
        let mut range = cmd("XRANGE");
        range.arg(self.told()).arg(format!("({after}")).arg("+").arg("COUNT").arg(MAX_RESETS);
        let entries: Vec<(String, Vec<String>)> = read(self.link.run(&range).await?, "XRANGE")?;
        let mut resets = Vec::new();
        for (id, words) in entries {
            heard.last = Some(id);
            let mut words = words.into_iter();
            let (Some(node), Some(rule)) = (words.next(), words.next()) else { continue };
            if node != self.node {
                resets.push((rule, words.nth(1)));
            }
        }
        Ok(resets)
    }

    fn told(&self) -> String {
        format!("{{{}}}:limits:resets", self.link.prefix)
    }
}

fn read<T: FromRedisValue>(value: Value, command: &str) -> Result<T, Away> {
    from_redis_value(value).map_err(|_| Away::Failed(format!("{command} answered something else")))
}

/// The partition in the rest of a hash's name; it may hold colons itself.
fn partition_of(rest: &str) -> Option<&str> {
    let fits = |(at, _): &(usize, &str)| {
        let (unit, shape) = rest[at + 1..].split_once(':').unwrap_or_default();
        Unit::from_name(unit).is_some() && Shape::from_text(shape).is_some()
    };
    rest.match_indices(':').find(fits).map(|(at, _)| &rest[..at])
}

/// A text that a pattern of SCAN takes as it is.
fn escaped(text: &str) -> String {
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
        assert_eq!(escaped("{p}:limit:r[1]*\\"), "{p}:limit:r\\[1\\]\\*\\\\");
    }
}
