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
//! Reasoning of other providers that has no text goes to Gemini clients on the part that follows, a call as well: Vercel's
//! SDK drops a thought without text, or gives its signature to the part before. Several stretches share one signature.
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

/// Ends the origin of a sealed signature of reasoning: a call, on which it may ride, has one of its own else.
const OF_REASONING: &str = "+reasoning";

/// Between stretches of reasoning that ride on one part.
const NEXT: char = '\u{1e}';

/// Documented stand-in for calls that another model made: Gemini 3 refuses a turn whose first call has no signature.
pub const STAND_IN: &str = "skip_thought_signature_validator";

/// Reasoning without text that carries what a `thoughtSignature` holds, at least one stretch.
pub fn read(wire: &str) -> Vec<Reasoning> {
    let sealed = sealed(wire).and_then(|text| text.split(NEXT).map(stretch).collect());
    sealed.unwrap_or_else(|| {
        vec![Reasoning { signature: Some(wire.to_owned()), origin: NAME.to_owned(), ..Reasoning::default() }]
    })
}

/// One stretch that we sealed.
fn stretch(text: &str) -> Option<Reasoning> {
    if let Some((id, opaque)) = text.strip_prefix(ENCRYPTED).and_then(|rest| rest.split_once('\n')) {
        let (origin, data) = unseal(opaque)?;
        return Some(Reasoning {
            encrypted: Some(data.to_owned()),
            id: (!id.is_empty()).then(|| id.to_owned()),
            origin: origin.to_owned(),
            ..Reasoning::default()
        });
    }
    let (origin, signature) = unseal(text)?;
    let origin = origin.strip_suffix(OF_REASONING).unwrap_or(origin).to_owned();
    Some(Reasoning { signature: Some(signature.to_owned()), origin, ..Reasoning::default() })
}

/// What a call's `thoughtSignature` holds: the reasoning before the call, and the call's own signature as the neutral form
/// keeps it, bare when it is Gemini's own, sealed otherwise.
pub fn read_call(wire: &str) -> (Vec<Reasoning>, Option<String>) {
    let Some(text) = sealed(wire) else { return (Vec::new(), Some(wire.to_owned())) };
    let of_reasoning = match unseal(&text) {
        Some((origin, _)) => origin.ends_with(OF_REASONING),
        None => text.starts_with(ENCRYPTED),
    };
    match of_reasoning {
        true => (read(wire), None),
        false => (Vec::new(), Some(if unseal(&text).is_some() { text } else { wire.to_owned() })),
    }
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
    let signature = reasoning.signature.as_ref()?;
    Some(BASE64.encode(seal(&format!("{origin}{OF_REASONING}"), signature)))
}

/// Two signatures of [`for_reader`], neither Gemini's own, in one.
pub fn together(first: &str, next: &str) -> String {
    let text = |wire: &str| BASE64.decode(wire).unwrap_or_default();
    BASE64.encode([text(first), NEXT.to_string().into_bytes(), text(next)].concat())
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
        assert_eq!(read(&url_safe(&wire)), [made]);
        assert_eq!(for_provider(&read(&wire)[0], NAME), None, "Gemini refuses what it did not make");
    }

    #[test]
    fn encrypted_reasoning_keeps_its_item_id() {
        let made = Reasoning {
            encrypted: Some("gAAAA.B_c".into()),
            id: Some("rs_1".into()),
            origin: "openai_responses".into(),
            ..Reasoning::default()
        };
        assert_eq!(read(&for_reader(&made, "openai_responses").expect("a signature")), [made]);
    }

    #[test]
    fn reasoning_that_rides_on_a_call_is_told_from_the_calls_own_signature() {
        let made = |origin: &str, signature: Option<&str>, encrypted: Option<&str>| Reasoning {
            signature: signature.map(str::to_owned),
            encrypted: encrypted.map(str::to_owned),
            origin: origin.into(),
            ..Reasoning::default()
        };
        let (signed, redacted) = (made("anthropic", Some("EqQB"), None), made("anthropic", None, Some("EmwK")));
        let wire = |reasoning: &Reasoning| for_reader(reasoning, "anthropic").expect("a signature");
        let both = together(&wire(&redacted), &wire(&signed));
        assert_eq!(read_call(&wire(&signed)), (vec![signed.clone()], None));
        assert_eq!(read_call(&both), (vec![redacted, signed], None));
        let own = call_for_reader("xyz", "openai_chat");
        assert_eq!(read_call(&own), (Vec::new(), Some(seal("openai_chat", "xyz"))));
        assert_eq!(read_call("CqQB"), (Vec::new(), Some("CqQB".to_owned())));
    }

    #[test]
    fn its_own_signature_stays_bare_also_when_it_was_held_elsewhere() {
        let [own] = &read("CqQBAXLI2nw=")[..] else { panic!("one stretch") };
        assert_eq!((own.signature.as_deref(), own.origin.as_str()), (Some("CqQBAXLI2nw="), NAME));
        assert_eq!(for_reader(own, NAME).as_deref(), Some("CqQBAXLI2nw="));
        let held = Reasoning { signature: Some(seal(NAME, "CqQB")), ..Reasoning::default() };
        assert_eq!(for_provider(&held, "anthropic").as_deref(), Some("CqQB"));
        let held = Reasoning { encrypted: Some(seal(NAME, "CqQB")), ..Reasoning::default() };
        assert_eq!(for_provider(&held, "openai_responses").as_deref(), Some("CqQB"));
        assert_eq!(call_for_reader("CqQB", NAME), "CqQB");
    }
}
