//! A policy that does at each phase what its settings say: `{"request": "patch", "event": "loop"}`; or that is one of the
//! guests which every language has: `{"behaviour": "plan"}`.
//!
//! Only for the gateway's tests: it decides everything that can be decided, calls every kind of host function, and
//! misbehaves as it is told to.

portcullis_policy::policy!(
    "portcullis:probe/probe",
    "
    package portcullis:probe;
    world probe { include portcullis:gateway/policy@0.1.0; }
    "
);

mod behaviours;

/// A clock of WASI, which policies have no need of: `time.sleep` waits.
mod outside {
    portcullis_policy::wit_bindgen::generate!({
        inline: "
            package portcullis:probe-outside;
            world outside { import wasi:clocks/monotonic-clock@0.2.0; }
            package wasi:io@0.2.0 {
                interface poll { resource pollable { block: func(); } }
            }
            package wasi:clocks@0.2.0 {
                interface monotonic-clock {
                    use wasi:io/poll@0.2.0.{pollable};
                    type duration = u64;
                    subscribe-duration: func(when: duration) -> pollable;
                }
            }
        ",
        generate_all,
        runtime_path: "portcullis_policy::wit_bindgen::rt",
    });

    pub use wasi::clocks::monotonic_clock::subscribe_duration;
}

use std::cell::{Cell, RefCell};
use std::hint::black_box;

use behaviours::Behaviour;
use exports::portcullis::gateway::manifest::{Description, Metric, MetricKind, StreamMode};
use exports::portcullis::gateway::{
    manifest, on_answer, on_arguments, on_attempt, on_auth, on_done, on_event, on_fault, on_request, on_route, on_tick,
};
use portcullis_policy::decision::{
    AnswerVerdict, AttemptVerdict, AuthVerdict, EventVerdict, FaultVerdict, HeaderChange, HeaderValue, LogField, Mode, Param,
    Patch, Plan, Principal, Reject, ReplyBody, RequestVerdict, Respond, RouteVerdict, Said, Step, Stop, TextChange, Turn,
};
use portcullis_policy::exchange::{Answer, Attempt, Done, Event, Failure, Field, Head, Request};
use portcullis_policy::{
    cache, cost, ctx, hash, http, json, kv, limit, llm, log, metrics, pick, rand, re, secret, targets, time, tokens, trace,
};
use portcullis_policy::serde_json::{self, Value};
use portcullis_policy::step;

struct Probe;

thread_local! {
    static CONFIG: RefCell<Value> = const { RefCell::new(Value::Null) };
    /// What it is as a whole, where the settings name a behaviour.
    static BEHAVIOUR: Cell<Option<Behaviour>> = const { Cell::new(None) };
    /// A handle of an exchange that is over.
    static KEPT: RefCell<Option<Request>> = const { RefCell::new(None) };
}

fn behaviour() -> Option<Behaviour> {
    BEHAVIOUR.get()
}

/// What the settings say about a phase.
fn told(phase: &str) -> String {
    CONFIG.with_borrow(|config| config[phase].as_str().unwrap_or_default().to_owned())
}

/// Does what is no verdict; an error is given on.
fn act(phase: &str) -> Result<String, String> {
    let how = told(phase);
    match how.as_str() {
        "loop" | "recurse" | "trap" | "grow" => misbehave::misbehave(&how),
        "storm" => {
            for _ in 0..u32::MAX {
                rand::number();
            }
        }
        // A minute in nanoseconds, at once and bit by bit.
        "sleep" => outside::subscribe_duration(60_000_000_000).block(),
        "naps" => (0..60_000).for_each(|_| outside::subscribe_duration(1_000_000).block()),
        "chatter" => {
            for _ in 0..u32::MAX {
                log::write(log::Level::Debug, &"x".repeat(4 << 10));
            }
        }
        "forge" => {
            // Nobody has given this handle out. Using it must end here, whatever is behind the number.
            #[expect(unsafe_code, reason = "that is the point")]
            let forged = unsafe { Request::from_handle(4242) };
            return Ok(forged.model());
        }
        "error" => return Err("as told".to_owned()),
        "files" => {
            // A component for wasm32-wasip2 asks WASI here; there is nothing to be found.
            return match std::fs::read_to_string("/etc/passwd").map(drop).or_else(|_| std::net::TcpStream::connect("127.0.0.1:80").map(drop)) {
                Ok(()) => Ok("reached".to_owned()),
                Err(_) => Err("nothing there".to_owned()),
            };
        }
        _ => {}
    }
    Ok(how)
}

fn huge(phase: &str) -> String {
    if told(phase) == "huge" { "x".repeat(8 << 20) } else { String::new() }
}

fn respond(text: String) -> Respond {
    Respond { status: 200, body: ReplyBody::Raw(text), headers: vec![Field { name: "x-probe".into(), value: "1".into() }] }
}

fn reject() -> Reject {
    Reject { code: "not_here".into(), message: "Not here.".into(), status: Some(451), retry_after_ms: Some(1500) }
}

fn patch() -> Patch {
    Patch {
        model: Some("smart".into()),
        params: vec![
            Param { name: "temperature".into(), value: Some("0".into()) },
            Param { name: "top_p".into(), value: None },
        ],
        system: Some("S".into()),
        messages: Some(vec![Turn::Keep(1), Turn::Say(Said { role: "user".into(), text: "More".into() })]),
        texts: vec![TextChange { index: 2, text: "x".into() }],
        ..Patch::default()
    }
}

fn plan() -> Plan {
    let second = Step {
        weight: Some(3.0),
        timeout_ms: Some(500),
        params: vec![Param { name: "seed".into(), value: Some("1".into()) }],
        ..step("b/y")
    };
    Plan { steps: vec![step("a/x"), second], mode: Mode::Weighted, max_attempts: Some(2), deadline_ms: Some(9000) }
}

/// What a policy sees of an ask, one thing by its name.
fn seen(ask: &Request, what: &str) -> Result<String, String> {
    let facts = ask.facts();
    let words = |text: Option<String>| text.unwrap_or_else(|| "nil".into());
    Ok(match what {
        "id" => facts.id,
        "model" => ask.model(),
        "stream" => facts.stream.to_string(),
        "max_tokens" => facts.max_tokens.map_or_else(|| "nil".into(), |count| count.to_string()),
        "temperature" => facts.temperature.map_or_else(|| "nil".into(), |number| number.to_string()),
        "message_count" => facts.message_count.to_string(),
        "tool_count" => facts.tool_count.to_string(),
        "key" => words(facts.key),
        "project" => words(facts.project),
        "peer" => words(facts.peer),
        "header" => words(ask.header("X-Team")),
        "credential" => words(ask.header("authorization")),
        "headers" => ask.headers().iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(","),
        "param" => words(ask.param("max_tokens")),
        "metadata" => words(ask.metadata("tier")),
        "no_metadata" => words(ask.metadata("none")),
        "system" => words(ask.system()?),
        "first" => words(ask.message(1)?.map(|turn| turn.text)),
        "last" => words(ask.message(-1)?.map(|turn| turn.text)),
        "ninth" => words(ask.message(9)?.map(|turn| turn.text)),
        "messages" => ask.messages()?.len().to_string(),
        "last_user" => words(ask.last_user()?),
        "text" => ask.texts()?[0].role.clone(),
        "plan" => ask.plan()?.len().to_string(),
        "body" => String::from_utf8(ask.read_body(1, 7)).unwrap_or_default(),
        "rest" => ask.read_body(facts.bytes - 1, 100).len().to_string(),
        other => return Err(format!("what is {other}?")),
    })
}

/// A host function, by its name.
fn called(what: &str) -> Result<String, String> {
    let words = |text: Option<String>| text.unwrap_or_else(|| "nil".into());
    let secret_key = || hash::Key::Secret("pepper".into());
    Ok(match what {
        "json.get" => words(json::get("{\"a\":[1,{\"b\":\"x\"}]}", "/a/1")),
        "json.quote" => json::quote("a\"b"),
        "re.match" => words(re::match_("(a+)(b)", "xaab")?.map(|groups| groups[1].clone())),
        "re.test" => re::test("^x", "yx")?.to_string(),
        "re.find" => re::find("a", "banana", None)?[1].first.to_string(),
        "re.replace" => re::replace("[0-9]", "a1b2", "#")?.count.to_string(),
        "re.wrong" => re::test("(", "x")?.to_string(),
        "hash.sha256" => hash::sha256(b"abc")[..8].to_owned(),
        "hash.unbase64" => String::from_utf8(hash::unbase64(&hash::base64(b"hey")).unwrap_or_default()).unwrap_or_default(),
        "hash.secret" => {
            let plain = hash::hmac_sha256(&hash::Key::Bytes(b"hush".to_vec()), b"x")?;
            (hash::hmac_sha256(&secret_key(), b"x")? == plain).to_string()
        }
        "secret.granted" => format!("{}{}", secret::granted("pepper"), secret::granted("other")),
        "time.now_ms" => time::now_ms().to_string(),
        "time.weekday" => time::date(None, None).weekday.to_string(),
        "time.elapsed" => (time::elapsed_ms() >= 0.0).to_string(),
        "time.sleep" => time::sleep(5).map(|()| "slept".to_owned())?,
        "rand.int" => rand::int(1, 3).to_string(),
        "rand.id" => rand::id().len().to_string(),
        "pick.weighted" => {
            let weight = |name: &str, weight| pick::Weight { name: name.into(), weight };
            words(pick::weighted(&[weight("a", 1.0), weight("b", 0.0)], None))
        }
        "pick.infinite" => words(pick::weighted(&[pick::Weight { name: "a".into(), weight: f64::INFINITY }], None)),
        "pick.hash" => words(pick::hash(&["a".to_owned()], "k")),
        "cache.get" => words(cache::get("none", None)?),
        "cache.set" => cache::set("c", "v", Some(60.0), None).and_then(|()| cache::get("c", None)).map(words)?,
        "kv.incr" => (kv::incr("n", 1, None, None)? + kv::incr("n", 4, Some(60.0), None)?).to_string(),
        "kv.add" => format!("{}{}", kv::add("a", "x", Some(60.0), None)?, kv::add("a", "y", None, None)?),
        "kv.swap" => format!("{}{}", kv::swap("s", None, "1", None, None)?, kv::swap("s", Some("2"), "3", None, None)?),
        "kv.others" => words(kv::get("x", Some("others"))?),
        "limit" => {
            let window = limit::Window { limit: 3, span: limit::Span::Sliding(60.0) };
            let first = limit::take("k", window, 2, None)?;
            let second = limit::peek("k", window, 2, None)?;
            let held = limit::reserve("r", window, 3, None)?;
            let settled = limit::settle(held.reservation.unwrap_or_default(), 1)?;
            format!("{} {} {} {settled}", first.allowed, first.remaining, second.allowed)
        }
        "tokens.estimate" => tokens::estimate("abcdefgh").to_string(),
        "targets.models" => targets::models()?.join(","),
        "targets.get" => targets::get("nobody/x")?.is_some().to_string(),
        "cost.estimate" => format!("{:?}", cost::estimate("nobody/x", 1, 1)?),
        "trace.note" => trace::note("{\"why\":\"x\"}").map(|()| "noted".to_owned())?,
        "metrics.count" => metrics::count("asks", 1.0, &[]).map(|()| "counted".to_owned())?,
        "metrics.unknown" => metrics::count("nothing", 1.0, &[]).map(|()| "counted".to_owned())?,
        "ctx" => {
            ctx::set("k", Some(&ctx::Kept::Number(4.0)))?;
            format!("{:?}", ctx::get("k")?)
        }
        "llm.ask" => llm::ask("{\"model\":\"judge\",\"prompt\":\"x\"}")?.text,
        "llm.other" => llm::ask("{\"model\":\"other\",\"prompt\":\"x\"}")?.text,
        "http.other" => {
            let request = http::Request {
                url: "https://evil.example/".into(),
                method: None,
                headers: Vec::new(),
                body: None,
                timeout_ms: None,
            };
            http::fetch(&request)?.body
        }
        other => return Err(format!("what is {other}?")),
    })
}

impl manifest::Guest for Probe {
    fn describe() -> Description {
        Description {
            title: "probe".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "Does as it is told.".into(),
            guard: false,
            stream: StreamMode::Event,
            coalesce: None,
            tick_ms: None,
            metrics: vec![Metric {
                name: "asks".into(),
                kind: MetricKind::Counter,
                help: "Asks seen.".into(),
                labels: Vec::new(),
                buckets: Vec::new(),
            }],
            config: r#"{"type":"object","additionalProperties":{"type":"string"}}"#.into(),
        }
    }

    fn init(config: String) -> Result<(), String> {
        let config: Value = serde_json::from_str(&config).map_err(|error| error.to_string())?;
        if let Some(name) = config["behaviour"].as_str() {
            BEHAVIOUR.set(Some(Behaviour::named(name)?));
        }
        CONFIG.set(config);
        match act("init")?.as_str() {
            "" => Ok(()),
            "kv" => kv::get("x", None).map(drop),
            other => Err(other.to_owned()),
        }
    }
}

impl on_auth::Guest for Probe {
    fn handle(head: Head) -> Result<AuthVerdict, String> {
        Ok(match act("auth")?.as_str() {
            "principal" => AuthVerdict::Principal(Principal {
                key: head.header("x-who").unwrap_or_else(|| "nobody".into()),
                project: Some(head.facts().method),
                models: Vec::new(),
                metadata: vec![Field { name: "tier".into(), value: "gold".into() }],
            }),
            "huge" => AuthVerdict::Reject(Reject { message: huge("auth"), ..reject() }),
            "reject" => AuthVerdict::Reject(reject()),
            _ => AuthVerdict::Pass,
        })
    }
}

impl on_request::Guest for Probe {
    fn handle(ask: Request) -> Result<RequestVerdict, String> {
        if let Some(behaviour) = behaviour() {
            return behaviours::request(behaviour, &ask);
        }
        let how = act("request")?;
        Ok(match how.as_str() {
            "patch" => RequestVerdict::Patch(patch()),
            "shout" => {
                let texts = ask.texts()?.into_iter().map(|text| TextChange { index: text.index, text: text.text.to_uppercase() });
                RequestVerdict::Patch(Patch { texts: texts.collect(), ..Patch::default() })
            }
            "respond" => RequestVerdict::Respond(respond("As told.".into())),
            "say" => RequestVerdict::Respond(Respond { body: ReplyBody::Say("As told.".into()), ..respond(String::new()) }),
            "reject" => RequestVerdict::Reject(reject()),
            "nonsense" => RequestVerdict::Reject(Reject { status: Some(200), ..reject() }),
            "huge" => RequestVerdict::Respond(respond(huge("request"))),
            // The first call keeps its handle; the second looks at its own exchange through it.
            "keep" => match KEPT.take() {
                Some(kept) => RequestVerdict::Respond(respond(kept.model())),
                None => {
                    KEPT.set(Some(ask));
                    RequestVerdict::Pass
                }
            },
            // Every call keeps its handle; none is ever looked at.
            "hoard" => {
                std::mem::forget(ask);
                RequestVerdict::Pass
            }
            "look" => {
                // What the bench measures: two headers and one host function.
                let seen = (ask.header("x-team"), ask.header("x-none"), tokens::estimate("abcdefgh"));
                black_box(seen);
                RequestVerdict::Pass
            }
            how => match how.split_once(' ') {
                Some(("see", what)) => RequestVerdict::Respond(respond(seen(&ask, what)?)),
                Some(("call", what)) => RequestVerdict::Respond(respond(called(what).unwrap_or_else(|why| format!("refused: {why}")))),
                _ => RequestVerdict::Pass,
            },
        })
    }
}

impl on_route::Guest for Probe {
    fn handle(ask: Request) -> Result<RouteVerdict, String> {
        if let Some(behaviour) = behaviour() {
            return behaviours::route(behaviour, &ask);
        }
        Ok(match act("route")?.as_str() {
            "plan" => RouteVerdict::Plan(plan()),
            "reverse" => {
                let mut steps: Vec<_> = ask.plan()?;
                steps.reverse();
                let steps = steps.into_iter().map(|target: targets::Target| step(target.name)).collect();
                RouteVerdict::Plan(portcullis_policy::plan(steps))
            }
            "nobody" => RouteVerdict::Plan(Plan { steps: Vec::new(), ..plan() }),
            "huge" => RouteVerdict::Respond(respond(huge("route"))),
            "reject" => RouteVerdict::Reject(reject()),
            _ => RouteVerdict::Pass,
        })
    }
}

impl on_attempt::Guest for Probe {
    fn handle(_: Request, next: Attempt) -> Result<AttemptVerdict, String> {
        Ok(match act("attempt")?.as_str() {
            "patch" => AttemptVerdict::Patch(Patch {
                headers: vec![HeaderChange {
                    name: "x-try".into(),
                    value: Some(HeaderValue::Text(format!("{} of {}", next.number, next.target))),
                }],
                ..Patch::default()
            }),
            "sleep" => {
                time::sleep(1)?;
                AttemptVerdict::Pass
            }
            "huge" => AttemptVerdict::Patch(Patch { model: Some(huge("attempt")), ..Patch::default() }),
            _ => AttemptVerdict::Pass,
        })
    }
}

impl on_fault::Guest for Probe {
    fn handle(ask: Request, failed: Failure) -> Result<FaultVerdict, String> {
        Ok(match act("fault")?.as_str() {
            "same" => FaultVerdict::Same(250),
            "next" => FaultVerdict::Next,
            "plan" => FaultVerdict::Plan(plan()),
            "respond" => FaultVerdict::Respond(respond(format!("{} of {}", failed.kind, ask.model()))),
            "huge" => FaultVerdict::Respond(respond(huge("fault"))),
            "stop" => FaultVerdict::Stop,
            _ => FaultVerdict::Pass,
        })
    }
}

impl on_answer::Guest for Probe {
    fn handle(ask: Request, given: Answer) -> Result<AnswerVerdict, String> {
        Ok(match act("answer")?.as_str() {
            "patch" => AnswerVerdict::Patch(Patch {
                text: given.text().map(|text| format!("{text} ({})", ask.model())),
                headers: vec![HeaderChange { name: "x-seen".into(), value: Some(HeaderValue::Text(given.facts().target)) }],
                ..Patch::default()
            }),
            "fault" => AnswerVerdict::Fault("Not good enough.".into()),
            "huge" => AnswerVerdict::Patch(Patch { text: Some(huge("answer")), ..Patch::default() }),
            "reject" => AnswerVerdict::Reject(reject()),
            _ => AnswerVerdict::Pass,
        })
    }
}

impl on_event::Guest for Probe {
    fn handle(next: Event) -> Result<EventVerdict, String> {
        Ok(match act("event")?.as_str() {
            "shout" => EventVerdict::Text(next.text.to_uppercase()),
            "drop" => EventVerdict::Text(String::new()),
            "huge" => EventVerdict::Text(huge("event")),
            "stop" => EventVerdict::Stop(Stop { message: None, code: None, text: Some("Enough.".into()) }),
            _ => EventVerdict::Pass,
        })
    }
}

impl on_arguments::Guest for Probe {
    fn handle(tool: String, next: Event) -> Result<EventVerdict, String> {
        Ok(match act("arguments")?.as_str() {
            "shout" => EventVerdict::Text(next.text.to_uppercase()),
            // Holds all of it back to the end, and then tells what it was shown.
            "tell" => {
                let so_far = match ctx::get("seen")? {
                    Some(ctx::Kept::Text(seen)) => seen,
                    _ => String::new(),
                };
                let seen = format!("{so_far}{tool}:{}:{} ", next.kind, next.text);
                ctx::set("seen", Some(&ctx::Kept::Text(seen.clone())))?;
                EventVerdict::Text(if next.kind == "end" { json::quote(&seen) } else { String::new() })
            }
            "stop" => EventVerdict::Stop(Stop { message: Some("No.".into()), code: Some("no_tools".into()), text: None }),
            _ => EventVerdict::Pass,
        })
    }
}

impl on_done::Guest for Probe {
    fn handle(over: Done) -> Result<Vec<LogField>, String> {
        if let Some(behaviour) = behaviour() {
            return behaviours::done(behaviour);
        }
        Ok(match act("done")?.as_str() {
            "fields" => vec![LogField { name: "probe".into(), value: json::quote(&over.model) }],
            "huge" => vec![LogField { name: "probe".into(), value: json::quote(&huge("done")) }],
            _ => Vec::new(),
        })
    }
}

impl on_tick::Guest for Probe {
    fn handle() -> Result<(), String> {
        act("tick").map(drop)
    }
}

export!(Probe);
