//! Chapter 05: how a daemon appears.

pub(crate) mod faults;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::fault::{broken, window};
use crate::registration::{Found, Record};
use crate::state_directory::{CREDENTIAL, Fault, RECORD, StateDir, random_hex};
use crate::world::{self, World};

/// How many ports are tried until one is free on both families.
const MAX_PORTS_TRIED: usize = 20;

/// Where a daemon listens.
pub(super) struct Bound {
    /// One or two, on the same port.
    pub(super) listeners: Vec<TcpListener>,
    /// The address of the record.
    pub(super) address: SocketAddr,
    /// Whether no other process can have the port on the other family.
    pub(super) is_whole: bool,
}

/// Listens on one port of both families, as far as the host has both.
///
/// A `deaf` daemon has only bound its port, on one of them.
pub(super) fn listen(deaf: bool) -> io::Result<Bound> {
    // Kept, so that the system chooses another port each time.
    let mut taken = Vec::new();
    for _ in 0..MAX_PORTS_TRIED {
        let (first, address) = listen_once(deaf)?;
        let one = |listeners| Ok(Bound { listeners, address, is_whole: true });
        if deaf || address.is_ipv6() || broken("BROW-36.one-family") {
            return one(vec![first]);
        }
        match listen_on_other_family(address.port()) {
            Ok(second) => return one(vec![first, second]),
            Err(error) if is_missing_family(&error) => return one(vec![first]),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if broken("BROW-36.all-the-same") {
                    return one(vec![first]);
                }
                taken.push((first, address));
            }
            Err(error) => return Err(error),
        }
    }
    let (last, address) = taken.pop().ok_or(io::ErrorKind::AddrInUse)?;
    Ok(Bound { listeners: vec![last], address, is_whole: false })
}

/// Listens on the same port of the other family.
fn listen_on_other_family(port: u16) -> io::Result<TcpListener> {
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    if broken("BROW-36.shared-port") {
        bind(address, false)
    } else {
        TcpListener::bind(address)
    }
}

/// Listens on a port of the system's choice: of 127.0.0.1, or of `::1` if the host has no other.
fn listen_once(deaf: bool) -> io::Result<(TcpListener, SocketAddr)> {
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    let [first, second] = if broken("REG-5.other-family") { [v6, v4] } else { [v4, v6] };
    let first = if broken("PUB-1.every-address") {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    } else {
        first
    };
    let first = if broken("PUB-1.both-families") {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    } else {
        first
    };
    let listener = if broken("PUB-2.shared-port") || deaf {
        bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), deaf)?
    } else {
        TcpListener::bind((first, 0)).or_else(|error| match error {
            // A port in use is no missing family.
            error if !is_missing_family(&error) && !broken("REG-5.any-failure") => Err(error),
            _ => TcpListener::bind((second, 0)),
        })?
    };
    if !deaf {
        hear(&listener)?;
    }
    if broken("PUB-1.second-port") {
        std::mem::forget(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?);
    }
    let mut address = listener.local_addr()?;
    if address.ip().is_unspecified() {
        address.set_ip(v4);
    }
    Ok((listener, address))
}

/// Whether an error says that this host does not have a family of addresses.
pub(super) fn is_missing_family(error: &io::Error) -> bool {
    let missing = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT];
    missing.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A socket that is bound as a faulty daemon binds it.
fn bind(address: SocketAddr, deaf: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if broken("PUB-2.shared-port") || broken("BROW-36.shared-port") {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    let listener = TcpListener::from(socket);
    if !deaf {
        hear(&listener)?;
    }
    Ok(listener)
}

/// How many connections may wait to be accepted: more than by the library's default, and more than another user opens at once.
pub(super) const BACKLOG: u16 = 4096;

/// Begins to listen.
pub(super) fn hear(listener: &TcpListener) -> io::Result<()> {
    Ok(rustix::net::listen(listener, BACKLOG.into())?)
}

/// Puts the record in place of whatever stands there, unless `yields` says, right before, that another daemon is ready.
/// Gives back whether it did.
pub(super) fn publish(
    directory: &StateDir,
    record: &Record,
    yields: impl FnOnce() -> bool,
) -> Result<bool, Fault> {
    let fault = |error: io::Error| Fault::new(directory.file(RECORD), format!("cannot publish: {error}"));
    hindered(directory).map_err(fault)?;
    let _locks = locks(directory).map_err(fault)?;
    let temporary = if broken("PUB-5.one-name") {
        format!("{RECORD}.tmp")
    } else if broken("PUB-5.clock-name") {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("{RECORD}.tmp-{}", since.as_secs())
    } else if broken("PUB-5.reuses-a-leftover")
        && let Some(leftover) = leftover(directory)
    {
        leftover
    } else {
        format!("{RECORD}.tmp-{}", random_hex::<8>())
    };
    let bytes = record.to_json();
    if broken("PUB-3.in-place") {
        return write_in_place(directory, &bytes).map(|()| true).map_err(fault);
    }
    let truncates = ["PUB-5.one-name", "PUB-5.clock-name", "PUB-5.reuses-a-leftover"];
    let written = if truncates.into_iter().any(broken) {
        fs::write(directory.file(&temporary), &bytes)
    } else if broken("PUB-3.renames-first") {
        directory.write_new(&temporary, b"")
    } else if broken("PUB-5.other-directory") {
        fs::write(std::env::temp_dir().join(&temporary), &bytes)
    } else {
        write_and_flush(directory, &temporary, &bytes)
    };
    written.map_err(fault)?;
    let yielded = yields();
    let late = broken("REG-15.late");
    // Not before it is clear that this daemon does not yield: others take the lock for a daemon that lives.
    if !yielded && record.world.netns.is_some() && !late && !world::live(directory) {
        let world = World { netns: None, ..record.world.clone() };
        let bytes = Record { world, ..record.clone() }.to_json();
        let written = directory.unlink(&temporary).and_then(|()| directory.write_new(&temporary, &bytes));
        written.map_err(fault)?;
    }
    let published = if yielded { Ok(()) } else { put_in_place(directory, &temporary) };
    if broken("PUB-3.renames-first") && published.is_ok() {
        window();
        let _ = write_in_place(directory, &bytes);
    }
    if (yielded || published.is_err()) && !broken("PUB-13.leaves-it") {
        let _ = directory.unlink(&temporary);
    }
    if late && !yielded {
        let directory = directory.clone();
        std::thread::spawn(move || {
            sleep(Duration::from_secs(1));
            world::live(&directory)
        });
    }
    published.map(|()| !yielded).map_err(fault)
}

/// A temporary file that somebody seems to have left: it is there, and still is there a moment later.
fn leftover(directory: &StateDir) -> Option<String> {
    let mut names = directory.names(&format!("{RECORD}.tmp-")).into_iter();
    names.find(|name| {
        sleep(Duration::from_millis(60));
        directory.file(name).exists()
    })
}

/// Writes the temporary file.
fn write_and_flush(directory: &StateDir, temporary: &str, bytes: &[u8]) -> io::Result<()> {
    let path = directory.file(temporary);
    if broken("PUB-6.no-flush") || broken("PUB-6.flushes-late") {
        return File::create_new(path)?.write_all(bytes);
    }
    if broken("PUB-6.flushes-early") {
        let mut file = File::create_new(path)?;
        return file.sync_all().and_then(|()| file.write_all(bytes));
    }
    if broken("PUB-3.write-error-ignored") {
        let mut file = File::create_new(path)?;
        let _ = file.write_all(bytes);
        let _ = file.sync_all();
        return Ok(());
    }
    let flushed = directory.write_new(temporary, bytes);
    if broken("PUB-11.cleans-up-after-a-flush")
        && flushed
            .as_ref()
            .is_err_and(|error| error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()))
    {
        let _ = directory.unlink(RECORD);
    }
    flushed
}

fn write_in_place(directory: &StateDir, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(directory.file(RECORD))?;
    window();
    file.write_all(bytes)?;
    file.sync_all()
}

/// The last step of a publish.
fn put_in_place(directory: &StateDir, temporary: &str) -> io::Result<()> {
    let record = directory.file(RECORD);
    if broken("PUB-3.removes-first") {
        let _ = directory.unlink(RECORD);
        window();
    }
    if broken("PUB-3.moves-aside") {
        let _ = directory.rename(RECORD, "registration.backup");
        window();
    }
    if broken("PUB-5.other-directory") {
        return fs::rename(std::env::temp_dir().join(temporary), record);
    }
    if broken("PUB-7.link-followed")
        && let Ok(target) = fs::read_link(&record)
    {
        return fs::rename(directory.file(temporary), directory.path().join(target));
    }
    let mut renamed = directory.rename(temporary, RECORD);
    let waited_for = |error: &io::Error| {
        broken("PUB-10.directory-waited-for") && error.kind() == io::ErrorKind::IsADirectory
    };
    let until = Instant::now() + Duration::from_secs(10);
    while renamed.as_ref().is_err_and(waited_for) && Instant::now() < until {
        sleep(Duration::from_millis(100));
        renamed = directory.rename(temporary, RECORD);
    }
    if broken("PUB-6.flushes-late") {
        File::open(record)?.sync_all()?;
    }
    renamed
}

/// What keeps a faulty daemon from publishing.
fn hindered(directory: &StateDir) -> io::Result<()> {
    let no = |why: &str| Err(io::Error::other(why));
    let there = Record::read(directory, RECORD);
    match &there {
        Found::Record(record)
            if broken("PUB-7.living-pid") && fs::exists(format!("/proc/{}", record.pid))? =>
        {
            return no("its process is alive");
        }
        Found::Malformed(_) if broken("PUB-7.not-over-malformed") => return no("what is there is no record"),
        Found::Refused(fault) if broken("PUB-7.not-over-loose") && fault.why.starts_with("mode") => {
            return no("others may write the record");
        }
        _ => {}
    }
    let leftovers = directory.names(&format!("{RECORD}.tmp"));
    let is_empty = |name: &String| fs::metadata(directory.file(name)).is_ok_and(|facts| facts.size() == 0);
    if broken("PUB-9.leftover") && !leftovers.is_empty()
        || broken("PUB-9.empty-leftover") && leftovers.iter().any(is_empty)
    {
        return no("somebody else publishes");
    }
    let credential = fs::metadata(directory.file(CREDENTIAL));
    if broken("PUB-9.linked-leftover") && credential.is_ok_and(|facts| facts.nlink() > 1) {
        return no("the credential has a second name");
    }
    if broken("PUB-9.lock-directory") {
        fs::create_dir(directory.file("publish.lock"))?;
        sleep(Duration::from_millis(100));
        fs::remove_dir(directory.file("publish.lock"))?;
    }
    if broken("PUB-9.pid-file") {
        File::create_new(directory.file("daemon.pid"))?;
    }
    while broken("PUB-7.waits-for-another") && !directory.names(&format!("{RECORD}.tmp")).is_empty() {
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The locks under which a faulty daemon publishes.
fn locks(directory: &StateDir) -> io::Result<Vec<File>> {
    let mut held = Vec::new();
    if broken("PUB-8.lock-file") {
        held.push(lock_file(directory)?);
    }
    if broken("PUB-8.record") {
        held.extend(File::open(directory.file(RECORD)));
    }
    if broken("PUB-8.directory") {
        held.push(File::open(directory.path())?);
    }
    for file in &held {
        rustix::fs::flock(file, FlockOperation::LockExclusive)?;
    }
    if broken("PUB-8.other-kind") {
        let file = lock_file(directory)?;
        rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive)?;
        held.push(file);
    }
    Ok(held)
}

/// The lock file, which a faulty daemon relies on.
pub(super) fn lock_file(directory: &StateDir) -> io::Result<File> {
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(directory.file("registration.lock"))
}

/// What a faulty launch does to the record before everything else.
pub(super) fn spoil(directory: &StateDir) {
    if broken("PUB-11.clears-the-record") {
        let _ = directory.unlink(RECORD);
    }
}

/// What a faulty daemon does with a launch that failed.
pub(super) fn failed(directory: &StateDir, fault: Fault) -> (u8, String) {
    if broken("PUB-11.cleans-up") {
        let _ = directory.unlink(RECORD);
        let _ = directory.unlink(CREDENTIAL);
    }
    let full = fault.why.contains("No space");
    if broken("PUB-10.runs-on") || broken("PUB-10.space-waited-for") && full {
        sleep(Duration::from_mins(1));
    }
    let said = if broken("PUB-10.no-path") { fault.why } else { fault.to_string() };
    (u8::from(!broken("PUB-10.status-zero")), said)
}

/// What a faulty daemon does to a record that is its own.
pub(super) fn refresh(directory: &StateDir, record: &Record, age: Duration) {
    let path = directory.file(RECORD);
    let is_another = || fs::read(&path).is_ok_and(|bytes| bytes != record.to_json());
    let written = fs::metadata(&path).and_then(|facts| facts.modified()?.elapsed().map_err(io::Error::other));
    let not_again = written.is_ok_and(|since| since > Duration::from_secs(1));
    let once = broken("PUB-12.refreshes-once") && not_again && age > Duration::from_secs(2);
    if broken("PUB-12.refreshes") || once || broken("PUB-12.restores") && is_another() {
        let _ = publish(directory, record, || false);
    }
    if broken("PUB-12.touches") {
        let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    }
}
