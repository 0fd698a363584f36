//! Yielding, and who else is named by a record.

use std::time::{Duration, Instant};

use local_daemon_harness::actors::{Actor, Bind, FakeDaemon, FakeProof, Squatter};
use local_daemon_harness::files::{FileEventKind, Snapshot, Watch};
use local_daemon_harness::process::{Proc, Signal, Subject};
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::record::{Record, replace, write_new};
use local_daemon_harness::strace::{OPEN, Point};
use local_daemon_harness::world::World;

use crate::case::case;
use crate::fixtures::daemon::{
    Rival, SLACK, changes, exits, furnished_state_dir, launch_over, record_in, signal, yielding,
};
use crate::fixtures::trace::{launch_under, trace, was_failed};
use crate::fixtures::words::in_words;
use crate::fixtures::worlds::{alive_in, hold_alive, other_boot, other_host, other_network};
use crate::outcome::{Outcome, ensure, fail, inconclusive};
use crate::stage::{Daemon, Stage, Start};

/// The wire protocol that the subject speaks, and its credential in the arena's state directory.
fn protocol_of(stage: &mut Stage) -> Outcome<(String, Credential)> {
    let (daemon, live) = stage.launch_ready()?;
    let pointer = stage.manifest().binding.handshake.protocol.clone();
    let body = live.probe().ok().and_then(|answer| answer.response.json());
    let protocol = body.and_then(|body| Some(body.pointer(&pointer)?.as_str()?.to_owned()));
    daemon.kill_group();
    match protocol {
        Some(protocol) => Ok((protocol, live.credential)),
        None => inconclusive("the handshake tells no protocol"),
    }
}

/// A daemon that is told to yield is started where a proven, ready daemon of the same protocol is published:
/// one played by the suite, and one of the same subject. Stems from sccache#340 and sccache#824.
#[case("CONV-26")]
fn yields_to_a_ready_daemon(stage: &mut Stage) -> Outcome {
    let start = yielding(stage)?;
    let (protocol, credential) = protocol_of(stage)?;
    stage.expect("it exits with 0 and leaves every file as it is");

    let fake = FakeDaemon::new(&credential, &protocol);
    let id = fake.id.clone();
    let actor = fake.clone().part().noted(stage.transcript(), "fake daemon").start(Bind::V4)?;
    replace(&stage.record_path(), fake.record(actor.address()).to_json().as_bytes(), 0o600)?;
    yields(stage, start.clone(), &format!("the daemon {id} that the suite plays"))?;
    let asked =
        actor.ledger().requests().iter().any(|request| {
            request.header("authorization").is_some_and(|value| value.starts_with(proof::SCHEME))
        });
    ensure!(asked, "it left the place to a daemon that it did not ask for a proof");
    drop(actor);

    let (first, live) = stage.launch_ready()?;
    yields(stage, start, "a daemon of the same subject")?;
    let ready = live.is_ready();
    ensure!(ready && first.is_running(), "the daemon that was there is not ready any more");
    Ok(())
}

/// Starts a daemon that must yield to `whom`.
fn yields(stage: &mut Stage, start: Start, whom: &str) -> Outcome {
    let name = stage.manifest().binding.registration.clone();
    let before = Snapshot::of(stage.state_dir())?;
    let watch = Watch::on(stage.state_dir())?;
    let daemon = stage.launch_with(start)?;
    stage.precondition(format!("a daemon was told to yield to {whom}"));
    let deadline = stage.ready_deadline();
    let exit = exits(&daemon, deadline, &format!("it was told to yield to {whom}"))?;
    stage.observed(format!("with {whom}: {exit}"));
    ensure!(exit.code == Some(0), "with {whom}: {exit}");
    let differences: Vec<String> =
        before.diff(&Snapshot::of(stage.state_dir())?).iter().map(ToString::to_string).collect();
    let touched = changes(&watch.events(), &name);
    ensure!(
        differences.is_empty() && touched.is_empty(),
        "with {whom}: {differences}, events {touched}",
        differences = in_words(&differences),
        touched = in_words(&touched)
    );
    Ok(())
}

/// A daemon that is told to yield asks a mute squatter, and a proven, ready daemon of the same protocol,
/// which the suite plays, publishes meanwhile.
#[case("CONV-34")]
fn yields_to_who_came_meanwhile(stage: &mut Stage) -> Outcome {
    let start = yielding(stage)?;
    let (protocol, credential) = protocol_of(stage)?;
    stage.expect("it exits with 0 and leaves the newer record as it is");
    let squatter = Squatter::mute().noted(stage.transcript(), "squatter").start(Bind::V4)?;
    let squatted = Rival::new()?.record.with_url(squatter.url());
    replace(&stage.record_path(), squatted.to_json().as_bytes(), 0o600)?;
    let fake = FakeDaemon::new(&credential, &protocol);
    let actor = fake.clone().part().noted(stage.transcript(), "fake daemon").start(Bind::V4)?;
    let record = fake.record(actor.address()).to_json();
    let daemon = stage.launch_with(start)?;
    if squatter.ledger().wait_request(stage.ready_deadline()).is_none() {
        return inconclusive("the squatter was asked nothing");
    }
    replace(&stage.record_path(), record.as_bytes(), 0o600)?;
    stage.precondition("another daemon published while the squatter was being asked");
    let deadline = stage.ready_deadline();
    let exit = exits(&daemon, deadline, "another daemon published meanwhile")?;
    ensure!(exit.code == Some(0), "{exit}");
    let kept = std::fs::read(stage.record_path()).is_ok_and(|bytes| bytes == record.as_bytes());
    ensure!(kept, "the newer daemon's record is not there as it was");
    Ok(())
}

/// Daemons that are told to yield are started where there is no record, a malformed one, or one that leads to
/// a dead port, to silence, to a squatter that answers 200, to a wrong proof, to another id, to a draining
/// daemon, to one of another protocol, or to one that is ready and is of an earlier boot or of a network namespace in which
/// no daemon lives.
#[case("CONV-27")]
fn yields_to_nothing_else(stage: &mut Stage) -> Outcome {
    let start = yielding(stage)?;
    let (protocol, _) = protocol_of(stage)?;
    let (name, number) = protocol.rsplit_once('/').unwrap_or((&protocol, "1"));
    let higher = format!("{name}/{}", number.parse::<u32>().unwrap_or(1) + 1);
    let credential = Credential::random();
    let (dead, rival) = (Rival::new()?, Rival::new()?);
    let fake = FakeDaemon::new(&credential, &protocol);
    let mut fakes: Vec<(&str, FakeDaemon, FakeDaemon)> = Vec::new();
    let mut play = |what, change: fn(&mut FakeDaemon)| {
        let mut played = fake.clone();
        change(&mut played);
        fakes.push((what, fake.clone(), played));
    };
    play("a draining daemon", |fake| "draining".clone_into(&mut fake.state));
    play("a wrong proof", |fake| fake.proof = FakeProof::Wrong);
    play("no proof", |fake| fake.proof = FakeProof::None);
    play("a proof for another body", |fake| {
        fake.proof = FakeProof::OtherBody;
    });
    play("another id than the record's", |fake| {
        fake.id = proof::random_hex::<16>();
    });
    let other_protocol = fake.clone().protocol(higher.clone());
    fakes.push(("a daemon of a higher protocol", other_protocol.clone(), other_protocol));
    let other_name = FakeDaemon { protocol: format!("x{protocol}"), ..fake.clone() };
    fakes.push(("a daemon of another protocol", other_name.clone(), other_name));

    let mut actors: Vec<Actor> = Vec::new();
    let mut records: Vec<(&str, Option<Vec<u8>>)> = vec![
        ("no record", None),
        ("half a record", Some(rival.bytes()[..rival.bytes().len() / 2].to_vec())),
        ("a dead port", Some(dead.bytes())),
    ];
    for (what, recorded, played) in fakes {
        let actor = played.part().noted(stage.transcript(), what).start(Bind::V4)?;
        records.push((what, Some(recorded.record(actor.address()).to_json().into_bytes())));
        actors.push(actor);
    }
    let squatters = [
        ("silence", Squatter::mute()),
        ("a squatter that answers 200", Squatter::answering(200, r#"{"state":"ready"}"#)),
        ("a squatter that answers 401", Squatter::answering(401, "{}")),
    ];
    for (what, squatter) in squatters {
        let actor = squatter.noted(stage.transcript(), what).start(Bind::V4)?;
        let record = Rival::new()?.record.with_url(actor.url());
        records.push((what, Some(record.to_json().into_bytes())));
        actors.push(actor);
    }

    for (what, world) in [
        ("an earlier boot", other_boot()?),
        ("a network that is gone", other_network()),
    ] {
        let actor = fake.clone().part().noted(stage.transcript(), what).start(Bind::V4)?;
        let record = fake.record(actor.address()).with_world(world);
        records.push((what, Some(record.to_json().into_bytes())));
        actors.push(actor);
    }

    stage.expect("each publishes within 5 s and is ready");
    let name = stage.manifest().binding.registration.clone();
    let mut slowest = Duration::ZERO;
    // A few at a time: a host on which all of them start at once may take the 5 s for itself.
    for (group, records) in records.chunks(4).enumerate() {
        let mut started = Vec::new();
        for (place, (what, record)) in records.iter().enumerate() {
            let state_dir = furnished_state_dir(stage, &format!("beside-{group}-{place}"), &credential)?;
            if let Some(bytes) = record {
                write_new(&record_in(stage, &state_dir), bytes, 0o600)?;
            }
            let watch = Watch::on(&state_dir)?;
            let began = Instant::now();
            let daemon = stage.launch_with(start.clone().state_dir(&state_dir))?;
            started.push((*what, daemon, watch, began));
        }
        for (what, daemon, watch, began) in &started {
            stage.precondition(format!("{} was told to yield to {what}", daemon.name));
            let published = watch.wait_event(*began + Duration::from_secs(5), FileEventKind::MovedTo, &name);
            let Some(published) = published else {
                let how = daemon.exit().map_or_else(|| "it runs".to_owned(), |exit| exit.to_string());
                return fail(format!("beside {what} it did not publish: {how}"));
            };
            slowest = slowest.max(published.at.saturating_duration_since(*began));
            stage.ready(daemon)?;
            daemon.kill_group();
        }
    }
    stage.observed(format!(
        "{} daemons published, the slowest after {} ms",
        records.len(),
        slowest.as_millis()
    ));
    drop(actors);
    Ok(())
}

/// Waits for the end of a daemon, which must exit with 17 and leave the record as it is.
fn cannot_ask(stage: &mut Stage, daemon: &Daemon, watch: &Watch, before: &str) -> Outcome {
    let name = stage.manifest().binding.registration.clone();
    let exit = exits(daemon, stage.ready_deadline(), before)?;
    stage.observed(format!("{before}: {exit}"));
    ensure!(exit.code == Some(17), "{before}: {exit}");
    let touched = changes(&watch.events(), &name);
    ensure!(touched.is_empty(), "{before}: the record was touched: {touched}", touched = in_words(&touched));
    Ok(())
}

/// Daemons that are told to yield find the record of a ready daemon that is of another host, or of another network
/// namespace in which a daemon lives, also of another boot, or to which they cannot connect. Stems from termio#531 and
/// roborev#1021.
#[case("CONV-35", deadline_s = 60)]
fn leaves_what_it_cannot_ask(stage: &mut Stage) -> Outcome {
    let start = yielding(stage)?;
    let (protocol, credential) = protocol_of(stage)?;
    stage.expect("it exits with 17 and leaves the record as it is");
    let fake = FakeDaemon::new(&credential, &protocol);
    let actor = fake.clone().part().noted(stage.transcript(), "fake daemon").start(Bind::V4)?;
    let record = fake.record(actor.address());
    let publish =
        |stage: &Stage, record: &Record| replace(&stage.record_path(), record.to_json().as_bytes(), 0o600);
    publish(stage, &record)?;
    yields(stage, start.clone(), "a daemon that it can ask")?;
    let alive = hold_alive(stage)?;
    publish(stage, &record.clone().with_world(other_boot()?))?;
    yields(stage, start.clone(), "a daemon of another boot that it can ask")?;
    let both = World { netns: other_network().netns, ..other_boot()? };
    for (what, world) in [
        ("another host", other_host()?),
        ("another network", other_network()),
        ("another boot and network", both),
    ] {
        publish(stage, &record.clone().with_world(world))?;
        let watch = Watch::on(stage.state_dir())?;
        let daemon = stage.launch_with(start.clone())?;
        stage.precondition(format!("{} was told to yield, and the record is of {what}", daemon.name));
        cannot_ask(stage, &daemon, &watch, what)?;
    }
    drop(alive);
    publish(stage, &record)?;
    for (syscall, error) in [
        ("connect", "EPERM"),
        ("connect", "EADDRNOTAVAIL"),
        ("connect", "EMFILE"),
    ] {
        let watch = Watch::on(stage.state_dir())?;
        let strace = trace(stage, error, Point::at([&[syscall][..]]).failing(error))?;
        let daemon = launch_under(stage, start.clone(), &strace)?;
        let ended = exits(&daemon, stage.ready_deadline(), error);
        was_failed(stage, &strace, error)?;
        ended?;
        cannot_ask(stage, &daemon, &watch, error)?;
    }
    yields(stage, start, "a daemon that it can ask again")
}

/// A daemon that is told to yield finds the record of a ready daemon, and the system fails to open it.
#[case("CONV-37")]
fn leaves_what_it_cannot_read(stage: &mut Stage) -> Outcome {
    let start = yielding(stage)?;
    let (protocol, credential) = protocol_of(stage)?;
    stage.expect("it exits with 15 or 17 and leaves the record as it is");
    let fake = FakeDaemon::new(&credential, &protocol);
    let actor = fake.clone().part().noted(stage.transcript(), "fake daemon").start(Bind::V4)?;
    replace(&stage.record_path(), fake.record(actor.address()).to_json().as_bytes(), 0o600)?;
    yields(stage, start.clone(), "a daemon whose record it can read")?;
    let name = stage.manifest().binding.registration.clone();
    for error in ["EIO", "EMFILE"] {
        let watch = Watch::on(stage.state_dir())?;
        let point = Point::at([OPEN]).of(stage.record_path()).failing(error);
        let strace = trace(stage, error, point)?;
        let daemon = launch_under(stage, start.clone(), &strace)?;
        let exit = exits(&daemon, stage.ready_deadline(), error);
        was_failed(stage, &strace, error)?;
        let exit = exit?;
        stage.observed(format!("{error}: {exit}"));
        ensure!(matches!(exit.code, Some(15 | 17)), "{error}: {exit}");
        let touched = changes(&watch.events(), &name);
        ensure!(
            touched.is_empty(),
            "{error}: the record was touched: {touched}",
            touched = in_words(&touched)
        );
    }
    yields(stage, start, "a daemon whose record it can read again")
}

/// A yielding daemon is held while it looks whether a daemon lives in the record's network namespace, which is so. The suite
/// plays a ready daemon of this network, which publishes meanwhile.
#[case("CONV-34")]
fn yields_to_what_came_when_it_could_not_ask(stage: &mut Stage) -> Outcome {
    let start = yielding(stage)?;
    let (protocol, credential) = protocol_of(stage)?;
    stage.expect("it exits with 0 and leaves the newer record as it is");
    let fake = FakeDaemon::new(&credential, &protocol);
    let actor = fake.clone().part().noted(stage.transcript(), "fake daemon").start(Bind::V4)?;
    let rival = Rival::new()?;
    let _alive = hold_alive(stage)?;
    let old = rival.record.clone().with_world(other_network());
    replace(&stage.record_path(), old.to_json().as_bytes(), 0o600)?;
    let point = Point::at([OPEN]).of(alive_in(stage.state_dir())).held_after();
    let strace = trace(stage, "alive", point)?;
    let daemon = launch_under(stage, start, &strace)?;
    let Some(call) = strace.wait_held(&daemon, stage.ready_deadline()) else {
        return inconclusive("it does not look at daemon.alive");
    };
    let record = fake.record(actor.address()).to_json();
    replace(&stage.record_path(), record.as_bytes(), 0o600)?;
    stage.precondition(format!("{} was held at {call}, and another daemon published", daemon.name));
    strace.release(&daemon)?;
    let deadline = stage.ready_deadline();
    let exit = exits(&daemon, deadline, "another daemon published meanwhile")?;
    ensure!(exit.code == Some(0), "{exit}");
    let kept = std::fs::read(stage.record_path()).is_ok_and(|bytes| bytes == record.as_bytes());
    ensure!(kept, "the newer daemon's record is not there as it was");
    Ok(())
}

/// Records that name a bystander are published over, displace a daemon, and are found by a stopping one.
/// Stems from pants#2659 and buck2#1426.
#[case("CONV-28")]
fn recorded_process_is_not_signalled(stage: &mut Stage) -> Outcome {
    let bystander = stage.arena().launch("bystander", ["sleep", "60"]).start()?;
    let mute = Squatter::mute().start(Bind::V4)?;
    let dead = Rival::new()?;
    let naming = |record: &Record| record.clone().with_pid(bystander.pid());
    let silent = Rival::new()?.record.with_url(mute.url());
    stage.expect("the bystander runs on, neither ended nor stopped");
    let state_dir = stage.arena().make_state_dir()?.to_owned();
    let path = stage.record_path();
    for record in [naming(&dead.record), naming(&silent)] {
        replace(&path, record.to_json().as_bytes(), 0o600)?;
        let (daemon, _) = launch_over(stage, Start::new())?;
        unharmed(&bystander, "a daemon published over a record that names it")?;
        replace(&path, record.to_json().as_bytes(), 0o600)?;
        let deadline = stage.stand_down_deadline() + SLACK;
        exits(&daemon, deadline, "a displacement")?;
        unharmed(&bystander, "a daemon was displaced by a record that names it")?;
    }
    let (daemon, _) = launch_over(stage, Start::new())?;
    daemon.stop()?;
    replace(&path, naming(&dead.record).to_json().as_bytes(), 0o600)?;
    signal(&daemon, Signal::TERM)?;
    daemon.cont()?;
    let deadline = stage.stand_down_deadline() + SLACK;
    exits(&daemon, deadline, "a stop signal")?;
    unharmed(&bystander, "a stopping daemon found a record that names it")?;
    if let Some(yields) = stage.manifest().daemon.yields.clone() {
        replace(
            &state_dir.join(path.file_name().unwrap_or_default()),
            naming(&silent).to_json().as_bytes(),
            0o600,
        )?;
        launch_over(stage, yields.args.iter().fold(Start::new(), Start::arg))?;
        unharmed(&bystander, "a yielding daemon found a record that names it")?;
    }
    stage.observed("the bystander was unharmed each time");
    Ok(())
}

fn unharmed(bystander: &Subject, after: &str) -> Outcome {
    let seen = Proc::of(bystander.pid()).map(|process| process.state);
    let unharmed = bystander.is_running() && matches!(seen, Some('S' | 'R' | 'D'));
    ensure!(
        unharmed,
        "{after}: it is in state {seen}, {}",
        in_words(&bystander.exit()),
        seen = in_words(&seen)
    );
    Ok(())
}
