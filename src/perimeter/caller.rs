//! How a request was authenticated, whom it is from, and which requests need no authentication.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{Method, Request};
use local_daemon_proto::Credential;
use local_daemon_proto::handshake::Nonce;

use super::request::tokens_of;
use crate::browser::Accepted;

/// By what a request has authenticated.
pub(super) enum Evidence {
    /// Nothing, at a route where it needs nothing yet.
    None,
    /// The credential itself, as bearer or stream token.
    Credential,
    /// A proof under the credential; the answer proves the same one, even if it is replaced meanwhile.
    Proof(Nonce, Credential),
    /// A page token, as bearer or stream token.
    PageToken(Accepted),
}

/// Whom a request is from. The guard adds it to the extensions of each request that it lets through.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Caller {
    /// A client of the user's: it holds the credential.
    User,
    /// A web page.
    Page {
        /// The id of its page token.
        token: Arc<str>,
    },
    /// A browser that comes with a ticket, or with nothing.
    Nobody,
}

/// The requests by which a browser begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Shell,
    Page,
    Handoff,
}

impl Door {
    pub(super) fn of<B>(request: &Request<B>) -> Option<Self> {
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/") => Some(Self::Shell),
            (&Method::POST, "/page") => Some(Self::Page),
            (&Method::POST, "/v1/handoff") => Some(Self::Handoff),
            _ => None,
        }
    }

    /// Whether a request that has not authenticated comes through. To the shell all do: it is the same for everybody, and
    /// a refusal (BROW-26). Elsewhere what tried to authenticate and failed is refused as on every route (PER-24, PER-25).
    pub(super) fn is_open_to<B>(self, request: &Request<B>) -> bool {
        let tries =
            request.headers().contains_key(AUTHORIZATION) || tokens_of(request.uri()).next().is_some();
        self == Self::Shell || !tries
    }
}
