//! The gateway as guests may use it: names of models, state, connections, and asks of their own.
//!
//! Everything is that of the exchange's own generation.

use std::sync::Arc;

use http::HeaderMap;

use super::inputs;
use crate::chat;
use crate::dialect::{Dialect, Op};
use crate::fault::Fault;
use crate::guest::view::{self, Asked, conversation};
use crate::host::{self, HostError, Pending, Visit, llm};
use crate::json::Envelope;
use crate::pipeline::{self, Asker, Call, Cx};
use crate::route::Target;
use crate::state::State;
use crate::upstream::Upstream;

/// The gateway around an exchange.
pub(super) struct World {
    cx: Cx,
}

impl World {
    pub fn new(cx: Cx) -> Self {
        World { cx }
    }
}

impl host::World for World {
    fn state(&self) -> &Arc<State> {
        &self.cx.state
    }

    fn targets(&self, model: &str) -> Result<Vec<Arc<Target>>, String> {
        self.cx.generation.targets(model).map_err(|fault| fault.text())
    }

    fn models(&self) -> Vec<String> {
        let mut names: Vec<String> = self.cx.generation.routes.models.keys().cloned().collect();
        names.sort();
        names
    }

    fn upstream(&self) -> Arc<dyn Upstream> {
        self.cx.upstream.clone()
    }

    fn unix_ms(&self) -> u64 {
        self.cx.state.unix_ms()
    }

    fn ask(&self, visit: Arc<Visit>, ask: llm::Ask) -> Pending<llm::Answer> {
        let cx = self.cx.clone();
        Box::pin(async move {
            let principal = visit.principal().cloned();
            let principal = principal.ok_or_else(|| HostError::new("nobody is known to ask as yet"))?;
            let asker = Asker { principal, peer: visit.peer };
            pipeline::inner(cx, asker, ask.path, ask.body, visit.depth + 1)
                .await
                .map(|(status, body)| llm::Answer { status, body })
                .map_err(|error| HostError(error.to_owned()))
        })
    }
}

/// The ask as guests read it.
pub(super) struct Held {
    pub visit: Arc<Visit>,
    pub call: Arc<Call>,
    pub model: String,
    pub dialect: &'static dyn Dialect,
    pub op: Op,
}

impl Asked for Held {
    fn envelope(&self) -> &Envelope {
        &self.call.envelope
    }

    fn headers(&self) -> &HeaderMap {
        &self.call.headers
    }

    fn model(&self) -> &str {
        &self.model
    }

    fn stream(&self) -> bool {
        self.call.stream
    }

    fn chat(&self) -> Result<Arc<chat::Ask>, Fault> {
        let read = self.call.reads_one_way().and_then(|()| self.call.ask(self.dialect, self.op));
        read.inspect_err(|fault| self.visit.cannot_be_read(fault))
    }

    fn texts(&self) -> Result<Vec<view::Text>, Fault> {
        match self.op {
            Op::Embed | Op::EmbedBatch | Op::Rerank => {
                let read = self.call.reads_one_way().and_then(|()| inputs::texts(&self.call.envelope));
                read.inspect_err(|fault| self.visit.cannot_be_read(fault))
            }
            Op::Generate | Op::Complete | Op::CountTokens => Ok(conversation::texts_of(&*self.chat()?)),
        }
    }
}
