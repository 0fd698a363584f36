//! The handshake and its mutual proof: each side shows that it holds the credential, and neither sends it. No I/O.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::credential::{Credential, decode_32};
use crate::gate::Protocol;
use crate::registration::{self, ClaimId, ParseRegistrationError};

/// The contract's name in the handshake.
pub const SPEC: &str = "local-daemon/1";
/// The handshake's path.
pub const PATH: &str = "/.well-known/local-daemon";
/// The authentication scheme of a request and the header of an answer.
pub const SCHEME: &str = "Local-Daemon-Proof";

/// 32 random bytes of one handshake.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Nonce([u8; 32]);

impl Nonce {
    /// Returns a nonce of the given random bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn text(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }
}

/// A message authentication code; comparing two takes the same time whatever they hold (HS-12).
#[derive(Clone, Copy, Debug)]
pub struct Code([u8; 32]);

impl Code {
    fn text(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }
}

impl PartialEq for Code {
    fn eq(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(&self.0[..], &other.0[..]).into()
    }
}

fn mac(credential: &Credential, parts: &[&[u8]]) -> Code {
    let mut mac = Hmac::<Sha256>::new_from_slice(credential.key()).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    Code(mac.finalize().into_bytes().into())
}

/// Returns what a client sends: the code over the authority as the record writes it (HS-17).
pub fn client_code(credential: &Credential, authority: &str, nonce: Nonce) -> Code {
    mac(
        credential,
        &[
            b"local-daemon/1 client\n",
            authority.as_bytes(),
            b"\n",
            nonce.text().as_bytes(),
        ],
    )
}

/// Returns what a daemon answers: the code over the same, and over the body's digest, so that no byte of the body can be
/// another's (HS-21).
pub fn daemon_code(credential: &Credential, authority: &str, nonce: Nonce, body: &[u8]) -> Code {
    let digest = Sha256::digest(body).iter().fold(String::with_capacity(64), |mut hex, byte| {
        use core::fmt::Write as _;
        write!(hex, "{byte:02x}").expect("a String takes every write");
        hex
    });
    let nonce = nonce.text();
    mac(
        credential,
        &[
            b"local-daemon/1 daemon\n",
            authority.as_bytes(),
            b"\n",
            nonce.as_bytes(),
            b"\n",
            digest.as_bytes(),
        ],
    )
}

/// Returns the value of a client's `Authorization` header.
pub fn authorization(nonce: Nonce, code: Code) -> String {
    format!("{SCHEME} nonce=\"{}\", mac=\"{}\"", nonce.text(), code.text())
}

/// Returns the value of a daemon's `Local-Daemon-Proof` header.
pub fn answer(code: Code) -> String {
    format!("\"{}\"", code.text())
}

/// Parses a client's `Authorization` value; `None` for anything but one `nonce` and one `mac` of 32 bytes each (HS-19).
pub fn parse_authorization(value: &str) -> Option<(Nonce, Code)> {
    let (scheme, parameters) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return None;
    }
    let (mut nonce, mut code) = (None, None);
    for parameter in parameters.split(',') {
        let (name, value) = parameter.trim_matches([' ', '\t']).split_once('=')?;
        let bytes = quoted(value)?;
        // HTTP knows the names of parameters in any case.
        let slot = match () {
            () if name.eq_ignore_ascii_case("nonce") => &mut nonce,
            () if name.eq_ignore_ascii_case("mac") => &mut code,
            () => return None,
        };
        if slot.replace(bytes).is_some() {
            return None;
        }
    }
    Some((Nonce(nonce?), Code(code?)))
}

/// Parses a daemon's `Local-Daemon-Proof` value.
pub fn parse_answer(value: &str) -> Option<Code> {
    quoted(value).map(Code)
}

fn quoted(value: &str) -> Option<[u8; 32]> {
    decode_32(value.strip_prefix('"')?.strip_suffix('"')?.as_bytes()).map(|bytes| *bytes)
}

/// Whether a daemon takes new work.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::exhaustive_enums, reason = "the specification closes the list")]
pub enum State {
    /// It owns the record and serves.
    Ready,
    /// It does not own the record, or has begun to stand down: wait and read again.
    Draining,
}

/// The handshake's body (HS-2): short texts that the daemon itself chose, far below 64 KiB (HS-4).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct Handshake {
    /// The wire protocol, which clients gate on.
    pub protocol: Protocol,
    /// The claim id, which has to be the record's.
    pub id: ClaimId,
    /// The daemon's process id.
    pub pid: NonZeroU32,
    /// The implementation's version, informational.
    pub version: String,
    /// Whether it takes new work.
    pub state: State,
    /// What it can do beyond the core.
    pub capabilities: Vec<String>,
}

impl Handshake {
    /// Returns the body's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            spec: &'static str,
            #[serde(flatten)]
            rest: &'a Handshake,
        }
        serde_json::to_vec(&Body { spec: SPEC, rest: self }).expect("strings and numbers always serialise")
    }

    /// Parses a body whose proof was checked.
    ///
    /// # Errors
    /// [`ParseRegistrationError`] names the member that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseRegistrationError> {
        let object = registration::parse_object(bytes)?;
        if registration::string(&object, "spec")? != SPEC {
            return Err(ParseRegistrationError::Spec);
        }
        let capabilities =
            object.get("capabilities").ok_or(ParseRegistrationError::Missing("capabilities"))?;
        let capabilities = capabilities.as_array().and_then(|items| {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect::<Option<_>>()
        });
        Ok(Self {
            protocol: registration::string(&object, "protocol")?
                .parse()
                .map_err(|_| ParseRegistrationError::Protocol)?,
            id: registration::string(&object, "id")?.parse()?,
            pid: registration::pid(&object)?,
            version: registration::string(&object, "version")?.to_owned(),
            state: match registration::string(&object, "state")? {
                "ready" => State::Ready,
                "draining" => State::Draining,
                _ => return Err(ParseRegistrationError::State),
            },
            capabilities: capabilities.ok_or(ParseRegistrationError::Type("capabilities"))?,
        })
    }
}

/// What one time-bounded handshake showed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_enums, reason = "the specification closes the list")]
pub enum Probe {
    /// The daemon proved that it holds the credential, and this is what it says.
    Proven(Handshake),
    /// The daemon is gone: the connection was refused (ECONNREFUSED, and nothing else), or its boot or network namespace
    /// is over (CONN-6, CONN-40, CONN-41).
    Refused,
    /// No whole answer in time, or two connections in a row broke off. This is no refusal: nothing is deleted or signalled
    /// because of it.
    TimedOut,
    /// The daemon could not be asked, which says nothing about it (CONN-37, CONN-39, CONN-41).
    Unreachable,
    /// The credential's holder answered, and by another contract than this one.
    OtherSpec,
    /// Something answered and did not prove itself.
    Foreign,
    /// There is no credential to prove anything with.
    NoCredential,
    /// The credential's file must not be trusted.
    CredentialRefused,
}
