//! The guard: its configuration, and the checks in their order.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use http::header::ACCESS_CONTROL_REQUEST_METHOD;
use http::{HeaderValue, Method, Request};
use http_body::Body;
use local_daemon_proto::handshake::{self, Handshake};
use local_daemon_proto::{Credential, Protocol};
use tokio::sync::watch;

use super::caller::{Caller, Door, Evidence};
use super::origin::{Listed, Origins};
use super::problem::{accepts_html, wants_text};
use super::rate_limit::Budget;
use super::refusal::Refusal;
use super::request::{
    Field, Named, has_page_host_form, is_own_origin, is_plain_or_chunked, is_worker, named_host, own_host,
    sender, tokens_of,
};
use super::response::{Dress, PROTOCOL_HEADER};
use crate::browser::{Host, PageHost, PageTokens};

/// The longest path and query that is taken, in bytes (PER-30).
pub const MAX_TARGET_BYTES: usize = 8 * 1024;
/// The longest header section that is taken, in bytes (PER-29, PER-30).
pub const MAX_HEADER_BYTES: usize = 32 * 1024;
/// The largest request body that is taken unless [`Guard::body_limit`] says otherwise, in bytes.
pub const DEFAULT_BODY_LIMIT: usize = 1024 * 1024;

/// The largest body of a request that has not authenticated, in bytes (PER-44).
const MAX_STRANGER_BODY: usize = 4 * 1024;

/// What the guard has to know of its daemon at the moment of a request.
pub trait Identity: Send + Sync + 'static {
    /// Returns the current credential, and every later one. A rotation takes effect with the next request, and ends the
    /// answers that began before it (CRED-16).
    fn credential(&self) -> watch::Receiver<Credential>;
    /// The authority in the daemon's own record, such as `127.0.0.1:4242`; no other is proven.
    fn authority(&self) -> &str;
    /// The port that the daemon listens on.
    fn port(&self) -> u16;
    /// Returns the page host of this launch: one more name in `Host`, at which neither the handshake nor the credential works
    /// (BROW-37, BROW-38). `None` by default.
    fn page_host(&self) -> Option<&PageHost> {
        None
    }
    /// The handshake's body with the state as it is now: the daemon reads its record again.
    fn handshake(&self) -> Handshake;
    /// The origins that are admitted now (PER-41), and every later list.
    fn origins(&self) -> watch::Receiver<Origins>;
    /// The wire protocol, the same for the daemon's whole life.
    fn protocol(&self) -> &Protocol;
}

/// The layer; its clones share one budget of failed handshakes.
#[derive(Clone)]
pub struct Guard {
    pub(super) identity: Arc<dyn Identity>,
    pub(super) protocol: HeaderValue,
    stream_routes: Arc<[&'static str]>,
    pub(super) methods: Option<Arc<RouteMethods>>,
    page_tokens: Option<Arc<PageTokens>>,
    pub(super) body_limit: usize,
    failures: Arc<Mutex<Budget>>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("protocol", &self.protocol)
            .field("stream_routes", &self.stream_routes)
            .field("body_limit", &self.body_limit)
            .finish_non_exhaustive()
    }
}

/// The methods that a path takes, or that there is no such path.
type RouteMethods = dyn Fn(&str) -> Option<Vec<Method>> + Send + Sync;

impl Guard {
    /// Returns a guard for the daemon that `identity` describes.
    pub fn new(identity: Arc<dyn Identity>) -> Self {
        let protocol = HeaderValue::try_from(identity.protocol().to_string());
        Self {
            protocol: protocol.expect("a protocol identifier is visible ASCII"),
            identity,
            stream_routes: Arc::new([]),
            methods: None,
            page_tokens: None,
            body_limit: DEFAULT_BODY_LIMIT,
            failures: Arc::new(Mutex::new(Budget::of_handshakes(Instant::now()))),
        }
    }

    /// Adds the event-stream paths whose `GET` may authenticate by `?token=`, for `EventSource` cannot set a header.
    /// The inner service does not see the parameter, so that it cannot log it. Paths of several calls add up.
    #[must_use]
    pub fn stream_routes(mut self, paths: impl IntoIterator<Item = &'static str>) -> Self {
        self.stream_routes = self.stream_routes.iter().copied().chain(paths).collect();
        self
    }

    /// Sets how a preflight learns the methods of a path; `None` is an unknown path (PER-16). Unless this is set, it
    /// names `GET`, `HEAD`, `POST`, `PUT` and `DELETE` for every path.
    #[must_use]
    pub fn methods(mut self, of_path: impl Fn(&str) -> Option<Vec<Method>> + Send + Sync + 'static) -> Self {
        self.methods = Some(Arc::new(of_path));
        self
    }

    /// Lets browsers in. These tokens are taken as bearers and as stream tokens (BROW-11). The inner service gets `GET /`,
    /// `POST /page` and `POST /v1/handoff` without authentication, as from [`Caller::Nobody`]: it answers the first with a
    /// page that holds nothing (BROW-26), and the others judge a ticket. A service worker of this port is ended (BROW-28).
    #[must_use]
    pub fn page_tokens(mut self, tokens: Arc<PageTokens>) -> Self {
        self.page_tokens = Some(tokens);
        self
    }

    /// Sets the largest request body, in bytes (PER-30). A longer announced one is answered 413; one that does not announce
    /// its length fails at the limit with [`http_body_util::LengthLimitError`], which axum's extractors answer with 413. A
    /// request from [`Caller::Nobody`] has at most 4 KiB and 4 s (PER-44, PER-45).
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Judges a request. What is learnt about its sender on the way goes into `dress`.
    pub(super) fn judge<B: Body>(
        &self,
        request: &Request<B>,
        dress: &mut Dress,
    ) -> Result<Admission, Refusal> {
        let headers = request.headers();
        let named = Named::of(headers);
        dress.text = named.accept.is_present() && wants_text(headers);
        dress.origin = self.listed_origin(named.origin);

        // PER-30
        if request
            .uri()
            .path_and_query()
            .is_some_and(|target| target.as_str().len() > MAX_TARGET_BYTES)
        {
            return Err(Refusal::TargetTooLong);
        }
        if named.length > MAX_HEADER_BYTES {
            return Err(Refusal::HeadersTooLarge);
        }
        // An intermediary would see another end of such a body.
        if !is_plain_or_chunked(headers, &named) {
            return Err(Refusal::UnknownCoding);
        }
        // PER-7: whatever the path and the method are.
        let (port, page_host) = (self.identity.port(), self.identity.page_host());
        let own = |host: &[u8]| own_host(host, port, page_host);
        // PER-6: either both `Host` and the target name the page host, or neither does.
        let is_same = |name: &Host| {
            let target = request.uri().authority().map(|target| own(target.as_str().as_bytes()));
            target.is_none_or(|target| target.is_some_and(|it| (it == Host::Page) == (*name == Host::Page)))
        };
        let (host, name) = named_host(request, &named, own)?;
        let name = match name.filter(is_same) {
            Some(name) => name,
            // BROW-43
            None if self.page_tokens.is_some() && has_page_host_form(host, port) && accepts_html(headers) => {
                return Err(Refusal::FormerPage);
            }
            None => return Err(Refusal::ForeignHost),
        };
        let is_handshake = request.uri().path() == handshake::PATH;
        // BROW-37
        if is_handshake && name == Host::Page {
            return Err(Refusal::ForeignHost);
        }
        let door = self.page_tokens.as_ref().and_then(|_| Door::of(request));
        if door == Some(Door::Page) {
            // BROW-19, BROW-20: the launcher is a local file, and no allowlisted page gets the token of this origin.
            if !is_own_origin(named.origin, host) && named.origin.only().is_none_or(|origin| origin != "null")
            {
                return Err(Refusal::ForeignOrigin);
            }
        } else if dress.origin.is_some() {
            // PER-15; every other OPTIONS goes on to authentication (PER-20), and so does an upgrade (PER-28).
            if request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
                return Ok(Admission::Preflight);
            }
        } else if !is_own_origin(named.origin, host) {
            return Err(Refusal::ForeignOrigin);
        }

        if self.page_tokens.is_some() && is_worker(request, &named) {
            return Ok(Admission::EndOfWorker);
        }

        // PER-23: nowhere else is a token looked for.
        let mut credential = self.identity.credential();
        let evidence = self.authenticate(request, &named, host, name, &credential.borrow_and_update());
        dress.credential = Some(credential);
        let evidence = match evidence {
            Some(evidence) => evidence,
            None if door.is_some_and(|door| door.is_open_to(request)) => Evidence::None,
            None if is_handshake && !self.failures().take(Instant::now()) => return Err(Refusal::Overloaded),
            None => return Err(Refusal::Unauthorized),
        };
        if !matches!(evidence, Evidence::None) {
            dress.protocol = Some(self.protocol.clone()); // CTL-1
        }

        if is_handshake {
            return if request.method() == Method::GET {
                Ok(Admission::Handshake(evidence))
            } else {
                Err(Refusal::HandshakeMethod)
            };
        }
        // CTL-2. The handshake stands before it (HS-1): there, a client of another protocol learns which is spoken.
        if dress.protocol.is_some()
            && named.protocol.is_present()
            && headers.get_all(PROTOCOL_HEADER).iter().any(|named| named != self.protocol)
        {
            return Err(Refusal::ProtocolMismatch);
        }
        let is_stranger = matches!(evidence, Evidence::None);
        let body_limit = if is_stranger {
            self.body_limit.min(MAX_STRANGER_BODY)
        } else {
            self.body_limit
        };
        if request.body().size_hint().lower() > body_limit as u64 {
            return Err(Refusal::BodyTooLarge);
        }
        let (caller, page) = match evidence {
            Evidence::None => (Caller::Nobody, None),
            Evidence::Credential | Evidence::Proof(..) => (Caller::User, None),
            Evidence::PageToken(token) => (Caller::Page { token: token.id.clone() }, Some(token)),
        };
        dress.page = page;
        Ok(Admission::Inner { caller, host: name, body_limit })
    }

    /// The request's origin where it is one on the list of this moment, as a whole string (PER-10, PER-19).
    fn listed_origin(&self, origin: Field<'_>) -> Option<Listed> {
        let origin = origin.only()?;
        let list = self.identity.origins();
        let is_listed = list.borrow().contains(origin.to_str().ok()?);
        is_listed.then(|| Listed { origin: origin.clone(), list })
    }

    fn failures(&self) -> MutexGuard<'_, Budget> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how the request has authenticated; `None` if it has not, or if anything that it presents is wrong. Comparisons
    /// take the same time wherever the difference is (HS-12, PER-22, PER-26).
    fn authenticate<B>(
        &self,
        request: &Request<B>,
        named: &Named<'_>,
        host: &[u8],
        name: Host,
        credential: &Credential,
    ) -> Option<Evidence> {
        let (uri, is_get) = (request.uri(), request.method() == Method::GET);
        let bearer_of = |text: &[u8]| {
            // BROW-38
            if credential.matches(text) && name != Host::Page {
                return Some(Evidence::Credential);
            }
            // BROW-11; BROW-4: a ticket is neither.
            let (tokens, origin) = (self.page_tokens.as_ref()?, sender(named.origin, host)?);
            let accepted = tokens.accept(text, &origin, SystemTime::now());
            accepted.map(Evidence::PageToken)
        };
        let mut tokens = tokens_of(uri);
        let from_query = match uri.query().and_then(|_| tokens.next()) {
            None => None,
            // PER-25: elsewhere it is refused even if it is right, and even together with a bearer.
            Some(token) if is_get && self.is_stream_route(uri.path()) && tokens.next().is_none() => {
                Some(bearer_of(&token)?)
            }
            Some(_) => return None,
        };
        let Some(authorization) = named.authorization.only() else {
            // PER-24
            return from_query.filter(|_| !named.authorization.is_present());
        };
        let (scheme, rest) = split_at_spaces(authorization.as_bytes())?;
        if scheme.eq_ignore_ascii_case(b"bearer") {
            // HS-5, HS-7: after one space or more.
            return bearer_of(rest);
        }
        // HS-23: the code binds neither method nor path, so it is good for the handshake alone.
        if uri.path() != handshake::PATH || !is_get {
            return None;
        }
        // HS-17, HS-18, HS-19, HS-20
        let (nonce, code) = handshake::parse_authorization(authorization.to_str().ok()?)?;
        let expected = handshake::client_code(credential, self.identity.authority(), nonce);
        (expected == code).then(|| Evidence::Proof(nonce, credential.clone()))
    }

    /// Whether browsers are let in.
    pub(super) fn has_pages(&self) -> bool {
        self.page_tokens.is_some()
    }

    pub(super) fn is_stream_route(&self, path: &str) -> bool {
        self.stream_routes.contains(&path)
    }
}

/// Splits a text at its first spaces.
fn split_at_spaces(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (before, from_space) = text.split_at(text.iter().position(|byte| *byte == b' ')?);
    let spaces = from_space.iter().take_while(|byte| **byte == b' ').count();
    Some((before, &from_space[spaces..]))
}

/// What the guard lets happen.
pub(super) enum Admission {
    Preflight,
    EndOfWorker,
    Handshake(Evidence),
    Inner { caller: Caller, host: Host, body_limit: usize },
}
