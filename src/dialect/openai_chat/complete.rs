//! The legacy text completion: a prompt in, `text` out.
//!
//! A prompt becomes one user turn. Asks that came this way bear their `prompt` in `extra` as the mark; they are encoded
//! this way again only for this dialect.

use serde_json::{Value, json};

use super::NAME;
use super::fields::{Fields, invalid};
use super::history_text;
use crate::chat::{Answer, Ask, Block, Choice, Message, Role};
use crate::fault::{Fault, Kind};

/// Reads `prompt`.
pub(super) fn read(fields: &mut Fields, ask: &mut Ask) -> Result<(), Fault> {
    let prompt = fields.take("prompt").ok_or_else(|| invalid("prompt", "is missing"))?;
    let text = match &prompt {
        Value::String(text) => text.clone(),
        Value::Array(list) => match list.as_slice() {
            [Value::String(text)] => text.clone(),
            [] => return Err(invalid("prompt", "must hold at least one prompt")),
            [Value::String(_), ..] => return Err(unsupported("several prompts in one request")),
            _ => return Err(unsupported("token ids as a prompt")),
        },
        _ => return Err(invalid("prompt", "must be a string or an array")),
    };
    ask.messages.push(Message::new(Role::User, vec![Block::text(text)]));
    fields.put("prompt", prompt);
    Ok(())
}

fn unsupported(what: &str) -> Fault {
    Fault::new(Kind::UnsupportedFeature, format!("{what} cannot be translated.")).param("prompt")
}

/// Whether the ask came as a legacy completion of this dialect.
pub(super) fn is_legacy(ask: &Ask) -> bool {
    ask.source == NAME && ask.extra.contains_key("prompt")
}

/// The prompt as it now stands in the turns: a hook may have edited it.
pub(super) fn prompt(ask: &Ask) -> Result<String, Fault> {
    let turns = ask.messages.iter().flat_map(|message| &message.blocks);
    let texts: Vec<&str> = ask.system.iter().chain(turns).filter_map(history_text).collect();
    if texts.is_empty() {
        return Err(invalid("prompt", "holds no text"));
    }
    Ok(texts.join("\n\n"))
}

/// A whole `text_completion` object.
/// The choices of a whole answer.
pub(super) fn choices(answer: &Answer) -> Vec<Value> {
    let choice = |choice: &Choice| {
        let text: String = choice.blocks.iter().filter_map(history_text).collect();
        // Only the legacy shape fits here; chat's has `content`.
        let logprobs = choice.logprobs.as_ref().filter(|logprobs| logprobs.get("tokens").is_some());
        json!({ "text": text, "index": choice.index, "logprobs": logprobs,
                "finish_reason": super::finish::word(choice, answer.source, false) })
    };
    answer.choices.iter().map(choice).collect()
}
