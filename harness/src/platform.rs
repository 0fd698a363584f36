//! What only the operating system can do, and the only `unsafe` of the harness.

#![allow(unsafe_code)]

mod unnoticed;

use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::{self, MountFlags, UnmountFlags};
use rustix::process::{self, Pid, Rlimit, Signal};

pub use self::unnoticed::overwrite_unnoticed;
pub(crate) use self::unnoticed::take_unnoticed;

/// A user of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

/// How a process begins, besides its arguments and environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    /// Leads a session of its own instead of only a group of its own.
    pub own_session: bool,
    /// File mode creation mask; inherited where absent.
    pub umask: Option<u32>,
    /// Runs as this user, without supplementary groups; needs root.
    pub user: Option<User>,
    /// Largest file, in bytes, that it may write (`RLIMIT_FSIZE`, with `SIGXFSZ` at its default): a full disk, in small.
    pub file_size: Option<u64>,
    /// Leaves a core dump behind where it dies of a signal that does, as far as the host lets it.
    pub core_dumps: bool,
    /// Signals that are blocked from the start.
    pub blocked: &'static [Signal],
    /// Signals that are ignored from the start.
    pub ignored: &'static [Signal],
    /// An open descriptor of this process that the child gets at each number from 3 to 12. A program that cannot be executed
    /// is then not reported, because the standard library's own pipe may have one of these numbers.
    pub everywhere: Option<RawFd>,
}

/// Makes `command` start as `setup` says; without a session of its own it leads a process group.
pub fn prepare(command: &mut Command, setup: Setup) {
    if !setup.own_session {
        command.process_group(0);
    }
    if let Some(User { uid, gid }) = setup.user {
        command.uid(uid).gid(gid);
    }
    let signals = !setup.blocked.is_empty() || !setup.ignored.is_empty();
    let limits = setup.umask.is_some() || setup.file_size.is_some() || setup.core_dumps;
    if setup.own_session || limits || signals || setup.everywhere.is_some() {
        // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed: it makes
        // a few system calls, allocates nothing and touches no memory but its own captured copies.
        unsafe { command.pre_exec(move || in_child(setup)) };
    }
}

fn in_child(setup: Setup) -> io::Result<()> {
    if setup.own_session {
        rustix::process::setsid()?;
    }
    if let Some(mask) = setup.umask {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
    }
    if setup.file_size.is_some() {
        let limit = rustix::process::Rlimit { current: setup.file_size, maximum: setup.file_size };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, limit)?;
    }
    if setup.core_dumps {
        let most = process::getrlimit(process::Resource::Core).maximum;
        let up_to = |most| Rlimit { current: most, maximum: most };
        // Root may have more than it was given.
        process::setrlimit(process::Resource::Core, up_to(None))
            .or_else(|_| process::setrlimit(process::Resource::Core, up_to(most)))?;
    }
    for signal in setup.ignored {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(signal.as_raw(), libc::SIG_IGN) };
    }
    if !setup.blocked.is_empty() {
        block(setup.blocked);
    }
    if let Some(descriptor) = setup.everywhere {
        for number in 3..=12 {
            // SAFETY: the child's own table of descriptors, of which nothing but the standard three is used again.
            let done = unsafe {
                if number == descriptor {
                    libc::fcntl(number, libc::F_SETFD, 0)
                } else {
                    libc::dup2(descriptor, number)
                }
            };
            if done < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Adds signals to the mask of this thread.
fn block(signals: &[Signal]) {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the first call initialises the set, and all of them get a pointer that is valid for the call.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// What a running process can be kept from getting more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Address space (`RLIMIT_AS`).
    Memory,
    /// Descriptors (`RLIMIT_NOFILE`).
    Descriptors,
}

/// A process that gets no more of something than it had, until this is dropped.
#[derive(Debug)]
pub struct Squeezed {
    pid: Pid,
    resource: process::Resource,
    before: Rlimit,
}

impl Squeezed {
    /// Squeezes a process of the same user, or of any by root.
    pub fn new(pid: u32, resource: Resource) -> io::Result<Self> {
        let (resource, has) = match resource {
            Resource::Memory => {
                let sizes = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
                let pages: Option<u64> = sizes.split(' ').next().and_then(|pages| pages.parse().ok());
                let pages = pages.ok_or(Errno::SRCH)?;
                (process::Resource::As, pages * rustix::param::page_size() as u64)
            }
            Resource::Descriptors => {
                let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
                (process::Resource::Nofile, descriptors as u64)
            }
        };
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        // What is the most that it may have, it has inherited.
        let limit = Rlimit { current: Some(has), maximum: process::getrlimit(resource).maximum };
        let before = process::prlimit(Some(pid), resource, limit)?;
        Ok(Self { pid, resource, before })
    }
}

impl Drop for Squeezed {
    fn drop(&mut self) {
        // It may be gone.
        let _ = process::prlimit(Some(self.pid), self.resource, self.before);
    }
}

/// A small file system of its own (`tmpfs`), owner-only, until this is dropped. Needs the right to mount.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts it over a directory; it holds so many bytes.
    pub fn new(directory: &Path, bytes: u64) -> io::Result<Self> {
        let options = std::ffi::CString::new(format!("size={bytes},mode=0700")).map_err(io::Error::other)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount::mount(c"tmpfs", directory, c"tmpfs", flags, options.as_c_str())?;
        Ok(Self(directory.to_owned()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it read-only, or writable again.
    pub fn read_only(&self, is: bool) -> io::Result<()> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let flags = if is { flags | MountFlags::RDONLY } else { flags };
        Ok(mount::mount_remount(&self.0, flags, c"")?)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Takes off every file system that is mounted below a directory.
pub(crate) fn unmount_below(directory: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    // White space and backslashes are written as octal numbers there.
    let plain = |place: &str| {
        [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
            .iter()
            .fold(place.to_owned(), |place, (written, meant)| place.replace(written, meant))
    };
    let mut below: Vec<PathBuf> = places.map(plain).map(PathBuf::from).collect();
    below.retain(|place| place.starts_with(directory));
    for place in below.iter().rev() {
        // What stays is found when the directory is removed.
        let _ = mount::unmount(place, UnmountFlags::DETACH);
    }
}

/// Unblocks every signal and gives each that was ignored its default disposition, for this process and those that it
/// starts; returns those that were ignored. `SIGPIPE` is left to the standard library, which gives children its default.
/// To be called before there are other threads.
pub fn put_signals_in_order() -> Vec<i32> {
    const MOST: i32 = 64;
    let mut ignored = Vec::new();
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised before it is read, every pointer is valid for its call, and no handler is installed.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
        for signal in (1..=MOST).filter(|signal| *signal != libc::SIGPIPE) {
            let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
            // The C library keeps some numbers for itself and refuses them.
            if libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction == libc::SIG_IGN
            {
                libc::signal(signal, libc::SIG_DFL);
                ignored.push(signal);
            }
        }
    }
    ignored
}

/// Raises how many descriptors this process may have to `wanted`, or as far as it may; returns how many that are.
pub fn raise_descriptors(wanted: u64) -> u64 {
    let limit = process::getrlimit(process::Resource::Nofile);
    let (has, most) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    if has >= wanted {
        return has;
    }
    let raised = Rlimit { current: Some(wanted.min(most)), maximum: limit.maximum };
    match process::setrlimit(process::Resource::Nofile, raised) {
        Ok(()) => wanted.min(most),
        Err(_) => has,
    }
}

/// Makes this process the one that orphans of its descendants come to, so that a subject cannot hide a child from the
/// suite by dying first. Where the kernel refuses, orphans are still found by the tag in their environment.
pub fn become_subreaper() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(Errno::into)
}

/// Makes a TCP connection end with a reset instead of in order, now.
pub fn reset(stream: &std::net::TcpStream) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    rustix::net::sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO))?;
    // Whoever else holds the socket keeps it open: connecting it to nothing ends the connection all the same.
    let nowhere = libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_UNSPEC).unwrap_or_default(),
        sa_data: [0; 14],
    };
    let length = libc::socklen_t::try_from(size_of_val(&nowhere)).unwrap_or_default();
    // SAFETY: the address is valid for its whole length, and the descriptor is open as long as `stream` is.
    match unsafe { libc::connect(stream.as_raw_fd(), &raw const nowhere, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A queue (fanotify) of what changes in `directory`, which says of each change whether this very process made it; an
/// unprivileged process is told no more, and no more is used. See [`crate::observe`] for its format.
pub fn changes_by_process(directory: &std::path::Path) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
    let flags = libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_REPORT_DIR_FID | libc::FAN_REPORT_NAME;
    let mask = libc::FAN_CREATE
        | libc::FAN_DELETE
        | libc::FAN_MOVED_FROM
        | libc::FAN_MOVED_TO
        | libc::FAN_MODIFY
        | libc::FAN_ATTRIB
        | libc::FAN_EVENT_ON_CHILD;
    // SAFETY: two system calls; the first makes a descriptor that nobody else has, the second reads a string that ends
    // with a zero byte and outlives it.
    unsafe {
        let queue = libc::fanotify_init(flags, libc::O_RDONLY as _);
        if queue < 0 {
            return Err(io::Error::last_os_error());
        }
        let queue = OwnedFd::from_raw_fd(queue);
        let (how, whence) = (libc::FAN_MARK_ADD | libc::FAN_MARK_ONLYDIR, libc::AT_FDCWD);
        match libc::fanotify_mark(queue.as_raw_fd(), how, mask, whence, path.as_ptr()) {
            0 => Ok(queue),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Creates a FIFO of mode 0600.
pub fn make_fifo(path: &std::path::Path) -> io::Result<()> {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).map_err(Errno::into)
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// This process's user id.
pub fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The unprivileged user `nobody`, where this host has one.
pub fn nobody() -> Option<User> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields[..] {
            ["nobody", _, uid, gid, ..] => Some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? }),
            _ => None,
        }
    })
}

/// Runs `work` on a thread of its own as `user`, to whom the sockets that it creates belong. Needs root.
pub fn as_user<T: Send>(user: User, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // The system call changes this thread alone; the C library's function would change all threads.
            rustix::thread::set_thread_gid(rustix::process::Gid::from_raw(user.gid))?;
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(user.uid))?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread has panicked")))
    })
}

/// The first executable file of this name in `PATH`.
pub fn which(program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = std::env::var_os("PATH")?;
    let candidates = std::env::split_paths(&path).map(|directory| directory.join(program));
    let executable =
        |path: &PathBuf| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    candidates.into_iter().find(executable)
}
