//! The proof's two headers: read as the independent subject and the suite read them.

use local_daemon_harness::proof as suite;
use local_daemon_proto::handshake;
use local_daemon_spec::vectors::text;
use local_daemon_subject::readers;

use crate::{Seed, vectors};

/// Reads a text as the value of either header.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let read = handshake::parse_authorization(text);
    let theirs = readers::proof(text);
    let suites = suite::parse_authorization(text);
    assert_eq!(read.is_some(), theirs.is_some(), "the subject reads {theirs:?}");
    assert_eq!(read.is_some(), suites.is_some(), "the suite reads {suites:?}");
    if let (Some((nonce, code)), Some((their_nonce, _)), Some(suites)) = (read, theirs, suites) {
        let written = handshake::authorization(nonce, code);
        assert_eq!(
            written,
            format!("{} nonce=\"{}\", mac=\"{}\"", handshake::SCHEME, suites.nonce, suites.mac)
        );
        assert_eq!(their_nonce, suites.nonce);
        assert_eq!(handshake::parse_authorization(&written), Some((nonce, code)));
    }
    let answer = handshake::parse_answer(text);
    assert_eq!(answer.is_some(), suite::parse_daemon_proof(text).is_some());
    if let Some(code) = answer {
        assert_eq!(handshake::answer(code), text, "there is one way to write it");
    }
}

/// The vectors.
pub fn seeds() -> Vec<Seed> {
    vectors::seeds("proof", |case| match text(case, "kind") {
        "authorization" => Some(text(case, "input").into()),
        "answer" => Some(case["values"][0].as_str()?.into()),
        _ => None,
    })
}
