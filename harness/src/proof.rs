//! The suite's own half of the proof: credential, nonce, both MACs, both headers.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// Name of the authentication scheme and of the header that carries the daemon's proof.
pub const SCHEME: &str = "Local-Daemon-Proof";

/// The 32 bytes that a client and its daemon share. Prints as `[redacted]`.
#[derive(Clone)]
pub struct Credential {
    bytes: [u8; 32],
    /// Whose password its text is, where a subject takes no bearer.
    user: Option<String>,
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Credential {}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Credential {
    /// A new credential from the system's random source.
    pub fn random() -> Self {
        Self::from_bytes(random())
    }

    /// The credential of these 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self { bytes, user: None }
    }

    /// The credential that 43 characters of base64url stand for, or `None` if they are anything else.
    pub fn from_text(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Self::from_bytes)
    }

    /// The 32 bytes, the key of both MACs.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The 43 characters that stand in the file and in a bearer header.
    pub fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.bytes)
    }

    /// The same, to be shown as the password of `user` (HTTP's basic authentication), and not as a bearer.
    #[must_use]
    pub fn of_user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// User and password as basic authentication encodes them, where this is a password.
    pub fn pair(&self) -> Option<String> {
        self.user.as_ref().map(|user| format!("{user}:{}", self.text()))
    }
}

/// `N` bytes from the system's random source.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has a random source");
    bytes
}

/// `N` random bytes in lowercase hexadecimal: a daemon id has 16.
pub fn random_hex<const N: usize>() -> String {
    hex(&random::<N>())
}

/// A new nonce: 32 random bytes in base64url, 43 characters.
pub fn nonce() -> String {
    URL_SAFE_NO_PAD.encode(random::<32>())
}

/// The client's MAC for `authority` (the record's `host:port`) and `nonce`, in base64url.
pub fn client_mac(credential: &Credential, authority: &str, nonce: &str) -> String {
    client_mac_under(&credential.bytes, authority, nonce)
}

/// The same under any key: what a client sends that holds something else, or uses it wrongly.
pub fn client_mac_under(key: &[u8], authority: &str, nonce: &str) -> String {
    mac(key, &format!("local-daemon/1 client\n{authority}\n{nonce}"))
}

/// The daemon's MAC for the answer `body` to the handshake with `nonce`, in base64url.
pub fn daemon_mac(credential: &Credential, authority: &str, nonce: &str, body: &[u8]) -> String {
    let digest = sha256_hex(body);
    mac(&credential.bytes, &format!("local-daemon/1 daemon\n{authority}\n{nonce}\n{digest}"))
}

fn mac(key: &[u8], message: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message.as_bytes());
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

/// The value of an `Authorization` header that proves the client.
pub fn authorization(credential: &Credential, authority: &str, nonce: &str) -> String {
    let mac = client_mac(credential, authority, nonce);
    format!("{SCHEME} nonce=\"{nonce}\", mac=\"{mac}\"")
}

/// The value of an `Authorization` header that hands the credential over: only for what has proven itself, or to
/// test the subject in its own arena.
pub fn bearer(credential: &Credential) -> String {
    match credential.pair() {
        Some(pair) => format!("Basic {}", STANDARD.encode(pair)),
        None => format!("Bearer {}", credential.text()),
    }
}

/// What a client claims in its `Authorization` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientProof {
    /// The nonce as it was sent.
    pub nonce: String,
    /// The MAC as it was sent.
    pub mac: String,
}

/// Reads the value of an `Authorization` header of the proof scheme: scheme, then `nonce` and `mac`, each once, each
/// the quoted text of 32 bytes, divided by a comma (HS-19).
pub fn parse_authorization(value: &str) -> Option<ClientProof> {
    let (scheme, parameters) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return None;
    }
    let (mut nonce, mut mac) = (None, None);
    for parameter in parameters.split(',') {
        let (name, value) = parameter.trim_matches([' ', '\t']).split_once('=')?;
        let slot = match name.to_ascii_lowercase().as_str() {
            "nonce" => &mut nonce,
            "mac" => &mut mac,
            _ => return None,
        };
        if slot.replace(parse_daemon_proof(value)?).is_some() {
            return None;
        }
    }
    Some(ClientProof { nonce: nonce?, mac: mac? })
}

/// Reads the value of a `Local-Daemon-Proof` header: the quoted base64url text of 32 bytes.
pub fn parse_daemon_proof(value: &str) -> Option<String> {
    let text = value.strip_prefix('"')?.strip_suffix('"')?;
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    (bytes.len() == 32).then(|| text.to_owned())
}

/// Lowercase hexadecimal SHA-256 of `bytes`.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lowercase hexadecimal of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0x0f]);
    nibbles
        .map(|nibble| char::from_digit(u32::from(nibble), 16).expect("a nibble is a digit"))
        .collect()
}

/// Every form in which a secret could show itself: raw, base64 and base64url with and without padding, hexadecimal in
/// both cases; and, for a secret that is itself base64url text of 32 bytes or the bytes of one, the same of the other.
pub fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut roots = vec![secret.to_vec()];
    if let Ok(bytes) = <[u8; 32]>::try_from(secret) {
        roots.push(Credential::from_bytes(bytes).text().into_bytes());
    } else if let Some(credential) = std::str::from_utf8(secret).ok().and_then(Credential::from_text) {
        roots.push(credential.bytes.to_vec());
    }
    let mut forms = Vec::new();
    for root in roots {
        for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
            forms.push(engine.encode(&root).into_bytes());
        }
        forms.push(hex(&root).into_bytes());
        forms.push(hex(&root).to_uppercase().into_bytes());
        forms.push(root);
    }
    forms.retain(|form| !form.is_empty());
    forms.sort();
    forms.dedup();
    forms
}

/// Whether `haystack` holds `secret` in any of its [`forms`], percent-encoded or not.
pub fn holds(haystack: &[u8], secret: &[u8]) -> bool {
    let decoded = percent_decoded(haystack);
    let found = |text: &[u8], form: &[u8]| text.windows(form.len()).any(|window| window == form);
    forms(secret).iter().any(|form| found(haystack, form) || found(&decoded, form))
}

/// Percent-encodes every byte of `text`, including unreserved ones.
pub fn percent_encoded(text: &str) -> String {
    text.bytes().flat_map(|byte| ["%".to_owned(), hex(&[byte]).to_uppercase()]).collect()
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let digits = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_credential_prints_as_redacted() {
        let credential = Credential::random();
        assert_eq!(format!("{credential:?}"), "[redacted]");
    }

    #[test]
    fn only_the_canonical_text_is_a_credential() {
        let credential = Credential::from_bytes([7; 32]);
        let text = credential.text();
        assert_eq!(text.len(), 43);
        assert_eq!(Credential::from_text(&text), Some(credential));
        for bad in [
            format!("{text}="),
            format!("{text}\n"),
            text[..42].to_owned(),
            format!("{}d", &text[..42]),
        ] {
            assert_eq!(Credential::from_text(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_secret_is_found_in_every_form_and_nothing_else_is() {
        let credential = Credential::random();
        for form in forms(credential.bytes()) {
            let haystack = [b"GET /?t=".as_slice(), &form, b" HTTP/1.1"].concat();
            assert!(holds(&haystack, credential.bytes()));
            assert!(holds(&haystack, credential.text().as_bytes()));
        }
        let encoded = format!("/x%2f{}%", percent_encoded(&credential.text()).to_lowercase());
        assert!(holds(encoded.as_bytes(), credential.bytes()));
        assert!(!holds(b"100 %, %4", credential.bytes()));
        assert!(!holds(Credential::random().text().as_bytes(), credential.bytes()));
    }

    #[test]
    fn malformed_headers_are_not_proofs() {
        for bad in [
            "Bearer abc",
            "Local-Daemon-Proof",
            "Local-Daemon-Proof nonce=\"a\"",
            "Local-Daemon-Proof nonce=a, mac=b",
            "Local-Daemon-Proof nonce=\"a\", nonce=\"a\", mac=\"b\"",
            "Local-Daemon-Proof nonce=\"a\\\"\", mac=\"b\"",
        ] {
            assert_eq!(parse_authorization(bad), None, "{bad}");
        }
        for bad in ["", "\"", "abc", "\"abc", "\"a\"b\""] {
            assert_eq!(parse_daemon_proof(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_written_header_reads_back(key: [u8; 32], port in 1u16..) {
            let (credential, nonce, authority) = (Credential::from_bytes(key), nonce(), format!("127.0.0.1:{port}"));
            let proof = parse_authorization(&authorization(&credential, &authority, &nonce)).unwrap();
            prop_assert_eq!(proof.mac, client_mac(&credential, &authority, &nonce));
            prop_assert_eq!(proof.nonce, nonce);
        }

        #[test]
        fn the_daemons_mac_is_bound_to_every_input(key: [u8; 32], body: Vec<u8>, other: Vec<u8>) {
            prop_assume!(body != other);
            let credential = Credential::from_bytes(key);
            let mac = daemon_mac(&credential, "127.0.0.1:1", "n", &body);
            prop_assert_ne!(&mac, &daemon_mac(&credential, "127.0.0.1:1", "n", &other));
            prop_assert_ne!(&mac, &daemon_mac(&credential, "127.0.0.1:2", "n", &body));
            prop_assert_ne!(&mac, &daemon_mac(&credential, "127.0.0.1:1", "m", &body));
        }
    }
}
