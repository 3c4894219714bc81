//! What verdicts do: patched asks, tries and answers, plans by names, answers and refusals.
//!
//! Each function makes the whole change or none of it. What cannot be done is the guest's failure, not the caller's.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{Hook, inputs};
use crate::chat::{self, Answer, Block, Choice, Finish, Message, Role};
use crate::dialect::{self, Dialect, Encoding, Op, Quirks};
use crate::exchange::{Exchange, Subject};
use crate::fault::{Fault, Kind, Own};
use crate::guest::verdict::{Body, Header, Mode, Patch, Reject, Respond, Step, Turn, Wish};
use crate::guest::view;
use crate::host::pick;
use crate::json::{self, Envelope};
use crate::pipeline::{self, Call, Cx};
use crate::reply::{Content, Reply};
use crate::route::{Overrides, Plan, Target};
use crate::stream;

/// Fields in which dialects hold the conversation; the rest of a body stays byte for byte when a turn is edited.
const CONVERSATION: &[&str] = &[
    "messages",
    "system",
    "input",
    "instructions",
    "contents",
    "systemInstruction",
    "system_instruction",
    "prompt",
    "suffix",
    "prediction",
    "documents",
];

/// A refusal in a guest's own words.
pub(super) fn rejected(reject: Reject, kind: Kind, hook: &Hook) -> Fault {
    let mut fault = Fault::new(kind, reject.message).because(format!("by the policy {}", hook.guest.name));
    fault.retry_after = reject.retry_after;
    fault.own = Some(Box::new(Own { code: reject.code, status: reject.status }));
    fault
}

/// Why a verdict comes to nothing.
pub(super) enum Undone {
    /// It asks for what cannot be done: the guest's failure.
    Wrong(String),
    /// The ask itself cannot be read.
    Fault(Box<Fault>),
}

impl From<Fault> for Undone {
    fn from(fault: Fault) -> Self {
        Undone::Fault(Box::new(fault))
    }
}

fn wrong(why: impl Into<String>) -> Undone {
    Undone::Wrong(why.into())
}

/// The ask with a patch in it.
///
/// # Errors
/// It cannot be done; the ask stays as it was.
pub(super) fn to_call(cx: &Cx, x: &mut Exchange, call: &Arc<Call>, patch: Patch) -> Result<Call, Undone> {
    if let Some(model) = &patch.model {
        cx.generation.tree(model).map_err(|fault| wrong(fault.message))?;
    }
    let mut envelope = call.envelope.clone();
    if patch.edits_text() {
        converse(&x.split().0, call, &patch, &mut envelope)?;
    }
    for (name, value) in &patch.params {
        if value.is_none() {
            envelope.remove(name);
        }
    }
    for (name, value) in &patch.params {
        if let Some(value) = value {
            envelope.set(name, json::written(value));
        }
    }
    let edited = !patch.params.is_empty() || patch.edits_text();
    // Read anew: later stages and guests must see what was changed, and an envelope shows its body as it came.
    let envelope = if edited { Envelope::read(envelope.pieces().concat().into())? } else { envelope };
    if let Some(model) = patch.model {
        let before = std::mem::replace(&mut x.model, model);
        x.asked_model.get_or_insert(before);
    }
    Ok(call.with(envelope))
}

/// Puts the patched conversation in place of the one in the body.
fn converse(x: &Subject<'_>, call: &Call, patch: &Patch, envelope: &mut Envelope) -> Result<(), Undone> {
    if matches!(x.op, Op::Embed | Op::EmbedBatch | Op::Rerank) {
        if patch.system.is_some() || patch.messages.is_some() {
            let why = format!("an ask of `{}` has neither `system` nor `messages`; patch its `texts`", x.op.as_str());
            return Err(wrong(why));
        }
        return inputs::replace(envelope, &patch.texts).map_err(wrong);
    }
    let mut ask = chat::Ask::clone(&*call.ask(x.dialect, x.op)?);
    edit(&mut ask, patch)?;
    let mut to = Encoding::new(x.model, &Quirks::NONE);
    let encoded = x.dialect.encode_ask(&ask, &mut to).map_err(|fault| wrong(fault.message))?;
    let encoded = Envelope::read(Bytes::from(encoded))?;
    for name in CONVERSATION {
        match encoded.raw(name) {
            Some(value) => envelope.set(name, Bytes::copy_from_slice(value)),
            None => envelope.remove(name),
        }
    }
    Ok(())
}

/// The ask with the conversation of one try in it; whatever else the patch says is the target's.
///
/// # Errors
/// It cannot be done.
pub(super) fn to_try(x: &Subject<'_>, call: &Call, patch: &Patch) -> Result<Call, Undone> {
    let mut envelope = call.envelope.clone();
    converse(x, call, patch, &mut envelope)?;
    Ok(call.with(Envelope::read(envelope.pieces().concat().into())?))
}

fn edit(ask: &mut chat::Ask, patch: &Patch) -> Result<(), Undone> {
    if !patch.texts.is_empty() {
        let mut replacing = view::Replacing::with(&patch.texts);
        view::texts(ask, |spot, text| replacing.at(spot, text));
        replacing.end("the conversation").map_err(wrong)?;
    }
    if let Some(system) = &patch.system {
        ask.system = if system.is_empty() { Vec::new() } else { vec![Block::text(system.as_str())] };
    }
    if let Some(turns) = &patch.messages {
        // Those before all others are the system prompt in every dialect; only some have such turns further on.
        let first = turns.iter().take_while(|turn| turn.is_system()).count();
        let (system, turns) = turns.split_at(first);
        ask.system.extend(system.iter().filter_map(Turn::text).map(Block::text));
        let old = std::mem::take(&mut ask.messages);
        for turn in turns {
            ask.messages.push(match turn {
                Turn::Keep(index) => old
                    .get(index - 1)
                    .cloned()
                    .ok_or_else(|| wrong(format!("messages: the conversation has {} turns, not {index}", old.len())))?,
                Turn::Say { role, text } => {
                    let role = match role.as_str() {
                        "assistant" => Role::Assistant,
                        "system" => Role::System,
                        _ => Role::User,
                    };
                    Message::new(role, vec![Block::text(text.as_str())])
                }
            });
        }
    }
    Ok(())
}

/// A target with a patch of one try in it.
pub(super) fn to_target(target: &Arc<Target>, patch: &Patch) -> Arc<Target> {
    if patch.model.is_none() && patch.params.is_empty() {
        return target.clone();
    }
    // Another model has another price, which is not looked up here: unknown, rather than wrong.
    let card = target.card.clone().filter(|_| patch.model.as_ref().is_none_or(|model| *model == target.model));
    let model = patch.model.clone().unwrap_or_else(|| target.model.clone());
    let overrides = target.overrides.with(&overrides(&patch.params));
    Arc::new(Target::new(target.provider.clone(), model, overrides, target.timeouts, card))
}

fn overrides(params: &std::collections::BTreeMap<String, Option<Value>>) -> Overrides {
    let mut overrides = Overrides::default();
    for (name, value) in params {
        match value {
            Some(value) => drop(overrides.set.insert(name.clone(), value.clone())),
            None => overrides.drop.push(name.clone()),
        }
    }
    overrides
}

/// A header to set, or with None to take out.
pub type Set = (HeaderName, Option<HeaderValue>);

/// The headers of a patch of one try.
///
/// # Errors
/// One of them cannot be sent.
pub(super) fn headers(patch: &Patch, hook: &Hook) -> Result<Vec<Set>, Undone> {
    let set = patch.headers.iter().map(|(name, value)| {
        let known = header_name(name)?;
        if !super::stages::may_answer_with(known.as_str()) || known == http::header::HOST {
            return Err(wrong(format!("the header `{known}` is the gateway's")));
        }
        let text = match value {
            None => return Ok((known, None)),
            Some(Header::Text(text)) => text.as_str(),
            Some(Header::Secret(secret)) => {
                let granted = hook.guest.grants.secrets.get(secret);
                granted.map(|secret| secret.0.as_str()).ok_or_else(|| {
                    wrong(format!("the header `{known}` is to hold the secret `{secret}`, which is not granted"))
                })?
            }
        };
        let mut value = HeaderValue::from_str(text).map_err(|_| unholdable(&known))?;
        value.set_sensitive(matches!(patch.headers.get(name), Some(Some(Header::Secret(_)))));
        Ok((known, Some(value)))
    });
    set.collect()
}

fn header_name(name: &str) -> Result<HeaderName, Undone> {
    let shown: String = name.chars().take(100).collect();
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong(format!("`{shown}` is no name of a header")))
}

fn unholdable(name: &HeaderName) -> Undone {
    wrong(format!("the header `{name}` cannot hold that; write one line of text"))
}

/// Why a plan by names comes to nothing.
pub(super) enum Unplanned {
    /// A name that is not there: the guest's failure.
    Unknown(String),
    /// Nothing is left of any of its models for this request now.
    Nobody(Box<Fault>),
}

/// Makes a plan one by names. A target of the native plan is taken as it is there, every other name is planned for like one
/// that a caller asks for.
///
/// # Errors
/// See [`Unplanned`]; the plan stays as it was.
pub(super) fn plan(cx: &Cx, x: &Subject<'_>, call: &Call, native: &mut Plan, wish: &Wish) -> Result<(), Unplanned> {
    let mut steps: Vec<&Step> = wish.steps.iter().collect();
    if wish.mode == Mode::Weighted {
        weigh(&mut steps, x.id);
    }
    let mut targets: Vec<Arc<Target>> = Vec::with_capacity(steps.len());
    let mut nobody = None;
    for step in steps {
        let found = native.targets.iter().find(|target| is_named(target, &step.target));
        let found = match found {
            Some(target) => vec![target.clone()],
            None => match pipeline::elsewhere(cx, x, call, &step.target) {
                Ok(plan) => plan.targets,
                Err(fault) if matches!(fault.kind, Kind::NoTarget | Kind::NoTargetFits) => {
                    nobody = Some(Box::new(fault));
                    continue;
                }
                Err(fault) => return Err(Unplanned::Unknown(fault.message)),
            },
        };
        targets.extend(found.into_iter().map(|target| stepped(target, step, wish)));
    }
    if let Some(fault) = nobody.filter(|_| targets.is_empty()) {
        return Err(Unplanned::Nobody(fault));
    }
    native.targets = targets;
    if let Some(max) = wish.max_attempts {
        Arc::make_mut(&mut native.rules).retry.max_attempts = max;
    }
    Ok(())
}

/// Whether a target is called so, without making its name.
fn is_named(target: &Target, name: &str) -> bool {
    let rest = name.strip_prefix(target.provider.name.as_str()).and_then(|rest| rest.strip_prefix('/'));
    rest == Some(target.model.as_str())
}

/// The first by weight, the rest in order of weight.
fn weigh(steps: &mut Vec<&Step>, id: &str) {
    let weights: Vec<(String, f64)> =
        steps.iter().enumerate().map(|(at, step)| (at.to_string(), step.weight.unwrap_or(1.0))).collect();
    // Steps of a verdict have no weight that is refused.
    let first = pick::weighted(&weights, pick::point(id.as_bytes())).ok().flatten();
    let first = first.and_then(|at| at.parse::<usize>().ok());
    let first = first.map(|at| steps.remove(at));
    steps.sort_by(|a, b| b.weight.unwrap_or(1.0).total_cmp(&a.weight.unwrap_or(1.0)));
    if let Some(first) = first {
        steps.insert(0, first);
    }
}

fn stepped(target: Arc<Target>, step: &Step, wish: &Wish) -> Arc<Target> {
    if step.params.is_empty() && step.timeout.is_none() && step.first_token.is_none() && wish.deadline.is_none() {
        return target;
    }
    let mut timeouts = target.timeouts;
    timeouts.attempt = step.timeout.unwrap_or(timeouts.attempt);
    timeouts.first_token = step.first_token.unwrap_or(timeouts.first_token);
    timeouts.total = wish.deadline.map_or(timeouts.total, |deadline| deadline.min(timeouts.total));
    let overrides = target.overrides.with(&overrides(&step.params));
    Arc::new(Target::new(target.provider.clone(), target.model.clone(), overrides, timeouts, target.card.clone()))
}

/// An answer in the own words of the guest at this place. A stream passes `on_event` of the others.
///
/// # Errors
/// It cannot be written in the caller's dialect, or another guest refused it.
pub(super) async fn respond(
    cx: &Cx,
    x: &Subject<'_>,
    call: &Arc<Call>,
    respond: Respond,
    by: usize,
) -> Result<Reply, Undone> {
    let status = StatusCode::from_u16(respond.status).unwrap_or(StatusCode::OK);
    if matches!(respond.body, Body::Say(_)) {
        has_no_type(respond.headers.keys())?;
    }
    let mut reply = match respond.body {
        Body::Say(text) => say(cx, x, call, text, by).await?,
        Body::Json(value) => Reply::json(status, value.to_string()),
        Body::Raw(text) => written(status, text),
    };
    if !reply.is_stream() {
        reply.status = status;
    }
    for (name, value) in &respond.headers {
        set_header(&mut reply.headers, name, Some(value))?;
    }
    Ok(reply)
}

/// An answer of this text, which says itself whether it is JSON.
fn written(status: StatusCode, text: String) -> Reply {
    let is_json = serde_json::from_str::<IgnoredAny>(&text).is_ok();
    let mut reply = Reply::json(status, text);
    if !is_json {
        reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    reply
}

/// Whether headers leave open what an answer is, which is said by who writes it.
fn has_no_type<'a>(mut names: impl Iterator<Item = &'a String>) -> Result<(), Undone> {
    match names.any(|name| name.eq_ignore_ascii_case(CONTENT_TYPE.as_str())) {
        true => Err(wrong(format!("the header `{CONTENT_TYPE}` is the gateway's"))),
        false => Ok(()),
    }
}

fn set_header(headers: &mut HeaderMap, name: &str, value: Option<&str>) -> Result<(), Undone> {
    let name = header_name(name)?;
    if !super::stages::may_answer_with(name.as_str()) {
        return Err(wrong(format!("the header `{name}` is the gateway's")));
    }
    match value {
        Some(value) => {
            let value = HeaderValue::from_str(value).map_err(|_| unholdable(&name))?;
            headers.insert(name, value);
        }
        None => drop(headers.remove(name)),
    }
    Ok(())
}

/// An answer that says this, in the caller's dialect, as a stream where one was asked for.
async fn say(cx: &Cx, x: &Subject<'_>, call: &Arc<Call>, text: String, by: usize) -> Result<Reply, Undone> {
    if !matches!(x.op, Op::Generate | Op::Complete) {
        return Err(wrong(format!("an ask of `{}` wants no words; answer it by gw.respond", x.op.as_str())));
    }
    let ask = call.ask(x.dialect, x.op)?;
    let asked = x.asked(ask);
    let choice = Choice { blocks: vec![Block::text(text)], finish: Some(Finish::Stop), ..Choice::default() };
    let answer = Answer { id: x.id.to_owned(), model: x.model.to_owned(), choices: vec![choice], ..Answer::default() };
    if !call.stream {
        return Ok(Reply::json(StatusCode::OK, x.dialect.encode_answer(&answer, &asked)));
    }
    let said = stream::Said {
        dialect: x.dialect,
        request_id: x.request_id.to_owned(),
        limit: cx.generation.limits.body_timeout,
        filter: super::stages::events_of(x, Some(by)),
    };
    let mut relay = stream::said(&answer, &asked, call.framing, said);
    relay.commit().await?;
    Ok(Reply::stream(relay, call.framing == stream::Framing::Sse))
}

/// Reads an answer of the dialect with this name.
pub(super) fn decode_answer(dialect: &str, body: &[u8]) -> Option<Answer> {
    dialect::find(dialect)?.decode_answer(body).ok()
}

/// An answer with a patch in it: a whole one, or the head of a stream.
///
/// # Errors
/// It cannot be done; the answer stays as it was.
pub(super) fn to_reply(x: &Subject<'_>, call: &Arc<Call>, reply: &mut Reply, patch: Patch) -> Result<(), Undone> {
    if reply.is_stream() && (patch.body.is_some() || patch.edits_text()) {
        return Err(wrong("of a stream only headers can be changed in on_answer; its text is edited in on_event"));
    }
    let body = match (&patch.body, patch.edits_text()) {
        (Some(body), _) => Some(body.to_string().into()),
        (None, true) => Some(edited(x, call, &reply.bytes(), &patch)?),
        (None, false) => None,
    };
    if !patch.headers.is_empty() {
        has_no_type(patch.headers.keys())?;
        let mut headers = reply.headers.clone();
        for (name, value) in &patch.headers {
            match value {
                None => set_header(&mut headers, name, None)?,
                Some(Header::Text(text)) => set_header(&mut headers, name, Some(text))?,
                Some(Header::Secret(_)) => return Err(wrong("a secret goes upstream only, never to a caller")),
            }
        }
        reply.headers = headers;
    }
    if let Some(body) = body {
        reply.content = Content::Whole(body);
    }
    Ok(())
}

fn edited(x: &Subject<'_>, call: &Arc<Call>, body: &[u8], patch: &Patch) -> Result<Bytes, Undone> {
    let dialect: &dyn Dialect = x.dialect;
    if !matches!(x.op, Op::Generate | Op::Complete) {
        return Err(wrong("this answer holds no conversation"));
    }
    // It was good when it came: a policy before this one has made it something else.
    let unread = |fault: Fault| wrong(format!("the answer cannot be read any more: {}", fault.message));
    let mut answer = dialect.decode_answer(body).map_err(unread)?;
    let mut texts = patch.texts.clone();
    if let Some(text) = &patch.text {
        let mut first = None;
        view::answer_texts(&mut answer, |spot, _| first = first.or((spot.kind == "text").then_some(spot.index)));
        let first = first.ok_or_else(|| wrong("`text`: the answer has none; see answer:texts()"))?;
        texts.insert(first, text.clone());
    }
    let came = answer.clone();
    let mut replacing = view::Replacing::with(&texts);
    view::answer_texts(&mut answer, |spot, text| replacing.at(spot, text));
    replacing.end("the answer").map_err(wrong)?;
    // Probabilities of tokens repeat the text word for word.
    for (choice, came) in answer.choices.iter_mut().zip(came.choices) {
        choice.logprobs.take_if(|_| choice.blocks != came.blocks);
    }
    let ask = call.ask(dialect, x.op)?;
    let asked = x.asked(ask);
    Ok(dialect.encode_answer(&answer, &asked).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In which turns an instruction may stand is each dialect's affair; a system prompt all of them have.
    #[test]
    fn system_turns_before_all_others_are_added_to_the_system_prompt() {
        let say = |role: &str, text: &str| Turn::say(role.into(), text.into()).expect("a role");
        let hi = Message::new(Role::User, vec![Block::text("Hi")]);
        for (system, words) in [(None, ["Old.", "Be brief."]), (Some("New.".to_owned()), ["New.", "Be brief."])] {
            let mut ask =
                chat::Ask { system: vec![Block::text("Old.")], messages: vec![hi.clone()], ..Default::default() };
            let turns = vec![say("system", "Be brief."), Turn::Keep(1), say("system", "Now."), say("user", "Well?")];
            let patch = Patch { system, messages: Some(turns), ..Patch::default() };
            assert!(edit(&mut ask, &patch).is_ok());
            assert_eq!(ask.system, words.map(Block::text));
            let roles: Vec<_> = ask.messages.iter().map(|turn| turn.role).collect();
            assert_eq!(roles, [Role::User, Role::System, Role::User]);
        }
    }
}
