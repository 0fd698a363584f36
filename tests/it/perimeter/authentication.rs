//! Who is let in.

use std::task::{Context, Waker};

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use local_daemon::{Credential, handshake};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    Endless, KEY, PROOF, ask, ask_new, assert_anonymous, authorized, code, daemon, guard, guarded, text,
    to_daemon,
};

#[tokio::test]
async fn wrong_or_missing_authentication_is_401() {
    let bearer = |text: &str| format!("Bearer {text}");
    let wrong: &[&[String]] = &[
        &[],
        &[String::new()],
        &["Bearer".to_owned()],
        &[bearer("")],
        &[bearer(&KEY[..42])],
        &[bearer(&KEY.to_lowercase())],
        &[bearer(&format!("{KEY}="))],
        &[format!("Bearer\t{KEY}")],
        &[format!("Bearer{KEY}")],
        &[bearer("  ")],
        &[bearer(&format!("{KEY} x"))],
        &[bearer(&KEY.replacen('A', "B", 1))],
        &[KEY.to_owned()],
        &[format!("Basic {KEY}")],
        &[bearer(KEY), bearer(KEY)],
        &[bearer("x"), bearer(KEY)],
        &[PROOF.to_owned()],
        &[PROOF.to_owned(), bearer(KEY)],
    ];
    for authorizations in wrong {
        let headers: Vec<_> = authorizations.iter().map(|value| ("authorization", &**value)).collect();
        // PROOF is good for the handshake, and only there.
        for (method, path) in [
            ("GET", "/v1/status"),
            ("POST", "/v1/events"),
            ("POST", handshake::PATH),
        ] {
            let response = ask_new(to_daemon(method, path, &headers)).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{authorizations:?}");
            assert_eq!(code(&response), "unauthorized");
            assert_eq!(
                text(&response, "www-authenticate"),
                Some("Bearer realm=\"local-daemon\", Local-Daemon-Proof")
            );
            assert_anonymous(&response);
        }
    }
    for right in ["bEARER ", "Bearer  ", "Bearer     "] {
        let right = to_daemon("GET", "/v1/status", &[("authorization", &format!("{right}{KEY}"))]);
        assert_eq!(ask_new(right).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn rotated_credential_replaces_the_old_one_at_once() {
    let daemon = daemon();
    let service = guarded(&guard(&daemon));
    assert_eq!(ask(&service, authorized("GET", "/v1/status", &[])).await.status(), StatusCode::OK);
    let new = Credential::from_bytes([7; 32]);
    daemon.credential.send_replace(new.clone());
    assert_eq!(ask(&service, authorized("GET", "/v1/status", &[])).await.status(), StatusCode::UNAUTHORIZED);
    let bearer = format!("Bearer {}", new.expose().as_str());
    let request = to_daemon("GET", "/v1/status", &[("authorization", &bearer)]);
    assert_eq!(ask(&service, request).await.status(), StatusCode::OK);
}

/// CRED-16.
#[tokio::test]
async fn rotation_ends_what_the_old_credential_opened() {
    let daemon = daemon();
    let stream = get(async || Body::new(Endless(Some(Bytes::from_static(b"word")))));
    let service = guard(&daemon).layer(Router::new().route("/v1/events", stream));
    let open = |bearer: &str| {
        let bearer = format!("Bearer {bearer}");
        let request = to_daemon("GET", "/v1/events", &[("authorization", &bearer)]);
        let answer = service.clone().call(request);
        async { answer.await.unwrap().into_body() }
    };
    let mut before = open(KEY).await;
    assert_eq!(before.frame().await.unwrap().unwrap().into_data().unwrap(), "word");
    let new = Credential::from_bytes([7; 32]);
    daemon.credential.send_replace(new.clone());
    assert!(before.frame().await.is_none());
    let mut after = open(&new.expose()).await;
    assert_eq!(after.frame().await.unwrap().unwrap().into_data().unwrap(), "word");
    let mut context = Context::from_waker(Waker::noop());
    assert!(Box::pin(after.frame()).as_mut().poll(&mut context).is_pending());
}

/// CRED-17: the answer may contain a ticket that the route issued after the rotation.
#[tokio::test]
async fn answer_to_a_request_from_before_a_rotation_is_withheld() {
    let daemon = daemon();
    let rotating = daemon.clone();
    let issue = post(async move || {
        rotating.credential.send_replace(Credential::from_bytes([7; 32]));
        "a new ticket"
    });
    let service = guard(&daemon).layer(Router::new().route("/v1/tickets", issue));
    let answer = ask(&service, authorized("POST", "/v1/tickets", &[])).await;
    assert_eq!((answer.status(), code(&answer)), (StatusCode::UNAUTHORIZED, "unauthorized".to_owned()));
    assert!(text(&answer, "www-authenticate").is_some());
    assert_anonymous(&answer);
}

#[tokio::test]
async fn inner_service_does_not_print_the_credential_with_its_headers() {
    let response = ask_new(authorized("GET", "/headers", &[])).await;
    let seen = str::from_utf8(response.body()).unwrap();
    assert!(seen.contains("authorization") && !seen.contains(KEY), "{seen}");
}
