//! Text of streams as scripts hear it: calls that are many and short, so that all that can be is made once a stream.
//!
//! An event in a script's hands is a number. It stands for the event that the script's thread is called for, while it is:
//! nothing is made for it in the machine, and a script that keeps it keeps a number that stands for nothing.

use std::cell::RefCell;
use std::sync::Arc;

use mlua::{Lua, Result, Value as Lv};

use super::super::Called;
use super::super::verdict::Verdict;
use super::super::view::{self, EVENT, KINDS, Val, View};
use super::machine::Machine;
use super::turn::{self, Running, Spent};
use super::{Script, views};
use crate::host::{Cx, Lease};

thread_local! {
    /// The event that this thread calls a script for, and its number.
    static HEARD: RefCell<Option<(usize, view::Event)>> = const { RefCell::new(None) };
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
                let Cx { guest, phase, visit, apart, world, awaits, .. } = &self.running.cx;
                let (guest, visit, apart, world) = (guest.clone(), visit.clone(), apart.clone(), world.clone());
                let cx = Cx { guest, phase: *phase, visit, apart, world, lease, awaits: *awaits, gives_way: false };
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
        let number = turn::number(EVENT);
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
        let value = hook.call::<Lv>((views::shown(number), self.context()))?;
        self.read(&running.cx, value)
    }
}

/// A field of the event that this thread calls a script for, where the number stands for it.
pub(super) fn field(lua: &Lua, number: usize, key: &str) -> Option<Result<Lv>> {
    HEARD.with_borrow(|heard| {
        let (_, event) = heard.as_ref().filter(|(heard, _)| *heard == number)?;
        Some(match event.get(key) {
            // Hardly any two texts are the same.
            Some(Val::Text(text)) => views::made(lua, text.as_bytes()).map(Lv::String),
            Some(value) => views::val(lua, value),
            None => Err(views::unknown(&KINDS[EVENT], key)),
        })
    })
}
