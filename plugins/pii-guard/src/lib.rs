//! Takes personal data and keys out of what callers ask, and out of what models answer.
//!
//! Finds e-mail addresses, telephone numbers, payment cards (by their check digit), IBANs (likewise), IPv4 addresses, and
//! keys of well-known services. Replaces each by its kind in brackets, or refuses the ask. In streams the last bytes are
//! held back, so that nothing slips through between two events; arguments of tools stay JSON. Never logs or counts what it
//! found, only how often.

portcullis_policy::policy!(
    "portcullis:pii-guard/pii-guard",
    "
    package portcullis:pii-guard;
    world pii-guard {
        include portcullis:gateway/policy-base@0.1.0;
        export portcullis:gateway/on-request@0.1.0;
        export portcullis:gateway/on-answer@0.1.0;
        export portcullis:gateway/on-event@0.1.0;
        export portcullis:gateway/on-arguments@0.1.0;
    }
    "
);

mod find;
mod json;

use std::cell::RefCell;

use exports::portcullis::gateway::manifest::{Description, Metric, MetricKind, StreamMode};
use exports::portcullis::gateway::{manifest, on_answer, on_arguments, on_event, on_request};
use portcullis_policy::decision::{AnswerVerdict, EventVerdict, Patch, RequestVerdict, TextChange};
use portcullis_policy::exchange::{Answer, Event, Request, Text};
use portcullis_policy::serde_json::{self, Value};
use portcullis_policy::{ctx, label, metrics, reject};

use find::{Found, Kind};

/// Bytes of a stream that are held back; longer than anything that is looked for.
const HELD_BYTES: usize = 96;

struct Guard;

#[derive(Clone, Default)]
struct Settings {
    kinds: Vec<Kind>,
    reject: bool,
    answers: bool,
}

thread_local!(static SETTINGS: RefCell<Settings> = RefCell::default());

fn settings() -> Settings {
    SETTINGS.with_borrow(Settings::clone)
}

impl manifest::Guest for Guard {
    fn describe() -> Description {
        Description {
            title: "pii-guard".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "Takes personal data and keys out of asks and answers.".into(),
            guard: true,
            stream: StreamMode::Event,
            coalesce: None,
            tick_ms: None,
            metrics: vec![Metric {
                name: "found_total".into(),
                kind: MetricKind::Counter,
                help: "Pieces of personal data found.".into(),
                labels: vec!["kind".into(), "where".into()],
                buckets: Vec::new(),
            }],
            config: r#"{
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "kinds": {
                        "type": "array",
                        "items": { "enum": ["email", "phone", "card", "iban", "ip", "key"] },
                        "default": ["email", "phone", "card", "iban", "key"]
                    },
                    "action": { "enum": ["redact", "reject"], "default": "redact" },
                    "answers": { "type": "boolean", "default": true }
                }
            }"#
            .into(),
        }
    }

    fn init(config: String) -> Result<(), String> {
        let config: Value = serde_json::from_str(&config).map_err(|error| error.to_string())?;
        let kinds = config["kinds"].as_array().into_iter().flatten().filter_map(Value::as_str).filter_map(Kind::named);
        SETTINGS.set(Settings {
            kinds: kinds.collect(),
            reject: config["action"] == "reject",
            answers: config["answers"] != false,
        });
        Ok(())
    }
}

/// The text without what was found in it; None when there was nothing.
fn clean(text: &str, kinds: &[Kind], place: &str) -> Option<String> {
    let found = find::all(text, kinds);
    if found.is_empty() {
        return None;
    }
    count(&found, place);
    Some(redacted(text, &found, |_| false))
}

/// `bare`: what stands in no text of its own, and becomes one.
fn redacted(text: &str, found: &[Found], bare: impl Fn(&Found) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for each in found {
        out.push_str(&text[from..each.first]);
        let quote = if bare(each) { "\"" } else { "" };
        for part in [quote, "[", each.kind.name(), "]", quote] {
            out.push_str(part);
        }
        from = each.end;
    }
    out.push_str(&text[from..]);
    out
}

fn count(found: &[Found], place: &str) {
    for kind in Kind::ALL {
        let times = found.iter().filter(|found| found.kind == kind).count();
        if times > 0 {
            // A count that cannot be made is no reason to let anything through.
            let _ = metrics::count("found_total", times as f64, &[label("kind", kind.name()), label("where", place)]);
        }
    }
}

fn changes(texts: &[Text], kinds: &[Kind], place: &str) -> Vec<TextChange> {
    let changed = |text: &Text| Some(TextChange { index: text.index, text: clean(&text.text, kinds, place)? });
    texts.iter().filter_map(changed).collect()
}

fn patch(texts: Vec<TextChange>) -> Patch {
    Patch { texts, ..Patch::default() }
}

impl on_request::Guest for Guard {
    fn handle(ask: Request) -> Result<RequestVerdict, String> {
        let settings = settings();
        if ask.facts().op != "chat" {
            return Ok(RequestVerdict::Pass);
        }
        let texts = changes(&ask.texts()?, &settings.kinds, "ask");
        Ok(match (texts.is_empty(), settings.reject) {
            (true, _) => RequestVerdict::Pass,
            (false, true) => {
                let message = "The request holds personal data or keys; take them out and send it again.";
                RequestVerdict::Reject(reject("personal_data", message, 400))
            }
            (false, false) => RequestVerdict::Patch(patch(texts)),
        })
    }
}

impl on_answer::Guest for Guard {
    fn handle(_: Request, given: Answer) -> Result<AnswerVerdict, String> {
        let settings = settings();
        if !settings.answers {
            return Ok(AnswerVerdict::Pass);
        }
        let texts = changes(&given.texts(), &settings.kinds, "answer");
        Ok(if texts.is_empty() { AnswerVerdict::Pass } else { AnswerVerdict::Patch(patch(texts)) })
    }
}

impl on_event::Guest for Guard {
    fn handle(next: Event) -> Result<EventVerdict, String> {
        heard(&next, None)
    }
}

impl on_arguments::Guest for Guard {
    fn handle(_: String, next: Event) -> Result<EventVerdict, String> {
        // What a tool of free text is given is no JSON. The end is of the kind that the pieces were of.
        let place = format!("json {} {}", next.choice, next.index);
        let began = match (ctx::get(&place)?, next.kind.as_str()) {
            (Some(ctx::Kept::Number(place)), _) => Some(json::Place::of(place)),
            (_, "arguments") => Some(json::Place::Outside),
            _ => None,
        };
        heard(&next, began.map(|began| (place, began)))
    }
}

/// What goes out of a piece of a stream: with what was held back before, without the end that may go on. `json`: where in
/// JSON it begins, and under which name the next piece finds that.
fn heard(next: &Event, json: Option<(String, json::Place)>) -> Result<EventVerdict, String> {
    let settings = settings();
    if !settings.answers {
        return Ok(EventVerdict::Pass);
    }
    let key = format!("held {} {}", next.choice, next.index);
    let held = match ctx::get(&key)? {
        Some(ctx::Kept::Text(held)) => held,
        _ => String::new(),
    };
    let text = held + &next.text;
    let places = json.as_ref().map(|(_, began)| json::places(&text, *began));
    let mut found = find::all(&text, &settings.kinds);
    if let Some(places) = &places {
        found.iter_mut().for_each(|found| json::widen(found, &text, places));
    }
    let cut = if next.kind == "end" { text.len() } else { cut(&text, &found) };
    let ready: Vec<Found> = found.into_iter().filter(|found| found.end <= cut).collect();
    count(&ready, "answer");
    ctx::set(&key, (cut < text.len()).then(|| ctx::Kept::Text(text[cut..].to_owned())).as_ref())?;
    if let (Some((place, _)), Some(places)) = (json, &places) {
        ctx::set(&place, Some(&ctx::Kept::Number(places[cut].number())))?;
    }
    let bare = |found: &Found| places.as_ref().is_some_and(|places| places[found.first] == json::Place::Outside);
    Ok(EventVerdict::Text(redacted(&text[..cut], &ready, bare)))
}

/// How much of a text may go out: all but the last bytes, and nothing that begins before them and may go on in them.
fn cut(text: &str, found: &[Found]) -> usize {
    let mut cut = text.floor_char_boundary(text.len().saturating_sub(HELD_BYTES));
    if let Some(found) = found.iter().find(|found| found.first < cut && cut < found.end) {
        cut = found.first;
    }
    // A word that is cut in two could be half of what is looked for.
    let bytes = text.as_bytes();
    let start = cut;
    while cut > 0 && !bytes[cut - 1].is_ascii_whitespace() && start - cut < HELD_BYTES {
        cut -= 1;
    }
    text.floor_char_boundary(cut)
}

export!(Guard);
