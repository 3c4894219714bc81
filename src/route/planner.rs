//! From a tree and a request to a plan: constraints remove, the tree and the request's wishes rank.
//!
//! Pure: no clock and no dice of its own. Removes nothing silently: every target that is left out has a verdict.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::sync::Arc;

use smallvec::SmallVec;

use super::facts::{Facts, Health, mix, stable, unit};
use super::filter::{Filter, names, unwell};
use super::policy::{Policy, Quantile, Sort};
use super::tree::{Balance, By, Child, Node, Tree};
use super::{Plan, Rules, Target, Verdict};
use crate::state::health::{Measure, Millis, Quantiles, Standing};

/// One in so many requests of a balance that follows measures goes elsewhere, so that a target that became better is
/// found out.
const EXPLORE: f64 = 1.0 / 16.0;

/// Everything that planning one request looks at.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub facts: &'a dyn Facts,
    pub health: &'a dyn Health,
    pub policy: &'a Policy,
    /// Dice of this request.
    pub seed: u64,
    /// The target (`provider/model`) that its conversation is kept at.
    pub kept: Option<&'a str>,
    /// Whether anybody reads the verdicts of targets that are in the plan.
    pub trace: bool,
    /// No other target than the first may be tried.
    pub no_fallbacks: bool,
}

impl Request<'_> {
    /// Whether the first alone may answer. With an order of its own the order is what is allowed; without one, the first
    /// target.
    fn is_for_the_first(&self) -> bool {
        self.no_fallbacks || self.policy.allow_fallbacks == Some(false) && self.policy.order.is_empty()
    }
}

/// Health where all is well.
struct Well<'a>(&'a dyn Health);

impl Health for Well<'_> {
    fn now(&self) -> Millis {
        self.0.now()
    }

    fn standing(&self, _: &Arc<Target>) -> Standing {
        Standing::Closed
    }

    fn measure(&self, target: &Arc<Target>) -> Measure {
        self.0.measure(target)
    }
}

/// The plan of one request over the trees of the models it names, in their order. Its targets may be none; then the
/// verdicts say why.
pub fn plan(trees: &[Arc<Tree>], request: &Request<'_>) -> Plan {
    if request.is_for_the_first() {
        return of_the_first(trees, request);
    }
    plan_for(trees, request, Whom::All)
}

/// The plan of a request that the first target alone may answer: the one that would be first were all well. Which of
/// equals that is, the strategy says, and who is unwell is not among them; but no place in an order is given to the next.
fn of_the_first(trees: &[Arc<Tree>], request: &Request<'_>) -> Plan {
    if !request.policy.ranks() {
        return plan_for(trees, request, Whom::First);
    }
    // Its own order or sort makes one of all of them the first.
    let well = Well(request.health);
    let mut plan = plan_for(trees, &Request { health: &well, ..*request }, Whom::All);
    plan.targets.truncate(1);
    if let Some(target) = plan.targets.first()
        && let Some(removed) = unwell(request.health, target)
    {
        plan.verdicts.push(removed.verdict(target));
        plan.targets.clear();
    }
    plan.rules = alone(&plan.rules);
    plan
}

/// Of whom a plan is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    All,
    /// Of every order the first that the request may have at all, whether or not it is well.
    First,
}

fn plan_for(trees: &[Arc<Tree>], request: &Request<'_>, whom: Whom) -> Plan {
    let Some(first) = trees.first() else { return Plan::default() };
    let policy = request.policy;
    let mut targets: Vec<Arc<Target>> = Vec::with_capacity(2);
    let mut verdicts = Vec::new();
    let mut stands = false;
    for tree in trees {
        let from = targets.len();
        stands |= walk(tree, std::slice::from_ref(&tree.root), request, whom, (&mut targets, &mut verdicts));
        if !policy.across_models {
            rank(&mut targets[from..], request);
        }
        if whom == Whom::First && stands {
            break;
        }
    }
    if policy.across_models {
        rank(&mut targets, request);
    }
    if trees.len() > 1 {
        once_each(&mut targets);
    }
    let mut chains = [Vec::new(), Vec::new()];
    for (chain, nodes) in chains.iter_mut().zip([&first.on_context_length, &first.on_content_policy]) {
        if !nodes.is_empty() {
            walk(first, nodes, request, whom, (chain, &mut verdicts));
        }
    }
    let [on_context_length, on_content_policy] = chains;
    // Too long for all of them: what is there for long asks.
    let unfit = targets.is_empty() && !(whom == Whom::First && stands);
    if unfit && verdicts.iter().any(|verdict| verdict.removed_by == Some("context")) {
        targets.clone_from(&on_context_length);
    }
    keep(&mut targets, request);
    if request.trace {
        describe(&targets, request, &mut verdicts);
    }
    let rules = if whom == Whom::First { alone(&first.rules) } else { first.rules.clone() };
    Plan { targets, on_context_length, on_content_policy, rules, verdicts }
}

/// The model's rules, but that nobody else is tried.
fn alone(rules: &Rules) -> Arc<Rules> {
    Arc::new(Rules { fallbacks: false, ..rules.clone() })
}

/// What is left of these nodes, in the tree's order. Gives whether there is somebody, well or not: see [`Walk::node`].
fn walk(
    tree: &Tree,
    nodes: &[Node<Arc<Target>>],
    request: &Request<'_>,
    whom: Whom,
    (out, verdicts): (&mut Vec<Arc<Target>>, &mut Vec<Verdict>),
) -> bool {
    let tightened = request.policy.tighten(&tree.require);
    let require = tightened.as_ref().unwrap_or(&tree.require);
    let filter = Filter::new(tree, require, request.policy, request.facts, request.health);
    let dice = Dice(request.seed);
    Walk { filter, request, whom, dice, verdicts }.fallback(nodes, out)
}

struct Walk<'a> {
    filter: Filter<'a>,
    request: &'a Request<'a>,
    whom: Whom,
    dice: Dice,
    verdicts: &'a mut Vec<Verdict>,
}

/// What is left of a child of a balance.
struct Part<'t> {
    child: &'t Child<Arc<Target>>,
    /// Its place in the list of targets.
    at: std::ops::Range<usize>,
    /// The lower the better.
    score: f64,
}

impl Walk<'_> {
    /// Puts out what is left of a node. Gives whether somebody stands there: who is put out, or would be were it well.
    fn node(&mut self, node: &Node<Arc<Target>>, out: &mut Vec<Arc<Target>>) -> bool {
        match node {
            Node::Target(target) => self.target(target, out),
            Node::Fallback(nodes) => self.fallback(nodes, out),
            Node::Balance(balance) => self.balance(balance, out),
            Node::Conditional(branches) => {
                if let Some(chosen) = Node::branch(branches, self.request.facts) {
                    return self.node(&branches[chosen].1, out);
                }
                branches.iter().for_each(|(_, node)| self.leave(node, "condition", "no branch fits the request"));
                false
            }
            Node::Split(split) => {
                let place = split.stable_place(self.request.facts).unwrap_or_else(|| self.dice.unit());
                split.index_at(place).is_some_and(|at| self.node(&split.parts[at].1, out))
            }
        }
    }

    fn target(&mut self, target: &Arc<Target>, out: &mut Vec<Arc<Target>>) -> bool {
        // Of the first it counts more whether the request may have it than how it is.
        let unfit = if self.whom == Whom::First { self.filter.unfit(target) } else { None };
        let stands = unfit.is_none();
        match unfit.or_else(|| self.filter.removes(target)) {
            None => out.push(target.clone()),
            Some(removed) => self.verdicts.push(removed.verdict(target)),
        }
        stands
    }

    fn fallback(&mut self, nodes: &[Node<Arc<Target>>], out: &mut Vec<Arc<Target>>) -> bool {
        let mut stands = false;
        for node in nodes {
            stands |= self.node(node, out);
            if self.whom == Whom::First && stands {
                break;
            }
        }
        stands
    }

    fn leave(&mut self, node: &Node<Arc<Target>>, by: &'static str, why: &str) {
        node.each(&mut |target| {
            let verdict =
                Verdict { target: target.name(), removed_by: Some(by), why: why.to_owned(), retry_after: None };
            self.verdicts.push(verdict);
        });
    }

    fn balance(&mut self, balance: &Balance<Arc<Target>>, out: &mut Vec<Arc<Target>>) -> bool {
        if self.whom == Whom::All {
            return self.equals(balance, None, out);
        }
        // Children of one priority are equals, those of the next one stand in for them.
        let mut tiers: SmallVec<[u32; 4]> = balance.children.iter().map(|child| child.priority).collect();
        tiers.sort_unstable();
        tiers.dedup();
        tiers.into_iter().any(|tier| self.equals(balance, Some(tier), out))
    }

    /// The children of a balance, or those of one priority, in the order that its strategy gives them.
    fn equals(&mut self, balance: &Balance<Arc<Target>>, tier: Option<u32>, out: &mut Vec<Arc<Target>>) -> bool {
        let from = out.len();
        let mut stands = false;
        let mut parts: SmallVec<[Part<'_>; 8]> = SmallVec::new();
        for child in balance.children.iter().filter(|child| tier.is_none_or(|tier| child.priority == tier)) {
            if child.weight == 0 {
                self.leave(&child.node, "drained", "its weight is 0");
                continue;
            }
            let begin = out.len();
            stands |= self.node(&child.node, out);
            if out.len() > begin {
                parts.push(Part { child, at: begin..out.len(), score: 0.0 });
            }
        }
        if parts.len() < 2 {
            return stands;
        }
        self.score(balance, &mut parts, out);
        parts.sort_by(|a, b| {
            let tier = a.child.priority.cmp(&b.child.priority);
            tier.then(a.score.partial_cmp(&b.score).unwrap_or(Ordering::Equal))
        });
        let region: SmallVec<[Arc<Target>; 16]> = out.drain(from..).collect();
        for part in &parts {
            out.extend(region[part.at.start - from..part.at.end - from].iter().cloned());
        }
        stands
    }

    /// Gives each part its score: the lower, the earlier.
    fn score(&mut self, balance: &Balance<Arc<Target>>, parts: &mut [Part<'_>], out: &[Arc<Target>]) {
        let health = self.request.health;
        let measure = |part: &Part<'_>| health.measure(&out[part.at.start]);
        match &balance.by {
            By::Weighted => {
                parts.iter_mut().for_each(|part| part.score = self.dice.draw(f64::from(part.child.weight)));
            }
            By::RoundRobin => round_robin(balance.take_turn(), parts),
            By::Hash(source) => match self.request.facts.value(source) {
                Some(value) => rendezvous(stable(&value), parts),
                None => parts.iter_mut().for_each(|part| part.score = self.dice.draw(f64::from(part.child.weight))),
            },
            By::Cost => self.by_cost(parts, out),
            By::LeastInflight => {
                for part in parts.iter_mut() {
                    let load = f64::from(measure(part).in_flight + 1) / f64::from(part.child.weight);
                    // Dice among equals: all workers would pick the same.
                    part.score = load + self.dice.unit() * 1e-3;
                }
            }
            By::Latency => {
                let stream = self.request.facts.stream();
                self.by_measure(parts, |part| {
                    let measure = measure(part);
                    let known = if stream { measure.ttft_ewma_ms } else { measure.duration_ewma_ms };
                    (known.map(|millis| millis.max(0.1)), measure.in_flight)
                });
            }
            By::Throughput => self.by_measure(parts, |part| {
                let measure = measure(part);
                (measure.throughput_ewma.map(|speed| 1000.0 / speed.max(0.001)), measure.in_flight)
            }),
            By::UsageLeft => {
                for part in parts.iter_mut() {
                    let left = measure(part).usage_left.unwrap_or(1.0);
                    part.score = 1.0 - left * f64::from(part.child.weight.min(1)) + self.dice.unit() * 1e-3;
                }
            }
        }
    }

    /// By a cost that is known once a target was asked. Who has none is asked first, one request at a time; now and then
    /// any one is.
    fn by_measure(&mut self, parts: &mut [Part<'_>], known: impl Fn(&Part<'_>) -> (Option<f64>, u32)) {
        let seen: SmallVec<[(Option<f64>, u32); 8]> = parts.iter().map(known).collect();
        let best = seen.iter().filter_map(|(cost, _)| *cost).fold(f64::INFINITY, f64::min);
        let best = if best.is_finite() { best } else { 1.0 };
        for (part, (cost, in_flight)) in parts.iter_mut().zip(seen) {
            let weight = f64::from(part.child.weight);
            part.score = match (cost, in_flight) {
                (None, 0) => -self.dice.unit(),
                (cost, in_flight) => cost.unwrap_or(best) * f64::from(in_flight + 1) / weight,
            };
        }
        if self.dice.unit() < EXPLORE {
            let lowest = parts.iter().map(|part| part.child.priority).min();
            let tier: SmallVec<[usize; 8]> =
                (0..parts.len()).filter(|at| Some(parts[*at].child.priority) == lowest).collect();
            let at = tier[self.dice.below(tier.len())];
            parts[at].score = f64::NEG_INFINITY;
        }
    }

    /// At random by 1/price², as OpenRouter does. A free one comes first; one whose price is not known counts as the
    /// dearest.
    fn by_cost(&mut self, parts: &mut [Part<'_>], out: &[Arc<Target>]) {
        let prices: SmallVec<[Option<f64>; 8]> = parts.iter().map(|part| price(&out[part.at.start])).collect();
        let dearest = prices.iter().flatten().copied().fold(0.0, f64::max);
        for (part, price) in parts.iter_mut().zip(prices) {
            let price = price.unwrap_or(if dearest > 0.0 { dearest } else { 1.0 });
            let weight = f64::from(part.child.weight);
            part.score = if price == 0.0 {
                -self.dice.unit()
            } else {
                self.dice.draw(weight * (dearest.max(1.0) / price).powi(2))
            };
        }
    }
}

/// What a target costs, in nano-dollars for a million tokens: three of input to one of output, as asks usually are.
fn price(target: &Target) -> Option<f64> {
    let price = target.card.as_deref()?.price.as_ref()?;
    Some((price.base.input as f64 * 3.0 + price.base.output as f64) / 4.0)
}

/// The part whose turn it is comes first, the others follow in their circle. Of each priority apart.
fn round_robin(turn: u32, parts: &mut [Part<'_>]) {
    let mut priorities: SmallVec<[u32; 4]> = parts.iter().map(|part| part.child.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    for priority in priorities {
        let tier = || parts.iter().enumerate().filter(|(_, part)| part.child.priority == priority);
        // Each weight may be as large as its type.
        let sum: u64 = tier().map(|(_, part)| u64::from(part.child.weight)).sum();
        let mut left = u64::from(turn) % sum.max(1);
        let first = tier().position(|(_, part)| match left.checked_sub(u64::from(part.child.weight)) {
            Some(less) => {
                left = less;
                false
            }
            None => true,
        });
        let places: SmallVec<[usize; 8]> = tier().map(|(at, _)| at).collect();
        let count = places.len();
        for (place, at) in places.into_iter().enumerate() {
            parts[at].score = ((place + count - first.unwrap_or(0)) % count) as f64;
        }
    }
}

/// Rendezvous hashing: each part draws by the key and its own name, so that one that leaves moves its own keys alone.
fn rendezvous(key: u64, parts: &mut [Part<'_>]) {
    for part in parts {
        let draw = unit(mix(key ^ mix(part.child.id)));
        part.score = -draw.max(f64::MIN_POSITIVE).ln() / f64::from(part.child.weight);
    }
}

/// What the request wishes, over the tree's order: its sort, then its order, then its preferences. Stable: where it does
/// not tell two apart, the tree does.
fn rank(targets: &mut [Arc<Target>], request: &Request<'_>) {
    let policy = request.policy;
    if let Some(sort) = policy.sort {
        let health = request.health;
        let key = |target: &Arc<Target>| match sort {
            Sort::Price => price(target).unwrap_or(f64::INFINITY),
            Sort::Throughput => health.measure(target).throughput_ewma.map_or(f64::INFINITY, |speed| -speed),
            Sort::Latency => {
                let measure = health.measure(target);
                let known = if request.facts.stream() { measure.ttft_ewma_ms } else { measure.duration_ewma_ms };
                known.unwrap_or(f64::INFINITY)
            }
        };
        targets.sort_by(|a, b| key(a).partial_cmp(&key(b)).unwrap_or(Ordering::Equal));
    }
    if !policy.order.is_empty() {
        let place =
            |target: &Arc<Target>| policy.order.iter().position(|slug| names(slug, target)).unwrap_or(usize::MAX);
        targets.sort_by_key(place);
    }
    if !policy.min_throughput.is_empty() || !policy.max_latency.is_empty() {
        targets.sort_by_key(|target| misses(&request.health.measure(target), policy));
    }
}

/// Whether a target is known to miss what the request would like. Who was never asked misses nothing.
fn misses(measure: &Measure, policy: &Policy) -> bool {
    let at = |quantiles: &Quantiles, quantile| match quantile {
        Quantile::P50 => quantiles.p50,
        Quantile::P75 => quantiles.p75,
        Quantile::P90 => quantiles.p90,
        Quantile::P99 => quantiles.p99,
    };
    let slow = |(quantile, bound): &(Quantile, f64)| at(&measure.throughput, *quantile).is_some_and(|it| it < *bound);
    let late =
        |(quantile, bound): &(Quantile, f64)| at(&measure.ttft, *quantile).is_some_and(|it| it > *bound * 1000.0);
    policy.min_throughput.iter().any(slow) || policy.max_latency.iter().any(late)
}

/// The target that the conversation is kept at comes first, unless the request has an order of its own.
fn keep(targets: &mut [Arc<Target>], request: &Request<'_>) {
    if let Some(kept) = request.kept
        && request.policy.order.is_empty()
        && let Some(at) = targets.iter().position(|target| is(kept, target))
    {
        targets[..=at].rotate_right(1);
    }
}

fn is(name: &str, target: &Target) -> bool {
    let rest = name.strip_prefix(target.provider.name.as_str()).and_then(|rest| rest.strip_prefix('/'));
    rest == Some(target.model.as_str())
}

/// Targets that several of the request's models share stand once.
fn once_each(targets: &mut Vec<Arc<Target>>) {
    let mut seen: SmallVec<[String; 8]> = SmallVec::new();
    targets.retain(|target| {
        let name = target.name();
        let fresh = !seen.contains(&name);
        seen.push(name);
        fresh
    });
}

/// Why each target is where it is, for the trace.
fn describe(targets: &[Arc<Target>], request: &Request<'_>, verdicts: &mut Vec<Verdict>) {
    for target in targets {
        let measure = request.health.measure(target);
        let millis = |value: Option<f64>| value.map_or("unknown".to_owned(), |value| format!("{value:.0} ms"));
        let kept = request.kept.is_some_and(|kept| is(kept, target));
        let why = format!(
            "{}; {} in flight; first content {}, whole answer {}; {:.0} % of {} failed{}",
            measure.standing.as_str(),
            measure.in_flight,
            millis(measure.ttft_ewma_ms),
            millis(measure.duration_ewma_ms),
            measure.error_rate * 100.0,
            measure.samples,
            if kept { "; the conversation is kept here" } else { "" },
        );
        verdicts.push(Verdict { target: target.name(), removed_by: None, why, retry_after: None });
    }
}

/// Dice that a seed decides (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// 0 to 1, without 1.
    fn unit(&mut self) -> f64 {
        unit(self.next())
    }

    fn below(&mut self, end: usize) -> usize {
        ((self.unit() * end as f64) as usize).min(end.saturating_sub(1))
    }

    /// A draw of which the lowest wins with a chance in proportion to the weight (exponential race): sorted by these,
    /// things stand in a weighted random order.
    fn draw(&mut self, weight: f64) -> f64 {
        -self.unit().max(f64::MIN_POSITIVE).ln() / weight
    }
}
