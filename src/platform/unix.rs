//! Unix: every system call by which the state directory is read, written and locked, and children are detached.
#![allow(unsafe_code)]

mod launched;
mod limits;
#[cfg(feature = "daemon")]
mod listeners;
#[cfg(feature = "daemon")]
mod signals;
mod spawn;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use local_daemon_proto::registration::MAX_BYTES;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

#[cfg(any(feature = "daemon", feature = "async"))]
use tokio::io::Interest;
#[cfg(any(feature = "daemon", feature = "async"))]
use tokio::io::unix::AsyncFd;

#[cfg(any(feature = "daemon", feature = "async"))]
use super::Watch;
use super::{FileErrorKind, system};
use crate::exchange::deadline_in;

pub(crate) use self::launched::launched_directory;
#[cfg(feature = "daemon")]
pub(crate) use self::launched::ready_pipe;
pub use self::launched::{LAUNCH_VARIABLE, forget_launch};
#[cfg(feature = "daemon")]
pub(crate) use self::limits::raise_descriptor_limit;
pub use self::limits::{disable_core_dumps, with_caller_limits};
#[cfg(feature = "daemon")]
pub(crate) use self::listeners::is_tcp_listener;
#[cfg(feature = "daemon")]
pub use self::listeners::listen_fds;
#[cfg(feature = "daemon")]
pub(crate) use self::signals::{survive_signals, unblock_handled_signals};
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
pub(crate) fn read_checked(path: &Path) -> Result<Option<Vec<u8>>, FileErrorKind> {
    read(open_checked(path, OFlags::RDONLY))
}

/// Reads a file as [`read_checked`] does, whatever its group and other bits.
pub(crate) fn read_own(path: &Path) -> Result<Option<Vec<u8>>, FileErrorKind> {
    read(open_own(path, OFlags::RDONLY))
}

fn read(opened: Result<File, FileErrorKind>) -> Result<Option<Vec<u8>>, FileErrorKind> {
    let file = match opened {
        Err(FileErrorKind::Missing) => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::with_capacity(512);
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(FileErrorKind::Io)?;
    if bytes.len() > MAX_BYTES {
        Err(FileErrorKind::TooLarge)
    } else {
        Ok(Some(bytes))
    }
}

fn open_checked(path: &Path, flags: OFlags) -> Result<File, FileErrorKind> {
    let (file, stat) = open_regular(path, flags)?;
    check_owner_only(&stat)?;
    Ok(file)
}

/// Opens a regular file of this user, whatever its mode.
fn open_own(path: &Path, flags: OFlags) -> Result<File, FileErrorKind> {
    check_owner(open_regular(path, flags)?)
}

/// Returns the file if it belongs to this user, whatever its mode.
fn check_owner((file, stat): (File, Stat)) -> Result<File, FileErrorKind> {
    match check_owner_only(&stat) {
        Err(refused @ FileErrorKind::Owner { .. }) => Err(refused),
        _ => Ok(file),
    }
}

fn open_regular(path: &Path, flags: OFlags) -> Result<(File, Stat), FileErrorKind> {
    // O_NONBLOCK: opening a FIFO that somebody put there must not hang.
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = match rustix::fs::open(path, flags, OWNER_ONLY) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Err(FileErrorKind::Missing),
        Err(Errno::LOOP) => return Err(FileErrorKind::Symlink),
        Err(Errno::NXIO) => return Err(FileErrorKind::NotAFile),
        Err(e) => return Err(FileErrorKind::Io(e.into())),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|e| FileErrorKind::Io(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FileErrorKind::NotAFile);
    }
    Ok((File::from(fd), stat))
}

/// Opens a file to read it and append to it, checked like one that is read; creates it if it is missing.
pub(crate) fn open_to_append(path: &Path) -> Result<File, FileErrorKind> {
    let (file, stat) = open_or_create(path, OFlags::RDWR | OFlags::APPEND)?;
    check_owner_only(&stat)?;
    Ok(file)
}

/// Opens a regular file, and creates it with mode 0600 if it is missing (DIR-5, DIR-16). An existing one keeps its mode
/// (DIR-21).
fn open_or_create(path: &Path, flags: OFlags) -> Result<(File, Stat), FileErrorKind> {
    loop {
        match open_regular(path, flags) {
            Err(FileErrorKind::Missing) => {}
            opened => return opened,
        }
        match open_regular(path, flags | OFlags::CREATE | OFlags::EXCL) {
            // Another process was faster.
            Err(FileErrorKind::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Ok((file, stat)) => {
                // A umask that takes the owner's bits would leave a file that cannot be opened again.
                rustix::fs::fchmod(&file, OWNER_ONLY).map_err(|e| FileErrorKind::Io(e.into()))?;
                return Ok((file, stat));
            }
            Err(refused) => return Err(refused),
        }
    }
}

/// Whether the file is still the one of this name.
#[cfg(feature = "daemon")]
pub(crate) fn is_at(file: impl AsFd, path: &Path) -> io::Result<bool> {
    let (opened, named) = match rustix::fs::lstat(path) {
        Ok(named) => (rustix::fs::fstat(file)?, named),
        Err(Errno::NOENT) => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    Ok((opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino))
}

/// Checks that a directory is one, is this user's, and has no group or other bits. `Ok(false)`: it is not there.
pub(crate) fn check_directory(path: &Path) -> Result<bool, FileErrorKind> {
    check_type(path, FileType::Directory, FileErrorKind::NotADirectory)
}

/// Checks a file that may be missing as one that is read is checked, without opening it.
pub(crate) fn check_file(path: &Path) -> Result<bool, FileErrorKind> {
    check_type(path, FileType::RegularFile, FileErrorKind::NotAFile)
}

fn check_type(path: &Path, expected: FileType, other: FileErrorKind) -> Result<bool, FileErrorKind> {
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(false),
        Err(e) => return Err(FileErrorKind::Io(e.into())),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        found if found == expected => check_owner_only(&stat).map(|()| true),
        FileType::Symlink => Err(FileErrorKind::Symlink),
        _ => Err(other),
    }
}

/// Returns this process's effective user.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn check_owner_only(stat: &Stat) -> Result<(), FileErrorKind> {
    let me = user();
    if stat.st_uid != me {
        return Err(FileErrorKind::Owner { owner: stat.st_uid, me });
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(Mode::RWXG | Mode::RWXO) {
        #[allow(clippy::useless_conversion, reason = "a mode has 16 bits on some systems")]
        return Err(FileErrorKind::Mode(u32::from(mode.bits()) & 0o777));
    }
    Ok(())
}

/// Creates a directory, and its parents if they are missing, each with mode 0700 whatever the umask is (DIR-4, DIR-23), and
/// none in another user's directory (DIR-22).
///
/// # Errors
/// Fails with the path that is refused or cannot be created.
pub(crate) fn create_directory(path: &Path) -> Result<(), (PathBuf, FileErrorKind)> {
    let Parent { mut directory, path: mut at, missing } = existing_parent(path)?;
    for name in missing {
        check_parent(&directory).map_err(|kind| (at.clone(), kind))?;
        at.push(name);
        directory =
            make_directory(&directory, name).map_err(|error| (at.clone(), FileErrorKind::Io(error)))?;
    }
    Ok(())
}

/// Checks that [`create_directory`] would create nothing in another user's directory (DIR-22).
///
/// # Errors
/// Fails with the path of that directory.
pub(crate) fn check_creatable(path: &Path) -> Result<(), (PathBuf, FileErrorKind)> {
    let Parent { directory, path, .. } = existing_parent(path)?;
    check_parent(&directory).map_err(|kind| (path, kind))
}

/// An existing directory, and what is missing below it.
struct Parent<'a> {
    directory: OwnedFd,
    path: PathBuf,
    /// The names that are missing below it, outermost first.
    missing: Vec<&'a OsStr>,
}

/// Returns the nearest parent that exists, or the path itself. It may be a link: that is the user's choice.
fn existing_parent(path: &Path) -> Result<Parent<'_>, (PathBuf, FileErrorKind)> {
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        match rustix::fs::open(
            existing,
            system::LOOKUP_FLAGS | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(directory) => {
                missing.reverse();
                return Ok(Parent { directory, path: existing.to_owned(), missing });
            }
            Err(error) => match (error, existing.parent(), existing.components().next_back()) {
                (Errno::NOENT, Some(parent), Some(name)) => {
                    missing.push(name.as_os_str());
                    existing = parent;
                }
                _ => return Err((existing.to_owned(), FileErrorKind::Io(error.into()))),
            },
        }
    }
}

/// Checks that a directory belongs to this user or to root (DIR-22).
fn check_parent(directory: &OwnedFd) -> Result<(), FileErrorKind> {
    let owner = rustix::fs::fstat(directory).map_err(|e| FileErrorKind::Io(e.into()))?.st_uid;
    let me = user();
    if owner == me || owner == 0 {
        Ok(())
    } else {
        Err(FileErrorKind::OwnerOfParent { owner, me })
    }
}

/// Creates a directory in another one, and opens it.
fn make_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        // A umask can only take bits away. One that takes the owner's leaves a directory that its owner cannot enter.
        Ok(()) => system::give_owner_all(parent.as_fd(), name)?,
        // Another process was faster. Its directory is checked like any other.
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = system::LOOKUP_FLAGS | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Whether this may be the directory that this process has just created, and lacks permission bits of its owner. If another
/// process replaced it, it is still this user's and closed to others, and gains only what its owner can give it (DIR-21).
pub(super) fn lacks_owner_bits(stat: &Stat) -> bool {
    let mode = Mode::from_raw_mode(stat.st_mode);
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    is_directory && check_owner_only(stat).is_ok() && !mode.contains(Mode::RWXU)
}

/// Returns the mode with all of the owner's bits; the set-group-ID bit that a parent passes on stays.
pub(super) fn with_owner_all(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode) | Mode::RWXU
}

/// Returns the first directory above `path` that this user may not search, and its owner.
pub(crate) fn first_unsearchable(path: &Path) -> Option<(PathBuf, u32)> {
    let mut ancestors: Vec<&Path> = path.ancestors().collect();
    ancestors.reverse();
    let is_denied = |below: &Path| matches!(rustix::fs::stat(below), Err(Errno::ACCESS));
    let first = ancestors.windows(2).find(|pair| is_denied(pair[1]))?[0];
    Some((first.to_owned(), rustix::fs::stat(first).ok()?.st_uid))
}

/// Removes the permission bits of group and others from a file or directory of this user, through its descriptor.
pub(crate) fn close_to_others(path: &Path) -> Result<(), FileErrorKind> {
    let io = |e: Errno| FileErrorKind::Io(e.into());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(io)?;
    let stat = rustix::fs::fstat(&file).map_err(io)?;
    match check_owner_only(&stat) {
        Err(FileErrorKind::Mode(_)) => {
            let mode = Mode::from_raw_mode(stat.st_mode) & Mode::RWXU;
            rustix::fs::fchmod(&file, mode).map_err(io)
        }
        checked => checked,
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

/// How many descriptors this process may have; `None`: as many as it likes.
#[cfg(feature = "daemon")]
pub(crate) fn most_descriptors() -> Option<usize> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.and_then(|limit| usize::try_from(limit).ok())
}

/// Takes the advisory lock, waiting at most `bound`; `None` if that takes longer, or if there can be no lock here (CONN-17).
pub(crate) fn lock(path: &Path, bound: Duration) -> Option<File> {
    let file = open_to_append(path).ok()?;
    let ends = deadline_in(bound);
    // flock has no time-out, and a thread that waits in it stays there while a holder is stopped.
    loop {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(TryLockError::WouldBlock) if Instant::now() < ends => std::thread::sleep(LOCK_PAUSE),
            Err(_) => return None,
        }
    }
}

/// The pause between two tries of the advisory lock.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// How long the life lock is tried for, because another reader may be testing it.
const LIFE_LOCK_BOUND: Duration = Duration::from_millis(50);
/// The pause between two of these tries.
const LIFE_LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Opens the life lock, creates it if it is missing, and takes it shared. No process that this one starts inherits it
/// (REG-16).
#[cfg(feature = "daemon")]
pub(crate) fn hold_life_lock(path: &Path) -> Result<File, FileErrorKind> {
    // The file is empty, and others may read that. A descriptor that can write would keep the file system from being
    // mounted read-only.
    let file = check_owner(open_or_create(path, OFlags::RDONLY)?)?;
    if try_life_lock(&file, FlockOperation::NonBlockingLockShared)? {
        Ok(file)
    } else {
        Err(FileErrorKind::Io(io::Error::new(
            io::ErrorKind::WouldBlock,
            "another process holds it exclusively",
        )))
    }
}

/// Whether any process holds the life lock.
pub(crate) fn is_life_lock_held(path: &Path) -> Result<bool, FileErrorKind> {
    match open_own(path, OFlags::RDONLY) {
        // The lock is given back when the file is dropped.
        Ok(file) => Ok(!try_life_lock(&file, FlockOperation::NonBlockingLockExclusive)?),
        Err(FileErrorKind::Missing) => Ok(false),
        Err(refused) => Err(refused),
    }
}

/// Tries to take the lock for a moment: another process that only tests it releases it sooner, a daemon does not.
fn try_life_lock(file: &File, operation: FlockOperation) -> Result<bool, FileErrorKind> {
    let ends = Instant::now() + LIFE_LOCK_BOUND;
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if Instant::now() >= ends => return Ok(false),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LIFE_LOCK_PAUSE),
            Err(Errno::INTR) => {}
            Err(error) => return Err(FileErrorKind::Io(error.into())),
        }
    }
}

/// Waits until a socket can be read or written, of which `wanted` says what is waited for, at most `bound`; returns which. Both
/// if it has failed: the next call returns the error.
pub(crate) fn ready(socket: impl AsFd, wanted: [bool; 2], bound: Duration) -> [bool; 2] {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let flags = [PollFlags::IN, PollFlags::OUT];
    let mut asked = PollFlags::empty();
    for (flag, _) in flags.iter().zip(wanted).filter(|(_, is_wanted)| *is_wanted) {
        asked |= *flag;
    }
    let mut polled = [PollFd::new(&socket, asked)];
    // A signal ends the wait early: the caller looks again.
    let woken = poll(&mut polled, Timespec::try_from(bound).ok().as_ref()).unwrap_or(0) > 0;
    let seen = polled[0].revents();
    let has_failed = seen.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
    flags.map(|flag| woken && (seen.contains(flag) || has_failed))
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
#[cfg(any(feature = "daemon", feature = "async"))]
pub(crate) fn followed(directory: &Path) -> io::Result<AsyncFd<Watch>> {
    let watch = Watch::of(directory)?;
    // SAFETY: a watch owns its descriptor, which is open until it is dropped and never another.
    Ok(unsafe { AsyncFd::register_with_interest(watch, Interest::READABLE) }?)
}
