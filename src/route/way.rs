//! What of a tree an answer depends on: what stands behind the name, and the branches that a request is on.
//!
//! For those who keep answers. What differs here could have been answered otherwise; what chance, health and load decide
//! is left out, for nobody says by them who is answered by what. Pure, and the same in every process.

use std::sync::Arc;

use super::facts::Facts;
use super::tree::{Node, Tree};
use super::{Overrides, Target};
use crate::state::cache::Key;

/// Fields by which a provider looks at the world, or at what it alone keeps, before it answers; beside tools.
pub const LOOKS_ELSEWHERE: &[&str] = &[
    "previous_response_id",
    "conversation",
    "background",
    "container",
    "cachedContent",
    "web_search_options",
    "mcp_servers",
    "search_parameters",
    "search_settings",
    "enable_search",
    "connectors",
    "plugins",
];

/// The end of a model's name that has the provider search the web.
const ONLINE: &str = ":online";

/// Stands for a part that a request's value does not decide.
const BY_CHANCE: u16 = u16::MAX;

/// Stands for no branch at all.
const NOWHERE: u16 = u16::MAX - 1;

/// What stands behind a name.
#[derive(Debug)]
pub struct Behind {
    /// Stands for every target with the parameters that are set for it, in the order written.
    pub print: Key,
    /// Some branch is chosen by what the request says.
    pub branches: bool,
    /// Some target looks at the world for each request.
    pub looks_elsewhere: bool,
}

impl Behind {
    pub(super) fn of(tree: &Tree) -> Behind {
        let mut text = Vec::with_capacity(64);
        spell(&tree.root, &mut text);
        for chain in [&tree.on_context_length, &tree.on_content_policy] {
            text.push(b'|');
            chain.iter().for_each(|node| spell(node, &mut text));
        }
        let mut looks_elsewhere = false;
        tree.root.each(&mut |target| looks_elsewhere |= target_looks_elsewhere(target));
        Behind { print: Key::of([text.as_slice()]), branches: tree.nodes().any(branches), looks_elsewhere }
    }
}

/// Adds the branches that a request is on.
pub fn of(tree: &Tree, facts: &dyn Facts, out: &mut Vec<u8>) {
    tree.nodes().for_each(|node| follow(node, facts, out));
}

/// Whether a model of this name searches for every request.
pub fn is_online(model: &str) -> bool {
    model.ends_with(ONLINE)
}

fn target_looks_elsewhere(target: &Target) -> bool {
    let Overrides { set, default, .. } = &target.overrides;
    is_online(&target.model)
        || LOOKS_ELSEWHERE.iter().any(|name| set.contains_key(*name) || default.contains_key(*name))
}

/// Writes the targets of a node. Weights and conditions stay out: the branches say which of the targets may answer.
fn spell(node: &Node<Arc<Target>>, out: &mut Vec<u8>) {
    let mut all = |tag: u8, nodes: &mut dyn Iterator<Item = &Node<Arc<Target>>>| {
        out.push(tag);
        nodes.for_each(|node| spell(node, out));
        out.push(b')');
    };
    match node {
        Node::Target(target) => {
            let Overrides { set, default, drop } = &target.overrides;
            let told = (&target.provider.name, &target.model, set, default, drop);
            // A tuple of texts and JSON values is always written.
            out.extend(serde_json::to_vec(&told).unwrap_or_default());
        }
        Node::Fallback(nodes) => all(b'f', &mut nodes.iter()),
        Node::Balance(balance) => all(b'b', &mut balance.children.iter().map(|child| &child.node)),
        Node::Conditional(branches) => all(b'c', &mut branches.iter().map(|(_, node)| node)),
        Node::Split(split) => all(b's', &mut split.parts.iter().map(|(_, node)| node)),
    }
}

fn branches(node: &Node<Arc<Target>>) -> bool {
    match node {
        Node::Target(_) => false,
        Node::Fallback(nodes) => nodes.iter().any(branches),
        Node::Balance(balance) => balance.children.iter().any(|child| branches(&child.node)),
        Node::Conditional(_) => true,
        Node::Split(split) => split.by.is_some() || split.parts.iter().any(|(_, node)| branches(node)),
    }
}

fn follow(node: &Node<Arc<Target>>, facts: &dyn Facts, out: &mut Vec<u8>) {
    let mut note = |at: u16| out.extend_from_slice(&at.to_le_bytes());
    match node {
        Node::Target(_) => {}
        Node::Fallback(nodes) => nodes.iter().for_each(|node| follow(node, facts, out)),
        Node::Balance(balance) => balance.children.iter().for_each(|child| follow(&child.node, facts, out)),
        Node::Conditional(branches) => match Node::branch(branches, facts) {
            Some(at) => {
                note(at as u16);
                follow(&branches[at].1, facts, out);
            }
            None => note(NOWHERE),
        },
        Node::Split(split) => match split.stable_place(facts).and_then(|place| split.index_at(place)) {
            Some(at) => {
                note(at as u16);
                follow(&split.parts[at].1, facts, out);
            }
            None => {
                note(BY_CHANCE);
                split.parts.iter().for_each(|(_, node)| follow(node, facts, out));
            }
        },
    }
}
