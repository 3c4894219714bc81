//! What an adapter gives that can be: paths that stay below the base URL, rankings and vectors that answer what was asked.
//!
//! Pure. Never says whose fault it is: who asks does.

use crate::embed::{EmbedAnswer, EmbedAsk};
use crate::rerank::{Ranked, RerankAnswer, RerankAsk};

/// The longest path of an adapter. Servers take 8 KiB as a rule.
const MAX_PATH_BYTES: usize = 32 << 10;

/// Whether a path leads below the base URL and nowhere else: `@host`, `//host`, `..` and characters that end a request line
/// would lead out of it.
///
/// # Errors
/// What is wrong with it, after `The adapter's path`.
pub fn below_base(path: &str) -> Result<(), String> {
    if path.len() > MAX_PATH_BYTES {
        return Err(format!("is longer than {MAX_PATH_BYTES} bytes; put what is long into the body"));
    }
    let shown: String = path.chars().take(100).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if !path.starts_with('/') {
        return Err(format!("`{shown}` does not begin with `/`; write one before it"));
    }
    let plain = path.split(['?', '#']).next().unwrap_or_default();
    let escapes = plain.split('/').any(|segment| {
        let dots = segment.to_ascii_lowercase().replace("%2e", ".");
        dots == ".." || dots == "."
    });
    if path.starts_with("//") || escapes {
        return Err(format!("`{shown}` does not stay below the base URL"));
    }
    match path.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '\\' | '#')) {
        Some(c) if c.is_control() => Err(format!("`{shown}` holds `{}`, which no path may hold", c.escape_default())),
        Some(c) => Err(format!("`{shown}` holds `{c}`, which must be percent-encoded")),
        None => Ok(()),
    }
}

/// Makes a ranking one of the documents that were asked about: the fittest first, and no more of them than were wanted.
///
/// # Errors
/// What of it is not.
pub fn ranks(answer: &mut RerankAnswer, ask: &RerankAsk) -> Result<(), String> {
    let mut ranked = vec![false; ask.documents.len()];
    for Ranked { index, score } in &answer.ranked {
        let place = usize::try_from(*index).ok().and_then(|index| ranked.get_mut(index));
        let place = place.ok_or_else(|| format!("ranks document {index} of {}", ask.documents.len()))?;
        if std::mem::replace(place, true) {
            return Err(format!("ranks document {index} twice"));
        }
        if !score.is_finite() {
            return Err(format!("gives document {index} the score {score}, which is no number"));
        }
    }
    answer.ranked.sort_by(|one, other| other.score.total_cmp(&one.score));
    let most = ask.top_n.and_then(|most| usize::try_from(most).ok());
    answer.ranked.truncate(most.unwrap_or(usize::MAX));
    Ok(())
}

/// Whether there is a vector for each input that was asked about.
///
/// # Errors
/// What is wrong with them.
pub fn embeds(answer: &EmbedAnswer, ask: &EmbedAsk) -> Result<(), String> {
    let (got, wanted) = (answer.vectors.len(), ask.inputs.len());
    if got != wanted {
        return Err(format!("gives {got} vectors for {wanted} inputs"));
    }
    let whole = |vector: &[f32]| !vector.is_empty() && vector.iter().all(|value| value.is_finite());
    match answer.vectors.iter().position(|vector| !whole(vector)) {
        Some(at) => Err(format!("gives input {at} a vector that is empty or holds what is no number")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embed::EmbedInput;

    #[test]
    fn a_path_stays_below_the_base_url() {
        for good in ["/v2/chat", "/v1/models/a%2Fb:run?x=1&y=..", "/a.b/...", "/", "/gr%C3%BC%C3%9Fe"] {
            assert_eq!(below_base(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", "does not begin with `/`"),
            ("v2", "`v2` does not begin with `/`"),
            ("@evil.example/", "does not begin with `/`"),
            ("//evil.example/", "does not stay below the base URL"),
            ("/../x", "does not stay below the base URL"),
            ("/a/%2e%2E/b", "does not stay below the base URL"),
            ("/a/./b", "does not stay below the base URL"),
            ("/a\\b", r"holds `\`, which must be percent-encoded"),
            ("/a b", "holds ` `, which must be percent-encoded"),
            ("/a\r\nb", r"`/a  b` holds `\r`, which no path may hold"),
            ("/#", "holds `#`, which must be percent-encoded"),
            ("/gr\u{fc}n", "holds `\u{fc}`, which must be percent-encoded"),
        ] {
            let said = below_base(bad).expect_err(bad);
            assert!(said.contains(why), "{bad}: {said}");
        }
        let long = format!("/{}", "x".repeat(MAX_PATH_BYTES));
        assert!(below_base(&long).expect_err("refused").contains("32768 bytes"));
    }

    #[test]
    fn vectors_answer_what_was_asked() {
        let ask = EmbedAsk {
            inputs: vec![EmbedInput::Text("a".into()), EmbedInput::Text("b".into())],
            ..EmbedAsk::default()
        };
        let said = |vectors: Vec<Vec<f32>>| embeds(&EmbedAnswer { vectors, ..EmbedAnswer::default() }, &ask);
        assert_eq!(said(vec![vec![1.0], vec![0.5]]), Ok(()));
        assert!(said(vec![]).expect_err("none").contains("0 vectors for 2 inputs"));
        for wrong in [f32::NAN, f32::INFINITY] {
            assert!(said(vec![vec![1.0], vec![wrong]]).expect_err("no number").contains("input 1"));
        }
        assert!(said(vec![vec![], vec![1.0]]).is_err());
    }

    #[test]
    fn rankings_answer_what_was_asked_the_fittest_first() {
        let ask = |top_n| RerankAsk { documents: vec!["a".into(), "b".into()], top_n, ..RerankAsk::default() };
        let said = |ranked: &[(u64, f64)], top_n| {
            let ranked = ranked.iter().map(|(index, score)| Ranked { index: *index, score: *score }).collect();
            let mut answer = RerankAnswer { ranked, ..RerankAnswer::default() };
            ranks(&mut answer, &ask(top_n))?;
            Ok::<_, String>(answer.ranked.iter().map(|place| place.index).collect::<Vec<_>>())
        };
        assert_eq!(said(&[(1, 0.5), (0, 0.1)], None), Ok(vec![1, 0]));
        assert_eq!(said(&[(1, 0.1), (0, 0.5)], None), Ok(vec![0, 1]), "sorted");
        assert_eq!(said(&[(1, 0.1), (0, 0.5)], Some(1)), Ok(vec![0]), "and cut");
        assert_eq!(said(&[(1, 0.5)], None), Ok(vec![1]), "fewer may have been asked for");
        assert!(said(&[(0, 0.5), (0, 0.4)], None).expect_err("twice").contains("document 0 twice"));
        assert!(said(&[(2, 0.5)], None).expect_err("out of place").contains("document 2 of 2"));
        assert!(said(&[(0, f64::NAN)], None).expect_err("no score").contains("no number"));
    }
}
