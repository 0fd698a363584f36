//! Chapter 07: the two sides of the handshake.

pub(crate) mod faults;

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::credential::{Credential, decode_32, same};
use crate::fault::broken;
use crate::registration::parse_object;
use crate::state_directory::hex;

/// Where the handshake is.
pub(super) const PATH: &str = "/.well-known/local-daemon";
/// The version of the specification.
pub(super) const SPEC: &str = "local-daemon/1";
/// The scheme of the request, and the header of the answer.
pub(super) const PROOF: &str = "Local-Daemon-Proof";

/// The body of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) spec: String,
    pub(super) protocol: String,
    pub(super) id: String,
    pub(super) pid: u32,
    pub(super) version: String,
    pub(super) ready: bool,
    pub(super) capabilities: Vec<String>,
}

impl Body {
    pub(super) fn to_json(&self) -> Vec<u8> {
        let Self { spec, protocol, id, pid, version, ready, capabilities } = self;
        let state = if *ready { "ready" } else { "draining" };
        let mut body = json!({
            "spec": spec, "protocol": protocol, "id": id, "pid": pid, "version": version, "state": state,
            "capabilities": capabilities,
        });
        if broken("HS-2.no-capabilities")
            && let Some(members) = body.as_object_mut()
        {
            members.remove("capabilities");
        } else if broken("HS-2.pid-as-text") {
            body["pid"] = json!(pid.to_string());
        } else if broken("HS-2.spec-of-the-next") {
            body["spec"] = json!("local-daemon");
        } else if broken("HS-4.everything") {
            body["capabilities"] = json!(vec!["x-feature"; 6_000]);
        }
        body.to_string().into_bytes()
    }

    /// Reads the body of an answer that has proved itself; `None` where it is none.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let members = parse_object(bytes).ok()?;
        let text = |name: &str| members.get(name).and_then(Value::as_str).map(str::to_owned);
        let capabilities = members.get("capabilities")?.as_array()?.iter();
        Some(Self {
            spec: text("spec")?,
            protocol: text("protocol")?,
            id: text("id")?,
            pid: u32::try_from(members.get("pid")?.as_u64()?).ok()?,
            version: text("version")?,
            ready: match text("state")?.as_str() {
                "ready" => true,
                "draining" => false,
                _ => return None,
            },
            capabilities: capabilities.map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>()?,
        })
    }
}

/// The two values of a `Local-Daemon-Proof` authorization, each of the right form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) nonce: String,
    pub(super) mac: [u8; 32],
    /// How many bytes of the MAC were sent.
    pub(super) given: usize,
}

impl Claim {
    /// What a client sends, with a nonce of its own.
    pub(super) fn new(credential: &Credential, authority: &str) -> Self {
        static ONCE: OnceLock<[u8; 32]> = OnceLock::new();
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).expect("the system has random bytes");
        if broken("HS-28.once") {
            nonce = *ONCE.get_or_init(|| nonce);
        } else if broken("HS-28.constant") {
            nonce = Sha256::digest(authority).into();
        }
        Self::of(credential, authority, &URL_SAFE_NO_PAD.encode(nonce))
    }

    /// What a client sends with this nonce.
    pub(super) fn of(credential: &Credential, authority: &str, nonce: &str) -> Self {
        Self {
            nonce: nonce.to_owned(),
            mac: client_mac(credential, authority, nonce),
            given: 32,
        }
    }

    /// The value of the header `Authorization`.
    pub(super) fn header(&self) -> String {
        let mac = URL_SAFE_NO_PAD.encode(self.mac);
        format!("{PROOF} nonce=\"{}\", mac=\"{mac}\"", self.nonce)
    }

    /// Reads the value of the header `Authorization`.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, parameters) = header.split_once(' ')?;
        let misspelt = broken("HS-17.one-spelling") && scheme != PROOF;
        if !scheme.eq_ignore_ascii_case(PROOF) || misspelt || broken("HS-17.never") {
            return None;
        }
        let (mut nonce, mut mac) = (None, None);
        for parameter in parameters.split(',') {
            let (name, value) = parameter.trim_matches([' ', '\t']).split_once('=')?;
            let value = value.strip_prefix('"')?.strip_suffix('"')?;
            let is_second = broken("HS-17.one-order") && nonce.is_none();
            let place = match name.to_ascii_lowercase().as_str() {
                "nonce" => &mut nonce,
                "mac" if is_second => return None,
                "mac" => &mut mac,
                _ if broken("HS-19.third") => continue,
                _ => return None,
            };
            if place.is_some() && broken("HS-19.first-of-two") {
                continue;
            }
            let lenient = match () {
                () if name.eq_ignore_ascii_case("nonce") => broken("HS-19.short-nonce"),
                () => broken("HS-18.cut-short"),
            };
            let decoded = decode_32(value.as_bytes()).or_else(|| lenient.then(|| padded(value)));
            if place.replace((value, decoded?)).is_some() {
                return None;
            }
        }
        if broken("HS-19.no-nonce") {
            nonce = nonce.or(Some(("", [0; 32])));
        }
        let (mac_text, mac) = mac?;
        Some(Self { nonce: nonce?.0.to_owned(), mac, given: mac_text.len() * 3 / 4 })
    }

    /// Whether a client of this credential meant this authority.
    pub(super) fn holds(&self, credential: &Credential, authority: &str) -> bool {
        let meant = |authority: &str| client_mac(credential, authority, &self.nonce);
        let right = meant(authority);
        let text_key = || {
            let message = format!("local-daemon/1 client\n{authority}\n{}", self.nonce);
            mac_under(credential.text().as_bytes(), &message)
        };
        same(&right, &self.mac)
            || broken("HS-18.unchecked")
            || broken("HS-18.half") && right[..16] == self.mac[..16]
            || broken("HS-18.cut-short") && self.given < 32 && right[..self.given] == self.mac[..self.given]
            || broken("HS-18.text-key") && text_key() == self.mac
            || broken("HS-20.any-authority") && meant("") == self.mac
    }

    /// The header by which the daemon proves the body that it sends.
    pub(super) fn answer(&self, credential: &Credential, authority: &str, body: &[u8]) -> String {
        let authority = if broken("HS-21.without-the-authority") { "" } else { authority };
        let body = if broken("HS-21.without-the-body") { &[] } else { body };
        let mac = URL_SAFE_NO_PAD.encode(daemon_mac(credential, authority, &self.nonce, body));
        if broken("HS-21.bare") { mac } else { format!("\"{mac}\"") }
    }

    /// Whether the headers of an answer prove its body; `headers` are all values of `Local-Daemon-Proof`.
    pub(super) fn is_answered(
        &self,
        credential: &Credential,
        authority: &str,
        headers: &[&str],
        body: &[u8],
    ) -> bool {
        let header = match headers {
            [header] => header,
            [header, ..] if broken("HS-26.first-header") => header,
            _ => return false,
        };
        if broken("HS-26.form") || (broken("HS-26.reflected") && answered_mac(header) == Some(self.mac)) {
            return answered_mac(header).is_some();
        }
        answered_mac(header)
            .is_some_and(|mac| same(&mac, &daemon_mac(credential, authority, &self.nonce, body)))
    }
}

/// The MAC in the header of an answer.
pub(super) fn answered_mac(header: &str) -> Option<[u8; 32]> {
    decode_32(header.strip_prefix('"')?.strip_suffix('"')?.as_bytes())
}

fn client_mac(credential: &Credential, authority: &str, nonce: &str) -> [u8; 32] {
    mac(credential, &format!("local-daemon/1 client\n{authority}\n{nonce}"))
}

fn daemon_mac(credential: &Credential, authority: &str, nonce: &str, body: &[u8]) -> [u8; 32] {
    let digest = hex(&Sha256::digest(body));
    mac(credential, &format!("local-daemon/1 daemon\n{authority}\n{nonce}\n{digest}"))
}

fn mac(credential: &Credential, message: &str) -> [u8; 32] {
    mac_under(credential.key(), message)
}

fn mac_under(key: &[u8], message: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().into()
}

/// Whether a bearer is the credential.
pub(super) fn bears(credential: &Credential, token: &[u8]) -> bool {
    let text = credential.text();
    let text = text.as_bytes();
    credential.is(token) && !broken("HS-5.proof-only")
        || broken("HS-7.prefix") && token.len() >= 8 && text.starts_with(token)
        || broken("HS-7.trailing") && token.starts_with(text)
        || broken("HS-7.any-case") && text.eq_ignore_ascii_case(token)
}

/// What of a text decodes, and zeros.
fn padded(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    let decoded = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
    let length = decoded.len().min(32);
    bytes[..length].copy_from_slice(&decoded[..length]);
    bytes
}

/// Whether a handshake tells `ready`, if that is right.
pub(super) fn tells_ready(ready: bool) -> bool {
    static DRAINED: AtomicBool = AtomicBool::new(false);
    if broken("HS-13.once-draining") && !ready {
        DRAINED.store(true, Ordering::Relaxed);
    }
    ready && !DRAINED.load(Ordering::Relaxed)
}

/// A look at the record; of a faulty daemon the first one of this connection, which has a thread of its own.
pub(super) fn first_look(look: impl Fn() -> bool) -> bool {
    thread_local! {
        static FIRST: OnceCell<bool> = const { OnceCell::new() };
    }
    if broken("HS-15.once-a-connection") {
        FIRST.with(|first| *first.get_or_init(look))
    } else {
        look()
    }
}

/// Whether a faulty daemon has seen this authorization before.
pub(super) fn is_replayed(authorization: Option<&str>) -> bool {
    static SEEN: Mutex<BTreeSet<Option<String>>> = Mutex::new(BTreeSet::new());
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    broken("HS-17.once") && !seen.insert(authorization.map(str::to_owned))
}
