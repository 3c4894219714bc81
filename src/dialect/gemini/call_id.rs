//! Ids for function calls that Gemini left without one. Other dialects cannot do without; Gemini 2 never sends any.
//!
//! In asks made of what the call is and where it stands, so the same conversation gives the same ids (and the same
//! prompt-cache prefix) every time; in answers of what tells the answer from others. Never sent to Gemini as its own:
//! [`own`] tells them from ids that somebody really gave.

use crate::dialect::stable_hash;

const PREFIX: &str = "call_gm";

/// An id of at most 40 letters (OpenAI's limit) out of `[a-z0-9_]` (Anthropic's). `seed` tells answers apart, `index`
/// the calls of one answer.
pub fn make(seed: &[&str], index: usize) -> String {
    format!("{PREFIX}{:016x}_{index}", stable_hash(seed))
}

/// Whether the provider or the client gave this id, as against [`make`].
pub fn own(id: &str) -> bool {
    let made = id.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).is_some_and(|(hash, index)| {
        hash.len() == 16
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            && !index.is_empty()
            && index.bytes().all(|byte| byte.is_ascii_digit())
    });
    !made && !id.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_ids_are_stable_distinct_short_and_known_again() {
        let id = make(&["resp", "f"], 3);
        assert_eq!(id, make(&["resp", "f"], 3));
        assert_ne!(id, make(&["resp", "f"], 4));
        assert_ne!(id, make(&["respf", ""], 3));
        assert!(id.len() <= 40 && !own(&id), "{id}");
        for given in ["call_abc", "toolu_01", "call_gm_1", "call_gmzzzzzzzzzzzzzzzz_1", "x7Jk"] {
            assert!(own(given), "{given}");
        }
    }
}
