//! The engine as a whole: many rules, many callers, and what is left when they are gone.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::AtomicU64;

use http::HeaderMap;
use serde_json::json;
use smallvec::smallvec;

use super::calendar::{Calendar, Period};
use super::cell::Threshold;
use super::report::Row;
use super::rule::{Budget, Exhausted, Part, Share, Window};
use super::*;

const NOW: u64 = 1_700_000_000_000;

fn rule(name: &str, windows: &[(Unit, Shape, u64)]) -> Rule {
    Rule {
        name: name.into(),
        conditions: vec![],
        per: vec![],
        windows: windows
            .iter()
            .map(|(unit, shape, limit)| Window { unit: *unit, shape: *shape, limit: *limit })
            .collect(),
        exhausted: Exhausted::Reject,
        class: Part::Key,
        shares: vec![],
        hard: true,
        unpriced: false,
        lease: 0,
        budget: None,
    }
}

pub(super) fn requests(name: &str, limit: u64) -> Arc<Rule> {
    Arc::new(rule(name, &[(Unit::Requests, Shape::Sliding(60_000), limit)]))
}

pub(super) fn facts<'a>(key: &'a str, headers: &'a HeaderMap, metadata: &'a BTreeMap<String, String>) -> Facts<'a> {
    Facts {
        key,
        project: None,
        user: None,
        model: "m",
        endpoint: "/",
        ip: None,
        headers,
        metadata,
        provider: None,
        target: None,
    }
}

fn reserve(
    limits: &Arc<Limits>,
    rules: &[Arc<Rule>],
    key: &str,
    amounts: &Amounts,
    now: u64,
) -> Result<Hold, Box<Refusal>> {
    let (headers, metadata) = (HeaderMap::new(), BTreeMap::new());
    let charges = limits.charges(rules, &facts(key, &headers, &metadata), now);
    limits.reserve(&charges, &Estimate::exact(*amounts), now)
}

pub(super) const ONE: Amounts = Amounts { requests: 1, input: 10, output: 20, money: Some(1000) };

#[test]
fn of_64_callers_a_limit_of_n_admits_exactly_n() {
    const CALLERS: usize = 64;
    let limits = Arc::new(Limits::new());
    let bucket = rule("bucket", &[(Unit::Requests, Shape::Bucket(86_400_000), 997)]);
    let fixed = rule("fixed", &[(Unit::Tokens, Shape::Fixed(86_400_000), 30 * 1500)]);
    // In another order for each caller: nobody may wait for somebody who waits for him.
    let rules = [requests("sliding", 1200), Arc::new(bucket), Arc::new(fixed)];
    let (admitted, start) = (AtomicU64::new(0), Barrier::new(CALLERS));
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (limits, admitted, start) = (limits.clone(), &admitted, &start);
            let mut mine = rules.to_vec();
            mine.rotate_left(caller % 3);
            scope.spawn(move || {
                start.wait();
                for _ in 0..100 {
                    if let Ok(hold) = reserve(&limits, &mine, "k", &ONE, NOW) {
                        admitted.fetch_add(1, Ordering::Relaxed);
                        hold.settle(&ONE, NOW);
                    }
                }
            });
        }
    });
    assert_eq!(admitted.into_inner(), 997);
    // What was refused by the bucket has taken nothing from the others.
    let sliding = [rules[0].clone()];
    let left =
        (0..1200).filter(|_| reserve(&limits, &sliding, "k", &ONE, NOW).map(|hold| hold.settle(&ONE, NOW)).is_ok());
    assert_eq!(left.count(), 1200 - 997);
}

#[test]
fn what_is_dropped_is_given_back_and_what_is_settled_is_counted() {
    let limits = Arc::new(Limits::new());
    let rules = [Arc::new(rule(
        "r",
        &[
            (Unit::Requests, Shape::Fixed(60_000), 10),
            (Unit::Tokens, Shape::Sliding(60_000), 100),
            (Unit::Money, Shape::Calendar(Calendar { period: Period::Day, offset: 0 }), 5000),
            (Unit::Concurrency, Shape::InFlight, 2),
        ],
    ))];
    let first = reserve(&limits, &rules, "k", &ONE, NOW).expect("has room");
    let second = reserve(&limits, &rules, "k", &ONE, NOW).expect("has room");
    let refused = reserve(&limits, &rules, "k", &ONE, NOW).map(drop).expect_err("two are under way");
    assert_eq!((refused.unit, refused.wait), (Unit::Concurrency, Wait::Release));
    drop(first);
    second.settle(&Amounts { requests: 1, input: 50, output: 45, money: Some(4500) }, NOW);
    let refused = reserve(&limits, &rules, "k", &ONE, NOW).map(drop).expect_err("95 tokens are used");
    // The day is longer than the minute, but of money 500 are left and 1000 are wanted.
    assert_eq!((refused.unit, refused.used, refused.amount), (Unit::Money, 4500, 1000));
    let small = Amounts { requests: 1, input: 2, output: 3, money: Some(500) };
    let hold = reserve(&limits, &rules, "k", &small, NOW).expect("fits exactly");
    let left: Vec<u64> = hold.standing.iter().map(|standing| standing.remaining).collect();
    assert_eq!(left, [8, 0, 0, 1]);
}

#[test]
fn a_reload_with_other_limits_keeps_the_counts() {
    let limits = Arc::new(Limits::new());
    let take =
        |limit: u64| reserve(&limits, &[requests("r", limit)], "k", &ONE, NOW).map(|hold| hold.settle(&ONE, NOW));
    assert!(take(2).is_ok() && take(2).is_ok() && take(2).is_err());
    assert!(take(3).is_ok() && take(3).is_err());
    assert!(take(1).is_err());
}

#[test]
fn partitions_are_counted_apart_and_their_number_has_an_end() {
    let limits = Arc::new(Limits::bounded(64));
    let mut each = rule("each", &[(Unit::Requests, Shape::Fixed(60_000), 1)]);
    each.per = vec![Part::Key];
    let rules = [Arc::new(each)];
    let take = |key: &str, now| reserve(&limits, &rules, key, &ONE, now).map(|hold| hold.settle(&ONE, now)).is_ok();
    let admitted = (0..10_000).filter(|key| take(&key.to_string(), NOW)).count();
    assert!(limits.keys() <= 64 + 64, "{} cells", limits.keys());
    // Each that has a count of its own, and the one that the others share in each shard.
    assert!((2..=128).contains(&admitted), "{admitted}");
    assert!(!take("0", NOW), "a count that is not idle was forgotten");
    // A window later they are idle, and give way to new ones.
    assert!((0..32).filter(|key| take(&format!("new-{key}"), NOW + 120_000)).count() > 8);
}

#[test]
fn a_flood_of_one_rules_partitions_takes_nothing_of_another_rules() {
    let limits = Arc::new(Limits::bounded(64 * 512));
    let each = |name: &str| {
        let mut each = rule(name, &[(Unit::Requests, Shape::Fixed(60_000), 1)]);
        each.per = vec![Part::Key];
        [Arc::new(each)]
    };
    let take = |rules: &[Arc<Rule>], key: &str, now| {
        reserve(&limits, rules, key, &ONE, now).map(|hold| hold.settle(&ONE, now)).is_ok()
    };
    let (flooded, second, quiet) = (each("flooded"), each("second"), each("quiet"));
    // What goes beyond shares a count of its own.
    let admitted = (0..40_000).filter(|key| take(&flooded, &key.to_string(), NOW)).count();
    assert!(admitted.abs_diff(64 * 384) < 9, "{admitted} of three quarters");
    let admitted = (0..20_000).filter(|key| take(&second, &key.to_string(), NOW)).count();
    assert!(admitted.abs_diff(64 * 96) < 9, "{admitted} of three quarters of what is left");
    // Every partition of this one has a count of its own.
    assert_eq!((0..60).filter(|key| take(&quiet, &key.to_string(), NOW)).count(), 60);
    assert!((0..60).all(|key| !take(&quiet, &key.to_string(), NOW)));
    assert!(limits.keys() <= 64 * 512 + 2, "{} cells", limits.keys());
    // What is idle a window later gives way, though the map is not full.
    let later = NOW + 120_000;
    let again = (40_000..42_000).filter(|key| take(&flooded, &key.to_string(), later)).count();
    assert_eq!(again, 2000);
}

#[test]
fn shares_are_kept_for_those_who_ask_and_borrowed_while_they_do_not() {
    let limits = Arc::new(Limits::new());
    let mut shared = rule("shared", &[(Unit::Requests, Shape::Fixed(60_000), 10)]);
    shared.shares = vec![Share { name: "gold".into(), permille: 600 }, Share { name: "rest".into(), permille: 400 }];
    let rules = [Arc::new(shared)];
    let now = NOW - NOW % 60_000;
    let take = |key: &str, now| reserve(&limits, &rules, key, &ONE, now).map(|hold| hold.settle(&ONE, now)).is_ok();
    // Gold is idle: the others have all of it.
    assert_eq!((0..20).filter(|_| take("someone", now)).count(), 10);
    assert!(!take("gold", now + 1));
    // It has asked now: in the next window its part is kept.
    assert_eq!((0..20).filter(|_| take("someone", now + 60_000)).count(), 4);
    assert_eq!((0..20).filter(|_| take("gold", now + 60_001)).count(), 6);
    // After a while without asking, it is borrowed again.
    assert_eq!((0..20).filter(|_| take("someone", now + 180_000)).count(), 10);
}

#[test]
fn what_is_only_assumed_takes_what_is_left_and_lets_nobody_else_in() {
    let limits = Arc::new(Limits::new());
    let windows = [
        (Unit::OutputTokens, Shape::Fixed(86_400_000), 1000),
        (Unit::Tokens, Shape::Sliding(86_400_000), 1_000_000),
        (Unit::Money, Shape::Bucket(86_400_000), 3000),
    ];
    let rules = [Arc::new(rule("r", &windows))];
    let (headers, metadata) = (HeaderMap::new(), BTreeMap::new());
    let most = Amounts { requests: 1, input: 10, output: 1024, money: Some(4000) };
    let estimate = Estimate { most, least: Amounts { output: 1, money: Some(40), ..most } };
    let ask = || {
        let charges = limits.charges(&rules, &facts("k", &headers, &metadata), NOW);
        limits.reserve(&charges, &estimate, NOW)
    };
    let first = ask().expect("has room for a part of what is assumed");
    let left: Vec<u64> = first.standing.iter().map(|standing| standing.remaining).collect();
    assert_eq!(left, [0, 1_000_000 - 1034, 0]);
    let refused = ask().map(drop).expect_err("nothing is left until the first has ended");
    assert_eq!((refused.unit, refused.amount, refused.assumed), (Unit::OutputTokens, 1, true));
    first.settle(&Amounts { output: 900, money: Some(2900), ..most }, NOW);
    let second = ask().expect("has room for the least");
    assert!(ask().is_err());
    // It used more than was left: over by its own error, and by nobody else's.
    second.settle(&Amounts { output: 900, money: Some(2900), ..most }, NOW);
    assert!(ask().is_err());
    let charges = limits.charges(&rules, &facts("k", &headers, &metadata), NOW);
    assert!(limits.reserve(&charges, &Estimate::exact(most), NOW).is_err(), "what is stated was cut down");
}

#[test]
fn what_is_only_assumed_takes_no_more_than_a_share_has() {
    let limits = Arc::new(Limits::new());
    let mut shared = rule("shared", &[(Unit::OutputTokens, Shape::Fixed(60_000), 1000)]);
    shared.shares = vec![Share { name: "gold".into(), permille: 600 }, Share { name: "rest".into(), permille: 400 }];
    let rules = [Arc::new(shared)];
    let (headers, metadata) = (HeaderMap::new(), BTreeMap::new());
    let estimate = Estimate { most: Amounts { output: 700, ..ONE }, least: Amounts { output: 1, ..ONE } };
    let ask = |key: &str| {
        let charges = limits.charges(&rules, &facts(key, &headers, &metadata), NOW);
        limits.reserve(&charges, &estimate, NOW)
    };
    let gold = ask("gold").expect("has room");
    let rest = ask("someone").expect("has room");
    assert_eq!((gold.standing[0].remaining, rest.standing[0].remaining), (300, 0));
    drop(gold);
    // Gold asks, so that its part is kept.
    assert!(ask("someone").is_ok_and(|hold| hold.standing[0].remaining == 600));
    assert!(ask("gold").is_ok_and(|hold| hold.standing[0].remaining == 100));
}

#[test]
fn a_hard_budget_that_refuses_for_want_of_money_says_so_once() {
    let limits = Arc::new(Limits::new());
    let told: Arc<Mutex<Vec<(u64, u64, bool)>>> = Arc::default();
    let tell = told.clone();
    limits.tell(Box::new(move |alert| {
        tell.lock().expect("unpoisoned").push((alert.percent, alert.used, alert.refuses));
    }));
    let mut hard = rule("b", &[(Unit::Money, Shape::Fixed(60_000), 10_000)]);
    hard.budget = Some(Budget { thresholds: vec![50, 100], webhook: None });
    let rules = [Arc::new(hard)];
    let now = NOW - NOW % 60_000;
    let ask = |money| reserve(&limits, &rules, "k", &Amounts { money: Some(money), ..ONE }, now);
    assert!(ask(20_000).is_err(), "more than all of it");
    let held = ask(9000).expect("has room");
    assert!(ask(3000).is_err(), "until what is held comes back");
    held.settle(&Amounts { money: Some(6000), ..ONE }, now);
    assert_eq!(*told.lock().expect("unpoisoned"), [(50, 6000, false)]);
    ask(3000).expect("has room").settle(&Amounts { money: Some(3000), ..ONE }, now);
    for _ in 0..3 {
        assert!(ask(3000).is_err(), "a tenth is left");
    }
    assert_eq!(*told.lock().expect("unpoisoned"), [(50, 6000, false), (100, 9000, true)]);
}

#[test]
fn a_budget_that_is_raised_within_its_window_has_other_thresholds() {
    let limits = Arc::new(Limits::new());
    let told: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
    let tell = told.clone();
    limits.tell(Box::new(move |alert| tell.lock().expect("unpoisoned").push((alert.percent, alert.limit))));
    let now = NOW - NOW % 60_000;
    let of = |limit| {
        let mut soft = rule("b", &[(Unit::Money, Shape::Fixed(60_000), limit)]);
        soft.hard = false;
        soft.budget = Some(Budget { thresholds: vec![50, 80, 100], webhook: None });
        [Arc::new(soft)]
    };
    let spend = |limit, times| {
        for _ in 0..times {
            reserve(&limits, &of(limit), "k", &ONE, now).expect("a soft budget refuses nobody").settle(&ONE, now);
        }
        std::mem::take(&mut *told.lock().expect("unpoisoned"))
    };
    assert_eq!(spend(10_000, 10), [(50, 10_000), (80, 10_000), (100, 10_000)]);
    // What was spent is known; only what comes is new.
    assert_eq!(spend(11_000, 1), [(100, 11_000)]);
    assert_eq!(spend(30_000, 20), [(50, 30_000), (80, 30_000), (100, 30_000)]);
    assert!(spend(30_000, 5).is_empty());
    // Lowered and raised again it is the one that was told of.
    assert!(spend(20_000, 1).is_empty());
    assert!(spend(30_000, 1).is_empty());
}

#[test]
fn a_threshold_is_owed_until_somebody_was_told() {
    let limits = Arc::new(Limits::new());
    limits.watch();
    let told: Arc<Mutex<Vec<Alert>>> = Arc::default();
    let tell = told.clone();
    limits.tell(Box::new(move |alert| tell.lock().expect("unpoisoned").push(alert)));
    let mut soft = rule("b", &[(Unit::Money, Shape::Total, 10_000)]);
    soft.hard = false;
    soft.budget = Some(Budget { thresholds: vec![50, 80], webhook: None });
    let rules = [Arc::new(soft)];
    let spend = |limits: &Arc<Limits>, times| {
        for _ in 0..times {
            reserve(limits, &rules, "k", &ONE, NOW).expect("a soft budget refuses nobody").settle(&ONE, NOW);
        }
    };
    let written = || limits.changed().pop().map(|row| row.told.percent);
    spend(&limits, 5);
    assert_eq!(written(), Some(0), "nobody was told of 50 %");
    spend(&limits, 3);
    let rows = limits.changed();
    let alerts = told.lock().expect("unpoisoned").clone();
    assert_eq!(alerts.iter().map(|alert| alert.percent).collect::<Vec<_>>(), [50, 80]);
    limits.told(&alerts[0]);
    assert_eq!(written(), Some(50), "80 % are still owed");
    limits.told(&alerts[1]);
    assert_eq!(written(), Some(80));
    // Who has died before that tells it in its next life.
    let next = Arc::new(Limits::new());
    let again: Arc<Mutex<Vec<u64>>> = Arc::default();
    let tell = again.clone();
    next.tell(Box::new(move |alert| tell.lock().expect("unpoisoned").push(alert.percent)));
    next.restore(rows, NOW);
    spend(&next, 1);
    assert_eq!(*again.lock().expect("unpoisoned"), [80]);
}

#[test]
fn thresholds_are_told_once_a_window() {
    let limits = Arc::new(Limits::new());
    let told: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
    let tell = told.clone();
    limits.tell(Box::new(move |alert| tell.lock().expect("unpoisoned").push((alert.percent, alert.used))));
    let mut soft = rule("b", &[(Unit::Money, Shape::Fixed(60_000), 10_000)]);
    soft.hard = false;
    soft.budget = Some(Budget { thresholds: vec![50, 80, 100], webhook: None });
    let rules = [Arc::new(soft)];
    let now = NOW - NOW % 60_000;
    for at in [now, now + 60_000] {
        for _ in 0..15 {
            reserve(&limits, &rules, "k", &ONE, at).expect("a soft budget refuses nobody").settle(&ONE, at);
        }
    }
    let once = [(50, 5000), (80, 8000), (100, 10_000)];
    assert_eq!(*told.lock().expect("unpoisoned"), [once, once].concat());
}

#[test]
fn what_is_written_down_is_what_was_settled_and_reads_back() {
    let day = Shape::Calendar(Calendar { period: Period::Day, offset: 60 });
    let rules = [Arc::new(rule("r", &[(Unit::Money, day, 5000), (Unit::Requests, Shape::Sliding(60_000), 10)]))];
    let limits = Arc::new(Limits::new());
    limits.watch();
    let held = reserve(&limits, &rules, "k", &ONE, NOW).expect("has room");
    reserve(&limits, &rules, "k", &ONE, NOW).expect("has room").settle(&Amounts { money: Some(2500), ..ONE }, NOW);
    let rows = limits.changed();
    let lasting: Vec<_> = rows.iter().map(|row| (row.unit, row.shape, row.cur)).collect();
    assert_eq!(lasting, [(Unit::Money, day, 2500)], "a minute's window, or what is only reserved, was written");
    assert!(limits.changed().is_empty());
    drop(held);
    for shape in [day, Shape::Total, Shape::Fixed(5), Shape::Sliding(6), Shape::Bucket(7)] {
        assert_eq!(Shape::from_text(&shape.text()), Some(shape));
    }
    let again = Arc::new(Limits::new());
    again.restore(rows, NOW);
    let two = Amounts { money: Some(2501), ..ONE };
    assert!(reserve(&again, &rules, "k", &two, NOW).is_err());
    assert!(reserve(&again, &rules, "k", &Amounts { money: Some(2500), ..ONE }, NOW).is_ok());
}

#[test]
fn what_finds_no_room_when_it_is_brought_back_counts_with_the_others() {
    let row = |key: u32, shape, start| Row {
        rule: "r".to_owned(),
        partition: key.to_string(),
        unit: Unit::Requests,
        shape,
        share: String::new(),
        limit: 10,
        start,
        cur: 1,
        prev: 0,
        told: Threshold::default(),
        told_start: 0,
    };
    let limits = Limits::bounded(64);
    let over = (0..1000).map(|key| row(key, Shape::Fixed(60_000), NOW - 120_000));
    limits.restore(over.chain((0..1000).map(|key| row(key, Shape::Total, 0))).collect(), NOW);
    assert!(limits.keys() <= 65, "{} cells", limits.keys());
    let mut sum = 0;
    limits.cells.each(|cell| sum += cell.lock().slots.iter().map(|slot| slot.meter.cur).sum::<u128>());
    assert_eq!(sum, 1000);
}

#[test]
fn an_operator_sees_and_resets_the_counts() {
    let rules = [requests("r", 4)];
    let limits = Arc::new(Limits::new());
    reserve(&limits, &rules, "k", &ONE, NOW).expect("has room").settle(&ONE, NOW);
    let _held = reserve(&limits, &rules, "k", &ONE, NOW).expect("has room");
    let window = limits.state(&rules, NOW, 10, None)["rules"][0]["fullest"][0]["windows"][0].clone();
    assert_eq!((window["used"].as_u64(), window["reserved"].as_u64()), (Some(2), Some(1)), "{window}");
    assert_eq!(limits.reset("r", Some("")), 1);
    assert_eq!(limits.reset("other", None), 0);
    let window = limits.state(&rules, NOW, 10, None)["rules"][0]["fullest"][0]["windows"][0].clone();
    assert_eq!(window["used"].as_u64(), Some(1), "{window}");
}

#[test]
fn guests_count_in_windows_of_their_own() {
    let limits = Arc::new(Limits::new());
    let of = Adhoc { namespace: "policy", key: "tenant", shape: Shape::Fixed(60_000), limit: 3 };
    assert!(limits.take(&of, 2, NOW).expect("few windows").allowed);
    assert_eq!(limits.peek(&of, 1, NOW).expect("few windows").remaining, 1);
    assert!(!limits.take(&of, 2, NOW).expect("few windows").allowed);
    let held = limits.hold(&of, 1, NOW).expect("few windows").expect("has room");
    assert!(!limits.peek(&of, 1, NOW).expect("few windows").allowed);
    drop(held);
    limits.hold(&of, 1, NOW).expect("few windows").expect("has room").settle(0, NOW);
    assert!(limits.peek(&of, 1, NOW).expect("few windows").allowed);
    assert_eq!(limits.peek(&Adhoc { namespace: "other", ..of }, 3, NOW).expect("few windows").remaining, 3);
}

#[test]
fn a_guest_that_makes_up_ever_new_windows_fills_no_memory() {
    let limits = Arc::new(Limits::new());
    let of = |length| Adhoc { namespace: "policy", key: "k", shape: Shape::Fixed(length), limit: 9 };
    let most = MAX_WINDOWS as u64;
    let held = limits.hold(&of(most), 1, NOW).expect("few windows");
    for length in 1..most {
        assert!(limits.take(&of(length), 1, NOW).is_ok());
    }
    assert_eq!(limits.take(&of(most + 1), 1, NOW), Err(Crowded));
    assert!(limits.take(&of(1), 1, NOW).is_ok(), "those there are go on");
    // All are over by then, but a place is known to who holds something.
    let later = NOW + 10_000;
    assert_eq!(limits.peek(&of(most + 1), 1, later), Err(Crowded));
    drop(held);
    assert!(limits.take(&of(most + 1), 1, later).is_ok_and(|given| given.remaining == 8));
    assert_eq!(limits.take(&of(1), 9, later).map(|given| given.remaining), Ok(0));
}

#[test]
fn what_guests_count_is_shown_with_the_fullest_of_its_keys() {
    let limits = Arc::new(Limits::new());
    let minute = Shape::Fixed(60_000);
    for number in 1..=10 {
        let of = Adhoc { namespace: "policy", key: &format!("key-{number}"), shape: minute, limit: 100 };
        assert!(limits.take(&of, number, NOW).expect("few windows").allowed);
    }
    let of = Adhoc { namespace: "policy", key: "key-3", shape: Shape::InFlight, limit: 2 };
    let held = limits.hold(&of, 1, NOW).expect("few windows").expect("has room");
    assert!(limits.take(&Adhoc { namespace: "other", shape: minute, ..of }, 2, NOW).expect("few windows").allowed);
    let shown = limits.state(&[], NOW, 2, None)["guests"].clone();
    let reset = 60_000 - NOW % 60_000;
    let window = |window: &str, limit: u64, used: u64, reserved: u64, reset: Option<u64>| {
        let remaining = limit - used;
        json!({"window": window, "limit": limit, "used": used, "reserved": reserved, "remaining": remaining, "reset_ms": reset})
    };
    let two = [window("in flight", 2, 1, 1, None), window("1m", 100, 3, 0, Some(reset))];
    let expected = json!([
        {"namespace": "other", "partitions": 1,
         "fullest": [{"partition": "key-3", "windows": [window("1m", 2, 2, 0, Some(reset))]}]},
        {"namespace": "policy", "partitions": 10, "fullest": [
            {"partition": "key-3", "windows": two},
            {"partition": "key-10", "windows": [window("1m", 100, 10, 0, Some(reset))]},
        ]},
    ]);
    assert_eq!(shown, expected, "{shown:#}");
    drop(held);
}

#[test]
fn the_refusal_with_the_longest_wait_is_told() {
    let limits = Arc::new(Limits::new());
    let rules = [
        Arc::new(rule("minute", &[(Unit::Requests, Shape::Fixed(60_000), 1)])),
        Arc::new(rule("hour", &[(Unit::Requests, Shape::Fixed(3_600_000), 1)])),
    ];
    reserve(&limits, &rules, "k", &ONE, NOW).expect("has room").settle(&ONE, NOW);
    let refused = reserve(&limits, &rules, "k", &ONE, NOW).map(drop).expect_err("nothing is left");
    assert_eq!(&*refused.rule.name, "hour");
    let Wait::Millis(wait) = refused.wait else { panic!("{:?}", refused.wait) };
    assert!(reserve(&limits, &rules, "k", &ONE, NOW + wait - 1).is_err());
    assert!(reserve(&limits, &rules, "k", &ONE, NOW + wait).is_ok());
    let none: SmallVec<[Charge<'_>; 6]> = smallvec![];
    assert!(limits.reserve(&none, &Estimate::exact(ONE), NOW).is_ok());
}
