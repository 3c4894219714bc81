//! What a `message_delta` says beside its counts and why the model stopped: the neutral form has no place for it, and in
//! whole messages it stands at the top.
//!
//! Takes only what is named here: a field of a later version may hold what the model says, and guests that watch a stream
//! must see that first.

use serde_json::Value;

use super::answer::unread_usage;
use super::wire::Object;

/// Fields of the frame's `delta`.
const INSIDE: &[&str] = &["container", "stop_details"];

/// Fields of the frame itself.
const OUTSIDE: &[&str] = &["context_management"];

/// The fields of a frame, as a whole message has them.
pub fn read(frame: &Value) -> Object {
    let inside = INSIDE.iter().map(|key| (*key, &frame["delta"][*key]));
    let fields = inside.chain(OUTSIDE.iter().map(|key| (*key, &frame[*key])));
    let mut own: Object =
        fields.filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.to_owned(), value.clone())).collect();
    let counts = unread_usage(frame["usage"].clone());
    if !counts.is_empty() {
        own.insert("usage".to_owned(), counts.into());
    }
    own
}

/// Puts the fields into a frame.
pub fn write(mut own: Object, frame: &mut Value) {
    let mut take = |key: &str| own.shift_remove(key);
    for key in INSIDE {
        if let Some(value) = take(key) {
            frame["delta"][*key] = value;
        }
    }
    for key in OUTSIDE {
        if let Some(value) = take(key) {
            frame[*key] = value;
        }
    }
    if let (Some(Value::Object(more)), Some(counts)) = (take("usage"), frame["usage"].as_object_mut()) {
        counts.extend(more);
    }
}
