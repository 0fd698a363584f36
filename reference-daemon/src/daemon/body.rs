//! Bodies: the JSON that routes take, and the problems that they answer.

use std::borrow::Cow;
use std::error::Error;
use std::iter;

use axum::body::{self, Body};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use http_body_util::LengthLimitError;
use local_daemon::daemon::Silent;
use local_daemon::{json, perimeter};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The largest body that a route takes (64 KiB).
const MAX_BODY: usize = 64 * 1024;

/// A problem answer.
pub(super) fn refuse(
    status: StatusCode,
    code: &'static str,
    detail: impl Into<Cow<'static, str>>,
) -> Response {
    perimeter::problem(status, code, detail).map(Body::new)
}

/// Returns the problem for a request that the route does not accept. `detail` repeats nothing of the request (CRED-9).
pub(super) fn invalid(detail: impl Into<Cow<'static, str>>) -> Response {
    refuse(StatusCode::BAD_REQUEST, "invalid_request", detail)
}

/// A problem answer that tells one thing more.
pub(super) fn refuse_with(
    status: StatusCode,
    code: &'static str,
    detail: &'static str,
    member: &str,
    value: Value,
) -> Response {
    let members = [(member.to_owned(), value)].into_iter().collect();
    perimeter::problem_with(status, code, detail, members).map(Body::new)
}

/// A JSON object of at most [`MAX_BODY`] (STR-8, STR-9); a refusal is a problem.
pub(super) struct Payload<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Payload<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        if let Some(refused) = refuse_type(request.headers()) {
            return Err(refused);
        }
        let bytes = body::to_bytes(request.into_body(), MAX_BODY).await.map_err(|error| {
            // PER-33
            if is_caused_by::<Silent>(&error) {
                let detail = "nothing of the body came for 30 s";
                refuse(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail)
            } else if is_caused_by::<LengthLimitError>(&error) {
                let detail = "the body is larger than 64 KiB";
                refuse(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
            } else {
                // PER-50
                invalid("the body cannot be read")
            }
        })?;
        // What is read by its members would be read from a list as well.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(invalid("the body is not a JSON object"));
        }
        // STR-31, and the same for every other route: JSON that readers read differently is refused.
        json::check(&bytes).map_err(|fault| invalid(fault.to_string()))?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            // Only the place: the body may contain the credential (CRED-9).
            let (line, column) = (error.line(), error.column());
            invalid(format!("the body is not the JSON that this route takes: line {line}, column {column}"))
        })
    }
}

/// Refuses a body that says of itself that it is something other than JSON. A body that says nothing is taken for JSON.
fn refuse_type(headers: &HeaderMap) -> Option<Response> {
    let is_json = |value: &HeaderValue| {
        let media_type = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        media_type.trim_ascii().eq_ignore_ascii_case(b"application/json")
    };
    if headers.get_all(CONTENT_TYPE).iter().all(is_json) {
        refuse_coding(headers)
    } else {
        Some(unsupported("the route takes application/json"))
    }
}

/// Refuses a body that is compressed.
pub(super) fn refuse_coding(headers: &HeaderMap) -> Option<Response> {
    let lines = headers.get_all(CONTENT_ENCODING).iter();
    let mut codings =
        lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let is_plain = codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"));
    (!is_plain).then(|| unsupported("the route takes a body without a content coding"))
}

fn unsupported(detail: &'static str) -> Response {
    refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

/// Whether an error has one of type `T` among its sources.
fn is_caused_by<T: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    iter::successors(Some(error), |error| (*error).source()).any(<dyn Error>::is::<T>)
}
