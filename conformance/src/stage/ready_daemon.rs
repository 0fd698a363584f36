//! A daemon that was seen ready: how that is seen, and what it is asked.

use std::io::ErrorKind;
use std::ops::Deref;
use std::path::Path;
use std::time::{Duration, Instant};

use local_daemon_harness::http::{self, HttpFault, ProbeAnswer, Request, Response, Target};
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::record::{self, Record, RecordFault};
use local_daemon_harness::wait::until;

use super::context::read_regular;
use super::{Context, Daemon, PROBE, Stage};
use crate::manifest::Operation;
use crate::outcome::{Outcome, Stop, fail, inconclusive};

/// What [`Stage::ready`] itself looks at: a subject that is never ready, started plainly, violates one of these, and
/// what it does to any other requirement is not known.
pub const READINESS: &[&str] = &[
    "DIR-1", "DIR-4", "REG-1", "REG-2", "REG-3", "REG-5", "CRED-1", "PUB-4", "PUB-7", "HS-1", "HS-2", "HS-3",
    "HS-5", "HS-13",
];

/// What keeps a daemon from being ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    /// In words.
    pub(crate) what: String,
    /// The requirement that it breaks, where it published something wrong and not merely nothing yet.
    pub(crate) broken: Option<&'static str>,
}

impl Missing {
    fn yet(what: impl Into<String>) -> Self {
        Self { what: what.into(), broken: None }
    }

    fn wrong(id: &'static str, what: impl Into<String>) -> Self {
        Self { what: what.into(), broken: Some(id) }
    }

    /// The requirement that a record breaks that cannot be read.
    fn of_record(name: &str, fault: &RecordFault) -> Self {
        let id = match fault {
            RecordFault::TooLarge(_) | RecordFault::Syntax(_) => "REG-1",
            RecordFault::Field("id") => "REG-3",
            RecordFault::Field("url") => "REG-5",
            RecordFault::Missing(_) | RecordFault::Field(_) => "REG-2",
        };
        Self::wrong(id, format!("{name} is malformed: {fault}"))
    }
}

/// A daemon that was seen ready, and what it is asked.
#[derive(Debug, Clone)]
pub struct ReadyDaemon {
    /// Its record, as it was read.
    pub record: Record,
    /// The credential in its state directory.
    pub credential: Credential,
    /// Where its handshake is: address, authority, path.
    pub target: Target,
    /// How long after the launch it was seen ready.
    pub after: Duration,
    pub(super) context: Context,
}

impl Stage {
    /// Starts the subject and waits until it is ready.
    pub fn launch_ready(&mut self) -> Outcome<(Daemon, ReadyDaemon)> {
        let daemon = self.launch()?;
        let live = self.ready(&daemon)?;
        Ok((daemon, live))
    }

    /// Waits until `daemon` is ready: its state directory holds a record of an id that was not ready before, and the
    /// handshake with the bearer at that record's URL is answered 200 with this id. That is a precondition, and noted
    /// as one. A daemon that exits before, or is not ready in the manifest's time, ends the
    /// case as [`Stop::NotReady`].
    pub fn ready(&mut self, daemon: &Daemon) -> Outcome<ReadyDaemon> {
        let began = Instant::now();
        let mut missing = String::new();
        let live = until(self.ready_deadline(), || {
            match self.look(daemon, began) {
                Ok(live) => return Some(Some(live)),
                Err(why) => missing = why,
            }
            daemon.exit().map(|_| None)
        });
        match live {
            Some(Some(live)) => {
                self.transcript().hide(live.credential.bytes());
                if let Some(pair) = live.credential.pair() {
                    self.transcript().hide(pair.as_bytes());
                }
                self.known_ids.insert(live.record.id.clone());
                self.slowest_start = self.slowest_start.max(live.after);
                self.precondition(format!(
                    "{} (pid {}) was ready after {} ms: record of id {} at {}, handshake answered 200",
                    daemon.name,
                    daemon.pid(),
                    live.after.as_millis(),
                    live.record.id,
                    live.record.url.text(),
                ));
                Ok(live)
            }
            ended => {
                self.notes.hide_credentials(&self.manifest, self.arena.transcript());
                let how = match (ended, daemon.exit()) {
                    (Some(_), Some(exit)) => format!("{} was never ready: {exit}", daemon.name),
                    _ => format!("{} is not ready after {} ms", daemon.name, began.elapsed().as_millis()),
                };
                let output = daemon.output().all();
                let output = String::from_utf8_lossy(&output);
                let lines: Vec<&str> = output.lines().rev().take(5).collect();
                let said = lines.into_iter().rev().collect::<Vec<_>>().join(" | ");
                let said = if said.is_empty() { String::new() } else { format!("; it said: {said}") };
                self.precondition(format!("{} was started as pid {}", daemon.name, daemon.pid()));
                Err(Stop::NotReady(format!("{how}; {missing}{said}")))
            }
        }
    }

    /// One look at whether `daemon` is ready, or what is missing.
    fn look(&self, daemon: &Daemon, began: Instant) -> Result<ReadyDaemon, String> {
        let earlier = |id: &str| {
            let known = self.known_ids.contains(id);
            known.then(|| format!("the record still holds the id {id} of an earlier launch"))
        };
        // Before any handshake: an earlier daemon that is stopped would cost the whole bound of one.
        let record = read_regular(&daemon.state_dir.join(&self.manifest.binding.registration));
        let record = record.ok().and_then(|bytes| Record::parse(&bytes).ok());
        if let Some(why) = record.and_then(|record| earlier(&record.id)) {
            return Err(why);
        }
        let live = self.find(&daemon.state_dir)?;
        if let Some(why) = earlier(&live.record.id) {
            return Err(why);
        }
        Ok(ReadyDaemon { after: began.elapsed(), ..live })
    }
}

impl Context {
    /// Returns the daemon that is ready in a state directory at this moment, by its record and the handshake with the
    /// bearer, or what is missing. Unlike [`Stage::ready`] this is no violation, notes nothing and does not wait.
    pub fn find(&self, state_dir: &Path) -> Result<ReadyDaemon, String> {
        self.find_or_missing(state_dir).map_err(|missing| missing.what)
    }

    /// The same, with the requirement that is broken where something wrong was published.
    pub(crate) fn find_or_missing(&self, state_dir: &Path) -> Result<ReadyDaemon, Missing> {
        let began = Instant::now();
        let binding = &self.manifest.binding;
        let read = |name: &str| {
            read_regular(&state_dir.join(name)).map_err(|error| match error.kind() {
                ErrorKind::NotFound => Missing::yet(format!("there is no {name}")),
                _ => Missing::yet(format!("cannot read {name}: {error}")),
            })
        };
        let record = Record::parse(&read(&binding.registration)?)
            .map_err(|fault| Missing::of_record(&binding.registration, &fault))?;
        let credential = read(&binding.credential)
            .map_err(|missing| Missing { broken: Some("CRED-1"), ..missing })
            .map(|bytes| record::parse_credential(&bytes))?
            .ok_or_else(|| {
                let what = format!("{} is not 43 characters of base64url and a newline", binding.credential);
                Missing::wrong("CRED-1", what)
            })?;
        let credential = match &binding.basic_user {
            Some(user) => credential.of_user(user),
            None => credential,
        };
        let addresses = record.url.addresses();
        let mut live = self.recorded(record, credential);
        let mut last = Missing::yet("the record names no address");
        for address in addresses {
            live.target.address = address;
            let sent = Instant::now();
            match http::exchange(address, &live.bearing().bytes(), sent + PROBE) {
                Ok(response) => match live.note_answer(sent, &response).not_ready(&response) {
                    None => {
                        live.after = began.elapsed();
                        return Ok(live);
                    }
                    Some(missing) => last = missing,
                },
                Err(fault) => last = Missing::wrong("PUB-4", format!("handshake at {address}: {fault}")),
            }
        }
        Err(last)
    }

    /// Returns the daemon of a record without asking it anything.
    pub fn recorded(&self, record: Record, credential: Credential) -> ReadyDaemon {
        let path = self.manifest.binding.handshake.path.clone();
        let target = Target { path, ..Target::of(&record) };
        ReadyDaemon {
            record,
            credential,
            target,
            after: Duration::ZERO,
            context: self.clone(),
        }
    }
}

impl Deref for ReadyDaemon {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

impl ReadyDaemon {
    /// Uses another credential from now on.
    #[must_use]
    pub fn with_credential(self, credential: Credential) -> Self {
        Self { credential, ..self }
    }

    /// Passes a handshake's answer to the recorder.
    fn note_answer(&self, sent: Instant, response: &Response) -> &Self {
        let by = Instant::now();
        self.notes.tell_recorder(|recorder| recorder.answered(sent, by, &response.body));
        self
    }

    /// Returns what keeps an answer from being a ready handshake of this daemon, by the manifest's binding.
    fn not_ready(&self, response: &Response) -> Option<Missing> {
        let state = response.json().and_then(|body| body["state"].as_str().map(str::to_owned));
        match (response.status, &state) {
            (200, _) => {}
            (503, Some(state)) => {
                return Some(Missing::wrong(
                    "HS-13",
                    format!("the handshake was answered 503, state {state}"),
                ));
            }
            (401 | 403, _) => {
                let what = format!("the handshake with the credential was answered {}", response.status);
                return Some(Missing::wrong("HS-5", what));
            }
            (status, _) => {
                return Some(Missing::wrong("HS-1", format!("the handshake was answered {status}, not 200")));
            }
        }
        let binding = &self.manifest.binding.handshake;
        let Some(body) = response.json() else {
            return Some(Missing::wrong("HS-1", "the handshake was answered 200 and no JSON"));
        };
        let text = |pointer: &str| body.pointer(pointer).and_then(|value| value.as_str());
        match text(&binding.id) {
            Some(id) if id == self.record.id => {}
            Some(id) => {
                let what = format!(
                    "the handshake was answered with the id {id}, and the record has {}",
                    self.record.id
                );
                return Some(Missing::wrong("HS-3", what));
            }
            None => {
                return Some(Missing::wrong(
                    "HS-2",
                    format!("the handshake's answer has no text at {}", binding.id),
                ));
            }
        }
        if text(&binding.protocol).is_none() {
            let what = format!("the handshake's answer has no text at {}", binding.protocol);
            return Some(Missing::wrong("HS-2", what));
        }
        text("/state")
            .filter(|state| *state != "ready")
            .map(|state| Missing::wrong("HS-13", format!("the handshake was answered 200, state {state}")))
    }

    /// The handshake request without authentication.
    pub fn handshake_request(&self) -> Request {
        let method = &self.manifest.binding.handshake.method;
        Request::new(method, &self.target.path).host(&self.target.authority)
    }

    fn bearing(&self) -> Request {
        self.handshake_request().header("Authorization", &proof::bearer(&self.credential))
    }

    /// The handshake with the bearer, noted in the transcript.
    pub fn probe(&self) -> Result<ProbeAnswer, HttpFault> {
        let request = self.bearing();
        let sent = Instant::now();
        let response = self.wire().exchange(self.target.address, &request.bytes())?;
        self.note_answer(sent, &response);
        let handshake = http::Handshake::parse(&response.body);
        Ok(ProbeAnswer { response, proof: http::DaemonProof::Missing, handshake })
    }

    /// The handshake with a proof of its own nonce, noted in the transcript.
    pub fn probe_with_proof(&self) -> Result<ProbeAnswer, HttpFault> {
        let sent = Instant::now();
        let answer = self.wire().probe(&self.target, &self.credential)?;
        self.note_answer(sent, &answer.response);
        Ok(answer)
    }

    /// Whether a good handshake is answered 200 by this very daemon, ready.
    pub fn is_ready(&self) -> bool {
        self.why_not_ready().is_none()
    }

    fn why_not_ready(&self) -> Option<String> {
        match self.probe() {
            Ok(answer) => self.not_ready(&answer.response).map(|missing| missing.what),
            Err(fault) => Some(fault.to_string()),
        }
    }

    /// Does what must be refused between two good handshakes. Without a good one before, nothing follows; without one
    /// after, the subject did not refuse but break.
    pub fn between_controls<T>(&self, refused: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        if let Some(why) = self.why_not_ready() {
            return inconclusive(format!("the good handshake before: {why}"));
        }
        self.control("a good handshake was answered 200 before");
        let seen = refused()?;
        if let Some(why) = self.why_not_ready() {
            return fail(format!("the good handshake afterwards: {why}"));
        }
        self.control("a good handshake was answered 200 afterwards");
        Ok(seen)
    }

    /// The request of a manifest's operation, at a live daemon, without authentication.
    pub fn operation(&self, operation: &Operation) -> Request {
        let filled = self.filler(self.state_dir(), &[]);
        let request = Request::new(&operation.method, &filled(&operation.path)).host(&self.target.authority);
        match &operation.body {
            Some(body) => request.json(filled(body)),
            None => request,
        }
    }

    /// Sends a request to a live daemon on a connection of its own.
    pub fn send(&self, request: &Request) -> Result<Response, HttpFault> {
        self.wire().exchange(self.target.address, &request.bytes())
    }
}
