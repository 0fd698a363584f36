//! Requests that have to be refused, or survived.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use local_daemon_harness::http::Request;
use local_daemon_harness::proof::{self, Credential};
use local_daemon_spec::vectors;

use super::exchange::{Attempt, authorized, proof_of};
use crate::fixtures::malformed::respelt;
use crate::stage::ReadyDaemon;

/// Handshakes without an `Authorization`, some with the credential in another place.
pub(super) fn unauthorized(live: &ReadyDaemon) -> Vec<Attempt> {
    let (authority, path) = (live.target.authority.as_str(), live.target.path.as_str());
    let text = live.credential.text();
    let asked = || Request::get(authority, path);
    let query = |name: &str| Request::get(authority, &format!("{path}?{name}={text}"));
    [
        ("no header", asked()),
        ("credential as query token", query("token")),
        ("credential as query access_token", query("access_token")),
        ("credential in a cookie", asked().header("Cookie", &format!("token={text}"))),
        ("credential in X-Api-Key", asked().header("X-Api-Key", &text)),
        (
            "credential in Proxy-Authorization",
            asked().header("Proxy-Authorization", &proof::bearer(&live.credential)),
        ),
        (
            "credential in X-Authorization",
            asked().header("X-Authorization", &proof::bearer(&live.credential)),
        ),
        ("credential in From", asked().header("From", &text)),
        ("credential in the body", asked().json(format!("{{\"token\":\"{text}\"}}"))),
        ("a claim to be local", asked().header("X-Forwarded-For", "127.0.0.1")),
    ]
    .map(|(what, request)| (what.to_owned(), request))
    .into()
}

/// The 32 bytes of a nonce or a MAC.
fn decoded(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).expect("the suite's own nonces and MACs are base64url")
}

/// Proofs of a good nonce with a wrong MAC.
pub(super) fn wrong_macs(live: &ReadyDaemon) -> Vec<Attempt> {
    let authority = live.target.authority.as_str();
    let key = &live.credential;
    // One MAC in 256 ends with a byte of zeros, and would be right with its last byte put to zero.
    let (nonce, right, bytes) = loop {
        let nonce = proof::nonce();
        let right = proof::client_mac(key, authority, &nonce);
        let bytes = decoded(&right);
        if bytes[31] != 0 {
            break (nonce, right, bytes);
        }
    };
    let mut macs: Vec<(String, String)> = Vec::new();
    for (byte, bit) in [
        (0, 0x80),
        (0, 0x01),
        (7, 0x10),
        (15, 0x01),
        (16, 0x80),
        (31, 0x80),
        (31, 0x01),
    ] {
        let mut bytes = bytes.clone();
        bytes[byte] ^= bit;
        macs.push((format!("bit {bit:#04x} of byte {byte} flipped"), URL_SAFE_NO_PAD.encode(bytes)));
    }
    let zeros = |kept: usize| {
        let mut cut = bytes.clone();
        cut.iter_mut().skip(kept).for_each(|byte| *byte = 0);
        URL_SAFE_NO_PAD.encode(cut)
    };
    let other = |what: &str, mac: String| (what.to_owned(), mac);
    macs.extend([
        other("cut to nothing", String::new()),
        other("cut to one character", right[..1].to_owned()),
        other("cut to 16 bytes", URL_SAFE_NO_PAD.encode(&bytes[..16])),
        other("cut to 31 bytes", URL_SAFE_NO_PAD.encode(&bytes[..31])),
        other("cut by one character", right[..42].to_owned()),
        other("all zeros", zeros(0)),
        other("the first byte and zeros", zeros(1)),
        other("the first half and zeros", zeros(16)),
        other("all but the last byte", zeros(31)),
        other("another key", proof::client_mac(&Credential::random(), authority, &nonce)),
        other("a key of zeros", proof::client_mac(&Credential::from_bytes([0; 32]), authority, &nonce)),
        other(
            "the credential's text as the key",
            proof::client_mac_under(key.text().as_bytes(), authority, &nonce),
        ),
        other("the daemon's label, of no body", proof::daemon_mac(key, authority, &nonce, b"")),
        other("another nonce", proof::client_mac(key, authority, &proof::nonce())),
        other("the nonce itself", nonce.clone()),
        other("the credential itself", key.text()),
        other("nonce and authority changed places", proof::client_mac(key, &nonce, authority)),
        other("a newline at the end", proof::client_mac(key, authority, &format!("{nonce}\n"))),
    ]);
    macs.into_iter()
        .map(|(what, mac)| (format!("MAC: {what}"), authorized(live, &proof_of(&nonce, &mac))))
        .collect()
}

/// Proofs that are not two texts of 32 bytes, with the right MAC over the nonce as it is sent.
pub(super) fn malformed_proofs(live: &ReadyDaemon) -> Vec<(&'static str, String)> {
    let mac_of = |nonce: &str| proof::client_mac(&live.credential, &live.target.authority, nonce);
    let nonce = proof::nonce();
    let mac = mac_of(&nonce);
    let bytes = decoded(&nonce);
    let mac_bytes = decoded(&mac);
    let scheme = proof::SCHEME;
    let of_nonce = |nonce: &str| proof_of(nonce, &mac_of(nonce));
    let other = proof::nonce();
    vec![
        ("no parameter", scheme.to_owned()),
        ("no nonce", format!("{scheme} mac=\"{}\"", mac_of(""))),
        ("no mac", format!("{scheme} nonce=\"{nonce}\"")),
        ("empty nonce", of_nonce("")),
        ("empty mac", proof_of(&nonce, "")),
        ("both empty", proof_of("", "")),
        ("nonce of one character", of_nonce("A")),
        ("nonce of 16 bytes", of_nonce(&URL_SAFE_NO_PAD.encode(&bytes[..16]))),
        ("nonce of 31 bytes", of_nonce(&URL_SAFE_NO_PAD.encode(&bytes[..31]))),
        ("nonce of 33 bytes", of_nonce(&URL_SAFE_NO_PAD.encode([bytes.as_slice(), &[1]].concat()))),
        ("nonce of 64 bytes", of_nonce(&URL_SAFE_NO_PAD.encode(bytes.repeat(2)))),
        ("nonce of 4 KiB", of_nonce(&"A".repeat(4096))),
        ("nonce with padding", of_nonce(&format!("{nonce}="))),
        ("nonce with a space before", of_nonce(&format!(" {nonce}"))),
        ("nonce with a space after", of_nonce(&format!("{nonce} "))),
        ("nonce in the standard alphabet", of_nonce(&format!("+/{}", &nonce[2..]))),
        ("nonce with a dot", of_nonce(&format!("{}.{}", &nonce[..20], &nonce[21..]))),
        ("nonce in hexadecimal", of_nonce(&proof::hex(&bytes))),
        ("nonce with loose bits", of_nonce(&respelt(&nonce))),
        ("mac of 16 bytes", proof_of(&nonce, &URL_SAFE_NO_PAD.encode(&mac_bytes[..16]))),
        ("mac of 31 bytes", proof_of(&nonce, &URL_SAFE_NO_PAD.encode(&mac_bytes[..31]))),
        ("mac of one character", proof_of(&nonce, &mac[..1])),
        ("mac with a character more", proof_of(&nonce, &format!("{mac}A"))),
        ("mac with padding", proof_of(&nonce, &format!("{mac}="))),
        ("mac in hexadecimal", proof_of(&nonce, &proof::hex(&mac_bytes))),
        ("mac in upper case", proof_of(&nonce, &mac.to_ascii_uppercase())),
        ("mac with loose bits", proof_of(&nonce, &respelt(&mac))),
        (
            "two nonces, the right one first",
            format!("{scheme} nonce=\"{nonce}\", nonce=\"{other}\", mac=\"{mac}\""),
        ),
        (
            "two nonces, the right one last",
            format!("{scheme} nonce=\"{other}\", nonce=\"{nonce}\", mac=\"{mac}\""),
        ),
        ("the same nonce twice", format!("{scheme} nonce=\"{nonce}\", nonce=\"{nonce}\", mac=\"{mac}\"")),
        (
            "two macs, the right one first",
            format!("{scheme} nonce=\"{nonce}\", mac=\"{mac}\", mac=\"{other}\""),
        ),
        (
            "two macs, the right one last",
            format!("{scheme} nonce=\"{nonce}\", mac=\"{other}\", mac=\"{mac}\""),
        ),
        ("a third parameter at the end", format!("{}, realm=\"x\"", proof_of(&nonce, &mac))),
        (
            "a third parameter at the beginning",
            format!("{scheme} realm=\"x\", nonce=\"{nonce}\", mac=\"{mac}\""),
        ),
        ("the same mac twice", format!("{scheme} nonce=\"{nonce}\", mac=\"{mac}\", mac=\"{mac}\"")),
    ]
}

/// The `Authorization` texts of the test vectors: name, text, whether it is accepted.
pub(super) fn vector_headers(nonce: &str, mac: &str) -> Vec<(String, String, bool)> {
    // The nonce and the MAC of the example in chapter 07.
    const NONCE: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8";
    const MAC: &str = "QYbCoHxuMHD-KdnYUreDPSmIQF32CGWDTQuKohldPzs";
    vectors::cases("proof")
        .iter()
        .filter(|case| case["kind"] == "authorization")
        .filter_map(|case| {
            let input = case["input"].as_str()?.replace(NONCE, nonce).replace(MAC, mac);
            Some((case["name"].as_str()?.to_owned(), input, case["accept"].as_bool()?))
        })
        .collect()
}
