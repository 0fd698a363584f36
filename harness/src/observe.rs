//! What happened in one run on one state directory, as a trace that a model of the protocol can be asked about
//! (`spec/schemas/observed-trace.schema.json`).
//!
//! A [`Recorder`] needs nothing of the case beside it. It watches the directory from the moment it is there: inotify
//! says what changed in which order, fanotify whether this process did it. It knows of the subjects that it is
//! [told of](Recorder::launched) when they started, which signals they were sent and how they ended.
//!
//! Nothing is known more exactly than it was seen: each observation has two instants between which it happened. Changes
//! of files are in the order of the kernel's events; everything between two moments at which both queues were empty has
//! the same instants.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use inotify::{EventMask, Inotify, WatchMask};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::Signal;
use serde_json::{Map, Value, json};

use crate::files::changes;
use crate::platform;
use crate::process::Subject;
use crate::record::{MOST_BYTES, Record};
use crate::wait::{Shared, lock, ms};

/// A change comes into effect before it is told of; on a busy machine so much before, at most.
const TOLD_LATE: Duration = Duration::from_millis(250);

/// Records one run.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    record: PathBuf,
    seen: Shared<Seen>,
    subjects: Mutex<Vec<Launched>>,
    answers: Mutex<Vec<Observation>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Launched {
    number: usize,
    yields: bool,
    after: Instant,
    by: Instant,
    subject: Arc<Subject>,
}

/// One observation: it happened after the first instant and by the second.
#[derive(Debug, Clone)]
struct Observation {
    after: Instant,
    by: Instant,
    what: Value,
}

/// What the watching thread has seen.
#[derive(Debug, Default)]
struct Seen {
    files: Vec<Observation>,
    /// Everything before it was seen.
    whole_until: Option<Instant>,
    ends: Option<String>,
}

impl Recorder {
    /// Records what happens on the state directory at `state_dir`, which need not be there yet (its parent has to be),
    /// and where the record has the name `registration`.
    pub fn start(state_dir: &Path, registration: &str) -> io::Result<Self> {
        let began = Instant::now();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let seen = Shared::new(Seen::default());
        let parent = Inotify::init()?;
        let above = state_dir.parent().ok_or(io::ErrorKind::InvalidInput)?;
        parent.watches().add(above, WatchMask::CREATE | WatchMask::MOVED_TO)?;
        let (directory, name) = (state_dir.to_owned(), registration.to_owned());
        let thread = {
            let (seen, wake) = (seen.clone(), Arc::clone(&wake));
            std::thread::spawn(move || {
                let ended = match appears(parent, &directory, &wake) {
                    Ok(true) => Watched::new(directory, &name).and_then(|mut watched| {
                        let mut files = watched.begin(began)?;
                        seen.update(|seen| seen.files.append(&mut files));
                        watched.follow(&wake, &seen)
                    }),
                    Ok(false) => {
                        seen.update(|seen| seen.whole_until = Some(Instant::now()));
                        Ok(())
                    }
                    Err(error) => Err(error),
                };
                if let Err(error) = ended {
                    seen.update(|seen| {
                        seen.ends.get_or_insert(format!("the state directory cannot be watched: {error}"));
                    });
                }
            })
        };
        Ok(Self {
            began,
            record: state_dir.join(registration),
            seen,
            subjects: Mutex::default(),
            answers: Mutex::default(),
            wake,
            thread: Some(thread),
        })
    }

    /// The subject of this number was started between the two instants, and told to yield or not.
    pub fn launched(&self, number: usize, subject: &Arc<Subject>, yields: bool, after: Instant, by: Instant) {
        lock(&self.subjects).push(Launched { number, yields, after, by, subject: Arc::clone(subject) });
    }

    /// A handshake that was sent after the one instant was answered by the other, with this body.
    ///
    /// Waits until the watch has begun, for a second at most: what the caller does next is to be seen.
    pub fn answered(&self, after: Instant, by: Instant, body: &[u8]) {
        let begun = |seen: &Seen| (seen.whole_until.is_some() || seen.ends.is_some()).then_some(());
        self.seen.wait(ms(1_000), begun);
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            return;
        };
        let what = json!({
            "what": "answered", "pid": body["pid"], "id": body["id"], "state": body["state"],
        });
        lock(&self.answers).push(Observation { after, by, what });
    }

    /// Ends the recording; the trace, of a case of this name. From `helpers` on, processes of the subject ran that are no
    /// daemons, such as clients: who but the suite changed a file is not known then.
    pub fn finish(mut self, case: &str, helpers: Option<Instant>) -> Value {
        self.end();
        let Seen { files, whole_until, mut ends } = self.seen.update(std::mem::take);
        let subjects = std::mem::take(&mut *lock(&self.subjects));
        let number = |pid: &Value| {
            let pid = pid.as_u64()?;
            let found = subjects.iter().find(|launched| u64::from(launched.subject.pid()) == pid);
            found.map(|launched| launched.number)
        };
        let mut whole = whole_until.unwrap_or(self.began);
        let mut observations = Vec::new();
        for mut file in files {
            if helpers.is_some_and(|since| since <= file.by) && file.what["by"] == "other" {
                file.what["by"] = Value::Null;
            }
            if let Some(pid) = file.what.as_object_mut().and_then(|what| what.remove("pid")) {
                let daemon = number(&pid);
                if daemon.is_none() && !pid.is_null() && file.what["by"] == "other" {
                    whole = whole.min(file.after);
                    ends = Some("a daemon published whose start was not seen".to_owned());
                    break;
                }
                file.what["daemon"] = json!(daemon);
            }
            observations.push(file);
        }
        let mut others = std::mem::take(&mut *lock(&self.answers));
        others.retain_mut(|answer| {
            let daemon = number(&answer.what["pid"]);
            if let Some(what) = answer.what.as_object_mut() {
                what.remove("pid");
                what.insert("daemon".to_owned(), json!(daemon));
            }
            daemon.is_some() && answer.what["id"].is_string() && answer.what["state"].is_string()
        });
        for (after, by) in platform::take_unnoticed(&self.record) {
            let what = json!({"what": "record-touched", "by": "suite"});
            others.push(Observation { after, by, what });
        }
        for launched in &subjects {
            others.extend(launched.observations());
        }
        // What came later may have had causes that were not seen any more.
        observations.extend(others.into_iter().filter(|other| other.by <= whole));
        observations.sort_by_key(|observation| observation.by);
        let micros = |at: Instant| at.saturating_duration_since(self.began).as_micros();
        let events = observations.into_iter().map(|observation| {
            let mut event = Map::new();
            event.insert("after_us".to_owned(), json!(u64::try_from(micros(observation.after)).ok()));
            event.insert("by_us".to_owned(), json!(u64::try_from(micros(observation.by)).ok()));
            if let Value::Object(what) = observation.what {
                event.extend(what);
            }
            Value::Object(event)
        });
        json!({"trace": 1, "case": case, "events": events.collect::<Vec<_>>(), "ends": ends})
    }

    fn end(&mut self) {
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end();
    }
}

impl Launched {
    fn observations(&self) -> Vec<Observation> {
        let daemon = self.number;
        let started = json!({"what": "daemon-started", "daemon": daemon, "yields": self.yields});
        let mut all = vec![Observation { after: self.after, by: self.by, what: started }];
        for (at, signal) in self.subject.signals() {
            let what = match signal {
                Signal::STOP => "paused",
                Signal::CONT => "resumed",
                Signal::TERM | Signal::INT | Signal::HUP | Signal::QUIT => "asked-to-stop",
                _ => continue,
            };
            // A call that was under way when the process stopped may still come to its end.
            let at = if signal == Signal::STOP { at + TOLD_LATE } else { at };
            all.push(Observation { after: at, by: at, what: json!({"what": what, "daemon": daemon}) });
        }
        if let Some(exit) = self.subject.exit() {
            let what = json!({
                "what": "exited", "daemon": daemon, "status": exit.code, "signal": exit.signal,
            });
            all.push(Observation { after: self.after, by: exit.at, what });
        }
        all
    }
}

/// Waits until the directory is there; `false`: the recording ended before.
fn appears(mut parent: Inotify, directory: &Path, wake: &OwnedFd) -> io::Result<bool> {
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
struct Watched {
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
    fn new(directory: PathBuf, registration: &str) -> io::Result<Self> {
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
    fn begin(&mut self, after: Instant) -> io::Result<Vec<Observation>> {
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
    fn follow(&mut self, wake: &OwnedFd, seen: &Shared<Seen>) -> io::Result<()> {
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
