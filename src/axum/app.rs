//! A router that knows its routes, and what surrounds every request to them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{self, Body};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::handler::Handler;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use axum::{Extension, Router};
use local_daemon_proto::claim::Reason;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::activity::{Activity, Counted};
use super::events::{Listener, Wanted, subscribe};
use super::problem::Problem;
use super::shutdown::shutdown;
use super::status::status;
use crate::daemon::{Daemon, Error, Handle};
use crate::perimeter::{self, Caller, Guard};
use crate::streams::Hub;
use crate::text::render;

/// The largest body that an extractor takes unless [`App::body_limit`] or the route says otherwise, in bytes.
const BODY_LIMIT: usize = 64 * 1024;

/// The routes of a daemon.
///
/// A route is named as axum names it, such as `/v1/jobs/{id}`. Handlers are axum's. What a handler or an extractor of axum
/// refuses without a body of its own becomes a problem (PER-35, PER-36).
pub struct App<S = ()> {
    router: Router<S>,
    state: S,
    routes: BTreeMap<String, Vec<Method>>,
    stream_routes: Vec<&'static str>,
    body_limit: usize,
    idle_timeout: Option<Duration>,
}

impl<S> fmt::Debug for App<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("routes", &self.routes).finish_non_exhaustive()
    }
}

impl App {
    /// Returns an app without routes, and without a state that handlers share.
    pub fn new() -> Self {
        Self::with_state(())
    }
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}

/// What the routes of the crate and its middleware share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) handle: Handle,
    pub(super) activity: Arc<Activity>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) started: Instant,
    patterns: Patterns<()>,
}

/// What is known of each path.
type Patterns<T> = matchit::Router<(String, T)>;

impl<S: Clone + Send + Sync + 'static> App<S> {
    /// Returns an app without routes, and with a state that handlers share: they extract it as axum's `State`.
    pub fn with_state(state: S) -> Self {
        Self {
            router: Router::new(),
            state,
            routes: BTreeMap::new(),
            stream_routes: Vec::new(),
            body_limit: BODY_LIMIT,
            idle_timeout: None,
        }
    }

    /// Adds a route for GET, and for HEAD with it (PER-54).
    ///
    /// # Panics
    /// Panics if the path is not one of axum's, or if it has such a route already. So do all methods that add a route.
    #[must_use]
    pub fn get<H: Handler<T, S>, T: 'static>(self, path: &str, handler: H) -> Self {
        self.route(Method::GET, path, handler)
    }

    /// Adds a route for POST.
    #[must_use]
    pub fn post<H: Handler<T, S>, T: 'static>(self, path: &str, handler: H) -> Self {
        self.route(Method::POST, path, handler)
    }

    /// Adds a route for PUT.
    #[must_use]
    pub fn put<H: Handler<T, S>, T: 'static>(self, path: &str, handler: H) -> Self {
        self.route(Method::PUT, path, handler)
    }

    /// Adds a route for PATCH.
    #[must_use]
    pub fn patch<H: Handler<T, S>, T: 'static>(self, path: &str, handler: H) -> Self {
        self.route(Method::PATCH, path, handler)
    }

    /// Adds a route for DELETE.
    #[must_use]
    pub fn delete<H: Handler<T, S>, T: 'static>(self, path: &str, handler: H) -> Self {
        self.route(Method::DELETE, path, handler)
    }

    fn route<H: Handler<T, S>, T: 'static>(mut self, method: Method, path: &str, handler: H) -> Self {
        let filter = MethodFilter::try_from(method.clone()).expect("a method that HTTP defines");
        self.router = self.router.route(path, on(filter, handler));
        self.note(path, method);
        self
    }

    fn note(&mut self, path: &str, method: Method) {
        let is_new = !self.routes.contains_key(path);
        let methods = self.routes.entry(path.to_owned()).or_default();
        if method == Method::GET {
            methods.push(Method::HEAD);
        }
        methods.push(method);
        if is_new {
            // Panics here, and not when the daemon is to serve, if a path of `merge` is none or clashes with another one.
            drop(self.patterns(|_| ()));
        }
    }

    /// Adds routes that axum's own router has. It cannot be asked for them, so they are listed again: preflights name the
    /// methods of the list (PER-16), with HEAD for GET.
    ///
    /// # Panics
    /// Panics if axum's `Router::merge` does, or if a listed path is none or clashes with another route.
    ///
    /// ```
    /// use axum::Router;
    /// use axum::http::Method;
    /// use axum::routing::get;
    /// use local_daemon::axum::App;
    ///
    /// let files = Router::new().route("/v1/files/{*path}", get(async || "a file"));
    /// let app = App::new().merge(files, [("/v1/files/{*path}", Method::GET)]);
    /// ```
    #[must_use]
    pub fn merge<'a>(
        mut self,
        router: Router<S>,
        routes: impl IntoIterator<Item = (&'a str, Method)>,
    ) -> Self {
        self.router = self.router.merge(router);
        for (path, method) in routes {
            self.note(path, method);
        }
        self
    }

    /// Adds an event stream: GET with `topics`, `after` and `Last-Event-ID`, where a page may send its token in the query
    /// (PER-25). The path has no parameters.
    #[must_use]
    pub fn events(mut self, path: &'static str, hub: Arc<Hub>) -> Self {
        self.stream_routes.push(path);
        let handler = async move |Extension(context): Extension<Arc<Context>>,
                                  Extension(caller): Extension<Caller>,
                                  wanted: Result<Query<Wanted>, QueryRejection>,
                                  headers: HeaderMap| {
            subscribe(&hub, &context, caller, wanted, &headers)
        };
        self.get(path, handler)
    }

    /// Adds `GET /v1/status` (LIFE-18 to LIFE-21).
    #[must_use]
    pub fn status(self) -> Self {
        self.get("/v1/status", status)
    }

    /// Adds `POST /v1/shutdown`: a stop on the condition that the request names this daemon and, if it says `if_idle`, that
    /// nothing else is open (LIFE-11 to LIFE-15).
    #[must_use]
    pub fn shutdown(self) -> Self {
        self.post("/v1/shutdown", shutdown)
    }

    /// Sets the largest body that extractors take, in bytes: 64 KiB unless this or the route says otherwise. The guard's
    /// [`body_limit`](Guard::body_limit) holds as well.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Has the daemon stop once no request and no stream was open for so long (LIFE-2). Without it, it runs until it is stopped.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Some(timeout);
        self
    }

    /// Returns the pattern and the methods of each route.
    pub fn routes(&self) -> impl Iterator<Item = (&str, &[Method])> {
        self.routes.iter().map(|(path, methods)| (path.as_str(), methods.as_slice()))
    }

    /// Tells a guard the routes. [`serve`](Self::serve) does so by itself; this is for a server of the product's own.
    pub fn configure(&self, guard: Guard) -> Guard {
        let patterns = self.patterns(<[Method]>::to_vec);
        let of_path = move |path: &str| patterns.at(path).ok().map(|found| found.value.1.clone());
        guard.methods(of_path).stream_routes(self.stream_routes.iter().copied())
    }

    /// Returns the routes as a service to put behind the guard of the daemon that `handle` belongs to. [`serve`](Self::serve)
    /// does so by itself; this is for a server of the product's own, and for tests. It does not watch for idleness.
    pub fn into_router(self, handle: Handle) -> Router {
        let context = self.context(handle);
        self.router_with(context)
    }

    /// Publishes the daemon and serves the routes until it stands down.
    ///
    /// # Cancel safety
    /// As for [`Daemon::serve`].
    ///
    /// # Errors
    /// As for [`Daemon::serve`].
    pub async fn serve(self, daemon: Daemon) -> Result<Reason, Error> {
        let daemon = daemon.guard(|guard| self.configure(guard));
        let context = self.context(daemon.handle());
        // It ends with this call, also if that is dropped.
        let mut watching = JoinSet::new();
        if let Some(timeout) = self.idle_timeout {
            watching.spawn(context.activity.clone().idle_out(context.handle.clone(), timeout));
        }
        daemon.serve(self.router_with(context)).await
    }

    fn context(&self, handle: Handle) -> Arc<Context> {
        Arc::new(Context {
            handle,
            activity: Activity::new(),
            idle_timeout: self.idle_timeout,
            started: Instant::now(),
            patterns: self.patterns(|_| ()),
        })
    }

    fn patterns<T>(&self, of_methods: impl Fn(&[Method]) -> T) -> Patterns<T> {
        let mut patterns = matchit::Router::new();
        for (path, methods) in &self.routes {
            let inserted = patterns.insert(path, (path.clone(), of_methods(methods)));
            if let Err(error) = inserted {
                panic!("{path:?} cannot be a route: {error}");
            }
        }
        patterns
    }

    fn router_with(self, context: Arc<Context>) -> Router {
        self.router
            .layer(DefaultBodyLimit::max(self.body_limit))
            .layer(middleware::from_fn_with_state(context, around))
            .with_state(self.state)
    }
}

/// Counts a request as activity (LIFE-6), logs its route, and renders its answer as text if the client prefers that (PER-37).
async fn around(State(context): State<Arc<Context>>, mut request: Request, next: Next) -> Response {
    let text = perimeter::wants_text(request.headers());
    request.extensions_mut().insert(context.clone());
    // LIFE-7, PER-47: a request that has not authenticated is neither counted nor logged.
    if request.extensions().get() == Some(&Caller::Nobody) {
        let answer = next.run(request).await;
        return if text { as_text(answer).await } else { answer };
    }
    let method = standard(request.method());
    // CRED-8: a path that is no route, and a part of one that varies, can hold the credential in any form.
    let route = context.patterns.at(request.uri().path()).ok().map(|found| found.value.0.as_str());
    let began = Instant::now();
    let (mut open, before) = context.activity.begin();
    request.extensions_mut().insert(before);
    context.handle.events_opened().await;
    let mut answer = next.run(request).await;
    tracing::debug!(method, route, status = answer.status().as_u16(), elapsed = ?began.elapsed(), "answered");
    if let Some(listener) = answer.extensions_mut().remove::<Listener>() {
        open.become_stream(listener);
    } else if text {
        answer = as_text(answer).await;
    }
    answer.map(|body| Body::new(Counted { body, _open: open }))
}

/// Returns the name of a method that HTTP defines; any other text is the client's, and can hold the credential (CRED-8).
fn standard(method: &Method) -> Option<&'static str> {
    let names = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    names.into_iter().find(|name| method == *name)
}

async fn as_text(answer: Response) -> Response {
    let json = [&b"application/json"[..], b"application/problem+json"];
    if !answer.headers().get(CONTENT_TYPE).is_some_and(|kind| json.contains(&kind.as_bytes())) {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    // An answer of the daemon's own, and not one that a client bounds.
    let bytes = match body::to_bytes(body, usize::MAX).await {
        Ok(bytes) => bytes,
        Err(error) => return Problem::from(std::io::Error::other(error)).into_response(),
    };
    let text = serde_json::from_slice::<Value>(&bytes).map_or(bytes, |value| render(&value).into());
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, Body::from(text))
}
