//! The readers decide as `spec/vectors/` says; each test walks one file.

use local_daemon_proto::handshake::{self, Nonce};
use local_daemon_proto::{Credential, LoopbackUrl, Protocol, Registration, json, registration};
use local_daemon_spec::vectors::{bytes, cases, text};
use serde_json::Value;

/// Runs `decide` on the cases of `kind` (all if there are no kinds) and reports every wrong decision at once. Fails if there
/// is no such case, so that no test passes by reading nothing.
fn walk(file: &str, kind: Option<&str>, decide: impl Fn(&Value) -> bool) {
    let mut walked = 0;
    let wrong: Vec<_> = cases(file)
        .into_iter()
        .filter(|case| kind.is_none_or(|kind| text(case, "kind") == kind))
        .inspect(|_| walked += 1)
        .filter(|case| decide(case) != case["accept"].as_bool().unwrap())
        .map(|case| format!("{}: {}", text(&case, "name"), text(&case, "why")))
        .collect();
    assert!(walked > 0, "no case of kind {kind:?} in {file}");
    assert!(wrong.is_empty(), "decided otherwise than {file}:\n{}", wrong.join("\n"));
}

#[test]
fn records() {
    walk("records", None, |case| Registration::parse(&bytes(case, "input")).is_ok());
}

#[test]
fn notes() {
    walk("notes", None, |case| json::check(&bytes(case, "input")).is_ok());
}

#[test]
fn urls() {
    walk("urls", None, |case| match text(case, "input").parse::<LoopbackUrl>() {
        Ok(url) => {
            assert_eq!(url.to_string(), text(case, "input"), "written as it was read");
            assert_eq!(url.authority(), text(case, "authority"));
            true
        }
        Err(_) => false,
    });
}

#[test]
fn credentials() {
    walk("credentials", None, |case| {
        let bytes = bytes(case, "input");
        // The bound is the file's, not the text's.
        bytes.len() <= registration::MAX_BYTES && Credential::parse(&bytes).is_ok()
    });
}

#[test]
fn protocol_identifiers() {
    walk("protocols", Some("identifier"), |case| text(case, "input").parse::<Protocol>().is_ok());
}

#[test]
fn gate() {
    walk("protocols", Some("gate"), |case| {
        let ours: Protocol = text(case, "ours").parse().unwrap();
        let theirs: Protocol = text(case, "theirs").parse().unwrap();
        let may = case["may_displace"].as_bool().unwrap();
        assert_eq!(ours.may_displace(&theirs), may, "{}", text(case, "name"));
        ours.accepts(&theirs)
    });
}

fn nonce(case: &Value) -> Nonce {
    // Any valid header text brings a nonce in: the type has no other way from text.
    let header = format!("Local-Daemon-Proof nonce=\"{0}\", mac=\"{0}\"", text(case, "nonce"));
    handshake::parse_authorization(&header).expect("the vector's nonce is one").0
}

fn credential(case: &Value) -> Credential {
    Credential::parse(text(case, "credential").as_bytes()).unwrap()
}

fn daemon_header(case: &Value) -> String {
    handshake::answer(handshake::daemon_code(
        &credential(case),
        text(case, "authority"),
        nonce(case),
        &bytes(case, "body"),
    ))
}

fn client_header(case: &Value) -> String {
    let code = handshake::client_code(&credential(case), text(case, "authority"), nonce(case));
    handshake::authorization(nonce(case), code)
}

#[test]
fn proof_codes() {
    walk("proof", Some("mac"), |case| {
        assert_eq!(daemon_header(case), format!("\"{}\"", text(case, "daemon_mac")));
        let expected = format!(
            "Local-Daemon-Proof nonce=\"{}\", mac=\"{}\"",
            text(case, "nonce"),
            text(case, "client_mac")
        );
        assert_eq!(client_header(case), expected);
        true
    });
    walk("proof", Some("verify-client"), |case| {
        client_header(case).ends_with(&format!("mac=\"{}\"", text(case, "mac")))
    });
    walk("proof", Some("verify-daemon"), |case| daemon_header(case) == format!("\"{}\"", text(case, "mac")));
}

#[test]
fn proof_headers() {
    walk("proof", Some("authorization"), |case| {
        handshake::parse_authorization(text(case, "input")).is_some()
    });
    walk("proof", Some("answer"), |case| {
        // More than one header is the exchange's business: it gives none of them to the parser.
        let values = case["values"].as_array().unwrap();
        values.len() == 1 && handshake::parse_answer(values[0].as_str().unwrap()).is_some()
    });
}
