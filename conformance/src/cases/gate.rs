//! The protocol gate: chapter 08.

use local_daemon_harness::http::is_protocol;
use local_daemon_harness::proof;
use local_daemon_harness::record::{self, Record};

use crate::case::case;
use crate::fixtures::daemon::{Rival, further_state_dir, record_in};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, inconclusive};
use crate::stage::{Daemon, ReadyDaemon, Stage, Start};

/// The protocol and the version that a live daemon tells.
fn told(live: &ReadyDaemon) -> Outcome<(String, String)> {
    let answer = match live.probe() {
        Ok(answer) => answer.response,
        Err(fault) => return fail(format!("the good handshake: {fault}")),
    };
    let body = answer.json().unwrap_or_default();
    let text = |pointer: &str| body.pointer(pointer).and_then(|value| value.as_str());
    let pointer = live.manifest().binding.handshake.protocol.clone();
    match (text(&pointer), text("/version")) {
        (Some(protocol), Some(version)) => Ok((protocol.to_owned(), version.to_owned())),
        _ => fail(format!(
            "the handshake tells no protocol and version: {}",
            answer.summary(live.transcript())
        )),
    }
}

/// The handshake's `protocol` is a name, a slash and a number from 1 to 2147483647, the same at each launch.
#[case("GATE-1")]
fn protocol_is_a_name_and_a_number(stage: &mut Stage) -> Outcome {
    stage.expect("`protocol` of the form name/N, the same at two launches");
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (daemon, live) = stage.launch_ready()?;
        let (protocol, _) = told(&live)?;
        ensure!(
            is_protocol(&protocol),
            "`protocol` is {protocol}, which is not name/N",
            protocol = in_words(&protocol)
        );
        seen.push(protocol);
        daemon.kill_group();
    }
    stage.observed(in_words(&seen));
    ensure!(seen[0] == seen[1], "two launches of one program tell {seen}", seen = in_words(&seen));
    Ok(())
}

/// A protocol of the same name whose number is another.
fn renumbered(protocol: &str, number: u32) -> String {
    let name = protocol.split_once('/').map_or(protocol, |(name, _)| name);
    format!("{name}/{number}")
}

/// The same program is started for other wire protocols: another name, another number, the longest and the
/// largest. Each launch tells exactly its own, and the same version.
#[case("GATE-1", "GATE-2")]
fn tells_the_protocol_it_speaks(stage: &mut Stage) -> Outcome {
    stage.expect("each launch tells exactly the protocol that it was started for, and the same version");
    let (daemon, live) = stage.launch_ready()?;
    let (own, version) = told(&live)?;
    daemon.kill_group();
    let protocols = [
        renumbered(&own, 7),
        renumbered(&own, 2_147_483_647),
        "other-name/1".to_owned(),
        "0a.b_c-d/10".to_owned(),
        format!("{}/3", "n".repeat(64)),
    ];
    for protocol in &protocols {
        let daemon = stage.launch_with(Start::new().protocol(protocol))?;
        let live = stage.ready(&daemon)?;
        let seen = told(&live)?;
        stage.observed(format!("started for {protocol}, it tells {} {}", seen.0, seen.1));
        ensure!(seen.0 == *protocol, "started for {protocol}, the handshake tells {}", seen.0);
        ensure!(seen.1 == version, "the version of {protocol} is {}, of {own} it is {version}", seen.1);
        daemon.kill_group();
    }
    Ok(())
}

/// Members of a successor's record: what they are, version, protocol.
fn successors(own: &Record, protocol: &str) -> Vec<(&'static str, String, Option<String>)> {
    let version = own.version.clone();
    vec![
        ("the same version and protocol", version.clone(), Some(protocol.to_owned())),
        ("an older version", "0.0.0".to_owned(), Some(protocol.to_owned())),
        ("a newer version", "999.0.0".to_owned(), Some(protocol.to_owned())),
        ("an empty version", String::new(), Some(protocol.to_owned())),
        ("another name", version.clone(), Some("somebody-else/1".to_owned())),
        ("a lower number", version.clone(), Some(renumbered(protocol, 1))),
        ("a higher number", version.clone(), Some(renumbered(protocol, 2_147_483_647))),
        ("no protocol", version.clone(), None),
        ("a protocol that is none", version, Some("not a protocol".to_owned())),
    ]
}

/// Daemons are displaced by records of an older and a newer version, of a lower and a higher number, of
/// another protocol, of none and of nonsense. All of them stand down (watchman#276: row 17).
#[case("GATE-3")]
fn displaced_whatever_the_record_names(stage: &mut Stage) -> Outcome {
    let rival = Rival::new()?;
    stage.expect("every daemon stands down for a record of another id, and none for one of its own id");
    let (first, live) = stage.launch_ready()?;
    let (protocol, _) = told(&live)?;
    let mut daemons: Vec<(Daemon, ReadyDaemon)> = vec![(first, live.clone())];
    let successors = successors(&live.record, &protocol);
    // All at once: one that learns of it only by its interval takes 2 s.
    for place in 1..successors.len() {
        let state_dir = further_state_dir(stage, &format!("beside-{place}"))?;
        daemons.push((stage.launch_with(Start::new().state_dir(state_dir))?, live.clone()));
    }
    for (daemon, live) in daemons.iter_mut().skip(1) {
        *live = stage.ready(daemon)?;
    }
    let write = |stage: &Stage, daemon: &Daemon, record: &Record| {
        let path = record_in(stage, &daemon.state_dir);
        record::replace(&path, record.to_json().as_bytes(), 0o600)
    };
    // Control: with their own id, the same members displace nobody (CONV-3).
    for ((daemon, live), (_, version, protocol)) in daemons.iter().zip(&successors) {
        let own = Record {
            version: version.clone(),
            protocol: protocol.clone(),
            ..live.record.clone()
        };
        write(stage, daemon, &own)?;
    }
    for ((_, live), (what, ..)) in daemons.iter().zip(&successors) {
        if !live.is_ready() {
            return inconclusive(format!("with its own id and {what}, a daemon is not ready"));
        }
    }
    stage.control("all daemons were ready when the records had their own ids and these members");
    for ((daemon, _), (_, version, protocol)) in daemons.iter().zip(&successors) {
        let foreign = Record {
            version: version.clone(),
            protocol: protocol.clone(),
            id: proof::random_hex::<16>(),
            ..rival.record.clone()
        };
        write(stage, daemon, &foreign)?;
    }
    let deadline = stage.stand_down_deadline();
    for ((daemon, live), (what, ..)) in daemons.iter().zip(&successors) {
        let exit = daemon.wait_exit(deadline);
        stage.observed(format!("{what}: {}", exit.map_or("still there".to_owned(), |exit| exit.to_string())));
        if exit.is_none() {
            let ready = live.is_ready();
            return fail(format!(
                "{what}: not gone {} ms after its record was another's; ready: {ready}",
                stage.manifest().daemon.stand_down_timeout().as_millis()
            ));
        }
    }
    Ok(())
}

/// A daemon that speaks another protocol is started on the state directory of a running one, older and newer
/// in turn: the last one stays, whatever it speaks.
#[case("GATE-3", "GATE-2")]
fn displaced_by_another_protocol(stage: &mut Stage) -> Outcome {
    stage.expect("the daemon before stands down, the one started last is ready, four times");
    let (mut daemon, live) = stage.launch_ready()?;
    let (own, _) = told(&live)?;
    for protocol in [
        renumbered(&own, 9),
        renumbered(&own, 2),
        "somebody-else/1".to_owned(),
        own,
    ] {
        let next = stage.launch_with(Start::new().protocol(&protocol))?;
        let live = stage.ready(&next)?;
        let Some(exit) = daemon.wait_exit(stage.stand_down_deadline()) else {
            return fail(format!("the daemon before {protocol} is still there"));
        };
        stage.observed(format!("before {protocol}: {exit}"));
        ensure!(live.is_ready(), "the daemon of {protocol} is not ready any more");
        let (seen, _) = told(&live)?;
        ensure!(seen == protocol, "{protocol} tells {seen}");
        daemon = next;
    }
    Ok(())
}
