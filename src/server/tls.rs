//! TLS and mTLS of the listener. Built with a generation, so new certificates come in by reload.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

/// Reads certificate, key and, for mTLS, the authority that client certificates must come from.
///
/// # Errors
/// Each file that cannot be read or does not hold what it should: its key in `listen.tls`, and what to do.
pub fn load(
    cert: &Path,
    key: &Path,
    client_ca: Option<&Path>,
) -> Result<Arc<ServerConfig>, Vec<(&'static str, String)>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = certificates(cert).map_err(|error| ("cert", error));
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| {
        ("key", format!("{} holds no private key ({error}); write it in PEM, without a password", key.display()))
    });
    let verifier = client_ca.map(|path| verifier(path, &provider).map_err(|error| ("client_ca", error))).transpose();
    let (chain, secret, verifier) = match (chain, secret, verifier) {
        (Ok(chain), Ok(secret), Ok(verifier)) => (chain, secret, verifier),
        (chain, secret, verifier) => {
            return Err([chain.err(), secret.err(), verifier.err()].into_iter().flatten().collect());
        }
    };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| vec![("cert", error.to_string())])?;
    let builder = match verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_single_cert(chain, secret).map_err(|error| {
        let (key, cert) = (key.display(), cert.display());
        vec![("key", format!("{key} does not fit {cert} ({error}); write the key that the certificate was made for"))]
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Who checks the certificates of clients.
fn verifier(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let named = |error: &dyn std::fmt::Display| {
        format!("{} holds no authority ({error}); write its certificate in PEM", path.display())
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| named(&error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    builder.build().map_err(|error| named(&error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| format!("{} holds no certificate ({error}); write it in PEM", path.display()))?;
    if read.is_empty() {
        return Err(format!("{} holds no certificate; write it in PEM, with its chain after it", path.display()));
    }
    Ok(read)
}
