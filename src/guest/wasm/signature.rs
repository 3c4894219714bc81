//! Signatures of plugins: Ed25519 over the component's bytes, in `NAME.wasm.sig`, base64.
//!
//! A signature that is there must be right, whether one is demanded or not. Keys are never kept here.

use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::plugin::Bytes;

/// Length of an Ed25519 public key.
const PUBLIC_BYTES: usize = 32;

/// Length of an Ed25519 signature.
const SIGNATURE_BYTES: usize = 64;

/// Who signed a plugin.
#[derive(Debug, PartialEq, Eq)]
pub enum Signed {
    /// The signer's public key, in base64.
    By(String),
    Nobody,
}

/// Where the signature of a component lies.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Checks a plugin's signature, if it has one.
///
/// # Errors
/// There is one, and none of the signers made it.
pub fn signature(bytes: &Bytes, signers: &[String]) -> Result<Signed, String> {
    let path = beside(&bytes.path);
    if !path.exists() {
        return Ok(Signed::Nobody);
    }
    let told = |what: &str| format!("{}: {what}", path.display());
    let text = std::fs::read_to_string(&path).map_err(|error| told(&format!("cannot be read: {error}")))?;
    let made = STANDARD.decode(text.trim()).ok().filter(|made| made.len() == SIGNATURE_BYTES);
    let made = made.ok_or_else(|| told("is no signature; sign the plugin again, or take the file away"))?;
    // Nobody could say whose it is.
    if signers.is_empty() {
        return Ok(Signed::Nobody);
    }
    let by = signers.iter().find(|signer| {
        let key = STANDARD.decode(signer.trim()).unwrap_or_default();
        key.len() == PUBLIC_BYTES && UnparsedPublicKey::new(&ED25519, key).verify(&bytes.wasm, &made).is_ok()
    });
    by.map(|signer| Signed::By(signer.clone()))
        .ok_or_else(|| told("is not a signature of this file by one of `plugins.signers`; do not trust the file"))
}

/// A fresh pair: the secret in PKCS#8 and the public key, both in base64.
///
/// # Errors
/// No random numbers.
pub fn keygen() -> Result<(String, String), String> {
    let pair = Ed25519KeyPair::generate().map_err(|_| "no random numbers".to_owned())?;
    let secret = pair.to_pkcs8().map_err(|_| "the pair cannot be written".to_owned())?;
    Ok((STANDARD.encode(secret.as_ref()), STANDARD.encode(pair.public_key().as_ref())))
}

/// The signature of a component by a secret that [`keygen`] gave.
///
/// # Errors
/// It is no such secret.
pub fn sign(wasm: &[u8], secret: &str) -> Result<String, String> {
    let key = STANDARD.decode(secret.trim()).map_err(|_| "the key is not base64".to_owned())?;
    let pair = Ed25519KeyPair::from_pkcs8(&key).map_err(|_| "the key is none that keygen made".to_owned())?;
    Ok(STANDARD.encode(pair.sign(wasm).as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_signer_counts() {
        let folder = std::env::temp_dir().join(format!("portcullis-signed-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("is writable");
        let bytes = |wasm: &[u8]| Bytes { path: folder.join("a.wasm"), wasm: wasm.to_vec(), sha256: String::new() };
        let (secret, public) = keygen().expect("makes a pair");
        let (_, other) = keygen().expect("makes a pair");
        let signers = [other.clone(), public.clone()];
        assert_eq!(signature(&bytes(b"x"), &signers), Ok(Signed::Nobody));
        std::fs::write(folder.join("a.wasm.sig"), sign(b"x", &secret).expect("signs")).expect("writes");
        assert_eq!(signature(&bytes(b"x"), &signers), Ok(Signed::By(public)));
        assert!(signature(&bytes(b"y"), &signers).is_err(), "another file");
        assert!(signature(&bytes(b"x"), &[other]).is_err(), "another signer");
        assert_eq!(signature(&bytes(b"x"), &[]), Ok(Signed::Nobody), "nobody can tell whose it is");
        std::fs::write(folder.join("a.wasm.sig"), "junk").expect("writes");
        assert!(signature(&bytes(b"x"), &[]).expect_err("junk").contains("is no signature"));
        std::fs::remove_dir_all(&folder).expect("is there");
    }
}
