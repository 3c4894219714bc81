//! Lists as scripts write them: the one rule for what is one, on the way to JSON and in verdicts.
//!
//! To the engine a table with holes may end at any of them; here every entry counts, and none is lost without a word.

use mlua::{Error, Result, Value as Lv};

/// A list of so many places may be as empty as it likes; of a longer one half of them have an entry.
const SPARSE: usize = 10;

/// The entries of a list, put in one by one, in whatever order.
pub(super) struct List<T> {
    items: Vec<T>,
    /// Those that came while a place before theirs was empty.
    apart: Vec<(usize, T)>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        List { items: Vec::new(), apart: Vec::new() }
    }
}

/// The place that a key of a table is in a list, from 1; None where it is none.
pub(super) fn place(key: &Lv) -> Option<usize> {
    key.as_usize().filter(|place| *place > 0)
}

impl<T> List<T> {
    pub fn len(&self) -> usize {
        self.items.len() + self.apart.len()
    }

    /// Puts an entry in its place. Each place comes once, as a table has it.
    pub fn put(&mut self, place: usize, item: T) {
        if place == self.items.len() + 1 {
            self.items.push(item);
        } else {
            self.apart.push((place, item));
        }
    }

    /// The list, with what `hole` gives in places without an entry.
    ///
    /// # Errors
    /// `hole`'s, or hardly any of its places has an entry.
    pub fn whole(self, mut hole: impl FnMut(usize) -> Result<T>) -> Result<Vec<T>> {
        let count = self.len();
        let List { mut items, mut apart } = self;
        apart.sort_unstable_by_key(|(place, _)| *place);
        if let Some((last, _)) = apart.last()
            && *last > SPARSE
            && *last > count.saturating_mul(2)
        {
            let text = format!(
                "a table with the numbers up to {last} in it, but {count} entries, is no list; write the numbers as texts"
            );
            return Err(Error::runtime(text));
        }
        for (place, item) in apart {
            while items.len() + 1 < place {
                items.push(hole(items.len() + 1)?);
            }
            items.push(item);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(places: &[usize]) -> std::result::Result<Vec<usize>, String> {
        let mut list = List::default();
        places.iter().for_each(|place| list.put(*place, *place));
        list.whole(|_| Ok(0)).map_err(|error| error.to_string())
    }

    #[test]
    fn no_entry_is_lost_whatever_holes_there_are() {
        assert_eq!(whole(&[1, 2, 3]), Ok(vec![1, 2, 3]));
        assert_eq!(whole(&[2, 1, 3]), Ok(vec![1, 2, 3]));
        assert_eq!(whole(&[1, 3]), Ok(vec![1, 0, 3]));
        assert_eq!(whole(&[10]).map(|list| list.len()), Ok(10));
        assert_eq!(whole(&[1, 2, 3, 4, 5, 12]).map(|list| list.len()), Ok(12));
        assert!(whole(&[11]).expect_err("nearly empty").contains("up to 11 in it, but 1 entries"));
        assert!(whole(&[1, 2, usize::MAX]).is_err());
        assert_eq!(whole(&[]), Ok(vec![]));
    }
}
