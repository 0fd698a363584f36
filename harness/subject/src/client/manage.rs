//! What a person asks of the daemon by way of the client: stop, restart, a private one, another credential.

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};

use super::child::{Unstarted, can_start, daemon};
use super::connect::{Answer, Client, DISPLACED, Outcome, Proven};
use super::faults;
use crate::convergence::take_off;
use crate::credential::{Credential, rotate};
use crate::fault::broken;
use crate::probe::{Probe, exchange, probe};
use crate::registration::{Found, Record, authority};
use crate::state_directory::{RECORD, StateDir, random_hex};
use crate::world::{Place, is_other_pid_space, place};

/// How long a daemon may take to end before it is ended by force, where that was asked for.
const PATIENCE: Duration = Duration::from_secs(3);
/// A taken file that changed within this time may still be needed by a paused daemon.
const LEFT_BEHIND: Duration = Duration::from_hours(1);
/// A supervised daemon that ends this often within a minute has a fault that no restart mends.
const MOST_RESTARTS: usize = 3;

/// What a command came to: its exit status, and what it tells a program.
pub(super) type Report = (u8, Value);

fn done(word: &str, message: &str) -> Report {
    (0, json!({"outcome": word, "message": message}))
}

fn answer(client: &Client, answer: &Answer) -> Report {
    (answer.outcome.status(), answer.to_json(&client.diagnostics.borrow()))
}

fn failure(why: impl std::fmt::Display) -> Report {
    (1, json!({"outcome": "failed", "message": why.to_string()}))
}

/// Finds the daemon, or starts one.
pub(super) fn connect(client: &Client) -> Report {
    answer(client, &client.connect())
}

/// Stops the daemon of the record, and returns when its process is gone.
pub(super) fn stop(client: &Client, by_force: bool) -> Report {
    match end(client, by_force) {
        Ok(()) => done("stopped", "no daemon runs"),
        Err(Left::Answer(left)) => answer(client, &left),
        Err(Left::Fault(why)) => failure(why),
    }
}

/// Why a daemon was not stopped.
enum Left {
    Answer(Answer),
    Fault(String),
}

fn end(client: &Client, by_force: bool) -> Result<(), Left> {
    let mut found = match client.find() {
        Ok(found) => found,
        Err(answer) if matches!(answer.outcome, Outcome::Absent | Outcome::Stale) => return Ok(()),
        Err(answer) if answer.outcome == Outcome::Unreachable && broken("CONN-38.not-running") => {
            return Ok(());
        }
        Err(answer) => {
            if by_force && broken("CONV-31.unproven") {
                faults::end_recorded(&client.directory);
            }
            return Err(Left::Answer(answer));
        }
    };
    let Proven { record, body, .. } = &found;
    if body.protocol != client.protocol && !by_force {
        let message = format!("the daemon speaks {}, not {}", body.protocol, client.protocol);
        return Err(Left::Answer(Answer::new(Outcome::Incompatible, message)));
    }
    // It stands for this process and no later one of the same number.
    let number = body.pid.cast_signed();
    let number = if broken("CONV-31.recorded") { record.pid.cast_signed() } else { number };
    let process = Pid::from_raw(number).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Its pid means another process here.
    let is_elsewhere = is_other_pid_space(record) && !broken("CONV-36.signals");
    let may_signal = (by_force || broken("CONV-31.unasked"))
        && !is_elsewhere
        && (record.pid == body.pid || broken("CONV-31.recorded") || broken("CONV-31.told"));
    let asked = ask_to_end(client, &mut found);
    let Some(process) = process.filter(|_| !is_elsewhere) else {
        return asked.map_err(Left::Fault);
    };
    let patience = if may_signal {
        client.deadline.min(Instant::now() + PATIENCE)
    } else {
        client.deadline
    };
    if asked.is_ok() && is_gone(&process, patience) {
        return Ok(());
    }
    if may_signal {
        let _ = pidfd_send_signal(&process, Signal::KILL);
        if is_gone(&process, client.deadline) {
            return Ok(());
        }
    }
    asked.map_err(Left::Fault)?;
    Err(Left::Answer(Answer::new(Outcome::Busy, "the daemon has not ended in time")))
}

/// Asks the daemon, on the connection on which it proved itself, to stop.
fn ask_to_end(client: &Client, found: &mut Proven) -> Result<(), String> {
    let Proven { record, body, credential, stream } = found;
    let authority = authority(&record.url).expect("a record that was read has an address");
    let body = json!({"id": body.id}).to_string();
    let request = format!(
        "POST /v1/shutdown HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        credential.text(),
        body.len()
    );
    if broken("HS-25.new-connection") {
        let Ok(another) = stream.peer_addr().and_then(TcpStream::connect) else {
            return Err("the daemon has gone".to_owned());
        };
        *stream = another;
    }
    match exchange(stream, request.as_bytes(), client.deadline) {
        Ok(answer) if answer.status == 202 => Ok(()),
        Ok(answer) => Err(format!("the daemon answered its shutdown with status {}", answer.status)),
        Err(_) => Err("the daemon did not answer its shutdown".to_owned()),
    }
}

/// Waits for the end of a process.
fn is_gone(process: &OwnedFd, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = left.try_into().ok();
        match poll(&mut [PollFd::new(process, PollFlags::IN)], timeout.as_ref()) {
            Ok(count) => return count > 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Ends the daemon that runs, and starts another.
pub(super) fn restart(client: &Client) -> Report {
    let old = client.find().ok().map(|found| found.record.id);
    match can_start(&client.directory) {
        _ if broken("CONN-50.stops-first") => {}
        Err(Unstarted::Log(fault)) if !broken("CONN-50.program-alone") => {
            return answer(client, &fault.into());
        }
        Err(Unstarted::Program(why)) if !broken("CONN-50.log-alone") => {
            return answer(
                client,
                &Answer::new(Outcome::SpawnFailed, format!("cannot start a daemon: {why}")),
            );
        }
        _ => {}
    }
    match end(client, false) {
        // A stranger at its port is no daemon that could be stopped.
        _ if broken("CONN-36.hopeful") => {}
        Err(Left::Answer(left)) if left.outcome == Outcome::Busy && broken("CONN-36.busy") => {
            return done("ready", "the daemon was stopped, and will be started when it is needed");
        }
        Err(Left::Answer(left)) if left.outcome != Outcome::Foreign => return answer(client, &left),
        Err(Left::Fault(why)) => return failure(why),
        _ => {}
    }
    if broken("CONN-36.early") {
        return done("ready", "the daemon restarts");
    }
    let new = client.connect();
    if broken("CONN-36.hopeful") {
        return answer(client, &new);
    }
    if new.outcome == Outcome::Ready && new.daemon.as_ref().map(|daemon| &daemon.body.id) == old.as_ref() {
        return answer(client, &Answer::new(Outcome::Busy, "the old daemon is still there"));
    }
    answer(client, &new)
}

/// Starts a daemon in a directory of its own, tells of it by `tell`, and ends both with standard input.
pub(super) fn private(mut client: Client, tell: impl Fn(&Report)) -> Report {
    let path = std::env::temp_dir().join(format!("daemonspec-subject-{}", random_hex::<8>()));
    if !broken("CONN-35.shared") {
        client.directory = match StateDir::settle(Some(&path)) {
            Ok(directory) => directory,
            Err(fault) => return failure(fault),
        };
    }
    client.private = !broken("CONN-35.daemon-left");
    let begun = answer(&client, &client.connect());
    tell(&begun);
    if broken("CONN-35.daemon-left") || broken("CONN-35.all-left") {
        return begun;
    }
    if begun.0 == 0 {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        client.deadline = Instant::now() + PATIENCE * 2;
        let _ = end(&client, true);
    }
    if !broken("CONN-35.directory-left") {
        let _ = std::fs::remove_dir_all(&path);
    }
    begun
}

/// Replaces the credential by a new one.
pub(super) fn replace_credential(directory: &StateDir) -> Report {
    match directory.prepare().and_then(|()| rotate(directory)) {
        Ok(()) => done("done", "the credential is replaced"),
        Err(fault) => failure(fault),
    }
}

/// Whether no daemon needs a taken file any more.
fn is_left_behind(client: &Client, name: &str, credential: &Credential) -> bool {
    let directory = &client.directory;
    let Ok(facts) = fs::symlink_metadata(directory.file(name)) else {
        return false;
    };
    let changed = if broken("CONV-38.mtime") { facts.mtime() } else { facts.ctime() };
    let since = Duration::from_secs(changed.try_into().unwrap_or_default());
    let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + since).unwrap_or_default();
    if age < LEFT_BEHIND && !broken("CONV-38.any-age") {
        return false;
    }
    let Found::Record(record) = Record::read(directory, name) else {
        return false;
    };
    match place(directory, &record) {
        Place::Here if broken("CONV-39.by-age") => true,
        Place::Here => match probe(&record, credential, client.deadline) {
            Probe::Refused(_) => true,
            Probe::Proven(Some(body), _) => body.id != record.id && !name.contains(&body.id),
            _ => false,
        },
        Place::EarlierBoot => true,
        Place::Elsewhere(_) | Place::DeadNamespace => false,
    }
}

/// Removes a record whose daemon is gone, and taken files that were left behind.
pub(super) fn repair(client: &Client) -> Report {
    let directory = &client.directory;
    if let Ok(Some(credential)) = Credential::read(directory) {
        for name in directory.names(&format!("{RECORD}.taken-")) {
            if is_left_behind(client, &name, &credential) {
                let _ = directory.unlink(&name);
            }
        }
    }
    let Found::Record(record) = Record::read(directory, RECORD) else {
        return done("done", "there is no record to take off");
    };
    let credential = match Credential::read(directory) {
        Ok(Some(credential)) => credential,
        Ok(None) => return failure("there is no credential"),
        Err(fault) => return failure(fault),
    };
    let take_off = || match take_off(directory, &record.id) {
        Ok(()) => done("done", "the record was stale"),
        Err(error) => failure(error),
    };
    let cannot_ask = |why| answer(client, &Answer::new(Outcome::Unreachable, why));
    let left = || done("done", "the record is left where it is: a daemon may be there");
    match place(directory, &record) {
        Place::Here => {}
        Place::Elsewhere(_) if broken("CONV-30.elsewhere") => return take_off(),
        Place::Elsewhere(why) => return cannot_ask(why),
        Place::EarlierBoot => return take_off(),
        // Nothing was refused.
        Place::DeadNamespace if broken("CONV-30.dead-namespace") => return take_off(),
        Place::DeadNamespace => return left(),
    }
    match probe(&record, &credential, client.deadline) {
        Probe::Refused(_) if broken("CONV-30.unlinks") => {
            faults::remove_record(directory);
            done("done", "the record was stale")
        }
        Probe::Late(_) if broken("CONV-29.repair") => take_off(),
        Probe::Broken(_) if broken("CONV-30.broken-off") => take_off(),
        Probe::Unreachable(_) if broken("CONN-38.repairs") => take_off(),
        Probe::Unreachable(why) => cannot_ask(why),
        Probe::Refused(_) => take_off(),
        _ => left(),
    }
}

/// Keeps a daemon running until it is stopped, or displaced: then there is another.
pub(super) fn supervise(client: &Client) -> Report {
    let mut ends: Vec<Instant> = Vec::new();
    loop {
        let status = daemon(&client.directory)
            .and_then(|(_, mut command)| command.status().map_err(|error| error.to_string()));
        match status.map(|status| status.code()) {
            Err(why) => return failure(why),
            Ok(Some(0)) => return done("stopped", "the daemon was stopped"),
            Ok(Some(DISPLACED)) if broken("CONV-32.restarts") => {}
            Ok(Some(DISPLACED)) => return answer(client, &client.connect()),
            Ok(_) => {}
        }
        let now = Instant::now();
        ends.retain(|end| now - *end < Duration::from_mins(1));
        ends.push(now);
        if ends.len() >= MOST_RESTARTS {
            return failure("the daemon keeps ending");
        }
    }
}
