//! A puppet as its walk sees it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Child;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};

use super::role::Told;

/// Long after a puppet has spoken or ended, however busy the machine is.
const BOUND: Duration = Duration::from_secs(20);

pub(crate) struct Strings {
    pub(crate) name: String,
    /// What could last be told of it.
    pub(crate) word: String,
    pub(crate) is_paused: bool,
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    pid: Pid,
    process: OwnedFd,
}

impl Strings {
    /// The next puppet that comes to the walk's socket. `child`: the process, where the walk has started it.
    pub(crate) fn of_next(socket: &UnixListener, child: Option<&Child>) -> io::Result<Self> {
        if !is_soon(socket)? {
            return Err(io::Error::other("a puppet does not come"));
        }
        let (stream, _) = socket.accept()?;
        stream.set_read_timeout(Some(BOUND))?;
        let mut lines = BufReader::new(stream.try_clone()?);
        let mut hello = String::new();
        lines.read_line(&mut hello)?;
        let (name, pid) = hello.trim_end().split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
        let pid = pid.parse().ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        if child.is_some_and(|child| child.id() != pid.as_raw_pid().unsigned_abs()) {
            return Err(io::Error::other(format!("{name} comes uncalled")));
        }
        let mut puppet = Self {
            name: name.to_owned(),
            word: String::new(),
            is_paused: false,
            stream,
            lines,
            pid,
            process: pidfd_open(pid, PidfdFlags::empty())?,
        };
        puppet.listen()?;
        Ok(puppet)
    }

    pub(crate) fn tell(&mut self, told: Told) -> io::Result<()> {
        writeln!(self.stream, "{}", told.line())?;
        self.listen()
    }

    fn listen(&mut self) -> io::Result<()> {
        self.word.clear();
        if self.lines.read_line(&mut self.word)? == 0 {
            // It has ended when everything that it held is free.
            return self.ends();
        }
        self.word.truncate(self.word.trim_end().len());
        Ok(())
    }

    fn ends(&mut self) -> io::Result<()> {
        "is over".clone_into(&mut self.word);
        if !is_soon(&self.process)? {
            return Err(io::Error::other(format!("{} does not end", self.name)));
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self) -> io::Result<()> {
        pidfd_send_signal(&self.process, Signal::KILL)?;
        self.ends()
    }

    /// Stops the process, and returns once it has stopped.
    pub(crate) fn pause(&mut self) -> io::Result<()> {
        pidfd_send_signal(&self.process, Signal::STOP)?;
        self.is_paused = true;
        let status = format!("/proc/{}/stat", self.pid.as_raw_pid());
        let ends = std::time::Instant::now() + BOUND;
        // A grandchild cannot be waited for; its state follows the program's name in brackets.
        while !std::fs::read_to_string(&status)?.contains(") T ") {
            if std::time::Instant::now() >= ends {
                return Err(io::Error::other(format!("{} does not stop", self.name)));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    pub(crate) fn resume(&mut self) -> io::Result<()> {
        self.is_paused = false;
        Ok(pidfd_send_signal(&self.process, Signal::CONT)?)
    }
}

impl Drop for Strings {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left of it. What its parent cannot wait for any more is
        // this process's to wait for (see `super::stage::walk`).
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        let _ = is_soon(&self.process);
        let _ = waitpid(Some(self.pid), WaitOptions::NOHANG);
    }
}

/// Whether somebody connects, or the process ends, in time.
fn is_soon(what: &impl AsFd) -> io::Result<bool> {
    let bound = Timespec::try_from(BOUND).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(poll(&mut [PollFd::new(what, PollFlags::IN)], Some(&bound))? > 0)
}
