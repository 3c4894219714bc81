//! Adapters in plugins: the world `provider` behind the gateway's [`Adapter`].
//!
//! Each call takes an instance, and gives it back only when all went well. A stream keeps its instance to its end,
//! because its decoder lives in it.

use std::fmt;
use std::sync::Arc;

use wasmtime::component::{InstancePre, ResourceAny};

use super::bindings::adapter::{self as wit, AnyAsk, Guest, GuestIndices, Outcome, Payload};
use super::bindings::chat;
use super::convert;
use super::engine::Machine;
use super::plugin::{Bytes, Loading, World, wait};
use super::pool::{Pool, Warm};
use super::store::Held;
use crate::dialect::Op;
use crate::dialect::adapter::{Adapter, Asking, Came, Pending, Read, StreamDecoder, Written, refused};
use crate::fault::{Fault, Kind, Refusal};
use crate::guest::adapter::{
    AuthKind, Decoding, Description, Draft, Framing, Lease, Model, Operation, Piece, Reader, Said, interned, told,
    unread, written,
};

/// A plugin that teaches a wire form.
pub struct Taught {
    /// `wasm:NAME`
    label: &'static str,
    name: Arc<str>,
    pub sha256: String,
    pub description: Description,
    machine: Arc<Machine>,
    lease: Lease,
    wasi: bool,
    config: String,
    pre: InstancePre<Held>,
    exports: GuestIndices,
    pool: Pool<Guest>,
}

impl Taught {
    /// Loads an adapter: compiled, linked, configured, described.
    ///
    /// # Errors
    /// Why it cannot serve, with its file.
    pub fn load(loading: &Loading<'_>, bytes: &Bytes) -> Result<Arc<Self>, String> {
        let told = |what: String| format!("{}: {what}", bytes.path.display());
        let linked = loading.link(bytes, World::Provider)?;
        let exports = GuestIndices::new(&linked.pre).map_err(|error| {
            told(format!("is no adapter: {error:#}; it must export portcullis:gateway/adapter, see plugins/wit"))
        })?;
        let label = interned(&format!("wasm:{}", loading.name));
        let mut plugin = Taught {
            label,
            name: loading.name.into(),
            sha256: bytes.sha256.clone(),
            description: Description::default(),
            machine: loading.machine.clone(),
            lease: loading.lease,
            wasi: linked.wasi,
            config: loading.config.clone(),
            pool: Pool::new(loading.lease.memory),
            pre: linked.pre,
            exports,
        };
        let described = wait(async {
            let mut warm = plugin.fresh().await.map_err(|fault| fault.to_string())?;
            Held::renew(&mut warm.store, 10);
            let Warm { store, bindings, .. } = &mut warm;
            let described = bindings.call_describe(store).await;
            let described = described.map_err(|error| format!("broke as it described itself: {error:#}"))?;
            plugin.pool.put(warm);
            Ok::<_, String>(description(described))
        });
        plugin.description = described.and_then(|described| described).map_err(told)?;
        if plugin.description.operations.is_empty() {
            return Err(told("names no operation in its description, so it could serve nothing".to_owned()));
        }
        Ok(Arc::new(plugin))
    }

    /// A new instance, configured.
    async fn fresh(&self) -> Result<Warm<Guest>, Fault> {
        let mut store = Held::store(&self.machine, &self.name, self.lease, self.wasi);
        // Interpreters set themselves up in their first call.
        Held::renew(&mut store, 10);
        let instance = self.pre.instantiate_async(&mut store).await.map_err(|error| self.broke(&error))?;
        let bindings = self.exports.load(&mut store, &instance).map_err(|error| self.broke(&error))?;
        let init = bindings.call_init(&mut store, &self.config).await;
        match init.map_err(|error| self.broke(&error))? {
            Ok(()) => Ok(Warm::new(store, bindings)),
            Err(why) => Err(self.failed(format!("refuses its configuration: {why}"))),
        }
    }

    /// An instance with a fresh lease.
    async fn instance(&self) -> Result<Warm<Guest>, Fault> {
        let mut warm = match self.pool.take() {
            Some(warm) => warm,
            None => self.fresh().await?,
        };
        Held::renew(&mut warm.store, 1);
        Ok(warm)
    }

    /// The guest trapped, or the engine has no room for it.
    fn broke(&self, error: &wasmtime::Error) -> Fault {
        let why = match error.downcast_ref::<wasmtime::Trap>() {
            Some(wasmtime::Trap::Interrupt) => format!("used up its {:?} of processor time", self.lease.cpu),
            Some(wasmtime::Trap::StackOverflow) => "used up its stack".to_owned(),
            Some(trap) => trap.to_string(),
            None => error.root_cause().to_string(),
        };
        self.failed(format!("broke: {why}")).because(format!("{error:#}"))
    }

    fn failed(&self, what: String) -> Fault {
        Fault::new(Kind::GuestFailed, format!("The adapter `{}` {what}.", self.name))
    }

    async fn written(&self, model: &str, asking: Asking<'_>) -> Result<Written, Fault> {
        let asked = match asking {
            Asking::Chat(ask) => AnyAsk::Chat(convert::ask(ask, model, self.label)),
            Asking::Embed(ask) => AnyAsk::Embed(convert::embed_ask(ask, model)?),
        };
        let mut warm = self.instance().await?;
        let called = warm.bindings.call_encode(&mut warm.store, &asked).await;
        let called = called.map_err(|error| self.broke(&error))?;
        self.pool.put(warm);
        match called {
            Ok(request) => self.request(request),
            Err(said) => {
                let mut fault = Fault::new(Kind::UnsupportedFeature, said.message);
                fault.param = said.param;
                Err(fault)
            }
        }
    }

    fn request(&self, request: wit::HttpRequest) -> Result<Written, Fault> {
        let draft = Draft {
            method: request.method,
            path: request.path,
            headers: request.headers.into_iter().map(|header| (header.name, header.value)).collect(),
            body: match request.body {
                Payload::Text(text) => text.into(),
                Payload::Bytes(bytes) => bytes.into(),
            },
            streamed: request.streamed,
            dropped: request.dropped.into_iter().map(|dropped| (dropped.field, dropped.why)).collect(),
        };
        written(draft).map_err(|what| self.failed(what))
    }

    async fn read(&self, op: Op, came: Came<'_>) -> Result<Read, Fault> {
        let what = match Operation::of(op) {
            Operation::Chat => wit::Operation::Chat,
            Operation::Embed => wit::Operation::Embed,
            Operation::Rerank => wit::Operation::Rerank,
        };
        let answer = answer_of(came);
        let mut warm = self.instance().await?;
        let called = warm.bindings.call_decode(&mut warm.store, what, &answer).await;
        let called = called.map_err(|error| self.broke(&error))?;
        self.pool.put(warm);
        match called.map_err(|said| refused(convert::refusal(said, self.label)))? {
            Outcome::Chat(answer) => Ok(Read::Chat(convert::answer(answer, self.label))),
            Outcome::Embed(answer) => Ok(Read::Embed(convert::embed_answer(answer, self.label))),
            Outcome::Rerank(_) => Err(self.failed("gave a ranking that nobody asked for".to_owned())),
            Outcome::FollowUp(next) => {
                let wait = std::time::Duration::from_millis(u64::from(next.wait_ms));
                Ok(Read::FollowUp(Box::new(self.request(next.request)?), wait))
            }
        }
    }

    async fn read_error(&self, came: Came<'_>) -> Refusal {
        let read = async {
            let mut warm = self.instance().await?;
            let answer = answer_of(came);
            let called = warm.bindings.call_decode_error(&mut warm.store, &answer).await;
            let said = called.map_err(|error| self.broke(&error))?;
            self.pool.put(warm);
            Ok::<_, Fault>(convert::refusal(said, self.label))
        };
        read.await.unwrap_or_else(|fault| {
            tracing::warn!("{fault}");
            unread(self.label, &came)
        })
    }

    async fn decoding(&self, plugin: Arc<Taught>) -> Result<Decoding<Stream>, Fault> {
        let mut warm = self.instance().await?;
        let decoder = warm.bindings.stream_decoder();
        let resource = decoder.call_constructor(&mut warm.store).await.map_err(|error| self.broke(&error))?;
        let framing = self.description.framing.unwrap_or(Framing::Bytes);
        Ok(Decoding::new(self.label, framing, Stream { plugin, warm, resource }))
    }
}

impl Adapter for Arc<Taught> {
    fn name(&self) -> &'static str {
        self.label
    }

    fn serves(&self, op: Op) -> bool {
        self.description.serves(op)
    }

    fn encode<'a>(&'a self, model: &'a str, asking: Asking<'a>) -> Pending<'a, Result<Written, Fault>> {
        Box::pin(self.written(model, asking))
    }

    fn decode<'a>(&'a self, op: Op, came: Came<'a>) -> Pending<'a, Result<Read, Fault>> {
        Box::pin(self.read(op, came))
    }

    fn decode_error<'a>(&'a self, came: Came<'a>) -> Pending<'a, Refusal> {
        Box::pin(self.read_error(came))
    }

    fn decoder(&self) -> Pending<'_, Result<Box<dyn StreamDecoder>, Fault>> {
        let plugin = self.clone();
        Box::pin(async move { Ok(Box::new(self.decoding(plugin).await?) as Box<dyn StreamDecoder>) })
    }
}

impl fmt::Debug for Taught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label)
    }
}

/// The guest's decoder of one stream, and the instance it lives in.
struct Stream {
    plugin: Arc<Taught>,
    warm: Warm<Guest>,
    resource: ResourceAny,
}

/// What a decoder's call gives.
type Called = wasmtime::Result<Result<Vec<chat::Event>, chat::Refusal>>;

impl Stream {
    fn said(&self, called: Called) -> Result<Vec<Said>, Fault> {
        let label = self.plugin.label;
        let events = called.map_err(|error| self.plugin.broke(&error))?;
        let events = events.map_err(|said| refused(convert::refusal(said, label)))?;
        Ok(events.into_iter().map(|event| convert::step(event, label)).collect())
    }
}

impl Reader for Stream {
    async fn push(&mut self, piece: Piece) -> Result<Vec<Said>, Fault> {
        let piece = match piece {
            Piece::Bytes(bytes) => wit::Piece::Bytes(bytes.into()),
            Piece::Line(line) => wit::Piece::Line(line),
            Piece::Event(event) => wit::Piece::Event(wit::StreamEvent { name: event.name, data: event.data }),
        };
        Held::renew(&mut self.warm.store, 1);
        let Warm { store, bindings, .. } = &mut self.warm;
        let called = bindings.stream_decoder().call_push(store, self.resource, &piece).await;
        self.said(called)
    }

    async fn finish(&mut self) -> Result<Vec<Said>, Fault> {
        Held::renew(&mut self.warm.store, 1);
        let Warm { store, bindings, .. } = &mut self.warm;
        let called = bindings.stream_decoder().call_finish(store, self.resource).await;
        self.said(called)
    }

    async fn release(self) {
        let Stream { plugin, mut warm, resource } = self;
        // The instance is free again once its decoder is gone.
        if resource.resource_drop_async(&mut warm.store).await.is_ok() {
            plugin.pool.put(warm);
        }
    }
}

/// An upstream's answer for the guest.
fn answer_of(came: Came<'_>) -> wit::HttpAnswer {
    let header = |(name, value): (&str, &str)| wit::Header { name: name.to_owned(), value: value.to_owned() };
    let body = match std::str::from_utf8(came.body) {
        Ok(text) => Payload::Text(text.to_owned()),
        Err(_) => Payload::Bytes(came.body.to_vec()),
    };
    wit::HttpAnswer { status: came.status, headers: told(&came).map(header).collect(), body }
}

/// What a plugin says of itself, in the words of all languages.
fn description(said: wit::Description) -> Description {
    let operation = |operation| match operation {
        wit::Operation::Chat => Operation::Chat,
        wit::Operation::Embed => Operation::Embed,
        wit::Operation::Rerank => Operation::Rerank,
    };
    let model = |model: wit::Model| Model { id: model.id, context: model.context, max_output: model.max_output };
    Description {
        title: said.title,
        version: said.version,
        auth: match said.auth {
            wit::AuthKind::None => AuthKind::None,
            wit::AuthKind::Bearer => AuthKind::Bearer,
            wit::AuthKind::Header(name) => AuthKind::Header(name),
            wit::AuthKind::Query(name) => AuthKind::Query(name),
        },
        operations: said.operations.into_iter().map(operation).collect(),
        framing: Some(match said.framing {
            wit::Framing::Bytes => Framing::Bytes,
            wit::Framing::Lines => Framing::Lines,
            wit::Framing::Events => Framing::Events,
        }),
        suggested_base_url: said.suggested_base_url,
        models: said.models.into_iter().map(model).collect(),
    }
}
