//! The answers that the guard gives itself: preflights, the handshake, refusals.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE, ALLOW, CONNECTION,
    CONTENT_TYPE, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use local_daemon_proto::handshake::{self, State};
use serde_json::Map;

use super::caller::Evidence;
use super::guard::Guard;
use super::problem::problem_with;
use super::rate_limit::take_stranger_debug_line;
use super::refusal::Refusal;
use super::response::CHALLENGE;
use crate::browser;

const PROOF_HEADER: HeaderName = HeaderName::from_static("local-daemon-proof");
const SOON: HeaderValue = HeaderValue::from_static("1");

impl Guard {
    pub(super) fn preflight(&self, path: &str) -> Response<Full<Bytes>> {
        let methods = match &self.methods {
            _ if path == handshake::PATH => Some(vec![Method::GET]),
            Some(of_path) => of_path(path),
            None => Some(vec![
                Method::GET,
                Method::HEAD,
                Method::POST,
                Method::PUT,
                Method::DELETE,
            ]),
        };
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        if let Some(methods) = methods {
            let methods = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
            let methods = HeaderValue::try_from(methods).expect("methods are tokens");
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods); // PER-16
        }
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("authorization, content-type, last-event-id"),
        );
        // PER-17, PER-18: short, so that a page whose origin is taken off the list soon asks again.
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("60"));
        response
    }

    /// HS-1, HS-14, HS-21, HS-22.
    pub(super) fn handshake(&self, evidence: Evidence) -> Response<Full<Bytes>> {
        let handshake = self.identity.handshake();
        let body = handshake.to_bytes();
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Evidence::Proof(nonce, credential) = evidence {
            let code = handshake::daemon_code(&credential, self.identity.authority(), nonce, &body);
            let value = HeaderValue::try_from(handshake::answer(code))
                .expect("a quoted base64url text is visible ASCII");
            headers.insert(PROOF_HEADER, value);
        }
        if handshake.state == State::Draining {
            headers.insert(RETRY_AFTER, SOON);
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response.map(|()| Full::from(body))
    }

    /// PER-2: answers, and does nothing else. PER-27: what it logs holds nothing that the request brought.
    pub(super) fn refuse(&self, refusal: Refusal) -> Response<Full<Bytes>> {
        let (status, code, detail) = refusal.describe();
        if take_stranger_debug_line() {
            tracing::debug!(status = status.as_u16(), code, "request refused");
        }
        if let Refusal::FormerPage = refusal {
            // The program is assumed to have the protocol's name.
            return browser::former_page(self.identity.protocol().name());
        }
        let mut members = Map::new();
        if let Refusal::ProtocolMismatch = refusal {
            members.insert("protocol".to_owned(), self.identity.protocol().to_string().into());
        }
        let mut response = problem_with(status, code, detail, members);
        let headers = response.headers_mut();
        match refusal {
            Refusal::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, CHALLENGE); // HS-6, PER-21
            }
            Refusal::Overloaded => {
                headers.insert(RETRY_AFTER, SOON); // PER-31
            }
            Refusal::HandshakeMethod => {
                headers.insert(ALLOW, HeaderValue::from_static("GET"));
            }
            // CTL-2
            Refusal::ProtocolMismatch => {
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(UPGRADE, self.protocol.clone());
            }
            _ => {}
        }
        response
    }
}
