//! The handshake as a client of the suite sends and judges it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{HANDSHAKE, HttpFault, Request, Response, exchange};
use crate::proof::{self, Credential};
use crate::record::{self, Record, RecordFault, is_id, parse_object};
use crate::transcript::{Transcript, printable};

/// Where a handshake goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// What the proof is made for and what `Host` says.
    pub authority: String,
    /// The handshake's path.
    pub path: String,
}

impl Target {
    /// What a record announces; its first address where it says `localhost`.
    pub fn of(record: &Record) -> Self {
        let authority = record.url.authority().to_owned();
        Self {
            address: record.url.addresses()[0],
            authority,
            path: HANDSHAKE.to_owned(),
        }
    }

    /// A listener, by its own address.
    pub fn at(address: SocketAddr) -> Self {
        Self { address, authority: address.to_string(), path: HANDSHAKE.to_owned() }
    }

    /// The request that proves the client, of a nonce of the caller's choice.
    pub fn proving(&self, credential: &Credential, nonce: &str) -> Request {
        let authorization = proof::authorization(credential, &self.authority, nonce);
        Request::get(&self.authority, &self.path).header("Authorization", &authorization)
    }

    /// The request that bears the credential.
    pub fn bearing(&self, credential: &Credential) -> Request {
        Request::get(&self.authority, &self.path).header("Authorization", &proof::bearer(credential))
    }
}

/// How the daemon's proof stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DaemonProof {
    /// Made with the credential, for this authority, nonce and body.
    Valid,
    /// No header.
    Missing,
    /// A well-formed header with another value.
    Wrong,
    /// Not one quoted string, or the header twice.
    Malformed,
}

/// An answer to a handshake.
#[derive(Debug, Clone)]
pub struct ProbeAnswer {
    /// The whole answer.
    pub response: Response,
    /// How its proof stands. An answer to a bearer handshake has nothing to prove: `Missing`.
    pub proof: DaemonProof,
    /// The body, read by the rules of the handshake.
    pub handshake: Result<Handshake, RecordFault>,
}

impl ProbeAnswer {
    /// The handshake of an answer that is proven; its state may still be `draining`.
    pub fn proven(&self) -> Option<&Handshake> {
        self.handshake.as_ref().ok().filter(|_| self.proof == DaemonProof::Valid)
    }

    /// The handshake of an answer that is proven, 200 and `ready`.
    pub fn ready(&self) -> Option<&Handshake> {
        self.proven()
            .filter(|handshake| self.response.status == 200 && handshake.state == "ready")
    }
}

/// The body of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The protocol's own version: `local-daemon/1`.
    pub spec: String,
    /// The wire protocol identifier.
    pub protocol: String,
    /// The daemon's id, 32 lowercase hexadecimal digits.
    pub id: String,
    /// Its process id.
    pub pid: i32,
    /// Informational.
    pub version: String,
    /// `ready` or `draining`.
    pub state: String,
    /// What it can do.
    pub capabilities: Vec<String>,
}

impl Handshake {
    /// Reads the body of an answer.
    pub fn parse(body: &[u8]) -> Result<Self, RecordFault> {
        if body.len() > record::MOST_BYTES {
            return Err(RecordFault::TooLarge(body.len()));
        }
        let fields = parse_object(body)?;
        let text = |name: &'static str, valid: fn(&str) -> bool| match fields.get(name) {
            None => Err(RecordFault::Missing(name)),
            Some(Value::String(text)) if valid(text) => Ok(text.clone()),
            Some(_) => Err(RecordFault::Field(name)),
        };
        let pid = fields.get("pid").ok_or(RecordFault::Missing("pid"))?;
        let pid = pid.as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid >= 1);
        let capabilities = match fields.get("capabilities") {
            None => return Err(RecordFault::Missing("capabilities")),
            Some(value) => value.as_array().and_then(|list| {
                list.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
            }),
        };
        Ok(Self {
            spec: text("spec", |_| true)?,
            protocol: text("protocol", is_protocol)?,
            id: text("id", is_id)?,
            pid: pid.ok_or(RecordFault::Field("pid"))?,
            version: text("version", |_| true)?,
            state: text("state", |state| matches!(state, "ready" | "draining"))?,
            capabilities: capabilities.ok_or(RecordFault::Field("capabilities"))?,
        })
    }
}

/// Whether `text` is a wire protocol identifier: `name/N`.
pub fn is_protocol(text: &str) -> bool {
    let Some((name, number)) = text.split_once('/') else {
        return false;
    };
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let name_is_valid = name.len() <= 64
        && name.bytes().next().is_some_and(letter)
        && name.bytes().all(|byte| letter(byte) || matches!(byte, b'.' | b'_' | b'-'));
    let digits = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
    name_is_valid && digits && number.parse::<i32>().is_ok_and(|number| number >= 1)
}

/// The handshake with proof, on a connection of its own.
pub fn probe_with_proof(
    target: &Target,
    credential: &Credential,
    nonce: &str,
    deadline: Instant,
) -> Result<ProbeAnswer, HttpFault> {
    let response = exchange(target.address, &target.proving(credential, nonce).bytes(), deadline)?;
    Ok(judge(response, target, credential, nonce))
}

/// The handshake with the bare credential, on a connection of its own.
pub fn probe_with_bearer(
    target: &Target,
    credential: &Credential,
    deadline: Instant,
) -> Result<ProbeAnswer, HttpFault> {
    let response = exchange(target.address, &target.bearing(credential).bytes(), deadline)?;
    let handshake = Handshake::parse(&response.body);
    Ok(ProbeAnswer { response, proof: DaemonProof::Missing, handshake })
}

/// Judges an answer that came to the handshake with `nonce`.
pub fn judge(response: Response, target: &Target, credential: &Credential, nonce: &str) -> ProbeAnswer {
    let proof = match response.all(proof::SCHEME)[..] {
        [] => DaemonProof::Missing,
        [value] => match proof::parse_daemon_proof(value) {
            None => DaemonProof::Malformed,
            Some(mac) if mac == proof::daemon_mac(credential, &target.authority, nonce, &response.body) => {
                DaemonProof::Valid
            }
            Some(_) => DaemonProof::Wrong,
        },
        _ => DaemonProof::Malformed,
    };
    let handshake = Handshake::parse(&response.body);
    ProbeAnswer { response, proof, handshake }
}

/// The same exchanges, each noted in a transcript: what a case uses.
#[derive(Debug, Clone)]
pub struct Wire {
    transcript: Transcript,
    timeout: Duration,
}

impl Wire {
    /// Exchanges noted in `transcript`, each bounded by `timeout`.
    pub fn new(transcript: &Transcript, timeout: Duration) -> Self {
        Self { transcript: transcript.clone(), timeout }
    }

    /// One request on a connection of its own.
    pub fn exchange(&self, address: SocketAddr, request: &[u8]) -> Result<Response, HttpFault> {
        self.noted(address, request, || exchange(address, request, Instant::now() + self.timeout))
    }

    /// The handshake with proof and a nonce of its own.
    pub fn probe(&self, target: &Target, credential: &Credential) -> Result<ProbeAnswer, HttpFault> {
        let nonce = proof::nonce();
        let response = self.exchange(target.address, &target.proving(credential, &nonce).bytes())?;
        let answer = judge(response, target, credential, &nonce);
        self.transcript.note("suite", "daemon's proof", format!("{:?}", answer.proof));
        Ok(answer)
    }

    fn noted(
        &self,
        address: SocketAddr,
        request: &[u8],
        exchange: impl FnOnce() -> Result<Response, HttpFault>,
    ) -> Result<Response, HttpFault> {
        self.transcript.note("suite", "request", format!("{address} {}", printable(request)));
        let result = exchange();
        match &result {
            Ok(response) => {
                let headers: Vec<String> =
                    response.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
                let headers = headers.join("; ");
                let body = printable(&response.body);
                self.transcript.note("suite", "answer", format!("{} {headers} {body}", response.status));
            }
            Err(fault) => self.transcript.note("suite", "no answer", fault.to_string()),
        }
        result
    }
}
