//! What was refused or failed, in the form that every surface shows: what, which field, what would be right.
//!
//! A [`Refusal`] travels over every protocol and ends on a person's screen. It never carries a secret, and whoever
//! returns one has changed nothing, or says that it does not know.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a script should take a refusal: the exit code of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Tried and failed; the same call may work later (exit 1).
    Failed,
    /// The request itself is wrong (exit 2).
    Usage,
    /// Refused because doing it could lose data or trust (exit 3).
    Refused,
    /// What it names does not exist (exit 4).
    NotFound,
    /// No quorum, or nobody answers (exit 5).
    Unreachable,
}

impl Class {
    /// The exit code of the command line.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::NotFound => 4,
            Self::Unreachable => 5,
        }
    }
}

/// A refusal or failure: nothing was changed. Where that cannot be known, since the owner was lost on the way, the message
/// says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The exit code's class.
    pub class: Class,
    /// A stable word for scripts, such as `stale_epoch`.
    pub code: String,
    /// One sentence for people, with the value that was wrong.
    pub message: String,
    /// The field at fault, as the user wrote it.
    pub field: Option<String>,
    /// What to do instead.
    pub remedy: Option<String>,
}

/// The most characters of a peer's or user's own text that a message repeats: a log line stays a line.
const QUOTE_MAX: usize = 128;

/// `text` in quotes, control characters escaped, cut to a line's length.
pub fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTE_MAX).flat_map(char::escape_debug).collect();
    if text.chars().count() > QUOTE_MAX {
        short.push_str("...");
    }
    format!("'{short}'")
}

impl Refusal {
    /// A refusal of `class` with a stable `code` and a message.
    pub fn new(class: Class, code: &str, message: impl Into<String>) -> Self {
        Self { class, code: code.to_owned(), message: message.into(), field: None, remedy: None }
    }

    /// `value` is not allowed for `field`; `remedy` says what is.
    pub fn invalid(field: &str, value: &str, remedy: &str) -> Self {
        Self::new(Class::Usage, "invalid_value", format!("{field}: {} is not allowed", quoted(value)))
            .field(field)
            .remedy(remedy)
    }

    /// Nothing of kind `what` is called `name`.
    pub fn not_found(what: &str, name: &str) -> Self {
        Self::new(Class::NotFound, "not_found", format!("there is no {what} {}", quoted(name))).field(what)
    }

    /// The same refusal, naming the field at fault.
    #[must_use]
    pub fn field(mut self, field: &str) -> Self {
        self.field = Some(field.to_owned());
        self
    }

    /// The same refusal, saying what to do instead.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The code of a refusal whose request may have been applied and forgotten (R6).
    pub const TOO_OLD: &str = "too_old";

    /// Whether the refused request is known not to have been applied, and may go out again in a new session. `attempts`
    /// is how often it was sent.
    ///
    /// A session that was idle while many others came is forgotten, and refused as too old from then on. That is the
    /// answer to the very first attempt then; after any other one the request may have been applied and forgotten, and
    /// sending it anew would risk applying it twice (R6).
    pub fn never_applied(&self, attempts: u32) -> bool {
        self.code == Self::TOO_OLD && attempts == 1
    }

    /// Whether the same request may succeed later without change.
    pub fn is_retryable(&self) -> bool {
        matches!(self.class, Class::Failed | Class::Unreachable)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_text_stays_one_short_line() {
        let line = quoted(&format!("a\nb\u{1b}[31m{}", "x".repeat(400)));
        assert!(!line.contains('\n') && !line.contains('\u{1b}'));
        assert!(line.len() < 200, "{line}");
    }
}
