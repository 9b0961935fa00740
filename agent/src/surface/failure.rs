//! The shape of every failure: `{"error": {class, code, message, field, remedy}}`.

use landfall_proto::{Class, Refusal};
use serde::{Deserialize, Serialize};

/// A failure as the API answers it and the command line prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was refused or failed.
    pub error: ErrorBody,
}

/// What was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The class, which decides the exit code and the HTTP status.
    pub class: Class,
    /// A stable word for scripts, such as `stale_epoch`.
    pub code: String,
    /// One sentence for people, with the value that was wrong.
    pub message: String,
    /// The field at fault.
    pub field: Option<String>,
    /// What to do instead.
    pub remedy: Option<String>,
}

impl From<Refusal> for ErrorBody {
    fn from(refusal: Refusal) -> Self {
        let Refusal { class, code, message, field, remedy } = refusal;
        Self { class, code, message, field, remedy }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { error: refusal.into() }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let ErrorBody { class, code, message, field, remedy } = failure.error;
        Self { class, code, message, field, remedy }
    }
}
