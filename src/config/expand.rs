//! `${VARIABLE}`, `${VARIABLE:-default}` and the escape `$${`, in values that are already parsed.
//!
//! Variables come in after parsing, so a secret with `:` or `#` in it harms nothing. Never touches keys, and never
//! reads the environment itself: the caller brings a lookup.

use super::Env;
use super::path::{KeyPath, Seg};
use super::tree::{Gone, Node, Place, Scalar, Value};

/// Defaults may hold further variables; deeper than this is taken for a mistake.
const MAX_NESTING: usize = 8;
/// The longest text that a scalar may become.
const MAX_EXPANDED_BYTES: usize = 1 << 20;

/// Puts variables into every scalar of the tree. What cannot be expanded is marked as gone, and said through `wrong`.
pub(super) fn expand(
    node: &mut Node,
    env: Env<'_>,
    path: &mut KeyPath,
    wrong: &mut dyn FnMut(&KeyPath, Place, String),
) {
    let failed = match &mut node.value {
        Value::Scalar(scalar) => expand_scalar(scalar, env).err(),
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                path.push(Seg::Index(index));
                expand(item, env, path, wrong);
                path.pop();
            }
            None
        }
        Value::Map(entries) => {
            for entry in entries {
                path.push(Seg::Key(entry.key.clone()));
                expand(&mut entry.value, env, path, wrong);
                path.pop();
            }
            None
        }
        Value::Gone(_) => None,
    };
    if let Some(message) = failed {
        wrong(path, node.at, message);
        node.value = Value::Gone(Gone::Wrong);
    }
}

fn expand_scalar(scalar: &mut Scalar, env: Env<'_>) -> Result<(), String> {
    if !scalar.text.contains("${") {
        return Ok(());
    }
    let mut optional = false;
    let text = expand_text(&scalar.text, env, MAX_NESTING, &mut optional)?;
    let inner = scalar.text.strip_prefix("${").and_then(|rest| closing(rest).map(|end| end + 1 == rest.len()));
    scalar.whole = inner == Some(true);
    scalar.optional = optional && text.is_empty();
    scalar.written = Some(std::mem::replace(&mut scalar.text, text));
    Ok(())
}

/// `optional` is set when an empty default was used.
fn expand_text(text: &str, env: Env<'_>, nesting: usize, optional: &mut bool) -> Result<String, String> {
    if nesting == 0 {
        return Err(format!("defaults stand more than {MAX_NESTING} deep in each other; write fewer"));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let inside = &from[2..];
        let end = closing(inside)
            .ok_or("`${` without its `}`; write ${VARIABLE}, or $${ where the two characters are meant")?;
        out.push_str(&variable(&inside[..end], env, nesting, optional)?);
        rest = &inside[end + 1..];
        if out.len() > MAX_EXPANDED_BYTES {
            return Err(format!("becomes longer than {MAX_EXPANDED_BYTES} bytes; use shorter variables"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The value of what stands between `${` and `}`.
fn variable(inside: &str, env: Env<'_>, nesting: usize, optional: &mut bool) -> Result<String, String> {
    let name_end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
    let (name, rest) = inside.split_at(name_end);
    let default = rest.strip_prefix(":-");
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || (default.is_none() && !rest.is_empty()) {
        let how = "write ${VARIABLE} or ${VARIABLE:-default}, or $${ where the two characters are meant";
        return Err(format!("`${{{inside}}}` is not a variable; {how}"));
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => {
            let value = expand_text(default, env, nesting - 1, optional)?;
            *optional |= value.is_empty();
            Ok(value)
        }
        (None, None) => {
            Err(format!("the environment variable {name} is not set; set it, or write a default: ${{{name}:-default}}"))
        }
    }
}

/// Where the `}` stands that closes what was opened before `text`.
pub(super) fn closing(text: &str) -> Option<usize> {
    let mut depth = 1;
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'$' if bytes.peek().is_some_and(|(_, next)| *next == b'{') => {
                depth += 1;
                bytes.next();
            }
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".to_owned()),
            "EMPTY" => Some(String::new()),
            "ODD" => Some("a: b # ${A} }".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_defaults_and_escapes() {
        for (text, expected) in [
            ("${A}", "alpha"),
            ("x-${A}-y", "x-alpha-y"),
            ("${A}${A}", "alphaalpha"),
            ("${EMPTY}", ""),
            ("${EMPTY:-d}", "d"),
            ("${NONE:-d}", "d"),
            ("${NONE:-}", ""),
            ("${NONE:-${A}}", "alpha"),
            ("${NONE:-${NOT:-deep}}!", "deep!"),
            ("${NONE:-a:-b}", "a:-b"),
            ("$${A}", "${A}"),
            ("a$${b}${A}", "a${b}alpha"),
            ("$A $ {A} 100$", "$A $ {A} 100$"),
            // A value is put in as it is, whatever it looks like.
            ("${ODD}", "a: b # ${A} }"),
        ] {
            let mut optional = false;
            assert_eq!(expand_text(text, &env, MAX_NESTING, &mut optional).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_variable_is_an_error_that_says_what_to_write() {
        for (text, start) in [
            ("${NONE}", "the environment variable NONE is not set"),
            ("${NONE:-${NOT}}", "the environment variable NOT is not set"),
            ("${A", "`${` without its `}`"),
            ("${}", "`${}` is not a variable"),
            ("${A-b}", "`${A-b}` is not a variable"),
            ("${A:?must}", "`${A:?must}` is not a variable"),
            ("${1A}", "`${1A}` is not a variable"),
            ("${ A }", "`${ A }` is not a variable"),
        ] {
            let error = expand_text(text, &env, MAX_NESTING, &mut false).expect_err(text);
            assert!(error.starts_with(start), "{text}: {error}");
            assert!(error.contains("; "), "{error}");
        }
        let deep = "${N:-".repeat(20) + &"}".repeat(20);
        assert!(expand_text(&deep, &env, MAX_NESTING, &mut false).is_err());
    }
}
