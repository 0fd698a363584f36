//! A log that outlives the process: its frames in one file, exactly as they are sent, so that a person can read it.
//!
//! A frame is in the file before it can be read from the log (CTL-20), so no end of the process takes back what a
//! client has seen. It is not flushed to the disk: a power loss may take the newest events, whose numbers are then
//! used again. Frames bear no checksum: damage within the `data` of one is for its reader to see.
//!
//! The file is locked for as long as the log is appended to (CTL-22), and bounded: once it is about twice as long as
//! what the log holds, another takes its place that holds just this, behind a comment that names the first number.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::hub::Keep;
use super::log::{Log, Piece, Topics};
use super::{EventId, Hub, Limits};
use crate::platform;
use crate::state_directory::{FileError, FileErrorKind};

/// The longest file that is read, in bytes, unless the log may hold more than a quarter of that. A file grows longer than that
/// only if replacing it failed for a long time.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// What a file may be longer than twice what the log holds: a disk counts in such blocks anyway.
const SLACK: u64 = 4096;
/// Higher numbers are damage: no log counts that far, and counting on from there must not overflow.
const MOST: u64 = 1 << 53;

impl Hub {
    /// Opens the log that is kept in the file at `path`, which is made if it is missing. It has the events of the last process,
    /// and counts on from there. What a process that was killed had half written is cut off.
    ///
    /// `epoch` names the log: a number that the product chooses once for this file, and changes if its events mean something
    /// else.
    ///
    /// A file with damage in it gives its newest events, up to where they are not whole and one after the other. What
    /// is before is a [gap](super::Next::Gap) to a reader that asks for it, and no number is used again. An event of a topic
    /// that there no longer is counts as damage.
    ///
    /// Appending writes to the file while all other calls wait. [Ending](Self::end) the streams gives the file up: only
    /// then may it be removed.
    ///
    /// # Errors
    ///
    /// Fails if the file is not this user's alone, if another process appends to it ([`FileErrorKind::Locked`]: a daemon
    /// that displaces another one uses [`Handle::open_events`](crate::daemon::Handle::open_events)), if it holds something else
    /// than this log ([`FileErrorKind::Foreign`]), if it is longer than 64 MiB and than four times what the log may hold
    /// ([`FileErrorKind::Longer`]), or if it cannot be read and written.
    ///
    /// # Panics
    ///
    /// Panics as [`Hub::new`] does.
    pub fn open(path: &Path, epoch: u32, topics: &[&'static str], limits: Limits) -> Result<Self, FileError> {
        let mut log = Log::new(epoch, limits);
        let journal = Journal::open(path, &mut log, topics)?;
        Ok(Self::of(log, topics, Some(Box::new(journal))))
    }

    /// Returns a log whose file is opened later, by [`load`](Self::load). Nothing can be appended to it before.
    pub(crate) fn unopened(epoch: u32, topics: &[&'static str], limits: Limits) -> Self {
        Self::of(Log::new(epoch, limits), topics, Some(Box::new(Unopened)))
    }

    /// Opens the file of a log that is [`unopened`](Self::unopened), as [`open`](Self::open) does.
    pub(crate) fn load(&self, path: &Path, limits: Limits) -> Result<(), FileError> {
        let mut log = Log::new(self.last().epoch, limits);
        let journal = Journal::open(path, &mut log, self.topics())?;
        self.go_on_with(log, Box::new(journal));
        Ok(())
    }
}

/// Stands for the file of a log until that is opened.
#[derive(Debug)]
struct Unopened;

impl Keep for Unopened {
    fn keep(&mut self, _: &[u8]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::WouldBlock, "the file of the log is not open yet"))
    }

    fn tidy(&mut self, _: &Log) -> io::Result<()> {
        Ok(())
    }
}

/// The file of a log.
#[derive(Debug)]
struct Journal {
    path: PathBuf,
    /// Locked for as long as it is open.
    file: File,
    /// How much of the file is whole frames.
    length: u64,
    /// Whether a frame that could not be written whole may still be there in part.
    is_torn: bool,
    /// How long the file has to be before it is tried again to replace it.
    patience: u64,
}

impl Journal {
    /// Opens the file of a log that is empty, and reads it back.
    fn open(path: &Path, log: &mut Log, topics: &[&str]) -> Result<Self, FileError> {
        let fault = |kind| FileError { path: path.to_owned(), kind };
        let mut file = take(path).map_err(fault)?;
        // What is left of a process that was killed while it replaced the file.
        let _ = fs::remove_file(beside(path));
        let longest = MAX_FILE_BYTES.max((log.limits().bytes as u64).saturating_mul(4));
        let mut text = Vec::new();
        let read = (&mut file).take(longest.saturating_add(1)).read_to_end(&mut text);
        if read.map_err(|error| fault(FileErrorKind::Io(error)))? as u64 > longest {
            return Err(fault(FileErrorKind::Longer(longest)));
        }
        let found = recover(log, topics, &text).ok_or_else(|| fault(FileErrorKind::Foreign))?;
        let mut journal = Self {
            path: path.to_owned(),
            file,
            length: found.length as u64,
            is_torn: found.length < text.len(),
            patience: 0,
        };
        if found.is_damaged {
            let next = log.next();
            tracing::warn!(path = %path.display(), %next, "a log is damaged; what is whole at its end is kept");
            journal.replace(log)?;
        }
        journal.mend().map_err(|error| fault(FileErrorKind::Io(error)))?;
        Ok(journal)
    }

    /// Takes back what was written of a frame.
    fn mend(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.length)?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Puts a file in place of this one that holds what the log does.
    fn replace(&mut self, log: &Log) -> Result<(), FileError> {
        let temporary = beside(&self.path);
        let replaced = copy(log, &temporary).and_then(|replacement| {
            fs::rename(&temporary, &self.path).map_err(FileErrorKind::Io)?;
            Ok(replacement)
        });
        (self.file, self.length) = replaced.map_err(|kind| {
            let _ = fs::remove_file(&temporary);
            let path = temporary;
            FileError { path, kind }
        })?;
        (self.is_torn, self.patience) = (false, 0);
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Closing it would not do while a child that has just been forked has it open, too.
        let _ = self.file.unlock();
    }
}

impl Keep for Journal {
    fn keep(&mut self, frame: &[u8]) -> io::Result<()> {
        if let Err(error) = self.mend().and_then(|()| self.file.write_all(frame)) {
            self.is_torn = true;
            // Where this fails too, it is tried again before the next frame.
            let _ = self.mend();
            return Err(io::Error::new(error.kind(), FileError::io(&self.path, error)));
        }
        self.length += frame.len() as u64;
        Ok(())
    }

    fn tidy(&mut self, log: &Log) -> io::Result<()> {
        if self.length <= self.patience.max(2 * log.bytes() as u64 + SLACK) {
            return Ok(());
        }
        self.replace(log).map_err(|fault| {
            self.patience = 2 * self.length;
            io::Error::other(fault)
        })
    }
}

/// Where the successor of a file is written. The holder of the lock on the file is alone, so that one name will do.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// Opens a file and locks it.
fn take(path: &Path) -> Result<File, FileErrorKind> {
    loop {
        let file = platform::open_to_append(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FileErrorKind::Locked),
            Err(TryLockError::Error(error)) => return Err(FileErrorKind::Io(error)),
        }
        // Its last owner may have replaced it between the two.
        if platform::is_at(&file, path).map_err(FileErrorKind::Io)? {
            return Ok(file);
        }
    }
}

/// A locked file that holds what the log does, and its length. The lock comes before the name does.
fn copy(log: &Log, temporary: &Path) -> Result<(File, u64), FileErrorKind> {
    let mut file = take(temporary)?;
    let first = log.first();
    let mut written = || {
        file.set_len(0)?;
        let head = format!("{FROM}{first}\n\n");
        file.write_all(head.as_bytes())?;
        let mut length = head.len() as u64;
        let before = EventId { seq: first.seq - 1, ..first };
        let mut cursor = log.cursor(Some(before), Topics::ALL);
        while let Some(Piece::Frames(frames)) = log.read(&mut cursor) {
            file.write_all(&frames)?;
            length += frames.len() as u64;
        }
        Ok(length)
    };
    let length = written().map_err(FileErrorKind::Io)?;
    Ok((file, length))
}

/// A comment, as streams have them: the number of the first event after it.
const FROM: &str = ": from ";

/// What stands between two empty lines of the file.
enum Block {
    From(EventId),
    Frame(EventId, u8),
}

impl Block {
    fn parse(block: &[u8], topics: &[&str]) -> Option<Self> {
        // To a reader of the stream, a carriage return ends a line too.
        let text = str::from_utf8(block).ok().filter(|text| !text.contains('\r'))?.strip_suffix("\n\n")?;
        if let Some(id) = text.strip_prefix(FROM) {
            return Some(Self::From(id.parse().ok()?));
        }
        let mut lines = text.split('\n');
        let mut field = |name| lines.next()?.strip_prefix(name);
        let (id, event, _) = (field("id: ")?, field("event: ")?, field("data: ")?);
        let topic = topics.iter().position(|topic| *topic == event)?;
        let frame = Self::Frame(id.parse().ok()?, u8::try_from(topic).ok()?);
        lines.next().is_none().then_some(frame)
    }

    fn id(&self) -> EventId {
        match self {
            Self::From(id) | Self::Frame(id, _) => *id,
        }
    }
}

/// What a file was found to be.
struct Found {
    /// How much of it is not torn.
    length: usize,
    is_damaged: bool,
}

/// Reads a log back. Returns `None` if nothing in the file is of this log, so that the numbers it has used are unknown.
fn recover(log: &mut Log, topics: &[&str], text: &[u8]) -> Option<Found> {
    let (mut is_ours, mut is_damaged) = (false, false);
    // How much in a row could not be read.
    let mut unread = 0;
    let mut rest = text;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") {
        let (block, after) = rest.split_at(end + 2);
        rest = after;
        let next = log.next();
        match Block::parse(block, topics) {
            Some(read) if read.id().epoch == next.epoch && (next.seq..MOST).contains(&read.id().seq) => {
                if read.id() != next {
                    log.restart(read.id().seq);
                }
                if let Block::Frame(_, topic) = read {
                    log.restore(topic, block);
                }
                (is_ours, unread) = (true, 0);
            }
            _ => {
                is_damaged = true;
                unread += block.len();
            }
        }
    }
    let length = text.len() - rest.len();
    // Where a write was not finished, the next frame begins and does not end. After a power loss there may be zeros.
    let zeros = rest.iter().rev().take_while(|byte| **byte == 0).count();
    let (torn, head) = (&rest[..rest.len() - zeros], format!("id: {}\n", log.next()));
    if !torn.starts_with(head.as_bytes()) && !head.as_bytes().starts_with(torn) {
        is_damaged = true;
        unread += torn.len();
    }
    if unread > 0 {
        // Each number took more than one byte.
        log.restart(log.next().seq + unread as u64);
    }
    (is_ours || !is_damaged).then_some(Found { length, is_damaged })
}
