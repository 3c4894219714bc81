//! What goes on beside an attempt: hedges, which may answer in its place, and mirrors, which nobody hears.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Act, Bed, MS, good, hosts, late, limited, pooled, roles, said, status};
use crate::exchange::{Outcome, Role};
use crate::fault::Kind;
use crate::route::{Hedge, HedgeAfter, Mirror, Plan, Retry, Rules};
use crate::settle::Settle;
use crate::state::health::{End, Standing};

fn hedged(bed: &Bed, providers: &[&str], after: HedgeAfter, budget: f64) -> Plan {
    let rules = Rules { hedge: Some(Hedge { after, budget }), ..Rules::default() };
    Plan { rules: Arc::new(rules), ..bed.plan(providers, Retry::default()) }
}

#[tokio::test(start_paused = true)]
async fn a_slow_target_gets_company_and_the_faster_one_answers() {
    let bed = Bed::new(&[("a", vec![late(MS(1000), good("slow"))]), ("b", vec![late(MS(50), good("quick"))])]);
    let plan = hedged(&bed, &["a", "b", "c"], HedgeAfter::Fixed(MS(100)), 0.05);
    let (outcome, mut x) = bed.ask(&plan).await;
    assert_eq!((said(&outcome).as_str(), bed.script.at()), ("quick", vec![MS(0), MS(100)]));
    assert_eq!(bed.script.began.elapsed(), MS(150));
    assert_eq!((roles(&x), bed.script.dropped()), (vec![Role::First, Role::Hedge], 1));
    assert_eq!(x.attempts.iter().map(|attempt| attempt.cancelled).collect::<Vec<_>>(), [true, false]);
    assert_eq!(x.target().map(|target| target.name()).as_deref(), Some("b/m"));
    // 50 ms of the two overlap and count once.
    assert_eq!(x.overhead(Instant::now()), MS(0));
    x.outcome = Outcome::Complete;
    drop(Settle::new(x, bed.cx.state.clone()));
    for (name, samples) in [("a/m", 0), ("b/m", 1)] {
        let measure = bed.cx.state.health.record(name).measure(bed.cx.state.now());
        assert_eq!((measure.in_flight, measure.samples), (0, samples), "{name}");
    }
    let metrics = bed.cx.state.metrics.render(0, 0);
    assert!(metrics.contains("portcullis_apart_total{why=\"hedge\",provider=\"a\""), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_fails_or_is_slower_changes_nothing() {
    for second in [status(500), status(400), late(MS(900), good("slower"))] {
        let bed = Bed::new(&[("a", vec![late(MS(300), good("first"))]), ("b", vec![second])]);
        let (outcome, x) = bed.ask(&hedged(&bed, &["a", "b"], HedgeAfter::Fixed(MS(100)), 0.05)).await;
        assert_eq!((said(&outcome).as_str(), bed.script.began.elapsed()), ("first", MS(300)));
        assert_eq!(x.target().map(|target| target.name()).as_deref(), Some("a/m"));
    }
}

#[tokio::test(start_paused = true)]
async fn when_both_fail_the_rules_of_trying_go_on_from_there() {
    let bed = Bed::new(&[("a", vec![late(MS(300), status(404))]), ("b", vec![late(MS(10), status(404))])]);
    let (outcome, x) = bed.ask(&hedged(&bed, &["a", "b", "c"], HedgeAfter::Fixed(MS(100)), 0.05)).await;
    assert_eq!((said(&outcome).as_str(), bed.script.hosts()), ("from c", hosts(&["a", "b", "c"])));
    assert_eq!(roles(&x), [Role::First, Role::Hedge, Role::Next]);
}

#[tokio::test(start_paused = true)]
async fn a_quick_target_and_one_of_which_nothing_is_known_get_no_company() {
    let bed = Bed::new(&[("a", vec![late(MS(90), good("quick")), late(MS(900), good("unknown"))])]);
    assert!(bed.ask(&hedged(&bed, &["a", "b"], HedgeAfter::Fixed(MS(100)), 0.05)).await.0.is_ok());
    assert!(bed.ask(&hedged(&bed, &["a", "b"], HedgeAfter::Quantile(0.95), 0.05)).await.0.is_ok());
    assert_eq!(bed.script.hosts(), hosts(&["a", "a"]));
}

#[tokio::test(start_paused = true)]
async fn the_targets_own_quantile_says_when_it_is_slow_and_the_share_how_often() {
    let bed = Bed::new(&[]);
    let plan = hedged(&bed, &["a", "b"], HedgeAfter::Quantile(0.95), 0.05);
    let mut hedges = 0;
    for number in 0..400 {
        // One in ten is slow; the share allows one in twenty.
        let act = if number % 10 == 9 { late(MS(1000), good("slow")) } else { late(MS(20), good("usual")) };
        bed.script.acts.lock().expect("whole").insert("a", [act].into());
        let (outcome, mut x) = bed.ask(&plan).await;
        hedges += roles(&x).iter().filter(|role| **role == Role::Hedge).count();
        assert!(outcome.is_ok());
        x.outcome = Outcome::Complete;
        drop(Settle::new(x, bed.cx.state.clone()));
    }
    assert!((15..=21).contains(&hedges), "{hedges} of 400");
}

/// How long the first content of 99 in 100 requests takes at most, and how many calls a request costs, with requests in
/// turns over three targets. Their answers begin after 20 to 30 ms; this share of the first one's takes ten times that.
async fn tail(hedge: Option<Hedge>, slow: f64) -> (Duration, f64) {
    const REQUESTS: usize = 3000;
    let stream = || {
        let content = r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}"#;
        Act::Say(200, vec![("content-type", "text/event-stream")], format!("{content}\n\ndata: [DONE]\n\n"))
    };
    let mut dice = fastrand::Rng::with_seed(7);
    let mut acts = |slow: f64| {
        let act = |_| {
            let usual = MS(dice.u64(20..=30));
            late(if dice.f64() < slow { usual * 10 } else { usual }, stream())
        };
        (0..REQUESTS).map(act).collect::<Vec<_>>()
    };
    let bed = Bed::new(&[("a", acts(slow)), ("b", acts(0.0)), ("c", acts(0.0))]);
    let mut names = ["a", "b", "c"];
    let mut times = Vec::new();
    for _ in 0..REQUESTS {
        names.rotate_left(1);
        let rules = Rules { hedge, ..Rules::default() };
        let plan = Plan { rules: Arc::new(rules), ..bed.plan(&names, Retry::default()) };
        let began = Instant::now();
        let (outcome, mut x) = bed.asked(&plan, json!({"model": "any", "stream": true, "messages": []})).await;
        times.push(began.elapsed());
        assert!(outcome.is_ok());
        x.outcome = Outcome::Complete;
        drop(Settle::new(x, bed.cx.state.clone()));
    }
    times.sort();
    (times[REQUESTS * 99 / 100], bed.script.seen().len() as f64 / REQUESTS as f64)
}

/// At most seven calls more in a hundred: with a fixed time where every twentieth request of all is slow, and with the
/// targets' own quantile where every twentieth of one target's is.
#[tokio::test(start_paused = true)]
async fn hedging_cuts_the_tail_to_a_third_for_seven_calls_more_in_a_hundred() {
    for (after, slow) in [(HedgeAfter::Fixed(MS(45)), 0.15), (HedgeAfter::Quantile(0.95), 0.05)] {
        let (plain, once) = tail(None, slow).await;
        assert_eq!(once, 1.0);
        let (hedged, calls) = tail(Some(Hedge { after, budget: 0.07 }), slow).await;
        assert!(hedged * 3 <= plain, "{after:?}: {plain:?} without, {hedged:?} with");
        assert!(calls <= 1.07, "{after:?}: {calls} calls a request");
    }
}

fn mirrored(bed: &Bed, share: f64) -> Plan {
    let rules = Rules { mirror: Some(Mirror { target: bed.target("b"), share }), ..Rules::default() };
    Plan { rules: Arc::new(rules), ..bed.plan(&["a"], Retry::default()) }
}

#[tokio::test(start_paused = true)]
async fn a_mirror_gets_the_same_ask_and_neither_delays_nor_fails_the_exchange() {
    for silent in [good("copy"), status(500), Act::Dead, late(MS(5000), good("slow"))] {
        let bed = Bed::new(&[("b", vec![silent])]);
        let (outcome, x) = bed.ask(&mirrored(&bed, 1.0)).await;
        assert_eq!((said(&outcome).as_str(), bed.script.began.elapsed()), ("from a", MS(0)));
        assert_eq!((x.attempts.len(), x.target().map(|target| target.name()).as_deref()), (1, Some("a/m")));
        // The copy ends on its own.
        sleep(MS(6000)).await;
        let seen = bed.script.seen();
        let mut hosts = bed.script.hosts();
        hosts.sort();
        assert_eq!(hosts, ["a", "b"]);
        assert_eq!(seen[0].body, seen[1].body);
        let (well, failed) = bed.cx.state.health.record("b/m").totals();
        assert_eq!(well + failed.iter().map(|(_, count)| count).sum::<u64>(), 1);
        assert_eq!(bed.cx.state.health.record("b/m").measure(bed.cx.state.now()).in_flight, 0);
        let metrics = bed.cx.state.metrics.render(0, 0);
        assert!(metrics.contains("portcullis_apart_total{why=\"mirror\",provider=\"b\""), "{metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mirror_gets_its_share_and_no_more_at_a_time_than_its_bound() {
    let bed = Bed::new(&[]);
    for _ in 0..1000 {
        assert!(bed.ask(&mirrored(&bed, 0.1)).await.0.is_ok());
        tokio::task::yield_now().await;
    }
    let copies = bed.script.hosts().iter().filter(|host| *host == "b").count();
    // Six standard deviations of a fair draw.
    assert!((43..=157).contains(&copies), "{copies} of 1000");
    let bed = Bed::new(&[("b", vec![late(MS(60_000), good("slow")); 200])]);
    for _ in 0..100 {
        assert!(bed.ask(&mirrored(&bed, 1.0)).await.0.is_ok());
        tokio::task::yield_now().await;
    }
    let copies = bed.script.hosts().iter().filter(|host| *host == "b").count();
    assert_eq!(copies, crate::state::MAX_MIRRORS);
}

#[tokio::test(start_paused = true)]
async fn what_a_key_is_refused_for_in_a_copy_keeps_no_request_from_the_target() {
    let bed = Bed::new(&[("b", vec![limited("retry-after", "600")])]);
    let target = pooled(&bed.target("b"), &[("one", 1, false), ("two", 1, true)]);
    let rules = Rules { mirror: Some(Mirror { target, share: 1.0 }), ..Rules::default() };
    let plan = Plan { rules: Arc::new(rules), ..bed.plan(&["a"], Retry::default()) };
    assert!(bed.ask(&plan).await.0.is_ok());
    sleep(MS(1)).await;
    let standing = |name: &str| bed.cx.state.health.record(name).standing(bed.cx.state.now());
    assert!(matches!(standing("b#one"), Standing::Open { .. }), "{:?}", standing("b#one"));
    assert_eq!(standing("b/m"), Standing::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_has_a_rest_gets_no_copy() {
    let bed = Bed::new(&[]);
    let plan = mirrored(&bed, 1.0);
    let rests = bed.target("b").record(&bed.cx.state.health).clone();
    let too_many = End::Failed { kind: Kind::RateLimited, retry_after: Some(MS(60_000)) };
    rests.begin(bed.cx.state.now()).expect("a place").end(bed.cx.state.now(), too_many);
    assert!(bed.ask(&plan).await.0.is_ok());
    sleep(MS(1)).await;
    assert_eq!(bed.script.hosts(), hosts(&["a"]));
    sleep(MS(60_000)).await;
    assert!(bed.ask(&plan).await.0.is_ok());
    sleep(MS(1)).await;
    assert_eq!(bed.script.hosts(), hosts(&["a", "a", "b"]));
}
