//! A daemon of the suite, as far as the handshake.

use std::io;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::{Actor, Bind, Seen, Squatter, response};
use crate::http::HANDSHAKE;
use crate::proof::{self, Credential, random_hex};
use crate::record::{Record, Url};

/// What kind of proof a fake daemon gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FakeProof {
    /// The right one.
    Valid,
    /// One made with another credential.
    Wrong,
    /// One for another body.
    OtherBody,
    /// One for another port of this host.
    OtherAuthority,
    /// One for another nonce, as a recorded answer has.
    OtherNonce,
    /// The client's own MAC, sent back.
    Reflected,
    /// None.
    None,
}

/// A daemon as far as the handshake: the right proof, and a body of the case's choice.
#[derive(Debug, Clone)]
pub struct FakeDaemon {
    /// The credential that it shares with its clients.
    pub credential: Credential,
    /// The wire protocol that it tells.
    pub protocol: String,
    /// The id that it tells.
    pub id: String,
    /// The pid that it tells.
    pub pid: u32,
    /// The version that it tells.
    pub version: String,
    /// `ready` (200) or `draining` (503).
    pub state: String,
    /// How it proves itself.
    pub proof: FakeProof,
    /// The authority that it proves itself for, where not its own address.
    pub authority: Option<String>,
    /// Members of the body beside or in place of the ones above; `null` leaves one out.
    pub members: Map<String, Value>,
    /// The status of the handshake's answer, where not the state's.
    pub status: Option<u16>,
    /// More headers of that answer.
    pub headers: Vec<(String, String)>,
    /// The length of that answer's body, in bytes, which white space fills up.
    pub length: usize,
    /// Whether each answer asks for the end of its connection.
    pub closes: bool,
}

impl FakeDaemon {
    /// A ready daemon of a random id, with the suite's own pid.
    pub fn new(credential: &Credential, protocol: &str) -> Self {
        Self {
            credential: credential.clone(),
            protocol: protocol.to_owned(),
            id: random_hex::<16>(),
            pid: std::process::id(),
            version: "0.0.0".to_owned(),
            state: "ready".to_owned(),
            proof: FakeProof::Valid,
            authority: None,
            members: Map::new(),
            status: None,
            headers: Vec::new(),
            length: 0,
            closes: false,
        }
    }

    /// Answers `draining`.
    #[must_use]
    pub fn draining(self) -> Self {
        Self { state: "draining".to_owned(), ..self }
    }

    /// Speaks another wire protocol.
    #[must_use]
    pub fn protocol(self, protocol: impl Into<String>) -> Self {
        Self { protocol: protocol.into(), ..self }
    }

    /// Names this version.
    #[must_use]
    pub fn version(self, version: impl Into<String>) -> Self {
        Self { version: version.into(), ..self }
    }

    /// Names another process.
    #[must_use]
    pub fn pid(self, pid: u32) -> Self {
        Self { pid, ..self }
    }

    /// Proves itself in another way.
    #[must_use]
    pub fn proof(self, proof: FakeProof) -> Self {
        Self { proof, ..self }
    }

    /// Proves itself for another authority than its own address.
    #[must_use]
    pub fn authority(self, authority: impl Into<String>) -> Self {
        Self { authority: Some(authority.into()), ..self }
    }

    /// Replaces these members of the body; `null` leaves one out.
    #[must_use]
    pub fn members(self, members: Map<String, Value>) -> Self {
        Self { members, ..self }
    }

    /// The record that leads to it at `address`.
    pub fn record(&self, address: SocketAddr) -> Record {
        Record { id: self.id.clone(), ..Record::new(Url::of(address), self.pid) }
    }

    /// The part, to be noted or started: 401 without authentication, 404 beyond the handshake.
    pub fn part(self) -> Squatter {
        Squatter::responding(move |request, address| self.answer(request, address))
    }

    /// Starts it.
    pub fn start(self, bind: Bind) -> io::Result<Actor> {
        self.part().start(bind)
    }

    /// The body of its handshake.
    pub fn body(&self) -> String {
        let mut members = json!({
            "spec": "local-daemon/1", "protocol": self.protocol, "id": self.id, "pid": self.pid,
            "version": self.version, "state": self.state, "capabilities": [],
        });
        if let Value::Object(members) = &mut members {
            members.extend(self.members.clone());
            members.retain(|_, value| !value.is_null());
        }
        let mut body = members.to_string();
        body.extend(std::iter::repeat_n(' ', self.length.saturating_sub(body.len())));
        body
    }

    /// Its answer to a request that came to `address`.
    pub fn answer(&self, request: &Seen, address: SocketAddr) -> Vec<u8> {
        let authority = self.authority.clone().unwrap_or_else(|| address.to_string());
        let value = request.header("authorization").unwrap_or_default();
        let proof = proof::parse_authorization(value)
            .filter(|proof| proof.mac == proof::client_mac(&self.credential, &authority, &proof.nonce));
        if proof.is_none() && value != proof::bearer(&self.credential) {
            return response(401, &[("WWW-Authenticate", proof::SCHEME)], b"");
        }
        if request.target != HANDSHAKE {
            return response(404, &[], b"");
        }
        let body = self.body();
        let mac = proof.and_then(|proof| {
            let mac = |credential, authority: &str, nonce: &str, body: &str| {
                Some(proof::daemon_mac(credential, authority, nonce, body.as_bytes()))
            };
            let (key, nonce) = (&self.credential, &*proof.nonce);
            match self.proof {
                FakeProof::Valid => mac(key, &authority, nonce, &body),
                FakeProof::Wrong => mac(&Credential::random(), &authority, nonce, &body),
                FakeProof::OtherBody => mac(key, &authority, nonce, "{}"),
                FakeProof::OtherAuthority => mac(key, "127.0.0.1:1", nonce, &body),
                FakeProof::OtherNonce => mac(key, &authority, &proof::nonce(), &body),
                FakeProof::Reflected => Some(proof.mac.clone()),
                FakeProof::None => None,
            }
        });
        let mac = mac.map(|mac| format!("\"{mac}\""));
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(mac.iter().map(|mac| (proof::SCHEME, mac.as_str())));
        headers.extend(self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        if self.closes {
            headers.push(("Connection", "close"));
        }
        let by_state = if self.state == "ready" { 200 } else { 503 };
        response(self.status.unwrap_or(by_state), &headers, body.as_bytes())
    }
}
