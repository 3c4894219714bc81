//! Cache breakpoints of the two OpenAI forms: fields of a part of what the model is told, from GPT-5.6 on.
//! https://developers.openai.com/api/docs/guides/prompt-caching
//!
//! They have one lifetime, so that of a mark from elsewhere is lost.

use serde_json::{Map, Value, json};

use super::{Encoding, openai_models};
use crate::chat::{CacheMark, Extra};

pub(crate) const BREAKPOINT: &str = "prompt_cache_breakpoint";

/// The mark that the other fields of a part hold. The field stays with them, for its own dialect.
pub(crate) fn read(fields: &Extra) -> Option<CacheMark> {
    fields.get(BREAKPOINT).filter(|mark| mark.is_object()).map(|_| CacheMark::default())
}

/// Whether the target's model takes breakpoints; older ones refuse them.
pub(crate) fn taken(to: &Encoding<'_>) -> bool {
    to.quirks.prompt_cache_key && openai_models::caches_at_marks(to.model)
}

pub(crate) fn write(part: &mut Map<String, Value>) {
    part.insert(BREAKPOINT.to_owned(), json!({ "mode": "explicit" }));
}
