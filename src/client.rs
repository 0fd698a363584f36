//! The client: finds the daemon, lets it prove itself, judges its protocol, or starts one. Synchronous: a client that
//! asks one question needs no runtime. It writes no record and removes none (CONV-29).

mod attempt;
mod connection;
mod probe;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use local_daemon_proto::connect::Outcome;
use local_daemon_proto::gate::{NotAProtocol, Protocol};
use local_daemon_proto::registration::World;

use self::attempt::Attempt;
pub use self::connection::{Connection, MAX_ANSWER, Process, RequestError, Response};
pub use self::probe::{PROBE_BOUND, SPAWN_PROBE_BOUND, look};
#[cfg(feature = "daemon")]
pub(crate) use self::probe::{look_at_world, probe};
use crate::platform;
use crate::state_directory::{NoHome, StateDir};

/// How long a whole connect may take unless told otherwise (CONN-10).
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Returns the world in which this process runs, to compare it with a record's.
pub fn world() -> World {
    platform::world()
}

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
        Attempt::new(self, None).drive()
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
        Attempt::new(self, Some(launch)).drive()
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
