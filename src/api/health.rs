//! `/livez`, `/readyz`, `/health`: whether this process runs, and whether it wants work. Never asks an upstream.

use http::{Response, StatusCode};
use serde_json::json;

use super::Matched;
use crate::pipeline::Cx;
use crate::reply::{Outbound, Reply};

/// The process runs.
pub fn live(_: &Cx, _: &Matched) -> Response<Outbound> {
    super::answer(Reply::json(StatusCode::OK, r#"{"status":"ok"}"#))
}

/// The process wants work: 503 while it drains.
pub fn ready(cx: &Cx, _: &Matched) -> Response<Outbound> {
    super::answer(if cx.state.draining() {
        Reply::json(StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"draining"}"#)
    } else {
        Reply::json(StatusCode::OK, r#"{"status":"ok"}"#)
    })
}

/// A summary for people.
pub fn summary(cx: &Cx, _: &Matched) -> Response<Outbound> {
    let draining = cx.state.draining();
    let mut body = json!({
        "status": if draining { "draining" } else { "ok" },
        "version": env!("CARGO_PKG_VERSION"),
        "generation": cx.generation.number,
        "uptime_seconds": cx.state.uptime().as_secs(),
        "in_flight": cx.state.metrics.in_flight(),
    });
    // Where callers need keys, strangers learn nothing of the configuration; the admin API tells.
    if cx.generation.keys.is_open() {
        body["providers"] = cx.generation.routes.providers.iter().map(|provider| provider.name.clone()).collect();
        body["last_reload_error"] = json!(cx.state.reload_error());
    }
    let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    super::answer(Reply::json(status, body.to_string()))
}
