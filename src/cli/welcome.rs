//! What the gateway says when it is up: where it is, what it serves, what to try. For people on a terminal; a service
//! manager's journal gets one line instead.
//!
//! Only words. Never starts or checks anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::generation::{Generation, Listed};

/// What the words are about.
pub(super) struct Welcome<'a> {
    pub generation: &'a Generation,
    /// Where the gateway listens.
    pub address: SocketAddr,
    pub admin: Option<SocketAddr>,
    /// Number of keys that the configuration lists.
    pub keys: usize,
    /// The form of the access log on this terminal.
    pub log: &'a str,
}

/// Most model names that are shown.
const SHOWN_MODELS: usize = 5;

impl Welcome<'_> {
    /// For a journal.
    pub fn line(&self) -> String {
        let admin = self.admin.map(|admin| format!(" (admin http://{admin})")).unwrap_or_default();
        let scheme = self.scheme();
        let providers = self.providers().join(", ");
        format!(
            "portcullis {} serves {scheme}://{}{admin}; configuration: {}; live providers: {providers}",
            env!("CARGO_PKG_VERSION"),
            self.address,
            self.generation.source,
        )
    }

    /// For a person.
    pub fn text(&self) -> String {
        let base = format!("{}://{}", self.scheme(), reachable(self.address));
        let listed = self.generation.listed();
        let model = example(&listed);
        let mut text = format!("\nPortcullis {}\n\n", env!("CARGO_PKG_VERSION"));
        let mut row = |name: &str, value: &str, note: &str| {
            let line = format!("  {name:<11}{value:<29}{note}");
            text.push_str(line.trim_end());
            text.push('\n');
        };
        row("gateway", &base, &format!("for {}", self.callers()));
        match self.admin {
            Some(admin) => row("admin", &format!("http://{}", reachable(admin)), "/metrics /readyz /admin/generation"),
            None => row("admin", "off", ""),
        }
        let from_file = self.generation.source.contains('.');
        row("config", &self.generation.source, if from_file { "read again when it changes" } else { "" });
        let providers = self.providers();
        let only_mock = providers == ["mock"];
        let hint = "built in; set OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY, … for real ones";
        row("providers", &providers.join(", "), if only_mock { hint } else { "" });
        row("models", &models(&listed), "");
        row("access log", self.log, "");
        text.push_str(&self.try_it(&base, &model));
        text.push_str("\nCtrl-C stops it: requests under way are finished first, a second Ctrl-C cuts them off.\n");
        text
    }

    fn try_it(&self, base: &str, model: &str) -> String {
        // Double quotes: the shell has to put the key in.
        let (key, header) = match self.keys {
            0 => ("any", String::new()),
            _ => ("$KEY", " -H \"authorization: Bearer $KEY\"".to_owned()),
        };
        let with_key = if self.keys == 0 { "" } else { " (KEY: one of the configured keys)" };
        format!(
            "
Try{with_key}:
  curl {base}/v1/chat/completions{header} -H 'content-type: application/json' \\
    -d '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'

  OpenAI SDKs      OPENAI_BASE_URL={base}/v1 OPENAI_API_KEY={key}
  Anthropic SDKs   ANTHROPIC_BASE_URL={base} ANTHROPIC_API_KEY={key}
  Gemini SDKs      GOOGLE_GEMINI_BASE_URL={base} GEMINI_API_KEY={key}
  Claude Code      ANTHROPIC_BASE_URL={base} ANTHROPIC_AUTH_TOKEN={key} claude --model {model}
"
        )
    }

    fn scheme(&self) -> &'static str {
        if self.generation.tls.is_some() { "https" } else { "http" }
    }

    fn callers(&self) -> String {
        match self.keys {
            0 if self.address.ip().is_loopback() => "everybody on this machine; no keys are configured".to_owned(),
            0 => "everybody who can reach it; no keys are configured".to_owned(),
            1 => "callers with the one configured key".to_owned(),
            keys => format!("callers with one of {keys} keys"),
        }
    }

    fn providers(&self) -> Vec<&str> {
        self.generation.routes.providers.iter().map(|provider| provider.name.as_str()).collect()
    }
}

/// A model that will answer: the first that is listed.
fn example(listed: &[Listed]) -> String {
    listed.first().map_or_else(|| "mock/mock-fast".to_owned(), |listed| listed.id.clone())
}

fn models(listed: &[Listed]) -> String {
    let names: Vec<&str> = listed.iter().take(SHOWN_MODELS).map(|listed| listed.id.as_str()).collect();
    match listed.len().saturating_sub(SHOWN_MODELS) {
        0 => names.join(", "),
        more => format!("{}, and {more} more: GET /v1/models", names.join(", ")),
    }
}

/// An address that somebody on this machine can use: a wildcard is only good for listening.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::Builder;

    fn generation(file: Option<&str>) -> Generation {
        let path = file.map(|file| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
        let env = |name: &str| (name == "KEY_A" || name == "KEY_B").then(|| format!("sk-{name}"));
        Builder::new(path, Box::new(env)).build(1).expect("builds")
    }

    fn welcome<'a>(generation: &'a Generation, address: &str, keys: usize) -> Welcome<'a> {
        Welcome {
            generation,
            address: address.parse().expect("an address"),
            admin: "127.0.0.1:4101".parse().ok(),
            keys,
            log: "text",
        }
    }

    #[test]
    fn without_keys_the_commands_can_be_pasted_as_they_are() {
        let generation = generation(None);
        let text = welcome(&generation, "0.0.0.0:4100", 0).text();
        assert!(text.contains("curl http://127.0.0.1:4100/v1/chat/completions -H 'content-type"), "{text}");
        assert!(text.contains("\"model\": \"mock/mock-fast\""), "{text}");
        assert!(text.contains("OPENAI_API_KEY=any\n") && text.contains("set OPENAI_API_KEY"), "{text}");
        assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
    }

    #[test]
    fn with_keys_the_shell_puts_the_key_in() {
        let generation = generation(None);
        let text = welcome(&generation, "[::]:4100", 2).text();
        assert!(
            text.contains("curl http://[::1]:4100/v1/chat/completions -H \"authorization: Bearer $KEY\""),
            "{text}"
        );
        assert!(text.contains("one of 2 keys"), "{text}");
    }

    #[test]
    fn a_journal_gets_one_line() {
        let generation = generation(None);
        let line = welcome(&generation, "127.0.0.1:4100", 0).line();
        assert!(!line.contains('\n') && line.contains("serves http://127.0.0.1:4100 (admin http://127.0.0.1:4101)"));
    }
}
