//! One HTTP/1.1 exchange over a loopback socket, bounded in time and size. It follows no redirect and asks no proxy:
//! there is no code that could (HS-29, HS-30).

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::time::{Duration, Instant};

use local_daemon_proto::registration::MAX_BYTES;
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::platform;

/// Why there was no whole answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// ECONNREFUSED from connect(2), and nothing else.
    #[error("the connection was refused")]
    Refused,
    /// Something listened: the connection was made, and ended before a whole answer.
    #[error("the connection broke before the whole answer had come")]
    Broken {
        /// Whether part of an answer had come.
        answered: bool,
    },
    #[error("there was no whole answer in time")]
    TimedOut,
    #[error("the answer is not HTTP")]
    Garbage,
    #[error("the answer is longer than its limit")]
    TooLarge,
    /// This process could not connect.
    #[error("{error}{}", meaning(.error))]
    Unreachable {
        /// The error of the system.
        error: io::Error,
    },
}

impl ExchangeError {
    /// The same fault after part of an answer has come.
    fn after_an_answer(self) -> Self {
        match self {
            Self::Broken { .. } => Self::Broken { answered: true },
            fault => fault,
        }
    }

    /// The fault as an error of a read.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Unreachable { error } => error,
            Self::TimedOut => io::Error::new(ErrorKind::TimedOut, self.to_string()),
            Self::Broken { .. } => io::Error::new(ErrorKind::ConnectionReset, self.to_string()),
            fault => io::Error::new(ErrorKind::InvalidData, fault.to_string()),
        }
    }

    fn of(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected => Self::Broken { answered: false },
            _ => Self::Unreachable { error },
        }
    }

    fn of_connect(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            // EAGAIN of connect(2) is a lack of ports, and no time-out.
            ErrorKind::WouldBlock => Self::Unreachable { error },
            _ => Self::of(error),
        }
    }
}

/// Returns what an error of this process's own usually means, for the person who reads it.
fn meaning(error: &io::Error) -> &'static str {
    let Some(errno) = Errno::from_io_error(error) else {
        return "";
    };
    match errno {
        Errno::PERM | Errno::ACCESS => " (this process may not open connections: a sandbox?)",
        Errno::MFILE => " (this process has no file descriptor left)",
        Errno::NFILE => " (this system has no file descriptor left)",
        Errno::ADDRNOTAVAIL | Errno::AGAIN | Errno::ADDRINUSE => {
            " (no local port is left, or there is no such loopback address)"
        }
        Errno::NETUNREACH | Errno::NETDOWN | Errno::HOSTUNREACH => {
            " (no way to the loopback address: is the interface `lo` up?)"
        }
        Errno::NOBUFS | Errno::NOMEM => " (the system has no memory left for sockets)",
        Errno::AFNOSUPPORT => " (this process may not use this address family)",
        _ => "",
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a header that stands exactly once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = values.next()?;
        values.next().is_none().then_some(value.1.as_str())
    }
}

/// One connection, kept alive between exchanges.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Buffer,
    /// How many more bytes other than the body the current answer may have: heads, and the framing of chunks (HS-31).
    framing_left: usize,
    /// What is left of the current answer's body.
    left: Left,
    /// Whether another request may follow the current answer.
    keep: bool,
}

/// What has come and was not read yet.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// How many of them were read. To move the rest for each would take time that grows with its square.
    start: usize,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What a daemon answers may be secret.
        write!(f, "{} bytes", self.len())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl Buffer {
    fn push(&mut self, bytes: &[u8]) {
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn skip(&mut self, count: usize) {
        self.start += count;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }
}

/// A request as it is sent, but for its body. `headers` are further lines, each with its end.
pub(crate) fn request(
    method: &str,
    path: &str,
    authority: &str,
    authorization: &str,
    headers: &str,
) -> Zeroizing<Vec<u8>> {
    let parts = [
        method,
        " ",
        path,
        " HTTP/1.1\r\nHost: ",
        authority,
        "\r\nAuthorization: ",
        authorization,
        "\r\n",
        headers,
        "\r\n",
    ];
    // One allocation of the right size: a growing buffer would leave copies of the bearer behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    for part in parts {
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

/// Where the body of an answer ends, and how much of it is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    /// The line before the next chunk.
    ChunkLine,
    /// So many bytes of a chunk, and its line end.
    Chunk(usize),
    /// The line end after the bytes of a chunk. It has a state of its own, because a part is not read again if its end is late.
    ChunkEnd,
    /// The line end after the last chunk.
    LastChunkEnd,
    Length(usize),
    UntilClose,
    Nothing,
}

impl Wire {
    pub(crate) fn connect(address: SocketAddr, deadline: Instant) -> Result<Self, ExchangeError> {
        let stream =
            TcpStream::connect_timeout(&address, left(deadline)?).map_err(ExchangeError::of_connect)?;
        stream.set_nodelay(true).map_err(ExchangeError::of)?;
        Ok(Self {
            stream,
            buffer: Buffer::default(),
            framing_left: 0,
            left: Left::Nothing,
            keep: true,
        })
    }

    /// Whether another request may be sent: the last answer ended cleanly and the other side has not closed.
    pub(crate) fn is_reusable(&self) -> bool {
        let quiet = || {
            self.stream.set_nonblocking(true).ok()?;
            let peeked = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false).ok()?;
            matches!(peeked, Err(e) if e.kind() == ErrorKind::WouldBlock).then_some(())
        };
        self.keep && self.left == Left::Nothing && self.buffer.is_empty() && quiet().is_some()
    }

    /// Sends one request without a body and reads its whole answer: at most `limit` bytes of body, and at most as many of
    /// everything else, or 64 KiB if that is more.
    pub(crate) fn exchange(
        &mut self,
        request: &Zeroizing<Vec<u8>>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Answer, ExchangeError> {
        self.send(request, deadline)?;
        let mut answer = self.answer(limit, deadline)?;
        self.whole_body(&mut answer.body, limit, deadline)?;
        Ok(answer)
    }

    /// Sends a part of a request.
    pub(crate) fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), ExchangeError> {
        self.keep = false;
        self.stream.set_write_timeout(Some(left(deadline)?)).map_err(ExchangeError::of)?;
        self.stream.write_all(bytes).map_err(ExchangeError::of)
    }

    /// Sends a part of a body. What the other side says meanwhile is kept, at most `room` bytes of it, so that the two do not
    /// wait for each other. Returns `false` once the other side takes no more of the body: it has refused the request, or
    /// closed.
    pub(crate) fn send_body(
        &mut self,
        bytes: &[u8],
        room: usize,
        deadline: Instant,
    ) -> Result<bool, ExchangeError> {
        self.keep = false;
        self.stream.set_nonblocking(true).map_err(ExchangeError::of)?;
        let sent = self.send_and_receive(bytes, room, deadline);
        self.stream.set_nonblocking(false).map_err(ExchangeError::of)?;
        sent
    }

    fn send_and_receive(
        &mut self,
        mut bytes: &[u8],
        room: usize,
        deadline: Instant,
    ) -> Result<bool, ExchangeError> {
        while !bytes.is_empty() {
            let has_room = self.buffer.len() < room;
            let [can_read, can_write] = platform::ready(&self.stream, [has_room, true], left(deadline)?);
            if can_read
                && let Some(count) = unless_blocked(self.receive(room))?
                && (count == 0 || self.is_refused())
            {
                return Ok(false);
            }
            if can_write && let Some(count) = unless_blocked(self.stream.write(bytes))? {
                bytes = &bytes[count..];
            }
        }
        Ok(true)
    }

    /// Whether what has come is an answer after which the other side reads no more of the request.
    fn is_refused(&self) -> bool {
        // The heads of an answer have fewer bytes.
        let mut rest = &self.buffer[..self.buffer.len().min(MAX_BYTES)];
        while let Ok(Some(Head { answer, length, .. })) = parse_head(rest) {
            if answer.status >= 200 {
                return answer.status >= 400 || is_closing(&answer);
            }
            rest = &rest[length..];
        }
        false
    }

    /// Reads the head of an answer. The heads and the framing of the body have at most `framing` bytes, or 64 KiB if that is
    /// more.
    pub(crate) fn answer(&mut self, framing: usize, deadline: Instant) -> Result<Answer, ExchangeError> {
        self.framing_left = framing.max(MAX_BYTES);
        let mut answer = self.head(deadline)?;
        // An interim answer is part of an answer.
        while answer.status < 200 {
            answer = self.head(deadline).map_err(ExchangeError::after_an_answer)?;
        }
        self.left = Self::framing(&answer)?;
        self.keep &= !is_closing(&answer) && self.left != Left::UntilClose;
        // A server that announces a body for it may send one, which the next answer must not begin with.
        self.keep &= answer.status != 204 || is_bodiless(&answer);
        Ok(answer)
    }

    /// Reads the whole body of an answer: at most `limit` bytes.
    pub(crate) fn whole_body(
        &mut self,
        body: &mut Vec<u8>,
        limit: usize,
        deadline: Instant,
    ) -> Result<(), ExchangeError> {
        if matches!(self.left, Left::Length(length) if length > limit) {
            return Err(ExchangeError::TooLarge);
        }
        while let Some(part) = self.part(limit.saturating_add(1) - body.len(), deadline)? {
            body.extend_from_slice(&part);
            if body.len() > limit {
                return Err(ExchangeError::TooLarge);
            }
        }
        Ok(())
    }

    /// Lets the framing of a body that never ends have as many bytes again.
    pub(crate) fn renew_framing(&mut self) {
        self.framing_left = MAX_BYTES;
    }

    fn head(&mut self, deadline: Instant) -> Result<Answer, ExchangeError> {
        loop {
            if let Some(Head { answer, length, is_kept }) = parse_head(&self.buffer)? {
                self.keep = is_kept;
                // More than that may have come while a body was sent.
                self.framing_left = self.framing_left.checked_sub(length).ok_or(ExchangeError::Garbage)?;
                self.buffer.skip(length);
                return Ok(answer);
            }
            if self.buffer.len() >= self.framing_left {
                return Err(ExchangeError::Garbage);
            }
            let answered = !self.buffer.is_empty();
            match self.fill(self.framing_left, deadline) {
                Ok(0) | Err(ExchangeError::Broken { .. }) => return Err(ExchangeError::Broken { answered }),
                filled => filled?,
            };
        }
    }

    /// Returns how the body of this answer is framed.
    fn framing(answer: &Answer) -> Result<Left, ExchangeError> {
        if matches!(answer.status, 204 | 304) {
            return Ok(Left::Nothing);
        }
        let count = |name| answer.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).count();
        let is_chunked = answer
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        match (count("content-length"), count("transfer-encoding")) {
            (0, 1) if is_chunked => Ok(Left::ChunkLine),
            (1, 0) => {
                match answer.header("content-length").and_then(parse_length).ok_or(ExchangeError::Garbage)? {
                    0 => Ok(Left::Nothing),
                    length => Ok(Left::Length(length)),
                }
            }
            (0, 0) => Ok(Left::UntilClose),
            _ => Err(ExchangeError::Garbage),
        }
    }

    /// Notes that no other request may follow the current answer.
    pub(crate) fn close_after_answer(&mut self) {
        self.keep = false;
    }

    /// Notes that the answer has no body, whatever its head says: one to HEAD.
    pub(crate) fn skip_body(&mut self) {
        self.keep &= self.left != Left::UntilClose;
        self.left = Left::Nothing;
    }

    /// Reads the next part of the body, of at most `most` bytes; `None` at its end.
    pub(crate) fn part(&mut self, most: usize, deadline: Instant) -> Result<Option<Vec<u8>>, ExchangeError> {
        let part = self.framed_part(most, deadline).map_err(ExchangeError::after_an_answer);
        if part.is_err() {
            self.keep = false;
        }
        part
    }

    fn framed_part(&mut self, most: usize, deadline: Instant) -> Result<Option<Vec<u8>>, ExchangeError> {
        let length = loop {
            match self.left {
                Left::Nothing => return Ok(None),
                Left::UntilClose => break usize::MAX,
                Left::Length(length) | Left::Chunk(length) => break length,
                Left::ChunkLine => self.left = self.chunk_line(deadline)?,
                Left::ChunkEnd => {
                    self.line_end(deadline)?;
                    self.left = Left::ChunkLine;
                }
                Left::LastChunkEnd => {
                    self.line_end(deadline)?;
                    self.left = Left::Nothing;
                }
            }
        };
        let most = most.min(length).max(1);
        if self.buffer.is_empty() && self.fill(most.min(MAX_BYTES), deadline)? == 0 {
            if self.left != Left::UntilClose {
                return Err(ExchangeError::Broken { answered: true });
            }
            self.left = Left::Nothing;
            return Ok(None);
        }
        let part = self.buffer[..most.min(self.buffer.len())].to_vec();
        self.buffer.skip(part.len());
        self.left = match self.left {
            Left::Length(length) if length == part.len() => Left::Nothing,
            Left::Length(length) => Left::Length(length - part.len()),
            Left::Chunk(length) if length == part.len() => Left::ChunkEnd,
            Left::Chunk(length) => Left::Chunk(length - part.len()),
            left => left,
        };
        Ok(Some(part))
    }

    fn chunk_line(&mut self, deadline: Instant) -> Result<Left, ExchangeError> {
        loop {
            let (start, size) = match httparse::parse_chunk_size(&self.buffer) {
                Ok(httparse::Status::Complete(found)) => found,
                Ok(httparse::Status::Partial) if self.buffer.len() < self.framing_left => {
                    if self.fill(self.framing_left, deadline)? == 0 {
                        return Err(ExchangeError::Broken { answered: true });
                    }
                    continue;
                }
                _ => return Err(ExchangeError::Garbage),
            };
            self.framing_left = self.framing_left.checked_sub(start + 2).ok_or(ExchangeError::Garbage)?;
            self.buffer.skip(start);
            if size == 0 {
                return Ok(Left::LastChunkEnd);
            }
            return usize::try_from(size).map(Left::Chunk).map_err(|_| ExchangeError::Garbage);
        }
    }

    /// Reads the line end of a chunk. No trailers: a server of this protocol sends none, and what follows would not be understood.
    fn line_end(&mut self, deadline: Instant) -> Result<(), ExchangeError> {
        self.fill_to(2, deadline)?;
        if !self.buffer.starts_with(b"\r\n") {
            return Err(ExchangeError::Garbage);
        }
        self.buffer.skip(2);
        Ok(())
    }

    fn fill_to(&mut self, length: usize, deadline: Instant) -> Result<(), ExchangeError> {
        while self.buffer.len() < length {
            if self.fill(length, deadline)? == 0 {
                return Err(ExchangeError::Broken { answered: true });
            }
        }
        Ok(())
    }

    /// Reads some bytes, so that the buffer holds at most `most`. Returns how many; 0 means that the other side has closed.
    fn fill(&mut self, most: usize, deadline: Instant) -> Result<usize, ExchangeError> {
        loop {
            self.stream.set_read_timeout(Some(left(deadline)?)).map_err(ExchangeError::of)?;
            match self.receive(most) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                received => return received.map_err(ExchangeError::of),
            }
        }
    }

    fn receive(&mut self, most: usize) -> io::Result<usize> {
        let mut chunk = [0; 4096];
        let wanted = chunk.len().min(most.saturating_sub(self.buffer.len()));
        let count = self.stream.read(&mut chunk[..wanted])?;
        self.buffer.push(&chunk[..count]);
        Ok(count)
    }
}

/// Whether an answer announces no body, or an empty one.
fn is_bodiless(answer: &Answer) -> bool {
    let mut headers = answer.headers.iter();
    headers.all(|(name, value)| {
        !name.eq_ignore_ascii_case("transfer-encoding")
            && (!name.eq_ignore_ascii_case("content-length") || value == "0")
    })
}

/// The head of an answer.
struct Head {
    /// The answer without its body.
    answer: Answer,
    /// How many bytes it takes.
    length: usize,
    /// Whether another request may follow by its version.
    is_kept: bool,
}

/// Parses the head at the beginning of what has come; `None` if it is not whole.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, ExchangeError> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes).map_err(|_| ExchangeError::Garbage)?
    else {
        return Ok(None);
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = response
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), text(header.value)))
        .collect();
    let status = response.code.ok_or(ExchangeError::Garbage)?;
    let answer = Answer { status, headers, body: Vec::new() };
    Ok(Some(Head { answer, length, is_kept: response.version == Some(1) }))
}

/// Whether the headers say that the connection ends after the answer. Several of them are one list (RFC 9110, 5.3).
fn is_closing(answer: &Answer) -> bool {
    answer.headers.iter().any(|(name, value)| {
        let mut options = value.split(',').map(str::trim_ascii);
        name.eq_ignore_ascii_case("connection") && options.any(|option| option.eq_ignore_ascii_case("close"))
    })
}

/// Returns `None` for a call that would have blocked.
fn unless_blocked(done: io::Result<usize>) -> Result<Option<usize>, ExchangeError> {
    match done {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(ExchangeError::of(error)),
    }
}

#[cfg(feature = "async")]
impl Wire {
    /// Returns the socket of a connection on which no answer is under way.
    pub(crate) fn into_stream(self) -> Option<TcpStream> {
        self.is_reusable().then_some(self.stream)
    }
}

fn parse_length(text: &str) -> Option<usize> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Returns the end of a bound that begins now. One that no clock reaches ends in a hundred years.
pub(crate) fn deadline_in(bound: Duration) -> Instant {
    Instant::now() + bound.min(Duration::from_hours(100 * 365 * 24))
}

fn left(deadline: Instant) -> Result<Duration, ExchangeError> {
    // A zero time-out means "none" to the socket.
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ExchangeError::TimedOut) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server of one connection: for each request head that it reads, it writes the next of `answers`, then closes.
    fn serve(answers: Vec<Vec<u8>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut lines = io::BufReader::new(stream.try_clone().unwrap()).lines();
            for answer in answers {
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                // A client that gave up has closed.
                let _ = (&stream).write_all(&answer);
            }
        });
        address
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    fn request() -> Zeroizing<Vec<u8>> {
        Zeroizing::new(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec())
    }

    fn one(answer: &[u8], limit: usize) -> Result<Answer, ExchangeError> {
        Wire::connect(serve(vec![answer.to_vec()]), soon())?.exchange(&request(), limit, soon())
    }

    #[test]
    fn every_framing_gives_the_same_body() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..],
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\nhello",
        ] {
            let answer = one(answer, 5).unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hello"[..]));
        }
    }

    #[test]
    fn what_is_no_whole_answer_or_too_large_is_refused() {
        let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
        endless.resize(MAX_BYTES + 10, b'x');
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nhello12",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nhello12\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX",
            b"HTTP/1.0 200 OK\r\n\r\nhello12",
            b"SSH-2.0-OpenSSH\r\n\r\n",
            &endless,
        ] {
            let refused = one(answer, 6).unwrap_err();
            assert!(
                matches!(refused, ExchangeError::Garbage | ExchangeError::TooLarge),
                "{:?}: {refused}",
                String::from_utf8_lossy(answer)
            );
        }
    }

    /// HS-31.
    #[test]
    fn everything_but_the_body_has_one_budget() {
        const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let interim = format!("HTTP/1.1 103 Early Hints\r\nX: {}\r\n\r\n", "y".repeat(20_000));
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(10_000));
        let answer = |interims: usize, chunks: usize, rest: usize| {
            let last = format!("0;{}\r\n\r\n", "e".repeat(rest));
            [&*interim.repeat(interims), HEAD, &chunk.repeat(chunks), &last].concat()
        };
        let rest = MAX_BYTES - (answer(1, 3, 0).len() - 3);
        for (answer, is_taken) in [
            (answer(1, 3, rest), true),
            (answer(1, 3, rest + 1), false),
            (answer(4, 0, 0), false),
            (answer(0, 7, 0), false),
            (answer(0, 0, MAX_BYTES), false),
        ] {
            let seen = one(answer.as_bytes(), 10);
            let as_expected = if is_taken {
                seen.is_ok()
            } else {
                matches!(seen, Err(ExchangeError::Garbage))
            };
            assert!(as_expected, "{} bytes: {seen:?}", answer.len());
        }
    }

    #[test]
    fn a_connection_that_ends_early_shows_that_something_listens() {
        for (answer, came) in [
            (&b""[..], false),
            (b"HTT", true),
            (b"HTTP/1.1 100 Continue\r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", true),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", true),
        ] {
            let broken = one(answer, 6).unwrap_err();
            let as_expected = matches!(broken, ExchangeError::Broken { answered } if answered == came);
            assert!(as_expected, "{:?}: {broken:?}", String::from_utf8_lossy(answer));
        }
    }

    /// A server of one connection that writes the whole of `answer` before it reads the body.
    fn serve_early(answer: Vec<u8>, body: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&answer).unwrap();
            // A client that was refused sends no more.
            let _ = stream.read_exact(&mut vec![0; body]);
        });
        address
    }

    #[test]
    fn a_body_and_its_answer_do_not_wait_for_each_other() {
        const LENGTH: usize = 20_000_000;
        let early = |head: &str| {
            let answer = [head.as_bytes(), &vec![b'x'; LENGTH]].concat();
            let mut wire = Wire::connect(serve_early(answer, LENGTH), soon()).unwrap();
            let is_whole = wire.send_body(&vec![b'y'; LENGTH], LENGTH + MAX_BYTES, soon()).unwrap();
            let mut answer = wire.answer(0, soon()).unwrap();
            wire.whole_body(&mut answer.body, LENGTH, soon()).unwrap();
            assert_eq!(answer.body.len(), LENGTH);
            is_whole
        };
        assert!(early("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n"));
        assert!(!early("HTTP/1.1 413 Too Large\r\nContent-Length: 20000000\r\n\r\n"));
        assert!(!early("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 20000000\r\n\r\n"));
    }

    /// HS-31: also of what came while a body was sent.
    #[test]
    fn a_head_that_came_with_the_body_has_the_same_budget() {
        let long =
            format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "y".repeat(2 * MAX_BYTES));
        let interim = format!("HTTP/1.1 103 Early Hints\r\nX: {}\r\n\r\n", "y".repeat(20_000));
        for answer in [long, interim.repeat(5)] {
            const LENGTH: usize = 20_000_000;
            let mut wire = Wire::connect(serve_early(answer.into_bytes(), LENGTH), soon()).unwrap();
            wire.send_body(&vec![b'y'; LENGTH], LENGTH, soon()).unwrap();
            let refused = wire.answer(0, soon()).unwrap_err();
            assert!(matches!(refused, ExchangeError::Garbage), "{refused}");
        }
    }

    #[test]
    fn an_answer_of_many_small_chunks_that_came_with_the_body_is_read_in_time() {
        const LENGTH: usize = 20_000_000;
        let chunks = b"8\r\n01234567\r\n".repeat(400_000);
        let answer = [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            &chunks[..],
            b"0\r\n\r\n",
        ]
        .concat();
        let mut wire = Wire::connect(serve_early(answer, LENGTH), soon()).unwrap();
        wire.send_body(&vec![b'y'; LENGTH], LENGTH, soon()).unwrap();
        let began = Instant::now();
        let mut answer = wire.answer(usize::MAX, soon()).unwrap();
        wire.whole_body(&mut answer.body, LENGTH, soon()).unwrap();
        assert_eq!(answer.body.len(), 8 * 400_000);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn a_part_whose_end_is_late_is_not_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for piece in [
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none",
                "\r",
                "\n3\r\ntwo",
                "\r\n0\r",
                "\n",
                "\r",
                "\n",
            ] {
                stream.write_all(piece.as_bytes()).unwrap();
                thread::sleep(Duration::from_millis(100));
            }
            let _ = stream.read(&mut [0]);
        });
        let mut wire = Wire::connect(address, soon()).unwrap();
        wire.answer(0, soon()).unwrap();
        let mut body = Vec::new();
        loop {
            match wire.part(100, Instant::now() + Duration::from_millis(30)) {
                Ok(Some(part)) => body.extend(part),
                Ok(None) => break,
                Err(ExchangeError::TimedOut) => {}
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&body)),
            }
        }
        assert_eq!(body, b"onetwo");
    }

    #[test]
    fn a_connection_that_its_answer_ends_is_not_used_again() {
        for head in [
            "200 OK\r\nContent-Length: 0\r\nConnection: close\r\nConnection: close",
            "200 OK\r\nContent-Length: 0\r\nConnection: keep-alive, Close",
            "200 OK\r\nContent-Length: 0\r\nConnection: x\r\nConnection: close",
            // The body that it announces may come.
            "204 No Content\r\nContent-Length: 5",
            "204 No Content\r\nTransfer-Encoding: chunked",
        ] {
            let answer = format!("HTTP/1.1 {head}\r\n\r\n");
            let mut wire = Wire::connect(serve(vec![answer.into_bytes(), Vec::new()]), soon()).unwrap();
            wire.exchange(&request(), 0, soon()).unwrap();
            assert!(!wire.is_reusable(), "{head}");
        }
    }

    #[test]
    fn an_answer_without_room_is_late_and_not_kept() {
        let answer = [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 90000000\r\n\r\n"[..],
            &vec![b'x'; 90_000_000],
        ]
        .concat();
        let mut wire = Wire::connect(serve_early(answer, 1), soon()).unwrap();
        let ends = Instant::now() + Duration::from_millis(300);
        let seen = wire.send_body(&vec![b'y'; 90_000_000], MAX_BYTES, ends);
        assert!(matches!(seen, Err(ExchangeError::TimedOut)) && wire.buffer.len() <= MAX_BYTES, "{seen:?}");
    }

    #[test]
    fn only_a_refusal_of_connect_is_a_refusal() {
        use rustix::io::Errno;
        for (errno, refused, late, broken) in [
            (Errno::CONNREFUSED, true, false, false),
            (Errno::TIMEDOUT, false, true, false),
            (Errno::CONNRESET, false, false, true),
            (Errno::PERM, false, false, false),
            (Errno::ACCESS, false, false, false),
            (Errno::MFILE, false, false, false),
            (Errno::NFILE, false, false, false),
            (Errno::ADDRNOTAVAIL, false, false, false),
            (Errno::ADDRINUSE, false, false, false),
            (Errno::AGAIN, false, false, false),
            (Errno::NETUNREACH, false, false, false),
            (Errno::HOSTUNREACH, false, false, false),
            (Errno::NETDOWN, false, false, false),
            (Errno::NOBUFS, false, false, false),
            (Errno::NOMEM, false, false, false),
            (Errno::AFNOSUPPORT, false, false, false),
            (Errno::NOSYS, false, false, false),
            (Errno::INVAL, false, false, false),
        ] {
            let fault = ExchangeError::of_connect(errno.into());
            assert_eq!(matches!(fault, ExchangeError::Refused), refused, "{errno:?}");
            assert_eq!(matches!(fault, ExchangeError::TimedOut), late, "{errno:?}");
            assert_eq!(matches!(fault, ExchangeError::Broken { .. }), broken, "{errno:?}");
            assert_eq!(
                matches!(fault, ExchangeError::Unreachable { .. }),
                !(refused || late || broken),
                "{errno:?}"
            );
        }
    }

    #[test]
    fn a_mute_server_ends_at_the_deadline() {
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let began = Instant::now();
        let ends = began + Duration::from_millis(50);
        let seen =
            Wire::connect(mute.local_addr().unwrap(), ends).and_then(|mut w| w.exchange(&request(), 9, ends));
        assert!(matches!(seen, Err(ExchangeError::TimedOut)));
        assert!(began.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn a_connection_is_used_again_only_while_the_other_side_keeps_it() {
        let keep = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
        let mut wire = Wire::connect(serve(vec![keep.clone(), keep]), soon()).unwrap();
        wire.exchange(&request(), 9, soon()).unwrap();
        assert!(wire.is_reusable());
        wire.exchange(&request(), 9, soon()).unwrap();
        // The server closes after its last answer.
        let ends = soon();
        while wire.is_reusable() {
            assert!(Instant::now() < ends);
        }
        let close = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec();
        let mut wire = Wire::connect(serve(vec![close]), soon()).unwrap();
        wire.exchange(&request(), 9, soon()).unwrap();
        assert!(!wire.is_reusable());
    }
}
