//! The strategy tree of a model: which targets it stands for, and how a request's are chosen and ordered.
//!
//! Built by `generation`, walked by `planner`. Immutable, but for the turn of a round robin.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::condition::Condition;
use super::facts::{Facts, Needs, Source, share};
use super::way::Behind;
use super::{Hedge, Overrides, Provider, Retry, Rules, Target, Timeouts};
use crate::cost::{Modality, ModelCard};

/// A target as written: its upstream model may hold the part of the name that a wildcard matched.
#[derive(Debug, Clone)]
pub struct RouteTarget {
    pub provider: Arc<Provider>,
    pub model: String,
    pub overrides: Overrides,
    pub timeouts: Timeouts,
}

/// A node, over targets as written or ready to be sent to.
#[derive(Debug, Clone)]
pub enum Node<T> {
    Target(T),
    /// In this order.
    Fallback(Vec<Node<T>>),
    Balance(Balance<T>),
    /// The first branch whose condition holds; one without holds always.
    Conditional(Vec<(Option<Condition>, Node<T>)>),
    Split(Split<T>),
}

/// One of several, chosen for each request.
#[derive(Debug, Clone)]
pub struct Balance<T> {
    pub by: By,
    pub children: Vec<Child<T>>,
    /// Counts requests. Begins anew with each generation, which does no harm.
    pub turn: Arc<AtomicU32>,
}

#[derive(Debug, Clone)]
pub struct Child<T> {
    pub node: Node<T>,
    /// 0 takes nothing.
    pub weight: u32,
    /// Lower ones come first.
    pub priority: u32,
    /// Stands for the child in hashes, whatever stands beside it.
    pub id: u64,
}

/// How a balance chooses.
#[derive(Debug, Clone, PartialEq)]
pub enum By {
    Weighted,
    RoundRobin,
    LeastInflight,
    Latency,
    Throughput,
    Cost,
    UsageLeft,
    Hash(Source),
}

impl By {
    /// The word in configuration and traces.
    pub fn as_str(&self) -> &'static str {
        match self {
            By::Weighted => "weighted",
            By::RoundRobin => "round_robin",
            By::LeastInflight => "least_inflight",
            By::Latency => "latency",
            By::Throughput => "throughput",
            By::Cost => "cost",
            By::UsageLeft => "usage_left",
            By::Hash(_) => "hash",
        }
    }
}

/// Parts of the traffic.
#[derive(Debug, Clone)]
pub struct Split<T> {
    /// The same value, the same part; None, or a request without it, is at random.
    pub by: Option<Source>,
    /// Upper end of each part, in thousandths of a percent, and its node.
    pub parts: Vec<(u32, Node<T>)>,
}

/// A configured model name and what stands behind it.
#[derive(Debug, Clone)]
pub struct Route {
    pub root: Node<RouteTarget>,
    pub on_context_length: Vec<Node<RouteTarget>>,
    pub on_content_policy: Vec<Node<RouteTarget>>,
    pub retry: Retry,
    pub hedge: Option<Hedge>,
    pub continue_on_cut: bool,
    /// Target and share, 0 to 1.
    pub mirror: Option<(RouteTarget, f64)>,
    pub require: Arc<Require>,
    pub affinity: Option<Arc<Affinity>>,
}

impl Route {
    /// One target and the general rules.
    pub fn to(target: RouteTarget, general: &General) -> Self {
        Route {
            root: Node::Target(target),
            on_context_length: Vec::new(),
            on_content_policy: Vec::new(),
            retry: general.retry,
            hedge: general.hedge,
            continue_on_cut: general.continue_on_cut,
            mirror: None,
            require: general.require.clone(),
            affinity: general.affinity.clone(),
        }
    }
}

/// Rules for names that are not configured.
#[derive(Debug, Clone, Default)]
pub struct General {
    pub retry: Retry,
    pub hedge: Option<Hedge>,
    pub continue_on_cut: bool,
    pub require: Arc<Require>,
    pub affinity: Option<Arc<Affinity>>,
}

/// What keeps a conversation at one target.
#[derive(Debug, Clone, PartialEq)]
pub struct Affinity {
    /// The first that a request has counts.
    pub by: Vec<Source>,
    pub ttl: Duration,
}

/// What a target must offer; never violated.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Require {
    /// One of these; empty means any.
    pub region: Vec<String>,
    /// It must not keep or train on what it is sent.
    pub data_deny: bool,
    pub zdr: bool,
    pub max_price: MaxPrice,
    pub abilities: Needs,
    pub labels: Vec<(String, String)>,
}

/// Highest prices, in nano-dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MaxPrice {
    pub input: Option<u64>,
    pub output: Option<u64>,
}

impl MaxPrice {
    /// The lower of both, each.
    #[must_use]
    pub fn tighter(self, other: MaxPrice) -> MaxPrice {
        let lower = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        MaxPrice { input: lower(self.input, other.input), output: lower(self.output, other.output) }
    }

    pub fn is_none(self) -> bool {
        self.input.is_none() && self.output.is_none()
    }
}

impl Require {
    pub fn is_none(&self) -> bool {
        *self == Require::default()
    }
}

/// What constraints know of a provider.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tags {
    pub region: Option<String>,
    pub zdr: bool,
    /// It says that it neither keeps nor trains on what it is sent.
    pub data_deny: bool,
    pub labels: Vec<(String, String)>,
}

/// A model's tree, ready for one name that clients send.
#[derive(Debug)]
pub struct Tree {
    pub root: Node<Arc<Target>>,
    pub on_context_length: Vec<Node<Arc<Target>>>,
    pub on_content_policy: Vec<Node<Arc<Target>>>,
    pub rules: Arc<Rules>,
    pub require: Arc<Require>,
    pub affinity: Option<Arc<Affinity>>,
    /// Nothing to choose and nothing to check: the whole tree is this target.
    pub lone: Option<Arc<Target>>,
    /// Abilities that some target is known to lack. Only these are looked for in requests.
    pub lacking: Needs,
    /// The smallest context of its targets. Only longer asks are looked at closely.
    pub least_context: Option<u64>,
    behind: OnceLock<Behind>,
}

impl Tree {
    pub fn new(
        root: Node<Arc<Target>>,
        [on_context_length, on_content_policy]: [Vec<Node<Arc<Target>>>; 2],
        rules: Rules,
        require: Arc<Require>,
        affinity: Option<Arc<Affinity>>,
    ) -> Self {
        let mut targets = Vec::new();
        root.each(&mut |target| targets.push(target.clone()));
        let only = match &root {
            Node::Target(target) => Some(target.clone()),
            _ => None,
        };
        let several = only.is_none();
        on_context_length
            .iter()
            .chain(&on_content_policy)
            .for_each(|node| node.each(&mut |target| targets.push(target.clone())));
        let cards = || targets.iter().filter_map(|target| target.card.as_deref()).filter(|_| several);
        let lacking = cards().map(lacking).fold(Needs::NONE, Needs::with);
        let least_context = cards().filter_map(|card| card.context).min();
        let lone = only.filter(|_| targets.len() == 1 && require.is_none() && affinity.is_none());
        Tree {
            root,
            on_context_length,
            on_content_policy,
            rules: Arc::new(rules),
            require,
            affinity,
            lone,
            lacking,
            least_context,
            behind: OnceLock::new(),
        }
    }

    /// What stands behind the name; found out when it is first asked for.
    pub fn behind(&self) -> &Behind {
        self.behind.get_or_init(|| Behind::of(self))
    }

    /// The nodes at the top, those for certain faults last.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node<Arc<Target>>> {
        std::iter::once(&self.root).chain(&self.on_context_length).chain(&self.on_content_policy)
    }

    /// Every target, in the order written.
    pub fn targets(&self) -> Vec<Arc<Target>> {
        let mut targets = Vec::new();
        self.root.each(&mut |target| targets.push(target.clone()));
        targets
    }
}

/// What a card says that the model cannot do. What it does not state, nobody knows.
pub(super) fn lacking(card: &ModelCard) -> Needs {
    let takes = |modality| card.input.is_empty() || card.input.contains(&modality);
    [
        (card.tool_call == Some(false), Needs::TOOLS),
        (card.structured_output == Some(false), Needs::JSON_SCHEMA),
        (card.reasoning == Some(false), Needs::REASONING),
        (!takes(Modality::Image), Needs::VISION),
        (!takes(Modality::Audio), Needs::AUDIO),
        (!takes(Modality::Pdf), Needs::PDF),
    ]
    .into_iter()
    .filter(|(lacks, _)| *lacks)
    .fold(Needs::NONE, |all, (_, one)| all.with(one))
}

/// What a card says that the model can do.
pub(super) fn able(card: &ModelCard) -> Needs {
    let takes = |modality| card.input.contains(&modality);
    [
        (card.tool_call == Some(true), Needs::TOOLS),
        (card.structured_output == Some(true), Needs::JSON_SCHEMA),
        (card.reasoning == Some(true), Needs::REASONING),
        (takes(Modality::Image), Needs::VISION),
        (takes(Modality::Audio), Needs::AUDIO),
        (takes(Modality::Pdf), Needs::PDF),
    ]
    .into_iter()
    .filter(|(able, _)| *able)
    .fold(Needs::NONE, |all, (_, one)| all.with(one))
}

impl<T> Node<T> {
    /// The place of the first branch that fits.
    pub(super) fn branch(branches: &[(Option<Condition>, Node<T>)], facts: &dyn Facts) -> Option<usize> {
        branches.iter().position(|(when, _)| when.as_ref().is_none_or(|when| when.holds(facts)))
    }

    /// Calls with every target, in the order written.
    pub fn each<'a>(&'a self, call: &mut dyn FnMut(&'a T)) {
        match self {
            Node::Target(target) => call(target),
            Node::Fallback(nodes) => nodes.iter().for_each(|node| node.each(call)),
            Node::Balance(balance) => balance.children.iter().for_each(|child| child.node.each(call)),
            Node::Conditional(branches) => branches.iter().for_each(|(_, node)| node.each(call)),
            Node::Split(split) => split.parts.iter().for_each(|(_, node)| node.each(call)),
        }
    }

    /// The same tree over other targets.
    pub fn map<U>(&self, make: &mut dyn FnMut(&T) -> U) -> Node<U> {
        match self {
            Node::Target(target) => Node::Target(make(target)),
            Node::Fallback(nodes) => Node::Fallback(nodes.iter().map(|node| node.map(make)).collect()),
            Node::Balance(balance) => Node::Balance(Balance {
                by: balance.by.clone(),
                turn: balance.turn.clone(),
                children: balance.children.iter().map(|child| child.map(make)).collect(),
            }),
            Node::Conditional(branches) => {
                Node::Conditional(branches.iter().map(|(when, node)| (when.clone(), node.map(make))).collect())
            }
            Node::Split(split) => Node::Split(Split {
                by: split.by.clone(),
                parts: split.parts.iter().map(|(end, node)| (*end, node.map(make))).collect(),
            }),
        }
    }
}

impl<T> Child<T> {
    fn map<U>(&self, make: &mut dyn FnMut(&T) -> U) -> Child<U> {
        Child { node: self.node.map(make), weight: self.weight, priority: self.priority, id: self.id }
    }
}

impl<T> Balance<T> {
    /// The turn of this request.
    pub(super) fn take_turn(&self) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

impl<T> Split<T> {
    /// The place, 0 to 1, that a request's value gives it; None where it has none, and chance decides.
    pub(super) fn stable_place(&self, facts: &dyn Facts) -> Option<f64> {
        self.by.as_ref().and_then(|source| facts.value(source)).map(|value| share(&value))
    }

    /// Which part is at this place of 0 to 1.
    pub(super) fn index_at(&self, place: f64) -> Option<usize> {
        let thousandths = (place * 100_000.0) as u32;
        let last = self.parts.len().checked_sub(1)?;
        Some(self.parts.iter().position(|(end, _)| thousandths < *end).unwrap_or(last))
    }
}
