//! What a component decided, as the hooks take verdicts.
//!
//! Conversion only: what a verdict may hold is checked where it is made, in `guest::verdict`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::super::bindings::decision as wit;
use super::super::bindings::exchange::Field;
use crate::guest::verdict::{Body, Header, Mode, Patch, Reject, Respond, Step, Stop, Turn, Verdict, Who, Wish, span};

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
        wit::FaultVerdict::Same(ms) => Ok(Verdict::Same(span("same", f64::from(ms))?)),
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

fn millis(name: &str, ms: Option<u32>) -> Result<Option<Duration>, String> {
    ms.map(|ms| span(name, f64::from(ms))).transpose()
}

fn json(text: &str, what: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{what} is not JSON: {error}"))
}

fn principal(said: wit::Principal) -> Judged {
    // In the contract of components an empty list says nothing.
    let models = Some(said.models).filter(|models| !models.is_empty());
    Who::new(said.key, said.project, models, fields(said.metadata)).map(Verdict::Principal)
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
        (change.name.to_ascii_lowercase(), value)
    };
    let messages = said.messages.map(|turns| turns.into_iter().map(turn).collect::<Result<Vec<_>, _>>());
    let messages = messages.transpose()?.map(Turn::all).transpose()?;
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
        wit::Turn::Keep(index) => Turn::keep(Some(index as usize)),
        wit::Turn::Say(wit::Said { role, text }) => Turn::say(role, text),
    }
}

fn plan(said: wit::Plan) -> Judged {
    let step = |step: wit::Step| {
        Ok(Step {
            target: step.target,
            weight: step.weight,
            params: params(step.params)?,
            timeout: millis("timeout-ms", step.timeout_ms)?,
            first_token: millis("first-token-ms", step.first_token_ms)?,
        })
    };
    let steps = said.steps.into_iter().map(step).collect::<Result<_, String>>()?;
    let mode = match said.mode {
        wit::Mode::Ordered => Mode::Ordered,
        wit::Mode::Weighted => Mode::Weighted,
    };
    let deadline = millis("deadline-ms", said.deadline_ms)?;
    Wish::new(steps, mode, said.max_attempts.map(f64::from), deadline).map(Verdict::Plan)
}

fn respond(said: wit::Respond) -> Judged {
    let body = match said.body {
        wit::ReplyBody::Say(text) => Body::Say(text),
        wit::ReplyBody::Json(text) => Body::Json(json(&text, "respond: the body")?),
        wit::ReplyBody::Raw(text) => Body::Raw(text),
    };
    Respond::new(f64::from(said.status), body, fields(said.headers)).map(Verdict::Respond)
}

fn reject(said: wit::Reject) -> Judged {
    let retry_after = millis("retry-after-ms", said.retry_after_ms)?;
    Reject::new(said.code, said.message, said.status.map(f64::from), retry_after).map(Verdict::Reject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_json_is_checked_and_rules_hold_here_too() {
        assert!(done(vec![wit::LogField { name: "a".into(), value: "{".into() }]).is_err());
        let said = wit::Reject { code: "two words".into(), message: String::new(), status: None, retry_after_ms: None };
        assert!(reject(said).is_err());
        let weeks = fault(wit::FaultVerdict::Same(4_000_000_000)).expect_err("weeks");
        assert_eq!(weeks, "same: 4000000000 is more than a day; write 86400000 at most");
    }
}
