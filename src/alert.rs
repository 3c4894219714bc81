//! Budget alerts on their way out: to the process's log, and to the webhook that the budget names.
//!
//! Fed by the limiter through a bounded queue; the request path never waits for a webhook. Each alert is tried a few times
//! and then given up, with a word in the log. One that its process does not live to tell is told by that process's next
//! life, or by another that shares the budget.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Uri};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use crate::body::Outgoing;
use crate::cost::nano_to_decimal;
use crate::host::log::in_line;
use crate::state::limit::{Alert, Limits, shared};
use crate::state::redis::Link;
use crate::upstream::{Dial, Outbound, Pools, Proxies, Proxy, Upstream, Wire};

/// Alerts that may wait; each budget gives a handful a window.
const QUEUE: usize = 1024;

/// Webhooks called at the same time.
const AT_ONCE: usize = 8;

/// Tries of one alert, and the wait before the second; doubled each time.
const TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// How long one process may take to tell before others that share the budget do: all tries, each as late as it may be.
const CLAIM_SECONDS: u64 = 120;

/// How often others look whether it has.
const LOOK: Duration = Duration::from_secs(15);

/// How long processes that share budgets remember what one of them told: longer than a year, the longest window.
const TOLD_SECONDS: u64 = 400 * 86_400;

/// Longest wait for a webhook's answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Takes the limiter's alerts from now on. The task ends with the runtime.
pub fn start(limits: &Arc<Limits>, redis: Option<Arc<Link>>, proxies: Arc<Proxies>) {
    let (sender, mut alerts) = mpsc::channel::<Alert>(QUEUE);
    limits.tell(Box::new(move |alert| {
        if sender.try_send(alert).is_err() {
            tracing::error!("a budget's alert was dropped: {QUEUE} others wait for their webhooks");
        }
    }));
    let limits = Arc::downgrade(limits);
    tokio::spawn(async move {
        let upstream = Arc::new(Pools::new(proxies));
        let places = Arc::new(Semaphore::new(AT_ONCE));
        // What waits for a webhook, or for another process to tell, is bounded as what waits here is.
        let room = Arc::new(Semaphore::new(QUEUE));
        while let Some(alert) = alerts.recv().await {
            let Ok(place) = room.clone().acquire_owned().await else { return };
            let (upstream, places, redis, limits) = (upstream.clone(), places.clone(), redis.clone(), limits.clone());
            tokio::spawn(async move {
                tell(upstream.as_ref(), &places, redis.as_deref(), &alert).await;
                if let Some(limits) = limits.upgrade() {
                    limits.told(&alert);
                }
                drop(place);
            });
        }
    });
}

/// Tells of an alert, unless another process does.
async fn tell(upstream: &dyn Upstream, places: &Semaphore, redis: Option<&Link>, alert: &Alert) {
    while let Some(claim) = redis.map(|link| Claim { link, alert }) {
        match claim.take().await {
            Claimed::Mine => break,
            Claimed::Told => return,
            Claimed::Others => sleep(LOOK).await,
        }
    }
    say(alert);
    if let Some(url) = alert.rule.budget.as_ref().and_then(|budget| budget.webhook.as_ref()) {
        let Ok(_place) = places.acquire().await else { return };
        if let Err(error) = deliver(upstream, url, alert).await {
            // The address may hold a credential.
            let (budget, percent) = (&alert.rule.name, alert.percent);
            tracing::error!(budget = %budget, percent, "the webhook was not reached: {error}");
        }
    }
    if let Some(link) = redis {
        Claim { link, alert }.keep().await;
    }
}

/// Says it in the process's log.
fn say(alert: &Alert) {
    let (spent, limit) = (nano_to_decimal(alert.used), nano_to_decimal(alert.limit));
    let refuses = if alert.refuses { "; it refuses: what is left is too little" } else { "" };
    tracing::warn!(
        budget = %alert.rule.name,
        partition = %in_line(&alert.partition),
        window = %alert.shape.words(),
        spent_usd = %spent,
        limit_usd = %limit,
        "{}% of the budget are spent{refuses}",
        alert.percent
    );
}

/// Which of the processes that share a budget tells of an alert.
struct Claim<'a> {
    link: &'a Link,
    alert: &'a Alert,
}

enum Claimed {
    /// This one does.
    Mine,
    /// Another one is about to.
    Others,
    Told,
}

impl Claim<'_> {
    /// What is kept for an alert that was told of, and for one that is being told.
    const TOLD: &'static str = "1";
    const CLAIMED: &'static str = "claimed";

    /// When nobody can say, it is this one's: twice is better than never.
    async fn take(&self) -> Claimed {
        let mut claim = ::redis::cmd("SET");
        claim.arg(self.name()).arg(Claim::CLAIMED).arg("NX").arg("EX").arg(CLAIM_SECONDS);
        if !matches!(self.link.run(&claim).await, Ok(::redis::Value::Nil)) {
            return Claimed::Mine;
        }
        match self.link.run(::redis::cmd("GET").arg(self.name())).await {
            Ok(::redis::Value::BulkString(kept)) if kept == Claim::TOLD.as_bytes() => Claimed::Told,
            _ => Claimed::Others,
        }
    }

    /// It is done, and never again.
    async fn keep(&self) {
        let mut keep = ::redis::cmd("SET");
        keep.arg(self.name()).arg(Claim::TOLD).arg("EX").arg(TOLD_SECONDS);
        // Where the server is away, somebody tells it once more.
        let _ = self.link.run(&keep).await;
    }

    fn name(&self) -> String {
        shared::told(&self.link.prefix, self.alert)
    }
}

/// Posts an alert until it is taken.
async fn deliver(upstream: &dyn Upstream, url: &str, alert: &Alert) -> Result<(), String> {
    let uri: Uri = url.parse().map_err(|_| "it is no address".to_owned())?;
    let dial = Arc::new(Dial {
        wire: Wire::Network,
        connect_timeout: TIMEOUT,
        http2_only: false,
        http1_only: false,
        proxy: Proxy::Environment,
    });
    let body = Bytes::from(message(alert).to_string());
    let mut wait = FIRST_WAIT;
    let mut last = String::new();
    for tried in 0..TRIES {
        if tried > 0 {
            sleep(wait).await;
            wait *= 2;
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = Outgoing::new(smallvec::smallvec![body.clone()]);
        let request = Outbound { method: Method::POST, uri: uri.clone(), headers: headers.into(), body, target: None };
        last = match upstream.send(&dial, Box::new(request), TIMEOUT).await {
            Ok(response) if response.status().is_success() => return Ok(()),
            Ok(response) => format!("it answered {}", response.status()),
            Err(fault) => fault.message,
        };
    }
    Err(last)
}

fn message(alert: &Alert) -> Value {
    let begin = UNIX_EPOCH + Duration::from_millis(alert.window_start);
    json!({
        "event": "budget_threshold",
        "budget": &*alert.rule.name,
        "partition": alert.partition,
        "percent": alert.percent,
        "limit_usd": nano_to_decimal(alert.limit),
        "spent_usd": nano_to_decimal(alert.used),
        "refuses": alert.refuses,
        "window": alert.shape.words(),
        "window_start": humantime::format_rfc3339_seconds(begin).to_string(),
    })
}
