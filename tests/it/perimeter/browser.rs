//! What comes through without authentication, and page tokens.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::BodyExt;
use local_daemon::browser::{Host, PageHost, PageTokens};
use local_daemon::handshake;
use local_daemon::perimeter::{Caller, Guarded};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    AUTHORITY, Endless, KEY, LISTED, ask, authorized, bare, code, daemon, guard, guarded, text, to_daemon,
};

const OWN: &str = "http://127.0.0.1:49152";

/// A daemon that lets browsers in; every path answers with whom the guard let through.
fn with_doors(tokens: &Arc<PageTokens>) -> Guarded<Router> {
    let who = async |axum::Extension(caller): axum::Extension<Caller>| match caller {
        Caller::User => "user".to_owned(),
        Caller::Page { token } => format!("page {token}"),
        _ => "nobody".to_owned(),
    };
    let guard = guard(&daemon()).page_tokens(tokens.clone());
    guard.layer(Router::new().fallback(who))
}

#[tokio::test]
async fn page_token_works_from_its_origin_on_every_route() {
    let tokens = Arc::new(PageTokens::new());
    let service = with_doors(&tokens);
    for (bound, own) in [(OWN, true), (LISTED, false), ("https://gone.example", false)] {
        let token = tokens.issue(bound, SystemTime::now());
        let id = tokens.list().pop().unwrap().id;
        let bearer = format!("Bearer {}", token.expose());
        for (origin, right) in [(None, own), (Some(OWN), own), (Some(LISTED), bound == LISTED)] {
            let headers: Vec<_> = origin.map(|origin| ("origin", origin)).into_iter().collect();
            let by_header = [&headers[..], &[("authorization", &*bearer)]].concat();
            let by_query = format!("/v1/events?topics=note&token={}", token.expose());
            for (target, headers) in [
                ("/v1/status", &by_header),
                (handshake::PATH, &by_header),
                (&by_query, &headers),
            ] {
                let seen = ask(&service, to_daemon("GET", target, headers)).await;
                let expected = if right { 200 } else { 401 };
                assert_eq!(seen.status(), expected, "{bound} {origin:?} {target}");
                let told = right.then_some("acme/1");
                assert_eq!(text(&seen, "local-daemon-protocol"), told);
                if right && target != handshake::PATH {
                    assert_eq!(seen.body(), &format!("page {id}"));
                }
            }
            // PER-25: nowhere but on streams.
            let elsewhere = format!("/v1/status?token={}", token.expose());
            assert_eq!(ask(&service, to_daemon("GET", &elsewhere, &headers)).await.status(), 401);
        }
    }
    let seen = ask(&service, authorized("GET", "/v1/status", &[("origin", LISTED)])).await;
    assert_eq!(seen.body(), "user");
}

#[tokio::test]
async fn doors_are_open_to_those_who_show_nothing_and_come_from_where_they_should() {
    let service = with_doors(&Arc::new(PageTokens::new()));
    let closed = guarded(&guard(&daemon()));
    let wrong = ("authorization", "Bearer x");
    for (method, target, headers, expected) in [
        ("GET", "/", &[][..], 200),
        ("GET", "/", &[wrong], 200),
        ("GET", "/?token=x", &[], 200),
        ("GET", "/", &[("origin", LISTED)], 200),
        ("GET", "/", &[("origin", "null")], 403),
        ("GET", "/", &[("origin", "https://other.example")], 403),
        ("HEAD", "/", &[], 200),
        ("POST", "/", &[], 401),
        ("POST", "/page", &[], 200),
        ("POST", "/page", &[("origin", "null")], 200),
        ("POST", "/page", &[("origin", OWN)], 200),
        ("POST", "/page", &[("origin", LISTED)], 403),
        ("POST", "/page", &[("origin", "http://localhost:49152")], 403),
        ("POST", "/page", &[("origin", "null"), ("origin", "null")], 403),
        ("POST", "/page", &[wrong], 401),
        ("POST", "/page?token=x", &[], 401),
        ("GET", "/page", &[], 401),
        ("GET", "/page", &[("origin", "null")], 403),
        ("POST", "/page/", &[], 401),
        ("POST", "/v1/handoff", &[], 200),
        ("POST", "/v1/handoff", &[("origin", LISTED)], 200),
        ("POST", "/v1/handoff", &[("origin", "null")], 403),
        ("POST", "/v1/handoff", &[wrong], 401),
        ("GET", "/v1/handoff", &[], 401),
        ("POST", "/v1/tickets", &[], 401),
    ] {
        let seen = ask(&service, to_daemon(method, target, headers)).await;
        assert_eq!(seen.status(), expected, "{method} {target} {headers:?}");
        assert_eq!(text(&seen, "local-daemon-protocol"), None);
        if expected == 200 {
            assert_eq!(seen.body(), if method == "HEAD" { "" } else { "nobody" });
            let seen = ask(&closed, to_daemon(method, target, headers)).await;
            assert!(matches!(seen.status().as_u16(), 401 | 403), "without page tokens");
        }
        let seen = ask(&service, bare(method, target, &[("host", "evil.test:49152")])).await;
        assert_eq!(seen.status(), 421);
    }
}

/// BROW-28: whatever the squatter's worker was called, and only once `Host` and `Origin` are right.
#[tokio::test]
async fn service_worker_is_ended() {
    const WORKER: (&str, &str) = ("service-worker", "script");
    let service = with_doors(&Arc::new(PageTokens::new()));
    for target in ["/", "/sw.js", "/v1/status", handshake::PATH] {
        let seen = ask(&service, to_daemon("GET", target, &[WORKER])).await;
        assert_eq!((seen.status().as_u16(), text(&seen, "cache-control")), (200, Some("no-store")));
        assert!(text(&seen, "content-type").unwrap().starts_with("text/javascript"));
        assert!(str::from_utf8(seen.body()).unwrap().contains("registration.unregister()"));
    }
    for (method, headers, expected) in [
        ("GET", &[("host", "evil.test:49152"), WORKER][..], 421),
        ("GET", &[("host", AUTHORITY), ("origin", "https://evil.example"), WORKER], 403),
        ("POST", &[("host", AUTHORITY), WORKER], 401),
        ("GET", &[("host", AUTHORITY), ("service-worker", "x")], 401),
    ] {
        assert_eq!(ask(&service, bare(method, "/sw.js", headers)).await.status(), expected);
    }
}

#[tokio::test]
async fn stream_ends_when_its_token_is_revoked() {
    let tokens = Arc::new(PageTokens::new());
    let service = guard(&daemon()).page_tokens(tokens.clone()).layer(
        Router::new()
            .route("/v1/events", get(async || Body::new(Endless(Some(Bytes::from_static(b"word")))))),
    );
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let token = tokens.issue(OWN, SystemTime::now());
        let target = format!("/v1/events?token={}", token.expose());
        let answer = service.clone().call(to_daemon("GET", &target, &[])).await.unwrap();
        let mut body = answer.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "word");
        bodies.push(body);
    }
    assert!(tokens.revoke(&tokens.list()[0].id));
    assert!(bodies[0].frame().await.is_none());
    let mut frame = Box::pin(bodies[1].frame());
    let mut context = Context::from_waker(Waker::noop());
    assert!(frame.as_mut().poll(&mut context).is_pending());
}

/// BROW-37, BROW-38, PER-12.
#[tokio::test]
async fn page_host_serves_the_page_alone() {
    let (daemon, tokens) = (daemon(), Arc::new(PageTokens::new()));
    let host = format!("{}:49152", daemon.page_host.expose());
    let own = format!("http://{host}");
    let service = guard(&daemon).page_tokens(tokens.clone()).layer(
        Router::new().fallback(async |axum::Extension(host): axum::Extension<Host>| format!("{host:?}")),
    );
    let token = tokens.issue(&own, SystemTime::now());
    let by_token = format!("Bearer {}", token.expose());
    let by_key = format!("Bearer {KEY}");
    let (by_token, by_key) = (("authorization", &*by_token), ("authorization", &*by_key));
    let stream = format!("/v1/events?token={}", token.expose());
    let stream_by_key = format!("/v1/events?token={KEY}");
    for (method, target, headers, expected) in [
        ("GET", "/v1/status", &[by_token][..], 200),
        ("POST", "/v1/status", &[by_token, ("origin", &*own)], 200),
        ("GET", &*stream, &[], 200),
        ("GET", "/v1/status", &[by_key], 401),
        ("GET", &*stream_by_key, &[], 401),
        ("GET", "/v1/status", &[], 401),
        ("GET", "/", &[], 200),
        ("POST", "/page", &[("origin", "null")], 200),
        ("GET", "/v1/status", &[by_token, ("origin", OWN)], 403),
        ("GET", handshake::PATH, &[by_token], 421),
        ("GET", handshake::PATH, &[by_key], 421),
        ("GET", handshake::PATH, &[("service-worker", "script")], 421),
        ("POST", handshake::PATH, &[("origin", "null")], 421),
        ("OPTIONS", handshake::PATH, &[("origin", LISTED), ("access-control-request-method", "GET")], 421),
    ] {
        let seen = ask(&service, bare(method, target, &[&[("host", &*host)], headers].concat())).await;
        assert_eq!(seen.status(), expected, "{method} {target} {headers:?}");
        if expected == 200 {
            assert_eq!(seen.body(), "Page");
        }
    }
    let elsewhere = to_daemon("GET", "/v1/status", &[("origin", &*own), by_token]);
    assert_eq!(ask(&service, elsewhere).await.status(), 403);
    assert_eq!(ask(&service, to_daemon("GET", "/v1/status", &[by_token])).await.status(), 401);
    // Host and target must agree on whether they name the page host.
    for (target, host) in [(&*host, AUTHORITY), (AUTHORITY, &*host)] {
        let target = format!("http://{target}/v1/status");
        let seen = ask(&service, bare("GET", &target, &[("host", host), by_key])).await;
        assert_eq!(seen.status(), 421, "{target} {host}");
    }
    assert!(!format!("{:?}", daemon.page_host).contains(&daemon.page_host.expose()[..8]));
}

/// BROW-43: the reload of a tab from an earlier launch.
#[tokio::test]
async fn former_page_host_gets_a_page() {
    let service = with_doors(&Arc::new(PageTokens::new()));
    let former = PageHost::fresh();
    let host = |port: u16| format!("{}:{port}", former.expose());
    let html = [("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")];
    for (host, headers, is_page) in [
        (host(49152), &html[..], true),
        (host(49152), &[("accept", "*/*")], false),
        (host(49152), &[], false),
        (host(49153), &html, false),
        (former.expose().to_owned(), &html, false),
        (host(49152).replace(".localhost", ".localhost."), &html, false),
        (host(49152).to_uppercase(), &html, false),
        (host(49152)[1..].to_owned(), &html, false),
        (format!("x.{}", host(49152)), &html, false),
        ("foo.localhost:49152".to_owned(), &html, false),
    ] {
        for target in ["/", "/v1/status", handshake::PATH] {
            let seen = ask(&service, bare("GET", target, &[&[("host", &*host)], headers].concat())).await;
            assert_eq!(seen.status(), 421, "{host} {target}");
            if is_page {
                assert_eq!(text(&seen, "content-type"), Some("text/html; charset=utf-8"));
                assert_eq!(text(&seen, "clear-site-data"), Some("\"cache\""));
                assert!(seen.body().windows(22).any(|part| part == b"<code>acme open</code>"));
            } else {
                assert_eq!(code(&seen), "misdirected", "{host}");
            }
        }
    }
    let closed = guarded(&guard(&daemon()));
    let seen = ask(&closed, bare("GET", "/", &[&[("host", &*host(49152))], &html[..]].concat())).await;
    assert_eq!(code(&seen), "misdirected");
}
