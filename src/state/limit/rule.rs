//! Rules: whom they are for, by what they count apart, and which windows they hold.
//!
//! Pure: looks at the facts it is given, never at a request. Built by `generation`; the counts are the engine's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::meter::{Shape, Unit};

/// What is known of an exchange when its limits are checked.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub key: &'a str,
    pub project: Option<&'a str>,
    /// The end user that the body names.
    pub user: Option<&'a str>,
    /// The model as the caller named it.
    pub model: &'a str,
    /// The path's pattern.
    pub endpoint: &'a str,
    pub ip: Option<IpAddr>,
    pub headers: &'a HeaderMap,
    /// The labels of the key.
    pub metadata: &'a BTreeMap<String, String>,
    /// Name of the provider, once a target is chosen.
    pub provider: Option<&'a str>,
    /// `provider/model`, once a target is chosen.
    pub target: Option<&'a str>,
}

/// One thing known of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Key,
    Project,
    User,
    Model,
    Endpoint,
    Ip,
    Provider,
    Target,
    Header(HeaderName),
    Metadata(String),
}

impl Part {
    /// Reads `key`, `header.x-team`, `metadata.tier`, …
    pub fn read(text: &str) -> Option<Part> {
        Some(match text {
            "key" => Part::Key,
            "project" => Part::Project,
            "user" => Part::User,
            "model" => Part::Model,
            "endpoint" => Part::Endpoint,
            "ip" => Part::Ip,
            "provider" => Part::Provider,
            "target" => Part::Target,
            _ => match text.split_once('.')? {
                ("header", name) => Part::Header(name.parse().ok()?),
                ("metadata", name) if !name.is_empty() => Part::Metadata(name.to_owned()),
                _ => return None,
            },
        })
    }

    /// Whether it is known only once a target is chosen.
    pub fn of_target(&self) -> bool {
        matches!(self, Part::Provider | Part::Target)
    }

    /// Its value, written to `out`. What is not known has the empty value.
    fn write(&self, facts: &Facts<'_>, out: &mut String) {
        let text = match self {
            Part::Ip => {
                if let Some(ip) = facts.ip {
                    use std::fmt::Write;
                    // Writing into a string does not fail.
                    let _ = write!(out, "{ip}");
                }
                return;
            }
            other => other.text(facts),
        };
        push_bounded(text.unwrap_or_default(), out);
    }

    /// Its value where it is a text.
    fn text<'a>(&self, facts: &Facts<'a>) -> Option<&'a str> {
        match self {
            Part::Key => Some(facts.key),
            Part::Project => facts.project,
            Part::User => facts.user,
            Part::Model => Some(facts.model),
            Part::Endpoint => Some(facts.endpoint),
            Part::Provider => facts.provider,
            Part::Target => facts.target,
            Part::Header(name) => facts.headers.get(name).and_then(|value| value.to_str().ok()),
            Part::Metadata(name) => facts.metadata.get(name).map(String::as_str),
            Part::Ip => None,
        }
    }
}

/// Longest value that names a partition as it is; callers choose some of them. Longer ones are named by their hash.
const MAX_PART_BYTES: usize = 96;

fn push_bounded(text: &str, out: &mut String) {
    if text.len() <= MAX_PART_BYTES {
        out.push_str(text);
    } else {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        out.push_str("sha256:");
        out.extend(digest.as_ref()[..16].iter().flat_map(|byte| [byte >> 4, byte & 15]).map(hex));
    }
}

fn hex(digit: u8) -> char {
    char::from(b"0123456789abcdef"[usize::from(digit & 15)])
}

/// A condition: the value is one of these.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// Exact, or with one `*` for any text, also none.
    Text(Part, Vec<String>),
    /// An address in one of these networks.
    Ip(Vec<Network>),
}

/// An address and how many of its bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(pub IpAddr, pub u8);

impl Network {
    /// Reads `10.0.0.1` or `10.0.0.0/8`.
    pub fn read(text: &str) -> Option<Network> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| bits.parse().ok().filter(|bits| *bits <= most))?;
        Some(Network(address, bits))
    }

    pub fn holds(self, ip: IpAddr) -> bool {
        // Sockets for both families show IPv4 peers in an IPv6 spelling.
        let number = |ip: IpAddr| match ip.to_canonical() {
            IpAddr::V4(ip) => (true, u128::from(u32::from(ip)) << 96),
            IpAddr::V6(ip) => (false, u128::from(ip)),
        };
        let ((mine, address), (theirs, other)) = (number(self.0), number(ip));
        // Of an IPv4 network in that spelling the first 96 bits are the spelling's own.
        let bits = if mine && self.0.is_ipv6() { self.1.saturating_sub(96) } else { self.1 };
        let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        mine == theirs && (address ^ other) & mask == 0
    }
}

impl Condition {
    fn part(&self) -> Option<&Part> {
        match self {
            Condition::Text(part, _) => Some(part),
            Condition::Ip(_) => None,
        }
    }

    fn holds(&self, facts: &Facts<'_>) -> bool {
        match self {
            Condition::Ip(networks) => facts.ip.is_some_and(|ip| networks.iter().any(|network| network.holds(ip))),
            Condition::Text(part, patterns) => {
                part.text(facts).is_some_and(|text| patterns.iter().any(|pattern| fits(pattern, text)))
            }
        }
    }
}

fn fits(pattern: &str, text: &str) -> bool {
    // Most have no star, and every exchange looks at all of them.
    let Some(star) = memchr::memchr(b'*', pattern.as_bytes()) else { return pattern == text };
    let (before, after) = (&pattern[..star], &pattern[star + 1..]);
    text.len() >= before.len() + after.len() && text.starts_with(before) && text.ends_with(after)
}

/// One window of a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    pub unit: Unit,
    pub shape: Shape,
    pub limit: u64,
}

/// What happens when nothing is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exhausted {
    Reject,
    /// Wait for room, at most so many milliseconds, with at most so many others.
    Queue {
        wait_ms: u64,
        max: usize,
    },
    /// Go on with another model.
    Route(String),
}

/// A part of a rule's limits that is kept for some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Value of [`Rule::class`]; `rest` stands for every other.
    pub name: Arc<str>,
    /// Thousandths of the limit.
    pub permille: u64,
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Names the counts, so that they outlive a reload.
    pub name: Arc<str>,
    pub conditions: Vec<Condition>,
    /// What is counted apart.
    pub per: Vec<Part>,
    pub windows: Vec<Window>,
    pub exhausted: Exhausted,
    /// What tells the share of a caller; meaningless without shares.
    pub class: Part,
    pub shares: Vec<Share>,
    /// False: counts and tells, never refuses.
    pub hard: bool,
    /// Whether models without a known price pass a hard limit in money.
    pub unpriced: bool,
    /// Thousandths of each window that a process takes from the shared server in advance while it is busy; 0 for none.
    pub lease: u64,
    /// A budget in money: refused as such, and watched by thresholds.
    pub budget: Option<Budget>,
}

/// Whom a budget tells when parts of it are spent.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    /// Hundredths of the limit.
    pub thresholds: Vec<u64>,
    /// Where it is told; may hold a credential. Without one, the process's log tells.
    pub webhook: Option<String>,
}

impl Rule {
    /// Whether it needs a target to be chosen first.
    pub fn of_target(&self) -> bool {
        let conditions = self.conditions.iter().filter_map(Condition::part);
        self.per.iter().chain(conditions).any(Part::of_target)
    }

    /// Whether it asks for one of the parts that take some work to know: the end user, the target's name.
    fn wants(&self, wanted: &Part) -> bool {
        let conditions = self.conditions.iter().filter_map(Condition::part);
        self.per.iter().chain(conditions).chain([&self.class]).any(|part| part == wanted)
    }

    pub fn applies(&self, facts: &Facts<'_>) -> bool {
        self.conditions.iter().all(|condition| condition.holds(facts))
    }

    /// The name of the counts that the facts belong to, written to `out`. Of several parts each stands as it is between
    /// `|`, but that `|` and `\` within it get a `\` before them: no two lists of values have the same name.
    pub fn partition(&self, facts: &Facts<'_>, out: &mut String) {
        for (at, part) in self.per.iter().enumerate() {
            if at > 0 {
                out.push('|');
            }
            let from = out.len();
            part.write(facts, out);
            if self.per.len() > 1 && out[from..].contains(['|', '\\']) {
                let escaped = out[from..].replace('\\', "\\\\").replace('|', "\\|");
                out.replace_range(from.., &escaped);
            }
        }
    }

    /// Place of the caller's share; None when the rule has none, or it belongs to none of them.
    pub fn share(&self, facts: &Facts<'_>) -> Option<usize> {
        let class = self.class.text(facts).unwrap_or_default();
        let named = self.shares.iter().position(|share| &*share.name == class);
        named.or_else(|| self.shares.iter().position(|share| &*share.name == "rest"))
    }

    /// Whether any of its windows outlives the process.
    pub fn lasts(&self) -> bool {
        self.windows.iter().any(|window| window.shape.lasts())
    }

    pub fn counts_money(&self) -> bool {
        self.windows.iter().any(|window| window.unit == Unit::Money)
    }
}

/// Every rule of a generation.
#[derive(Debug, Default)]
pub struct Rules {
    /// Checked before a plan is made.
    pub of_exchange: Vec<Arc<Rule>>,
    /// Checked when a target is chosen.
    pub of_target: Vec<Arc<Rule>>,
    /// Whether any asks for the end user, which costs a look into the body.
    pub wants_user: bool,
    /// Whether any asks for a target's name, which is put together first.
    pub wants_target: bool,
    /// Whether any counts tokens or money, so that they must be estimated.
    pub wants_tokens: bool,
}

impl Rules {
    pub fn new(rules: Vec<Rule>) -> Self {
        let wants = |part| rules.iter().any(|rule| rule.wants(&part));
        let (wants_user, wants_target) = (wants(Part::User), wants(Part::Target));
        let plain = |window: &Window| matches!(window.unit, Unit::Requests | Unit::Concurrency);
        let wants_tokens = rules.iter().any(|rule| !rule.windows.iter().all(plain));
        let (of_target, of_exchange) = rules.into_iter().map(Arc::new).partition(|rule| rule.of_target());
        Rules { of_exchange, of_target, wants_user, wants_target, wants_tokens }
    }

    pub fn is_empty(&self) -> bool {
        self.of_exchange.is_empty() && self.of_target.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.of_exchange.iter().chain(&self.of_target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts<'a>(headers: &'a HeaderMap, metadata: &'a BTreeMap<String, String>) -> Facts<'a> {
        Facts {
            key: "k",
            project: Some("search"),
            user: None,
            model: "openai/gpt-5",
            endpoint: "/v1/chat/completions",
            ip: "10.1.2.3".parse().ok(),
            headers,
            metadata,
            provider: None,
            target: None,
        }
    }

    fn rule(conditions: Vec<Condition>, per: &[&str]) -> Rule {
        Rule {
            name: "r".into(),
            conditions,
            per: per.iter().map(|part| Part::read(part).expect("a part")).collect(),
            windows: vec![],
            exhausted: Exhausted::Reject,
            class: Part::Metadata("class".into()),
            shares: vec![Share { name: "gold".into(), permille: 600 }, Share { name: "rest".into(), permille: 400 }],
            hard: true,
            unpriced: false,
            lease: 0,
            budget: None,
        }
    }

    #[test]
    fn rules_apply_to_whom_they_name() {
        let (mut headers, metadata) = (HeaderMap::new(), BTreeMap::new());
        headers.insert("x-team", "blue".parse().expect("a value"));
        let facts = facts(&headers, &metadata);
        let text = |part: &str, patterns: &[&str]| {
            let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            rule(vec![Condition::Text(Part::read(part).expect("a part"), patterns)], &[]).applies(&facts)
        };
        assert!(text("project", &["search"]) && text("model", &["x", "openai/*"]) && text("header.x-team", &["*"]));
        assert!(!text("project", &["sea"]) && !text("user", &["*"]) && !text("provider", &["*"]));
        let ip = |network: &str| {
            rule(vec![Condition::Ip(vec![Network::read(network).expect("a network")])], &[]).applies(&facts)
        };
        assert!(ip("10.0.0.0/8") && ip("10.1.2.3") && !ip("10.1.2.4") && ip("0.0.0.0/0") && !ip("fd00::/8"));
        assert!(ip("::ffff:10.0.0.0/104") && ip("::ffff:10.1.2.3") && !ip("::ffff:11.0.0.0/104"));
    }

    #[test]
    fn counts_are_kept_apart_by_what_the_rule_names() {
        let (headers, mut metadata) = (HeaderMap::new(), BTreeMap::new());
        metadata.insert("tier".to_owned(), "x".repeat(300));
        metadata.insert("pipe".to_owned(), r"a|\b".to_owned());
        let facts = facts(&headers, &metadata);
        let partition = |per: &[&str]| {
            let mut out = String::new();
            rule(vec![], per).partition(&facts, &mut out);
            out
        };
        assert_eq!(partition(&[]), "");
        assert_eq!(partition(&["key", "user", "ip"]), "k||10.1.2.3");
        assert_eq!(partition(&["metadata.pipe"]), r"a|\b");
        assert_eq!(partition(&["metadata.pipe", "key"]), r"a\|\\b|k");
        let long = partition(&["metadata.tier"]);
        assert!(long.starts_with("sha256:") && long.len() < MAX_PART_BYTES, "{long}");
    }

    #[test]
    fn different_values_never_share_a_count_whatever_is_in_them() {
        let parts = ["", "x", "|", "\\", "x|", "|y", "\\|", "|\\", "x\\"];
        let mut names = std::collections::BTreeSet::new();
        for one in parts {
            for other in parts {
                let headers = HeaderMap::new();
                let metadata = BTreeMap::from([("a".to_owned(), one.to_owned()), ("b".to_owned(), other.to_owned())]);
                let mut name = String::new();
                rule(vec![], &["metadata.a", "metadata.b"]).partition(&facts(&headers, &metadata), &mut name);
                assert!(names.insert(name.clone()), "{one:?} and {other:?} share {name:?}");
            }
        }
    }

    #[test]
    fn who_has_no_share_of_its_own_has_that_of_the_rest() {
        let (headers, mut metadata) = (HeaderMap::new(), BTreeMap::new());
        let rule = rule(vec![], &[]);
        assert_eq!(rule.share(&facts(&headers, &metadata)), Some(1));
        metadata.insert("class".into(), "gold".into());
        assert_eq!(rule.share(&facts(&headers, &metadata)), Some(0));
    }
}
