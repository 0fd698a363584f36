//! The perimeter: a `tower` layer that judges every request before it is routed. It does no I/O of its own.
//!
//! The order is fixed (PER-1), and the first check that fails answers: the lengths of target and header section, `Host`,
//! `Origin`, preflight, authentication, then the handshake, which the guard answers itself, then the wire protocol and the
//! body's length, then the inner service. Whatever the inner service answers, the guard alone decides what a page
//! of another origin may read.
//!
//! Refusals are problems with a stable `code`, or a line of text where the request prefers `text/plain`. Who has not
//! authenticated learns nothing of the daemon: not its protocol (HS-9), not which routes it has (HS-8). The bounds on
//! connections and slow clients are those of the server below this layer.
//!
//! With [page tokens](Guard::page_tokens) the few requests by which a browser begins come through without authentication:
//! what answers them gives nothing for nothing.

mod origin;
mod problem;
mod refusal;
mod request;
mod revocable;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION,
    CONTENT_LENGTH, CONTENT_TYPE, ORIGIN, RETRY_AFTER, TRANSFER_ENCODING, UPGRADE, VARY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{Either, Full, Limited};
use local_daemon_proto::Credential;
use local_daemon_proto::Protocol;
use local_daemon_proto::handshake::{self, Handshake, Nonce, State};
use pin_project_lite::pin_project;
use serde_json::Map;
use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service;

pub use self::origin::{NotAnOrigin, Origin, Origins};
use self::problem::{PROBLEM_JSON, Problem};
pub use self::problem::{problem, problem_with, wants_text};
use self::refusal::Refusal;
use self::request::{
    is_chunked, is_own_host, is_own_origin, is_worker, named_host, only, sender, tokens_of, without_token,
};
use self::revocable::Revocable;
use crate::browser::{self, Accepted, PageTokens};

/// The header by which every answer to an authenticated request names the wire protocol, and by which a request
/// may name the one that it speaks.
pub const PROTOCOL_HEADER: HeaderName = HeaderName::from_static("local-daemon-protocol");
const PROOF_HEADER: HeaderName = HeaderName::from_static("local-daemon-proof");

/// The longest path and query that is taken, in bytes (PER-30).
pub const MAX_TARGET_BYTES: usize = 8 * 1024;
/// The longest header section that is taken, in bytes (PER-29, PER-30).
pub const MAX_HEADER_BYTES: usize = 32 * 1024;
/// The largest request body that is taken unless [`Guard::body_limit`] says otherwise, in bytes.
pub const DEFAULT_BODY_LIMIT: usize = 1024 * 1024;

const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"local-daemon\", Local-Daemon-Proof");
const SOON: HeaderValue = HeaderValue::from_static("1");

/// What the guard has to know of its daemon at the moment of a request.
pub trait Identity: Send + Sync + 'static {
    /// The current credential: a rotation takes effect with the next request.
    fn credential(&self) -> Credential;
    /// The authority in the daemon's own record, such as `127.0.0.1:4242`; no other is proven.
    fn authority(&self) -> &str;
    /// The port that the daemon listens on.
    fn port(&self) -> u16;
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
    identity: Arc<dyn Identity>,
    protocol: HeaderValue,
    stream_routes: Arc<[&'static str]>,
    methods: Option<Arc<RouteMethods>>,
    page_tokens: Option<Arc<PageTokens>>,
    body_limit: usize,
    failures: Arc<Mutex<Budget>>,
}

/// The methods that a path takes, or that there is no such path.
pub type RouteMethods = dyn Fn(&str) -> Option<Vec<Method>> + Send + Sync;

impl Guard {
    /// A guard for the daemon that `identity` describes.
    pub fn new(identity: Arc<dyn Identity>) -> Self {
        let protocol = HeaderValue::try_from(identity.protocol().to_string());
        Self {
            protocol: protocol.expect("a protocol identifier is visible ASCII"),
            identity,
            stream_routes: Arc::new([]),
            methods: None,
            page_tokens: None,
            body_limit: DEFAULT_BODY_LIMIT,
            failures: Arc::new(Mutex::new(Budget::full(Instant::now()))),
        }
    }

    /// The event-stream paths whose `GET` may authenticate by `?token=`, for `EventSource` cannot set a header.
    /// The inner service does not see the parameter, so that it cannot log it.
    #[must_use]
    pub fn stream_routes(mut self, paths: impl IntoIterator<Item = &'static str>) -> Self {
        self.stream_routes = paths.into_iter().collect();
        self
    }

    /// How a preflight learns the methods of a path; `None` is an unknown path (PER-16). Where this is not set, it
    /// names `GET`, `HEAD`, `POST`, `PUT` and `DELETE` for every path.
    #[must_use]
    pub fn methods(mut self, of_path: Arc<RouteMethods>) -> Self {
        self.methods = Some(of_path);
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

    /// The largest request body, in bytes (PER-30). A longer announced one is answered 413; one that does not announce
    /// its length fails at the limit with [`http_body_util::LengthLimitError`], which axum's extractors answer with 413.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Judges a request. What is learnt about its sender on the way goes into `dress`.
    fn judge<B: Body>(&self, request: &Request<B>, dress: &mut Dress) -> Result<Admission, Refusal> {
        let headers = request.headers();
        dress.origin = self.listed_origin(headers);

        // PER-30
        if request
            .uri()
            .path_and_query()
            .is_some_and(|target| target.as_str().len() > MAX_TARGET_BYTES)
        {
            return Err(Refusal::TargetTooLong);
        }
        let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
        if headers.iter().map(line).sum::<usize>() > MAX_HEADER_BYTES {
            return Err(Refusal::HeadersTooLarge);
        }
        // Whoever stood between would see another end of such a body.
        if headers.get_all(TRANSFER_ENCODING).iter().any(|value| !is_chunked(value)) {
            return Err(Refusal::UnknownCoding);
        }
        // PER-7: whatever the path and the method are.
        let is_own = |name: &[u8]| is_own_host(name, self.identity.port());
        // PER-6
        let is_own_target = || {
            let target = request.uri().authority();
            target.is_none_or(|authority| is_own(authority.as_str().as_bytes()))
        };
        let host = named_host(request).filter(|host| is_own(host) && is_own_target());
        let host = host.ok_or(Refusal::ForeignHost)?;
        let door = self.page_tokens.as_ref().and_then(|_| Door::of(request));
        if door == Some(Door::Page) {
            // BROW-19, BROW-20: the launcher is a local file, and no allowlisted page gets the token of this origin.
            if !is_own_origin(headers, host) && only(headers, ORIGIN).is_none_or(|origin| origin != "null") {
                return Err(Refusal::ForeignOrigin);
            }
        } else if dress.origin.is_some() {
            // PER-15; every other OPTIONS goes on to authentication (PER-20), and so does an upgrade (PER-28).
            if request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
                return Ok(Admission::Preflight);
            }
        } else if !is_own_origin(headers, host) {
            return Err(Refusal::ForeignOrigin);
        }

        if self.page_tokens.is_some() && is_worker(request) {
            return Ok(Admission::EndOfWorker);
        }

        // PER-23: nowhere else is a token looked for.
        let is_handshake = request.uri().path() == handshake::PATH;
        let evidence = match self.authenticate(request, host) {
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
        // CTL-2. The handshake stands before it (HS-1): there, whoever speaks another protocol learns which is spoken.
        if dress.protocol.is_some()
            && headers.get_all(PROTOCOL_HEADER).iter().any(|named| named != self.protocol)
        {
            return Err(Refusal::ProtocolMismatch);
        }
        if request.body().size_hint().lower() > self.body_limit as u64 {
            return Err(Refusal::BodyTooLarge);
        }
        let (caller, page) = match evidence {
            Evidence::None => (Caller::Nobody, None),
            Evidence::Credential | Evidence::Proof(..) => (Caller::User, None),
            Evidence::PageToken(token) => (Caller::Page { token: token.id.clone() }, Some(token)),
        };
        dress.page = page;
        Ok(Admission::Inner(caller))
    }

    /// The request's origin where it is one on the list of this moment, as a whole string (PER-10, PER-19).
    fn listed_origin(&self, headers: &HeaderMap) -> Option<Listed> {
        let origin = only(headers, ORIGIN)?;
        let list = self.identity.origins();
        let is_listed = list.borrow().contains(origin.to_str().ok()?);
        is_listed.then(|| Listed { origin: origin.clone(), list })
    }

    fn failures(&self) -> MutexGuard<'_, Budget> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By what the request shows that its sender may ask; `None` where it does not, or where anything that it shows is
    /// wrong. Comparisons take the same time wherever the difference is (HS-12, PER-22, PER-26).
    fn authenticate<B>(&self, request: &Request<B>, host: &[u8]) -> Option<Evidence> {
        let (uri, is_get) = (request.uri(), request.method() == Method::GET);
        let credential = self.identity.credential();
        let bearer_of = |text: &[u8]| {
            if credential.matches(text) {
                return Some(Evidence::Credential);
            }
            // BROW-11; BROW-4: a ticket is neither.
            let (tokens, origin) = (self.page_tokens.as_ref()?, sender(request.headers(), host)?);
            let accepted = tokens.accept(text, &origin, SystemTime::now());
            accepted.map(Evidence::PageToken)
        };
        let mut tokens = tokens_of(uri);
        let from_query = match tokens.next() {
            None => None,
            // PER-25: elsewhere it is refused even if it is right, and even beside a bearer.
            Some(token) if is_get && self.is_stream_route(uri.path()) && tokens.next().is_none() => {
                Some(bearer_of(&token)?)
            }
            Some(_) => return None,
        };
        let Some(authorization) = only(request.headers(), AUTHORIZATION) else {
            // PER-24
            let is_absent = !request.headers().contains_key(AUTHORIZATION);
            return from_query.filter(|_| is_absent);
        };
        let authorization = authorization.to_str().ok()?;
        let (scheme, bearer) = authorization.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            // HS-5, HS-7
            return bearer_of(bearer.as_bytes());
        }
        // HS-23: the code binds neither method nor path, so it is good for the handshake alone.
        if uri.path() != handshake::PATH || !is_get {
            return None;
        }
        // HS-17, HS-18, HS-19, HS-20
        let (nonce, code) = handshake::parse_authorization(authorization)?;
        let expected = handshake::client_code(&credential, self.identity.authority(), nonce);
        (expected == code).then_some(Evidence::Proof(nonce, credential))
    }

    fn is_stream_route(&self, path: &str) -> bool {
        self.stream_routes.contains(&path)
    }

    fn preflight(&self, path: &str) -> Response<Full<Bytes>> {
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
    fn handshake(&self, evidence: Evidence) -> Response<Full<Bytes>> {
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
    fn refuse(&self, refusal: Refusal) -> Response<Full<Bytes>> {
        let (status, code, detail) = refusal.describe();
        tracing::debug!(status = status.as_u16(), code, "request refused");
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

/// What the guard lets happen.
enum Admission {
    Preflight,
    EndOfWorker,
    Handshake(Evidence),
    Inner(Caller),
}

/// By what a request has authenticated.
enum Evidence {
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
enum Door {
    Shell,
    Page,
    Handoff,
}

impl Door {
    fn of<B>(request: &Request<B>) -> Option<Self> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => Some(Self::Shell),
            (&Method::POST, "/page") => Some(Self::Page),
            (&Method::POST, "/v1/handoff") => Some(Self::Handoff),
            _ => None,
        }
    }

    /// Whether a request that has not authenticated comes through. To the shell all do: it is the same for everybody, and
    /// a refusal (BROW-26). Elsewhere what tried to authenticate and failed is refused as on every route (PER-24, PER-25).
    fn is_open_to<B>(self, request: &Request<B>) -> bool {
        let tries =
            request.headers().contains_key(AUTHORIZATION) || tokens_of(request.uri()).next().is_some();
        self == Self::Shell || !tries
    }
}

/// An origin of the list, and the list as it changes.
struct Listed {
    origin: HeaderValue,
    list: watch::Receiver<Origins>,
}

/// The inner service's answer as the guard lets it out.
fn tame<R>(response: Response<R>) -> Response<Either<Full<Bytes>, R>> {
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
        _ => ("internal", "The daemon failed at it."),
    };
    Some(problem(status, code, detail))
}

/// What every answer to one request gets on its way out.
struct Dress {
    text: bool,
    /// The allowlisted origin that may read the answer, for as long as it is on the list.
    origin: Option<Listed>,
    /// Only what has authenticated is told the protocol (HS-9).
    protocol: Option<HeaderValue>,
    /// The page token by which the answer was opened.
    page: Option<Accepted>,
}

impl Dress {
    fn onto<R: Body>(self, mut response: Response<Either<Full<Bytes>, R>>) -> Response<Tamed<R>> {
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
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        response.map(|body| match body {
            Either::Left(own) => Either::Left(own),
            Either::Right(body) => Either::Right(Revocable::new(body, self.origin, self.page)),
        })
    }
}

/// A body of the guard's own, or one of the inner service that ends when its reader may read no more.
type Tamed<R> = Either<Full<Bytes>, Revocable<R>>;

/// How many handshakes that fail to authenticate are answered one by one; beyond it they are told to come back later.
/// What authenticates is never counted (PER-31, PER-32).
struct Budget {
    left: f64,
    at: Instant,
}

impl Budget {
    const BURST: f64 = 1000.0;
    const PER_SECOND: f64 = 200.0;

    const fn full(now: Instant) -> Self {
        Self { left: Self::BURST, at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let regained = now.saturating_duration_since(self.at).as_secs_f64() * Self::PER_SECOND;
        *self = Self { left: (self.left + regained).min(Self::BURST), at: now };
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.clone(), inner }
    }
}

/// A service behind a [`Guard`]. The inner service takes bodies that end with an error at the guard's limit.
#[derive(Clone)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<Limited<B>>, Response = Response<R>>,
    B: Body,
    R: Body,
{
    type Response = Response<Tamed<R>>;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let mut dress = Dress {
            text: wants_text(request.headers()),
            origin: None,
            protocol: None,
            page: None,
        };
        let response = match self.guard.judge(&request, &mut dress) {
            Ok(Admission::Inner(caller)) => {
                request.extensions_mut().insert(caller);
                if self.guard.is_stream_route(request.uri().path()) {
                    *request.uri_mut() = without_token(request.uri());
                }
                if let Some(authorization) = request.headers_mut().get_mut(AUTHORIZATION) {
                    authorization.set_sensitive(true);
                }
                let request = request.map(|body| Limited::new(body, self.guard.body_limit));
                return Answer {
                    dress: Some(dress),
                    source: Source::Inner { answer: self.inner.call(request) },
                };
            }
            Ok(Admission::EndOfWorker) => browser::end_of_worker(),
            Ok(Admission::Preflight) => self.guard.preflight(request.uri().path()),
            Ok(Admission::Handshake(evidence)) => self.guard.handshake(evidence),
            Err(refusal) => self.guard.refuse(refusal),
        };
        Answer { dress: Some(dress), source: Source::Guard { response: Some(response) } }
    }
}

pin_project! {
    /// The answer to come: the guard's own, or the inner service's.
    pub struct Answer<F> {
        dress: Option<Dress>,
        #[pin]
        source: Source<F>,
    }
}

pin_project! {
    #[project = Pinned]
    enum Source<F> {
        Guard { response: Option<Response<Full<Bytes>>> },
        Inner { #[pin] answer: F },
    }
}

impl<F, R, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<Tamed<R>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        const ONCE: &str = "a future is not polled after it has ended";
        let this = self.project();
        let response = match this.source.project() {
            Pinned::Guard { response } => response.take().expect(ONCE).map(Either::Left),
            Pinned::Inner { answer } => tame(ready!(answer.poll(context))?),
        };
        Poll::Ready(Ok(this.dress.take().expect(ONCE).onto(response)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn budget_is_spent_and_regained_up_to_its_burst() {
        let start = Instant::now();
        let mut budget = Budget::full(start);
        let spend = |budget: &mut Budget, now| (0..2000).take_while(|_| budget.take(now)).count();
        assert_eq!(spend(&mut budget, start), 1000);
        assert_eq!(spend(&mut budget, start + Duration::from_secs(1)), 200);
        assert_eq!(spend(&mut budget, start + Duration::from_hours(1)), 1000);
    }
}
