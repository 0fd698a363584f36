//! The registration record: chapter 03.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use local_daemon_harness::files::{FileEventKind, Watch};
use local_daemon_harness::process::Signal;
use local_daemon_harness::record::{self, Record};
use local_daemon_harness::strace::Point;
use local_daemon_harness::world::World;
use serde_json::Value;

use crate::case::case;
use crate::fixtures::daemon::{SLACK, exits, signal};
use crate::fixtures::trace::{launch_under, trace, was_failed};
use crate::fixtures::words::in_words;
use crate::fixtures::worlds::{hold_alive, is_held};
use crate::outcome::{Outcome, ensure, fail, inconclusive, not_applicable, untestable};
use crate::stage::{Daemon, ReadyDaemon, Stage, Start};

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
    stage.observed(format!(
        "the record says {url}, the subject listens at {listening}",
        listening = in_words(&listening)
    ));
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

/// The first bind(2) of a launch fails because its port is in use, on a host that has 127.0.0.1 and ::1.
#[case("REG-5")]
fn a_port_in_use_is_no_missing_family(stage: &mut Stage) -> Outcome {
    if TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).is_err()
        || TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err()
    {
        return untestable("this host does not have both 127.0.0.1 and ::1");
    }
    stage.expect("a record of 127.0.0.1, or an exit with an error and no record");
    let (before, old) = stage.launch_ready()?;
    before.kill_group();
    stage.control("a launch without a failing call became ready");
    let strace = trace(stage, "bind", Point::at([&["bind"][..]]).nth(1).failing("EADDRINUSE"))?;
    let watch = Watch::on(stage.state_dir())?;
    let daemon = launch_under(stage, Start::new(), &strace)?;
    let name = stage.manifest().binding.registration.clone();
    let published = || {
        let record = Record::parse(&std::fs::read(stage.record_path()).ok()?).ok();
        record.filter(|record| record.id != old.record.id)
    };
    let deadline = stage.ready_deadline();
    while published().is_none() && daemon.is_running() && Instant::now() < deadline {
        watch.wait_event(Instant::now() + Duration::from_millis(50), FileEventKind::MovedTo, &name);
    }
    was_failed(stage, &strace, "a launch")?;
    match (published(), daemon.exit()) {
        (Some(record), _) => {
            let url = record.url.text();
            stage.observed(format!("it recorded {url}"));
            ensure!(url.starts_with("http://127.0.0.1:"), "it recorded {url}");
        }
        (None, Some(exit)) => ensure!(exit.code != Some(0), "it published nothing and ended with {exit}"),
        (None, None) => return fail("it has neither published nor ended"),
    }
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
    ensure!(
        again.as_ref() == Ok(&live.record.id),
        "read again, the record is {again}",
        again = in_words(&again)
    );
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
    stage.observed(format!(
        "the record says pid {recorded}; {} is held by {holders}",
        live.target.address,
        holders = in_words(&holders)
    ));
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
    stage.observed(format!("`protocol` is {}", in_words(&live.record.protocol)));
    ensure!(live.record.protocol.is_some(), "the record has no `protocol`");
    Ok(())
}

/// The members of a record that name a world are compared with what the system says of the process that listens.
#[case("REG-14")]
fn tells_the_world_of_the_listener(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    stage.expect(
        "`host`, `boot`, `netns` and `pidns`, as far as they are there, are those of the listening process",
    );
    let listener = daemon.sockets().into_iter().find(|socket| socket.local == live.target.address);
    let Some(listener) = listener else {
        return inconclusive(format!(
            "no process of the subject is seen to listen at {}",
            live.target.address
        ));
    };
    let (told, seen) = (&live.record.world, World::of(listener.pid));
    if *told == World::default() {
        return not_applicable("the record tells nothing of its world");
    }
    let members = [
        ("host", &told.host, &seen.host),
        ("boot", &told.boot, &seen.boot),
        ("netns", &told.netns, &seen.netns),
        ("pidns", &told.pidns, &seen.pidns),
    ];
    stage.observed(format!("pid {} listens; the record tells {told}", listener.pid, told = in_words(&told)));
    for (name, told, seen) in members {
        let (Some(told), Some(seen)) = (told, seen) else {
            ensure!(told.is_none(), "`{name}` is {told}, and this host tells none", told = in_words(&told));
            continue;
        };
        ensure!(
            told == seen,
            "`{name}` is {told}, and of pid {} {seen}",
            listener.pid,
            told = in_words(&told),
            seen = in_words(&seen)
        );
    }
    Ok(())
}

/// A daemon is started, drains and ends, and is ended without warning (SIGKILL). An exclusive lock on `daemon.alive`
/// fails from the moment of its record until its end, and succeeds afterwards. A second shared lock succeeds.
#[case("REG-15", deadline_s = 60)]
fn holds_its_lock_for_life(stage: &mut Stage) -> Outcome {
    stage.expect("a shared lock from the publish to the end of the process");
    let state_dir = stage.arena().make_state_dir()?.to_owned();
    let name = stage.manifest().binding.registration.clone();
    for way in [Signal::TERM, Signal::KILL] {
        let at_publish = Arc::new(OnceLock::new());
        let watch = {
            let (at_publish, state_dir, name) = (Arc::clone(&at_publish), state_dir.clone(), name.clone());
            Watch::each(&state_dir.clone(), move |event| {
                if event.kind == FileEventKind::MovedTo && event.name == *name {
                    let _ = at_publish.set(is_held(&state_dir));
                }
            })?
        };
        let (daemon, live) = stage.launch_ready()?;
        if live.record.world.netns.is_none() {
            return not_applicable("the record has no `netns`");
        }
        let early = watch.wait_for(stage.ready_deadline(), |_| at_publish.get().is_some());
        if early.is_none() {
            return inconclusive("the rename to the record's name was not seen");
        }
        drop(watch);
        ensure!(at_publish.get() == Some(&true), "no lock was held when its record came");
        ensure!(is_held(&state_dir), "no lock is held while it is ready");
        let another = hold_alive(stage);
        if another.is_err() {
            return fail("a second shared lock cannot be taken");
        }
        drop(another);
        ensure!(is_held(&state_dir), "no lock is held after another was let go");
        stage.control("another shared lock came and went");
        let work = if way == Signal::TERM { live.open_work().ok() } else { None };
        signal(&daemon, way)?;
        if work.is_some() && !is_held_to_the_end(&state_dir, &daemon) {
            return fail("its lock was let go while it drained");
        }
        drop(work);
        exits(&daemon, Instant::now() + stage.manifest().daemon.drain() + SLACK, "a signal")?;
        let free = !is_held(&state_dir);
        ensure!(free, "the lock is still held after its end by signal {}", way.as_raw());
    }
    Ok(())
}

/// Looks at the lock of a daemon that drains, for a second or until its end.
fn is_held_to_the_end(state_dir: &std::path::Path, daemon: &Daemon) -> bool {
    let end = Instant::now() + Duration::from_secs(1);
    while daemon.is_running() && Instant::now() < end {
        // Its end releases the lock before the suite sees the end.
        if !is_held(state_dir) && daemon.wait_exit(Instant::now() + SLACK).is_none() {
            return false;
        }
        daemon.wait_exit(Instant::now() + Duration::from_millis(20));
    }
    true
}
