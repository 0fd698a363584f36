//! The guard, called as the `tower` service that it is: no sockets, every answer whole.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used)]

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use local_daemon::browser::PageTokens;
use local_daemon::handshake::{self, Handshake, Nonce, State};
use local_daemon::perimeter::{
    self, Caller, Guard, Guarded, Identity, NotAnOrigin, Origin, Origins, problem_with, wants_text,
};
use local_daemon::{Credential, Protocol};
use local_daemon_spec::vectors;
use proptest::prelude::*;
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
    credential: Mutex<Credential>,
    state: Mutex<State>,
    origins: watch::Sender<Origins>,
    protocol: Protocol,
}

impl Identity for Daemon {
    fn credential(&self) -> Credential {
        self.credential.lock().unwrap().clone()
    }

    fn authority(&self) -> &str {
        AUTHORITY
    }

    fn port(&self) -> u16 {
        self.port
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
        credential: Mutex::new(key()),
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
    let response = service.clone().call(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    if let Some(length) = parts.headers.get(header::CONTENT_LENGTH) {
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

#[tokio::test]
async fn good_request_reaches_its_route_and_its_answer_is_marked() {
    let response = ask_new(authorized("GET", "/v1/status", &[])).await;
    assert_eq!((response.status(), &response.body()[..]), (StatusCode::OK, &b"status"[..]));
    assert_eq!(text(&response, "local-daemon-protocol"), Some("acme/1"));
    assert_eq!(text(&response, "cache-control"), Some("no-store"));
    assert_eq!(text(&response, "x-content-type-options"), Some("nosniff"));
    assert_no_cors(&response);
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

#[tokio::test]
async fn hosts_are_judged_as_the_vectors_say() {
    let bearer = format!("Bearer {KEY}");
    for case in vectors::cases("hosts") {
        let port = case["port"].as_u64().unwrap().try_into().unwrap();
        let service = guarded(&guard(&Arc::new(Daemon { port, ..new_daemon() })));
        // Not even the credential opens anything under another name.
        for authorization in [None, Some(("authorization", &*bearer))] {
            let mut headers: Vec<_> =
                strings(&case["hosts"]).into_iter().map(|host| ("host", host)).collect();
            headers.extend(authorization);
            let response = ask(&service, bare("GET", case["target"].as_str().unwrap(), &headers)).await;
            if case["accept"] == true {
                assert_ne!(response.status(), StatusCode::MISDIRECTED_REQUEST, "{case}");
            } else {
                assert_eq!(response.status(), StatusCode::MISDIRECTED_REQUEST, "{case}");
                assert!(case["statuses"].as_array().unwrap().contains(&json!(421)), "{case}");
                assert_eq!(code(&response), "misdirected");
                assert_anonymous(&response);
            }
        }
    }
}

#[tokio::test]
async fn origins_are_judged_as_the_vectors_say() {
    for case in vectors::cases("origins").iter().filter(|case| case["kind"] == "request") {
        // What cannot be listed is not on a list; the case is about the request that names it.
        let listed = strings(&case["allowlist"]).into_iter().filter_map(|entry| entry.parse().ok()).collect();
        let service =
            guarded(&guard(&Arc::new(Daemon { origins: watch::channel(listed).0, ..new_daemon() })));
        let (host, bearer) = (case["host"].as_str().unwrap(), format!("Bearer {KEY}"));
        let mut headers = vec![("host", host), ("authorization", &*bearer)];
        headers.extend(strings(&case["origins"]).into_iter().map(|origin| ("origin", origin)));
        let response = ask(&service, bare("GET", "/v1/status", &headers)).await;
        match case["decision"].as_str().unwrap() {
            "absent" | "same" => {
                assert_eq!(response.status(), StatusCode::OK, "{case}");
                assert_no_cors(&response);
            }
            "listed" => {
                assert_eq!(response.status(), StatusCode::OK, "{case}");
                assert_eq!(text(&response, "access-control-allow-origin"), case["origins"][0].as_str());
                assert_eq!(text(&response, "vary"), Some("Origin"));
            }
            "refused" => {
                assert_eq!(response.status(), StatusCode::FORBIDDEN, "{case}");
                assert_eq!(code(&response), "origin_refused");
                assert_no_cors(&response);
                assert_anonymous(&response);
                headers.push(("access-control-request-method", "GET"));
                let preflight = ask(&service, bare("OPTIONS", "/v1/status", &headers)).await;
                assert_eq!(preflight.status(), StatusCode::FORBIDDEN, "{case}");
                assert_no_cors(&preflight);
            }
            decision => panic!("what is {decision}?"),
        }
    }
}

#[test]
fn allowlist_takes_what_the_vectors_say() {
    for case in vectors::cases("origins").iter().filter(|case| case["kind"] == "entry") {
        let parsed = case["input"].as_str().unwrap().parse::<Origin>();
        assert_eq!(parsed.is_ok(), case["accept"] == true, "{case}: {parsed:?}");
    }
}

#[tokio::test]
async fn absolute_target_is_judged_as_host_is() {
    let status = async |target: &str| ask_new(authorized("GET", target, &[])).await.status();
    for target in [
        "http://127.0.0.1:49152/v1/status",
        "http://localhost:49152/v1/status",
    ] {
        assert_eq!(status(target).await, StatusCode::OK, "{target}");
    }
    for target in [
        "http://evil.test:49152/v1/status",
        "http://localhost:49153/v1/status",
        "http://user@127.0.0.1:49152/v1/status",
        "https://127.0.0.1:49152/v1/status",
    ] {
        assert_eq!(status(target).await, StatusCode::MISDIRECTED_REQUEST, "{target}");
    }
}

#[tokio::test]
async fn http_2_names_its_host_in_the_target() {
    let bearer = format!("Bearer {KEY}");
    let mut statuses = Vec::new();
    for version in [Version::HTTP_2, Version::HTTP_11, Version::HTTP_10] {
        for host in ["127.0.0.1", "evil.test"] {
            let target = format!("http://{host}:49152/v1/status");
            let mut request = bare("GET", &target, &[("authorization", &bearer)]);
            *request.version_mut() = version;
            statuses.push(ask_new(request).await.status().as_u16());
        }
    }
    assert_eq!(statuses, [200, 421, 421, 421, 421, 421]);
}

#[tokio::test]
async fn origins_take_effect_at_once() {
    let daemon = daemon();
    let service = guarded(&guard(&daemon));
    let request = || authorized("GET", "/v1/status", &[("origin", "http://127.0.0.1:5173")]);
    assert_eq!(ask(&service, request()).await.status(), StatusCode::FORBIDDEN);
    daemon.origins.send_replace(origins(&["http://127.0.0.1:5173"]));
    assert_eq!(ask(&service, request()).await.status(), StatusCode::OK);
    daemon.origins.send_replace(Origins::default());
    assert_eq!(ask(&service, request()).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn preflight_of_a_listed_origin_is_answered_without_authentication() {
    let knowing = guard(&daemon())
        .methods(Arc::new(|path| (path == "/v1/status").then(|| vec![Method::GET, Method::HEAD])));
    let service = guarded(&knowing);
    let preflight = [("origin", LISTED), ("access-control-request-method", "PUT")];
    let default = guarded(&guard(&daemon()));
    for (service, path, methods) in [
        (&service, "/v1/status", Some("GET, HEAD")),
        (&service, "/nowhere", None),
        (&service, handshake::PATH, Some("GET")),
        (&default, "/nowhere", Some("GET, HEAD, POST, PUT, DELETE")),
    ] {
        let response = ask(service, to_daemon("OPTIONS", path, &preflight)).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert!(response.body().is_empty());
        assert_eq!(text(&response, "access-control-allow-origin"), Some(LISTED));
        assert_eq!(text(&response, "access-control-allow-methods"), methods);
        assert_eq!(
            text(&response, "access-control-allow-headers"),
            Some("authorization, content-type, last-event-id")
        );
        assert!(text(&response, "access-control-max-age").unwrap().parse::<u32>().unwrap() <= 60);
        assert_eq!(text(&response, "access-control-allow-credentials"), None);
        assert_eq!(text(&response, "vary"), Some("Origin"));
        assert_anonymous(&response);
    }
    for not_a_preflight in [&preflight[..1], &preflight[1..]] {
        let response = ask(&service, to_daemon("OPTIONS", "/v1/status", not_a_preflight)).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    let not_options = ask(&service, to_daemon("POST", "/v1/status", &preflight)).await;
    assert_eq!(not_options.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn inner_service_cannot_widen_what_pages_may_read() {
    let response = ask_new(authorized("GET", "/generous", &[])).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_no_cors(&response);
    let response = ask_new(authorized("GET", "/generous", &[("origin", LISTED)])).await;
    assert_eq!(text(&response, "access-control-allow-origin"), Some(LISTED));
    assert_eq!(text(&response, "access-control-allow-credentials"), None);
    let vary: Vec<_> = response.headers().get_all("vary").iter().collect();
    assert_eq!(vary, ["Accept", "Origin"]);
}

#[tokio::test]
async fn wrong_or_missing_authentication_is_401() {
    let bearer = |text: &str| format!("Bearer {text}");
    let wrong: &[&[String]] = &[
        &[],
        &[String::new()],
        &["Bearer".to_owned()],
        &[bearer("")],
        &[bearer(&KEY[..42])],
        &[bearer(&KEY.to_lowercase())],
        &[bearer(&format!("{KEY}="))],
        &[bearer(&format!(" {KEY}"))],
        &[bearer(&format!("{KEY} x"))],
        &[bearer(&KEY.replacen('A', "B", 1))],
        &[KEY.to_owned()],
        &[format!("Basic {KEY}")],
        &[bearer(KEY), bearer(KEY)],
        &[bearer("x"), bearer(KEY)],
        &[PROOF.to_owned()],
        &[PROOF.to_owned(), bearer(KEY)],
    ];
    for authorizations in wrong {
        let headers: Vec<_> = authorizations.iter().map(|value| ("authorization", &**value)).collect();
        // PROOF is good for the handshake, and only there.
        for (method, path) in [
            ("GET", "/v1/status"),
            ("POST", "/v1/events"),
            ("POST", handshake::PATH),
        ] {
            let response = ask_new(to_daemon(method, path, &headers)).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{authorizations:?}");
            assert_eq!(code(&response), "unauthorized");
            assert_eq!(
                text(&response, "www-authenticate"),
                Some("Bearer realm=\"local-daemon\", Local-Daemon-Proof")
            );
            assert_anonymous(&response);
        }
    }
    let any_case = to_daemon("GET", "/v1/status", &[("authorization", &format!("bEARER {KEY}"))]);
    assert_eq!(ask_new(any_case).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn unauthenticated_requests_cannot_tell_routes_apart() {
    for headers in [&[][..], &[("authorization", "Bearer x")], &[("origin", LISTED)]] {
        let mut answers = Vec::new();
        for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            for path in ["/v1/status", "/v1/events", "/nowhere", "/", handshake::PATH] {
                let response = ask_new(to_daemon(method, path, headers)).await;
                answers.push((response.status(), format!("{:?}", response.headers()), response.into_body()));
            }
        }
        assert_eq!(answers[0].0, StatusCode::UNAUTHORIZED);
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
    }
}

#[tokio::test]
async fn page_of_a_listed_origin_can_read_its_401() {
    let response = ask_new(to_daemon("GET", "/v1/status", &[("origin", LISTED)])).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(text(&response, "access-control-allow-origin"), Some(LISTED));
    assert_eq!(text(&response, "vary"), Some("Origin"));
}

#[tokio::test]
async fn rotated_credential_replaces_the_old_one_at_once() {
    let daemon = daemon();
    let service = guarded(&guard(&daemon));
    assert_eq!(ask(&service, authorized("GET", "/v1/status", &[])).await.status(), StatusCode::OK);
    let new = Credential::from_bytes([7; 32]);
    *daemon.credential.lock().unwrap() = new.clone();
    assert_eq!(ask(&service, authorized("GET", "/v1/status", &[])).await.status(), StatusCode::UNAUTHORIZED);
    let bearer = format!("Bearer {}", new.expose().as_str());
    let request = to_daemon("GET", "/v1/status", &[("authorization", &bearer)]);
    assert_eq!(ask(&service, request).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn query_token_opens_event_streams_only_and_is_not_passed_on() {
    for (query, seen) in [
        (format!("token={KEY}"), "/v1/events"),
        (format!("%74%6Fken=%41{}", &KEY[1..]), "/v1/events"),
        (format!("topics=a,b&token={KEY}&after=1-2"), "/v1/events?topics=a,b&after=1-2"),
    ] {
        let response = ask_new(to_daemon("GET", &format!("/v1/events?{query}"), &[])).await;
        assert_eq!((response.status(), &response.body()[..]), (StatusCode::OK, seen.as_bytes()));
    }
    // Everything that is shown has to be right.
    for (token, status) in [(KEY, StatusCode::OK), ("x", StatusCode::UNAUTHORIZED)] {
        let response = ask_new(authorized("GET", &format!("/v1/events?token={token}"), &[])).await;
        assert_eq!(response.status(), status);
    }
    let bearers = [("authorization", "Bearer x"), ("authorization", "Bearer x")];
    let response = ask_new(to_daemon("GET", &format!("/v1/events?token={KEY}"), &bearers)).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    for target in ["/v1/status", "/nowhere", handshake::PATH] {
        let response = ask_new(authorized("GET", &format!("{target}?a=b&token={KEY}"), &[])).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{target}");
    }

    for (method, target) in [
        ("GET", format!("/v1/status?token={KEY}")),
        ("GET", format!("/v1/status?%74oken={KEY}")),
        ("GET", format!("{}?token={KEY}", handshake::PATH)),
        ("GET", format!("/v1/events/?token={KEY}")),
        ("POST", format!("/v1/events?token={KEY}")),
        ("HEAD", format!("/v1/events?token={KEY}")),
        ("GET", "/v1/events".to_owned()),
        ("GET", "/v1/events?token=".to_owned()),
        ("GET", format!("/v1/events?token={}", &KEY[..42])),
        ("GET", format!("/v1/events?token={KEY}&token={KEY}")),
        ("GET", format!("/v1/events?TOKEN={KEY}")),
    ] {
        let response = ask_new(to_daemon(method, &target, &[])).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{method} {target}");
    }
    let wrong_bearer = to_daemon("GET", &format!("/v1/events?token={KEY}"), &[("authorization", "Bearer x")]);
    assert_eq!(ask_new(wrong_bearer).await.status(), StatusCode::UNAUTHORIZED);
    let foreign = to_daemon("GET", &format!("/v1/events?token={KEY}"), &[("origin", "https://evil.test")]);
    assert_eq!(ask_new(foreign).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn inner_service_does_not_print_the_credential_with_its_headers() {
    let response = ask_new(authorized("GET", "/headers", &[])).await;
    let seen = str::from_utf8(response.body()).unwrap();
    assert!(seen.contains("authorization") && !seen.contains(KEY), "{seen}");
}

#[tokio::test]
async fn handshake_answers_a_proof_with_one_over_its_own_body() {
    let daemon = daemon();
    let service = guarded(&guard(&daemon));
    let request = || to_daemon("GET", handshake::PATH, &[("authorization", PROOF)]);
    let response = ask(&service, request()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(&response, "content-type"), Some("application/json"));
    assert_eq!(text(&response, "cache-control"), Some("no-store"));
    // The code that the chapter prints for the body that it prints: not one byte is another.
    assert_eq!(text(&response, "local-daemon-proof"), Some(PROVEN));
    let body: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(
        body,
        json!({"spec": "local-daemon/1", "protocol": "acme/1", "id": "5f0c2a9be17d4836a1c04f9d2e6b8370",
               "pid": 4242, "version": "2.3.0", "state": "ready", "capabilities": ["events"]})
    );
    // Nonces are not remembered: the same request again gets the same answer, and nothing else.
    assert_eq!(text(&ask(&service, request()).await, "local-daemon-proof"), Some(PROVEN));

    *daemon.state.lock().unwrap() = State::Draining;
    let draining = ask(&service, request()).await;
    assert_eq!(draining.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text(&draining, "retry-after"), Some("1"));
    assert_eq!(Handshake::parse(draining.body()).unwrap().state, State::Draining);
    let (nonce, _) = handshake::parse_authorization(PROOF).unwrap();
    let expected = handshake::answer(handshake::daemon_code(&key(), AUTHORITY, nonce, draining.body()));
    assert_eq!(text(&draining, "local-daemon-proof"), Some(&*expected));
    assert_ne!(expected, PROVEN);
}

#[tokio::test]
async fn handshake_refuses_every_other_proof() {
    let nonce = Nonce::from_bytes([9; 32]);
    let of = |key: &Credential, authority: &str| {
        handshake::authorization(nonce, handshake::client_code(key, authority, nonce))
    };
    let good = of(&key(), AUTHORITY);
    let replayed_answer =
        handshake::authorization(nonce, handshake::daemon_code(&key(), AUTHORITY, nonce, b""));
    let wrong = [
        of(&Credential::from_bytes([1; 32]), AUTHORITY),
        of(&key(), "127.0.0.1:49153"),
        of(&key(), "localhost:49152"),
        of(&key(), "[::1]:49152"),
        of(&key(), "unix:daemon.sock"),
        replayed_answer,
        good.replace("mac=\"", "mac=\"A"),
        good[..good.len() - 1].to_owned(),
        good.split(", ").next().unwrap().to_owned(),
        format!("{good}, {}", good.split(", ").nth(1).unwrap()),
        "Local-Daemon-Proof nonce=\"\", mac=\"\"".to_owned(),
    ];
    for authorization in &wrong {
        // The request's Host may be localhost: what counts is the authority under the code.
        for host in [AUTHORITY, "localhost:49152"] {
            let headers = [("host", host), ("authorization", authorization)];
            let response = ask_new(bare("GET", handshake::PATH, &headers)).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{authorization}");
            assert_eq!(text(&response, "local-daemon-proof"), None);
            assert_anonymous(&response);
        }
    }
    for host in [AUTHORITY, "localhost:49152"] {
        let response =
            ask_new(bare("GET", handshake::PATH, &[("host", host), ("authorization", &good)])).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn handshake_takes_a_bearer_and_then_proves_nothing() {
    let response = ask_new(authorized("GET", handshake::PATH, &[])).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(Handshake::parse(response.body()).is_ok());
    assert_eq!(text(&response, "local-daemon-proof"), None);
    assert_eq!(text(&response, "local-daemon-protocol"), Some("acme/1"));
}

#[tokio::test]
async fn handshake_is_a_get_and_always_json() {
    for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
        let response = ask_new(authorized(method, handshake::PATH, &[])).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(code(&response), "method_not_allowed");
        assert_eq!(text(&response, "allow"), Some("GET"));
    }
    let headers = [("authorization", PROOF), ("accept", "text/plain")];
    let response = ask_new(to_daemon("GET", handshake::PATH, &headers)).await;
    assert_eq!(text(&response, "local-daemon-proof"), Some(PROVEN));
    assert_eq!(text(&response, "content-type"), Some("application/json"));
}

#[tokio::test]
async fn request_for_another_protocol_is_426() {
    for named in ["acme/2", "acme/10", "acme", "other/1"] {
        let headers = [("local-daemon-protocol", named)];
        let response = ask_new(authorized("GET", "/v1/status", &headers)).await;
        assert_eq!(response.status(), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(code(&response), "protocol_mismatch");
        assert_eq!(text(&response, "local-daemon-protocol"), Some("acme/1"));
        assert_eq!(text(&response, "upgrade"), Some("acme/1"));
        let problem: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(problem["protocol"], "acme/1");
        assert_eq!(text(&response, "connection"), Some("upgrade"));
        // Who has not authenticated does not learn which one it is; the handshake tells everybody else.
        let unauthenticated = ask_new(to_daemon("GET", "/v1/status", &headers)).await;
        assert_eq!(unauthenticated.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(ask_new(authorized("GET", handshake::PATH, &headers)).await.status(), StatusCode::OK);
    }
    let same = authorized("GET", "/v1/status", &[("local-daemon-protocol", "acme/1")]);
    assert_eq!(ask_new(same).await.status(), StatusCode::OK);
    let both = [
        ("local-daemon-protocol", "acme/1"),
        ("local-daemon-protocol", "acme/2"),
    ];
    assert_eq!(ask_new(authorized("GET", "/v1/status", &both)).await.status(), StatusCode::UPGRADE_REQUIRED);
}

#[tokio::test]
async fn url_is_at_most_8_kib() {
    let target = |length: usize| format!("/v1/status?{}", "x".repeat(length - "/v1/status?".len()));
    assert_eq!(ask_new(authorized("GET", &target(8192), &[])).await.status(), StatusCode::OK);
    let response = ask_new(authorized("GET", &target(8193), &[])).await;
    assert_eq!(response.status(), StatusCode::URI_TOO_LONG);
    assert_eq!(code(&response), "uri_too_long");
    // The first check of all, and even so an answer that a listed page can read.
    let first = ask_new(bare("GET", &target(8193), &[("host", "evil.test"), ("origin", LISTED)])).await;
    assert_eq!(first.status(), StatusCode::URI_TOO_LONG);
    assert_eq!(text(&first, "access-control-allow-origin"), Some(LISTED));
    assert_anonymous(&first);
}

#[tokio::test]
async fn body_is_limited_with_and_without_an_announced_length() {
    let service = guarded(&guard(&daemon()).body_limit(1000));
    let announced = async |length: usize| {
        let request = authorized("POST", "/v1/events", &[]);
        ask(&service, request.map(|_| Body::new(Full::from(vec![b'x'; length])))).await
    };
    assert_eq!(announced(1000).await.body().len(), 1000);
    let response = announced(1001).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(code(&response), "body_too_large");

    let streamed = async |length: usize| {
        let request = authorized("POST", "/v1/events", &[]);
        let body = Unannounced(Full::from(vec![b'x'; length]));
        ask(&service, request.map(|_| Body::new(body))).await
    };
    assert_eq!(streamed(1000).await.body().len(), 1000);
    let response = streamed(1001).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(code(&response), "body_too_large");
}

/// A body that, as a chunked one, does not say how long it is.
struct Unannounced(Full<Bytes>);

impl http_body::Body for Unannounced {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(context)
    }
}

#[tokio::test]
async fn flood_of_failed_handshakes_is_slowed_and_hinders_nobody_who_authenticates() {
    let service = guarded(&guard(&daemon()));
    let mut asked = 0;
    let limited = loop {
        let response = ask(&service, to_daemon("GET", handshake::PATH, &[])).await;
        if response.status() != StatusCode::UNAUTHORIZED {
            break response;
        }
        asked += 1;
        assert!(asked < 100_000, "nothing slows a flood");
    };
    assert!(asked >= 1000, "64 clients that make mistakes are no flood: {asked}");
    assert_eq!(limited.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(code(&limited), "overloaded");
    let elsewhere = ask(&service, to_daemon("GET", "/v1/status", &[])).await;
    assert_eq!(elsewhere.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(text(&limited, "retry-after"), Some("1"));
    assert_anonymous(&limited);
    for _ in 0..3000 {
        let response = ask(&service, authorized("GET", "/v1/status", &[])).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
    let proven = ask(&service, to_daemon("GET", handshake::PATH, &[("authorization", PROOF)])).await;
    assert_eq!(proven.status(), StatusCode::OK);
}

#[tokio::test]
async fn problems_are_text_for_those_who_ask_for_text() {
    let response = ask_new(authorized("GET", "/busy", &[])).await;
    assert_eq!((response.status(), &*code(&response)), (StatusCode::CONFLICT, "busy"));
    let problem: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(problem["streams"], 2);
    for (accept, is_text) in [
        ("text/plain", true),
        ("TEXT/plain; charset=utf-8, application/json", true),
        ("application/json, text/plain, */*", false),
        ("*/*", false),
    ] {
        for path in ["/busy", "/nowhere"] {
            let response = ask_new(authorized("GET", path, &[("accept", accept)])).await;
            let content_type = text(&response, "content-type").unwrap();
            assert_eq!(content_type == "text/plain; charset=utf-8", is_text, "{accept}: {content_type}");
        }
    }
    let busy = ask_new(authorized("GET", "/busy", &[("accept", "text/plain")])).await;
    assert_eq!(&busy.body()[..], b"409 Conflict (busy): Two streams are open.\nstreams: 2\n");
    let own = ask_new(to_daemon("GET", "/", &[("accept", "text/plain")])).await;
    assert!(own.body().starts_with(b"401 Unauthorized (unauthorized): "));
}

#[tokio::test]
async fn routers_bare_refusals_are_named_and_others_left_alone() {
    let unknown = ask_new(authorized("GET", "/nowhere", &[])).await;
    assert_eq!((unknown.status(), &*code(&unknown)), (StatusCode::NOT_FOUND, "not_found"));
    let method = ask_new(authorized("DELETE", "/v1/events", &[])).await;
    assert_eq!((method.status(), &*code(&method)), (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"));
    assert_eq!(text(&method, "allow"), Some("GET,HEAD,POST"));
    let own = ask_new(authorized("GET", "/refused", &[])).await;
    assert_eq!((own.status(), &own.body()[..]), (StatusCode::NOT_FOUND, &b"a page about it"[..]));
}

#[test]
fn origins_are_listed_as_browsers_write_them() {
    for good in [
        "https://app.example",
        "http://localhost:5173",
        "http://127.0.0.1:3000",
        "http://[::1]:3000",
        "http://[2001:db8::1]",
        "https://app.example:80",
        "http://app.example:443",
        "https://xn--bcher-kva.example",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "tauri://localhost",
    ] {
        let parsed = good.parse::<Origin>();
        assert_eq!(parsed.as_ref().map(Origin::as_str), Ok(good));
    }
    for (wrong, why) in [
        ("null", NotAnOrigin::Null),
        ("*", NotAnOrigin::Pattern),
        ("https://*.example", NotAnOrigin::Pattern),
        ("https://App.example", NotAnOrigin::UpperCase),
        ("", NotAnOrigin::Scheme),
        ("app.example", NotAnOrigin::Scheme),
        ("://app.example", NotAnOrigin::Scheme),
        ("1http://app.example", NotAnOrigin::Scheme),
        ("blob:http://app.example", NotAnOrigin::Scheme),
        (" https://app.example", NotAnOrigin::Scheme),
        ("https://app.example/", NotAnOrigin::Path),
        ("https://app.example?x", NotAnOrigin::Path),
        ("https://app.example#x", NotAnOrigin::Path),
        ("https://user@app.example", NotAnOrigin::UserInfo),
        ("https://", NotAnOrigin::Host),
        ("https://:8443", NotAnOrigin::Host),
        ("https://bücher.example", NotAnOrigin::Host),
        ("https://app..example", NotAnOrigin::Host),
        ("https://.app.example", NotAnOrigin::Host),
        ("https://app.example,https", NotAnOrigin::Host),
        ("https://app.example ", NotAnOrigin::Host),
        ("http://127.1", NotAnOrigin::Host),
        ("http://2130706433", NotAnOrigin::Host),
        ("http://0x7f.1", NotAnOrigin::Host),
        ("http://127.0.0.01", NotAnOrigin::Host),
        ("http://::1", NotAnOrigin::Host),
        ("http://[::1", NotAnOrigin::Host),
        ("http://[0:0:0:0:0:0:0:1]", NotAnOrigin::Host),
        ("http://[::ffff:127.0.0.1]", NotAnOrigin::Host),
        ("https://app.example:", NotAnOrigin::Port),
        ("https://app.example:0", NotAnOrigin::Port),
        ("https://app.example:08443", NotAnOrigin::Port),
        ("https://app.example:+8443", NotAnOrigin::Port),
        ("https://app.example:65536", NotAnOrigin::Port),
        ("https://app.example:443", NotAnOrigin::DefaultPort),
        ("http://app.example:80", NotAnOrigin::DefaultPort),
    ] {
        assert_eq!(wrong.parse::<Origin>(), Err(why), "{wrong}");
    }
}

/// A body that says one word and then nothing for ever, as an event stream may.
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

#[tokio::test]
async fn stream_ends_when_its_origin_is_taken_off_the_list() {
    const OTHER: &str = "https://other.example";
    let daemon = daemon();
    daemon.origins.send_replace(origins(&[LISTED, OTHER]));
    let service = guard(&daemon).layer(
        Router::new().route("/endless", get(async || Body::new(Endless(Some(Bytes::from_static(b"word")))))),
    );
    let mut bodies = Vec::new();
    for origin in [Some(LISTED), Some(OTHER), None] {
        let headers: Vec<_> = origin.map(|origin| ("origin", origin)).into_iter().collect();
        let answer = service.clone().call(authorized("GET", "/endless", &headers)).await.unwrap();
        let mut body = answer.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "word");
        bodies.push(body);
    }
    let pending = |body: &mut _| {
        let mut frame = Box::pin(BodyExt::frame(body));
        let mut context = Context::from_waker(Waker::noop());
        frame.as_mut().poll(&mut context).is_pending()
    };
    assert!(bodies.iter_mut().all(pending));
    daemon.origins.send_replace(origins(&[OTHER]));
    assert!(bodies[0].frame().await.is_none());
    assert!(bodies[1..].iter_mut().all(pending));
}

#[tokio::test]
async fn header_section_beyond_the_limit_is_431_before_anything_else_is_judged() {
    let long = "a".repeat(perimeter::MAX_HEADER_BYTES);
    let response = ask_new(bare("GET", "/v1/status", &[("host", "evil.test"), ("x-long", &long)])).await;
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(code(&response), "headers_too_large");
    let fits = "a".repeat(8 * 1024);
    let response = ask_new(authorized("GET", "/v1/status", &[("x-long", &fits)])).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn no_transfer_coding_but_chunked_is_understood() {
    let status = async |coding| {
        let request = authorized("POST", "/v1/echo", &[("transfer-encoding", coding)]);
        ask_new(request).await.status()
    };
    for coding in ["gzip, chunked", "chunked, chunked", "identity", "", ","] {
        assert_eq!(status(coding).await, StatusCode::BAD_REQUEST, "{coding}");
    }
    for coding in ["chunked", ", CHUNKED ,"] {
        assert_ne!(status(coding).await, StatusCode::BAD_REQUEST, "{coding}");
    }
}

#[tokio::test]
async fn extractors_refusals_become_problems() {
    let service = guard(&daemon()).layer(Router::new().route(
        "/number",
        get(async |axum::extract::Query(number): axum::extract::Query<u32>| number.to_string()),
    ));
    let answer = service.clone().call(authorized("GET", "/number?x=y", &[])).await.unwrap();
    let (parts, body) = answer.into_parts();
    let answer = Response::from_parts(parts, body.collect().await.unwrap().to_bytes());
    assert_eq!((answer.status(), code(&answer).as_str()), (StatusCode::BAD_REQUEST, "invalid_request"));
}

#[test]
fn text_is_preferred_by_weight_and_then_by_place() {
    for (accept, text) in [
        ("text/plain", true),
        ("TEXT/PLAIN; charset=utf-8", true),
        ("text/plain, application/json", true),
        ("application/json, text/plain", false),
        ("application/json;q=0.5, text/plain;q=0.6", true),
        ("text/plain;q=0.5, application/problem+json", false),
        ("text/plain;q=0", false),
        ("text/plain;q=x", false),
        ("*/*", false),
        ("text/html", false),
        ("", false),
    ] {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        assert_eq!(wants_text(&headers), text, "{accept}");
    }
}

/// A header's value: the good one, that with some bytes changed, or any bytes.
fn values(good: &'static [&'static str]) -> impl Strategy<Value = HeaderValue> {
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let damaged = (prop::sample::select(good), edits).prop_map(|(good, edits)| {
        let mut bytes = good.as_bytes().to_vec();
        for (index, byte) in edits {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    });
    let any = proptest::collection::vec(any::<u8>(), 0..60);
    prop_oneof![3 => damaged, 1 => any]
        .prop_filter_map("no byte that ends a header", |bytes| HeaderValue::from_bytes(&bytes).ok())
}

const HOSTS: [&str; 3] = [AUTHORITY, "localhost:49152", "[::1]:49152"];
const ORIGINS: [&str; 4] = [
    LISTED,
    "http://127.0.0.1:49152",
    "http://localhost:49152",
    "http://[::1]:49152",
];
const BEARERS: [&str; 2] = ["Bearer AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", PROOF];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// Whatever stands in the three headers, nothing panics, and nobody gets in but by their very values.
    #[test]
    fn no_header_opens_the_guard_by_being_nearly_right(
        host in values(&HOSTS), origin in proptest::option::of(values(&ORIGINS)), bearer in values(&BEARERS),
    ) {
        let mut request = bare("GET", "/v1/status", &[]);
        let headers = request.headers_mut();
        headers.insert(header::HOST, host.clone());
        headers.insert(header::AUTHORIZATION, bearer.clone());
        headers.extend(origin.clone().map(|origin| (header::ORIGIN, origin)));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let response = runtime.block_on(ask_new(request));
        let is_good = |value: &HeaderValue, good: &[&str]| good.iter().any(|good| value == good);
        let own = |origin: &HeaderValue| origin == LISTED || origin.as_bytes().strip_prefix(b"http://") == Some(host.as_bytes());
        let (scheme, secret) = bearer.as_bytes().split_at(bearer.len().min(7));
        let bears = scheme.eq_ignore_ascii_case(b"bearer ") && secret == KEY.as_bytes();
        let expected = if !is_good(&host, &HOSTS) {
            StatusCode::MISDIRECTED_REQUEST
        } else if !origin.as_ref().is_none_or(own) {
            StatusCode::FORBIDDEN
        } else if bears {
            StatusCode::OK
        } else {
            StatusCode::UNAUTHORIZED
        };
        prop_assert_eq!(response.status(), expected);
        if expected != StatusCode::OK {
            assert_anonymous(&response);
        }
    }
}

const OWN: &str = "http://127.0.0.1:49152";

/// A daemon that lets browsers in; every path answers with whom the guard let through.
fn with_doors(tokens: &Arc<PageTokens>) -> Guarded<Router> {
    let who = async |axum::Extension(caller): axum::Extension<Caller>| match caller {
        Caller::User => "user".to_owned(),
        Caller::Page { token } => format!("page {token}"),
        Caller::Nobody => "nobody".to_owned(),
    };
    let guard = guard(&daemon()).page_tokens(tokens.clone());
    guard.layer(Router::new().fallback(who))
}

#[tokio::test]
async fn page_token_works_from_its_origin_on_every_route() {
    let tokens = Arc::new(PageTokens::new());
    let service = with_doors(&tokens);
    for (bound, own) in [(OWN, true), (LISTED, false), ("https://gone.example", false)] {
        let token = tokens.issue(bound, SystemTime::now());
        let id = tokens.list().pop().unwrap().id;
        let bearer = format!("Bearer {}", token.expose());
        for (origin, right) in [(None, own), (Some(OWN), own), (Some(LISTED), bound == LISTED)] {
            let headers: Vec<_> = origin.map(|origin| ("origin", origin)).into_iter().collect();
            let by_header = [&headers[..], &[("authorization", &*bearer)]].concat();
            let by_query = format!("/v1/events?topics=note&token={}", token.expose());
            for (target, headers) in [
                ("/v1/status", &by_header),
                (handshake::PATH, &by_header),
                (&by_query, &headers),
            ] {
                let seen = ask(&service, to_daemon("GET", target, headers)).await;
                let expected = if right { 200 } else { 401 };
                assert_eq!(seen.status(), expected, "{bound} {origin:?} {target}");
                let told = right.then_some("acme/1");
                assert_eq!(text(&seen, "local-daemon-protocol"), told);
                if right && target != handshake::PATH {
                    assert_eq!(seen.body(), &format!("page {id}"));
                }
            }
            // PER-25: nowhere but on streams.
            let elsewhere = format!("/v1/status?token={}", token.expose());
            assert_eq!(ask(&service, to_daemon("GET", &elsewhere, &headers)).await.status(), 401);
        }
    }
    let seen = ask(&service, authorized("GET", "/v1/status", &[("origin", LISTED)])).await;
    assert_eq!(seen.body(), "user");
}

#[tokio::test]
async fn doors_are_open_to_those_who_show_nothing_and_come_from_where_they_should() {
    let service = with_doors(&Arc::new(PageTokens::new()));
    let closed = guarded(&guard(&daemon()));
    let wrong = ("authorization", "Bearer x");
    for (method, target, headers, expected) in [
        ("GET", "/", &[][..], 200),
        ("GET", "/", &[wrong], 200),
        ("GET", "/?token=x", &[], 200),
        ("GET", "/", &[("origin", LISTED)], 200),
        ("GET", "/", &[("origin", "null")], 403),
        ("GET", "/", &[("origin", "https://other.example")], 403),
        ("HEAD", "/", &[], 401),
        ("POST", "/", &[], 401),
        ("POST", "/page", &[], 200),
        ("POST", "/page", &[("origin", "null")], 200),
        ("POST", "/page", &[("origin", OWN)], 200),
        ("POST", "/page", &[("origin", LISTED)], 403),
        ("POST", "/page", &[("origin", "http://localhost:49152")], 403),
        ("POST", "/page", &[("origin", "null"), ("origin", "null")], 403),
        ("POST", "/page", &[wrong], 401),
        ("POST", "/page?token=x", &[], 401),
        ("GET", "/page", &[], 401),
        ("GET", "/page", &[("origin", "null")], 403),
        ("POST", "/page/", &[], 401),
        ("POST", "/v1/handoff", &[], 200),
        ("POST", "/v1/handoff", &[("origin", LISTED)], 200),
        ("POST", "/v1/handoff", &[("origin", "null")], 403),
        ("POST", "/v1/handoff", &[wrong], 401),
        ("GET", "/v1/handoff", &[], 401),
        ("POST", "/v1/tickets", &[], 401),
    ] {
        let seen = ask(&service, to_daemon(method, target, headers)).await;
        assert_eq!(seen.status(), expected, "{method} {target} {headers:?}");
        assert_eq!(text(&seen, "local-daemon-protocol"), None);
        if expected == 200 {
            assert_eq!(seen.body(), "nobody");
            let seen = ask(&closed, to_daemon(method, target, headers)).await;
            assert!(matches!(seen.status().as_u16(), 401 | 403), "without page tokens");
        }
        let seen = ask(&service, bare(method, target, &[("host", "evil.test:49152")])).await;
        assert_eq!(seen.status(), 421);
    }
}

/// BROW-28: whatever the squatter's worker was called, and only once `Host` and `Origin` are right.
#[tokio::test]
async fn service_worker_is_ended() {
    const WORKER: (&str, &str) = ("service-worker", "script");
    let service = with_doors(&Arc::new(PageTokens::new()));
    for target in ["/", "/sw.js", "/v1/status", handshake::PATH] {
        let seen = ask(&service, to_daemon("GET", target, &[WORKER])).await;
        assert_eq!((seen.status().as_u16(), text(&seen, "cache-control")), (200, Some("no-store")));
        assert!(text(&seen, "content-type").unwrap().starts_with("text/javascript"));
        assert!(str::from_utf8(seen.body()).unwrap().contains("registration.unregister()"));
    }
    for (method, headers, expected) in [
        ("GET", &[("host", "evil.test:49152"), WORKER][..], 421),
        ("GET", &[("host", AUTHORITY), ("origin", "https://evil.example"), WORKER], 403),
        ("POST", &[("host", AUTHORITY), WORKER], 401),
        ("GET", &[("host", AUTHORITY), ("service-worker", "x")], 401),
    ] {
        assert_eq!(ask(&service, bare(method, "/sw.js", headers)).await.status(), expected);
    }
}

#[tokio::test]
async fn stream_ends_when_its_token_is_revoked() {
    let tokens = Arc::new(PageTokens::new());
    let service = guard(&daemon()).page_tokens(tokens.clone()).layer(
        Router::new()
            .route("/v1/events", get(async || Body::new(Endless(Some(Bytes::from_static(b"word")))))),
    );
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let token = tokens.issue(OWN, SystemTime::now());
        let target = format!("/v1/events?token={}", token.expose());
        let answer = service.clone().call(to_daemon("GET", &target, &[])).await.unwrap();
        let mut body = answer.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "word");
        bodies.push(body);
    }
    assert!(tokens.revoke(&tokens.list()[0].id));
    assert!(bodies[0].frame().await.is_none());
    let mut frame = Box::pin(bodies[1].frame());
    let mut context = Context::from_waker(Waker::noop());
    assert!(frame.as_mut().poll(&mut context).is_pending());
}
