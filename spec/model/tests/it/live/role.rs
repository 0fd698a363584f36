//! What a puppet is, what it can be told, and how its process is started.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The variable that gives a process its puppet, as JSON.
pub(crate) const PUPPET: &str = "LOCAL_DAEMON_MODEL_PUPPET";
/// The ignored test that plays it.
const PLAY: &str = "puppet::plays";

/// What a daemon writes to its output when it has published or yielded.
pub(crate) const DONE: &[u8] = b"done\n";

/// Where a puppet plays.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Puppet {
    pub(crate) role: Role,
    pub(crate) state_dir: PathBuf,
    /// The walk's socket.
    pub(crate) strings: PathBuf,
    /// The port of each daemon.
    pub(crate) ports: Vec<u16>,
    /// The credential has yet to be made.
    pub(crate) first_launch: bool,
}

/// Whom it plays.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// A daemon.
    Daemon {
        /// Its number.
        id: u8,
        /// Its protocol's number.
        protocol: u8,
        /// It was told to yield.
        yields: bool,
    },
    /// A client in its first call.
    Client {
        /// Its number.
        id: u8,
        /// Its protocol's number.
        protocol: u8,
        /// It never asks for the lock.
        ignores_lock: bool,
        /// It takes every record at its word, without a probe. No machine of the crate does: a walk must notice.
        credulous: bool,
    },
}

/// What a puppet is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// Perform the next effect; a probe may take this long.
    Go(Duration),
    /// Stop.
    Stop,
    /// Wait for the lock in vain.
    Vain,
    /// A second has passed.
    Second,
    /// The deadline has passed.
    Expire,
    /// Start a daemon of this number.
    Start(u8),
}

impl Told {
    pub(crate) fn line(self) -> String {
        match self {
            Self::Go(bound) => format!("go {}", bound.as_millis()),
            Self::Stop => "stop".to_owned(),
            Self::Vain => "vain".to_owned(),
            Self::Second => "second".to_owned(),
            Self::Expire => "expire".to_owned(),
            Self::Start(id) => format!("start {id}"),
        }
    }

    pub(crate) fn parse(line: &str) -> io::Result<Self> {
        let (word, number) = line.split_once(' ').unwrap_or((line, "0"));
        let number: u64 = number.parse().map_err(io::Error::other)?;
        Ok(match word {
            "go" => Self::Go(Duration::from_millis(number)),
            "stop" => Self::Stop,
            "vain" => Self::Vain,
            "second" => Self::Second,
            "expire" => Self::Expire,
            "start" => Self::Start(u8::try_from(number).map_err(io::Error::other)?),
            _ => return Err(io::Error::other(format!("told to {line}"))),
        })
    }
}

/// What the machine in a puppet is asked.
pub(crate) trait Played {
    fn told(&mut self, told: Told) -> io::Result<()>;
    /// What can be told of it; `None` when its process is to end.
    fn word(&self) -> Option<String>;
}

impl Puppet {
    /// Starts its process, which is this program again; a client keeps the end of its child's output.
    pub(crate) fn start(&self, output: Stdio) -> io::Result<Child> {
        Command::new(std::env::current_exe()?)
            .args(["--ignored", PLAY])
            .env(PUPPET, serde_json::to_string(self)?)
            .stdin(Stdio::null())
            .stdout(output)
            .spawn()
    }
}
