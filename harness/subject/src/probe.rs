//! Chapter 07, the client's side: who is at the recorded address?

mod faults;

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::credential::Credential;
use crate::fault::broken;
use crate::handshake::{Body, Claim, PROOF};
use crate::publish::is_missing_family;
use crate::registration::{Record, addresses, authority};

/// The longest that a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// The longest that a connection to a listener of its own may take.
const OWN: Duration = Duration::from_millis(250);
/// The most that is read of a body, and of everything else in an answer, in bytes.
const MOST_BYTES: usize = 64 * 1024;
/// Longer than anybody waits.
const EVER: Duration = Duration::from_hours(1);

/// What answered, or did not.
pub(super) enum Probe {
    /// It holds the credential. The connection stays open; a body of another specification cannot be read.
    Proven(Option<Body>, TcpStream),
    /// Nobody is there: the connection was refused.
    Refused(String),
    /// Something takes connections and breaks them off before it has answered.
    Broken(String),
    /// No whole answer came in time.
    Late(String),
    /// Something answered that did not prove itself.
    Foreign(String),
    /// This process cannot ask: the error of the system.
    Unreachable(String),
}

impl Probe {
    /// The rank of an answer: of those of two addresses, the higher one counts.
    fn rank(&self) -> u8 {
        match self {
            Self::Refused(_) => 0,
            Self::Broken(_) => 1,
            Self::Late(_) => 2,
            Self::Foreign(_) => 3,
            Self::Unreachable(_) => 4,
            Self::Proven(..) => 5,
        }
    }
}

/// Asks the daemon of this record who it is, and waits until `deadline` or for 2 s, whichever is shorter.
pub(super) fn probe(record: &Record, credential: &Credential, deadline: Instant) -> Probe {
    let mut until = deadline.min(Instant::now() + HANDSHAKE);
    if broken("HS-24.no-bound") {
        until = deadline;
    } else if broken("HS-24.each-read") {
        until = Instant::now() + EVER;
    }
    let authority = authority(&record.url).expect("a record that was read has an address");
    // `localhost` is two addresses, and either may hang: they are asked at once.
    let (answers, answered) = channel();
    for address in addresses(authority) {
        let (answers, credential, authority) = (answers.clone(), credential.clone(), authority.to_owned());
        thread::spawn(move || {
            let _ = answers.send((address, ask(address, &authority, &credential, until)));
        });
    }
    drop(answers);
    let mut probes = Vec::new();
    for (address, answer) in answered {
        if matches!(answer, Probe::Proven(..)) {
            return answer;
        }
        probes.push((address, answer));
    }
    // A family that this host does not have says nothing about the other one.
    let missing = |(address, probe): &(SocketAddr, Probe)| {
        matches!(probe, Probe::Unreachable(_))
            && TcpListener::bind((address.ip(), 0)).is_err_and(|error| is_missing_family(&error))
    };
    if !probes.iter().all(missing) && !broken("CONN-37.missing-family") {
        probes.retain(|probe| !missing(probe));
    }
    let highest = probes.into_iter().map(|(_, probe)| probe).max_by_key(Probe::rank);
    let highest = highest.unwrap_or_else(|| Probe::Refused(format!("{authority}: no address")));
    // One that takes other errors for a refusal does not doubt it either.
    let believes = [
        "CONN-52.believed",
        "CONN-37.sandbox-is-stale",
        "CONN-37.no-port-is-stale",
        "CONN-37.no-route-is-stale",
    ]
    .into_iter()
    .any(broken);
    if matches!(highest, Probe::Refused(_))
        && !believes
        && let Err(error) = reach_own()
    {
        return Probe::Unreachable(format!("cannot connect to a listener of its own either: {error}"));
    }
    highest
}

/// Connects to a listener of its own. A process that cannot listen learns nothing.
fn reach_own() -> io::Result<()> {
    let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) else {
        return Ok(());
    };
    let stream = TcpStream::connect_timeout(&listener.local_addr()?, OWN)?;
    // In this order the connection is reset, and keeps no port.
    drop(listener);
    drop(stream);
    Ok(())
}

/// Asks one address, and once more if the connection breaks off: what listened there may be about to end.
fn ask(address: SocketAddr, authority: &str, credential: &Credential, until: Instant) -> Probe {
    match ask_once(address, authority, credential, until) {
        Probe::Broken(_) if !broken("CONN-7.not-again") => {
            match ask_once(address, authority, credential, until) {
                Probe::Refused(why) if broken("CONN-7.gone-is-busy") => Probe::Late(why),
                Probe::Proven(..) if broken("CONN-7.second-unheard") => {
                    Probe::Late("it broke off at first".to_owned())
                }
                probe => probe,
            }
        }
        probe => probe,
    }
}

/// One handshake with one address.
fn ask_once(address: SocketAddr, authority: &str, credential: &Credential, until: Instant) -> Probe {
    let claim = Claim::new(credential, authority);
    let request = |authorization: &str| {
        let target = faults::target(credential);
        format!(
            "GET {target} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: {authorization}\r\n\
             Accept: application/json\r\n\r\n"
        )
    };
    let bearer = format!("Bearer {}", credential.text());
    let first = if broken("HS-25.bearer") { bearer.clone() } else { claim.header() };
    let asked = dial(address, until).and_then(|mut stream| {
        let mut answer = exchange(&mut stream, request(&first).as_bytes(), until)?;
        if broken("HS-25.after-refusal") && answer.status == 401 {
            stream = dial(address, until)?;
            answer = exchange(&mut stream, request(&bearer).as_bytes(), until)?;
        }
        Ok((answer, stream))
    });
    match asked {
        Ok((answer, stream)) => {
            if broken("HS-29.follows")
                && let Some(next) = faults::redirect(&answer)
            {
                return ask_once(next, &next.to_string(), credential, until);
            }
            let proofs: Vec<&str> = answer.headers(PROOF).collect();
            let proven = claim.is_answered(credential, authority, &proofs, &answer.body);
            if proven || faults::believes(&answer, &proofs) {
                return Probe::Proven(Body::parse(&answer.body), stream);
            }
            let why = format!("{address} answered with status {} and no proof", answer.status);
            faults::unproven(&answer, &why, credential).unwrap_or(Probe::Foreign(why))
        }
        Err(Fault::Refused(why)) => Probe::Refused(format!("{address}: {why}")),
        Err(Fault::Broken(why)) => Probe::Broken(format!("{address}: {why}")),
        Err(Fault::Late) => Probe::Late(format!("{address} did not answer in time")),
        Err(Fault::Unreachable(_)) if broken("CONN-37.silent") => {
            Probe::Unreachable(format!("cannot connect to {address}"))
        }
        Err(Fault::Unreachable(error)) => Probe::Unreachable(format!("cannot connect to {address}: {error}")),
        Err(Fault::Senseless(why)) if broken("CONN-8.nonsense") => {
            Probe::Refused(format!("{address}: {why}"))
        }
        Err(Fault::Senseless(why)) => Probe::Foreign(format!("{address} answered {why}")),
    }
}

/// Why there is no answer.
pub(super) enum Fault {
    /// Nobody there.
    Refused(String),
    /// Broken off.
    Broken(String),
    /// Not in time.
    Late,
    /// Bytes that are no answer.
    Senseless(&'static str),
    /// The system does not let this process ask.
    Unreachable(io::Error),
}

/// The error of a connection that was made.
impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, TimedOut, WouldBlock,
        };
        match error.kind() {
            Interrupted | TimedOut | WouldBlock => Self::Late,
            ConnectionAborted | ConnectionReset | BrokenPipe if broken("CONN-6.reset-is-stale") => {
                Self::Refused(error.to_string())
            }
            ConnectionAborted | ConnectionReset | BrokenPipe => Self::Broken(error.to_string()),
            _ => Self::Unreachable(error),
        }
    }
}

/// An HTTP answer.
pub(super) struct Answer {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// Every value of the headers of this name.
    pub(super) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

fn dial(address: SocketAddr, until: Instant) -> Result<TcpStream, Fault> {
    let address = faults::proxy().unwrap_or(address);
    TcpStream::connect_timeout(&address, left(until)?).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Fault::Refused(error.to_string()),
        io::ErrorKind::TimedOut => Fault::Late,
        // Something listened, and closed before it accepted.
        io::ErrorKind::ConnectionReset => error.into(),
        _ => faults::misread(&error).unwrap_or(Fault::Unreachable(error)),
    })
}

/// The time that is left, or the fault that none is.
fn left(until: Instant) -> Result<Duration, Fault> {
    let mut left = until.saturating_duration_since(Instant::now());
    if broken("HS-24.each-read") {
        left = left.min(HANDSHAKE);
    }
    if left.is_zero() { Err(Fault::Late) } else { Ok(left) }
}

/// Sends a request and reads the answer to it, redirects unfollowed.
pub(super) fn exchange(stream: &mut TcpStream, request: &[u8], until: Instant) -> Result<Answer, Fault> {
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(request)?;
    let mut reader = Reader { stream, until, bytes: Vec::new(), in_head: true, spare: MOST_BYTES };
    loop {
        let mut answer = reader.head()?;
        // A status of the hundreds announces the answer.
        if !(100..200).contains(&answer.status) {
            reader.in_head = false;
            answer.body = reader.body(&answer)?;
            return Ok(answer);
        }
    }
}

/// Reads a stream up to an instant.
struct Reader<'a> {
    stream: &'a mut TcpStream,
    until: Instant,
    /// What was read and belongs to nothing yet.
    bytes: Vec<u8>,
    /// Whether it is still the header that is read.
    in_head: bool,
    /// How many more bytes other than the body may be read.
    spare: usize,
}

impl Reader<'_> {
    /// Reads some more; `false` at the end of the stream. Never holds more than `most` bytes.
    fn more(&mut self, most: usize) -> Result<bool, Fault> {
        let most = if faults::reads_on(self.in_head) { usize::MAX } else { most };
        let room = most.saturating_sub(self.bytes.len()).min(4096);
        if room == 0 {
            return Err(Fault::Senseless("without end"));
        }
        self.stream.set_read_timeout(Some(left(self.until)?))?;
        let mut piece = [0; 4096];
        let count = match self.stream.read(&mut piece[..room]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        self.bytes.extend_from_slice(&piece[..count]);
        Ok(count > 0)
    }

    /// Removes `length` bytes other than the body from what was read.
    fn skip(&mut self, length: usize, uncounted: bool) -> Result<(), Fault> {
        if !uncounted {
            self.spare = self.spare.checked_sub(length).ok_or(Fault::Senseless("without end"))?;
        }
        self.bytes.drain(..length);
        Ok(())
    }

    /// The status and the headers.
    fn head(&mut self) -> Result<Answer, Fault> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 128];
            let mut head = httparse::Response::new(&mut headers);
            match head.parse(&self.bytes) {
                Ok(httparse::Status::Complete(length)) => {
                    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                    let answer = Answer {
                        status: head.code.unwrap_or_default(),
                        headers: head
                            .headers
                            .iter()
                            .map(|header| (header.name.to_owned(), text(header.value)))
                            .collect(),
                        body: Vec::new(),
                    };
                    let interim = (100..200).contains(&answer.status) && broken("HS-31.interim");
                    self.skip(length, interim || broken("HS-31.header"))?;
                    return Ok(answer);
                }
                Ok(httparse::Status::Partial) => {}
                Err(_) if faults::reads_on(true) => {}
                Err(_) => return Err(Fault::Senseless("no HTTP")),
            }
            if !self.more(self.spare)? {
                return Err(if self.bytes.is_empty() {
                    let why = "it closed the connection without an answer".to_owned();
                    if broken("CONN-7.close-is-stale") {
                        Fault::Refused(why)
                    } else {
                        Fault::Broken(why)
                    }
                } else {
                    Fault::Senseless("half a header")
                });
            }
        }
    }

    /// The body, as long as the headers say.
    fn body(&mut self, head: &Answer) -> Result<Vec<u8>, Fault> {
        let mut codings = head.headers("transfer-encoding");
        let mut lengths = head.headers("content-length");
        match (codings.next(), lengths.next()) {
            _ if head.status == 204 || head.status == 304 => Ok(Vec::new()),
            (None, None) => {
                while (self.bytes.len() < MOST_BYTES || faults::reads_on(false)) && self.more(MOST_BYTES)? {}
                Ok(std::mem::take(&mut self.bytes))
            }
            (None, Some(length)) => {
                let most = MOST_BYTES + usize::from(broken("HS-31.a-byte-more"));
                let length = length.parse().ok().filter(|length| *length <= most && lengths.next().is_none());
                self.take(length.ok_or(Fault::Senseless("a body of no good length"))?)
            }
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") && codings.next().is_none() => {
                self.chunks()
            }
            _ => Err(Fault::Senseless("a body of unknown coding")),
        }
    }

    /// The next bytes, this many.
    fn take(&mut self, length: usize) -> Result<Vec<u8>, Fault> {
        while self.bytes.len() < length {
            if !self.more(length)? {
                return Err(Fault::Senseless("half a body"));
            }
        }
        let rest = self.bytes.split_off(length);
        Ok(std::mem::replace(&mut self.bytes, rest))
    }

    /// A body in chunks.
    fn chunks(&mut self) -> Result<Vec<u8>, Fault> {
        const BROKEN: Fault = Fault::Senseless("broken chunks");
        let uncounted = broken("HS-31.chunks");
        let mut body = Vec::new();
        loop {
            let most = MOST_BYTES - body.len();
            match httparse::parse_chunk_size(&self.bytes) {
                Ok(httparse::Status::Complete((line, size))) => {
                    let size = usize::try_from(size).ok().filter(|size| *size <= most).ok_or(BROKEN)?;
                    self.skip(line, uncounted)?;
                    if size == 0 {
                        break;
                    }
                    body.append(&mut self.take(size)?);
                    self.line(uncounted)?.is_empty().then_some(()).ok_or(BROKEN)?;
                }
                Ok(httparse::Status::Partial) => {
                    if !self.more(self.spare)? {
                        return Err(BROKEN);
                    }
                }
                Err(_) => return Err(BROKEN),
            }
        }
        while !self.line(broken("HS-31.trailers"))?.is_empty() {}
        Ok(body)
    }

    /// Reads the next line, and returns it without its end.
    fn line(&mut self, uncounted: bool) -> Result<Vec<u8>, Fault> {
        loop {
            if let Some(end) = self.bytes.windows(2).position(|end| end == b"\r\n") {
                let line = self.bytes[..end].to_vec();
                self.skip(end + 2, uncounted)?;
                return Ok(line);
            }
            if !self.more(self.spare)? {
                return Err(Fault::Senseless("half a line"));
            }
        }
    }
}
