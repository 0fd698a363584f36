//! The registration record: chapter 03.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

use local_daemon_harness::record::{self, Record};
use serde_json::Value;

use crate::case::case;
use crate::outcome::{Outcome, ensure, fail, not_applicable};
use crate::stage::{ReadyDaemon, Stage, Start};

/// A daemon is started in an empty state directory. Its record alone leads to it: the handshake at the
/// recorded URL is answered by the recorded id, and the subject listens at that address.
#[case("REG-2", "REG-5")]
fn round_trip_discovery(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    stage.expect(
        "the record's url is the numeric loopback address and port on which the subject listens: 127.0.0.1, or [::1] \
         where the host has no 127.0.0.1",
    );
    let listening = daemon.listening();
    let url = live.record.url.text().to_owned();
    stage.observed(format!("the record says {url}, the subject listens at {listening:?}"));
    let numeric = url == format!("http://{}", live.target.address);
    ensure!(numeric, "the record's url is {url}");
    let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).is_ok();
    ensure!(live.target.address.is_ipv4() || !v4, "the record's url is {url}, and this host has 127.0.0.1");
    ensure!(
        listening.contains(&live.target.address),
        "nothing of the subject listens at {}",
        live.target.address
    );
    Ok(())
}

/// The bytes of a published record are read: one JSON object in UTF-8 without a byte order mark, unique keys
/// at every depth, 64 KiB at most, the four required members, and each optional one in its own type and form.
#[case("REG-1", "REG-2", "REG-3")]
fn well_formed_record(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("one JSON object by the letter of the chapter");
    let bytes = std::fs::read(stage.record_path())?;
    ensure!(bytes.len() <= record::MOST_BYTES, "the record is {} bytes long", bytes.len());
    // `ready` reads the record by the rules of a reader; what is added here is what only a writer is held to.
    let fields = match record::parse_object(&bytes) {
        Ok(fields) => fields,
        Err(fault) => return fail(format!("the record is malformed: {fault}")),
    };
    let again = Record::parse(&bytes).map(|record| record.id);
    ensure!(again.as_ref() == Ok(&live.record.id), "read again, the record is {again:?}");
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    stage.observed(format!("{} bytes with the members {}", bytes.len(), names.join(", ")));
    if let Some(socket) = fields.get("socket") {
        ensure!(
            socket.as_str().is_some_and(|path| path.starts_with('/')),
            "`socket` is no absolute path: {socket}"
        );
    }
    if let Some(started_at) = fields.get("started_at") {
        ensure!(
            started_at.as_str().is_some_and(is_utc_time),
            "`started_at` is no time of RFC 3339 in UTC: {started_at}"
        );
    }
    Ok(())
}

/// Whether a text is a time of RFC 3339 whose offset is zero.
fn is_utc_time(text: &str) -> bool {
    let Some(local) = ["Z", "z", "+00:00", "-00:00"].iter().find_map(|utc| text.strip_suffix(utc)) else {
        return false;
    };
    humantime::parse_rfc3339(&format!("{}Z", local.replacen(['t', ' '], "T", 1))).is_ok()
}

/// The process that the record names is looked up and must hold the listening socket of the recorded URL.
#[case("REG-6")]
fn pid_holds_the_listener(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("the recorded pid is that of a process that listens at the recorded address");
    let sockets = daemon.sockets();
    let holders: Vec<u32> = sockets
        .iter()
        .filter(|socket| socket.local == live.target.address)
        .map(|socket| socket.pid)
        .collect();
    let recorded = u32::try_from(live.record.pid).unwrap_or_default();
    stage.observed(format!("the record says pid {recorded}; {} is held by {holders:?}", live.target.address));
    ensure!(holders.contains(&recorded), "pid {recorded} does not hold {}", live.target.address);
    Ok(())
}

/// A daemon is started, ended without warning and started again, several times, in one state directory. No
/// two ids are alike, and no digit is the same in all of them, as it would be in a UUID or a counter.
#[case("REG-4", "REG-3")]
fn new_id_at_each_launch(stage: &mut Stage) -> Outcome {
    // With eight random ids, that all of them agree in one of 32 digits happens once in eight million runs.
    const LAUNCHES: usize = 8;
    stage.expect(format!("{LAUNCHES} launches publish {LAUNCHES} ids that have nothing in common"));
    let mut ids: Vec<String> = Vec::new();
    for _ in 0..LAUNCHES {
        let daemon = stage.launch()?;
        // `ready` takes only a record of an id that was not ready before.
        let live = stage.ready(&daemon)?;
        ids.push(live.record.id);
        daemon.kill_group();
    }
    stage.observed(format!("ids {}", ids.join(", ")));
    for place in 0..32 {
        let digits: BTreeSet<u8> = ids.iter().map(|id| id.as_bytes()[place]).collect();
        ensure!(
            digits.len() > 1,
            "digit {} is the same in all of them: 128 random bits would not do that",
            place + 1
        );
    }
    Ok(())
}

/// A daemon is started as it is and, where the manifest says how, with another wire protocol. The `protocol`
/// of its record is that of its handshake.
#[case("REG-7")]
fn protocol_hint_is_the_handshakes(stage: &mut Stage) -> Outcome {
    stage.expect("the record's `protocol`, where there is one, is the handshake's");
    let mut starts = vec![Start::new()];
    if stage.manifest().daemon.protocol_override.is_some() {
        starts.push(Start::new().protocol("conformance-hint/7"));
    }
    for start in starts {
        let daemon = stage.launch_with(start)?;
        let live = stage.ready(&daemon)?;
        let Some(hint) = live.record.protocol.clone() else {
            return not_applicable("the record has no `protocol`, which it need not have");
        };
        let spoken = spoken(&live)?;
        stage.observed(format!("record {hint}, handshake {spoken}"));
        ensure!(hint == spoken, "the record says {hint}, the handshake {spoken}");
        daemon.kill_group();
    }
    Ok(())
}

/// The protocol that the handshake tells.
fn spoken(live: &ReadyDaemon) -> Outcome<String> {
    let pointer = live.manifest().binding.handshake.protocol.clone();
    let body = match live.probe() {
        Ok(answer) => answer.response.json(),
        Err(fault) => return fail(format!("the handshake of a ready daemon: {fault}")),
    };
    let protocol = body.as_ref().and_then(|body| body.pointer(&pointer)).and_then(Value::as_str);
    match protocol {
        Some(protocol) => Ok(protocol.to_owned()),
        None => fail(format!("the handshake tells no protocol at {pointer}")),
    }
}

/// The record of a daemon says which protocol it speaks, so that a tool can show it without asking.
#[case("REG-8")]
fn names_its_protocol(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("a `protocol` in the record");
    stage.observed(format!("`protocol` is {:?}", live.record.protocol));
    ensure!(live.record.protocol.is_some(), "the record has no `protocol`");
    Ok(())
}
