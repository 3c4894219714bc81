//! Adapters in plugins: the world `provider` behind the gateway's [`Adapter`].
//!
//! Each call takes an instance, and gives it back only when all went well. A stream keeps its instance to its end,
//! because its decoder lives in it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::Store;
use wasmtime::component::{InstancePre, ResourceAny};

use super::bindings::adapter::{self as wit, AnyAsk, Guest, GuestIndices, Outcome, Payload};
use super::bindings::chat;
use super::convert;
use super::engine::Machine;
use super::plugin::{Bytes, Loading, World, wait};
use super::pool::{Pool, Warm};
use super::store::Held;
use super::turn::{broke, metered, used};
use crate::dialect::Op;
use crate::dialect::adapter::{Adapter, Asking, Came, Pending, Read, StreamDecoder, Written, refused};
use crate::fault::{Fault, Kind, Refusal};
use crate::guest::adapter::{
    self, About, AuthKind, Decoding, Description, Draft, Framing, Function, Lease, Meter, Model, Operation, Piece,
    Reader, Seen, Told, interned, told, unread, written,
};
use crate::guest::{Failed, Subject, Used};
use crate::host::{self, Cx, Visit};
use crate::state::guests::Guests;

/// What stands before the words in which an adapter refuses its configuration.
pub const REFUSES: &str = "refuses its configuration: ";

/// A plugin that teaches a wire form.
pub struct Taught {
    /// `wasm:NAME`
    label: &'static str,
    pub sha256: String,
    /// Where it lies, for people.
    file: String,
    pub description: Description,
    machine: Arc<Machine>,
    lease: Lease,
    guest: Arc<host::Guest>,
    config: String,
    pre: InstancePre<Held>,
    exports: GuestIndices,
    pool: Pool<Guest>,
    meter: Meter,
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
        let guest = loading.lease.guest(loading.name);
        let mut plugin = Taught {
            label,
            sha256: bytes.sha256.clone(),
            file: bytes.path.display().to_string(),
            description: Description::default(),
            machine: loading.machine.clone(),
            lease: loading.lease,
            config: loading.config.clone(),
            pre: linked.pre,
            exports,
            pool: Pool::new(loading.lease.memory),
            meter: Meter::new(label, &guest.name, "plugins.settings", loading.lease).with_memory_by(loading.memory_by),
            guest,
        };
        let described = wait(async {
            let mut warm = plugin.fresh().await.map_err(|broke| plugin.unfit(&broke))?;
            let cx = plugin.enter(&mut warm, &nobody(), Function::Start);
            let Warm { store, bindings, .. } = &mut warm;
            let (described, _) = metered(&cx, Duration::ZERO, bindings.call_describe(&mut *store)).await;
            let described = described.map_err(|error| {
                let why = plugin.unfit(&broke(&cx, store.data(), &error));
                format!("broke as it described itself: {why}")
            })?;
            plugin.rest(warm);
            Ok::<_, String>(description(described))
        });
        plugin.description = described.and_then(|described| described).map_err(told)?;
        if plugin.description.operations.is_empty() {
            return Err(told("names no operation in its description, so it could serve nothing".to_owned()));
        }
        Ok(Arc::new(plugin))
    }

    /// Whether it would take another configuration.
    ///
    /// # Errors
    /// Why not, in its own words where it has some.
    pub async fn try_config(&self, config: &String) -> Result<(), String> {
        self.started(config).await.map(drop).map_err(|failed| self.unfit(&failed))
    }

    /// Why it does not start, in the words of a load that is refused.
    fn unfit(&self, failed: &Failed) -> String {
        match failed.killed {
            Some(_) => self.meter.why(Function::Start, failed),
            None => failed.message.clone(),
        }
    }

    /// A new instance, configured.
    async fn fresh(&self) -> Result<Warm<Guest>, Failed> {
        self.started(&self.config).await
    }

    /// A new instance that has taken this configuration.
    async fn started(&self, config: &String) -> Result<Warm<Guest>, Failed> {
        let cx = Arc::new(adapter::cx(&self.guest, &nobody(), Function::Start));
        let mut store = Held::store(&self.machine.engine, self.guest.budget.memory);
        // Interpreters set themselves up in their first call.
        Held::enter(&mut store, cx.clone(), Subject::Tick);
        let (instance, began) = metered(&cx, Duration::ZERO, self.pre.instantiate_async(&mut store)).await;
        let broke = |store: &Store<Held>, error| {
            let failed = broke(&cx, store.data(), &error);
            Failed { message: format!("broke: {}", failed.message), ..failed }
        };
        let instance = instance.map_err(|error| broke(&store, error))?;
        let bindings = self.exports.load(&mut store, &instance).map_err(|error| broke(&store, error))?;
        let (init, _) = metered(&cx, began, bindings.call_init(&mut store, config)).await;
        match init.map_err(|error| broke(&store, error))? {
            Ok(()) => Ok(Warm::new(store, bindings)),
            Err(why) => Err(Failed::new(format!("{REFUSES}{why}"))),
        }
    }

    /// An instance for calls of a function, in the first of them.
    async fn instance(&self, visit: &Arc<Visit>, function: Function) -> Result<(Warm<Guest>, Arc<Cx>), Fault> {
        let mut warm = match self.pool.take() {
            Some(warm) => warm,
            None => {
                let began = Instant::now();
                let fresh = self.fresh().await;
                let memory = fresh.as_ref().map_or(0, |warm| warm.store.data().memory);
                let used = Used { cpu: began.elapsed(), memory, ..Used::default() };
                self.meter.counted(Function::Start, &used, fresh)?
            }
        };
        let cx = self.enter(&mut warm, visit, function);
        Ok((warm, cx))
    }

    /// Puts an instance into a call.
    fn enter(&self, warm: &mut Warm<Guest>, visit: &Arc<Visit>, function: Function) -> Arc<Cx> {
        let cx = Arc::new(adapter::cx(&self.guest, visit, function));
        Held::enter(&mut warm.store, cx.clone(), Subject::Tick);
        cx
    }

    /// Takes an instance back after a call that went well.
    fn rest(&self, mut warm: Warm<Guest>) {
        warm.store.data_mut().call = None;
        self.pool.put(warm);
    }

    /// What came of a call that took so long. An instance that broke is not to be used again.
    fn counted<T>(
        &self,
        function: Function,
        (cx, held): (&Cx, &Held),
        (called, cpu): (wasmtime::Result<T>, Duration),
    ) -> Result<T, Fault> {
        let used = used(cx, held, cpu, called.is_err());
        self.meter.counted(function, &used, called.map_err(|error| broke(cx, held, &error)))
    }

    async fn written(&self, visit: &Arc<Visit>, model: &str, asking: Asking<'_>) -> Result<Written, Fault> {
        let asked = match asking {
            Asking::Chat(ask) => AnyAsk::Chat(convert::ask(ask, model, self.label)),
            Asking::Embed(ask) => AnyAsk::Embed(convert::embed_ask(ask, model)?),
            Asking::Rerank(ask) => AnyAsk::Rerank(convert::rerank_ask(ask, model)),
        };
        let (mut warm, cx) = self.instance(visit, Function::Encode).await?;
        let called = metered(&cx, Duration::ZERO, warm.bindings.call_encode(&mut warm.store, &asked)).await;
        let called = self.counted(Function::Encode, (&cx, warm.store.data()), called)?;
        self.rest(warm);
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
        written(draft).map_err(|what| self.meter.nonsense(what))
    }

    async fn read(&self, visit: &Arc<Visit>, op: Op, came: Came<'_>) -> Result<Read, Fault> {
        let what = match Operation::of(op) {
            Operation::Chat => wit::Operation::Chat,
            Operation::Embed => wit::Operation::Embed,
            Operation::Rerank => wit::Operation::Rerank,
        };
        let answer = answer_of(came);
        let (mut warm, cx) = self.instance(visit, Function::Decode).await?;
        let called = metered(&cx, Duration::ZERO, warm.bindings.call_decode(&mut warm.store, what, &answer)).await;
        let called = self.counted(Function::Decode, (&cx, warm.store.data()), called)?;
        self.rest(warm);
        match called.map_err(|said| refused(convert::refusal(said, self.label)))? {
            Outcome::Chat(answer) => {
                convert::answer(answer, self.label).map(Read::Chat).map_err(|what| self.meter.nonsense(what))
            }
            Outcome::Embed(answer) => Ok(Read::Embed(convert::embed_answer(answer, self.label))),
            Outcome::Rerank(answer) => Ok(Read::Rerank(convert::rerank_answer(answer))),
            Outcome::FollowUp(next) => {
                let wait = std::time::Duration::from_millis(u64::from(next.wait_ms));
                Ok(Read::FollowUp(Box::new(self.request(next.request)?), wait))
            }
        }
    }

    async fn read_error(&self, visit: &Arc<Visit>, came: Came<'_>) -> Refusal {
        let read = async {
            let (mut warm, cx) = self.instance(visit, Function::DecodeError).await?;
            let answer = answer_of(came);
            let called = metered(&cx, Duration::ZERO, warm.bindings.call_decode_error(&mut warm.store, &answer)).await;
            let said = self.counted(Function::DecodeError, (&cx, warm.store.data()), called)?;
            self.rest(warm);
            Ok::<_, Fault>(convert::refusal(said, self.label))
        };
        read.await.unwrap_or_else(|broke| unread(self.label, &came, Some(broke)))
    }

    async fn decoding(&self, plugin: Arc<Taught>, visit: &Arc<Visit>) -> Result<Decoding<Stream>, Fault> {
        let (mut warm, cx) = self.instance(visit, Function::Stream).await?;
        let decoder = warm.bindings.stream_decoder();
        let called = metered(&cx, Duration::ZERO, decoder.call_constructor(&mut warm.store)).await;
        let resource = self.counted(Function::Stream, (&cx, warm.store.data()), called)?;
        let framing = self.description.framing.unwrap_or(Framing::Bytes);
        Ok(Decoding::new(self.label, framing, Stream { plugin, warm, resource, cx }))
    }
}

impl Adapter for Arc<Taught> {
    fn name(&self) -> &'static str {
        self.label
    }

    fn serves(&self, op: Op) -> bool {
        self.description.serves(op)
    }

    fn encode<'a>(
        &'a self,
        visit: &'a Arc<Visit>,
        model: &'a str,
        asking: Asking<'a>,
    ) -> Pending<'a, Result<Written, Fault>> {
        Box::pin(self.written(visit, model, asking))
    }

    fn decode<'a>(&'a self, visit: &'a Arc<Visit>, op: Op, came: Came<'a>) -> Pending<'a, Result<Read, Fault>> {
        Box::pin(self.read(visit, op, came))
    }

    fn decode_error<'a>(&'a self, visit: &'a Arc<Visit>, came: Came<'a>) -> Pending<'a, Refusal> {
        Box::pin(self.read_error(visit, came))
    }

    fn decoder<'a>(&'a self, visit: &'a Arc<Visit>) -> Pending<'a, Result<Box<dyn StreamDecoder>, Fault>> {
        let plugin = self.clone();
        Box::pin(async move { Ok(Box::new(self.decoding(plugin, visit).await?) as Box<dyn StreamDecoder>) })
    }
}

impl Seen for Taught {
    fn about(&self) -> About {
        let Description { title, version, .. } = self.description.clone();
        About {
            label: self.label,
            title,
            version,
            file: self.file.clone(),
            digest: self.sha256.clone(),
            lease: self.lease,
        }
    }

    fn count_in(&self, guests: &Guests) {
        self.meter.count_in(guests);
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
    /// The surroundings of its calls, which are many and small: each brings a new lease, and nothing else changes.
    cx: Arc<Cx>,
}

/// What a decoder's call gives, and how long it took.
type Called = (wasmtime::Result<Result<Vec<chat::Event>, chat::Refusal>>, Duration);

impl Stream {
    /// Puts the instance into its next call.
    fn enter(&mut self) {
        // The last call's hold on them ends first.
        self.warm.store.data_mut().call = None;
        match Arc::get_mut(&mut self.cx) {
            Some(cx) => cx.lease = adapter::lease(&cx.guest, Function::Stream),
            None => self.cx = Arc::new(adapter::cx(&self.plugin.guest, &self.cx.visit, Function::Stream)),
        }
        Held::enter(&mut self.warm.store, self.cx.clone(), Subject::Tick);
    }

    fn said(&self, called: Called, told: &mut Told) -> Result<(), Fault> {
        let label = self.plugin.label;
        let events = self.plugin.counted(Function::Stream, (&self.cx, self.warm.store.data()), called)?;
        let events = events.map_err(|said| refused(convert::refusal(said, label)))?;
        events.into_iter().try_for_each(|event| told.said(convert::step(event, label)))
    }
}

impl Reader for Stream {
    async fn push(&mut self, piece: Piece, told: &mut Told) -> Result<(), Fault> {
        let piece = match piece {
            Piece::Bytes(bytes) => wit::Piece::Bytes(bytes.into()),
            Piece::Line(line) => wit::Piece::Line(line),
            Piece::Event(event) => wit::Piece::Event(wit::StreamEvent { name: event.name, data: event.data }),
        };
        self.enter();
        let Warm { store, bindings, .. } = &mut self.warm;
        let decoder = bindings.stream_decoder();
        let called = metered(&self.cx, Duration::ZERO, decoder.call_push(store, self.resource, &piece)).await;
        self.said(called, told)
    }

    async fn finish(&mut self, told: &mut Told) -> Result<(), Fault> {
        self.enter();
        let Warm { store, bindings, .. } = &mut self.warm;
        let decoder = bindings.stream_decoder();
        let called = metered(&self.cx, Duration::ZERO, decoder.call_finish(store, self.resource)).await;
        self.said(called, told)
    }

    async fn release(mut self) {
        self.enter();
        // The instance is free again once its decoder is gone.
        let gone = self.resource.resource_drop_async(&mut self.warm.store);
        let (gone, _) = metered(&self.cx, Duration::ZERO, gone).await;
        if gone.is_ok() {
            self.plugin.rest(self.warm);
        }
    }
}

/// What is left behind where there is no exchange: at the start, and in trials.
pub(super) fn nobody() -> Arc<Visit> {
    Arc::new(Visit::nobody(0))
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
