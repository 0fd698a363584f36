//! Which `Origin` may ask, and what its answers say.

use std::sync::Arc;

use http::StatusCode;
use local_daemon_spec::vectors;
use tokio::sync::watch;

use super::{
    Daemon, KEY, LISTED, ask, ask_new, assert_anonymous, assert_no_cors, authorized, bare, code, guard,
    guarded, new_daemon, strings, text, to_daemon,
};

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
async fn page_of_a_listed_origin_can_read_its_401() {
    let response = ask_new(to_daemon("GET", "/v1/status", &[("origin", LISTED)])).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(text(&response, "access-control-allow-origin"), Some(LISTED));
    assert_eq!(text(&response, "vary"), Some("Origin"));
}
