//! A launched subject and the processes that come of it.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

pub use rustix::process::Signal;

pub(crate) use self::table::descendants;
pub use self::table::{Proc, Socket, SocketState, processes, sockets, unread};
use crate::platform::{self, Setup, User};
use crate::transcript::{Transcript, printable};
use crate::wait::{Shared, left, lock, ms, until};

/// The environment of a subject.
pub type Env = BTreeMap<OsString, OsString>;

/// Output beyond this many bytes is counted, not kept.
pub const MOST_OUTPUT: usize = 1024 * 1024;

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

        let output = Shared::new(Output { chunks: Vec::new(), kept: 0, dropped: 0, open: 2 });
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

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit status, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// When the suite saw the end.
    pub at: Instant,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit status {code}"),
            (None, Some(signal)) => write!(f, "ended by signal {signal}"),
            (None, None) => f.write_str("ended"),
        }
    }
}

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a subject wrote, as far as it was kept.
#[derive(Debug, Clone, Default)]
pub struct Output {
    chunks: Vec<(Instant, Stream, Vec<u8>)>,
    kept: usize,
    /// Bytes beyond [`MOST_OUTPUT`].
    pub dropped: u64,
    open: u8,
}

impl Output {
    /// Everything on standard output.
    pub fn stdout(&self) -> Vec<u8> {
        self.of(|stream| stream == Stream::Stdout)
    }

    /// Everything on standard error.
    pub fn stderr(&self) -> Vec<u8> {
        self.of(|stream| stream == Stream::Stderr)
    }

    /// Both, in the order of arrival.
    pub fn all(&self) -> Vec<u8> {
        self.of(|_| true)
    }

    /// Every read with its time.
    pub fn chunks(&self) -> &[(Instant, Stream, Vec<u8>)] {
        &self.chunks
    }

    /// Whether both outputs were closed by everyone who held them.
    pub fn ended(&self) -> bool {
        self.open == 0
    }

    fn of(&self, wanted: impl Fn(Stream) -> bool) -> Vec<u8> {
        self.chunks
            .iter()
            .filter(|(_, stream, _)| wanted(*stream))
            .flat_map(|(_, _, bytes)| bytes.clone())
            .collect()
    }
}

fn capture(
    mut pipe: Box<dyn Read + Send>,
    stream: Stream,
    output: &Shared<Output>,
    transcript: &Transcript,
    actor: &str,
) {
    let what = if stream == Stream::Stdout { "stdout" } else { "stderr" };
    // Whole lines reach the transcript, so that a secret written in two parts is still recognised.
    let mut line = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                let at = Instant::now();
                let taken = output.update(|output| {
                    let taken = n.min(MOST_OUTPUT - output.kept);
                    output.kept += taken;
                    output.dropped += (n - taken) as u64;
                    if taken > 0 {
                        output.chunks.push((at, stream, buffer[..taken].to_vec()));
                    }
                    taken
                });
                for part in buffer[..taken].split_inclusive(|byte| *byte == b'\n') {
                    line.extend_from_slice(part);
                    if part.ends_with(b"\n") {
                        transcript.note_at(at, actor, what, printable(line.trim_ascii_end()));
                        line.clear();
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if !line.is_empty() {
        transcript.note(actor, what, printable(&line));
    }
    output.update(|output| output.open -= 1);
}

/// A process that the suite launched. Dropping it ends its whole process group and reaps it.
#[derive(Debug)]
pub struct Subject {
    pid: u32,
    argv: Vec<String>,
    pidfd: Arc<OwnedFd>,
    exit: Shared<Option<Exit>>,
    output: Shared<Output>,
    signals: Mutex<Vec<(Instant, Signal)>>,
    watcher: Option<JoinHandle<()>>,
    transcript: Transcript,
    actor: String,
}

impl Subject {
    /// Its process id, which is also the id of its process group.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The command line it was launched with.
    pub fn argv(&self) -> &[String] {
        &self.argv
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        self.exit.read(|exit| *exit)
    }

    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        self.exit().is_none()
    }

    /// Waits for its end. The wait is on the process itself, and it is reaped at once.
    pub fn wait_exit(&self, deadline: Instant) -> Option<Exit> {
        self.exit.wait(deadline, |exit| *exit)
    }

    /// Sends a signal to this one process. Sending to one that has ended is an error, never a signal to a stranger.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.transcript.note(&self.actor, "signal", format!("{signal:?}"));
        self.sends(signal);
        rustix::process::pidfd_send_signal(&*self.pidfd, signal).map_err(io::Error::from)
    }

    /// A handle that ends this one process (`SIGKILL`) from anywhere, at once and without a look at anything else.
    pub fn killer(&self) -> Killer {
        Killer(Arc::clone(&self.pidfd))
    }

    /// Stops (`SIGSTOP`) every process of its tree and returns once all of them are seen stopped.
    pub fn stop(&self) -> io::Result<()> {
        self.for_all(Signal::STOP)?;
        let stopped = || self.tree().iter().all(|p| matches!(p.state, 'T' | 't' | 'Z' | 'X')).then_some(());
        until(ms(2_000), stopped)
            .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "the subject does not stop"))?;
        self.sends(Signal::STOP);
        Ok(())
    }

    /// Continues (`SIGCONT`) every process of its tree.
    pub fn cont(&self) -> io::Result<()> {
        self.sends(Signal::CONT);
        self.for_all(Signal::CONT)
    }

    /// The signals that the suite has sent it, each with the moment before, and that of [`stop`](Self::stop) with the
    /// moment at which it was seen stopped.
    pub fn signals(&self) -> Vec<(Instant, Signal)> {
        lock(&self.signals).clone()
    }

    fn sends(&self, signal: Signal) {
        lock(&self.signals).push((Instant::now(), signal));
    }

    fn for_all(&self, signal: Signal) -> io::Result<()> {
        self.transcript.note(&self.actor, "signal", format!("{signal:?} to the whole tree"));
        rustix::process::pidfd_send_signal(&*self.pidfd, signal)?;
        for process in self.tree().into_iter().filter(|process| process.pid != self.pid) {
            process.signal(signal);
        }
        Ok(())
    }

    /// Ends (`SIGKILL`) the process and whoever is left of its group and of its descendants.
    pub fn kill_group(&self) {
        // Leaders first: what they would still start dies with the next look.
        for _ in 0..16 {
            let alive: Vec<Proc> = self.tree().into_iter().filter(|p| !p.is_zombie()).collect();
            if alive.is_empty() {
                break;
            }
            for process in alive {
                process.signal(Signal::KILL);
                process.wait_gone(ms(1_000));
            }
        }
    }

    /// What it wrote so far.
    pub fn output(&self) -> Output {
        self.output.read(Output::clone)
    }

    /// Waits until what it wrote satisfies `seen`.
    pub fn wait_output(&self, deadline: Instant, mut seen: impl FnMut(&Output) -> bool) -> Option<Output> {
        self.output.wait(deadline, |output| seen(output).then(|| output.clone()))
    }

    /// Waits until nobody holds its outputs any more; `None` when somebody still does at the deadline, which a child
    /// that outlives the subject and inherited them does.
    pub fn wait_output_end(&self, deadline: Instant) -> Option<Output> {
        self.wait_output(deadline, Output::ended)
    }

    /// Everything that comes of it: itself, the members of its group, and the descendants of these. What left the group
    /// and outlived its parent is found by [`Arena::leaks`](crate::arena::Arena::leaks).
    pub fn tree(&self) -> Vec<Proc> {
        let all = processes();
        // Once the leader is reaped its number may become a stranger's; our own orphans cannot be strangers.
        let ours = descendants(&all, &[std::process::id()]);
        let roots = all.iter().filter(|p| (p.pid == self.pid || p.pgrp == self.pid) && ours.contains(&p.pid));
        let roots: Vec<u32> = roots.map(|process| process.pid).collect();
        let family = descendants(&all, &roots);
        all.into_iter().filter(|process| family.contains(&process.pid)).collect()
    }

    /// The sockets that its tree holds.
    pub fn sockets(&self) -> Vec<Socket> {
        sockets(&self.tree())
    }

    /// The addresses on which its tree accepts TCP connections.
    pub fn listening(&self) -> Vec<SocketAddr> {
        let sockets = self.sockets().into_iter();
        let mut addresses: Vec<SocketAddr> = sockets
            .filter(|socket| socket.state == SocketState::Listen)
            .map(|socket| socket.local)
            .collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }

    /// Waits until its tree listens somewhere, or it ends, or the deadline passes.
    pub fn wait_listening(&self, deadline: Instant) -> Option<SocketAddr> {
        until(deadline, || match self.listening().first() {
            Some(address) => Some(Some(*address)),
            None => (!self.is_running()).then_some(None),
        })
        .flatten()
    }
}

/// Ends one process; see [`Subject::killer`].
#[derive(Debug, Clone)]
pub struct Killer(Arc<OwnedFd>);

impl Killer {
    /// Sends `SIGKILL`; whether the process was still there.
    pub fn kill(&self) -> bool {
        rustix::process::pidfd_send_signal(&*self.0, Signal::KILL).is_ok()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.kill_group();
        self.killer().kill();
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
        lock(&HELD).remove(&self.pid);
    }
}

/// Runs `argv` as another user in `/` and waits for its end; needs root. `None` when it does not end by the deadline.
pub fn run_as<S: Into<OsString>>(
    user: User,
    argv: impl IntoIterator<Item = S>,
    deadline: Instant,
) -> Result<Option<(Exit, Output)>, LaunchFault> {
    let env = std::env::var_os("PATH").map(|path| ("PATH".into(), path)).into_iter().collect();
    let setup = Setup { user: Some(user), ..Setup::default() };
    let subject = Launch::new(argv).env(env).setup(setup).start()?;
    let exit = subject.wait_exit(deadline);
    Ok(exit.and_then(|exit| Some((exit, subject.wait_output_end(deadline)?))))
}

/// What `user` reads from `path`: the bytes, or what the system says against it.
pub fn read_as(user: User, path: &Path, deadline: Instant) -> io::Result<Result<Vec<u8>, String>> {
    match run_as(user, [OsString::from("cat"), "--".into(), path.into()], deadline) {
        Ok(Some((Exit { code: Some(0), .. }, output))) => Ok(Ok(output.stdout())),
        Ok(Some((_, output))) => Ok(Err(String::from_utf8_lossy(&output.stderr()).trim_end().to_owned())),
        Ok(None) => Err(io::ErrorKind::TimedOut.into()),
        Err(fault) => Err(io::Error::other(fault)),
    }
}

/// The processes that a [`Subject`] holds and reaps itself.
static HELD: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

pub(crate) fn held() -> Vec<u32> {
    lock(&HELD).iter().copied().collect()
}

/// Orphans of subjects come to this process and are reaped, as `init` would: an unreaped one would look alive to
/// whoever asks for its pid. Children that other code of this process started are not touched: they sit in this
/// process's own session, in its group or in a group that they lead.
fn adopt_orphans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if platform::become_subreaper().is_ok() {
            std::thread::spawn(|| {
                // Nothing announces the end of a child that one did not start, short of a process-wide signal handler.
                until(Instant::now() + Duration::from_secs(u64::from(u32::MAX)), || {
                    reap_orphans();
                    None::<()>
                })
            });
        }
    });
}

fn reap_orphans() {
    let me = std::process::id();
    let Ok(children) = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children")) else {
        return;
    };
    let Some(own) = Proc::of(me) else { return };
    let held = lock(&HELD);
    let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
    for child in children.filter(|pid| !held.contains(pid)).filter_map(Proc::of) {
        let started_here =
            child.session == own.session && (child.pgrp == own.pgrp || child.pgrp == child.pid);
        if child.is_zombie() && !started_here {
            let _ = rustix::process::waitid(
                WaitId::Pid(raw(child.pid)),
                WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
            );
        }
    }
}

fn raw(pid: u32) -> Pid {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id is a positive number")
}

/// Whether the process has ended by the deadline, or at all where there is none.
fn ended_by(pidfd: &OwnedFd, deadline: Option<Instant>) -> bool {
    loop {
        let timeout = deadline.map(|at| Timespec::try_from(left(at).unwrap_or_default()).unwrap_or_default());
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], timeout.as_ref()) {
            Ok(ready) if ready > 0 => return true,
            Ok(_) | Err(rustix::io::Errno::INTR) if deadline.is_none_or(|at| left(at).is_some()) => {}
            _ => return false,
        }
    }
}

fn reap(pidfd: &OwnedFd) -> Exit {
    use std::os::fd::AsFd as _;
    ended_by(pidfd, None);
    let at = Instant::now();
    let status = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
        .ok()
        .flatten();
    Exit {
        code: status.as_ref().and_then(rustix::process::WaitIdStatus::exit_status),
        signal: status.as_ref().and_then(rustix::process::WaitIdStatus::terminating_signal),
        at,
    }
}
