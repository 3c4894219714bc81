//! The guests of `guest::tests`: one behaviour by name, as other languages have the same.

use portcullis_policy::decision::{
    LogField, Param, Patch, ReplyBody, RequestVerdict, Respond, RouteVerdict, Said, Step, Turn,
};
use portcullis_policy::exchange::Request;
use portcullis_policy::{ctx, kv, limit, plan, reject, step, time};

#[derive(Clone, Copy)]
pub enum Behaviour {
    Plan,
    Patch,
    Refuse,
    Keep,
    Count,
    Fail,
    Sleep,
    Spin,
    Grow,
    Storm,
}

impl Behaviour {
    /// # Errors
    /// None has this name.
    pub fn named(name: &str) -> Result<Self, String> {
        Ok(match name {
            "plan" => Behaviour::Plan,
            "patch" => Behaviour::Patch,
            "refuse" => Behaviour::Refuse,
            "keep" => Behaviour::Keep,
            "count" => Behaviour::Count,
            "fail" => Behaviour::Fail,
            "sleep" => Behaviour::Sleep,
            "spin" => Behaviour::Spin,
            "grow" => Behaviour::Grow,
            "storm" => Behaviour::Storm,
            other => return Err(format!("no behaviour is called {other}")),
        })
    }
}

pub fn request(what: Behaviour, ask: &Request) -> Result<RequestVerdict, String> {
    Ok(match what {
        Behaviour::Patch => RequestVerdict::Patch(patch()),
        Behaviour::Refuse => RequestVerdict::Reject(reject("closed", "We are closed.", 451)),
        Behaviour::Keep => {
            let tier = ask.metadata("tier").map(ctx::Kept::Text);
            ctx::set("tier", tier.as_ref())?;
            ctx::set("turns", Some(&ctx::Kept::Number(ask.messages()?.len() as f64)))?;
            RequestVerdict::Pass
        }
        Behaviour::Count => RequestVerdict::Respond(raw(count()?)),
        Behaviour::Fail => return Err("boom".into()),
        Behaviour::Sleep => {
            // Whatever they say.
            let _ = (time::sleep(40), time::sleep(40));
            RequestVerdict::Pass
        }
        Behaviour::Spin => misbehave::spin(),
        Behaviour::Grow => misbehave::grow(),
        Behaviour::Storm => {
            for _ in 0..100_000 {
                time::now_ms();
            }
            RequestVerdict::Pass
        }
        _ => RequestVerdict::Pass,
    })
}

pub fn route(what: Behaviour, ask: &Request) -> Result<RouteVerdict, String> {
    let words = |text: Option<String>| text.unwrap_or_default();
    Ok(match what {
        Behaviour::Plan => {
            let first = format!("{}/{}", words(ask.metadata("tier")), ask.model());
            let second = format!("{}/{}", words(ask.header("x-team")), words(ask.facts().project));
            RouteVerdict::Plan(plan(vec![step(first), Step { timeout_ms: Some(500), ..step(second) }]))
        }
        Behaviour::Refuse => {
            let body = ReplyBody::Say(format!("Hello, {}.", words(ask.facts().key)));
            RouteVerdict::Respond(Respond { status: 200, body, headers: Vec::new() })
        }
        Behaviour::Keep => match (ctx::get("tier")?, ctx::get("turns")?) {
            (Some(ctx::Kept::Text(tier)), Some(ctx::Kept::Number(turns))) => {
                RouteVerdict::Respond(raw(format!("{tier} {turns}")))
            }
            _ => RouteVerdict::Pass,
        },
        Behaviour::Fail | Behaviour::Spin | Behaviour::Grow => RouteVerdict::Plan(plan(vec![step("a/b")])),
        _ => RouteVerdict::Pass,
    })
}

pub fn done(what: Behaviour) -> Result<Vec<LogField>, String> {
    match what {
        Behaviour::Count => {
            let Some(ctx::Kept::Number(held)) = ctx::get("held")? else { return Ok(Vec::new()) };
            let settled = limit::settle(held as u32, 4)?;
            Ok(vec![LogField { name: "settled".into(), value: settled.to_string() }])
        }
        Behaviour::Sleep => time::sleep(1).map(|()| Vec::new()),
        _ => Ok(Vec::new()),
    }
}

fn raw(text: String) -> Respond {
    Respond { status: 200, body: ReplyBody::Raw(text), headers: Vec::new() }
}

fn patch() -> Patch {
    let param = |name: &str, value: Option<&str>| Param { name: name.into(), value: value.map(str::to_owned) };
    Patch {
        model: Some("smart".into()),
        system: Some("Be long.".into()),
        params: vec![param("temperature", Some("0")), param("top_p", None)],
        messages: Some(vec![Turn::Keep(1), Turn::Say(Said { role: "user".into(), text: "More".into() })]),
        ..Patch::default()
    }
}

fn count() -> Result<String, String> {
    let day = limit::Window { limit: 100, span: limit::Span::Calendar(limit::Period::Day) };
    let held = limit::reserve("tokens", day, 10, None)?.reservation;
    ctx::set("held", held.map(|held| ctx::Kept::Number(f64::from(held))).as_ref())?;
    let minute = limit::Window { limit: 1, span: limit::Span::Sliding(60.0) };
    let given = limit::take("asks", minute, 1, None)?;
    Ok(format!("{} {}", kv::incr("asks", 1, None, None)?, given.allowed))
}
