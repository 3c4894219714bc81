//! What guests are shown: lazy views of the exchange, one table of fields each, the same for every language.
//!
//! Nothing is read or copied before a guest asks for it. A name that is not in the table is an error, an absent value
//! is nil.

mod answer;
pub mod conversation;
mod done;
mod request;
mod tries;
mod turns;
mod words;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::route::Target;

pub use answer::{Answer, Event};
pub use done::Done;
pub use request::{Asked, Head, Request};
pub use tries::{Failure, Try};
pub use turns::{
    ARGUMENTS, Message, Replacing, Spot, Text, answer_texts, message_at, messages, read_texts, replace_in_block, texts,
    texts_of_block,
};

/// A value on its way to a guest.
#[derive(Debug, Clone, PartialEq)]
pub enum Val<'a> {
    Nil,
    Bool(bool),
    Number(f64),
    Text(std::borrow::Cow<'a, str>),
    Json(Value),
}

impl<'a> Val<'a> {
    fn text(text: &'a str) -> Self {
        Val::Text(text.into())
    }

    fn maybe(text: Option<impl Into<std::borrow::Cow<'a, str>>>) -> Self {
        text.map_or(Val::Nil, |text| Val::Text(text.into()))
    }

    fn count(number: Option<u64>) -> Self {
        number.map_or(Val::Nil, |number| Val::Number(number as f64))
    }

    fn ms(span: Duration) -> Self {
        Val::Number(span.as_secs_f64() * 1000.0)
    }
}

/// A field or method of a view: name, Luau type, meaning.
pub type Row = (&'static str, &'static str, &'static str);

/// A view: its name in the types, its fields, and how they are read.
pub trait View: Send + Sync + 'static {
    const NAME: &'static str;
    const DOC: &'static str;
    const FIELDS: &'static [Row];
    const METHODS: &'static [Row];

    /// The value of a field of [`View::FIELDS`]; None for every other name.
    fn get(&self, field: &str) -> Option<Val<'_>>;
}

/// What kind of view one is: its name in the types, its fields and its methods.
#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub fields: &'static [Row],
    pub methods: &'static [Row],
}

impl Kind {
    pub const fn of<T: View>() -> Kind {
        Kind { name: T::NAME, fields: T::FIELDS, methods: T::METHODS }
    }

    pub fn has_method(&self, name: &str) -> bool {
        self.methods.iter().any(|(known, _, _)| *known == name)
    }
}

/// Why an ask has no texts to show, in a guest's ears.
pub fn no_texts(fault: &crate::fault::Fault) -> String {
    format!("the texts of this request cannot be read: {}", fault.message)
}

/// What a guest is called with.
#[derive(Clone)]
pub enum Subject {
    Head(Arc<Head>),
    Request(Arc<Request>),
    Try(Arc<Try>),
    Failure(Arc<Failure>),
    Answer(Arc<Answer>),
    Event(Arc<Event>),
    Done(Arc<Done>),
    Tick,
}

/// Every kind of view, each at its place.
pub static KINDS: [Kind; 7] = [
    Kind::of::<Head>(),
    Kind::of::<Request>(),
    Kind::of::<Try>(),
    Kind::of::<Failure>(),
    Kind::of::<Answer>(),
    Kind::of::<Done>(),
    Kind::of::<Event>(),
];

/// The place of events among the kinds.
pub const EVENT: usize = 6;

impl Subject {
    /// The place of the view among [`KINDS`]; None where there is nothing to see.
    pub fn kind(&self) -> Option<usize> {
        Some(match self {
            Subject::Head(_) => 0,
            Subject::Request(_) => 1,
            Subject::Try(_) => 2,
            Subject::Failure(_) => 3,
            Subject::Answer(_) => 4,
            Subject::Done(_) => 5,
            Subject::Event(_) => EVENT,
            Subject::Tick => return None,
        })
    }

    /// The value of a field of its kind; None for every other name.
    pub fn get(&self, field: &str) -> Option<Val<'_>> {
        match self {
            Subject::Head(view) => view.get(field),
            Subject::Request(view) => view.get(field),
            Subject::Try(view) => view.get(field),
            Subject::Failure(view) => view.get(field),
            Subject::Answer(view) => view.get(field),
            Subject::Event(view) => view.get(field),
            Subject::Done(view) => view.get(field),
            Subject::Tick => None,
        }
    }

    /// What it is about, for the decision trace: names and numbers, never a prompt.
    pub fn brief(&self) -> Value {
        let names = |plan: &[Arc<Target>]| plan.iter().map(|target| target.name()).collect::<Vec<_>>();
        match self {
            Subject::Head(head) => json!({ "path": head.path }),
            Subject::Request(request) if request.plan.is_empty() => json!({ "model": request.call.model() }),
            Subject::Request(request) => json!({ "model": request.call.model(), "plan": names(&request.plan) }),
            Subject::Try(tried) => json!({ "target": tried.target.name(), "number": tried.number }),
            Subject::Failure(failure) => {
                json!({ "error": failure.fault.code(), "target": failure.target.name(), "number": failure.number })
            }
            Subject::Answer(answer) => {
                json!({ "status": answer.status, "target": answer.target.as_ref().map(|target| target.name()) })
            }
            Subject::Event(event) => event.brief(),
            Subject::Done(done) => json!({ "status": done.status, "error": done.code }),
            Subject::Tick => Value::Null,
        }
    }
}
