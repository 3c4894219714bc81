//! Adapters in plugins: the world `provider` behind the gateway's [`Adapter`].
//!
//! Each call takes an instance, and gives it back only when all went well. A stream keeps its instance to its end,
//! because its decoder lives in it.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use wasmtime::component::{InstancePre, ResourceAny};

use super::bindings::adapter::{self as wit, AnyAsk, Guest, GuestIndices, Outcome, Payload, Piece};
use super::convert;
use super::cut::Cutter;
use super::interned;
use super::plugin::{Bytes, Loading, World, wait};
use super::pool::{Pool, Warm};
use super::store::{Held, Lease};
use crate::chat::Event;
use crate::dialect::Op;
use crate::dialect::adapter::{
    Adapter, Asking, Assembler, Came, Pending, Pushed, Read, StreamDecoder, Written, refused,
};
use crate::fault::{Fault, Kind, Refusal};

use super::engine::Machine;

/// Longest text of an error answer that stands for one that the guest could not read.
const MAX_MESSAGE_CHARS: usize = 200;

/// What an adapter says it is.
pub type Description = wit::Description;

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
        let empty = Description {
            title: String::new(),
            version: String::new(),
            auth: wit::AuthKind::None,
            operations: Vec::new(),
            framing: wit::Framing::Bytes,
            suggested_base_url: None,
            models: Vec::new(),
        };
        let mut plugin = Taught {
            label,
            name: loading.name.into(),
            sha256: bytes.sha256.clone(),
            description: empty,
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
            Ok::<_, String>(described)
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
        let method = request.method.parse::<Method>();
        let method = method.map_err(|_| self.failed(format!("wrote `{}`, which is no method", request.method)))?;
        let mut headers = HeaderMap::with_capacity(request.headers.len());
        for wit::Header { name, value } in request.headers {
            let parsed = name.parse::<HeaderName>().ok().zip(HeaderValue::from_str(&value).ok());
            let (name, value) =
                parsed.ok_or_else(|| self.failed(format!("wrote a header `{name}` that cannot be sent")))?;
            headers.append(name, value);
        }
        let body = match request.body {
            Payload::Text(text) => text.into(),
            Payload::Bytes(bytes) => bytes.into(),
        };
        let dropped = request.dropped.into_iter().map(|dropped| (dropped.field, dropped.why)).collect();
        Ok(Written { method, path: request.path, headers, body, streamed: request.streamed, dropped })
    }

    async fn read(&self, op: Op, came: Came<'_>) -> Result<Read, Fault> {
        let what = match op {
            Op::Generate | Op::Complete | Op::CountTokens => wit::Operation::Chat,
            Op::Embed | Op::EmbedBatch => wit::Operation::Embed,
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
            let message = String::from_utf8_lossy(came.body).chars().take(MAX_MESSAGE_CHARS).collect();
            Refusal { status: came.status, message, dialect: self.label, ..Refusal::default() }
        })
    }

    async fn decoding(&self, plugin: Arc<Taught>) -> Result<Decoding, Fault> {
        let mut warm = self.instance().await?;
        let decoder = warm.bindings.stream_decoder();
        let resource = decoder.call_constructor(&mut warm.store).await.map_err(|error| self.broke(&error))?;
        Ok(Decoding {
            cutter: Cutter::new(self.description.framing),
            assembler: Assembler::new(self.label),
            plugin,
            warm,
            resource,
        })
    }
}

impl Adapter for Arc<Taught> {
    fn name(&self) -> &'static str {
        self.label
    }

    fn serves(&self, op: Op) -> bool {
        let wanted = match op {
            // Counting is estimated by the gateway, see `attempt`.
            Op::Generate | Op::Complete | Op::CountTokens => wit::Operation::Chat,
            Op::Embed | Op::EmbedBatch => wit::Operation::Embed,
        };
        self.description.operations.contains(&wanted)
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

/// One stream's decoder and the instance it lives in.
struct Decoding {
    plugin: Arc<Taught>,
    warm: Warm<Guest>,
    resource: ResourceAny,
    cutter: Cutter,
    assembler: Assembler,
}

impl Decoding {
    async fn pieces(&mut self, pieces: Vec<Piece>, out: &mut Vec<Event>) -> Result<(), Fault> {
        for piece in pieces {
            Held::renew(&mut self.warm.store, 1);
            let Warm { store, bindings, .. } = &mut self.warm;
            let decoder = bindings.stream_decoder();
            let called = decoder.call_push(store, self.resource, &piece).await;
            self.take(called, out)?;
        }
        Ok(())
    }

    async fn end(&mut self, out: &mut Vec<Event>) -> Result<(), Fault> {
        let rest = self.cutter.rest();
        self.pieces(rest.into_iter().collect(), out).await?;
        Held::renew(&mut self.warm.store, 1);
        let Warm { store, bindings, .. } = &mut self.warm;
        let decoder = bindings.stream_decoder();
        let called = decoder.call_finish(store, self.resource).await;
        self.take(called, out)?;
        self.assembler.close(out);
        Ok(())
    }

    /// Takes over what a call gave.
    fn take(
        &mut self,
        called: wasmtime::Result<Result<Vec<super::bindings::chat::Event>, super::bindings::chat::Refusal>>,
        out: &mut Vec<Event>,
    ) -> Result<(), Fault> {
        let label = self.plugin.label;
        let events = called.map_err(|error| self.plugin.broke(&error))?;
        for event in events.map_err(|said| refused(convert::refusal(said, label)))? {
            match convert::step(event, label) {
                Ok(step) => self.assembler.step(step, out)?,
                Err(said) => return Err(refused(*said)),
            }
        }
        Ok(())
    }
}

impl StreamDecoder for Decoding {
    fn push(mut self: Box<Self>, bytes: bytes::Bytes) -> Pending<'static, Pushed> {
        Box::pin(async move {
            let mut events = Vec::new();
            let worked = match self.cutter.push(bytes) {
                Ok(pieces) => self.pieces(pieces, &mut events).await,
                Err(fault) => Err(fault),
            };
            (self as Box<dyn StreamDecoder>, events, worked)
        })
    }

    fn finish(mut self: Box<Self>) -> Pending<'static, Pushed> {
        Box::pin(async move {
            let mut events = Vec::new();
            let worked = self.end(&mut events).await;
            if worked.is_err() {
                return (Box::new(Over) as Box<dyn StreamDecoder>, events, worked);
            }
            let Decoding { plugin, mut warm, resource, .. } = *self;
            // The instance is free again once its decoder is gone.
            if resource.resource_drop_async(&mut warm.store).await.is_ok() {
                plugin.pool.put(warm);
            }
            (Box::new(Over) as Box<dyn StreamDecoder>, events, worked)
        })
    }
}

/// What is left of a decoder at the end of its stream.
struct Over;

impl StreamDecoder for Over {
    fn push(self: Box<Self>, _: bytes::Bytes) -> Pending<'static, Pushed> {
        self.finish()
    }

    fn finish(self: Box<Self>) -> Pending<'static, Pushed> {
        let fault = Fault::new(Kind::Internal, "A stream was read on after its end.");
        Box::pin(std::future::ready((self as Box<dyn StreamDecoder>, Vec::new(), Err(fault))))
    }
}

/// An upstream's answer for the guest: only the headers that mean something to it.
fn answer_of(came: Came<'_>) -> wit::HttpAnswer {
    let told = |name: &str| matches!(name, "content-type" | "retry-after") || name.starts_with("x-");
    let headers = came.headers.iter().filter(|(name, _)| told(name.as_str()));
    let headers = headers.filter_map(|(name, value)| {
        Some(wit::Header { name: name.as_str().to_owned(), value: value.to_str().ok()?.to_owned() })
    });
    let body = match std::str::from_utf8(came.body) {
        Ok(text) => Payload::Text(text.to_owned()),
        Err(_) => Payload::Bytes(came.body.to_vec()),
    };
    wit::HttpAnswer { status: came.status, headers: headers.collect(), body }
}
