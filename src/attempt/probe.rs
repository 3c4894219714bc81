//! One request that asks whether a target is there: no exchange, no attempt, nothing that a client hears of.
//!
//! Says what came of it and nothing else; what that means is `probe`'s.

use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Uri};
use tokio::time::timeout;

use super::encode;
use super::once;
use crate::body::Outgoing;
use crate::chat::{Ask, Block, Message, Role};
use crate::dialect::{Encoding, Op};
use crate::fault::{Fault, Kind};
use crate::route::{Address, Face, Probed, Target};
use crate::upstream::{Outbound, Upstream};

/// Asks. A path is well with any answer below 500, a model with a good one alone.
///
/// # Errors
/// Why it is not.
pub async fn ask(upstream: &dyn Upstream, target: &Target, what: &Probed, patience: Duration) -> Result<(), Fault> {
    let face = target.provider.faces.first().ok_or_else(|| Fault::new(Kind::Internal, "A provider without a face."))?;
    let (request, paid) = match what {
        Probed::Path(path) => (by_path(face, target, path)?, false),
        Probed::Model(model) => (by_model(face, target, model)?, true),
    };
    let asked = async {
        let response = upstream.send(&face.dial, Box::new(request), patience).await?;
        let status = response.status();
        match paid {
            true if !status.is_success() => Err(once::refused(response, face.dialect, &target.timeouts).await),
            false if status.is_server_error() => {
                Err(Fault::new(Kind::UpstreamError, format!("It answered a probe with {status}.")))
            }
            _ => Ok(()),
        }
    };
    let late = || Fault::new(Kind::HeadTimeout, format!("It did not answer a probe within {patience:?}."));
    timeout(patience, asked).await.unwrap_or_else(|_| Err(late()))
}

/// A GET of a path.
fn by_path(face: &Face, target: &Target, path: &str) -> Result<Outbound, Fault> {
    let Address { mut uri, mut headers } = encode::address_once(face, target, 0, path, &HeaderMap::new())?;
    headers.edit().remove(http::header::CONTENT_TYPE);
    if path.starts_with('/') {
        let wrong = |error: String| Fault::new(Kind::Internal, format!("`{path}` is no path.")).because(error);
        let mut parts = uri.into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(path).map_err(|error| wrong(error.to_string()))?);
        uri = Uri::from_parts(parts).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(Outbound { method: Method::GET, uri, headers, body: Outgoing::default(), target: None })
}

/// The least that a model can be asked for.
fn by_model(face: &Face, target: &Target, model: &str) -> Result<Outbound, Fault> {
    let least = Ask {
        model: model.to_owned(),
        messages: vec![Message::new(Role::User, vec![Block::text("Hi")])],
        max_tokens: Some(1),
        ..Ask::default()
    };
    let mut to = Encoding::new(model, &face.quirks);
    let body = face.dialect.encode_ask(&least, &mut to)?;
    let path = face.dialect.path(Op::Generate, model, false).unwrap_or_default();
    let Address { uri, mut headers } = encode::address_once(face, target, 0, &path, &HeaderMap::new())?;
    headers.edit().extend(to.headers);
    Ok(Outbound { method: Method::POST, uri, headers, body: Outgoing::from(body), target: None })
}
