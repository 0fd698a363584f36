//! How processes end and are reaped: subjects, which are held, and the orphans that they leave.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitId, WaitIdOptions};

use super::table::Proc;
use crate::platform;
use crate::wait::{left, lock, until};

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

/// The processes that a [`Subject`] holds and reaps itself.
pub(super) static HELD: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

pub(crate) fn held() -> Vec<u32> {
    lock(&HELD).iter().copied().collect()
}

/// Orphans of subjects come to this process and are reaped, as `init` would: an unreaped one would look alive to
/// whoever asks for its pid. Children that other code of this process started are not touched: they sit in this
/// process's own session, in its group or in a group that they lead.
pub(super) fn adopt_orphans() {
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

pub(super) fn raw(pid: u32) -> Pid {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id is a positive number")
}

/// Whether the process has ended by the deadline, or at all where there is none.
pub(super) fn ended_by(pidfd: &OwnedFd, deadline: Option<Instant>) -> bool {
    loop {
        let timeout = deadline.map(|at| Timespec::try_from(left(at).unwrap_or_default()).unwrap_or_default());
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], timeout.as_ref()) {
            Ok(ready) if ready > 0 => return true,
            Ok(_) | Err(rustix::io::Errno::INTR) if deadline.is_none_or(|at| left(at).is_some()) => {}
            _ => return false,
        }
    }
}

pub(super) fn reap(pidfd: &OwnedFd) -> Exit {
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
