//! Patterns whose time is bounded, compiled once.
//!
//! Everything is bounded: the pattern, its compiled size, the text, and the work that the two make together. A pattern that is
//! refused is an error of the guest's, with the position in it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use regex_automata::hybrid::{dfa, regex as lazy};
use regex_automata::meta;
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::captures::Captures;
use regex_automata::util::interpolate;
use regex_automata::util::iter::Searcher;
use regex_automata::util::prefilter::Prefilter;
use regex_automata::{Anchored, Input, Match, MatchError, MatchErrorKind, MatchKind, PatternID};
use regex_syntax::hir::{Hir, HirKind};
use tokio::time::Instant;

use super::HostError;
use super::lease::thread_time;

const MAX_PATTERN_BYTES: usize = 4 << 10;
/// Bytes of one compiled pattern. Word lists of a few hundred entries fit.
const MAX_COMPILED_BYTES: usize = 1 << 20;
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Places of a pattern times bytes of a text that are searched whatever it takes: at worst each place is looked at for each
/// byte, for some ten nanoseconds. Beyond it a text is searched by an automaton that is made on the way and takes about one
/// for a byte, and one that grows too large is given up.
const MAX_WORK: usize = 1 << 24;
/// The same where `\b` has met a letter beyond ASCII, which no automaton takes. Such patterns stand at few of their places.
const MAX_WORK_OF_WORDS: usize = 1 << 26;
/// Clears of such an automaton's memory, and bytes that each of its states must have searched since, before it is given up.
const CLEARS: usize = 3;
const BYTES_A_STATE: usize = 10;
/// What all the matches of one call may take together, and as much again in the thread's own time, which is then looked at:
/// each of them may look at all of the text for a longer one.
const MAX_TIME: Duration = Duration::from_millis(250);
/// Compiled patterns that a thread keeps; when there are more, all are forgotten.
const MAX_KEPT: usize = 128;
/// Matches that one call gives.
pub const MAX_MATCHES: usize = 1000;
/// Bytes of all groups of a match: each may be the whole text once more.
const MAX_GROUP_BYTES: usize = 4 << 20;

/// Compiled patterns that the process keeps, so that what `on_init` tried is ready on every worker: compiling can take
/// longer than a call may run. Asked by a thread only for what it does not know itself.
static SHARED: LazyLock<Mutex<Shared>> = LazyLock::new(Mutex::default);
const MAX_SHARED: usize = 1024;
const MAX_SHARED_BYTES: usize = 64 << 20;

#[derive(Default)]
struct Shared {
    patterns: HashMap<String, Pattern>,
    bytes: usize,
}

thread_local! {
    static KEPT: RefCell<HashMap<String, Rc<Pattern>>> = RefCell::default();
}

/// Bytes of the text from `first` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub first: usize,
    pub end: usize,
}

/// A copy shares the program and has scratch space of its own.
#[derive(Clone)]
struct Pattern {
    regex: meta::Regex,
    /// For texts that are long for it; None where none is.
    lazy: Option<Arc<lazy::Regex>>,
    /// Most places of it that a search may stand at.
    places: usize,
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, HostError> {
        let refused = |why: String| HostError(format!("the pattern `{}` is refused: {why}", shown(pattern)));
        let hir = regex_syntax::parse(pattern).map_err(|error| refused(error.to_string()))?;
        let config =
            meta::Config::new().nfa_size_limit(Some(MAX_COMPILED_BYTES)).hybrid_cache_capacity(MAX_COMPILED_BYTES);
        let regex = meta::Builder::new().configure(config).build_from_hir(&hir);
        let regex = regex.map_err(|error| match error.size_limit() {
            Some(most) => refused(format!("compiled it takes more than {most} bytes")),
            None => refused(error.to_string()),
        })?;
        let places = places(&hir);
        let is_long = places.saturating_mul(MAX_TEXT_BYTES) > MAX_WORK;
        let lazy = if is_long { lazy_of(pattern, &hir).map(Arc::new) } else { None };
        Ok(Pattern { regex, lazy, places })
    }

    fn bytes(&self) -> usize {
        let both = |lazy: &Arc<lazy::Regex>| lazy.forward().memory_usage() + lazy.reverse().memory_usage();
        self.regex.memory_usage() + self.lazy.as_ref().map_or(0, both)
    }

    fn work(&self, bytes: usize) -> usize {
        self.places.saturating_mul(bytes)
    }

    /// The same where groups are wanted, which are noted for each place.
    fn work_with_groups(&self, bytes: usize) -> usize {
        self.work(bytes).saturating_mul(1 + self.regex.captures_len() / 8)
    }

    fn search(&self, cache: Option<&mut lazy::Cache>, input: &Input<'_>) -> Result<Option<Match>, MatchError> {
        let work = self.work(input.get_span().len());
        match (&self.lazy, cache) {
            (Some(lazy), Some(cache)) if work > MAX_WORK => lazy.try_search(cache, input).or_else(|error| {
                let is_word = matches!(error.kind(), MatchErrorKind::Quit { .. });
                if is_word && work <= MAX_WORK_OF_WORDS { Ok(self.regex.search(input)) } else { Err(error) }
            }),
            _ => Ok(self.regex.search(input)),
        }
    }

    fn too_slow(&self, text: &str, why: &MatchError) -> HostError {
        let (places, bytes) = (self.places, text.len());
        HostError(match why.kind() {
            MatchErrorKind::Quit { .. } => format!(
                "the search may take too long: the pattern has {places} places to stand at in {bytes} bytes, and `\\b` is \
                 slow where there are letters beyond ASCII; write `(?-u:\\b)`, or search the text in parts"
            ),
            _ => format!(
                "the search may take too long: the pattern has {places} places to stand at in {bytes} bytes; write shorter \
                 repetitions, or search the text in parts"
            ),
        })
    }
}

/// Most places of a pattern that a search may stand at, each character and each turn of a repetition being one.
fn places(hir: &Hir) -> usize {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(_) => 1,
        HirKind::Literal(text) => text.0.len(),
        HirKind::Repetition(times) => {
            let most = times.max.unwrap_or(times.min.max(1));
            places(&times.sub).saturating_mul(usize::try_from(most).unwrap_or(usize::MAX)).saturating_add(1)
        }
        HirKind::Capture(group) => places(&group.sub).saturating_add(2),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().map(places).fold(1, usize::saturating_add),
    }
}

/// The automaton that is made on the way, and says so when it has to be made anew too often.
fn lazy_of(pattern: &str, hir: &Hir) -> Option<lazy::Regex> {
    let config = dfa::Config::new()
        .prefilter(Prefilter::from_hir_prefix(MatchKind::LeftmostFirst, hir))
        .unicode_word_boundary(true)
        .cache_capacity(MAX_COMPILED_BYTES)
        .skip_cache_capacity_check(true)
        .minimum_cache_clear_count(Some(CLEARS))
        .minimum_bytes_per_state(Some(BYTES_A_STATE));
    // Backwards, which it has to be made too, it may be larger.
    let program =
        thompson::Config::new().nfa_size_limit(Some(4 * MAX_COMPILED_BYTES)).which_captures(WhichCaptures::None);
    lazy::Builder::new().dfa(config).thompson(program).build(pattern).ok()
}

/// A search for one match after the other.
struct Search<'p, 't> {
    pattern: &'p Pattern,
    text: &'t str,
    cache: Option<lazy::Cache>,
    searcher: Searcher<'t>,
    began: Instant,
    /// The thread's own time when it was seen to be late.
    late: Option<Duration>,
}

impl<'p, 't> Search<'p, 't> {
    fn new(pattern: &'p Pattern, text: &'t str, input: Input<'t>) -> Self {
        let lazy = pattern.lazy.as_ref().filter(|_| pattern.work(text.len()) > MAX_WORK);
        let cache = lazy.map(|lazy| lazy.create_cache());
        Search { pattern, text, cache, searcher: Searcher::new(input), began: Instant::now(), late: None }
    }

    /// A thread that waits for a core is not slow. To look at its own time costs more than a short search.
    fn look(&mut self) -> Result<(), HostError> {
        if self.began.elapsed() < MAX_TIME {
            return Ok(());
        }
        let now = thread_time();
        if now.saturating_sub(*self.late.get_or_insert(now)) < MAX_TIME {
            return Ok(());
        }
        Err(HostError(format!("the matches took longer than {MAX_TIME:?} together; search the text in parts")))
    }

    fn next(&mut self) -> Result<Option<Match>, HostError> {
        self.look()?;
        let Search { pattern, cache, searcher, .. } = self;
        let found = searcher.try_advance(|input| pattern.search(cache.as_mut(), input));
        found.map_err(|error| pattern.too_slow(self.text, &error))
    }

    /// The next match, with its groups.
    fn next_groups(&mut self, groups: &mut Captures) -> Result<Option<Match>, HostError> {
        let regex = &self.pattern.regex;
        if self.pattern.work_with_groups(self.text.len()) <= MAX_WORK {
            self.look()?;
            let found = self.searcher.try_advance(|input| {
                regex.search_captures(input, groups);
                Ok(groups.get_match())
            });
            return found.map_err(|error| self.pattern.too_slow(self.text, &error));
        }
        let Some(found) = self.next()? else { return Ok(None) };
        // Groups are for a slower engine, which gets the match alone.
        if self.pattern.work_with_groups(found.len()) > MAX_WORK {
            let text = format!(
                "the groups of a match of {} bytes take too long; write fewer groups, or search the text in parts",
                found.len()
            );
            return Err(HostError(text));
        }
        regex.search_captures(&Input::new(self.text).span(found.span()).anchored(Anchored::Yes), groups);
        Ok(Some(found))
    }
}

fn compiled(pattern: &str, text: &str) -> Result<Rc<Pattern>, HostError> {
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

/// The pattern as the process has it.
fn shared(pattern: &str) -> Result<Pattern, HostError> {
    let known = SHARED.lock().unwrap_or_else(PoisonError::into_inner).patterns.get(pattern).cloned();
    if let Some(known) = known {
        return Ok(known);
    }
    let built = Pattern::new(pattern)?;
    let bytes = built.bytes();
    let mut all = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if all.patterns.len() >= MAX_SHARED || all.bytes + bytes > MAX_SHARED_BYTES {
        *all = Shared::default();
    }
    // Another thread may have been as quick.
    if all.patterns.insert(pattern.to_owned(), built.clone()).is_none() {
        all.bytes += bytes;
    }
    Ok(built)
}

fn shown(pattern: &str) -> &str {
    pattern.char_indices().nth(60).map_or(pattern, |(end, _)| &pattern[..end])
}

/// Whether the pattern is found.
///
/// # Errors
/// The pattern is refused, one of the two is too long, or the search takes too long.
pub fn test(pattern: &str, text: &str) -> Result<bool, HostError> {
    let pattern = compiled(pattern, text)?;
    let found = Search::new(&pattern, text, Input::new(text).earliest(true)).next()?;
    Ok(found.is_some())
}

/// The first match and its groups.
///
/// # Errors
/// As [`test`], or the groups are too large together.
pub fn first<'t>(pattern: &str, text: &'t str) -> Result<Option<Vec<&'t str>>, HostError> {
    let pattern = compiled(pattern, text)?;
    let mut groups = pattern.regex.create_captures();
    if Search::new(&pattern, text, Input::new(text)).next_groups(&mut groups)?.is_none() {
        return Ok(None);
    }
    let found: Vec<&str> = groups.iter().map(|group| group.map_or("", |group| &text[group.range()])).collect();
    if found.iter().map(|group| group.len()).sum::<usize>() > MAX_GROUP_BYTES {
        return Err(HostError(format!("the groups of the match take more than {MAX_GROUP_BYTES} bytes together")));
    }
    Ok(Some(found))
}

/// Where the pattern is found.
///
/// # Errors
/// As [`test`].
pub fn find(pattern: &str, text: &str, max: usize) -> Result<Vec<Found>, HostError> {
    let pattern = compiled(pattern, text)?;
    let mut search = Search::new(&pattern, text, Input::new(text));
    let mut all = Vec::new();
    while all.len() < max.min(MAX_MATCHES)
        && let Some(found) = search.next()?
    {
        all.push(Found { first: found.start(), end: found.end() });
    }
    Ok(all)
}

/// The text with every match replaced, and their number.
///
/// # Errors
/// As [`test`], when `with` names a group that the pattern does not have, and when the result would be too long.
pub fn replace(pattern: &str, text: &str, with: &str) -> Result<(String, usize), HostError> {
    let pattern = compiled(pattern, text)?;
    if let Some(name) = unknown_group(&pattern.regex, with) {
        let text = format!(
            "the pattern has no group `{name}`; write `${{1}}` where letters or digits follow, `$$` for a dollar"
        );
        return Err(HostError(text));
    }
    let mut search = Search::new(&pattern, text, Input::new(text));
    let mut groups = pattern.regex.create_captures();
    let mut out = String::with_capacity(text.len());
    let (mut from, mut count) = (0, 0);
    while let Some(whole) = search.next_groups(&mut groups)? {
        out.push_str(&text[from..whole.start()]);
        // One that stands there often is not written out to its end: what is too long already is refused below.
        let group = |index, out: &mut String| {
            if let Some(group) = groups.get_group(index).filter(|_| out.len() <= MAX_TEXT_BYTES) {
                out.push_str(&text[group.range()]);
            }
        };
        interpolate::string(with, group, |name| groups.group_info().to_index(PatternID::ZERO, name), &mut out);
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
fn unknown_group<'a>(pattern: &meta::Regex, with: &'a str) -> Option<&'a str> {
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
            Err(_) => {
                name.is_empty()
                    || pattern.group_info().pattern_names(PatternID::ZERO).flatten().any(|known| known == name)
            }
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

    /// A search of the same by the crate alone, which takes what it takes.
    fn plainly(pattern: &str, text: &str) -> Vec<Found> {
        let regex = regex::Regex::new(pattern).expect(pattern);
        regex.find_iter(text).map(|found| Found { first: found.start(), end: found.end() }).collect()
    }

    #[test]
    fn a_long_text_is_searched_as_a_short_one_is() {
        let part = "Ünder token tokenabc 1234567890123456, ignore that me@home.org; ";
        for (pattern, text) in [
            (r"(?:pass|token)\w*.{0,300}\d{16}", part),
            (r"(?i)\bTOKEN\w*\b.{0,40}", part),
            (r"(?i)(?-u:\b)TOKEN\w*(?-u:\b).{0,40}", part),
            (r"([a-z]+)@([a-z]+)\.org|([a-z]{1,40}),?", part),
            (r"(?:x{0,40}y?)*", "xy "),
        ] {
            let text = text.repeat((640 << 10) / text.len());
            let program = Pattern::new(pattern).expect(pattern);
            assert!(program.work(text.len()) > MAX_WORK && program.lazy.is_some(), "{pattern}: {}", program.places);
            let expected = &plainly(pattern, &text)[..MAX_MATCHES];
            assert_eq!(find(pattern, &text, MAX_MATCHES).as_deref(), Ok(expected), "{pattern}");
            assert_eq!(test(pattern, &text), Ok(true));
            let groups = regex::Regex::new(pattern).expect(pattern).captures(&text).expect("there");
            let groups: Vec<&str> = groups.iter().map(|group| group.map_or("", |group| group.as_str())).collect();
            assert_eq!(first(pattern, &text), Ok(Some(groups)), "{pattern}");
        }
    }

    #[test]
    fn what_would_hold_a_worker_for_seconds_is_refused() {
        let mut random = 1_u32;
        let mut bit = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if random >> 31 == 0 { '0' } else { '1' }
        };
        let text: String = (0..MAX_TEXT_BYTES).map(|_| bit()).collect();
        let began = thread_time();
        for pattern in ["1[01]{900}[c-z]", "1[01]{300}[c-z]", "(1[01]{300}[c-z])"] {
            let error = test(pattern, &text).expect_err(pattern);
            assert!(error.0.contains("may take too long") && error.0.contains("places"), "{error}");
            assert!(find(pattern, &text, 1).is_err() && first(pattern, &text).is_err());
            assert_eq!(test(pattern, &text[..8 << 10]), Ok(false));
        }
        let words = format!("{}é", "ab ".repeat(MAX_TEXT_BYTES / 3 - 1));
        let error = test(r"\b(?:[a-z ]{1,200}){2}x", &words).expect_err("words");
        assert!(error.0.contains(r"write `(?-u:\b)`"), "{error}");
        let groups = format!("{}(?s:.*){}", "(".repeat(100), ")".repeat(100));
        assert!(first(&groups, &words).expect_err("groups").0.contains("groups of a match"));
        // Each match looks at all of the text.
        let letters = "A".repeat(MAX_TEXT_BYTES);
        assert!(replace(".*[^A-Z]|[A-Z]", &letters, "").expect_err("squares").0.contains("together"));
        let took = thread_time().saturating_sub(began);
        assert!(took < Duration::from_secs(60), "{took:?}");
    }

    #[test]
    fn a_group_that_is_written_often_ends_with_the_text_it_makes() {
        let text = "a".repeat(MAX_TEXT_BYTES);
        assert!(replace("a+", &text, &"$0".repeat(1 << 20)).expect_err("too long").0.contains("replaced text"));
        let nested = format!("{}a*{}", "(".repeat(6), ")".repeat(6));
        assert!(first(&nested, &text).expect_err("too large").0.contains("together"));
    }

    #[test]
    fn a_pattern_that_blows_up_elsewhere_takes_linear_time_here() {
        let text = "a".repeat(100_000);
        assert_eq!(test("(a+)+$", &format!("{text}b")), Ok(false));
    }
}
