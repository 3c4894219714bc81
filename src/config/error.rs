//! What is wrong with a configuration: where, what, and what to do.
//!
//! Never holds the value of a variable or a secret.

use std::fmt;

use super::path::KeyPath;

/// One thing that is wrong, or that is worth a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub file: String,
    /// From 1; 0 when the whole file is meant.
    pub line: u32,
    pub column: u32,
    /// The way to the value, such as `providers.openai.base_url`; empty when none is meant.
    pub path: String,
    /// What is wrong, and after a semicolon what to do.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, " {}:", self.path)?;
        }
        write!(f, " {}", self.message)
    }
}

/// Everything that is wrong with a configuration, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(pub Vec<ConfigError>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Something found by looking at the configuration as a whole; it gets its line from the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    pub path: KeyPath,
    pub message: String,
    pub severity: Severity,
    /// Further paths that the message speaks about. If any of them is damaged, the message may be untrue.
    pub about: Vec<KeyPath>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

impl Issue {
    pub fn error(path: KeyPath, message: impl Into<String>) -> Self {
        Issue { path, message: message.into(), severity: Severity::Error, about: Vec::new() }
    }

    pub fn warning(path: KeyPath, message: impl Into<String>) -> Self {
        Issue { path, message: message.into(), severity: Severity::Warning, about: Vec::new() }
    }
}

/// The known word that was probably meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = word.to_ascii_lowercase().replace('-', "_");
    let distance = |candidate: &str| {
        let candidate = candidate.to_ascii_lowercase().replace('-', "_");
        // A word that was broken off or written on is nearer than its letters say.
        let begins = |a: &str, b: &str| a.len() >= 3 && b.starts_with(a);
        match strsim::osa_distance(&folded, &candidate) {
            far if begins(&folded, &candidate) || begins(&candidate, &folded) => far.min(2),
            far => far,
        }
    };
    let allowed = 1 + word.chars().count() / 4;
    known
        .into_iter()
        .map(|candidate| (distance(candidate), candidate))
        .filter(|(far, _)| *far <= allowed)
        .min_by_key(|(far, _)| *far)
        .map(|(_, candidate)| candidate)
}

/// `did you mean …?` or, when nothing is near, the words there are.
pub(super) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone, what: &str) -> String {
    match nearest(word, known.clone()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("{what}: {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_far_ones_are_not() {
        let known = ["address", "tls", "limits", "workers", "api_key", "base_url"];
        for (word, meant) in [
            ("adress", Some("address")),
            ("limit", Some("limits")),
            ("api-key", Some("api_key")),
            ("API_KEY", Some("api_key")),
            ("apikey", Some("api_key")),
            ("base", Some("base_url")),
            ("baseurl", Some("base_url")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }
}
