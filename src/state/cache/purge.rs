//! What an operator takes out of the cache: answers that fit everything that was said.
//!
//! Pure: reads and writes the words, and looks at what is told of an answer, never at the answer. The words travel to the
//! other processes as they are.

use percent_encoding::percent_decode_str;

use super::entry::{Entry, Key};

/// Shortest beginning of a key that is taken: shorter ones take out a sixteenth of everything by a slip.
const SHORTEST_PREFIX: usize = 4;

/// What a purge takes out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purge {
    key: Option<Key>,
    prefix: Option<String>,
    partition: Option<String>,
    model: Option<String>,
}

/// What is told of an answer.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub key: Key,
    pub partition: &'a str,
    /// The model as callers name it.
    pub asked: &'a str,
    pub provider: &'a str,
    /// The upstream's name of the model.
    pub model: &'a str,
}

impl<'a> From<&'a Entry> for About<'a> {
    fn from(entry: &'a Entry) -> Self {
        let Entry { key, partition, asked, provider, model, .. } = entry;
        About { key: *key, partition, asked, provider, model }
    }
}

impl Purge {
    /// Everything.
    pub fn all() -> Purge {
        Purge::default()
    }

    /// The answer under this key.
    pub fn of(key: Key) -> Purge {
        Purge { key: Some(key), ..Purge::default() }
    }

    /// The key, where that alone says what is taken out.
    pub fn only_key(&self) -> Option<Key> {
        self.key.filter(|key| *self == Purge::of(*key))
    }

    /// Reads `key=`, `prefix=`, `partition=`, `model=` or `all=true`, as in a URL's query.
    ///
    /// # Errors
    /// What is wrong, and what to send instead.
    pub fn read(query: &str) -> Result<Purge, String> {
        const HOW: &str = "send `key`, `prefix` (of a key), `partition`, `model`, or `all=true` in the query";
        let mut purge = Purge::default();
        let mut all = false;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name {
                "key" => {
                    let key =
                        Key::parse(&value).ok_or("`key` has 32 hexadecimal digits, as `x-portcullis-cache-key`")?;
                    purge.key = Some(key);
                }
                "prefix" if value.len() >= SHORTEST_PREFIX => purge.prefix = Some(value.to_ascii_lowercase()),
                "prefix" => return Err(format!("`prefix` has at least {SHORTEST_PREFIX} digits")),
                "partition" => purge.partition = Some(value),
                "model" => purge.model = Some(value),
                "all" if value == "true" => all = true,
                _ => return Err(format!("`{name}` is not known; {HOW}")),
            }
        }
        if purge == Purge::default() && !all {
            return Err(format!("nothing says what to take out; {HOW}"));
        }
        Ok(purge)
    }

    pub fn fits(&self, about: &About<'_>) -> bool {
        let is = |wanted: &Option<String>, names: &[&str]| {
            wanted.as_ref().is_none_or(|wanted| names.iter().any(|name| name == wanted))
        };
        self.key.is_none_or(|key| key == about.key)
            && self.prefix.as_ref().is_none_or(|prefix| about.key.to_string().starts_with(prefix))
            // A key or project may be named without saying which of the two it is.
            && is(&self.partition, &[about.partition, about.partition.split_once(':').map_or("", |(_, name)| name)])
            && is(&self.model, &[about.asked, about.model, &format!("{}/{}", about.provider, about.model)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purge_says_what_it_takes() {
        assert!(Purge::read("").is_err() && Purge::read("all=yes").is_err() && Purge::read("key=12").is_err());
        assert!(Purge::read("prefix=a").is_err() && Purge::read("modle=x").is_err());
        assert_eq!(Purge::read("all=true"), Ok(Purge::all()));
        let purge = Purge::read("model=openai%2Fgpt-5&partition=key:a").expect("is good");
        let key = Key::of([b"x".as_slice()]);
        assert_eq!(Purge::read(&format!("key={key}")), Ok(Purge::of(key)));
        assert_eq!((Purge::of(key).only_key(), purge.only_key()), (Some(key), None));
        let about = |partition, model| About { key, partition, asked: "fast", provider: "openai", model };
        assert!(purge.fits(&about("key:a", "gpt-5")));
        assert!(!purge.fits(&about("key:b", "gpt-5")) && !purge.fits(&about("key:a", "gpt-4")));
        assert!(Purge::read("partition=a&model=fast").expect("is good").fits(&about("project:a", "m")));
        assert!(Purge::read(&format!("prefix={}", &key.to_string()[..6])).expect("is good").fits(&about("", "")));
    }
}
