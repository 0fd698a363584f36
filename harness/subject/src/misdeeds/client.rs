//! What the client's faults do that the client does not.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::credential::Credential;
use crate::daemon::VERSION;
use crate::fault::broken;
use crate::handshake::{Body, PATH, protocol};
use crate::probe::{Answer, Probe};
use crate::registration::{Found, RECORD, Record};
use crate::state_directory::StateDir;

/// Where the handshake is asked for.
pub(crate) fn target(credential: &Credential) -> String {
    if broken("CRED-10.url") {
        format!("{PATH}?token={}", credential.text())
    } else {
        PATH.to_owned()
    }
}

/// Whether an answer is believed without a look at its proof.
pub(crate) fn believes(answer: &Answer, proofs: &[&str]) -> bool {
    let body = || Body::parse(&answer.body);
    let unproven = [
        "HS-26.unproven",
        "CONN-4.unproven",
        "HS-25.bearer",
        "HS-25.after-refusal",
    ];
    (unproven.iter().any(|fault| broken(fault)) && proofs.is_empty() && body().is_some())
        || (broken("HS-26.draining-first") && body().is_some_and(|body| !body.ready))
}

/// What an answer without proof is taken for.
pub(crate) fn unproven(answer: &Answer, why: &str, credential: &Credential) -> Option<Probe> {
    match answer.status {
        401 if broken("CONN-8.unauthorized") => Some(Probe::Reset(why.to_owned())),
        503 if broken("CONN-8.unavailable") => Some(Probe::Late(why.to_owned())),
        404 if broken("CONN-8.not-found") => Some(Probe::Refused(why.to_owned())),
        _ if broken("CRED-10.error") => Some(Probe::Foreign(format!("{why} to {}", credential.text()))),
        _ => None,
    }
}

/// What a child is told that it should find out by itself.
pub(crate) fn tell_the_child(directory: &StateDir, command: &mut Command) {
    if let Ok(Some(credential)) = Credential::read(directory) {
        if broken("CRED-10.environment") {
            command.env("SUBJECT_CREDENTIAL", credential.text());
        }
        if broken("CRED-10.argument") {
            command.arg("--allow-origin").arg(format!("http://{}.localhost", credential.text()));
        }
    }
}

/// Waits for the end of a child and leaves it as it is.
pub(crate) fn see_its_end(pid: u32) {
    let Some(pid) = Pid::from_raw(pid.cast_signed()) else {
        return;
    };
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let _ = waitid(WaitId::Pid(pid), ended);
    loop {
        std::thread::park();
    }
}

/// The address that a redirect leads to.
pub(crate) fn redirect(answer: &Answer) -> Option<SocketAddr> {
    let location = answer.headers("location").next()?.strip_prefix("http://")?;
    location.split('/').next()?.parse().ok()
}

/// The proxy that the environment names.
pub(crate) fn proxy() -> Option<SocketAddr> {
    let names: &[&str] = if broken("HS-30.http-proxy") {
        &["http_proxy", "HTTP_PROXY"]
    } else if broken("HS-30.all-proxy") {
        &["all_proxy", "ALL_PROXY"]
    } else {
        &[]
    };
    let proxy = names.iter().find_map(|name| std::env::var(name).ok())?;
    let proxy = proxy.strip_prefix("http://").unwrap_or(&proxy);
    proxy.trim_end_matches('/').parse().ok()
}

/// Whether an answer is read to its end, however far that is.
pub(crate) fn reads_on(in_head: bool) -> bool {
    broken(if in_head { "HS-31.header" } else { "HS-31.body" })
}

/// Whether a child has ended, reaped or not.
pub(crate) fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// Whether there is a process of this number.
pub(crate) fn lives(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Ends the process of this number.
pub(crate) fn end(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Ends the process that the record names, whoever that is.
pub(crate) fn end_recorded(directory: &StateDir) {
    if let Found::Record(record) = Record::read(directory, RECORD) {
        end(record.pid);
    }
}

/// The record of the last daemon that was ready.
const LAST: &str = "last-daemon";

/// The daemon that an earlier call was ready with.
pub(crate) fn remembered(directory: &StateDir) -> Option<Record> {
    if !broken("CONN-11.remembers") {
        return None;
    }
    Record::parse(&fs::read(directory.file(LAST)).ok()?).ok()
}

/// Remembers a daemon for later calls.
pub(crate) fn remember(directory: &StateDir, record: &Record) {
    if broken("CONN-11.remembers") {
        let _ = fs::write(directory.file(LAST), record.to_json());
    }
}

/// What is done about a record whose probe has failed.
pub(crate) fn after_a_probe(directory: &StateDir, record: &Record, probed: &Probe) {
    match probed {
        Probe::Refused(_) | Probe::Reset(_) => {
            if broken("CONV-29.stale") {
                remove_record(directory);
            }
            if broken("CONV-29.aside") {
                let _ = directory.rename(RECORD, &format!("{RECORD}.stale"));
            }
            if broken("CONV-31.stale") {
                end(record.pid);
            }
        }
        Probe::Late(_) => {
            if broken("CONV-29.late") {
                remove_record(directory);
            }
            if broken("CONV-31.late") {
                end(record.pid);
            }
        }
        Probe::Foreign(_) => {
            if broken("CONV-29.foreign") {
                remove_record(directory);
            }
            if broken("CONV-31.foreign") {
                end(record.pid);
            }
        }
        Probe::Proven(..) => {}
    }
}

/// What is done to the state directory before a daemon is started in it.
pub(crate) fn before_a_spawn(directory: &StateDir) {
    if broken("CONV-29.spawn") || broken("CONN-34.removes") {
        remove_record(directory);
    }
    if broken("CONV-29.taken") {
        for name in directory.names(&format!("{RECORD}.taken-")) {
            let _ = directory.unlink(&name);
        }
    }
}

/// Whether a version begins with another number than the own one.
pub(crate) fn is_of_another_release(version: &str) -> bool {
    version.split('.').next() != VERSION.split('.').next()
}

/// Whether another protocol is taken for the own one.
pub(crate) fn tolerates(theirs: &str, ours: &str) -> bool {
    let number = |identifier| protocol(identifier).map_or(0, |(_, number)| number);
    let name = |identifier| protocol(identifier).map(|(name, _)| name);
    (broken("GATE-4.prefix") && (theirs.starts_with(ours) || ours.starts_with(theirs)))
        || (broken("GATE-4.name") && name(theirs) == name(ours))
        || (broken("GATE-4.newer") && name(theirs) == name(ours) && number(theirs) >= number(ours))
        || (broken("GATE-4.number") && number(theirs) == number(ours))
        || (broken("GATE-4.letters") && theirs.eq_ignore_ascii_case(ours))
        || broken("CONN-4.any-protocol")
}

/// Whether a daemon of another protocol is displaced that should not be.
pub(crate) fn displaces(theirs: &str, ours: &str) -> bool {
    let (Some((their_name, their_number)), Some((our_name, our_number))) = (protocol(theirs), protocol(ours))
    else {
        return false;
    };
    broken("GATE-8.always")
        || (broken("GATE-8.older") && their_name == our_name)
        || (broken("GATE-8.other-name") && their_number < our_number)
        || (broken("GATE-8.text") && their_name == our_name && theirs < ours)
}

/// Takes the record away.
pub(crate) fn remove_record(directory: &StateDir) {
    let _ = directory.unlink(RECORD);
}
