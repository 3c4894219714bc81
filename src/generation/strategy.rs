//! From a written model to its strategy tree, and the rules for trying it.
//!
//! Nodes whose targets are all at providers without a key are left out, as if they were not written.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use regex::RegexBuilder;

use super::providers;
use crate::config::{self, Config, Model, TimeoutOverrides};
use crate::route::condition::{Condition, Test};
use crate::route::facts::{Needs, Source};
use crate::route::policy::{Lock, Locks};
use crate::route::tree::{Affinity, Balance, By, Child, MaxPrice, Split};
use crate::route::{General, Hedge, HedgeAfter, Node, Overrides, Require, Retry, Route, RouteTarget, Routes, Timeouts};

/// One model being built.
pub(super) struct Build<'a> {
    pub config: &'a Config,
    pub routes: &'a Routes,
    pub name: &'a str,
    pub model: &'a Model,
    /// Targets whose provider has no key: target and the variable to set.
    pub left_out: Vec<String>,
    pub wrong: Vec<String>,
}

/// What a node has from those above it, nearest last.
#[derive(Clone, Default)]
struct Inherited {
    overrides: Overrides,
    /// Of the nodes below the model itself: their `total` is for one attempt.
    timeouts: TimeoutOverrides,
}

impl Build<'_> {
    /// The route; None when no target of it is live.
    pub fn route(&mut self) -> Option<Route> {
        let (model, general) = (self.model, &self.config.routing);
        // What the model itself says is told apart from what its nodes say.
        let of_model = providers::overrides(&model.set, &model.default, &model.drop);
        let top = Inherited { overrides: of_model, timeouts: TimeoutOverrides::default() };
        let root = config::Node {
            set: Default::default(),
            default: Default::default(),
            drop: Vec::new(),
            timeouts: TimeoutOverrides::default(),
            ..model.root()
        };
        let root = self.node(&root, &top)?;
        let mut chain = |nodes: &[config::Node]| nodes.iter().filter_map(|node| self.node(node, &top)).collect();
        let on_context_length = chain(&model.on_context_length);
        let on_content_policy = chain(&model.on_content_policy);
        let mirror = model.mirror.as_ref().and_then(|mirror| {
            let target = self.target(&mirror.target, &top)?;
            Some((target, mirror.share.get()))
        });
        Some(Route {
            root,
            on_context_length,
            on_content_policy,
            retry: retry(&model.retry.over(&general.retry)),
            hedge: model.hedge.or(general.hedge).map(hedge),
            continue_on_cut: model.continue_on_cut.unwrap_or(general.continue_on_cut),
            mirror,
            require: Arc::new(merged(&require(&general.require), &require(&model.require))),
            affinity: model.affinity.as_ref().or(general.affinity.as_ref()).map(|written| Arc::new(affinity(written))),
        })
    }

    fn node(&mut self, written: &config::Node, above: &Inherited) -> Option<Node<RouteTarget>> {
        let own = providers::overrides(&written.set, &written.default, &written.drop);
        let here = Inherited { overrides: above.overrides.with(&own), timeouts: written.timeouts.or(above.timeouts) };
        if let Some(target) = &written.target {
            return self.target(target, &here).map(Node::Target);
        }
        if let Some(balance) = &written.balance {
            return self.balance(balance, &here);
        }
        if let Some(split) = &written.split {
            return self.split(split, &here);
        }
        if !written.conditional.is_empty() {
            let branches = written.conditional.iter().filter_map(|branch| {
                let node = branch.then.as_ref().or(branch.otherwise.as_ref())?;
                Some((branch.when.as_ref().map(condition), self.node(node, &here)?))
            });
            return not_empty(branches.collect()).map(Node::Conditional);
        }
        let nodes: Vec<_> = written.fallback.iter().filter_map(|node| self.node(node, &here)).collect();
        match nodes.len() {
            0 => None,
            // Nothing to choose: what is asked of one target alone costs no more than one written as such.
            1 => nodes.into_iter().next(),
            _ => Some(Node::Fallback(nodes)),
        }
    }

    fn balance(&mut self, written: &config::Balance, above: &Inherited) -> Option<Node<RouteTarget>> {
        let children = written.targets.iter().filter_map(|node| {
            let id = identity(node);
            let (weight, priority) = (node.weight.unwrap_or(1), node.priority.unwrap_or(0));
            Some(Child { node: self.node(node, above)?, weight, priority, id })
        });
        let children = not_empty(children.collect())?;
        let by = match written.by {
            config::By::Weighted => By::Weighted,
            config::By::RoundRobin => By::RoundRobin,
            config::By::LeastInflight => By::LeastInflight,
            config::By::Latency => By::Latency,
            config::By::Throughput => By::Throughput,
            config::By::Cost => By::Cost,
            config::By::UsageLeft => By::UsageLeft,
            config::By::Hash => By::Hash(written.hash.as_ref().map_or(Source::Key, source)),
        };
        Some(Node::Balance(Balance { by, children, turn: Arc::default() }))
    }

    fn split(&mut self, written: &config::Split, above: &Inherited) -> Option<Node<RouteTarget>> {
        let mut end = 0;
        let mut parts = Vec::new();
        for part in &written.parts {
            end += part.percent.map_or(0, |share| share.thousandths());
            // The traffic of a part that is not live falls to the next.
            if let Some(node) = self.node(part, above) {
                parts.push((end, node));
            }
        }
        let parts = not_empty(parts)?;
        Some(Node::Split(Split { by: written.by.as_ref().map(source), parts }))
    }

    fn target(&mut self, text: &str, here: &Inherited) -> Option<RouteTarget> {
        let Some((provider, model)) = text.split_once('/') else {
            self.wrong.push(format!("models.{}: `{text}` is no target; write provider/model", self.name));
            return None;
        };
        let Some(provider) = self.routes.providers.iter().find(|live| live.name == provider) else {
            match self.routes.dormant.iter().find(|(dormant, _)| dormant == provider) {
                Some((_, variable)) => self.left_out.push(format!("{text} ({variable})")),
                // Of the built-in table, and nobody wrote it down: it lives once its variable is set.
                None if let Some(variable) = crate::provider::find(provider).and_then(|row| row.env.first()) => {
                    self.left_out.push(format!("{text} ({variable})"));
                }
                None => self.wrong.push(format!("models.{}: no provider is called `{provider}`", self.name)),
            }
            return None;
        };
        let of_provider = self.config.providers.get(&provider.name).map(|written| written.timeouts).unwrap_or_default();
        let of_model = self.model.timeouts;
        // Only a model's own `total` is for all its targets together.
        let merged = TimeoutOverrides { total: of_model.total, ..here.timeouts.or(of_model).or(of_provider) };
        let attempt = here.timeouts.total.or(of_provider.total);
        let timeouts: Timeouts = providers::timeouts(&merged.over(&self.config.timeouts), attempt);
        Some(RouteTarget {
            provider: provider.clone(),
            model: provider.models.get(model).cloned().unwrap_or_else(|| model.to_owned()),
            overrides: provider.overrides.with(&here.overrides),
            timeouts,
        })
    }
}

fn not_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// What a child of a balance is in hashes: its first target, so that neither its place nor its siblings count.
fn identity(node: &config::Node) -> u64 {
    fn first(node: &config::Node) -> Option<&str> {
        let balance = node.balance.iter().flat_map(|balance| &balance.targets);
        let branches = node.conditional.iter().filter_map(|branch| branch.then.as_ref().or(branch.otherwise.as_ref()));
        let parts = node.split.iter().flat_map(|split| &split.parts);
        let inner = node.fallback.iter().chain(balance).chain(branches).chain(parts);
        node.target.as_deref().or_else(|| inner.filter_map(first).next())
    }
    let mut hasher = DefaultHasher::new();
    first(node).hash(&mut hasher);
    hasher.finish()
}

pub(super) fn general(written: &config::Routing) -> General {
    General {
        retry: retry(&written.retry),
        hedge: written.hedge.map(hedge),
        continue_on_cut: written.continue_on_cut,
        require: Arc::new(require(&written.require)),
        affinity: written.affinity.as_ref().map(|written| Arc::new(affinity(written))),
    }
}

pub(super) fn locks(written: &config::RequestPolicy) -> Locks {
    let lock = |lock: config::Lock| match lock {
        config::Lock::Allow => Lock::Allow,
        config::Lock::Ignore => Lock::Ignore,
        config::Lock::Refuse => Lock::Refuse,
    };
    Locks {
        models: lock(written.models),
        order: lock(written.order),
        only: lock(written.only),
        ignore: lock(written.ignore),
        sort: lock(written.sort),
        fallbacks: lock(written.fallbacks),
        require_parameters: lock(written.require_parameters),
        data_policy: lock(written.data_policy),
        max_price: lock(written.max_price),
        performance: lock(written.performance),
        session: lock(written.session),
        timeout: lock(written.timeout),
    }
}

fn retry(written: &config::Retry) -> Retry {
    Retry {
        max_attempts: written.attempts,
        per_target: written.per_target,
        max_wait: written.wait.get(),
        backoff: written.backoff.get(),
        max_backoff: written.max_backoff.get(),
    }
}

fn hedge(written: config::Hedge) -> Hedge {
    let after = match written.after {
        config::After::Time(time) => HedgeAfter::Fixed(time.get()),
        config::After::Quantile(quantile) => HedgeAfter::Quantile(f64::from(quantile) / 100.0),
    };
    Hedge { after, budget: written.budget.get() }
}

fn affinity(written: &config::Affinity) -> Affinity {
    Affinity { by: written.by.iter().map(source).collect(), ttl: written.ttl.get() }
}

fn require(written: &config::Require) -> Require {
    let abilities = written.abilities.iter().map(|ability| match ability {
        config::Ability::Tools => Needs::TOOLS,
        config::Ability::Vision => Needs::VISION,
        config::Ability::Audio => Needs::AUDIO,
        config::Ability::Pdf => Needs::PDF,
        config::Ability::JsonSchema => Needs::JSON_SCHEMA,
        config::Ability::Reasoning => Needs::REASONING,
    });
    Require {
        region: written.region.clone(),
        data_deny: written.data_collection == Some(config::DataCollection::Deny),
        zdr: written.zdr == Some(true),
        max_price: MaxPrice {
            input: written.max_price.input.map(config::Usd::nanos),
            output: written.max_price.output.map(config::Usd::nanos),
        },
        abilities: abilities.fold(Needs::NONE, Needs::with),
        labels: written.labels.clone().into_iter().collect(),
    }
}

/// Both must hold. Of regions the model's own count, where it names any: an intersection would be empty by accident.
fn merged(general: &Require, own: &Require) -> Require {
    Require {
        region: if own.region.is_empty() { general.region.clone() } else { own.region.clone() },
        data_deny: general.data_deny || own.data_deny,
        zdr: general.zdr || own.zdr,
        max_price: general.max_price.tighter(own.max_price),
        abilities: general.abilities.with(own.abilities),
        labels: general.labels.iter().chain(&own.labels).cloned().collect(),
    }
}

fn source(written: &config::Source) -> Source {
    match written {
        config::Source::Header(name) => Source::Header(name.clone()),
        config::Source::Param(path) => Source::Param(path.clone()),
        config::Source::Metadata(name) => Source::Metadata(name.clone()),
        config::Source::Key => Source::Key,
        config::Source::Project => Source::Project,
        config::Source::Model => Source::Model,
        config::Source::Session => Source::Session,
        config::Source::PromptCacheKey => Source::PromptCacheKey,
        config::Source::Messages => Source::Messages,
        config::Source::Tokens => Source::Tokens,
    }
}

fn condition(written: &config::When) -> Condition {
    let clause = |clause: &config::Clause| match clause {
        config::Clause::All(inner) => Condition::All(inner.iter().map(condition).collect()),
        config::Clause::Any(inner) => Condition::Any(inner.iter().map(condition).collect()),
        config::Clause::Not(inner) => Condition::Not(Box::new(condition(inner))),
        config::Clause::Test(of, written) => {
            let mut tests: Vec<Condition> =
                tests(written).into_iter().map(|test| Condition::Test(source(of), test)).collect();
            match (tests.pop(), tests.is_empty()) {
                (Some(only), true) => only,
                (last, _) => Condition::All(tests.into_iter().chain(last).collect()),
            }
        }
    };
    let mut clauses: Vec<Condition> = written.0.iter().map(clause).collect();
    match (clauses.pop(), clauses.is_empty()) {
        (Some(only), true) => only,
        (last, _) => Condition::All(clauses.into_iter().chain(last).collect()),
    }
}

fn tests(written: &config::Tests) -> Vec<Test> {
    // `check` has made sure that it is one; what is not, fits nothing.
    let never = || Test::In(Vec::new());
    let regex = written.regex.as_deref().map(|pattern| {
        RegexBuilder::new(pattern).build().map_or_else(|_| never(), |regex| Test::Regex(Arc::new(regex)))
    });
    let all = [
        written.eq.clone().map(Test::Eq),
        written.ne.clone().map(Test::Ne),
        written.gt.map(Test::Gt),
        written.gte.map(Test::Gte),
        written.lt.map(Test::Lt),
        written.lte.map(Test::Lte),
        written.one_of.clone().map(Test::In),
        written.not_in.clone().map(Test::NotIn),
        regex,
        written.exists.map(Test::Exists),
    ];
    all.into_iter().flatten().collect()
}
