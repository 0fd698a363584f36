//! What a command says when it cannot do what was asked: what happened, where, and what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use local_daemon::client::{
    AnswerError, ConnectError, RequestError, RestartError, SetupError, StatusError, StopError,
};
use local_daemon::connect::ConnectOutcome;
use local_daemon::daemon;
use local_daemon::perimeter::Origin;
use local_daemon::state_directory::{FileError, FileErrorKind, NoHomeError};
use miette::Diagnostic;

#[derive(Debug, thiserror::Error, Diagnostic)]
pub(crate) enum Error {
    /// A connect that did not end in `ready`.
    #[error("{failure}")]
    Connect {
        failure: Box<ConnectError>,
        #[help]
        help: String,
    },

    /// A variable or an argument that clap does not judge.
    #[error("{0}")]
    #[diagnostic(help("`locald help` shows how it is used"))]
    Usage(String),

    #[error(transparent)]
    #[diagnostic(help("name a directory with --state-dir"))]
    Home(#[from] NoHomeError),

    /// The state directory, or a file in it, must not be trusted.
    #[error(transparent)]
    #[diagnostic(help("{}", file_advice(&.0.kind)))]
    StateDir(#[from] FileError),

    #[error("{}: there is no credential yet", .0.display())]
    #[diagnostic(help("the first `locald start` makes one"))]
    NoCredential(PathBuf),

    #[error(transparent)]
    #[diagnostic(help("look again with `locald status`"))]
    Request(#[from] RequestError),

    #[error(transparent)]
    #[diagnostic(help("look again with `locald status`"))]
    Status(#[from] StatusError),

    /// The daemon answered with a problem.
    #[error(transparent)]
    #[diagnostic(help("look again with `locald status`"))]
    Answer(#[from] AnswerError),

    #[error("{error}")]
    Stop {
        error: StopError,
        #[help]
        help: &'static str,
    },

    /// `restart` found the daemon that it was to replace.
    #[error("{0}")]
    #[diagnostic(help("try again, or `locald stop --force` first"))]
    Restart(RestartError),

    #[error("{}: {doing}: {source}", path.display())]
    #[diagnostic(help("see whether the disk is full or the place is read-only"))]
    Io { path: PathBuf, doing: &'static str, source: io::Error },

    /// A handoff to a page that the user has not admitted.
    #[error("{0} is not on the list of origins that may call")]
    #[diagnostic(help("put it there with `locald origins add`"))]
    NotListed(String),

    #[error("no browser could be started: {0}")]
    #[diagnostic(help("name another with --browser, or open the address that --print-url prints"))]
    NoBrowser(String),

    /// `open` started a browser, and the ticket was not redeemed.
    #[error("{program} was started, but has not opened the page within 5 s")]
    #[diagnostic(help(
        "a slow browser may still open it; one that may not read the file (snap, flatpak) needs `locald open --print-url`, \
         and one that cannot resolve names below localhost needs `locald open --host 127.0.0.1`"
    ))]
    NotOpened { program: String },

    /// There is no page host, and the user did not name another one.
    #[error(
        "the daemon does not hold its port on both 127.0.0.1 and [::1], so its page has no host of its own"
    )]
    #[diagnostic(help(
        "`locald restart` tries other ports; `locald open --host 127.0.0.1` opens the page where what another program left \
         in the browser may see its token"
    ))]
    NoPageHost,

    /// A handoff to a page that another user may serve.
    #[error("another user (uid {uid}) listens at {address}, where a browser may connect for {origin}")]
    #[diagnostic(help(
        "that user would get the ticket; serve the page at http://127.0.0.1 and a port that is yours, and list that origin"
    ))]
    TakenPort { origin: Origin, address: SocketAddr, uid: u32 },

    #[error("{}: it is not known which user listens at the origin: {why}", path.display())]
    #[diagnostic(help("run this where /proc of this host is mounted"))]
    Listeners { path: PathBuf, why: String },

    /// `config.toml` is not what it should be.
    #[error("{}: {why}", path.display())]
    #[diagnostic(help(
        "mend the file by hand; origins stand in it as `[origins]` and below it `allow = [\"https://app.example\"]`"
    ))]
    Config { path: PathBuf, why: String },

    #[error("{error}")]
    Daemon {
        error: daemon::Error,
        #[help]
        help: &'static str,
    },

    #[error("the asynchronous runtime could not be set up: {0}")]
    #[diagnostic(help("this host may be out of file descriptors"))]
    Runtime(#[source] io::Error),

    #[error("the private daemon ended before it was ready ({0})")]
    #[diagnostic(help("`locald run` shows the reason in the foreground"))]
    PrivateEnded(&'static str),
}

impl Error {
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// The process's exit code: the outcome's where there is one.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Connect { failure, .. } => failure.outcome.exit_code(),
            Self::Usage(_) | Self::NotListed(_) => 2,
            Self::Home(_) | Self::StateDir(_) => ConnectOutcome::Invalid.exit_code(),
            Self::NoCredential(_) => ConnectOutcome::Absent.exit_code(),
            Self::Stop { error: StopError::StillRuns { .. } | StopError::InUse { .. }, .. } => {
                ConnectOutcome::Busy.exit_code()
            }
            Self::NotOpened { .. } | Self::NoPageHost => 19,
            Self::TakenPort { .. } => ConnectOutcome::Foreign.exit_code(),
            Self::Daemon { error, .. } => u8::try_from(error.exit_status()).unwrap_or(1),
            _ => 1,
        }
    }

    /// The word in JSON.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Connect { failure, .. } => failure.outcome.as_str(),
            Self::Home(_)
            | Self::StateDir(_)
            | Self::Daemon { error: daemon::Error::Home(_) | daemon::Error::State(_), .. } => {
                ConnectOutcome::Invalid.as_str()
            }
            Self::Daemon {
                error: daemon::Error::Unreachable { .. } | daemon::Error::NoLoopback(_),
                ..
            } => ConnectOutcome::Unreachable.as_str(),
            Self::NoCredential(_) => ConnectOutcome::Absent.as_str(),
            Self::Stop { error: StopError::StillRuns { .. } | StopError::InUse { .. }, .. } => {
                ConnectOutcome::Busy.as_str()
            }
            Self::NotOpened { .. } | Self::NoPageHost => "not-opened",
            Self::TakenPort { .. } => ConnectOutcome::Foreign.as_str(),
            _ => "error",
        }
    }
}

impl From<ConnectError> for Error {
    fn from(failure: ConnectError) -> Self {
        let file = std::error::Error::source(&failure).and_then(|source| source.downcast_ref::<FileError>());
        let mut help =
            file.map_or_else(|| advice(&failure.outcome), |file| file_advice(&file.kind)).to_owned();
        if let Some(pid) = failure.left_running {
            help = format!("{help}; `kill {pid}` ends the daemon that was started");
        }
        Self::Connect { failure: Box::new(failure), help }
    }
}

impl From<StopError> for Error {
    fn from(error: StopError) -> Self {
        let help = match error {
            StopError::Connect(error) => return error.into(),
            StopError::InUse { .. } => {
                "`locald status` tells what is open; `locald stop` ends it gracefully in any case"
            }
            StopError::StillRuns { .. } => "wait a little, or end it with `locald stop --force`",
            StopError::Kill { .. } => "end the process by hand if it is yours",
            _ => "look again with `locald status`",
        };
        Self::Stop { error, help }
    }
}

impl From<RestartError> for Error {
    fn from(error: RestartError) -> Self {
        match error {
            RestartError::Connect(error) => error.into(),
            RestartError::Stop(error) => error.into(),
            error => Self::Restart(error),
        }
    }
}

impl From<daemon::Error> for Error {
    fn from(error: daemon::Error) -> Self {
        let help = match &error {
            daemon::Error::Protocol(_) => "LOCALD_PROTOCOL names the protocol to run as, such as locald/1",
            daemon::Error::Component(_) => "this is a fault of locald",
            daemon::Error::Home(_) => "name a directory with --state-dir",
            daemon::Error::State(fault) => file_advice(&fault.kind),
            daemon::Error::Listen(_) => "see whether this host has a loopback interface and free ports",
            daemon::Error::Unreachable { .. } => advice(&ConnectOutcome::Unreachable),
            daemon::Error::NoLoopback(_) => "see whether the interface `lo` of this network namespace is up",
            _ => "this host may be out of file descriptors",
        };
        Self::Daemon { error, help }
    }
}

impl From<SetupError> for Error {
    fn from(error: SetupError) -> Self {
        match error {
            SetupError::Component(error) => Self::usage(error.to_string()),
            SetupError::Protocol(error) => Self::usage(format!("LOCALD_PROTOCOL: {error}")),
            SetupError::Home(error) => Self::Home(error),
            error => Self::usage(error.to_string()),
        }
    }
}

/// What to do about a file or directory that is refused.
pub(crate) fn file_advice(kind: &FileErrorKind) -> &'static str {
    match kind {
        FileErrorKind::OwnerOfParent { .. } => {
            "set HOME to your own (`sudo -H`), or name a directory with --state-dir"
        }
        FileErrorKind::Network => "name another directory with --state-dir",
        FileErrorKind::Credential(_) => "`locald credential rotate` makes a new one",
        _ => "`locald doctor` looks at every file, and `locald doctor --fix` sets modes right",
    }
}

/// What to do about an outcome.
pub(crate) fn advice(outcome: &ConnectOutcome) -> &'static str {
    match outcome {
        ConnectOutcome::Ready(..) => "nothing needs doing",
        ConnectOutcome::Absent => "run `locald start`",
        ConnectOutcome::Stale => "run `locald start`; it replaces the stale record",
        ConnectOutcome::Busy => "try again in a moment; `locald restart` puts a new daemon in its place",
        ConnectOutcome::Foreign => {
            "run `locald start`; the new daemon takes another port and leaves the stranger alone"
        }
        ConnectOutcome::Incompatible(_) => {
            "use the locald it belongs to, or `locald connect --replace` to displace it"
        }
        ConnectOutcome::Invalid => "run `locald doctor`; with --fix it sets modes right",
        ConnectOutcome::SpawnFailed => "run `locald run` to see the daemon start in the foreground",
        ConnectOutcome::Unreachable => {
            "run this where the daemon runs; if that is gone for good, `locald start --replace` starts a new one in its place"
        }
    }
}
