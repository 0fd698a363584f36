//! The guard, called as the `tower` service that it is: no sockets, every answer whole.

mod allowlist;
mod answers;
mod authentication;
mod bounds;
mod browser;
mod checks;
mod handshake;
mod host;
mod origin;
mod preflight;
mod query_token;

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use local_daemon::browser::PageHost;
use local_daemon::handshake::{Handshake, State};
use local_daemon::perimeter::{Guard, Guarded, Identity, Origin, Origins, problem_with};
use local_daemon::{Credential, Protocol};
use serde_json::{Value, json};
use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service;

/// The example of the handshake chapter: everything is public, so every code can be compared with what is printed
/// there.
const AUTHORITY: &str = "127.0.0.1:49152";
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
const PROOF: &str = "Local-Daemon-Proof nonce=\"ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8\", \
                     mac=\"QYbCoHxuMHD-KdnYUreDPSmIQF32CGWDTQuKohldPzs\"";
const PROVEN: &str = "\"ih4b1g7H5I_l_pfbZM-gjZTnUz0jcpI9IGimxExOmtA\"";
const LISTED: &str = "https://app.example";

struct Daemon {
    port: u16,
    page_host: PageHost,
    credential: watch::Sender<Credential>,
    state: Mutex<State>,
    origins: watch::Sender<Origins>,
    protocol: Protocol,
}

impl Identity for Daemon {
    fn credential(&self) -> watch::Receiver<Credential> {
        self.credential.subscribe()
    }

    fn authority(&self) -> &str {
        AUTHORITY
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn page_host(&self) -> Option<&PageHost> {
        Some(&self.page_host)
    }

    fn handshake(&self) -> Handshake {
        Handshake {
            protocol: self.protocol.clone(),
            id: "5f0c2a9be17d4836a1c04f9d2e6b8370".parse().unwrap(),
            pid: 4242.try_into().unwrap(),
            version: "2.3.0".to_owned(),
            state: *self.state.lock().unwrap(),
            capabilities: vec!["events".to_owned()],
        }
    }

    fn origins(&self) -> watch::Receiver<Origins> {
        self.origins.subscribe()
    }

    fn protocol(&self) -> &Protocol {
        &self.protocol
    }
}

fn key() -> Credential {
    Credential::parse(KEY.as_bytes()).unwrap()
}

fn origins(listed: &[&str]) -> Origins {
    listed.iter().map(|origin| origin.parse::<Origin>().unwrap()).collect()
}

fn new_daemon() -> Daemon {
    Daemon {
        port: 49152,
        page_host: PageHost::fresh(),
        credential: watch::channel(key()).0,
        state: Mutex::new(State::Ready),
        origins: watch::channel(origins(&[LISTED])).0,
        protocol: "acme/1".parse().unwrap(),
    }
}

fn daemon() -> Arc<Daemon> {
    Arc::new(new_daemon())
}

fn guard(daemon: &Arc<Daemon>) -> Guard {
    Guard::new(daemon.clone()).stream_routes(["/v1/events"])
}

/// A daemon's routes behind the guard. `/generous` answers as a careless CORS layer would.
fn guarded(guard: &Guard) -> Guarded<Router> {
    let generous = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "*"),
        (header::VARY, "Accept"),
    ];
    guard.layer(
        Router::new()
            .route("/v1/status", get(async || "status").head(async || ()))
            .route("/v1/events", get(async |uri: http::Uri| uri.to_string()).post(async |body: Bytes| body))
            .route("/generous", get(async move || generous))
            .route("/busy", get(busy))
            .route("/refused", get(async || (StatusCode::NOT_FOUND, axum::response::Html("a page about it"))))
            .route("/headers", get(async |headers: HeaderMap| format!("{headers:?}"))),
    )
}

async fn busy() -> Response<Body> {
    let active = json!({"streams": 2}).as_object().unwrap().clone();
    problem_with(StatusCode::CONFLICT, "busy", "Two streams are open.", active).map(Body::new)
}

async fn ask(service: &Guarded<Router>, request: Request<Body>) -> Response<Bytes> {
    let is_head = request.method() == Method::HEAD;
    let response = service.clone().call(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    if let Some(length) = parts.headers.get(header::CONTENT_LENGTH).filter(|_| !is_head) {
        assert_eq!(length.to_str().unwrap(), body.len().to_string());
    }
    Response::from_parts(parts, body)
}

/// Asks a fresh daemon.
async fn ask_new(request: Request<Body>) -> Response<Bytes> {
    ask(&guarded(&guard(&daemon())), request).await
}

/// A request with the given headers and no others.
fn bare(method: &str, target: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

/// A request to the daemon's own host.
fn to_daemon(method: &str, target: &str, headers: &[(&str, &str)]) -> Request<Body> {
    bare(method, target, &[&[("host", AUTHORITY)], headers].concat())
}

/// The same, with the credential.
fn authorized(method: &str, target: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let bearer = format!("Bearer {KEY}");
    to_daemon(method, target, &[&[("authorization", &*bearer)], headers].concat())
}

fn text<'a>(response: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
    let mut values = response.headers().get_all(name).iter();
    let value = values.next()?.to_str().unwrap();
    assert!(values.next().is_none(), "two {name} headers");
    Some(value)
}

fn code(response: &Response<Bytes>) -> String {
    assert_eq!(text(response, "content-type"), Some("application/problem+json"));
    let problem: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(problem["type"], "about:blank");
    assert_eq!(problem["status"], response.status().as_u16());
    assert!(
        !problem["title"].as_str().unwrap().is_empty() && !problem["detail"].as_str().unwrap().is_empty()
    );
    problem["code"].as_str().unwrap().to_owned()
}

fn assert_no_cors(response: &Response<Bytes>) {
    let cors = response.headers().keys().find(|name| name.as_str().starts_with("access-control-"));
    assert_eq!(cors, None);
}

/// Asserts that nothing of the answer tells whose it is.
fn assert_anonymous(response: &Response<Bytes>) {
    let seen = format!("{:?} {:?}", response.headers(), response.body());
    for secret in ["acme/1", "5f0c2a9b", "4242", "2.3.0", KEY] {
        assert!(!seen.contains(secret), "{secret} in {seen}");
    }
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// A body that says one word and then nothing, as an event stream may.
struct Endless(Option<Bytes>);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        let word = self.0.take();
        word.map_or(Poll::Pending, |word| Poll::Ready(Some(Ok(http_body::Frame::data(word)))))
    }
}
