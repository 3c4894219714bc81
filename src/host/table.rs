//! FUNCTIONS: every host function on one page, with the phases it is there in, what it needs, and its type.
//!
//! Rows only. The types are Luau's; `gw.d.luau` and the reference are made from them, and a test holds every engine to
//! the same names.

use super::Phases;

/// One host function.
#[derive(Debug)]
pub struct Function {
    /// `module.name`; guests write `gw.module.name`.
    pub name: &'static str,
    pub phases: Phases,
    /// It waits for others, so that it is there only where the phase may wait.
    pub awaits: bool,
    /// The key of `grants` that it needs.
    pub grant: Option<&'static str>,
    /// Its type, in Luau.
    pub luau: &'static str,
    pub doc: &'static str,
}

macro_rules! functions {
    ($($name:literal $phases:ident $(waits $awaits:tt)? $(needs $grant:literal)?, $luau:literal, $doc:literal;)*) => {
        /// Every host function.
        pub const FUNCTIONS: &[Function] = &[$(Function {
            name: $name,
            phases: Phases::$phases,
            awaits: functions!(@waits $($awaits)?),
            grant: functions!(@needs $($grant)?),
            luau: $luau,
            doc: $doc,
        }),*];
    };
    (@waits) => { false };
    (@waits !) => { true };
    (@needs) => { None };
    (@needs $grant:literal) => { Some($grant) };
}

functions! {
    "cache.get" LIVE, "(key: string, space: string?) -> string?", "The value of a key. The namespace is the policy's own, or one of `grants.kv`.";
    "cache.set" LIVE, "(key: string, value: string, ttl_s: number?, space: string?) -> ()", "Keeps a value, for so many seconds where they are given. The oldest values make room for new ones.";
    "cache.add" LIVE, "(key: string, value: string, ttl_s: number?, space: string?) -> boolean", "Keeps a value unless there is one; false when there is.";
    "cache.incr" LIVE, "(key: string, by: number?, ttl_s: number?, space: string?) -> number", "Adds to a whole number, 1 when `by` is not given, and gives the sum. `ttl_s` counts from when the number began.";
    "cache.delete" LIVE, "(key: string, space: string?) -> boolean", "Whether there was something to delete.";
    "kv.get" LIVE, "(key: string, space: string?) -> string?", "The value of a key. The namespace is the policy's own, or one of `grants.kv`.";
    "kv.set" LIVE, "(key: string, value: string, ttl_s: number?, space: string?) -> ()", "Keeps a value, for so many seconds where they are given. A full namespace refuses new values. A key has at most 1024 bytes, a value 1 MiB, and its time is at most 31 days.";
    "kv.add" LIVE, "(key: string, value: string, ttl_s: number?, space: string?) -> boolean", "Keeps a value unless there is one; false when there is.";
    "kv.incr" LIVE, "(key: string, by: number?, ttl_s: number?, space: string?) -> number", "Adds to a whole number, 1 when `by` is not given, and gives the sum. `ttl_s` counts from when the number began.";
    "kv.delete" LIVE, "(key: string, space: string?) -> boolean", "Whether there was something to delete.";
    "kv.swap" LIVE, "(key: string, expected: string?, value: string, ttl_s: number?, space: string?) -> boolean", "Keeps a value only where `expected` stands now, or nothing for nil; false when something else does.";
    "limit.take" LIVE, "(key: string, window: Window, amount: number?, space: string?) -> (boolean, number, number?)", "Counts an amount, a whole number, 1 when it is not given, if it fits into the window: whether it did, what remains, and the milliseconds after which it will fit.";
    "limit.peek" LIVE, "(key: string, window: Window, amount: number?, space: string?) -> (boolean, number, number?)", "The same without counting: whether the amount would fit.";
    "limit.reserve" EXCHANGE, "(key: string, window: Window, amount: number?, space: string?) -> (number?, number, number?)", "Reserves an amount if it fits: the number to settle it by (nil when it did not), what remains, and the milliseconds after which it will fit. What is not settled when the exchange ends is charged as reserved if anything was used, and given back if not.";
    "limit.settle" EXCHANGE, "(reservation: number, actual: number) -> boolean", "Charges what was really used in the place of a reservation of this exchange; 0 gives it back. False when nothing is held by that number.";
    "targets.get" LIVE, "(name: string) -> Target?", "What is known now of the target `provider/model`; nil when there is none.";
    "targets.list" LIVE, "(model: string) -> { Target }", "The targets behind a configured model name, in the order of the configuration.";
    "targets.models" LIVE, "() -> { string }", "Every configured model name.";
    "pick.weighted" ALL, "(weights: { [string]: number }, key: string?) -> string?", "One name, by weight; with a key always the same one for that key. Nil when no weight is above 0; a weight that is not finite is an error.";
    "pick.hash" ALL, "(names: { string }, key: string) -> string?", "One name, always the same for a key; when a name goes away only its own keys move.";
    "cost.estimate" LIVE, "(target: string, input_tokens: number, output_tokens: number) -> number?", "US dollars for so many tokens at `provider/model`, where a part of a token counts as one; nil when the price is unknown.";
    "tokens.estimate" ALL, "(text: string) -> number", "About how many tokens a text is, for any model.";
    "json.decode" ALL, "(text: string) -> any", "Reads JSON. A null is absent in objects and `gw.null` in arrays.";
    "json.encode" ALL, "(value: any) -> string", "Writes JSON. A table with numbers from 1 is a list, `null` in its holes; one that is nearly all holes is an error. An empty table is `{}`, unless it came from a JSON array.";
    "re.test" ALL, "(pattern: string, text: string) -> boolean", "Whether the pattern is found. Patterns are RE2-like. A search whose pattern and text together may take too long is an error.";
    "re.match" ALL, "(pattern: string, text: string) -> { string }?", "The first match: [1] all of it, then its groups (`\"\"` for those that took no part). Nil without a match.";
    "re.find" ALL, "(pattern: string, text: string, max: number?) -> { { first: number, last: number, text: string } }", "Where the pattern is found, without overlaps: byte positions as `string.sub` takes them. At most `max`, 1000 when not given.";
    "re.replace" ALL, "(pattern: string, text: string, with: string) -> (string, number)", "The text with every match replaced, and how many there were. `$1` in `with` is a group (`${1}` where letters or digits follow), `$$` a dollar.";
    "hash.sha256" ALL, "(text: string) -> string", "SHA-256 as 64 hexadecimal digits.";
    "hash.hmac_sha256" ALL, "(key: string | Secret, text: string) -> string", "HMAC-SHA-256 as 64 hexadecimal digits.";
    "hash.base64" ALL, "(text: string) -> string", "Base64 of the bytes.";
    "hash.unbase64" ALL, "(text: string) -> string?", "The bytes of a base64 text, with or without padding, plain or URL-safe; nil when it is none.";
    "log.debug" ALL, "(message: string, fields: { [string]: any }?) -> ()", "A line in the process's own messages.";
    "log.info" ALL, "(message: string, fields: { [string]: any }?) -> ()", "A line in the process's own messages.";
    "log.warn" ALL, "(message: string, fields: { [string]: any }?) -> ()", "A line in the process's own messages.";
    "log.error" ALL, "(message: string, fields: { [string]: any }?) -> ()", "A line in the process's own messages.";
    "trace.note" LIVE, "(what: any) -> ()", "A note in the decision trace of this exchange.";
    "metrics.count" LIVE, "(name: string, by: number?, labels: { [string]: string }?) -> ()", "Adds to a counter that the manifest declares; 1 when `by` is not given.";
    "metrics.gauge" LIVE, "(name: string, value: number, labels: { [string]: string }?) -> ()", "Sets a gauge that the manifest declares, to a finite number.";
    "metrics.observe" LIVE, "(name: string, value: number, labels: { [string]: string }?) -> ()", "Adds a value, a finite number, to a histogram that the manifest declares.";
    "time.now_ms" ALL, "() -> number", "Now, in Unix milliseconds.";
    "time.elapsed_ms" LIVE, "() -> number", "Milliseconds since this exchange began.";
    "time.date" ALL, "(unix_ms: number?, offset_minutes: number?) -> Date", "A moment as a calendar has it, so many minutes east of UTC; now when no moment is given.";
    "time.sleep" AWAITING waits !, "(ms: number) -> ()", "Waits, 60 seconds at most. The exchange's own deadline goes on.";
    "rand.number" ALL, "() -> number", "A number from 0 up to, not including, 1.";
    "rand.int" ALL, "(first: number, last: number) -> number", "A whole number from `first` to `last`, both included.";
    "rand.id" ALL, "() -> string", "24 hexadecimal digits that hardly come twice. Not a secret.";
    "secret.get" ALL needs "secrets", "(name: string) -> Secret", "A secret that the operator granted. It can go into a header of `gw.http` and a key of `gw.hash`, and nowhere else.";
    "http.fetch" AWAITING waits ! needs "http", "(request: HttpRequest) -> HttpAnswer", "Asks a host that the operator granted. Fails for a host that is not, and when the answer is late or too large.";
    "llm.ask" CALLER waits ! needs "models", "(ask: LlmAsk) -> LlmAnswer", "Asks a model through this gateway as this exchange's caller: its limits, budgets and log apply, whatever models its key may use.";
    "llm.embed" CALLER waits ! needs "models", "(model: string, texts: { string }) -> { { number } }", "Embeddings of texts by a model through this gateway, in the order of the texts.";
}

/// The row of a function.
pub fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Phase;

    #[test]
    fn names_are_unique_and_modules_stand_together() {
        let mut modules: Vec<&str> = Vec::new();
        for (at, row) in FUNCTIONS.iter().enumerate() {
            assert_eq!(FUNCTIONS.iter().position(|other| other.name == row.name), Some(at), "{}", row.name);
            let module = row.name.split('.').next().unwrap_or_default();
            if modules.last() != Some(&module) {
                assert!(!modules.contains(&module), "{module} stands in two places");
                modules.push(module);
            }
            assert!(row.luau.starts_with('(') && row.doc.ends_with('.'), "{}", row.name);
        }
    }

    #[test]
    fn what_waits_is_there_only_where_one_may_wait() {
        for row in FUNCTIONS.iter().filter(|row| row.awaits) {
            assert!(row.phases.iter().all(Phase::awaits), "{}", row.name);
        }
    }
}
