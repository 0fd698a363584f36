//! What cases of several chapters arrange and look at alike.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use local_daemon_harness::files::{FileEvent, FileEventKind, Watch, make_private};
use local_daemon_harness::http::{HttpFault, Request};
use local_daemon_harness::process::{Exit, Signal, unread};
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::record::{Record, Url, replace, write_credential, write_new};
use local_daemon_harness::wait::{ms, until};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::outcome::{Outcome, Stop};
use crate::stage::{Daemon, Live, PROBE, Stage, Start};

/// How long after a change of the record a daemon may go on as if nothing had happened (CONV-1, CONV-25).
pub(super) const NOTICED: Duration = Duration::from_millis(2_500);
/// The drain bound of a daemon that is not configured otherwise.
pub(super) const DRAIN: Duration = Duration::from_secs(10);
/// How late a busy host may show what happened in time.
pub(super) const SLACK: Duration = Duration::from_millis(500);
/// How long a case goes on repeating what it does many times: a subject that starts slowly is judged by fewer rounds.
pub(super) const REPEAT: Duration = Duration::from_secs(15);
/// A pid that no process has: above the kernel's largest.
pub(super) const NOBODYS_PID: u32 = 2_147_483_647;

/// A port of 127.0.0.1 that is bound and never listens: every connection is refused, and nobody else can have it.
pub(super) struct DeadPort {
    _socket: OwnedFd,
    pub(super) address: SocketAddr,
}

impl DeadPort {
    pub(super) fn new() -> Outcome<Self> {
        let socket = bound(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), false)?;
        let address = rustix::net::getsockname(&socket)
            .ok()
            .and_then(|address| SocketAddr::try_from(address).ok())
            .ok_or_else(|| Stop::Fault("a bound socket has no address".to_owned()))?;
        Ok(Self { _socket: socket, address })
    }
}

/// A TCP socket bound to `address`, which asks for port sharing if `shares`.
pub(super) fn bound(address: SocketAddrV4, shares: bool) -> std::io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if shares {
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::sockopt::set_socket_reuseport(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// A record of another daemon, dead, at a port that refuses.
pub(super) struct Rival {
    pub(super) record: Record,
    _port: DeadPort,
}

impl Rival {
    pub(super) fn new() -> Outcome<Self> {
        let port = DeadPort::new()?;
        // Not the suite's own pid: a daemon that signals what a record names would end the suite.
        let record = Record::new(Url::of(port.address), NOBODYS_PID);
        Ok(Self { record, _port: port })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.record.to_json().into_bytes()
    }

    /// Writes it to a temporary file beside `place`, so that publishing it is one rename.
    pub(super) fn prepare(&self, place: &Path) -> Outcome<PathBuf> {
        let temporary = place.with_file_name(format!("rival-{}", self.record.id));
        write_new(&temporary, &self.bytes(), 0o600)?;
        Ok(temporary)
    }

    /// Publishes it over whatever stands at `place`, whole, as a well-behaved daemon does.
    pub(super) fn publish(&self, place: &Path) -> Outcome<Instant> {
        replace(place, &self.bytes(), 0o600)?;
        Ok(Instant::now())
    }
}

/// One more state directory beside the arena's, mode 0700.
pub(super) fn further_state_dir(stage: &Stage, name: &str) -> Outcome<PathBuf> {
    let path = stage.arena().path().join(name);
    make_private(&path)?;
    Ok(path)
}

/// One more state directory, with a credential in it: many of them with one credential are one secret to keep.
pub(super) fn furnished_state_dir(stage: &Stage, name: &str, credential: &Credential) -> Outcome<PathBuf> {
    let path = further_state_dir(stage, name)?;
    write_credential(&path, credential)?;
    Ok(path)
}

/// Starts a daemon and waits for its rename to the record's name before anything looks at the record: what stood there
/// before may lead to silence.
pub(super) fn launch_over(stage: &mut Stage, start: Start) -> Outcome<(Daemon, Live)> {
    let name = stage.manifest().binding.registration.clone();
    let watch = Watch::on(stage.state_dir())?;
    let daemon = stage.launch_with(start)?;
    let published = watch.wait_event(stage.ready_deadline(), FileEventKind::MovedTo, &name);
    if published.is_none() {
        stage.precondition(format!("{} was started as pid {}", daemon.name, daemon.pid()));
        return stage.fail(format!("{} published nothing in time", daemon.name));
    }
    let live = stage.ready(&daemon)?;
    Ok((daemon, live))
}

/// Where the record of `state_dir` is.
pub(super) fn record_in(stage: &Stage, state_dir: &Path) -> PathBuf {
    state_dir.join(&stage.manifest().binding.registration)
}

/// The bytes at `path`, or a fault of the suite.
pub(super) fn read(path: &Path) -> Outcome<Vec<u8>> {
    std::fs::read(path).map_err(|error| Stop::Fault(format!("cannot read {}: {error}", path.display())))
}

/// How a case tells the daemon to yield.
pub(super) fn yielding(stage: &mut Stage) -> Outcome<Start> {
    match stage.manifest().daemon.yields.clone() {
        Some(yields) => Ok(yields.args.iter().fold(Start::new(), Start::arg)),
        None => stage.not_applicable("the manifest has no `daemon.yields`"),
    }
}

/// Sends a signal that must reach a living daemon.
pub(super) fn signal(stage: &mut Stage, daemon: &Daemon, signal: Signal) -> Outcome<Instant> {
    if daemon.signal(signal).is_err() {
        return stage.fail(format!("{} ended by itself", daemon.name));
    }
    Ok(Instant::now())
}

/// Waits for the exit of a daemon by itself.
pub(super) fn exits(stage: &mut Stage, daemon: &Daemon, deadline: Instant, after: &str) -> Outcome<Exit> {
    match daemon.wait_exit(deadline) {
        Some(exit) => Ok(exit),
        None => stage.fail(format!("{} still runs after {after}", daemon.name)),
    }
}

/// The daemon is there, and stays for `length`: nothing announces that it stays, so its end is what is waited for.
pub(super) fn stays(stage: &mut Stage, daemon: &Daemon, length: Duration, through: &str) -> Outcome {
    match daemon.wait_exit(Instant::now() + length) {
        None => Ok(()),
        Some(exit) => stage.fail(format!("{} ended ({exit}) {through}", daemon.name)),
    }
}

/// Waits until the handshake of `live` is answered and not `ready`: the daemon has seen that the record is not its own,
/// or not readable. `false` if it ended before.
pub(super) fn seen_draining(stage: &mut Stage, daemon: &Daemon, live: &Live) -> Outcome<bool> {
    let deadline = Instant::now() + NOTICED + SLACK;
    loop {
        match stage.probe(live) {
            Ok(answer) if answer.response.status == 503 => return Ok(true),
            Err(_) if !daemon.is_running() => return Ok(false),
            // It closes before it is gone.
            Err(HttpFault::Refused | HttpFault::Reset | HttpFault::Closed(_)) => {
                return match daemon.wait_exit(deadline) {
                    Some(_) => Ok(false),
                    None => stage.fail(format!("{} answers no handshake and does not end", daemon.name)),
                };
            }
            answer if Instant::now() > deadline => {
                let answer = answer.map(|answer| answer.response.status);
                return stage.fail(format!("the handshake is still answered {answer:?}"));
            }
            _ => {
                // Paced by the daemon's own end, so that a daemon without notification is not flooded.
                daemon.wait_exit(ms(10));
            }
        }
    }
}

/// What changed the content or the place of `name`: creations, writes, renames, removals. Not opens, not attributes.
pub(super) fn changes(events: &[FileEvent], name: &str) -> Vec<String> {
    let touches = |event: &&FileEvent| {
        event.name == name
            && matches!(
                event.kind,
                FileEventKind::Created
                    | FileEventKind::Modified
                    | FileEventKind::MovedFrom
                    | FileEventKind::MovedTo
                    | FileEventKind::Deleted
            )
    };
    events.iter().filter(touches).map(|event| format!("{:?} {name}", event.kind)).collect()
}

/// How many of `events` are of `kind` and about `name`.
pub(super) fn count(events: &[FileEvent], kind: FileEventKind, name: &str) -> usize {
    events.iter().filter(|event| event.kind == kind && event.name == name).count()
}

/// The names in `state_dir` that are taken files, in order.
pub(super) fn taken_files(stage: &Stage, state_dir: &Path) -> Outcome<Vec<String>> {
    let prefix = format!("{}.taken-", stage.manifest().binding.registration);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(state_dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Writes `bytes` into the file at `path` as it stands, without a rename: what no daemon may do and editors do.
pub(super) fn write_in_place(path: &Path, bytes: &[u8]) -> Outcome<File> {
    let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// Swaps two entries of the filesystem, so that there is no instant at which either name is free.
pub(super) fn exchange(one: &Path, other: &Path) -> Outcome {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
        .map_err(|error| Stop::Fault(format!("cannot exchange {}: {error}", one.display())))
}

/// The request that changes something, with the credential, or `untestable`.
pub(super) fn mutation(stage: &mut Stage, live: &Live) -> Outcome<Request> {
    match stage.manifest().binding.mutation.clone() {
        Some(operation) => Ok(stage
            .operation(live, &operation)
            .header("Authorization", &proof::bearer(&live.credential))),
        None => stage.not_applicable("the manifest has no `binding.mutation`"),
    }
}

/// Open work: what a daemon that stands down may wait for. Dropping it closes the connections.
pub(super) struct Work {
    connections: Vec<TcpStream>,
    /// What is open, for the report.
    pub(super) what: String,
}

/// Opens an event stream that is seen to answer 200, and a request with an effect whose last byte is not sent, as far as
/// the manifest binds them; `untestable` where it binds neither.
pub(super) fn open_work(stage: &mut Stage, live: &Live) -> Outcome<Work> {
    let mut work = Work { connections: Vec::new(), what: String::new() };
    let binding = stage.manifest().binding.clone();
    if let Some(stream) = &binding.stream {
        let request = Request::get(&live.target.authority, &stream.path)
            .header("Accept", "text/event-stream")
            .header("Authorization", &proof::bearer(&live.credential));
        let connection = open(live, &request.bytes())?;
        let mut status = [0; 12];
        let begins = (&connection).read_exact(&mut status).is_ok() && status.starts_with(b"HTTP/1.1 200");
        if !begins {
            let status = String::from_utf8_lossy(&status).into_owned();
            return stage.inconclusive(format!("the event stream does not open: {status:?}"));
        }
        work.connections.push(connection);
        "an event stream".clone_into(&mut work.what);
    }
    if let Some(operation) = binding.mutation.filter(|operation| operation.body.is_some()) {
        let request = stage
            .operation(live, &operation)
            .header("Authorization", &proof::bearer(&live.credential))
            .bytes();
        let connection = open(live, &request[..request.len() - 1])?;
        let own = connection.local_addr()?;
        work.connections.push(connection);
        // The daemon has begun with it when it has read it, and answers what was sent later.
        let read =
            until(Instant::now() + PROBE, || (unread(live.target.address, own) == Some(0)).then_some(()));
        if read.is_none() || !stage.is_ready(live) {
            return stage.inconclusive("no good handshake while a request is half sent");
        }
        let and = if work.what.is_empty() { "" } else { " and " };
        work.what = format!("{}{and}a request whose body has not ended", work.what);
    }
    if work.connections.is_empty() {
        return stage.not_applicable("the manifest binds neither `stream` nor a `mutation` with a body");
    }
    let what = work.what.clone();
    stage.precondition(format!("open at the daemon: {what}"));
    Ok(work)
}

/// A connection on which `bytes` were sent.
pub(super) fn open(live: &Live, bytes: &[u8]) -> Outcome<TcpStream> {
    let connect = || -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&live.target.address, PROBE)?;
        stream.set_read_timeout(Some(PROBE))?;
        stream.write_all(bytes)?;
        Ok(stream)
    };
    connect().map_err(|error| Stop::Inconclusive(format!("cannot open a connection: {error}")))
}

impl Drop for Work {
    fn drop(&mut self) {
        for connection in &self.connections {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_never_listens_refuses() {
        let port = DeadPort::new().unwrap();
        let error = std::net::TcpStream::connect(port.address).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}
