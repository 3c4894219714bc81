//! Breakers, places and measures, driven by a clock that the tests turn.

use std::sync::Arc;
use std::time::Duration;

use super::*;

const SECOND: Millis = 1000;

fn record(settings: Settings) -> Arc<Record> {
    Health::default().target("p/m", &settings)
}

fn breaker() -> Breaker {
    Breaker { min_samples: 4, consecutive: 3, ..Breaker::default() }
}

fn guarded() -> Arc<Record> {
    record(Settings { breaker: Some(breaker()), ..Settings::default() })
}

const GOOD: End = End::Good { output_tokens: None };

fn failed(kind: Kind) -> End {
    End::Failed { kind, retry_after: None }
}

/// Attempts, one after the other, that end like this.
fn play(record: &Arc<Record>, now: Millis, end: End, times: usize) {
    for _ in 0..times {
        record.begin(now).expect("is let through").end(now, end);
    }
}

fn open_until(record: &Record, now: Millis) -> Option<Millis> {
    match record.standing(now) {
        Standing::Open { until } => until,
        _ => None,
    }
}

#[test]
fn failures_in_a_row_open_and_a_good_probe_closes() {
    let record = guarded();
    play(&record, 0, failed(Kind::UpstreamError), 2);
    play(&record, 0, GOOD, 1);
    play(&record, 0, failed(Kind::StreamBroken), 1);
    assert_eq!(open_until(&record, 0), Some(5 * SECOND), "3 of 4 failed");
    let refused = record.begin(SECOND).expect_err("is open");
    assert_eq!(refused, Refused { why: RefusedBy::Open, retry_after: Some(Duration::from_secs(4)) });
    assert_eq!(record.standing(5 * SECOND), Standing::HalfOpen);
    let probe = record.begin(5 * SECOND).expect("one probe");
    assert!(record.begin(5 * SECOND).is_err(), "one at a time");
    assert!(matches!(record.standing(5 * SECOND), Standing::Open { .. }));
    probe.end(6 * SECOND, GOOD);
    assert_eq!(record.standing(6 * SECOND), Standing::Closed);
    play(&record, 6 * SECOND, GOOD, 10);
}

#[test]
fn of_those_who_ask_at_once_no_more_probe_than_may() {
    // Two walk side by side along many breakers, as the moment that they must meet in is short.
    let circuits: Vec<Circuit> = (0..20_000).map(|_| Circuit::default()).collect();
    circuits.iter().for_each(|circuit| circuit.missed(0, Duration::from_secs(5)));
    let steps = AtomicU32::new(0);
    let walk = || {
        let admitted = circuits.iter().zip(1..).map(|(circuit, step)| {
            steps.fetch_add(1, Ordering::SeqCst);
            while steps.load(Ordering::SeqCst) < 2 * step {
                std::hint::spin_loop();
            }
            circuit.admit(5 * SECOND, Some(&breaker())).is_ok()
        });
        admitted.collect::<Vec<bool>>()
    };
    let [one, other] = std::thread::scope(|scope| {
        [scope.spawn(walk), scope.spawn(walk)].map(|walking| walking.join().expect("no panic"))
    });
    assert!(one.iter().zip(&other).all(|(one, other)| one != other), "each has one probe");
}

#[test]
fn a_failed_probe_doubles_the_cool_down_up_to_its_end() {
    let record = guarded();
    play(&record, 0, failed(Kind::UpstreamUnreachable), 3);
    let mut now = 0;
    for seconds in [5, 10, 20, 40, 80, 120, 120] {
        let until = open_until(&record, now).expect("open");
        assert_eq!(until - now, seconds * SECOND);
        now = until;
        play(&record, now, failed(Kind::UpstreamUnreachable), 1);
    }
}

#[test]
fn a_probe_that_says_nothing_makes_room_for_another() {
    let record = guarded();
    play(&record, 0, failed(Kind::UpstreamError), 3);
    let now = 5 * SECOND;
    drop(record.begin(now).expect("a probe"));
    record.begin(now).expect("another").end(now, End::Cancelled);
    record.begin(now).expect("another").end(now, failed(Kind::ContentPolicy));
    record.begin(now).expect("another").end(now, GOOD);
    assert_eq!(record.standing(now), Standing::Closed);
}

#[test]
fn the_rate_needs_enough_samples_within_the_window() {
    let rate = Breaker { consecutive: 100, min_samples: 10, ..Breaker::default() };
    let record = record(Settings { breaker: Some(rate), ..Settings::default() });
    for _ in 0..4 {
        play(&record, 0, failed(Kind::UpstreamError), 1);
        play(&record, 0, GOOD, 1);
    }
    assert_eq!(record.standing(0), Standing::Closed, "8 samples");
    // Those have left the window.
    let later = 31 * SECOND;
    play(&record, later, failed(Kind::UpstreamError), 9);
    assert_eq!(record.standing(later), Standing::Closed, "9 samples");
    play(&record, later, failed(Kind::UpstreamError), 1);
    assert!(open_until(&record, later).is_some());
}

#[test]
fn what_the_asker_did_wrong_counts_for_nothing() {
    let record = guarded();
    for kind in [
        Kind::ContextLength,
        Kind::ContentPolicy,
        Kind::UpstreamRejected,
        Kind::UpstreamNotFound,
        Kind::UpstreamCredential,
        Kind::ClientGone,
        Kind::ClientTooSlow,
        Kind::UnsupportedFeature,
    ] {
        play(&record, 0, failed(kind), 20);
        assert_eq!(record.standing(0), Standing::Closed, "{kind:?}");
    }
}

#[test]
fn many_that_fail_together_open_once() {
    let record = guarded();
    let flights: Vec<_> = (0..50).map(|_| record.begin(0).expect("closed")).collect();
    for flight in flights {
        flight.end(SECOND, failed(Kind::UpstreamError));
    }
    assert_eq!(open_until(&record, SECOND), Some(6 * SECOND));
}

#[test]
fn its_own_word_on_when_to_come_back_is_kept() {
    let record = guarded();
    let asked = |kind, seconds| End::Failed { kind, retry_after: Some(Duration::from_secs(seconds)) };
    play(&record, 0, asked(Kind::RateLimited, 20), 1);
    assert_eq!(open_until(&record, 0), Some(20 * SECOND));
    // A rate limit is over when it is over: no probes.
    let flights: Vec<_> = (0..5).map(|_| record.begin(20 * SECOND).expect("closed")).collect();
    drop(flights);
    // Unavailable: one is asked first.
    play(&record, 30 * SECOND, asked(Kind::Overloaded, 7), 1);
    assert_eq!(open_until(&record, 30 * SECOND), Some(37 * SECOND));
    assert_eq!(record.standing(37 * SECOND), Standing::HalfOpen);
    // Nobody is believed for longer than an hour.
    let other = guarded();
    play(&other, 0, asked(Kind::RateLimited, 86_400), 1);
    assert_eq!(open_until(&other, 0), Some(3600 * SECOND));
}

#[test]
fn too_many_requests_without_a_word_cool_for_longer_each_time() {
    let record = guarded();
    let mut now = 0;
    for seconds in [1, 2, 4] {
        play(&record, now, failed(Kind::RateLimited), 1);
        assert_eq!(open_until(&record, now), Some(now + seconds * SECOND));
        now += seconds * SECOND;
    }
    play(&record, now, GOOD, 1);
    play(&record, now, failed(Kind::RateLimited), 1);
    assert_eq!(open_until(&record, now), Some(now + SECOND));
}

#[test]
fn a_refused_key_rests_and_a_working_one_does_not_pay_for_the_provider() {
    let health = Health::default();
    let settings = Settings { breaker: Some(Breaker::default()), ..Settings::default() };
    let key = health.key("p", "a", &settings);
    play(&key, 0, failed(Kind::UpstreamError), 50);
    assert_eq!(key.standing(0), Standing::Closed);
    play(&key, 0, failed(Kind::UpstreamCredential), 1);
    assert_eq!(open_until(&key, 0), Some(60 * SECOND));
    play(&key, 60 * SECOND, failed(Kind::QuotaExceeded), 1);
    assert_eq!(open_until(&key, 60 * SECOND), Some(180 * SECOND));
    // Without a breaker a key is asked like a target: always.
    let bare = health.key("p", "b", &Settings::default());
    play(&bare, 0, failed(Kind::UpstreamCredential), 3);
    assert_eq!(bare.standing(0), Standing::Closed);
    assert_eq!(bare.measure(0).samples, 3, "what failed is counted all the same");
}

#[test]
fn a_model_with_a_hash_in_its_name_is_a_target_and_no_key() {
    let health = Health::default();
    let settings = Settings { breaker: Some(breaker()), ..Settings::default() };
    // How Fireworks names a deployment of one's own.
    let target = health.target("fireworks/accounts/a/models/m#accounts/a/deployments/d", &settings);
    play(&target, 0, failed(Kind::UpstreamError), 3);
    assert_eq!(open_until(&target, 0), Some(5 * SECOND));
    let key = health.key("fireworks", "1", &settings);
    play(&key, 0, failed(Kind::UpstreamError), 3);
    assert_eq!(key.standing(0), Standing::Closed);
}

#[test]
fn the_operators_word_counts_over_everything() {
    let record = guarded();
    let under_way = record.begin(0).expect("closed");
    record.want(Wanted::Drained);
    assert_eq!(record.begin(0).expect_err("drained").why, RefusedBy::Drained);
    under_way.end(0, GOOD);
    assert_eq!(record.standing(1_000_000), Standing::Drained);
    record.want(Wanted::Open);
    assert_eq!(record.standing(1_000_000), Standing::Open { until: None });
    play_none(&record, 1_000_000);
    record.want(Wanted::Closed);
    play(&record, 0, failed(Kind::UpstreamError), 3);
    assert!(open_until(&record, 0).is_some());
    record.want(Wanted::Closed);
    assert_eq!(record.standing(0), Standing::Closed);
    play(&record, 0, failed(Kind::UpstreamError), 2);
    assert_eq!(record.standing(0), Standing::Closed, "what was before is forgotten");
}

fn play_none(record: &Arc<Record>, now: Millis) {
    assert!(record.begin(now).is_err());
}

#[test]
fn a_drained_provider_drains_all_its_targets() {
    let health = Health::default();
    let target = health.target("p/m", &Settings::default());
    health.record("p").want(Wanted::Drained);
    assert_eq!(target.begin(0).expect_err("drained").why, RefusedBy::Drained);
    assert_eq!(target.measure(0).in_flight, 0);
}

#[test]
fn places_are_the_providers_and_come_back_however_an_attempt_ends() {
    let health = Health::default();
    let settings = Settings { max_inflight: Some(2), ..Settings::default() };
    let (one, other) = (health.target("p/one", &settings), health.target("p/other", &settings));
    let first = one.begin(0).expect("a place");
    let second = other.begin(0).expect("a place");
    assert_eq!(one.begin(0).expect_err("full").why, RefusedBy::Full);
    assert_eq!((one.measure(0).in_flight, health.record("p").measure(0).in_flight), (1, 2));
    drop(first);
    second.end(0, failed(Kind::UpstreamError));
    assert_eq!((one.measure(0).in_flight, health.record("p").measure(0).in_flight), (0, 0));
    let both = [one.begin(0), one.begin(0)];
    assert!(both.iter().all(Result::is_ok));
}

#[test]
fn a_reload_changes_settings_and_keeps_what_was_counted() {
    let health = Health::default();
    let target = health.target("p/m", &Settings { breaker: Some(breaker()), ..Settings::default() });
    play(&target, 0, failed(Kind::UpstreamError), 3);
    let again = health.target("p/m", &Settings { breaker: Some(Breaker::default()), ..Settings::default() });
    assert_eq!(open_until(&again, 0), Some(5 * SECOND));
    assert_eq!(again.totals(), (0, vec![(Kind::UpstreamError, 3)]));
    // Taking the breaker away closes it.
    let without = health.target("p/m", &Settings::default());
    assert_eq!(without.standing(0), Standing::Closed);
    assert!(without.begin(0).is_ok());
}

#[test]
fn measures_tell_streams_from_whole_answers() {
    let record = guarded();
    let mut stream = record.begin(0).expect("closed");
    stream.first_content(200);
    stream.first_content(900);
    stream.end(2_200, End::Good { output_tokens: Some(100) });
    let measure = record.measure(2_200);
    assert_eq!(measure.ttft_ewma_ms, Some(200.0));
    assert_eq!(measure.duration_ewma_ms, Some(2_200.0));
    assert_eq!(measure.throughput_ewma, Some(50.0));
    assert!(measure.ttft.p50.is_some_and(|p50| (p50 / 200.0 - 1.0).abs() < 0.1));
    let whole = record.begin(3_000).expect("closed");
    whole.end(3_500, End::Good { output_tokens: None });
    let measure = record.measure(3_500);
    assert_eq!(measure.ttft_ewma_ms, Some(200.0));
    assert!(measure.duration.p99.is_some_and(|p99| p99 > 1_900.0));
    record.begin(4_000).expect("closed").end(4_100, failed(Kind::UpstreamError));
    assert_eq!((record.measure(4_100).samples, record.measure(4_100).error_rate), (3, 1.0 / 3.0));
}

#[test]
fn a_target_that_does_not_answer_is_known_to_be_slow() {
    let record = guarded();
    record.begin(0).expect("closed").end(10_000, failed(Kind::FirstTokenTimeout));
    assert_eq!(record.measure(10_000).ttft_ewma_ms, Some(10_000.0));
}

#[test]
fn what_is_left_of_its_rate_limit_is_known_for_a_minute() {
    let record = guarded();
    record.set_usage_left(0, 0.25);
    assert_eq!(record.measure(59 * SECOND).usage_left, Some(0.25));
    assert_eq!(record.measure(61 * SECOND).usage_left, None);
    record.tool_calls(0, 3, 1);
    assert_eq!(record.measure(0).tool_validity, Some(0.75));
}

#[test]
fn names_without_end_share_a_record() {
    let health = Health::default();
    for number in 0..MAX_RECORDS + 10 {
        health.record(&format!("p/{number}"));
    }
    assert_eq!(health.all().len(), MAX_RECORDS + 1);
    assert_eq!(health.record("p/never-seen").name, "p/*");
    assert_eq!(health.record("p/7").name, "p/7");
}

fn queued(size: u32) -> Arc<Record> {
    let queue = QueueSettings { size, wait: Duration::from_secs(10) };
    record(Settings { max_inflight: Some(1), queue, ..Settings::default() })
}

/// Lets everything that can run do so.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_served_by_urgency_then_by_order() {
    let target = queued(10);
    let under_way = target.begin(0).expect("a place");
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    for (name, priority) in [("first", 1), ("second", 1), ("urgent", 9)] {
        let (target, tell) = (target.clone(), tell.clone());
        tokio::spawn(async move {
            let flight = target.enter(0, false, priority, Duration::from_secs(5)).await.expect("a place in time");
            tell.send(name).expect("the test listens");
            flight.end(1, GOOD);
        });
        settle().await;
    }
    assert!(told.try_recv().is_err());
    assert_eq!(target.begin(0).expect_err("others wait").why, RefusedBy::Full);
    under_way.end(1, GOOD);
    let mut order = Vec::new();
    for _ in 0..3 {
        order.push(told.recv().await.expect("three are served"));
    }
    assert_eq!(order, ["urgent", "first", "second"]);
    assert!(target.begin(1).is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_is_told_in_time_and_who_leaves_makes_room() {
    let target = queued(1);
    let under_way = target.begin(0).expect("a place");
    let waits = tokio::spawn({
        let target = target.clone();
        async move { target.enter(0, false, 0, Duration::from_secs(2)).await.map(drop) }
    });
    settle().await;
    // The queue holds one.
    assert_eq!(target.enter(0, false, 0, Duration::from_secs(2)).await.expect_err("no room").why, RefusedBy::Full);
    waits.abort();
    settle().await;
    let started = tokio::time::Instant::now();
    let refused = target.enter(0, false, 0, Duration::from_secs(3)).await.expect_err("nobody lands");
    assert_eq!((refused.why, started.elapsed()), (RefusedBy::Full, Duration::from_secs(3)));
    drop(under_way);
    assert!(target.enter(0, false, 0, Duration::from_secs(3)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_place_whose_waiter_has_left_goes_on_to_the_next() {
    let target = queued(5);
    let under_way = target.begin(0).expect("a place");
    let leaves = tokio::spawn({
        let target = target.clone();
        async move { target.enter(0, false, 5, Duration::from_secs(9)).await.map(drop) }
    });
    settle().await;
    let stays = tokio::spawn({
        let target = target.clone();
        async move { target.enter(0, false, 1, Duration::from_secs(9)).await.map(drop) }
    });
    settle().await;
    leaves.abort();
    drop(under_way);
    stays.await.expect("runs").expect("gets the place");
    assert_eq!(Health::default().record("p").waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_would_be_too_long_is_not_begun() {
    let target = queued(5);
    let slow = target.begin(0).expect("a place");
    slow.end(60 * SECOND, GOOD);
    let under_way = target.begin(60 * SECOND).expect("a place");
    let started = tokio::time::Instant::now();
    let refused = target.enter(60 * SECOND, false, 0, Duration::from_secs(5)).await.expect_err("answers take a minute");
    assert!(started.elapsed().is_zero());
    assert_eq!(refused.retry_after, Some(Duration::from_secs(60)));
    drop(under_way);
}

/// Else one "too many requests" would keep all who wait, and all who come after them, from a provider with free places.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_target_without_a_rival_is_served_past_a_breaker_that_spares_it() {
    let queue = QueueSettings { size: 5, wait: Duration::from_secs(10) };
    let spares =
        Settings { breaker: Some(breaker()), spares_lone: true, max_inflight: Some(1), queue, ..Settings::default() };
    for (alone, spares_lone) in [(true, true), (true, false), (false, true)] {
        let target = record(Settings { spares_lone, ..spares.clone() });
        let under_way = target.begin(0).expect("a place");
        let waits = tokio::spawn({
            let target = target.clone();
            async move { target.enter(0, alone, 0, Duration::from_secs(3)).await.map(drop) }
        });
        settle().await;
        under_way.end(1, End::Failed { kind: Kind::RateLimited, retry_after: Some(Duration::from_secs(60)) });
        assert!(open_until(&target, 1).is_some());
        assert_eq!(waits.await.expect("runs").is_ok(), alone && spares_lone, "{alone} {spares_lone}");
    }
}

#[test]
fn all_workers_count_together() {
    let health = Arc::new(Health::default());
    let settings = Settings { max_inflight: Some(8), breaker: Some(Breaker::default()), ..Settings::default() };
    let target = health.target("p/m", &settings);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let target = target.clone();
            std::thread::spawn(move || {
                let mut served = 0u64;
                for round in 0..20_000u64 {
                    if let Ok(mut flight) = target.begin(round / 10) {
                        assert!(target.measure(round / 10).in_flight <= 8);
                        flight.first_content(round / 10);
                        flight.end(round / 10, GOOD);
                        served += 1;
                    }
                }
                served
            })
        })
        .collect();
    let served: u64 = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
    assert_eq!(target.totals(), (served, vec![]));
    assert_eq!(target.measure(2_000).in_flight, 0);
    assert_eq!(health.record("p").measure(2_000).in_flight, 0);
}
