//! The platform code of every Unix system but Linux. `--cfg local_daemon_portable` uses it on Linux as well, so that it can
//! be tested there.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read as _};
#[cfg(feature = "daemon")]
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use local_daemon_proto::registration::World;
use rustix::fs::{AtFlags, OFlags, statat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::{lacks_owner_bits, with_owner_all};
use crate::exchange::deadline_in;

/// How soon the end of a process is seen that cannot be waited for.
const LOOK: Duration = Duration::from_millis(10);

/// Below the home, where per-user state lives whatever the environment says.
pub(super) const STATE_HOME: Option<&str> = if cfg!(target_os = "macos") {
    Some("Library/Application Support")
} else {
    None
};

/// How a directory is opened in which names are looked up.
pub(super) const LOOKUP_FLAGS: OFlags = OFlags::RDONLY;

/// Restores the owner's permission bits that a umask took from a directory that this process has just created. Follows no link.
#[allow(unsafe_code)]
pub(super) fn give_owner_all(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if !lacks_owner_bits(&stat) {
        return Ok(());
    }
    let name = CString::new(name.as_bytes())?;
    let mode = with_owner_all(&stat).as_raw_mode();
    // SAFETY: the name outlives the call.
    match unsafe { libc::fchmodat(parent.as_raw_fd(), name.as_ptr(), mode, libc::AT_SYMLINK_NOFOLLOW) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Change notification for a directory: its descriptor can be read when a name there may mean something else than before.
#[derive(Debug)]
pub(crate) struct Watch {
    told: File,
    #[cfg(not(target_os = "linux"))]
    _watcher: notify::RecommendedWatcher,
}

impl Watch {
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        use notify::Watcher as _;
        let (told, tell) = io::pipe()?;
        let (told, tell) = (std::os::fd::OwnedFd::from(told), std::os::fd::OwnedFd::from(tell));
        for end in [&told, &tell] {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        // A full pipe says it as well as one more byte would.
        let mut tell = File::from(tell);
        let changed = move |_| drop(io::Write::write(&mut tell, &[0]));
        let mut watcher = notify::recommended_watcher(changed).map_err(io::Error::other)?;
        let watched = watcher.watch(directory, notify::RecursiveMode::NonRecursive);
        watched.map_err(io::Error::other)?;
        Ok(Self { told: File::from(told), _watcher: watcher })
    }

    /// Linux stands for a system where changes are not told.
    #[cfg(target_os = "linux")]
    pub(crate) fn of(_: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Takes off what there is to read.
    pub(crate) fn take(&self) {
        while matches!((&self.told).read(&mut [0; 64]), Ok(1..)) {}
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.told.as_raw_fd()
    }
}

/// Whether a directory's filesystem is one that other hosts write to as well; unknown counts as local.
pub(crate) fn is_network_filesystem(_: &Path) -> bool {
    false
}

/// Returns a world of which nothing is known.
pub(crate) fn world() -> World {
    World::default()
}

/// No call marks all descriptors at once: each is marked by itself.
pub(super) fn close_on_exec_from(_: RawFd) -> bool {
    false
}

/// No call closes all of them at once.
///
/// # Safety
/// As on Linux.
#[allow(unsafe_code)]
pub(super) unsafe fn close_from(_: RawFd) -> bool {
    false
}

/// There is no call for it.
pub(super) fn dies_with(_: libc::pid_t) -> bool {
    false
}

/// There is no such call on all systems.
pub(super) fn stops_at_execution(_: libc::pid_t) -> bool {
    false
}

/// Gives a signal its default disposition. Async-signal-safe.
#[allow(unsafe_code)]
pub(super) fn reset_disposition(signal: libc::c_int) {
    // SAFETY: no handler is set.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// No call tells it everywhere.
pub(super) fn has_one_thread() -> bool {
    false
}

/// There is no call for it.
#[cfg(feature = "daemon")]
pub(crate) fn give_memory_back() {}

/// Cannot report the user at the other end of a connection: not all systems have such a call.
#[cfg(feature = "daemon")]
pub(crate) struct Peers;

#[cfg(feature = "daemon")]
impl Peers {
    pub(crate) fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn user(&mut self, _: SocketAddr, _: SocketAddr) -> Option<u32> {
        None
    }
}

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
        let ends = deadline_in(bound);
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
