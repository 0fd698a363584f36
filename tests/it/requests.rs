//! What a client of the crate can send, and how it gets its answer.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use axum::{Json, Router};
use http_body_util::BodyExt;
use local_daemon::Launch;
use local_daemon::client::{Connection, Request, RequestErrorKind};
use local_daemon::testing::Home;
use serde_json::{Value, json};

use crate::raw::Raw;

/// Answers with the method, a header and the body of the request.
async fn echo(method: Method, headers: HeaderMap, body: Bytes) -> Json<Value> {
    let header = headers.get("x-acme").and_then(|value| value.to_str().ok());
    Json(json!({"method": method.as_str(), "header": header, "body": String::from_utf8_lossy(&body)}))
}

/// Sends back each part of the body as it comes.
async fn mirror(body: Body) -> Body {
    Body::new(body.map_frame(|frame| frame))
}

fn router() -> Router {
    Router::new()
        .route("/echo", any(echo))
        .route("/mirror", post(mirror))
        .route("/large", get(async || "x".repeat(100_000)))
        .route("/never", get(async || std::future::pending::<()>().await))
        .route("/refuse", post(async || StatusCode::CONFLICT.into_response()))
}

/// Runs a test with a connection to a daemon of its own.
fn with_connection(test: impl FnOnce(&mut Connection)) {
    let home = Home::new("acme", "acme/1").unwrap();
    let daemon = home.start(router()).unwrap();
    test(&mut home.client().connect().unwrap());
    daemon.stop().unwrap();
}

#[test]
fn a_request_has_any_method_headers_and_json() {
    with_connection(|connection| {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"] {
            let request = Request::new(method, "/echo").header("X-Acme", "7").json(&json!([1])).unwrap();
            let answer: Value = connection.send(request).unwrap().json().unwrap();
            assert_eq!(answer, json!({"method": method, "header": "7", "body": "[1]"}));
        }
        let head = connection.send(Request::new("HEAD", "/large")).unwrap();
        assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, Some("100000")));
        assert_eq!(connection.get("/large").unwrap().body.len(), 100_000, "the connection is in order");
    });
}

#[test]
fn what_cannot_be_sent_is_refused_before_anything_is_sent() {
    with_connection(|connection| {
        for request in [
            Request::get("no-slash"),
            Request::get("/a b"),
            Request::get("/\u{fc}"),
            Request::get("/a\r\nX: y"),
            Request::new("G ET", "/"),
            Request::new("", "/"),
            Request::new("CONNECT", "/"),
            Request::get("/").header("X", "a\r\nY: b"),
            Request::get("/").header("X:", "a"),
            Request::get("/").header("", "a"),
            Request::get("/").header("authorization", "Bearer x"),
            Request::get("/").header("Host", "x"),
            Request::get("/").header("Content-Length", "1"),
        ] {
            let error = connection.send(request).unwrap_err();
            assert!(matches!(error.kind(), RequestErrorKind::Invalid(_)), "{error}");
        }
        let error = connection.send(Request::get("/a b?token=secret")).unwrap_err().to_string();
        assert!(error.contains("must be percent-encoded") && !error.contains("secret"), "{error}");
    });
}

#[test]
fn bodies_stream_both_ways() {
    const LENGTH: usize = 900_000;
    with_connection(|connection| {
        let text: Vec<u8> = (0..LENGTH).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for length in [Some(LENGTH as u64), None] {
            let request = Request::post("/mirror").body_from(&text[..], length);
            let mut answer = connection.open(request).unwrap();
            let mut read = Vec::new();
            answer.body.read_to_end(&mut read).unwrap();
            assert!(read == text, "{} bytes came back", read.len());
        }
        // An answer that is not read to its end costs its connection, and nothing else.
        let mut opened = connection.open(Request::get("/large")).unwrap();
        opened.body.read_exact(&mut [0; 10]).unwrap();
        drop(opened);
        assert_eq!(connection.get("/large").unwrap().body.len(), 100_000);
    });
}

#[test]
fn a_body_that_cannot_be_read_is_an_error_of_its_own() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    with_connection(|connection| {
        let error = connection.send(Request::post("/echo").body_from(Broken, None)).unwrap_err();
        assert_eq!(error.kind(), RequestErrorKind::Body);
        assert!(error.to_string().ends_with("the disk is gone"), "{error}");
        let error = connection.send(Request::post("/echo").body_from(&b"abc"[..], Some(4))).unwrap_err();
        assert!(error.to_string().contains("shorter than announced"), "{error}");
        assert_eq!(connection.get("/large").unwrap().status, 200);
    });
}

#[test]
fn an_answer_that_comes_early_is_read() {
    with_connection(|connection| {
        // Beyond the body limit of the guard, so that the answer comes before the body.
        for length in [Some(20_000_000), None] {
            let body = io::repeat(b'x').take(20_000_000);
            let answer = connection.send(Request::post("/echo").body_from(body, length)).unwrap();
            assert_eq!(answer.status, 413, "{length:?}");
            assert!(!answer.problem().unwrap().code.is_empty());
        }
        let answer = connection.send(Request::post("/refuse").body(vec![b'x'; 900_000])).unwrap();
        assert_eq!(answer.status, 409);
        assert_eq!(connection.get("/large").unwrap().status, 200);
    });
}

#[test]
fn an_answer_in_many_small_chunks_is_read() {
    let daemon = Raw::start(std::process::id(), |_, stream| {
        let chunks = b"8\r\n01234567\r\n".repeat(100_000);
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(&[&head[..], &chunks, b"0\r\n\r\n"].concat()).is_ok()
    });
    assert_eq!(daemon.client().connect().unwrap().get("/").unwrap().body.len(), 800_000);
}

#[test]
fn the_query_is_in_no_error() {
    with_connection(|connection| {
        let answer = connection.get("/nothing?token=secret").unwrap();
        let error = connection.answer_error("/nothing?token=secret", &answer);
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    });
}

#[test]
fn no_error_controls_a_terminal() {
    let daemon = Raw::start(std::process::id(), |_, stream| {
        let body = r#"{"code": "a\u001b[2J", "detail": "b\r\u009b"}"#;
        let head = format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).is_ok()
    });
    let mut connection = daemon.client().connect().unwrap();
    let answer = connection.get("/").unwrap();
    let error = connection.answer_error("/", &answer).to_string();
    assert!(error.ends_with("the daemon answered 400 (a [2J): b  "), "{error:?}");
}

#[test]
fn the_environment_of_a_launch_is_not_shown() {
    let shown = format!("{:?}", Launch::new("acmed").env("ACME_KEY", "secret"));
    assert!(shown.contains("ACME_KEY") && !shown.contains("secret"), "{shown}");
}

#[test]
fn a_request_ends_at_its_own_deadline_and_has_no_other() {
    with_connection(|connection| {
        let began = Instant::now();
        let late = connection.send(Request::get("/never").deadline(Duration::from_millis(200))).unwrap_err();
        assert_eq!(late.kind(), RequestErrorKind::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(connection.send(Request::get("/large").deadline(Duration::MAX)).unwrap().status, 200);
        let none = connection.send(Request::get("/large").deadline(Duration::ZERO)).unwrap_err();
        assert_eq!(none.kind(), RequestErrorKind::TimedOut);
        let long = connection.send(Request::get("/large").max_answer(99_999)).unwrap_err();
        assert_eq!(long.kind(), RequestErrorKind::TooLarge);
        assert_eq!(connection.send(Request::get("/large").max_answer(100_000)).unwrap().status, 200);
    });
}
