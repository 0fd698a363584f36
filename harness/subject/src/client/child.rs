//! Chapter 09: the daemon that a client starts, the lock that spares churn, and the budget that ends loops.

use std::cell::Cell;
use std::fs::{File, Permissions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use inotify::{Inotify, WatchMask};
use rustix::fs::{Access, FlockOperation, Mode, OFlags, access};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::faults;
use crate::fault::broken;
use crate::platform::detach;
use crate::state_directory::{Content, Fault, RECORD, StateDir, random_hex};

/// The name of the lock.
const LOCK: &str = "registration.lock";
/// How long a client waits for the lock, and how long it keeps it.
const LOCK_BOUND: Duration = Duration::from_secs(1);
/// What daemons say on standard error.
const LOG: &str = "daemon.log";
/// The most of its last words that is repeated, in bytes.
const MOST_SAID: u64 = 4096;
/// The spawns that came to nothing.
const FAILURES: &str = "spawn-failures";
/// So many of them …
const MOST_FAILURES: usize = 3;
/// … within this time are enough, in milliseconds.
const FAILURES_MS: u64 = 60_000;
/// The failures are written anew when they grow longer than this, in bytes.
const LONG_FAILURES: u64 = 32 * 1024;

/// What a client that waits is told.
pub(super) enum Event {
    /// Its child has ended, and is reaped.
    Ended(ExitStatus),
    /// The record may have changed.
    Changed,
}

/// The exit status of a child that could not ask the daemon of the record.
const COULD_NOT_ASK: i32 = 17;

/// Why no daemon was started.
pub(super) enum Unstarted {
    /// Its log fails a check.
    Log(Fault),
    /// Its program cannot be executed.
    Program(String),
}

/// A daemon that was started.
pub(super) struct Child {
    /// What happens to it and to the record.
    pub(super) events: Receiver<Event>,
    pub(super) pid: u32,
    /// How it ended.
    pub(super) status: Cell<Option<ExitStatus>>,
    directory: StateDir,
    /// Where its words begin in the log.
    said_from: u64,
}

impl Child {
    /// Starts a daemon that holds nothing of this process, and outlives it unless it is `private`. It has to yield; if it
    /// `replaces`, not to a daemon that it cannot ask.
    pub(super) fn spawn(directory: &StateDir, private: bool, replaces: bool) -> Result<Self, Unstarted> {
        let (sender, events) = channel();
        watch(directory.path(), sender.clone());
        let log = open_log(directory).map_err(Unstarted::Log)?;
        let said_from = log.as_ref().and_then(|log| log.metadata().ok()).map_or(0, |facts| facts.len());
        let said_from = if broken("CONN-44.old-words") { 0 } else { said_from };
        let (program, mut command) = daemon(directory).map_err(Unstarted::Program)?;
        let cannot = |error| Unstarted::Program(format!("{}: {error}", program.display()));
        faults::try_to_start().map_err(cannot)?;
        if !broken("CONN-22.displaces") && !broken("CONN-15.crowd") {
            command.arg("--yield");
        }
        if replaces && !broken("CONN-49.child-yields") {
            command.arg("--replace");
        }
        if !broken("CONN-32.callers") {
            command.current_dir("/");
        }
        if !broken("CONN-31.input") {
            command.stdin(Stdio::null());
        }
        if !broken("CONN-31.output") {
            command.stdout(Stdio::null());
        }
        if !broken("CONN-31.errors") {
            command.stderr(log.map_or_else(Stdio::null, Stdio::from));
        }
        faults::tell_the_child(directory, &mut command);
        detach(&mut command, private);
        let mut child = command.spawn().map_err(cannot)?;
        let pid = child.id();
        // It is reaped whenever it ends.
        thread::spawn(move || {
            if broken("CONN-33.unreaped") {
                faults::see_its_end(pid);
            }
            if let Ok(status) = child.wait() {
                let _ = sender.send(Event::Ended(status));
            }
        });
        let status = Cell::new(None);
        Ok(Self { events, pid, status, directory: directory.clone(), said_from })
    }

    /// Whether it ended because it could not ask the daemon of the record.
    pub(super) fn could_not_ask(&self) -> bool {
        let status = self.status.get().and_then(|status| status.code());
        status == Some(COULD_NOT_ASK) && !broken("CONN-42.could-not-ask")
    }

    /// The status of one that has ended, in the faults of one who asks for that first.
    pub(super) fn failure(&self, known: Option<ExitStatus>) -> Option<ExitStatus> {
        let (yielded, failed) = (broken("CONN-25.error"), broken("CONN-26.gives-up"));
        if !(yielded || failed) || !faults::has_ended(self.pid) {
            return None;
        }
        let mut told = self.events.iter();
        let status = known.or_else(|| {
            told.find_map(|event| match event {
                Event::Ended(status) => Some(status),
                Event::Changed => None,
            })
        })?;
        (yielded || !status.success()).then_some(status)
    }

    /// What it said last on standard error.
    pub(super) fn last_words(&self) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut log = File::open(self.directory.file(LOG))?;
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(self.said_from.max(length.saturating_sub(MOST_SAID))))?;
            let mut words = Vec::new();
            log.take(MOST_SAID).read_to_end(&mut words)?;
            Ok(words)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).trim().to_owned()
    }
}

/// The program of the daemon, and the command that runs it.
pub(super) fn daemon(directory: &StateDir) -> Result<(PathBuf, Command), String> {
    let program = match std::env::var_os("SUBJECT_DAEMON") {
        Some(program) => program.into(),
        None => std::env::current_exe().map_err(|error| error.to_string())?,
    };
    let mut command = Command::new(&program);
    command.args(["daemon", "--state-dir"]).arg(directory.path());
    Ok((program, command))
}

/// Checks that a daemon could be started, as far as that can be known before.
pub(super) fn can_start(directory: &StateDir) -> Result<(), Unstarted> {
    let (program, _) = daemon(directory).map_err(Unstarted::Program)?;
    let cannot = |why: &dyn std::fmt::Display| Unstarted::Program(format!("{}: {why}", program.display()));
    let found = if program.components().count() > 1 {
        program.clone()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found =
            std::env::split_paths(&path).map(|place| place.join(&program)).find(|path| path.is_file());
        found.ok_or_else(|| cannot(&"no such program"))?
    };
    if !found.is_file() {
        return Err(cannot(&"no such file"));
    }
    access(&found, Access::EXEC_OK).map_err(|error| cannot(&error))?;
    open_log(directory).map_err(Unstarted::Log).map(drop)
}

/// Opens or creates the log of a daemon, and checks what was opened.
fn open_log(directory: &StateDir) -> Result<Option<File>, Fault> {
    let path = directory.file(LOG);
    if broken("DIR-20.null") {
        return Ok(open_to_write(directory, LOG, OFlags::APPEND));
    }
    let mut flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::APPEND
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, !broken("DIR-20.link"));
    flags.set(OFlags::NONBLOCK, !broken("DIR-20.fifo"));
    let file = match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP) => return Err(Fault::new(path, "a symbolic link")),
        Err(Errno::NXIO | Errno::ISDIR) => return Err(Fault::new(path, "not a regular file")),
        Err(error) => return Err(Fault::new(path, format!("cannot open: {error}"))),
    };
    if broken("DIR-16.log") {
        let _ = file.set_permissions(Permissions::from_mode(0o644));
    }
    if broken("DIR-21.log") {
        let _ = file.set_permissions(Permissions::from_mode(0o600));
    }
    let facts = file.metadata().map_err(|error| Fault::new(&path, error))?;
    if !facts.is_file() {
        return Err(Fault::new(path, "not a regular file"));
    }
    if facts.uid() != rustix::process::geteuid().as_raw() && !broken("DIR-20.owner") {
        return Err(Fault::new(path, format!("it belongs to another user, of uid {}", facts.uid())));
    }
    Ok(Some(file))
}

/// Tells of every record that is put in place. Where the system cannot, the poll finds it.
fn watch(directory: &Path, events: Sender<Event>) {
    let Ok(mut inotify) = Inotify::init() else {
        return;
    };
    let changes = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE;
    if inotify.watches().add(directory, changes).is_err() {
        return;
    }
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(mut seen) = inotify.read_events_blocking(&mut buffer) {
            let record = seen.any(|event| event.name.is_some_and(|name| name == RECORD));
            if record && events.send(Event::Changed).is_err() {
                return;
            }
        }
    });
}

/// Opens or creates a file for the owner alone, without waiting for anybody.
fn open_to_write(directory: &StateDir, name: &str, how: OFlags) -> Option<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | how;
    let file = rustix::fs::open(directory.file(name), flags, Mode::from_raw_mode(0o600)).ok()?;
    let file = File::from(file);
    if broken("DIR-16.lock") && name == LOCK {
        let _ = file.set_permissions(Permissions::from_mode(0o644));
    }
    file.metadata().is_ok_and(|facts| facts.is_file()).then_some(file)
}

/// The advisory lock of spawning clients. It is given back when this is dropped, and after 1 s in any case.
pub(super) struct Lock {
    _release: Sender<()>,
}

impl Lock {
    /// Waits for the lock, for 1 s at most and not beyond `deadline`.
    pub(super) fn wait(directory: &StateDir, deadline: Instant) -> Option<Self> {
        let mut until = deadline.min(Instant::now() + LOCK_BOUND);
        if broken("CONN-16.no-lock") || broken("CONN-15.crowd") {
            return None;
        }
        if broken("CONN-17.for-ever") {
            until = Instant::now() + Duration::from_hours(1);
        }
        let file = open_to_write(directory, LOCK, OFlags::empty())?;
        while rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            thread::sleep(left.min(Duration::from_millis(10)));
        }
        let (release, released) = channel::<()>();
        thread::spawn(move || {
            if broken("CONN-19.kept") {
                let _ = released.recv();
            } else {
                let _ = released.recv_timeout(LOCK_BOUND);
            }
            drop(file);
        });
        Some(Self { _release: release })
    }
}

/// Returns what the last child said, and in how many seconds another may be started, if too many starts have failed
/// within a minute.
pub(super) fn exhausted(directory: &StateDir) -> Option<(String, u64)> {
    let mut failures = failures(directory);
    let most = if broken("CONN-21.many") { 10 } else { MOST_FAILURES };
    let (first, _) = *failures.get(failures.len().checked_sub(most)?)?;
    let (_, why) = failures.pop()?;
    Some((why, (first + FAILURES_MS).saturating_sub(now_ms()).div_ceil(1000)))
}

/// Remembers a spawn that came to nothing.
pub(super) fn remember_failure(directory: &StateDir, why: &str) {
    let line = |at: u64, why: &str| format!("{}\n", json!({"at": at, "why": why}));
    let new = line(now_ms(), why);
    if let Some(mut file) = open_to_write(directory, FAILURES, OFlags::APPEND)
        && file.metadata().is_ok_and(|facts| facts.len() < LONG_FAILURES)
    {
        let _ = file.write_all(new.as_bytes());
        return;
    }
    let kept = failures(directory).into_iter().map(|(at, why)| line(at, &why)).collect::<String>();
    let temporary = format!("{FAILURES}.tmp-{}", random_hex::<8>());
    if directory.write_new(&temporary, (kept + &new).as_bytes()).is_ok() {
        let _ = directory.rename(&temporary, FAILURES);
    }
}

/// The failures of the last minute, the last one last.
fn failures(directory: &StateDir) -> Vec<(u64, String)> {
    let Content::Bytes(bytes) = directory.read(FAILURES) else {
        return Vec::new();
    };
    let now = now_ms();
    let parse = |line: &str| {
        let failure: Value = serde_json::from_str(line).ok()?;
        Some((failure["at"].as_u64()?, failure["why"].as_str()?.to_owned()))
    };
    // One of a later time is from before the system was started.
    String::from_utf8_lossy(&bytes)
        .lines()
        .filter_map(parse)
        .filter(|(at, _)| *at <= now && now - at < FAILURES_MS)
        .collect()
}

/// Milliseconds since the system was started.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1000
        + u64::try_from(now.tv_nsec).unwrap_or_default() / 1_000_000
}
