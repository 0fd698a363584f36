//! Files, watched from outside: event by event, by readers that spin, and as snapshots.

mod reader;
mod snapshot;

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use inotify::{EventMask, Inotify, WatchMask};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

pub use self::reader::{BrokenRead, HostileReader, ReadReport, Sight};
pub use self::snapshot::{Difference, Entry, Snapshot};
use crate::transcript::Transcript;
use crate::wait::{Shared, ms};

/// Gives a file or a directory exactly this mode.
pub fn set_mode(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Makes a directory of mode 0700.
pub fn make_private(path: impl AsRef<Path>) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

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
            let facts = event.facts.as_ref().map_or_else(|| "gone".to_owned(), ToString::to_string);
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
        Ok(Self { events, looks, wake, thread: Some(thread) })
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
        self.events.wait(deadline, |events| seen(events).then(|| events.clone()))
    }

    /// Waits until something of this kind happened to this name; `None` at the deadline.
    pub fn wait_event(&self, deadline: Instant, kind: FileEventKind, name: &str) -> Option<FileEvent> {
        self.events.wait(deadline, |events| {
            events.iter().find(|event| event.kind == kind && event.name == name).cloned()
        })
    }

    /// Every event at which an entry's mode let group or others do something.
    pub fn loose(&self) -> Vec<FileEvent> {
        let events = self.events().into_iter();
        events.filter(|event| event.facts.as_ref().is_some_and(Facts::is_loose)).collect()
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
            let event = FileEvent { at: Instant::now(), kind, name, cookie: event.cookie, facts };
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
    kinds.into_iter().find(|(bit, _)| mask.contains(*bit)).map(|(_, kind)| kind)
}
