//! Chapter 10: what is checked about each request before any route sees it.

pub(crate) mod faults;

use std::io::{self, Read as _};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use super::browser::Pages;
use super::credential::Credential;
use super::fault::broken;
use super::handshake::{self, Claim};
use super::state_directory::{Content, Fault, StateDir, random_hex};
use super::streams::{self, Log};

/// The longest request target, header section and body, in bytes.
const TARGET: usize = 16 * 1024;
const HEADERS: usize = 32 * 1024;
/// How much of a head is read at all: the answer to what is not much too long can say who may read it.
const HEAD: usize = 128 * 1024;
pub(super) const BODY: usize = 1024 * 1024;
/// How long a header section may take, and how long a body may pause.
const HEAD_TIME: Duration = Duration::from_secs(9);
const BODY_PAUSE: Duration = Duration::from_secs(25);
/// The file that holds the user's list of origins.
const CONFIG: &str = "config.toml";

/// Why a request is refused: status, code, title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) u16, pub(super) &'static str, pub(super) &'static str);

pub(super) const INVALID: Refusal = Refusal(400, "invalid_request", "Invalid request");
pub(super) const UNAUTHORIZED: Refusal = Refusal(401, "unauthorized", "Unauthorized");
pub(super) const ORIGIN: Refusal = Refusal(403, "origin_refused", "Origin refused");
pub(super) const FORBIDDEN: Refusal = Refusal(403, "forbidden_scope", "Forbidden");
pub(super) const NOT_FOUND: Refusal = Refusal(404, "not_found", "Not found");
pub(super) const METHOD: Refusal = Refusal(405, "method_not_allowed", "Method not allowed");
const TIME: Refusal = Refusal(408, "request_timeout", "Request timeout");
pub(super) const TOO_LARGE: Refusal = Refusal(413, "body_too_large", "Body too large");
pub(super) const TARGET_TOO_LONG: Refusal = Refusal(414, "uri_too_long", "Request target too long");
const MISDIRECTED: Refusal = Refusal(421, "misdirected", "Misdirected");
pub(super) const HEADERS_TOO_LARGE: Refusal = Refusal(431, "headers_too_large", "Headers too large");
pub(super) const OVERLOADED: Refusal = Refusal(503, "overloaded", "Overloaded");
pub(super) const DRAINING: Refusal = Refusal(503, "draining", "Draining");

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
        let most = if broken("PER-29.few-headers") { 64 } else { 2048 };
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
        let (authority, origin_form) = match target.strip_prefix("http://") {
            Some(rest) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                (Some(rest[..end].to_owned()), if end == rest.len() { "/" } else { &rest[end..] })
            }
            None if target.starts_with('/') || (target == "*" && method == "OPTIONS") => (None, target),
            None => return Err(INVALID),
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
    pub(super) stream: TcpStream,
    /// Whether a faulty daemon has let a request of it in.
    pub(super) trusted: bool,
    buffer: Vec<u8>,
    /// Whether an earlier request of this connection was let in, and the first proof of it: what a faulty daemon remembers.
    pub(super) passed: bool,
    pub(super) first: Option<Claim>,
}

impl Incoming {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, trusted: false, buffer: Vec::new(), passed: false, first: None }
    }

    /// Reads some more within the time; `false` at the end.
    fn more(&mut self, until: Instant) -> Result<bool, NoRequest> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NoRequest::Refused(TIME));
        }
        let mut bytes = [0; 4096];
        let _ = self.stream.set_read_timeout(Some(left));
        match self.stream.read(&mut bytes) {
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
        let refused = NoRequest::Refused;
        let expects = request.header("Expect").is_some_and(|what| what.eq_ignore_ascii_case("100-continue"));
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

    fn go_on(&self) -> Result<(), NoRequest> {
        io::Write::write_all(&mut &self.stream, b"HTTP/1.1 100 Continue\r\n\r\n")
            .map_err(|_| NoRequest::Closed)
    }

    fn chunks(&mut self, most: usize) -> Result<Vec<u8>, NoRequest> {
        let refused = NoRequest::Refused;
        let mut body = Vec::new();
        loop {
            let (line, size) = loop {
                match httparse::parse_chunk_size(&self.buffer) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) if self.buffer.len() < 256 => {}
                    _ => return Err(refused(INVALID)),
                }
                if !self.more(Instant::now() + BODY_PAUSE)? {
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
            if !self.line()?.is_empty() {
                return Err(refused(INVALID));
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
            if self.buffer.len() > 4096 || !self.more(Instant::now() + BODY_PAUSE)? {
                return Err(NoRequest::Refused(INVALID));
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, NoRequest> {
        while self.buffer.len() < length {
            let pause = if broken("PER-33.body") { BODY_PAUSE * 60 } else { BODY_PAUSE };
            if !self.more(Instant::now() + pause)? {
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

/// Whether a name is one of the three that the daemon has.
fn is_own_name(name: &[u8], port: u16) -> bool {
    let is_own = ["127.0.0.1", "localhost", "[::1]"]
        .iter()
        .any(|host| format!("{host}:{port}").as_bytes() == name);
    faults::own_name(name, port).unwrap_or(is_own)
}

/// The `Host` of the request, if it is one of the daemon's three names.
pub(super) fn host(request: &Request, port: u16, served: bool) -> Result<&[u8], Refusal> {
    if let Some(host) = faults::unjudged_host(request, served) {
        return Ok(host);
    }
    let mut hosts = request.headers("Host");
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(INVALID);
    };
    let misnamed = !broken("PER-6.unread")
        && request
            .authority
            .as_ref()
            .is_some_and(|authority| !is_own_name(authority.as_bytes(), port));
    if misnamed || !is_own_name(host, port) { Err(MISDIRECTED) } else { Ok(host) }
}

/// What an `Origin` is to the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Absent,
    Same,
    Listed(String),
}

/// Judges the `Origin` of a request to `host`.
pub(super) fn origin(
    request: &Request,
    host: &[u8],
    listed: impl FnOnce(&str) -> bool,
) -> Result<Origin, Refusal> {
    let mut origins = request.headers("Origin");
    match (origins.next(), origins.next()) {
        (None, _) => Ok(Origin::Absent),
        (Some(origin), Some(_)) if broken("PER-11.first-of-two") => match std::str::from_utf8(origin) {
            Ok(origin) if listed(origin) => Ok(Origin::Listed(origin.to_owned())),
            _ => Err(ORIGIN),
        },
        (Some(origin), None) if origin.strip_prefix(b"http://") == Some(host) => Ok(Origin::Same),
        (Some(origin), None) => match std::str::from_utf8(origin) {
            Ok(origin) if (is_origin(origin) || broken("PER-10.any-case")) && listed(origin) => {
                Ok(Origin::Listed(origin.to_owned()))
            }
            _ => Err(ORIGIN),
        },
        _ => Err(ORIGIN),
    }
}

/// The origin that may read the answer, whatever the answer is (PER-13).
pub(super) fn reader(request: &Request, listed: impl FnOnce(&str) -> bool) -> Option<String> {
    match origin(request, b"", listed) {
        Ok(Origin::Listed(origin)) => Some(origin),
        _ => None,
    }
}

/// Whether the request asks what a page may send.
pub(super) fn is_preflight(request: &Request) -> bool {
    request.method == "OPTIONS" && request.headers("Access-Control-Request-Method").next().is_some()
}

/// How a request showed that it may come in.
pub(super) enum Pass {
    Bearer,
    /// Opens the handshake alone.
    Proof(Claim),
    /// The page token of this id.
    Page(String),
    /// Nothing yet: the route judges the ticket that it is about to be given.
    Ticket,
}

/// Judges the authentication of a request.
pub(super) fn authenticate(request: &Request, authority: &str, credential: &Credential) -> Option<Pass> {
    if let Some(pass) = faults::pass(request, credential) {
        return Some(pass);
    }
    let mut given = request.headers("Authorization");
    let header = match (given.next(), given.next()) {
        (None, _) => None,
        (Some(header), None) => Some(header),
        _ => return None,
    };
    let mut tokens = request.parameters("token");
    let token = tokens.next();
    if token.is_some() {
        let is_stream = request.method == "GET" && request.path == streams::PATH;
        let right = token.is_some_and(|token| credential.is(token.as_bytes())) && tokens.next().is_none();
        if !is_stream || !right {
            return None;
        }
    }
    let Some(header) = header else {
        return token.map(|_| Pass::Bearer);
    };
    if let Some((b"bearer", b' ')) = header
        .get(..7)
        .map(|start| (start[..6].to_ascii_lowercase(), start[6]))
        .as_ref()
        .map(|(scheme, space)| (scheme.as_slice(), *space))
    {
        return handshake::bears(credential, &header[7..]).then_some(Pass::Bearer);
    }
    if header.eq_ignore_ascii_case(b"bearer") && broken("HS-7.empty") {
        return Some(Pass::Bearer);
    }
    let claim = Claim::parse(std::str::from_utf8(header).ok()?)?;
    let addressed = request.header("Host").filter(|_| broken("HS-20.as-addressed"));
    let holds =
        claim.holds(credential, authority) || addressed.is_some_and(|host| claim.holds(credential, host));
    let its_own = request.path == handshake::PATH && request.method == "GET";
    (holds && (its_own || broken("HS-23.everywhere"))).then_some(Pass::Proof(claim))
}

/// Whether a text is one serialised origin, as it may stand on the list.
pub(super) fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let scheme_good = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'));
    let (host, port) = match rest.rsplit_once(':') {
        // The colon may be one of an address in brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let default = match scheme {
        "http" | "ws" => Some("80"),
        "https" | "wss" => Some("443"),
        "ftp" => Some("21"),
        _ => None,
    };
    let port_good = port.is_none_or(|port| {
        let digits =
            !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
        digits && port.parse::<u16>().is_ok() && Some(port) != default
    });
    scheme_good && port_good && is_serialised_host(host)
}

/// Whether a host is written as a browser writes it.
fn is_serialised_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        // What stands for an IPv4 address is written with dots here, and by no browser.
        return address.parse::<std::net::Ipv6Addr>().is_ok_and(|parsed| {
            let [.., high, low] = parsed.segments();
            match parsed.to_ipv4_mapped() {
                Some(_) => address == format!("::ffff:{high:x}:{low:x}"),
                None => address == parsed.to_string(),
            }
        });
    }
    let labels_good = !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        });
    // A host whose last label is a number is an address, and there is one way to write it.
    let last = host.rsplit('.').next().unwrap_or_default();
    let hexadecimal = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let numeric =
        last.bytes().all(|byte| byte.is_ascii_digit()) || last.strip_prefix("0x").is_some_and(hexadecimal);
    labels_good
        && (!numeric || host.parse::<std::net::Ipv4Addr>().is_ok_and(|parsed| parsed.to_string() == host))
}

/// The origins that the user admitted: those of the launch, and those of the file at this moment.
pub(super) struct Allowlist {
    directory: StateDir,
    launch: Vec<String>,
    file: Mutex<Listed>,
    /// What pages of these origins hold ends with them.
    pub(super) pages: Pages,
}

struct Listed {
    origins: Vec<String>,
    fault: Option<String>,
    read_before: bool,
    read: Instant,
}

impl Allowlist {
    pub(super) fn new(directory: StateDir, launch: Vec<String>) -> Self {
        Self {
            directory,
            launch,
            file: Mutex::new(Listed {
                origins: Vec::new(),
                fault: None,
                read_before: false,
                read: Instant::now(),
            }),
            pages: Pages::default(),
        }
    }

    /// Reads the file, which may have changed. What cannot be used changes nothing.
    pub(super) fn refresh(&self, log: &Log) {
        let mut listed = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let rarely = broken("PER-41.every-other-second") && listed.read.elapsed() < Duration::from_secs(2);
        if listed.read_before && (broken("PER-41.at-start") || rarely) {
            return;
        }
        match read_origins(&self.directory) {
            Ok(origins) => {
                let change =
                    |what, origin: &String| log.append("origins", &json!({"what": what, "origin": origin}));
                if listed.read_before {
                    for origin in origins.iter().filter(|origin| !listed.origins.contains(origin)) {
                        change("added", origin);
                        self.pages.welcome(origin);
                    }
                    for origin in listed.origins.iter().filter(|origin| !origins.contains(origin)) {
                        change("removed", origin);
                        if !self.launch.contains(origin) {
                            self.pages.forget(origin);
                        }
                    }
                }
                *listed = Listed { origins, fault: None, read_before: true, read: Instant::now() };
            }
            Err(fault) => {
                let fault = Some(fault.to_string());
                if listed.fault != fault {
                    log.append("warning", &json!({"code": "config_invalid", "message": fault}));
                    listed.fault = fault;
                }
            }
        }
    }

    /// Whether an origin is admitted at this moment.
    pub(super) fn admits(&self, origin: &str, log: &Log) -> bool {
        self.refresh(log);
        let listed = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.launch.iter().chain(&listed.origins);
        all.any(|admitted| admitted == origin || faults::alike(origin, admitted))
            || faults::admitted_by_default(origin)
            || faults::remembered(origin)
    }
}

/// The configuration file, or an empty one.
fn read_config(directory: &StateDir) -> Result<toml::Table, Fault> {
    let path = directory.file(CONFIG);
    match directory.read(CONFIG) {
        Content::Bytes(bytes) => {
            let text = String::from_utf8(bytes).map_err(|_| Fault::new(&path, "not UTF-8"))?;
            text.parse().map_err(|error: toml::de::Error| Fault::new(&path, error.message()))
        }
        Content::Absent | Content::NoDirectory => Ok(toml::Table::new()),
        Content::Refused(fault) => Err(fault),
    }
}

fn read_origins(directory: &StateDir) -> Result<Vec<String>, Fault> {
    let fault = |why: &str| Fault::new(directory.file(CONFIG), why);
    let config = read_config(directory)?;
    let Some(origins) = config.get("origins") else {
        return Ok(Vec::new());
    };
    let origins = origins.as_table().ok_or_else(|| fault("`origins` is no table"))?;
    let Some(allow) = origins.get("allow") else {
        return Ok(Vec::new());
    };
    let entries = allow.as_array().ok_or_else(|| fault("`origins.allow` is no array"))?.iter();
    let origin = |entry: &toml::Value| entry.as_str().filter(|entry| is_origin(entry)).map(str::to_owned);
    entries
        .map(|entry| origin(entry).ok_or_else(|| fault("`origins.allow` holds what is no serialised origin")))
        .collect()
}

/// `origins add|remove ORIGIN --state-dir DIR`: edits the list. A running daemon reads it with each request.
pub fn edit_origins(arguments: &[String]) -> u8 {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ([what @ ("add" | "remove"), origin, "--state-dir", directory]
    | [what @ ("add" | "remove"), "--state-dir", directory, origin]) = arguments[..]
    else {
        eprintln!("usage: daemonspec-subject origins add|remove ORIGIN --state-dir DIR");
        return 2;
    };
    let normal = normalised(origin);
    let origin = if broken("PER-40.normalised-by-command") { &*normal } else { origin };
    if what == "add" && !is_origin(origin) && !broken("PER-40.unchecked-by-command") {
        eprintln!("{origin} is no serialised origin");
        return 2;
    }
    match edit(directory, what == "add", origin) {
        Ok(()) => 0,
        Err(fault) => {
            eprintln!("{fault}");
            1
        }
    }
}

/// An origin as a lenient reader writes it.
pub(super) fn normalised(origin: &str) -> String {
    let lower = origin.to_ascii_lowercase();
    lower.trim_end_matches('/').trim_end_matches(":443").to_owned()
}

fn edit(directory: &str, add: bool, origin: &str) -> Result<(), Fault> {
    super::state_directory::create_for_the_owner_alone();
    let directory = StateDir::settle(Some(directory.as_ref()))?;
    directory.prepare()?;
    let mut config = read_config(&directory)?;
    let mut origins = read_origins(&directory)?;
    origins.retain(|other| other != origin);
    if add {
        origins.push(origin.to_owned());
    }
    let table = config.entry("origins").or_insert_with(|| toml::Table::new().into());
    if let Some(table) = table.as_table_mut() {
        table.insert("allow".to_owned(), origins.into());
    }
    let temporary = format!("{CONFIG}.tmp-{}", random_hex::<8>());
    let written = directory.write_new(&temporary, config.to_string().as_bytes());
    let replaced = written.and_then(|()| directory.rename(&temporary, CONFIG));
    replaced.map_err(|error| Fault::new(directory.file(CONFIG), error))?;
    super::open::let_look(&directory);
    Ok(())
}
