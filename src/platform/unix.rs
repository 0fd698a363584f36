//! Unix: every system call by which the state directory is read, written and locked, and children are detached.
#![allow(unsafe_code)]

mod launched;
mod spawn;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
#[cfg(feature = "daemon")]
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
#[cfg(feature = "daemon")]
use std::process::Command;
#[cfg(feature = "daemon")]
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use local_daemon_proto::registration::MAX_BYTES;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

#[cfg(feature = "daemon")]
use tokio::io::Interest;
#[cfg(feature = "daemon")]
use tokio::io::unix::AsyncFd;

#[cfg(feature = "daemon")]
use super::Watch;
use super::{Refused, system};

pub(crate) use self::launched::launched_directory;
#[cfg(feature = "daemon")]
pub(crate) use self::launched::ready_pipe;
pub use self::launched::{LAUNCH_VARIABLE, forget_launch};
pub(crate) use self::spawn::{Start, Starter, find_program, spawn_detached, try_to_execute};

const OWNER_ONLY: Mode = Mode::RUSR.union(Mode::WUSR);

/// Where per-user state lives when nobody says otherwise: the same under every environment that a session may or may
/// not set (DIR-2).
pub(crate) fn state_home(env: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let home = || std::env::home_dir().filter(|home| home.is_absolute());
    if let Some(below) = system::STATE_HOME {
        return Some(home()?.join(below));
    }
    // The XDG specification tells readers to ignore a relative path.
    let xdg = env("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    xdg.or_else(|| Some(home()?.join(".local/state")))
}

/// Reads a file that has to be a regular file of this user, without group or other bits, of at most 64 KiB
/// (DIR-6, DIR-7, DIR-8, DIR-9). `Ok(None)` is "no such file" and nothing else.
pub(crate) fn read_checked(path: &Path) -> Result<Option<Vec<u8>>, Refused> {
    let file = match open_checked(path, OFlags::RDONLY) {
        Err(Refused::Missing) => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::with_capacity(512);
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(Refused::Io)?;
    if bytes.len() > MAX_BYTES { Err(Refused::TooLarge) } else { Ok(Some(bytes)) }
}

fn open_checked(path: &Path, flags: OFlags) -> Result<File, Refused> {
    let (file, stat) = open_regular(path, flags)?;
    check_owner_only(&stat)?;
    Ok(file)
}

fn open_regular(path: &Path, flags: OFlags) -> Result<(File, Stat), Refused> {
    // O_NONBLOCK: opening a FIFO that somebody put there must not hang.
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = match rustix::fs::open(path, flags, OWNER_ONLY) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Err(Refused::Missing),
        Err(Errno::LOOP) => return Err(Refused::Symlink),
        Err(Errno::NXIO) => return Err(Refused::NotAFile),
        Err(e) => return Err(Refused::Io(e.into())),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|e| Refused::Io(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refused::NotAFile);
    }
    Ok((File::from(fd), stat))
}

/// Opens a file to read it and append to it, checked like one that is read; creates it if it is missing.
pub(crate) fn open_to_append(path: &Path) -> Result<File, Refused> {
    let file = open_checked(path, OFlags::RDWR | OFlags::APPEND | OFlags::CREATE)?;
    // A umask can only take bits away; one that takes the owner's would leave a file that cannot be opened again.
    let io = |e: Errno| Refused::Io(e.into());
    if Mode::from_raw_mode(rustix::fs::fstat(&file).map_err(io)?.st_mode) != OWNER_ONLY {
        rustix::fs::fchmod(&file, OWNER_ONLY).map_err(io)?;
    }
    Ok(file)
}

/// Whether the file is still the one of this name.
#[cfg(feature = "daemon")]
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (opened, named) = match rustix::fs::lstat(path) {
        Ok(named) => (rustix::fs::fstat(file)?, named),
        Err(Errno::NOENT) => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    Ok((opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino))
}

/// Checks that a directory is one, is this user's, and has no group or other bits. `Ok(false)`: it is not there.
pub(crate) fn check_directory(path: &Path) -> Result<bool, Refused> {
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(false),
        Err(e) => return Err(Refused::Io(e.into())),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => check_owner_only(&stat).map(|()| true),
        FileType::Symlink => Err(Refused::Symlink),
        _ => Err(Refused::NotADirectory),
    }
}

fn check_owner_only(stat: &Stat) -> Result<(), Refused> {
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me {
        return Err(Refused::Owner { owner: stat.st_uid, me });
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(Mode::RWXG | Mode::RWXO) {
        #[allow(clippy::useless_conversion, reason = "a mode has 16 bits on some systems")]
        return Err(Refused::Mode(u32::from(mode.bits()) & 0o777));
    }
    Ok(())
}

/// Creates a directory, and its parents if they are missing, each with mode 0700 (DIR-4).
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    let make = || fs::DirBuilder::new().mode(0o700).create(path);
    let made = match (make(), path.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            create_directory(parent)?;
            make()
        }
        (made, _) => made,
    };
    match made {
        // Another process was faster; its directory is checked like any other.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        // As with files: a umask may have taken the owner's bits.
        Ok(()) if fs::symlink_metadata(path)?.mode() & 0o777 != 0o700 => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        }
        Ok(()) => Ok(()),
    }
}

/// Creates a file that did not exist, 0600 from its first instant whatever the umask, writes it whole and flushes it
/// to disk. Removes it again where that fails (DIR-5, PUB-5, PUB-6, PUB-13).
pub(crate) fn create_owner_only(path: &Path, content: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, OWNER_ONLY)?);
    let written = (|| {
        // A umask can only take bits away; one that takes the owner's would leave a file that nobody reads.
        rustix::fs::fchmod(&file, OWNER_ONLY)?;
        file.write_all(content)?;
        file.sync_data()
    })();
    if written.is_err() {
        // The error that matters is the first one; a leftover temporary file is harmless.
        let _ = fs::remove_file(path);
    }
    written
}

/// Reserves a port of 127.0.0.1 on which nothing listens.
pub(crate) fn reserve_port() -> io::Result<(OwnedFd, SocketAddr)> {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let reserved = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&reserved, rustix::io::FdFlags::CLOEXEC)?;
    bind(&reserved, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = getsockname(&reserved)?.try_into()?;
    Ok((reserved, address))
}

/// The user as whom this process acts.
#[cfg(feature = "daemon")]
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// How many descriptors this process may have; `None`: as many as it likes.
#[cfg(feature = "daemon")]
pub(crate) fn most_descriptors() -> Option<usize> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.and_then(|limit| usize::try_from(limit).ok())
}

/// The soft limit of descriptors before [`raise_descriptor_limit`]; `None` is no limit.
#[cfg(feature = "daemon")]
static FIRST_DESCRIPTOR_LIMIT: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the soft limit of descriptors of this process to the hard one. Best effort: a lower one serves fewer.
#[cfg(feature = "daemon")]
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// As many as macOS takes if the hard limit is none.
    const OPEN_MAX: u64 = 10_240;
    let limit = getrlimit(Resource::Nofile);
    FIRST_DESCRIPTOR_LIMIT.get_or_init(|| limit.current);
    let raise = |current| setrlimit(Resource::Nofile, Rlimit { current, ..limit });
    if raise(limit.maximum).is_err() && limit.current.is_some_and(|current| current < OPEN_MAX) {
        let _ = raise(Some(OPEN_MAX));
    }
}

/// Lets a program begin with the soft limit of descriptors that this process began with. A [`Daemon`](crate::Daemon) raises its
/// own soft limit to the hard one, and a program that it starts may rely on a low one, as those do that call `select`.
#[cfg(feature = "daemon")]
pub fn restore_descriptor_limit(command: &mut Command) -> &mut Command {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Some(&current) = FIRST_DESCRIPTOR_LIMIT.get() else {
        return command;
    };
    let restore = move || Ok(setrlimit(Resource::Nofile, Rlimit { current, ..getrlimit(Resource::Nofile) })?);
    // SAFETY: two system calls on plain numbers, which are async-signal-safe.
    unsafe { command.pre_exec(restore) }
}

/// Takes the advisory lock, waiting at most `bound`; `None` if that takes longer, or if there can be no lock here (CONN-17).
pub(crate) fn lock(path: &Path, bound: Duration) -> Option<File> {
    let file = open_to_append(path).ok()?;
    if file.try_lock().is_ok() {
        return Some(file);
    }
    // flock has no time-out. A thread that gets the lock too late finds nobody to give it to and so gives it back.
    let (sender, receiver) = mpsc::sync_channel(0);
    let waits = move || {
        if file.lock().is_ok() {
            let _ = sender.send(file);
        }
    };
    // A process that may have no more threads goes on without the lock (CONN-17).
    std::thread::Builder::new().spawn(waits).ok()?;
    receiver.recv_timeout(bound).ok()
}

/// How long the life lock is tried for, because another reader may be testing it.
const LIFE_LOCK_BOUND: Duration = Duration::from_millis(50);
/// The pause between two of these tries.
const LIFE_LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Opens the life lock, creates it if it is missing, and takes it shared. No process that this one starts inherits it
/// (REG-16).
#[cfg(feature = "daemon")]
pub(crate) fn hold_life_lock(path: &Path) -> Result<File, Refused> {
    let file = open_life_lock(path, OFlags::RDWR | OFlags::CREATE)?;
    rustix::fs::fchmod(&file, OWNER_ONLY).map_err(|e| Refused::Io(e.into()))?;
    if try_life_lock(&file, FlockOperation::NonBlockingLockShared)? {
        Ok(file)
    } else {
        Err(Refused::Io(io::Error::new(io::ErrorKind::WouldBlock, "another process holds it exclusively")))
    }
}

/// Whether any process holds the life lock.
pub(crate) fn is_life_lock_held(path: &Path) -> Result<bool, Refused> {
    match open_life_lock(path, OFlags::RDONLY) {
        // The lock is given back when the file is dropped.
        Ok(file) => Ok(!try_life_lock(&file, FlockOperation::NonBlockingLockExclusive)?),
        Err(Refused::Missing) => Ok(false),
        Err(refused) => Err(refused),
    }
}

/// Opens the life lock, whatever its mode: the file is empty, and others may read that.
fn open_life_lock(path: &Path, flags: OFlags) -> Result<File, Refused> {
    let (file, stat) = open_regular(path, flags)?;
    match check_owner_only(&stat) {
        Err(refused @ Refused::Owner { .. }) => Err(refused),
        _ => Ok(file),
    }
}

/// Tries to take the lock for a moment: another process that only tests it releases it sooner, a daemon does not.
fn try_life_lock(file: &File, operation: FlockOperation) -> Result<bool, Refused> {
    let ends = Instant::now() + LIFE_LOCK_BOUND;
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if Instant::now() >= ends => return Ok(false),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LIFE_LOCK_PAUSE),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Refused::Io(error.into())),
        }
    }
}

/// Waits until one of the descriptors can be read or has ended, at most `bound`; which of them.
pub(crate) fn readable<const N: usize>(fds: [Option<BorrowedFd<'_>>; N], bound: Duration) -> [bool; N] {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut polled: Vec<_> =
        fds.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    // A bound beyond what the kernel counts is none. A signal ends the wait early: whoever waits looks again.
    let bound = Timespec::try_from(bound).ok();
    let woken = poll(&mut polled, bound.as_ref()).unwrap_or(0) > 0;
    let mut polled = polled.iter();
    fds.map(|fd| fd.is_some() && polled.next().is_some_and(|one| woken && !one.revents().is_empty()))
}

/// Change notification for a directory, for the runtime to wait on.
#[cfg(feature = "daemon")]
pub(crate) fn followed(directory: &Path) -> io::Result<AsyncFd<Watch>> {
    let watch = Watch::of(directory)?;
    // SAFETY: a watch owns its descriptor, which is open until it is dropped and never another.
    Ok(unsafe { AsyncFd::register_with_interest(watch, Interest::READABLE) }?)
}

/// Lets no core dump of this process be written, which would hold its secrets. The processes that it starts may still
/// ask for theirs: the hard limit stays.
#[cfg(feature = "daemon")]
pub(crate) fn write_no_core_dump() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = Rlimit { current: Some(0), ..getrlimit(Resource::Core) };
    Ok(setrlimit(Resource::Core, limit)?)
}

/// Lets the calling thread, and with it the process, receive SIGINT, SIGTERM and SIGHUP: a mask survives fork and exec.
#[cfg(feature = "daemon")]
pub(crate) fn unblock_stop_signals() {
    // SAFETY: a set of signals is plain data, which the calls fill in.
    unsafe {
        let mut signals = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&raw mut signals, signal);
        }
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const signals, std::ptr::null_mut());
    }
}
