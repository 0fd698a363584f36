//! The suite's own parsers decide every test vector as the specification does.

use local_daemon_harness::http::is_protocol;
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::record::{Record, Url, parse_credential};
use local_daemon_spec::vectors::{bytes, cases, text};
use serde_json::Value;

/// Every case of these vectors is decided as it says.
fn decide(name: &str, accepts: impl Fn(&Value) -> bool) {
    let wrong: Vec<Value> = cases(name)
        .into_iter()
        .filter(|case| accepts(case) != case["accept"].as_bool().unwrap())
        .collect();
    assert!(wrong.is_empty(), "{name}: {wrong:#?}");
}

#[test]
fn records() {
    decide("records", |case| Record::parse(&bytes(case, "input")).is_ok());
}

#[test]
fn urls() {
    decide("urls", |case| match Url::parse(text(case, "input")) {
        Some(url) => {
            assert_eq!(url.authority(), text(case, "authority"), "{case}");
            true
        }
        None => false,
    });
}

#[test]
fn credentials() {
    decide("credentials", |case| match parse_credential(&bytes(case, "input")) {
        Some(credential) => {
            assert_eq!(proof::hex(credential.bytes()), text(case, "bytes_hex"), "{case}");
            true
        }
        None => false,
    });
}

#[test]
fn protocol_identifiers() {
    decide("protocols", |case| match text(case, "kind") {
        "identifier" => is_protocol(text(case, "input")),
        "gate" => text(case, "ours") == text(case, "theirs"),
        kind => panic!("unknown kind {kind}"),
    });
}

#[test]
fn proofs() {
    decide("proof", |case| {
        let field = |name| text(case, name);
        let credential = || Credential::from_text(field("credential")).unwrap();
        let client = || proof::client_mac(&credential(), field("authority"), field("nonce"));
        let daemon =
            || proof::daemon_mac(&credential(), field("authority"), field("nonce"), &bytes(case, "body"));
        match field("kind") {
            "mac" => client() == field("client_mac") && daemon() == field("daemon_mac"),
            "verify-client" => client() == field("mac"),
            "verify-daemon" => daemon() == field("mac"),
            "authorization" => match proof::parse_authorization(field("input")) {
                Some(parsed) => parsed.nonce == field("nonce") && parsed.mac == field("mac"),
                None => false,
            },
            "answer" => {
                let values: Vec<&str> =
                    case["values"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
                matches!(values[..], [value] if proof::parse_daemon_proof(value).is_some())
            }
            kind => panic!("unknown kind {kind}"),
        }
    });
}
