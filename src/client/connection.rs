//! The connected daemon, and the requests to it.

use std::time::{Duration, Instant};
use std::{io, thread};

use local_daemon_proto::Credential;
use local_daemon_proto::handshake::{Handshake, Probe};
use local_daemon_proto::registration::Registration;
use zeroize::Zeroizing;

use super::Client;
use super::events::Events;
use super::probe::{PROBE_TIMEOUT, Seen, probe};
use super::request::{
    AnswerError, BodyReader, BoxError, Request, RequestError, RequestErrorKind, Response, SendError,
    without_query,
};
use crate::exchange::{ExchangeError, Wire, deadline_in};
use crate::platform;

/// The pause between two looks whether a daemon is gone whose process cannot be watched.
const GONE_PAUSE: Duration = Duration::from_millis(50);

/// A connection that has proven itself, kept alive. A new one is proven before anything else is sent on it (HS-25).
///
/// ```no_run
/// use std::fs::File;
/// use std::io;
/// use std::time::Duration;
///
/// use local_daemon::Client;
/// use local_daemon::client::Request;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut daemon = Client::new("acme", "acme/1")?.connect()?;
/// let image = File::open("image")?;
/// let length = image.metadata()?.len();
/// let upload = Request::put("/v1/images/7").body_from(image, Some(length)).deadline(Duration::from_secs(60));
/// let answer = daemon.send(upload)?;
/// if !answer.is_success() {
///     return Err(daemon.answer_error("/v1/images/7", &answer).into());
/// }
/// let mut log = daemon.open(Request::get("/v1/log"))?;
/// io::copy(&mut log.body, &mut io::stdout())?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Connection {
    pub(super) client: Client,
    pub(super) registration: Registration,
    pub(super) handshake: Handshake,
    pub(super) credential: Credential,
    pub(super) wire: Option<Wire>,
}

impl Connection {
    /// Returns the record by which the daemon was found.
    pub fn registration(&self) -> &Registration {
        &self.registration
    }

    /// Returns what the daemon said of itself.
    pub fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// Sends a GET and returns its whole answer within [`DEFAULT_TIMEOUT`](super::DEFAULT_TIMEOUT).
    ///
    /// # Errors
    /// [`RequestError`]. An error status is an answer.
    pub fn get(&mut self, path: &str) -> Result<Response, RequestError> {
        self.send(Request::get(path))
    }

    /// Sends a request and returns its whole answer.
    ///
    /// # Errors
    /// [`RequestError`]. An error status is an answer, also one that came before the whole body was sent.
    pub fn send(&mut self, mut request: Request<'_>) -> Result<Response, RequestError> {
        let ends = request.ends();
        let (mut wire, mut response) = self.exchange(&mut request, ends)?;
        let read = request.read_body(&mut wire, &mut response, ends);
        read.map_err(|fault| self.error(&request, fault.into()))?;
        self.wire = Some(wire);
        Ok(response)
    }

    /// Sends a request and returns its answer as soon as the head is there. Its body is read as it comes.
    ///
    /// # Errors
    /// [`RequestError`]. An error status is an answer.
    pub fn open(&mut self, mut request: Request<'_>) -> Result<Response<BodyReader<'_>>, RequestError> {
        let ends = request.ends();
        let (wire, Response { status, headers, .. }) = self.exchange(&mut request, ends)?;
        let body = BodyReader {
            wire: Some(wire),
            home: &mut self.wire,
            part_deadline: request.part_deadline(),
            part: Vec::new(),
            start: 0,
        };
        Ok(Response { status, headers, body })
    }

    /// Returns an answer other than the expected one as an error.
    ///
    /// ```no_run
    /// use local_daemon::Client;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut daemon = Client::new("acme", "acme/1")?.connect()?;
    /// let answer = daemon.get("/v1/jobs")?;
    /// if !answer.is_success() {
    ///     return Err(daemon.answer_error("/v1/jobs", &answer).into());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn answer_error(&self, path: &str, answer: &Response) -> AnswerError {
        AnswerError {
            url: self.registration.url,
            path: without_query(path).to_owned(),
            status: answer.status,
            problem: answer.problem(),
        }
    }

    /// Returns the events of a stream of this daemon and of those that follow it.
    pub fn events(&self, path: &str) -> Events {
        Events::new(self.client.clone(), path)
    }

    fn error(&self, request: &Request<'_>, error: SendError) -> RequestError {
        let (kind, source): (_, Option<BoxError>) = match error {
            SendError::Body(error) => (RequestErrorKind::Body, Some(error.into())),
            SendError::ExchangeError(ExchangeError::Unreachable { error }) => {
                (RequestErrorKind::Unreachable, Some(error.into()))
            }
            SendError::ExchangeError(fault) => (RequestErrorKind::of(&fault), None),
        };
        request.error(&self.registration.url.to_string(), kind, source)
    }

    /// Sends the request on a connection that has proven itself, and reads the head of the answer.
    fn exchange(
        &mut self,
        request: &mut Request<'_>,
        ends: Instant,
    ) -> Result<(Wire, Response), RequestError> {
        let (mut wire, is_whole) = self.ask(request, ends)?;
        match request.answer(&mut wire, is_whole, ends) {
            Ok(response) => Ok((wire, response)),
            Err(fault) => Err(self.error(request, fault.into())),
        }
    }

    /// Sends the request on a connection that has proven itself; returns that connection, and whether all of the body was sent.
    pub(super) fn ask(
        &mut self,
        request: &mut Request<'_>,
        ends: Instant,
    ) -> Result<(Wire, bool), RequestError> {
        let url = self.registration.url.to_string();
        request.check().map_err(|kind| request.error(&url, kind, None))?;
        let mut wire = match self.wire.take().filter(Wire::is_reusable) {
            Some(wire) => wire,
            None => prove(&self.registration, &self.credential, ends)
                .map_err(|(kind, source)| request.error(&url, kind, source))?,
        };
        let credential = self.credential.expose();
        let mut bearer = Zeroizing::new(String::with_capacity(64));
        bearer.push_str("Bearer ");
        bearer.push_str(&credential);
        let authority = self.registration.url.authority();
        match request.send(&mut wire, &authority, &bearer, ends) {
            Ok(is_whole) => Ok((wire, is_whole)),
            Err(error) => Err(self.error(request, error)),
        }
    }

    /// Returns a hold on the daemon's process, to watch it and to end it by force. It cannot hit another process that has or
    /// gets the same pid (CONV-31).
    ///
    /// # Errors
    /// Fails if the proven handshake and the record give different pids, if the daemon runs in another pid namespace
    /// (CONV-36) or in this very process, if it is gone or does not prove itself any more, or if this system has no such hold.
    pub fn process(&self) -> io::Result<Process> {
        if self.registration.world.has_other_pids(&platform::world()) {
            return Err(io::Error::other(
                "it runs in another pid namespace, where its pid means another process",
            ));
        }
        if self.handshake.id != self.registration.id || self.handshake.pid != self.registration.pid {
            return Err(io::Error::other("the record's pid is not the proven daemon's"));
        }
        if self.handshake.pid.get() == std::process::id() {
            return Err(io::Error::other("it runs in this very process"));
        }
        let process = platform::Process::open(self.handshake.pid)?;
        // Since the handshake, the daemon may have ended and another process may have got its pid. A daemon that is there now was
        // there when the process was opened.
        let is_connected = self.wire.as_ref().is_some_and(Wire::is_reusable);
        let is_there = || prove(&self.registration, &self.credential, deadline_in(PROBE_TIMEOUT)).is_ok();
        if is_connected || is_there() {
            Ok(Process(process))
        } else {
            Err(io::Error::other(
                "it does not prove itself any more, so that its pid may be another process's",
            ))
        }
    }

    /// Waits until the daemon's address refuses or belongs to another daemon, and its state directory holds its record no
    /// more; returns `false` if that takes longer than `bound`. For a daemon whose process cannot be watched (LIFE-25).
    pub(super) fn wait_gone(&self, bound: Duration) -> bool {
        let ends = deadline_in(bound);
        loop {
            let left = ends.saturating_duration_since(Instant::now());
            let own = self.client.state_dir.read_record().0.id() == Some(self.registration.id);
            let probed = probe(&self.registration, &self.credential, left.min(PROBE_TIMEOUT)).probe;
            let is_other = matches!(&probed, Probe::Proven(theirs) if theirs.id != self.registration.id);
            if !own && (probed == Probe::Refused || is_other) {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            thread::sleep(GONE_PAUSE.min(left));
        }
    }
}

/// Opens another connection to a daemon, on which that proves itself (HS-25).
pub(super) fn prove(
    registration: &Registration,
    credential: &Credential,
    ends: Instant,
) -> Result<Wire, (RequestErrorKind, Option<BoxError>)> {
    let left = ends.saturating_duration_since(Instant::now());
    match probe(registration, credential, PROBE_TIMEOUT.min(left)) {
        Seen { probe: Probe::Proven(theirs), wire: Some(wire), .. } if theirs.id == registration.id => {
            Ok(wire)
        }
        Seen { probe: Probe::Unreachable, detail, .. } => {
            Err((RequestErrorKind::Unreachable, detail.map(Into::into)))
        }
        _ => Err((RequestErrorKind::Gone, None)),
    }
}

/// A process whose identity was proven.
#[derive(Debug)]
pub struct Process(platform::Process);

impl Process {
    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// Fails if the system does not allow it.
    pub fn kill(&self) -> io::Result<()> {
        self.0.kill()
    }

    /// Waits until it has ended; returns `false` if it still runs after `bound`.
    ///
    /// # Errors
    /// Fails if the system cannot watch it.
    pub fn wait(&self, bound: Duration) -> io::Result<bool> {
        self.0.wait(bound)
    }
}
