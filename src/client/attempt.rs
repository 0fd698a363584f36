//! One call of a client: performs what [`Connect`] asks for, until it has an outcome.

use std::cell::OnceCell;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use local_daemon_proto::Credential;
use local_daemon_proto::connect::{Budget, Child, Connect, Effect, LOCK_BOUND, Observed, Outcome, Policy};
use local_daemon_proto::handshake::Probe;
use local_daemon_proto::registration::{Registration, Sight};

use super::connection::Connection;
use super::probe::{PROBE_BOUND, SPAWN_PROBE_BOUND, Seen, look_at_world, probe};
use super::{Client, Failure, Launch};
use crate::exchange::{self, Fault, Wire};
use crate::{platform, state_directory};

/// How long the second look at a record may take whose daemon has just not answered.
const SECOND_LOOK: Duration = Duration::from_millis(250);

/// What one call carries from effect to effect.
pub(super) struct Attempt<'a> {
    client: &'a Client,
    launch: Option<&'a Launch>,
    machine: Connect,
    ends: Instant,
    detail: Option<String>,
    /// Why nothing could be started, or what the child said (CONN-27).
    spawn_error: Option<String>,
    proven: Option<(Wire, Credential)>,
    /// The record whose daemon did not answer in time.
    hung: Option<Registration>,
    lock: Option<File>,
    /// Change notification, opened by the first wait. If it is unavailable, the machine looks by itself.
    watch: OnceCell<Option<platform::Watch>>,
    /// Where the child speaks, and what it has said of a line so far.
    pipe: Option<(File, Vec<u8>)>,
    child: Child,
}

/// What a child says on its readiness pipe, or its silence when it ends (CONN-27, CONN-28).
enum Word {
    Done,
    Failed(String),
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
            ends: Instant::now() + client.deadline,
            detail: None,
            spawn_error: None,
            proven: None,
            hung: None,
            lock: None,
            watch: OnceCell::new(),
            pipe: None,
            child: Child::Silent,
        }
    }

    pub(super) fn drive(mut self) -> Result<Connection, Failure> {
        while let Some(effect) = self.machine.next() {
            if Instant::now() >= self.ends && effect != Effect::Unlock {
                self.machine.expire();
                continue;
            }
            let observed = self.perform(effect);
            self.machine.on(observed);
        }
        let outcome = self.machine.outcome().cloned().unwrap_or(Outcome::Busy);
        match (outcome, self.proven.take()) {
            (Outcome::Ready(found), Some((wire, credential))) => {
                let (registration, handshake) = *found;
                if self.child == Child::Done {
                    self.client.state_dir.write_budget(&Budget::default());
                }
                Ok(Connection { registration, handshake, credential, wire: Some(wire) })
            }
            (outcome, _) => Err(self.failure(outcome)),
        }
    }

    fn perform(&mut self, effect: Effect) -> Observed {
        let state_dir = &self.client.state_dir;
        match effect {
            Effect::ReadRecord => {
                let (sight, diagnostic) = state_dir.read_record();
                // What the last probe showed goes on to hold for a record that is still there.
                if !matches!(sight, Sight::Record(_)) {
                    self.detail = diagnostic.map(|diagnostic| diagnostic.to_string());
                }
                Observed::Record(sight)
            }
            Effect::Probe(record) => Observed::Probed(self.probe(&record)),
            Effect::Lock => {
                let bound = LOCK_BOUND.min(self.left());
                self.lock = state_dir.lock(bound);
                Observed::Locked(self.lock.is_some())
            }
            Effect::Unlock => {
                self.lock = None;
                Observed::Unlocked
            }
            Effect::Spawn if let Err(fault) = self.can_ask() => {
                self.detail = Some(fault.to_string());
                Observed::Unreachable
            }
            Effect::Spawn => match self.spawn() {
                Ok(()) => Observed::Spawned,
                Err(error) => {
                    self.spawn_error = Some(error);
                    Observed::SpawnFailed
                }
            },
            Effect::Await(bound) => self.wait(bound),
        }
    }

    /// Looks before the spawn whether this process could ask the daemon that it starts (CONN-38).
    fn can_ask(&self) -> Result<(), Fault> {
        if self.client.replace { Ok(()) } else { exchange::can_ask(self.ends) }
    }

    fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    fn probe(&mut self, record: &Registration) -> Probe {
        self.proven = None;
        self.detail = None;
        if let Some(seen) = look_at_world(&self.client.state_dir, record) {
            self.detail = seen.detail;
            return seen.probe;
        }
        let credential = match self.client.state_dir.read_credential() {
            Ok(Some(credential)) => credential,
            Ok(None) => return Probe::NoCredential,
            Err(fault) => {
                self.detail = Some(fault.to_string());
                return Probe::CredentialRefused;
            }
        };
        let bound = match self.launch {
            None => PROBE_BOUND,
            Some(_) if self.hung.as_ref() == Some(record) => SECOND_LOOK,
            Some(_) => SPAWN_PROBE_BOUND,
        };
        let Seen { probe, wire, detail } = probe(record, &credential, self.left().min(bound));
        self.hung = (probe == Probe::TimedOut).then(|| record.clone());
        self.proven = wire.map(|wire| (wire, credential));
        self.detail = detail;
        probe
    }

    fn spawn(&mut self) -> Result<(), String> {
        let launch = self.launch.ok_or("there is nothing to start")?;
        let state_dir = &self.client.state_dir;
        if let Some(error) = state_dir.read_budget().exhausted(unix_millis()) {
            return Err(format!(
                "three daemons in the last minute did not become ready; the last said: {error}"
            ));
        }
        let log_path = state_dir.file(state_directory::LOG);
        let log = state_dir.open_log().map_err(|e| format!("{}: {e}", log_path.display()))?;
        let mut command = Command::new(&launch.program);
        command.args(&launch.args).envs(launch.env.iter().map(|(k, v)| (k, v)));
        command.env(state_directory::VARIABLE, state_dir.path());
        let pipe = platform::spawn_detached(&mut command, log).map_err(|e| {
            let error = format!("{} could not be started: {e}", launch.program.display());
            state_dir.note_failure(unix_millis(), &error);
            error
        })?;
        self.pipe = Some((pipe, Vec::new()));
        Ok(())
    }

    fn watch(&self) -> Option<&platform::Watch> {
        let directory = self.client.state_dir.path();
        let watch = self.watch.get_or_init(|| platform::Watch::of(directory).ok());
        watch.as_ref()
    }

    fn wait(&mut self, bound: Duration) -> Observed {
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
            Some(Word::Done) => self.child = Child::Done,
            Some(Word::Failed(error)) => {
                self.client.state_dir.note_failure(unix_millis(), &error);
                self.spawn_error = Some(error);
                self.child = Child::Failed;
            }
            None => {}
        }
        Observed::Woken(self.child, began.elapsed())
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
            _ => {
                let log = self.client.state_dir.file(state_directory::LOG);
                let last = last_line(&log).map_or_else(String::new, |line| format!(": {line}"));
                Word::Failed(format!("the daemon ended before it was ready (log: {}){last}", log.display()))
            }
        })
    }

    fn failure(&mut self, outcome: Outcome) -> Failure {
        let state_dir = self.client.state_dir.path();
        let record = match self.client.state_dir.read_record().0 {
            Sight::Record(record) => Some(record),
            _ => None,
        };
        let is_registered = record.is_some();
        let place = record.map_or_else(|| state_dir.display().to_string(), |record| record.url.to_string());
        let seen = self.detail.take();
        let detail = match &outcome {
            Outcome::Ready(..) => format!("{place}: the proven connection was lost"),
            Outcome::Absent => seen.unwrap_or_else(|| format!("no daemon is registered in {place}")),
            Outcome::Stale => format!("{place}: the registered daemon is gone"),
            Outcome::Busy => format!("{place}: the daemon did not answer in time, or is draining"),
            Outcome::Foreign => {
                format!(
                    "{place}: something answers there that is not the registered daemon; it was told nothing"
                )
            }
            Outcome::Incompatible(theirs) => format!(
                "{place}: the daemon speaks {}, and this client speaks {}; --replace displaces it",
                theirs.as_ref().map_or_else(|| "by another contract".to_owned(), ToString::to_string),
                self.client.protocol
            ),
            Outcome::Invalid => seen.unwrap_or_else(|| {
                format!("{}: there is no credential to prove anything with", state_dir.display())
            }),
            Outcome::Unreachable => {
                let why = seen.unwrap_or_default();
                if is_registered {
                    format!("{place}: the daemon cannot be asked: {why}")
                } else {
                    format!(
                        "{place}: no daemon is registered, and none was started, since it could not be asked: {why}"
                    )
                }
            }
            Outcome::SpawnFailed => self
                .spawn_error
                .take()
                .unwrap_or_else(|| format!("no daemon became ready in {} in time", state_dir.display())),
        };
        Failure { outcome, detail, state_dir: state_dir.to_owned() }
    }
}

fn last_line(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2048))).ok()?;
    let mut tail = Vec::new();
    file.take(2048).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail).into_owned();
    tail.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned)
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
