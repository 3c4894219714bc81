//! Opaque proofs that a stretch of reasoning came from here, so that a foreign or altered one can be refused.
//!
//! They look like the providers' but hide nothing: base64 of a scope and a hash of the text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::state::hash;

/// The proof for `text`; `scope` keeps the dialects' proofs apart.
pub fn make(scope: &str, text: &str) -> String {
    STANDARD.encode(format!("portcullis-mock/{scope}/{:016x}", hash(0, text.as_bytes())))
}

/// Whether `proof` was made here: for this text, or for any where the text is not known.
pub fn is_ours(scope: &str, proof: &str, text: Option<&str>) -> bool {
    match text {
        Some(text) => proof == make(scope, text),
        None => {
            let prefix = format!("portcullis-mock/{scope}/");
            STANDARD.decode(proof).is_ok_and(|bytes| bytes.starts_with(prefix.as_bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_fits_its_text_and_scope_alone() {
        let proof = make("a", "text");
        assert!(is_ours("a", &proof, Some("text")) && is_ours("a", &proof, None));
        assert!(!is_ours("a", &proof, Some("other")) && !is_ours("b", &proof, None) && !is_ours("a", "c2ln", None));
    }
}
