//! What is kept, for how long and for whom: the rules of a generation, asked for one caller and model.
//!
//! Plain values; built by `generation`, never changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::semantic::Semantic;
use crate::attempt::Replay;
use crate::auth::Principal;
use crate::chat::Finish;
use crate::route;

/// Who shares answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partition {
    Key,
    Project,
    Global,
}

impl Partition {
    /// The name of the caller's partition. Prefixes keep a key and a project of one name apart.
    pub fn name(self, principal: &Principal) -> String {
        match (self, &principal.project) {
            (Partition::Global, _) => "global".to_owned(),
            (Partition::Project, Some(project)) => format!("project:{project}"),
            // A key without a project is a project of its own.
            (Partition::Project, None) | (Partition::Key, _) => format!("key:{}", principal.key),
        }
    }
}

/// How one ask is cached.
#[derive(Debug, Clone)]
pub struct Policy {
    pub ttl: Duration,
    pub partition: Partition,
    /// Asks in other words may be answered too.
    pub semantic: Option<Arc<Semantic>>,
    pub general: Arc<General>,
}

/// What is the same for every model and key.
#[derive(Debug)]
pub struct General {
    /// The longest time that a request may ask for.
    pub max_ttl: Duration,
    pub max_entry_bytes: usize,
    /// The order of keys inside JSON objects makes no difference.
    pub order_insensitive: bool,
    /// Top-level fields that make no difference.
    pub ignore: Vec<String>,
    /// Ends with which an answer is kept.
    pub finishes: Vec<Finish>,
    pub single_flight: bool,
    /// How kept answers are given as streams.
    pub replay: Replay,
    /// Answers are looked for and kept on the tier that processes share.
    pub shared: bool,
    /// Requests may steer.
    pub client_control: bool,
}

impl General {
    /// Part of every key: answers found under other rules are not found under these.
    pub fn fingerprint(&self) -> String {
        format!("{};{}", u8::from(self.order_insensitive), self.ignore.join(","))
    }
}

/// What differs for one model or key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    pub enabled: Option<bool>,
    pub ttl: Option<Duration>,
    pub partition: Option<Partition>,
    pub prompt: Option<bool>,
    pub semantic: Option<bool>,
}

/// The rules of a generation.
#[derive(Debug)]
pub struct Rules {
    pub max_bytes: u64,
    pub enabled: bool,
    /// Prompt-cache marks are set.
    pub prompt: bool,
    /// How asks in other words are found, and whether they are where nobody says otherwise.
    pub semantic: Option<(Arc<Semantic>, bool)>,
    pub ttl: Duration,
    pub partition: Partition,
    pub general: Arc<General>,
    pub models: HashMap<String, Overrides>,
    /// Model names with one `*`.
    pub patterns: Vec<(String, Overrides)>,
    pub keys: HashMap<String, Overrides>,
}

impl Rules {
    /// How an ask is cached for which a key and a model say this; None when it is not.
    pub fn policy(&self, [key, model]: [&Overrides; 2]) -> Option<Policy> {
        if !key.enabled.or(model.enabled).unwrap_or(self.enabled) {
            return None;
        }
        Some(Policy {
            ttl: key.ttl.or(model.ttl).unwrap_or(self.ttl),
            partition: key.partition.or(model.partition).unwrap_or(self.partition),
            semantic: self.semantic.as_ref().and_then(|(semantic, enabled)| {
                key.semantic.or(model.semantic).unwrap_or(*enabled).then(|| semantic.clone())
            }),
            general: self.general.clone(),
        })
    }

    /// Whether prompt-cache marks are set in asks for which a key and a model say this.
    pub fn marks_prompt(&self, [key, model]: [&Overrides; 2]) -> bool {
        key.prompt.or(model.prompt).unwrap_or(self.prompt)
    }

    /// What the key says, then what the model says.
    pub fn overrides(&self, model: &str, key: &str) -> [&Overrides; 2] {
        static NOTHING: Overrides =
            Overrides { enabled: None, ttl: None, partition: None, prompt: None, semantic: None };
        let of_pattern = || self.patterns.iter().find(|(pattern, _)| route::matched(pattern, model).is_some());
        let of_model = match self.models.get(model) {
            Some(of_model) => of_model,
            None => of_pattern().map_or(&NOTHING, |(_, overrides)| overrides),
        };
        [self.keys.get(key).unwrap_or(&NOTHING), of_model]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(enabled: bool) -> Rules {
        let off = Overrides { enabled: Some(false), ..Overrides::default() };
        let hour = Overrides { enabled: Some(true), ttl: Some(Duration::from_secs(3600)), ..Overrides::default() };
        Rules {
            max_bytes: 1 << 20,
            enabled,
            prompt: false,
            semantic: None,
            ttl: Duration::from_secs(60),
            partition: Partition::Key,
            general: Arc::new(General {
                max_ttl: Duration::from_secs(600),
                max_entry_bytes: 1000,
                order_insensitive: false,
                ignore: vec![],
                finishes: vec![Finish::Stop],
                single_flight: true,
                replay: Replay::default(),
                shared: false,
                client_control: true,
            }),
            models: [("slow".to_owned(), hour)].into(),
            patterns: vec![("live/*".to_owned(), off.clone())],
            keys: [("private".to_owned(), off)].into(),
        }
    }

    #[test]
    fn the_keys_word_counts_before_the_models_and_the_general_one() {
        let ttl =
            |rules: &Rules, model, key| rules.policy(rules.overrides(model, key)).map(|policy| policy.ttl.as_secs());
        let on = rules(true);
        assert_eq!(ttl(&on, "fast", "k"), Some(60));
        assert_eq!(ttl(&on, "slow", "k"), Some(3600));
        assert_eq!(ttl(&on, "live/x", "k"), None);
        assert_eq!(ttl(&on, "slow", "private"), None);
        let off = rules(false);
        assert_eq!((ttl(&off, "fast", "k"), ttl(&off, "slow", "k")), (None, Some(3600)));
    }

    #[test]
    fn partitions_never_meet() {
        let principal = |key: &str, project: Option<&str>| Principal {
            key: key.into(),
            project: project.map(str::to_owned),
            models: None,
            metadata: Default::default(),
            expires: None,
            ..Principal::default()
        };
        let (a, b, c) = (principal("a", Some("p")), principal("b", Some("p")), principal("p", None));
        assert_ne!(Partition::Key.name(&a), Partition::Key.name(&b));
        assert_eq!(Partition::Project.name(&a), Partition::Project.name(&b));
        assert_ne!(Partition::Project.name(&a), Partition::Project.name(&c));
        assert_eq!(Partition::Global.name(&a), Partition::Global.name(&c));
    }
}
