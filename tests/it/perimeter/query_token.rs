//! The token in the URL.

use http::StatusCode;
use local_daemon::handshake;

use super::{KEY, ask_new, authorized, to_daemon};

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
