//! What answers look like.

use axum::Router;
use axum::routing::get;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt;
use local_daemon::perimeter::wants_text;
use serde_json::Value;
use tower_layer::Layer;
use tower_service::Service;

use super::{ask_new, authorized, code, daemon, guard, text, to_daemon};

#[tokio::test]
async fn problems_are_text_for_those_who_ask_for_text() {
    let response = ask_new(authorized("GET", "/busy", &[])).await;
    assert_eq!((response.status(), &*code(&response)), (StatusCode::CONFLICT, "busy"));
    let problem: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(problem["streams"], 2);
    for (accept, is_text) in [
        ("text/plain", true),
        ("TEXT/plain; charset=utf-8, application/json;q=0.9", true),
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

/// PER-37
#[test]
fn text_is_preferred_by_its_quality() {
    for (accept, text) in [
        ("text/plain", true),
        ("TEXT/PLAIN; charset=utf-8", true),
        ("text/*", true),
        ("text/plain, application/json", false),
        ("application/json, text/plain", false),
        ("application/json;q=0.5, text/plain;q=0.6", true),
        ("application/json;q=0.599, text/plain;q=0.6", true),
        ("application/json;q=0.6, text/plain;q=0.5", false),
        ("text/plain;q=0.5, application/problem+json", true),
        ("text/plain;q=0", false),
        ("text/plain;q=0, */*", false),
        ("text/plain;q=x", false),
        ("text/plain;q=2", false),
        ("text/plain;q=0.1234", false),
        ("text/plain;q=-1", false),
        ("text/plain;q=NaN", false),
        // D9g of the review: JSON has the quality of the wildcard.
        ("application/*, text/plain;q=0.5", false),
        ("*/*, text/plain;q=0.5", false),
        ("*/*;q=0.4, text/plain;q=0.5", true),
        ("text/plain, */*;q=0.1", true),
        ("application/*;q=0.4, text/plain;q=0.5", true),
        ("application/*;q=0.4, application/json, text/plain;q=0.5", false),
        ("application/json;q=0.1, */*", true),
        ("application/json;q=0, */*;q=0.1", true),
        ("application/json;q=0, text/*;q=0.1", true),
        ("text/*, text/plain;q=0, application/json;q=0.1", false),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false),
        ("*/*", false),
        ("text/html", false),
        ("text", false),
        ("", false),
    ] {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        assert_eq!(wants_text(&headers), text, "{accept}");
    }
    let lines = [
        (header::ACCEPT, "application/json;q=0.5".parse().unwrap()),
        (header::ACCEPT, "text/plain".parse().unwrap()),
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name, value);
    }
    assert!(wants_text(&headers), "several lines are one list");
    assert!(!wants_text(&HeaderMap::new()));
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
