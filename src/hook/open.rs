//! What an exchange with guests carries along, what its guests are told of it, and what is asked about them.
//!
//! Calls no guest: that is [`super::stages`]' affair.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};

use super::world::World as Gate;
use super::{Hook, Hooks, Names};
use crate::exchange::Exchange;
use crate::guest::view;
use crate::host::visit::Facts;
use crate::host::{Phase, Phases, Visit, World};
use crate::pipeline::{Cx, SESSION};

/// What an exchange with guests carries along.
#[derive(Clone)]
pub struct Open {
    pub visit: Arc<Visit>,
    pub hooks: Arc<Hooks>,
    /// Those in which guests are called.
    pub(super) phases: Phases,
    pub(super) world: Arc<dyn World>,
    /// The ask as guests were last shown it.
    pub(super) request: Option<Arc<view::Request>>,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("visit", &self.visit.id).finish_non_exhaustive()
    }
}

impl Open {
    /// Opens an exchange for guests; None when none of them listens to anything of it. `depth` counts the asks of guests it
    /// stands inside of; `asked`: the caller wants the decision trace, which may turn out not to be for it.
    pub fn begin(cx: &Cx, x: &Exchange, depth: u8, asked: bool) -> Option<Box<Open>> {
        let hooks = &cx.generation.hooks;
        if !hooks.phases.has_any(Phases::EXCHANGE) {
            return None;
        }
        let facts = Facts {
            id: x.id.clone(),
            request_id: x.request_id.clone(),
            endpoint: x.endpoint,
            dialect: x.dialect.name(),
            op: x.op.as_str(),
            peer: x.peer,
            started: x.started,
            started_ms: x.started_ms,
            generation: x.generation,
            depth,
            traced: asked || x.trace.is_some(),
            total: cx.generation.total,
        };
        Some(Box::new(Open {
            visit: Arc::new(Visit::new(facts)),
            hooks: hooks.clone(),
            phases: hooks.phases,
            world: Arc::new(Gate::new(cx.clone())),
            request: None,
        }))
    }

    /// The same for tries that go on behind the exchange, whose answers are no answers of it: guests see what is sent, and
    /// nothing else.
    pub fn behind(&self) -> Open {
        Open { phases: self.phases.only(Phase::Attempt), ..self.clone() }
    }

    pub(super) fn wanting<'a>(&'a self, phase: Phase, model: Names<'a>) -> impl Iterator<Item = &'a Hook> {
        self.wanting_at(phase, model).map(|(_, hook)| hook)
    }

    /// The same with their places among the hooks.
    pub(super) fn wanting_at<'a>(&'a self, phase: Phase, model: Names<'a>) -> impl Iterator<Item = (usize, &'a Hook)> {
        self.hooks.all().iter().enumerate().filter(move |(_, hook)| hook.wants(phase, &self.visit, model))
    }
}

/// The exchange's guests, where any of them listens at the phase.
pub(super) fn open(x: &Exchange, phase: Phase) -> Option<&Open> {
    x.guests.as_deref().filter(|open| open.phases.has(phase))
}

/// Moves what guests noted into the trace, each to its moment.
pub fn take_notes(x: &mut Exchange) {
    let (Some(trace), Some(open)) = (&mut x.trace, &x.guests) else { return };
    for note in open.visit.take_notes() {
        trace.note(note.at, "hook", serde_json::json!({ "guest": &*note.guest, "note": note.what }));
    }
    trace.steps.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
}

/// Whether it is a guest that asks, inside of another exchange.
pub fn is_of_guest(x: &Exchange) -> bool {
    x.guests.as_ref().is_some_and(|open| open.visit.depth > 0)
}

/// Tells guests what the request says of the conversation that it belongs to.
pub fn converse(x: &Exchange, headers: &HeaderMap) {
    /// Read once: to look a header up by its text reads that each time.
    static NAME: HeaderName = HeaderName::from_static(SESSION);
    let of_header = || headers.get(&NAME)?.to_str().ok().filter(|session| !session.is_empty());
    let session = x.wishes.as_ref().and_then(|wishes| wishes.session.as_deref()).or_else(of_header);
    if let (Some(open), Some(session)) = (&x.guests, session) {
        open.visit.converse(session);
    }
}

/// Opens an exchange whose model is known by now, where that was waited for and guests are attached to it.
pub fn open_for_model(cx: &Cx, x: &mut Exchange) {
    let hooks = &cx.generation.hooks;
    if x.guests.is_none() && hooks.all().iter().any(|hook| hook.matcher.fits(x.principal.as_ref(), x.names())) {
        x.guests = Open::begin(cx, x, 0, x.trace.is_some());
        identify(x);
    }
}

/// Tells guests who is calling.
pub fn identify(x: &Exchange) {
    if let (Some(open), Some(principal)) = (&x.guests, &x.principal) {
        open.visit.identify(principal.clone());
    }
}

/// Tells guests how long the exchange may take: no longer than its caller waits.
pub(super) fn allow(x: &Exchange, total: Option<Duration>) {
    let total = [total, x.patience].into_iter().flatten().min();
    if let (Some(open), Some(total)) = (&x.guests, total) {
        open.visit.allow(total);
    }
}

/// Whether a guest that is in force looks at this exchange's answer.
pub fn sees_answers(x: &Exchange) -> bool {
    has_a_word(x, &[Phase::Answer, Phase::Event])
}

/// Whether a guest that is in force looks at answers of a model with one of these names, wherever they are kept. Which
/// share of the exchanges it was is not known of those any more, so that every share counts.
pub fn guards_answers(x: &Exchange, models: &[&str]) -> bool {
    let Some(open) = &x.guests else { return false };
    let looks = |hook: &Hook| hook.phases().has(Phase::Answer) || hook.phases().has(Phase::Event);
    let fits = |hook: &Hook| {
        models.iter().any(|model| hook.matcher.fits(open.visit.principal(), Names { called: model, placed: None }))
    };
    open.hooks.all().iter().any(|hook| !hook.shadow && looks(hook) && fits(hook))
}

/// Whether a guest may have a word in who answers this exchange, or in what they are asked.
pub fn steers(x: &Exchange) -> bool {
    has_a_word(x, &[Phase::Route, Phase::Attempt, Phase::Fault])
}

/// Whether a guest that is yet to be called may name targets, or a model that has others.
pub fn may_name_targets(x: &Exchange) -> bool {
    has_a_word(x, &[Phase::Request, Phase::Route, Phase::Fault])
}

/// Whether a guest may have a word where nobody answers.
pub fn hears_of_faults(x: &Exchange) -> bool {
    has_a_word(x, &[Phase::Fault])
}

/// Whether a guest that is in force is called in one of these phases. One in shadow has no word in anything, so that nothing
/// may be otherwise because of it.
fn has_a_word(x: &Exchange, phases: &[Phase]) -> bool {
    let speaks = |phase| open(x, phase).is_some_and(|open| open.wanting(phase, x.names()).any(|hook| !hook.shadow));
    phases.iter().any(|phase| speaks(*phase))
}
