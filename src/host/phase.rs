//! The moments at which guests are called.
//!
//! Holds names and sets only; what may be answered at each is the verdict's affair.

use std::fmt;

/// A moment in the life of an exchange, or of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    Init,
    Auth,
    Request,
    Route,
    Attempt,
    Fault,
    Answer,
    Event,
    Done,
    Tick,
}

impl Phase {
    /// In the order in which an exchange meets them.
    pub const ALL: [Phase; 10] = [
        Phase::Init,
        Phase::Auth,
        Phase::Request,
        Phase::Route,
        Phase::Attempt,
        Phase::Fault,
        Phase::Answer,
        Phase::Event,
        Phase::Done,
        Phase::Tick,
    ];

    /// The word in `on_<phase>`, metrics and the trace.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Init => "init",
            Phase::Auth => "auth",
            Phase::Request => "request",
            Phase::Route => "route",
            Phase::Attempt => "attempt",
            Phase::Fault => "fault",
            Phase::Answer => "answer",
            Phase::Event => "event",
            Phase::Done => "done",
            Phase::Tick => "tick",
        }
    }

    /// Whether a guest may wait for others here. The rest runs between two bytes, or when nobody waits any more.
    pub const fn awaits(self) -> bool {
        Phases::AWAITING.has(self)
    }

    /// Whether a guest that runs for long gives way to others here.
    pub const fn gives_way(self) -> bool {
        Phases::IN_TURNS.has(self)
    }
}

/// A set of phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Phases(u16);

impl Phases {
    pub const NONE: Phases = Phases(0);
    pub const ALL: Phases = Phases((1 << Phase::ALL.len()) - 1);
    /// Those in which there is an exchange, and those in which there is at least a gateway.
    pub const LIVE: Phases = Phases(Phases::ALL.0 & !(1 << Phase::Init as u16));
    /// Those in which there is an exchange that has not ended, `done` being its last moment.
    pub const EXCHANGE: Phases = Phases(Phases::LIVE.0 & !(1 << Phase::Tick as u16));
    pub const AWAITING: Phases =
        Phases::of(&[Phase::Auth, Phase::Request, Phase::Route, Phase::Fault, Phase::Answer, Phase::Tick]);
    /// Those in which a call may stop in between. The others are over when they return: a stream is read meanwhile, or
    /// nobody is there any more to go on.
    pub const IN_TURNS: Phases = Phases::AWAITING.with(Phases::of(&[Phase::Attempt]));
    /// Those in which the exchange has a caller that is known.
    pub const CALLER: Phases = Phases::of(&[Phase::Request, Phase::Route, Phase::Fault, Phase::Answer]);

    pub const fn of(phases: &[Phase]) -> Phases {
        let mut set = 0;
        let mut at = 0;
        while at < phases.len() {
            set |= 1 << phases[at] as u16;
            at += 1;
        }
        Phases(set)
    }

    pub const fn has(self, phase: Phase) -> bool {
        self.0 & (1 << phase as u16) != 0
    }

    /// Whether the two have a phase in common.
    pub const fn has_any(self, others: Phases) -> bool {
        self.0 & others.0 != 0
    }

    #[must_use]
    pub const fn with(self, others: Phases) -> Phases {
        Phases(self.0 | others.0)
    }

    #[must_use]
    pub const fn without(self, phase: Phase) -> Phases {
        Phases(self.0 & !(1 << phase as u16))
    }

    /// What of the set is this one phase.
    #[must_use]
    pub const fn only(self, phase: Phase) -> Phases {
        Phases(self.0 & 1 << phase as u16)
    }

    pub fn iter(self) -> impl Iterator<Item = Phase> {
        Phase::ALL.into_iter().filter(move |phase| self.has(*phase))
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.iter().map(|phase| format!("on_{}", phase.name())).collect();
        f.write_str(&names.join(", "))
    }
}
