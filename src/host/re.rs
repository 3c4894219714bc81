//! Patterns whose time grows with the text alone, compiled once.
//!
//! Everything is bounded: the pattern, its compiled size, the text. A pattern that is refused is an error of the
//! guest's, with the position in it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::{Regex, RegexBuilder};

use super::HostError;

const MAX_PATTERN_BYTES: usize = 4 << 10;
/// Bytes of one compiled pattern. Word lists of a few hundred entries fit.
const MAX_COMPILED_BYTES: usize = 1 << 20;
/// Searching this much takes a few milliseconds at worst.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Compiled patterns that a thread keeps; when there are more, all are forgotten.
const MAX_KEPT: usize = 128;
/// Matches that one call gives.
pub const MAX_MATCHES: usize = 1000;

/// Compiled patterns that the process keeps, so that what `on_init` tried is ready on every worker: compiling can take
/// longer than a call may run. Asked by a thread only for what it does not know itself.
static SHARED: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);
const MAX_SHARED: usize = 1024;

thread_local! {
    static KEPT: RefCell<HashMap<String, Rc<Regex>>> = RefCell::default();
}

/// Bytes of the text from `first` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub first: usize,
    pub end: usize,
}

fn compiled(pattern: &str, text: &str) -> Result<Rc<Regex>, HostError> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(HostError(format!("the pattern is longer than {MAX_PATTERN_BYTES} bytes; split it")));
    }
    if text.len() > MAX_TEXT_BYTES {
        return Err(HostError(format!("the text is longer than {MAX_TEXT_BYTES} bytes; search it in parts")));
    }
    KEPT.with_borrow_mut(|kept| {
        if let Some(known) = kept.get(pattern) {
            return Ok(known.clone());
        }
        let built = shared(pattern)?;
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        let built = Rc::new(built);
        kept.insert(pattern.to_owned(), built.clone());
        Ok(built)
    })
}

/// The pattern as the process has it. A copy shares the program and has scratch space of its own.
fn shared(pattern: &str) -> Result<Regex, HostError> {
    let known = SHARED.lock().unwrap_or_else(PoisonError::into_inner).get(pattern).cloned();
    if let Some(known) = known {
        return Ok(known);
    }
    let built = RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_COMPILED_BYTES)
        .build()
        .map_err(|error| HostError(format!("the pattern `{}` is refused: {error}", shown(pattern))))?;
    let mut all = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() >= MAX_SHARED {
        all.clear();
    }
    all.insert(pattern.to_owned(), built.clone());
    Ok(built)
}

fn shown(pattern: &str) -> &str {
    pattern.char_indices().nth(60).map_or(pattern, |(end, _)| &pattern[..end])
}

/// Whether the pattern is found.
///
/// # Errors
/// The pattern is refused, or one of the two is too long.
pub fn test(pattern: &str, text: &str) -> Result<bool, HostError> {
    Ok(compiled(pattern, text)?.is_match(text))
}

/// The first match and its groups.
///
/// # Errors
/// As [`test`].
pub fn first<'t>(pattern: &str, text: &'t str) -> Result<Option<Vec<&'t str>>, HostError> {
    let found = compiled(pattern, text)?.captures(text);
    Ok(found.map(|groups| groups.iter().map(|group| group.map_or("", |group| group.as_str())).collect()))
}

/// Where the pattern is found.
///
/// # Errors
/// As [`test`].
pub fn find(pattern: &str, text: &str, max: usize) -> Result<Vec<Found>, HostError> {
    let pattern = compiled(pattern, text)?;
    let found = pattern.find_iter(text).take(max.min(MAX_MATCHES));
    Ok(found.map(|found| Found { first: found.start(), end: found.end() }).collect())
}

/// The text with every match replaced, and their number.
///
/// # Errors
/// As [`test`], when `with` names a group that the pattern does not have, and when the result would be too long.
pub fn replace(pattern: &str, text: &str, with: &str) -> Result<(String, usize), HostError> {
    let pattern = compiled(pattern, text)?;
    if let Some(name) = unknown_group(&pattern, with) {
        let text = format!(
            "the pattern has no group `{name}`; write `${{1}}` where letters or digits follow, `$$` for a dollar"
        );
        return Err(HostError(text));
    }
    let mut out = String::with_capacity(text.len());
    let (mut from, mut count) = (0, 0);
    for groups in pattern.captures_iter(text) {
        let Some(whole) = groups.get(0) else { continue };
        out.push_str(&text[from..whole.start()]);
        groups.expand(with, &mut out);
        from = whole.end();
        count += 1;
        if out.len() > MAX_TEXT_BYTES {
            return Err(HostError(format!("the replaced text is longer than {MAX_TEXT_BYTES} bytes")));
        }
    }
    out.push_str(&text[from..]);
    Ok((out, count))
}

/// The first group named in a replacement that the pattern does not have: it would silently be nothing. Names are as long as
/// they can be, as in the expansion itself.
fn unknown_group<'a>(pattern: &Regex, with: &'a str) -> Option<&'a str> {
    let mut rest = with;
    loop {
        rest = &rest[rest.find('$')? + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
            continue;
        }
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = match rest.strip_prefix('{') {
            Some(inside) => &inside[..inside.find('}')?],
            None => &rest[..rest.find(|c| !is_of_name(c)).unwrap_or(rest.len())],
        };
        let is_there = match name.parse::<usize>() {
            Ok(number) => number < pattern.captures_len(),
            Err(_) => name.is_empty() || pattern.capture_names().flatten().any(|known| known == name),
        };
        if !is_there {
            return Some(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_is_not_there_is_no_empty_text() {
        for with in ["$1x", "$2", "${name}", "a$1_"] {
            let error = replace("(a)", "a", with).expect_err(with);
            assert!(error.0.contains("no group"), "{with}: {error:?}");
        }
    }

    #[test]
    fn matches_are_found_and_replaced() {
        assert_eq!(first(r"(\w+)@(\w+)\.org", "to me@home.org"), Ok(Some(vec!["me@home.org", "me", "home"])));
        assert_eq!(first("x", "y"), Ok(None));
        assert_eq!(find("a", "banana", 2), Ok(vec![Found { first: 1, end: 2 }, Found { first: 3, end: 4 }]));
        assert_eq!(replace(r"(\d)", "a1b2", "<$1>"), Ok(("a<1>b<2>".into(), 2)));
        assert_eq!(replace("", "ab", "-"), Ok(("-a-b-".into(), 3)));
        assert_eq!(replace("(a)", "aa", "${1}x$$ $"), Ok(("ax$ $ax$ $".into(), 2)));
        assert_eq!(replace("(?P<n>a)", "a", "${n}$n-"), Ok(("aa-".into(), 1)));
    }

    #[test]
    fn what_is_too_much_is_refused_with_a_reason() {
        let blown = test("(((a{100}){100}){100})", "a").expect_err("too large");
        assert!(blown.0.contains("refused"), "{blown}");
        assert!(test(&"a".repeat(5000), "a").is_err());
        assert!(test("a", &"a".repeat(2 << 20)).is_err());
        assert!(test("(", "a").expect_err("broken").0.contains("unclosed group"));
        assert!(replace(".", &"a".repeat(1 << 20), "$0$0").is_err());
    }

    #[test]
    fn a_pattern_that_blows_up_elsewhere_takes_linear_time_here() {
        let text = "a".repeat(100_000);
        assert_eq!(test("(a+)+$", &format!("{text}b")), Ok(false));
    }
}
