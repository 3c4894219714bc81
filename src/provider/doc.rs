//! The table of providers for people. Only renders rows; `config/providers.md` is its output.

use std::fmt::Write;

use super::{PROVIDERS, Row};
use crate::chat::Effort;
use crate::dialect::{Prefill, Quirks, ReasoningStyle};

const HEAD: &str = "\
# Providers

Every row below can be used under its name with nothing but a key: in the environment, or as
`providers.NAME.api_key` in the configuration. Anything in a row can be set otherwise there: `base_url`, `dialect`,
`auth`, `headers`, `quirks`. A server that is not listed needs `base_url` and `dialect`.

- *Dialects*: the first is preferred; a request in another one of them is relayed as it came.
- *Key*: the first of these variables that is set, and how it is sent. Servers marked *none needed* are used only when
  they are configured, never because of the environment alone.
- `{field}` in a base URL is a key of the provider's configuration; the variables behind it stand in for it.
- *Departures*: what the provider does otherwise than a plain server of its OpenAI-like dialect. Refused parameters are
  left out when a request is translated.

This page is generated from `src/provider/rows.rs`; run the tests with `UPDATE_DOCS=1` to renew it.

| name | provider | dialects | base URL | key | departures |
|---|---|---|---|---|---|
";

/// The page, whole.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for row in PROVIDERS {
        let cells = [
            format!("`{}`", row.name),
            row.title.to_owned(),
            row.dialects.join(", "),
            addresses(row),
            key(row),
            all_departures(row),
        ];
        page.push_str("| ");
        page.push_str(&cells.join(" | "));
        page.push_str(" |\n");
    }
    page
}

fn addresses(row: &Row) -> String {
    let mut cell = row.base_url.map_or_else(|| "inside the gateway".to_owned(), |base| format!("`{base}`"));
    // Writing into a string cannot fail.
    for apart in row.elsewhere {
        let _ = write!(cell, "<br>{}: `{}`", apart.dialect, apart.base_url);
    }
    if let Some(base) = &row.env_base {
        let _ = write!(cell, "<br>host from {}", base.var);
    }
    for field in row.fields {
        let _ = write!(cell, "<br>`{}` from {}", field.name, field.env.join(", "));
        if let Some(default) = field.default {
            let _ = write!(cell, ", else `{default}`");
        }
    }
    cell
}

fn key(row: &Row) -> String {
    let mut cell = row.env.join(", ");
    if row.keyless {
        cell = if cell.is_empty() { "none needed".to_owned() } else { format!("none needed; {cell}") };
    }
    if row.auth != super::AuthScheme::None {
        let _ = write!(cell, "<br>{}", row.auth);
    }
    for (var, auth) in row.env_auth {
        let _ = write!(cell, "<br>{var}: {auth}");
    }
    for apart in row.elsewhere {
        if let Some(auth) = apart.auth {
            let _ = write!(cell, "<br>{}: {auth}", apart.dialect);
        }
    }
    cell
}

fn all_departures(row: &Row) -> String {
    let mut cell = departures(&row.quirks);
    for apart in row.elsewhere {
        if let Some(quirks) = &apart.quirks {
            let gap = if cell.is_empty() { "" } else { "<br>" };
            let _ = write!(cell, "{gap}{}: {}", apart.dialect, departures(quirks));
        }
    }
    cell
}

fn departures(quirks: &Quirks) -> String {
    let plain = Quirks::NONE;
    let mut said = Vec::new();
    let mut say = |when: bool, text: &str| {
        if when {
            said.push(text.to_owned());
        }
    };
    say(quirks.max_completion_tokens, "`max_completion_tokens`");
    say(quirks.verbosity, "`verbosity`");
    say(quirks.prompt_cache_key, "`prompt_cache_key`");
    say(quirks.service_tier, "`service_tier`");
    say(quirks.store, "`store`");
    say(quirks.speech, "spoken answers");
    say(quirks.custom_tools, "tools of free text");
    say(quirks.short_call_ids, "ids of tool calls of nine letters and digits");
    say(quirks.assistant_after_tools, "a turn of the assistant between results of tools and the user");
    say(quirks.developer_role, "role `developer`");
    say(!quirks.stream_usage, "no `stream_options`");
    say(!quirks.json_schema, "JSON mode without schemas");
    say(quirks.cache_control, "`cache_control` marks");
    say(quirks.flat_content, "system and tool content as one string");
    let prefill = match quirks.prefill {
        Prefill::None => None,
        Prefill::Plain => Some("goes on from a last turn of the assistant"),
        Prefill::Prefix => Some("`prefix: true` to go on from a turn"),
        Prefill::Partial => Some("`partial: true` to go on from a turn"),
        Prefill::Continue => Some("`continue_final_message` to go on from a turn"),
    };
    prefill.iter().for_each(|text| say(true, text));
    if quirks.reasoning != plain.reasoning {
        said.push(reasoning(quirks.reasoning).to_owned());
    }
    if !quirks.efforts.is_empty() {
        let of = |(name, words): &(&str, &[Effort])| {
            let name = if name.is_empty() { "others".to_owned() } else { format!("`{name}`") };
            let words: Vec<_> = words.iter().map(|word| format!("`{}`", word.as_str())).collect();
            format!("{name}: {}", if words.is_empty() { "no word".to_owned() } else { words.join(", ") })
        };
        let models: Vec<_> = quirks.efforts.iter().map(of).collect();
        said.push(format!("words of effort ({})", models.join("; ")));
    }
    let mut names = |verb: &str, names: &[&str]| {
        if !names.is_empty() {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            said.push(format!("{verb} {}", names.join(", ")));
        }
    };
    names("refuses", quirks.refuses);
    names("in turns refuses", quirks.refuses_thoughts);
    said.join("; ")
}

fn reasoning(style: ReasoningStyle) -> &'static str {
    match style {
        ReasoningStyle::Effort => "reasoning by `reasoning_effort`",
        ReasoningStyle::Object => "reasoning by `reasoning: {}`",
        ReasoningStyle::Thinking => "reasoning by `thinking: {}`",
        ReasoningStyle::Template => "reasoning by `chat_template_kwargs`",
        ReasoningStyle::Enable => "reasoning by `enable_thinking`",
        ReasoningStyle::None => "reasoning cannot be asked for",
    }
}
