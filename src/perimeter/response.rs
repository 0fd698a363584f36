//! The response policy: what the guard changes in every answer, its own and those of the inner service.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE,
    VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body;
use http_body_util::{Either, Full};
use local_daemon_proto::Credential;
use tokio::sync::watch;

use super::origin::Listed;
use super::problem::{PROBLEM_JSON, Problem, problem};
use super::refusal::Refusal;
use super::revocable::{Revocable, Right};
use crate::browser::Accepted;

/// The header by which every answer to an authenticated request names the wire protocol, and by which a request
/// may name the one that it speaks.
pub const PROTOCOL_HEADER: HeaderName = HeaderName::from_static("local-daemon-protocol");

/// The headers that a page of another origin may read (PER-51).
const EXPOSED: HeaderValue = HeaderValue::from_static("local-daemon-protocol, retry-after");

pub(super) const CHALLENGE: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"local-daemon\", Local-Daemon-Proof");

/// The inner service's answer as the guard lets it out.
pub(super) fn tame<R>(response: Response<R>) -> Response<Either<Full<Bytes>, R>> {
    let mut response = response.map(Either::Right);
    if let Some(problem) = missing_problem(&response) {
        let (head, body) = problem.into_parts();
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
        response.headers_mut().remove(CONTENT_LENGTH);
        response.extensions_mut().extend(head.extensions);
        *response.body_mut() = Either::Left(body);
    }
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE); // PER-21
    }
    // PER-9, PER-14: an inner service that is generous by mistake widens nothing.
    let is_cors = |name: &&HeaderName| name.as_str().starts_with("access-control-");
    let generous: Vec<HeaderName> = response.headers().keys().filter(is_cors).cloned().collect();
    for name in generous {
        response.headers_mut().remove(name);
    }
    response
}

/// PER-35, PER-36: the problem that an error of the inner service should have been. Routers answer without a body, and
/// extractors with a line of text; a body of any other type is meant.
fn missing_problem<R>(response: &Response<R>) -> Option<Response<Full<Bytes>>> {
    let (status, kind) = (response.status(), response.headers().get(CONTENT_TYPE));
    let is_line = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || !is_line || response.extensions().get::<Problem>().is_some() {
        return None;
    }
    let (code, detail) = match status {
        // A body that ran into the guard's limit.
        StatusCode::PAYLOAD_TOO_LARGE => return Some(Refusal::BodyTooLarge.problem()),
        StatusCode::NOT_FOUND => ("not_found", "There is no such route."),
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "The route does not take this method."),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            ("unsupported_media_type", "The route does not take a body of this type.")
        }
        StatusCode::REQUEST_TIMEOUT => ("request_timeout", "The body did not come in time."),
        StatusCode::SERVICE_UNAVAILABLE => ("overloaded", "The daemon cannot do it now."),
        status if status.is_client_error() => ("invalid_request", "The route does not take this request."),
        _ => ("internal", "The daemon failed to do it."),
    };
    Some(problem(status, code, detail))
}

/// What every answer to one request gets on its way out.
pub(super) struct Dress {
    pub(super) text: bool,
    /// The allowlisted origin that may read the answer, for as long as it is on the list.
    pub(super) origin: Option<Listed>,
    /// Only what has authenticated is told the protocol (HS-9).
    pub(super) protocol: Option<HeaderValue>,
    /// The page token by which the answer was opened.
    pub(super) page: Option<Accepted>,
    /// The credential by which the request was judged, and each later one.
    pub(super) credential: Option<watch::Receiver<Credential>>,
}

impl Dress {
    /// Replaces the answer by a refusal if the credential was replaced since the request was judged (CRED-17): the answer may
    /// contain a ticket or page token that was issued after the others were revoked.
    pub(super) fn refuse_after_rotation<R>(&mut self, answer: &mut Response<Either<Full<Bytes>, R>>) {
        // Under the lock under which the others are revoked.
        if self.credential.as_ref().is_some_and(|credential| credential.borrow().has_changed()) {
            self.protocol = None;
            *answer = tame(Refusal::Unauthorized.problem()).map(|body| Either::Left(body.into_inner()));
        }
    }

    pub(super) fn onto<R: Body>(self, mut response: Response<Either<Full<Bytes>, R>>) -> Response<Tamed<R>> {
        if self.text
            && let Some(problem) = response.extensions_mut().remove::<Problem>()
        {
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            response.headers_mut().remove(CONTENT_LENGTH);
            *response.body_mut() = Either::Left(Full::from(problem.to_string()));
        }
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(protocol) = self.protocol {
            headers.insert(PROTOCOL_HEADER, protocol);
            headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store")); // PER-38
        }
        // PER-13
        if let Some(Listed { origin, .. }) = &self.origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED); // PER-51
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        response.map(|body| match body {
            Either::Left(own) => Either::Left(own),
            Either::Right(body) => {
                let right = Right { reader: self.origin, token: self.page, credential: self.credential };
                Either::Right(Revocable::new(body, right))
            }
        })
    }
}

/// A body of the guard's own, or one of the inner service that ends when its reader may read no more.
pub(crate) type Tamed<R> = Either<Full<Bytes>, Revocable<R>>;
