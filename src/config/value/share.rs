//! Shares of traffic, moments of a hedge, and what of a request a rule looks at.

use std::fmt;
use std::str::FromStr;

use super::Duration;

/// A share, written as a percentage: `10%`, `0.5%`. Held exactly, in thousandths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u32);

/// Thousandths of a percent that make a whole.
const WHOLE: u32 = 100_000;

impl Share {
    pub const fn percent(percent: u32) -> Self {
        Share(percent * 1000)
    }

    /// Thousandths of a percent.
    pub const fn thousandths(self) -> u32 {
        self.0
    }

    /// 0 to 1.
    pub fn get(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const HOW: &str = "write a percentage from 0% to 100%, such as 10% or 0.5%";
        let wrong = || format!("is not a share; {HOW}");
        let number = text.strip_suffix('%').ok_or_else(|| match text.parse::<f64>() {
            Ok(_) => format!("has no `%`; {HOW}"),
            Err(_) => wrong(),
        })?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) || fraction.len() > 3 {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let fraction: u32 = format!("{fraction:0<3}").parse().map_err(|_| wrong())?;
        let share = whole.checked_mul(1000).and_then(|thousandths| thousandths.checked_add(fraction));
        share.filter(|share| *share <= WHOLE).map(Share).ok_or_else(|| format!("is more than all; {HOW}"))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:03}", self.0 % 1000);
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{}%", self.0 / 1000),
            fraction => write!(f, "{}.{fraction}%", self.0 / 1000),
        }
    }
}

/// When a hedge begins: a time (`800ms`), or a quantile of the target's own time to the first content (`p95`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum After {
    Time(Duration),
    /// 50, 75, 90, 95 or 99.
    Quantile(u8),
}

impl FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(number) = text.strip_prefix('p') {
            let quantile = number.parse().ok().filter(|quantile| matches!(quantile, 50 | 75 | 90 | 95 | 99));
            return quantile
                .map(After::Quantile)
                .ok_or_else(|| "is no quantile that is kept; write p50, p75, p90, p95, p99, or a time".to_owned());
        }
        text.parse().map(After::Time).map_err(|error: String| error + ", or a quantile such as p95")
    }
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            After::Time(time) => time.fmt(f),
            After::Quantile(quantile) => write!(f, "p{quantile}"),
        }
    }
}

/// What of a request a rule looks at: `header.x-team`, `param.max_tokens`, `metadata.tier`, `principal.key`, …
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    Header(String),
    /// A field of the body, dotted.
    Param(String),
    /// A label of the caller's key.
    Metadata(String),
    Key,
    Project,
    /// The model as the caller named it.
    Model,
    /// The session that the caller named: `x-portcullis-session`, `x-session-id` or `session_id`.
    Session,
    PromptCacheKey,
    /// The first system and user messages.
    Messages,
    /// Estimate of the ask's tokens.
    Tokens,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const HOW: &str = "write header.NAME, param.FIELD, metadata.NAME, principal.key, principal.project, model, \
                           session, prompt_cache_key, messages or tokens";
        let named = |rest: &str, make: fn(String) -> Source| {
            let whole = !rest.is_empty() && rest.split('.').all(|part| !part.is_empty());
            whole.then(|| make(rest.to_owned())).ok_or_else(|| format!("names nothing after the dot; {HOW}"))
        };
        match text.split_once('.') {
            Some(("header", name)) if name.parse::<http::HeaderName>().is_err() => {
                Err(format!("names no header; {HOW}"))
            }
            Some(("header", name)) => named(&name.to_ascii_lowercase(), Source::Header),
            Some(("param" | "body", path)) => named(path, Source::Param),
            Some(("metadata", name)) => Ok(Source::Metadata(name.to_owned())),
            Some(("principal", "key")) => Ok(Source::Key),
            Some(("principal", "project")) => Ok(Source::Project),
            None if text == "model" => Ok(Source::Model),
            None if text == "session" => Ok(Source::Session),
            None if text == "prompt_cache_key" => Ok(Source::PromptCacheKey),
            None if text == "messages" => Ok(Source::Messages),
            None if text == "tokens" => Ok(Source::Tokens),
            _ => Err(format!("is nothing that a rule can look at; {HOW}")),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Header(name) => write!(f, "header.{name}"),
            Source::Param(path) => write!(f, "param.{path}"),
            Source::Metadata(name) => write!(f, "metadata.{name}"),
            Source::Key => f.write_str("principal.key"),
            Source::Project => f.write_str("principal.project"),
            Source::Model => f.write_str("model"),
            Source::Session => f.write_str("session"),
            Source::PromptCacheKey => f.write_str("prompt_cache_key"),
            Source::Messages => f.write_str("messages"),
            Source::Tokens => f.write_str("tokens"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_and_printed_shortest() {
        for (text, thousandths, printed) in
            [("10%", 10_000, "10%"), ("0.5%", 500, "0.5%"), ("100%", 100_000, "100%"), ("33.333%", 33_333, "33.333%")]
        {
            let share: Share = text.parse().expect(text);
            assert_eq!((share.thousandths(), share.to_string().as_str()), (thousandths, printed));
        }
        for text in ["", "%", "10", "0.1", "-1%", "1.%", "0.0001%", "101%", "99999999999%", "x%"] {
            let error = text.parse::<Share>().expect_err(text);
            assert!(error.ends_with("write a percentage from 0% to 100%, such as 10% or 0.5%"), "{text}: {error}");
        }
    }

    #[test]
    fn sources_are_read_and_printed_alike() {
        for text in
            ["header.x-team", "param.response_format.type", "metadata.tier", "principal.key", "session", "tokens"]
        {
            assert_eq!(text.parse::<Source>().map(|source| source.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("body.a.b".parse(), Ok(Source::Param("a.b".to_owned())));
        assert_eq!("header.X-Team".parse(), Ok(Source::Header("x-team".to_owned())));
        for text in ["", "header.", "header.a b", "param.", "param.a..b", "principal.x", "cookies.a", "principal"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
        assert_eq!("p95".parse(), Ok(After::Quantile(95)));
        assert_eq!("800ms".parse(), Ok(After::Time(Duration::from_millis(800))));
        assert!("p96".parse::<After>().is_err() && "soon".parse::<After>().is_err());
    }
}
