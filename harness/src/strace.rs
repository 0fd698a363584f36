//! Holds, fails or ends a process at an exact system call, by way of `strace`.
//!
//! A [`Point`] says at which calls and what is to happen there; a [`Strace`] lays it around a launch or attaches it to a
//! running subject, reads the log, and lets go. What is held is held until [`release`](Strace::release), not for a
//! time: the delay that strace is told is longer than any case, and the kernel lets a traced process go on when its
//! tracer is gone. From then on the subject runs untraced.
//!
//! The log holds names of files and never what is written or read.

mod log;

use std::cell::OnceCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use rustix::process::Signal;

pub use self::log::Call;
use self::log::{parse, stopped_threads};
use crate::platform;
use crate::process::{Env, Launch, Proc, Subject};
use crate::wait::{ms, until};

/// The calls that give a file another name.
pub const RENAME: &[&str] = &["rename", "renameat", "renameat2"];
/// The calls that give a file one more name.
pub const LINK: &[&str] = &["link", "linkat"];
/// The calls that take a name away.
pub const UNLINK: &[&str] = &["unlink", "unlinkat"];
/// The calls that open or create a file.
pub const OPEN: &[&str] = &["open", "openat", "openat2", "creat"];
/// The calls that read from a descriptor.
pub const READ: &[&str] = &["read", "pread64", "readv", "preadv", "preadv2"];
/// The calls that write to a descriptor.
pub const WRITE: &[&str] = &["write", "pwrite64", "writev", "pwritev", "pwritev2"];
/// The calls that create a directory.
pub const MKDIR: &[&str] = &["mkdir", "mkdirat"];
/// The calls that flush a file to disk.
pub const FLUSH: &[&str] = &["fsync", "fdatasync", "syncfs"];
/// The calls that change a mode or a length.
pub const CHANGE: &[&str] = &[
    "chmod",
    "fchmod",
    "fchmodat",
    "truncate",
    "ftruncate",
    "fallocate",
];

/// Longer than any case, and shorter than what strace takes.
const FOR_EVER: &str = "1000000000";

/// What happens to a process at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Nothing,
    HoldBefore,
    HoldAfter,
    Fail(&'static str),
    Kill,
}

/// System calls, and what is to happen at them. Without more it only notes them.
#[derive(Debug, Clone)]
pub struct Point {
    calls: Vec<String>,
    path: Option<PathBuf>,
    nth: Option<usize>,
    act: Act,
}

impl Point {
    /// At any of these calls; such as this kernel does not have are left out.
    pub fn at<'a>(calls: impl IntoIterator<Item = &'a [&'a str]>) -> Self {
        Self {
            calls: calls.into_iter().flatten().map(|call| (*call).to_owned()).collect(),
            path: None,
            nth: None,
            act: Act::Nothing,
        }
    }

    /// Only where the first path, or a descriptor, is this file. (strace does not look at the second path of a rename.)
    #[must_use]
    pub fn of(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Only at the call of this number, from 1, among those of one name and one thread; not together with
    /// [`of`](Self::of).
    #[must_use]
    pub fn nth(mut self, number: usize) -> Self {
        self.nth = Some(number);
        self
    }

    /// The thread is held before the call has any effect.
    #[must_use]
    pub fn held_before(self) -> Self {
        self.act(Act::HoldBefore)
    }

    /// The thread is held after the call had its effect.
    #[must_use]
    pub fn held_after(self) -> Self {
        self.act(Act::HoldAfter)
    }

    /// The call has no effect and fails with this error, `EIO` for example.
    #[must_use]
    pub fn failing(self, error: &'static str) -> Self {
        self.act(Act::Fail(error))
    }

    /// The process is ended (`SIGKILL`) at the call; whether that still has its effect is the kernel's choice.
    #[must_use]
    pub fn killed(self) -> Self {
        self.act(Act::Kill)
    }

    fn act(mut self, act: Act) -> Self {
        self.act = act;
        self
    }

    fn options(&self, log: &Path) -> Vec<String> {
        let calls: Vec<String> = self.calls.iter().map(|call| format!("?{call}")).collect();
        let calls = calls.join(",");
        // -y names the files behind descriptors; -s 0 keeps contents out of the log.
        let mut options: Vec<String> = ["-f", "-ttt", "-y", "-s", "0", "-o"].map(str::to_owned).to_vec();
        options.push(log.to_string_lossy().into_owned());
        options.extend(["-e".to_owned(), format!("trace={calls}")]);
        if let Some(path) = &self.path {
            // The bare name too, for those who name it relative to a directory's descriptor.
            let name = path.file_name().map(Path::new);
            for path in [Some(path.as_path()), name].into_iter().flatten() {
                options.extend(["-P".to_owned(), path.to_string_lossy().into_owned()]);
            }
        }
        let what = match self.act {
            Act::Nothing => return options,
            Act::HoldBefore => format!("delay_enter={FOR_EVER}"),
            Act::HoldAfter => format!("delay_exit={FOR_EVER}"),
            Act::Fail(error) => format!("error={error}"),
            Act::Kill => "signal=KILL".to_owned(),
        };
        let when = self.nth.map_or_else(String::new, |nth| format!(":when={nth}"));
        options.extend(["-e".to_owned(), format!("inject={calls}:{what}{when}")]);
        options
    }
}

/// A point that is laid around a launch or attached to a subject. Dropping it lets go what is held.
#[derive(Debug)]
pub struct Strace {
    point: Point,
    log: PathBuf,
    /// What was attached; dropping it ends it.
    tracer: Option<Subject>,
    /// Whoever holds a thread that was seen held. A subject that is ended while it is held is gone only when its tracer
    /// is.
    holder: OnceCell<Proc>,
}

impl Drop for Strace {
    fn drop(&mut self) {
        if let Some(holder) = self.holder.get() {
            holder.signal(Signal::KILL);
        }
    }
}

impl Strace {
    /// Prepares a trace whose log is in `directory`, which is created for it.
    pub fn new(point: Point, directory: &Path) -> io::Result<Self> {
        std::fs::create_dir(directory)?;
        Ok(Self {
            point,
            log: directory.join("calls"),
            tracer: None,
            holder: OnceCell::new(),
        })
    }

    /// What goes before the command of a launch. The process that is launched becomes the command itself; strace runs
    /// beside it, in its process group.
    pub fn prefix(&self) -> Vec<String> {
        let mut argv = vec!["strace".to_owned(), "-D".to_owned(), "-qqq".to_owned()];
        argv.extend(self.point.options(&self.log));
        argv
    }

    /// Attaches to every process of a running subject and returns once all their threads are traced.
    pub fn attach(&mut self, subject: &Subject, deadline: Instant) -> io::Result<()> {
        let tree = subject.tree();
        let mut argv = vec!["strace".to_owned()];
        argv.extend(self.point.options(&self.log));
        for process in &tree {
            argv.extend(["-p".to_owned(), process.pid.to_string()]);
        }
        let tracer = Launch::new(argv).env(path_alone()).start().map_err(io::Error::other)?;
        let attached = until(deadline, || {
            let traced = tree.iter().all(|process| tracers(process.pid).iter().all(|by| *by == tracer.pid()));
            (traced || !tracer.is_running()).then_some(traced)
        });
        if attached == Some(true) {
            self.tracer = Some(tracer);
            return Ok(());
        }
        let said = tracer.output().stderr();
        Err(io::Error::other(format!("strace cannot attach: {}", String::from_utf8_lossy(&said).trim_end())))
    }

    /// Every call that was noted so far.
    pub fn calls(&self) -> Vec<Call> {
        parse(&std::fs::read(&self.log).unwrap_or_default())
    }

    /// Waits until a thread is held, and returns the call at which it is; `None` at the deadline, and where the subject
    /// ended before.
    pub fn wait_held(&self, subject: &Subject, deadline: Instant) -> Option<Call> {
        let held = || self.held().map(Some).or_else(|| (!subject.is_running()).then_some(None));
        let call = until(deadline, held).flatten()?;
        if let Some(holder) = tracer_of(Path::new(&format!("/proc/{}", call.thread))).and_then(Proc::of) {
            let _ = self.holder.set(holder);
        }
        Some(call)
    }

    fn held(&self) -> Option<Call> {
        let calls = self.calls();
        let is_held = |place: usize, call: &Call| {
            let number = calls[..=place]
                .iter()
                .filter(|other| (other.thread, &other.name) == (call.thread, &call.name))
                .count();
            self.point.nth.is_none_or(|nth| nth == number)
                && match self.point.act {
                    Act::HoldBefore => call.result.is_none(),
                    Act::HoldAfter => call.was_delayed(),
                    _ => false,
                }
        };
        calls
            .iter()
            .enumerate()
            .find(|(place, call)| is_held(*place, call))
            .map(|(_, call)| call.clone())
    }

    /// Lets a subject go on: its tracers are ended, and none of its threads is traced any more when this returns.
    pub fn release(&self, subject: &Subject) -> io::Result<()> {
        let released = until(ms(2_000), || {
            let mut traced = false;
            for by in subject.tree().iter().flat_map(|process| tracers(process.pid)).filter(|by| *by != 0) {
                traced = true;
                if let Some(tracer) = Proc::of(by).filter(|tracer| tracer.comm == "strace") {
                    tracer.signal(Signal::KILL);
                }
            }
            (!traced).then_some(())
        });
        released.ok_or_else(|| timed_out("the subject is still traced"))
    }

    /// Lets a held subject make the call at which it is held, and stops it (`SIGSTOP`) right after that. On return it is
    /// stopped and not traced any more.
    pub fn release_stopped(&self, subject: &Subject) -> io::Result<()> {
        subject.stop()?;
        // A thread that is not held takes the signal, which is lost if the tracer ends before it has passed it on.
        let held = self.held().map(|call| call.thread);
        let passed_on = || {
            let stopped = stopped_threads(&std::fs::read(&self.log).unwrap_or_default());
            let is_settled = |process: &Proc| {
                let free: Vec<u32> = threads(process.pid).filter(|thread| Some(*thread) != held).collect();
                free.is_empty() || free.iter().any(|thread| stopped.contains(thread))
            };
            subject.tree().iter().all(is_settled).then_some(())
        };
        until(ms(2_000), passed_on).ok_or_else(|| timed_out("the tracer did not pass the stop on"))?;
        self.release(subject)?;
        let stopped = || {
            subject
                .tree()
                .iter()
                .all(|process| matches!(process.state, 'T' | 'Z' | 'X'))
                .then_some(())
        };
        until(ms(2_000), stopped).ok_or_else(|| timed_out("the subject went on"))
    }
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// The tracer of each thread of a process; 0 for a thread without one.
fn tracers(pid: u32) -> Vec<u32> {
    threads(pid)
        .filter_map(|thread| tracer_of(Path::new(&format!("/proc/{pid}/task/{thread}"))))
        .collect()
}

/// The ids of the threads of a process.
fn threads(pid: u32) -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The tracer of one thread, given by its directory below `/proc`.
fn tracer_of(thread: &Path) -> Option<u32> {
    let status = std::fs::read_to_string(thread.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok())
}

fn path_alone() -> Env {
    std::env::var_os("PATH").map(|path| ("PATH".into(), path)).into_iter().collect()
}

/// Whether processes can be traced here, or why not: no `strace`, or a system that does not allow it. Tried once.
pub fn usable() -> Result<(), String> {
    static USABLE: OnceLock<Result<(), String>> = OnceLock::new();
    USABLE.get_or_init(try_out).clone()
}

fn try_out() -> Result<(), String> {
    platform::which("strace").ok_or("strace is not installed")?;
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut strace = Strace::new(Point::at([READ]).held_before(), &directory.path().join("strace"))
        .map_err(|error| error.to_string())?;
    let subject = Launch::new(["sleep", "60"])
        .env(path_alone())
        .start()
        .map_err(|fault| fault.to_string())?;
    strace.attach(&subject, ms(5_000)).map_err(|error| error.to_string())
}
