//! The guard behind a real HTTP/1 server, given raw bytes: it decides as the table of chapter 10, read by the independent
//! subject with a parser of its own; and whatever it answers shows nothing that it must not.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use local_daemon::handshake::{Handshake, State};
use local_daemon::perimeter::{Guard, Identity, Origins};
use local_daemon::{Credential, Protocol};
use local_daemon_harness::proof as suite;
use local_daemon_spec::vectors::text;
use local_daemon_subject::readers::{self, STREAM, Step, Verdict};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::sync::watch;
use tower_layer::Layer as _;
use tower_service::Service;

use crate::{Seed, script, vectors};

const PORT: u16 = 49152;
const AUTHORITY: &str = "127.0.0.1:49152";
const LISTED: &str = "https://app.example";
/// The credential of the vectors.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

struct Daemon {
    credential: watch::Sender<Credential>,
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
        PORT
    }

    fn handshake(&self) -> Handshake {
        Handshake {
            protocol: self.protocol.clone(),
            id: script::id(1),
            pid: std::num::NonZeroU32::MIN,
            version: "2.3.0".to_owned(),
            state: State::Ready,
            capabilities: Vec::new(),
        }
    }

    fn origins(&self) -> watch::Receiver<Origins> {
        self.origins.subscribe()
    }

    fn protocol(&self) -> &Protocol {
        &self.protocol
    }
}

/// The routes: whatever came through, and a careless layer's permission.
#[derive(Clone)]
struct Route;

impl<B> Service<Request<B>> for Route {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let target = request.uri().path_and_query().map_or("", |target| target.as_str()).to_owned();
        let mut response = Response::new(Full::from(target));
        let headers = response.headers_mut();
        headers.insert("x-route", http::HeaderValue::from_static("reached"));
        headers.insert("access-control-allow-credentials", http::HeaderValue::from_static("true"));
        ready(Ok(response))
    }
}

/// An answer as it was sent.
struct Answer {
    status: StatusCode,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    fn has_reached_the_route(&self) -> bool {
        !self.all("x-route").is_empty()
    }
}

/// Sends bytes as a connection, and reads everything that comes back.
fn serve(bytes: &[u8]) -> Vec<u8> {
    let origins = watch::channel(Origins::from_iter([LISTED.parse().expect("an origin")])).0;
    let credential = Credential::parse(KEY.as_bytes()).expect("it is one");
    let daemon = Daemon {
        credential: watch::channel(credential).0,
        origins,
        protocol: script::protocol(1),
    };
    let service = Guard::new(Arc::new(daemon)).stream_routes([STREAM]).layer(Route);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without any driver");
    runtime.block_on(async move {
        // Room for everything, so that nobody waits for anybody.
        let (mut client, server) = duplex(16 * 1024 * 1024);
        client.write_all(bytes).await.expect("there is room");
        client.shutdown().await.expect("it is open");
        let service = hyper::service::service_fn(move |request| service.clone().call(request));
        // A connection that is no HTTP ends early; what it was told before counts.
        let _ = http1::Builder::new()
            .half_close(true)
            .max_headers(2048)
            .serve_connection(TokioIo::new(server), service)
            .await;
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).await.expect("the other side has closed");
        answers
    })
}

/// The first answer that is not an interim one.
fn first(mut answers: &[u8]) -> Option<Answer> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = head.parse(answers).expect("a server writes HTTP") else {
            return None;
        };
        let status = StatusCode::from_u16(head.code.expect("it is whole")).expect("a status");
        answers = &answers[length..];
        if status.is_informational() {
            continue;
        }
        let value = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let headers: Vec<_> = head.headers.iter().map(|h| (h.name.to_owned(), value(h.value))).collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        let length = answer.all("content-length").first().and_then(|length| length.parse().ok()).unwrap_or(0);
        answer.body = answers.get(..length).unwrap_or_default().to_vec();
        return Some(answer);
    }
}

/// Sends bytes to a guarded daemon.
pub fn run(data: &[u8]) {
    // The bounds of the two daemons differ beyond what every daemon has to take.
    if data.len() > 4096 {
        return;
    }
    let bytes = complete(data);
    let answers = serve(&bytes);
    let secret = KEY.as_bytes();
    let sent_key = bytes.windows(secret.len()).any(|window| window == secret);
    let answer = first(&answers);
    let verdict = readers::judge(&bytes, (PORT, AUTHORITY), secret, |origin| origin == LISTED);
    let (Some(answer), Some(verdict)) = (answer, verdict) else {
        return;
    };
    agree(&answer, &verdict, &bytes);
    assert!(
        !answer.has_reached_the_route()
            || bytes.windows(10).any(|word| word.eq_ignore_ascii_case(b"Bearer AAE"))
            || sent_key,
        "PER-21: reached without the credential"
    );
    if !answer.has_reached_the_route() {
        let shown = answers.windows(secret.len()).any(|window| window == secret);
        assert!(!shown || answers.windows(7).any(|word| word == b"x-route"), "CRED-9");
    }
}

fn agree(answer: &Answer, verdict: &Verdict, request: &[u8]) {
    let status = answer.status.as_u16();
    if status == 400 {
        return; // HTTP to the one parser and none to the server, which answers by itself.
    }
    let said = format!("{} {:?}, and the table says {verdict:?}", answer.status, answer.headers);
    match &verdict.step {
        // A server may refuse what is no HTTP in its own words; it may also be more patient, but lets nobody in.
        Step::Refused(400, _) => {
            // To the server `GET *` names a path that no router has, and to the subject it is no request.
            let target = request.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
            let is_path = target.starts_with(b"/") || target.starts_with(b"http");
            let may_serve = !is_path || has_redundant_length(request);
            assert!(may_serve || status >= 400 && !answer.has_reached_the_route(), "{said}");
        }
        Step::Refused(expected, code) => {
            assert_eq!(status, *expected, "{said}");
            let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            if answer.all("content-type") == ["application/problem+json"] && !answer.body.is_empty() {
                assert_eq!(
                    (&problem["code"], &problem["status"]),
                    (&Value::from(*code), &Value::from(status)),
                    "PER-35"
                );
            }
        }
        Step::Preflight => assert_eq!(status, 204, "{said}"),
        Step::Handshake(proven) => {
            assert_eq!(status, 200, "{said}");
            assert_eq!(answer.all("local-daemon-proof").len(), usize::from(*proven), "HS-21, HS-22: {said}");
        }
        Step::Route => {
            // 413 and 426 come after the table's fifth step.
            assert!(answer.has_reached_the_route() || matches!(status, 413 | 426), "{said}");
        }
    }
    if matches!(verdict.step, Step::Refused(400, _)) {
        return;
    }
    // PER-9, PER-13, PER-14
    let reader: Vec<&str> = verdict.reader.as_deref().into_iter().collect();
    assert_eq!(answer.all("access-control-allow-origin"), reader, "{said}");
    assert!(answer.all("access-control-allow-credentials").is_empty(), "{said}");
    assert_eq!(answer.all("vary").contains(&"Origin"), verdict.reader.is_some(), "{said}");
    assert_eq!(status == 401, !answer.all("www-authenticate").is_empty(), "PER-21: {said}");
    if status != 200 {
        assert!(answer.all("local-daemon-proof").is_empty(), "HS-22: {said}");
    }
}

/// Whether a length stands in the head together with another length or a transfer coding. A server may refuse such a
/// request, as the subject does, or take equal lengths for one and read chunks without the length, as hyper does
/// (RFC 9110, 8.6; RFC 9112, 6.1).
fn has_redundant_length(request: &[u8]) -> bool {
    let head = request.split(|byte| *byte == b'\n').map(<[u8]>::to_ascii_lowercase);
    let head = head.skip_while(|line| line.trim_ascii().is_empty());
    let head: Vec<_> = head.take_while(|line| !line.trim_ascii().is_empty()).collect();
    let lines = |name: &[u8]| head.iter().filter(|line| line.starts_with(name)).count();
    let lengths = lines(b"content-length:");
    lengths > 0 && lengths + lines(b"transfer-encoding:") > 1
}

/// The request with `{key}` and `{proof}` filled in, so that an input can show what it cannot guess.
fn complete(data: &[u8]) -> Vec<u8> {
    let Ok(text) = str::from_utf8(data) else {
        return data.to_vec();
    };
    if !text.contains('{') {
        return data.to_vec();
    }
    let credential = suite::Credential::from_text(KEY).expect("it is one");
    let nonce = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8";
    let proof = suite::authorization(&credential, AUTHORITY, nonce);
    text.replace("{key}", KEY).replace("{proof}", &proof).into_bytes()
}

/// The vectors of `Host` and `Origin` as requests, and one request for each row of the table.
pub fn seeds() -> Vec<Seed> {
    let lines = |name: &str, values: &Value| {
        let values = values.as_array().into_iter().flatten().filter_map(Value::as_str);
        let lines = values.map(|value| format!("{name}: {value}\r\n"));
        lines.collect::<Vec<_>>().concat()
    };
    let hosts = vectors::seeds("hosts", |case| {
        let hosts = lines("Host", &case["hosts"]);
        Some(format!("GET {} HTTP/1.1\r\n{hosts}\r\n", text(case, "target")).into())
    });
    let origins = vectors::seeds("origins", |case| {
        let (host, origins) = (case["host"].as_str()?, lines("Origin", &case["origins"]));
        Some(format!("GET / HTTP/1.1\r\nHost: {host}\r\n{origins}\r\n").into())
    });
    let bearer = "Authorization: Bearer {key}\r\n";
    let own = [
        ("route", "GET", "/v1/status", bearer),
        ("no-key", "GET", "/v1/status", ""),
        ("other-scheme", "GET", "/v1/status", "Authorization: Basic {key}\r\n"),
        ("two-keys", "GET", "/v1/status", "Authorization: Bearer {key}\r\nAuthorization: Bearer x\r\n"),
        ("proof", "GET", "/.well-known/local-daemon", "Authorization: {proof}\r\n"),
        ("bearer-handshake", "GET", "/.well-known/local-daemon", bearer),
        ("proof-elsewhere", "GET", "/v1/status", "Authorization: {proof}\r\n"),
        ("stream", "GET", "/v1/events?token={key}&topics=note", "Origin: https://app.example\r\n"),
        ("token-in-other-letters", "GET", "/v1/events?%74oken={key}", ""),
        ("token-elsewhere", "GET", "/v1/status?token={key}", bearer),
        (
            "preflight",
            "OPTIONS",
            "/v1/events",
            "Origin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n",
        ),
        ("options", "OPTIONS", "*", bearer),
        ("plain", "GET", "/no", "Accept: text/plain;q=0.9, application/json;q=0.1\r\n"),
        ("protocol", "GET", "/v1/status", "Authorization: Bearer {key}\r\nLocal-Daemon-Protocol: acme/2\r\n"),
        ("absolute", "GET", "http://localhost:49152/v1/status", bearer),
    ];
    let own = own.map(|(name, method, target, headers)| {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:49152\r\n{headers}\r\n");
        (name.to_owned(), request.into_bytes())
    });
    let post = b"POST /v1/events HTTP/1.1\r\nHost: [::1]:49152\r\nAuthorization: Bearer {key}\r\nContent-Length: 2\r\n\r\n{}";
    let chunked = b"POST /v1/events HTTP/1.1\r\nHost: localhost:49152\r\nAuthorization: bearer {key}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    let bodies = [("post", post.to_vec()), ("chunked", chunked.to_vec())]
        .map(|(name, bytes)| (name.to_owned(), bytes));
    [hosts, origins, own.into(), bodies.into()].concat()
}
