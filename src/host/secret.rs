//! Secrets as guests hold them: a name, never the text.
//!
//! The text is taken out only by `http` for a header and by `hash` for a key.

use super::{Cx, HostError};

/// A secret that the operator granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle(String);

impl Handle {
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The text. It must not go anywhere a guest can read it.
    ///
    /// # Errors
    /// The handle is another guest's.
    pub fn expose<'a>(&self, cx: &'a Cx) -> Result<&'a str, HostError> {
        exposed(cx, &self.0)
    }
}

/// The text of a granted secret.
pub(super) fn exposed<'a>(cx: &'a Cx, name: &str) -> Result<&'a str, HostError> {
    let granted = cx.guest.grants.secrets.get(name);
    granted.map(|secret| secret.0.as_str()).ok_or_else(|| ungranted(cx, name))
}

/// A handle on a granted secret.
///
/// # Errors
/// It is not granted.
pub fn get(cx: &Cx, name: &str) -> Result<Handle, HostError> {
    if cx.guest.grants.secrets.contains_key(name) { Ok(Handle(name.to_owned())) } else { Err(ungranted(cx, name)) }
}

fn ungranted(cx: &Cx, name: &str) -> HostError {
    let text = format!(
        "the secret `{name}` is not granted; the operator writes it under `grants.secrets` of the hook `{}`",
        cx.guest.name
    );
    HostError(text)
}
