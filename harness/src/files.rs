//! Files, watched from outside: event by event, by readers that spin, and as snapshots.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use inotify::{EventMask, Inotify, WatchMask};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::proof::sha256_hex;
use crate::transcript::Transcript;
use crate::wait::{Shared, lock, ms};

/// What kind of thing a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, not followed.
    Link,
    /// A Unix socket.
    Socket,
    /// Anything else.
    Other,
}

/// What `lstat` says of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What it is.
    pub kind: EntryKind,
    /// The twelve mode bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The inode.
    pub ino: u64,
    /// How many names it has.
    pub nlink: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Facts {
    /// The facts of `path` at this moment.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|metadata| Self::from(&metadata))
    }

    /// Whether the mode lets group or others do anything. A symbolic link's own mode means nothing.
    pub fn is_loose(&self) -> bool {
        self.kind != EntryKind::Link && self.mode & 0o077 != 0
    }
}

impl From<&Metadata> for Facts {
    fn from(metadata: &Metadata) -> Self {
        let kind = match metadata.file_type() {
            kind if kind.is_file() => EntryKind::File,
            kind if kind.is_dir() => EntryKind::Directory,
            kind if kind.is_symlink() => EntryKind::Link,
            kind if kind.is_socket() => EntryKind::Socket,
            _ => EntryKind::Other,
        };
        Self {
            kind,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            ino: metadata.ino(),
            nlink: metadata.nlink(),
            len: metadata.len(),
        }
    }
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} mode {:04o} uid {} ino {} {} bytes",
            self.kind, self.mode, self.uid, self.ino, self.len
        )
    }
}

/// What happened to a name in a watched directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileEventKind {
    /// Created, also by `link`, `mkdir` and `symlink`.
    Created,
    /// Opened; only where the watch asks for it.
    Opened,
    /// Written or truncated.
    Modified,
    /// Closed by somebody who could have written.
    ClosedWrite,
    /// Renamed away; `cookie` leads to the other half.
    MovedFrom,
    /// Renamed to this name; `cookie` leads to the other half.
    MovedTo,
    /// Unlinked.
    Deleted,
    /// Mode, owner, times or link count changed.
    Attrib,
    /// The watched directory itself was removed.
    SelfDeleted,
    /// The kernel dropped events: whoever needs all of them has not seen all of them.
    Overflow,
}

/// One event in a watched directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEvent {
    /// When the suite read it.
    pub at: Instant,
    /// What happened.
    pub kind: FileEventKind,
    /// The entry; empty for the directory itself.
    pub name: OsString,
    /// Joins the two halves of a rename; 0 elsewhere.
    pub cookie: u32,
    /// `lstat` right after the event; `None` when the name was gone by then.
    pub facts: Option<Facts>,
}

/// A directory under observation since [`Watch::on`] returned.
///
/// Facts are taken by `lstat` as soon as the event is read, microseconds after it happened: a mode that is loose for a
/// shorter time than that is not seen here, but the [`Attrib`](FileEventKind::Attrib) event of its repair is.
#[derive(Debug)]
pub struct Watch {
    events: Shared<Vec<FileEvent>>,
    looks: Shared<Looks>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// How often the observing thread was asked to look, and which of that it has done.
#[derive(Debug, Default)]
struct Looks {
    asked: u64,
    answered: u64,
    over: bool,
}

/// What tells of every change in a directory, and of its own end.
pub(crate) fn changes() -> WatchMask {
    WatchMask::CREATE
        | WatchMask::MODIFY
        | WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_FROM
        | WatchMask::MOVED_TO
        | WatchMask::DELETE
        | WatchMask::ATTRIB
        | WatchMask::DELETE_SELF
        | WatchMask::ONLYDIR
}

impl Watch {
    /// Watches `directory`, without [`Opened`](FileEventKind::Opened) events.
    pub fn on(directory: &Path) -> io::Result<Self> {
        Self::start(directory, WatchMask::empty(), |_| {})
    }

    /// Watches `directory`, also for who opens what.
    pub fn with_opens(directory: &Path) -> io::Result<Self> {
        Self::start(directory, WatchMask::OPEN, |_| {})
    }

    /// Watches `directory` and notes every event in `transcript`.
    pub fn noted(directory: &Path, transcript: &Transcript) -> io::Result<Self> {
        let transcript = transcript.clone();
        Self::each(directory, move |event| {
            let facts = event
                .facts
                .as_ref()
                .map_or_else(|| "gone".to_owned(), ToString::to_string);
            let detail = format!("{:?} {} ({facts})", event.kind, event.name.display());
            transcript.note_at(event.at, "files", "event", detail);
        })
    }

    /// Watches `directory` and calls `react` at each event, on the observing thread and before any wait sees the event:
    /// how a case strikes in the middle of something, see [`Subject::killer`](crate::process::Subject::killer).
    pub fn each(directory: &Path, react: impl FnMut(&FileEvent) + Send + 'static) -> io::Result<Self> {
        Self::start(directory, WatchMask::empty(), react)
    }

    /// [`each`](Self::each), also for who opens what.
    pub fn each_with_opens(
        directory: &Path,
        react: impl FnMut(&FileEvent) + Send + 'static,
    ) -> io::Result<Self> {
        Self::start(directory, WatchMask::OPEN, react)
    }

    fn start(
        directory: &Path,
        more: WatchMask,
        react: impl FnMut(&FileEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        inotify.watches().add(directory, changes() | more)?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (events, looks) = (Shared::new(Vec::new()), Shared::new(Looks::default()));
        let thread = {
            let (events, looks) = (events.clone(), looks.clone());
            let (wake, directory) = (Arc::clone(&wake), directory.to_owned());
            std::thread::spawn(move || observe(inotify, &wake, &directory, &events, &looks, react))
        };
        Ok(Self {
            events,
            looks,
            wake,
            thread: Some(thread),
        })
    }

    /// Everything that happened before this call; on a host that is too busy to look for a second, what was seen so far.
    pub fn events(&self) -> Vec<FileEvent> {
        let asked = self.ask(|looks| looks.asked += 1);
        let done = |looks: &Looks| (looks.answered >= asked).then_some(());
        self.looks.wait(ms(1_000), done);
        self.events.read(Vec::clone)
    }

    fn ask(&self, change: impl FnOnce(&mut Looks)) -> u64 {
        let asked = self.looks.update(|looks| {
            change(looks);
            looks.asked
        });
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        asked
    }

    /// Waits until the events seen so far satisfy `seen`; `None` at the deadline.
    pub fn wait_for(
        &self,
        deadline: Instant,
        mut seen: impl FnMut(&[FileEvent]) -> bool,
    ) -> Option<Vec<FileEvent>> {
        self.events
            .wait(deadline, |events| seen(events).then(|| events.clone()))
    }

    /// Waits until something of this kind happened to this name; `None` at the deadline.
    pub fn wait_event(&self, deadline: Instant, kind: FileEventKind, name: &str) -> Option<FileEvent> {
        self.events.wait(deadline, |events| {
            events
                .iter()
                .find(|event| event.kind == kind && event.name == name)
                .cloned()
        })
    }

    /// Every event at which an entry's mode let group or others do something.
    pub fn loose(&self) -> Vec<FileEvent> {
        let events = self.events().into_iter();
        events
            .filter(|event| event.facts.as_ref().is_some_and(Facts::is_loose))
            .collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ask(|looks| looks.over = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn observe(
    mut inotify: Inotify,
    wake: &OwnedFd,
    directory: &Path,
    events: &Shared<Vec<FileEvent>>,
    looks: &Shared<Looks>,
    mut react: impl FnMut(&FileEvent),
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // What is asked after this is answered by a later look.
        let asked = looks.read(|looks| looks.asked);
        if looks.read(|looks| looks.over) {
            return;
        }
        let Ok(batch) = inotify.read_events(&mut buffer) else {
            looks.update(|looks| looks.answered = asked);
            let mut sources = [
                PollFd::new(&inotify, PollFlags::IN),
                PollFd::new(wake, PollFlags::IN),
            ];
            match poll(&mut sources, None) {
                Ok(_) if !sources[1].revents().is_empty() => {
                    let _ = rustix::io::read(wake, &mut [0; 8]);
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            continue;
        };
        for event in batch {
            let Some(kind) = kind_of(event.mask) else { continue };
            let name = event.name.unwrap_or(OsStr::new("")).to_owned();
            let facts = Facts::of(&directory.join(&name)).ok();
            let event = FileEvent {
                at: Instant::now(),
                kind,
                name,
                cookie: event.cookie,
                facts,
            };
            react(&event);
            events.update(|events| events.push(event));
        }
    }
}

fn kind_of(mask: EventMask) -> Option<FileEventKind> {
    let kinds = [
        (EventMask::CREATE, FileEventKind::Created),
        (EventMask::OPEN, FileEventKind::Opened),
        (EventMask::MODIFY, FileEventKind::Modified),
        (EventMask::CLOSE_WRITE, FileEventKind::ClosedWrite),
        (EventMask::MOVED_FROM, FileEventKind::MovedFrom),
        (EventMask::MOVED_TO, FileEventKind::MovedTo),
        (EventMask::DELETE, FileEventKind::Deleted),
        (EventMask::ATTRIB, FileEventKind::Attrib),
        (EventMask::DELETE_SELF, FileEventKind::SelfDeleted),
        (EventMask::Q_OVERFLOW, FileEventKind::Overflow),
    ];
    kinds
        .into_iter()
        .find(|(bit, _)| mask.contains(*bit))
        .map(|(_, kind)| kind)
}

/// What one read of a file was, in a caller's eyes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// Whole and valid; with what tells it from others, an id.
    Whole(String),
    /// Partial or invalid; with the reason.
    Broken(String),
}

/// A read that must not have happened.
#[derive(Clone)]
pub struct BrokenRead {
    /// When.
    pub at: Instant,
    /// What was read.
    pub bytes: Vec<u8>,
    /// What is wrong with it.
    pub why: String,
}

impl std::fmt::Debug for BrokenRead {
    // Without the bytes: they may be half of a credential, which nothing would recognise as one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes: {}", self.bytes.len(), self.why)
    }
}

/// What hostile readers saw.
#[derive(Debug, Clone, Default)]
pub struct ReadReport {
    /// Reads in all, also of what was not there.
    pub reads: u64,
    /// The name was not there.
    pub absent: u64,
    /// Whole reads by their id.
    pub whole: BTreeMap<String, u64>,
    /// How many reads were broken.
    pub broken: u64,
    /// The first of them.
    pub broken_reads: Vec<BrokenRead>,
    /// Opened files whose mode let group or others do something.
    pub loose: u64,
    /// Errors other than "not there", with their counts.
    pub errors: BTreeMap<String, u64>,
    /// What the first reader saw whenever it saw something new: an id, or `None` for absent.
    pub changes: Vec<(Instant, Option<String>)>,
}

/// At most this many broken reads are kept with their bytes.
pub const MOST_BROKEN: usize = 64;
/// At most this many changes are kept.
pub const MOST_CHANGES: usize = 4096;

/// Threads that open and read one file as fast as they can, each read through a new descriptor.
pub struct HostileReader {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
    report: Arc<Mutex<ReadReport>>,
}

impl HostileReader {
    /// Starts `threads` readers of `path`; every read goes through `classify`.
    pub fn start(
        path: &Path,
        threads: usize,
        classify: impl Fn(&[u8]) -> Sight + Send + Sync + 'static,
    ) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let report = Arc::new(Mutex::new(ReadReport::default()));
        let classify = Arc::new(classify);
        let threads = (0..threads)
            .map(|number| {
                let (stop, reads, report) = (Arc::clone(&stop), Arc::clone(&reads), Arc::clone(&report));
                let (path, classify) = (path.to_owned(), Arc::clone(&classify));
                std::thread::spawn(move || spin(&path, &*classify, number == 0, &stop, &reads, &report))
            })
            .collect();
        Self {
            stop,
            reads,
            threads,
            report,
        }
    }

    /// How many reads there were so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// What was seen so far.
    pub fn report(&self) -> ReadReport {
        ReadReport {
            reads: self.reads(),
            ..lock(&self.report).clone()
        }
    }

    /// Ends the readers and returns what they saw.
    pub fn stop(mut self) -> ReadReport {
        self.end();
        self.report()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for HostileReader {
    fn drop(&mut self) {
        self.end();
    }
}

fn spin(
    path: &Path,
    classify: &dyn Fn(&[u8]) -> Sight,
    chronicles: bool,
    stop: &AtomicBool,
    reads: &AtomicU64,
    report: &Mutex<ReadReport>,
) {
    let mut last = None;
    while !stop.load(Ordering::Relaxed) {
        let read = File::open(path).and_then(|mut file| {
            let loose = Facts::from(&file.metadata()?).is_loose();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok((bytes, loose))
        });
        let at = Instant::now();
        // Outside of the lock, so that a slow classifier of one reader does not slow the others.
        let read = read.map(|(bytes, loose)| (classify(&bytes), bytes, loose));
        let mut report = lock(report);
        let seen = match read {
            Ok((sight, bytes, loose)) => {
                report.loose += u64::from(loose);
                match sight {
                    Sight::Whole(id) => {
                        *report.whole.entry(id.clone()).or_default() += 1;
                        Some(Some(id))
                    }
                    Sight::Broken(why) => {
                        report.broken += 1;
                        if report.broken_reads.len() < MOST_BROKEN {
                            report.broken_reads.push(BrokenRead { at, bytes, why });
                        }
                        None
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                report.absent += 1;
                Some(None)
            }
            Err(error) => {
                *report.errors.entry(error.to_string()).or_default() += 1;
                None
            }
        };
        if chronicles && seen.is_some() && seen != last && report.changes.len() < MOST_CHANGES {
            last.clone_from(&seen);
            report.changes.push((at, seen.flatten()));
        }
        drop(report);
        reads.fetch_add(1, Ordering::Relaxed);
        std::thread::yield_now();
    }
}

/// One entry of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What `lstat` said.
    pub facts: Facts,
    /// SHA-256 of a regular file's bytes; `None` for other kinds and for what cannot be read.
    pub sha256: Option<String>,
}

/// A directory and all below it, at one moment, by relative path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot(pub BTreeMap<PathBuf, Entry>);

/// How two snapshots differ in one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Only in the later one.
    Added(PathBuf, Entry),
    /// Only in the earlier one.
    Removed(PathBuf, Entry),
    /// In both and not the same: before, after.
    Changed(PathBuf, Entry, Entry),
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Added(name, entry) => write!(f, "added {}: {}", name.display(), entry.facts),
            Self::Removed(name, entry) => write!(f, "removed {}: {}", name.display(), entry.facts),
            Self::Changed(name, before, after) => {
                let content = if before.sha256 == after.sha256 {
                    "same bytes"
                } else {
                    "other bytes"
                };
                write!(
                    f,
                    "changed {}: {} → {}, {content}",
                    name.display(),
                    before.facts,
                    after.facts
                )
            }
        }
    }
}

impl Snapshot {
    /// Takes a snapshot; what disappears meanwhile is left out. The directory itself is the entry of the empty path.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        let mut open = vec![PathBuf::new()];
        while let Some(name) = open.pop() {
            let path = directory.join(&name);
            let facts = match Facts::of(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && !entries.is_empty() => continue,
                facts => facts?,
            };
            if facts.kind == EntryKind::Directory {
                match fs::read_dir(&path) {
                    Ok(below) => open.extend(below.flatten().map(|entry| name.join(entry.file_name()))),
                    Err(_) if !entries.is_empty() => {}
                    Err(error) => return Err(error),
                }
            }
            let sha256 = (facts.kind == EntryKind::File)
                .then(|| fs::read(&path).ok().map(|b| sha256_hex(&b)))
                .flatten();
            entries.insert(name, Entry { facts, sha256 });
        }
        Ok(Self(entries))
    }

    /// The entry of this name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.0.get(Path::new(name))
    }

    /// What is different in `later`. Link counts and lengths of directories are left out: they follow from the entries.
    pub fn diff(&self, later: &Self) -> Vec<Difference> {
        let same = |a: &Entry, b: &Entry| {
            let plain = |entry: &Entry| {
                let mut entry = entry.clone();
                if entry.facts.kind == EntryKind::Directory {
                    (entry.facts.nlink, entry.facts.len) = (0, 0);
                }
                entry
            };
            plain(a) == plain(b)
        };
        let mut differences = Vec::new();
        for (name, before) in &self.0 {
            match later.0.get(name) {
                None => differences.push(Difference::Removed(name.clone(), before.clone())),
                Some(after) if !same(before, after) => {
                    differences.push(Difference::Changed(name.clone(), before.clone(), after.clone()));
                }
                Some(_) => {}
            }
        }
        let added = later.0.iter().filter(|(name, _)| !self.0.contains_key(*name));
        differences.extend(added.map(|(name, entry)| Difference::Added(name.clone(), entry.clone())));
        differences
    }
}
