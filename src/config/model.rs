//! The names that clients send, and what each of them stands for: a tree of targets and of ways to choose among them.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::cache::CacheOverrides;
use super::condition::When;
use super::routing::{Affinity, Hedge, Mirror, Require, RetryOverrides};
use super::timeouts::TimeoutOverrides;
use super::value::{Share, Source};

/// What a model name stands for: exactly one of `target`, `fallback`, `balance`, `conditional` and `split`. The text `provider/model` alone is short for `{target: provider/model}`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = shorthand)]
pub struct Model {
    /// `provider/model`. In a name with `*` the target may hold one too; it stands for the same text.
    pub target: Option<String>,
    /// Nodes tried in this order: the next one when the one before failed and nothing was sent to the client yet.
    pub fallback: Vec<Node>,
    /// Nodes among which each request has one chosen; the others follow.
    pub balance: Option<Balance>,
    /// Branches of which the first that fits the request counts.
    pub conditional: Vec<Branch>,
    /// Parts of the traffic, each with a node of its own.
    pub split: Option<Split>,
    /// Top-level parameters that every request to this model gets, also over the client's.
    pub set: Map<String, Value>,
    /// Top-level parameters for requests that lack them.
    pub default: Map<String, Value>,
    /// Parameters taken out of every request: top-level names or dotted paths.
    pub drop: Vec<String>,
    /// Timeouts that differ from the provider's and the general ones.
    pub timeouts: TimeoutOverrides,
    /// Bounds on trying again that differ from those of `routing.retry`.
    pub retry: RetryOverrides,
    /// Nodes to go on with when the conversation did not fit; when empty, the rest of the plan.
    pub on_context_length: Vec<Node>,
    /// Nodes to go on with when a provider refused the content, by an error or by an answer that is nothing but that (a prompt that Gemini blocks); when empty, the exchange ends.
    pub on_content_policy: Vec<Node>,
    /// Start the next target when the first is slow.
    pub hedge: Option<Hedge>,
    /// Let the next target go on from the text so far when a stream breaks off; when not set, as in `routing`.
    pub continue_on_cut: Option<bool>,
    /// Keep a conversation at the target that it began with.
    pub affinity: Option<Affinity>,
    /// Copies of some requests to a silent target.
    pub mirror: Option<Mirror>,
    /// What every target must offer, beside what `routing.require` says.
    pub require: Require,
    /// What differs for this model's answers in the cache.
    pub cache: CacheOverrides,
    /// What the model is for; shown in the list of models.
    pub description: Option<String>,
}

impl Model {
    /// The root of its tree, with the parameters and timeouts that all of it inherits.
    pub fn root(&self) -> Node {
        Node {
            target: self.target.clone(),
            fallback: self.fallback.clone(),
            balance: self.balance.clone(),
            conditional: self.conditional.clone(),
            split: self.split.clone(),
            set: self.set.clone(),
            default: self.default.clone(),
            drop: self.drop.clone(),
            timeouts: self.timeouts,
            ..Node::default()
        }
    }
}

/// A node of a model's tree: exactly one of `target`, `fallback`, `balance`, `conditional` and `split`, with what differs below it. The text `provider/model` alone is short for `{target: provider/model}`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = shorthand)]
pub struct Node {
    /// `provider/model`, split at the first slash.
    pub target: Option<String>,
    /// Nodes tried in this order.
    pub fallback: Vec<Node>,
    /// Nodes among which each request has one chosen; the others follow.
    pub balance: Option<Balance>,
    /// Branches of which the first that fits the request counts.
    pub conditional: Vec<Branch>,
    /// Parts of the traffic, each with a node of its own.
    pub split: Option<Split>,
    /// Inside a `balance`: its share against the others of the same priority; 0 takes none.
    pub weight: Option<u32>,
    /// Inside a `balance`: nodes of a higher number are used only when all of a lower one are out.
    pub priority: Option<u32>,
    /// Inside a `split`: its share of the traffic.
    pub percent: Option<Share>,
    /// Parameters set below this node, over those from above.
    pub set: Map<String, Value>,
    /// Parameters for requests that lack them.
    pub default: Map<String, Value>,
    /// Parameters taken out below this node.
    pub drop: Vec<String>,
    /// Timeouts that differ below this node.
    pub timeouts: TimeoutOverrides,
}

impl Node {
    /// The names of the kinds that are written; one of them in a file that is right.
    pub fn kinds(&self) -> Vec<&'static str> {
        let kinds = [
            ("target", self.target.is_some()),
            ("fallback", !self.fallback.is_empty()),
            ("balance", self.balance.is_some()),
            ("conditional", !self.conditional.is_empty()),
            ("split", self.split.is_some()),
        ];
        kinds.into_iter().filter(|(_, written)| *written).map(|(name, _)| name).collect()
    }
}

/// A choice among nodes for each request.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Balance {
    /// What decides: `weighted`, `round_robin`, `least_inflight`, `latency`, `throughput`, `cost`, `usage_left` or `hash`.
    pub by: By,
    /// The nodes.
    pub targets: Vec<Node>,
    /// For `hash`: what of the request is hashed, such as `header.x-user`, `metadata.tenant`, `principal.key` or `session`.
    pub hash: Option<Source>,
}

/// How a balance chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// At random, by `weight`.
    #[default]
    Weighted,
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests under way, for its weight.
    LeastInflight,
    /// The one that answers soonest: first content of streams, the whole answer otherwise; requests under way count.
    Latency,
    /// The one that makes the most tokens a second.
    Throughput,
    /// At random, with the weight 1/price².
    Cost,
    /// The one with the most left of its provider's own rate limit.
    UsageLeft,
    /// By what `hash` says: the same value, the same node.
    Hash,
}

/// One branch of a conditional: `{when: …, then: node}`, or at the end `{else: node}`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Branch {
    /// What a request must look like.
    pub when: Option<When>,
    /// The node for requests that do.
    pub then: Option<Node>,
    /// The node for all others.
    #[serde(rename = "else")]
    pub otherwise: Option<Node>,
}

/// Parts of the traffic. The same key always gets the same part.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Split {
    /// What the assignment is stable by, such as `principal.key`, `header.x-user` or `session`; when not set, or when a request has none, it is at random.
    pub by: Option<Source>,
    /// The nodes, each with its `percent`; together 100%.
    pub parts: Vec<Node>,
}

/// Text where a mapping with `target` may stand; `read` has the other half of this rule.
fn shorthand(schema: &mut Schema) {
    if let Some(kind) = schema.get_mut("type") {
        *kind = json!(["object", "string"]);
    }
}
