//! HTTP answers: JSON, or a failure in its one form.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use landfall_proto::{Class, Refusal};
use serde::Serialize;

use crate::surface::Failure;

/// A refusal on its way out, with the HTTP status where its class alone does not say it.
#[derive(Debug)]
pub(super) struct Refused {
    refusal: Refusal,
    status: StatusCode,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.class {
            Class::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Class::Usage => StatusCode::BAD_REQUEST,
            Class::Refused => StatusCode::CONFLICT,
            Class::NotFound => StatusCode::NOT_FOUND,
            Class::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { refusal, status }
    }
}

impl Refused {
    /// `refusal` under a more exact status than its class has.
    pub(super) fn under(status: StatusCode, refusal: Refusal) -> Self {
        Self { refusal, status }
    }

    /// All slots of a kind are taken: `what` names the kind and the bound.
    pub(super) fn busy(what: &str) -> Self {
        let refusal = Refusal::new(Class::Failed, "busy", format!("this agent already serves {what}"));
        Self::under(StatusCode::SERVICE_UNAVAILABLE, refusal.remedy("try again, or end a command that still waits"))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        json(self.status, &Failure::from(self.refusal))
    }
}

/// `shape` as one line of JSON.
pub(super) fn json<T: Serialize>(status: StatusCode, shape: &T) -> Response {
    // No shape has a map with keys other than strings, the one thing that could fail.
    let mut text = serde_json::to_vec(shape).unwrap_or_else(|_| b"null".to_vec());
    text.push(b'\n');
    (status, [(header::CONTENT_TYPE, "application/json")], Body::from(text)).into_response()
}
