//! What every Unix system has in the place of what Linux has. The feature `portable` takes it on Linux as well, so that it
//! can be tested there.

use std::{
    io,
    num::NonZeroU32,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process, test_kill_process},
};

/// How soon the end of a process is seen that cannot be waited for.
const LOOK: Duration = Duration::from_millis(10);

/// Below the home, where per-user state lives whatever the environment says.
pub(super) const STATE_HOME: Option<&str> = if cfg!(target_os = "macos") {
    Some("Library/Application Support")
} else {
    None
};

/// Whether the state directory's changes are told. On Linux this stands for a system where they are not.
pub(crate) const TELLS_CHANGES: bool = !cfg!(target_os = "linux");

/// Whether a directory's filesystem is one that other hosts write to as well; unknown counts as local.
pub(crate) fn is_network_filesystem(_: &Path) -> bool {
    false
}

/// There is no call that marks all descriptors at once: each is marked by itself.
pub(super) fn close_on_exec_range(_: i32) -> bool {
    false
}

/// There is no call for it.
#[cfg(feature = "daemon")]
pub(crate) fn give_memory_back() {}

/// A process by its pid. Between proof and signal it may end, and another be given its pid: a window that only a
/// descriptor closes (CONV-31).
#[derive(Debug)]
pub(crate) struct Process(Pid);

impl Process {
    pub(crate) fn open(pid: NonZeroU32) -> io::Result<Self> {
        let pid = i32::try_from(pid.get()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
        test_kill_process(pid)?;
        Ok(Self(pid))
    }

    pub(crate) fn kill(&self) -> io::Result<()> {
        Ok(kill_process(self.0, Signal::KILL)?)
    }

    /// Waits until the process has ended and was reaped; `false`: it is still there after `bound`. Only a parent can wait
    /// for a process, so it is looked at again and again.
    pub(crate) fn wait(&self, bound: Duration) -> io::Result<bool> {
        let ends = Instant::now() + bound;
        loop {
            match test_kill_process(self.0) {
                Ok(()) if Instant::now() >= ends => return Ok(false),
                Ok(()) => thread::sleep(LOOK),
                Err(Errno::SRCH) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
