//! The handshake, which the guard answers itself.

use http::StatusCode;
use local_daemon::handshake::{Handshake, Nonce, State};
use local_daemon::{Credential, handshake};
use serde_json::{Value, json};

use super::{
    AUTHORITY, PROOF, PROVEN, ask, ask_new, assert_anonymous, authorized, bare, code, daemon, guard, guarded,
    key, text, to_daemon,
};

#[tokio::test]
async fn handshake_answers_a_proof_with_one_over_its_own_body() {
    let daemon = daemon();
    let service = guarded(&guard(&daemon));
    let request = || to_daemon("GET", handshake::PATH, &[("authorization", PROOF)]);
    let response = ask(&service, request()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(&response, "content-type"), Some("application/json"));
    assert_eq!(text(&response, "cache-control"), Some("no-store"));
    // The code that the chapter prints for the body that it prints: not one byte is another.
    assert_eq!(text(&response, "local-daemon-proof"), Some(PROVEN));
    let body: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(
        body,
        json!({"spec": "local-daemon/1", "protocol": "acme/1", "id": "5f0c2a9be17d4836a1c04f9d2e6b8370",
               "pid": 4242, "version": "2.3.0", "state": "ready", "capabilities": ["events"]})
    );
    // Nonces are not remembered: the same request again gets the same answer, and nothing else.
    assert_eq!(text(&ask(&service, request()).await, "local-daemon-proof"), Some(PROVEN));

    *daemon.state.lock().unwrap() = State::Draining;
    let draining = ask(&service, request()).await;
    assert_eq!(draining.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text(&draining, "retry-after"), Some("1"));
    assert_eq!(Handshake::parse(draining.body()).unwrap().state, State::Draining);
    let (nonce, _) = handshake::parse_authorization(PROOF).unwrap();
    let expected = handshake::answer(handshake::daemon_code(&key(), AUTHORITY, nonce, draining.body()));
    assert_eq!(text(&draining, "local-daemon-proof"), Some(&*expected));
    assert_ne!(expected, PROVEN);
}

#[tokio::test]
async fn handshake_refuses_every_other_proof() {
    let nonce = Nonce::from_bytes([9; 32]);
    let of = |key: &Credential, authority: &str| {
        handshake::authorization(nonce, handshake::client_code(key, authority, nonce))
    };
    let good = of(&key(), AUTHORITY);
    let replayed_answer =
        handshake::authorization(nonce, handshake::daemon_code(&key(), AUTHORITY, nonce, b""));
    let wrong = [
        of(&Credential::from_bytes([1; 32]), AUTHORITY),
        of(&key(), "127.0.0.1:49153"),
        of(&key(), "localhost:49152"),
        of(&key(), "[::1]:49152"),
        of(&key(), "unix:daemon.sock"),
        replayed_answer,
        good.replace("mac=\"", "mac=\"A"),
        good[..good.len() - 1].to_owned(),
        good.split(", ").next().unwrap().to_owned(),
        format!("{good}, {}", good.split(", ").nth(1).unwrap()),
        "Local-Daemon-Proof nonce=\"\", mac=\"\"".to_owned(),
    ];
    for authorization in &wrong {
        // The request's Host may be localhost: what counts is the authority under the code.
        for host in [AUTHORITY, "localhost:49152"] {
            let headers = [("host", host), ("authorization", authorization)];
            let response = ask_new(bare("GET", handshake::PATH, &headers)).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{authorization}");
            assert_eq!(text(&response, "local-daemon-proof"), None);
            assert_anonymous(&response);
        }
    }
    for host in [AUTHORITY, "localhost:49152"] {
        let response =
            ask_new(bare("GET", handshake::PATH, &[("host", host), ("authorization", &good)])).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn handshake_takes_a_bearer_and_then_proves_nothing() {
    let response = ask_new(authorized("GET", handshake::PATH, &[])).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(Handshake::parse(response.body()).is_ok());
    assert_eq!(text(&response, "local-daemon-proof"), None);
    assert_eq!(text(&response, "local-daemon-protocol"), Some("acme/1"));
}

#[tokio::test]
async fn handshake_is_a_get_and_always_json() {
    for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
        let response = ask_new(authorized(method, handshake::PATH, &[])).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(code(&response), "method_not_allowed");
        assert_eq!(text(&response, "allow"), Some("GET"));
    }
    let headers = [("authorization", PROOF), ("accept", "text/plain")];
    let response = ask_new(to_daemon("GET", handshake::PATH, &headers)).await;
    assert_eq!(text(&response, "local-daemon-proof"), Some(PROVEN));
    assert_eq!(text(&response, "content-type"), Some("application/json"));
}
