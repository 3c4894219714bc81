//! The admin API on its own listener: metrics, health, reload. Its credential is the admin token, never a caller's key.

use std::convert::Infallible;
use std::sync::Arc;

use aws_lc_rs::constant_time;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;

use crate::pipeline::unix_ms;
use crate::reload::Reloader;
use crate::server::Shared;

/// The content type of the OpenMetrics text form that `prometheus-client` writes.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Partitions of a rule that `GET /admin/limits` shows: the fullest ones.
const LIMITS_SHOWN: usize = 20;

/// What the admin API needs.
pub struct Admin {
    pub shared: Shared,
    pub reloader: Arc<Reloader>,
    /// Asked for by everything but health; None when none is configured.
    pub token: Option<String>,
}

/// Serves until the listener fails.
pub async fn serve(admin: Arc<Admin>, listener: std::net::TcpListener) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let admin = admin.clone();
                async move { Ok::<_, Infallible>(answer(&admin, &request).await) }
            });
            let builder = http1::Builder::new().timer(TokioTimer::new()).clone();
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!("an admin connection ended: {error}");
            }
        });
    }
}

async fn answer(admin: &Admin, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let state = &admin.shared.state;
    let path = request.uri().path();
    match path {
        "/livez" => return json_reply(StatusCode::OK, &json!({"status": "ok"})),
        "/readyz" if state.draining() => {
            return json_reply(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "draining"}));
        }
        "/readyz" => return json_reply(StatusCode::OK, &json!({"status": "ok"})),
        _ => {}
    }
    if !allowed(request.headers(), admin.token.as_deref()) {
        let text = "Send the admin token (`admin.token` of the configuration) as `Authorization: Bearer TOKEN`.";
        return json_reply(
            StatusCode::UNAUTHORIZED,
            &json!({"error": {"code": "invalid_admin_token", "message": text}}),
        );
    }
    match (request.method(), path) {
        (&Method::GET, "/metrics") => {
            let (answers, bytes, _) = state.cache.size();
            state.metrics.cache_holds(answers, bytes, state.cache.listening());
            let mut response = Response::new(Full::from(state.metrics.render(state.log.dropped())));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS));
            response
        }
        (&Method::GET, "/admin/generation") => {
            let generation = admin.shared.generation.load();
            json_reply(
                StatusCode::OK,
                &json!({
                    "number": generation.number,
                    "source": generation.source,
                    "loaded_at": humantime::format_rfc3339_millis(generation.loaded).to_string(),
                    "last_reload_error": state.reload_error(),
                    "providers": generation.routes.providers.iter().map(|provider| &provider.name).collect::<Vec<_>>(),
                    "models": generation.routes.models.keys().collect::<Vec<_>>(),
                }),
            )
        }
        (&Method::GET, "/admin/limits") => {
            let generation = admin.shared.generation.load();
            let rules: Vec<_> = generation.rules.iter().cloned().collect();
            json_reply(StatusCode::OK, &state.limits.state(&rules, unix_ms(), LIMITS_SHOWN))
        }
        (&Method::POST, "/admin/limits/reset") => reset_limits(admin, request.uri().query().unwrap_or_default()),
        (&Method::POST, "/admin/reload") => match admin.reloader.reload().await {
            Ok(number) => json_reply(StatusCode::OK, &json!({"generation": number})),
            Err(error) => json_reply(
                StatusCode::UNPROCESSABLE_ENTITY,
                &json!({"error": {"code": "reload_refused", "message": error}}),
            ),
        },
        _ => {
            let text = "The admin API serves GET /metrics, /livez, /readyz, /admin/generation, /admin/limits, and POST \
                        /admin/reload, /admin/limits/reset.";
            json_reply(StatusCode::NOT_FOUND, &json!({"error": {"code": "unknown_endpoint", "message": text}}))
        }
    }
}

/// Sets the counts of a rule back: `?rule=NAME`, and `&partition=TEXT` for one partition of it.
fn reset_limits(admin: &Admin, query: &str) -> Response<Full<Bytes>> {
    let value = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.into_iter().find(|(key, _)| *key == name)?.1.replace('+', " ");
        Some(percent_encoding::percent_decode_str(&value).decode_utf8_lossy().into_owned())
    };
    let rule = value("rule").unwrap_or_default();
    let generation = admin.shared.generation.load();
    if !generation.rules.iter().any(|known| *known.name == *rule) {
        let text = "No limit has this name; send ?rule=NAME with one that GET /admin/limits lists.";
        return json_reply(StatusCode::NOT_FOUND, &json!({"error": {"code": "unknown_limit", "message": text}}));
    }
    let partitions = admin.shared.state.limits.reset(&rule, value("partition").as_deref());
    json_reply(StatusCode::OK, &json!({"rule": rule, "partitions": partitions}))
}

/// Whether the head carries the token, compared in constant time.
fn allowed(headers: &HeaderMap, token: Option<&str>) -> bool {
    let Some(token) = token else { return true };
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = given.strip_prefix("Bearer ").unwrap_or_default();
    constant_time::verify_slices_are_equal(given.as_bytes(), token.as_bytes()).is_ok()
}

fn json_reply(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
