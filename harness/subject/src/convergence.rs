//! Chapter 06: whose record it is, and how a daemon leaves.

pub(crate) mod faults;

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use inotify::{EventMask, Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;

use crate::credential::Credential;
use crate::fault::{broken, window};
use crate::gate::protocol;
use crate::handshake::SPEC;
use crate::platform::lives;
use crate::probe::{Probe, probe};
use crate::publish::{lock_file, publish, refresh};
use crate::reason::Reason;
use crate::registration::{Found, Record};
use crate::state::Daemon;
use crate::state_directory::{RECORD, StateDir, random_hex};
use crate::world::{Place, live, place};

/// How long the record is not read again where nothing notifies of a change.
const INTERVAL: Duration = Duration::from_secs(1);
/// Whether the daemon has published.
static PUBLISHED: AtomicBool = AtomicBool::new(false);
/// What a faulty daemon waits where it must not.
const LATE: Duration = Duration::from_secs(4);
/// How often a record that is none is read again, and how far apart.
const RETRIES: usize = 5;
const APART: Duration = Duration::from_millis(60);
/// A whole probe before a yield.
const PROBE: Duration = Duration::from_secs(2);

/// Whether the record names this launch.
pub(super) fn owns(directory: &StateDir, id: &str) -> bool {
    match Record::read(directory, RECORD) {
        _ if broken("HS-16.ready-before-publishing") && !PUBLISHED.load(Ordering::Relaxed) => true,
        Found::Record(record) => record.id == id,
        Found::Refused(_) => broken("HS-16.ready-while-unreadable"),
        _ => false,
    }
}

/// Whether the record is the file that it was at the first handshake, as far as its length and its number tell.
pub(super) fn is_same_file(directory: &StateDir) -> bool {
    static FIRST: OnceLock<Option<(u64, u64)>> = OnceLock::new();
    let now = fs::symlink_metadata(directory.file(RECORD)).map(|file| (file.ino(), file.len()));
    FIRST.get_or_init(|| now.as_ref().ok().copied()).as_ref() == now.ok().as_ref()
}

/// Looks at the record again and again until there is a reason to stand down.
pub(super) fn watch(daemon: &Daemon) -> Reason {
    PUBLISHED.store(true, Ordering::Relaxed);
    // A pause shows in a short interval alone.
    let watchful = broken("CONV-7.republishes") || broken("CONV-7.settles");
    let unhurried = [
        "CONV-1.slow-poll",
        "CONV-1.too-slow",
        "CONV-2.polls",
        "HS-15.last-look",
        "HS-15.once-a-connection",
    ];
    let deaf = watchful || unhurried.into_iter().any(broken);
    let mut notified = Inotify::init().ok().filter(|_| !deaf);
    if let Some(inotify) = &notified {
        let changes = WatchMask::CREATE
            | WatchMask::MOVE
            | WatchMask::DELETE
            | WatchMask::MODIFY
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        let _ = inotify.watches().add(daemon.directory.path(), changes);
    }
    let mut since = Instant::now();
    loop {
        daemon.follow_files();
        let found = look(daemon);
        // Wherever it was stopped, this comes before it acts on what it has found.
        if since.elapsed() > Duration::from_millis(400) {
            if broken("CONV-7.republishes") {
                let _ = publish(&daemon.directory, &daemon.record, || false);
            } else if broken("CONV-7.settles") {
                sleep(LATE);
            }
        }
        since = Instant::now();
        if let Some(reason) = found {
            daemon.stand_down(reason);
        }
        if let Some(reason) = daemon.standing_down() {
            return reason;
        }
        wait(daemon, notified.as_mut());
    }
}

/// Until something changes in the directory, the daemon is told to stop, or the interval is over.
fn wait(daemon: &Daemon, notified: Option<&mut Inotify>) {
    let interval = match INTERVAL {
        _ if broken("CONV-1.notified-only") => Duration::from_hours(1),
        _ if broken("CONV-1.slow-poll") => Duration::from_secs(6),
        _ if broken("CONV-1.too-slow") => Duration::from_millis(3_500),
        _ if broken("CONV-7.republishes") || broken("CONV-7.settles") => Duration::from_millis(50),
        interval => interval,
    };
    let interval = Timespec::try_from(interval).expect("an hour is short");
    let mut awaited = vec![PollFd::new(&daemon.wake, PollFlags::IN)];
    let fd = notified.as_ref().map(|inotify| inotify.as_fd());
    awaited.extend(fd.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
    let _ = poll(&mut awaited, Some(&interval));
    if let Some(inotify) = notified {
        let mut buffer = [0; 4096];
        while let Ok(events) = inotify.read_events(&mut buffer) {
            for event in events {
                let other = event.name.is_some_and(|name| !name.to_string_lossy().starts_with(RECORD));
                if broken("PUB-12.makes-sure") && other && event.mask.contains(EventMask::DELETE) {
                    let _ = publish(&daemon.directory, &daemon.record, || false);
                }
            }
        }
    }
}

/// One look at the record.
fn look(daemon: &Daemon) -> Option<Reason> {
    let (mut unparsable, mut seen) = (0, None);
    loop {
        let began = Instant::now();
        match Record::read(&daemon.directory, RECORD) {
            Found::Record(record) if is_own(daemon, &record) => {
                if broken("CONV-7.goes-by-an-old-look") && began.elapsed() > Duration::from_millis(5) {
                    let _ = publish(&daemon.directory, &daemon.record, || false);
                }
                refresh(&daemon.directory, &daemon.record, daemon.began.elapsed());
                let leaves = broken("CONV-13.taken-file")
                    && !daemon.directory.names(&format!("{RECORD}.taken-")).is_empty();
                return leaves.then_some(Reason::RecordRemoved);
            }
            Found::Record(record) if tolerates(daemon, &record) => return None,
            Found::Record(_) if broken("CONV-14.unread") && is_asked_to_stop(daemon) => return None,
            Found::Record(record) if broken("CONV-9.takes-back") && is_leaving(daemon, &record) => {
                let _ = publish(&daemon.directory, &daemon.record, || false);
                return None;
            }
            Found::Record(record) => {
                if broken("CONV-28.ends-the-new") {
                    end_process(record.pid);
                }
                return Some(Reason::Displaced(Some(record.id)));
            }
            Found::Malformed(_) if unparsable == RETRIES || broken("CONV-4.once") => {
                if broken("CONV-5.clears") {
                    let _ = daemon.directory.unlink(RECORD);
                }
                let reason = Reason::Displaced(None);
                return (!broken("CONV-5.runs-on")).then_some(reason);
            }
            Found::Malformed(_) if broken("CONV-4.same-file") => return read_on(daemon),
            Found::Malformed(why)
                if broken("CONV-4.grows") && seen.as_ref().is_some_and(|seen| *seen != why) =>
            {
                return Some(Reason::Displaced(None));
            }
            Found::Malformed(why) => {
                seen = Some(why);
                unparsable += 1;
                if !broken("CONV-4.at-once-again") {
                    sleep(APART);
                }
            }
            Found::Absent if broken("CONV-23.publishes-again") => {
                let _ = publish(&daemon.directory, &daemon.record, || false);
                return None;
            }
            Found::Absent => return reclaim(daemon),
            Found::NoDirectory if broken("CONV-24.runs-on") => return None,
            Found::NoDirectory if broken("CONV-24.creates-again") => {
                let _ = daemon.directory.prepare();
                let _ = publish(&daemon.directory, &daemon.record, || false);
                return None;
            }
            Found::NoDirectory => {
                if broken("CONV-25.directory-later") {
                    sleep(LATE);
                }
                return Some(Reason::DirectoryGone);
            }
            Found::Refused(_) if broken("CONV-6.stands-down") => return Some(Reason::Displaced(None)),
            Found::Refused(_) if broken("CONV-6.removed") => return Some(Reason::RecordRemoved),
            // It says nothing about the owner.
            Found::Refused(_) => return None,
        }
    }
}

/// Reads an unparsable record again as a faulty daemon does: the file that it has opened, wherever that is by now.
fn read_on(daemon: &Daemon) -> Option<Reason> {
    let mut file = File::open(daemon.directory.file(RECORD)).ok()?;
    for _ in 0..RETRIES {
        sleep(APART);
        let mut bytes = Vec::new();
        let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
        if read.is_ok() && Record::parse(&bytes).is_ok() {
            return None;
        }
    }
    Some(Reason::Displaced(None))
}

/// Whether a record is this daemon's.
fn is_own(daemon: &Daemon, record: &Record) -> bool {
    if broken("CONV-3.whole-record") {
        *record == daemon.record
    } else if broken("CONV-3.by-pid") {
        record.pid == daemon.record.pid
    } else {
        record.id == daemon.record.id
    }
}

/// Whether a faulty daemon goes on beside another's record.
fn tolerates(daemon: &Daemon, record: &Record) -> bool {
    let own = &daemon.record;
    if broken("CONV-13.settling") {
        written(daemon).is_some_and(|written| written < daemon.started_at + Duration::from_secs(2))
    } else if broken("CONV-13.older-record") {
        is_settled(daemon)
    } else if broken("CONV-13.yielding-stays") {
        daemon.yields && record.protocol == own.protocol
    } else if broken("GATE-3.other-protocol") {
        record.protocol != own.protocol
    } else if broken("GATE-3.another-name") {
        let name = |protocol: &Option<String>| protocol.as_ref()?.split('/').next().map(str::to_owned);
        let proven = || probe(record, &daemon.credential.current().0, Instant::now() + PROBE);
        name(&record.protocol) != name(&own.protocol) && matches!(proven(), Probe::Proven(..))
    } else {
        broken("GATE-3.older-version") && record.version < own.version
    }
}

/// When the record was written.
fn written(daemon: &Daemon) -> Option<SystemTime> {
    fs::metadata(daemon.directory.file(RECORD)).ok()?.modified().ok()
}

/// Whether the record has been there for a while.
pub(super) fn is_settled(daemon: &Daemon) -> bool {
    let age = written(daemon).and_then(|written| written.elapsed().ok());
    age.is_some_and(|age| age > Duration::from_secs(2))
}

/// Whether a moment later it has been asked to stop, which then comes first.
fn is_asked_to_stop(daemon: &Daemon) -> bool {
    sleep(APART * 4);
    daemon.standing_down().is_some()
}

/// Whether a moment later there is no record.
pub(super) fn is_stopped(daemon: &Daemon) -> bool {
    window();
    matches!(Record::read(&daemon.directory, RECORD), Found::Absent)
}

/// Whether a moment later the daemon of a record is draining.
fn is_leaving(daemon: &Daemon, record: &Record) -> bool {
    window();
    let (credential, _) = daemon.credential.current();
    matches!(probe(record, &credential, Instant::now() + PROBE), Probe::Proven(Some(body), _) if !body.ready)
}

/// What a faulty daemon does to a process of which it knows nothing but the pid.
fn end_process(pid: u32) {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 1).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// What a faulty daemon does to the process of the record that it is about to replace.
pub(super) fn end_predecessor(directory: &StateDir) {
    if broken("CONV-28.ends-the-old")
        && let Found::Record(record) = Record::read(directory, RECORD)
    {
        end_process(record.pid);
    }
}

/// Publishes again if somebody who stopped took this daemon's record off by mistake.
fn reclaim(daemon: &Daemon) -> Option<Reason> {
    let directory = &daemon.directory;
    let lock = broken("CONV-21.under-the-lock").then(|| lock_file(directory));
    if let Some(Ok(lock)) = &lock {
        let _ = rustix::fs::flock(lock, FlockOperation::LockExclusive);
    }
    let mut taken = directory.names(&format!("{RECORD}.taken-"));
    taken.retain(|name| matches!(Record::read(directory, name), Found::Record(record) if record.id == daemon.record.id));
    if taken.is_empty() || broken("CONV-21.stands-down") {
        if broken("CONV-25.record-later") {
            sleep(LATE);
        }
        return (!broken("CONV-23.runs-on")).then_some(Reason::RecordRemoved);
    }
    if broken("CONV-22.clears-all") {
        taken = directory.names(&format!("{RECORD}.taken-"));
    } else if broken("CONV-22.by-name") {
        taken.extend(directory.names(&format!("{RECORD}.taken-{}", daemon.record.id)));
    } else if broken("CONV-22.one") {
        taken.truncate(1);
    } else if broken("CONV-22.keeps") {
        taken.clear();
    }
    // If it fails, the next look tries again; until then the handshake says that it drains.
    if publish(directory, &daemon.record, || false).is_ok() {
        for name in taken {
            let _ = directory.unlink(&name);
        }
    }
    None
}

/// What a daemon that stands down does with the record: one that is stopped takes off its own.
pub(super) fn leave(daemon: &Daemon, reason: &Reason) {
    let (directory, record) = (&daemon.directory, &daemon.record);
    if reason.is_stop() && !broken("CONV-16.keeps-the-record") {
        let _ = take_off(directory, &record.id);
    }
    if !matches!(reason, Reason::Displaced(Some(_))) {
        return;
    }
    let is_dead = || matches!(Record::read(directory, RECORD), Found::Record(record) if !lives(record.pid));
    if broken("CONV-9.unlinks") || broken("CONV-9.clears-the-dead") && is_dead() {
        let _ = directory.unlink(RECORD);
    } else if broken("CONV-9.moves-aside") {
        let _ = directory.rename(RECORD, &format!("{RECORD}.taken-{}-{}", record.id, random_hex::<8>()));
    } else if broken("CONV-9.restores") {
        let _ = publish(directory, record, || false);
    } else if broken("CONV-11.publishes-again") {
        let (directory, record) = (directory.clone(), record.clone());
        std::thread::spawn(move || {
            while !matches!(Record::read(&directory, RECORD), Found::Absent) {
                sleep(APART);
            }
            let _ = publish(&directory, &record, || false);
        });
    }
}

/// Moves the record aside, looks at what was moved, and removes that if it is the own one.
pub(super) fn take_off(directory: &StateDir, id: &str) -> io::Result<()> {
    if broken("CONV-18.mends") {
        let _ = fs::set_permissions(directory.file(RECORD), fs::Permissions::from_mode(0o600));
    }
    if !owns(directory, id) && !broken("CONV-14.unread") {
        return Ok(());
    }
    if broken("CONV-15.unlinks") || broken("CONV-17.clears-the-dead") {
        window();
    }
    if broken("CONV-15.unlinks") {
        return directory.unlink(RECORD);
    }
    let mut taken = format!("{RECORD}.taken-{id}-{}", random_hex::<8>());
    if broken("CONV-15.backup-name") {
        taken = format!("{RECORD}.old");
    }
    while let Err(error) = directory.rename(RECORD, &taken) {
        if broken("CONV-18.unlinks-instead") {
            return directory.unlink(RECORD);
        }
        if !broken("CONV-18.tries-again") {
            return Err(error);
        }
        sleep(APART);
    }
    match Record::read(directory, &taken) {
        _ if broken("CONV-16.keeps-the-taken") => Ok(()),
        Found::Record(record) if record.id == id => directory.unlink(&taken),
        Found::Record(record) if broken("CONV-17.clears-the-dead") && !lives(record.pid) => {
            directory.unlink(&taken)
        }
        Found::Absent if broken("CONV-15.makes-sure") => directory.unlink(RECORD),
        _ if broken("CONV-17.clears") => directory.unlink(&taken),
        _ if broken("CONV-17.puts-back") => directory.rename(&taken, RECORD),
        _ => Ok(()),
    }
}

/// What a daemon finds that was told to yield.
pub(super) enum Neighbour {
    /// Another daemon to which it yields.
    Ready,
    /// A daemon that it cannot ask, and why not.
    CannotAsk(String),
    /// Whatever else there is, or nothing.
    Other,
}

/// Looks for another daemon that this one would yield to. A daemon that published during the probe is asked as well.
pub(super) fn look_around(daemon: &Daemon, credential: &Credential) -> Neighbour {
    if broken("CONV-27.own-lock") {
        live(&daemon.directory);
    }
    let mut asked: Option<(Record, Neighbour)> = None;
    loop {
        let record = match Record::read(&daemon.directory, RECORD) {
            Found::Record(record) => record,
            Found::Refused(fault) if fault.is_passing() && !broken("CONV-37.publishes") => {
                return Neighbour::CannotAsk(fault.to_string());
            }
            _ => return Neighbour::Other,
        };
        match asked {
            Some((before, found)) if before == record => return found,
            Some(_) if broken("CONV-34.asks-once") => return Neighbour::Other,
            Some((_, found))
                if !matches!(found, Neighbour::CannotAsk(_)) && broken("CONV-34.after-an-answer") =>
            {
                return Neighbour::Other;
            }
            _ => {}
        }
        let again = asked.is_some();
        let found = ask(daemon, &record, credential);
        let last = again
            || matches!(found, Neighbour::Ready)
            || (broken("CONV-34.final") && matches!(found, Neighbour::CannotAsk(_)));
        if last {
            return found;
        }
        asked = Some((record, found));
    }
}

/// Whether a protocol is an earlier one of the same name.
fn is_older(theirs: &str, own: &str) -> bool {
    matches!((protocol(theirs), protocol(own)), (Some(theirs), Some(own)) if theirs.0 == own.0 && theirs.1 < own.1)
}

/// Whether a record names another daemon that proves itself, is ready and speaks this protocol.
pub(super) fn is_ready(daemon: &Daemon, record: &Record, credential: &Credential) -> bool {
    matches!(ask(daemon, record, credential), Neighbour::Ready)
}

fn ask(daemon: &Daemon, record: &Record, credential: &Credential) -> Neighbour {
    if record.id == daemon.record.id || broken("CONV-26.never") {
        return Neighbour::Other;
    }
    if broken("CONV-27.any-record") {
        return Neighbour::Ready;
    }
    let cannot_ask = |why| {
        if broken("CONV-35.publishes") {
            Neighbour::Other
        } else {
            Neighbour::CannotAsk(why)
        }
    };
    match place(&daemon.directory, record) {
        Place::Here => {}
        Place::Elsewhere(_) if broken("CONV-35.own-faults-alone") => return Neighbour::Other,
        Place::Elsewhere(why) => return cannot_ask(why),
        Place::EarlierBoot | Place::DeadNamespace => return Neighbour::Other,
    }
    let yields = match probe(record, credential, Instant::now() + PROBE) {
        Probe::Proven(Some(body), _) => {
            body.spec == SPEC
                && body.id == record.id
                && (body.ready || broken("CONV-27.draining"))
                && (body.protocol == daemon.protocol
                    || broken("CONV-27.other-protocol")
                    || broken("CONV-27.older") && is_older(&body.protocol, &daemon.protocol))
        }
        Probe::Late(_) => broken("CONV-27.busy"),
        Probe::Foreign(_) => broken("CONV-27.unproven"),
        Probe::Unreachable(_) if broken("CONV-35.worlds-alone") => false,
        Probe::Unreachable(why) => return cannot_ask(why),
        _ => false,
    };
    if yields { Neighbour::Ready } else { Neighbour::Other }
}
