//! The credential file: accepted where the independent subject and a decoder by hand accept it, for the same 32 bytes.

use local_daemon_harness::record::parse_credential;
use local_daemon_proto::Credential;
use local_daemon_proto::registration::MAX_BYTES;
use local_daemon_subject::readers;

use crate::{Seed, vectors};

/// Reads bytes as the file of a credential.
pub fn run(data: &[u8]) {
    if data.len() > MAX_BYTES {
        return;
    }
    let by_hand = decode(data);
    assert_eq!(readers::credential(data), by_hand);
    assert_eq!(parse_credential(data).map(|read| *read.bytes()), by_hand);
    let read = Credential::parse(data);
    assert_eq!(read.is_ok(), by_hand.is_some());
    let (Ok(read), Some(bytes)) = (read, by_hand) else {
        return;
    };
    let text = data.strip_suffix(b"\n").unwrap_or(data);
    assert_eq!(read.expose().as_bytes(), text);
    assert_eq!(*Credential::from_bytes(bytes).expose(), *read.expose());
    assert!(read.matches(text) && !read.matches(data.get(1..).unwrap_or_default()));
    assert_eq!(format!("{read:?}"), "[redacted]");
}

/// Base64url by the book: 43 characters of six bits, the last two of which stand for nothing and are 0; perhaps a newline.
fn decode(data: &[u8]) -> Option<[u8; 32]> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let text = data.strip_suffix(b"\n").unwrap_or(data);
    let digits = text.iter().map(|byte| ALPHABET.iter().position(|other| other == byte));
    let digits: Vec<usize> = digits.collect::<Option<_>>()?;
    if digits.len() != 43 || digits[42] & 3 != 0 {
        return None;
    }
    let bit = |at: usize| digits[at / 6] >> (5 - at % 6) & 1;
    let byte = |at: usize| (0..8).fold(0, |byte, place| byte << 1 | bit(8 * at + place));
    Some(std::array::from_fn(|at| u8::try_from(byte(at)).expect("eight bits")))
}

/// The vectors.
pub fn seeds() -> Vec<Seed> {
    vectors::inputs("credentials")
}
