//! Counts that only other processes have, looked up on the server for an operator who asks.
//!
//! Bounded, and never for an exchange. Changes nothing: what is looked at is neither taken nor kept longer.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::Limits;
use super::super::rule::Rule;
use super::resets::{escaped, partition_of};
use super::{BATCH, Said, Shared, There, arguments, window};
use crate::state::redis::Away;
use crate::state::unix_ms;

/// Looks at names on the server, of a thousand each: all names of a server with so many, its other users' too.
const LOOKS: usize = 200;

/// Partitions that are looked up.
const MOST: usize = 2000;

/// What is known of them.
#[derive(Debug, Default)]
pub struct Elsewhere {
    pub(in super::super) found: Vec<Found>,
    pub(in super::super) known: Known,
}

/// How many of them are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) enum Known {
    All,
    /// There were too many.
    Some,
    /// The server is away.
    #[default]
    None,
}

/// A partition that this process has no counts of.
#[derive(Debug)]
pub(in super::super) struct Found {
    pub rule: Arc<Rule>,
    pub partition: String,
    /// In the order of the rule's windows.
    pub windows: Vec<There>,
}

impl Limits {
    /// The counts of these rules that only other processes have; None where nothing is shared.
    pub async fn elsewhere(&self, rules: &[Arc<Rule>]) -> Option<Elsewhere> {
        let shared = self.shared()?;
        Some(shared.elsewhere(self, rules).await.unwrap_or_default())
    }
}

impl Shared {
    async fn elsewhere(&self, limits: &Limits, rules: &[Arc<Rule>]) -> Result<Elsewhere, Away> {
        let (unmet, known) = self.unmet(limits, rules).await?;
        let mut found = Vec::with_capacity(unmet.len());
        for batch in unmet.chunks(BATCH) {
            found.extend(self.look(rules, batch).await?);
        }
        Ok(Elsewhere { found, known })
    }

    /// The places of rules, and partitions of them that this process has not met.
    async fn unmet(&self, limits: &Limits, rules: &[Arc<Rule>]) -> Result<(Vec<(usize, String)>, Known), Away> {
        let begin = self.keys_of_all();
        let pattern = format!("{}*", escaped(&begin));
        let mut unmet = HashSet::new();
        let mut cursor = "0".to_owned();
        for _ in 0..LOOKS {
            let (next, keys) = self.scan(&cursor, &pattern).await?;
            unmet.extend(keys.iter().filter_map(|key| {
                let (rule, rest) = key.strip_prefix(&begin)?.split_once(':')?;
                let (at, partition) = (rules.iter().position(|known| *known.name == *rule)?, partition_of(rest)?);
                limits.cells.find(rule, partition).is_none().then(|| (at, partition.to_owned()))
            }));
            if unmet.len() > MOST {
                break;
            }
            if next == "0" {
                return Ok((unmet.into_iter().collect(), Known::All));
            }
            cursor = next;
        }
        Ok((unmet.into_iter().take(MOST).collect(), Known::Some))
    }

    /// How they stand.
    async fn look(&self, rules: &[Arc<Rule>], unmet: &[(usize, String)]) -> Result<Vec<Found>, Away> {
        let now = self.time(unix_ms());
        let mut call = self.call("look", now);
        let mut count = 0;
        for (at, partition) in unmet {
            let rule = &rules[*at];
            for each in &rule.windows {
                call.key(format!("{}{}", self.keys_of(&rule.name), window(partition, each.unit, each.shape)));
                arguments(&mut call, each, rule.hard, now, [0; 5]);
                count += 1;
            }
        }
        let Said::Answer(answer) = self.say(&call, count).await? else {
            return Err(Away::Failed("the script answered something else".to_owned()));
        };
        let mut windows = answer.windows.into_iter();
        let found = unmet.iter().map(|(at, partition)| {
            let rule = rules[*at].clone();
            Found { partition: partition.clone(), windows: windows.by_ref().take(rule.windows.len()).collect(), rule }
        });
        Ok(found.collect())
    }
}
