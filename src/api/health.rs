//! `/livez`, `/readyz`, `/health`: whether this process runs, and whether it wants work. Never asks an upstream.

use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::json;

use crate::pipeline::{Cx, unix_ms};
use crate::reply::{Outbound, Reply};

/// The process runs.
pub fn live(_: &Cx, _: &Parts) -> Response<Outbound> {
    super::answer(Reply::json(StatusCode::OK, r#"{"status":"ok"}"#))
}

/// The process wants work: 503 while it drains.
pub fn ready(cx: &Cx, _: &Parts) -> Response<Outbound> {
    super::answer(if cx.state.draining() {
        Reply::json(StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"draining"}"#)
    } else {
        Reply::json(StatusCode::OK, r#"{"status":"ok"}"#)
    })
}

/// A summary for people.
pub fn summary(cx: &Cx, head: &Parts) -> Response<Outbound> {
    let draining = cx.state.draining();
    let mut body = json!({
        "status": if draining { "draining" } else { "ok" },
        "version": env!("CARGO_PKG_VERSION"),
        "generation": cx.generation.number,
        "uptime_seconds": cx.state.uptime().as_secs(),
        "in_flight": cx.state.metrics.in_flight(),
    });
    // Where callers need keys, strangers learn nothing of the configuration, and no web page of others ever does; the admin
    // API tells.
    let keys = &cx.generation.keys;
    if keys.is_open() && keys.check(&head.headers, &head.uri, unix_ms() / 1000).is_ok() {
        body["providers"] = cx.generation.routes.providers.iter().map(|provider| provider.name.clone()).collect();
        body["last_reload_error"] = json!(cx.state.reload_error());
    }
    let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    super::answer(Reply::json(status, body.to_string()))
}
