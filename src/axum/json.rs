//! JSON in requests and answers.

use std::error::Error;
use std::iter;

use axum::RequestExt;
use axum::body::{self, Body};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::daemon::Silent;
use crate::json;

/// A JSON object as the body of a request, or any JSON as the body of an answer.
///
/// As an extractor it refuses a body of another type or with a content coding (415), one that is longer than the bound (413),
/// one of which nothing comes for 30 s (408), and one that is no JSON object, that has a key twice, or that is not a `T` (400).
/// A body that does not name its type is taken for JSON. No refusal repeats anything of the body (CRED-9).
///
/// The bound is that of [`App::body_limit`](super::App::body_limit). A route sets another one with axum's
/// [`DefaultBodyLimit`](axum::extract::DefaultBodyLimit), up to [`Guard::body_limit`](crate::perimeter::Guard::body_limit):
///
/// ```
/// use axum::extract::DefaultBodyLimit;
/// use axum::handler::Handler;
/// use local_daemon::axum::{App, Json};
/// use serde_json::Value;
///
/// async fn import(Json(_jobs): Json<Value>) {}
///
/// let app = App::new().post("/v1/import", import.layer(DefaultBodyLimit::max(1024 * 1024)));
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        check_type(request.headers())?;
        check_coding(request.headers())?;
        let body = request.into_limited_body();
        let bytes = body::to_bytes(body, usize::MAX).await.map_err(|error| {
            // PER-33
            if is_caused_by::<Silent>(&error) {
                let detail = "nothing of the body came for 30 s";
                Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail)
            } else if is_caused_by::<LengthLimitError>(&error) {
                let detail = "the body is larger than this route takes";
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
            } else {
                // PER-50
                Problem::invalid("the body cannot be read")
            }
        })?;
        // What is read by its members would be read from a list as well.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(Problem::invalid("the body is not a JSON object"));
        }
        // STR-31, and the same for every other route: JSON that readers read differently is refused.
        json::check(&bytes).map_err(|fault| Problem::invalid(fault.to_string()))?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            // Only the place: the body may contain the credential (CRED-9).
            let (line, column) = (error.line(), error.column());
            Problem::invalid(format!(
                "the body is not the JSON that this route takes: line {line}, column {column}"
            ))
        })
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(json) => {
                let mut answer = Response::new(Body::from(json));
                answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                answer
            }
            Err(error) => Problem::from(std::io::Error::from(error)).into_response(),
        }
    }
}

/// Refuses a body that says of itself that it is something other than JSON.
fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let is_json = |value: &HeaderValue| {
        let media_type = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        media_type.trim_ascii().eq_ignore_ascii_case(b"application/json")
    };
    let types = headers.get_all(CONTENT_TYPE);
    if types.iter().all(is_json) {
        Ok(())
    } else {
        Err(unsupported("the route takes application/json"))
    }
}

/// Checks that a request's body is not compressed: an extractor would take it for what it is not.
///
/// # Errors
/// Fails with 415 if the request names a content coding.
pub fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let lines = headers.get_all(CONTENT_ENCODING).iter();
    let mut codings =
        lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let is_plain = codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"));
    if is_plain {
        Ok(())
    } else {
        Err(unsupported("the route takes a body without a content coding"))
    }
}

fn unsupported(detail: &'static str) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

/// Whether an error has one of type `T` among its sources.
fn is_caused_by<T: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    iter::successors(Some(error), |error| (*error).source()).any(<dyn Error>::is::<T>)
}
