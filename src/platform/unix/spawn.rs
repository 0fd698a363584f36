//! Starts a detached daemon, by a fork and exec of its own.
//!
//! The client forks a *starter*, which forks the daemon and waits for it, so that the client learns how a daemon ended that
//! never became ready. The client ends the starter once it knows enough, and init takes the daemon over. The standard
//! library's `Command` cannot be used for this: it waits for its child, and panics or fails if SIGCHLD is ignored or another
//! part of the process reaps its children (CONN-46).

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use std::{mem, ptr};

use libc::{c_char, c_int, pid_t};
use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::launched::{LAUNCH_VARIABLE, message};
use super::limits::restore_limits;
use super::{readable, system};
use crate::exchange::deadline_in;

/// A daemon that is to be started.
pub(crate) struct Start<'a> {
    /// Where its program is; see [`find_program`].
    pub(crate) program: PathBuf,
    pub(crate) args: &'a [OsString],
    /// The whole environment, without [`LAUNCH_VARIABLE`], which is replaced.
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) component: &'a str,
    pub(crate) directory: &'a Path,
    pub(crate) log: &'a File,
}

/// A daemon that was started.
#[derive(Debug)]
pub(crate) struct Started {
    /// The pipe on which it says that it is ready.
    pub(crate) ready: File,
    pub(crate) starter: Starter,
    /// The daemon's own; `None` if that was not known in time.
    pub(crate) pid: Option<Pid>,
}

/// The process that waits for the daemon. It ends with this value, and leaves no zombie (CONN-33).
#[derive(Debug)]
pub(crate) struct Starter {
    pid: Pid,
    ended: File,
}

/// Finds a program as a shell does: a bare name is looked up in `path`, the value of `PATH`.
pub(crate) fn find_program(program: &Path, path: Option<&OsStr>) -> io::Result<PathBuf> {
    let executable = |candidate: &Path| {
        rustix::fs::access(candidate, Access::EXEC_OK)?;
        // A directory may be searched, which is the same bit.
        if candidate.is_dir() { Err(io::Error::from(Errno::ACCESS)) } else { Ok(()) }
    };
    if program.as_os_str().as_bytes().contains(&b'/') {
        return executable(program).map(|()| program.to_owned());
    }
    let mut error = io::Error::from(Errno::NOENT);
    for directory in std::env::split_paths(path.unwrap_or(OsStr::new("/usr/bin:/bin"))) {
        // The daemon works in `/`: a relative path means the caller's directory.
        let Ok(candidate) = std::path::absolute(directory.join(program)) else {
            continue;
        };
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(refused) if refused.kind() == io::ErrorKind::PermissionDenied => error = refused,
            Err(_) => {}
        }
    }
    Err(error)
}

/// Starts a daemon: its own session, reparented so that it never is this process's zombie, working directory `/`, standard
/// streams null but for the log, no inherited descriptor but the readiness pipe, and a process state of its own (CONN-28,
/// CONN-30, CONN-31, CONN-32, CONN-33, CONN-47, CONN-48). Fails if its program was not executed; `bound` is how long that may
/// take to be known.
pub(crate) fn spawn_detached(start: Start<'_>, bound: Duration) -> io::Result<Started> {
    fork_starter(start, bound, false)
}

/// Checks that a daemon could be started: forks as for one, and executes its program under a trace that ends it before its
/// first instruction (CONN-50). A system that allows no trace leaves the execution unchecked.
pub(crate) fn try_to_execute(start: Start<'_>, bound: Duration) -> io::Result<()> {
    let started = fork_starter(start, bound, true)?;
    started.starter.status(bound);
    Ok(())
}

fn fork_starter(start: Start<'_>, bound: Duration, is_trial: bool) -> io::Result<Started> {
    let (ready, say_ready) = pipe()?;
    let (executed, say_executed) = pipe()?;
    let (ended, say_ended) = pipe()?;
    let null = above_standard(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)?;
    let log = above_standard(start.log.as_fd().try_clone_to_owned()?)?;

    let told = message(start.component, say_ready.as_fd(), start.directory)?;
    let mut variables: Vec<_> = start.env.into_iter().filter(|(name, _)| name != LAUNCH_VARIABLE).collect();
    variables.push((LAUNCH_VARIABLE.into(), told));
    let variables = variables.into_iter().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        CString::new(name.into_vec())
    });
    let program = CString::new(start.program.into_os_string().into_vec())?;
    let args = start.args.iter().map(|arg| CString::new(arg.as_bytes()));
    let args: Vec<CString> = std::iter::once(Ok(program)).chain(args).collect::<Result<_, _>>()?;
    let variables: Vec<CString> = variables.collect::<Result<_, _>>()?;
    let (argv, envp) = (pointers(&args), pointers(&variables));
    let child = Child {
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        null: null.as_raw_fd(),
        log: log.as_raw_fd(),
        ready: say_ready.as_raw_fd(),
        executed: say_executed.as_raw_fd(),
        ended: say_ended.as_raw_fd(),
        // SAFETY: it cannot fail.
        parent: unsafe { libc::getpid() },
        is_trial,
    };

    // No handler of this process may run in the children: it would act on what they share with this process.
    let mask = Mask::block_all();
    // SAFETY: the child calls `be_starter`, which makes async-signal-safe calls alone and never returns. What `child` points
    // to lives until after the fork, and so does its copy in the child.
    let pid = match unsafe { libc::fork() } {
        0 => unsafe { be_starter(&child) },
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid).expect("a child has a pid")),
    };
    drop(mask);
    let starter = Starter { pid: pid?, ended: File::from(ended) };
    drop((say_ready, say_executed, say_ended));
    let (executed, ends, mut pid) = (File::from(executed), deadline_in(bound), None);
    loop {
        match number(&executed, ends.saturating_duration_since(Instant::now())) {
            Some(negated @ ..0) => pid = negated.checked_neg().and_then(Pid::from_raw),
            Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
            None => return Ok(Started { ready: File::from(ready), starter, pid }),
        }
    }
}

impl Starter {
    /// Asks it to end, which takes a moment; its drop waits for that. Returns whether it does end.
    pub(crate) fn end(&self) -> bool {
        // It alone holds the other end. If that is closed it has ended, and its pid may be another's if something else
        // in this process has reaped it.
        match readable([Some(self.ended.as_fd())], Duration::ZERO) {
            [false] => kill_process(self.pid, Signal::KILL).is_ok(),
            [true] => true,
        }
    }

    /// How the daemon ended, if that is known within `bound`.
    pub(crate) fn status(&self, bound: Duration) -> Option<ExitStatus> {
        number(&self.ended, bound).map(ExitStatus::from_raw)
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        // One that cannot be ended is not waited for: it would take as long as the daemon.
        if !self.end() {
            return;
        }
        // ECHILD: it was reaped (CONN-46).
        while matches!(waitpid(Some(self.pid), WaitOptions::empty()), Err(Errno::INTR)) {}
    }
}

/// Reads a number from a pipe; `None` if the pipe is closed without one, or if nothing comes within `bound`.
fn number(mut pipe: &File, bound: Duration) -> Option<c_int> {
    let ends = deadline_in(bound);
    loop {
        let left = ends.saturating_duration_since(Instant::now());
        let mut bytes = [0; 4];
        match readable([Some(pipe.as_fd())], left) {
            // So few bytes come whole.
            [true] => return pipe.read_exact(&mut bytes).ok().map(|()| c_int::from_ne_bytes(bytes)),
            [false] if left.is_zero() => return None,
            [false] => {}
        }
    }
}

/// Makes a pipe that no child inherits, with neither end among the standard streams.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((above_standard(reader.into())?, above_standard(writer.into())?))
}

/// Moves a descriptor off the numbers of the standard streams, which a process gets that was started without these.
fn above_standard(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

/// The signal mask of this thread before all signals were blocked. The drop restores it.
struct Mask(libc::sigset_t);

impl Mask {
    fn block_all() -> Self {
        // SAFETY: a set of signals is plain data, which the calls fill in.
        unsafe {
            let (mut all, mut before) = (mem::zeroed(), mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// What the children need, made before the fork: they may not allocate.
struct Child {
    /// Ends with a null pointer, as does `envp`; the first is the program's path.
    argv: *const *const c_char,
    envp: *const *const c_char,
    null: RawFd,
    log: RawFd,
    ready: RawFd,
    /// Carries the negated pid of the daemon, and an errno if its program could not be executed; is closed if it was.
    executed: RawFd,
    /// Carries the daemon's wait status.
    ended: RawFd,
    parent: pid_t,
    /// Whether the program is only to be executed, and must not run.
    is_trial: bool,
}

/// The starter: forks the daemon and waits for its end, with none of the client's descriptors.
///
/// # Safety
/// Only for the child of a fork, with all signals blocked.
unsafe fn be_starter(child: &Child) -> ! {
    // If it could outlive the client, it leaves at once, and the status stays unknown.
    let waits = system::dies_with(child.parent);
    // SAFETY: these calls are async-signal-safe and get plain numbers, or pointers to what lives on this stack.
    unsafe {
        libc::setsid();
        // Ignored, it would take the daemon's status away.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let pid = match libc::fork() {
            0 => be_daemon(child),
            pid => pid,
        };
        say(child.executed, if pid < 0 { errno() } else { -pid });
        if pid < 0 || !waits && !child.is_trial {
            libc::_exit(0);
        }
        libc::dup2(child.ended, 0);
        libc::dup2(child.executed, 1);
        libc::close(2);
        for_each_from(3, |first| system::close_from(first), |fd| libc::close(fd));
        // Last: the client goes on when it is closed here and in the daemon, and may count on the rest then.
        libc::close(1);
        let mut status = 0;
        loop {
            match libc::waitpid(pid, &raw mut status, 0) {
                -1 if errno() == libc::EINTR => {}
                -1 => libc::_exit(0),
                // The program of a trial was executed.
                _ if libc::WIFSTOPPED(status) => {
                    libc::kill(pid, libc::SIGKILL);
                }
                _ => break,
            }
        }
        say(0, status);
        libc::_exit(0)
    }
}

/// The daemon, up to the execution of its program.
///
/// # Safety
/// As for [`be_starter`].
unsafe fn be_daemon(child: &Child) -> ! {
    // SAFETY: these calls are async-signal-safe and get plain numbers, or pointers to what the client made before the forks.
    unsafe {
        // CONN-47. The last number is 64 at most; what cannot be set, as for SIGKILL, is as it should be.
        (1..=64).for_each(system::reset_disposition);
        let mut none = mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::umask(0o077);
        libc::chdir(c"/".as_ptr());
        for (from, to) in [(child.null, 0), (child.null, 1), (child.log, 2)] {
            if libc::dup2(from, to) < 0 {
                fail(child);
            }
        }
        for_each_from(3, system::close_on_exec_from, |fd| libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC));
        if libc::fcntl(child.ready, libc::F_SETFD, 0) < 0 {
            fail(child);
        }
        restore_limits();
        // CONN-48. What the system does not allow stays as it was.
        for resource in [
            libc::RLIMIT_CPU,
            libc::RLIMIT_FSIZE,
            libc::RLIMIT_AS,
            libc::RLIMIT_DATA,
        ] {
            let mut limit: libc::rlimit = mem::zeroed();
            if libc::getrlimit(resource, &raw mut limit) == 0 {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(resource, &raw const limit);
            }
        }
        if child.is_trial && !system::stops_at_execution(libc::getppid()) {
            libc::_exit(0);
        }
        libc::execve(*child.argv, child.argv, child.envp);
        fail(child)
    }
}

/// Ends a daemon that cannot be started, and reports the error.
///
/// # Safety
/// As for [`be_starter`].
unsafe fn fail(child: &Child) -> ! {
    // SAFETY: both are async-signal-safe.
    unsafe {
        say(child.executed, errno());
        libc::_exit(127)
    }
}

/// Writes a number that [`number`] reads.
///
/// # Safety
/// As for [`be_starter`].
unsafe fn say(pipe: RawFd, number: c_int) {
    let bytes = number.to_ne_bytes();
    // SAFETY: the bytes are there for the call. A client that is gone needs no answer, and SIGPIPE is blocked or not yet
    // raised in a process that ends next.
    unsafe { libc::write(pipe, bytes.as_ptr().cast(), bytes.len()) };
}

/// The error of the last call, read without an allocation.
fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or_default()
}

/// Handles every descriptor from `first` on by `at_once`, or one by one by `each` if that fails. Async-signal-safe if both
/// are.
fn for_each_from(first: RawFd, at_once: impl Fn(RawFd) -> bool, each: impl Fn(RawFd) -> c_int) {
    if at_once(first) {
        return;
    }
    // SAFETY: a call on a plain number.
    let most = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) };
    for fd in first..i32::try_from(most).unwrap_or(65536).clamp(256, 65536) {
        each(fd);
    }
}
