//! The client: finds the daemon, lets it prove itself, judges its protocol, or starts one. Synchronous: a client that
//! asks one question needs no runtime. It writes no record and removes none (CONV-29).

mod attempt;
mod connection;
mod events;
mod lifecycle;
mod probe;
mod request;
#[cfg(feature = "async")]
pub mod tokio;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{env, error, fmt, io};

use local_daemon_proto::connect::ConnectOutcome;
use local_daemon_proto::gate::{ParseProtocolError, Protocol};
use local_daemon_proto::registration::World;

use self::attempt::Attempt;
pub use self::connection::{Connection, Process};
pub use self::events::{Events, EventsError};
pub use self::lifecycle::{
    DEFAULT_STOP_TIMEOUT, Mode, RestartError, Restarted, Status, StatusError, Stop, StopError, Stopped,
    Upgrade, Upgraded,
};
pub use self::probe::{PROBE_TIMEOUT, SPAWN_PROBE_TIMEOUT, is_refused, look};
#[cfg(feature = "daemon")]
pub(crate) use self::probe::{ask_daemon, look_at_world};
pub use self::request::{
    AnswerError, BodyReader, DEFAULT_MAX_ANSWER_BYTES, Problem, Request, RequestError, RequestErrorKind,
    Response,
};
use crate::exchange::ExchangeError;
use crate::state_directory::{Component, NoHomeError, ParseComponentError, StateDir};
use crate::{loopback, platform};

/// How long a whole connect may take unless told otherwise (CONN-10).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the world in which this process runs, to compare it with a record's.
pub fn world() -> World {
    platform::world()
}

/// A client could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The name of the component is not one.
    #[error(transparent)]
    Component(#[from] ParseComponentError),
    /// The protocol identifier is not one.
    #[error(transparent)]
    Protocol(#[from] ParseProtocolError),
    /// There is no home directory.
    #[error(transparent)]
    Home(#[from] NoHomeError),
}

/// How to start a daemon that is not there: a command that runs it in the foreground and lets it yield.
///
/// ```
/// use local_daemon::Launch;
///
/// # fn main() -> std::io::Result<()> {
/// // The program that connects is often the daemon as well.
/// let launch = Launch::new(std::env::current_exe()?).args(["run", "--yield"]).env("ACME_LOG", "debug");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values of variables may be secrets of the product.
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Launch")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("env", &names)
            .finish()
    }
}

impl Launch {
    /// Returns a launch of this program; a bare name is looked up on `PATH`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        // The daemon works in `/`: a relative path means the caller's directory.
        let named = program.components().count() == 1;
        let program = if named { program } else { std::path::absolute(&program).unwrap_or(program) };
        Self { program, args: Vec::new(), env: Vec::new() }
    }

    /// Adds arguments. The credential is never one: every local user can read them.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable of the daemon.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        let key = key.into();
        self.env.retain(|(known, _)| *known != key);
        self.env.push((key, value.into()));
        self
    }

    /// Returns the environment of the daemon: that of this process, with the variables that were added.
    fn environment(&self) -> Vec<(OsString, OsString)> {
        let inherited = env::vars_os().filter(|(name, _)| !self.env.iter().any(|(added, _)| added == name));
        inherited.chain(self.env.iter().cloned()).collect()
    }

    /// What the platform needs to start it for this client.
    fn prepare<'a>(&'a self, client: &'a Client, log: &'a File) -> io::Result<platform::Start<'a>> {
        let env = self.environment();
        Ok(platform::Start {
            program: self.find(&env)?,
            args: &self.args,
            env,
            component: client.component.as_str(),
            directory: client.state_dir.path(),
            log,
        })
    }

    /// Finds the program, by the `PATH` of that environment.
    fn find(&self, environment: &[(OsString, OsString)]) -> io::Result<PathBuf> {
        let path = environment.iter().find(|(name, _)| name == "PATH");
        platform::find_program(&self.program, path.map(|(_, value)| OsStr::new(value)))
    }

    fn error(&self, error: io::Error) -> Detail {
        let text = format!("{} could not be started: {error}", self.program.display());
        Detail { text, source: Some(Arc::new(error)) }
    }
}

/// Finds, proves and if need be starts the daemon of one component.
///
/// ```no_run
/// use local_daemon::{Client, Launch};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut daemon = Client::new("acme", "acme/1")?.connect_or_spawn(&Launch::new("acmed").args(["run", "--yield"]))?;
/// println!("{}", String::from_utf8_lossy(&daemon.get("/v1/hello")?.body));
/// # Ok(()) }
/// ```
///
/// # Blocking
///
/// It needs no runtime. Within an asynchronous one, each call that waits (a connect, a request, [`Events`]) blocks its thread
/// until its deadline at most, and with that every task of the thread: a daemon that runs on the same thread cannot answer, and
/// the connect ends in `busy`, with a text that says so. Such a program calls it by `tokio::task::spawn_blocking`, or uses the
/// asynchronous client, `client::tokio` (feature `async`).
#[derive(Clone, Debug)]
pub struct Client {
    component: Component,
    state_dir: StateDir,
    protocol: Protocol,
    deadline: Duration,
    replace: bool,
    ignore_budget: bool,
}

impl Client {
    /// Returns a client of `component` that speaks `protocol` (`name/N`).
    ///
    /// # Errors
    /// Fails if the component or the protocol is not one, or if there is no home directory.
    pub fn new(component: &str, protocol: &str) -> Result<Self, SetupError> {
        let component = component.parse()?;
        Self::of(StateDir::locate(None, &component)?, component, protocol)
    }

    /// Returns a client of the daemon that has this state directory. It looks neither at the environment nor for a home
    /// directory.
    ///
    /// # Errors
    /// Fails if the component or the protocol is not one.
    pub fn at(state_dir: impl AsRef<Path>, component: &str, protocol: &str) -> Result<Self, SetupError> {
        Self::of(StateDir::at(state_dir.as_ref()), component.parse()?, protocol)
    }

    fn of(state_dir: StateDir, component: Component, protocol: &str) -> Result<Self, SetupError> {
        Ok(Self {
            component,
            state_dir,
            protocol: protocol.parse()?,
            deadline: DEFAULT_TIMEOUT,
            replace: false,
            ignore_budget: false,
        })
    }

    /// Sets another state directory than the component's own.
    #[must_use]
    pub fn state_dir(mut self, path: impl AsRef<Path>) -> Self {
        self.state_dir = StateDir::at(path.as_ref());
        self
    }

    /// Sets how long a whole connect may take: [`DEFAULT_TIMEOUT`] by default.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Displaces an incompatible daemon whatever its name and number.
    #[must_use]
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// Starts a daemon even if the last three did not become ready (CONN-21): for a start that the user asks for.
    #[must_use]
    pub fn ignore_budget(mut self, ignore_budget: bool) -> Self {
        self.ignore_budget = ignore_budget;
        self
    }

    /// Returns the state directory in use.
    pub fn directory(&self) -> &StateDir {
        &self.state_dir
    }

    /// Connects to the daemon that runs; starts nothing. It blocks, see [`Client`].
    ///
    /// # Errors
    /// [`ConnectError`] with any outcome but `ready` and `spawn-failed`.
    pub fn connect(&self) -> Result<Connection, ConnectError> {
        Attempt::new(self, None).drive()
    }

    /// Connects to the daemon, starting one if none answers (CONN-15). N clients converge on one daemon. It blocks, see
    /// [`Client`].
    ///
    /// # Errors
    /// [`ConnectError`]; `spawn-failed` carries the child's own error.
    pub fn connect_or_spawn(&self, launch: &Launch) -> Result<Connection, ConnectError> {
        self.create_directory()?;
        Attempt::new(self, Some(launch)).drive()
    }

    fn create_directory(&self) -> Result<(), ConnectError> {
        let created = self.state_dir.create();
        created.map_err(|fault| self.failure(ConnectOutcome::Invalid, Detail::of(fault)))
    }

    /// Checks that a daemon could be started and asked, and starts none: this process can listen and connect, the program
    /// can be executed, and the log can be opened. A restart calls this before it ends the running daemon (CONN-50).
    ///
    /// # Errors
    /// [`ConnectError`] with the outcome `spawn-failed`, `invalid` or `unreachable`.
    pub fn check_launch(&self, launch: &Launch) -> Result<(), ConnectError> {
        let unreachable = |fault: ExchangeError| {
            self.failure(ConnectOutcome::Unreachable, format!("nothing could be asked: {fault}").into())
        };
        loopback::can_listen().map_err(unreachable)?;
        let opened = self.state_dir.create().and_then(|()| self.state_dir.open_log());
        let log = opened.map_err(|fault| self.failure(ConnectOutcome::Invalid, Detail::of(fault)))?;
        let tried = launch
            .prepare(self, &log)
            .and_then(|start| platform::try_to_execute(start, self.deadline));
        tried.map_err(|error| self.failure(ConnectOutcome::SpawnFailed, launch.error(error)))
    }

    fn failure(&self, outcome: ConnectOutcome, detail: Detail) -> ConnectError {
        let Detail { text, source } = detail;
        let state_dir = self.state_dir.path().to_owned();
        ConnectError { outcome, detail: text, state_dir, left_running: None, source }
    }
}

/// What was seen, and the error that it was seen by.
#[derive(Clone, Debug)]
struct Detail {
    text: String,
    source: Option<Arc<dyn error::Error + Send + Sync>>,
}

impl Detail {
    fn of(error: impl error::Error + Send + Sync + 'static) -> Self {
        Self { text: error.to_string(), source: Some(Arc::new(error)) }
    }
}

impl From<String> for Detail {
    fn from(text: String) -> Self {
        Self { text, source: None }
    }
}

/// A connect that did not end in `ready`.
///
/// Its text is what was seen; what to do about it depends on the product, which knows its own commands.
///
/// ```no_run
/// use local_daemon::Client;
/// use local_daemon::connect::ConnectOutcome;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// if let Err(error) = Client::new("acme", "acme/1")?.connect() {
///     match &error.outcome {
///         ConnectOutcome::Absent => eprintln!("{error}; `acme start` starts one"),
///         ConnectOutcome::Incompatible(_) => eprintln!("{error}; update acme"),
///         _ => eprintln!("{error}"),
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectError {
    /// Which way it failed.
    pub outcome: ConnectOutcome,
    /// What was seen: the path or URL, and what is wrong there.
    pub detail: String,
    /// The state directory that was looked at.
    pub state_dir: PathBuf,
    /// The process of a daemon that this call has started, that did not become ready, and that still runs. It is not ended: it
    /// may only be slow, and other clients may wait for it.
    pub left_running: Option<u32>,
    source: Option<Arc<dyn error::Error + Send + Sync>>,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        match self.left_running {
            Some(pid) => write!(f, "; the daemon that was started runs on (pid {pid})"),
            None => Ok(()),
        }
    }
}

impl error::Error for ConnectError {
    /// Returns the error that the text quotes: a [`FileError`](crate::state_directory::FileError) if a file or directory is
    /// refused, an [`io::Error`] if the program could not be started.
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
