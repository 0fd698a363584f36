//! The checks as a whole: their order, and that nothing gets round them.

use http::{HeaderValue, StatusCode, header};
use local_daemon::handshake;
use proptest::prelude::*;
use serde_json::Value;

use super::{
    AUTHORITY, KEY, LISTED, PROOF, ask_new, assert_anonymous, assert_no_cors, authorized, bare, code, text,
    to_daemon,
};

#[tokio::test]
async fn good_request_reaches_its_route_and_its_answer_is_marked() {
    let response = ask_new(authorized("GET", "/v1/status", &[])).await;
    assert_eq!((response.status(), &response.body()[..]), (StatusCode::OK, &b"status"[..]));
    assert_eq!(text(&response, "local-daemon-protocol"), Some("acme/1"));
    assert_eq!(text(&response, "cache-control"), Some("no-store"));
    assert_eq!(text(&response, "x-content-type-options"), Some("nosniff"));
    assert_no_cors(&response);
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
        let spaces = secret.iter().take_while(|byte| **byte == b' ').count();
        let bears = scheme.eq_ignore_ascii_case(b"bearer ") && secret[spaces..] == *KEY.as_bytes();
        let expected = if !is_good(&host, &HOSTS) {
            // PER-5: a host, or none at all; the vectors say which is which.
            let refused = [StatusCode::BAD_REQUEST, StatusCode::MISDIRECTED_REQUEST];
            prop_assert!(refused.contains(&response.status()), "{}", response.status());
            response.status()
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
