//! Adapters in Luau: a script with an `[adapter]` in its manifest behind the gateway's [`Adapter`].
//!
//! Each call has a machine to itself, which rests only when all went well; a stream keeps its machine to its end, because
//! its decoder lives in it. Calls nobody: what a script may use here is what needs neither an exchange nor a grant.

mod ask;
mod machine;
mod said;

use std::fmt;
use std::sync::Arc;

use mlua::{IntoLuaMulti, Lua, MultiValue, Value as Lv};
use serde_json::Value;
use tokio::time::Instant;

use super::super::pool::{Pool, Rests};
use super::super::{Bundle, Failed, Used, Wanted};
use super::machine::Recipe;
use crate::dialect::Op;
use crate::dialect::adapter::{Adapter, Asking, Came, Pending, Read, StreamDecoder, Written, refused};
use crate::fault::{Fault, Kind, Refusal};
use crate::guest::adapter::{
    self, About, Decoding, Description, Draft, Framing, Function, Lease, Meter, Operation, Piece, Reader, Seen, Told,
    interned, told, unread, written,
};
use crate::host::Visit;
use crate::state::guests::Guests;

use ask::Teller;
use machine::Warm;
use said::Outcome;

/// Memory above which a machine's garbage is collected before it rests, in bytes.
const TIDY_BYTES: usize = 4 << 20;

/// Workers that find a machine ready for their first call.
const MAX_READY: usize = 8;

/// What a call gives: what was wanted, or the words in which it was refused.
type Given<T> = Result<T, Box<Refusal>>;

/// A script that teaches a wire form.
pub struct Taught {
    /// `lua:NAME`
    label: &'static str,
    pub bundle: Arc<Bundle>,
    pub description: Description,
    lease: Lease,
    recipe: Recipe,
    pool: Pool<Warm>,
    meter: Meter,
}

impl Taught {
    /// Loads an adapter: compiled, run, configured.
    ///
    /// # Errors
    /// Why it cannot serve, with file and line.
    pub fn load(name: &str, bundle: Arc<Bundle>, config: Value, lease: Lease) -> Result<Arc<Self>, String> {
        let description = described(&bundle)?;
        let guest = lease.guest(name);
        let label = interned(&format!("lua:{name}"));
        let meter = Meter::new(label, &guest.name, "adapters", lease);
        let recipe = Recipe::new(Wanted { guest, bundle: bundle.clone(), config, domain: None })?;
        let pool = Pool::new(lease.memory);
        let taught = Taught { label, bundle, description, lease, recipe, pool, meter };
        let label = &taught.bundle.main.label;
        for worker in 0..taught.pool.workers().min(MAX_READY) {
            let warm = machine::at_once(taught.fresh()).map_err(|failed| match failed.killed {
                Some(_) => format!("{label}: loading it {}", taught.meter.why(Function::Start, &failed)),
                None => failed.message,
            })?;
            warm.fits(&taught.description).map_err(|why| format!("{label}: {why}"))?;
            taught.pool.place(worker, warm);
        }
        Ok(Arc::new(taught))
    }

    async fn fresh(&self) -> Result<Warm, Failed> {
        Warm::build(&self.recipe, &nobody()).await
    }

    async fn machine(&self) -> Result<Warm, Fault> {
        match self.pool.take() {
            Some(warm) => Ok(warm),
            None => {
                let began = Instant::now();
                let fresh = self.fresh().await;
                let memory = fresh.as_ref().map_or(0, Rests::memory);
                self.meter.counted(Function::Start, &Used { cpu: began.elapsed(), memory, ..Used::default() }, fresh)
            }
        }
    }

    fn rest(&self, warm: Warm) {
        warm.tidy(TIDY_BYTES);
        self.pool.put(warm);
    }

    /// Calls a function of the script on a machine of its own.
    async fn call<T: Send>(
        &self,
        (warm, visit): (&Warm, &Arc<Visit>),
        (what, function): (Function, &mlua::Function),
        give: impl FnOnce(&Lua) -> mlua::Result<MultiValue> + Send,
        take: impl FnOnce(&mut said::Reader, &Lv) -> mlua::Result<T> + Send,
        status: u16,
    ) -> Result<Given<T>, Fault> {
        let mut reader = said::Reader::new(self.lease.output, self.label);
        let read = move |values: MultiValue| {
            let mut values = values.into_iter();
            let (first, second) = (values.next().unwrap_or(Lv::Nil), values.next().unwrap_or(Lv::Nil));
            match second {
                Lv::Nil => take(&mut reader, &first).map(Ok),
                refusal => reader.refusal(&refusal, status).map(|said| Err(Box::new(said))),
            }
        };
        let cx = adapter::cx(&self.recipe.guest, visit, what);
        let (called, used) = warm.run(cx, function, give, read).await;
        self.meter.counted(what, &used, called)
    }

    async fn written(&self, visit: &Arc<Visit>, model: &str, asking: Asking<'_>) -> Result<Written, Fault> {
        let inputs = match asking {
            Asking::Embed(ask) => ask::inputs(ask)?,
            Asking::Chat(_) | Asking::Rerank(_) => Vec::new(),
        };
        let give = |lua: &Lua| {
            let source = if let Asking::Chat(ask) = asking { ask.source } else { "" };
            let teller = Teller { lua, source, adapter: self.label };
            let table = match asking {
                Asking::Chat(ask) => teller.ask(ask, model)?,
                Asking::Embed(ask) => teller.embed(&inputs, ask, model)?,
                Asking::Rerank(ask) => teller.rerank(ask, model)?,
            };
            table.into_lua_multi(lua)
        };
        let warm = self.machine().await?;
        let encode = (Function::Encode, &warm.exports.encode);
        let request = self.call((&warm, visit), encode, give, said::Reader::request, 400).await?;
        self.rest(warm);
        match request {
            Ok(draft) => self.request(draft),
            Err(said) => {
                let mut fault = Fault::new(Kind::UnsupportedFeature, said.message);
                fault.param = said.param;
                Err(fault)
            }
        }
    }

    fn request(&self, draft: Draft) -> Result<Written, Fault> {
        let streams = draft.streamed && self.description.framing.is_none();
        match streams {
            true => Err(self.meter.nonsense("asked for a stream, and its manifest has no `framing`")),
            false => written(draft).map_err(|what| self.meter.nonsense(what)),
        }
    }

    async fn read(&self, visit: &Arc<Visit>, op: Op, came: Came<'_>) -> Result<Read, Fault> {
        let give = |lua: &Lua| (answer(lua, came)?, Operation::of(op).as_str()).into_lua_multi(lua);
        let warm = self.machine().await?;
        let decode = (Function::Decode, &warm.exports.decode);
        let outcome = self.call((&warm, visit), decode, give, said::Reader::outcome, 200).await?;
        self.rest(warm);
        match outcome.map_err(|said| refused(*said))? {
            Outcome::Chat(answer) => Ok(Read::Chat(answer)),
            Outcome::Embed(answer) => Ok(Read::Embed(answer)),
            Outcome::Rerank(answer) => Ok(Read::Rerank(answer)),
            Outcome::FollowUp(draft, wait) => Ok(Read::FollowUp(Box::new(self.request(draft)?), wait)),
        }
    }

    async fn read_error(&self, visit: &Arc<Visit>, came: Came<'_>) -> Refusal {
        let read = async {
            let warm = self.machine().await?;
            let Some(decode_error) = &warm.exports.decode_error else { return Ok(None) };
            let give = |lua: &Lua| answer(lua, came)?.into_lua_multi(lua);
            let take = |reader: &mut said::Reader, value: &Lv| reader.refusal(value, came.status);
            let said =
                self.call((&warm, visit), (Function::DecodeError, decode_error), give, take, came.status).await?;
            self.rest(warm);
            Ok::<_, Fault>(Some(said.unwrap_or_else(|said| *said)))
        };
        match read.await {
            Ok(Some(said)) => said,
            Ok(None) => unread(self.label, &came, None),
            Err(broke) => unread(self.label, &came, Some(broke)),
        }
    }

    async fn decoding(&self, taught: Arc<Taught>, visit: &Arc<Visit>) -> Result<Decoding<Stream>, Fault> {
        let warm = self.machine().await?;
        let missing = || self.meter.nonsense("has no `decoder`");
        let decoder = (Function::Stream, warm.exports.decoder.as_ref().ok_or_else(missing)?);
        let take = |_: &mut said::Reader, value: &Lv| machine::decoder(value);
        let made = self.call((&warm, visit), decoder, |_| Ok(MultiValue::new()), take, 200).await?;
        let (push, finish) = made.map_err(|said| refused(*said))?;
        let framing = self.description.framing.unwrap_or(Framing::Bytes);
        Ok(Decoding::new(self.label, framing, Stream { push, finish, warm, visit: visit.clone(), taught }))
    }
}

/// What its start leaves behind, which is of no exchange.
fn nobody() -> Arc<Visit> {
    Arc::new(Visit::nobody(0))
}

/// What the manifest says that the script is.
///
/// # Errors
/// It says nothing of the kind.
pub fn described(bundle: &Bundle) -> Result<Description, String> {
    let description = bundle.manifest.adapter.clone().ok_or_else(|| {
        let label = &bundle.main.label;
        format!("{label}: is no adapter: its manifest has no `[adapter]`; a policy is attached under `hooks`")
    })?;
    Ok(Description { version: bundle.manifest.version.clone().unwrap_or_default(), ..description })
}

/// An upstream's answer as scripts see it.
fn answer(lua: &Lua, came: Came<'_>) -> mlua::Result<mlua::Table> {
    let table = lua.create_table_with_capacity(0, 3)?;
    let headers = lua.create_table()?;
    for (name, value) in told(&came) {
        headers.raw_set(name, value)?;
    }
    table.raw_set("status", came.status)?;
    table.raw_set("headers", headers)?;
    table.raw_set("body", lua.create_string(came.body)?)?;
    Ok(table)
}

/// One stream's decoder, and the machine it lives in.
struct Stream {
    // Declared before `warm`: handles must not outlive their machine.
    push: mlua::Function,
    finish: Option<mlua::Function>,
    warm: Warm,
    /// Of the exchange that it is for.
    visit: Arc<Visit>,
    taught: Arc<Taught>,
}

impl Stream {
    async fn events(
        &self,
        function: &mlua::Function,
        give: impl FnOnce(&Lua) -> mlua::Result<MultiValue> + Send,
        told: &mut Told,
    ) -> Result<(), Fault> {
        let function = (Function::Stream, function);
        let said = self.taught.call((&self.warm, &self.visit), function, give, said::Reader::events, 200).await?;
        said.map_err(|said| refused(*said))?.into_iter().try_for_each(|said| told.said(said))
    }
}

impl Reader for Stream {
    async fn push(&mut self, piece: Piece, told: &mut Told) -> Result<(), Fault> {
        let give = |lua: &Lua| match piece {
            Piece::Bytes(bytes) => lua.create_string(&bytes)?.into_lua_multi(lua),
            Piece::Line(line) => line.into_lua_multi(lua),
            Piece::Event(event) => (event.data, event.name).into_lua_multi(lua),
        };
        self.events(&self.push, give, told).await
    }

    async fn finish(&mut self, told: &mut Told) -> Result<(), Fault> {
        match &self.finish {
            Some(finish) => self.events(finish, |_| Ok(MultiValue::new()), told).await,
            None => Ok(()),
        }
    }

    async fn release(self) {
        let Stream { push, finish, warm, taught, .. } = self;
        drop((push, finish));
        taught.rest(warm);
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
        let taught = self.clone();
        Box::pin(async move { Ok(Box::new(self.decoding(taught, visit).await?) as Box<dyn StreamDecoder>) })
    }
}

impl Seen for Taught {
    fn about(&self) -> About {
        let Description { title, version, .. } = self.description.clone();
        About {
            label: self.label,
            title,
            version,
            file: self.bundle.main.label.clone(),
            digest: self.bundle.digest.clone(),
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

#[cfg(test)]
mod tests;
