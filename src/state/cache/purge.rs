//! What an operator takes out of the cache: answers that fit everything that was said.
//!
//! Reads and writes the words, and looks at what is told of an answer, never at the answer. The words travel to the other
//! processes as they are. What was purged is remembered for the asks under way: their answers are of before it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use percent_encoding::percent_decode_str;

use super::entry::{Entry, Key};

/// Shortest beginning of a key that is taken: shorter ones take out a sixteenth of everything by a slip.
const SHORTEST_PREFIX: usize = 4;

/// Purges that are remembered. An answer that was under way for more of them is not kept, whatever they took out.
const MAX_REMEMBERED: usize = 1000;

/// What a purge takes out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purge {
    key: Option<Key>,
    prefix: Option<String>,
    partition: Option<String>,
    model: Option<String>,
}

/// What is told of an answer.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub key: Key,
    pub partition: &'a str,
    /// The model as callers name it.
    pub asked: &'a str,
    /// Who gave it, provider and the upstream's name of the model; None as long as that may be anybody.
    pub from: Option<(&'a str, &'a str)>,
}

impl<'a> From<&'a Entry> for About<'a> {
    fn from(entry: &'a Entry) -> Self {
        let Entry { key, partition, asked, provider, model, .. } = entry;
        About { key: *key, partition, asked, from: Some((provider, model)) }
    }
}

impl Purge {
    /// Everything.
    pub fn all() -> Purge {
        Purge::default()
    }

    /// The answer under this key.
    pub fn of(key: Key) -> Purge {
        Purge { key: Some(key), ..Purge::default() }
    }

    /// The key, where that alone says what is taken out.
    pub fn only_key(&self) -> Option<Key> {
        self.key.filter(|key| *self == Purge::of(*key))
    }

    /// Reads `key=`, `prefix=`, `partition=`, `model=` or `all=true`, as in a URL's query.
    ///
    /// # Errors
    /// What is wrong, and what to send instead.
    pub fn read(query: &str) -> Result<Purge, String> {
        const HOW: &str = "send `key`, `prefix` (of a key), `partition`, `model`, or `all=true` in the query";
        let mut purge = Purge::default();
        let mut all = false;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name {
                "key" => {
                    let key =
                        Key::parse(&value).ok_or("`key` has 32 hexadecimal digits, as `x-portcullis-cache-key`")?;
                    purge.key = Some(key);
                }
                "prefix" if value.len() >= SHORTEST_PREFIX => purge.prefix = Some(value.to_ascii_lowercase()),
                "prefix" => return Err(format!("`prefix` has at least {SHORTEST_PREFIX} digits")),
                "partition" => purge.partition = Some(value),
                "model" => purge.model = Some(value),
                "all" if value == "true" => all = true,
                _ => return Err(format!("`{name}` is not known; {HOW}")),
            }
        }
        if purge == Purge::default() && !all {
            return Err(format!("nothing says what to take out; {HOW}"));
        }
        Ok(purge)
    }

    pub fn fits(&self, about: &About<'_>) -> bool {
        let is = |wanted: &Option<String>, names: &[&str]| {
            wanted.as_ref().is_none_or(|wanted| names.iter().any(|name| name == wanted))
        };
        self.key.is_none_or(|key| key == about.key)
            && self.prefix.as_ref().is_none_or(|prefix| about.key.to_string().starts_with(prefix))
            // A key or project may be named without saying which of the two it is.
            && is(&self.partition, &[about.partition, about.partition.split_once(':').map_or("", |(_, name)| name)])
            && match about.from {
                Some((provider, model)) => is(&self.model, &[about.asked, model, &format!("{provider}/{model}")]),
                None => true,
            }
    }
}

/// The purges of this process's memory, counted.
#[derive(Debug, Default)]
pub(super) struct Purged {
    count: AtomicU64,
    /// The last of them, the newest at the end.
    last: Mutex<VecDeque<Purge>>,
}

impl Purged {
    /// How many there were: what an ask that begins now is to remember.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Notes a purge, before anything is taken out by it.
    pub fn note(&self, purge: &Purge) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == MAX_REMEMBERED {
            last.pop_front();
        }
        last.push_back(purge.clone());
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Whether an answer was taken out since there were so many: it was asked for before that.
    pub fn fits_since(&self, count: u64, about: &About<'_>) -> bool {
        // Nearly always.
        if self.count() == count {
            return false;
        }
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = usize::try_from(self.count().saturating_sub(count)).unwrap_or(usize::MAX);
        missed > last.len() || last.iter().rev().take(missed).any(|purge| purge.fits(about))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_of_before_the_purges_that_came_since_its_ask() {
        let key = Key::of([b"x".as_slice()]);
        let about = |partition| About { key, partition, asked: "fast", from: Some(("openai", "gpt-5")) };
        let read = |query: &str| Purge::read(query).expect("is good");
        let purged = Purged::default();
        let before = purged.count();
        assert!(!purged.fits_since(before, &about("key:a")));
        purged.note(&read("partition=key:a"));
        let between = purged.count();
        purged.note(&read("partition=key:b"));
        assert!(purged.fits_since(before, &about("key:a")) && purged.fits_since(before, &about("key:b")));
        assert!(!purged.fits_since(between, &about("key:a")) && purged.fits_since(between, &about("key:b")));
        assert!(!purged.fits_since(before, &about("key:c")));
        // What is not remembered any more may have fitted.
        (0..MAX_REMEMBERED).for_each(|_| purged.note(&read("model=other")));
        assert!(purged.fits_since(between, &about("key:c")) && !purged.fits_since(between + 1, &about("key:c")));
    }

    #[test]
    fn a_purge_says_what_it_takes() {
        assert!(Purge::read("").is_err() && Purge::read("all=yes").is_err() && Purge::read("key=12").is_err());
        assert!(Purge::read("prefix=a").is_err() && Purge::read("modle=x").is_err());
        assert_eq!(Purge::read("all=true"), Ok(Purge::all()));
        let purge = Purge::read("model=openai%2Fgpt-5&partition=key:a").expect("is good");
        let key = Key::of([b"x".as_slice()]);
        assert_eq!(Purge::read(&format!("key={key}")), Ok(Purge::of(key)));
        assert_eq!((Purge::of(key).only_key(), purge.only_key()), (Some(key), None));
        let about = |partition, model| About { key, partition, asked: "fast", from: Some(("openai", model)) };
        assert!(purge.fits(&about("key:a", "gpt-5")));
        assert!(!purge.fits(&about("key:b", "gpt-5")) && !purge.fits(&about("key:a", "gpt-4")));
        let anybodys = |partition| About { from: None, ..about(partition, "") };
        assert!(purge.fits(&anybodys("key:a")) && !purge.fits(&anybodys("key:b")));
        assert!(Purge::read("partition=a&model=fast").expect("is good").fits(&about("project:a", "m")));
        assert!(Purge::read(&format!("prefix={}", &key.to_string()[..6])).expect("is good").fits(&about("", "")));
    }
}
