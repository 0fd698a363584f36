//! Chapter 10: how a request is read from its connection, and how much of it.

use std::io::{self, Read as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::answer::{HEADERS_TOO_LARGE, INVALID, Refusal, TARGET_TOO_LONG, TIME, TOO_LARGE};
use crate::fault::broken;
use crate::handshake::Claim;

/// The longest request target, header section and body, in bytes.
const TARGET: usize = 16 * 1024;
const HEADERS: usize = 32 * 1024;
/// How much of a head is read at all: the answer to what is not much too long can say who may read it.
const HEAD: usize = 128 * 1024;
pub(super) const BODY: usize = 1024 * 1024;
/// How long a header section may take, and how long a body may pause.
const HEAD_TIME: Duration = Duration::from_secs(9);
const BODY_PAUSE: Duration = Duration::from_secs(25);

/// Why there is no request to answer.
pub(super) enum NoRequest {
    Refused(Refusal),
    /// The connection is over.
    Closed,
}

/// The head of a request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    /// What an absolute target names.
    pub(super) authority: Option<String>,
    /// Whether an absolute target has another scheme than the daemon's.
    pub(super) is_of_another_scheme: bool,
    headers: Vec<(String, Vec<u8>)>,
    /// What of it is too large, though not too large to be read.
    pub(super) excess: Option<Refusal>,
    /// HTTP/1.1, not 1.0.
    pub(super) modern: bool,
}

impl Request {
    /// Every value of the headers of this name.
    pub(super) fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = self.headers.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_slice())
    }

    /// The text of the first header of this name.
    pub(super) fn header<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.headers(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Every value of the query parameters of this name.
    pub(super) fn parameters<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Whether the header `Connection` holds a word.
    pub(super) fn wants(&self, word: &str) -> bool {
        let values = self.headers("Connection").filter_map(|value| std::str::from_utf8(value).ok());
        values
            .flat_map(|value| value.split(','))
            .any(|other| other.trim().eq_ignore_ascii_case(word))
    }

    /// Takes bytes for a request's head; `None` if there is more to come. With it the length of the head.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Refusal> {
        // The end of a head, and what follows it, lie in what was read last.
        let recent = &bytes[bytes.len().saturating_sub(8 * 1024)..];
        if broken("PER-30.endless-head") && !recent.windows(4).any(|end| end == b"\r\n\r\n") {
            return Ok(None);
        }
        let line = bytes.iter().position(|byte| *byte == b'\n');
        let most = if broken("PER-29.few-headers") { 99 } else { 2048 };
        let mut headers = vec![httparse::EMPTY_HEADER; most];
        let mut head = httparse::Request::new(&mut headers);
        let length = match head.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD => return Ok(None),
            Ok(httparse::Status::Partial) if line.is_none() => return Err(TARGET_TOO_LONG),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(HEADERS_TOO_LARGE);
            }
            Err(_) => return Err(INVALID),
        };
        let (Some(line), Some(method), Some(target), Some(version)) =
            (line, head.method, head.path, head.version)
        else {
            return Err(INVALID);
        };
        let target_limit = if broken("PER-29.short-target") { 2 * 1024 } else { TARGET };
        let excess = match target.len() {
            too_long if too_long > target_limit && !broken("PER-30.any-target") => Some(TARGET_TOO_LONG),
            _ if length - line > HEADERS && !broken("PER-30.any-header") => Some(HEADERS_TOO_LARGE),
            _ => None,
        };
        // No client sends a fragment; many servers drop one.
        let target = target.split('#').next().unwrap_or_default();
        let (scheme, authority, origin_form) = match target.split_once("://") {
            _ if target.starts_with('/') || (target == "*" && method == "OPTIONS") => ("http", None, target),
            Some((scheme, rest)) if is_scheme(scheme) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let origin_form = if end == rest.len() { "/" } else { &rest[end..] };
                (scheme, Some(rest[..end].to_owned()), origin_form)
            }
            _ => return Err(INVALID),
        };
        let (path, query) = origin_form.split_once('?').unwrap_or((origin_form, ""));
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(name), percent_decode(value))
        });
        let request = Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.collect(),
            authority,
            is_of_another_scheme: !scheme.eq_ignore_ascii_case("http"),
            headers: head
                .headers
                .iter()
                .map(|header| (header.name.to_owned(), header.value.to_vec()))
                .collect(),
            modern: version == 1,
            excess,
        };
        Ok(Some((request, length)))
    }

    /// How many bytes of body follow; `None` for chunks.
    fn body_length(&self) -> Result<Option<u64>, Refusal> {
        let mut codings = self.headers("Transfer-Encoding");
        let mut lengths = self.headers("Content-Length");
        match (codings.next(), lengths.next(), codings.next(), lengths.next()) {
            (None, None, ..) => Ok(Some(0)),
            (_, Some(length), ..) if broken("PER-1.first-length") => {
                let length = std::str::from_utf8(length).map_err(|_| INVALID)?;
                let first = length.split(',').next().unwrap_or_default();
                Ok(Some(first.trim().parse().map_err(|_| INVALID)?))
            }
            (Some(codings), None, None, _) if is_chunked(codings) => Ok(None),
            (None, Some(length), _, None) if length.iter().all(u8::is_ascii_digit) && !length.is_empty() => {
                // A number that is none of a machine's is too large, not invalid.
                let length = std::str::from_utf8(length).map_err(|_| INVALID)?;
                Ok(Some(length.parse().unwrap_or(u64::MAX)))
            }
            _ => Err(INVALID),
        }
    }

    /// Whether it can be told where the request ends.
    pub(super) fn framing(&self) -> Result<(), Refusal> {
        self.body_length().map(drop)
    }

    pub(super) fn has_body(&self) -> bool {
        self.body_length() != Ok(Some(0))
    }
}

/// Whether a text has the form of a URL's scheme.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let decoded = match after {
            [high, low, ..] if *first == b'%' => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A connection and what was read from it beyond the last request.
pub(super) struct Incoming {
    pub(super) stream: Arc<TcpStream>,
    /// Its number among the strangers.
    pub(super) number: u64,
    /// The deadline of the whole next body, if it has one.
    pub(super) body_until: Option<Instant>,
    /// A body that a faulty daemon has read already.
    pub(super) ahead: Option<Vec<u8>>,
    /// Whether a faulty daemon has let a request of it in.
    pub(super) trusted: bool,
    buffer: Vec<u8>,
    /// Whether an earlier request of this connection was let in, and the first proof of it: what a faulty daemon remembers.
    pub(super) passed: bool,
    pub(super) first: Option<Claim>,
}

impl Incoming {
    pub(super) fn new(stream: Arc<TcpStream>, number: u64) -> Self {
        Self {
            stream,
            number,
            body_until: None,
            ahead: None,
            trusted: false,
            buffer: Vec::new(),
            passed: false,
            first: None,
        }
    }

    /// Reads some more within the time; `false` at the end.
    fn more(&mut self, until: Instant) -> Result<bool, NoRequest> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NoRequest::Refused(TIME));
        }
        let mut bytes = [0; 4096];
        let _ = self.stream.set_read_timeout(Some(left));
        match (&*self.stream).read(&mut bytes) {
            Ok(count) => {
                self.buffer.extend_from_slice(&bytes[..count]);
                Ok(count > 0)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(NoRequest::Refused(TIME))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(_) => Err(NoRequest::Closed),
        }
    }

    /// The head of the next request.
    pub(super) fn head(&mut self) -> Result<Request, NoRequest> {
        let mut until = Instant::now() + HEAD_TIME;
        if broken("HS-34.hurries") {
            until = Instant::now() + Duration::from_secs(1);
        }
        loop {
            if broken("PER-33.each-byte") || broken("PER-33.head") {
                until = Instant::now() + HEAD_TIME * if broken("PER-33.head") { 60 } else { 1 };
            }
            // A client may end a line that it did not need to send.
            let blank = self.buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.buffer.drain(..blank);
            if let Some((request, length)) = Request::parse(&self.buffer).map_err(NoRequest::Refused)? {
                self.buffer.drain(..length);
                return Ok(request);
            }
            let nothing = self.buffer.is_empty();
            match self.more(until) {
                Ok(true) => {}
                Ok(false) if nothing => return Err(NoRequest::Closed),
                Ok(false) if broken("HS-10.ends-over-a-cut") => std::process::exit(1),
                Ok(false) => return Err(NoRequest::Refused(INVALID)),
                Err(NoRequest::Refused(_)) if nothing => return Err(NoRequest::Closed),
                Err(why) => return Err(why),
            }
        }
    }

    /// The body of a request, if it is no longer than `most` bytes.
    pub(super) fn body(&mut self, request: &Request, most: usize) -> Result<Vec<u8>, NoRequest> {
        if let Some(body) = self.ahead.take() {
            return Ok(body);
        }
        let refused = NoRequest::Refused;
        // A client of HTTP/1.0 takes an interim answer for the answer.
        let expects = (request.modern || broken("PER-53.to-anybody"))
            && request.header("Expect").is_some_and(|what| what.eq_ignore_ascii_case("100-continue"));
        let length = request.body_length().map_err(refused)?;
        let most = if broken("PER-30.any-body") { usize::MAX } else { most };
        if length.is_some_and(|length| length > most as u64) {
            return Err(refused(TOO_LARGE));
        }
        if expects && length != Some(0) {
            self.go_on()?;
        }
        match length.and_then(|length| usize::try_from(length).ok()) {
            Some(length) => self.take(length),
            None => self.chunks(most),
        }
    }

    /// Returns the deadline of the next bytes of a body.
    fn body_deadline(&self) -> Instant {
        self.body_until.unwrap_or_else(|| Instant::now() + BODY_PAUSE)
    }

    fn go_on(&self) -> Result<(), NoRequest> {
        io::Write::write_all(&mut &*self.stream, b"HTTP/1.1 100 Continue\r\n\r\n")
            .map_err(|_| NoRequest::Closed)
    }

    fn chunks(&mut self, most: usize) -> Result<Vec<u8>, NoRequest> {
        let refused = NoRequest::Refused;
        let malformed = if broken("PER-50.too-large") { TOO_LARGE } else { INVALID };
        let mut body = Vec::new();
        loop {
            let (line, size) = loop {
                match httparse::parse_chunk_size(&self.buffer) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) if self.buffer.len() < 256 => {}
                    _ if broken("PER-50.cut") => return Err(NoRequest::Closed),
                    _ => return Err(refused(malformed)),
                }
                if !self.more(self.body_deadline())? {
                    return Err(refused(INVALID));
                }
            };
            self.buffer.drain(..line);
            let size = usize::try_from(size)
                .ok()
                .filter(|size| *size <= most - body.len())
                .ok_or(refused(TOO_LARGE))?;
            if size == 0 {
                // Trailers mean nothing here; each is a line, and the last one is empty.
                for _ in 0..64 {
                    if self.line()?.is_empty() {
                        return Ok(body);
                    }
                }
                return Err(refused(INVALID));
            }
            body.append(&mut self.take(size)?);
            if !self.line()?.is_empty() && !broken("PER-50.longer-chunks") {
                return Err(refused(malformed));
            }
        }
    }

    fn line(&mut self) -> Result<Vec<u8>, NoRequest> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.retain(|byte| !matches!(byte, b'\r' | b'\n'));
                return Ok(line);
            }
            if self.buffer.len() > 4096 || !self.more(self.body_deadline())? {
                return Err(NoRequest::Refused(INVALID));
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, NoRequest> {
        while self.buffer.len() < length {
            let until =
                self.body_deadline() + if broken("PER-33.body") { BODY_PAUSE * 60 } else { Duration::ZERO };
            if !self.more(until)? {
                return Err(NoRequest::Closed);
            }
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }
}

/// Whether a list of codings names `chunked`, once, and no other; a list may have empty elements.
fn is_chunked(codings: &[u8]) -> bool {
    let named = codings.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let named: Vec<&[u8]> = named.filter(|coding| !coding.is_empty()).collect();
    matches!(named[..], [coding] if coding.eq_ignore_ascii_case(b"chunked"))
}
