//! Problems as the errors of handlers.

use std::borrow::Cow;
use std::io;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use crate::perimeter;

/// An answer that is a problem (RFC 9457), as the error of a handler. Nothing in it may repeat a secret of the request (CRED-9).
///
/// ```
/// use axum::http::StatusCode;
/// use local_daemon::axum::Problem;
///
/// async fn job() -> Result<String, Problem> {
///     Err(Problem::new(StatusCode::NOT_FOUND, "not_found", "there is no such job"))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Problem(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    members: Map<String, Value>,
}

impl Problem {
    /// Returns a problem with a stable `code` for programs and a `detail` for people.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts { status, code, detail: detail.into(), members: Map::new() }))
    }

    /// Returns the problem of a request that the route does not accept: 400 and `invalid_request`.
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// Returns the problem of a request that came when the daemon had begun to stand down: 503 and `draining` (CONV-10).
    pub fn draining() -> Self {
        let detail = "this daemon stands down; read the registration again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", detail)
    }

    /// Adds a member for programs.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.0.members.insert(name.into(), value.into());
        self
    }
}

/// An error of the daemon's own: 500 and `internal`. The log has the error; the answer does not.
impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The daemon failed to do it.")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Parts { status, code, detail, members } = *self.0;
        perimeter::problem_with(status, code, detail, members).map(Body::new)
    }
}
