//! The admin API on its own listener: metrics, health, reload. Its credential is the admin token, never a caller's key.

mod cache;
mod guests;
mod targets;

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

use crate::auth::page::{self, Names};
use crate::pipeline::unix_ms;
use crate::reload::{Reloader, history};
use crate::server::Shared;
use crate::state::store::Store;

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
    // Without a token whoever is on this machine may steer, and a browser is.
    if admin.token.is_none()
        && let Some(why) = page::stranger(request.headers(), request.uri(), Names::Local)
    {
        let text = format!("{why} Call by the address of `admin.address`, or set `admin.token`.");
        return json_reply(StatusCode::FORBIDDEN, &json!({"error": {"code": "foreign_page", "message": text}}));
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
            state.metrics.targets(&state.health, state.now());
            state.metrics.cache_holds(answers, bytes, state.cache.listening());
            if let Some(shared) = state.cache.shared() {
                state.metrics.cache_shares(&shared.counts);
            }
            if let Some(shared) = state.shared_kv.get() {
                state.metrics.kv_shares(shared);
            }
            let ledger_dropped = state.store.get().map_or(0, Store::dropped);
            let mut text = state.metrics.render(state.log.dropped(), ledger_dropped);
            // The end mark comes after what policies add.
            let end = text.rfind("# EOF").map(|at| text.split_off(at)).unwrap_or_default();
            state.guests.render(&guests::phases(), &mut text);
            state.tally.render(&mut text);
            text.push_str(&end);
            let mut response = Response::new(Full::from(text));
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
        (&Method::GET, "/admin/cache") => json_reply(StatusCode::OK, &cache::stats(state)),
        (&Method::POST, "/admin/cache/purge") => {
            let (status, body) = cache::purge(request.uri().query().unwrap_or_default(), state).await;
            json_reply(status, &body)
        }
        (&Method::GET, "/admin/limits") => {
            let generation = admin.shared.generation.load();
            let rules: Vec<_> = generation.rules.iter().cloned().collect();
            let elsewhere = state.limits.elsewhere(&rules).await;
            json_reply(StatusCode::OK, &state.limits.state(&rules, unix_ms(), LIMITS_SHOWN, elsewhere.as_ref()))
        }
        (&Method::POST, "/admin/limits/reset") => reset_limits(admin, request.uri().query().unwrap_or_default()).await,
        (&Method::GET, "/admin/guests") => {
            json_reply(StatusCode::OK, &guests::list(&admin.shared.generation.load(), state))
        }
        (&Method::GET, "/admin/generations") => {
            let in_force = admin.shared.generation.load().number;
            let mut list = admin.reloader.history.list(in_force);
            list["last_reload_error"] = state.reload_error().into();
            json_reply(StatusCode::OK, &list)
        }
        (method, path) if path.starts_with("/admin/generations/") => generation(admin, method, path).await,
        (&Method::POST, "/admin/reload") => match admin.reloader.reload().await {
            Ok(number) => json_reply(StatusCode::OK, &json!({"generation": number})),
            Err(error) => json_reply(
                StatusCode::UNPROCESSABLE_ENTITY,
                &json!({"error": {"code": "reload_refused", "message": error}}),
            ),
        },
        (&Method::GET, "/admin/targets") => {
            json_reply(StatusCode::OK, &targets::list(&admin.shared.generation.load(), state))
        }
        (&Method::POST, path)
            if let Some((status, body)) = targets::act(path, &admin.shared.generation.load(), state) =>
        {
            json_reply(status, &body)
        }
        _ => {
            let text = "The admin API serves GET /metrics, /livez, /readyz, /admin/cache, /admin/generation, \
                        /admin/generations, /admin/generations/N/diff, /admin/guests, /admin/limits, /admin/targets, \
                        and POST /admin/cache/purge, /admin/generations/N/rollback, /admin/limits/reset, \
                        /admin/reload, /admin/targets/NAME/drain (or open, close).";
            json_reply(StatusCode::NOT_FOUND, &json!({"error": {"code": "unknown_endpoint", "message": text}}))
        }
    }
}

/// Sets the counts of a rule back: `?rule=NAME`, and `&partition=TEXT` for one partition of it.
async fn reset_limits(admin: &Admin, query: &str) -> Response<Full<Bytes>> {
    let value = |name: &str| crate::api::query_value(query, name);
    let rule = value("rule").unwrap_or_default();
    let generation = admin.shared.generation.load();
    if !generation.rules.iter().any(|known| *known.name == *rule) {
        let text = "No limit has this name; send ?rule=NAME with one that GET /admin/limits lists.";
        return json_reply(StatusCode::NOT_FOUND, &json!({"error": {"code": "unknown_limit", "message": text}}));
    }
    let (limits, partition) = (&admin.shared.state.limits, value("partition"));
    let mut partitions = limits.reset(&rule, partition.as_deref());
    if let Some(shared) = limits.shared() {
        match shared.reset(&rule, partition.as_deref()).await {
            // Most of them are known here, too; others only where another process has met them.
            Ok(there) => partitions = partitions.max(there),
            Err(away) => {
                let text = format!(
                    "Redis is away ({}) and still counts what it did. Send it again when it is back.",
                    away.as_str()
                );
                return json_reply(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &json!({"error": {"code": "limits_unavailable", "message": text}}),
                );
            }
        }
    }
    json_reply(StatusCode::OK, &json!({"rule": rule, "partitions": partitions}))
}

/// `/admin/generations/{n}/diff` and `/rollback`.
async fn generation(admin: &Admin, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let rest = path.trim_start_matches("/admin/generations/");
    let parts = rest.split_once('/').and_then(|(number, verb)| Some((number.parse::<u64>().ok()?, verb)));
    match (method, parts) {
        (&Method::GET, Some((number, "diff"))) => match admin.reloader.history.find(number) {
            Some(known) => json_reply(StatusCode::OK, &history::diff(&known, &admin.shared.generation.load())),
            None => unknown_generation(number),
        },
        (&Method::POST, Some((number, "rollback"))) => match admin.reloader.rollback(number).await {
            Some(number) => json_reply(StatusCode::OK, &json!({"generation": number})),
            None => unknown_generation(number),
        },
        _ => {
            let text = "Write GET /admin/generations/N/diff or POST /admin/generations/N/rollback.";
            json_reply(StatusCode::NOT_FOUND, &json!({"error": {"code": "unknown_endpoint", "message": text}}))
        }
    }
}

fn unknown_generation(number: u64) -> Response<Full<Bytes>> {
    let text = format!("Generation {number} is not kept; GET /admin/generations lists those that are.");
    json_reply(StatusCode::NOT_FOUND, &json!({"error": {"code": "unknown_generation", "message": text}}))
}

/// Whether the head carries the token, compared in constant time.
fn allowed(headers: &HeaderMap, token: Option<&str>) -> bool {
    let Some(token) = token else { return true };
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = given.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let given = given.map_or("", |(_, token)| token.trim());
    constant_time::verify_slices_are_equal(given.as_bytes(), token.as_bytes()).is_ok()
}

fn json_reply(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
