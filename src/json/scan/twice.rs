//! Keys that stand twice in an object, of which one parser takes the first and another the last.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use super::{Malformed, Scan, object};

/// Whether no object in `text`, which [`object`] has read before, has a key twice, however it is written.
pub fn has_each_key_once(text: &[u8]) -> bool {
    let (mut keys, mut once) = (Vec::new(), true);
    let _ = object(text, |scan, key| {
        keys.push(key);
        look(scan, &mut once)
    });
    once && are_distinct(text, &keys)
}

/// The same of a value. As deep as the first reading allowed.
fn look(scan: &mut Scan<'_>, once: &mut bool) -> Result<(), Malformed> {
    if !scan.at_object() {
        return scan.array(|scan| look(scan, once));
    }
    let mut keys = Vec::new();
    scan.object(|scan, key| {
        keys.push(key);
        look(scan, once)
    })?;
    *once &= are_distinct(scan.text, &keys);
    Ok(())
}

fn are_distinct(text: &[u8], keys: &[Range<usize>]) -> bool {
    let plain = |key: &Range<usize>| match &text[key.clone()] {
        written if !written.contains(&b'\\') => Cow::Borrowed(written),
        _ => {
            let meant = serde_json::from_slice::<String>(&text[key.start - 1..key.end + 1]);
            Cow::Owned(meant.unwrap_or_default().into_bytes())
        }
    };
    let mut seen = HashSet::with_capacity(keys.len());
    keys.iter().all(|key| seen.insert(plain(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_found_wherever_it_is() {
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"m":[{"role":"user","content":"x","content":"y"}]}"#,
            r#"{"m":[1,[{"b":{"c":0,"d":[],"c":{}}}]]}"#,
            r#"{"m":{"content":"x","con\u0074ent":"y"}}"#,
        ] {
            assert!(!has_each_key_once(text.as_bytes()), "{text}");
        }
        for text in [r#"{"a":{"a":[{"a":1},{"a":2}]},"A":"a"}"#, r#"{"m":{"\u00fc":1,"\u00e4":2}}"#, "{}"] {
            assert!(has_each_key_once(text.as_bytes()), "{text}");
        }
    }
}
