//! The daemon: the routes, and what ends it when nobody needs it.

mod browser;
mod events;
mod launchers;
mod shutdown;
mod status;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{self, Body};
use axum::extract::{FromRequest, Request, State};
use axum::handler::Handler;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use local_daemon::browser::{PageTokens, Tickets};
use local_daemon::claim::Reason;
use local_daemon::daemon::{Error, Handle, Silent};
use local_daemon::perimeter::{self, Origin};
use local_daemon::{Daemon, StateDir};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::allowlist::Allowlist;
use crate::render::render;
use events::Events;

/// The state directory's name below the user's state directory.
pub(crate) const COMPONENT: &str = "locald";
/// The largest body that a route takes (64 KiB).
const MAX_BODY: usize = 64 * 1024;

/// How long the daemon lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Until it is stopped.
    Manual,
    /// Until nobody has used it for this long.
    Auto(Duration),
}

/// How to run.
pub(crate) struct Options {
    pub(crate) state_dir: std::path::PathBuf,
    pub(crate) protocol: String,
    pub(crate) yields: bool,
    /// Allowlisted beside those in `config.toml`.
    pub(crate) origins: Vec<Origin>,
    pub(crate) mode: Mode,
}

/// A daemon that listens and has not published yet.
pub(crate) struct Started {
    daemon: Daemon,
    app: Arc<App>,
}

/// What the routes share.
struct App {
    handle: Handle,
    mode: Mode,
    started: Instant,
    activity: Activity,
    events: Arc<Events>,
    tickets: Tickets,
    page_tokens: Arc<PageTokens>,
    /// Told of each ticket that is issued: there may be a launcher file for it.
    launchers: Notify,
    /// Why the daemon asked itself to stop; a signal where nothing else did.
    cause: OnceLock<&'static str>,
}

/// Listens, and finds or makes the credential.
pub(crate) async fn start(options: Options) -> Result<Started, Error> {
    let allowlist = Allowlist::new(StateDir::at(&options.state_dir), options.origins);
    let methods = routes().methods;
    let page_tokens = Arc::new(PageTokens::new());
    let daemon = Daemon::builder(COMPONENT, options.protocol)
        .version(env!("CARGO_PKG_VERSION"))
        .state_dir(options.state_dir)
        .yields(options.yields)
        .capabilities(["events"])
        .origins_from(move || allowlist.now())
        .methods(move |path| methods_of(&methods, path))
        .stream_routes([events::PATH])
        .page_tokens(page_tokens.clone())
        .start()
        .await?;
    let handle = daemon.handle();
    let app = App {
        events: Arc::new(events::log(handle.id().epoch())),
        handle,
        mode: options.mode,
        started: Instant::now(),
        activity: Activity::new(),
        tickets: Tickets::new(),
        page_tokens,
        launchers: Notify::new(),
        cause: OnceLock::new(),
    };
    Ok(Started { daemon, app: Arc::new(app) })
}

impl Started {
    pub(crate) fn handle(&self) -> Handle {
        self.app.handle.clone()
    }

    /// Publishes, and serves until it stands down.
    pub(crate) async fn serve(self) -> Result<Reason, Error> {
        tokio::spawn(events::lifecycle(self.app.clone()));
        tokio::spawn(tell_of_origins(self.app.clone()));
        tokio::spawn(launchers::sweep(self.app.clone()));
        if let Mode::Auto(timeout) = self.app.mode {
            tokio::spawn(idle_out(self.app.clone(), timeout));
        }
        self.daemon.serve(router(self.app)).await
    }
}

/// The routes and their methods, listed once, so that preflights know what the router does (PER-16).
#[derive(Default)]
struct Routes {
    router: Router<Arc<App>>,
    methods: Vec<(&'static str, Method)>,
}

impl Routes {
    fn on<H: Handler<T, Arc<App>>, T: 'static>(
        mut self,
        method: Method,
        path: &'static str,
        handler: H,
    ) -> Self {
        let filter = MethodFilter::try_from(method.clone()).expect("a method that HTTP defines");
        self.router = self.router.route(path, on(filter, handler));
        if method == Method::GET {
            self.methods.push((path, Method::HEAD));
        }
        self.methods.push((path, method));
        self
    }
}

fn routes() -> Routes {
    Routes::default()
        .on(Method::GET, "/v1/status", status::status)
        .on(Method::POST, "/v1/shutdown", shutdown::shutdown)
        .on(Method::GET, events::PATH, events::subscribe)
        .on(Method::POST, events::PATH, events::note)
        .on(Method::GET, "/", browser::shell)
        .on(Method::POST, "/page", browser::page)
        .on(Method::POST, "/v1/tickets", browser::ticket)
        .on(Method::POST, "/v1/handoff", browser::handoff)
        .on(Method::GET, "/v1/page-tokens", browser::tokens)
        .on(Method::DELETE, "/v1/page-tokens/{id}", browser::revoke)
}

/// What a path takes; `None`: there is no such path.
fn methods_of(routes: &[(&str, Method)], path: &str) -> Option<Vec<Method>> {
    let is_like = |pattern: &str| {
        let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
        loop {
            match (pattern.next(), path.next()) {
                (None, None) => return true,
                (Some(part), Some(segment)) if part == segment => {}
                (Some(part), Some(segment)) if part.starts_with('{') && !segment.is_empty() => {}
                _ => return false,
            }
        }
    };
    let methods: Vec<Method> = routes
        .iter()
        .filter(|(pattern, _)| is_like(pattern))
        .map(|(_, method)| method.clone())
        .collect();
    (!methods.is_empty()).then_some(methods)
}

/// Tells subscribers which origins come and go.
async fn tell_of_origins(app: Arc<App>) {
    let mut list = app.handle.origins();
    let mut known = list.borrow_and_update().clone();
    while list.changed().await.is_ok() {
        let now = list.borrow_and_update().clone();
        let differences = [("added", &now, &known), ("removed", &known, &now)];
        for (what, these, those) in differences {
            for origin in these.iter().filter(|origin| !those.contains(origin.as_str())) {
                // Strings always serialise, and the log is in memory.
                let _ = app.events.append("origins", &json!({"what": what, "origin": origin.as_str()}));
            }
        }
        known = now;
    }
}

fn router(app: Arc<App>) -> Router {
    routes()
        .router
        .fallback(async || refuse(StatusCode::NOT_FOUND, "not_found", "there is no such route"))
        .method_not_allowed_fallback(async || {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the route has no such method")
        })
        .layer(middleware::from_fn_with_state(app.clone(), around))
        .with_state(app)
}

/// Counts a request as activity (LIFE-6), logs it without its query, and renders its answer for who asks for text (PER-37).
async fn around(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let text = perimeter::wants_text(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let began = Instant::now();
    let (open, before) = app.activity.begin(Kind::Request);
    request.extensions_mut().insert(before);
    let answer = next.run(request).await;
    drop(open);
    tracing::debug!(%method, path, status = answer.status().as_u16(), elapsed = ?began.elapsed(), "answered");
    if text { as_text(answer).await } else { answer }
}

async fn as_text(answer: Response) -> Response {
    let json = [&b"application/json"[..], b"application/problem+json"];
    if !answer.headers().get(CONTENT_TYPE).is_some_and(|kind| json.contains(&kind.as_bytes())) {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    // An answer of this daemon's own, held in memory already.
    let Ok(bytes) = body::to_bytes(body, usize::MAX).await else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the answer could not be rendered");
    };
    let text = serde_json::from_slice::<Value>(&bytes).map_or(bytes, |value| render(&value).into());
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    head.headers.remove(axum::http::header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(text))
}

/// A problem answer.
fn refuse(
    status: StatusCode,
    code: &'static str,
    detail: impl Into<std::borrow::Cow<'static, str>>,
) -> Response {
    perimeter::problem(status, code, detail).map(Body::new)
}

/// A problem answer that tells one thing more.
fn refuse_with(
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
struct Payload<T>(T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Payload<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let bytes = body::to_bytes(request.into_body(), MAX_BODY).await.map_err(|error| {
            if is_silence(&error) {
                let detail = "nothing of the body came for 30 s";
                refuse(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail)
            } else {
                let detail = "the body is larger than 64 KiB";
                refuse(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
            }
        })?;
        // What is read by its members would be read from a list as well.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(refuse(StatusCode::BAD_REQUEST, "invalid_request", "the body is not a JSON object"));
        }
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Self(value)),
            Err(error) => Err(refuse(
                StatusCode::BAD_REQUEST,
                "invalid_request",
                // Where, and not what: the body may hold what must not be repeated (CRED-9).
                format!(
                    "the body is not the JSON that this route takes: line {}, column {}",
                    error.line(),
                    error.column()
                ),
            )),
        }
    }
}

/// Whether the body ended because its sender fell silent (PER-33).
fn is_silence(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(<dyn std::error::Error>::is::<Silent>)
}

/// What is open, and when something last was.
#[derive(Clone, Copy, Debug)]
struct Work {
    requests: usize,
    streams: usize,
    last: Instant,
    last_at: SystemTime,
}

impl Work {
    fn is_idle(&self) -> bool {
        self.requests == 0 && self.streams == 0
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Request,
    Stream,
}

/// The accepted requests and open streams; whoever waits is told of every change.
struct Activity(Arc<watch::Sender<Work>>);

impl Activity {
    fn new() -> Self {
        let work = Work {
            requests: 0,
            streams: 0,
            last: Instant::now(),
            last_at: SystemTime::now(),
        };
        Self(Arc::new(watch::channel(work).0))
    }

    fn now(&self) -> Work {
        *self.0.borrow()
    }

    /// Counts until the returned guard is dropped; what was open before comes with it.
    fn begin(&self, kind: Kind) -> (Open, Work) {
        let before = self.now();
        touch(&self.0, kind, |count| count + 1);
        (Open(self.0.clone(), kind), before)
    }
}

/// One open request or stream.
#[derive(Debug)]
struct Open(Arc<watch::Sender<Work>>, Kind);

impl Drop for Open {
    fn drop(&mut self) {
        touch(&self.0, self.1, |count| count - 1);
    }
}

fn touch(work: &watch::Sender<Work>, kind: Kind, change: impl FnOnce(usize) -> usize) {
    work.send_modify(|work| {
        let count = match kind {
            Kind::Request => &mut work.requests,
            Kind::Stream => &mut work.streams,
        };
        *count = change(*count);
        (work.last, work.last_at) = (Instant::now(), SystemTime::now());
    });
}

/// Stops the daemon once nothing was open for `timeout`, by the monotonic clock: a laptop that slept was not idle
/// (LIFE-2, LIFE-5, LIFE-8).
async fn idle_out(app: Arc<App>, timeout: Duration) {
    let mut work = app.activity.0.subscribe();
    loop {
        let now = *work.borrow_and_update();
        tokio::select! {
            biased;
            changed = work.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(now.last + timeout), if now.is_idle() => {
                // LIFE-9: a request that was let in at this moment is served first.
                if app.stop_if_idle("idle", 0) {
                    tracing::info!(idle_seconds = timeout.as_secs(), "idle");
                    return;
                }
                if work.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

impl App {
    fn stop(&self, cause: &'static str) {
        // The first cause is the one that counts.
        let _ = self.cause.set(cause);
        self.handle.stop();
    }

    /// Stops where nothing is open besides the given number of requests.
    fn stop_if_idle(&self, cause: &'static str, besides: usize) -> bool {
        let idle = self.handle.stop_if_idle(besides);
        if idle {
            let _ = self.cause.set(cause);
        }
        idle
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use local_daemon::handshake;
    use tempfile::TempDir;

    use super::*;

    /// A daemon that listens, in a directory of its own, and is not published.
    pub(super) async fn start() -> (TempDir, Started) {
        let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
        let options = Options {
            state_dir: dir.path().to_owned(),
            protocol: "locald/1".to_owned(),
            yields: false,
            origins: Vec::new(),
            mode: Mode::Manual,
        };
        let started = super::start(options).await.unwrap();
        (dir, started)
    }

    #[test]
    fn openapi_document_names_exactly_the_routes() {
        let document: Value = serde_json::from_str(include_str!("../../spec/openapi.json")).unwrap();
        let documented: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
                methods.map(|method| (path.clone(), method.to_uppercase()))
            })
            .collect();
        // HEAD goes with GET; the handshake is the guard's own route.
        let served: BTreeSet<(String, String)> = routes()
            .methods
            .iter()
            .filter(|(_, method)| *method != Method::HEAD)
            .map(|(path, method)| ((*path).to_owned(), method.to_string()))
            .chain([(handshake::PATH.to_owned(), "GET".to_owned())])
            .collect();
        assert_eq!(documented, served);
    }
}
