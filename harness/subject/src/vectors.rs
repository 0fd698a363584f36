//! The subject decides the specification's test vectors as they say.

use local_daemon_spec::vectors::{bytes, cases, text};
use serde_json::Value;

use crate::credential::{Credential, decode_32};
use crate::gate::protocol;
use crate::handshake::{Body, Claim};
use crate::notes::is_read_alike;
use crate::perimeter::{Origin, host, is_origin, origin};
use crate::registration::{Record, authority};
use crate::request::Request;

fn agrees(case: &Value, accepted: bool) {
    assert_eq!(accepted, case["accept"].as_bool().unwrap(), "{}: {}", case["name"], case["why"]);
}

fn credential(case: &Value) -> Credential {
    Credential::parse(text(case, "credential").as_bytes()).unwrap()
}

#[test]
fn records_urls_and_credentials() {
    // The bound of 64 KiB is the file's, not the content's.
    let short = |case: &Value| case["pad_to"].as_u64().is_none_or(|length| length <= 64 * 1024);
    for case in cases("records").iter().filter(|case| short(case)) {
        agrees(case, Record::parse(&bytes(case, "input")).is_ok());
    }
    for case in cases("urls") {
        let url = text(&case, "input");
        agrees(&case, authority(url).is_some());
        if let Some(expected) = case["authority"].as_str() {
            assert_eq!(authority(url), Some(expected));
        }
    }
    for case in cases("credentials").iter().filter(|case| short(case)) {
        let credential = Credential::parse(&bytes(case, "input"));
        agrees(case, credential.is_some());
        if let Some(credential) = credential {
            assert_eq!(super::state_directory::hex(credential.key()), text(case, "bytes_hex"));
        }
    }
}

#[test]
fn proofs() {
    for case in cases("proof") {
        match text(&case, "kind") {
            "mac" => {
                let claim = Claim::of(&credential(&case), text(&case, "authority"), text(&case, "nonce"));
                assert!(claim.header().contains(text(&case, "client_mac")), "{case}");
                let answer =
                    claim.answer(&credential(&case), text(&case, "authority"), &bytes(&case, "body"));
                assert_eq!(answer, format!("\"{}\"", text(&case, "daemon_mac")), "{case}");
            }
            "verify-client" => {
                let mac = decode_32(text(&case, "mac").as_bytes());
                let holds = |mac| {
                    let nonce = text(&case, "nonce").to_owned();
                    Claim { nonce, mac, given: 32 }.holds(&credential(&case), text(&case, "authority"))
                };
                agrees(&case, mac.is_some_and(holds));
            }
            "verify-daemon" => {
                let claim = Claim::of(&credential(&case), text(&case, "authority"), text(&case, "nonce"));
                let header = format!("\"{}\"", text(&case, "mac"));
                let proven = claim.is_answered(
                    &credential(&case),
                    text(&case, "authority"),
                    &[&header],
                    &bytes(&case, "body"),
                );
                agrees(&case, proven);
            }
            "authorization" => agrees(&case, Claim::parse(text(&case, "input")).is_some()),
            "answer" => {
                let values: Vec<&str> =
                    case["values"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
                let one = if let [one] = values[..] { super::handshake::answered_mac(one) } else { None };
                agrees(&case, one.is_some());
            }
            _ => {}
        }
    }
}

#[test]
fn protocols() {
    for case in cases("protocols").iter().filter(|case| case["kind"] == "identifier") {
        agrees(case, protocol(text(case, "input")).is_some());
    }
}

#[test]
fn notes() {
    for case in cases("notes") {
        let body = bytes(&case, "input");
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
        agrees(&case, is_json && std::str::from_utf8(&body).is_ok_and(is_read_alike));
    }
}

#[test]
fn a_body_is_read_as_it_was_written() {
    let body = Body {
        spec: "local-daemon/1".to_owned(),
        protocol: "acme/1".to_owned(),
        id: "0".repeat(32),
        pid: 7,
        version: "1".to_owned(),
        ready: false,
        capabilities: vec!["events".to_owned()],
    };
    assert_eq!(Body::parse(&body.to_json()), Some(body));
}

/// A request of this target and these headers, all of one name.
fn request(target: &str, name: &str, values: &Value, more: &str) -> Vec<u8> {
    let mut lines = String::new();
    for value in values.as_array().unwrap() {
        lines.extend([name, ": ", value.as_str().unwrap(), "\r\n"]);
    }
    format!("GET {target} HTTP/1.1\r\n{lines}{more}\r\n").into_bytes()
}

#[test]
fn hosts_and_origins() {
    for case in cases("hosts") {
        let bytes = request(text(&case, "target"), "Host", &case["hosts"], "");
        let judged = Request::parse(&bytes).and_then(|parsed| {
            let (request, _) = parsed.expect("the head is whole");
            host(&request, u16::try_from(case["port"].as_u64().unwrap()).unwrap(), None, true).map(drop)
        });
        agrees(&case, judged.is_ok());
        if let Err(refusal) = judged {
            assert!(case["statuses"].as_array().unwrap().contains(&refusal.0.into()), "{case}");
        }
    }
    for case in cases("origins") {
        if case["kind"] == "entry" {
            agrees(&case, is_origin(text(&case, "input")));
            continue;
        }
        let host = format!("Host: {}\r\n", text(&case, "host"));
        let bytes = request("/", "Origin", &case["origins"], &host);
        let (request, _) = Request::parse(&bytes).unwrap().unwrap();
        let listed = |origin: &str| case["allowlist"].as_array().unwrap().contains(&origin.into());
        let decision = match origin(&request, text(&case, "host").as_bytes(), listed) {
            Ok(Origin::Absent) => "absent",
            Ok(Origin::Same) => "same",
            Ok(Origin::Listed(_)) => "listed",
            Err(_) => "refused",
        };
        assert_eq!(decision, text(&case, "decision"), "{}: {}", case["name"], case["why"]);
        agrees(&case, decision != "refused");
    }
}
