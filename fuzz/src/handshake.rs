//! The body of a handshake: the crate reads what the suite reads, member by member.

use local_daemon_harness::http;
use local_daemon_proto::handshake::{Handshake, SPEC, State};
use local_daemon_proto::registration::{MAX_BYTES, ParseRegistrationError};
use local_daemon_spec::vectors::{bytes, text};
use serde_json::{Map, Value};

use crate::{Seed, vectors};

/// Reads bytes as the body of a handshake.
pub fn run(data: &[u8]) {
    let read = Handshake::parse(data);
    let suites = http::Handshake::parse(data);
    let is_ours = suites.as_ref().is_ok_and(|suites| suites.spec == SPEC);
    assert_eq!(read.is_ok(), is_ours, "{read:?}, by the suite {suites:?}");
    if suites.is_ok() && !is_ours {
        assert_eq!(read, Err(ParseRegistrationError::Spec), "GATE-7");
    }
    let (Ok(read), Ok(suites)) = (read, suites) else {
        return;
    };
    assert!(data.len() <= MAX_BYTES);
    let state = match read.state {
        State::Ready => "ready",
        State::Draining => "draining",
    };
    let same = http::Handshake {
        spec: SPEC.to_owned(),
        protocol: read.protocol.to_string(),
        id: read.id.to_string(),
        pid: i32::try_from(read.pid.get()).expect("a process id"),
        version: read.version.clone(),
        state: state.to_owned(),
        capabilities: read.capabilities.clone(),
    };
    assert_eq!(same, suites);
    assert_eq!(Handshake::parse(&read.to_bytes()), Ok(read), "it is read as it was written");
}

/// The bodies of the vectors, one for each protocol identifier, and one without each member.
pub fn seeds() -> Vec<Seed> {
    let bodies = vectors::seeds("proof", |case| (text(case, "kind") == "mac").then(|| bytes(case, "body")));
    let protocols = vectors::seeds("protocols", |case| {
        let protocol = case["input"].as_str()?;
        Some(crate::answer::body(protocol).into_bytes())
    });
    let whole: Map<String, Value> = serde_json::from_str(&crate::answer::body("acme/1")).expect("it is JSON");
    let without = whole.keys().map(|member| {
        let mut body = whole.clone();
        body.remove(member);
        (format!("without-{member}"), Value::Object(body).to_string().into_bytes())
    });
    [bodies, protocols, without.collect()].concat()
}
