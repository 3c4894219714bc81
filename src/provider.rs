//! Providers: one row each, what differs between them as data.
//!
//! Says where a provider is, which dialects it speaks there, how its key is sent and where it departs from its
//! dialect. Never sends anything, never holds a key and never reads the environment by itself.

mod doc;
mod rows;
mod url;

use std::fmt;

use http::header::InvalidHeaderValue;
use http::{HeaderName, HeaderValue};

use crate::dialect::Quirks;

pub use doc::markdown;
pub use rows::PROVIDERS;
pub use url::{NoBaseUrl, expand, join_url, name_model};

/// One provider.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// The name in configuration, model names, metrics and logs.
    pub name: &'static str,
    pub title: &'static str,
    /// Names of the dialects it speaks, the preferred one first.
    pub dialects: &'static [&'static str],
    /// Where the first dialect is served, version included. May hold `{field}`s of the configuration, and `{model}`
    /// where the path names the model. None: the operator must say.
    pub base_url: Option<&'static str>,
    /// Dialects that are served elsewhere or want the key sent otherwise.
    pub elsewhere: &'static [Elsewhere],
    pub auth: AuthScheme,
    /// Environment variables that hold the key; the first that is set wins.
    pub env: &'static [&'static str],
    /// Variables among `env` whose value is sent in another way than `auth`.
    pub env_auth: &'static [(&'static str, AuthScheme)],
    /// A variable that holds the server's address, and what follows it in a base URL.
    pub env_base: Option<EnvBase>,
    /// Where the `{field}`s of `base_url` come from when the configuration does not set them.
    pub fields: &'static [Field],
    /// Headers of every request.
    pub headers: &'static [(&'static str, &'static str)],
    pub quirks: Quirks,
    /// Bare model names that are this maker's: beginnings that end in `-`, or whole words.
    pub owns: &'static [&'static str],
    /// `gen_ai.provider.name` of the OpenTelemetry conventions; None: `name`.
    pub otel: Option<&'static str>,
    /// Serves without a key: live only when it is configured, never because of the environment alone.
    pub keyless: bool,
    /// The name under which the price catalogue lists its models; None: `name`.
    pub prices: Option<&'static str>,
}

/// A dialect that a provider serves apart from its first one.
#[derive(Debug, PartialEq, Eq)]
pub struct Elsewhere {
    pub dialect: &'static str,
    pub base_url: &'static str,
    /// None: as the row's.
    pub auth: Option<AuthScheme>,
    /// None: as the row's.
    pub quirks: Option<Quirks>,
}

/// A variable with the address of a server.
#[derive(Debug, PartialEq, Eq)]
pub struct EnvBase {
    pub var: &'static str,
    /// Follows the address to make the base URL of the first dialect.
    pub suffix: &'static str,
    /// The port when the address has none.
    pub port: Option<u16>,
}

/// A part of a base URL that only the operator knows.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// The placeholder, and the key of the provider's configuration.
    pub name: &'static str,
    pub env: &'static [&'static str],
    pub default: Option<&'static str>,
}

/// How a key travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthScheme {
    /// `authorization: Bearer KEY`
    Bearer,
    Header {
        name: &'static str,
        prefix: &'static str,
    },
    /// A query parameter of this name.
    Query(&'static str),
    None,
}

impl AuthScheme {
    /// The header that carries the key, marked as sensitive. None when none does.
    /// Errors: the key has characters that a header cannot hold.
    pub fn header(self, key: &str) -> Result<Option<(HeaderName, HeaderValue)>, InvalidHeaderValue> {
        let (name, prefix) = match self {
            AuthScheme::Bearer => ("authorization", "Bearer "),
            AuthScheme::Header { name, prefix } => (name, prefix),
            AuthScheme::Query(_) | AuthScheme::None => return Ok(None),
        };
        let mut value = HeaderValue::try_from(format!("{prefix}{key}"))?;
        value.set_sensitive(true);
        // Names in rows are lower case; `every_row_is_sound` holds it.
        Ok(Some((HeaderName::from_static(name), value)))
    }
}

impl fmt::Display for AuthScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuthScheme::Bearer => f.write_str("`authorization: Bearer KEY`"),
            AuthScheme::Header { name, prefix } => write!(f, "`{name}: {prefix}KEY`"),
            AuthScheme::Query(name) => write!(f, "`?{name}=KEY`"),
            AuthScheme::None => f.write_str("none"),
        }
    }
}

/// A provider whose key is in the environment.
#[derive(Debug, Clone, Copy)]
pub struct Live {
    pub row: &'static Row,
    /// The variable that holds the key.
    pub var: &'static str,
    /// How the key in that variable is sent.
    pub auth: AuthScheme,
}

/// The row with this name.
pub fn find(name: &str) -> Option<&'static Row> {
    PROVIDERS.iter().find(|row| row.name == name)
}

/// The providers that the environment makes live, in the order of the table: their key is set and so is every part of
/// their address. A variable that is set but empty counts as not set.
pub fn live_from_env(env: &dyn Fn(&str) -> Option<String>) -> Vec<Live> {
    let live = |row: &'static Row| {
        let (var, auth) = row.key_from_env(env)?;
        (!row.keyless && row.base_from_env(row.dialects[0], env).is_ok()).then_some(Live { row, var, auth })
    };
    PROVIDERS.iter().filter_map(live).collect()
}

/// The maker whose model this bare name is. The longest matching claim wins; open-weight models that their maker does
/// not serve belong to nobody.
pub fn owner_of(model: &str) -> Option<&'static Row> {
    PROVIDERS
        .iter()
        .filter_map(|row| Some((claim(row.owns, model)?, row)))
        .max_by_key(|(length, _)| *length)
        .map(|(_, row)| row)
}

/// Length of the longest of a maker's claims that a bare name fits; None where it fits none, or belongs to nobody.
pub fn claim(owns: &[&str], model: &str) -> Option<usize> {
    let longest = owns.iter().filter(|claim| claims(claim, model)).map(|claim| claim.len()).max()?;
    (!rows::UNOWNED.iter().any(|claim| claims(claim, model))).then_some(longest)
}

/// `gpt-` claims every name that begins with it; `o1` claims `o1` and `o1-mini`, not `o10`.
fn claims(claim: &str, model: &str) -> bool {
    let Some(head) = model.get(..claim.len()).filter(|head| head.eq_ignore_ascii_case(claim)) else { return false };
    let next = model[head.len()..].bytes().next();
    if claim.ends_with('-') { next.is_some() } else { next.is_none_or(|b| matches!(b, b'-' | b'.' | b'@' | b':')) }
}

impl Row {
    pub fn speaks(&self, dialect: &str) -> bool {
        self.dialects.contains(&dialect)
    }

    /// The base URL's template for a dialect. None when the operator must say, or for a dialect it does not speak.
    pub fn template(&self, dialect: &str) -> Option<&'static str> {
        match self.apart(dialect) {
            Some(apart) => Some(apart.base_url),
            None => self.base_url.filter(|_| self.speaks(dialect)),
        }
    }

    /// How a key is sent with a dialect.
    pub fn auth_for(&self, dialect: &str) -> AuthScheme {
        self.apart(dialect).and_then(|apart| apart.auth).unwrap_or(self.auth)
    }

    /// Where the provider departs from a dialect.
    pub fn quirks_for(&self, dialect: &str) -> Quirks {
        self.apart(dialect).and_then(|apart| apart.quirks).unwrap_or(self.quirks)
    }

    /// `gen_ai.provider.name`.
    pub fn otel_name(&self) -> &'static str {
        self.otel.unwrap_or(self.name)
    }

    /// The provider's name in the price catalogue.
    pub fn prices_name(&self) -> &'static str {
        self.prices.unwrap_or(self.name)
    }

    /// The first variable of `env` that is set, and how its value is sent with the first dialect.
    pub fn key_from_env(&self, env: &dyn Fn(&str) -> Option<String>) -> Option<(&'static str, AuthScheme)> {
        let var = *self.env.iter().find(|var| env(var).is_some_and(|value| !value.trim().is_empty()))?;
        let auth = self.env_auth.iter().find(|(other, _)| *other == var).map_or(self.auth, |(_, auth)| *auth);
        Some((var, auth))
    }

    /// The base URL for a dialect out of the environment and the row's defaults alone; `{model}` stays.
    pub fn base_from_env(&self, dialect: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, NoBaseUrl> {
        self.base_with(dialect, &|_| None, env)
    }

    /// The base URL for a dialect with the fields that the configuration sets; the environment and the row's defaults
    /// stand in for the others, `{model}` stays. A base URL in the configuration makes all of this unnecessary.
    pub fn base_with(
        &self,
        dialect: &str,
        field: &dyn Fn(&str) -> Option<String>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<String, NoBaseUrl> {
        let set = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        let value = |name: &str| {
            let known = self.fields.iter().find(|field| field.name == name);
            let given = field(name).filter(|value| !value.is_empty());
            given.or_else(|| known?.env.iter().find_map(|var| set(var))).or_else(|| known?.default.map(str::to_owned))
        };
        let address = self.env_base.as_ref().filter(|_| self.apart(dialect).is_none());
        if let Some((base, at)) = address.and_then(|base| Some((base, set(base.var)?))) {
            let template = format!("{}{}", url::origin(&at, base.port), base.suffix);
            return expand(&template, &value).map_err(|missing| self.missing(missing));
        }
        let template = self.template(dialect).ok_or_else(|| self.missing("base_url".to_owned()))?;
        expand(template, &value).map_err(|missing| self.missing(missing))
    }

    fn missing(&self, field: String) -> NoBaseUrl {
        let known = self.fields.iter().find(|known| known.name == field);
        NoBaseUrl { provider: self.name, env: known.map_or(&[], |known| known.env), field }
    }

    fn apart(&self, dialect: &str) -> Option<&'static Elsewhere> {
        // The slice is static although the row's reference may not be.
        let elsewhere: &'static [Elsewhere] = self.elsewhere;
        elsewhere.iter().find(|apart| apart.dialect == dialect)
    }
}

#[cfg(test)]
mod tests;
