//! How long each part of an exchange may take, and how a waiting client is kept informed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{ByteSize, Duration, DurationOrOff};

/// The general timeouts. Providers, models and targets may each differ; the nearest one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// Connecting to the upstream, TLS included.
    pub connect: Duration,
    /// From the sent request to the head of an answer that is not streamed.
    pub head: DurationOrOff,
    /// From the sent request to the first content of a stream.
    pub first_token: DurationOrOff,
    /// Between two pieces of an answer.
    pub idle: DurationOrOff,
    /// The whole exchange, every attempt included.
    pub total: DurationOrOff,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(10),
            head: DurationOrOff::from_secs(300),
            first_token: DurationOrOff::from_secs(120),
            idle: DurationOrOff::from_secs(60),
            total: DurationOrOff::from_secs(600),
        }
    }
}

/// Timeouts of one provider, model or target; what is not set is taken from above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutOverrides {
    /// Connecting to the upstream, TLS included.
    pub connect: Option<Duration>,
    /// From the sent request to the head of an answer that is not streamed.
    pub head: Option<DurationOrOff>,
    /// From the sent request to the first content of a stream.
    pub first_token: Option<DurationOrOff>,
    /// Between two pieces of an answer.
    pub idle: Option<DurationOrOff>,
    /// The whole exchange, every attempt included, counted from the client's request whichever target is being tried.
    pub total: Option<DurationOrOff>,
}

impl TimeoutOverrides {
    /// These, and where they are silent, the others.
    pub fn or(self, others: Self) -> Self {
        TimeoutOverrides {
            connect: self.connect.or(others.connect),
            head: self.head.or(others.head),
            first_token: self.first_token.or(others.first_token),
            idle: self.idle.or(others.idle),
            total: self.total.or(others.total),
        }
    }

    /// These, and where they are silent, the general ones.
    pub fn over(self, general: &Timeouts) -> Timeouts {
        Timeouts {
            connect: self.connect.unwrap_or(general.connect),
            head: self.head.unwrap_or(general.head),
            first_token: self.first_token.unwrap_or(general.first_token),
            idle: self.idle.unwrap_or(general.idle),
            total: self.total.unwrap_or(general.total),
        }
    }
}

/// How streams behave towards the client.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Stream {
    /// Interval of the comments that keep a silent stream open through proxies, or `off`.
    pub keep_alive: DurationOrOff,
    /// Bytes of one event from an upstream; a longer one is a fault of the upstream.
    pub max_event_bytes: ByteSize,
}

impl Default for Stream {
    fn default() -> Self {
        Stream { keep_alive: DurationOrOff::from_secs(15), max_event_bytes: ByteSize::mib(16) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_timeout_counts() {
        let target = TimeoutOverrides { connect: Some(Duration::from_secs(1)), ..TimeoutOverrides::default() };
        let provider = TimeoutOverrides {
            connect: Some(Duration::from_secs(2)),
            total: Some(DurationOrOff::OFF),
            ..TimeoutOverrides::default()
        };
        let effective = target.or(provider).over(&Timeouts::default());
        assert_eq!(effective.connect, Duration::from_secs(1));
        assert_eq!(effective.total.get(), None);
        assert_eq!(effective.idle, Timeouts::default().idle);
    }
}
