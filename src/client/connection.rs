//! The connected daemon, and the requests to it.

use std::time::{Duration, Instant};
use std::{io, thread};

use local_daemon_proto::Credential;
use local_daemon_proto::handshake::{Handshake, Probe};
use local_daemon_proto::registration::Registration;
use zeroize::Zeroizing;

use super::DEADLINE;
use super::probe::{PROBE_BOUND, Seen, probe};
use crate::exchange::{self, Answer, Wire};
use crate::platform;
use crate::state_directory::StateDir;

/// The most bytes of one answer that [`Connection::request`] takes (16 MiB).
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// The pause between two looks whether a daemon is gone whose process cannot be watched.
const GONE_PAUSE: Duration = Duration::from_millis(50);

/// A connection that has proven itself, kept alive. A new one is proven before anything else is sent on it (HS-25).
#[derive(Debug)]
pub struct Connection {
    pub(super) registration: Registration,
    pub(super) handshake: Handshake,
    pub(super) credential: Credential,
    pub(super) wire: Option<Wire>,
}

/// A whole answer to a request.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names and values in the order of their arrival.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

/// A request on a proven connection that got no answer.
#[derive(Debug, thiserror::Error)]
#[error("{method} {url}{path}: {why}")]
pub struct RequestError {
    method: String,
    url: String,
    path: String,
    why: String,
}

impl Connection {
    /// The record by which the daemon was found.
    pub fn registration(&self) -> &Registration {
        &self.registration
    }

    /// What the daemon said of itself.
    pub fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// A GET.
    pub fn get(&mut self, path: &str) -> Result<Response, RequestError> {
        self.request("GET", path, None)
    }

    /// One request with the bearer credential, and its whole answer within [`DEADLINE`].
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        json: Option<&[u8]>,
    ) -> Result<Response, RequestError> {
        let error = |why: String| RequestError {
            method: method.to_owned(),
            url: self.registration.url.authority(),
            path: path.split('?').next().unwrap_or_default().to_owned(),
            why,
        };
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if !plain(method) || !plain(path) || !path.starts_with('/') {
            return Err(error("the method or path holds what cannot stand in a request line".to_owned()));
        }
        let ends = Instant::now() + DEADLINE;
        let mut wire = match self.wire.take().filter(Wire::is_reusable) {
            Some(wire) => wire,
            None => match probe(&self.registration, &self.credential, PROBE_BOUND) {
                Seen { probe: Probe::Proven(theirs), wire: Some(wire), .. }
                    if theirs.id == self.registration.id =>
                {
                    wire
                }
                Seen { probe: Probe::Unreachable, detail, .. } => {
                    let why = detail.unwrap_or_default();
                    return Err(error(format!("the daemon cannot be asked: {why}")));
                }
                _ => {
                    return Err(error("the daemon is gone, or does not prove itself any more".to_owned()));
                }
            },
        };
        let credential = self.credential.expose();
        let mut bearer = Zeroizing::new(String::with_capacity(64));
        bearer.push_str("Bearer ");
        bearer.push_str(&credential);
        let request = exchange::request(method, path, &self.registration.url.authority(), &bearer, json);
        let answer = wire.exchange(&request, MAX_ANSWER, ends).map_err(|fault| error(fault.to_string()))?;
        self.wire = Some(wire);
        let Answer { status, headers, body, .. } = answer;
        Ok(Response { status, headers, body })
    }

    /// Returns a hold on the daemon's process, to watch it and to end it by force. It cannot hit another process that gets
    /// the same pid later (CONV-31).
    ///
    /// # Errors
    /// Fails if the proven handshake and the record give different pids, if the daemon runs in another pid namespace
    /// (CONV-36), if the process is gone, or if this system has no such hold.
    pub fn process(&self) -> io::Result<Process> {
        if self.registration.world.has_other_pids(&platform::world()) {
            return Err(io::Error::other(
                "it runs in another pid namespace, where its pid means another process",
            ));
        }
        if self.handshake.id != self.registration.id || self.handshake.pid != self.registration.pid {
            return Err(io::Error::other("the record's pid is not the proven daemon's"));
        }
        platform::Process::open(self.handshake.pid).map(Process)
    }

    /// Waits until the daemon's address refuses or belongs to another daemon, and `state_dir` holds its record no more;
    /// returns `false` if that takes longer than `bound`. For a daemon whose process cannot be watched (LIFE-25).
    pub fn wait_gone(&self, state_dir: &StateDir, bound: Duration) -> bool {
        let ends = Instant::now() + bound;
        loop {
            let left = ends.saturating_duration_since(Instant::now());
            let own = state_dir.read_record().0.id() == Some(self.registration.id);
            let probed = probe(&self.registration, &self.credential, left.min(PROBE_BOUND)).probe;
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

/// A process whose identity was proven.
#[derive(Debug)]
pub struct Process(platform::Process);

impl Process {
    /// Ends it with SIGKILL.
    pub fn kill(&self) -> io::Result<()> {
        self.0.kill()
    }

    /// Waits until it has ended; `false`: it still runs after `bound`.
    pub fn wait(&self, bound: Duration) -> io::Result<bool> {
        self.0.wait(bound)
    }
}
