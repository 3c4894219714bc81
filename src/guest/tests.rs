//! What guests do whatever their language: each test is one body, run for every language that has its behaviours.
//!
//! A behaviour is a guest by name, written once a language: in Luau a table of `tests/behaviours.luau`, in WebAssembly an
//! arm of `plugins/probe/src/behaviours.rs`.

use std::pin::pin;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::stand::{self, Stand};
use super::verdict::{Body, Turn};
use super::{Failed, Verdict};
use crate::host::{Budget, Grants, Killed, Phase};

/// Time that this thread has run: on a busy machine the clock on the wall says nothing. The system counts it in steps of a
/// few milliseconds.
pub(super) fn thread_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the system tells");
    Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number"))
}

/// What a call may run past its budget, in the thread's own time.
pub(super) const PAST: Duration = Duration::from_millis(20);

/// The same where this program's own loops are built without optimisation.
pub(super) const PAST_UNOPTIMISED: Duration = Duration::from_millis(if cfg!(debug_assertions) { 300 } else { 20 });

/// Memory of this process before some calls. Other tests run beside them, and give theirs back; what leaks stays.
#[cfg(feature = "wasm")]
pub(super) struct Resident(u64);

#[cfg(feature = "wasm")]
impl Resident {
    /// What others may have taken for good.
    const NOISE_KIB: u64 = 16 << 10;
    const OTHERS_END: Duration = Duration::from_secs(20);

    pub fn now() -> Self {
        Resident(resident_kib())
    }

    pub fn assert_same(&self, after: &str) {
        let began = std::time::SystemTime::now();
        let grown = || resident_kib().saturating_sub(self.0);
        while grown() >= Self::NOISE_KIB {
            assert!(began.elapsed().is_ok_and(|took| took < Self::OTHERS_END), "{} KiB more after {after}", grown());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

/// Memory of this process that is its own, in KiB.
#[cfg(feature = "wasm")]
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Beside a guest that goes on for longer than a test: others have their turn, again and again.
pub(super) async fn assert_gives_way<T>(runaway: impl Future<Output = T>, what: &str) {
    let mut runaway = pin!(runaway);
    for turn in 0..20 {
        tokio::select! {
            biased;
            _ = &mut runaway => panic!("{what} ended after {turn} turns for others"),
            () = tokio::task::yield_now() => {}
        }
    }
}

/// On one thread, beside a guest that never ends and is always ready to go on: sockets must be looked at after each of its
/// turns, and not when many have passed.
pub(super) async fn assert_gives_way_to_sockets<T>(runaway: impl Future<Output = T>) {
    const ROUNDS: u32 = 50;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a caller");
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() {
            stream.write_all(&byte).await.expect("is read");
        }
    });
    let rounds = async {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        for _ in 0..ROUNDS {
            stream.write_all(&[1]).await.expect("is read");
            stream.read_exact(&mut [0]).await.expect("comes back");
        }
    };
    let (mut turns, mut runaway) = (0, pin!(runaway));
    let runaway = std::future::poll_fn(|task| {
        turns += 1;
        runaway.as_mut().poll(task)
    });
    tokio::select! {
        biased;
        _ = runaway => panic!("it ended"),
        () = rounds => {}
    }
    assert!(turns > ROUNDS, "it did not run beside them: {turns} turns");
    // Two hops a round; where sockets have to wait it is sixty times as many.
    assert!(turns < ROUNDS * 20, "{turns} turns of the runaway for {ROUNDS} rounds of the others");
}

/// A language that guests are written in.
trait Language {
    /// The guest with this behaviour, under a budget.
    fn load(&self, behaviour: &str, budget: Budget) -> Stand;
}

struct Luau;

impl Language for Luau {
    fn load(&self, behaviour: &str, budget: Budget) -> Stand {
        let bundle = stand::bundle(include_str!("tests/behaviours.luau"));
        let config = json!({ "behaviour": behaviour });
        Stand::luau(bundle, budget, config, Grants::default()).unwrap_or_else(|error| panic!("{behaviour}: {error}"))
    }
}

/// Any language whose compiler makes components.
#[cfg(feature = "wasm")]
struct WebAssembly;

#[cfg(feature = "wasm")]
impl Language for WebAssembly {
    fn load(&self, behaviour: &str, budget: Budget) -> Stand {
        let told = json!({ "behaviour": behaviour });
        super::wasm::probe(&told, budget).unwrap_or_else(|error| panic!("{behaviour}: {error}"))
    }
}

/// One test for every language; or, where the others cannot even say it, for one.
macro_rules! guest_test {
    ($name:ident, $body:expr) => {
        mod $name {
            use super::*;

            const BODY: fn(&dyn Language) = $body;

            #[test]
            fn in_luau() {
                BODY(&Luau);
            }

            #[cfg(feature = "wasm")]
            #[test]
            fn in_webassembly() {
                BODY(&WebAssembly);
            }
        }
    };
    ($name:ident in luau, $body:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn in_luau() {
                let body: fn(&dyn Language) = $body;
                body(&Luau);
            }
        }
    };
}

fn load(language: &dyn Language, behaviour: &str) -> Stand {
    language.load(behaviour, stand::unhurried())
}

fn said(stand: &Stand, phase: Phase) -> String {
    match stand.call(phase) {
        Ok(Verdict::Respond(respond)) => match respond.body {
            Body::Raw(text) | Body::Say(text) => text,
            Body::Json(value) => value.to_string(),
        },
        other => panic!("{other:?}"),
    }
}

guest_test!(what_it_has_no_function_for_passes, |language| {
    assert_eq!(load(language, "plan").call(Phase::Request), Ok(Verdict::Pass));
});

// The plugin exports every phase, whatever it is told to be.
guest_test!(a_phase_without_a_function_is_none_of_its_phases in luau, |language| {
    let phases = load(language, "plan").engine.phases();
    assert!(phases.has(Phase::Route) && !phases.has(Phase::Request));
});

guest_test!(it_plans_by_what_it_reads, |language| {
    let Ok(Verdict::Plan(wish)) = load(language, "plan").call(Phase::Route) else { panic!("no plan") };
    let names: Vec<&str> = wish.steps.iter().map(|step| step.target.as_str()).collect();
    assert_eq!(names, ["gold/fast", "blue/search"]);
    assert_eq!(wish.steps[1].timeout, Some(Duration::from_millis(500)));
});

guest_test!(it_patches_the_ask, |language| {
    let Ok(Verdict::Patch(patch)) = load(language, "patch").call(Phase::Request) else { panic!("no patch") };
    assert_eq!((patch.model.as_deref(), patch.system.as_deref()), (Some("smart"), Some("Be long.")));
    assert_eq!((&patch.params["temperature"], &patch.params["top_p"]), (&Some(json!(0)), &None));
    assert_eq!(patch.messages.as_ref().and_then(|turns| turns.first()), Some(&Turn::Keep(1)));
});

guest_test!(it_refuses_and_answers, |language| {
    let stand = load(language, "refuse");
    let Ok(Verdict::Reject(reject)) = stand.call(Phase::Request) else { panic!("no refusal") };
    assert_eq!((reject.code.as_str(), reject.status), ("closed", Some(451)));
    assert_eq!(said(&stand, Phase::Route), "Hello, search-prod.");
});

guest_test!(what_it_keeps_is_there_in_later_phases, |language| {
    let stand = load(language, "keep");
    assert_eq!(stand.call(Phase::Request), Ok(Verdict::Pass));
    assert_eq!(said(&stand, Phase::Route), "gold 3");
});

guest_test!(it_counts_and_reserves_by_the_hosts_own_functions, |language| {
    let stand = load(language, "count");
    assert_eq!([said(&stand, Phase::Request), said(&stand, Phase::Request)], ["1 true", "2 false"]);
    let Ok(Verdict::Fields(fields)) = stand.call(Phase::Done) else { panic!("no fields") };
    assert_eq!(fields["settled"], true);
});

guest_test!(an_error_is_its_calls_alone, |language| {
    let stand = load(language, "fail");
    let Err(Failed { killed: None, message }) = stand.call(Phase::Request) else { panic!("no error") };
    assert!(message.contains("boom"), "{message}");
    assert!(matches!(stand.call(Phase::Route), Ok(Verdict::Plan(_))));
});

// In the contract each phase has verdicts of its own.
guest_test!(a_verdict_of_another_phase_says_where_it_belongs in luau, |language| {
    let Err(Failed { message, .. }) = load(language, "misplace").call(Phase::Request) else { panic!("no error") };
    assert!(message.contains("on_request cannot answer with `stop`"), "{message}");
});

guest_test!(a_function_is_there_in_its_phases_only, |language| {
    let Err(Failed { message, .. }) = load(language, "sleep").call(Phase::Done) else { panic!("no error") };
    assert!(message.contains("time.sleep cannot be called in on"), "{message}");
});

guest_test!(a_runaway_ends_with_its_budget_and_the_next_call_goes_well, |language| {
    let stand = language.load("spin", Budget::default());
    let Err(Failed { killed: Some(killed), .. }) = stand.call(Phase::Request) else { panic!("it went on") };
    assert!(matches!(killed, Killed::Safepoints | Killed::Deadline), "{killed:?}");
    assert!(matches!(stand.call(Phase::Route), Ok(Verdict::Plan(_))));
});

guest_test!(memory_ends_with_its_budget_and_the_next_call_goes_well, |language| {
    let stand = load(language, "grow");
    let Err(Failed { killed, .. }) = stand.call(Phase::Request) else { panic!("it went on") };
    assert_eq!(killed, Some(Killed::Memory));
    assert!(matches!(stand.call(Phase::Route), Ok(Verdict::Plan(_))));
});

guest_test!(host_calls_end_with_their_budget, |language| {
    let Err(Failed { killed, .. }) = load(language, "storm").call(Phase::Request) else { panic!("it went on") };
    assert_eq!(killed, Some(Killed::HostCalls));
});

guest_test!(waits_end_with_their_budget_however_many_they_are, |language| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    for (wait, killed) in [(100, None), (60, Some(Killed::Wait))] {
        let budget = Budget { wait: Duration::from_millis(wait), ..stand::unhurried() };
        let stand = language.load("sleep", budget);
        let (outcome, waited) = runtime.block_on(async {
            let began = tokio::time::Instant::now();
            (stand.wait(Phase::Request).await.0, began.elapsed())
        });
        assert_eq!(outcome.err().and_then(|failed| failed.killed), killed);
        assert!(waited <= Duration::from_millis(wait), "{waited:?}");
    }
});
