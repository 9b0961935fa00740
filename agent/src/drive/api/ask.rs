//! What a request asks: its body, its query and the names in its path, each refused with the field at fault.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use landfall_proto::refusal::quoted;
use landfall_proto::{Class, Refusal};
use serde::de::DeserializeOwned;

use super::answer::Refused;
use super::limits::{BODY_MAX, BODY_TIMEOUT, REPORT_MAX};

/// The JSON body of a command. No body at all is an empty object, so that a request of defaults needs none.
pub(super) struct Ask<T>(pub(super) T);

/// The JSON body of a VM service's report, which may be larger.
pub(super) struct Report<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Ask<T> {
    type Rejection = Refused;
    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        body(request.into_body(), BODY_MAX).await.map(Self)
    }
}

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Report<T> {
    type Rejection = Refused;
    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        body(request.into_body(), REPORT_MAX).await.map(Self)
    }
}

async fn body<T: DeserializeOwned>(body: Body, max: usize) -> Result<T, Refused> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, max).collect()).await;
    let bytes = match collected {
        Err(_) => {
            let message = format!("the request's body took longer than {} s", BODY_TIMEOUT.as_secs());
            return Err(Refused::under(
                StatusCode::REQUEST_TIMEOUT,
                Refusal::new(Class::Usage, "body_too_slow", message),
            ));
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the request's body is longer than {max} bytes");
            return Err(Refused::under(
                StatusCode::PAYLOAD_TOO_LARGE,
                Refusal::new(Class::Usage, "body_too_large", message),
            ));
        }
        Ok(Err(error)) => {
            let message = format!("the request's body cannot be read: {error}");
            return Err(Refusal::new(Class::Usage, "invalid_body", message).into());
        }
        Ok(Ok(collected)) => collected.to_bytes(),
    };
    parse(if bytes.is_empty() { b"{}" } else { &bytes })
}

/// Reads `text` as JSON of `T`, all of it.
fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Refused> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let shape = serde_path_to_error::deserialize::<_, T>(&mut reader).map_err(|error| {
        let (path, fault) = (error.path().to_string(), error.into_inner());
        let message = fault.to_string();
        // Text that is no JSON has no fields, and a missing field is not on the path to itself.
        let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        let field = missing.map(str::to_owned).or_else(|| (fault.is_data() && path != ".").then_some(path));
        let refusal = Refusal::new(Class::Usage, "invalid_body", message.clone());
        match field {
            Some(field) => refusal.field(&field),
            None => refusal,
        }
    })?;
    reader.end().map_err(|error| Refusal::new(Class::Usage, "invalid_body", error.to_string()))?;
    Ok(shape)
}

/// The name in a route such as `/v1/vms/{vm}`, percent-decoded.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        name.map(|Path(name)| Self(name)).map_err(|rejection| {
            Refusal::new(Class::Usage, "invalid_path", rejection.body_text())
                .remedy("write the name in UTF-8, percent-encoded")
                .into()
        })
    }
}

/// The parameters of a request, taken out one by one; what is left over is refused.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// The parameters of `uri`.
    pub(super) fn of(uri: &Uri) -> Result<Self, Refusal> {
        let query = Query::<Vec<(String, String)>>::try_from_uri(uri);
        query
            .map(|Query(pairs)| Self(pairs))
            .map_err(|rejection| Refusal::new(Class::Usage, "invalid_query", rejection.body_text()))
    }

    /// Takes out parameter `name` and reads it by `read`. Refused where it is given twice.
    pub(super) fn take<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Result<Option<T>, Refusal> {
        let mut found = self.0.extract_if(.., |(key, _)| key == name).map(|(_, value)| value).collect::<Vec<_>>();
        match (found.pop(), found.is_empty()) {
            (None, _) => Ok(None),
            (Some(value), true) => read(&value).map(Some),
            (Some(value), false) => Err(Refusal::invalid(name, &value, "give it once")),
        }
    }

    /// Takes out an integer.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<u64>, Refusal> {
        self.take(name, |text| text.parse().map_err(|_| Refusal::invalid(name, text, "give a whole number, 0 or more")))
    }

    /// Takes out `true` or `false`.
    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        self.take(name, |text| text.parse().map_err(|_| Refusal::invalid(name, text, "give true or false")))
    }

    /// Refuses what nobody took out; `known` names what could have been given.
    pub(super) fn end(self, known: &str) -> Result<(), Refusal> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => {
                let message = format!("there is no parameter {} here", quoted(key));
                Err(Refusal::new(Class::Usage, "unknown_parameter", message).field(key).remedy(known))
            }
        }
    }
}
