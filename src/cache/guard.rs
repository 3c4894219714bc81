//! Words that change what a text asks for although its vector hardly moves: numbers, names and negations, in their order.
//!
//! Static vectors take "the capital of France" and "the capital of Germany" for nearly the same, and "from Paris to Rome"
//! and "from Rome to Paris" for quite. Two texts whose guards do not agree are never the same ask. A name without a capital
//! is a word like any other here, but for days; in scripts without capitals every word counts. Of contraries the common
//! ones of English are known. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::state::cache::index::Guard;

/// Words with which sentences begin and which are no names.
const STARTERS: &[&str] = &[
    "a",
    "about",
    "after",
    "also",
    "an",
    "and",
    "are",
    "as",
    "at",
    "but",
    "by",
    "can",
    "change",
    "compare",
    "convert",
    "could",
    "create",
    "define",
    "describe",
    "did",
    "do",
    "does",
    "explain",
    "find",
    "fix",
    "for",
    "from",
    "generate",
    "give",
    "has",
    "have",
    "hello",
    "help",
    "hey",
    "hi",
    "how",
    "i",
    "if",
    "in",
    "is",
    "it",
    "let",
    "list",
    "make",
    "may",
    "me",
    "my",
    "name",
    "now",
    "of",
    "on",
    "or",
    "please",
    "provide",
    "rewrite",
    "say",
    "shall",
    "should",
    "show",
    "so",
    "summarise",
    "summarize",
    "tell",
    "thanks",
    "that",
    "the",
    "then",
    "there",
    "these",
    "this",
    "to",
    "translate",
    "use",
    "was",
    "we",
    "were",
    "what",
    "whats",
    "when",
    "where",
    "which",
    "who",
    "whose",
    "why",
    "will",
    "with",
    "would",
    "write",
    "you",
    "your",
];

/// Words that turn a sentence round, in the languages that are asked most; without apostrophes.
const NEGATIONS: &[&str] = &[
    "no",
    "not",
    "never",
    "none",
    "nothing",
    "nobody",
    "neither",
    "nor",
    "without",
    "cannot",
    "except",
    "exclude",
    "excluding",
    "unless",
    "aint",
    "arent",
    "cant",
    "couldnt",
    "didnt",
    "doesnt",
    "dont",
    "hadnt",
    "hasnt",
    "havent",
    "isnt",
    "mustnt",
    "neednt",
    "shouldnt",
    "wasnt",
    "werent",
    "wont",
    "wouldnt",
    "nicht",
    "kein",
    "keine",
    "keinen",
    "nie",
    "ohne",
    "pas",
    "jamais",
    "sans",
    "nunca",
    "sin",
    "hardly",
    "barely",
    "rarely",
    "seldom",
    "keiner",
    "keinem",
    "niemals",
    "aucun",
    "aucune",
    "rien",
    "nada",
    "não",
    "nao",
    "nem",
    "sem",
    "non",
    "senza",
    "niet",
    "geen",
    "zonder",
    "inte",
    "utan",
    "ikke",
    "uden",
    "uten",
    "bez",
    "не",
    "нет",
    "ни",
    "без",
    "нельзя",
    "никогда",
];

/// Words whose contrary has nearly the same vector; of a pair of which one is everywhere, the other. Also what numbers say
/// in other words, and days. Each must stand in the other text, too.
const CONTRARIES: &[&str] = &[
    "above",
    "after",
    "allowed",
    "always",
    "ascending",
    "before",
    "below",
    "best",
    "buy",
    "cold",
    "cheapest",
    "close",
    "decrease",
    "descending",
    "disable",
    "down",
    "enable",
    "encode",
    "decode",
    "encrypt",
    "decrypt",
    "exclusive",
    "expensive",
    "fail",
    "false",
    "fewer",
    "first",
    "forbidden",
    "highest",
    "hot",
    "illegal",
    "impossible",
    "inclusive",
    "increase",
    "invalid",
    "last",
    "least",
    "left",
    "legal",
    "less",
    "longest",
    "lose",
    "lowest",
    "max",
    "maximum",
    "min",
    "minimum",
    "more",
    "most",
    "newest",
    "off",
    "oldest",
    "optional",
    "over",
    "permitted",
    "possible",
    "prohibited",
    "reject",
    "required",
    "right",
    "second",
    "sell",
    "shortest",
    "start",
    "stop",
    "third",
    "true",
    "under",
    "unsafe",
    "up",
    "upgrade",
    "downgrade",
    "valid",
    "win",
    "worst",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
    "today",
    "tomorrow",
    "yesterday",
    "можно",
    "да",
];

/// Words that stand between a negation and what it denies.
const FILLERS: &[&str] =
    &["a", "an", "any", "be", "ever", "so", "the", "to", "der", "die", "das", "le", "la", "les", "el"];

/// Numbers as words, each with its figures. `one` is as often nobody in particular.
const NUMBERS: &[(&str, &str)] = &[
    ("zero", "0"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
    ("eleven", "11"),
    ("twelve", "12"),
    ("thirteen", "13"),
    ("fourteen", "14"),
    ("fifteen", "15"),
    ("sixteen", "16"),
    ("seventeen", "17"),
    ("eighteen", "18"),
    ("nineteen", "19"),
    ("twenty", "20"),
    ("thirty", "30"),
    ("forty", "40"),
    ("fifty", "50"),
    ("sixty", "60"),
    ("seventy", "70"),
    ("eighty", "80"),
    ("ninety", "90"),
    ("hundred", "100"),
    ("thousand", "1000"),
    ("million", "1000000"),
    ("billion", "1000000000"),
    ("half", "0.5"),
    ("once", "1x"),
    ("twice", "2x"),
    ("double", "2x"),
    ("triple", "3x"),
    ("zwei", "2"),
    ("drei", "3"),
    ("vier", "4"),
    ("fünf", "5"),
    ("deux", "2"),
    ("trois", "3"),
    ("quatre", "4"),
    ("cinq", "5"),
    ("dos", "2"),
    ("tres", "3"),
    ("cuatro", "4"),
    ("cinco", "5"),
];

/// Characters that compare or compute.
const OPERATORS: &[char] = &['+', '*', '/', '<', '>', '=', '^', '%', '×', '÷', '≤', '≥', '≠', '±', '&', '|', '~'];

/// What stands in a text that must agree with another one's.
pub fn of(text: &str) -> Guard {
    let (bag, sequence) = order(text);
    Guard { words: words(text).into(), bag, sequence }
}

/// Numbers for all words of a text: in no order, and in theirs.
fn order(text: &str) -> (u64, u64) {
    let mut sequence = DefaultHasher::new();
    let mut bag = 0u64;
    for raw in text.split_whitespace() {
        let word = raw.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
        if word.is_empty() {
            continue;
        }
        let mut one = DefaultHasher::new();
        word.hash(&mut one);
        bag = bag.wrapping_add(one.finish());
        word.hash(&mut sequence);
    }
    (bag, sequence.finish())
}

/// The words that must stand in another text too, in this order.
fn words(text: &str) -> Vec<Box<str>> {
    let mut words: Vec<Box<str>> = Vec::new();
    let mut begins = true;
    // A negation waits for what it denies, a number for its unit.
    let (mut denies, mut counts) = (false, false);
    let mut before = "";
    for raw in text.split_whitespace() {
        let word = raw.trim_matches(|c: char| !c.is_alphanumeric() && !matches!(c, '$' | '€' | '%' | '+' | '-' | '#'));
        let lower = word.to_lowercase();
        let bare: String = lower.chars().filter(|c| c.is_alphanumeric()).collect();
        let is_number = word.chars().any(char::is_numeric);
        if let Some(operator) = operator(raw, before) {
            words.push(operator.into());
            counts = false;
        } else if is_number || has_code(word) {
            words.push(signed(&lower).into());
            (denies, counts) = (false, is_number);
        } else if let Some((_, figures)) = NUMBERS.iter().find(|(name, _)| *name == bare) {
            words.push((*figures).into());
            (denies, counts) = (false, true);
        } else if NEGATIONS.contains(&bare.as_str()) || lower.ends_with("n't") || lower.ends_with("n\u{2019}t") {
            // One word for all of them: "do not" and "don't" ask for the same.
            words.push("!".into());
            (denies, counts) = (true, false);
        } else if is_name(word, &bare, begins)
            || has_no_case(word)
            || is_symbol(&bare)
            || CONTRARIES.contains(&bare.as_str())
        {
            let kept: String = lower.chars().filter(|c| c.is_alphanumeric() || matches!(c, '+' | '#')).collect();
            words.push(kept.trim_end_matches('s').into());
            (denies, counts) = (false, false);
        } else if !bare.is_empty() && (counts || denies && !FILLERS.contains(&bare.as_str())) {
            words.push(bare.trim_end_matches('s').into());
            (denies, counts) = (false, false);
        }
        begins = raw.ends_with(['.', '!', '?', ':', ';', '\u{3002}']);
        counts &= !begins && !raw.ends_with(',');
        before = raw;
    }
    words
}

/// Whether a word by itself compares or computes. A hyphen does so after a number; elsewhere it is a dash.
fn operator<'a>(raw: &'a str, before: &str) -> Option<&'a str> {
    let minus = matches!(raw, "-" | "\u{2212}" | "\u{2013}") && before.ends_with(|c: char| c.is_numeric());
    let of_signs = !raw.is_empty() && raw.chars().all(|c| OPERATORS.contains(&c) || c == '!');
    (minus || (of_signs && raw.contains(OPERATORS))).then_some(raw)
}

/// A number with its sign, and nothing else that hangs on it.
fn signed(lower: &str) -> &str {
    let end = lower.trim_end_matches(['-', '+']);
    let number = end.trim_start_matches(['-', '+']);
    let is_negative = end.len() > number.len()
        && end[..end.len() - number.len()].ends_with('-')
        && number.starts_with(|c: char| c.is_numeric() || matches!(c, '$' | '€' | '.'));
    if is_negative { &end[end.len() - number.len() - 1..] } else { number }
}

/// Letters that are neither small nor capital: in such scripts nothing tells a name.
fn has_no_case(word: &str) -> bool {
    word.chars().any(|c| c.is_alphabetic() && !c.is_lowercase() && !c.is_uppercase())
}

/// A single letter that is no word: what stands for something else.
fn is_symbol(bare: &str) -> bool {
    let mut chars = bare.chars();
    matches!((chars.next(), chars.next()), (Some(c), None) if c.is_ascii_alphabetic() && !matches!(c, 'a' | 'i' | 's'))
}

/// Identifiers, paths, addresses: one letter off is another thing.
fn has_code(word: &str) -> bool {
    let inner = word.trim_matches(['-', '+']);
    inner.contains(['_', '/', '@', '\\', '=', '<', '>', '*', '^', '|', '&', '\u{d7}', '\u{f7}'])
        || inner.char_indices().any(|(at, c)| c == '.' && inner[at + 1..].starts_with(char::is_alphanumeric) && at > 1)
}

fn is_name(word: &str, bare: &str, begins: bool) -> bool {
    // Wherever it stands: iPhone, macOS.
    if bare == "i" || !word.chars().any(char::is_uppercase) {
        return false;
    }
    // A sentence begins with a capital whatever its first word is; so does "I'm".
    let starts = begins && STARTERS.contains(&bare);
    let is_i = bare.starts_with('i') && word.contains(['\'', '\u{2019}']);
    !starts && !is_i
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_and_negations_are_told_apart() {
        for (one, other) in [
            ("What is the capital of France?", "What is the capital of Germany?"),
            ("Convert 5 miles to km", "Convert 6 miles to km"),
            ("Is it safe to eat?", "Is it not safe to eat?"),
            ("Is Paris nice?", "Is London nice?"),
            ("Paris in spring", "London in spring"),
            ("Call get_user()", "Call get_users()"),
            ("Open src/main.rs", "Open src/lib.rs"),
            ("Costs $5", "Costs 5"),
            ("Show me 10% of it", "Show me 20% of it"),
            ("Is it -5 degrees?", "Is it 5 degrees?"),
            ("Is $-5 a debt?", "Is $5 a debt?"),
            ("Tell me three of them", "Tell me five of them"),
            ("It isnt safe", "It is safe"),
            ("What if x > y holds?", "What if x < y holds?"),
            ("What if x>y holds?", "What if x<y holds?"),
            ("What is 7 - 5", "What is 7 + 5"),
            ("Sort a list in C++", "Sort a list in C#"),
            ("Sort a list in C", "Sort a list in C++"),
            ("告诉我 巴黎 的天气", "告诉我 北京 的天气"),
            ("ما هي عاصمة فرنسا", "ما هي عاصمة ألمانيا"),
            ("Это можно есть?", "Это нельзя есть?"),
            ("o que posso comer", "o que posso comer sem sal"),
            ("vad kan jag äta", "vad kan jag inte äta"),
            ("is it legal to do so", "is it illegal to do so"),
            ("the first one", "the second one"),
            ("at least 5 of them", "at most 5 of them"),
            ("what is the iPhone price", "what is the iPad price"),
            ("how to turn it on", "how to turn it off"),
            ("when to buy shares", "when to sell shares"),
            ("increase it by 5", "decrease it by 5"),
            ("before noon", "after noon"),
            ("the weather on monday", "the weather on tuesday"),
        ] {
            assert!(!of(one).agrees(&of(other)), "{one} | {other}");
        }
    }

    #[test]
    fn order_counts() {
        for (one, other) in [
            ("Translate from English to French", "Translate this from French to English"),
            ("Convert 5 USD to EUR", "Please convert 5 EUR to USD"),
            ("Subtract 7 from 12", "Please subtract 12 from 7"),
            ("Is Paris bigger than London?", "Tell me, is London bigger than Paris?"),
            ("If I don't smoke but do drink", "If I do smoke but don't drink"),
            ("I do not smoke, I drink", "I smoke, and do not drink"),
            ("Convert 5 miles to km", "Please convert 5 km to miles"),
            // Without any word that stands out: the same words, and another order.
            ("does the dog bite the man", "does the man bite the dog"),
            ("from english to french", "from french to english"),
        ] {
            assert!(!of(one).agrees(&of(other)), "{one} | {other}");
        }
    }

    #[test]
    fn other_words_for_the_same_pass() {
        for (one, other) in [
            ("What is the capital of France?", "Tell me the capital of France."),
            ("How do I boil an egg?", "how should one boil an egg"),
            ("I don't know how to start", "I do not know how to start"),
            ("I dont know how to start", "I don\u{2019}t know how to start"),
            ("Explain 2 + 2", "explain: 2 + 2"),
            ("Summarise France's history", "summarize the history of France"),
            ("Give me three ideas", "List 3 ideas"),
            ("Write this in C++, please", "Please write it in C++"),
            ("List the steps - in short", "List the steps in short"),
            ("What is a well-known fact?", "what is a well-known fact"),
        ] {
            assert!(of(one).agrees(&of(other)), "{one} {:?} | {other} {:?}", of(one), of(other));
        }
    }
}
