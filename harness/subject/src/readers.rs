//! What the subject makes of single files and requests. The fuzzers hold it beside the crate's own readers.

use crate::answer::{METHOD, Refusal, UNAUTHORIZED};
use crate::handshake::{self, Claim};
use crate::perimeter::{self, Origin};
use crate::request::Request;
use crate::{credential, registration, streams};

/// The members of a record that decide.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub id: String,
    /// Informational.
    pub version: String,
    /// Where it listens.
    pub url: String,
    /// Its process.
    pub pid: u32,
    /// The hint.
    pub protocol: Option<String>,
}

/// Takes bytes for a record.
pub fn record(bytes: &[u8]) -> Option<Record> {
    let registration::Record { id, version, url, pid, protocol, .. } =
        registration::Record::parse(bytes).ok()?;
    Some(Record { id, version, url, pid, protocol })
}

/// `host:port` of a record's `url`.
pub fn authority(url: &str) -> Option<&str> {
    registration::authority(url)
}

/// Takes the bytes of a file for a credential.
pub fn credential(bytes: &[u8]) -> Option<[u8; 32]> {
    credential::Credential::parse(bytes).map(|credential| *credential.key())
}

/// Takes the value of an `Authorization` header for a proof: its nonce, as it was sent, and its code.
pub fn proof(header: &str) -> Option<(String, [u8; 32])> {
    Claim::parse(header).map(|claim| (claim.nonce, claim.mac))
}

/// Whether a text may stand on the list of origins.
pub fn is_origin(text: &str) -> bool {
    perimeter::is_origin(text)
}

/// What the table of chapter 10 says of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The allowlisted origin that may read the answer.
    pub reader: Option<String>,
    /// What follows.
    pub step: Step,
}

/// Where the table ends.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The first check that failed: its status and code.
    Refused(u16, &'static str),
    /// A preflight's 204.
    Preflight,
    /// A handshake; whether the answer proves itself.
    Handshake(bool),
    /// The route.
    Route,
}

/// Judges the first request in `bytes` as a daemon does that listens on `port`, for which `authority` stands in the record;
/// `None` where its head is not whole. Doors for browsers and the bounds are left aside.
pub fn judge(
    bytes: &[u8],
    (port, authority): (u16, &str),
    key: &[u8],
    listed: impl Fn(&str) -> bool,
) -> Option<Verdict> {
    let refused = |refusal: Refusal| Step::Refused(refusal.0, refusal.1);
    let request = match Request::parse(bytes) {
        Ok(Some((request, _))) => request,
        Ok(None) => return None,
        Err(refusal) => {
            let step = refused(refusal);
            return Some(Verdict { reader: None, step });
        }
    };
    let reader = perimeter::reader(&request, &listed);
    let host = request.framing().and_then(|()| perimeter::host(&request, port, None, true));
    let origin = host.and_then(|host| perimeter::origin(&request, host, &listed));
    let step = match (origin, credential::Credential::parse(key)?) {
        (Err(refusal), _) => refused(refusal),
        (Ok(Origin::Listed(_)), _) if perimeter::is_preflight(&request) => Step::Preflight,
        (Ok(_), key) => match perimeter::authenticate(&request, authority, &key) {
            None => refused(UNAUTHORIZED),
            Some(pass) if request.path == handshake::PATH => match request.method.as_str() {
                "GET" => Step::Handshake(matches!(pass, perimeter::Pass::Proof(_))),
                _ => refused(METHOD),
            },
            Some(_) => Step::Route,
        },
    };
    Some(Verdict { reader, step })
}

/// The path whose `GET` may authenticate by its query.
pub const STREAM: &str = streams::PATH;
