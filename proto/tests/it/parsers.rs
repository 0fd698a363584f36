//! What others wrote, read: round trips, and never a panic on any bytes.

use std::num::NonZeroU32;

use local_daemon_proto::handshake::{self, Handshake, Nonce, State};
use local_daemon_proto::registration::World;
use local_daemon_proto::{ClaimId, Credential, LoopbackUrl, Protocol, Registration};
use proptest::prelude::*;

fn texts() -> impl Strategy<Value = String> {
    // Quotes, escapes, control characters and characters outside the basic plane among them.
    proptest::collection::vec(any::<char>(), 0..40).prop_map(|chars| chars.into_iter().collect())
}

fn pids() -> impl Strategy<Value = NonZeroU32> {
    (1..=i32::MAX.unsigned_abs()).prop_map(|pid| NonZeroU32::new(pid).unwrap())
}

fn urls() -> impl Strategy<Value = LoopbackUrl> {
    (
        prop_oneof![Just("127.0.0.1"), Just("[::1]"), Just("localhost")],
        1..=u16::MAX,
        prop_oneof![Just(""), Just("/")],
    )
        .prop_map(|(host, port, slash)| format!("http://{host}:{port}{slash}").parse().unwrap())
}

fn protocols() -> impl Strategy<Value = Protocol> {
    ("[a-z0-9][a-z0-9._-]{0,63}", 1..=i32::MAX).prop_map(|(name, n)| format!("{name}/{n}").parse().unwrap())
}

fn worlds() -> impl Strategy<Value = World> {
    let member = || proptest::option::of(texts().prop_map(Into::into));
    (member(), member(), member(), member()).prop_map(|(host, boot, netns, pidns)| World {
        host,
        boot,
        netns,
        pidns,
    })
}

prop_compose! {
    fn records()(
        id: u128, version in texts(), url in urls(), pid in pids(),
        protocol in proptest::option::of(texts()), socket in proptest::option::of(texts()),
        started_at in proptest::option::of(texts()), world in worlds(),
    ) -> Registration {
        Registration { id: ClaimId::from_bits(id), version, url, pid, protocol, socket, started_at, world }
    }
}

prop_compose! {
    fn handshakes()(
        id: u128, version in texts(), pid in pids(), protocol in protocols(), ready: bool,
        capabilities in proptest::collection::vec(texts(), 0..4),
    ) -> Handshake {
        let state = if ready { State::Ready } else { State::Draining };
        Handshake { id: ClaimId::from_bits(id), version, pid, protocol, state, capabilities }
    }
}

/// Bytes that come close to what a parser takes: a good text with some of its bytes changed.
fn damaged(good: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (good, edits).prop_map(|(mut bytes, edits)| {
        for (index, byte) in edits {
            if !bytes.is_empty() {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn a_record_is_read_as_it_was_written(record in records()) {
        let bytes = record.to_bytes();
        prop_assert_eq!(Registration::id_of(&bytes), Some(record.id));
        prop_assert_eq!(Registration::parse(&bytes), Ok(record));
    }

    #[test]
    fn a_handshake_is_read_as_it_was_written(handshake in handshakes()) {
        prop_assert_eq!(Handshake::parse(&handshake.to_bytes()), Ok(handshake));
    }

    /// Whatever is accepted says what it says: writing it again gives a record with the same meaning.
    #[test]
    fn a_damaged_record_is_refused_or_means_what_it_says(bytes in damaged(records().prop_map(|record| record.to_bytes()))) {
        if let Ok(record) = Registration::parse(&bytes) {
            prop_assert_eq!(Registration::parse(&record.to_bytes()), Ok(record));
        }
    }

    #[test]
    fn a_damaged_handshake_never_panics(bytes in damaged(handshakes().prop_map(|handshake| handshake.to_bytes()))) {
        let _ = Handshake::parse(&bytes);
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, text in texts()) {
        let _ = (Registration::parse(&bytes), Registration::id_of(&bytes), Handshake::parse(&bytes));
        let _ = (Credential::parse(&bytes), text.parse::<LoopbackUrl>(), text.parse::<Protocol>());
        let _ = (text.parse::<ClaimId>(), handshake::parse_authorization(&text), handshake::parse_answer(&text));
    }

    #[test]
    fn a_url_is_accepted_by_its_text_alone(url in urls(), noise in "[ \\t\\n/:@.?#%0-9a-zA-Z\\[\\]-]{1,4}", at: prop::sample::Index) {
        let text = url.to_string();
        prop_assert_eq!(text.parse::<LoopbackUrl>(), Ok(url));
        let mut changed = text.clone();
        changed.insert_str(at.index(text.len() + 1), &noise);
        // What is still accepted is one of the accepted texts, letter by letter.
        if let Ok(other) = changed.parse::<LoopbackUrl>() {
            prop_assert_eq!(other.to_string(), changed);
        }
    }

    #[test]
    fn a_proof_is_read_as_it_was_written_and_is_good_for_nothing_else(
        key: [u8; 32], other_key: [u8; 32], nonce: [u8; 32], port in 1..u16::MAX, body: Vec<u8>,
    ) {
        prop_assume!(key != other_key);
        let (credential, other) = (Credential::from_bytes(key), Credential::from_bytes(other_key));
        let nonce = Nonce::from_bytes(nonce);
        let (here, there) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", port + 1));
        let code = handshake::client_code(&credential, &here, nonce);
        let read = handshake::parse_authorization(&handshake::authorization(nonce, code)).unwrap();
        prop_assert_eq!(read, (nonce, code));
        prop_assert_ne!(code, handshake::client_code(&credential, &there, nonce));
        prop_assert_ne!(code, handshake::client_code(&other, &here, nonce));
        let answer = handshake::daemon_code(&credential, &here, nonce, &body);
        prop_assert_eq!(handshake::parse_answer(&handshake::answer(answer)), Some(answer));
        prop_assert_ne!(answer, code);
        let mut longer = body.clone();
        longer.push(0);
        prop_assert_ne!(answer, handshake::daemon_code(&credential, &here, nonce, &longer));
    }

    /// A header that is still accepted after a change says the same when it is written again.
    #[test]
    fn a_damaged_proof_is_refused_or_means_what_it_says(
        key: [u8; 32], nonce: [u8; 32], edit: (prop::sample::Index, char),
    ) {
        let (credential, nonce) = (Credential::from_bytes(key), Nonce::from_bytes(nonce));
        let good = handshake::authorization(nonce, handshake::client_code(&credential, "127.0.0.1:1", nonce));
        let at = edit.0.index(good.len());
        let mut changed = good.clone();
        changed.replace_range(at..=at, &edit.1.to_string());
        if let Some((nonce, code)) = handshake::parse_authorization(&changed) {
            let again = handshake::authorization(nonce, code);
            prop_assert_eq!(handshake::parse_authorization(&again), Some((nonce, code)));
            prop_assert!(again.eq_ignore_ascii_case(&changed) || edit.1.is_ascii_whitespace(), "{changed}");
        }
    }

    #[test]
    fn a_protocol_is_its_text(protocol in protocols()) {
        prop_assert_eq!(protocol.to_string().parse::<Protocol>(), Ok(protocol));
    }

    #[test]
    fn a_credential_is_its_text(key: [u8; 32]) {
        let credential = Credential::from_bytes(key);
        let text = credential.expose();
        prop_assert!(Credential::parse(text.as_bytes()).unwrap().matches(text.as_bytes()));
        prop_assert!(!credential.matches(&text.as_bytes()[..42]));
        prop_assert_eq!(format!("{credential:?}"), "[redacted]");
    }
}
