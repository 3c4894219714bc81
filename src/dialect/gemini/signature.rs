//! Opaque reasoning in `thoughtSignature`: reading it, and finding the part it belongs to.
//!
//! Gemini hangs a signature on any part; the neutral form knows one on reasoning and one on tool calls. So:
//! - on a thought: [`Reasoning::signature`] of that block;
//! - on a function call: [`ToolCall::signature`](crate::chat::ToolCall::signature);
//! - on any other part (text, media): a reasoning block without text right *before* that block. Going back, such a
//!   block gives its signature to the part that follows it, and becomes the empty text part that Gemini itself streams
//!   when nothing fits.
//!
//! That keeps the pairing through every client dialect that returns reasoning in place, and never invents one.
//!
//! The field is bytes in base64, and SDKs decode and encode it again (in the URL-safe alphabet), so what other dialects
//! made is sealed first and put into base64 on top.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::NAME;
use crate::chat::Reasoning;
use crate::chat::reasoning::{for_client, for_target, seal, unseal};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Marks sealed encrypted reasoning, as against a sealed signature; the item's id follows on its own line.
const ENCRYPTED: &str = "encrypted\n";

/// Documented stand-in for calls that another model made: Gemini 3 refuses a turn whose first call has no signature.
pub const STAND_IN: &str = "skip_thought_signature_validator";

/// Reasoning without text that carries what a `thoughtSignature` holds.
pub fn read(wire: &str) -> Reasoning {
    let own = || Reasoning { signature: Some(wire.to_owned()), origin: NAME.to_owned(), ..Reasoning::default() };
    let Some(text) = sealed(wire) else { return own() };
    if let Some((id, opaque)) = text.strip_prefix(ENCRYPTED).and_then(|rest| rest.split_once('\n')) {
        let Some((origin, data)) = unseal(opaque) else { return own() };
        return Reasoning {
            encrypted: Some(data.to_owned()),
            id: (!id.is_empty()).then(|| id.to_owned()),
            origin: origin.to_owned(),
            ..Reasoning::default()
        };
    }
    match unseal(&text) {
        Some((origin, signature)) => {
            Reasoning { signature: Some(signature.to_owned()), origin: origin.to_owned(), ..Reasoning::default() }
        }
        None => own(),
    }
}

/// A call's signature as the neutral form keeps it: bare when it is Gemini's own, sealed otherwise.
pub fn read_call(wire: &str) -> String {
    sealed(wire).filter(|text| unseal(text).is_some()).unwrap_or_else(|| wire.to_owned())
}

/// What we sealed ourselves, out of its base64. A cheap look at the beginning spares the provider's own.
fn sealed(wire: &str) -> Option<String> {
    // "portcullis." and "encrypted\n" in base64, as far as the last letter depends on nothing that follows.
    if !wire.starts_with("cG9ydGN1bGxpcy") && !wire.starts_with("ZW5jcnlwdGVkC") {
        return None;
    }
    let plain: String = wire
        .chars()
        .map(|letter| match letter {
            '-' => '+',
            '_' => '/',
            other => other,
        })
        .collect();
    String::from_utf8(BASE64.decode(plain).ok()?).ok()
}

/// For asks: the signature that Gemini may be sent, if there is one that it made.
pub fn for_provider(reasoning: &Reasoning, source: &str) -> Option<String> {
    let origin = if reasoning.origin.is_empty() { source } else { &reasoning.origin };
    let opaque = [reasoning.signature.as_deref(), reasoning.encrypted.as_deref()];
    opaque.into_iter().flatten().find_map(|opaque| for_target(opaque, origin, NAME)).map(str::to_owned)
}

/// For answers: what a Gemini client shall hold of this reasoning and bring back.
pub fn for_reader(reasoning: &Reasoning, source: &str) -> Option<String> {
    let origin = if reasoning.origin.is_empty() { source } else { &reasoning.origin };
    if let Some(own) = for_provider(reasoning, source) {
        return Some(own);
    }
    if let Some(data) = &reasoning.encrypted {
        let id = reasoning.id.as_deref().unwrap_or_default();
        return Some(BASE64.encode(format!("{ENCRYPTED}{id}\n{}", seal(origin, data))));
    }
    reasoning.signature.as_ref().map(|signature| BASE64.encode(for_client(signature, origin, NAME)))
}

/// For answers: a call's signature for a Gemini client.
pub fn call_for_reader(signature: &str, source: &str) -> String {
    match for_target(signature, source, NAME) {
        Some(own) => own.to_owned(),
        None => BASE64.encode(for_client(signature, source, NAME)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url_safe(wire: &str) -> String {
        wire.replace('+', "-").replace('/', "_")
    }

    #[test]
    fn a_foreign_signature_survives_an_sdk_that_recodes_base64() {
        let made =
            Reasoning { signature: Some("Er?>~UB+/==".into()), origin: "anthropic".into(), ..Reasoning::default() };
        let wire = for_reader(&made, "anthropic").expect("a signature");
        assert!(BASE64.decode(&wire).is_ok(), "SDKs refuse what is no base64");
        assert_eq!(read(&url_safe(&wire)), made);
        assert_eq!(for_provider(&read(&wire), NAME), None, "Gemini refuses what it did not make");
    }

    #[test]
    fn encrypted_reasoning_keeps_its_item_id() {
        let made = Reasoning {
            encrypted: Some("gAAAA.B_c".into()),
            id: Some("rs_1".into()),
            origin: "openai_responses".into(),
            ..Reasoning::default()
        };
        assert_eq!(read(&for_reader(&made, "openai_responses").expect("a signature")), made);
    }

    #[test]
    fn its_own_signature_stays_bare_also_when_it_was_held_elsewhere() {
        let own = read("CqQBAXLI2nw=");
        assert_eq!((own.signature.as_deref(), own.origin.as_str()), (Some("CqQBAXLI2nw="), NAME));
        assert_eq!(for_reader(&own, NAME).as_deref(), Some("CqQBAXLI2nw="));
        let held = Reasoning { signature: Some(seal(NAME, "CqQB")), ..Reasoning::default() };
        assert_eq!(for_provider(&held, "anthropic").as_deref(), Some("CqQB"));
        let held = Reasoning { encrypted: Some(seal(NAME, "CqQB")), ..Reasoning::default() };
        assert_eq!(for_provider(&held, "openai_responses").as_deref(), Some("CqQB"));
        assert_eq!(call_for_reader("CqQB", NAME), "CqQB");
        assert_eq!(read_call(&call_for_reader("xyz", "other")), seal("other", "xyz"));
    }
}
