//! Chapter 03: the world in which a daemon runs, and what a record of another world means.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use rustix::fs::OFlags;
use sha2::Sha256;

use crate::fault::broken;
use crate::registration::Record;
use crate::state_directory::{StateDir, hex};

/// The file on which each running daemon holds a shared lock.
const ALIVE: &str = "daemon.alive";
/// How long another process may hold the lock that only tests it, and that may have to wait for its turn meanwhile.
const TEST_BOUND: Duration = Duration::from_millis(400);
const PAUSE: Duration = Duration::from_millis(5);
/// The lock of this process.
static HELD: OnceLock<File> = OnceLock::new();

/// What a record says of its daemon's world; what is not known is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct World {
    pub(super) host: Option<String>,
    pub(super) boot: Option<String>,
    pub(super) netns: Option<String>,
    pub(super) pidns: Option<String>,
}

impl World {
    /// Reads the world of this process.
    pub(super) fn own() -> Self {
        Self {
            host: host(),
            boot: word("/proc/sys/kernel/random/boot_id"),
            netns: namespace("net"),
            pidns: namespace("pid"),
        }
    }

    /// Returns the world that a daemon writes into its record.
    pub(super) fn told() -> Self {
        let mut world = Self::own();
        if broken("REG-14.raw-host") {
            world.host = word("/etc/machine-id");
        } else if broken("REG-14.newline") {
            world.boot = world.boot.map(|boot| boot + "\n");
        } else if broken("REG-14.number-alone") {
            world.netns = world.netns.map(|name| name.replace(|digit: char| !digit.is_ascii_digit(), ""));
        } else if broken("REG-14.swapped") {
            std::mem::swap(&mut world.netns, &mut world.pidns);
        }
        world
    }

    /// The members of a record.
    pub(super) fn members(&self) -> [(&'static str, &Option<String>); 4] {
        [
            ("host", &self.host),
            ("boot", &self.boot),
            ("netns", &self.netns),
            ("pidns", &self.pidns),
        ]
    }
}

/// A hash of the machine's id.
fn host() -> Option<String> {
    let id = word("/etc/machine-id")?;
    let mut mac = Hmac::<Sha256>::new_from_slice(id.as_bytes()).expect("any length is a key's");
    mac.update(b"local-daemon/1 host");
    Some(hex(&mac.finalize().into_bytes()[..16]))
}

fn namespace(kind: &str) -> Option<String> {
    Some(fs::read_link(format!("/proc/self/ns/{kind}")).ok()?.to_str()?.to_owned())
}

/// The content of a file, without white space.
fn word(path: &str) -> Option<String> {
    let mut word = fs::read_to_string(path).ok()?;
    word.retain(|character| !character.is_whitespace());
    (!word.is_empty()).then_some(word)
}

/// Whether both sides know a value, and differ in it.
fn differs(theirs: Option<&String>, ours: Option<&String>) -> bool {
    theirs.zip(ours).is_some_and(|(theirs, ours)| theirs != ours)
}

/// Whether the pid of a record means another process here.
pub(super) fn is_other_pid_space(record: &Record) -> bool {
    differs(record.world.pidns.as_ref(), World::own().pidns.as_ref())
}

/// Where the daemon of a record is, as far as its world tells.
pub(super) enum Place {
    /// In this world, as far as is known: it can be asked.
    Here,
    /// In another world, in which it cannot be asked, and which one.
    Elsewhere(String),
    /// Nowhere: its machine has been started again, and no daemon runs.
    EarlierBoot,
    /// Nowhere: its network namespace has no daemon any more.
    DeadNamespace,
}

/// Compares the world of a record with this one.
pub(super) fn place(directory: &StateDir, record: &Record) -> Place {
    let (theirs, ours) = (&record.world, &World::own());
    let elsewhere = |what: &str| {
        Place::Elsewhere(format!("the record is of another {what}: it cannot be asked from here"))
    };
    if differs(theirs.host.as_ref(), ours.host.as_ref()) && !broken("CONN-39.ignored") {
        return if broken("CONN-39.stale") { Place::EarlierBoot } else { elsewhere("host") };
    }
    if differs(theirs.boot.as_ref(), ours.boot.as_ref()) {
        if theirs.host.is_none() || ours.host.is_none() || broken("CONN-40.ignored") {
            return Place::Here;
        }
        if broken("CONN-40.unreachable") || broken("CONV-27.other-boot") {
            return elsewhere("boot");
        }
        // A container can have a boot of its own on the same machine.
        if broken("CONN-51.lock-ignored") || !a_daemon_lives(directory) {
            return Place::EarlierBoot;
        }
        return if theirs.netns.is_some() && theirs.netns == ours.netns {
            Place::Here
        } else {
            elsewhere("boot, in which a daemon runs")
        };
    }
    let mut other_network = differs(theirs.netns.as_ref(), ours.netns.as_ref());
    if broken("CONN-41.pidns") {
        other_network |= differs(theirs.pidns.as_ref(), ours.pidns.as_ref());
    }
    if !other_network || broken("CONN-41.ignored") {
        Place::Here
    } else if broken("CONN-41.always") || broken("CONV-27.dead-namespace") {
        elsewhere("network namespace")
    } else if !broken("CONN-41.stale") && a_daemon_lives(directory) {
        elsewhere("network namespace, in which a daemon runs")
    } else {
        Place::DeadNamespace
    }
}

/// Opens a file of locks without waiting for anything.
fn open(directory: &StateDir, create: bool) -> std::io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    File::options()
        .read(true)
        .write(create)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(directory.file(ALIVE))
}

/// Whether a process holds a lock on the file; `true` if that cannot be told.
fn a_daemon_lives(directory: &StateDir) -> bool {
    let file = match open(directory, false) {
        Ok(file) => file,
        Err(error) => return error.kind() != std::io::ErrorKind::NotFound,
    };
    // Another process that only tests it is done in a moment, unlike a daemon.
    let until = Instant::now() + TEST_BOUND;
    while file.try_lock().is_err() {
        if Instant::now() > until {
            return true;
        }
        sleep(PAUSE);
    }
    false
}

/// Takes the lock of a running daemon, for good; `false` if that fails.
pub(super) fn live(directory: &StateDir) -> bool {
    if HELD.get().is_some() || broken("REG-15.unlocked") {
        return true;
    }
    let Ok(file) = open(directory, true) else {
        return false;
    };
    if broken("DIR-21.alive") {
        let _ = file.set_permissions(fs::Permissions::from_mode(0o600));
    }
    if broken("REG-15.other-kind") {
        let locked = rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockShared);
        return locked.is_ok() && HELD.set(file).is_ok();
    }
    let until = Instant::now() + TEST_BOUND;
    let lock = || {
        if broken("REG-15.exclusive") {
            file.try_lock()
        } else {
            file.try_lock_shared()
        }
    };
    while let Err(error) = lock() {
        if matches!(error, TryLockError::Error(_)) || Instant::now() > until {
            return false;
        }
        sleep(PAUSE);
    }
    HELD.set(file).is_ok()
}

/// Releases the lock too early, when a faulty daemon stands down.
pub(super) fn give_up() {
    if broken("REG-15.given-up")
        && let Some(file) = HELD.get()
    {
        let _ = file.unlock();
    }
}
