//! What a browser asks before it asks.

use http::{Method, StatusCode};
use local_daemon::handshake;

use super::{LISTED, ask, assert_anonymous, daemon, guard, guarded, text, to_daemon};

#[tokio::test]
async fn preflight_of_a_listed_origin_is_answered_without_authentication() {
    let knowing =
        guard(&daemon()).methods(|path| (path == "/v1/status").then(|| vec![Method::GET, Method::HEAD]));
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
