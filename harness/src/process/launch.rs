//! How a subject is started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::PidfdFlags;

use super::Subject;
use super::output::{Output, Stream, capture};
use super::reap::{HELD, adopt_orphans, raw, reap};
use crate::platform::{self, Setup};
use crate::transcript::Transcript;
use crate::wait::{Shared, lock};

/// The environment of a subject.
pub type Env = BTreeMap<OsString, OsString>;

/// Why a subject could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchFault {
    /// There is nothing to run.
    #[error("the command is empty")]
    Empty,
    /// No such program, neither at its path nor in `PATH`.
    #[error("no such program: {}", .0.display())]
    NoSuchProgram(PathBuf),
    /// The program is there and may not be run.
    #[error("not allowed to run {}", .0.display())]
    NotExecutable(PathBuf),
    /// The working directory is not there.
    #[error("no such working directory: {}", .0.display())]
    NoSuchDirectory(PathBuf),
    /// Anything else that the system says.
    #[error("cannot start {}: {source}", .program.display())]
    Failed {
        /// What was to be started.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A command about to be launched.
#[derive(Debug, Clone)]
pub struct Launch {
    argv: Vec<OsString>,
    env: Env,
    cwd: PathBuf,
    setup: Setup,
    transcript: Transcript,
    actor: String,
}

impl Launch {
    /// Launches `argv` in `/` with an empty environment, unless told otherwise.
    pub fn new<S: Into<OsString>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Env::new(),
            cwd: PathBuf::from("/"),
            setup: Setup::default(),
            transcript: Transcript::new(),
            actor: "subject".to_owned(),
        }
    }

    /// The whole environment.
    #[must_use]
    pub fn env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// One more variable.
    #[must_use]
    pub fn var(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// The working directory.
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<PathBuf>) -> Self {
        self.cwd = cwd.into();
        self
    }

    /// How the process begins; see [`Setup`].
    #[must_use]
    pub fn setup(mut self, setup: Setup) -> Self {
        self.setup = setup;
        self
    }

    /// Notes start, output and exit in `transcript` under the name `actor`.
    #[must_use]
    pub fn noted(mut self, transcript: &Transcript, actor: &str) -> Self {
        self.transcript = transcript.clone();
        actor.clone_into(&mut self.actor);
        self
    }

    /// Starts the process: standard input null, output captured, a process group (or session) of its own.
    pub fn start(self) -> Result<Subject, LaunchFault> {
        adopt_orphans();
        let (program, arguments) = self.argv.split_first().ok_or(LaunchFault::Empty)?;
        if !self.cwd.is_dir() {
            return Err(LaunchFault::NoSuchDirectory(self.cwd));
        }
        let mut program = PathBuf::from(program);
        if program.is_relative() && program.components().count() > 1 {
            // A relative program means relative to the suite, not to the directory the subject runs in.
            program = std::env::current_dir().unwrap_or_default().join(program);
        }
        let mut command = Command::new(&program);
        command.args(arguments).env_clear().envs(&self.env).current_dir(&self.cwd);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        platform::prepare(&mut command, self.setup);

        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => LaunchFault::NoSuchProgram(program.clone()),
            io::ErrorKind::PermissionDenied => LaunchFault::NotExecutable(program.clone()),
            _ => LaunchFault::Failed { program: program.clone(), source },
        };
        // The lock keeps the reaper of orphans from taking a subject that ends before it is known.
        let mut held = lock(&HELD);
        let mut child = command.spawn().map_err(failed)?;
        let pid = child.id();
        let pidfd = match rustix::process::pidfd_open(raw(pid), PidfdFlags::empty()) {
            Ok(pidfd) => Arc::new(pidfd),
            Err(error) => {
                // What cannot be held is not let loose.
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(error.into()));
            }
        };
        held.insert(pid);
        drop(held);
        let argv: Vec<String> = self.argv.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
        self.transcript.note(&self.actor, "start", format!("pid {pid}: {}", argv.join(" ")));

        let output = Shared::new(Output::new());
        let streams: [(Stream, Option<Box<dyn Read + Send>>); 2] = [
            (Stream::Stdout, child.stdout.take().map(|pipe| Box::new(pipe) as _)),
            (Stream::Stderr, child.stderr.take().map(|pipe| Box::new(pipe) as _)),
        ];
        for (stream, pipe) in streams {
            let pipe = pipe.expect("both outputs are piped");
            let (output, transcript, actor) = (output.clone(), self.transcript.clone(), self.actor.clone());
            std::thread::spawn(move || capture(pipe, stream, &output, &transcript, &actor));
        }

        let exit = Shared::new(None);
        let watcher = {
            let (pidfd, exit) = (Arc::clone(&pidfd), exit.clone());
            let (transcript, actor) = (self.transcript.clone(), self.actor.clone());
            std::thread::spawn(move || {
                let end = reap(&pidfd);
                transcript.note_at(end.at, &actor, "exit", end.to_string());
                exit.update(|exit| *exit = Some(end));
            })
        };
        Ok(Subject {
            pid,
            argv,
            pidfd,
            exit,
            output,
            signals: Mutex::default(),
            watcher: Some(watcher),
            transcript: self.transcript,
            actor: self.actor,
        })
    }
}
