//! Generations that were in force: the newest few whole, for comparing and going back, and older ones until nobody
//! uses them any more.
//!
//! Whoever serves requests never holds the last reference to a generation: closing its machines takes too long there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::generation::Generation;

/// Generations kept whole. Each holds its policies' machines.
const KEPT: usize = 5;

/// Lines of one file beyond which a difference is not worked out.
const MAX_DIFF_LINES: usize = 4000;

/// The generations of a process.
#[derive(Debug, Default)]
pub struct History {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    kept: VecDeque<Arc<Generation>>,
    retired: Vec<Arc<Generation>>,
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A generation came into force.
    pub fn add(&self, generation: Arc<Generation>) {
        let mut inner = self.lock();
        inner.kept.retain(|known| known.number != generation.number);
        inner.kept.push_back(generation);
        while inner.kept.len() > KEPT {
            let old = inner.kept.pop_front();
            inner.retired.extend(old);
        }
    }

    pub fn find(&self, number: u64) -> Option<Arc<Generation>> {
        self.lock().kept.iter().find(|generation| generation.number == number).cloned()
    }

    /// Lets go of retired generations that no exchange uses any more. How many are left.
    pub fn reap(&self) -> usize {
        let unused: Vec<_> = {
            let mut inner = self.lock();
            let (unused, used) =
                std::mem::take(&mut inner.retired).into_iter().partition(|old| Arc::strong_count(old) == 1);
            inner.retired = used;
            unused
        };
        drop(unused);
        self.lock().retired.len()
    }

    /// What is kept, newest first.
    pub fn list(&self, in_force: u64) -> Value {
        let inner = self.lock();
        let row = |generation: &Arc<Generation>| {
            let policies = generation.hooks.all().iter().map(|hook| {
                json!({
                    "name": &*hook.guest.name,
                    "version": hook.bundle.manifest.version,
                    "digest": hook.bundle.digest,
                })
            });
            let adapters = generation.adapters.iter().map(|adapter| {
                let about = adapter.about();
                json!({ "name": about.label, "version": about.version, "digest": about.digest })
            });
            json!({
                "number": generation.number,
                "in_force": generation.number == in_force,
                "loaded_at": humantime::format_rfc3339_millis(generation.loaded).to_string(),
                "source": generation.source,
                "policies": policies.collect::<Vec<_>>(),
                "adapters": adapters.collect::<Vec<_>>(),
            })
        };
        json!({
            "in_force": in_force,
            "generations": inner.kept.iter().rev().map(row).collect::<Vec<_>>(),
            "retired_in_use": inner.retired.len(),
        })
    }
}

/// What differs from one generation to another, file by file.
pub fn diff(from: &Generation, to: &Generation) -> Value {
    let mut names: Vec<&String> = from.sources.iter().chain(&to.sources).map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    let text = |generation: &'_ Generation, name: &str| {
        generation.sources.iter().find(|(known, _)| known == name).map(|(_, text)| text.clone()).unwrap_or_default()
    };
    let changes: Vec<Value> = names
        .into_iter()
        .filter_map(|name| {
            let (old, new) = (text(from, name), text(to, name));
            (old != new).then(|| json!({ "file": name, "diff": lines(&old, &new) }))
        })
        .collect();
    json!({ "from": from.number, "to": to.number, "changes": changes })
}

/// The lines that went and came, marked `-` and `+`, with the number of the line before them.
fn lines(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same = |pair: &(&&str, &&str)| pair.0 == pair.1;
    let head = old.iter().zip(&new).take_while(same).count();
    let rest = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(same).count().min(rest);
    let (a, b) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut out = format!("@@ line {} @@\n", head + 1);
    if a.len() > MAX_DIFF_LINES || b.len() > MAX_DIFF_LINES {
        return format!("{out}{} lines became {}\n", a.len(), b.len());
    }
    // Lengths of the longest common subsequence of what follows, from the end.
    let mut common = vec![vec![0u16; b.len() + 1]; a.len() + 1];
    for (i, x) in a.iter().enumerate().rev() {
        for (j, y) in b.iter().enumerate().rev() {
            common[i][j] = if x == y { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            out.push_str(&format!(" {}\n", a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j >= b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            out.push_str(&format!("-{}\n", a[i]));
            i += 1;
        } else {
            out.push_str(&format!("+{}\n", b[j]));
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_those_lines_alone() {
        assert_eq!(lines("a\nb\nc\nd\n", "a\nx\nc\ny\nd\n"), "@@ line 2 @@\n-b\n+x\n c\n+y\n");
        assert_eq!(lines("", "a\n"), "@@ line 1 @@\n+a\n");
        assert_eq!(lines("a\na\n", "a\n"), "@@ line 2 @@\n-a\n");
    }
}
