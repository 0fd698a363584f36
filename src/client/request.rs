//! A request of the product's, and its answer or error.

use std::fmt;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use local_daemon_proto::registration::LoopbackUrl;
use local_daemon_proto::registration::MAX_BYTES;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::DEFAULT_TIMEOUT;
use crate::exchange::{ExchangeError, Wire, deadline_in};
use crate::text::printable;

/// The most bytes of an answer that [`Connection::send`](super::Connection::send) takes unless [`Request::max_answer`] says
/// otherwise (16 MiB).
pub const DEFAULT_MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// How much of a body is sent before the client looks whether the daemon has answered, in bytes.
const PIECE: usize = 64 * 1024;

/// A request to the daemon. The credential is added when it is sent.
///
/// ```
/// use std::time::Duration;
/// use local_daemon::client::Request;
///
/// let request = Request::post("/v1/jobs").json(&["build", "test"])?.deadline(Duration::from_secs(60));
/// # Ok::<(), local_daemon::client::RequestError>(())
/// ```
pub struct Request<'a> {
    method: String,
    path: String,
    headers: String,
    has_accept: bool,
    body: Body<'a>,
    deadline: Duration,
    max_answer: usize,
    /// Why it cannot be sent.
    fault: Option<&'static str>,
}

/// The cause of an error.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

enum Body<'a> {
    None,
    Bytes(Vec<u8>),
    /// Streams, with its length if that is known.
    Reader(Box<dyn Read + Send + 'a>, Option<u64>),
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and body may contain secrets of the product.
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &without_query(&self.path))
            .finish_non_exhaustive()
    }
}

impl<'a> Request<'a> {
    /// Returns a request of any method but `CONNECT`, for a path with its query.
    pub fn new(method: &str, path: &str) -> Self {
        let is_token = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let fault = match () {
            () if !is_token(method) || method == "CONNECT" => Some("the method is none that can be sent"),
            () if !is_token(path) || !path.starts_with('/') => {
                Some("the path does not begin with `/`, or contains a character that must be percent-encoded")
            }
            () => None,
        };
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: String::new(),
            has_accept: false,
            body: Body::None,
            deadline: DEFAULT_TIMEOUT,
            max_answer: DEFAULT_MAX_ANSWER_BYTES,
            fault,
        }
    }

    /// Returns a GET of this path.
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// Returns a POST to this path.
    pub fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    /// Returns a PUT of this path.
    pub fn put(path: &str) -> Self {
        Self::new("PUT", path)
    }

    /// Returns a DELETE of this path.
    pub fn delete(path: &str) -> Self {
        Self::new("DELETE", path)
    }

    /// Adds a header. [`Connection::send`](super::Connection::send) fails if it is one that the connection itself sets, or if it
    /// contains what no header can.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        const OWN: [&str; 6] = [
            "authorization",
            "connection",
            "content-length",
            "host",
            "transfer-encoding",
            "upgrade",
        ];
        let is_name = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        let is_value = value.bytes().all(|byte| byte == b'\t' || byte >= b' ' && byte != 0x7f);
        if OWN.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            self.fault = Some("a header that the connection sets itself was given");
        } else if !is_name || !is_value {
            self.fault = Some("a header contains a character that none can have");
        } else {
            self.has_accept |= name.eq_ignore_ascii_case("accept");
            self.headers.extend([name, ": ", value, "\r\n"]);
        }
        self
    }

    /// Gives it a JSON body.
    ///
    /// # Errors
    /// Fails if `value` cannot be written as JSON.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Result<Self, RequestError> {
        match serde_json::to_vec(value) {
            Ok(bytes) => Ok(self.header("Content-Type", "application/json").body(bytes)),
            Err(error) => Err(self.error("", RequestErrorKind::Body, Some(Box::new(error)))),
        }
    }

    /// Gives it a body that is in memory.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Bytes(bytes.into());
        self
    }

    /// Gives it a body that is read while it is sent, of `length` bytes if that is known. What the daemon answers before the
    /// whole body was sent is kept in memory, at most [`max_answer`](Self::max_answer) bytes of it.
    #[must_use]
    pub fn body_from(mut self, reader: impl Read + Send + 'a, length: Option<u64>) -> Self {
        self.body = Body::Reader(Box::new(reader), length);
        self
    }

    /// Sets how long it may take until its whole answer is there: 10 s by default. For an answer that is
    /// [opened](super::Connection::open), until its head is there, and then for each part of its body.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how many bytes the body of the answer may have: [`DEFAULT_MAX_ANSWER_BYTES`] by default.
    #[must_use]
    pub fn max_answer(mut self, bytes: usize) -> Self {
        self.max_answer = bytes;
        self
    }

    pub(super) fn check(&self) -> Result<(), RequestErrorKind> {
        self.fault.map_or(Ok(()), |fault| Err(RequestErrorKind::Invalid(fault)))
    }

    pub(super) fn ends(&self) -> Instant {
        deadline_in(self.deadline)
    }

    pub(super) fn error(&self, url: &str, kind: RequestErrorKind, source: Option<BoxError>) -> RequestError {
        RequestError {
            kind,
            request: format!("{} {url}{}", self.method, without_query(&self.path)),
            source,
        }
    }

    /// Sends it; returns whether all of its body was sent. A refusal that comes before that ends the sending.
    pub(super) fn send(
        &mut self,
        wire: &mut Wire,
        authority: &str,
        bearer: &str,
        ends: Instant,
    ) -> Result<bool, SendError> {
        let mut headers = self.headers.clone();
        if !self.has_accept {
            headers.push_str("Accept: application/json\r\n");
        }
        let framing = match &self.body {
            Body::None if matches!(self.method.as_str(), "POST" | "PUT" | "PATCH") => Some(0),
            Body::None => None,
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::Reader(_, length) => *length,
        };
        let is_chunked = framing.is_none() && matches!(self.body, Body::Reader(..));
        match framing {
            Some(length) => headers.extend(["Content-Length: ", &length.to_string(), "\r\n"]),
            None if is_chunked => headers.push_str("Transfer-Encoding: chunked\r\n"),
            None => {}
        }
        let head = crate::exchange::request(&self.method, &self.path, authority, bearer, &headers);
        wire.send(&head, ends)?;
        let room = self.max_answer.saturating_add(MAX_BYTES);
        let sent = match std::mem::replace(&mut self.body, Body::None) {
            Body::None => Ok(true),
            Body::Bytes(bytes) => send_all(wire, &mut &bytes[..], Some(bytes.len() as u64), room, ends),
            Body::Reader(mut reader, length) => send_all(wire, &mut reader, length, room, ends),
        };
        match sent {
            // The daemon may have answered before it ended the connection.
            Err(SendError::ExchangeError(ExchangeError::Broken { .. })) => Ok(false),
            sent => sent,
        }
    }

    /// Reads the head of its answer.
    pub(super) fn answer(
        &self,
        wire: &mut Wire,
        is_whole: bool,
        ends: Instant,
    ) -> Result<Response, ExchangeError> {
        let answer = wire.answer(self.max_answer, ends)?;
        if self.method == "HEAD" {
            wire.skip_body();
        }
        if !is_whole {
            wire.close_after_answer();
        }
        Ok(Response { status: answer.status, headers: answer.headers, body: Vec::new() })
    }

    pub(super) fn read_body(
        &self,
        wire: &mut Wire,
        response: &mut Response,
        ends: Instant,
    ) -> Result<(), ExchangeError> {
        wire.whole_body(&mut response.body, self.max_answer, ends)
    }

    pub(super) fn part_deadline(&self) -> Duration {
        self.deadline
    }
}

/// Why a request was not sent, or not answered.
pub(super) enum SendError {
    ExchangeError(ExchangeError),
    Body(io::Error),
}

impl From<ExchangeError> for SendError {
    fn from(fault: ExchangeError) -> Self {
        Self::ExchangeError(fault)
    }
}

/// Sends a body; returns whether all of it was sent. At most `room` bytes of an answer that comes meanwhile are kept.
fn send_all(
    wire: &mut Wire,
    reader: &mut dyn Read,
    length: Option<u64>,
    room: usize,
    ends: Instant,
) -> Result<bool, SendError> {
    let mut piece = vec![0; PIECE];
    let mut left = length;
    loop {
        let most = left.map_or(PIECE, |left| usize::try_from(left).unwrap_or(PIECE).min(PIECE));
        let count = if most == 0 {
            0
        } else {
            read(reader, &mut piece[..most]).map_err(SendError::Body)?
        };
        match &mut left {
            None => {
                let mut chunk = format!("{count:x}\r\n").into_bytes();
                chunk.extend_from_slice(&piece[..count]);
                chunk.extend_from_slice(b"\r\n");
                if !wire.send_body(&chunk, room, ends)? {
                    return Ok(false);
                }
            }
            Some(0) => {}
            Some(_) if count == 0 => {
                let short = io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than announced");
                return Err(SendError::Body(short));
            }
            Some(left) => {
                if !wire.send_body(&piece[..count], room, ends)? {
                    return Ok(false);
                }
                *left -= count as u64;
            }
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

fn read(reader: &mut dyn Read, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// An answer: its head, and its body, which is whole unless it was [opened](super::Connection::open).
#[derive(Debug)]
#[non_exhaustive]
pub struct Response<B = Vec<u8>> {
    /// The status code. An error status is an answer as well.
    pub status: u16,
    /// Names and values in the order of their arrival.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: B,
}

impl<B> Response<B> {
    /// Returns whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Returns the first value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let is_it = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
        self.headers.iter().find(is_it).map(|(_, value)| value.as_str())
    }
}

impl Response {
    /// Returns the body as a value of a type of the caller's.
    ///
    /// # Errors
    /// Fails if the body is not JSON of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// Returns the problem by which the daemon explains an error (PER-35).
    pub fn problem(&self) -> Option<Problem> {
        if self.is_success() {
            return None;
        }
        self.json().ok()
    }
}

/// Why the daemon did not do what was asked (RFC 9457).
#[derive(Clone, PartialEq, Eq, Debug, serde::Deserialize)]
#[non_exhaustive]
pub struct Problem {
    /// The stable name of the reason, such as `not_found`.
    pub code: String,
    /// The reason for a person.
    #[serde(default)]
    pub detail: String,
}

/// An answer of a daemon other than the expected one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{url}{path}: the daemon answered {status}{}", reason_of(.problem.as_ref()))]
#[non_exhaustive]
pub struct AnswerError {
    /// The daemon's URL.
    pub url: LoopbackUrl,
    /// What was asked for, without its query.
    pub path: String,
    /// The status code.
    pub status: u16,
    /// The daemon's reason, if it gave one.
    pub problem: Option<Problem>,
}

pub(super) fn reason_of(problem: Option<&Problem>) -> String {
    // It may repeat what another program has sent.
    let text = |problem: &Problem| format!(" ({}): {}", printable(&problem.code), printable(&problem.detail));
    problem.map_or_else(String::new, text)
}

/// The body of an answer as it comes. Dropping it before its end closes the connection.
#[derive(Debug)]
pub struct BodyReader<'a> {
    pub(super) wire: Option<Wire>,
    /// Where the connection goes when the body has ended.
    pub(super) home: &'a mut Option<Wire>,
    pub(super) part_deadline: Duration,
    pub(super) part: Vec<u8>,
    pub(super) start: usize,
}

impl Read for BodyReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.start == self.part.len() {
            let Some(wire) = &mut self.wire else {
                return Ok(0);
            };
            wire.renew_framing();
            let part = wire.part(PIECE, deadline_in(self.part_deadline)).map_err(ExchangeError::into_io)?;
            let Some(part) = part else {
                *self.home = self.wire.take();
                return Ok(0);
            };
            (self.part, self.start) = (part, 0);
        }
        let count = into.len().min(self.part.len() - self.start);
        into[..count].copy_from_slice(&self.part[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }
}

/// A request that was not sent, or got no whole answer.
#[derive(Debug, thiserror::Error)]
#[error("{request}: {kind}{}", reason(.source.as_deref()))]
pub struct RequestError {
    kind: RequestErrorKind,
    /// The method, and the URL without its query.
    request: String,
    source: Option<BoxError>,
}

fn reason(source: Option<&(dyn std::error::Error + Send + Sync + 'static)>) -> String {
    source.map_or_else(String::new, |source| format!(": {source}"))
}

impl RequestError {
    #[cfg(feature = "async")]
    pub(super) fn new(kind: RequestErrorKind, request: String, source: Option<BoxError>) -> Self {
        Self { kind, request, source }
    }

    /// Returns which way it failed.
    pub fn kind(&self) -> RequestErrorKind {
        self.kind
    }
}

/// Which way a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestErrorKind {
    /// It cannot be sent; the text says why. Nothing was sent.
    #[error("{0}")]
    Invalid(&'static str),
    /// The body could not be read or written as JSON. The daemon may have read a part of it.
    #[error("its body cannot be read")]
    Body,
    /// The daemon is gone, or does not prove itself any more. Nothing was sent.
    #[error("the daemon is gone, or does not prove itself any more")]
    Gone,
    /// The daemon cannot be asked from this process. Nothing was sent.
    #[error("the daemon cannot be asked")]
    Unreachable,
    /// There was no whole answer before the deadline. The daemon may have done what was asked.
    #[error("there was no whole answer in time")]
    TimedOut,
    /// The connection broke before the whole answer. The daemon may have done what was asked.
    #[error("the connection broke before the whole answer had come")]
    Broken,
    /// The answer has more bytes than [`Request::max_answer`].
    #[error("the answer is longer than its limit")]
    TooLarge,
    /// The answer is not HTTP.
    #[error("the answer is not HTTP")]
    Malformed,
}

impl RequestErrorKind {
    pub(super) fn of(fault: &ExchangeError) -> Self {
        match fault {
            ExchangeError::Refused => Self::Gone,
            ExchangeError::Broken { .. } => Self::Broken,
            ExchangeError::TimedOut => Self::TimedOut,
            ExchangeError::Garbage => Self::Malformed,
            ExchangeError::TooLarge => Self::TooLarge,
            ExchangeError::Unreachable { .. } => Self::Unreachable,
        }
    }
}

/// A query may contain secrets of the product.
pub(super) fn without_query(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}
