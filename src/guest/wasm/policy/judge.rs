//! What a component decided, as the hooks take verdicts.
//!
//! What a verdict may hold is checked where it is made: an impossible one is a failure of the guest, never a guess.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::super::bindings::decision as wit;
use super::super::bindings::exchange::Field;
use crate::guest::verdict::{Body, Header, Mode, Patch, Reject, Respond, Step, Stop, Turn, Verdict, Who, Wish};

type Judged = Result<Verdict, String>;

pub(super) fn auth(said: wit::AuthVerdict) -> Judged {
    match said {
        wit::AuthVerdict::Pass => Ok(Verdict::Pass),
        wit::AuthVerdict::Principal(who) => principal(who),
        wit::AuthVerdict::Reject(said) => reject(said),
    }
}

pub(super) fn request(said: wit::RequestVerdict) -> Judged {
    match said {
        wit::RequestVerdict::Pass => Ok(Verdict::Pass),
        wit::RequestVerdict::Patch(said) => patch(said),
        wit::RequestVerdict::Respond(said) => respond(said),
        wit::RequestVerdict::Reject(said) => reject(said),
    }
}

pub(super) fn route(said: wit::RouteVerdict) -> Judged {
    match said {
        wit::RouteVerdict::Pass => Ok(Verdict::Pass),
        wit::RouteVerdict::Plan(said) => plan(said),
        wit::RouteVerdict::Respond(said) => respond(said),
        wit::RouteVerdict::Reject(said) => reject(said),
    }
}

pub(super) fn attempt(said: wit::AttemptVerdict) -> Judged {
    match said {
        wit::AttemptVerdict::Pass => Ok(Verdict::Pass),
        wit::AttemptVerdict::Patch(said) => patch(said),
    }
}

pub(super) fn fault(said: wit::FaultVerdict) -> Judged {
    match said {
        wit::FaultVerdict::Pass => Ok(Verdict::Pass),
        wit::FaultVerdict::Same(ms) => Ok(Verdict::Same(millis(ms))),
        wit::FaultVerdict::Next => Ok(Verdict::Next),
        wit::FaultVerdict::Plan(said) => plan(said),
        wit::FaultVerdict::Respond(said) => respond(said),
        wit::FaultVerdict::Reject(said) => reject(said),
        wit::FaultVerdict::Stop => Ok(Verdict::Stop(Stop::default())),
    }
}

pub(super) fn answer(said: wit::AnswerVerdict) -> Judged {
    match said {
        wit::AnswerVerdict::Pass => Ok(Verdict::Pass),
        wit::AnswerVerdict::Patch(said) => patch(said),
        wit::AnswerVerdict::Fault(why) => Ok(Verdict::Fault(why)),
        wit::AnswerVerdict::Respond(said) => respond(said),
        wit::AnswerVerdict::Reject(said) => reject(said),
    }
}

pub(super) fn event(said: wit::EventVerdict) -> Judged {
    Ok(match said {
        wit::EventVerdict::Pass => Verdict::Pass,
        wit::EventVerdict::Text(text) => Verdict::Text(text),
        wit::EventVerdict::Stop(said) => {
            Verdict::Stop(Stop { message: said.message, code: said.code, text: said.text })
        }
    })
}

pub(super) fn done(said: Vec<wit::LogField>) -> Judged {
    if said.is_empty() {
        return Ok(Verdict::Pass);
    }
    let fields = said.into_iter().map(|field| Ok((field.name, json(&field.value, "a field of the log")?)));
    fields.collect::<Result<_, String>>().map(Verdict::Fields)
}

pub(super) fn tick((): ()) -> Judged {
    Ok(Verdict::Pass)
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}

fn json(text: &str, what: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{what} is not JSON: {error}"))
}

fn principal(said: wit::Principal) -> Judged {
    if said.key.is_empty() {
        return Err("a caller needs `key`: its name in logs, limits and metrics".to_owned());
    }
    let who = Who { key: said.key, project: said.project, models: said.models, metadata: fields(said.metadata) };
    Ok(Verdict::Principal(who))
}

fn fields(fields: Vec<Field>) -> BTreeMap<String, String> {
    fields.into_iter().map(|field| (field.name, field.value)).collect()
}

fn params(said: Vec<wit::Param>) -> Result<BTreeMap<String, Option<Value>>, String> {
    let param = |param: wit::Param| {
        let value = param.value.map(|value| json(&value, &format!("the parameter `{}`", param.name))).transpose()?;
        Ok((param.name, value))
    };
    said.into_iter().map(param).collect()
}

fn patch(said: wit::Patch) -> Judged {
    let header = |change: wit::HeaderChange| {
        let value = change.value.map(|value| match value {
            wit::HeaderValue::Text(text) => Header::Text(text),
            wit::HeaderValue::Secret(name) => Header::Secret(name),
        });
        (change.name, value)
    };
    let messages = said.messages.map(|turns| turns.into_iter().map(turn).collect::<Result<Vec<_>, _>>()).transpose()?;
    let patch = Patch {
        model: said.model,
        params: params(said.params)?,
        headers: said.headers.into_iter().map(header).collect(),
        system: said.system,
        messages,
        texts: said.texts.into_iter().map(|change| (change.index as usize, change.text)).collect(),
        text: said.text,
        body: said.body.map(|body| json(&body, "the body")).transpose()?,
    };
    Ok(if patch.is_empty() { Verdict::Pass } else { Verdict::Patch(Box::new(patch)) })
}

fn turn(said: wit::Turn) -> Result<Turn, String> {
    match said {
        wit::Turn::Keep(0) => Err("messages: turns are counted from 1".to_owned()),
        wit::Turn::Keep(index) => Ok(Turn::Keep(index as usize)),
        wit::Turn::Say(wit::Said { role, text }) if ["user", "assistant", "system"].contains(&role.as_str()) => {
            Ok(Turn::Say { role, text })
        }
        wit::Turn::Say(wit::Said { role, .. }) => {
            Err(format!("messages: `{role}` is no role; write user, assistant or system"))
        }
    }
}

fn plan(said: wit::Plan) -> Judged {
    if said.steps.is_empty() {
        return Err("a plan without steps would ask nobody; pass, or reject".to_owned());
    }
    let step = |step: wit::Step| {
        Ok(Step {
            target: step.target,
            weight: step.weight,
            params: params(step.params)?,
            timeout: step.timeout_ms.map(millis),
            first_token: step.first_token_ms.map(millis),
        })
    };
    Ok(Verdict::Plan(Wish {
        steps: said.steps.into_iter().map(step).collect::<Result<_, String>>()?,
        mode: match said.mode {
            wit::Mode::Ordered => Mode::Ordered,
            wit::Mode::Weighted => Mode::Weighted,
        },
        max_attempts: said.max_attempts.map(|count| count.clamp(1, 1000)),
        deadline: said.deadline_ms.map(millis),
    }))
}

fn respond(said: wit::Respond) -> Judged {
    if !(200..600).contains(&said.status) {
        return Err(format!("respond: {} is no HTTP status from 200 to 599", said.status));
    }
    let body = match said.body {
        wit::ReplyBody::Say(text) => Body::Say(text),
        wit::ReplyBody::Json(text) => Body::Json(json(&text, "respond: the body")?),
        wit::ReplyBody::Raw(text) => Body::Raw(text),
    };
    Ok(Verdict::Respond(Respond { status: said.status, body, headers: fields(said.headers) }))
}

fn reject(said: wit::Reject) -> Judged {
    if said.status.is_some_and(|status| !(400..600).contains(&status)) {
        return Err("reject: status is from 400 to 599".to_owned());
    }
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if said.code.is_empty() || said.code.len() > 64 || !said.code.chars().all(word) {
        return Err("reject: write the code as one word of letters, digits, `_`, `-` and `.`".to_owned());
    }
    Ok(Verdict::Reject(Reject {
        code: said.code,
        message: said.message,
        status: said.status,
        retry_after: said.retry_after_ms.map(millis),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_is_refused() {
        let said = |status, code: &str| wit::Reject {
            code: code.into(),
            message: String::new(),
            status,
            retry_after_ms: None,
        };
        assert!(reject(said(Some(200), "no")).is_err());
        assert!(reject(said(None, "two words")).is_err());
        assert!(reject(said(Some(429), "slow_down")).is_ok());
        let plan = wit::Plan { steps: Vec::new(), mode: wit::Mode::Ordered, max_attempts: None, deadline_ms: None };
        assert!(super::plan(plan).expect_err("nobody").contains("without steps"));
        assert!(turn(wit::Turn::Keep(0)).is_err());
        assert!(turn(wit::Turn::Say(wit::Said { role: "tool".into(), text: String::new() })).is_err());
        assert!(done(vec![wit::LogField { name: "a".into(), value: "{".into() }]).is_err());
    }
}
