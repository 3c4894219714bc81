//! The form in which an answer lies on the shared server: versioned, and checked by a digest over key, head and body.
//!
//! Pure. What is of another version, of another key, cut off or changed is not an answer.

use std::borrow::Cow;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::chat::{Finish, Usage};
use crate::dialect;
use crate::state::cache::entry::{Entry, Form, Key, Places};

/// Begins every value; its last byte is the version. Another version reads as no answer and is written over.
const MAGIC: &[u8; 4] = b"PCA\x01";

/// Bytes of the digest that are kept.
const DIGEST: usize = 16;

/// Bytes before the head: magic, digest, length of the head.
const BEFORE: usize = MAGIC.len() + DIGEST + 4;

/// What a value may be longer than its body.
pub const MAX_OVERHEAD: usize = 16 << 10;

/// Everything of an answer but its body.
#[derive(Serialize, Deserialize)]
struct Head<'a> {
    partition: Cow<'a, str>,
    asked: Cow<'a, str>,
    provider: Cow<'a, str>,
    model: Cow<'a, str>,
    dialect: Cow<'a, str>,
    stream: bool,
    id: Option<Cow<'a, str>>,
    usage: Option<Tokens>,
    finish: Option<Cow<'a, str>>,
    cost: Option<u64>,
    stored_ms: u64,
    ttl_ms: u64,
}

/// [`Usage`], in the names of this form.
#[derive(Serialize, Deserialize)]
struct Tokens {
    input: u64,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    cache_write_1h: Option<u64>,
    output: u64,
    reasoning: Option<u64>,
    input_audio: Option<u64>,
    output_audio: Option<u64>,
    accepted_prediction: Option<u64>,
    rejected_prediction: Option<u64>,
    stated_total: Option<u64>,
}

/// One type's fields into the other's of the same names.
macro_rules! same_fields {
    ($from:expr => $to:ident) => {{
        let from = $from;
        $to {
            input: from.input,
            cache_read: from.cache_read,
            cache_write: from.cache_write,
            cache_write_1h: from.cache_write_1h,
            output: from.output,
            reasoning: from.reasoning,
            input_audio: from.input_audio,
            output_audio: from.output_audio,
            accepted_prediction: from.accepted_prediction,
            rejected_prediction: from.rejected_prediction,
            stated_total: from.stated_total,
        }
    }};
}

/// The value of an answer. None for one that could not be read back.
pub fn write(entry: &Entry) -> Option<Vec<u8>> {
    let head = Head {
        partition: entry.partition.as_str().into(),
        asked: entry.asked.as_str().into(),
        provider: entry.provider.as_str().into(),
        model: entry.model.as_str().into(),
        dialect: entry.dialect.name().into(),
        stream: entry.form == Form::Stream,
        id: entry.id.as_ref().map(|id| id.text.as_str().into()),
        usage: entry.usage.map(|usage| same_fields!(usage => Tokens)),
        finish: entry.finish.map(|finish| finish.as_str().into()),
        cost: entry.cost_nano_usd,
        stored_ms: entry.stored_ms,
        ttl_ms: u64::try_from(entry.ttl.as_millis()).unwrap_or(u64::MAX),
    };
    let head = serde_json::to_vec(&head).ok().filter(|head| BEFORE + head.len() <= MAX_OVERHEAD)?;
    let mut value = Vec::with_capacity(BEFORE + head.len() + entry.body.len());
    value.extend_from_slice(MAGIC);
    value.extend_from_slice(&digest(entry.key, &head, &entry.body));
    value.extend_from_slice(&u32::try_from(head.len()).ok()?.to_le_bytes());
    value.extend_from_slice(&head);
    value.extend_from_slice(&entry.body);
    Some(value)
}

/// The answer that a value holds under a key; None for anything else.
pub fn read(key: Key, mut value: Vec<u8>) -> Option<Entry> {
    let rest = value.strip_prefix(MAGIC)?;
    let (stated, rest) = rest.split_first_chunk::<DIGEST>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    let (head, body) = rest.split_at_checked(len)?;
    if digest(key, head, body) != *stated {
        return None;
    }
    let Head { partition, asked, provider, model, dialect, stream, id, usage, finish, cost, stored_ms, ttl_ms } =
        serde_json::from_slice(head).ok()?;
    let finish = match finish {
        Some(name) => Some(Finish::named(&name)?),
        None => None,
    };
    let id = id.and_then(|id| Places::of(&id, body));
    let mut entry = Entry {
        key,
        partition: partition.into_owned(),
        asked: asked.into_owned(),
        provider: provider.into_owned(),
        model: model.into_owned(),
        dialect: dialect::find(&dialect)?,
        form: if stream { Form::Stream } else { Form::Whole },
        body: Bytes::new(),
        id,
        usage: usage.map(|tokens| same_fields!(tokens => Usage)),
        finish,
        cost_nano_usd: cost,
        stored_ms,
        ttl: Duration::from_millis(ttl_ms),
    };
    // The body stays where it came; what stood before it must not take memory for as long as it is kept.
    value.drain(..BEFORE + len);
    value.shrink_to_fit();
    entry.body = value.into();
    Some(entry)
}

fn digest(key: Key, head: &[u8], body: &[u8]) -> [u8; DIGEST] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&key.0);
    context.update(&(head.len() as u64).to_le_bytes());
    context.update(head);
    context.update(body);
    let mut short = [0; DIGEST];
    short.copy_from_slice(&context.finish().as_ref()[..DIGEST]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let body = Bytes::from_static(br#"{"id":"chatcmpl-AbC123xyz","choices":[]}"#);
        Entry {
            key: Key::of([b"k".as_slice()]),
            partition: "key:a".into(),
            asked: "fast".into(),
            provider: "p\"".into(),
            model: "m".into(),
            dialect: dialect::DIALECTS[1],
            form: Form::Stream,
            id: Places::of("chatcmpl-AbC123xyz", &body),
            body,
            usage: Some(Usage { input: 3, output: 9, reasoning: Some(1), ..Usage::default() }),
            finish: Some(Finish::ToolCalls),
            cost_nano_usd: Some(77),
            stored_ms: 1000,
            ttl: Duration::from_secs(60),
        }
    }

    #[test]
    fn an_answer_is_read_back_as_it_was() {
        let entry = entry();
        let value = write(&entry).expect("is written");
        let back = read(entry.key, value).expect("is read");
        assert_eq!(format!("{back:?}"), format!("{entry:?}"));
        let bare = Entry { id: None, usage: None, finish: None, cost_nano_usd: None, ..entry };
        let back = read(bare.key, write(&bare).expect("is written")).expect("is read");
        assert_eq!(format!("{back:?}"), format!("{bare:?}"));
    }

    #[test]
    fn whatever_was_changed_cut_or_moved_is_no_answer() {
        let entry = entry();
        let value = write(&entry).expect("is written");
        assert!(read(Key::of([b"other".as_slice()]), value.clone()).is_none());
        for at in 0..value.len() {
            let mut changed = value.clone();
            changed[at] ^= 0x20;
            assert!(read(entry.key, changed).is_none(), "byte {at}");
            assert!(read(entry.key, value[..at].to_vec()).is_none(), "cut at {at}");
        }
        assert!(read(entry.key, b"not an answer".to_vec()).is_none() && read(entry.key, vec![]).is_none());
        let longer = [value.as_slice(), b"x"].concat();
        assert!(read(entry.key, longer).is_none());
    }

    #[test]
    fn a_head_beyond_its_bound_is_not_written() {
        assert!(write(&Entry { asked: "x".repeat(MAX_OVERHEAD), ..entry() }).is_none());
    }
}
