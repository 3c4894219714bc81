//! Tool calls of a stream, put together from pieces.
//!
//! OpenAI numbers calls and names each in its first piece only. Others send whole calls, repeat names and ids, number
//! every call 0, make up a new id for each piece, or send no number at all: a piece goes to the call it most likely
//! means. Never drops arguments: what is said between two pieces waits in the decoder until all calls are over.

use serde_json::{Map, Value};

use super::answer::made_up_id;
use super::turns::google_signature;
use crate::chat::event::Blocks;
use crate::chat::{Delta, Event, ToolCall};

/// One entry of `delta.tool_calls`.
#[derive(Default)]
pub(super) struct Piece {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
    custom: bool,
    signature: Option<String>,
}

impl Piece {
    /// Takes the pieces out of a delta, the legacy `function_call` among them.
    pub fn read_all(delta: &mut Map<String, Value>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if let Some(Value::Array(calls)) = delta.shift_remove("tool_calls") {
            pieces.extend(calls.iter().filter_map(Value::as_object).map(Piece::read));
        }
        // Servers that write every field of the schema (Snowflake) have an empty one here, which calls nothing.
        let says = |function: &Map<String, Value>| {
            ["name", "arguments"].iter().any(|key| function.get(*key).is_some_and(|v| v != ""))
        };
        if let Some(Value::Object(function)) = delta.shift_remove("function_call")
            && says(&function)
        {
            let mut piece = Piece { index: Some(0), ..Piece::default() };
            piece.inner(&function, "arguments");
            pieces.push(piece);
        }
        pieces
    }

    fn read(call: &Map<String, Value>) -> Piece {
        let mut piece = Piece {
            index: call.get("index").and_then(Value::as_u64),
            id: call.get("id").and_then(Value::as_str).unwrap_or_default().to_owned(),
            signature: call.get("extra_content").and_then(google_signature),
            ..Piece::default()
        };
        let function = call.get("type").is_some_and(|kind| kind == "function");
        if let Some(Value::Object(custom)) = call.get("custom").filter(|_| !function) {
            piece.custom = true;
            piece.inner(custom, "input");
        } else if let Some(Value::Object(function)) = call.get("function") {
            piece.inner(function, "arguments");
        }
        piece
    }

    fn inner(&mut self, of: &Map<String, Value>, text: &str) {
        self.name = of.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.arguments = match of.get(text) {
            Some(Value::String(text)) => text.clone(),
            None | Some(Value::Null) => String::new(),
            Some(other) => other.to_string(),
        };
    }
}

/// The calls of one choice.
#[derive(Default)]
pub(super) struct Calls {
    list: Vec<Call>,
}

#[derive(Default)]
struct Call {
    index: Option<u64>,
    /// As the server gave it, empty when it gave none.
    id: String,
    name: String,
    /// The arguments so far.
    said: String,
    /// What came before the name did.
    held: Piece,
    open: bool,
}

impl Calls {
    /// Whether there are any. They all stay open until the choice ends.
    pub fn any(&self) -> bool {
        !self.list.is_empty()
    }

    pub fn piece(&mut self, piece: Piece, choice: u32, answer: &str, blocks: &mut Blocks, out: &mut Vec<Event>) {
        let at = match self.find(&piece) {
            Some(at) => at,
            None => {
                let call = Call { index: piece.index, id: piece.id.clone(), ..Call::default() };
                self.list.push(call);
                self.list.len() - 1
            }
        };
        let call = &mut self.list[at];
        call.said.push_str(&piece.arguments);
        if call.open {
            if let Some(index) = blocks.call(choice, at as u64)
                && !piece.arguments.is_empty()
            {
                out.push(Event::Delta { choice, index, delta: Delta::Arguments(piece.arguments) });
            }
            return;
        }
        call.held.arguments.push_str(&piece.arguments);
        call.held.custom |= piece.custom;
        call.held.signature = call.held.signature.take().or(piece.signature);
        if call.id.is_empty() {
            call.id = piece.id;
        }
        call.name = piece.name;
        if !call.name.is_empty() {
            self.open(at, choice, answer, blocks, out);
        }
    }

    /// Opens calls that never got a name, so that their arguments are not lost.
    pub fn flush(&mut self, choice: u32, answer: &str, blocks: &mut Blocks, out: &mut Vec<Event>) {
        for at in 0..self.list.len() {
            if !self.list[at].open {
                self.open(at, choice, answer, blocks, out);
            }
        }
    }

    /// The call that a piece belongs to; None for a new one.
    fn find(&self, piece: &Piece) -> Option<usize> {
        let last_with = |test: &dyn Fn(&Call) -> bool| self.list.iter().rposition(test);
        let by_id = || (!piece.id.is_empty()).then(|| last_with(&|call| call.id == piece.id)).flatten();
        match piece.index {
            Some(index) => {
                let at = last_with(&|call| call.index == Some(index))?;
                let call = &self.list[at];
                // The same number with another id *and* a name is another call (Google's endpoint numbers all 0); with
                // another id alone it goes on (old vLLM made up an id for each piece).
                let named = call.open && !piece.name.is_empty();
                let other_id = !piece.id.is_empty() && !call.id.is_empty() && piece.id != call.id;
                // Without ids only whole arguments tell that a repeated name begins a new call.
                let whole = || serde_json::from_str::<Map<String, Value>>(&call.said).is_ok();
                let begins = piece.id.is_empty() && !piece.arguments.is_empty() && whole();
                if named && (other_id || begins) { by_id() } else { Some(at) }
            }
            None => by_id().or_else(|| {
                let goes_on = piece.id.is_empty() && (piece.name.is_empty() || self.list.last()?.name.is_empty());
                (goes_on && self.any()).then(|| self.list.len() - 1)
            }),
        }
    }

    fn open(&mut self, at: usize, choice: u32, answer: &str, blocks: &mut Blocks, out: &mut Vec<Event>) {
        let call = &mut self.list[at];
        call.open = true;
        let held = std::mem::take(&mut call.held);
        let id = if call.id.is_empty() { made_up_id(answer, choice, at) } else { call.id.clone() };
        let head = ToolCall {
            id,
            name: call.name.clone(),
            custom: held.custom,
            signature: held.signature,
            ..ToolCall::default()
        };
        let index = blocks.open_call(choice, at as u64, head, out);
        if !held.arguments.is_empty() {
            out.push(Event::Delta { choice, index, delta: Delta::Arguments(held.arguments) });
        }
    }
}
