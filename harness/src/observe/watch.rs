//! The state directory, watched: what changed in it, in which order, and whether this process did it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use inotify::{EventMask, Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::files::changes;
use crate::platform;
use crate::record::{MOST_BYTES, Record};
use crate::wait::Shared;

/// A change comes into effect before it is told of; on a busy machine so much before, at most.
pub(super) const TOLD_LATE: Duration = Duration::from_millis(250);

/// One observation: it happened after the first instant and by the second.
#[derive(Debug, Clone)]
pub(super) struct Observation {
    pub(super) after: Instant,
    pub(super) by: Instant,
    pub(super) what: Value,
}

/// What the watching thread has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) files: Vec<Observation>,
    /// Everything before it was seen.
    pub(super) whole_until: Option<Instant>,
    pub(super) ends: Option<String>,
}

/// Waits until the directory is there; `false`: the recording ended before.
pub(super) fn appears(mut parent: Inotify, directory: &Path, wake: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    while !directory.is_dir() {
        let mut sources = [
            PollFd::new(&parent, PollFlags::IN),
            PollFd::new(wake, PollFlags::IN),
        ];
        match poll(&mut sources, None) {
            Ok(_) if !sources[1].revents().is_empty() => return Ok(false),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        match parent.read_events(&mut buffer) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    Ok(true)
}

/// One event of a name, in the kernel's order.
#[derive(Debug)]
struct Raw {
    mask: EventMask,
    name: OsString,
    cookie: u32,
}

#[derive(Debug)]
pub(super) struct Watched {
    directory: PathBuf,
    registration: OsString,
    taken: Vec<u8>,
    events: Inotify,
    /// Says who did it, where the system can.
    authors: Option<OwnedFd>,
    /// What files held that were written whole: id and process id.
    written: BTreeMap<OsString, (String, i32)>,
}

/// For each kind of change and name, whether this process did it, whether another did.
type Authors = BTreeMap<(u64, OsString), BTreeSet<bool>>;

impl Watched {
    pub(super) fn new(directory: PathBuf, registration: &str) -> io::Result<Self> {
        let events = Inotify::init()?;
        let mask = changes() | WatchMask::MOVE_SELF;
        events.watches().add(&directory, mask)?;
        Ok(Self {
            authors: platform::changes_by_process(&directory).ok(),
            taken: format!("{registration}.taken-").into_bytes(),
            registration: registration.into(),
            directory,
            events,
            written: BTreeMap::new(),
        })
    }

    fn is_taken(&self, name: &OsStr) -> bool {
        name.as_bytes().starts_with(&self.taken)
    }

    /// The first look, at a moment at which nothing changes.
    pub(super) fn begin(&mut self, after: Instant) -> io::Result<Vec<Observation>> {
        loop {
            let (quiet, _, _) = self.drain()?;
            let record = self.directory.join(&self.registration);
            let seen = match read_record(&record) {
                Some(record) => json!(record.id),
                None if record.symlink_metadata().is_ok() => json!("unknown"),
                None => Value::Null,
            };
            let mut taken = Vec::new();
            for entry in std::fs::read_dir(&self.directory)?.flatten() {
                let name = entry.file_name();
                if self.is_taken(&name) {
                    taken.push(json!({"what": "taken-put", "file": name.to_string_lossy(), "by": "suite"}));
                } else if let Some(record) = read_record(&entry.path()) {
                    self.written.insert(name, (record.id, record.pid));
                }
            }
            if self.has_more()? {
                continue;
            }
            let began = json!({"what": "watch-began", "record": seen});
            let by = Instant::now();
            let after = after.min(quiet);
            let look = |what| Observation { after, by, what };
            return Ok(std::iter::once(began).chain(taken).map(look).collect());
        }
    }

    fn has_more(&self) -> io::Result<bool> {
        Ok(poll(&mut [PollFd::new(&self.events, PollFlags::IN)], Some(&Timespec::default()))? > 0)
    }

    /// Looks until the recording ends, or nothing more can be told.
    pub(super) fn follow(&mut self, wake: &OwnedFd, seen: &Shared<Seen>) -> io::Result<()> {
        let mut after = Instant::now();
        seen.update(|seen| seen.whole_until = Some(after));
        loop {
            let over = {
                let mut sources = [
                    PollFd::new(&self.events, PollFlags::IN),
                    PollFd::new(wake, PollFlags::IN),
                ];
                match poll(&mut sources, None) {
                    Ok(_) => !sources[1].revents().is_empty(),
                    Err(rustix::io::Errno::INTR) => false,
                    Err(error) => return Err(error.into()),
                }
            };
            let (quiet, events, authors) = self.drain()?;
            if events.iter().any(|event| event.mask.contains(EventMask::Q_OVERFLOW)) {
                seen.update(|seen| seen.ends = Some("events were lost".to_owned()));
                return Ok(());
            }
            let gone = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED;
            if events.iter().any(|event| event.mask.intersects(gone)) {
                seen.update(|seen| seen.ends = Some("the state directory was removed".to_owned()));
                return Ok(());
            }
            let by = Instant::now();
            let before = after.checked_sub(TOLD_LATE).unwrap_or(after);
            let files = self.told(&events, &authors)?;
            seen.update(|seen| {
                seen.files.extend(files.into_iter().map(|what| Observation { after: before, by, what }));
                seen.whole_until = Some(quiet);
            });
            after = quiet;
            if over {
                return Ok(());
            }
        }
    }

    /// Everything in both queues, and a moment at which both were empty.
    fn drain(&mut self) -> io::Result<(Instant, Vec<Raw>, Authors)> {
        let (mut all, mut authors) = (Vec::new(), Authors::new());
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let quiet = Instant::now();
            let from = all.len();
            match self.events.read_events(&mut buffer) {
                Ok(batch) => all.extend(batch.map(|event| Raw {
                    mask: event.mask,
                    name: event.name.unwrap_or_default().to_owned(),
                    cookie: event.cookie,
                })),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            for event in &all[from..] {
                // Read before it is renamed into place, while its name is its own.
                if event.mask.contains(EventMask::CLOSE_WRITE) && event.name != self.registration {
                    let record = read_record(&self.directory.join(&event.name));
                    self.written.extend(record.map(|record| (event.name.clone(), (record.id, record.pid))));
                }
            }
            if let Some(queue) = &self.authors {
                match rustix::io::read(queue, &mut buffer[..]) {
                    Ok(length) => name_authors(&buffer[..length], &mut authors),
                    Err(rustix::io::Errno::AGAIN) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            // A rename is two events, one right after the other.
            let is_cut = all.last().is_some_and(|event: &Raw| event.mask.contains(EventMask::MOVED_FROM));
            if all.len() == from && !is_cut {
                return Ok((quiet, all, authors));
            }
            if all.len() == from {
                let soon = Timespec::try_from(Duration::from_millis(20)).unwrap_or_default();
                if poll(&mut [PollFd::new(&self.events, PollFlags::IN)], Some(&soon))? == 0 {
                    return Ok((quiet, all, authors));
                }
            }
        }
    }

    /// The observations that the events of one look are.
    fn told(&mut self, events: &[Raw], authors: &Authors) -> io::Result<Vec<Value>> {
        let by = |mask: EventMask, name: &OsStr| match authors.get(&(u64::from(mask.bits()), name.to_owned()))
        {
            Some(who) if who.len() == 1 => json!(if who.contains(&true) { "suite" } else { "other" }),
            _ => Value::Null,
        };
        let mut told = Vec::new();
        let mut events = events.iter().peekable();
        while let Some(event) = events.next() {
            let is_record = event.name == self.registration;
            let file = event.name.to_string_lossy();
            if event.mask.contains(EventMask::MOVED_FROM) {
                let to = events
                    .next_if(|next| next.mask.contains(EventMask::MOVED_TO) && next.cookie == event.cookie);
                let who = by(EventMask::MOVED_FROM, &event.name);
                let written = self.written.remove(&event.name);
                match to.map(|to| &to.name) {
                    Some(to) if *to == self.registration => {
                        if self.is_taken(&event.name) {
                            told.push(json!({"what": "taken-removed", "file": file, "by": who}));
                        }
                        told.push(put(written, &by(EventMask::MOVED_TO, to)));
                    }
                    Some(to) if is_record && self.is_taken(to) => {
                        told.push(json!({"what": "record-taken", "file": to.to_string_lossy(), "by": who}));
                    }
                    to => {
                        if is_record {
                            told.push(json!({"what": "record-removed", "by": who}));
                        } else if self.is_taken(&event.name) {
                            told.push(json!({"what": "taken-removed", "file": file, "by": who}));
                        }
                        if let Some(to) = to {
                            if self.is_taken(to) {
                                told.push(
                                    json!({"what": "taken-put", "file": to.to_string_lossy(), "by": who}),
                                );
                            }
                            self.written.extend(written.map(|written| (to.clone(), written)));
                        }
                    }
                }
            } else if event.mask.contains(EventMask::MOVED_TO) {
                let who = by(EventMask::MOVED_TO, &event.name);
                if is_record {
                    told.push(put(None, &who));
                } else if self.is_taken(&event.name) {
                    told.push(json!({"what": "taken-put", "file": file, "by": who}));
                }
            } else if event.mask.contains(EventMask::DELETE) {
                let who = by(EventMask::DELETE, &event.name);
                self.written.remove(&event.name);
                if is_record {
                    told.push(json!({"what": "record-removed", "by": who}));
                } else if self.is_taken(&event.name) {
                    told.push(json!({"what": "taken-removed", "file": file, "by": who}));
                }
            } else {
                for kind in [EventMask::CREATE, EventMask::MODIFY, EventMask::ATTRIB] {
                    if event.mask.contains(kind) && is_record {
                        let what = json!({"what": "record-touched", "by": by(kind, &event.name)});
                        // A slow write is many events and one observation.
                        if told.last() != Some(&what) {
                            told.push(what);
                        }
                    } else if event.mask.contains(kind) && self.is_taken(&event.name) {
                        told.push(json!({"what": "taken-put", "file": file, "by": by(kind, &event.name)}));
                    }
                }
            }
        }
        // A record that came from elsewhere: what stands there now is it, if nothing has changed since.
        if let Some(last) = told
            .iter_mut()
            .rfind(|what| what["what"] != "taken-put" && what["what"] != "taken-removed")
            && last["what"] == "record-put"
            && last["id"].is_null()
            && let Some(record) = read_record(&self.directory.join(&self.registration))
            && !self.has_more()?
        {
            *last = put(Some((record.id, record.pid)), &last["by"]);
        }
        Ok(told)
    }
}

fn put(record: Option<(String, i32)>, by: &Value) -> Value {
    let (id, pid) = record.unzip();
    json!({"what": "record-put", "id": id, "pid": pid, "by": by})
}

/// The record in a regular file. Nobody is waited for.
fn read_record(path: &Path) -> Option<Record> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let flags = i32::try_from(flags.bits()).ok()?;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes).ok()?;
    Record::parse(&bytes).ok()
}

/// The records of a fanotify queue: a head of 24 bytes (whole length, version, length of the head, mask, a descriptor,
/// the process), then pieces (kind, length, file system, file handle, and in a piece of this kind a name).
fn name_authors(mut bytes: &[u8], authors: &mut Authors) {
    const WITH_NAME: u8 = libc::FAN_EVENT_INFO_TYPE_DFID_NAME;
    let number = |bytes: &[u8], at: usize| {
        let four = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_ne_bytes(four)).ok()
    };
    let short = |bytes: &[u8], at: usize| {
        let two = bytes.get(at..at + 2)?.try_into().ok()?;
        Some(usize::from(u16::from_ne_bytes(two)))
    };
    let me = std::process::id();
    while let Some(length) = number(bytes, 0).filter(|length| (24..=bytes.len()).contains(length)) {
        let (event, rest) = bytes.split_at(length);
        bytes = rest;
        let mask = event[8..16].try_into().map(u64::from_ne_bytes).unwrap_or_default();
        let is_me = event[20..24].try_into().is_ok_and(|pid| u32::from_ne_bytes(pid) == me);
        let mut pieces = &event[short(event, 6).unwrap_or(length).min(length)..];
        while let Some(length) = short(pieces, 2).filter(|length| (4..=pieces.len()).contains(length)) {
            let (piece, rest) = pieces.split_at(length);
            pieces = rest;
            let handle = number(piece, 12).unwrap_or_default();
            if piece[0] != WITH_NAME || piece.len() < 20 + handle {
                continue;
            }
            let name = piece[20 + handle..].split(|byte| *byte == 0).next().unwrap_or_default();
            // The low bits are those of inotify.
            for bit in (0..12).map(|bit| 1 << bit).filter(|bit| mask & bit != 0) {
                authors.entry((bit, OsString::from_vec(name.to_vec()))).or_default().insert(is_me);
            }
        }
    }
}
