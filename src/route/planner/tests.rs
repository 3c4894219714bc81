//! Plans from tables: requests, trees and measures are written out, the dice are seeds.

use std::collections::HashMap;
use std::time::Duration;

use http::HeaderMap;
use serde_json::{Value, json};

use super::*;
use crate::cost::{Modality, ModelCard, Price, Rates};
use crate::route::condition::{Condition, Test};
use crate::route::facts::{Needs, Source};
use crate::route::policy::Locks;
use crate::route::tree::{MaxPrice, Require, Split, Tags};
use crate::route::{Overrides, Provider, Timeouts, availability};
use crate::state::health::{Millis, Settings, Standing};

const HOUR: Duration = Duration::from_secs(3600);

fn provider(name: &str, tags: Tags) -> Arc<Provider> {
    let timeouts = timeouts();
    Arc::new(Provider {
        probe: None,
        name: name.to_owned(),
        otel: "custom".to_owned(),
        preset: "",
        faces: Vec::new(),
        keys: Vec::new(),
        headers: HeaderMap::new(),
        overrides: Overrides::default(),
        models: Default::default(),
        cards: Default::default(),
        timeouts,
        owns: &[],
        health: Settings::default(),
        tags,
    })
}

fn timeouts() -> Timeouts {
    Timeouts { connect: HOUR, head: HOUR, first_token: HOUR, idle: HOUR, attempt: HOUR, total: HOUR }
}

/// A card with a price in dollars for a million tokens of input; output costs twice that.
fn card(price: Option<f64>) -> ModelCard {
    let nanos = |dollars: f64| (dollars * 1e9) as u64;
    let price = price.map(|dollars| {
        Price::new(Rates { input: nanos(dollars), output: nanos(dollars * 2.0), ..Rates::default() }, &[])
    });
    ModelCard { price, ..ModelCard::default() }
}

fn made(name: &str, card: Option<ModelCard>, tags: Tags) -> Arc<Target> {
    let (by, model) = name.split_once('/').expect("provider/model");
    let overrides = Overrides::default();
    Arc::new(Target::new(provider(by, tags), model.to_owned(), overrides, timeouts(), card.map(Arc::new)))
}

fn target(name: &str) -> Arc<Target> {
    made(name, None, Tags::default())
}

fn leaf(name: &str) -> Node<Arc<Target>> {
    Node::Target(target(name))
}

fn child(node: Node<Arc<Target>>, weight: u32, priority: u32) -> Child<Arc<Target>> {
    let mut first = None;
    node.each(&mut |target| {
        first.get_or_insert_with(|| target.name());
    });
    Child { node, weight, priority, id: stable(&json!(first)) }
}

fn balance(by: By, nodes: Vec<Child<Arc<Target>>>) -> Node<Arc<Target>> {
    Node::Balance(Balance { by, children: nodes, turn: Arc::default() })
}

fn evenly(by: By, names: &[&str]) -> Node<Arc<Target>> {
    balance(by, names.iter().map(|name| child(leaf(name), 1, 0)).collect())
}

fn tree(root: Node<Arc<Target>>) -> Arc<Tree> {
    required(root, Require::default())
}

fn required(root: Node<Arc<Target>>, require: Require) -> Arc<Tree> {
    Arc::new(Tree::new(root, [Vec::new(), Vec::new()], Rules::default(), Arc::new(require), None))
}

/// A request as a table.
#[derive(Default)]
struct Ask {
    stream: bool,
    values: HashMap<Source, Value>,
    tokens: u64,
    needs: Needs,
    parameters: Vec<String>,
    /// Who loses which parameter.
    lost: Option<(&'static str, &'static str)>,
}

impl Facts for Ask {
    fn stream(&self) -> bool {
        self.stream
    }
    fn value(&self, source: &Source) -> Option<Value> {
        self.values.get(source).cloned()
    }
    fn tokens(&self) -> u64 {
        self.tokens
    }
    fn tokens_at_most(&self) -> u64 {
        self.tokens
    }
    fn max_tokens(&self) -> Option<u64> {
        None
    }
    fn needs(&self) -> Needs {
        self.needs
    }
    fn parameters(&self) -> Vec<String> {
        self.parameters.clone()
    }
    fn loses(&self, target: &Target) -> Option<(String, String)> {
        let (by, name) = self.lost.filter(|(by, _)| *by == target.name())?;
        Some((name.to_owned(), format!("{by} has no such field")))
    }
}

/// Measures as a table; who is not in it is unknown.
#[derive(Default)]
struct Ward(HashMap<&'static str, Measure>);

impl Health for Ward {
    fn now(&self) -> Millis {
        1000
    }
    fn standing(&self, target: &Arc<Target>) -> Standing {
        self.measure(target).standing
    }
    fn measure(&self, target: &Arc<Target>) -> Measure {
        self.0.get(target.name().as_str()).copied().unwrap_or(Measure::UNKNOWN)
    }
}

struct Case<'a> {
    ask: &'a Ask,
    ward: &'a Ward,
    policy: &'a Policy,
    kept: Option<&'a str>,
}

impl Case<'_> {
    fn plan(&self, trees: &[Arc<Tree>], seed: u64) -> Plan {
        let request = Request {
            facts: self.ask,
            health: self.ward,
            policy: self.policy,
            seed,
            kept: self.kept,
            trace: false,
            no_fallbacks: false,
        };
        plan(trees, &request)
    }
}

fn names_of(plan: &Plan) -> Vec<String> {
    plan.targets.iter().map(|target| target.name()).collect()
}

fn planned(tree: &Arc<Tree>, ask: &Ask, ward: &Ward, policy: &Policy) -> Vec<String> {
    names_of(&Case { ask, ward, policy, kept: None }.plan(std::slice::from_ref(tree), 7))
}

/// What each target was removed by.
fn removed(tree: &Arc<Tree>, ask: &Ask, ward: &Ward, policy: &Policy) -> Vec<(String, &'static str)> {
    let plan = Case { ask, ward, policy, kept: None }.plan(std::slice::from_ref(tree), 7);
    plan.verdicts.into_iter().filter_map(|verdict| Some((verdict.target, verdict.removed_by?))).collect()
}

/// How often each target comes first, over so many requests.
fn firsts(tree: &Arc<Tree>, ask: &Ask, ward: &Ward, requests: u64) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for seed in 0..requests {
        let plan =
            Case { ask, ward, policy: &Policy::default(), kept: None }.plan(std::slice::from_ref(tree), mix(seed));
        *counts.entry(names_of(&plan).swap_remove(0)).or_default() += 1;
    }
    counts
}

fn open(millis: Millis) -> Measure {
    Measure { standing: Standing::Open { until: Some(millis) }, ..Measure::UNKNOWN }
}

fn policy(object: Value) -> Policy {
    let mut policy = Policy::default();
    policy.provider(object.to_string().as_bytes(), "provider", &Locks::default()).expect("is understood");
    policy
}

#[test]
fn a_fallback_keeps_its_order_and_leaves_out_who_is_open() {
    let tree = tree(Node::Fallback(vec![leaf("a/m"), leaf("b/m"), leaf("c/m")]));
    let (ask, all) = (Ask::default(), Policy::default());
    assert_eq!(planned(&tree, &ask, &Ward::default(), &all), ["a/m", "b/m", "c/m"]);
    let ward =
        Ward([("a/m", open(3500)), ("c/m", Measure { standing: Standing::HalfOpen, ..Measure::UNKNOWN })].into());
    assert_eq!(planned(&tree, &ask, &ward, &all), ["b/m", "c/m"]);
    assert_eq!(removed(&tree, &ask, &ward, &all), [("a/m".to_owned(), "open")]);
}

#[test]
fn seed_12_nine_to_one_is_nine_to_one_within_a_percent() {
    let tree = tree(balance(By::Weighted, vec![child(leaf("a/m"), 9, 0), child(leaf("b/m"), 1, 0)]));
    let counts = firsts(&tree, &Ask::default(), &Ward::default(), 10_000);
    assert!((8_900..=9_100).contains(&counts["a/m"]), "{counts:?}");
    // The other one follows.
    assert_eq!(planned(&tree, &Ask::default(), &Ward::default(), &Policy::default()).len(), 2);
}

#[test]
fn seed_12_a_weight_of_zero_takes_nothing() {
    for by in [By::Weighted, By::RoundRobin, By::Latency, By::Cost, By::LeastInflight, By::Hash(Source::Key)] {
        let tree =
            tree(balance(by, vec![child(leaf("a/m"), 0, 0), child(leaf("b/m"), 1, 0), child(leaf("c/m"), 1, 0)]));
        let counts = firsts(&tree, &Ask::default(), &Ward::default(), 500);
        assert!(!counts.contains_key("a/m"), "{counts:?}");
        let gone = removed(&tree, &Ask::default(), &Ward::default(), &Policy::default());
        assert_eq!(gone, [("a/m".to_owned(), "drained")]);
    }
}

#[test]
fn a_tier_is_used_when_nothing_is_left_of_the_one_before() {
    let tiers = || vec![child(leaf("late/m"), 100, 2), child(leaf("a/m"), 1, 0), child(leaf("b/m"), 1, 0)];
    for by in [By::Weighted, By::RoundRobin, By::Latency, By::Cost, By::LeastInflight, By::Throughput, By::UsageLeft] {
        let tree = tree(balance(by.clone(), tiers()));
        let counts = firsts(&tree, &Ask::default(), &Ward::default(), 300);
        assert!(!counts.contains_key("late/m"), "{by:?} {counts:?}");
        let ward = Ward([("a/m", open(2000)), ("b/m", open(2000))].into());
        assert_eq!(planned(&tree, &Ask::default(), &ward, &Policy::default()), ["late/m"]);
    }
}

#[test]
fn a_round_robin_takes_turns_by_weight() {
    let tree = tree(balance(By::RoundRobin, vec![child(leaf("a/m"), 2, 0), child(leaf("b/m"), 1, 0)]));
    let turns: Vec<String> =
        (0..6).map(|_| planned(&tree, &Ask::default(), &Ward::default(), &Policy::default()).swap_remove(0)).collect();
    assert_eq!(turns, ["a/m", "a/m", "b/m", "a/m", "a/m", "b/m"]);
    // Weights as large as can be written.
    let tree = self::tree(balance(By::RoundRobin, vec![child(leaf("a/m"), u32::MAX, 0), child(leaf("b/m"), 2, 0)]));
    let first = planned(&tree, &Ask::default(), &Ward::default(), &Policy::default()).swap_remove(0);
    assert_eq!(first, "a/m");
}

#[test]
fn the_least_busy_comes_first() {
    let busy = |in_flight| Measure { in_flight, ..Measure::UNKNOWN };
    let ward = Ward([("a/m", busy(5)), ("b/m", busy(2)), ("c/m", busy(9))].into());
    let tree = tree(evenly(By::LeastInflight, &["a/m", "b/m", "c/m"]));
    assert_eq!(planned(&tree, &Ask::default(), &ward, &Policy::default()), ["b/m", "a/m", "c/m"]);
}

#[test]
fn most_left_of_its_limit_comes_first() {
    let left = |share| Measure { usage_left: Some(share), ..Measure::UNKNOWN };
    let ward = Ward([("a/m", left(0.1)), ("b/m", left(0.9)), ("c/m", left(0.5))].into());
    let tree = tree(evenly(By::UsageLeft, &["a/m", "b/m", "c/m"]));
    assert_eq!(planned(&tree, &Ask::default(), &ward, &Policy::default()), ["b/m", "c/m", "a/m"]);
}

/// Plays requests, one after the other 100 ms apart, against real records; gives who came first among the last hundred.
fn converge(
    by: By,
    ask: &Ask,
    before: &[(&'static str, u64)],
    after: &[(&'static str, u64)],
) -> HashMap<String, usize> {
    struct Real<'a>(&'a crate::state::health::Health, Millis);
    impl Health for Real<'_> {
        fn now(&self) -> Millis {
            self.1
        }
        fn standing(&self, target: &Arc<Target>) -> Standing {
            target.record(self.0).standing(self.1)
        }
        fn measure(&self, target: &Arc<Target>) -> Measure {
            target.record(self.0).measure(self.1)
        }
    }
    let health = crate::state::health::Health::default();
    let names: Vec<&str> = before.iter().map(|(name, _)| *name).collect();
    let tree = tree(evenly(by, &names));
    let mut last = HashMap::new();
    let mut now = 0;
    for (step, table) in [before, after].into_iter().enumerate() {
        for round in 0..300u64 {
            let request = Request {
                facts: ask,
                health: &Real(&health, now),
                policy: &Policy::default(),
                seed: mix(round + 1000 * step as u64),
                kept: None,
                trace: false,
                no_fallbacks: false,
            };
            let plan = plan(std::slice::from_ref(&tree), &request);
            let chosen = &plan.targets[0];
            let name = chosen.name();
            let took = table.iter().find(|(known, _)| *known == name).expect("is in the table").1;
            let mut flight = chosen.record(&health).begin(now).expect("is closed");
            if ask.stream {
                flight.first_content(now + took);
            }
            let tokens = Some(100);
            flight.end(now + took + 1, crate::state::health::End::Good { output_tokens: tokens });
            now += 100;
            if step == 1 && round >= 200 {
                *last.entry(name).or_default() += 1;
            }
        }
    }
    last
}

#[test]
fn latency_is_followed_within_200_requests_both_ways() {
    for stream in [true, false] {
        let ask = Ask { stream, ..Ask::default() };
        let slower = converge(By::Latency, &ask, &[("a/m", 50), ("b/m", 90)], &[("a/m", 900), ("b/m", 90)]);
        assert!(slower["b/m"] >= 85, "{slower:?}");
        let faster = converge(By::Latency, &ask, &[("a/m", 50), ("b/m", 90)], &[("a/m", 50), ("b/m", 5)]);
        assert!(faster["b/m"] >= 85, "{faster:?}");
    }
}

#[test]
fn throughput_is_followed_within_200_requests_both_ways() {
    let ask = Ask::default();
    let slower = converge(By::Throughput, &ask, &[("a/m", 500), ("b/m", 900)], &[("a/m", 5000), ("b/m", 900)]);
    assert!(slower["b/m"] >= 85, "{slower:?}");
    let faster = converge(By::Throughput, &ask, &[("a/m", 500), ("b/m", 900)], &[("a/m", 500), ("b/m", 100)]);
    assert!(faster["b/m"] >= 85, "{faster:?}");
}

#[test]
fn a_target_that_was_never_asked_is_asked_but_not_by_everybody_at_once() {
    let known = Measure { ttft_ewma_ms: Some(100.0), ..Measure::UNKNOWN };
    let tree = tree(evenly(By::Latency, &["a/m", "b/m"]));
    let ask = Ask { stream: true, ..Ask::default() };
    let idle = firsts(&tree, &ask, &Ward([("a/m", known)].into()), 200);
    assert!(idle["b/m"] > 180, "{idle:?}");
    let asked = Measure { in_flight: 3, ..Measure::UNKNOWN };
    let busy = firsts(&tree, &ask, &Ward([("a/m", known), ("b/m", asked)].into()), 200);
    assert!(busy["a/m"] > 180, "{busy:?}");
}

#[test]
fn cost_goes_by_one_over_the_square_of_the_price() {
    let priced = |name: &str, price| child(Node::Target(made(name, Some(card(price)), Tags::default())), 1, 0);
    let before = tree(balance(By::Cost, vec![priced("a/m", Some(1.0)), priced("b/m", Some(3.0))]));
    let counts = firsts(&before, &Ask::default(), &Ward::default(), 10_000);
    assert!((8_900..=9_100).contains(&counts["a/m"]), "1 to 9: {counts:?}");
    // After a change of price the next requests follow.
    let after = tree(balance(By::Cost, vec![priced("a/m", Some(9.0)), priced("b/m", Some(3.0))]));
    let counts = firsts(&after, &Ask::default(), &Ward::default(), 200);
    assert!((165..=195).contains(&counts["b/m"]), "9 to 1: {counts:?}");
    // Free comes first; an unknown price is not a low one.
    let odd = tree(balance(By::Cost, vec![priced("a/m", Some(1.0)), priced("free/m", Some(0.0)), priced("x/m", None)]));
    let counts = firsts(&odd, &Ask::default(), &Ward::default(), 200);
    assert_eq!(counts.get("free/m"), Some(&200));
}

#[test]
fn a_hash_keeps_a_key_at_its_node_and_moves_few_when_one_leaves() {
    const KEYS: u64 = 10_000;
    let names: Vec<String> = (0..10).map(|number| format!("p{number}/m")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let whole = tree(evenly(By::Hash(Source::Session), &all));
    let without = tree(evenly(By::Hash(Source::Session), &all[1..]));
    let at = |tree: &Arc<Tree>, key: u64| {
        let ask = Ask { values: [(Source::Session, json!(format!("session-{key}")))].into(), ..Ask::default() };
        planned(tree, &ask, &Ward::default(), &Policy::default()).swap_remove(0)
    };
    let mut moved = 0;
    let mut shares: HashMap<String, u64> = HashMap::new();
    for key in 0..KEYS {
        let before = at(&whole, key);
        moved += u64::from(before != at(&without, key));
        *shares.entry(before).or_default() += 1;
    }
    assert!(moved as f64 <= KEYS as f64 * (1.0 / 10.0 + 0.02), "{moved}");
    assert!(shares.values().all(|share| (800..1200).contains(share)), "{shares:?}");
    // One that is open is stood in for, and has its keys again when it is back.
    let key = (0..KEYS).find(|key| at(&whole, *key) == "p3/m").expect("some key");
    let ask = Ask { values: [(Source::Session, json!(format!("session-{key}")))].into(), ..Ask::default() };
    let ward = Ward([("p3/m", open(2000))].into());
    assert_ne!(planned(&whole, &ask, &ward, &Policy::default())[0], "p3/m");
}

#[test]
fn the_first_branch_that_fits_counts() {
    let gold = Condition::Test(Source::Metadata("tier".into()), Test::Eq(json!("gold")));
    let long = Condition::Any(vec![
        Condition::Test(Source::Param("max_tokens".into()), Test::Gt(4000.0)),
        Condition::Not(Box::new(Condition::Test(Source::Header("x-short".into()), Test::Exists(true)))),
    ]);
    let branches = vec![(Some(gold), leaf("gold/m")), (Some(long), leaf("long/m")), (None, leaf("rest/m"))];
    let with_else = tree(Node::Conditional(branches.clone()));
    let without = tree(Node::Conditional(branches[..2].to_vec()));
    let metadata = |tier: &str| (Source::Metadata("tier".into()), json!(tier));
    let short = (Source::Header("x-short".into()), json!("1"));
    for (values, chosen) in [
        (vec![metadata("gold"), short.clone()], "gold/m"),
        (vec![metadata("silver")], "long/m"),
        (vec![(Source::Param("max_tokens".into()), json!(5000)), short.clone()], "long/m"),
        (vec![short.clone()], "rest/m"),
    ] {
        let ask = Ask { values: values.into_iter().collect(), ..Ask::default() };
        assert_eq!(planned(&with_else, &ask, &Ward::default(), &Policy::default()), [chosen]);
    }
    let ask = Ask { values: [short].into(), ..Ask::default() };
    let gone = removed(&without, &ask, &Ward::default(), &Policy::default());
    assert_eq!(gone, [("gold/m".to_owned(), "condition"), ("long/m".to_owned(), "condition")]);
}

#[test]
fn a_split_is_stable_by_its_key_and_true_to_its_shares() {
    let parts = || vec![(70_000, leaf("a/m")), (100_000, leaf("b/m"))];
    let by_key = tree(Node::Split(Split { by: Some(Source::Key), parts: parts() }));
    let mut counts: HashMap<String, u64> = HashMap::new();
    for key in 0..10_000 {
        let ask = Ask { values: [(Source::Key, json!(format!("k{key}")))].into(), ..Ask::default() };
        let once = planned(&by_key, &ask, &Ward::default(), &Policy::default());
        assert_eq!(once.len(), 1, "no other part stands in");
        assert_eq!(once, planned(&by_key, &ask, &Ward::default(), &Policy::default()));
        *counts.entry(once[0].clone()).or_default() += 1;
    }
    assert!((6_850..=7_150).contains(&counts["a/m"]), "{counts:?}");
    let by_dice = tree(Node::Split(Split { by: None, parts: parts() }));
    let counts = firsts(&by_dice, &Ask::default(), &Ward::default(), 10_000);
    assert!((6_850..=7_150).contains(&counts["a/m"]), "{counts:?}");
}

#[test]
fn nodes_nest_and_a_whole_branch_may_be_out() {
    let inner = evenly(By::Weighted, &["a/m", "b/m"]);
    let outer = balance(By::Weighted, vec![child(inner, 1, 0), child(leaf("c/m"), 1, 0)]);
    let tree = tree(Node::Fallback(vec![outer, leaf("last/m")]));
    let ward = Ward([("a/m", open(9000)), ("b/m", open(2500))].into());
    assert_eq!(planned(&tree, &Ask::default(), &ward, &Policy::default()), ["c/m", "last/m"]);
    let plan = planned(&tree, &Ask::default(), &Ward::default(), &Policy::default());
    assert_eq!((plan.len(), plan[3].as_str()), (4, "last/m"));
}

fn tagged(region: &str, zdr: bool, data_deny: bool) -> Tags {
    Tags { region: Some(region.into()), zdr, data_deny, labels: vec![("tier".into(), region.into())] }
}

#[test]
fn constraints_remove_and_no_fallback_violates_them() {
    let eu = made("eu/m", Some(card(Some(2.0))), tagged("eu", true, true));
    let us = made("us/m", Some(card(Some(1.0))), tagged("us", false, false));
    let bare = made("bare/m", None, Tags::default());
    let root = || Node::Fallback([&us, &eu, &bare].map(|target| Node::Target(target.clone())).to_vec());
    let none = Require::default();
    for (require, left, by) in [
        (Require { region: vec!["eu".into()], ..none.clone() }, vec!["eu/m"], "region"),
        (Require { data_deny: true, ..none.clone() }, vec!["eu/m"], "data_collection"),
        (Require { zdr: true, ..none.clone() }, vec!["eu/m"], "zdr"),
        (Require { labels: vec![("tier".into(), "eu".into())], ..none.clone() }, vec!["eu/m"], "labels"),
        (
            Require { max_price: MaxPrice { input: Some(1_500_000_000), output: None }, ..none.clone() },
            vec!["us/m"],
            "max_price",
        ),
        (
            Require { max_price: MaxPrice { input: None, output: Some(1_000_000_000) }, ..none.clone() },
            vec![],
            "max_price",
        ),
        (Require { abilities: Needs::TOOLS, ..none.clone() }, vec![], "abilities"),
    ] {
        let tree = required(root(), require);
        assert_eq!(planned(&tree, &Ask::default(), &Ward::default(), &Policy::default()), left, "{by}");
        let gone = removed(&tree, &Ask::default(), &Ward::default(), &Policy::default());
        assert!(gone.len() == 3 - left.len() && gone.iter().all(|(_, word)| *word == by), "{gone:?}");
    }
}

#[test]
fn what_a_model_is_known_to_lack_removes_it_when_it_is_needed() {
    let able = ModelCard {
        tool_call: Some(true),
        structured_output: Some(true),
        input: vec![Modality::Text, Modality::Image, Modality::Audio, Modality::Pdf],
        context: Some(200_000),
        ..ModelCard::default()
    };
    let plain = ModelCard {
        tool_call: Some(false),
        structured_output: Some(false),
        input: vec![Modality::Text],
        context: Some(8_000),
        ..ModelCard::default()
    };
    let unknown = leaf("unknown/m");
    let node = |name: &str, card: &ModelCard| Node::Target(made(name, Some(card.clone()), Tags::default()));
    let tree = tree(Node::Fallback(vec![node("plain/m", &plain), node("able/m", &able), unknown]));
    for (needs, word) in [
        (Needs::TOOLS, "tools"),
        (Needs::VISION, "vision"),
        (Needs::AUDIO, "audio"),
        (Needs::PDF, "pdf"),
        (Needs::JSON_SCHEMA, "json_schema"),
    ] {
        let ask = Ask { needs, ..Ask::default() };
        assert_eq!(planned(&tree, &ask, &Ward::default(), &Policy::default()), ["able/m", "unknown/m"], "{word}");
        assert_eq!(removed(&tree, &ask, &Ward::default(), &Policy::default()), [("plain/m".to_owned(), word)]);
    }
    let ask = Ask { tokens: 9_000, ..Ask::default() };
    assert_eq!(removed(&tree, &ask, &Ward::default(), &Policy::default()), [("plain/m".to_owned(), "context")]);
    let ask = Ask { tokens: 300_000, ..Ask::default() };
    assert_eq!(planned(&tree, &ask, &Ward::default(), &Policy::default()), ["unknown/m"]);
}

#[test]
fn an_ask_too_long_for_all_goes_to_the_chain_for_long_asks() {
    let small = ModelCard { context: Some(1_000), ..ModelCard::default() };
    let large = ModelCard { context: Some(100_000), ..ModelCard::default() };
    let node = |name: &str, card: &ModelCard| Node::Target(made(name, Some(card.clone()), Tags::default()));
    let root = Node::Fallback(vec![node("a/m", &small), node("b/m", &small)]);
    let chains = [vec![node("long/m", &large)], vec![leaf("free/m")]];
    let tree = Arc::new(Tree::new(root, chains, Rules::default(), Arc::default(), None));
    let case = Case {
        ask: &Ask { tokens: 5_000, ..Ask::default() },
        ward: &Ward::default(),
        policy: &Policy::default(),
        kept: None,
    };
    let plan = case.plan(std::slice::from_ref(&tree), 1);
    assert_eq!(names_of(&plan), ["long/m"]);
    assert_eq!(plan.on_content_policy[0].name(), "free/m");
}

#[test]
fn a_lone_target_is_left_to_judge_for_itself() {
    let small = ModelCard { context: Some(1_000), tool_call: Some(false), ..ModelCard::default() };
    let tree = tree(Node::Target(made("a/m", Some(small), Tags::default())));
    let ask = Ask { tokens: 5_000, needs: Needs::TOOLS, ..Ask::default() };
    assert_eq!(planned(&tree, &ask, &Ward::default(), &Policy::default()), ["a/m"]);
}

#[test]
fn a_request_may_order_choose_and_ignore() {
    let tree = tree(Node::Fallback(vec![leaf("a/m"), leaf("b/m"), leaf("c/x"), leaf("c/y")]));
    for (object, left) in [
        (json!({}), vec!["a/m", "b/m", "c/x", "c/y"]),
        (json!({"order": ["c", "b"]}), vec!["c/x", "c/y", "b/m", "a/m"]),
        (json!({"order": ["c/y", "nobody"]}), vec!["c/y", "a/m", "b/m", "c/x"]),
        (json!({"order": ["c", "b"], "allow_fallbacks": false}), vec!["c/x", "c/y", "b/m"]),
        (json!({"only": ["a", "c/x"]}), vec!["a/m", "c/x"]),
        (json!({"ignore": ["a", "c/x"]}), vec!["b/m", "c/y"]),
        (json!({"only": ["a", "b"], "ignore": ["b"]}), vec!["a/m"]),
        (json!({"quantizations": ["fp8"], "order": null}), vec!["a/m", "b/m", "c/x", "c/y"]),
    ] {
        assert_eq!(planned(&tree, &Ask::default(), &Ward::default(), &policy(object.clone())), left, "{object}");
    }
    let alone = Case {
        ask: &Ask::default(),
        ward: &Ward::default(),
        policy: &policy(json!({"allow_fallbacks": false})),
        kept: None,
    };
    assert!(!alone.plan(std::slice::from_ref(&tree), 1).rules.fallbacks);
}

#[test]
fn who_forbids_fallbacks_gets_whom_all_being_well_he_would_or_nobody() {
    let drained = Measure { standing: Standing::Drained, ..Measure::UNKNOWN };
    let list = || Node::Fallback(vec![leaf("a/m"), leaf("b/m")]);
    let pair = || evenly(By::Weighted, &["a/m", "b/m"]);
    let ranked = || balance(By::Weighted, vec![child(leaf("a/m"), 1, 0), child(leaf("b/m"), 1, 1)]);
    let priced = |name, price| Node::Target(made(name, Some(card(Some(price))), Tags::default()));
    let dearer_first = || Node::Fallback(vec![priced("a/m", 2.0), priced("b/m", 1.0)]);
    let none: [&str; 0] = [];
    let cases = [
        (list(), json!({}), vec![("b/m", open(9000))], vec!["a/m"]),
        (list(), json!({}), vec![("a/m", open(9000))], none.to_vec()),
        (list(), json!({}), vec![("a/m", drained)], none.to_vec()),
        (list(), json!({"only": ["b"]}), vec![("a/m", drained)], vec!["b/m"]),
        (list(), json!({"ignore": ["a"]}), vec![("a/m", drained)], vec!["b/m"]),
        (list(), json!({"order": ["b"]}), vec![("a/m", drained)], vec!["b/m"]),
        (list(), json!({"order": ["b"]}), vec![("b/m", drained)], none.to_vec()),
        (dearer_first(), json!({"sort": "price"}), vec![("a/m", drained)], vec!["b/m"]),
        (dearer_first(), json!({"sort": "price"}), vec![("b/m", drained)], none.to_vec()),
        // Equals do not stand in for each other.
        (pair(), json!({}), vec![("a/m", drained)], vec!["b/m"]),
        (pair(), json!({}), vec![("a/m", drained), ("b/m", drained)], none.to_vec()),
        (Node::Fallback(vec![pair(), leaf("c/m")]), json!({}), vec![("a/m", drained)], vec!["b/m"]),
        (Node::Fallback(vec![pair(), leaf("c/m")]), json!({}), vec![("a/m", open(1)), ("b/m", open(1))], none.to_vec()),
        (balance(By::Weighted, vec![child(list(), 1, 0)]), json!({}), vec![("a/m", drained)], none.to_vec()),
        (ranked(), json!({}), vec![("a/m", drained)], none.to_vec()),
    ];
    for (root, object, unwell, left) in cases {
        let (ward, policy) = (Ward(unwell.clone().into_iter().collect()), policy(object.clone()));
        let ask = Ask::default();
        let request = Request {
            facts: &ask,
            health: &ward,
            policy: &policy,
            seed: 7,
            kept: None,
            trace: false,
            no_fallbacks: true,
        };
        // The further model that the request names is for when the first one fails.
        let plan = plan(&[tree(root), tree(leaf("other/m"))], &request);
        assert_eq!(names_of(&plan), left, "{object} {unwell:?}");
        assert!(!plan.rules.fallbacks);
        if left.is_empty() {
            let fault = availability::fault(&["m"], &plan);
            assert_eq!(fault.kind, crate::fault::Kind::NoTarget, "{object} {unwell:?}");
        }
    }
    let ward = Ward([("a/m", open(9000)), ("b/m", open(3000))].into());
    let forbids = policy(json!({"allow_fallbacks": false}));
    let case = Case { ask: &Ask::default(), ward: &ward, policy: &forbids, kept: None };
    let fault = availability::fault(&["m"], &case.plan(&[tree(list())], 7));
    assert_eq!(fault.retry_after, Some(Duration::from_millis(8000)), "when the first is back, not another");
}

#[test]
fn a_request_may_sort_and_prefer() {
    let measured = |ttft: f64, speed: f64| Measure {
        ttft_ewma_ms: Some(ttft),
        duration_ewma_ms: Some(ttft),
        throughput_ewma: Some(speed),
        ttft: Quantiles { p50: Some(ttft), p90: Some(ttft * 3.0), ..Quantiles::NONE },
        throughput: Quantiles { p50: Some(speed), p90: Some(speed * 2.0), ..Quantiles::NONE },
        ..Measure::UNKNOWN
    };
    let ward =
        Ward([("a/m", measured(900.0, 90.0)), ("b/m", measured(100.0, 20.0)), ("c/m", measured(300.0, 50.0))].into());
    let node = |name: &str, price| Node::Target(made(name, Some(card(Some(price))), Tags::default()));
    let tree = tree(Node::Fallback(vec![node("a/m", 2.0), node("b/m", 3.0), node("c/m", 1.0), leaf("new/m")]));
    for (object, left) in [
        (json!({"sort": "price"}), ["c/m", "a/m", "b/m", "new/m"]),
        (json!({"sort": {"by": "throughput", "partition": "model"}}), ["a/m", "c/m", "b/m", "new/m"]),
        (json!({"sort": "latency"}), ["b/m", "c/m", "a/m", "new/m"]),
        (json!({"preferred_max_latency": 0.5}), ["b/m", "c/m", "new/m", "a/m"]),
        (json!({"preferred_max_latency": {"p90": 0.5}}), ["b/m", "new/m", "a/m", "c/m"]),
        (json!({"preferred_min_throughput": 40}), ["a/m", "c/m", "new/m", "b/m"]),
        (json!({"sort": "price", "preferred_min_throughput": {"p50": 60}}), ["a/m", "new/m", "c/m", "b/m"]),
        (json!({"sort": "price", "order": ["b"]}), ["b/m", "c/m", "a/m", "new/m"]),
    ] {
        assert_eq!(planned(&tree, &Ask::default(), &ward, &policy(object.clone())), left, "{object}");
    }
}

#[test]
fn a_request_may_tighten_but_never_loosen() {
    let eu = made("eu/m", Some(card(Some(2.0))), tagged("eu", true, true));
    let us = made("us/m", Some(card(Some(1.0))), tagged("us", false, false));
    let root = || Node::Fallback([&us, &eu].map(|target| Node::Target(target.clone())).to_vec());
    let open = tree(root());
    for (object, left) in [
        (json!({"zdr": true}), vec!["eu/m"]),
        (json!({"data_collection": "deny"}), vec!["eu/m"]),
        (json!({"max_price": {"prompt": 1.5}}), vec!["us/m"]),
        (json!({"max_price": {"completion": "2.00"}}), vec!["us/m"]),
    ] {
        assert_eq!(planned(&open, &Ask::default(), &Ward::default(), &policy(object.clone())), left, "{object}");
    }
    let strict = required(
        root(),
        Require { zdr: true, max_price: MaxPrice { input: Some(2_000_000_000), output: None }, ..Require::default() },
    );
    for object in [json!({"zdr": false, "data_collection": "allow"}), json!({"max_price": {"prompt": 100}})] {
        assert_eq!(planned(&strict, &Ask::default(), &Ward::default(), &policy(object)), ["eu/m"]);
    }
}

#[test]
fn require_parameters_removes_who_would_not_get_them() {
    let dropping = {
        let overrides = Overrides { drop: vec!["logprobs".into()], ..Overrides::default() };
        Arc::new(Target::new(provider("d", Tags::default()), "m".into(), overrides, timeouts(), None))
    };
    let toolless = made("t/m", Some(ModelCard { tool_call: Some(false), ..ModelCard::default() }), Tags::default());
    let tree =
        tree(Node::Fallback(vec![Node::Target(dropping), Node::Target(toolless), leaf("foreign/m"), leaf("a/m")]));
    let parameters = vec!["logprobs".into(), "tools".into()];
    let ask = Ask { needs: Needs::TOOLS, parameters, lost: Some(("foreign/m", "logprobs")), ..Ask::default() };
    assert_eq!(planned(&tree, &ask, &Ward::default(), &policy(json!({}))), ["d/m", "foreign/m", "a/m"]);
    let wishes = policy(json!({"require_parameters": true}));
    assert_eq!(planned(&tree, &ask, &Ward::default(), &wishes), ["a/m"]);
    let by: Vec<_> = removed(&tree, &ask, &Ward::default(), &wishes).into_iter().map(|(_, by)| by).collect();
    assert_eq!(by, ["require_parameters"; 3]);
}

#[test]
fn locks_ignore_or_refuse_each_part() {
    use crate::route::policy::Lock::{Ignore, Refuse};
    let read = |object: Value, locks: &Locks| {
        let mut policy = Policy::default();
        policy.provider(object.to_string().as_bytes(), "provider", locks).map(|()| policy)
    };
    type Pick = fn(&mut Locks) -> &mut crate::route::policy::Lock;
    let cases: [(Value, Pick); 8] = [
        (json!({"order": ["a"]}), |locks| &mut locks.order),
        (json!({"only": ["a"]}), |locks| &mut locks.only),
        (json!({"ignore": ["a"]}), |locks| &mut locks.ignore),
        (json!({"sort": "price"}), |locks| &mut locks.sort),
        (json!({"allow_fallbacks": false}), |locks| &mut locks.fallbacks),
        (json!({"zdr": true, "data_collection": "deny"}), |locks| &mut locks.data_policy),
        (json!({"max_price": {"prompt": 1}}), |locks| &mut locks.max_price),
        (json!({"preferred_max_latency": 1, "preferred_min_throughput": 2}), |locks| &mut locks.performance),
    ];
    for (object, lock) in cases {
        assert!(!read(object.clone(), &Locks::default()).expect("is allowed").is_none(), "{object}");
        let mut locks = Locks::default();
        *lock(&mut locks) = Ignore;
        assert!(read(object.clone(), &locks).expect("is ignored").is_none(), "{object}");
        *lock(&mut locks) = Refuse;
        let fault = read(object.clone(), &locks).expect_err("is refused");
        assert!(fault.message.ends_with("the operator decides it. Take it out."), "{}", fault.message);
    }
    for wrong in [
        json!([]),
        json!({"order": "a"}),
        json!({"sort": "beauty"}),
        json!({"max_price": {"prompt": "free"}}),
        json!({"zdr": 1}),
    ] {
        assert!(read(wrong.clone(), &Locks::default()).is_err(), "{wrong}");
    }
    let many: Vec<String> = (0..65).map(|number| number.to_string()).collect();
    assert!(read(json!({"only": many}), &Locks::default()).is_err());
}

#[test]
fn further_models_follow_and_can_be_sorted_across() {
    let node = |name: &str, price| Node::Target(made(name, Some(card(Some(price))), Tags::default()));
    let one = tree(Node::Fallback(vec![node("a/m", 5.0), node("b/m", 3.0)]));
    let two = tree(Node::Fallback(vec![node("c/n", 1.0), node("a/m", 5.0), node("d/n", 4.0)]));
    let trees = [one, two];
    let ask = Ask::default();
    for (object, left) in [
        (json!({}), ["a/m", "b/m", "c/n", "d/n"]),
        (json!({"sort": "price"}), ["b/m", "a/m", "c/n", "d/n"]),
        (json!({"sort": {"by": "price", "partition": "none"}}), ["c/n", "b/m", "d/n", "a/m"]),
    ] {
        let policy = policy(object);
        let case = Case { ask: &ask, ward: &Ward::default(), policy: &policy, kept: None };
        assert_eq!(names_of(&case.plan(&trees, 3)), left);
    }
}

#[test]
fn a_conversation_stays_where_it_is_while_it_can() {
    let tree = tree(evenly(By::Weighted, &["a/m", "b/m", "c/m"]));
    let at = |ward: &Ward, policy: &Policy, seed| {
        let ask = Ask::default();
        let case = Case { ask: &ask, ward, policy, kept: Some("c/m") };
        names_of(&case.plan(std::slice::from_ref(&tree), seed))
    };
    for seed in 0..50 {
        let plan = at(&Ward::default(), &Policy::default(), seed);
        assert_eq!((plan[0].as_str(), plan.len()), ("c/m", 3));
        assert_ne!(at(&Ward([("c/m", open(2000))].into()), &Policy::default(), seed)[0], "c/m");
        assert_eq!(at(&Ward::default(), &policy(json!({"order": ["a"]})), seed)[0], "a/m");
    }
}

#[test]
fn when_nothing_is_left_the_error_says_what_removed_each() {
    let eu = made("eu/m", Some(card(Some(2.0))), tagged("eu", true, true));
    let us = made("us/m", Some(card(Some(1.0))), tagged("us", false, false));
    let nodes = [&us, &eu].map(|target| Node::Target(target.clone())).to_vec();
    let tree = required(Node::Fallback(nodes), Require { region: vec!["eu".into()], ..Require::default() });
    let case = |ward: &Ward, policy: &Policy| {
        let plan = Case { ask: &Ask::default(), ward, policy, kept: None }.plan(std::slice::from_ref(&tree), 1);
        assert!(plan.targets.is_empty());
        availability::fault(&["fast"], &plan)
    };
    let fault = case(&Ward([("eu/m", open(4500))].into()), &Policy::default());
    assert_eq!((fault.code(), fault.status("openai_chat")), ("no_target_available", 503));
    assert_eq!(fault.retry_after, Some(Duration::from_millis(3500)));
    let body = fault.availability.expect("is there");
    assert_eq!(body["excluded_by"], json!(["open", "region"]));
    assert_eq!((&body["retryable"], &body["retry_after"]), (&json!(true), &json!(3.5)));
    assert_eq!(
        body["targets"][0],
        json!({"target": "us/m", "removed_by": "region", "why": "it is in us", "retry_after": null})
    );
    let fault = case(&Ward::default(), &policy(json!({"max_price": {"prompt": 1}})));
    assert_eq!((fault.code(), fault.status("anthropic"), fault.retry_after), ("no_target_fits", 404, None));
    assert_eq!(fault.availability.expect("is there")["excluded_by"], json!(["max_price", "region"]));
}

/// The branches that a request is on.
fn way(tree: &Tree, ask: &Ask) -> Vec<u8> {
    let mut out = Vec::new();
    super::super::way::of(tree, ask, &mut out);
    out
}

#[test]
fn asks_on_other_branches_have_another_way_and_chance_has_none() {
    let tier = || Source::Header("x-tier".to_owned());
    let with = |source: Source, value: &str| Ask { values: [(source, json!(value))].into(), ..Ask::default() };
    let gold = Condition::Test(tier(), Test::Eq(json!("gold")));
    let inner = Node::Conditional(vec![(Some(gold), leaf("a/gold")), (None, leaf("a/free"))]);
    let chosen = tree(balance(By::Weighted, vec![child(inner, 1, 0), child(leaf("b/x"), 1, 0)]));
    assert!(chosen.behind().branches);
    assert_ne!(way(&chosen, &with(tier(), "gold")), way(&chosen, &with(tier(), "tin")));
    assert_eq!(way(&chosen, &with(tier(), "tin")), way(&chosen, &Ask::default()));
    let parts = || vec![(50_000, leaf("a/x")), (100_000, leaf("b/x"))];
    let split = tree(Node::Split(Split { by: Some(Source::Key), parts: parts() }));
    let ways: std::collections::HashSet<_> =
        (0..20).map(|user| way(&split, &with(Source::Key, &user.to_string()))).collect();
    assert_eq!(ways.len(), 2, "the part counts, not whose it is");
    let dice = tree(Node::Split(Split { by: None, parts: parts() }));
    assert!(!dice.behind().branches && !tree(evenly(By::Cost, &["a/x", "b/x"])).behind().branches);
    assert!(tree(Node::Split(Split { by: Some(Source::Key), parts: parts() })).behind().branches);
}

#[test]
fn what_stands_behind_a_name_is_told_apart() {
    let print = |root| tree(root).behind().print;
    assert_eq!(print(leaf("a/x")), print(leaf("a/x")));
    assert_eq!(
        print(balance(By::Weighted, vec![child(leaf("a/x"), 1, 0), child(leaf("b/x"), 1, 0)])),
        print(balance(By::Weighted, vec![child(leaf("a/x"), 9, 1), child(leaf("b/x"), 1, 0)])),
        "weights move traffic, not answers"
    );
    let warmer = || {
        let Target { provider, model, timeouts, .. } = &*target("a/x");
        let set = [("temperature".to_owned(), json!(1))].into();
        let overrides = Overrides { set, ..Overrides::default() };
        Node::Target(Arc::new(Target::new(provider.clone(), model.clone(), overrides, *timeouts, None)))
    };
    let several = || Node::Fallback(vec![leaf("a/x"), leaf("b/x")]);
    let turned = || Node::Fallback(vec![leaf("b/x"), leaf("a/x")]);
    let all = [leaf("a/x"), leaf("b/x"), leaf("a/y"), warmer(), several(), turned()].map(print);
    let apart: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(apart.len(), all.len());
    for (name, online) in [("a/x", false), ("a/x:online", true)] {
        assert_eq!(tree(leaf(name)).behind().looks_elsewhere, online, "{name}");
    }
}
