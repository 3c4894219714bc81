//! Text of streams as scripts hear it: calls that are many and short, so that all that can be is made once a stream.
//!
//! An event in a script's hands is a number. It stands for the event that the script's thread is called for, while it is:
//! nothing is made for it in the machine, and a script that keeps it keeps a number that stands for nothing.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use mlua::{Error, LightUserData, Lua, Result, Value as Lv};

use super::super::Called;
use super::super::verdict::Verdict;
use super::super::view::{self, View};
use super::machine::Machine;
use super::turn::{Running, Spent};
use super::{Script, views};
use crate::host::{Cx, Lease};

/// Bits of an event's number that count those of one thread; the others tell the thread.
const THREAD_SHIFT: u32 = 40;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The event that this thread calls a script for, and its number.
    static HEARD: RefCell<Option<(usize, view::Event)>> = const { RefCell::new(None) };
    /// The number given last. No event has 0, which is `gw.null`.
    static LAST: Cell<usize> = Cell::new(THREADS.fetch_add(1, Relaxed) << THREAD_SHIFT);
}

/// What one stream keeps for the calls of a script.
pub struct Ear {
    running: Arc<Running>,
}

impl Ear {
    /// Calls like this one, each under a lease of its own.
    pub fn new(cx: Cx) -> Self {
        Ear { running: Arc::new(Running::new(cx)) }
    }

    /// The next call, which has used nothing yet.
    fn renew(&mut self) -> &Arc<Running> {
        let lease = Lease::new(*self.running.cx.lease.budget());
        match Arc::get_mut(&mut self.running) {
            Some(running) => running.cx.lease = lease,
            // Whatever still holds the call before keeps it.
            None => {
                let Cx { guest, phase, visit, world, awaits, .. } = &self.running.cx;
                let (guest, visit, world) = (guest.clone(), visit.clone(), world.clone());
                let cx = Cx { guest, phase: *phase, visit, world, lease, awaits: *awaits, gives_way: false };
                self.running = Arc::new(Running::new(cx));
            }
        }
        &self.running
    }
}

impl Script {
    /// Calls `on_event`. Gives the event back.
    pub fn hear(&self, ear: &mut Ear, event: view::Event) -> (Called, view::Event) {
        let (slot, machine) = self.machine();
        let running = ear.renew();
        let number = LAST.get() + 1;
        LAST.set(number);
        let before = HEARD.replace(Some((number, event)));
        let mut spent = Spent::default();
        let outcome = running.turn(&mut spent, || machine.hear(self.at, running, number));
        let event = HEARD.replace(before).map(|(_, event)| event).unwrap_or_default();
        (self.finish(slot, machine, running, spent.cpu, outcome), event)
    }
}

impl Machine {
    /// Calls a script's `on_event` and reads what it decided.
    fn hear(&self, at: usize, running: &Running, number: usize) -> Result<Verdict> {
        let Some(hook) = self.hook(at, running.cx.phase) else { return Ok(Verdict::Pass) };
        let event = LightUserData(std::ptr::without_provenance_mut(number));
        let value = hook.call::<Lv>((event, self.context()))?;
        self.read(&running.cx, value)
    }
}

/// Teaches a machine what the numbers stand for.
pub(super) fn register(lua: &Lua) -> Result<()> {
    let meta = lua.create_table()?;
    meta.raw_set("__index", lua.create_function(|lua, (this, key): (LightUserData, String)| index(lua, this, &key))?)?;
    let set = |_: &Lua, (this, key, _): (LightUserData, String, Lv)| -> Result<()> {
        Err(if this.0.is_null() { no_fields(&key) } else { views::read_only::<view::Event>(&key) })
    };
    meta.raw_set("__newindex", lua.create_function(set)?)?;
    let name = |_: &Lua, this: LightUserData| Ok(if this.0.is_null() { "null" } else { view::Event::NAME });
    meta.raw_set("__tostring", lua.create_function(name)?)?;
    meta.raw_set("__metatable", false)?;
    meta.set_readonly(true);
    lua.set_type_metatable::<LightUserData>(Some(meta));
    Ok(())
}

fn index(lua: &Lua, this: LightUserData, key: &str) -> Result<Lv> {
    HEARD.with_borrow(|heard| match heard {
        Some((number, event)) if *number == this.0.addr() => match event.get(key) {
            Some(value) => views::val(lua, value),
            None => Err(views::unknown::<view::Event>(key)),
        },
        _ if this.0.is_null() => Err(no_fields(key)),
        _ => Err(Error::runtime(format!("this {} is of a call that has ended; do not keep it", view::Event::NAME))),
    })
}

fn no_fields(key: &str) -> Error {
    Error::runtime(format!("gw.null has no `{key}`: it stands for a null of JSON"))
}
