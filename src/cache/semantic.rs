//! The semantic cache: an answer to an ask that means about the same, where the operator wants that.
//!
//! Only the text of the last messages is compared. Everything else of the ask (tools, parameters, media, earlier
//! messages, headers, what the model's name leads to) must be the same word for word, and so must numbers, names and
//! negations inside the text. Never crosses a partition.

use std::sync::Arc;

use super::embedder::{Embedder, MAX_TEXT_BYTES};
use super::visit::{Status, Visit};
use super::{Given, canon, guard};
use crate::chat::{Ask, Content, Role};
use crate::dialect::Op;
use crate::exchange::Exchange;
use crate::pipeline::{Asker, Call, Cx, unix_ms};
use crate::state::cache::index::{Guard, Point, Vectors};
use crate::state::cache::{Entry, Key};

/// How asks are compared.
#[derive(Debug)]
pub struct Semantic {
    pub embedder: Embedder,
    /// Least likeness (cosine) of a hit.
    pub threshold: f32,
    /// Messages at the end of the conversation that are compared.
    pub messages: usize,
    /// The system prompt must be the same.
    pub system: bool,
    /// The model must be the same.
    pub same_model: bool,
    /// Numbers, names and negations must be the same.
    pub guard: bool,
}

/// What an ask is found by later, once its answer is kept.
#[derive(Debug)]
pub struct Sought {
    scope: Key,
    vector: Box<[f32]>,
    guard: Guard,
}

/// An answer to an ask that means about the same. Notes in the visit by what this ask is to be found.
pub(super) async fn look(cx: &Cx, x: &mut Exchange, call: &Call) -> Option<(Arc<Entry>, Given)> {
    let visit = x.cache.as_ref().filter(|visit| visit.status == Status::Miss)?;
    let semantic = visit.policy.semantic.clone()?;
    let common = visit.frame?;
    let asker = Asker { principal: x.principal.clone()?, peer: x.peer };
    if x.op != Op::Generate {
        return None;
    }
    let ask = call.ask(x.dialect, x.op).ok()?;
    let (text, frame) = compared(&ask, &semantic)?;
    let (scope, max_age) = (scope(visit, common, &frame, &semantic), visit.max_age);
    let vector = semantic.embedder.embed(cx, asker, &text).await?;
    let guard = if semantic.guard { guard::of(&text) } else { Guard::default() };
    let now = unix_ms();
    let found = cx.state.cache.vectors.nearest(scope, &vector, &guard, semantic.threshold, now);
    let visit = x.cache.as_mut()?;
    visit.sought = Some(Sought { scope, vector, guard });
    let (key, likeness) = found?;
    let (entry, given) = super::fit(cx, x, call, (max_age, cx.state.cache.find(key, now)), now)?;
    let visit = x.cache.as_mut()?;
    visit.hit(Status::SemanticHit, &entry, now);
    x.seen.finish = entry.finish;
    x.note("cache", || serde_json::json!({"status": "semantic-hit", "likeness": likeness, "of": key.to_string()}));
    Some((entry, given))
}

/// The answer is kept: from now on others may find it by what it was sought by.
pub fn keep(visit: &Visit, entry: &Entry, vectors: &dyn Vectors) {
    if let Some(Sought { scope, vector, guard }) = &visit.sought {
        let until_ms = entry.stored_ms + entry.ttl.as_millis() as u64;
        vectors.add(*scope, Point { vector: vector.clone(), guard: guard.clone(), key: entry.key, until_ms });
    }
}

/// Who may share, and everything of the ask that must be the same.
fn scope(visit: &Visit, common: Key, frame: &Ask, semantic: &Semantic) -> Key {
    let general = &visit.policy.general;
    let rules = canon::Rules { order: general.order_insensitive, ignore: &general.ignore, echoed: true };
    let spelling = canon::ask(frame, rules);
    let embedder = semantic.embedder.name();
    let rules = [semantic.messages as u8, u8::from(semantic.system)];
    Key::of([b"scope".as_slice(), &common.0, embedder.as_bytes(), &rules, &spelling])
}

/// The text that is compared, and the ask without it. None for an ask that ends in something else than text.
fn compared(ask: &Ask, semantic: &Semantic) -> Option<(String, Ask)> {
    let mut frame = ask.clone();
    if !semantic.system {
        frame.system.clear();
    }
    if frame.messages.last()?.role != Role::User {
        return None;
    }
    let from = frame.messages.len().saturating_sub(semantic.messages.max(1));
    let mut texts = Vec::new();
    for message in &mut frame.messages[from..] {
        for block in &mut message.blocks {
            if let Content::Text { text, .. } = &mut block.content {
                texts.push(std::mem::take(text));
            }
        }
        message.blocks.dedup_by(|a, b| is_empty(a) && is_empty(b));
    }
    let text = texts.join("\n");
    (!text.trim().is_empty() && text.len() <= MAX_TEXT_BYTES).then_some((text, frame))
}

fn is_empty(block: &crate::chat::Block) -> bool {
    matches!(&block.content, Content::Text { text, .. } if text.is_empty()) && block.extra.is_empty()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dialect::{self, RawAsk};
    use serde_json::{Value, json};

    fn semantic(messages: usize, system: bool) -> Semantic {
        let embedder = Embedder::Model { name: "e".into(), within: Duration::ZERO };
        Semantic { embedder, threshold: 0.9, messages, system, same_model: true, guard: true }
    }

    fn parts(body: Value, semantic: &Semantic) -> Option<(String, Vec<u8>)> {
        let body = body.to_string();
        let raw = RawAsk { op: Op::Generate, body: body.as_bytes(), model: None, stream: false };
        let ask = dialect::find("openai_chat").expect("a dialect").decode_ask(&raw).expect("decodes");
        let rules = canon::Rules { order: false, ignore: &[], echoed: true };
        compared(&ask, semantic).map(|(text, frame)| (text, canon::ask(&frame, rules)))
    }

    fn turns(system: &str, first: &str, last: &str) -> Value {
        json!({"model": "m", "messages": [{"role": "system", "content": system}, {"role": "user", "content": first},
            {"role": "assistant", "content": "Yes."}, {"role": "user", "content": last}]})
    }

    #[test]
    fn only_the_last_messages_are_compared_and_the_rest_must_be_the_same() {
        let one = semantic(1, true);
        let (text, frame) = parts(turns("s", "a", "b"), &one).expect("text");
        assert_eq!(text, "b");
        assert_eq!(parts(turns("s", "a", "c"), &one).expect("text").1, frame);
        assert_ne!(parts(turns("s", "x", "b"), &one).expect("text").1, frame);
        assert_ne!(parts(turns("t", "a", "b"), &one).expect("text").1, frame);
        let mut tools = turns("s", "a", "b");
        tools["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
        assert_ne!(parts(tools, &one).expect("text").1, frame);
        let mut warm = turns("s", "a", "b");
        warm["temperature"] = json!(1);
        assert_ne!(parts(warm, &one).expect("text").1, frame);
        let (text, frame) = parts(turns("s", "a", "b"), &semantic(3, false)).expect("text");
        assert_eq!(text, "a\nYes.\nb");
        assert_eq!(parts(turns("t", "x", "y"), &semantic(3, false)).expect("text").1, frame);
    }

    #[test]
    fn what_ends_in_something_else_than_text_is_not_compared() {
        let image = json!({"model": "m", "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]});
        assert!(parts(image, &semantic(1, true)).is_none());
        let tool = json!({"model": "m", "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]});
        assert!(parts(tool, &semantic(1, true)).is_none());
    }
}
