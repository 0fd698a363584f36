//! The client: finds the daemon, lets it prove itself, judges its protocol, or starts one. Synchronous: a client that
//! asks one question needs no runtime. It writes no record and removes none (CONV-29).

mod attempt;
mod connection;
mod events;
mod probe;
mod request;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fmt, io};

use local_daemon_proto::connect::ConnectOutcome;
use local_daemon_proto::gate::{ParseProtocolError, Protocol};
use local_daemon_proto::registration::World;

use self::attempt::Attempt;
pub use self::connection::{Connection, Process};
pub use self::events::{Events, EventsError};
pub use self::probe::{PROBE_BOUND, SPAWN_PROBE_BOUND, is_refused, look};
#[cfg(feature = "daemon")]
pub(crate) use self::probe::{ask_daemon, look_at_world};
pub use self::request::{BodyReader, MAX_ANSWER, Problem, Request, RequestError, RequestErrorKind, Response};
use crate::exchange::ExchangeError;
use crate::state_directory::{Component, NoHomeError, ParseComponentError, StateDir};
use crate::{loopback, platform};

/// How long a whole connect may take unless told otherwise (CONN-10).
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Returns the world in which this process runs, to compare it with a record's.
pub fn world() -> World {
    platform::world()
}

/// A client could not be set up.
#[derive(Debug, thiserror::Error)]
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

    fn error(&self, error: &io::Error) -> String {
        format!("{} could not be started: {error}", self.program.display())
    }
}

/// Finds, proves and if need be starts the daemon of one component.
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
    /// A client of `component` that speaks `protocol` (`name/N`).
    pub fn new(component: &str, protocol: &str) -> Result<Self, SetupError> {
        let component = component.parse()?;
        Self::of(StateDir::locate(None, &component)?, component, protocol)
    }

    /// A client of the daemon that has this state directory. It looks neither at the environment nor for a home directory.
    ///
    /// # Errors
    /// Fails if the component or the protocol is none.
    pub fn at(state_dir: impl AsRef<Path>, component: &str, protocol: &str) -> Result<Self, SetupError> {
        Self::of(StateDir::at(state_dir.as_ref()), component.parse()?, protocol)
    }

    fn of(state_dir: StateDir, component: Component, protocol: &str) -> Result<Self, SetupError> {
        Ok(Self {
            component,
            state_dir,
            protocol: protocol.parse()?,
            deadline: DEADLINE,
            replace: false,
            ignore_budget: false,
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

    /// Starts a daemon even if the last three did not become ready (CONN-21): for a start that the user asks for.
    #[must_use]
    pub fn ignore_budget(mut self, ignore_budget: bool) -> Self {
        self.ignore_budget = ignore_budget;
        self
    }

    /// The state directory in use.
    pub fn directory(&self) -> &StateDir {
        &self.state_dir
    }

    /// Connects to the daemon that runs; starts nothing.
    ///
    /// # Errors
    /// [`ConnectError`] with any outcome but `ready` and `spawn-failed`.
    pub fn connect(&self) -> Result<Connection, ConnectError> {
        Attempt::new(self, None).drive()
    }

    /// Connects to the daemon, starting one where none answers (CONN-15). N clients converge on one daemon.
    ///
    /// # Errors
    /// [`ConnectError`]; `spawn-failed` carries the child's own error.
    pub fn connect_or_spawn(&self, launch: &Launch) -> Result<Connection, ConnectError> {
        self.state_dir
            .create()
            .map_err(|fault| self.failure(ConnectOutcome::Invalid, fault.to_string()))?;
        Attempt::new(self, Some(launch)).drive()
    }

    /// Checks that a daemon could be started and asked, and starts none: this process can listen and connect, the program
    /// can be executed, and the log can be opened. A restart calls this before it ends the running daemon (CONN-50).
    ///
    /// # Errors
    /// [`ConnectError`] with the outcome `spawn-failed`, `invalid` or `unreachable`.
    pub fn check_launch(&self, launch: &Launch) -> Result<(), ConnectError> {
        let unreachable = |fault: ExchangeError| {
            self.failure(ConnectOutcome::Unreachable, format!("nothing could be asked: {fault}"))
        };
        loopback::can_listen().map_err(unreachable)?;
        let opened = self.state_dir.create().and_then(|()| self.state_dir.open_log());
        let log = opened.map_err(|fault| self.failure(ConnectOutcome::Invalid, fault.to_string()))?;
        let tried = launch
            .prepare(self, &log)
            .and_then(|start| platform::try_to_execute(start, self.deadline));
        tried.map_err(|error| self.failure(ConnectOutcome::SpawnFailed, launch.error(&error)))
    }

    fn failure(&self, outcome: ConnectOutcome, detail: String) -> ConnectError {
        ConnectError { outcome, detail, state_dir: self.state_dir.path().to_owned() }
    }
}

/// A connect that did not end in `ready`.
#[derive(Clone, Debug)]
pub struct ConnectError {
    /// Which way it failed.
    pub outcome: ConnectOutcome,
    /// What was seen: the path or URL, and what is wrong there.
    pub detail: String,
    /// The state directory that was looked at.
    pub state_dir: PathBuf,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for ConnectError {}
