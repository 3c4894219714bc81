//! Words that change what a text asks for although its vector hardly moves: numbers, names and negations.
//!
//! Static vectors take "the capital of France" and "the capital of Germany" for nearly the same. Two texts whose guards
//! differ are never the same ask. Pure.

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

/// Words that turn a sentence round, in the languages that are asked most; `n't` is found by its ending.
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
];

/// The words of a text that must stand in another one too, sorted.
pub fn of(text: &str) -> Box<[Box<str>]> {
    let mut words: Vec<Box<str>> = Vec::new();
    let mut begins = true;
    for raw in text.split_whitespace() {
        let word = raw.trim_matches(|c: char| !c.is_alphanumeric() && !matches!(c, '$' | '€' | '%' | '+' | '-'));
        let lower = word.to_lowercase();
        let bare: String = lower.chars().filter(|c| c.is_alphanumeric()).collect();
        if word.chars().any(|c| c.is_ascii_digit() || c.is_numeric()) || has_code(word) {
            words.push(lower.trim_matches('-').into());
        } else if NEGATIONS.contains(&bare.as_str()) || lower.ends_with("n't") || lower.ends_with("n\u{2019}t") {
            // One word for all of them: "do not" and "don't" ask for the same.
            words.push("!".into());
        } else if is_name(word, &bare, begins) {
            words.push(bare.trim_end_matches('s').into());
        }
        begins = raw.ends_with(['.', '!', '?', ':', ';', '\u{3002}']);
    }
    words.sort();
    words.into()
}

/// Identifiers, paths, addresses: one letter off is another thing.
fn has_code(word: &str) -> bool {
    let inner = word.trim_matches(['-', '+']);
    inner.contains(['_', '/', '@', '\\', '='])
        || inner.char_indices().any(|(at, c)| c == '.' && inner[at + 1..].starts_with(char::is_alphanumeric) && at > 1)
}

fn is_name(word: &str, bare: &str, begins: bool) -> bool {
    let mut letters = word.chars().filter(|c| c.is_alphabetic());
    let upper = letters.next().is_some_and(char::is_uppercase);
    if !upper || bare == "i" {
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
        ] {
            assert_ne!(of(one), of(other), "{one} | {other}");
        }
    }

    #[test]
    fn other_words_for_the_same_pass() {
        for (one, other) in [
            ("What is the capital of France?", "Tell me the capital of France."),
            ("How do I boil an egg?", "how should one boil an egg"),
            ("I don't know how to start", "I do not know how to start"),
            ("Explain 2 + 2", "explain: 2 + 2"),
            ("Summarise France's history", "summarize the history of France"),
        ] {
            assert_eq!(of(one), of(other), "{one} | {other}");
        }
    }
}
