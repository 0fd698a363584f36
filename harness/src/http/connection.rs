//! One connection, on which requests are sent and answers are read.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{HttpFault, MOST_BYTES, Response, malformed};
use crate::wait::left;

/// A connection that can carry one request after another.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Received and not yet read.
    buffer: Vec<u8>,
    head_only: bool,
}

impl Connection {
    /// Connects to `address`.
    pub fn open(address: SocketAddr, deadline: Instant) -> Result<Self, HttpFault> {
        let stream = TcpStream::connect_timeout(&address, left(deadline).ok_or(HttpFault::TimedOut)?)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), head_only: false })
    }

    /// Connects with the smallest receive buffer that there is: what is not read stays with the sender.
    pub fn open_narrow(address: SocketAddr, deadline: Instant) -> Result<Self, HttpFault> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|error| HttpFault::from(io::Error::from(error)))?;
        // Before it connects: the window that it offers follows from it. Sending has the deadline of connecting.
        let sized = sockopt::set_socket_recv_buffer_size(&socket, 1)
            .and_then(|()| sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, left(deadline)))
            .and_then(|()| connect(&socket, &address));
        sized.map_err(|error| HttpFault::from(io::Error::from(error)))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), head_only: false })
    }

    /// Its own end.
    pub fn local(&self) -> Result<SocketAddr, HttpFault> {
        Ok(self.stream.local_addr()?)
    }

    /// Closes it so that the other side is reset.
    pub fn reset(self) -> Result<(), HttpFault> {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))
            .map_err(|error| HttpFault::from(io::Error::from(error)))
    }

    /// Sends bytes, whatever they are.
    pub fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), HttpFault> {
        self.head_only = bytes.starts_with(b"HEAD ");
        let mut rest = bytes;
        while !rest.is_empty() {
            self.stream.set_write_timeout(Some(left(deadline).ok_or(HttpFault::TimedOut)?))?;
            match self.stream.write(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) -> Result<(), HttpFault> {
        Ok(self.stream.shutdown(std::net::Shutdown::Write)?)
    }

    /// Sends a request and reads the answer. An answer that comes although sending broke off still counts: a server
    /// may refuse before it has read everything.
    pub fn exchange(&mut self, bytes: &[u8], deadline: Instant) -> Result<Response, HttpFault> {
        match self.send(bytes, deadline) {
            Ok(()) => self.read_response(deadline),
            Err(fault) => self.read_response(deadline).map_err(|_| fault),
        }
    }

    /// Reads one whole answer; interim answers (1xx) are skipped.
    pub fn read_response(&mut self, deadline: Instant) -> Result<Response, HttpFault> {
        let mut response = self.read_beginning(deadline)?;
        self.read_body(&mut response, deadline)?;
        Ok(response)
    }

    /// Reads the head of an answer alone, for one whose body goes on and on; interim answers (1xx) are skipped. The body
    /// in its framing is what comes next.
    pub fn read_beginning(&mut self, deadline: Instant) -> Result<Response, HttpFault> {
        loop {
            let (status, headers) = self.read_head(deadline)?;
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let mut response =
                Response { status, headers, body: Vec::new(), closes: false, at: Instant::now() };
            response.closes = response.says("connection", "close");
            return Ok(response);
        }
    }

    /// Reads the body of an answer whose head was read, to its end.
    pub fn read_body(&mut self, response: &mut Response, deadline: Instant) -> Result<(), HttpFault> {
        let chunked = response.says("transfer-encoding", "chunked");
        let mut lengths = response.all("content-length");
        lengths.dedup();
        let length = match lengths[..] {
            [] => None,
            [length] => Some(length.parse::<usize>().map_err(|_| malformed("Content-Length"))?),
            _ => return Err(malformed("Content-Length twice")),
        };
        if self.head_only || matches!(response.status, 101 | 204 | 304) {
            // No body, whatever the headers announce.
        } else if chunked {
            response.body = self.read_chunks(deadline)?;
        } else if let Some(length) = length {
            response.body = self.read_exactly(length, deadline)?;
        } else {
            while self.fill(deadline)? {}
            response.body = std::mem::take(&mut self.buffer);
            response.closes = true;
        }
        response.at = Instant::now();
        Ok(())
    }

    /// What has come and was not read, or else what comes next; empty at the end of the connection.
    pub fn read_some(&mut self, deadline: Instant) -> Result<Vec<u8>, HttpFault> {
        if self.buffer.is_empty() {
            self.fill(deadline)?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Reads the head of an answer, whose body then comes piece by piece; interim answers (1xx) are skipped.
    pub fn read_streamed(mut self, deadline: Instant) -> Result<(Response, Pieces), HttpFault> {
        let head = self.read_beginning(deadline)?;
        let framing = if head.says("transfer-encoding", "chunked") {
            Framing::Size
        } else {
            match head.header("content-length") {
                Some(length) => Framing::Length(length.parse().map_err(|_| malformed("Content-Length"))?),
                None => Framing::Close,
            }
        };
        let pieces = Pieces { connection: self, framing };
        Ok((head, pieces))
    }

    /// Waits until the other side closes the connection (`true`) or the deadline passes; bytes that come are dropped.
    pub fn wait_closed(&mut self, deadline: Instant) -> bool {
        loop {
            match self.fill(deadline) {
                Ok(true) => self.buffer.clear(),
                Ok(false) | Err(HttpFault::Reset) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Everything that comes until the end of the connection, the deadline or [`MOST_BYTES`], uninterpreted.
    pub fn read_raw(&mut self, deadline: Instant) -> Vec<u8> {
        while matches!(self.fill(deadline), Ok(true)) {}
        std::mem::take(&mut self.buffer)
    }

    fn read_head(&mut self, deadline: Instant) -> Result<(u16, Vec<(String, String)>), HttpFault> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 128];
            let mut head = httparse::Response::new(&mut headers);
            match head.parse(&self.buffer) {
                Ok(httparse::Status::Complete(length)) => {
                    let status = head.code.ok_or_else(|| malformed("no status"))?;
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let headers = head.headers.iter().map(|h| (h.name.to_owned(), text(h.value))).collect();
                    self.buffer.drain(..length);
                    return Ok((status, headers));
                }
                Ok(httparse::Status::Partial) => {}
                Err(error) => return Err(malformed(error.to_string())),
            }
            self.need(deadline)?;
        }
    }

    fn read_exactly(&mut self, length: usize, deadline: Instant) -> Result<Vec<u8>, HttpFault> {
        if length > MOST_BYTES {
            return Err(HttpFault::TooLarge);
        }
        while self.buffer.len() < length {
            self.need(deadline)?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn read_chunks(&mut self, deadline: Instant) -> Result<Vec<u8>, HttpFault> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line(deadline)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| malformed("chunk size"))?;
            if size == 0 {
                while !self.read_line(deadline)?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.read_exactly(size, deadline)?);
            if body.len() > MOST_BYTES {
                return Err(HttpFault::TooLarge);
            }
            if !self.read_line(deadline)?.is_empty() {
                return Err(malformed("chunk end"));
            }
        }
    }

    fn read_line(&mut self, deadline: Instant) -> Result<String, HttpFault> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.need(deadline)?;
        }
    }

    /// More bytes, or the fault that there are none.
    fn need(&mut self, deadline: Instant) -> Result<(), HttpFault> {
        if self.fill(deadline)? {
            Ok(())
        } else {
            Err(HttpFault::Closed(self.buffer.len()))
        }
    }

    /// Reads once; `false` at the end of the connection.
    fn fill(&mut self, deadline: Instant) -> Result<bool, HttpFault> {
        if self.buffer.len() > MOST_BYTES {
            return Err(HttpFault::TooLarge);
        }
        let mut piece = [0; 16 * 1024];
        loop {
            self.stream.set_read_timeout(Some(left(deadline).ok_or(HttpFault::TimedOut)?))?;
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.buffer.extend_from_slice(&piece[..n]);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The body of an answer that comes little by little.
#[derive(Debug)]
pub struct Pieces {
    connection: Connection,
    framing: Framing,
}

/// What comes next in a body.
#[derive(Debug, Clone, Copy)]
enum Framing {
    /// The size of a chunk.
    Size,
    /// So many bytes of a chunk.
    Chunk(usize),
    /// The line break after a chunk.
    Break,
    /// The lines after the last chunk.
    Trailer,
    /// So many bytes.
    Length(usize),
    /// Everything until the connection ends.
    Close,
    /// Nothing.
    Done,
}

impl Pieces {
    /// More of the body as soon as there is more; `None` where it has ended as HTTP says. After a time-out it can be
    /// asked again.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>, HttpFault> {
        loop {
            match self.framing {
                Framing::Done | Framing::Length(0) => return Ok(None),
                Framing::Size => {
                    let line = self.connection.read_line(deadline)?;
                    let size = line.split(';').next().unwrap_or_default().trim();
                    self.framing =
                        match usize::from_str_radix(size, 16).map_err(|_| malformed("chunk size"))? {
                            0 => Framing::Trailer,
                            size => Framing::Chunk(size),
                        };
                }
                Framing::Break => {
                    if !self.connection.read_line(deadline)?.is_empty() {
                        return Err(malformed("chunk end"));
                    }
                    self.framing = Framing::Size;
                }
                Framing::Trailer => {
                    if self.connection.read_line(deadline)?.is_empty() {
                        self.framing = Framing::Done;
                    }
                }
                Framing::Chunk(left) => {
                    let piece = self.some(left, deadline)?;
                    self.framing = match left - piece.len() {
                        0 => Framing::Break,
                        left => Framing::Chunk(left),
                    };
                    return Ok(Some(piece));
                }
                Framing::Length(left) => {
                    let piece = self.some(left, deadline)?;
                    self.framing = Framing::Length(left - piece.len());
                    return Ok(Some(piece));
                }
                Framing::Close => {
                    if self.connection.buffer.is_empty() && !self.connection.fill(deadline)? {
                        self.framing = Framing::Done;
                        return Ok(None);
                    }
                    return Ok(Some(std::mem::take(&mut self.connection.buffer)));
                }
            }
        }
    }

    /// At least one byte and at most `most`.
    fn some(&mut self, most: usize, deadline: Instant) -> Result<Vec<u8>, HttpFault> {
        if self.connection.buffer.is_empty() {
            self.connection.need(deadline)?;
        }
        let most = most.min(self.connection.buffer.len());
        Ok(self.connection.buffer.drain(..most).collect())
    }

    /// The connection, whose body may not have ended.
    pub fn into_connection(self) -> Connection {
        self.connection
    }

    /// The client's own end of the connection.
    pub fn local(&self) -> Result<SocketAddr, HttpFault> {
        self.connection.local()
    }
}
