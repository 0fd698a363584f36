//! The client: finds the daemon, lets it prove itself, judges its protocol, or starts one. Synchronous: a client that
//! asks one question needs no runtime. It writes no record and removes none (CONV-29).

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use local_daemon_proto::Credential;
use local_daemon_proto::connect::{Budget, Child, Connect, Effect, LOCK_BOUND, Observed, Outcome, Policy};
use local_daemon_proto::gate::{NotAProtocol, Protocol};
use local_daemon_proto::handshake::{self, Handshake, Nonce, Probe};
use local_daemon_proto::registration::{Invalid, MAX_BYTES, Registration, Sight};
use zeroize::Zeroizing;

use crate::exchange::{self, Answer, Wire};
use crate::platform;
use crate::state_directory::{self, NoHome, StateDir};

/// How long one handshake may take (HS-24).
pub const PROBE_BOUND: Duration = Duration::from_secs(2);
/// How long one handshake may take where a daemon that does not answer is going to be replaced: three looks (this call's
/// first, its second under the lock, and the child's before it publishes) end within 2.5 s together.
pub const SPAWN_PROBE_BOUND: Duration = Duration::from_secs(1);
/// How long the second look at a record may take whose daemon has just not answered.
const SECOND_LOOK: Duration = Duration::from_millis(250);
/// How long a whole connect may take unless told otherwise (CONN-10).
pub const DEADLINE: Duration = Duration::from_secs(10);
/// The most bytes of one answer that [`Connection::request`] takes (16 MiB).
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// A client could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The protocol identifier is not one.
    #[error(transparent)]
    Protocol(#[from] NotAProtocol),
    /// There is no home directory.
    #[error(transparent)]
    Home(#[from] NoHome),
}

/// How to start a daemon that is not there: a command that runs it in the foreground and lets it yield.
#[derive(Clone, Debug)]
pub struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

impl Launch {
    /// The program; a bare name is looked up on `PATH`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        // The daemon works in `/`: a relative path means the caller's directory.
        let named = program.components().count() == 1;
        let program = if named { program } else { std::path::absolute(&program).unwrap_or(program) };
        Self { program, args: Vec::new(), env: Vec::new() }
    }

    /// Arguments. Never the credential: every local user can read them.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// An environment variable for the daemon.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }
}

/// Finds, proves and if need be starts the daemon of one component.
#[derive(Clone, Debug)]
pub struct Client {
    state_dir: StateDir,
    protocol: Protocol,
    deadline: Duration,
    replace: bool,
}

impl Client {
    /// A client of `component` that speaks `protocol` (`name/N`).
    pub fn new(component: &str, protocol: &str) -> Result<Self, SetupError> {
        Ok(Self {
            state_dir: StateDir::locate(None, component)?,
            protocol: protocol.parse()?,
            deadline: DEADLINE,
            replace: false,
        })
    }

    /// Another state directory than the component's own.
    #[must_use]
    pub fn state_dir(mut self, path: impl AsRef<Path>) -> Self {
        self.state_dir = StateDir::at(path.as_ref());
        self
    }

    /// The whole deadline of a connect.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Displace an incompatible daemon whatever its name and number.
    #[must_use]
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// The state directory in use.
    pub fn directory(&self) -> &StateDir {
        &self.state_dir
    }

    /// Connects to the daemon that runs; starts nothing.
    ///
    /// # Errors
    /// [`Failure`] with any outcome but `ready` and `spawn-failed`.
    pub fn connect(&self) -> Result<Connection, Failure> {
        Run::new(self, None).drive()
    }

    /// Connects to the daemon, starting one where none answers (CONN-15). N clients converge on one daemon.
    ///
    /// # Errors
    /// [`Failure`]; `spawn-failed` carries the child's own error.
    pub fn connect_or_spawn(&self, launch: &Launch) -> Result<Connection, Failure> {
        if let Err(fault) = self.state_dir.create() {
            return Err(Failure {
                outcome: Outcome::Invalid,
                detail: fault.to_string(),
                state_dir: self.state_dir.path().to_owned(),
            });
        }
        Run::new(self, Some(launch)).drive()
    }
}

/// A connect that did not end in `ready`.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which way it failed.
    pub outcome: Outcome,
    /// What was seen: the path or URL, and what is wrong there.
    pub detail: String,
    /// The state directory that was looked at.
    pub state_dir: PathBuf,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Failure {}

/// What one call carries from effect to effect.
struct Run<'a> {
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
    lock: Option<std::fs::File>,
    /// Change notification, from the first wait for somebody else on; where it cannot be had, the machine looks by itself.
    watch: OnceCell<Option<platform::Watch>>,
    /// Where the child speaks, and what it has said of a line so far.
    pipe: Option<(std::fs::File, Vec<u8>)>,
    child: Child,
}

/// What a child says on its readiness pipe, or its silence when it ends (CONN-27, CONN-28).
enum Word {
    Done,
    Failed(String),
}

impl<'a> Run<'a> {
    fn new(client: &'a Client, launch: Option<&'a Launch>) -> Self {
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

    fn drive(mut self) -> Result<Connection, Failure> {
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
                if let Some(diagnostic) = diagnostic {
                    self.detail = Some(diagnostic.to_string());
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

    fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    fn probe(&mut self, record: &Registration) -> Probe {
        self.proven = None;
        self.detail = None;
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
        let (probe, wire) = probe(record, &credential, self.left().min(bound));
        self.hung = (probe == Probe::TimedOut).then(|| record.clone());
        self.proven = wire.map(|wire| (wire, credential));
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
            Outcome::SpawnFailed => self
                .spawn_error
                .take()
                .unwrap_or_else(|| format!("no daemon became ready in {} in time", state_dir.display())),
        };
        Failure { outcome, detail, state_dir: state_dir.to_owned() }
    }
}

/// One look at a record's daemon: a handshake within `bound`, on a connection of its own that is closed after it.
pub fn look(record: &Registration, credential: &Credential, bound: Duration) -> Probe {
    probe(record, credential, bound).0
}

/// One time-bounded handshake: a round trip to each address that the record may mean (HS-32). The connection is returned
/// only where it has proven itself, and nothing but a proof was sent on it.
pub(crate) fn probe(
    record: &Registration,
    credential: &Credential,
    bound: Duration,
) -> (Probe, Option<Wire>) {
    let addresses = exchange::addresses(record.url);
    let each = bound / u32::try_from(addresses.len()).unwrap_or(1);
    let mut seen = Probe::Refused;
    for address in addresses {
        let ends = Instant::now() + each;
        let wire = Wire::connect(address, ends);
        match wire.and_then(|mut wire| Ok((prove(&mut wire, record, credential, ends)?, wire))) {
            Ok((Probe::Foreign, _)) | Err(exchange::Fault::Garbage) => seen = Probe::Foreign,
            Ok((proven, wire)) => return (proven, Some(wire)),
            Err(exchange::Fault::TimedOut) if seen == Probe::Refused => seen = Probe::TimedOut,
            Err(_) => {}
        }
    }
    (seen, None)
}

/// One exchange, and what it proves.
fn prove(
    wire: &mut Wire,
    record: &Registration,
    credential: &Credential,
    ends: Instant,
) -> Result<Probe, exchange::Fault> {
    let authority = record.url.authority();
    let nonce = Nonce::from_bytes(state_directory::random_bytes());
    let authorization =
        handshake::authorization(nonce, handshake::client_code(credential, &authority, nonce));
    let request = request("GET", handshake::PATH, &authority, &authorization, None);
    // HS-31
    let answer = wire.exchange(&request, MAX_BYTES, ends)?;
    // HS-26: no byte of the body is believed before this comparison.
    let expected = handshake::daemon_code(credential, &authority, nonce, &answer.body);
    let proven = answer.header(handshake::SCHEME).and_then(handshake::parse_answer) == Some(expected);
    if !proven || !matches!(answer.status, 200 | 503) {
        return Ok(Probe::Foreign);
    }
    Ok(match Handshake::parse(&answer.body) {
        Ok(handshake) => Probe::Proven(handshake),
        // GATE-7
        Err(Invalid::Spec) => Probe::OtherSpec,
        Err(_) => Probe::Foreign,
    })
}

fn request(
    method: &str,
    path: &str,
    authority: &str,
    authorization: &str,
    body: Option<&[u8]>,
) -> Zeroizing<Vec<u8>> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: application/json\r\n");
    // One allocation of the right size: a growing buffer would leave copies of the bearer behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(
        head.len() + authorization.len() + body.map_or(0, <[u8]>::len) + 128,
    ));
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(b"Authorization: ");
    bytes.extend_from_slice(authorization.as_bytes());
    if let Some(body) = body {
        let length = format!("\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
        bytes.extend_from_slice(length.as_bytes());
    }
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes.extend_from_slice(body.unwrap_or_default());
    bytes
}

fn last_line(log: &Path) -> Option<String> {
    let mut file = std::fs::File::open(log).ok()?;
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

/// A connection that has proven itself, kept alive. A new one is proven before anything else is sent on it (HS-25).
#[derive(Debug)]
pub struct Connection {
    registration: Registration,
    handshake: Handshake,
    credential: Credential,
    wire: Option<Wire>,
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
                (Probe::Proven(theirs), Some(wire)) if theirs.id == self.registration.id => wire,
                _ => {
                    return Err(error("the daemon is gone, or does not prove itself any more".to_owned()));
                }
            },
        };
        let credential = self.credential.expose();
        let mut bearer = Zeroizing::new(String::with_capacity(64));
        bearer.push_str("Bearer ");
        bearer.push_str(&credential);
        let request = request(method, path, &self.registration.url.authority(), &bearer, json);
        let answer = wire.exchange(&request, MAX_ANSWER, ends).map_err(|fault| error(fault.to_string()))?;
        self.wire = Some(wire);
        let Answer { status, headers, body, .. } = answer;
        Ok(Response { status, headers, body })
    }

    /// A hold on the daemon's process, to end it by force later. It is had only where the proven handshake and the
    /// record give the same pid, and cannot hit another process that comes to bear that pid (CONV-31).
    ///
    /// # Errors
    /// The pids differ, or the process is gone.
    pub fn process(&self) -> std::io::Result<Process> {
        if self.handshake.id != self.registration.id || self.handshake.pid != self.registration.pid {
            return Err(std::io::Error::other("the record's pid is not the proven daemon's"));
        }
        platform::Process::open(self.handshake.pid).map(Process)
    }
}

/// A process whose identity was proven.
#[derive(Debug)]
pub struct Process(platform::Process);

impl Process {
    /// Ends it with SIGKILL.
    pub fn kill(&self) -> std::io::Result<()> {
        self.0.kill()
    }

    /// Waits until it has ended; `false`: it still runs after `bound`.
    pub fn wait(&self, bound: Duration) -> std::io::Result<bool> {
        self.0.wait(bound)
    }
}
