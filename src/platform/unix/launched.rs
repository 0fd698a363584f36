//! What a launcher passes to the daemon that it starts: the state directory, and the pipe on which it waits. One private
//! variable carries both, and it counts only in the process that was started with that very pipe (DIR-18).

use std::ffi::{OsStr, OsString};
#[cfg(feature = "daemon")]
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, io};

use rustix::fs::FileType;

use super::system;

/// The variable by which a client passes the state directory and the readiness pipe to the daemon that it starts. It
/// concerns that process alone: a [`Client`] replaces it in the environment of its child, and a program that starts others by
/// other means removes it.
///
/// [`Client`]: crate::Client
pub const LAUNCH_VARIABLE: &str = "LOCAL_DAEMON_LAUNCH";

/// `component descriptor device:inode directory`. The directory is last because it may contain anything.
pub(super) fn message(component: &str, pipe: BorrowedFd<'_>, directory: &Path) -> io::Result<OsString> {
    let identity = identity(pipe).ok_or(io::ErrorKind::InvalidInput)?;
    let mut message = OsString::from(format!("{component} {} {identity} ", pipe.as_raw_fd()));
    message.push(directory);
    Ok(message)
}

/// Returns device and inode of a pipe; `None` if the descriptor is no pipe, or not open.
fn identity(pipe: BorrowedFd<'_>) -> Option<String> {
    let stat = rustix::fs::fstat(pipe).ok()?;
    let is_pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
    is_pipe.then(|| format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// What the launcher of this process passed to it.
struct Launched {
    component: String,
    pipe: RawFd,
    identity: String,
    directory: PathBuf,
}

impl Launched {
    fn parse(message: &OsStr) -> Option<Self> {
        let mut parts = message.as_bytes().splitn(4, |byte| *byte == b' ');
        let mut text = || std::str::from_utf8(parts.next()?).ok().map(str::to_owned);
        let (component, pipe, identity) = (text()?, text()?.parse().ok()?, text()?);
        let directory = PathBuf::from(OsString::from_vec(parts.next()?.to_vec()));
        Some(Self { component, pipe, identity, directory })
    }

    /// Whether this process has that very pipe.
    fn is_here(&self) -> bool {
        // The standard streams are never the readiness pipe.
        self.pipe >= 3 && identity(self.pipe()).as_ref() == Some(&self.identity)
    }

    fn pipe(&self) -> BorrowedFd<'_> {
        // SAFETY: the number is only asked what it is, and one that is no descriptor answers EBADF.
        unsafe { BorrowedFd::borrow_raw(self.pipe) }
    }
}

/// Returns what the launcher of this process passed to it. The first call decides: later the pipe may be closed, and the
/// directory still counts.
fn launched() -> Option<&'static Launched> {
    static LAUNCHED: OnceLock<Option<Launched>> = OnceLock::new();
    let launched =
        LAUNCHED.get_or_init(|| Launched::parse(&env::var_os(LAUNCH_VARIABLE)?).filter(Launched::is_here));
    launched.as_ref()
}

/// Returns the state directory that the launcher of this process named for `component`.
pub(crate) fn launched_directory(component: &str) -> Option<PathBuf> {
    launched().filter(|told| told.component == component).map(|told| told.directory.clone())
}

/// Takes the readiness pipe that the launcher of this process left for `component`. Later children do not inherit it.
#[cfg(feature = "daemon")]
pub(crate) fn ready_pipe(component: &str) -> Option<File> {
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::sync::atomic::{AtomicBool, Ordering};

    static TAKEN: AtomicBool = AtomicBool::new(false);
    let told = launched().filter(|told| told.component == component && told.is_here())?;
    if TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    rustix::io::fcntl_setfd(told.pipe(), rustix::io::FdFlags::CLOEXEC).ok()?;
    // SAFETY: the launcher opened this pipe for this very use and `is_here` has just recognised it, so nothing in this
    // process has opened the number; it is taken once.
    Some(File::from(unsafe { OwnedFd::from_raw_fd(told.pipe) }))
}

/// Removes [`LAUNCH_VARIABLE`] from the environment of this process, so that no program that it starts inherits it. The
/// crate keeps what it said. Call it first in `main`.
///
/// The environment may only be changed while no other thread can read it, so this does nothing if the process has a second
/// thread, or if the system cannot tell (any but Linux). That is harmless: the variable means nothing to a process without
/// that very pipe, and a [`Client`](crate::Client) replaces it in the environment of its child.
///
/// ```
/// local_daemon::forget_launch();
/// // Threads, runtimes and other programs begin after it.
/// ```
pub fn forget_launch() {
    launched();
    if env::var_os(LAUNCH_VARIABLE).is_some() && system::has_one_thread() {
        // SAFETY: this thread is the only one, so nothing reads or writes the environment meanwhile.
        unsafe { env::remove_var(LAUNCH_VARIABLE) };
    }
}
