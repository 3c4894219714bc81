//! Checks of models: their trees, and the rules for trying them.

use super::super::Config;
use super::super::condition::{Clause, Tests, When};
use super::super::error::Issue;
use super::super::model::{Balance, Branch, By, Model, Node, Split};
use super::super::path::KeyPath;
use super::super::routing::{Affinity, RetryOverrides};
use super::super::value::Source;
use super::{Known, upstream};

/// Deepest nesting of a tree. Nobody reads a deeper one.
const MAX_DEPTH: usize = 16;

/// Bytes that a compiled pattern may take, so that a reload cannot be made to eat the memory.
const MAX_PATTERN_BYTES: usize = 1 << 20;

pub(super) fn models(config: &Config, known: &Known<'_>, issues: &mut Vec<Issue>) {
    for (name, model) in config.models.iter() {
        let path = KeyPath::of(&["models", name]);
        if name.trim().is_empty() || name.trim() != name {
            issues.push(Issue::error(
                path.clone(),
                "a model's name is not empty and has no space at its ends; rename it",
            ));
        }
        if name.matches('*').count() > 1 {
            issues.push(Issue::error(path.clone(), "has more than one `*`; a name may hold one"));
        }
        let mut tree = Tree { config, known, name, issues };
        tree.node(&model.root(), &path, Place::Root, 0);
        for (chain, nodes) in
            [("on_context_length", &model.on_context_length), ("on_content_policy", &model.on_content_policy)]
        {
            for (index, node) in nodes.iter().enumerate() {
                tree.node(node, &path.key(chain).index(index), Place::Plain, 0);
            }
        }
        if let Some(mirror) = &model.mirror
            && let Err(message) = upstream::target(config, known, name, &mirror.target)
        {
            issues.push(Issue::error(path.key("mirror").key("target"), message));
        }
        rules(model, &path, issues);
    }
}

pub(super) fn general(config: &Config, issues: &mut Vec<Issue>) {
    let path = KeyPath::of(&["routing"]);
    if config.routing.retry.attempts == 0 {
        issues.push(Issue::error(
            path.key("retry").key("attempts"),
            "is zero, so nothing would be tried; write 1 or more",
        ));
    }
    if config.routing.retry.per_target == Some(0) {
        issues.push(Issue::error(
            path.key("retry").key("per_target"),
            "is zero, so nothing would be tried; write 1 or more",
        ));
    }
    if let Some(kept) = &config.routing.affinity {
        affinity(kept, &path.key("affinity"), issues);
    }
}

fn rules(model: &Model, path: &KeyPath, issues: &mut Vec<Issue>) {
    let RetryOverrides { attempts, per_target, .. } = model.retry;
    for (name, bound) in [("attempts", attempts), ("per_target", per_target)] {
        if bound == Some(0) {
            issues
                .push(Issue::error(path.key("retry").key(name), "is zero, so nothing would be tried; write 1 or more"));
        }
    }
    if let Some(kept) = &model.affinity {
        affinity(kept, &path.key("affinity"), issues);
    }
}

fn affinity(affinity: &Affinity, path: &KeyPath, issues: &mut Vec<Issue>) {
    if affinity.by.is_empty() {
        issues.push(Issue::error(
            path.key("by"),
            "is empty, so no conversation could be told from another; name a source",
        ));
    }
    if affinity.ttl.is_zero() {
        issues.push(Issue::error(path.key("ttl"), "is zero; write more, or take `affinity` out"));
    }
    for (index, source) in affinity.by.iter().enumerate() {
        if matches!(source, Source::Tokens | Source::Model) {
            let message = format!("`{source}` does not tell conversations apart; write session, or a header");
            issues.push(Issue::error(path.key("by").index(index), message));
        }
    }
}

/// Where a node stands: what of `weight`, `priority` and `percent` means something there.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    Plain,
    Balance,
    Split,
}

/// Walks one model's tree.
struct Tree<'a> {
    config: &'a Config,
    known: &'a Known<'a>,
    name: &'a str,
    issues: &'a mut Vec<Issue>,
}

impl Tree<'_> {
    fn error(&mut self, path: KeyPath, message: impl Into<String>) {
        self.issues.push(Issue::error(path, message.into()));
    }

    fn node(&mut self, node: &Node, path: &KeyPath, place: Place, depth: usize) {
        if depth > MAX_DEPTH {
            return self.error(path.clone(), format!("is nested more than {MAX_DEPTH} deep; make the tree flatter"));
        }
        match node.kinds().as_slice() {
            [] if place == Place::Root => self.error(path.clone(), "has no target; add `target: provider/model`"),
            [] => self.error(path.clone(), "leads nowhere; add `target: provider/model`"),
            [_] => {}
            [one, other, ..] => self.error(path.clone(), format!("has both `{one}` and `{other}`; keep one of them")),
        }
        for (name, written, fits) in [
            ("weight", node.weight.is_some(), place == Place::Balance),
            ("priority", node.priority.is_some(), place == Place::Balance),
            ("percent", node.percent.is_some(), place == Place::Split),
        ] {
            if written && !fits {
                let holder = if name == "percent" { "split" } else { "balance" };
                self.error(path.key(name), format!("means something inside a `{holder}` only; take it out"));
            }
        }
        if let Some(text) = &node.target
            && let Err(message) = upstream::target(self.config, self.known, self.name, text)
        {
            self.error(path.key("target"), message);
        }
        upstream::parameters(path, &node.set, &node.default, &node.drop, self.issues);
        upstream::timeouts(path, &node.timeouts, self.issues);
        for (index, inner) in node.fallback.iter().enumerate() {
            self.node(inner, &path.key("fallback").index(index), Place::Plain, depth + 1);
        }
        if let Some(balance) = &node.balance {
            self.balance(balance, &path.key("balance"), depth);
        }
        self.branches(&node.conditional, &path.key("conditional"), depth);
        if let Some(split) = &node.split {
            self.split(split, &path.key("split"), depth);
        }
    }

    fn balance(&mut self, balance: &Balance, path: &KeyPath, depth: usize) {
        if balance.targets.is_empty() {
            self.error(path.clone(), "has nothing to choose from; add `targets: [provider/model, …]`");
        } else if balance.targets.iter().all(|node| node.weight == Some(0)) {
            self.error(path.key("targets"), "every node has the weight 0, so none is used; raise one");
        }
        match (balance.by, &balance.hash) {
            (By::Hash, None) => {
                self.error(path.clone(), "`by: hash` needs `hash`, such as `hash: principal.key`; add it");
            }
            (By::Hash, Some(_)) | (_, None) => {}
            (_, Some(_)) => self.error(path.key("hash"), "means something with `by: hash` only; take it out"),
        }
        for (index, node) in balance.targets.iter().enumerate() {
            self.node(node, &path.key("targets").index(index), Place::Balance, depth + 1);
        }
    }

    fn branches(&mut self, branches: &[Branch], path: &KeyPath, depth: usize) {
        for (index, branch) in branches.iter().enumerate() {
            let path = path.index(index);
            let last = index + 1 == branches.len();
            match (&branch.when, &branch.then, &branch.otherwise) {
                (Some(when), Some(node), None) => {
                    self.when(when, &path.key("when"), 0);
                    self.node(node, &path.key("then"), Place::Plain, depth + 1);
                }
                (None, None, Some(node)) => {
                    if !last {
                        self.error(path.clone(), "`else` fits every request; put it last");
                    }
                    self.node(node, &path.key("else"), Place::Plain, depth + 1);
                }
                _ => self.error(path, "is no branch; write {when: …, then: …}, or {else: …}"),
            }
        }
        if branches.last().is_some_and(|branch| branch.otherwise.is_none()) {
            let message = "has no `else`, so requests that fit no branch are refused; add one unless that is meant";
            self.issues.push(Issue::warning(path.clone(), message));
        }
    }

    fn split(&mut self, split: &Split, path: &KeyPath, depth: usize) {
        let mut sum = 0;
        for (index, node) in split.parts.iter().enumerate() {
            let path = path.key("parts").index(index);
            match node.percent {
                Some(share) => sum += share.thousandths(),
                None => self.error(path.clone(), "has no `percent`; add its share of the traffic"),
            }
            self.node(node, &path, Place::Split, depth + 1);
        }
        if split.parts.is_empty() {
            self.error(path.clone(), "has no parts; add `parts: [{percent: 90%, target: provider/model}, …]`");
        } else if sum != 100_000 && split.parts.iter().all(|node| node.percent.is_some()) {
            let is = f64::from(sum) / 1000.0;
            self.error(path.key("parts"), format!("together the parts are {is}%; make them 100%"));
        }
    }

    fn when(&mut self, when: &When, path: &KeyPath, depth: usize) {
        if depth > MAX_DEPTH {
            return self
                .error(path.clone(), format!("is nested more than {MAX_DEPTH} deep; make the condition flatter"));
        }
        for clause in &when.0 {
            match clause {
                Clause::All(inner) | Clause::Any(inner) => {
                    let name = if matches!(clause, Clause::All(_)) { "all" } else { "any" };
                    for (index, when) in inner.iter().enumerate() {
                        self.when(when, &path.key(name).index(index), depth + 1);
                    }
                }
                Clause::Not(when) => self.when(when, &path.key("not"), depth + 1),
                Clause::Test(source, tests) => self.tests(tests, &path.key(&source.to_string())),
            }
        }
    }

    fn tests(&mut self, tests: &Tests, path: &KeyPath) {
        if *tests == Tests::default() {
            self.error(path.clone(), "tests nothing; write a value, or tests such as {in: [a, b]}");
        }
        if let Some(pattern) = &tests.regex
            && let Err(error) = regex::RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).build()
        {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
            self.error(path.key("regex"), format!("`{pattern}` is not a pattern: {reason}; write one in RE2 syntax"));
        }
    }
}
