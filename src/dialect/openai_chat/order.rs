//! The order of turns for servers that want one of the assistant between results of tools and whoever else speaks next
//! (Mistral). Never moves a turn.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// What the assistant says to results where something must be said before anybody else speaks.
pub(super) const SEEN: &str = "I have seen the results.";

/// Whether such a turn is missing between two of these roles.
pub(super) fn lacks_turn(before: &str, role: &str) -> bool {
    before == "tool" && !matches!(role, "tool" | "assistant")
}

/// The messages of a relayed body with what is missing put in, the others byte for byte; None where nothing is.
pub(super) fn filled(messages: &[u8]) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Turn<'a> {
        #[serde(borrow)]
        role: Cow<'a, str>,
    }
    let turns: Vec<&RawValue> = serde_json::from_slice(messages).ok()?;
    let seen = serde_json::json!({"role": "assistant", "content": SEEN}).to_string();
    let (mut before, mut written) = (Cow::Borrowed(""), Vec::with_capacity(turns.len() + 1));
    for turn in &turns {
        let role = serde_json::from_str::<Turn<'_>>(turn.get()).ok()?.role;
        if lacks_turn(&before, &role) {
            written.push(seen.as_str());
        }
        written.push(turn.get());
        before = role;
    }
    (written.len() > turns.len()).then(|| format!("[{}]", written.join(",")).into_bytes())
}
