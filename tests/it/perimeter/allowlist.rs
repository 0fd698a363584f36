//! The list of origins, and changes of it.

use std::task::{Context, Waker};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use local_daemon::perimeter::{Origin, Origins, ParseOriginError};
use local_daemon_spec::vectors;
use tower_layer::Layer;
use tower_service::Service;

use super::{Endless, LISTED, ask, authorized, daemon, guard, guarded, origins};

#[test]
fn allowlist_takes_what_the_vectors_say() {
    for case in vectors::cases("origins").iter().filter(|case| case["kind"] == "entry") {
        let parsed = case["input"].as_str().unwrap().parse::<Origin>();
        assert_eq!(parsed.is_ok(), case["accept"] == true, "{case}: {parsed:?}");
    }
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
        ("null", ParseOriginError::Null),
        ("*", ParseOriginError::Pattern),
        ("https://*.example", ParseOriginError::Pattern),
        ("https://App.example", ParseOriginError::UpperCase),
        ("", ParseOriginError::Scheme),
        ("app.example", ParseOriginError::Scheme),
        ("://app.example", ParseOriginError::Scheme),
        ("1http://app.example", ParseOriginError::Scheme),
        ("blob:http://app.example", ParseOriginError::Scheme),
        (" https://app.example", ParseOriginError::Scheme),
        ("file://", ParseOriginError::NoPage),
        ("ftp://app.example", ParseOriginError::NoPage),
        ("ws://app.example", ParseOriginError::NoPage),
        ("wss://app.example", ParseOriginError::NoPage),
        ("https://app.example/", ParseOriginError::Path),
        ("https://app.example?x", ParseOriginError::Path),
        ("https://app.example#x", ParseOriginError::Path),
        ("https://user@app.example", ParseOriginError::UserInfo),
        ("https://", ParseOriginError::Host),
        ("https://:8443", ParseOriginError::Host),
        ("https://bücher.example", ParseOriginError::Host),
        ("https://app..example", ParseOriginError::Host),
        ("https://.app.example", ParseOriginError::Host),
        ("https://app.example,https", ParseOriginError::Host),
        ("https://app.example ", ParseOriginError::Host),
        ("http://127.1", ParseOriginError::Host),
        ("http://2130706433", ParseOriginError::Host),
        ("http://0x7f.1", ParseOriginError::Host),
        ("http://127.0.0.01", ParseOriginError::Host),
        ("http://::1", ParseOriginError::Host),
        ("http://[::1", ParseOriginError::Host),
        ("http://[0:0:0:0:0:0:0:1]", ParseOriginError::Host),
        ("http://[::ffff:127.0.0.1]", ParseOriginError::Host),
        ("https://app.example:", ParseOriginError::Port),
        ("https://app.example:0", ParseOriginError::Port),
        ("https://app.example:08443", ParseOriginError::Port),
        ("https://app.example:+8443", ParseOriginError::Port),
        ("https://app.example:65536", ParseOriginError::Port),
        ("https://app.example:443", ParseOriginError::DefaultPort),
        ("http://app.example:80", ParseOriginError::DefaultPort),
    ] {
        assert_eq!(wrong.parse::<Origin>(), Err(why), "{wrong}");
    }
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
