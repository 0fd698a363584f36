//! A daemon that was seen ready: how that is seen, and what it is asked.

use std::ops::Deref;
use std::path::Path;
use std::time::{Duration, Instant};

use local_daemon_harness::http::{self, HttpFault, ProbeAnswer, Request, Response, Target};
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::record::{self, Record};
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
        let began = Instant::now();
        let binding = &self.manifest.binding;
        let read = |name: &str| {
            read_regular(&state_dir.join(name)).map_err(|error| format!("cannot read {name}: {error}"))
        };
        let record = Record::parse(&read(&binding.registration)?)
            .map_err(|fault| format!("{} is malformed: {fault}", binding.registration))?;
        let credential = record::parse_credential(&read(&binding.credential)?).ok_or_else(|| {
            format!("{} is not 43 characters of base64url and a newline", binding.credential)
        })?;
        let credential = match &binding.basic_user {
            Some(user) => credential.of_user(user),
            None => credential,
        };
        let addresses = record.url.addresses();
        let mut live = self.recorded(record, credential);
        let mut last = String::new();
        for address in addresses {
            live.target.address = address;
            let sent = Instant::now();
            match http::exchange(address, &live.bearing().bytes(), sent + PROBE) {
                Ok(response) => match live.note_answer(sent, &response).not_ready(&response) {
                    None => {
                        live.after = began.elapsed();
                        return Ok(live);
                    }
                    Some(why) => last = why,
                },
                Err(fault) => last = format!("handshake: {fault}"),
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
    fn not_ready(&self, response: &Response) -> Option<String> {
        if response.status != 200 {
            return Some(format!("handshake answered {}", response.status));
        }
        let binding = &self.manifest.binding.handshake;
        let Some(body) = response.json() else {
            return Some("handshake answered 200 and no JSON".to_owned());
        };
        let text = |pointer: &str| body.pointer(pointer).and_then(|value| value.as_str());
        if text(&binding.id) != Some(&self.record.id) {
            return Some(format!("handshake answered another id than the record's: {:?}", text(&binding.id)));
        }
        if text(&binding.protocol).is_none() {
            return Some(format!("handshake answered no text at {}", binding.protocol));
        }
        text("/state")
            .filter(|state| *state != "ready")
            .map(|state| format!("handshake answered state {state}"))
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
            Ok(answer) => self.not_ready(&answer.response),
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
