//! How much, how many and how long.

use axum::body::Body;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use local_daemon::{handshake, perimeter};

use super::{
    LISTED, PROOF, ask, ask_new, assert_anonymous, authorized, bare, code, daemon, guard, guarded, text,
    to_daemon,
};

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
