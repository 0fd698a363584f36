//! A launched subject and the processes that come of it.

mod launch;
mod output;
mod reap;
mod table;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

pub use rustix::process::Signal;

pub use self::launch::{Env, Launch, LaunchFault};
pub use self::output::{MOST_OUTPUT, Output, Stream};
pub use self::reap::Exit;
pub(crate) use self::reap::held;
use self::reap::{HELD, ended_by, raw};
pub(crate) use self::table::descendants;
pub use self::table::{Proc, Socket, SocketState, processes, sockets, unread};
use crate::platform::{Setup, User};
use crate::transcript::Transcript;
use crate::wait::{Shared, lock, ms, until};

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
