//! A puppet: a process that runs one machine of the crate on a real state directory, one step whenever it is told to.
//!
//! It connects to the socket that the walk holds, says who it is and its process id, and after that, and after each
//! line that it is told, what can be told of its machine.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::client::Client;
use super::daemon::Daemon;

/// Where a puppet plays.
#[derive(Args, Clone, Debug)]
pub struct Puppet {
    #[command(subcommand)]
    pub(super) role: Role,
    /// The state directory.
    #[arg(long)]
    pub(super) state_dir: PathBuf,
    /// The walk's socket.
    #[arg(long)]
    pub(super) strings: PathBuf,
    /// The port of each daemon.
    #[arg(long, value_delimiter = ',')]
    pub(super) ports: Vec<u16>,
    /// The credential has yet to be made.
    #[arg(long)]
    pub(super) first_launch: bool,
}

/// Whom it plays.
#[derive(Subcommand, Clone, Debug)]
pub(super) enum Role {
    /// A daemon.
    Daemon {
        /// Its number.
        id: u8,
        /// Its protocol's number.
        protocol: u8,
        /// It was told to yield.
        #[arg(long)]
        yields: bool,
    },
    /// A client in its first call.
    Client {
        /// Its number.
        id: u8,
        /// Its protocol's number.
        protocol: u8,
        /// It never asks for the lock.
        #[arg(long)]
        ignores_lock: bool,
        /// It takes every record at its word, without a probe. No machine of the crate does: a walk must notice.
        #[arg(long)]
        credulous: bool,
    },
}

/// What a puppet is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
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
    pub(super) fn line(self) -> String {
        match self {
            Self::Go(bound) => format!("go {}", bound.as_millis()),
            Self::Stop => "stop".to_owned(),
            Self::Vain => "vain".to_owned(),
            Self::Second => "second".to_owned(),
            Self::Expire => "expire".to_owned(),
            Self::Start(id) => format!("start {id}"),
        }
    }

    fn parse(line: &str) -> io::Result<Self> {
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
pub(super) trait Played {
    fn told(&mut self, told: Told) -> io::Result<()>;
    /// What can be told of it; `None` when its process is to end.
    fn word(&self) -> Option<String>;
}

impl Puppet {
    /// Plays until the machine ends or the walk has gone.
    ///
    /// # Errors
    /// The state directory does not allow what a step needs.
    pub fn play(&self) -> io::Result<()> {
        let mut stream = UnixStream::connect(&self.strings)?;
        let (name, mut played): (String, Box<dyn Played>) = match self.role {
            Role::Daemon { id, .. } => (format!("D{id}"), Box::new(Daemon::new(self)?)),
            Role::Client { id, .. } => (format!("C{id}"), Box::new(Client::new(self)?)),
        };
        writeln!(stream, "{name} {}", std::process::id())?;
        writeln!(stream, "{}", played.word().unwrap_or_default())?;
        for line in BufReader::new(stream.try_clone()?).lines() {
            played.told(Told::parse(&line?)?)?;
            let Some(word) = played.word() else {
                break;
            };
            writeln!(stream, "{word}")?;
        }
        Ok(())
    }

    /// Starts the puppet as a process of `program`; a client keeps the end of its child's output.
    pub(super) fn start(&self, program: &std::path::Path, output: Stdio) -> io::Result<Child> {
        let mut command = Command::new(program);
        let ports = self.ports.iter().map(ToString::to_string).collect::<Vec<_>>();
        command.arg("puppet").arg("--state-dir").arg(&self.state_dir);
        command.arg("--strings").arg(&self.strings);
        command.args(["--ports", &ports.join(",")]);
        command.args(self.first_launch.then_some("--first-launch"));
        match &self.role {
            Role::Daemon { id, protocol, yields } => {
                command.args(["daemon", &id.to_string(), &protocol.to_string()]);
                command.args(yields.then_some("--yields"));
            }
            Role::Client { id, protocol, ignores_lock, credulous } => {
                command.args(["client", &id.to_string(), &protocol.to_string()]);
                command.args(ignores_lock.then_some("--ignores-lock"));
                command.args(credulous.then_some("--credulous"));
            }
        }
        command.stdin(Stdio::null()).stdout(output).spawn()
    }
}
