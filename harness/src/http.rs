//! Raw HTTP/1.1 over TCP, with a deadline on everything and a name for every way of failing.

mod connection;
mod probe;

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;

pub use self::connection::{Connection, Pieces};
pub use self::probe::{
    DaemonProof, Handshake, ProbeAnswer, Target, Wire, is_protocol, judge, probe_with_bearer,
    probe_with_proof,
};
use crate::transcript::{Transcript, printable};

/// Path of the handshake.
pub const HANDSHAKE: &str = "/.well-known/local-daemon";

/// A head or a body beyond this many bytes is [`HttpFault::TooLarge`].
pub const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpFault {
    /// Nothing accepts connections at the address.
    #[error("connection refused")]
    Refused,
    /// The connection was reset, or broke while sending.
    #[error("connection reset")]
    Reset,
    /// No whole answer by the deadline.
    #[error("timed out")]
    TimedOut,
    /// The connection was closed before a whole answer; so many bytes of one had come.
    #[error("closed after {0} bytes of an answer")]
    Closed(usize),
    /// What came is not HTTP.
    #[error("not HTTP: {0}")]
    Malformed(String),
    /// More than [`MOST_BYTES`].
    #[error("too large an answer")]
    TooLarge,
    /// Another fault of this host: no descriptor left, no route …
    #[error("cannot connect: {0}")]
    Host(io::ErrorKind),
}

impl From<io::Error> for HttpFault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::Reset
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut,
            kind => Self::Host(kind),
        }
    }
}

/// A request, or any bytes in the place of one.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    length: bool,
}

impl Request {
    /// `method target HTTP/1.1` without headers: see [`Request::host`].
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            length: true,
        }
    }

    /// A `GET` for `target` at `authority`.
    pub fn get(authority: &str, target: &str) -> Self {
        Self::new("GET", target).host(authority)
    }

    /// A `Host` header.
    #[must_use]
    pub fn host(self, authority: &str) -> Self {
        self.header("Host", authority)
    }

    /// One more header, sent as it is: also one that is there already, also one that is not allowed.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A body, announced by `Content-Length`.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// A JSON body with its content type.
    #[must_use]
    pub fn json(self, body: impl Into<Vec<u8>>) -> Self {
        self.header("Content-Type", "application/json").body(body)
    }

    /// Leaves `Content-Length` out: the headers given say how the body is framed, rightly or not.
    #[must_use]
    pub fn unframed(mut self) -> Self {
        self.length = false;
        self
    }

    /// The bytes of it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if self.length
            && (!self.body.is_empty() || !matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS"))
        {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Every header in its order, the name as sent.
    pub headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// Whether the connection ends with this answer.
    pub closes: bool,
    /// When it was whole.
    pub at: Instant,
}

impl Response {
    /// The first header of this name, in any case of letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// Every header of this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// Whether a header that is a list of tokens holds `token`.
    fn says(&self, name: &str, token: &str) -> bool {
        let values = self.all(name);
        values
            .iter()
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    }

    /// The media type, in lowercase and without parameters.
    pub fn media_type(&self) -> Option<String> {
        let value = self.header("content-type")?;
        Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
    }

    /// The body as JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// One line that says what came, for an observed side, without the secrets that `transcript` hides.
    pub fn summary(&self, transcript: &Transcript) -> String {
        // Redacted before it is cut: half a secret is not recognised.
        let mut body = transcript.redact(&printable(&self.body));
        body.truncate(body.floor_char_boundary(400));
        format!("{} ({} bytes): {body}", self.status, self.body.len())
    }
}

fn malformed(why: impl Into<String>) -> HttpFault {
    HttpFault::Malformed(why.into())
}

/// One request on a connection of its own.
pub fn exchange(address: SocketAddr, bytes: &[u8], deadline: Instant) -> Result<Response, HttpFault> {
    Connection::open(address, deadline)?.exchange(bytes, deadline)
}
