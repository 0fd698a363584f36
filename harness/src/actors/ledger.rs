//! What an actor was sent, and when.

use std::net::SocketAddr;
use std::time::Instant;

use crate::proof::{self, Credential};
use crate::wait::Shared;

/// One connection that an actor took.
#[derive(Debug, Clone)]
pub struct Taken {
    /// When it was taken.
    pub at: Instant,
    /// The client's address.
    pub peer: SocketAddr,
    /// What was received, piece by piece.
    pub received: Vec<(Instant, Vec<u8>)>,
    /// When the client closed it, or the actor did.
    pub closed: Option<Instant>,
    /// How many bytes of an answer without end the system took for it.
    pub sent: u64,
    /// What a front passed back, or an actor that answers each request has answered.
    pub answered: Vec<u8>,
}

impl Taken {
    /// Everything received, joined.
    pub fn bytes(&self) -> Vec<u8> {
        self.received.iter().flat_map(|(_, piece)| piece.iter().copied()).collect()
    }

    /// The requests in it.
    pub fn requests(&self) -> Vec<Seen> {
        self.requests_at().into_iter().map(|(_, request)| request).collect()
    }

    /// The requests in it, each with the moment at which it was whole.
    pub fn requests_at(&self) -> Vec<(Instant, Seen)> {
        let mut whole = self.received.iter().scan(0, |length, (at, piece)| {
            *length += piece.len();
            Some((*length, *at))
        });
        let (mut reached, mut at) = (0, self.at);
        let bytes = self.bytes();
        let (mut requests, mut start) = (Vec::new(), 0);
        while let Some((request, length)) = parse_request(&bytes[start..]) {
            start += length;
            while reached < start
                && let Some(next) = whole.next()
            {
                (reached, at) = next;
            }
            requests.push((at, request));
        }
        requests
    }

    /// The statuses that a front passed back, in their order.
    pub fn statuses(&self) -> Vec<u16> {
        const LINE: &[u8] = b"HTTP/1.1 ";
        let lines = self.answered.windows(LINE.len() + 3).filter_map(|window| window.strip_prefix(LINE));
        lines.filter_map(|status| std::str::from_utf8(status).ok()?.parse().ok()).collect()
    }
}

/// A request that an actor was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The request target.
    pub target: String,
    /// Every header in its order.
    pub headers: Vec<(String, String)>,
    /// The body, by its `Content-Length`.
    pub body: Vec<u8>,
}

impl Seen {
    /// The first header of this name, in any case of letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The bytes of the same request, to the port `to` instead of `from`, where `Host` and `Origin` name that one.
    pub(super) fn moved(&self, from: u16, to: u16) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            let names_port = name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case("origin");
            let host = value.strip_suffix(&format!(":{from}")).filter(|_| names_port);
            let value = host.map_or_else(|| value.clone(), |host| format!("{host}:{to}"));
            head.extend([name, ": ", &value, "\r\n"]);
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

/// The whole request, with a body of known length, that `bytes` begin with, and its length in bytes.
pub(super) fn parse_request(bytes: &[u8]) -> Option<(Seen, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(start) = head.parse(bytes).ok()? else {
        return None;
    };
    let mut seen = Seen {
        method: head.method?.to_owned(),
        target: head.path?.to_owned(),
        headers: head
            .headers
            .iter()
            .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()))
            .collect(),
        body: Vec::new(),
    };
    let length = seen.header("content-length").map_or(Some(0), |length| length.parse::<usize>().ok())?;
    let end = start.checked_add(length)?;
    seen.body = bytes.get(start..end)?.to_vec();
    Some((seen, end))
}

/// What an actor was sent, and when. Clones show the same.
#[derive(Debug, Clone)]
pub struct Ledger(pub(super) Shared<Vec<Taken>>);

impl Ledger {
    /// Every connection so far.
    pub fn connections(&self) -> Vec<Taken> {
        self.0.read(Vec::clone)
    }

    /// Every request so far, over all connections.
    pub fn requests(&self) -> Vec<Seen> {
        self.connections().iter().flat_map(Taken::requests).collect()
    }

    /// Whether any connection carried exactly these bytes in one run.
    pub fn saw_bytes(&self, needle: &[u8]) -> bool {
        !needle.is_empty()
            && self
                .connections()
                .iter()
                .any(|taken| taken.bytes().windows(needle.len()).any(|w| w == needle))
    }

    /// Whether any connection carried the credential, raw or in base64, base64url or hexadecimal.
    pub fn saw_secret(&self, credential: &Credential) -> bool {
        self.connections().iter().any(|taken| proof::holds(&taken.bytes(), credential.bytes()))
    }

    /// Waits until the connections so far satisfy `seen`; `None` at the deadline.
    pub fn wait_for(&self, deadline: Instant, mut seen: impl FnMut(&[Taken]) -> bool) -> Option<Vec<Taken>> {
        self.0.wait(deadline, |taken| seen(taken).then(|| taken.clone()))
    }

    /// Waits for the first whole request.
    pub fn wait_request(&self, deadline: Instant) -> Option<Seen> {
        self.0
            .wait(deadline, |taken| taken.iter().find_map(|taken| taken.requests().into_iter().next()))
    }
}
