//! What a product does with a daemon as a whole: asks for its status, stops it, restarts it, or replaces an older one.

use std::io;
use std::str::FromStr;
use std::time::Duration;

use local_daemon_proto::ClaimId;
use local_daemon_proto::connect::ConnectOutcome;
use local_daemon_proto::gate::Protocol;
use local_daemon_proto::handshake::{Handshake, State};
use local_daemon_proto::registration::{LoopbackUrl, RecordRead};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use super::connection::{Connection, Process};
use super::request::{AnswerError, Request, RequestError, Response};
use super::{Client, ConnectError, Launch};

/// How long a daemon may take to end after it has taken the request, by default: 10 s for what it has begun, and a little more.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(12);
/// How long a process that was killed, or whose connection broke, may take to end.
const GONE_BOUND: Duration = Duration::from_secs(2);
/// A restart may find a daemon that does not answer, and look at it three times before it is replaced.
const RESTART_DEADLINE: Duration = Duration::from_secs(20);

/// Whether a daemon runs until it is stopped, or ends by itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Mode {
    /// It runs until it is stopped (LIFE-1).
    Manual,
    /// It ends when it has been idle for its idle time-out (LIFE-2).
    Auto,
}

/// What a daemon says of itself in answer to `GET /v1/status` (LIFE-18 to LIFE-21).
///
/// ```no_run
/// use local_daemon::Client;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let status = Client::new("acme", "acme/1")?.connect()?.status()?;
/// println!("up for {} s, {} jobs", status.uptime_seconds, status.more["jobs"]);
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// The wire protocol.
    #[serde(deserialize_with = "parsed")]
    pub protocol: Protocol,
    /// The implementation's version.
    pub version: String,
    /// The id of this launch.
    #[serde(deserialize_with = "parsed")]
    pub id: ClaimId,
    /// The daemon's process id.
    pub pid: u32,
    /// Its URL, as in the record.
    #[serde(deserialize_with = "parsed")]
    pub url: LoopbackUrl,
    /// Whether it takes new work.
    pub state: State,
    /// Whether it ends by itself.
    pub mode: Mode,
    /// What it can do beyond the core.
    pub capabilities: Vec<String>,
    /// When this launch began, as RFC 3339.
    pub started_at: String,
    /// Seconds since then, by a clock that no one sets.
    pub uptime_seconds: u64,
    /// How many requests it answers, without this one and without event streams (LIFE-20).
    pub active_requests: u64,
    /// How many event streams are open.
    pub streams: u64,
    /// When it last did something, as RFC 3339.
    pub last_activity: String,
    /// How many seconds it may be idle; `None` in mode manual.
    pub idle_timeout_seconds: Option<u64>,
    /// When it ends if nothing happens, as RFC 3339; `None` in mode manual and while work is open (LIFE-21).
    pub idle_deadline: Option<String>,
    /// How many bytes of memory its process has resident, if the platform tells.
    pub memory_bytes: Option<u64>,
    /// The path of its log; `None` if it logs to its standard error.
    pub log_path: Option<String>,
    /// Everything else: the other members of the specification, and the product's own.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

fn parsed<'de, T: FromStr, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| D::Error::custom(format!("{text:?} is not one")))
}

/// A status that could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// The daemon could not be asked.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It answered with another status code than 200: it may have no such route.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// Its answer is not a status as the specification has it.
    #[error("{url}/v1/status: the answer is not the status of a daemon: {source}")]
    Malformed {
        /// The daemon's URL.
        url: LoopbackUrl,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// How to stop a daemon: gracefully, whatever is open, unless told otherwise.
#[derive(Clone, Debug)]
pub struct Stop {
    if_idle: bool,
    force: bool,
    bound: Duration,
}

impl Default for Stop {
    fn default() -> Self {
        Self { if_idle: false, force: false, bound: DEFAULT_STOP_TIMEOUT }
    }
}

impl Stop {
    /// Returns a graceful stop, within [`DEFAULT_STOP_TIMEOUT`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops it only if nothing else is open: no stream, no request (LIFE-14).
    #[must_use]
    pub fn if_idle(mut self, if_idle: bool) -> Self {
        self.if_idle = if_idle;
        self
    }

    /// Kills its process if it is not gone in time. It reaches no other process (CONV-31), and none in another pid namespace
    /// (CONV-36).
    #[must_use]
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Sets how long it may take to end after it has taken the request: [`DEFAULT_STOP_TIMEOUT`] by default. A product whose
    /// daemon drains longer than 10 s waits longer.
    #[must_use]
    pub fn bound(mut self, bound: Duration) -> Self {
        self.bound = bound;
        self
    }
}

/// A daemon that was stopped and is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stopped {
    /// Its id.
    pub id: ClaimId,
    /// Its process id.
    pub pid: u32,
    /// Where it listened.
    pub url: LoopbackUrl,
    /// Whether its process was killed.
    pub forced: bool,
}

/// A daemon that was not stopped, or is not gone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// There is a daemon that could not be asked to stop.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Something is open, and it was to stop only if nothing is. It goes on.
    #[error("{url}: the daemon (pid {pid}) is in use ({}), and goes on", listed(active))]
    InUse {
        /// Where it listens.
        url: LoopbackUrl,
        /// Its process id.
        pid: u32,
        /// What is open, and how many of it, such as `"streams": 2`.
        active: Map<String, Value>,
    },
    /// It took the request, and is not gone in time.
    #[error("{url}: the daemon (pid {pid}) took the request to stop and still runs after {after:?}")]
    StillRuns {
        /// Where it listens.
        url: LoopbackUrl,
        /// Its process id.
        pid: u32,
        /// How long the client waited for it.
        after: Duration,
    },
    /// The request got no answer, and the daemon is not gone.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It refused the request: it may have no such route.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// Its process could not be watched or killed.
    #[error("{url}: the daemon (pid {pid}) could not be ended: {source}")]
    Kill {
        /// Where it listens.
        url: LoopbackUrl,
        /// Its process id.
        pid: u32,
        /// The error of the system.
        source: io::Error,
    },
}

/// Returns the counts that are not 0, such as `streams: 2`.
fn listed(active: &Map<String, Value>) -> String {
    let open = active.iter().filter(|(_, count)| count.as_u64() != Some(0));
    open.map(|(what, count)| format!("{what}: {count}")).collect::<Vec<_>>().join(", ")
}

impl Connection {
    /// Asks the daemon for its status. A daemon that does not have the profile `lifecycle` may have none.
    ///
    /// # Errors
    /// [`StatusError`].
    pub fn status(&mut self) -> Result<Status, StatusError> {
        const PATH: &str = "/v1/status";
        let answer = self.get(PATH)?;
        if answer.status != 200 {
            return Err(self.answer_error(PATH, &answer).into());
        }
        let url = self.registration().url;
        answer.json().map_err(|source| StatusError::Malformed { url, source })
    }

    /// Stops the daemon, which has proven itself (LIFE-26) and which its id names (LIFE-11), and waits until its process is
    /// gone. If its process cannot be watched, an address that refuses, and a record that is no longer its own, count as its
    /// end (LIFE-25).
    ///
    /// ```no_run
    /// use local_daemon::Client;
    /// use local_daemon::client::{Stop, StopError};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut daemon = Client::new("acme", "acme/1")?.connect()?;
    /// match daemon.stop(&Stop::new().if_idle(true)) {
    ///     Ok(stopped) => println!("pid {} is gone", stopped.pid),
    ///     Err(error @ StopError::InUse { .. }) => println!("{error}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`StopError`], never with [`StopError::Connect`].
    pub fn stop(&mut self, how: &Stop) -> Result<Stopped, StopError> {
        const PATH: &str = "/v1/shutdown";
        let (id, url, pid) = (self.registration().id, self.registration().url, self.handshake().pid.get());
        // CONV-31: taken before the request, while the daemon is there, so that no other process can get this pid unnoticed. A
        // graceful stop goes on without it, because not every system has it.
        let process = self.process();
        let failed_to_kill = |source| StopError::Kill { url, pid, source };
        let is_gone = |connection: &Self, bound| match &process {
            Ok(process) => process.wait(bound).map_err(failed_to_kill),
            Err(_) => Ok(connection.wait_gone(bound)),
        };
        let stopped = |forced| Ok(Stopped { id, pid, url, forced });

        let request = Request::post(PATH).json(&json!({"id": id, "if_idle": how.if_idle}))?;
        let failed = match self.send(request) {
            // 503: it stands down already, unless it has too many connections (PER-31).
            Ok(answer) if answer.status == 202 || answer.status == 503 && !is_overloaded(&answer) => None,
            Ok(answer) => {
                let error = self.answer_error(PATH, &answer);
                return Err(match &error.problem {
                    Some(problem) if how.if_idle && answer.status == 409 && problem.code == "busy" => {
                        let body: Value = answer.json().unwrap_or_default();
                        let active = body["active"].as_object().cloned().unwrap_or_default();
                        StopError::InUse { url, pid, active }
                    }
                    _ => error.into(),
                });
            }
            // Another stop may have been faster.
            Err(error) => Some(error),
        };
        let bound = if failed.is_some() { GONE_BOUND } else { how.bound };
        if is_gone(self, bound)? {
            return stopped(false);
        }
        if how.force {
            let killed = process.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()));
            killed.and_then(Process::kill).map_err(failed_to_kill)?;
            if is_gone(self, GONE_BOUND)? {
                return stopped(true);
            }
        }
        Err(match failed {
            Some(error) if !how.force => error.into(),
            _ => StopError::StillRuns { url, pid, after: bound },
        })
    }
}

/// A daemon that was started in place of another one, or of none.
#[derive(Debug)]
#[non_exhaustive]
pub struct Restarted {
    /// The connection to it.
    pub connection: Connection,
    /// What became of the daemon that ran before: it was stopped, there was none, or this is why it did not end, so that the new
    /// one has displaced it.
    pub before: Result<Option<Stopped>, StopError>,
}

/// A restart or an upgrade that did not end in a new daemon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestartError {
    /// No daemon could be started. If that was clear in advance, the running one goes on (CONN-50).
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The running daemon could not be stopped, and goes on.
    #[error(transparent)]
    Stop(StopError),
    /// The daemon that answers is the one that ran before (CONN-36).
    #[error("{url}: the daemon (pid {pid}) is the one that ran before")]
    Unchanged {
        /// Where it listens.
        url: LoopbackUrl,
        /// Its process id.
        pid: u32,
    },
}

/// A daemon that was found, and whether it was replaced by a newer one.
#[derive(Debug)]
#[non_exhaustive]
pub struct Upgraded {
    /// The connection to the daemon that runs now.
    pub connection: Connection,
    /// What was done.
    pub upgrade: Upgrade,
}

/// What an upgrade has done.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Upgrade {
    /// The daemon is not older, or was started by this call.
    NotNeeded,
    /// The daemon is older and goes on, because it is in use.
    InUse {
        /// What is open, and how many of it, such as `"streams": 2`.
        active: Map<String, Value>,
    },
    /// The older daemon was idle. It was stopped, and this one was started.
    Done {
        /// What the older one said of itself.
        from: Box<Handshake>,
    },
    /// The older daemon was stopped, and the one that was started is older as well: the launch names an old program, so that
    /// each upgrade restarts it.
    StillOlder,
}

impl Client {
    /// Stops the daemon that runs; returns `None` if there is none.
    ///
    /// # Errors
    /// [`StopError`].
    pub fn stop(&self, how: &Stop) -> Result<Option<Stopped>, StopError> {
        match self.connect() {
            Ok(mut connection) => connection.stop(how).map(Some),
            Err(error) if matches!(error.outcome, ConnectOutcome::Absent | ConnectOutcome::Stale) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Stops the daemon that runs, and starts another one (CONN-36); or starts one if none runs. The running one goes on if no
    /// other could be started (CONN-50). One that does not answer is not waited for: the new one's record displaces it.
    ///
    /// ```no_run
    /// use local_daemon::{Client, Launch};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let restarted = Client::new("acme", "acme/1")?.restart(&Launch::new("acmed").args(["run", "--yield"]))?;
    /// if let Err(error) = &restarted.before {
    ///     eprintln!("{error}; a new daemon has displaced it");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`RestartError`].
    pub fn restart(&self, launch: &Launch) -> Result<Restarted, RestartError> {
        self.restart_with(|_| launch.clone())
    }

    /// Restarts the daemon as [`restart`](Self::restart) does, by a launch that depends on the running one, if that answers: a
    /// product keeps its mode, for instance.
    ///
    /// ```no_run
    /// use local_daemon::client::Mode;
    /// use local_daemon::{Client, Launch};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// Client::new("acme", "acme/1")?.restart_with(|running| {
    ///     let status = running.and_then(|connection| connection.status().ok());
    ///     let leaves = status.is_some_and(|status| status.mode == Mode::Auto);
    ///     Launch::new("acmed").args(["run", "--yield"]).args(leaves.then_some("--leave"))
    /// })?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`RestartError`].
    pub fn restart_with(
        &self,
        launch: impl FnOnce(Option<&mut Connection>) -> Launch,
    ) -> Result<Restarted, RestartError> {
        let record = self.state_dir.read_record().0;
        let mut running = self.connect();
        let launch = launch(running.as_mut().ok());
        let starter = self.to_restart();
        starter.check_launch(&launch)?;
        let before = match running {
            Ok(mut connection) => connection.stop(&Stop::new()).map(Some),
            Err(error) => match error.outcome {
                ConnectOutcome::Absent | ConnectOutcome::Stale => Ok(None),
                _ => Err(error.into()),
            },
        };
        let before = match before {
            Err(StopError::Connect(error)) if !can_be_displaced(&error.outcome) => return Err(error.into()),
            Err(error @ (StopError::Answer(_) | StopError::Kill { .. })) => {
                return Err(RestartError::Stop(error));
            }
            before => before,
        };
        let id = match record {
            RecordRead::Record(record) => Some(record.id),
            _ => None,
        };
        let connection = starter.start_other(&launch, id)?;
        Ok(Restarted { connection, before })
    }

    /// Connects to the daemon, starting one if none answers, and replaces one that `is_older` and that is idle. A daemon that is
    /// in use is left as it is.
    ///
    /// ```no_run
    /// use local_daemon::client::Upgrade;
    /// use local_daemon::{Client, Launch};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let launch = Launch::new("acmed").args(["run", "--yield"]);
    /// let client = Client::new("acme", "acme/1")?;
    /// // The client and the daemon of this product have one version.
    /// let found = client.upgrade_or_spawn(&launch, |theirs| theirs.version != env!("CARGO_PKG_VERSION"))?;
    /// if let Upgrade::InUse { active } = found.upgrade {
    ///     eprintln!("an older acmed has {} streams open", active["streams"]);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`RestartError`]. The older daemon goes on if no other one could be started (CONN-50).
    pub fn upgrade_or_spawn(
        &self,
        launch: &Launch,
        is_older: impl Fn(&Handshake) -> bool,
    ) -> Result<Upgraded, RestartError> {
        let mut connection = self.connect_or_spawn(launch)?;
        if !is_older(connection.handshake()) {
            return Ok(Upgraded { connection, upgrade: Upgrade::NotNeeded });
        }
        let starter = self.to_restart();
        starter.check_launch(launch)?;
        match connection.stop(&Stop::new().if_idle(true)) {
            // One that still drains takes no new work, so that another one displaces it.
            Ok(_) | Err(StopError::StillRuns { .. }) => {}
            Err(StopError::InUse { active, .. }) => {
                return Ok(Upgraded { connection, upgrade: Upgrade::InUse { active } });
            }
            Err(error) => return Err(RestartError::Stop(error)),
        }
        let from = Box::new(connection.handshake().clone());
        let connection = starter.start_other(launch, Some(from.id))?;
        let is_still_older = is_older(connection.handshake());
        let upgrade = if is_still_older { Upgrade::StillOlder } else { Upgrade::Done { from } };
        Ok(Upgraded { connection, upgrade })
    }

    /// Returns a client that starts a daemon in place of the one that it has just stopped.
    fn to_restart(&self) -> Self {
        self.clone().deadline(self.deadline.max(RESTART_DEADLINE)).ignore_budget(true)
    }

    /// Starts a daemon, and checks that it is another one than before.
    fn start_other(&self, launch: &Launch, before: Option<ClaimId>) -> Result<Connection, RestartError> {
        let connection = self.connect_or_spawn(launch)?;
        if Some(connection.registration().id) != before {
            return Ok(connection);
        }
        Err(RestartError::Unchanged {
            url: connection.registration().url,
            pid: connection.handshake().pid.get(),
        })
    }
}

/// Returns whether a daemon refuses the request because it has too many connections.
fn is_overloaded(answer: &Response) -> bool {
    answer.problem().is_some_and(|problem| problem.code == "overloaded")
}

/// Returns whether the record of a new daemon may displace one that could not be asked to stop.
fn can_be_displaced(seen: &ConnectOutcome) -> bool {
    matches!(seen, ConnectOutcome::Busy | ConnectOutcome::Foreign | ConnectOutcome::Incompatible(_))
}
