//! A map that every exchange reads and that seldom grows: it is copied when a name is new, so that readers take no lock.
//!
//! Never forgets a name: whoever takes names from callers must bound how many there are.

use std::hash::Hash;

use arc_swap::ArcSwap;
use hashbrown::{Equivalent, HashMap};

/// Handles by name. Hashed by hashbrown's own hasher: names are short, and the standard one takes longer over them than
/// all else of a lookup.
#[derive(Debug)]
pub struct Handles<K, V>(ArcSwap<HashMap<K, V>>);

impl<K, V> Default for Handles<K, V> {
    fn default() -> Self {
        Handles(ArcSwap::default())
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Handles<K, V> {
    /// The handle under this name, or whatever stands for the name without being built first.
    pub fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, name: &Q) -> Option<V> {
        self.0.load().get(name).cloned()
    }

    /// Puts a handle under a new name; of two that come at once the first stays. Gives the one that stands there.
    pub fn put(&self, name: K, handle: V) -> V {
        self.0.rcu(|known| {
            let mut more = HashMap::clone(known);
            more.entry(name.clone()).or_insert_with(|| handle.clone());
            more
        });
        self.get(&name).unwrap_or(handle)
    }

    pub fn count(&self) -> usize {
        self.0.load().len()
    }

    /// Every name with its handle, in no order.
    pub fn all(&self) -> Vec<(K, V)> {
        self.0.load().iter().map(|(name, handle)| (name.clone(), handle.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_handles_under_a_name_the_first_stays() {
        let known: Handles<String, u8> = Handles::default();
        assert_eq!(known.get("a"), None);
        assert_eq!((known.put("a".into(), 1), known.put("a".into(), 2), known.put("b".into(), 3)), (1, 1, 3));
        assert_eq!((known.get("a"), known.count()), (Some(1), 2));
    }

    #[test]
    fn names_that_come_at_once_are_all_kept() {
        let known: Handles<u32, u32> = Handles::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let known = &known;
                scope.spawn(move || (0..100).for_each(|number| _ = known.put(number * 4 + thread, thread)));
            }
        });
        assert_eq!(known.count(), 400);
        assert!(known.all().into_iter().all(|(number, thread)| number % 4 == thread));
    }
}
