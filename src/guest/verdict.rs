//! What guests may answer, at which phase, and what it may hold: the same for every language.
//!
//! What can be wrong in itself is made by its `new`, which says what to write instead. The stage that runs hooks applies a
//! verdict after the guest has returned, all of it or nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::host::{Phase, Phases};

pub use crate::host::http::Header;

/// Longest time that a verdict may name.
const MAX_SPAN: Duration = Duration::from_secs(24 * 3600);

/// Most attempts that a plan may ask for.
const MAX_ATTEMPTS: f64 = 1000.0;

/// Longest message of a refusal, in bytes; it may hold texts of the exchange.
const MAX_MESSAGE_BYTES: usize = 4 << 10;

/// Longest word for a refusal, in bytes.
const MAX_CODE_BYTES: usize = 64;

/// Longest name of a model or a target, in bytes: it goes into a header of the answer and the log.
const MAX_NAME_BYTES: usize = 256;

/// Whether a name is within its bound.
fn is_name(what: &str, name: &str) -> Result<(), String> {
    match name.len() {
        ..=MAX_NAME_BYTES => Ok(()),
        bytes => Err(format!("{what}: a name has at most {MAX_NAME_BYTES} bytes, not {bytes}")),
    }
}

/// A time that a verdict names, in milliseconds.
///
/// # Errors
/// It is negative, no number, or longer than a day.
pub fn span(name: &str, ms: f64) -> Result<Duration, String> {
    match Duration::try_from_secs_f64(ms / 1000.0) {
        Ok(span) if span <= MAX_SPAN => Ok(span),
        _ if ms > 0.0 => Err(format!("{name}: {ms} is more than a day; write {} at most", MAX_SPAN.as_millis())),
        _ => Err(format!("{name}: {ms} is no number of milliseconds")),
    }
}

/// A whole number within bounds, as a status is.
fn status(number: f64, from: f64) -> Option<u16> {
    ((from..600.0).contains(&number) && number.fract() == 0.0).then_some(number as u16)
}

/// What a guest decided.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing to say.
    Pass,
    /// Change what is on its way: the ask, the try, the answer.
    Patch(Box<Patch>),
    /// Ask these targets instead.
    Plan(Wish),
    /// Answer now, in the policy's own words.
    Respond(Respond),
    /// Refuse, as an error of the caller's dialect.
    Reject(Reject),
    /// Ask the same target again after a while.
    Same(Duration),
    /// Go on with the plan's next target.
    Next,
    /// Try nothing more; end the stream.
    Stop(Stop),
    /// Treat the answer as a failed try.
    Fault(String),
    /// The text of a stream event, changed; empty drops it.
    Text(String),
    /// Who is calling.
    Principal(Who),
    /// Fields for the log.
    Fields(Map<String, Value>),
}

impl Verdict {
    /// The word in the trace and in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Patch(_) => "patch",
            Verdict::Plan(_) => "plan",
            Verdict::Respond(_) => "respond",
            Verdict::Reject(_) => "reject",
            Verdict::Same(_) => "same",
            Verdict::Next => "next",
            Verdict::Stop(_) => "stop",
            Verdict::Fault(_) => "fault",
            Verdict::Text(_) => "text",
            Verdict::Principal(_) => "principal",
            Verdict::Fields(_) => "fields",
        }
    }

    /// Where this kind of verdict means something.
    pub fn phases(&self) -> Phases {
        use Phase::{Answer, Attempt, Auth, Done, Event, Fault, Request, Route};
        match self {
            Verdict::Pass => Phases::ALL,
            Verdict::Patch(_) => Phases::of(&[Request, Attempt, Answer]),
            Verdict::Plan(_) => Phases::of(&[Route, Fault]),
            Verdict::Respond(_) => Phases::of(&[Request, Route, Fault, Answer]),
            Verdict::Reject(_) => Phases::of(&[Auth, Request, Route, Fault, Answer]),
            Verdict::Same(_) | Verdict::Next => Phases::of(&[Fault]),
            Verdict::Stop(_) => Phases::of(&[Fault, Event]),
            Verdict::Fault(_) => Phases::of(&[Answer]),
            Verdict::Text(_) => Phases::of(&[Event]),
            Verdict::Principal(_) => Phases::of(&[Auth]),
            Verdict::Fields(_) => Phases::of(&[Done]),
        }
    }

    /// Brings what callers are told of it within bounds.
    ///
    /// # Errors
    /// What of it means nothing.
    pub fn sound(&mut self) -> Result<(), String> {
        match self {
            Verdict::Patch(patch) => {
                if patch.model.as_deref() == Some("") {
                    return Err("patch: `model` is empty; leave it out to keep the model".to_owned());
                }
                patch.model.iter().try_for_each(|model| is_name("model", model))?;
                if patch.body.is_some() && patch.edits_text() {
                    return Err("patch: `body` is the whole answer; give that, or `text` and `texts`".to_owned());
                }
                are_params(&patch.params)?;
            }
            Verdict::Reject(reject) => shorten(&mut reject.message),
            Verdict::Stop(stop) => {
                if stop.code.as_deref().is_some_and(|code| !is_word(code)) {
                    return Err(format!("stop: {CODE}"));
                }
                stop.message.as_mut().map(shorten);
            }
            Verdict::Fault(why) => shorten(why),
            _ => {}
        }
        Ok(())
    }
}

/// Whether params hold nothing that the gateway goes by: whom it asks, at which price, and how it reads the answer.
fn are_params(params: &BTreeMap<String, Option<Value>>) -> Result<(), String> {
    match ["model", "stream"].into_iter().find(|name| params.contains_key(*name)) {
        Some(name) => Err(format!("`{name}` is no parameter; patch `model`, and leave `stream` alone")),
        None => Ok(()),
    }
}

/// What a code of a policy's own is.
const CODE: &str = "write the code as one word of letters, digits, `_`, `-` and `.`";

fn is_word(code: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !code.is_empty() && code.len() <= MAX_CODE_BYTES && code.chars().all(letter)
}

/// Cuts a message to its bound.
fn shorten(message: &mut String) {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.push('…');
    }
}

/// A change of an ask, a try or an answer. What is not set stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patch {
    /// Request: the name that is planned for. Attempt: the upstream's name of the model.
    pub model: Option<String>,
    /// Top-level fields of the body by name; None takes one out. Request: in the caller's dialect; attempt: the target's.
    pub params: BTreeMap<String, Option<Value>>,
    /// Attempt: headers of the upstream request. Answer: of the answer. None takes one out.
    pub headers: BTreeMap<String, Option<Header>>,
    /// Request and attempt: instead of the system prompt.
    pub system: Option<String>,
    /// Request and attempt: the turns, all of them.
    pub messages: Option<Vec<Turn>>,
    /// Request, attempt and answer: texts by their number, as `texts()` gives them.
    pub texts: BTreeMap<usize, String>,
    /// Answer: the whole text of its first choice.
    pub text: Option<String>,
    /// Answer: the whole body, in the caller's dialect.
    pub body: Option<Value>,
}

impl Patch {
    pub fn is_empty(&self) -> bool {
        *self == Patch::default()
    }

    /// The fields of a patch that mean something at a phase.
    pub fn fields(phase: Phase) -> &'static [&'static str] {
        match phase {
            Phase::Request => &["model", "params", "system", "messages", "texts"],
            Phase::Attempt => &["model", "params", "headers", "system", "messages", "texts"],
            _ => &["headers", "texts", "text", "body"],
        }
    }

    /// A field that is set and means nothing at this phase.
    pub fn misplaced(&self, phase: Phase) -> Option<&'static str> {
        let set = [
            ("model", self.model.is_some()),
            ("params", !self.params.is_empty()),
            ("headers", !self.headers.is_empty()),
            ("system", self.system.is_some()),
            ("messages", self.messages.is_some()),
            ("texts", !self.texts.is_empty()),
            ("text", self.text.is_some()),
            ("body", self.body.is_some()),
        ];
        let fields = Patch::fields(phase);
        set.into_iter().find(|(name, set)| *set && !fields.contains(name)).map(|(name, _)| name)
    }

    /// Whether conversation or answer must be decoded for it.
    pub fn edits_text(&self) -> bool {
        self.system.is_some() || self.messages.is_some() || !self.texts.is_empty() || self.text.is_some()
    }
}

/// One turn of a conversation as a policy writes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Turn {
    /// The turn of the present ask with this number, counted from 1, as it is.
    Keep(usize),
    Say {
        role: String,
        text: String,
    },
}

impl Turn {
    /// The turn with this number.
    ///
    /// # Errors
    /// There is no such number.
    pub fn keep(index: Option<usize>) -> Result<Self, String> {
        let index = index.filter(|index| *index > 0);
        index.map(Turn::Keep).ok_or_else(|| "messages: turns are counted from 1".to_owned())
    }

    /// The turns of a whole conversation.
    ///
    /// # Errors
    /// There are none, or none that asks anything: providers would take the system prompt for the user's words.
    pub fn all(turns: Vec<Turn>) -> Result<Vec<Turn>, String> {
        let asks = |turn: &Turn| !turn.is_system() && turn.text().is_none_or(|text| !text.trim().is_empty());
        match (turns.is_empty(), turns.iter().any(asks)) {
            (true, _) => {
                Err("messages: a conversation without turns asks nothing; leave `messages` out to keep them".to_owned())
            }
            (_, false) => Err("messages: no turn of the user or the assistant says anything".to_owned()),
            _ => Ok(turns),
        }
    }

    /// Whether the policy gives an instruction here.
    pub fn is_system(&self) -> bool {
        matches!(self, Turn::Say { role, .. } if role == "system")
    }

    /// What the policy says here; None where a turn stays as it is.
    pub fn text(&self) -> Option<&str> {
        match self {
            Turn::Keep(_) => None,
            Turn::Say { text, .. } => Some(text),
        }
    }

    /// # Errors
    /// Nobody has this role.
    pub fn say(role: String, text: String) -> Result<Self, String> {
        match role.as_str() {
            "user" | "assistant" | "system" => Ok(Turn::Say { role, text }),
            _ => Err(format!("messages: `{role}` is no role; write user, assistant or system")),
        }
    }
}

/// A plan by names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wish {
    pub steps: Vec<Step>,
    pub mode: Mode,
    /// Attempts of the exchange, all targets together.
    pub max_attempts: Option<u32>,
    /// When the whole exchange must be over, from its start.
    pub deadline: Option<Duration>,
}

impl Wish {
    /// # Errors
    /// It would ask nobody, or a step of it means nothing.
    pub fn new(
        steps: Vec<Step>,
        mode: Mode,
        max_attempts: Option<f64>,
        deadline: Option<Duration>,
    ) -> Result<Self, String> {
        if steps.is_empty() {
            return Err("a plan without steps would ask nobody; pass, or reject".to_owned());
        }
        steps.iter().try_for_each(Step::check)?;
        if let Some(count) = max_attempts.filter(|count| *count < 1.0 || count.fract() != 0.0) {
            let text = match count {
                ..1.0 => "a plan without attempts would ask nobody; write 1 or more".to_owned(),
                _ => format!("{count} is no whole number"),
            };
            return Err(format!("max_attempts: {text}"));
        }
        some_time("deadline_ms", deadline)?;
        let max_attempts = max_attempts.map(|count| count.clamp(1.0, MAX_ATTEMPTS) as u32);
        Ok(Wish { steps, mode, max_attempts, deadline })
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// One after the other.
    #[default]
    Ordered,
    /// The first by weight, the rest in order of weight.
    Weighted,
}

/// One target of a wish, with what differs for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Step {
    /// `provider/model`, or a configured model, which stands for its plan.
    pub target: String,
    pub weight: Option<f64>,
    /// Parameters set for this target, over its own.
    pub params: BTreeMap<String, Option<Value>>,
    pub timeout: Option<Duration>,
    pub first_token: Option<Duration>,
}

impl Step {
    fn check(&self) -> Result<(), String> {
        is_name("target", &self.target)?;
        if let Some(weight) = self.weight.filter(|weight| !(weight.is_finite() && *weight >= 0.0)) {
            return Err(format!("weight: {weight} is none; write 0, or how much more often than those of 1"));
        }
        some_time("timeout_ms", self.timeout)?;
        some_time("first_token_ms", self.first_token)?;
        are_params(&self.params)
    }
}

/// A time in which something can be done.
fn some_time(name: &str, span: Option<Duration>) -> Result<(), String> {
    match span {
        Some(Duration::ZERO) => Err(format!("{name}: 0 would be over before anybody was asked; write 1 or more")),
        _ => Ok(()),
    }
}

/// An answer in the policy's own words.
#[derive(Debug, Clone, PartialEq)]
pub struct Respond {
    pub status: u16,
    pub body: Body,
    pub headers: BTreeMap<String, String>,
}

impl Respond {
    /// # Errors
    /// The status is none of an answer.
    pub fn new(number: f64, body: Body, headers: BTreeMap<String, String>) -> Result<Self, String> {
        let status = status(number, 200.0);
        let status = status.ok_or_else(|| format!("respond: {number} is no HTTP status from 200 to 599"))?;
        Ok(Respond { status, body, headers })
    }
}

/// What an answer holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// What the model is made to say; written in the caller's dialect, as a stream where one was asked for.
    Say(String),
    /// A body as it stands.
    Json(Value),
    Raw(String),
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The policy's own word for it.
    pub code: String,
    pub message: String,
    pub status: Option<u16>,
    pub retry_after: Option<Duration>,
}

impl Reject {
    /// # Errors
    /// The status is none of a refusal, or the code is no word.
    pub fn new(
        code: String,
        message: String,
        number: Option<f64>,
        retry_after: Option<Duration>,
    ) -> Result<Self, String> {
        let status =
            number.map(|number| status(number, 400.0).ok_or("reject: status is from 400 to 599")).transpose()?;
        if !is_word(&code) {
            return Err(format!("reject: {CODE}"));
        }
        Ok(Reject { code, message, status, retry_after })
    }
}

/// The end of a stream, or of all tries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stop {
    /// Ends with an error that says this; without it, as if the model had stopped by itself.
    pub message: Option<String>,
    pub code: Option<String>,
    /// Last words before a good end.
    pub text: Option<String>,
}

/// Who is calling, as a policy names it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Who {
    pub key: String,
    pub project: Option<String>,
    /// Models it may use; None for all of them.
    pub models: Option<Vec<String>>,
    pub metadata: BTreeMap<String, String>,
}

impl Who {
    /// # Errors
    /// It has no name, or one that is none for a line of a log.
    pub fn new(
        key: String,
        project: Option<String>,
        models: Option<Vec<String>>,
        metadata: BTreeMap<String, String>,
    ) -> Result<Self, String> {
        if key.is_empty() {
            return Err("a caller needs `key`: its name in logs, limits and metrics".to_owned());
        }
        for (what, name) in [("key", Some(&key)), ("project", project.as_ref())] {
            let Some(name) = name else { continue };
            is_name(what, name)?;
            if name.chars().any(char::is_control) {
                return Err(format!("{what}: a name is one line of text, without control characters"));
            }
        }
        Ok(Who { key, project, models, metadata })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_is_refused_and_says_what_to_write() {
        let reject = |status, code: &str| Reject::new(code.into(), String::new(), status, None);
        assert!(reject(Some(200.0), "no").expect_err("no refusal").contains("400 to 599"));
        assert!(reject(Some(429.5), "no").is_err());
        assert!(reject(None, "two words").expect_err("no word").contains("one word"));
        assert!(reject(None, &"x".repeat(65)).is_err());
        assert_eq!(reject(Some(429.0), "slow_down").map(|reject| reject.status), Ok(Some(429)));
        let respond = |status| Respond::new(status, Body::Say(String::new()), BTreeMap::new());
        assert!(respond(99.0).is_err() && respond(f64::NAN).is_err() && respond(700.0).is_err());
        assert_eq!(respond(200.0).map(|respond| respond.status), Ok(200));
        assert!(Wish::new(Vec::new(), Mode::Ordered, None, None).expect_err("nobody").contains("without steps"));
        let wish = Wish::new(vec![Step::default()], Mode::Ordered, Some(1e9), None);
        assert_eq!(wish.map(|wish| wish.max_attempts), Ok(Some(1000)));
        let plan = |step, attempts, ms| {
            let deadline = Some(Duration::from_millis(ms));
            Wish::new(vec![step], Mode::Weighted, Some(attempts), deadline).map(drop)
        };
        let step = Step::default;
        assert_eq!(plan(Step { weight: Some(0.0), ..step() }, 1.0, 1), Ok(()));
        assert!(plan(Step { weight: Some(-1.0), ..step() }, 1.0, 1).expect_err("none").contains("weight: -1"));
        assert!(plan(Step { weight: Some(f64::INFINITY), ..step() }, 1.0, 1).is_err());
        let named = |bytes| Step { target: "x".repeat(bytes), ..step() };
        assert_eq!(plan(named(256), 1.0, 1), Ok(()));
        assert_eq!(plan(named(257), 1.0, 1), Err("target: a name has at most 256 bytes, not 257".to_owned()));
        assert!(plan(step(), 0.0, 1).expect_err("nobody").contains("max_attempts"));
        assert!(plan(step(), 1.0, 0).expect_err("no time").contains("deadline_ms: 0"));
        let late = Step { first_token: Some(Duration::ZERO), ..step() };
        assert!(plan(late, 1.0, 1).expect_err("no time").contains("first_token_ms: 0"));
        let params = |name: &str| BTreeMap::from([(name.to_owned(), Some(Value::Bool(true)))]);
        assert!(plan(Step { params: params("stream"), ..step() }, 1.0, 1).expect_err("none").contains("no parameter"));
        let patch = |name| Verdict::Patch(Box::new(Patch { params: params(name), ..Patch::default() })).sound();
        assert!(patch("model").expect_err("none").contains("`model` is no parameter") && patch("stream").is_err());
        assert!(patch("temperature").is_ok());
        assert!(Turn::keep(Some(0)).is_err() && Turn::keep(None).is_err());
        assert!(Turn::say("tool".into(), String::new()).expect_err("no role").contains("user, assistant or system"));
        assert!(Who::new(String::new(), None, None, BTreeMap::new()).expect_err("nobody").contains("`key`"));
        let who = |key: &str, project: Option<&str>| {
            Who::new(key.into(), project.map(Into::into), None, BTreeMap::new()).map(drop)
        };
        assert_eq!(who(&"k".repeat(256), Some("p")), Ok(()));
        assert_eq!(who(&"k".repeat(257), None), Err("key: a name has at most 256 bytes, not 257".to_owned()));
        assert!(who("a\nb", None).expect_err("two lines").contains("key: a name is one line"));
        assert!(who("k", Some("\u{1b}[2J")).expect_err("no text").contains("project: a name is one line"));
        assert!(span("after_ms", -1.0).is_err() && span("after_ms", f64::NAN).is_err());
        assert!(span("after_ms", 86_400_001.0).expect_err("too long").contains("after_ms"));
        assert_eq!(span("after_ms", 250.0), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn what_callers_are_told_of_a_verdict_is_bounded() {
        let message = "ä".repeat(1 << 20);
        let stop = Stop { message: Some(message.clone()), code: Some("over".into()), text: None };
        let reject = Reject::new("no".into(), message, None, None).expect("is one");
        for mut verdict in [Verdict::Reject(reject), Verdict::Stop(stop.clone())] {
            verdict.sound().expect("is cut");
            let told = match verdict {
                Verdict::Reject(reject) => reject.message,
                Verdict::Stop(stop) => stop.message.expect("is kept"),
                other => panic!("{other:?}"),
            };
            assert_eq!((told.len(), told.ends_with("ä…")), (4096 + 3, true));
        }
        let mut worded = Verdict::Stop(Stop { code: Some("two words".into()), ..stop });
        assert!(worded.sound().expect_err("no word").contains("stop: write the code as one word"));
        let patch = Patch { model: Some(String::new()), ..Patch::default() };
        assert!(Verdict::Patch(Box::new(patch)).sound().expect_err("no model").contains("`model` is empty"));
    }

    #[test]
    fn a_patch_holds_what_its_phase_can_change() {
        let patch = Patch { text: Some(String::new()), ..Patch::default() };
        assert_eq!(
            [Phase::Request, Phase::Attempt, Phase::Answer].map(|phase| patch.misplaced(phase)),
            [Some("text"), Some("text"), None]
        );
        assert_eq!(Patch { model: Some(String::new()), ..Patch::default() }.misplaced(Phase::Answer), Some("model"));
    }

    #[test]
    fn a_conversation_in_which_nobody_asks_anything_is_none() {
        let say = |role: &str, text: &str| Turn::say(role.into(), text.into()).expect("a role");
        assert!(Turn::all(vec![say("system", "Be brief."), Turn::Keep(1)]).is_ok());
        for turns in [vec![], vec![say("user", " ")], vec![say("system", "Be brief."), say("user", "")]] {
            assert!(Turn::all(turns).is_err());
        }
    }
}
