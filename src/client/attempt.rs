//! One call of a client: performs what [`Connect`] asks for, until it has an outcome.

use std::cell::OnceCell;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use local_daemon_proto::Credential;
use local_daemon_proto::claim::Reason;
use local_daemon_proto::connect::{
    Child, Connect, ConnectEffect, ConnectEvent, ConnectOutcome, LOCK_TIMEOUT, Policy,
};
use local_daemon_proto::handshake::Probe;
use local_daemon_proto::registration::{RecordRead, Registration};
use rustix::process::Pid;

use super::connection::Connection;
use super::probe::{PROBE_TIMEOUT, SPAWN_PROBE_TIMEOUT, Seen, ask_daemon, look_at_world};
use super::{Client, ConnectError, Detail, Launch};
use crate::exchange::{ExchangeError, Wire, deadline_in};
use crate::state_directory::Diagnostic;
use crate::{loopback, platform, state_directory};

/// How long the second look at a record may take whose daemon has just not answered.
const SECOND_LOOK: Duration = Duration::from_millis(250);
/// How long the status of a child is waited for that has closed its readiness pipe. It comes at once if the child has ended.
const STATUS_BOUND: Duration = Duration::from_secs(1);

/// What a daemon that does not answer a call within a runtime may be waiting for.
const BLOCKING: &str = " (this thread belongs to an asynchronous runtime; a daemon that runs on it cannot answer while it is blocked)";

/// What one call carries from effect to effect.
pub(super) struct Attempt<'a> {
    client: &'a Client,
    launch: Option<&'a Launch>,
    machine: Connect,
    ends: Instant,
    detail: Option<Detail>,
    /// Why nothing could be started, or what the child said (CONN-27).
    spawn_error: Option<Detail>,
    proven: Option<(Wire, Credential)>,
    /// Whether the last daemon that was asked is gone for certain: this process can ask.
    is_refused: bool,
    /// The record whose daemon did not answer in time.
    hung: Option<Registration>,
    lock: Option<File>,
    /// Change notification, opened by the first wait. If it is unavailable, the machine looks by itself.
    watch: OnceCell<Option<platform::Watch>>,
    /// Where the child speaks, and what it has said of a line so far.
    pipe: Option<(File, Vec<u8>)>,
    /// The process that waits for the child.
    starter: Option<platform::Starter>,
    /// The child's log, and how long it was before the child began.
    log: Option<(File, u64)>,
    child: Child,
    /// The process of the child.
    pid: Option<Pid>,
    /// Set when the call is not wanted any more: it stops at its next step.
    cancelled: Option<&'a AtomicBool>,
}

/// What a child says on its readiness pipe, or its silence when it ends (CONN-27, CONN-28).
enum Word {
    Done,
    Failed(String),
    /// It could not ask whether a daemon is there, which does not count against the restart budget (CONN-42).
    Unreachable(String),
}

impl<'a> Attempt<'a> {
    pub(super) fn new(client: &'a Client, launch: Option<&'a Launch>) -> Self {
        let policy = Policy {
            protocol: client.protocol.clone(),
            spawn: launch.is_some(),
            replace: client.replace,
        };
        Self {
            client,
            launch,
            machine: Connect::new(policy),
            ends: deadline_in(client.deadline),
            detail: None,
            spawn_error: None,
            proven: None,
            is_refused: false,
            hung: None,
            lock: None,
            watch: OnceCell::new(),
            pipe: None,
            starter: None,
            log: None,
            child: Child::Silent,
            pid: None,
            cancelled: None,
        }
    }

    /// Lets this flag end the call at its next step, as its deadline does: it gives its lock back and starts nothing more.
    #[cfg(feature = "async")]
    pub(super) fn until(self, cancelled: &'a AtomicBool) -> Self {
        Self { cancelled: Some(cancelled), ..self }
    }

    pub(super) fn drive(mut self) -> Result<Connection, ConnectError> {
        while let Some(effect) = self.machine.effect() {
            let is_over = self.is_cancelled() || Instant::now() >= self.ends;
            if is_over && effect != ConnectEffect::Unlock {
                self.machine.expire();
                continue;
            }
            let observed = self.perform(effect);
            self.machine.handle(observed);
        }
        let outcome = self.machine.outcome().cloned().unwrap_or(ConnectOutcome::Busy);
        match (outcome, self.proven.take()) {
            (ConnectOutcome::Ready(found), Some((wire, credential))) => {
                let (registration, handshake) = *found;
                if self.child == Child::Done {
                    self.client.state_dir.clear_budget();
                }
                Ok(Connection {
                    client: self.client.clone(),
                    registration,
                    handshake,
                    credential,
                    wire: Some(wire),
                })
            }
            (outcome, _) => Err(self.failure(outcome)),
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.is_some_and(|cancelled| cancelled.load(Ordering::Relaxed))
    }

    fn perform(&mut self, effect: ConnectEffect) -> ConnectEvent {
        let state_dir = &self.client.state_dir;
        match effect {
            ConnectEffect::ReadRecord => {
                let (sight, diagnostic) = state_dir.read_record();
                // The detail of the last probe still holds if the record is still there.
                if !matches!(sight, RecordRead::Record(_)) {
                    self.detail = diagnostic.map(|diagnostic| match diagnostic {
                        Diagnostic::File(fault) => Detail::of(fault),
                        malformed @ Diagnostic::Malformed { .. } => Detail::of(malformed),
                    });
                }
                if matches!(sight, RecordRead::Record(_) | RecordRead::Unreadable) {
                    return ConnectEvent::Record(sight);
                }
                // CONN-9: a child would meet the same fault.
                ConnectEvent::Record(match state_dir.read_credential() {
                    Ok(_) => sight,
                    Err(fault) => {
                        self.detail = Some(Detail::of(fault));
                        RecordRead::Unreadable
                    }
                })
            }
            ConnectEffect::Probe(record) => ConnectEvent::Probed(self.probe(&record)),
            ConnectEffect::Lock => {
                let bound = LOCK_TIMEOUT.min(self.left());
                self.lock = state_dir.lock(bound);
                ConnectEvent::Locked(self.lock.is_some())
            }
            ConnectEffect::Unlock => {
                self.lock = None;
                ConnectEvent::Unlocked
            }
            ConnectEffect::Spawn if let Err(fault) = self.can_ask() => {
                self.detail = Some(Detail::of(fault));
                ConnectEvent::Unreachable
            }
            ConnectEffect::Spawn => self.spawn(),
            ConnectEffect::Await(bound) => self.wait(bound),
        }
    }

    /// Checks before a spawn whether this process could ask the daemon that it starts (CONN-38).
    fn can_ask(&self) -> Result<(), ExchangeError> {
        if self.client.replace || self.is_refused {
            Ok(())
        } else {
            loopback::can_connect()
        }
    }

    fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    fn probe(&mut self, record: &Registration) -> Probe {
        self.proven = None;
        self.detail = None;
        if let Some(seen) = look_at_world(&self.client.state_dir, record) {
            self.detail = seen.detail.map(Detail::from);
            return seen.probe;
        }
        let credential = match self.client.state_dir.read_credential() {
            Ok(Some(credential)) => credential,
            Ok(None) => return Probe::NoCredential,
            Err(fault) => {
                self.detail = Some(Detail::of(fault));
                return Probe::CredentialRefused;
            }
        };
        let bound = match self.launch {
            None => PROBE_TIMEOUT,
            Some(_) if self.hung.as_ref() == Some(record) => SECOND_LOOK,
            Some(_) => SPAWN_PROBE_TIMEOUT,
        };
        let bound = self.left().min(bound);
        let Seen { probe, wire, detail } = ask_daemon(&self.client.state_dir, record, &credential, bound);
        self.is_refused = probe == Probe::Refused;
        self.hung = (probe == Probe::TimedOut).then(|| record.clone());
        self.proven = wire.map(|wire| (wire, credential));
        self.detail = detail.map(Detail::from);
        probe
    }

    fn spawn(&mut self) -> ConnectEvent {
        match self.try_to_spawn() {
            Ok(observed) => observed,
            Err(error) => {
                self.spawn_error = Some(error);
                ConnectEvent::SpawnFailed
            }
        }
    }

    /// What fails here failed before the child's program ran, and does not count against the restart budget (CONN-42).
    fn try_to_spawn(&mut self) -> Result<ConnectEvent, Detail> {
        let launch = self.launch.ok_or_else(|| "there is nothing to start".to_owned())?;
        let client = self.client;
        let held_back = client.state_dir.held_back().filter(|_| !client.ignore_budget);
        if let Some(held_back) = held_back {
            return Err(held_back.to_string().into());
        }
        let log = match client.state_dir.open_log() {
            Ok(log) => log,
            Err(fault) => {
                self.detail = Some(Detail::of(fault));
                return Ok(ConnectEvent::SpawnRefused);
            }
        };
        let length = log.metadata().map_or(u64::MAX, |log| log.len());
        let error = |error| launch.error(error);
        let start = launch.prepare(client, &log).map_err(error)?;
        let started = platform::spawn_detached(start, self.left()).map_err(error)?;
        self.pipe = Some((started.ready, Vec::new()));
        self.starter = Some(started.starter);
        self.pid = started.pid;
        self.log = Some((log, length));
        Ok(ConnectEvent::Spawned)
    }

    fn watch(&self) -> Option<&platform::Watch> {
        let directory = self.client.state_dir.path();
        let watch = self.watch.get_or_init(|| platform::Watch::of(directory).ok());
        watch.as_ref()
    }

    fn wait(&mut self, bound: Duration) -> ConnectEvent {
        let bound = bound.min(self.left());
        let began = Instant::now();
        // A child tells by its pipe whatever becomes of the record, and giving a watch back can take Linux 10 ms.
        let watch = self.pipe.is_none().then(|| self.watch()).flatten();
        let pipe = self.pipe.as_ref().map(|(pipe, _)| pipe.as_fd());
        let [has_changed, has_spoken] = platform::readable([watch.map(AsFd::as_fd), pipe], bound);
        if let (true, Some(watch)) = (has_changed, watch) {
            // A publish is several notifications; one look serves them all.
            watch.take();
        }
        match has_spoken.then(|| self.child_word()).flatten() {
            Some(Word::Done) => {
                self.starter.as_ref().map(platform::Starter::end);
                self.child = Child::Done;
            }
            Some(Word::Failed(error)) => {
                self.client.state_dir.note_failure(&error);
                self.fail(error);
            }
            Some(Word::Unreachable(error)) => self.fail(error),
            None => {}
        }
        ConnectEvent::Woken(self.child, began.elapsed())
    }

    fn fail(&mut self, error: String) {
        self.spawn_error = Some(error.into());
        self.child = Child::Failed;
    }

    /// Reads what can be read of the child's one line; when it is whole, or has ended, nothing more is read.
    fn child_word(&mut self) -> Option<Word> {
        let (pipe, line) = self.pipe.as_mut()?;
        let mut part = [0; 512];
        let count = pipe.read(&mut part).unwrap_or(0);
        line.extend_from_slice(&part[..count]);
        if count > 0 && !line.contains(&b'\n') && line.len() < 4096 {
            return None;
        }
        let (_, line) = self.pipe.take()?;
        let line = String::from_utf8_lossy(&line);
        let line = line.lines().next().unwrap_or_default();
        Some(match line.split_once(' ').unwrap_or((line, "")) {
            ("ready" | "yielded", _) => Word::Done,
            ("failed", error) => Word::Failed(error.to_owned()),
            ("unreachable", error) => Word::Unreachable(error.to_owned()),
            _ => self.silent_end(),
        })
    }

    /// Describes the end of a child that said nothing on its pipe (CONN-44, CONN-45).
    fn silent_end(&mut self) -> Word {
        let bound = STATUS_BOUND.min(self.left());
        let status = self.starter.as_ref().and_then(|starter| starter.status(bound));
        let word = match status.and_then(|status| status.code()) {
            Some(code) if code == Reason::Unreachable.exit_status() => Word::Unreachable,
            _ => Word::Failed,
        };
        // `exit status: 3`, `signal: 9 (SIGKILL)`
        let status = status.map_or_else(String::new, |status| status.to_string().replacen(':', "", 1) + ", ");
        let said = self.log.take().and_then(|(log, from)| last_line(log, from));
        let said = said.unwrap_or_else(|| "it said nothing".to_owned());
        let log = self.client.state_dir.file(state_directory::LOG);
        word(format!("the daemon ended before it was ready ({status}log: {}): {said}", log.display()))
    }

    fn failure(&mut self, outcome: ConnectOutcome) -> ConnectError {
        let state_dir = self.client.state_dir.path();
        let record = match self.client.state_dir.read_record().0 {
            RecordRead::Record(record) => Some(record),
            _ => None,
        };
        let is_registered = record.is_some();
        let place = record.map_or_else(|| state_dir.display().to_string(), |record| record.url.to_string());
        let seen = self.detail.take();
        let detail = match &outcome {
            ConnectOutcome::Ready(..) => format!("{place}: the proven connection was lost").into(),
            ConnectOutcome::Absent => {
                seen.unwrap_or_else(|| format!("no daemon is registered in {place}").into())
            }
            ConnectOutcome::Stale => format!("{place}: the registered daemon is gone").into(),
            ConnectOutcome::Busy => {
                let is_blocking = self.cancelled.is_none() && is_in_runtime();
                let why = if is_blocking { BLOCKING } else { "" };
                format!("{place}: the daemon did not answer in time, or is draining{why}").into()
            }
            ConnectOutcome::Foreign => format!(
                "{place}: something answers there that is not the registered daemon; no credential was sent to it"
            )
            .into(),
            ConnectOutcome::Incompatible(theirs) => format!(
                "{place}: the daemon speaks {}, and this client speaks {}",
                theirs.as_ref().map_or_else(|| "by another contract".to_owned(), ToString::to_string),
                self.client.protocol
            )
            .into(),
            ConnectOutcome::Invalid => seen.unwrap_or_else(|| {
                format!("{}: there is no credential to prove anything with", state_dir.display()).into()
            }),
            ConnectOutcome::Unreachable => {
                let Detail { text: why, source } = seen.unwrap_or_else(|| String::new().into());
                let text = if is_registered {
                    format!("{place}: the daemon cannot be asked: {why}")
                } else {
                    format!(
                        "{place}: no daemon is registered, and none was started, since it could not be asked: {why}"
                    )
                };
                Detail { text, source }
            }
            ConnectOutcome::SpawnFailed => self.spawn_error.take().unwrap_or_else(|| {
                format!("no daemon became ready in {} in time", state_dir.display()).into()
            }),
        };
        ConnectError {
            left_running: self.left_running(),
            ..self.client.failure(outcome, detail)
        }
    }

    fn left_running(&self) -> Option<u32> {
        let pid = self.pid.filter(|_| self.child != Child::Failed)?;
        rustix::process::test_kill_process(pid).ok()?;
        Some(pid.as_raw_nonzero().get().unsigned_abs())
    }
}

/// Whether this thread belongs to an asynchronous runtime, so that a call blocks its tasks. Within `spawn_blocking` it does no
/// harm, and cannot be told from one that does.
fn is_in_runtime() -> bool {
    #[cfg(any(feature = "daemon", feature = "async"))]
    return tokio::runtime::Handle::try_current().is_ok();
    #[cfg(not(any(feature = "daemon", feature = "async")))]
    false
}

/// Returns the last line that is not empty after the first `from` bytes of the log.
fn last_line(mut log: File, from: u64) -> Option<String> {
    let length = log.metadata().ok()?.len();
    log.seek(SeekFrom::Start(from.max(length.saturating_sub(2048)))).ok()?;
    let mut tail = Vec::new();
    log.take(2048).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail).into_owned();
    tail.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned)
}
