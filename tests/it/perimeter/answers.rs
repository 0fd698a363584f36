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
