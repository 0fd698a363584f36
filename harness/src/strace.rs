//! Holds, fails or ends a process at an exact system call, by way of `strace`.
//!
//! A [`Point`] says at which calls and what is to happen there; a [`Strace`] lays it around a launch or attaches it to a
//! running subject, reads the log, and lets go. What is held is held until [`release`](Strace::release), not for a
//! time: the delay that strace is told is longer than any case, and the kernel lets a traced process go on when its
//! tracer is gone. From then on the subject runs untraced.
//!
//! The log holds names of files and never what is written or read.

use std::cell::OnceCell;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;

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
        let mut options: Vec<String> =
            ["-f", "-ttt", "-y", "-s", "0", "-e", "signal=none", "-o"].map(str::to_owned).to_vec();
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

/// A system call, as the log tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The thread that made it.
    pub thread: u32,
    /// When it was made, since the epoch.
    pub at: Duration,
    /// Its name.
    pub name: String,
    /// The files that it names, by path or by descriptor, in their order.
    pub files: Vec<PathBuf>,
    /// Whether it may create a file.
    pub creates: bool,
    /// Whether it opens a file each write to which is flushed at once.
    pub syncs: bool,
    /// What it returned, in strace's words; `None` while it has not, or where its thread was ended in it.
    pub result: Option<String>,
}

impl Call {
    /// Whether it names something in `directory`.
    pub fn touches(&self, directory: &Path) -> bool {
        self.files.iter().any(|file| file.starts_with(directory))
    }

    /// Whether it has returned, and not with an error.
    pub fn succeeded(&self) -> bool {
        self.result.as_ref().is_some_and(|result| !result.starts_with('-'))
    }

    /// Whether strace made it fail.
    pub fn was_failed(&self) -> bool {
        self.result.as_ref().is_some_and(|result| result.contains("(INJECTED)"))
    }

    fn was_delayed(&self) -> bool {
        self.result.as_ref().is_some_and(|result| result.contains("(DELAYED)"))
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.files.iter().filter_map(|file| file.file_name()).collect();
        let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
        write!(f, "{}({})", self.name, names.join(", "))
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
        released.ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "the subject is still traced"))
    }
}

/// The tracer of each thread of a process; 0 for a thread without one.
fn tracers(pid: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads.flatten().filter_map(|thread| tracer_of(&thread.path())).collect()
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

/// Reads a log. A line that is not of a call, such as of an exit, is left out.
fn parse(log: &[u8]) -> Vec<Call> {
    let mut calls: Vec<(Call, Vec<u8>)> = Vec::new();
    for line in log.split(|byte| *byte == b'\n') {
        let mut words = line.splitn(3, |byte| *byte == b' ');
        // The pid is padded to five places.
        let (Some(thread), Some(rest)) = (words.next().and_then(number), strip(line)) else {
            continue;
        };
        let Some((at, text)) = timed(rest) else { continue };
        if let Some(more) = text.strip_prefix(b"<... ") {
            let open =
                calls.iter_mut().rev().find(|(call, _)| call.thread == thread && call.result.is_none());
            let more = find(more, b" resumed>").map(|end| &more[end + 9..]);
            if let (Some((call, arguments)), Some(more)) = (open, more) {
                arguments.extend_from_slice(more);
                finish(call, arguments);
            }
        } else if let Some(open) = text.iter().position(|byte| *byte == b'(')
            && text[..open].iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        {
            let arguments = &text[open + 1..];
            let arguments = arguments.strip_suffix(b"<unfinished ...>").unwrap_or(arguments);
            let mut call = Call {
                thread,
                at,
                name: String::from_utf8_lossy(&text[..open]).into_owned(),
                files: Vec::new(),
                creates: false,
                syncs: false,
                result: None,
            };
            finish(&mut call, arguments);
            calls.push((call, arguments.to_vec()));
        }
    }
    calls.into_iter().map(|(call, _)| call).collect()
}

/// Reads what stands after the opening parenthesis, as far as it is there.
fn finish(call: &mut Call, text: &[u8]) {
    let end = text.windows(3).rposition(|window| window == b" = ");
    let (arguments, result) = end.map_or((text, None), |end| (&text[..end], Some(&text[end + 3..])));
    call.files = files(arguments);
    call.creates = call.name == "creat" || find(arguments, b"O_CREAT").is_some();
    call.syncs = find(arguments, b"O_SYNC").or_else(|| find(arguments, b"O_DSYNC")).is_some();
    call.result = result
        .map(|result| String::from_utf8_lossy(result).trim_end().to_owned())
        .filter(|result| result != "?");
}

/// The quoted paths and the `<paths>` behind descriptors, in their order. A descriptor that a path follows is where that
/// path begins if it is relative, and not a file of its own.
fn files(arguments: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut base = None;
    let mut rest = arguments;
    while let Some(open) = rest.iter().position(|byte| matches!(byte, b'"' | b'<')) {
        let quoted = rest[open] == b'"';
        let (text, length) = unescape(&rest[open + 1..], if quoted { b'"' } else { b'>' });
        let after = &rest[(open + 1 + length).min(rest.len())..];
        let path = PathBuf::from(std::ffi::OsString::from_vec(text));
        if !quoted && after.starts_with(b", \"") {
            base = Some(path);
        } else if quoted && after.starts_with(b"...") {
            // A string that is cut is content, not a path.
            found.extend(base.take());
        } else if !path.as_os_str().is_empty() {
            found.push(base.take().map_or_else(|| path.clone(), |base: PathBuf| base.join(&path)));
        }
        rest = after;
    }
    found
}

/// The text up to `close`, without its escapes, and how many bytes that took with `close`.
fn unescape(text: &[u8], close: u8) -> (Vec<u8>, usize) {
    let mut plain = Vec::new();
    let mut at = 0;
    while at < text.len() && text[at] != close {
        if text[at] != b'\\' {
            plain.push(text[at]);
            at += 1;
            continue;
        }
        let digits = text[at + 1..].iter().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
        let octal = std::str::from_utf8(&text[at + 1..at + 1 + digits])
            .ok()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (octal, text.get(at + 1)) {
            (Some(byte), _) => plain.push(byte),
            (None, Some(letter)) => plain.push(match letter {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'v' => 0x0b,
                b'f' => 0x0c,
                other => *other,
            }),
            (None, None) => {}
        }
        at += 1 + digits.max(1);
    }
    (plain, at + 1)
}

/// What follows the number at the beginning of a line and the blanks after it.
fn strip(line: &[u8]) -> Option<&[u8]> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (digits > 0).then(|| line[digits..].trim_ascii_start())
}

fn number(word: &[u8]) -> Option<u32> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Seconds and microseconds since the epoch, and what follows.
fn timed(text: &[u8]) -> Option<(Duration, &[u8])> {
    let blank = text.iter().position(|byte| *byte == b' ')?;
    let (seconds, micros) = std::str::from_utf8(&text[..blank]).ok()?.split_once('.')?;
    let at = Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(micros.parse().ok()?);
    Some((at, &text[blank + 1..]))
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(call: &Call) -> Vec<&str> {
        call.files.iter().filter_map(|file| file.to_str()).collect()
    }

    #[test]
    fn a_log_is_read_call_by_call() {
        let log = br#"7     1795220415.607552 openat(AT_FDCWD</tmp/a b>, "/s/credential", O_WRONLY|O_CREAT, 0600) = 5</s/credential>
7     1795220415.607553 write(5</s/x\74y>, ""..., 44) = 44
8     1795220415.607554 fsync(6</s/r> <unfinished ...>
7     1795220415.607555 rename("/s/a\"b", "/s/\303\274") = -1 EIO (Input/output error) (INJECTED)
8     1795220415.607556 <... fsync resumed>) = 0 (DELAYED)
8     1795220415.607557 +++ killed by SIGKILL +++
9     1795220415.607558 unlink("/s/gone") = ?
9     1795220415.607558 renameat(3</d>, "a", AT_FDCWD</e>, "b") = 0
9     1795220415.607558 fchmodat(3</d>, "/s/abs", 0600) = 0
7     1795220415.607559 rename("/s/a", "/s/b""#;
        let calls = parse(log);
        let shown: Vec<(u32, &str, Vec<&str>)> =
            calls.iter().map(|call| (call.thread, call.name.as_str(), names(call))).collect();
        assert_eq!(
            shown,
            [
                (7, "openat", vec!["/s/credential"]),
                (7, "write", vec!["/s/x<y"]),
                (8, "fsync", vec!["/s/r"]),
                (7, "rename", vec!["/s/a\"b", "/s/ü"]),
                (9, "unlink", vec!["/s/gone"]),
                (9, "renameat", vec!["/d/a", "/e/b"]),
                (9, "fchmodat", vec!["/s/abs"]),
                (7, "rename", vec!["/s/a", "/s/b"]),
            ]
        );
        assert!(calls[0].creates && !calls[1].creates);
        assert_eq!(calls[0].at, Duration::from_micros(1_795_220_415_607_552));
        assert!(calls[3].was_failed() && !calls[3].was_delayed());
        assert!(calls[2].was_delayed() && calls[2].touches(Path::new("/s")));
        let results: Vec<_> = calls.iter().map(|call| call.result.as_deref()).collect();
        assert_eq!(results[1], Some("44"));
        assert_eq!((results[4], results[7]), (None, None));
        assert!(calls[5].succeeded() && !calls[3].succeeded() && !calls[4].succeeded());
    }

    #[test]
    fn a_log_of_anything_is_no_panic() {
        for log in [
            &b"\xff\xfe\n7 x\n7 1.2\n7 1.2 (\n7 1.2 f(\"\\"[..],
            b"7 1.2 f(\\",
            b"7 1.2 <... f",
            b"\n\n",
        ] {
            parse(log);
        }
        assert_eq!(parse(b"7 1.2 f(\"a\\").len(), 1);
    }
}
